//! The protocol between `knockctl` and a running `knockd`: one JSON object a line, over a socket in
//! the run directory.
//!
//! A connection carries one request. The daemon answers with any number of replies, the last of
//! which is [`Reply::Done`] or [`Reply::Failed`].
//!
//! The two may be of different versions for as long as a daemon has not been started anew after an
//! upgrade. Events that knockctl does not know are told as they came ([`What::Other`]); any other
//! word that one of them does not know is an error which says that the versions differ.

mod event;
mod fleet;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay, skip_serializing_none};

use crate::config::{Forward, Name};
use crate::grants::OpenedBy;
use crate::proto::words::words;
use crate::proto::{Method, Network};
use crate::sys::sandbox::{SandboxReport, SeccompState};
pub use event::{EventLine, RefusalFacts, What, client_of, door_of, seconds};
pub use fleet::{FleetLink, FleetState, FleetStatus, GatewayStatus};

/// Where the configuration is unless another path is given.
pub const CONFIG: &str = "/etc/knock.d";

/// A command line that means this configuration.
pub fn command(program: &str, config: &Path, run_dir: Option<&Path>, rest: &str) -> String {
    let config = Some(config).filter(|config| *config != Path::new(CONFIG));
    let named = [("-c", config), ("--run-dir", run_dir)];
    let named = named.into_iter().filter_map(|(option, path)| Some((option, path?)));
    let options: String =
        named.map(|(option, path)| format!("{option} {} ", path.display())).collect();
    format!("{program} {options}{rest}")
}

/// The longest request, in bytes.
pub const LONGEST_REQUEST: usize = 4096;

/// Where a daemon with this run directory listens.
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}

/// A request of an administrator's.
#[serde_with::apply(
    bool => #[serde(default, skip_serializing_if = "std::ops::Not::not")],
    Option<Name> => #[serde(default, skip_serializing_if = "Option::is_none")],
)]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the daemon fares: answered by [`Reply::Status`].
    Status,
    /// The figures for monitoring: all that [`Reply::Done`] says.
    Metrics { format: MetricsFormat },
    /// Who may knock: answered by [`Reply::Clients`].
    Clients,
    /// The gateways of the fleet, and what they share: answered by [`Reply::Fleet`].
    Fleet,
    /// Opens a door by hand; for as long as the door says where no time is given.
    Open { door: Name, address: IpAddr, seconds: Option<u64> },
    /// Closes a door for whoever has an address of this network, mostly one. To `cut`: the
    /// connections that were let in end too.
    Close { door: Name, address: Network, cut: bool },
    /// Closes every door for everybody.
    CloseAll { cut: bool },
    /// Listens again to a source that has failed too often.
    Unlock { address: IpAddr },
    /// Closes what a client has opened, or extended last.
    Revoke { client: Name, cut: bool },
    /// Forgets what a client has used ahead of its time.
    ResetClient { client: Name },
    /// Takes up the configuration as it is now, and goes back after this time unless `Confirm`
    /// comes. Answered when it is in force, by [`Reply::Status`] and [`Reply::Done`]. To `lock`: a
    /// door that is locked on trial, though the files say that it only observes.
    Try { seconds: TrialTime, lock: Option<Name> },
    /// Keeps what is on trial.
    Confirm,
    /// Takes up the configuration as it is now, for good. Answered when it is in force.
    Reload,
    /// Events as they happen, until the connection ends.
    Watch,
    /// What became of knocks, lately and from now on; of one address or of all.
    Explain { address: Option<IpAddr> },
    /// What has happened, the latest last.
    History(HistoryQuery),
}

/// The form in which figures are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, which node_exporter reads.
    Prometheus,
}

/// The time that a configuration may be on trial: 10 s to 1 h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct TrialTime(u64);

impl TryFrom<u64> for TrialTime {
    type Error = &'static str;

    fn try_from(seconds: u64) -> Result<Self, Self::Error> {
        let is_fit = (10..=3600).contains(&seconds);
        is_fit.then_some(Self(seconds)).ok_or("a trial takes 10s or more, and 1h at most")
    }
}

impl From<TrialTime> for Duration {
    fn from(time: TrialTime) -> Self {
        Self::from_secs(time.0)
    }
}

/// Which part of the history is wanted; everything that is not given is not asked about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryQuery {
    pub door: Option<Name>,
    pub address: Option<IpAddr>,
    /// Seconds since 1970-01-01 UTC.
    pub since: Option<f64>,
}

/// A reply of the daemon's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "one is made at a time, and written at once")]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// How the daemon fares.
    Status(Status),
    /// Who may knock.
    Clients { clients: Vec<ClientStatus> },
    /// How the fleet fares.
    Fleet(FleetStatus),
    /// The door is open, before [`Reply::Done`].
    Opened(GrantStatus),
    /// Something has happened.
    Event(EventLine),
    /// The request is done; what came of it, for people. May be empty.
    Done { text: String },
    /// The request could not be fulfilled, and why.
    Failed { why: String },
}

/// The state of a running daemon.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// Seconds since 1970-01-01 UTC.
    pub since: f64,
    pub configuration: PathBuf,
    /// Until when the configuration is on trial, in seconds since 1970-01-01 UTC.
    pub on_trial_until: Option<f64>,
    pub listening: Vec<String>,
    /// Interfaces that are waited for.
    pub waiting_for: Vec<String>,
    pub doors: Vec<DoorStatus>,
    pub grants: Vec<GrantStatus>,
    /// How many there are beside these.
    #[serde(default, skip_serializing_if = "is_none")]
    pub grants_not_shown: usize,
    /// How many packets and requests came to nothing, by reason.
    pub counters: BTreeMap<String, u64>,
    /// Packets that the kernel dropped before they could be looked at.
    pub dropped: u64,
    /// Whom nobody listens to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locked_out: Vec<LockStatus>,
    #[serde(default)]
    pub sandbox: SandboxStatus,
    /// Absent where it is of no fleet.
    pub fleet: Option<FleetLink>,
}

/// What the processes of the daemon may still do.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxStatus {
    pub keeper: Option<KeeperRights>,
    /// Absent while none is at work.
    pub watcher: Option<WatcherSandbox>,
    /// Absent while none is at work.
    pub courier: Option<WatcherSandbox>,
}

/// The rights of the keeper.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeeperRights {
    /// By their names.
    pub capabilities: Vec<String>,
    /// How much of its rules for files holds, in words; absent: it may reach all.
    pub landlock: Option<String>,
}

/// In words: those that it has where they are few.
impl fmt::Display for KeeperRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.landlock {
            Some(landlock) => write!(f, "{}; Landlock: {landlock}", self.capabilities.join(" ")),
            None if self.capabilities.iter().any(|name| name == "CAP_DAC_OVERRIDE") => {
                write!(f, "{} capabilities, and all files", self.capabilities.len())
            }
            None if self.capabilities.is_empty() => f.write_str("the files of its user"),
            None => write!(f, "{}, and the files of its user", self.capabilities.join(" ")),
        }
    }
}

/// How much of a watcher's sandbox holds, or of a courier's, each part in words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, derive_more::Display)]
#[display("system calls {seccomp}; Landlock: {landlock}; memory {memory}")]
pub struct WatcherSandbox {
    /// Whether all of it does.
    pub whole: bool,
    pub seccomp: String,
    pub landlock: String,
    pub memory: String,
}

impl From<SandboxReport> for WatcherSandbox {
    fn from(report: SandboxReport) -> Self {
        Self {
            whole: report.is_whole(),
            seccomp: report.seccomp.to_string(),
            landlock: match report.landlock {
                Some(landlock) => landlock.to_string(),
                None if report.seccomp == SeccompState::Off => SeccompState::Off.to_string(),
                None => SeccompState::Refused.to_string(),
            },
            memory: report.memory.to_string(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_none(count: &usize) -> bool {
    *count == 0
}

/// A source that has failed too often.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LockStatus {
    pub address: IpAddr,
    /// At which door; absent: at any.
    pub door: Option<Name>,
    pub seconds_left: f64,
}

/// A door of the configuration in force.
#[skip_serializing_none]
#[serde_with::apply(bool => #[serde(default, skip_serializing_if = "std::ops::Not::not")])]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DoorStatus {
    pub door: Name,
    /// What it opens: ports, or nothing where commands of its own do it.
    pub opens: Vec<String>,
    /// Where it leads whom it is open for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// How it is opened, in a few words: for people.
    pub via: String,
    /// Whether it keeps nobody out, and only notes who comes.
    pub observes: bool,
    /// Whether it is locked on trial, and in the files is not yet.
    pub locked_on_trial: bool,
    /// How many addresses it is open for.
    pub open: usize,
    /// How many one-time sequences are left, where it opens by those.
    pub sequences_left: Option<usize>,
}

/// A grant: an address that a door is open for, or should be, or may still be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrantStatus {
    pub door: Name,
    pub address: Network,
    /// Only connections from this port pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<NonZeroU16>,
    pub client: Option<Name>,
    /// What opened it.
    pub by: OpenedBy,
    pub state: GrantCondition,
    pub seconds_left: f64,
    /// How many connections hold it open.
    #[serde(default, skip_serializing_if = "is_none")]
    pub held_by: usize,
}

words! {
FromStr:
/// The condition of a grant's door: what the grant's state says, and what is known besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[derive(SerializeDisplay, DeserializeFromStr)]
pub enum GrantCondition {
    /// Its open commands run, or have yet to.
    Starting = "starting",
    Open = "open",
    /// Its open commands failed, and may have opened it.
    OpenedWithErrors = "opened with errors",
    /// It should be open, and is not: the next knock opens it again.
    Gone = "gone",
    /// Its close commands run, or are tried again.
    Closing = "closing",
    /// Its close commands kept failing: it may still be open.
    NotClosed = "not closed",
}
}

/// A client of the configuration in force. Times are seconds since 1970-01-01 UTC.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClientStatus {
    pub client: Name,
    /// What it proves itself with.
    pub by: Vec<Method>,
    pub doors: Vec<Name>,
    /// When it last opened a door or kept it open, as far as the history goes.
    pub last_used: Option<f64>,
    pub expires: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_told_reaches_the_daemon_that_tells_it() {
        let told = |config: &str, run_dir: Option<&str>| {
            command("knockctl", Path::new(config), run_dir.map(Path::new), "confirm")
        };
        assert_eq!(told(CONFIG, None), "knockctl confirm");
        assert_eq!(
            told("/srv/knock.yaml", Some("/srv/run")),
            "knockctl -c /srv/knock.yaml --run-dir /srv/run confirm"
        );
    }

    #[test]
    fn a_request_is_one_object_that_names_what_to_do() {
        let open = Request::Open {
            door: "ssh".parse().unwrap(),
            address: "192.0.2.2".parse().unwrap(),
            seconds: None,
        };
        let text = serde_json::to_string(&open).unwrap();
        assert_eq!(text, r#"{"do":"open","door":"ssh","address":"192.0.2.2","seconds":null}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), open);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"do":"reboot"}"#,
            r#"{"do":"open","door":"../x","address":"192.0.2.2","seconds":1}"#,
            r#"{"do":"open","door":"ssh","address":"192.0.2","seconds":1}"#,
            r#"{"do":"history","port":1}"#,
            r#"{"do":"try","seconds":9}"#,
            r#"{"do":"try","seconds":3601}"#,
            r#"{"do":"try","seconds":60,"lock":"../x"}"#,
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }
}
