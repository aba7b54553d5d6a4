//! The three ways to knock, what the hosts file says of them, and the keys and secrets they need.

use std::fs::{self, File, Permissions};
use std::net::{TcpListener, UdpSocket};
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use assert_cmd::cargo::cargo_bin_cmd;
use libknock::proto::fwknop::{
    Access, CipherMode, FwknopDatagram, FwknopKey, FwknopKeys, NatAccess,
};
use libknock::proto::spa::{Addresses, PrivateKey, PublicKey, Receiver, SpaRequest};
use libknock::proto::totp::{Digits, Protocols, Scheme, TotpKey, TotpMode, code, parse_secret};
use libknock::time::Wall;
use snapbox::{IntoData, assert_data_eq, str};

use crate::client::{Said, configuration, knock, knock_in, misused};

const HOSTS: &str = "hosts:
  work: {host: 192.0.2.1, mode: sequence, ports: [7000, 8000/udp]}
  home: {host: 192.0.2.2, mode: totp, door: ssh, ports: 20000-29999}
";

#[test]
fn a_host_of_the_hosts_file_is_knocked_by_name_and_by_address() {
    let directory = configuration(HOSTS);
    for host in ["work", "192.0.2.1"] {
        let said = knock_in(directory.path(), &["-n", host]);
        assert_eq!(said.out, "tcp 192.0.2.1:7000\nudp 192.0.2.1:8000\n");
        assert_eq!((said.status, said.err.as_str()), (0, ""));
    }
}

#[test]
fn the_hosts_file_says_what_to_wait_for_and_the_command_line_wins() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let directory = configuration(&format!(
        "hosts: {{work: {{host: 127.0.0.1, ports: [7000], wait: {port}}}}}"
    ));
    let said = knock_in(directory.path(), &["-v", "work"]);
    assert!(said.out.ends_with(&format!("127.0.0.1:{port} is open\n")), "{}", said.out);
    drop(listener);
    let other = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let said = knock_in(directory.path(), &["--wait", &other, "--retry", "0", "work"]);
    assert!(said.err.contains(&format!("127.0.0.1:{other} did not accept")), "{}", said.err);
}

#[test]
fn another_hosts_file_may_be_named_but_not_together_with_ports() {
    let directory = configuration(HOSTS);
    let path = directory.path().join("knock/hosts.yaml");
    let path = path.to_str().unwrap();
    assert_eq!(knock(&["--hosts", path, "-n", "work"]).status, 0);
    assert!(misused(&["--hosts", path, "work", "7000"]).contains("leave out one of the two"));
    let said = knock(&["--hosts", "/nonexistent", "work"]);
    assert!(said.err.starts_with("knock: error: /nonexistent: cannot be read: No such file"));
    assert_eq!(said.status, 1);
}

/// What is complained of, with the directory's name taken away.
fn wrong_with(text: &str, host: &str) -> String {
    let directory = configuration(text);
    let said = knock_in(directory.path(), &["-n", host]);
    assert_eq!((said.status, said.out.as_str()), (1, ""));
    said.err.replace(&format!("{}/knock/", directory.path().display()), "")
}

#[test]
fn a_mistake_in_the_hosts_file_is_shown_in_its_place() {
    assert_data_eq!(
        wrong_with("hosts:\n  work:\n    prots: [7000]\n    wait: x y\n", "work"),
        str![[r#"
hosts.yaml:2:3: error: 'work' has no ports to knock on
      work:
      ^^^^
    write them below it: ports: [7000, 8000/udp, 9000]
hosts.yaml:3:5: error: 'prots' is not a key of a host: did you mean 'ports'?
        prots: [7000]
        ^^^^^
hosts.yaml:4:11: error: 'x y' is not one port: write the ports apart, as in 7000 8000 9000
        wait: x y
              ^^^

"#]]
        .raw()
    );
}

#[test]
fn a_host_that_is_not_in_the_file_is_an_error() {
    assert_data_eq!(
        wrong_with(HOSTS, "wrok"),
        str![[r#"
hosts.yaml: error: no host 'wrok' in this file: did you mean 'work'?

"#]]
    );
}

#[test]
fn a_hosts_file_that_others_can_write_is_refused() {
    let directory = configuration(HOSTS);
    let path = directory.path().join("knock/hosts.yaml");
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    let said = knock_in(directory.path(), &["-n", "work"]);
    assert_eq!(
        said.err,
        format!(
            "{0}: error: others than its owner can write it (mode 0666)\n    run: chmod go-w {0}\n",
            path.display()
        )
    );
    assert_eq!((said.status, said.out.as_str()), (1, ""));
}

/// The part of the manual that explains the hosts file.
fn manual_of_the_hosts_file() -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/knock.1")).unwrap();
    let (_, rest) = page.split_once("\n.Sh HOSTS FILE\n").unwrap();
    rest.split_once("\n.Sh ").unwrap().0.to_owned()
}

#[test]
fn the_hosts_file_in_the_manual_works() {
    let manual = manual_of_the_hosts_file();
    let (_, rest) = manual.split_once("\n.Bd -literal -offset indent\n").unwrap();
    let directory = configuration(rest.split_once("\n.Ed\n").unwrap().0);
    let said = knock_in(directory.path(), &["-n", "192.0.2.1"]);
    assert_eq!(said.out, "udp 192.0.2.1:2222\ntcp 192.0.2.1:3333\nudp 192.0.2.1:4444\n");
    assert_eq!((said.status, said.err.as_str()), (0, ""));
}

const SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";

/// A directory with a hosts file and files that only their owner can read.
fn with_files(hosts: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = configuration(hosts);
    for (name, text) in files {
        let path = directory.path().join("knock").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    directory
}

fn file(directory: &tempfile::TempDir, name: &str) -> PathBuf {
    directory.path().join("knock").join(name)
}

#[expect(clippy::disallowed_methods, reason = "the client reads the same clock")]
fn now() -> Wall {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Wall::ZERO + since.unwrap()
}

fn packets(knocks: &[libknock::proto::knock::Knock]) -> String {
    knocks.iter().map(|knock| format!("{} 192.0.2.1:{}\n", knock.protocol, knock.port)).collect()
}

/// What a client that knocks now may print: the sequence of the step, or of the next one.
fn assert_sequence(said: &Said, scheme: Scheme, began: Wall) {
    let key = TotpKey::from(&parse_secret(SECRET).unwrap());
    let steps = scheme.step_at(began)..=scheme.step_at(now()) + 1;
    let valid: Vec<String> = steps.map(|step| packets(&scheme.knocks(&key, "ssh", step))).collect();
    assert!(valid.contains(&said.out), "{}{}: {valid:?}", said.out, said.err);
    assert_eq!((said.status, said.err.as_str()), (0, ""));
}

#[test]
fn a_rotating_sequence_is_that_of_the_moment() {
    let port = |port| NonZeroU16::new(port).unwrap();
    let mode = TotpMode::Ports {
        low: port(20000),
        high: port(29999),
        length: 5,
        protocol: Protocols::Mixed,
    };
    let scheme = Scheme::new(mode, 60, 1).unwrap();
    let directory = with_files(
        "hosts: {gw: {host: 192.0.2.1, mode: totp, door: ssh, ports: 20000-29999, length: 5, \
         protocol: mixed, step: 1m, secret_file: gw.totp}}",
        &[("gw.totp", SECRET)],
    );
    let began = now();
    assert_sequence(&knock_in(directory.path(), &["-n", "gw"]), scheme, began);
    let file = file(&directory, "gw.totp");
    let secret_file = file.to_str().unwrap();
    let began = now();
    let options = [
        "--totp",
        "-n",
        "--door",
        "ssh",
        "--ports",
        "20000-29999",
        "--length",
        "5",
        "--protocol",
        "mixed",
        "--step",
        "1m",
        "--secret-file",
        secret_file,
        "192.0.2.1",
    ];
    assert_sequence(&knock(&options), scheme, began);
}

#[test]
fn a_sequence_that_the_turn_would_cut_waits_for_the_next_one() {
    let scheme = Scheme::new(TotpMode::Code { base: 7000, digits: Digits::Six }, 1, 1).unwrap();
    let directory = with_files(
        "hosts: {gw: {host: 127.0.0.1, mode: totp, base: 7000, step: 1s, delay: 140ms, \
         secret_file: s}}",
        &[("s", SECRET)],
    );
    let key = TotpKey::from(&parse_secret(SECRET).unwrap());
    let began = scheme.step_at(now());
    // It takes 920 ms of each second, so of some tries most have to wait.
    for _ in 0..3 {
        let said = knock_in(directory.path(), &["-v", "gw"]);
        assert_eq!((said.status, said.err.as_str()), (0, ""));
        // Where it wakes too late for the next one it waits again.
        let is_wait = |line: &&str| line.starts_with("the sequence changes in ");
        let waits = said.out.lines().any(|line| is_wait(&line));
        let knocked: String = said.out.split_inclusive('\n').skip_while(is_wait).collect();
        let valid = (began..=scheme.step_at(now())).find(|&step| {
            let knocks = scheme.knocks(&key, "", step);
            let expected: String = knocks
                .iter()
                .map(|knock| format!("hitting tcp 127.0.0.1:{}\n", knock.port))
                .collect();
            expected == knocked
        });
        assert!(valid.is_some_and(|step| !waits || step > began), "{}", said.out);
    }
}

#[test]
fn a_request_for_a_free_source_port_names_the_one_that_connects() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let asked = Asked::new(&format!(", wait: {}", listener.local_addr().unwrap().port()));
    assert_eq!(asked.knock(&["--source-port", "auto", "gw"]).status, 0);
    let (_, from) = listener.accept().unwrap();
    assert_eq!(asked.request().source_port, NonZeroU16::new(from.port()));
}

#[test]
fn a_code_is_made_from_the_secret() {
    let scheme = Scheme::new(TotpMode::Code { base: 7000, digits: Digits::Eight }, 30, 1).unwrap();
    let directory = with_files(
        "hosts: {gw: {host: 192.0.2.1, mode: totp, base: 7000, digits: 8, secret_file: s}}",
        &[("s", SECRET)],
    );
    let began = now();
    assert_sequence(&knock_in(directory.path(), &["-n", "gw"]), scheme, began);
}

#[test]
fn a_code_is_typed_or_asked_for() {
    let expected = "tcp 192.0.2.1:7049\ntcp 192.0.2.1:7038\ntcp 192.0.2.1:7017\n";
    for code in ["493817", "493 817"] {
        let said = knock(&["-n", "--code", code, "--base", "7000", "192.0.2.1"]);
        assert_eq!((said.out.as_str(), said.err.as_str()), (expected, ""));
    }
    let directory = configuration("hosts: {gw: {host: 192.0.2.1, mode: totp, base: 7000}}");
    let mut command = cargo_bin_cmd!("knock");
    let asked = command.env("XDG_CONFIG_HOME", directory.path()).args(["-n", "--code", "-", "gw"]);
    let output = asked.write_stdin("493817\n").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[test]
fn the_code_of_an_authenticator_is_what_the_client_would_make() {
    let key = TotpKey::from(&parse_secret(SECRET).unwrap());
    assert_eq!(*code(&key, 37_037_036, Digits::Six), "088309");
    let said = knock(&["-n", "--code", "088309", "--base", "7000", "192.0.2.1"]);
    assert_eq!(said.out, "tcp 192.0.2.1:7008\ntcp 192.0.2.1:7083\ntcp 192.0.2.1:7009\n");
}

#[test]
fn a_code_that_opens_nothing_is_not_to_be_tried_blindly() {
    let shut = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let options = ["--code", "493817", "--base", "7000", "--wait", &shut, "--retry", "0"];
    let said = knock(&[&options[..], &["127.0.0.1"]].concat());
    assert_eq!(
        said.err,
        format!(
            "knock: error: 127.0.0.1:{shut} did not accept a connection: gave up after 1 knock; \
             look at the code and the clock before you try again: \
             a door may stop listening after a few wrong codes\n"
        )
    );
    assert_eq!(said.status, 3);
}

#[test]
fn what_is_no_code_is_refused_and_not_repeated() {
    for (code, what) in [("49381", "has 6 or 8 digits, not 5"), ("49381x", "digits only")] {
        let said = misused(&["-n", "--code", code, "--base", "7000", "192.0.2.1"]);
        assert!(said.contains(what) && !said.contains(code), "{said}");
    }
}

#[test]
fn a_secret_that_others_can_read_is_refused_and_never_shown() {
    let directory =
        with_files("hosts: {gw: {mode: totp, base: 7000, secret_file: s}}", &[("s", SECRET)]);
    let file = file(&directory, "s");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    let said = knock_in(directory.path(), &["-nv", "gw"]);
    assert_eq!(
        said.err,
        format!("knock: error: {0} can be read by others: chmod 600 {0}\n", file.display())
    );
    assert_eq!((said.status, said.out.as_str()), (1, ""));
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, &SECRET[..8]).unwrap();
    let said = knock_in(directory.path(), &["-nv", "gw"]);
    assert!(said.err.contains("too short") && !said.err.contains(&SECRET[..8]), "{}", said.err);
}

#[test]
fn what_an_entry_lacks_is_said_in_its_place() {
    assert_data_eq!(
        wrong_with("hosts:\n  work: {mode: spa, door: ssh}\n", "work"),
        str![[r#"
hosts.yaml:2:3: error: 'work' has no server_key, and needs the server's public key
      work: {mode: spa, door: ssh}
      ^^^^
    write it below it, or give --server-key

"#]]
        .raw()
    );
    let lacks = |text: &str| wrong_with(text, "work").lines().next().unwrap().to_owned();
    for (entry, what) in [
        (
            "door: ssh",
            "no ports, and needs the range of the door's ports, or the base of its codes",
        ),
        ("ports: 20000-29999", "no door, and needs the name of the door"),
        ("base: 7000", "no secret_file, and needs the file with the secret"),
    ] {
        let said = lacks(&format!("hosts:\n  work: {{mode: totp, {entry}}}\n"));
        assert_eq!(said, format!("hosts.yaml:2:3: error: 'work' has {what}"));
    }
}

#[test]
fn what_the_command_line_lacks_is_said() {
    for (arguments, what) in [
        (
            &["--spa", "gw"][..],
            "mode spa needs the server's public key: \
             give it with --server-key, or as 'server_key' in the hosts file",
        ),
        (&["--code", "493817", "gw"], "mode totp needs the port that the digits 00 stand for"),
        (&["--totp", "gw"], "give it with --ports or --base, or as 'ports' in the hosts file"),
        (&["--totp", "--ports", "1-9", "gw"], "mode totp needs the name of the door"),
    ] {
        assert!(misused(arguments).contains(what), "{arguments:?}: {}", misused(arguments));
    }
}

#[test]
fn options_that_contradict_each_other_say_which_to_leave_out() {
    for (arguments, what) in [
        (
            &["--totp", "--spa", "gw"][..],
            "--totp and --spa are two ways to knock: leave out one of them",
        ),
        (&["--code", "493817", "--spa", "gw"], "--code and --spa are two ways to knock"),
        (&["--spa", "gw", "7000", "8000"], "--spa says itself what to send: leave out 7000 8000"),
        (&["--length", "4", "gw", "7000"], "--length belongs to --totp: leave it out"),
        (
            &["--totp", "--open-for", "5m", "gw"],
            "--open-for belongs to --spa and --fwknop: leave it out",
        ),
        (&["--spa", "-u", "gw"], "--udp belongs to ports: leave it out"),
        (&["--server-key", PUBLIC, "gw"], "--server-key belongs to --spa: add that"),
        (&["--door", "ssh", "gw"], "--door belongs to --totp and --spa: add that"),
        (&["--totp", "--ports", "1-9", "--base", "7000", "gw"], "--base and --ports do not go"),
        (&["--code", "493817", "--secret-file", "s", "gw"], "--secret-file and --code do not go"),
        (&["--spa", "--close", "--wait", "22", "gw"], "--wait and --close do not go together"),
        (&["--spa", "--close", "--open-for", "5m", "gw"], "--open-for and --close do not go"),
        (&["--proxy", "gw", "22", "--wait", "22"], "--proxy waits for its own port"),
        (&["--proxy", "gw", "22", "--proxy", "gw", "23"], "cannot be used multiple times"),
        (&["--proxy", "gw", "53/udp"], "--proxy: 53/udp: only a TCP port can be connected to"),
        (&["--source-port", "40000", "gw", "7000"], "--source-port belongs to --wait, --proxy"),
        (&["--keygen", "f", "gw"], "cannot be used with"),
        (
            &["--nat-local", "gw", "22"],
            "--nat-local belongs to --fwknop: leave it out where ports are given",
        ),
        (&["--spa", "--nat-access", "192.0.2.9", "gw"], "--nat-access belongs to --fwknop"),
        (&["--fwknop", "--nat-access", ":22", "gw", "22"], "is not a host and a port such as"),
        (&["--spa", "--address", "auto", "--address", "192.0.2.9", "gw"], "stand alone"),
        (&["--spa", "--address", "224.0.0.1", "gw"], "224.0.0.1 is not the address of a host"),
        (&["--totp", "--ports", "7000", "gw"], "is not a range of ports"),
        (&["--spa", "--server-key", "abc", "gw"], "a key has 44 characters of base64"),
    ] {
        let said = misused(arguments);
        assert!(said.contains(what), "{arguments:?}: {said}");
    }
}

/// What a fwknop server reads of a request that is made with a key file `k`.
fn asked_of_fwknop(hosts: &str, arguments: &[&str]) -> Result<Access, String> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    let directory = with_files(hosts, &[("k", "testkey\n")]);
    let key = file(&directory, "k").display().to_string();
    let all = [arguments, &["--fwknop", "--spa-port", &port, "--key", &key]].concat();
    let said = knock_in(directory.path(), &all);
    if said.status != 0 {
        return Err(said.err);
    }
    assert_eq!(said.err, "");
    let mut bytes = [0; 1500];
    let length = socket.recv(&mut bytes).unwrap();
    let key = FwknopKey::new(b"testkey".to_vec()).unwrap();
    let keys = FwknopKeys { key: &key, mode: CipherMode::Cbc, hmac: None };
    Ok(FwknopDatagram::new(&bytes[..length]).unwrap().open(&keys.into()).unwrap().request.access)
}

#[test]
fn options_and_hosts_file_say_where_a_port_shall_lead() {
    let access = |port: &str, host: &str, to: u16, is_local| Access {
        address: None,
        ports: vec![port.parse().unwrap()],
        nat: NatAccess::new(host, to.try_into().unwrap(), is_local).ok(),
        timeout: None,
    };
    let behind = access("2222", "192.168.1.10", 22, false);
    let local = access("55000", "127.0.0.1", 22, true);
    for (arguments, expected) in [
        (&["--nat-access", "192.168.1.10:22", "127.0.0.1", "2222"][..], &behind),
        (&["--nat-access", "192.168.1.10", "--nat-port", "2222", "127.0.0.1", "22"], &behind),
        (&["--nat-local", "--nat-port", "55000", "127.0.0.1", "22"], &local),
    ] {
        assert_eq!(asked_of_fwknop("hosts: {}", arguments).as_ref(), Ok(expected), "{arguments:?}");
    }
    for (entry, expected) in [
        ("ports: [2222], nat_access: '192.168.1.10:22'", &behind),
        ("ports: [22], nat_local: true, nat_port: 55000", &local),
    ] {
        let hosts = format!("hosts: {{gw: {{host: 127.0.0.1, mode: fwknop, {entry}}}}}");
        assert_eq!(asked_of_fwknop(&hosts, &["gw"]).as_ref(), Ok(expected), "{entry}");
    }
}

#[test]
fn where_no_port_can_lead_nothing_is_sent() {
    let refused = |arguments: &[&str]| asked_of_fwknop("hosts: {}", arguments).unwrap_err();
    for (arguments, why) in [
        (&["--nat-port", "2222", "127.0.0.1", "22"][..], "--nat-port belongs to --nat-access"),
        (&["--nat-local", "--nat-port", "2222", "127.0.0.1", "22", "80"], "only one port"),
        (&["--nat-local", "localhost\"", "22"], "no way to write the host 'localhost\"'"),
    ] {
        let said = refused(arguments);
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
}

#[test]
fn a_port_that_is_picked_at_random_is_told() {
    let arguments =
        ["-n", "--fwknop", "--nat-access", "192.168.1.10:22", "--nat-port", "50000-50001"];
    let directory = with_files("hosts: {}", &[("k", "testkey\n")]);
    let key = file(&directory, "k").display().to_string();
    let rest = ["--key", &key, "127.0.0.1", "22"];
    let said = knock_in(directory.path(), &[&arguments[..], &rest[..]].concat());
    let is_told =
        |port| said.err == format!("knock: asking that {port}/tcp leads to 192.168.1.10:22\n");
    assert!(is_told(50_000) || is_told(50_001), "{}", said.err);
}

#[test]
fn an_option_for_another_mode_than_that_of_the_hosts_file_is_refused() {
    let directory = configuration(HOSTS);
    let said = knock_in(directory.path(), &["-n", "--open-for", "5m", "work"]);
    assert_eq!(
        said.err,
        "knock: error: --open-for belongs to --spa and --fwknop: the hosts file says mode sequence for 'work'\n"
    );
    assert_eq!(said.status, 2);
    let said = knock_in(directory.path(), &["-n", "--digits", "8", "home"]);
    assert!(said.err.contains("--digits has no meaning beside 'ports' in the hosts file"));
    assert_eq!(said.status, 2);
}

const SERVER: [u8; 32] = [7; 32];
const PRIVATE: &str = "tgPY74An3thtrObu/mblPRwjkjver9khsuXqhRzzmKY=\n";
const PUBLIC: &str = "ngoLprV+qNBob6m9GZw5OwFUkkMyE9L1O1BKH/3WJCU=";

/// A server's socket, and a client's directory with an entry `gw` for it.
struct Asked {
    socket: UdpSocket,
    directory: tempfile::TempDir,
}

impl Asked {
    fn new(more: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let port = socket.local_addr().unwrap().port();
        let server = PrivateKey::from(SERVER).public();
        let hosts = format!(
            "hosts: {{gw: {{host: 127.0.0.1, mode: spa, server_key: {server}, key_file: k, \
             spa_port: {port}{more}}}}}"
        );
        Self { socket, directory: with_files(&hosts, &[("k", PRIVATE)]) }
    }

    fn knock(&self, arguments: &[&str]) -> Said {
        knock_in(self.directory.path(), arguments)
    }

    fn last(&self) -> PathBuf {
        file(&self.directory, "k.last")
    }

    /// The next request that has arrived.
    fn request(&self) -> SpaRequest {
        let mut bytes = [0; 512];
        let length = self.socket.recv(&mut bytes).unwrap();
        let datagram = bytes[..length].try_into().unwrap();
        let (key, request) = Receiver::new(&PrivateKey::from(SERVER), []).open(datagram).unwrap();
        assert_eq!(key, PUBLIC.parse::<PublicKey>().unwrap());
        request
    }
}

#[test]
fn a_request_is_one_datagram_for_the_observed_address_where_the_own_one_is_not_global() {
    let asked = Asked::new("");
    let began = now().as_nanos() / 1_000;
    let said = asked.knock(&["-v", "gw"]);
    let to = asked.socket.local_addr().unwrap();
    assert_eq!(
        said.out,
        format!(
            "asking for the address that the server sees: 127.0.0.1 is not a global one\n\
             hitting udp {to} 192 bytes\n"
        )
    );
    assert_eq!((said.status, said.err.as_str()), (0, ""));
    let request = asked.request();
    assert_eq!(request.open, Addresses::Observed);
    assert_eq!((request.close, request.source_port, request.open_for), (false, None, None));
    assert_eq!(request.door, None);
    assert!((began..=now().as_nanos() / 1_000).contains(&request.stamp.as_micros()));
}

#[test]
fn a_request_says_what_the_options_say() {
    let asked = Asked::new(", door: web");
    let said = asked.knock(&[
        "--door",
        "ssh",
        "--address",
        "198.51.100.7",
        "--address",
        "2001:db8::7",
        "--open-for",
        "5m",
        "--source-port",
        "40000",
        "gw",
    ]);
    assert_eq!((said.status, said.err.as_str()), (0, ""));
    let request = asked.request();
    let Addresses::Named(given) = request.open else { panic!("{request:?}") };
    let addresses: Vec<String> = given.iter().map(|ip| ip.to_string()).collect();
    assert_eq!(addresses, ["198.51.100.7", "2001:db8::7"]);
    assert_eq!(request.door.unwrap().as_str(), "ssh");
    assert_eq!(request.open_for.unwrap().get(), 300);
    assert_eq!(request.source_port, NonZeroU16::new(40_000));
}

#[test]
fn a_request_to_close_waits_for_nothing() {
    let asked = Asked::new(", wait: 1");
    let said = asked.knock(&["--close", "gw"]);
    assert_eq!((said.status, said.err.as_str()), (0, ""));
    assert!(asked.request().close);
}

#[test]
fn every_try_is_a_new_request_with_a_later_time() {
    let asked = Asked::new("");
    let shut = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let said = asked.knock(&["--wait", &shut, "--retry", "1", "gw"]);
    assert_eq!(
        said.err,
        format!(
            "knock: error: 127.0.0.1:{shut} did not accept a connection: gave up after 2 requests; \
             look at the clock: a request is good for a minute only\n"
        )
    );
    assert_eq!(said.status, 3);
    let (first, second) = (asked.request().stamp, asked.request().stamp);
    assert!(second > first);
    let kept = fs::read_to_string(asked.last()).unwrap();
    assert_eq!(kept, format!("{}\n", second.as_micros()));
    assert_eq!(fs::metadata(asked.last()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(asked.knock(&["gw"]).status, 0);
    assert!(asked.request().stamp > second);
}

#[test]
fn a_clock_that_was_set_back_does_not_make_a_request_earlier_than_the_last() {
    let asked = Asked::new("");
    let ahead = now().as_nanos() / 1_000 + 7_200_000_000;
    fs::write(asked.last(), format!("{ahead}\n")).unwrap();
    let said = asked.knock(&["gw"]);
    assert_eq!(asked.request().stamp.as_micros(), ahead + 1);
    assert!(
        said.err.starts_with("knock: warning: the last request was made 1h59m")
            && said.err.ends_with(&format!("remove {}\n", asked.last().display())),
        "{}",
        said.err
    );
    assert_eq!(said.status, 0);
}

#[test]
fn requests_that_are_made_at_once_all_have_their_own_time() {
    let asked = Asked::new("");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(asked.knock(&["gw"]).status, 0));
        }
    });
    let mut stamps: Vec<_> = (0..8).map(|_| asked.request().stamp).collect();
    stamps.sort_unstable();
    stamps.dedup();
    assert_eq!(stamps.len(), 8);
}

#[test]
fn no_request_leaves_while_another_takes_its_time() {
    let asked = Asked::new("");
    let key = File::open(file(&asked.directory, "k")).unwrap();
    key.lock().unwrap();
    std::thread::scope(|scope| {
        let knock = scope.spawn(|| asked.knock(&["gw"]));
        asked.socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert!(asked.socket.recv(&mut [0; 512]).is_err());
        asked.socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let taken = now().as_nanos() / 1_000 + 30_000_000;
        fs::write(asked.last(), format!("{taken}\n")).unwrap();
        key.unlock().unwrap();
        assert_eq!(asked.request().stamp.as_micros(), taken + 1);
        assert_eq!(knock.join().unwrap().status, 0);
    });
}

#[test]
fn a_dry_run_of_a_request_uses_up_no_time() {
    let asked = Asked::new("");
    let said = asked.knock(&["-n", "--spa-port", "62201", "gw"]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("udp 127.0.0.1:62201 192 bytes\n", ""));
    assert!(!asked.last().exists());
}

#[test]
fn of_a_range_of_ports_one_is_picked() {
    let asked = Asked::new("");
    let ports: std::collections::BTreeSet<u16> = (0..20)
        .map(|_| {
            let said = asked.knock(&["-n", "--spa-port", "62000-62999", "gw"]);
            let port = said.out.strip_prefix("udp 127.0.0.1:").unwrap();
            port.strip_suffix(" 192 bytes\n").unwrap().parse().unwrap()
        })
        .collect();
    assert!(ports.iter().all(|port| (62000..=62999).contains(port)));
    // Twenty that are all the same come up once in 10^57 times.
    assert!(ports.len() > 1);
}

#[test]
fn a_private_key_that_others_can_read_is_refused() {
    let asked = Asked::new("");
    let key = file(&asked.directory, "k");
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let said = asked.knock(&["gw"]);
    let path = key.display();
    assert_eq!(said.err, format!("knock: error: {path} can be read by others: chmod 600 {path}\n"));
    assert_eq!(said.status, 1);
}

#[test]
fn a_new_key_is_for_its_owner_only_and_never_overwrites_another() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config/knock/work.key");
    let keygen = || knock(&["--keygen", path.to_str().unwrap()]);
    let said = keygen();
    assert_eq!((said.status, said.err.as_str()), (0, ""));
    let key: PrivateKey = fs::read_to_string(&path).unwrap().parse().unwrap();
    assert_eq!(said.out, format!("{}\n", key.public()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = keygen();
    assert_eq!((again.status, again.out.as_str()), (1, ""));
    assert!(again.err.contains("exists already") && again.err.contains(said.out.trim()));
    assert_eq!(fs::read_to_string(&path).unwrap().parse::<PrivateKey>().unwrap(), key);
    let folder = path.parent().unwrap();
    assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
    let nowhere = knock(&["--keygen", "/proc/none/key"]);
    assert!(
        nowhere.err.starts_with("knock: error: /proc/none/key: cannot be written: No such file")
    );
}

/// Requests that cross a network.
#[cfg(feature = "daemon")]
mod wire {
    use std::net::SocketAddr;

    use super::*;
    use crate::support::{CLIENT, CLIENT_6, Net, SERVER, SERVER_6, needs};

    const KNOCK: &str = env!("CARGO_BIN_EXE_knock");

    #[test]
    fn a_global_address_is_asked_for_over_either_family() {
        needs!("the own address");
        let net = Net::new();
        let directory = with_files("hosts: {}", &[("k", PRIVATE)]);
        let key = file(&directory, "k");
        let server_key = PrivateKey::from(super::SERVER).public().to_string();
        for (server, client) in [(SERVER, CLIENT), (SERVER_6, CLIENT_6)] {
            let at = SocketAddr::new(server.parse().unwrap(), 62_201);
            let socket = net.server.enter(move || UdpSocket::bind(at).unwrap());
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let options = ["-v", "--spa", "--server-key", &server_key, "--key"];
            let arguments = [&options[..], &[key.to_str().unwrap(), server]].concat();
            let said = net.client.must(KNOCK, &arguments);
            assert_eq!(said, format!("asking for {client}\nhitting udp {at} 192 bytes\n"));
            let mut bytes = [0; 192];
            assert_eq!(socket.recv(&mut bytes).unwrap(), 192);
            let (_, request) =
                Receiver::new(&PrivateKey::from(super::SERVER), []).open(&bytes).unwrap();
            let Addresses::Named(given) = request.open else { panic!("{request:?}") };
            assert_eq!(given.iter().map(|ip| ip.to_string()).collect::<Vec<_>>(), [client]);
        }
    }
}
