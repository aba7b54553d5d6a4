//! The `knockd:` mapping.

use std::path::PathBuf;

/// What concerns the daemon as a whole, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// libpcap's names; `any` is every interface. Never empty.
    pub interfaces: Vec<String>,
    pub only_ipv4: bool,
    /// What the watcher becomes. `None`: `knockd`, or `nobody` where there is no such user.
    pub user: Option<String>,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub pid_file: PathBuf,
    pub log: Log,
    /// How many sources the tracker follows at once.
    pub track_sources: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The facility, where syslog is wanted.
    pub syslog: Option<String>,
    pub file: Option<PathBuf>,
    pub level: LogLevel,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warning,
    #[default]
    Info,
    Debug,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interfaces: vec!["any".to_owned()],
            only_ipv4: false,
            user: None,
            state_dir: "/var/lib/knockd".into(),
            run_dir: "/run/knockd".into(),
            pid_file: "/run/knockd/knockd.pid".into(),
            log: Log { syslog: None, file: None, level: LogLevel::Info, format: LogFormat::Text },
            track_sources: 65_536,
        }
    }
}
