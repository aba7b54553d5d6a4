//! The hosts file, which says how to knock at a host that is named without ports.

mod edit;
mod entry;

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use super::platform;
use super::settings::{ClientSettings, Mode};
use crate::config::diagnostic::closest_match;
use crate::config::tree::{KnownKeys, Reader, Value};
use crate::config::{Diagnostic, Place, Problems, SourceText, yaml};

pub(super) use edit::{Edited, put};
pub use entry::{DELAY, KEYS};

/// A file larger than this is none that a person wrote.
const MAX_SIZE: usize = 1 << 20;

const TOP: KnownKeys = KnownKeys { of: "a hosts file", known: &["hosts"] };

/// A hosts file without mistakes.
#[derive(Clone, Debug)]
pub struct HostProfiles {
    path: PathBuf,
    pub(super) entries: Vec<HostProfile>,
}

/// An entry of the file: one host, and the settings for it.
#[derive(Clone, Debug)]
pub struct HostProfile {
    pub name: String,
    pub at: Place,
    /// Name or address; `None`: it is the name of the entry.
    pub host: Option<String>,
    /// Its mode is always given.
    pub settings: ClientSettings,
}

/// The reason why the hosts file is of no use.
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
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// `$XDG_CONFIG_HOME/knock/hosts.yaml`; `None` where neither that nor a home is known.
pub fn default_path() -> Option<PathBuf> {
    // The specification wants a relative path to be ignored.
    let configured = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    configured
        .filter(|path| path.is_absolute())
        .or_else(platform::config_directory)
        .map(|directory| directory.join("knock").join("hosts.yaml"))
}

/// Reads a hosts file; what is only doubtful in it comes as warnings.
///
/// # Errors
/// [`HostsError`] if it cannot be read, if others could have written it, or with everything that
/// is wrong in it.
pub fn read(path: &Path) -> Result<(HostProfiles, Vec<Diagnostic>), HostsError> {
    let unreadable = |source| HostsError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    // It says where to knock: whoever could have written it learns the sequence.
    if let Some(error) = platform::others_write(path, &file).map_err(unreadable)? {
        return Err(HostsError::Wrong(vec![error]));
    }
    let mut text = String::new();
    file.take(MAX_SIZE as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() > MAX_SIZE {
        return Err(HostsError::Wrong(vec![Diagnostic::file(path, "too large for a hosts file")]));
    }
    of_text(path, &text)
}

/// The hosts file at `path` with this text.
fn of_text(path: &Path, text: &str) -> Result<(HostProfiles, Vec<Diagnostic>), HostsError> {
    let mut problems = Problems::default();
    let entries = parse(&SourceText::new(path, text), &mut problems);
    if problems.has_errors() {
        return Err(HostsError::Wrong(problems.into_sorted()));
    }
    Ok((HostProfiles { path: path.to_owned(), entries }, problems.into_sorted()))
}

fn parse(source: &SourceText, problems: &mut Problems) -> Vec<HostProfile> {
    let Some(root) = yaml::parse(source, problems) else { return Vec::new() };
    if matches!(root.value, Value::Null) {
        return Vec::new();
    }
    let reader = Reader::new(&root, "a mapping with the key 'hosts'", &TOP, problems);
    let Ok(mut reader) = reader else { return Vec::new() };
    let hosts = reader.read("hosts", |node| node.mapping("a mapping from names to hosts"));
    let hosts = hosts.ok().flatten().into_iter().flat_map(|hosts| &hosts.entries);
    hosts.filter_map(|entry| entry::host(entry, source.path(), reader.problems)).collect()
}

impl HostProfiles {
    /// The entry with this name, else the only one with this `host`. Between several decide the
    /// `mode` and the `port` that will be connected to.
    ///
    /// # Errors
    /// If two entries are meant alike.
    pub fn find(
        &self,
        wanted: &str,
        mode: Option<Mode>,
        port: Option<NonZeroU16>,
    ) -> Result<Option<&HostProfile>, HostsError> {
        let by_name = self.entries.iter().find(|entry| entry.name == wanted);
        if by_name.is_some() {
            return Ok(by_name);
        }
        let mut alike: Vec<&HostProfile> =
            self.entries.iter().filter(|entry| entry.host().eq_ignore_ascii_case(wanted)).collect();
        prefer(&mut alike, |entry| mode.is_some() && entry.settings.mode == mode);
        prefer(&mut alike, |entry| port.is_some() && entry.settings.wait == port);
        // Of two ways into one door: a request is one packet, and asks for no code.
        let doors = || alike.iter().map(|entry| &entry.settings.door);
        let is_one_door = doors().zip(doors().skip(1)).all(|(one, other)| one == other);
        if is_one_door && doors().all(Option::is_some) {
            prefer(&mut alike, |entry| entry.settings.mode == Some(Mode::Spa));
        }
        match alike.as_slice() {
            [one, other, ..] => Err(HostsError::Wrong(vec![ambiguous(wanted, one, other)])),
            alike => Ok(alike.first().copied()),
        }
    }

    /// The names of the entries, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// The error that there is no entry for this host.
    pub fn missing(&self, wanted: &str) -> HostsError {
        let names = self.names().collect::<Vec<_>>().join(", ");
        let has = if names.is_empty() { names } else { format!("; it has: {names}") };
        let help = format!("add it, or write the ports: knock {wanted} 7000 8000 9000{has}");
        let message = format!("no host '{wanted}' in this file");
        let file = SourceText::new(&self.path, "").place(0, 0, 0);
        let meant = closest_match(wanted, self.names());
        HostsError::Wrong(vec![file.misspelt(&message, meant, &help)])
    }
}

impl HostProfile {
    pub(super) fn host(&self) -> &str {
        self.host.as_ref().unwrap_or(&self.name)
    }

    /// The error that this entry lacks something.
    pub fn lacks(&self, key: &str, what: &str, help: &str) -> HostsError {
        let message = format!("'{}' has no {key}, and needs {what}", self.name);
        HostsError::Wrong(vec![self.at.error(message).help(help)])
    }
}

/// Leaves only those that fit, if any do.
fn prefer(entries: &mut Vec<&HostProfile>, fits: impl Fn(&HostProfile) -> bool) {
    if entries.iter().any(|entry| fits(entry)) {
        entries.retain(|entry| fits(entry));
    }
}

fn ambiguous(wanted: &str, one: &HostProfile, other: &HostProfile) -> Diagnostic {
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

    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::client::values::Address;

    /// What is said about a hosts file, each problem's first line.
    fn problems(text: &str) -> Vec<String> {
        let mut problems = Problems::default();
        let _ = parse(&SourceText::new("hosts.yaml", text), &mut problems);
        problems.into_sorted().iter().map(first_line).collect()
    }

    fn first_line(problem: &impl ToString) -> String {
        problem.to_string().lines().next().unwrap().to_owned()
    }

    fn hosts(text: &str) -> HostProfiles {
        let mut problems = Problems::default();
        let entries = parse(&SourceText::new("hosts.yaml", text), &mut problems);
        assert!(!problems.has_errors(), "{:?}", problems.into_sorted());
        HostProfiles { path: "hosts.yaml".into(), entries }
    }

    fn found<'a>(hosts: &'a HostProfiles, wanted: &str) -> &'a HostProfile {
        hosts.find(wanted, None, None).unwrap().unwrap()
    }

    fn refused(hosts: &HostProfiles, wanted: &str) -> String {
        first_line(&hosts.find(wanted, None, None).unwrap_err())
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
        let profile = found(&hosts, "work");
        let settings = &profile.settings;
        assert_eq!(profile.host(), "gw.example.com");
        let knocks: Vec<_> = settings.knocks.iter().map(ToString::to_string).collect();
        assert_eq!(knocks, ["7000/tcp", "8000/udp", "9000/tcp"]);
        assert_eq!(settings.delay, Some(Duration::from_millis(200)));
        assert_eq!(settings.wait, NonZeroU16::new(22));
        for same in ["gw.example.com", "GW.example.com"] {
            assert_eq!(found(&hosts, same).settings, *settings);
        }
    }

    #[test]
    fn an_entry_says_by_which_way_its_host_is_knocked_at() {
        let hosts = hosts(
            "hosts:\n  a: {ports: [7000], interface: wg0, source: 192.0.2.2, connect: true}\n\
             \x20 b: {mode: spa, server_key: S0VZS0VZS0VZS0VZS0VZS0VZS0VZS0VZS0VZS0VZS0U=, both: true}\n\
             \x20 c: {one_time: c.list}\n",
        );
        let route = &found(&hosts, "a").settings.route;
        assert_eq!(route.interface.as_deref(), Some("wg0"));
        assert_eq!(route.source, "192.0.2.2".parse().ok());
        assert!(route.connect && !route.both);
        assert!(found(&hosts, "b").settings.route.both);
        assert_eq!(found(&hosts, "c").settings.one_time.as_deref(), Some(Path::new("c.list")));
    }

    #[test]
    fn ways_that_contradict_each_other_are_refused_in_their_place() {
        assert_eq!(
            problems(
                "hosts:\n  a: {ports: [7000], source: 192.0.2.2, both: true}\n\
                 \x20 b: {ports: [7000], source: 192.0.2.2, both: false}\n\
                 \x20 c: {mode: totp, both: true}\n  d: {mode: spa, connect: true}\n\
                 \x20 e: {one_time: e.list, ports: [7000]}\n  f: {ports: [7000], source: here}\n"
            ),
            [
                "hosts.yaml:2:41: error: 'both' and 'source' do not go together",
                "hosts.yaml:4:19: error: 'both' has no meaning in mode: totp",
                "hosts.yaml:5:18: error: 'connect' has no meaning in mode: spa",
                "hosts.yaml:6:7: error: 'one_time' and 'ports' do not go together",
                "hosts.yaml:7:30: error: invalid IP address syntax",
            ]
        );
    }

    #[test]
    fn ports_are_all_that_an_entry_needs() {
        let hosts = hosts("hosts: {192.0.2.1: {ports: [7000]}}");
        let profile = found(&hosts, "192.0.2.1");
        let settings = &profile.settings;
        assert_eq!(profile.host(), "192.0.2.1");
        assert_eq!((settings.mode, settings.delay), (Some(Mode::Sequence), Some(DELAY)));
        assert_eq!(settings.wait, None);
    }

    #[test]
    fn a_name_wins_over_a_host() {
        let hosts = hosts("hosts:\n  a: {host: b, ports: [1]}\n  b: {host: c, ports: [2]}\n");
        assert_eq!(found(&hosts, "b").host(), "c");
    }

    #[test]
    fn two_entries_with_one_host_are_told_apart_by_name_or_mode_only() {
        let hosts = hosts(
            "hosts:\n  a: {host: gw, ports: [1]}\n  b: {host: gw, mode: spa}\n  c: {host: gw, mode: spa}\n",
        );
        assert!(hosts.find("a", None, None).is_ok());
        assert_eq!(
            refused(&hosts, "gw"),
            "hosts.yaml:3:3: error: two entries are about gw: 'a' and 'b'"
        );
        let by_mode = |mode| hosts.find("gw", Some(mode), None);
        assert_eq!(by_mode(Mode::Sequence).unwrap().unwrap().name, "a");
        assert_eq!(
            first_line(&by_mode(Mode::Spa).unwrap_err()),
            "hosts.yaml:4:3: error: two entries are about gw: 'b' and 'c'"
        );
        assert!(by_mode(Mode::Totp).is_err());
    }

    #[test]
    fn of_two_ways_into_one_door_of_a_host_the_request_is_taken() {
        let entries = |one, other| {
            let code = "mode: totp, base: 7000, secret_file: a, wait: 22, host: gw, door";
            hosts(&format!(
                "hosts:\n  a: {{{code}: {one}}}\n  b: {{mode: spa, host: gw, wait: 22, door: {other}}}\n"
            ))
        };
        assert_eq!(found(&entries("ssh", "ssh"), "gw").name, "b");
        assert!(entries("ssh", "web").find("gw", None, NonZeroU16::new(22)).is_err());
    }

    #[test]
    fn the_port_that_will_be_connected_to_tells_two_doors_of_a_host_apart() {
        let hosts = hosts(
            "hosts:\n  a: {host: gw, ports: [1], wait: 22}\n  b: {host: gw, ports: [2], wait: 80}\n",
        );
        let by_port = |port| hosts.find("gw", None, NonZeroU16::new(port));
        assert_eq!(by_port(80).unwrap().unwrap().name, "b");
        assert!(by_port(443).is_err());
    }

    #[test]
    fn an_entry_that_is_not_there_says_which_was_meant() {
        let hosts = hosts(WORK);
        assert!(hosts.find("wrok", None, None).unwrap().is_none());
        assert_eq!(
            first_line(&hosts.missing("wrok")),
            "hosts.yaml: error: no host 'wrok' in this file: did you mean 'work'?"
        );
        assert!(hosts.missing("zebra").to_string().ends_with("it has: work"));
    }

    #[test]
    fn a_rotating_sequence_is_described_as_its_door_is() {
        let hosts = hosts(
            "hosts:
  ports: {mode: totp, door: ssh, ports: 20000-29999, length: 5, protocol: MIXED, step: 1m, secret_file: a/b.totp}
  codes: {mode: totp, base: 7000, digits: 8, secret_file: /c.totp}
",
        );
        let ClientSettings { door, rotation, delay, .. } = &found(&hosts, "ports").settings;
        assert_eq!(door.as_ref().unwrap().as_str(), "ssh");
        assert_eq!(rotation.ports, Some(crate::proto::port_range::parse("20000-29999").unwrap()));
        assert_eq!((rotation.length, rotation.step, *delay), (Some(5), Some(60), Some(DELAY)));
        assert_eq!(rotation.protocol.unwrap().as_str(), "mixed");
        assert_eq!(rotation.secret_file, Some("a/b.totp".into()));
        let rotation = &found(&hosts, "codes").settings.rotation;
        assert_eq!(rotation.base, Some(7000));
        assert_eq!(rotation.secret_file, Some("/c.totp".into()));
    }

    #[test]
    fn a_request_is_described_with_its_keys() {
        let hosts = hosts(
            "hosts:
  work:
    mode: spa
    server_key: 4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=
    key_file: work.key
    spa_port: 62000-62999
    address: [2001:db8::7, 198.51.100.7]
    open_for: 5m
    source_port: 40000
    wait: 22
    retry: 5
",
        );
        let ClientSettings { request, source_port, wait, retry, .. } =
            &found(&hosts, "work").settings;
        let key = "4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=";
        assert_eq!(request.server_key.unwrap().to_string(), key);
        assert_eq!(request.key_file, Some("work.key".into()));
        let ports = crate::proto::port_range::parse("62000-62999").unwrap();
        assert_eq!(request.spa_port, Some(ports));
        assert!(
            matches!(request.address, Some(Address::Given(given)) if given.iter().count() == 2)
        );
        assert_eq!(request.open_for.unwrap().get(), 300);
        assert_eq!(*source_port, Some("40000".parse().unwrap()));
        assert_eq!(*wait, NonZeroU16::new(22));
        assert_eq!((*retry, request.close), (Some(5), false));
    }

    #[test]
    fn files_are_named_from_where_the_hosts_file_is() {
        let mut problems = Problems::default();
        let text = "hosts: {a: {mode: spa, key_file: a.key}, b: {mode: spa, key_file: ~/b.key}}";
        let entries = parse(&SourceText::new("/etc/knock/hosts.yaml", text), &mut problems);
        let files: Vec<_> =
            entries.iter().map(|entry| entry.settings.request.key_file.clone().unwrap()).collect();
        assert_eq!(
            files,
            [PathBuf::from("/etc/knock/a.key"), std::env::home_dir().unwrap().join("b.key")]
        );
    }

    #[test]
    fn what_a_mode_has_no_use_for_is_refused() {
        assert_eq!(
            problems(
                "hosts:
  a: {ports: [1], length: 4}
  b: {mode: spa, ports: [1]}
  c: {mode: totp, ports: 1-2, base: 7000, protocol: tcp, length: 4, digits: 6}
  d: {mode: spa, close: true, open_for: 5m, wait: 22}
"
            ),
            [
                "hosts.yaml:2:19: error: 'length' has no meaning in mode: sequence",
                "hosts.yaml:3:18: error: 'ports' has no meaning in mode: spa",
                "hosts.yaml:4:31: error: 'base' and 'ports' do not go together",
                "hosts.yaml:4:43: error: 'protocol' and 'base' do not go together",
                "hosts.yaml:4:58: error: 'length' and 'base' do not go together",
                "hosts.yaml:4:69: error: 'digits' and 'ports' do not go together",
                "hosts.yaml:5:31: error: 'open_for' and 'close' do not go together",
                "hosts.yaml:5:45: error: 'wait' and 'close' do not go together",
            ]
        );
    }

    #[test]
    fn a_value_that_cannot_be_is_refused_in_its_place() {
        assert_eq!(
            problems(
                "hosts:
  a: {mode: totp, ports: [1, 2], length: 9, protocol: icmp, step: 2h, door: a b, retry: 1001}
  b: {mode: totp, base: 65500, digits: 7}
  c: {mode: totp, ports: 7000}
  d: {mode: spa, server_key: abc, spa_port: 0, open_for: 0, close: perhaps, source_port: 65536}
  e: {mode: spa, address: [192.0.2.1, 192.0.2.2]}
  f: {mode: spa, address: here}
  g: {mode: spa, address: 0.0.0.0}
"
            ),
            [
                "hosts.yaml:2:26: error: a range of ports such as 20000-29999 belongs here, not a list",
                "hosts.yaml:2:42: error: '9' is not valid here: write a number from 3 to 8",
                "hosts.yaml:2:55: error: 'icmp' is not a protocol of a rotating sequence: write tcp, udp or mixed",
                "hosts.yaml:2:67: error: a step of 2h is out of range: write 1s to 1h, in whole seconds",
                "hosts.yaml:2:77: error: a name is 1 to 32 of the characters A-Z a-z 0-9 _ . -",
                "hosts.yaml:2:89: error: '1001' is not valid here: write a number from 0 to 1000",
                "hosts.yaml:3:25: error: '65500' is not valid here: 100 ports from there are needed, write 1 to 65436",
                "hosts.yaml:3:40: error: '7' is not valid here: write 6 or 8",
                "hosts.yaml:4:26: error: '7000' is not a range of ports: write the first and the last, as in 20000-29999",
                "hosts.yaml:5:30: error: a key has 44 characters of base64, this has 3: copy it whole, with the '=' at its end",
                "hosts.yaml:5:45: error: port 0 is out of range: ports go from 1 to 65535",
                "hosts.yaml:5:58: error: a door cannot be open for 0: write whole seconds, as in 30s",
                "hosts.yaml:5:68: error: 'perhaps' is neither true nor false",
                "hosts.yaml:5:90: error: port 65536 is out of range: ports go from 1 to 65535",
                "hosts.yaml:6:27: error: one address of each family can be asked for: leave out 192.0.2.2",
                "hosts.yaml:7:27: error: 'here' is neither auto, nor observed, nor an address",
                "hosts.yaml:8:27: error: 0.0.0.0 is not the address of a host",
            ]
        );
    }

    #[test]
    fn an_empty_file_has_no_hosts() {
        for text in ["", "hosts:\n", "# nothing\n"] {
            assert!(hosts(text).find("work", None, None).unwrap().is_none());
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
  g: {mode: wolf, ports: [1]}
  h: 22
host: {}
"
            ),
            [
                "hosts.yaml:2:3: error: 'a' has no ports to knock on",
                "hosts.yaml:2:7: error: 'port' is not a key of a host: did you mean 'ports'?",
                "hosts.yaml:2:24: error: 22/udp: only a TCP port can be connected to",
                "hosts.yaml:3:15: error: port 70000 is out of range: ports go from 1 to 65535",
                "hosts.yaml:3:22: error: 'upd' is not a protocol: write tcp or udp",
                "hosts.yaml:3:32: error: 'x y' is not one port: write the ports apart, as in 7000 8000 9000",
                "hosts.yaml:4:14: error: there is no port in this list",
                "hosts.yaml:5:14: error: a list of ports belongs here, not a word",
                "hosts.yaml:6:25: error: 'sequnce' is not a mode: did you mean 'sequence'?",
                "hosts.yaml:7:26: error: more than an hour between two knocks",
                "hosts.yaml:8:13: error: 'wolf' is not a mode",
                "hosts.yaml:9:6: error: a host: a mapping with the key 'ports' belongs here, not a word",
                "hosts.yaml:10:1: error: 'host' is not a key of a hosts file: did you mean 'hosts'?",
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
        for (mode, trusted) in [(0o600, true), (0o644, true), (0o666, false), (0o646, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).is_ok(), trusted, "{mode:o}");
        }
        assert_eq!(
            first_line(&read(&path).unwrap_err()),
            format!("{}: error: others than its owner can write it (mode 0646)", path.display())
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
            let _ = parse(&SourceText::new("hosts.yaml", text), &mut problems);
        }

        #[test]
        fn no_value_makes_it_panic(
            mode in "(sequence|totp|spa)",
            key in proptest::sample::select(KEYS.known.to_vec()),
            value in "([0-9]{1,6}(-[0-9]{0,6})?|[a-z0-9:.]{0,9}|\\[[0-9:., ]{0,12}\\])",
        ) {
            let mut problems = Problems::default();
            let text = format!("hosts:\n  a:\n    mode: {mode}\n    {key}: {value}\n");
            let _ = parse(&SourceText::new("hosts.yaml", text), &mut problems);
        }
    }
}
