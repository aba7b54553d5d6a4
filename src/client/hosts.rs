//! The hosts file: what to knock at a host that is named without ports.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::num::NonZeroU16;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::names;
use crate::config::diagnostic::{Diagnostic, Place, Problems, Source, meant};
use crate::config::raw::{self, Entry, Keys, Mapping, Node, Value};
use crate::proto::duration;
use crate::proto::knock::{Knock, Protocol};

/// Packets to different ports can overtake each other on the way.
const DELAY: Duration = Duration::from_millis(15);
/// A file larger than this is none that a person wrote.
const MAX_SIZE: u64 = 1 << 20;

const TOP: Keys = Keys { of: "a hosts file", known: &["hosts"], later: &[] };

/// The keys of an entry.
pub const KEYS: Keys = Keys {
    of: "a host",
    known: &["host", "mode", "ports", "delay", "wait"],
    later: &[
        ("door", "remove it: in a sequence the ports say which door is meant"),
        ("length", NOT_A_SEQUENCE),
        ("server_key", NOT_A_SEQUENCE),
        ("key_file", NOT_A_SEQUENCE),
        ("secret_file", NOT_A_SEQUENCE),
    ],
};

const NOT_A_SEQUENCE: &str = "remove it: a sequence needs only its ports";
const MODES: [&str; 3] = ["sequence", "totp", "spa"];

/// A hosts file without mistakes.
#[derive(Clone, Debug)]
pub struct Hosts {
    path: PathBuf,
    entries: Vec<Host>,
}

#[derive(Clone, Debug)]
struct Host {
    name: String,
    at: Place,
    /// Name or address.
    host: String,
    mode: Mode,
}

#[derive(Clone, Debug)]
enum Mode {
    Sequence(Sequence),
    /// One that this version does not know how to do, and where it stands.
    Later(Place, String),
}

/// How to open a door that wants a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Never empty.
    pub knocks: Vec<Knock>,
    pub delay: Duration,
    /// The TCP port to wait for.
    pub wait: Option<NonZeroU16>,
}

/// Why the hosts file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// Everything that is wrong, at least one error.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<Diagnostic>),
}

impl HostsError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// `$XDG_CONFIG_HOME/knock/hosts.yaml`; `None` where neither that nor a home is known.
#[must_use]
pub fn default_path() -> Option<PathBuf> {
    // The specification wants a relative path to be ignored.
    let configured = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    configured
        .filter(|path| path.is_absolute())
        .or_else(|| Some(std::env::home_dir()?.join(".config")))
        .map(|directory| directory.join("knock/hosts.yaml"))
}

/// Reads a hosts file; what is only doubtful in it comes as warnings.
///
/// # Errors
/// [`HostsError`] if it cannot be read, if others could have written it, or with everything that
/// is wrong in it.
pub fn read(path: &Path) -> Result<(Hosts, Vec<Diagnostic>), HostsError> {
    let unreadable = |source| HostsError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    check_owner(path, &metadata).map_err(|wrong| HostsError::Wrong(vec![wrong]))?;
    let mut text = String::new();
    let length = file.take(MAX_SIZE + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(length).is_ok_and(|length| length > MAX_SIZE) {
        let wrong = Diagnostic::file(path, "too large for a hosts file");
        return Err(HostsError::Wrong(vec![wrong]));
    }
    let mut problems = Problems::default();
    let entries = parse(&Source::new(path, text), &mut problems);
    if problems.has_errors() {
        return Err(HostsError::Wrong(problems.into_sorted()));
    }
    Ok((Hosts { path: path.to_owned(), entries }, problems.into_sorted()))
}

/// Refuses a file that somebody other than root and the running user could have written: it says
/// where to knock, and so who learns the sequence.
fn check_owner(path: &Path, metadata: &Metadata) -> Result<(), Diagnostic> {
    let own = nix::unistd::geteuid().as_raw();
    let (owner, mode, shown) = (metadata.uid(), metadata.mode() & 0o7777, path.display());
    if ![0, own].contains(&owner) {
        return Err(Diagnostic::file(
            path,
            format!("belongs to user {owner}, who could change it"),
        )
        .help(format!("make it yours: chown {own} {shown}")));
    }
    if mode & 0o022 != 0 {
        return Err(Diagnostic::file(
            path,
            format!("others than its owner can write it (mode {mode:04o})"),
        )
        .help(format!("run: chmod go-w {shown}")));
    }
    Ok(())
}

fn parse(source: &Source, problems: &mut Problems) -> Vec<Host> {
    let Some(root) = raw::parse(source, problems) else { return Vec::new() };
    if matches!(root.value, Value::Null) {
        return Vec::new();
    }
    let Some(root) = problems.keep(root.mapping("a mapping with the key 'hosts'")) else {
        return Vec::new();
    };
    root.check_keys(&TOP, problems);
    let hosts = root.value("hosts").map(|node| node.mapping("a mapping from names to hosts"));
    let Some(hosts) = hosts.and_then(|hosts| problems.keep(hosts)) else { return Vec::new() };
    hosts.entries.iter().filter_map(|entry| host(entry, problems)).collect()
}

fn host(entry: &Entry, problems: &mut Problems) -> Option<Host> {
    let fields = problems.keep(entry.node.mapping("a host: a mapping with the key 'ports'"))?;
    let address = match fields.value("host") {
        Some(node) => problems.keep(node.text("a name or an address"))?,
        None => &entry.key,
    };
    let mode = match fields.value("mode") {
        Some(node) => problems.keep(later(node))?,
        None => None,
    };
    Some(Host {
        name: entry.key.clone(),
        at: entry.at.clone(),
        host: address.to_owned(),
        mode: match mode {
            Some(mode) => mode,
            None => Mode::Sequence(sequence(entry, fields, problems)?),
        },
    })
}

/// The mode, unless it is the one that this version does.
fn later(node: &Node) -> Result<Option<Mode>, Diagnostic> {
    match node.text("sequence")? {
        "sequence" => Ok(None),
        mode @ ("totp" | "spa") => Ok(Some(Mode::Later(node.at.clone(), mode.to_owned()))),
        other => Err(match meant(other, MODES) {
            Some(mode) => node.at.error(format!("'{other}' is no mode: did you mean '{mode}'?")),
            None => node.at.error(format!("'{other}' is no mode")).help("write mode: sequence"),
        }),
    }
}

fn sequence(entry: &Entry, fields: &Mapping, problems: &mut Problems) -> Option<Sequence> {
    fields.check_keys(&KEYS, problems);
    let delay = fields.value("delay").map_or(Some(DELAY), |node| delay(node, problems));
    let wait = match fields.value("wait") {
        Some(node) => problems.keep(wait(node)).map(Some),
        None => Some(None),
    };
    let Some(ports) = fields.value("ports") else {
        problems.push(
            entry
                .at
                .error(format!("'{}' has no ports to knock on", entry.key))
                .help("write them below it: ports: [7000, 8000/udp, 9000]"),
        );
        return None;
    };
    let listed = ports
        .list("a list of ports")
        .map_err(|error| error.help("write it in brackets: [7000, 8000/udp, 9000]"))
        .and_then(|list| match list {
            [] => Err(ports.at.error("there is no port in this list")),
            list => Ok(list),
        });
    let ports = problems.keep(listed)?;
    let knocks: Vec<Knock> = ports
        .iter()
        .filter_map(|node| problems.keep(node.read("a port", |text| names::knock(text, None))))
        .collect();
    Some(Sequence { knocks, delay: delay?, wait: wait? })
}

fn delay(node: &Node, problems: &mut Problems) -> Option<Duration> {
    let delay = problems.keep(node.read("a duration such as 50ms", duration::parse))?;
    if delay > super::MAX_DELAY {
        problems.push(
            node.at
                .error("more than an hour between two knocks")
                .help("write ms after a number of milliseconds, as in 50ms"),
        );
        return None;
    }
    let bare = matches!(&node.value, Value::Scalar(scalar) if scalar.text.parse::<u64>().is_ok());
    if bare && !delay.is_zero() {
        let seconds = delay.as_secs();
        let message = format!("a bare number is seconds: {seconds}s between two knocks");
        let help = format!("write {seconds}ms for milliseconds, {seconds}s if you mean seconds");
        problems.push(node.at.warning(message).help(help));
    }
    Some(delay)
}

fn wait(node: &Node) -> Result<NonZeroU16, Diagnostic> {
    let knock = node.read("a TCP port", |text| names::knock(text, None))?;
    match knock.protocol {
        Protocol::Tcp => Ok(knock.port),
        Protocol::Udp => Err(node.at.error("only a TCP port can be waited for")),
    }
}

impl Hosts {
    /// The host of an entry, found by its name or by its `host`, and what to do there.
    ///
    /// # Errors
    /// If there is no such entry, if it is not the only one, or if this version cannot do what it
    /// says.
    pub fn find(&self, wanted: &str) -> Result<(&str, &Sequence), HostsError> {
        self.entry(wanted).map_err(|wrong| HostsError::Wrong(vec![wrong]))
    }

    fn entry(&self, wanted: &str) -> Result<(&str, &Sequence), Diagnostic> {
        let mut by_host =
            self.entries.iter().filter(|entry| entry.host.eq_ignore_ascii_case(wanted));
        let entry = match self.entries.iter().find(|entry| entry.name == wanted) {
            Some(entry) => entry,
            None => match (by_host.next(), by_host.next()) {
                (Some(entry), None) => entry,
                (Some(one), Some(other)) => return Err(ambiguous(wanted, one, other)),
                (None, _) => return Err(self.missing(wanted)),
            },
        };
        match &entry.mode {
            Mode::Sequence(sequence) => Ok((&entry.host, sequence)),
            Mode::Later(at, mode) => Err(at
                .error(format!("this version does not do mode: {mode} yet"))
                .help("it does mode: sequence, with ports")),
        }
    }

    fn missing(&self, wanted: &str) -> Diagnostic {
        let message = format!("no host '{wanted}' in this file");
        let names = self.entries.iter().map(|entry| entry.name.as_str());
        match meant(wanted, names.clone()) {
            Some(name) => {
                Diagnostic::file(&self.path, format!("{message}: did you mean '{name}'?"))
            }
            None if self.entries.is_empty() => Diagnostic::file(&self.path, message)
                .help(format!("add it, or write the ports: knock {wanted} 7000 8000 9000")),
            None => Diagnostic::file(&self.path, message).help(format!(
                "add it, or write the ports: knock {wanted} 7000 8000 9000; it has: {}",
                names.collect::<Vec<_>>().join(", ")
            )),
        }
    }
}

fn ambiguous(wanted: &str, one: &Host, other: &Host) -> Diagnostic {
    other
        .at
        .error(format!("two entries are about {wanted}: '{}' and '{}'", one.name, other.name))
        .help(format!("name one of them: knock {}", one.name))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    /// What is said about a hosts file, each problem's first line.
    fn problems(text: &str) -> Vec<String> {
        let mut problems = Problems::default();
        let _ = parse(&Source::new("hosts.yaml", text), &mut problems);
        problems.into_sorted().iter().map(first_line).collect()
    }

    fn first_line(problem: &impl ToString) -> String {
        problem.to_string().lines().next().unwrap().to_owned()
    }

    fn hosts(text: &str) -> Hosts {
        let mut problems = Problems::default();
        let entries = parse(&Source::new("hosts.yaml", text), &mut problems);
        assert!(!problems.has_errors(), "{:?}", problems.into_sorted());
        Hosts { path: "hosts.yaml".into(), entries }
    }

    fn not_found(hosts: &Hosts, wanted: &str) -> String {
        first_line(&hosts.find(wanted).unwrap_err())
    }

    const WORK: &str = "hosts:
  work:
    host: gw.example.com
    mode: sequence
    ports: [7000, 8000/udp, 9000:TCP]
    delay: 200ms
    wait: 22
";

    #[test]
    fn an_entry_is_found_by_its_name_and_by_its_host() {
        let hosts = hosts(WORK);
        let (host, sequence) = hosts.find("work").unwrap();
        assert_eq!(host, "gw.example.com");
        let knocks: Vec<_> = sequence.knocks.iter().map(ToString::to_string).collect();
        assert_eq!(knocks, ["7000/tcp", "8000/udp", "9000/tcp"]);
        assert_eq!(sequence.delay, Duration::from_millis(200));
        assert_eq!(sequence.wait, NonZeroU16::new(22));
        for same in ["gw.example.com", "GW.example.com"] {
            assert_eq!(hosts.find(same).unwrap(), (host, sequence));
        }
    }

    #[test]
    fn ports_are_all_that_an_entry_needs() {
        let hosts = hosts("hosts: {192.0.2.1: {ports: [7000]}}");
        let (host, sequence) = hosts.find("192.0.2.1").unwrap();
        assert_eq!(host, "192.0.2.1");
        assert_eq!((sequence.delay, sequence.wait), (DELAY, None));
    }

    #[test]
    fn a_name_wins_over_a_host() {
        let hosts = hosts("hosts:\n  a: {host: b, ports: [1]}\n  b: {host: c, ports: [2]}\n");
        assert_eq!(hosts.find("b").unwrap().0, "c");
    }

    #[test]
    fn two_entries_with_one_host_are_told_apart_by_name_only() {
        let hosts = hosts("hosts:\n  a: {host: gw, ports: [1]}\n  b: {host: gw, ports: [2]}\n");
        assert!(hosts.find("a").is_ok());
        assert_eq!(
            not_found(&hosts, "gw"),
            "hosts.yaml:3:3: two entries are about gw: 'a' and 'b'"
        );
    }

    #[test]
    fn an_entry_that_is_not_there_says_which_was_meant() {
        let hosts = hosts(WORK);
        assert_eq!(
            not_found(&hosts, "wrok"),
            "hosts.yaml: no host 'wrok' in this file: did you mean 'work'?"
        );
        assert!(hosts.find("zebra").unwrap_err().to_string().ends_with("it has: work"));
    }

    #[test]
    fn a_mode_of_a_later_version_is_refused_only_where_it_is_asked_for() {
        let hosts =
            hosts("hosts:\n  a: {mode: spa, door: ssh, server_key: x}\n  b: {ports: [1]}\n");
        assert!(hosts.find("b").is_ok());
        assert_eq!(
            not_found(&hosts, "a"),
            "hosts.yaml:2:13: this version does not do mode: spa yet"
        );
    }

    #[test]
    fn an_empty_file_has_no_hosts() {
        for text in ["", "hosts:\n", "# nothing\n"] {
            assert!(hosts(text).find("work").is_err());
        }
    }

    #[test]
    fn everything_wrong_is_said_at_once() {
        assert_eq!(
            problems(
                "hosts:
  a: {port: [1], wait: 22/udp}
  b: {ports: [70000, 7000/upd, x y]}
  c: {ports: []}
  d: {ports: 7000}
  e: {ports: [1], mode: sequnce}
  f: {ports: [1], delay: 2h}
  g: {ports: [1], door: ssh}
  h: 22
host: {}
"
            ),
            [
                "hosts.yaml:2:3: 'a' has no ports to knock on",
                "hosts.yaml:2:7: 'port' is not a key of a host: did you mean 'ports'?",
                "hosts.yaml:2:24: only a TCP port can be waited for",
                "hosts.yaml:3:15: port 70000 is out of range: ports go from 1 to 65535",
                "hosts.yaml:3:22: 'upd' is not a protocol: write tcp or udp",
                "hosts.yaml:3:32: 'x y' is not one port: write the ports apart, as in 7000 8000 9000",
                "hosts.yaml:4:14: there is no port in this list",
                "hosts.yaml:5:14: a list of ports belongs here, not a word",
                "hosts.yaml:6:25: 'sequnce' is no mode: did you mean 'sequence'?",
                "hosts.yaml:7:26: more than an hour between two knocks",
                "hosts.yaml:8:19: 'door' is not supported by this version yet",
                "hosts.yaml:9:6: a host: a mapping with the key 'ports' belongs here, not a word",
                "hosts.yaml:10:1: 'host' is not a key of a hosts file: did you mean 'hosts'?",
            ]
        );
    }

    #[test]
    fn a_bare_number_as_delay_is_seconds_and_doubtful() {
        assert_eq!(
            problems("hosts: {a: {ports: [1], delay: 50}}"),
            ["hosts.yaml:1:32: warning: a bare number is seconds: 50s between two knocks"]
        );
        assert!(problems("hosts: {a: {ports: [1], delay: 0}}").is_empty());
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts.yaml");
        fs::write(&path, WORK).unwrap();
        for (mode, trusted) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).is_ok(), trusted, "{mode:o}");
        }
        assert_eq!(
            first_line(&read(&path).unwrap_err()),
            format!("{}: others than its owner can write it (mode 0646)", path.display())
        );
    }

    #[test]
    fn a_file_that_no_person_wrote_is_refused_rather_than_cut_short() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(WORK.as_bytes()).unwrap();
        file.write_all(&vec![b'\n'; 1 << 20]).unwrap();
        assert!(
            first_line(&read(file.path()).unwrap_err()).ends_with("too large for a hosts file")
        );
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "(hosts:\n|  a:|    [a-z]{1,8}: |[\\[\\]{}0-9:,/ \n]|.){0,20}") {
            let mut problems = Problems::default();
            let _ = parse(&Source::new("hosts.yaml", text), &mut problems);
        }
    }
}
