//! The settings of the daemon as a whole.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::datagrams::{FwknopSettings, SpaSettings};
use super::email::Email;
use super::fleet::FleetSettings;
use super::lockout::Lockout;
use crate::proto::words::words;
use crate::proto::{InterfaceName, Network};

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
    /// Where figures can be read; `None`: by `knockctl metrics` only.
    pub metrics: Option<MetricsSocket>,
    /// The fleet that it is of, if any.
    pub fleet: Option<FleetSettings>,
    /// What the guard does at a door that does not say otherwise.
    pub guard: GuardMode,
    /// Who gets mail when a door is opened, and when it is closed.
    pub alert: Option<Email>,
    pub spa: SpaSettings,
    pub fwknop: FwknopSettings,
    /// `None`: nobody is locked out, but at a door that says so.
    pub lockout: Option<Lockout>,
    pub sandbox: SandboxMode,
    /// How long a command may run at a door that does not say otherwise; `None`: without end.
    pub command_limit: Option<Duration>,
    /// The same of what its commands may gain.
    pub new_privileges: NewPrivileges,
}

/// The name of the pid file in the run directory.
const PID_FILE: &str = "knockd.pid";

impl Settings {
    /// Takes another run directory; the pid file goes with it, unless it has a place of its own.
    pub fn set_run_dir(&mut self, path: &Path) {
        if self.pid_file == self.run_dir.join(PID_FILE) {
            self.pid_file = path.join(PID_FILE);
        }
        path.clone_into(&mut self.run_dir);
    }

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
            self.pid_file = own.run_dir.join(PID_FILE);
        }
        (self.state_dir, self.run_dir) = (own.state_dir, own.run_dir);
    }
}

/// The directories of a knockd where none are named: what outlives it, and what it has while it
/// runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    pub state: PathBuf,
    pub run: PathBuf,
}

impl Directories {
    /// Those of root's.
    pub fn system() -> Self {
        Self { state: "/var/lib/knockd".into(), run: "/run/knockd".into() }
    }

    /// Those of the user that this process runs as.
    pub fn own() -> Self {
        if geteuid().is_root() {
            return Self::system();
        }
        let variable = |name| env::var_os(name).map(PathBuf::from);
        Self::of_user(variable("XDG_STATE_HOME"), variable("XDG_RUNTIME_DIR"), env::home_dir())
    }

    /// Those of another user than root, as the XDG base directory specification has it, by
    /// `$XDG_STATE_HOME`, `$XDG_RUNTIME_DIR` and the home.
    fn of_user(state: Option<PathBuf>, run: Option<PathBuf>, home: Option<PathBuf>) -> Self {
        // The specification wants relative paths to be ignored.
        let [state, run, home] = [state, run, home].map(|path| path.filter(|it| it.is_absolute()));
        let home = home.unwrap_or_else(|| "/".into());
        let state = state.unwrap_or_else(|| home.join(".local/state")).join("knockd");
        // Not in /tmp, where others could make one of that name.
        let run = run.map_or_else(|| state.join("run"), |run| run.join("knockd"));
        Self { state, run }
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
/// What the guard does with whoever has not knocked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GuardMode {
    /// It drops their packets.
    #[default]
    Lock = "lock",
    /// It notes who they are, and lets them in.
    Observe = "observe",
}
}

/// The fate of privileges that a program would gain as a command starts it: by a set-user-ID bit, or
/// by capabilities of its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewPrivileges {
    #[default]
    Granted,
    /// `no_new_privs: true`
    Denied,
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

/// The socket that tells figures to whoever may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsSocket {
    pub path: PathBuf,
    /// Whose members may, beside root; `None`: the group that may ask everything.
    pub group: Option<String>,
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
        let Directories { state, run } = Directories::own();
        Self {
            interfaces: vec![InterfaceName::ANY],
            only_ipv4: false,
            user: None,
            state_dir: state,
            pid_file: run.join(PID_FILE),
            run_dir: run,
            classic_file: None,
            log: Log { syslog: None, file: None, level: LogLevel::Info, format: LogFormat::Text },
            track_sources: 65_536,
            max_grants: 50_000,
            max_grants_by_commands: 4_000,
            trusted: Vec::new(),
            on_exit: OnExit::Keep,
            metrics: None,
            fleet: None,
            guard: GuardMode::Lock,
            alert: None,
            spa: SpaSettings::default(),
            fwknop: FwknopSettings::default(),
            lockout: None,
            sandbox: SandboxMode::Enforce,
            command_limit: Some(COMMAND_LIMIT),
            new_privileges: NewPrivileges::Granted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_user(variables: [Option<&str>; 3]) -> [String; 2] {
        let [state, run, home] = variables.map(|path| path.map(PathBuf::from));
        let Directories { state, run } = Directories::of_user(state, run, home);
        [state, run].map(|path| path.display().to_string())
    }

    #[test]
    fn a_user_has_the_directories_that_xdg_says() {
        assert_eq!(
            of_user([Some("/data/state"), Some("/run/user/1000"), Some("/home/game")]),
            ["/data/state/knockd", "/run/user/1000/knockd"]
        );
        assert_eq!(
            of_user([None, Some("/run/user/1000"), Some("/home/game")]),
            ["/home/game/.local/state/knockd", "/run/user/1000/knockd"]
        );
    }

    #[test]
    fn in_a_container_without_a_session_what_runs_is_with_the_state() {
        let expected = ["/home/game/.local/state/knockd", "/home/game/.local/state/knockd/run"];
        assert_eq!(of_user([None, None, Some("/home/game")]), expected);
        assert_eq!(of_user([Some("state"), Some(""), Some("/home/game")]), expected);
        let without_home = ["/.local/state/knockd", "/.local/state/knockd/run"];
        assert_eq!(of_user([None, None, None]), without_home);
    }

    #[test]
    fn another_run_directory_takes_the_pid_file_along_unless_it_has_its_own_place() {
        let mut settings = Settings::default();
        settings.set_run_dir(Path::new("/srv/run"));
        assert_eq!(settings.pid_file, Path::new("/srv/run/knockd.pid"));
        settings.pid_file = "/srv/own.pid".into();
        settings.set_run_dir(Path::new("/srv/other"));
        assert_eq!(settings.pid_file, Path::new("/srv/own.pid"));
    }
}
