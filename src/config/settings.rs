//! The `knockd:` mapping.

use std::path::PathBuf;
use std::time::Duration;

use super::commands::missing_program;
use super::datagrams::{read_fwknop, read_spa};
use super::diagnostic::{Diagnostic, Place, Problems};
use super::lockout::{self, DAEMON_LOCKOUT};
use super::opening::{MAX_GRANTS, read_command_limit};
use super::raw::{Entry, Keys, Mapping, Node, Value};
use super::{Email, Fwknop, Lockout, Spa};
use crate::proto::network::Network;

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
    /// How many grants there may be at once, in all, and of those that commands open.
    pub max_grants: usize,
    pub max_grants_by_commands: usize,
    /// Whom the guard always lets through.
    pub trusted: Vec<Network>,
    pub on_exit: OnExit,
    /// Who gets mail when a door is opened, and when it is closed.
    pub alert: Option<Email>,
    pub spa: Spa,
    pub fwknop: Fwknop,
    /// `None`: nobody is locked out, but at a door that says so.
    pub lockout: Option<Lockout>,
    /// How long a command may run at a door that does not say otherwise; `None`: without end.
    pub command_limit: Option<Duration>,
}

/// How long a command may run where nothing else is said.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// What becomes of the guard when knockd stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// It stays, and its ports stay locked.
    #[default]
    Keep,
    /// It goes, and its ports are as open as the rest of the firewall leaves them.
    Remove,
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
            max_grants: 50_000,
            max_grants_by_commands: 4_000,
            trusted: Vec::new(),
            on_exit: OnExit::Keep,
            alert: None,
            spa: Spa::default(),
            fwknop: Fwknop::default(),
            lockout: None,
            command_limit: Some(COMMAND_LIMIT),
        }
    }
}

pub(super) const SETTINGS: Keys = Keys {
    of: "knockd",
    known: &[
        "interfaces",
        "only_ipv4",
        "user",
        "state_dir",
        "run_dir",
        "pid_file",
        "log",
        "track",
        "max_grants",
        "trusted",
        "on_exit",
        "alert",
        "spa",
        "fwknop",
        "lockout",
        "command_limit",
    ],
};
pub(super) const LOG: Keys = Keys { of: "log", known: &["syslog", "file", "level", "format"] };
pub(super) const ALERT: Keys = Keys { of: "alert", known: &["email"] };
pub(super) const TRACK: Keys = Keys { of: "track", known: &["sources"] };

/// The facilities of syslog (RFC 5424, 6.2.1) by the names that syslog.conf(5) has for them.
const FACILITIES: [&str; 20] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

const MIN_SOURCES: u64 = 64;
const MAX_SOURCES: u64 = 16_777_216;

/// Reads the entries of `knockd:`, and where its interfaces are named; what is wrong stays at its
/// default.
pub(super) fn read_settings(entries: &[Entry], problems: &mut Problems) -> (Settings, Vec<Place>) {
    let mapping = Mapping { entries: entries.to_vec() };
    mapping.check_keys(&SETTINGS, problems);
    let mut settings = Settings::default();
    let (interfaces, places) = read_interfaces(&mapping, problems);
    if !interfaces.is_empty() {
        settings.interfaces = interfaces;
    }
    if let Some(node) = mapping.value("only_ipv4") {
        settings.only_ipv4 = problems.keep(node.boolean()).unwrap_or_default();
    }
    if let Some(node) = mapping.value("user") {
        settings.user = problems.keep(node.text("the name of a user")).map(str::to_owned);
    }
    if let Some(path) = read_path(&mapping, "state_dir", problems) {
        settings.state_dir = path;
    }
    if let Some(path) = read_path(&mapping, "run_dir", problems) {
        settings.pid_file = path.join("knockd.pid");
        settings.run_dir = path;
    }
    if let Some(path) = read_path(&mapping, "pid_file", problems) {
        settings.pid_file = path;
    }
    if let Some(node) = mapping.value("log") {
        read_log(node, &mut settings.log, problems);
    }
    if let Some(node) = mapping.value("track")
        && let Some(track) = problems.keep(node.mapping("a mapping such as {sources: 65536}"))
    {
        track.check_keys(&TRACK, problems);
        let sources = track.value("sources").map(|node| node.integer(MIN_SOURCES, MAX_SOURCES));
        let sources = sources.and_then(|sources| problems.keep(sources));
        if let Some(sources) = sources.and_then(|sources| usize::try_from(sources).ok()) {
            settings.track_sources = sources;
        }
    }
    let most = mapping.value("max_grants").map(|node| node.integer(1, MAX_GRANTS));
    if let Some(most) = most.and_then(|most| problems.keep(most)) {
        settings.max_grants = most as usize;
        settings.max_grants_by_commands = most as usize;
    }
    settings.trusted = read_trusted(&mapping, problems);
    if let Some(node) = mapping.value("on_exit") {
        let choices = [("keep", OnExit::Keep), ("remove", OnExit::Remove)];
        settings.on_exit = problems.keep(node.one_of(&choices)).unwrap_or_default();
    }
    if let Some(node) = mapping.value("alert") {
        settings.alert = read_alert(node, problems);
    }
    if let Some(node) = mapping.value("spa") {
        settings.spa = read_spa(node, problems).unwrap_or_default();
    }
    if let Some(node) = mapping.value("fwknop") {
        settings.fwknop = read_fwknop(node, problems).unwrap_or_default();
    }
    if let Some(node) = mapping.value("lockout") {
        settings.lockout = lockout::read(node, DAEMON_LOCKOUT, problems).flatten();
    }
    if let Some(limit) = read_command_limit(&mapping, settings.command_limit, problems) {
        settings.command_limit = limit;
    }
    (settings, places)
}

fn read_path(mapping: &Mapping, key: &str, problems: &mut Problems) -> Option<PathBuf> {
    mapping.value(key).and_then(|node| problems.keep(node.path()))
}

fn read_trusted(mapping: &Mapping, problems: &mut Problems) -> Vec<Network> {
    let Some(node) = mapping.value("trusted") else { return Vec::new() };
    let network = |item: &Node| {
        let network: Network = problems.keep(item.parsed("a network such as 192.0.2.0/24"))?;
        if let Value::Scalar(scalar) = &item.value {
            problems.extend(wider_than_it_looks(&scalar.text, network, &item.at));
        }
        Some(network)
    };
    node.items().iter().filter_map(network).collect()
}

fn wider_than_it_looks(text: &str, network: Network, at: &Place) -> Option<Diagnostic> {
    if network.prefix() == 0 {
        let family = if network.address().is_ipv4() { "IPv4" } else { "IPv6" };
        let message = format!("{network} is every address: the guard locks nothing for {family}");
        return Some(at.warning(message).help("write the networks that need not knock"));
    }
    let (address, _) = text.split_once('/')?;
    if address.parse() == Ok(network.address()) {
        return None;
    }
    let warning = at.warning(format!("{text} is the whole network {network}"));
    Some(warning.help(format!("write {network}, or {address} for that address alone")))
}

fn read_alert(node: &Node, problems: &mut Problems) -> Option<Email> {
    let wanted = "a mapping such as {email: root}";
    let mapping = problems.keep(node.mapping(wanted))?;
    let meant = mapping.check_keys(&ALERT, problems);
    let Some(email) = mapping.value("email") else {
        if meant.is_empty() {
            let error = node.at.error("alert does not say to whom");
            problems.push(error.help("write alert: {email: ADDRESS}"));
        }
        return None;
    };
    let address = problems.keep(email.parsed("a mail address"))?;
    problems.extend(missing_program("sendmail", &email.at));
    Some(address)
}

fn read_interfaces(mapping: &Mapping, problems: &mut Problems) -> (Vec<String>, Vec<Place>) {
    let Some(node) = mapping.value("interfaces") else { return Default::default() };
    if node.items().is_empty() {
        problems.push(node.at.error("no interface is named: write [any] for every interface"));
    }
    let name = |item: &Node| {
        let name = problems.keep(item.text("the name of an interface"))?;
        Some((name.to_owned(), item.at.clone()))
    };
    node.items().iter().filter_map(name).unzip()
}

fn read_log(node: &Node, log: &mut Log, problems: &mut Problems) {
    let wanted = "a mapping such as {syslog: daemon, level: info}";
    let Some(mapping) = problems.keep(node.mapping(wanted)) else { return };
    mapping.check_keys(&LOG, problems);
    log.file = read_path(mapping, "file", problems);
    if let Some(node) = mapping.value("syslog") {
        let choices = FACILITIES.map(|name| (name, name));
        log.syslog = problems.keep(node.one_of(&choices)).map(str::to_owned);
    }
    let levels = [
        ("error", LogLevel::Error),
        ("warning", LogLevel::Warning),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
    ];
    if let Some(node) = mapping.value("level") {
        log.level = problems.keep(node.one_of(&levels)).unwrap_or_default();
    }
    if let Some(node) = mapping.value("format") {
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        log.format = problems.keep(node.one_of(&formats)).unwrap_or_default();
    }
}
