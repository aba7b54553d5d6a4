//! The settings of the daemon as a whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::datagrams::{FwknopSettings, SpaSettings};
use super::email::Email;
use super::lockout::Lockout;
use crate::proto::interface::InterfaceName;
use crate::proto::network::Network;
use crate::proto::words::words;

/// The settings of the daemon as a whole, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// libpcap's names; `any` is every interface. Never empty.
    pub interfaces: Vec<InterfaceName>,
    pub only_ipv4: bool,
    /// What the watcher becomes. `None`: `knockd`, or `nobody` where there is no such user.
    pub user: Option<String>,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub pid_file: PathBuf,
    /// Where all this is said, if that is a classic `knockd.conf`.
    pub classic_file: Option<PathBuf>,
    pub log: Log,
    /// How many sources the tracker follows at once.
    pub track_sources: usize,
    /// How many grants there may be at once, in all, and of those that commands open.
    pub max_grants: usize,
    pub max_grants_by_commands: usize,
    /// Whom the guard always lets through.
    pub trusted: Vec<Network>,
    pub on_exit: OnExit,
    /// Who gets mail when a door is opened, and when it is closed.
    pub alert: Option<Email>,
    pub spa: SpaSettings,
    pub fwknop: FwknopSettings,
    /// `None`: nobody is locked out, but at a door that says so.
    pub lockout: Option<Lockout>,
    pub sandbox: SandboxMode,
    /// How long a command may run at a door that does not say otherwise; `None`: without end.
    pub command_limit: Option<Duration>,
}

impl Settings {
    /// Gives the daemon of a classic file directories of its own, named after the file and the pid
    /// file: it cannot name any, and classic knockd may run more than once.
    pub fn set_apart(&mut self) {
        let Some(file) = &self.classic_file else { return };
        let stems = [file, &self.pid_file].map(|path| path.file_stem().unwrap_or_default());
        let names = stems.map(|stem| stem.to_string_lossy()).into_iter();
        let names: Vec<_> = names.filter(|name| name != "knockd").collect();
        let mut own = Self::default();
        if !names.is_empty() {
            let name = Path::new("instances").join(names.join("+"));
            own.state_dir.push(&name);
            own.run_dir.push(name);
        }
        if self.pid_file == own.pid_file {
            self.pid_file = own.run_dir.join("knockd.pid");
        }
        (self.state_dir, self.run_dir) = (own.state_dir, own.run_dir);
    }
}

/// How long a command may run where nothing else is said.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// The fate of the guard when knockd stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// It stays, and its ports stay locked.
    #[default]
    Keep,
    /// It goes, and its ports are as open as the rest of the firewall leaves them.
    Remove,
}

words! {
Display:
/// What becomes of a watcher that does what none has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxMode {
    /// The kernel ends it.
    #[default]
    Enforce = "enforce",
    /// The kernel logs the system call; files and networks are out of reach all the same.
    Log = "log",
    /// Nothing: it has given up root, and no more.
    Off = "off",
}
}

/// The settings of the log: where it goes, and what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The facility, where syslog is wanted.
    pub syslog: Option<String>,
    pub file: Option<PathBuf>,
    pub level: LogLevel,
    pub format: LogFormat,
}

words! {
/// The least severe lines that are logged; each level holds those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error = "error",
    Warning = "warning",
    #[default]
    Info = "info",
    Debug = "debug",
}
}

/// The form of a line of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interfaces: vec![InterfaceName::ANY],
            only_ipv4: false,
            user: None,
            state_dir: "/var/lib/knockd".into(),
            run_dir: "/run/knockd".into(),
            pid_file: "/run/knockd/knockd.pid".into(),
            classic_file: None,
            log: Log { syslog: None, file: None, level: LogLevel::Info, format: LogFormat::Text },
            track_sources: 65_536,
            max_grants: 50_000,
            max_grants_by_commands: 4_000,
            trusted: Vec::new(),
            on_exit: OnExit::Keep,
            alert: None,
            spa: SpaSettings::default(),
            fwknop: FwknopSettings::default(),
            lockout: None,
            sandbox: SandboxMode::Enforce,
            command_limit: Some(COMMAND_LIMIT),
        }
    }
}
