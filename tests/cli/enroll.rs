//! Clients come and go: `knockctl enroll` and `revoke`, with the files that they change, and beside
//! a running `knockd`. What needs namespaces needs root.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use libknock::proto::link::Link;

use crate::output::{complained, said, text};
use crate::support::{
    CLIENT, Knockd, Net, PATIENCE, SERVER, can_make_namespaces, command, eventually, has_programs,
};

const KEY: &str = "4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=";

/// A configuration in a directory.
const DOORS: &str = "
knockd:
  interfaces: [eth0]
  run_dir: DIR/run
  state_dir: DIR/state
  pid_file: DIR/run/knockd.pid
  user: nobody
  spa: {key_file: DIR/knock.d/keys/server.key}
doors:
  ssh:
    totp: {ports: 20000-29999, protocol: mixed, step: 2s}
    open: [22/tcp]
    open_for: 1h
  web:
    totp: {mode: code, base: 7000}
    open: [80/tcp]
  vpn:
    spa: true
    open: [1194/tcp]
    open_for: 1h
  gate:
    fwknop: true
    open: [443/tcp, 4500/udp]
    open_for: 1h
  plain:
    sequence: [7113, 9218, 8127]
    open: [25/tcp]
    open_for: 1h
";

/// A configuration that belongs to the test, in a directory of its own.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let files = Self { directory };
        fs::create_dir(files.config()).unwrap();
        files.write("doors.yaml", DOORS);
        files
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("knock.d")
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().display().to_string();
        fs::write(self.config().join(name), text.replace("DIR", &path)).unwrap();
    }

    fn run(&self, line: &str) -> Output {
        knockctl(&self.config(), line)
    }

    /// Every file in the configuration and what is in it.
    fn all(&self) -> Vec<(PathBuf, String)> {
        let mut files = Vec::new();
        let mut left = vec![self.config()];
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
        files.sort();
        files
    }
}

fn knockctl(config: &Path, line: &str) -> Output {
    let mut knockctl = command(env!("CARGO_BIN_EXE_knockctl"));
    knockctl.arg("-c").arg(config).args(line.split_whitespace()).output().unwrap()
}

/// What `enroll` has printed for a client, taken up by it.
struct Bundle {
    directory: tempfile::TempDir,
}

impl Bundle {
    fn unpack(printed: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let hosts = directory.path().join("hosts.yaml");
        let mut import = assert_cmd::Command::new(env!("CARGO_BIN_EXE_knock"));
        import.args(["import", "--hosts", hosts.to_str().unwrap(), "-"]);
        import.write_stdin(printed).assert().success();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn hosts(&self) -> String {
        fs::read_to_string(self.path("hosts.yaml")).unwrap()
    }

    /// The one file beside the hosts file.
    fn secret(&self) -> String {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let paths: Vec<PathBuf> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.ends_with("hosts.yaml"))
            .collect();
        let [path] = &paths[..] else { panic!("{paths:?}") };
        fs::read_to_string(path).unwrap().trim().to_owned()
    }
}

/// The link in it.
fn link(printed: &str) -> Link {
    Link::decode(printed.lines().find(|line| line.starts_with("knock://")).unwrap()).unwrap()
}

/// The stanza that `enroll` has printed, as it is.
fn stanza(printed: &str) -> String {
    let lines = printed.lines().skip_while(|line| !line.starts_with("# Then it is: "));
    lines.take_while(|line| !line.is_empty()).map(|line| format!("{line}\n")).collect()
}

/// The value of a variable in it.
fn variable<'a>(stanza: &'a str, name: &str) -> &'a str {
    let lines = || stanza.lines().filter_map(|line| line.split_once(' '));
    lines().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}: {stanza}")).1
}

/// What a camera reads of each code that is printed.
fn scanned(printed: &str) -> Vec<String> {
    let lines: Vec<&str> = printed.lines().collect();
    let is_drawn = |line: &str| line.starts_with("    ") && line.contains(['█', '▀', '▄']);
    let drawn = lines.chunk_by(|one, other| is_drawn(one) == is_drawn(other));
    drawn.filter(|lines| is_drawn(lines[0])).map(read_code).collect()
}

fn read_code(lines: &[&str]) -> String {
    const PIXELS: usize = 3;
    let drawn: Vec<Vec<char>> = lines.iter().map(|line| line.chars().collect()).collect();
    // The frame above and below is blank, so it is not among these lines.
    let frame = 4;
    let (width, height) = (drawn[0].len(), drawn.len() * 2 + 2 * frame);
    let is_dark = |x: usize, y: usize| {
        let half = y.checked_sub(frame).and_then(|y| Some((y, drawn.get(y / 2)?.get(x)?)));
        half.is_some_and(|(y, c)| {
            *c == '█' || *c == if y.is_multiple_of(2) { '▀' } else { '▄' }
        })
    };
    let mut seen =
        rqrr::PreparedImage::prepare_from_greyscale(width * PIXELS, height * PIXELS, |x, y| {
            if is_dark(x / PIXELS, y / PIXELS) { 0 } else { 255 }
        });
    seen.detect_grids().first().expect("a code").decode().unwrap().1
}

fn write_secret(path: &Path, secret: &str) {
    fs::write(path, format!("{secret}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_secret_is_printed_once_and_readable_for_its_owner_only() {
    let files = Files::new();
    let (printed, beside) = said(files.run("enroll phone --door ssh --totp --host gw.example.com"));
    let bundle = Bundle::unpack(&printed);
    let secret = bundle.secret();
    assert_eq!(secret.len(), 32, "20 bytes in base32");
    assert!(printed.contains(&format!("secret={secret}")), "{printed}");
    assert!(!beside.contains(&secret) && beside.contains("holds a secret"), "{beside}");
    assert!(beside.contains("knockd is not running"), "{beside}");

    let keys = files.config().join("keys");
    assert_eq!(fs::read_to_string(keys.join("phone.totp")).unwrap(), format!("{secret}\n"));
    let modes = [keys.clone(), keys.join("phone.totp"), files.config().join("client-phone.yaml")]
        .map(|path| mode(&path));
    assert_eq!(modes, [0o700, 0o600, 0o600]);
    assert!(
        !fs::read_to_string(files.config().join("client-phone.yaml")).unwrap().contains(&secret)
    );
    let (listed, _) = said(files.run("check"));
    assert!(listed.contains("no errors"), "{listed}");
}

#[test]
fn the_codes_on_the_screen_are_the_link_and_the_uri_that_are_printed() {
    let files = Files::new();
    let (printed, _) = said(files.run("enroll phone --door web --totp --qr"));
    let starts = ["knock://1/", "otpauth://totp/"];
    let lines = printed.lines().filter(|line| starts.iter().any(|start| line.starts_with(start)));
    assert_eq!(scanned(&printed), lines.collect::<Vec<_>>());
    assert_eq!(scanned(&printed).len(), starts.len());
}

#[test]
fn the_stanza_for_fwknops_client_has_all_that_it_needs_and_nothing_else() {
    let files = Files::new();
    let (printed, beside) =
        said(files.run("enroll phone --door gate --fwknop --host gw.example.com"));
    let stanza = stanza(&printed);
    let (key, hmac_key) = (variable(&stanza, "KEY_BASE64"), variable(&stanza, "HMAC_KEY_BASE64"));
    assert_eq!((key.len(), hmac_key.len()), (44, 88), "32 and 64 bytes");
    assert_eq!(
        stanza.replace(hmac_key, "TWO").replace(key, "ONE"),
        "# Then it is: fwknop -n phone, or: knock --fwknoprc phone
[phone]
SPA_SERVER gw.example.com
# Each port here opens the whole door.
ACCESS tcp/443,udp/4500
# The address that the server sees, behind NAT too.
ALLOW_IP source
KEY_BASE64 ONE
HMAC_KEY_BASE64 TWO
USE_HMAC Y
"
    );
    assert!(!printed.contains('█'), "{printed}");
    assert!(beside.contains("holds a secret") && !beside.contains(key), "{beside}");
    let keys = files.config().join("keys");
    for (name, key) in [("phone.fwknop", key), ("phone.hmac", hmac_key)] {
        assert_eq!(fs::read_to_string(keys.join(name)).unwrap(), format!("{key}\n"));
        assert_eq!(mode(&keys.join(name)), 0o600);
    }
    let yaml = fs::read_to_string(files.config().join("client-phone.yaml")).unwrap();
    assert!(!yaml.contains(key) && !yaml.contains(hmac_key), "{yaml}");
    let (listed, _) = said(files.run("check"));
    assert!(listed.contains("by 1 client") && listed.contains("no errors"), "{listed}");
}

#[test]
fn what_is_unusual_about_the_server_or_the_client_stands_in_the_stanza() {
    let files = Files::new();
    let doors = DOORS
        .replace("  user: nobody\n", "  user: nobody\n  fwknop: {port: 7777}\n")
        .replace("plain:\n", "act:\n    fwknop: true\n    start_command: /bin/true\n  plain:\n");
    files.write("doors.yaml", &doors);
    said(files.run("enroll phone --door gate --fwknop --host gw"));
    let path = files.config().join("client-phone.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text + "      hmac_type: sha512\n      address: explicit\n").unwrap();
    let (printed, _) = said(files.run("enroll phone --door act --fwknop --host gw"));
    let stanza = stanza(&printed);
    assert_eq!(variable(&stanza, "SPA_SERVER_PORT"), "7777");
    for (ports, told) in [("10000-65535", None), ("7000-7999", Some("SPA_SERVER_PORT 7000"))] {
        files.write("doors.yaml", &doors.replace("port: 7777", &format!("port: {ports}")));
        let (printed, _) = said(files.run("enroll phone --door gate"));
        assert_eq!(printed.lines().find(|line| line.starts_with("SPA_SERVER_PORT")), told);
    }
    assert_eq!(variable(&stanza, "HMAC_DIGEST_TYPE"), "sha512");
    assert!(!stanza.contains("ALLOW_IP") && stanza.contains("fwknop -a ADDRESS"), "{stanza}");
    for (name, access) in [("act", "tcp/1"), ("gate", "tcp/443,udp/4500")] {
        let (_, own) = printed.split_once(&format!("[phone-{name}]")).unwrap();
        assert_eq!(variable(own, "ACCESS"), access);
    }
    let yaml = fs::read_to_string(&path).unwrap();
    assert!(yaml.contains("hmac_type: sha512") && yaml.contains("address: explicit"), "{yaml}");
}

#[test]
fn a_range_is_asked_for_by_its_first_port_and_another_host_by_its_address() {
    let files = Files::new();
    files.write(
        "more.yaml",
        "doors:
  call: {fwknop: true, open: [60000-61000/udp, 22/tcp]}
  inner:
    fwknop: true
    forward: [{on: 2222, to: '2001:db8::10', port: 22}, {on: 2222, to: 192.168.1.10, port: 22}]
  six: {fwknop: true, forward: [{on: 2223, to: '2001:db8::10', port: 22}]}
",
    );
    let (printed, _) = said(files.run("enroll phone --door call --fwknop"));
    assert_eq!(variable(&stanza(&printed), "ACCESS"), "udp/60000,tcp/22");
    let (printed, _) = said(files.run("enroll laptop --door inner --fwknop"));
    let inner = stanza(&printed);
    assert_eq!(variable(&inner, "ACCESS"), "tcp/2222");
    assert_eq!(variable(&inner, "NAT_ACCESS"), "192.168.1.10:22");
    let error = complained(files.run("enroll other --door six --fwknop"));
    assert!(error.contains("'six' takes no IPv4"), "{error}");
}

/// What fwknop's own client makes of the stanzas, without sending anything.
fn read_by_fwknop(printed: &str, arguments: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rc");
    fs::write(&path, printed.split_once("600):").unwrap().1).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut fwknop = command("fwknop");
    fwknop.args(["--test", "--verbose", "--no-save-args", "--rc-file"]).arg(path);
    said(fwknop.args(arguments.split(' ')).output().unwrap()).0
}

#[test]
fn fwknops_own_client_reads_every_stanza() {
    if !has_programs("fwknops_own_client_reads_every_stanza", &["fwknop"]) {
        return;
    }
    let files = Files::new();
    let doors = "  inner: {fwknop: true, forward: [{on: 2222, to: 192.168.1.10, port: 22}]}\n";
    let doors =
        DOORS.replace("  user: nobody\n", "  user: nobody\n  fwknop: {port: 7777}\n") + doors;
    files.write("doors.yaml", &doors);
    let line = "enroll phone --door gate --door inner --fwknop --host 127.0.0.1";
    let (printed, _) = said(files.run(line));
    let is_read = |printed: &str, arguments: &str, lines: &[&str]| {
        let read = read_by_fwknop(printed, arguments);
        let of = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let read: Vec<String> = read.lines().map(of).collect();
        for line in lines {
            assert!(read.iter().any(|it| it == line), "{arguments}: {line}: {read:?}");
        }
    };
    let gate = "Message String: 0.0.0.0,tcp/443,udp/4500";
    is_read(&printed, "-n phone-gate", &["Message Type: 1 (Access msg)", gate]);
    is_read(
        &printed,
        "-n phone-inner",
        &[
            "Message String: 0.0.0.0,tcp/2222",
            "Nat Access: 192.168.1.10,22",
            "HMAC Type: 3 (SHA256)",
            "destination port: 7777",
        ],
    );
    let path = files.config().join("client-phone.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text + "      hmac_type: sha3_512\n      address: explicit\n").unwrap();
    let (printed, _) = said(files.run("enroll phone --fwknop --host 127.0.0.1"));
    let gate = "Message String: 192.0.2.7,tcp/443,udp/4500";
    is_read(&printed, "-n phone-gate -a 192.0.2.7", &[gate, "HMAC Type: 7 (SHA3_512)"]);
}

#[test]
fn another_door_is_told_without_the_keys_that_the_client_has() {
    let files = Files::new();
    let (first, _) = said(files.run("enroll phone --door gate --fwknop"));
    let more = "doors: {more: {fwknop: true, open: [465/tcp]}}";
    files.write("more.yaml", more);
    let (printed, beside) = said(files.run("enroll phone --door more --qr"));
    assert_eq!(variable(&stanza(&printed), "ACCESS"), "tcp/465");
    assert!(!printed.contains(variable(&stanza(&first), "KEY_BASE64")), "{printed}");
    assert!(!beside.contains("holds a secret"), "{beside}");
    let link = link(&printed);
    assert_eq!(scanned(&printed), [link.encode().unwrap().to_string()], "and no keys");
    assert_eq!(link.fwknop_keys(), None);
}

#[test]
fn the_code_for_the_app_is_both_keys() {
    let files = Files::new();
    let (printed, _) = said(files.run("enroll phone --door gate --fwknop --qr"));
    let stanza = stanza(&printed);
    let (key, hmac_key) = (variable(&stanza, "KEY_BASE64"), variable(&stanza, "HMAC_KEY_BASE64"));
    let link = link(&printed).encode().unwrap().to_string();
    let keys = format!("KEY_BASE64:{key} HMAC_KEY_BASE64:{hmac_key}");
    assert_eq!(scanned(&printed), [link, keys]);
}

#[test]
fn keys_for_fwknop_are_replaced_at_once_or_with_grace() {
    let files = Files::new();
    let names = || {
        let entries = fs::read_dir(files.config().join("keys")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    for (grace, count, old) in [("", 2, false), ("--grace 10m", 4, true), ("", 2, false)] {
        let (_, beside) = said(files.run(&format!("enroll phone --door gate --fwknop {grace}")));
        assert_eq!(beside.contains("the old ones hold until"), old, "{beside}");
        assert_eq!(names().len(), count, "{:?}", names());
        said(files.run("check"));
    }
    said(files.run("enroll phone --door gate --fwknop --grace 10m"));
    // The keys before are the client's own, too.
    let yaml = fs::read_to_string(files.config().join("client-phone.yaml")).unwrap();
    let old = yaml.lines().find_map(|line| line.trim().strip_prefix("old_key_base64_file: "));
    let other = format!(
        "clients:\n  other:\n    doors: [gate]\n    \
         fwknop: {{key_base64_file: {}, hmac_key: x}}\n",
        old.unwrap()
    );
    files.write("other.yaml", &other);
    fs::set_permissions(files.config().join("other.yaml"), fs::Permissions::from_mode(0o600))
        .unwrap();
    let check = files.run("check");
    let listed = text(check.stdout) + &text(check.stderr);
    assert!(listed.contains("the same key of fwknop's as client"), "{listed}");
    fs::remove_file(files.config().join("other.yaml")).unwrap();
    said(files.run("revoke phone"));
    assert!(names().is_empty(), "{:?}", names());
}

#[test]
fn a_new_secret_replaces_the_old_one_or_stands_beside_it_for_a_while() {
    let files = Files::new();
    let keys = || {
        let entries = fs::read_dir(files.config().join("keys")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let yaml = || fs::read_to_string(files.config().join("client-phone.yaml")).unwrap();
    let mut secrets = Vec::new();
    for (grace, names) in [
        ("", &["phone.totp"][..]),
        ("--grace 10m", &["phone.totp", "phone@2.totp"]),
        ("--grace 1s", &["phone@2.totp", "phone@3.totp"]),
        ("", &["phone.totp"]),
    ] {
        let line = format!("enroll phone --door ssh --totp {grace}");
        let (printed, beside) = said(files.run(&line));
        assert_eq!(beside.contains("the old one holds until"), !grace.is_empty(), "{beside}");
        assert_eq!(keys(), names, "{}", yaml());
        secrets.push(Bundle::unpack(&printed).secret());
    }
    secrets.sort();
    secrets.dedup();
    assert_eq!(secrets.len(), 4, "each is a new one");
    assert!(!yaml().contains("old_"), "{}", yaml());
}

#[test]
fn a_client_that_is_known_keeps_what_it_has_and_gets_what_is_new() {
    let files = Files::new();
    said(files.run(&format!("enroll laptop --door vpn --spa {KEY}")));
    let (printed, _) = said(files.run("enroll laptop --door ssh --door vpn --totp"));
    let hosts = Bundle::unpack(&printed).hosts();
    assert!(hosts.contains("    mode: totp\n") && !hosts.contains("mode: spa"), "{hosts}");
    let (printed, _) = said(files.run("enroll laptop --spa"));
    let hosts = Bundle::unpack(&printed).hosts();
    assert!(hosts.contains("    mode: spa\n") && !hosts.contains("mode: totp"), "{hosts}");
    let (server_key, _) = said(files.run("server-key"));
    assert!(hosts.contains(&format!("    server_key: {server_key}")), "made beforehand: {hosts}");
    let yaml = fs::read_to_string(files.config().join("client-laptop.yaml")).unwrap();
    assert!(yaml.contains("doors: [vpn, ssh]\n"), "{yaml}");
    assert!(yaml.contains(KEY) && yaml.matches("        - ").count() == 2, "{yaml}");
    said(files.run(&format!("enroll laptop --spa {KEY} --replace")));
    let yaml = fs::read_to_string(files.config().join("client-laptop.yaml")).unwrap();
    assert!(yaml.contains(KEY) && yaml.matches("        - ").count() == 1, "{yaml}");
}

#[test]
fn a_new_secret_comes_with_the_entries_of_every_door_of_the_client() {
    let files = Files::new();
    said(files.run("enroll phone --door ssh --totp --host gw"));
    let (printed, _) = said(files.run("enroll phone --door web --totp --host gw"));
    let hosts = Bundle::unpack(&printed).hosts();
    assert!(hosts.contains("\n  gw-ssh:\n") && hosts.contains("\n  gw-web:\n"), "{hosts}");
    let (printed, _) = said(files.run("enroll phone --door ssh --host gw"));
    let hosts = Bundle::unpack(&printed).hosts();
    assert!(hosts.contains("\n  gw:\n") && !printed.contains("otpauth"), "{printed}");
}

#[test]
fn a_link_has_nothing_that_its_doors_have_no_use_for() {
    let files = Files::new();
    said(files.run("enroll laptop --door vpn --door ssh --spa --totp"));
    let link = |line: &str| link(&said(files.run(line)).0);
    let web = link("enroll laptop --door web");
    assert_eq!((web.secret, web.key, web.server), (None, None, None));
    let vpn = link("enroll laptop --spa");
    assert!(vpn.secret.is_none() && vpn.key.is_some() && vpn.server.is_some());
    assert!(vpn.entries.iter().all(|entry| entry.mode() == "spa"), "{vpn:?}");
}

#[test]
fn where_no_client_can_knock_is_no_host_to_hand_out() {
    let files = Files::new();
    let before = files.all();
    let line = |host| format!("enroll phone --door ssh --totp --host {host}");
    for host in ["gw.example.com:22", "ssh://gw", "</script>", "[2001:db8::1]", "gw%eth0", "a/b"] {
        let output = files.run(&line(host));
        assert_eq!(output.status.code(), Some(2), "{host}");
        assert!(text(output.stderr).contains("write a name such as gw.example.com"), "{host}");
    }
    assert_eq!(files.all(), before);
    for host in ["gw_1.example", "b\u{fc}cher.example", "2001:db8::1", "fe80::1%eth0", "192.0.2.1"]
    {
        assert_eq!(link(&said(files.run(&line(host))).0).host, host);
        said(files.run("revoke phone"));
    }
}

#[test]
fn a_new_door_is_told_with_what_the_client_has_for_it_beside_what_it_gets() {
    let files = Files::new();
    let link = |line: &str| link(&said(files.run(line)).0);
    link("enroll laptop --door ssh --door vpn --totp --spa");
    link("enroll laptop --door gate --fwknop");
    files.write("more.yaml", "doors: {more: {spa: true, fwknop: true, open: [465/tcp]}}");
    let more = link("enroll laptop --door more --fwknop");
    let ways: Vec<_> = more.entries.iter().map(|it| (it.door.as_str(), it.mode())).collect();
    assert_eq!(ways, [("gate", "fwknop"), ("more", "spa"), ("more", "fwknop")]);
    assert!(more.key.is_none() && more.server.is_some() && more.fwknop_keys().is_some());
}

#[test]
fn what_is_more_than_a_link_holds_is_said_before_anything_is_written() {
    let files = Files::new();
    let before = files.all();
    let line = |length| format!("enroll phone --door ssh --totp --host {}", "x".repeat(length));
    let output = files.run(&line(254));
    let error = text(output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("write a name such as gw.example.com"), "{error}");
    said(files.run(&line(253)));
    said(files.run("revoke phone"));
    assert_eq!(files.all(), before);

    let names = || (0..150).map(|at| format!("door-{at:027}"));
    let open: Vec<String> = (10_000..10_010).map(|port| format!("{port}/udp")).collect();
    let doors =
        names().map(|it| format!("  {it}: {{fwknop: true, open: [{}]}}\n", open.join(", ")));
    files.write("more.yaml", &format!("doors:\n{}", doors.collect::<String>()));
    let before = files.all();
    let all: Vec<String> = names().map(|name| format!("--door {name}")).collect();
    let error = complained(files.run(&format!("enroll phone --fwknop {}", all.join(" "))));
    assert!(error.contains("more than a link holds: enroll the client for fewer doors"), "{error}");
    assert_eq!(files.all(), before);
    said(files.run(&format!("enroll phone --fwknop {}", all[..100].join(" "))));
}

#[test]
fn the_shell_completes_the_clients_that_there_are() {
    let files = Files::new();
    for name in ["phone", "laptop"] {
        said(files.run(&format!("enroll {name} --door ssh --totp")));
    }
    said(files.run("revoke phone"));
    assert_eq!(said(files.run("completions clients")).0, "laptop\n");
}

#[test]
fn a_change_that_would_not_load_is_taken_back() {
    let files = Files::new();
    said(files.run(&format!("enroll laptop --door vpn --spa {KEY}")));
    let before = files.all();
    let error = complained(files.run(&format!("enroll other --door vpn --spa {KEY}")));
    assert!(error.contains("laptop") && error.contains("nothing has been changed"), "{error}");
    assert_eq!(files.all(), before);
}

#[test]
fn nothing_is_enrolled_into_a_configuration_with_mistakes() {
    let files = Files::new();
    files.write("more.yaml", "doors: {x: {sequnce: [1, 2, 3]}}");
    let before = files.all();
    let error = complained(files.run("enroll phone --door ssh --totp"));
    assert!(error.contains("did you mean 'sequence'?"), "{error}");
    assert_eq!(files.all(), before);
}

#[test]
fn what_cannot_be_done_says_what_to_do() {
    let files = Files::new();
    for (line, wrong, instead) in [
        ("enroll phone --door plain --totp", "'plain' takes no sequences", "add this to the door"),
        ("enroll phone --door ssh --spa", "'ssh' takes no SPA", "spa: true"),
        ("enroll phone --door ssh --fwknop", "'ssh' takes no requests", "fwknop: true"),
        ("enroll phone --door gate --fwknop --host ::1", "IPv4 only", "--host"),
        ("enroll phone --totp", "'phone' is new", "--door"),
        (
            "enroll phone --door shh --totp",
            "no door 'shh'",
            "the doors are: gate, plain, ssh, vpn, web",
        ),
        ("revoke phone", "no client 'phone'", "there are no clients at all"),
        ("sequence ssh", "different for each client", "knockctl enroll"),
        ("sequence vpn", "no sequence of knocks", "datagrams"),
        ("server-key", "no key yet", "spa: true"),
    ] {
        let error = complained(files.run(line));
        assert!(error.contains(wrong) && error.contains(instead), "{line}: {error}");
    }
    let single = files.config().join("doors.yaml");
    let error = complained(knockctl(&single, "enroll phone --door ssh --totp"));
    assert!(error.contains("is not a directory") && error.contains("-c"), "{error}");
}

#[test]
fn a_client_that_is_written_by_hand_is_left_to_who_wrote_it() {
    let files = Files::new();
    let yaml = format!("clients:\n  laptop:\n    doors: [vpn]\n    spa: {{public_key: {KEY}}}\n");
    for name in ["mine.yaml", "client-laptop.yaml"] {
        files.write(name, &yaml);
        let before = files.all();
        for line in ["enroll laptop --spa", "revoke laptop"] {
            let error = complained(files.run(line));
            assert!(error.contains(name) && error.contains("by hand"), "{line}: {error}");
        }
        assert_eq!(files.all(), before);
        fs::remove_file(files.config().join(name)).unwrap();
    }
    said(files.run("enroll phone --door ssh --totp"));
    let path = files.config().join("client-phone.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}    # my phone\n")).unwrap();
    let error = complained(files.run("enroll phone --totp"));
    assert!(error.contains("would be lost"), "{error}");
    said(files.run("revoke phone"));
    assert!(!path.exists());
}

#[test]
fn a_client_that_is_revoked_leaves_no_file_behind() {
    let files = Files::new();
    let before = files.all();
    said(files.run("enroll phone --door ssh --totp"));
    said(files.run("enroll phone --totp --grace 1h"));
    said(files.run("revoke phone"));
    assert_eq!(files.all(), before);
}

#[test]
fn one_time_sequences_are_such_as_a_door_takes() {
    let files = Files::new();
    let path = files.directory.path().join("once");
    said(files.run(&format!("one-time --lines 5 --length 6 --protocol mixed {}", path.display())));
    assert_eq!(mode(&path), 0o600);
    let lines = fs::read_to_string(&path).unwrap();
    assert_eq!(lines.lines().count(), 5);
    assert!(lines.lines().all(|line| line.split(',').count() == 6), "{lines}");
    let before = lines.clone();
    complained(files.run(&format!("one-time {}", path.display())));
    assert_eq!(fs::read_to_string(&path).unwrap(), before, "it is not overwritten");

    let door = "doors: {once: {one_time_sequences: DIR/once, open: [21/tcp]}}";
    files.write("once.yaml", door);
    let (said, _) = said(files.run("sequence once --json"));
    let valid: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(valid["by"], "one_time_sequence");
    assert_eq!(valid["knocks"].as_array().unwrap().len(), 6);
}

/// A server with such a configuration, and a client beside it.
struct Site {
    net: Net,
    knockd: Knockd,
}

impl Site {
    fn new(test: &str) -> Option<Self> {
        (can_make_namespaces(test) && has_programs(test, &["nft"])).then(|| {
            let Files { directory } = Files::new();
            let config = directory.path().join("knock.d");
            let net = Net::new();
            for port in [22, 25, 443, 1194] {
                net.server.listen(port);
            }
            let knockd = Knockd::run(&net.server, directory, config, &[], &[]);
            knockd.wait_for("starting up, listening on");
            Self { net, knockd }
        })
    }

    fn run(&self, line: &str) -> Output {
        knockctl(&self.knockd.config, line)
    }

    /// Enrols a client, and gives what is printed for it.
    fn enroll(&self, line: &str) -> Bundle {
        let (printed, beside) = said(self.run(&format!("enroll {line} --host {SERVER}")));
        assert!(beside.contains("knockd has taken it up"), "{beside}");
        Bundle::unpack(&printed)
    }

    /// Knocks as a bundle says, until the port is open.
    fn knock(&self, bundle: &Bundle) -> bool {
        self.knock_with(bundle, "5")
    }

    /// Whether nothing opens, as it should be.
    fn knock_in_vain(&self, bundle: &Bundle) -> bool {
        !self.knock_with(bundle, "1")
    }

    fn knock_with(&self, bundle: &Bundle, retries: &str) -> bool {
        let hosts = bundle.path("hosts.yaml");
        let arguments = ["--retry", retries, "--hosts", hosts.to_str().unwrap(), SERVER];
        let knocked = self.net.client.run(env!("CARGO_BIN_EXE_knock"), &arguments);
        match knocked.status.code() {
            Some(0) => true,
            Some(3) => false,
            _ => panic!("{knocked:?}"),
        }
    }

    fn close(&self) {
        said(self.run("close --all"));
        assert!(eventually(PATIENCE, || self.knockd.grants().is_empty()));
    }

    fn is_open(&self, port: u16) -> bool {
        self.net.client.can_connect(SERVER, port)
    }
}

#[test]
fn a_phone_is_enrolled_gets_another_secret_and_is_revoked() {
    let Some(site) = Site::new("a TOTP client's life") else { return };
    let first = site.enroll("phone --door ssh --totp");
    assert!(!site.is_open(22));
    assert!(site.knock(&first), "as it was printed");
    let grant = site.knockd.grants().remove(0);
    assert_eq!((&grant["client"], &grant["by"]), (&"phone".into(), &"totp".into()));
    site.close();

    let second = site.enroll("phone --totp --grace 10m");
    assert!(site.knock(&second), "the new secret");
    site.close();
    assert!(site.knock(&first), "the old one, in its grace");
    site.close();

    let third = site.enroll("phone --totp");
    assert!(site.knock(&third), "the newest secret");
    site.close();
    assert!(site.knock_in_vain(&first) && site.knock_in_vain(&second), "all others are over");

    assert!(site.knock(&third));
    let (_, beside) = said(site.run("revoke phone"));
    assert!(beside.contains("1 door that 'phone' has opened closes"), "{beside}");
    assert!(beside.contains("knockd has taken it up\nknockctl: 'phone' is revoked"), "{beside}");
    assert!(eventually(PATIENCE, || site.knockd.grants().is_empty()));
    assert!(!site.is_open(22));
    assert!(site.knock_in_vain(&third), "it is revoked");

    for bundle in [first, second, third] {
        let secret = bundle.secret();
        assert!(site.knockd.log().iter().all(|line| !line.contains(&secret)));
    }
}

#[test]
fn the_reference_client_opens_with_a_link_that_is_printed() {
    let name = "a link, to the reference client";
    let Some(site) = Site::new(name).filter(|_| has_programs(name, &["python3"])) else { return };
    if !command("python3").args(["-c", "import cryptography"]).status().unwrap().success() {
        return eprintln!("SKIPPED: {name}: python3 has no package cryptography");
    }
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/clients/knock_spa.py");
    let (printed, _) = said(
        site.run(&format!("enroll laptop --door gate --door vpn --spa --fwknop --host {SERVER}")),
    );
    let link = printed.lines().find(|line| line.starts_with("knock://1/")).unwrap();
    let home = tempfile::tempdir().unwrap();
    let key = home.path().join("laptop.key").display().to_string();
    let knock = |link: &str| {
        let line = format!("echo '{link}' | python3 -B {program} --key {key} -");
        site.net.client.run("sh", &["-c", &line])
    };
    for (wrong, why) in
        [(&link[..link.len() - 1], "cut off"), (&link.replace("/1/", "/1/A"), "mistyped")]
    {
        let said = knock(wrong);
        assert!(text(said.stderr).contains(why) && !said.status.success());
    }
    assert!(!Path::new(&key).exists(), "nothing of what is not whole");
    let (options, _) = said(knock(link));
    assert!(eventually(PATIENCE, || site.is_open(1194)));
    let grant = site.knockd.grants().remove(0);
    assert_eq!((&grant["client"], &grant["by"]), (&"laptop".into(), &"spa".into()));
    assert_eq!(mode(Path::new(&key)), 0o600);
    // What it prints does the same.
    let line = format!("python3 -B {program} --close {options}");
    site.net.client.must("sh", &["-c", &line]);
    assert!(eventually(PATIENCE, || site.knockd.grants().is_empty()));
    // A link for who has a key has none with it.
    let (printed, _) = said(site.run(&format!("enroll other --door vpn --spa {KEY}")));
    let link = printed.lines().find(|line| line.starts_with("knock://1/")).unwrap();
    fs::rename(&key, home.path().join("moved")).unwrap();
    let error = complained(knock(link));
    assert!(error.contains("there is no key in") && !error.contains("Traceback"), "{error}");
    fs::rename(home.path().join("moved"), &key).unwrap();
    // Another link, with another key, is not passed over for the key that is there.
    let (printed, _) = said(site.run("enroll laptop --spa --replace"));
    let link = printed.lines().find(|line| line.starts_with("knock://1/")).unwrap();
    let before = fs::read(&key).unwrap();
    let error = complained(knock(link));
    assert!(error.contains("laptop.key holds another key than the link"), "{error}");
    assert_eq!(fs::read(&key).unwrap(), before);
}

#[test]
fn a_laptop_opens_with_the_key_that_was_made_for_it_or_by_it() {
    let Some(site) = Site::new("an SPA client's life") else { return };
    let made = site.enroll("laptop --door vpn --spa");
    let (server_key, _) = said(site.run("server-key"));
    assert!(made.hosts().contains(server_key.trim()), "{}", made.hosts());
    assert!(site.knock(&made));
    let grant = site.knockd.grants().remove(0);
    assert_eq!((&grant["client"], &grant["by"]), (&"laptop".into(), &"spa".into()));
    site.close();

    let own = tempfile::tempdir().unwrap();
    let key = own.path().join("key");
    let public =
        crate::support::must(env!("CARGO_BIN_EXE_knock"), &["--keygen", key.to_str().unwrap()]);
    let bundle = site.enroll(&format!("laptop --spa {}", public.trim()));
    let hosts = bundle.hosts();
    let name = hosts.lines().find_map(|line| line.trim().strip_prefix("key_file: ")).unwrap();
    write_secret(&bundle.path(name), fs::read_to_string(&key).unwrap().trim());
    assert!(site.knock(&bundle), "its own key");
    site.close();
    assert!(site.knock(&made), "the first key still counts");
    said(site.run("revoke laptop"));
    assert!(eventually(PATIENCE, || site.knockd.grants().is_empty()));
    assert!(site.knock_in_vain(&made) && site.knock_in_vain(&bundle));
}

impl Site {
    /// Enrols a client of fwknop's, and puts what is printed into the file of its programs.
    fn enroll_for_fwknop(&self, line: &str) -> tempfile::TempDir {
        let (printed, _) = said(self.run(&format!("enroll {line} --host {SERVER}")));
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(".fwknoprc");
        fs::write(&path, stanza(&printed)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        home
    }

    /// Sends what the stanza in that file says.
    fn send(&self, home: &tempfile::TempDir, program: &str) {
        let home = home.path().display();
        let script = match program {
            "knock" => format!("{} --fwknoprc phone", env!("CARGO_BIN_EXE_knock")),
            _ => format!("{program} --rc-file {home}/.fwknoprc -n phone --no-save-args"),
        };
        self.net.client.must("sh", &["-c", &format!("export HOME={home}; {script}")]);
    }

    /// Whether that is refused or ignored for this reason.
    fn is_counted(&self, reason: &str, send: impl Fn()) {
        let count = || self.knockd.ask(r#"{"do":"status"}"#)[0]["counters"][reason].as_u64();
        let before = count().unwrap_or_default();
        send();
        assert!(eventually(PATIENCE, || count().unwrap_or_default() > before), "{reason}");
    }

    /// Sends, and tells whether the door opens.
    fn ask(&self, home: &tempfile::TempDir, program: &str) -> bool {
        let before = self.knockd.log().len();
        self.send(home, program);
        let is_answer =
            |line: &String| ["OPEN SESAME", "refused"].iter().any(|it| line.contains(it));
        let answer = || self.knockd.log()[before..].iter().find(|line| is_answer(line)).cloned();
        assert!(eventually(PATIENCE, || answer().is_some()), "{:?}", self.knockd.log());
        answer().unwrap().contains("OPEN SESAME")
    }
}

#[test]
fn the_stock_client_and_ours_open_with_the_stanza_that_is_printed_and_with_old_keys_in_grace() {
    let name = "a client of fwknop's, enrolled";
    let Some(site) = Site::new(name).filter(|_| has_programs(name, &["fwknop"])) else { return };
    let first = site.enroll_for_fwknop("phone --door gate --fwknop");
    for program in ["fwknop", "knock"] {
        assert!(!site.is_open(443));
        assert!(site.ask(&first, program), "{program}");
        let grant = site.knockd.grants().remove(0);
        assert_eq!((&grant["client"], &grant["by"]), (&"phone".into(), &"fwknop".into()));
        assert_eq!(grant["address"], CLIENT, "the one that the packet comes from");
        assert!(site.is_open(443));
        site.close();
    }
    let saved = first.path().join("saved").display().to_string();
    assert!(site.ask(&first, &format!("fwknop -B {saved}")));
    site.close();
    let second = site.enroll_for_fwknop("phone --fwknop --grace 10m");
    let copy = fs::read_to_string(saved).unwrap();
    site.is_counted("used", || {
        let copy = copy.trim_end().to_owned();
        site.net.client.enter(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(copy.as_bytes(), (SERVER, 62201)).unwrap();
        });
    });
    for home in [&second, &first] {
        assert!(site.ask(home, "fwknop"), "new keys, and old ones in their grace");
        site.close();
    }
    let third = site.enroll_for_fwknop("phone --fwknop");
    assert!(site.ask(&third, "fwknop"));
    site.close();
    for home in [&first, &second] {
        site.is_counted("fwknop-bad-hmac", || site.send(home, "fwknop"));
    }
    assert_eq!(site.knockd.grants(), [] as [serde_json::Value; 0], "all others are over");
    for home in [first, second, third] {
        let stanza = fs::read_to_string(home.path().join(".fwknoprc")).unwrap();
        for name in ["KEY_BASE64", "HMAC_KEY_BASE64"] {
            let key = variable(&stanza, name);
            assert!(site.knockd.log().iter().all(|line| !line.contains(key)));
        }
    }
}

#[test]
fn our_client_opens_with_a_link_to_fwknops_keys_and_with_each_way_of_one_link() {
    let Some(site) = Site::new("a link with keys of fwknop's") else { return };
    let by = || site.knockd.grants().remove(0)["by"].as_str().unwrap().to_owned();
    let bundle = site.enroll("phone --door gate --fwknop");
    assert!(!site.is_open(443));
    assert!(site.knock(&bundle), "{}", bundle.hosts());
    assert_eq!(by(), "fwknop");
    site.close();
    let second = site.enroll("phone --fwknop");
    assert!(site.knock(&second));
    site.close();
    site.is_counted("fwknop-bad-hmac", || assert!(site.knock_in_vain(&bundle)));

    let settings = fs::read_to_string(site.knockd.config.join("doors.yaml")).unwrap();
    let all = "  all:
    totp: {mode: code, base: 7300}
    spa: true
    fwknop: true
    open: [1194/tcp]
    open_for: 1h
";
    fs::write(site.knockd.config.join("all.yaml"), format!("doors:\n{all}")).unwrap();
    assert!(settings.contains("1194/tcp"), "something listens there");
    let bundle = site.enroll("laptop --door all --totp --spa --fwknop");
    let hosts = bundle.path("hosts.yaml").display().to_string();
    let label = bundle.hosts().lines().nth(1).unwrap().trim().to_owned();
    let label = label.trim_end_matches("-totp:");
    for way in ["totp", "spa", "fwknop"] {
        site.net
            .client
            .must(env!("CARGO_BIN_EXE_knock"), &["--hosts", &hosts, &format!("{label}-{way}")]);
        assert_eq!(by(), way);
        site.close();
    }
}

#[test]
fn a_client_that_has_to_name_its_address_is_told_so() {
    let Some(site) = Site::new("a link, and an address to be named") else { return };
    site.enroll("phone --door gate --fwknop");
    let path = site.knockd.config.join("client-phone.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text + "      hmac_type: sha3_512\n      address: explicit\n").unwrap();
    let (printed, _) = said(site.run(&format!("enroll phone --fwknop --host {SERVER}")));
    assert!(
        printed.contains("has to be named: fwknop -a ADDRESS, or -R; knock --address"),
        "{printed}"
    );
    let bundle = Bundle::unpack(&printed);
    let hosts = bundle.path("hosts.yaml").display().to_string();
    let arguments = ["--hosts", &hosts, "--address", CLIENT, SERVER];
    site.net.client.must(env!("CARGO_BIN_EXE_knock"), &arguments);
    assert!(site.is_open(443));
}

#[test]
fn a_door_that_only_forwards_opens_with_the_stanza_that_is_printed() {
    let name = "a stanza for a host behind";
    let Some(site) = Site::new(name).filter(|_| has_programs(name, &["fwknop"])) else { return };
    let inner = "doors: {inner: {fwknop: true, open_for: 1h, \
                 forward: [{on: 2222, to: 192.168.1.10, port: 22}]}}";
    fs::write(site.knockd.config.join("inner.yaml"), inner).unwrap();
    let home = site.enroll_for_fwknop("phone --door inner --fwknop");
    for program in ["fwknop", "knock"] {
        assert!(site.ask(&home, program), "{program}");
        let grant = site.knockd.grants().remove(0);
        assert_eq!((&grant["door"], &grant["address"]), (&"inner".into(), &CLIENT.into()));
        site.close();
    }
    // Nothing listens there that the entry could wait for.
    assert!(site.knock_in_vain(&site.enroll("laptop --door inner --fwknop")));
    let grant = site.knockd.grants().remove(0);
    assert_eq!((&grant["door"], &grant["client"]), (&"inner".into(), &"laptop".into()));
}

#[test]
fn the_knocks_that_are_printed_as_valid_open() {
    let Some(site) = Site::new("valid sequences") else { return };
    site.enroll("phone --door ssh --totp");
    let (valid, _) = said(site.run("sequence ssh phone --json"));
    let current = valid
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|sequence| sequence["current"] == true)
        .unwrap();
    let knocks: Vec<&str> =
        current["knocks"].as_array().unwrap().iter().map(|knock| knock.as_str().unwrap()).collect();
    let from: IpAddr = CLIENT.parse().unwrap();
    site.net.client.knock_from(from, SERVER, &knocks, Duration::from_millis(10));
    assert!(eventually(PATIENCE, || site.knockd.grants().len() == 1));
    assert!(site.is_open(22));
}

#[test]
fn a_client_that_went_while_knockd_was_down_has_nothing_open_when_it_comes_back() {
    let Some(site) = Site::new("revoked while down") else { return };
    let bundle = site.enroll("phone --door ssh --totp");
    assert!(site.knock(&bundle));
    let Site { net, knockd } = site;
    let config = knockd.config.clone();
    knockd.signal(nix::sys::signal::Signal::SIGKILL);
    let mut knockd = knockd;
    knockd.ended();
    let (_, beside) = said(knockctl(&config, "revoke phone"));
    assert!(beside.contains("knockd is not running"), "{beside}");
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for("starting up, listening on");
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
    assert!(!net.client.can_connect(SERVER, 22));
}

#[test]
fn who_asks_for_a_reload_is_told_when_it_is_in_force_or_why_not() {
    let Some(site) = Site::new("reload") else { return };
    let reload = || site.knockd.ask(r#"{"do":"reload"}"#).remove(0);
    assert_eq!(reload()["reply"], "done");
    std::thread::scope(|scope| {
        let replies = [(); 3].map(|()| scope.spawn(reload));
        for reply in replies {
            assert_eq!(reply.join().unwrap()["reply"], "done", "all of them are");
        }
    });
    fs::write(site.knockd.config.join("more.yaml"), "doors: {x: {sequnce: [1, 2, 3]}}").unwrap();
    let reply = reload();
    assert_eq!(reply["reply"], "failed");
    assert!(reply["why"].as_str().unwrap().contains("did you mean 'sequence'?"), "{reply}");
}

#[test]
fn what_a_client_written_by_hand_has_opened_is_closed_when_it_is_revoked() {
    let Some(site) = Site::new("revoked by hand") else { return };
    let bundle = site.enroll("phone --door ssh --totp");
    let [ours, mine] = ["client-phone.yaml", "mine.yaml"].map(|name| site.knockd.config.join(name));
    let text = fs::read_to_string(&ours).unwrap();
    fs::write(&mine, text.split_once('\n').unwrap().1).unwrap();
    fs::remove_file(ours).unwrap();
    assert!(site.knock(&bundle));
    let error = complained(site.run("revoke phone"));
    assert!(error.contains("mine.yaml:2:3") && error.contains("it can still knock"), "{error}");
    assert!(eventually(PATIENCE, || site.knockd.grants().is_empty()));
}

#[test]
fn while_a_configuration_is_on_trial_a_client_waits_and_still_gets_its_secret() {
    let Some(site) = Site::new("enrolled during a trial") else { return };
    said(site.run("try --for 5m"));
    let output = site.run("enroll phone --door ssh --totp");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (printed, beside) = (text(output.stdout), text(output.stderr));
    assert!(beside.contains("on trial") && beside.contains("goes on as before"), "{beside}");
    assert_eq!(Bundle::unpack(&printed).secret().len(), 32);
}

#[test]
fn a_client_is_called_revoked_only_where_the_running_knockd_has_taken_that_up() {
    let Some(site) = Site::new("revoked during a trial") else { return };
    let bundle = site.enroll("phone --door ssh --totp");
    said(site.run("try --for 5m"));
    let error = complained(site.run("revoke phone"));
    let lines: Vec<&str> = error.lines().filter(|line| line.starts_with("knockctl: ")).collect();
    assert!(
        lines[0]
            .ends_with("'phone' is out of the files, and can still knock at the running knockd")
    );
    assert!(lines[1].starts_with("knockctl: error: "), "{error}");
    assert!(!error.contains("is revoked") && error.contains("goes on as before"), "{error}");
    assert!(site.knock(&bundle), "the files are not what the running one has");
}
