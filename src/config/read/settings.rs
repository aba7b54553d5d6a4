//! Reader of the `knockd:` mapping.

use super::commands::missing_program;
use super::credentials::Secrets;
use super::datagrams::{read_fwknop, read_spa};
use super::fleet::read_fleet;
use super::lockout::read_lockout;
use super::opening::{read_command_limit, read_guard_mode, read_new_privileges};
use crate::config::diagnostic::{Parsed, Reported};
use crate::config::lockout::DAEMON_LOCKOUT;
use crate::config::opening::MAX_GRANTS;
use crate::config::tree::{KnownKeys, Mapping, MappingEntry, Node, Reader, Value};
use crate::config::{
    Diagnostic, Email, Log, LogFormat, LogLevel, MetricsSocket, OnExit, Options, Place, Problems,
    SandboxMode, Settings,
};
use crate::proto::{InterfaceName, Network};

const SETTINGS: KnownKeys = KnownKeys {
    of: "knockd",
    known: &[
        "interfaces only_ipv4 user state_dir run_dir pid_file log track max_grants",
        "trusted on_exit guard alert metrics fleet spa fwknop lockout command_limit no_new_privs sandbox",
    ],
};
const LOG: KnownKeys = KnownKeys { of: "log", known: &["syslog", "file", "level", "format"] };
const ALERT: KnownKeys = KnownKeys { of: "alert", known: &["email"] };
const METRICS: KnownKeys = KnownKeys { of: "metrics", known: &["socket", "group"] };
const TRACK: KnownKeys = KnownKeys { of: "track", known: &["sources"] };

/// The facilities of syslog (RFC 5424, 6.2.1) by the names that syslog.conf(5) has for them.
const FACILITIES: [&str; 20] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

const MIN_SOURCES: usize = 64;
const MAX_SOURCES: usize = 16_777_216;

/// Reads the entries of `knockd:`, and where its interfaces are named; what is wrong stays at its
/// default.
pub(super) fn read_settings(
    entries: &[MappingEntry],
    secrets: &mut Secrets,
    options: Options,
    problems: &mut Problems,
) -> (Settings, Vec<Place>) {
    let mapping = Mapping { entries: entries.to_vec() };
    let misspelt = mapping.check_keys(&SETTINGS, problems);
    let reader = &mut Reader { mapping: &mapping, misspelt, problems };
    let mut settings = Settings::default();
    let (interfaces, places) = read_interfaces(reader);
    if !interfaces.is_empty() {
        settings.interfaces = interfaces;
    }
    reader.set("only_ipv4", &mut settings.only_ipv4, Node::boolean);
    reader.set("user", &mut settings.user, |node| {
        Ok(Some(node.text("the name of a user")?.to_owned()))
    });
    reader.set("state_dir", &mut settings.state_dir, Node::path);
    reader.set("run_dir", &mut settings.run_dir, Node::path);
    settings.pid_file = settings.run_dir.join("knockd.pid");
    reader.set("pid_file", &mut settings.pid_file, Node::path);
    reader.section("log", |node, problems| read_log(node, &mut settings.log, problems));
    if let Some(node) = reader.value("track") {
        let wanted = "a mapping such as {sources: 65536}";
        if let Ok(mut track) = Reader::new(node, wanted, &TRACK, reader.problems) {
            let sources = |node: &Node| node.integer(MIN_SOURCES, MAX_SOURCES);
            track.set("sources", &mut settings.track_sources, sources);
        }
    }
    if let Ok(Some(most)) = reader.read("max_grants", |node| node.integer(1, MAX_GRANTS)) {
        settings.max_grants = most;
        settings.max_grants_by_commands = most;
    }
    settings.trusted = read_trusted(reader);
    let on_exit = [("keep", OnExit::Keep), ("remove", OnExit::Remove)];
    reader.set("on_exit", &mut settings.on_exit, |node| node.one_of(&on_exit));
    reader.set("guard", &mut settings.guard, read_guard_mode);
    reader.section("alert", |node, problems| settings.alert = read_alert(node, problems).ok());
    reader
        .section("metrics", |node, problems| settings.metrics = read_metrics(node, problems).ok());
    reader.section("fleet", |node, problems| {
        settings.fleet = read_fleet(node, secrets, options, problems).ok();
    });
    reader.section("spa", |node, problems| read_spa(node, &mut settings.spa, problems));
    reader.section("fwknop", |node, problems| read_fwknop(node, &mut settings.fwknop, problems));
    reader.section("lockout", |node, problems| {
        settings.lockout = read_lockout(node, DAEMON_LOCKOUT, problems).ok().flatten();
    });
    reader.section("sandbox", |node, problems| read_sandbox(node, &mut settings.sandbox, problems));
    reader.set("command_limit", &mut settings.command_limit, read_command_limit);
    reader.set("no_new_privs", &mut settings.new_privileges, read_new_privileges);
    (settings, places)
}

fn read_trusted(reader: &mut Reader<'_>) -> Vec<Network> {
    let Some(node) = reader.value("trusted") else { return Vec::new() };
    let network = |item: &Node| {
        let network = item.parsed("a network such as 192.0.2.0/24");
        let network: Network = reader.problems.report(network)?;
        if let Value::Scalar(scalar) = &item.value {
            reader.problems.extend(wider_than_it_looks(&scalar.text, network, &item.at));
        }
        Ok::<_, Reported>(network)
    };
    node.items().iter().flat_map(network).collect()
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

fn read_sandbox(node: &Node, sandbox: &mut SandboxMode, problems: &mut Problems) {
    let modes = SandboxMode::ALL.map(|mode| (mode.as_str(), mode));
    let Some(mode) = problems.ok_or_report(node.one_of(&modes)) else { return };
    *sandbox = mode;
    let loses = match mode {
        SandboxMode::Enforce => return,
        SandboxMode::Log => "it may make any system call, and the kernel only logs it",
        SandboxMode::Off => "it may do all that its user may",
    };
    let message = format!("whoever takes the watcher over is not held: {loses}");
    problems.push(node.at.warning(message).help("remove it once what needed it is mended"));
}

fn read_alert(node: &Node, problems: &mut Problems) -> Parsed<Email> {
    let mut reader = Reader::new(node, "a mapping such as {email: root}", &ALERT, problems)?;
    let missing = node.at.error("alert does not say to whom");
    let missing = missing.help("write alert: {email: ADDRESS}");
    let address = reader.require("email", |node| node.parsed("a mail address"), missing)?;
    let email = reader.value("email");
    reader.problems.extend(email.and_then(|email| missing_program("sendmail", &email.at)));
    Ok(address)
}

fn read_metrics(node: &Node, problems: &mut Problems) -> Parsed<MetricsSocket> {
    let wanted = "a mapping such as {socket: /run/knockd/metrics.sock}";
    let mut reader = Reader::new(node, wanted, &METRICS, problems)?;
    let missing = node.at.error("metrics does not say where");
    let missing = missing.help("write metrics: {socket: /run/knockd/metrics.sock}");
    let path = reader.require("socket", Node::path, missing);
    let group = reader.read("group", |node| Ok(node.text("the name of a group")?.to_owned()))?;
    Ok(MetricsSocket { path: path?, group })
}

fn read_interfaces(reader: &mut Reader<'_>) -> (Vec<InterfaceName>, Vec<Place>) {
    let Some(node) = reader.value("interfaces") else { return Default::default() };
    if node.items().is_empty() {
        let message = "no interface is named: write [any] for every interface";
        reader.problems.push(node.at.error(message));
    }
    let name = |item: &Node| {
        let name = reader.problems.ok_or_report(item.parsed("the name of an interface"))?;
        Some((name, item.at.clone()))
    };
    node.items().iter().filter_map(name).unzip()
}

fn read_log(node: &Node, log: &mut Log, problems: &mut Problems) {
    let wanted = "a mapping such as {syslog: daemon, level: info}";
    let Ok(mut reader) = Reader::new(node, wanted, &LOG, problems) else { return };
    log.file = reader.read("file", Node::path).ok().flatten();
    let facilities = FACILITIES.map(|name| (name, name));
    reader.set("syslog", &mut log.syslog, |node| Ok(Some(node.one_of(&facilities)?.to_owned())));
    let levels = LogLevel::ALL.map(|level| (level.as_str(), level));
    reader.set("level", &mut log.level, |node| node.one_of(&levels));
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    reader.set("format", &mut log.format, |node| node.one_of(&formats));
}
