//! fwknop's `access.conf`, with the files that it includes, and the `fwknopd.conf` beside it.

mod client;
mod cycle;
mod daemon;
mod keys;
mod lines;
mod nat;
mod stanzas;
pub(super) mod variables;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use client::ImportedClient;
use cycle::Cycle;
use jiff::tz::TimeZone;
use nat::ForcedNat;

use super::Files;
use super::side_by_side::ImportedPart;
use crate::config::names::TakenNames;
use crate::config::yaml_writer::YamlWriter;
use crate::config::{Diagnostic, Name, Place, Problems};
use crate::proto::{Knock, duration};

/// Writes what the files say. Errors in `notes` are about what is not carried over as it stands.
pub(super) fn import(
    path: &Path,
    files: &dyn Files,
    zone: &TimeZone,
    open: &[Knock],
    notes: &mut Problems,
) -> (YamlWriter, Vec<ImportedPart>) {
    let mut page = YamlWriter::default();
    page.comment(0, "It holds keys: let only root read it (mode 0600).");
    let daemon = daemon::import(path, files, notes);
    page.append(&daemon.page);
    let stanzas = stanzas::read(path, daemon.folder.as_ref(), files, notes);
    let mut made = Importer::default();
    let read = |stanza| {
        let read = client::read(stanza, &daemon.translation, zone, notes);
        notes.ok_or_report(read)
    };
    let clients: Vec<Option<ImportedClient>> = stanzas.iter().map(read).collect();
    let mut parts = Vec::new();
    let asked = daemon.translation.asked.first();
    for ((number, client), stanza) in (1..).zip(&clients).zip(&stanzas) {
        let made = |client| made.client(client, number, ports(path, client, open), notes);
        let name = client.as_ref().and_then(made);
        let says = stanza.says(asked);
        parts.push(ImportedPart { origin: stanza.origin.clone(), name, says });
    }
    if clients.iter().flatten().any(|client| client.nat.is_none() && client.cycle.is_none()) {
        let note = |at: &Place| {
            at.error("clients say where they want to be led to: not carried over").help(
                "for one that runs fwknop -A tcp/2222 -N 10.0.0.2:22 write a door with forward: \
                 [{on: 2222/tcp, to: 10.0.0.2, port: 22}]; for --nat-local, 'to' is this host's",
            )
        };
        notes.extend(daemon.translation.asked.iter().map(note));
    }
    if stanzas.is_empty() {
        notes.push(Diagnostic::file(path, "there is no stanza in it"));
    }
    let has_keys = !made.clients.is_empty();
    let Importer { templates, clients, doors, .. } = made;
    for (key, part) in [("templates", templates.page), ("clients", clients), ("doors", doors.page)]
    {
        if !part.is_empty() {
            page.blank();
            page.section(0, key, &part);
        }
    }
    let whole = |message: &str| Diagnostic::file(path, message).into_warning();
    if has_keys {
        notes.push(whole("what is printed holds keys: store it in a file of mode 0600"));
    }
    if !made.guarded.is_empty() {
        let ports = made.guarded.into_iter().collect::<Vec<_>>().join(", ");
        notes.push(whole(&format!("knockd will lock {ports} itself, by its guard")).help(
            "let the firewall that locks them now accept them, or write via: iptables instead of \
             via: guard; then see whether you get in: knockd --try 2m",
        ));
    }
    (page, parts)
}

/// The reason why a client has no ports: the note, and the comment beside it.
type NoPorts = (Diagnostic, &'static str);

/// Parts of a page that have names. What says the same is written once.
#[derive(Default)]
struct NamedParts {
    page: YamlWriter,
    names: TakenNames,
    known: HashMap<YamlWriter, String>,
}

impl NamedParts {
    /// The name of the part that says this.
    fn name(&mut self, called: &str, says: YamlWriter) -> String {
        if let Some(name) = self.known.get(&says) {
            return name.clone();
        }
        let name = self.names.take(called).to_string();
        self.page.section(1, &name, &says);
        self.known.insert(says, name.clone());
        name
    }
}

#[derive(Default)]
struct Importer<'a> {
    templates: NamedParts,
    clients: YamlWriter,
    doors: NamedParts,
    names: TakenNames,
    /// The ports that the guard locks.
    guarded: BTreeSet<String>,
    /// The clients so far, by their keys of either kind.
    keys: HashMap<&'a (&'static str, Vec<u8>), &'a ImportedClient>,
}

impl<'a> Importer<'a> {
    /// Writes a client; its name, unless it is only a comment.
    fn client(
        &mut self,
        client: &'a ImportedClient,
        number: usize,
        ports: Result<Vec<Knock>, NoPorts>,
        notes: &mut Problems,
    ) -> Option<Name> {
        let called = client.called.clone().unwrap_or_else(|| format!("client-{number}"));
        let same = client.keys.iter().find_map(|key| Some((key.0, *self.keys.get(key)?)));
        if same.is_some_and(|(_, first)| first.origin == client.origin) {
            let message = "this stanza is included more than once: once is enough";
            notes.push(client.at.warning(message));
            return None;
        }
        let name = self.names.take(&called);
        if let Some((key, first)) = same {
            let message = format!("commented out: it has the same {key} as {}", first.origin);
            let help = "a key stands for one client here: give each its own";
            notes.push(client.at.error(message).help(help));
            self.commented(client, &name, "It has the same key as another client.");
            return None;
        }
        let doors = match &client.cycle {
            Some(cycle) if !cycle.depends_on_port() => vec![self.command_door(client, cycle)],
            _ => match ports {
                Ok(ports) => ports.into_iter().map(|port| self.port_door(client, port)).collect(),
                Err((problem, comment)) => {
                    notes.push(problem);
                    self.commented(client, &name, comment);
                    return None;
                }
            },
        };
        self.keys.extend(client.keys.iter().map(|key| (key, client)));
        write_client(&mut self.clients, client, &name, &doors);
        Some(name)
    }

    /// The door for one port, so that a request opens what it asks for and no more.
    fn port_door(&mut self, client: &ImportedClient, port: Knock) -> String {
        let mut called = format!("{}-{}", port.protocol.as_str(), port.port);
        let mut door = YamlWriter::default();
        door.entry(2, "fwknop", "true");
        if let Some(ForcedNat { to, port: inner, masquerade }) = client.nat {
            called += &format!("-to-{to}");
            let more = if masquerade { ", masquerade: true" } else { "" };
            door.line(2, &format!("forward: [{{on: {port}, to: {to}, port: {inner}{more}}}]"));
        } else {
            door.list(2, "open", &[port]);
        }
        write_times(&mut door, client);
        if let Some(cycle) = &client.cycle {
            let mut template = YamlWriter::default();
            write_commands(&mut template, ["open", "close"], cycle);
            door.entry(2, "via", &self.templates.name("cmd-cycle", template));
            write_limit(&mut door, cycle);
        } else {
            door.entry(2, "via", "guard");
            self.guarded.extend(client.nat.is_none().then(|| port.to_string()));
        }
        self.doors.name(&called, door)
    }

    /// The door that any request of this client opens, and only such.
    fn command_door(&mut self, client: &ImportedClient, cycle: &Cycle) -> String {
        let name = self.doors.names.take("cmd-cycle").to_string();
        let page = &mut self.doors.page;
        page.open(1, &name);
        page.entry(2, "fwknop", "true");
        write_commands(page, ["start_command", "stop_command"], cycle);
        write_times(page, client);
        write_limit(page, cycle);
        name
    }

    fn commented(&mut self, client: &ImportedClient, name: &Name, why: &str) {
        let mut page = YamlWriter::default();
        write_client(&mut page, client, name, &[]);
        self.clients.comment(1, why);
        self.clients.commented(1, &page);
    }
}

/// The ports that a client may open, if it is known which; at least one.
fn ports(path: &Path, client: &ImportedClient, open: &[Knock]) -> Result<Vec<Knock>, NoPorts> {
    let ports = match &client.ports {
        Some(ports) => ports.as_slice(),
        None if open.is_empty() => {
            let message = "commented out: this client may open any port, as no client here may";
            let file = path.display();
            let help = format!("name its ports: knockctl import --open 22/tcp,443/tcp {file}");
            let comment = "It could open any port: name the doors that it may open.";
            return Err((client.at.error(message).help(help), comment));
        }
        None => open,
    };
    let allowed = ports.iter().copied().filter(|port| !client.restricted.contains(port));
    let ports: Vec<Knock> = allowed.collect();
    if ports.is_empty() {
        let message = "commented out: RESTRICT_PORTS takes all its ports away";
        return Err((client.at.error(message), "It could open no port."));
    }
    Ok(ports)
}

fn write_commands(page: &mut YamlWriter, [open, close]: [&str; 2], cycle: &Cycle) {
    page.list(2, open, &cycle.open);
    if let Some(commands) = &cycle.close {
        page.list(2, close, commands);
    }
}

fn write_limit(page: &mut YamlWriter, cycle: &Cycle) {
    page.optional(2, "command_limit", cycle.is_slow().then_some("none"));
}

/// How long a client's doors are open, where that matters.
fn write_times(page: &mut YamlWriter, client: &ImportedClient) {
    if client.cycle.as_ref().is_none_or(Cycle::is_timed) {
        for (key, seconds) in client.times {
            page.entry(2, key, &duration::format(Duration::from_secs(seconds)));
        }
    }
}

fn write_client(page: &mut YamlWriter, client: &ImportedClient, name: &Name, doors: &[String]) {
    page.open(1, name.as_str());
    page.comment(2, &format!("Made of {}.", client.origin));
    page.list(2, "doors", doors);
    page.append(&client.page);
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;
    use crate::config::diagnostic::SourceText;
    use crate::config::load;
    use crate::ctl::import::side_by_side;

    /// Files that are only in memory; a directory holds all of them.
    struct Memory<'a>(&'a [(&'a str, &'a [u8])]);

    impl Files for Memory<'_> {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            let found = self.0.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn list(&self, _: &Path) -> io::Result<Vec<PathBuf>> {
            Ok(self.0.iter().map(|(name, _)| PathBuf::from(name)).collect())
        }
    }

    struct Outcome {
        yaml: String,
        explained: String,
        notes: String,
        complete: bool,
    }

    fn run(files: &[(&str, &[u8])], open: &[Knock]) -> Outcome {
        let mut notes = Problems::default();
        let path = Path::new("access.conf");
        let (page, parts) = import(path, &Memory(files), &TimeZone::UTC, open, &mut notes);
        let (complete, yaml) = (!notes.has_errors(), page.into_text());
        let (notes, mut explained) = (notes.into_sorted(), Vec::new());
        side_by_side::write(&mut explained, &parts, yaml.clone(), &notes).unwrap();
        let notes = notes.iter().map(|note| format!("{note}\n")).collect();
        Outcome { yaml, explained: String::from_utf8(explained).unwrap(), notes, complete }
    }

    fn loaded(yaml: &str) -> Config {
        load::parse(&SourceText::new("page", yaml))
            .unwrap_or_else(|report| panic!("{report}\nin\n{yaml}"))
            .config
    }

    #[test]
    fn a_client_has_what_its_stanza_says() {
        let text = b"SOURCE 192.0.2.0/24\nKEY_BASE64 YWJj\nHMAC_KEY x: y\nHMAC_DIGEST_TYPE MD5\n\
            ENCRYPTION_MODE ecb\nOPEN_PORTS tcp/22,udp/53\nFW_ACCESS_TIMEOUT 60\n\
            REQUIRE_USERNAME alice\nREQUIRE_SOURCE Y\nDESTINATION 192.0.2.1\nACCESS_EXPIRE_EPOCH 99\n";
        let config = loaded(&run(&[("access.conf", text), ("fwknopd.conf", b"")], &[]).yaml);
        let client = &config.clients[0];
        let fwknop = client.fwknop.as_ref().unwrap();
        assert_eq!(client.name.as_str(), "alice");
        assert_eq!(client.expires.unwrap().as_nanos(), 99_000_000_000);
        assert_eq!(fwknop.key.expose(), b"abc");
        let (hmac_key, hash) = fwknop.hmac.as_ref().unwrap();
        assert_eq!((hmac_key.expose(), hash.to_string().as_str()), (b"x: y".as_slice(), "md5"));
        assert_eq!(fwknop.mode.to_string(), "ecb");
        assert_eq!(fwknop.username.as_deref(), Some("alice"));
        assert_eq!(fwknop.from, ["192.0.2.0/24".parse().unwrap()]);
        assert_eq!(fwknop.destination, ["192.0.2.1".parse().unwrap()]);
        assert_eq!(fwknop.address, crate::config::AddressPolicy::Explicit);
        let doors: Vec<_> = config
            .doors
            .iter()
            .map(|door| {
                let opening = &door.opening;
                let times = (opening.open_for.as_secs(), opening.open_for_max.as_secs());
                (door.name().as_str(), opening.ports[0].to_string(), times)
            })
            .collect();
        let times = (60, 300);
        assert_eq!(
            doors,
            [("tcp-22", "22/tcp".to_owned(), times), ("udp-53", "53/udp".to_owned(), times)]
        );
    }

    #[test]
    fn a_stanza_goes_on_behind_what_it_includes() {
        let main = b"SOURCE ANY\nKEY a\n%include b.conf\nHMAC_KEY c\nOPEN_PORTS tcp/1\n";
        let other = b"SOURCE ANY\nKEY d\nHMAC_KEY e\nOPEN_PORTS tcp/2\n";
        let files: [(&str, &[u8]); 2] = [("access.conf", main), ("b.conf", other)];
        let config = loaded(&run(&files, &[]).yaml);
        let of = |name: &str| {
            let client = config.clients.iter().find(|client| client.name.as_str() == name);
            client.unwrap().doors[0].to_string()
        };
        assert_eq!((of("client-1"), of("b")), ("tcp-1".to_owned(), "tcp-2".to_owned()));
    }

    #[test]
    fn files_that_include_each_other_come_to_an_end() {
        let text = b"SOURCE ANY\nKEY a\nOPEN_PORTS tcp/1\n%include_folder .\n%include_folder .\n";
        let names: Vec<String> = (0..40).map(|number| format!("{number}.conf")).collect();
        let mut files: Vec<(&str, &[u8])> = vec![("access.conf", text)];
        files.extend(names.iter().map(|name| (name.as_str(), text.as_slice())));
        let outcome = run(&files, &[]);
        assert!(!outcome.complete);
        assert!(outcome.notes.contains("more files than anybody has"));
        loaded(&outcome.yaml);
    }

    /// Something like an access.conf, mostly wrong somewhere. Its keys have capital letters.
    fn conf() -> impl Strategy<Value = String> {
        let line = prop_oneof![
            3 => "SOURCE:? (ANY|192\\.0\\.2\\.[0-9]{1,3}(/[0-9]{1,2})?|[a-z0-9./, ]{1,12})",
            3 => "(KEY|HMAC_KEY) [A-Z]{1,40};?",
            3 => "(KEY|HMAC_KEY)_BASE64 [A-Z+/]{1,44}={0,3}",
            3 => "(OPEN|RESTRICT)_PORTS (tcp|udp|TCP|x)/[0-9]{1,6}(, ?(tcp|udp)/[0-9 -]{1,5}){0,3}",
            1 => "(FW_ACCESS|MAX_FW)_TIMEOUT [0-9a-z-]{1,12}",
            1 => "ACCESS_EXPIRE(_EPOCH)? [0-9/-]{1,21}",
            1 => "CMD_CYCLE_(OPEN|CLOSE|TIMER) ([0-9]{1,8}|NONE|[ -~]{1,20}|/x \\$(IP|PORT|PROTO|SRC|DST|X)%)",
            1 => "(HMAC_DIGEST_TYPE|ENCRYPTION_MODE) (md5|SHA1|SHA3_256|cbc|legacy|[a-z0-9]{1,6})",
            1 => "REQUIRE_(USERNAME|SOURCE_ADDRESS) [ -~]{1,10}",
            1 => "(FORCE_NAT|GPG_DECRYPT_PW|ENABLE_CMD_EXEC|DESTINATION) [ -~]{1,10}",
            1 => "FORCE_NAT (10|127|224)\\.0\\.0\\.[0-9]{1,3} [0-9]{1,6}",
            1 => "(FORCE_(MASQUERADE|SNAT)|FORWARD_ALL|DISABLE_DNAT) (Y|10\\.0\\.0\\.1)",
            1 => "%include(_folder|_keys)? (access|b)\\.conf",
            1 => "[ -~]{0,12}",
        ];
        prop::collection::vec(line, 0..24).prop_map(|lines| lines.join("\n"))
    }

    proptest! {
        #[test]
        fn what_comes_out_loads_and_neither_a_note_nor_what_is_explained_shows_a_key(
            text in conf(),
            other in conf(),
            daemon in "((PCAP_INTF|PCAP_FILTER|MAX_SPA_PACKET_AGE|VERBOSE|ENABLE_UDP_SERVER|UDPSERV_PORT|SYSLOG_FACILITY|ENABLE_IPT_SNAT) [a-zA-Z0-9 $]{0,12};?\n|(ENABLE_IPT_SNAT|ENABLE_FIREWD_FORWARDING) Y;\n|PCAP_FILTER udp (dst )?port(range)? [0-9]{1,5}(-[0-9]{1,5})?;\n){0,5}",
            open: bool,
        ) {
            let files: [(&str, &[u8]); 3] = [
                ("access.conf", text.as_bytes()),
                ("b.conf", other.as_bytes()),
                ("fwknopd.conf", daemon.as_bytes()),
            ];
            let open: &[Knock] = if open { &["22".parse().unwrap()] } else { &[] };
            let outcome = run(&files, open);
            loaded(&outcome.yaml);
            let lines = text.lines().chain(other.lines());
            for key in lines.filter(|line| line.contains("KEY")).filter_map(|line| line.split(' ').nth(1)) {
                let key = key.trim_end_matches([';', '=']);
                for said in [&outcome.notes, &outcome.explained] {
                    prop_assert!(key.len() < 8 || !said.contains(key), "{said}");
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, daemon: Vec<u8>) {
            let text = [b"SOURCE ANY\nKEY a\nOPEN_PORTS tcp/1\n".as_slice(), &bytes].concat();
            let files: [(&str, &[u8]); 2] = [("access.conf", &text), ("fwknopd.conf", &daemon)];
            loaded(&run(&files, &[]).yaml);
        }
    }
}
