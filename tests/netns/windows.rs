//! The client's build for Windows, run by wine, against a real `knockd` in another namespace.
//!
//! Outside the quick suite: `make long` builds it with `tools/windows`, and runs these.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use libknock::proto::spa::PrivateKey;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    CLIENT, Host, Knockd, Net, PATIENCE, SERVER, command, eventually, must, needs, skipped,
};
use crate::totp::PHONE;

/// What a console, or a text mode, would change.
const SAID: &[u8] = b"hello\r\nand\n\x1a\x00\xff";

const TARGET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/windows");

/// A Windows whose network is a namespace's. There is one at a time: its server, which outlives the
/// programs that it serves, makes their sockets.
struct Windows<'a> {
    host: &'a Host,
    prefix: PathBuf,
    files: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl<'a> Windows<'a> {
    /// `None` where there is no build to run.
    fn on(host: &'a Host, test: &str) -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        if !Path::new(TARGET).join("knock.exe").exists() {
            skipped(test, "no target/windows/knock.exe: run tools/windows");
            return None;
        }
        let prefix = Path::new(TARGET).join("wine");
        let files = tempfile::tempdir().unwrap();
        let windows = Self { host, prefix, files, _alone: alone };
        if !windows.prefix.join("system.reg").exists() {
            fs::create_dir_all(&windows.prefix).unwrap();
            assert!(windows.set(&mut command("wineboot")).arg("-i").status().unwrap().success());
            windows.halt();
        }
        let _ = fs::remove_dir_all(windows.settings());
        fs::create_dir_all(windows.settings()).unwrap();
        Some(windows)
    }

    fn set<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("WINEPREFIX", &self.prefix).env("WINEDEBUG", "-all").env_remove("DISPLAY");
        command.env("WINEPATH", called(&Path::new(TARGET).join("old-wine")));
        // What it would offer to fetch.
        command.env("WINEDLLOVERRIDES", "mscoree,mshtml=").stdin(Stdio::null())
    }

    fn halt(&self) {
        let _ = self.set(&mut command("wineserver")).args(["-k", "-w"]).status();
    }

    /// `%APPDATA%\knock`.
    fn settings(&self) -> PathBuf {
        self.prefix.join("drive_c/users/root/AppData/Roaming/knock")
    }

    /// A file of this mode, and how Windows calls it.
    fn file(&self, name: &str, text: &str, mode: u32) -> (PathBuf, String) {
        let path = self.files.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let called = called(&path);
        (path, called)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.host.command("wine");
        self.set(&mut command).arg(Path::new(TARGET).join("knock.exe")).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What it prints where it does what it should.
    fn knock(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// What it says, and its status, where it does not.
    fn refuses(&self, arguments: &[&str]) -> (String, i32) {
        let output = self.run(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        (said, output.status.code().unwrap())
    }

    /// Makes a key, and says what of it the server has to know.
    fn keygen(&self) -> (PathBuf, String) {
        let path = self.settings().join("laptop.key");
        let public = self.knock(&["--keygen", &called(&path)]);
        (path, public)
    }
}

impl Drop for Windows<'_> {
    fn drop(&mut self) {
        self.halt();
    }
}

fn called(path: &Path) -> String {
    format!("Z:{}", path.display()).replace('/', r"\")
}

/// Doors of each kind; those that are not guarded write down for whom they are opened.
fn start(net: &Net, public_key: &str) -> Knockd {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("phone.totp");
    fs::write(&secret, format!("{PHONE}\n")).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let config = directory.path().join("knock.conf");
    let text = format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
         \x20 spa: {{key_file: DIR/keys/server.key}}}}\n\
         clients:\n\
         \x20 laptop: {{doors: [ssh], spa: {{public_key: {public_key}}}}}\n\
         \x20 phone: {{doors: [rotating, typed], totp: {{secret_file: DIR/phone.totp}}}}\n\
         doors:\n\
         \x20 ssh: {{spa: true, open: [22], open_for: 1h}}\n\
         \x20 plain: {{sequence: [7000, 8000:udp, 9000], start_command: echo plain %IP% >> DIR/opened}}\n\
         \x20 rotating:\n\
         \x20   totp: {{ports: 20000-29999, protocol: mixed, step: 1h}}\n\
         \x20   start_command: echo rotating %IP% >> DIR/opened\n\
         \x20 typed:\n\
         \x20   totp: {{mode: code, base: 10000, step: 1h}}\n\
         \x20   start_command: echo typed %IP% >> DIR/opened\n"
    );
    fs::write(&config, text.replace("DIR", directory.path().to_str().unwrap())).unwrap();
    let knockd = Knockd::run(&net.server, directory, config, &[], &[]);
    knockd.wait_for("starting up, listening on");
    knockd
}

fn opened(knockd: &Knockd, what: &str) {
    let opened = || fs::read_to_string(knockd.directory.path().join("opened")).unwrap_or_default();
    let wanted = format!("{what} {CLIENT}\n");
    assert!(eventually(PATIENCE, || opened() == wanted), "{:?} is not {wanted:?}", opened());
    fs::remove_file(knockd.directory.path().join("opened")).unwrap();
}

/// Of a key that nobody has.
fn some_key() -> String {
    PrivateKey::from([9; 32]).public().to_string()
}

/// A hosts file by which the client asks for `ssh`.
fn hosts(knockd: &Knockd, key: &str) -> String {
    format!(
        "hosts:\n  work:\n    host: {SERVER}\n    mode: spa\n    door: ssh\n    wait: 22\n    \
         server_key: {}\n    key_file: {key}\n",
        knockd.server_key()
    )
}

#[test]
#[ignore = "wants a build for Windows: make long"]
fn sequences_that_stay_that_rotate_and_that_are_typed_open_their_doors() {
    needs!("windows-sequences", "wine", "nft");
    let net = Net::new();
    let Some(windows) = Windows::on(&net.client, "windows-sequences") else { return };
    let knockd = start(&net, &some_key());
    windows.knock(&["-d", "15", SERVER, "7000", "8000:udp", "9000"]);
    opened(&knockd, "plain");
    let (_, secret) = windows.file("phone.totp", &format!("{PHONE}\n"), 0o600);
    windows.knock(&[
        "--totp",
        "--door",
        "rotating",
        "--ports",
        "20000-29999",
        "--protocol",
        "mixed",
        "--step",
        "1h",
        "--secret-file",
        &secret,
        SERVER,
    ]);
    opened(&knockd, "rotating");
    let code = must("oathtool", &["--totp", "--base32", "--time-step-size=3600s", PHONE]);
    windows.knock(&["--code", code.trim(), "--base", "10000", SERVER]);
    opened(&knockd, "typed");
}

#[test]
#[ignore = "wants a build for Windows: make long"]
fn a_request_by_the_hosts_file_of_the_user_opens_each_time_and_the_port_is_waited_for() {
    needs!("windows-spa", "wine", "nft");
    let net = Net::new();
    let Some(windows) = Windows::on(&net.client, "windows-spa") else { return };
    let (key, public) = windows.keygen();
    let knockd = start(&net, &public);
    net.server.listen(22);
    assert!(!net.client.can_connect(SERVER, 22));
    // Beside the hosts file.
    fs::write(windows.settings().join("hosts.yaml"), hosts(&knockd, "laptop.key")).unwrap();
    windows.knock(&["work"]);
    assert!(net.client.can_connect(SERVER, 22));
    // Two at once have a stamp each, of which the file has the later one.
    let both = [windows.command(&["work"]), windows.command(&["work"])];
    let both = both.map(|mut it| it.stderr(Stdio::piped()).spawn().unwrap());
    for child in both {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
    knockd.wait_for_count("OPEN SESAME", 3);
    for file in [key.clone(), key.with_extension("key.last")] {
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o007, 0, "{}", file.display());
    }
    let (said, status) = windows.refuses(&["--keygen", &called(&key)]);
    assert!(said.contains(&format!("no key is ever overwritten: its public key is {public}")));
    assert_eq!(status, 1);
}

#[test]
#[ignore = "wants a build for Windows: make long"]
fn the_program_becomes_the_connection() {
    needs!("windows-proxy", "wine", "nft");
    let net = Net::new();
    let Some(windows) = Windows::on(&net.client, "windows-proxy") else { return };
    let (_, public) = windows.keygen();
    let knockd = start(&net, &public);
    fs::write(windows.settings().join("hosts.yaml"), hosts(&knockd, "laptop.key")).unwrap();
    let listener = net.server.enter(|| TcpListener::bind((SERVER, 22)).unwrap());
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(SAID).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        heard
    });
    let mut command = windows.command(&["--proxy", "work", "22"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // What the server says ends, while the input goes on. Wine keeps standard output open for itself
    // where the program has closed it.
    let mut said = vec![0; SAID.len()];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(said, SAID);
    child.stdin.take().unwrap().write_all(SAID).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(server.join().unwrap(), SAID);
}

#[test]
#[ignore = "wants a build for Windows: make long"]
fn files_that_others_can_read_or_write_are_refused_with_what_to_run() {
    needs!("windows-files", "wine");
    let net = Net::new();
    let Some(windows) = Windows::on(&net.client, "windows-files") else { return };
    for mode in [0o644, 0o604, 0o602] {
        let (_, secret) = windows.file("open.totp", &format!("{PHONE}\n"), mode);
        let arguments = [
            "-n",
            "--totp",
            "--door",
            "ssh",
            "--ports",
            "20000-29999",
            "--secret-file",
            &secret,
            SERVER,
        ];
        let (said, status) = windows.refuses(&arguments);
        let run =
            format!(r#"can be read by others: icacls "{secret}" /inheritance:r /grant:r "root:F""#);
        assert!(said.contains(&run), "{mode:o}: {said}");
        assert_eq!(status, 1);
    }
    let (_, open) = windows.file("hosts.yaml", "hosts: {a: {ports: [7000]}}\n", 0o666);
    let (said, status) = windows.refuses(&["-n", "--hosts", &open, "a"]);
    assert!(said.contains("others than its owner can write it"), "{said}");
    assert!(said.contains("run: icacls"), "{said}");
    assert_eq!(status, 1);
    let (_, seen) = windows.file(
        "hosts.yaml",
        &format!("hosts: {{a: {{host: {SERVER}, ports: [7000]}}}}\n"),
        0o644,
    );
    assert_eq!(windows.knock(&["-n", "--hosts", &seen, "a"]), format!("tcp {SERVER}:7000"));
}

#[test]
#[ignore = "wants a build for Windows: make long"]
fn what_windows_has_not_is_refused_before_anything_is_sent() {
    needs!("windows-refused", "wine");
    let net = Net::new();
    let Some(windows) = Windows::on(&net.client, "windows-refused") else { return };
    for (arguments, instead) in [
        (
            &["--fdpass", "--proxy", SERVER, "22", "7000"][..],
            "--fdpass does not work on this system",
        ),
        (&["--interface", "eth0", SERVER, "7000"], "--interface does not work on this system"),
    ] {
        let (said, status) = windows.refuses(arguments);
        assert!(said.contains(instead), "{said}");
        assert_eq!(status, 2);
    }
    let (said, _) = windows.refuses(&["--proxy", "198.51.100.1", "22", "7000"]);
    assert!(said.contains("this machine has no route to it"), "{said}");
    let (said, _) = windows.refuses(&["nowhere.invalid", "7000"]);
    assert!(said.contains("nowhere.invalid: no address found: "), "{said}");
}

#[test]
#[ignore = "wants a build for Windows: make long"]
fn a_client_that_stays_knocks_again_and_asks_to_close_when_it_is_stopped() {
    needs!("windows-stay", "wine", "nft");
    let net = Net::new();
    let Some(windows) = Windows::on(&net.client, "windows-stay") else { return };
    let (_, public) = windows.keygen();
    let knockd = start(&net, &public);
    let text = hosts(&knockd, "laptop.key").replace("    wait: 22\n", "");
    fs::write(windows.settings().join("hosts.yaml"), text).unwrap();
    let mut command = windows.command(&["-v", "--stay", "work"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The second comes two seconds after the first.
    knockd.wait_for_count("OPEN SESAME", 2);
    assert_eq!(knockd.grants().len(), 1);
    stop(&child);
    let ended = eventually(PATIENCE, || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    assert!(ended && output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("Ctrl-C: asking 192.0.2.1 to close"), "{said}");
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()), "{:?}", knockd.grants());
}

/// As Ctrl-C does.
fn stop(child: &Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
}

#[test]
#[ignore = "wants a build for Windows: make long"]
fn each_knock_is_one_packet() {
    needs!("windows-packets", "wine", "tcpdump");
    let net = Net::new();
    let Some(windows) = Windows::on(&net.client, "windows-packets") else { return };
    let mut capture = net.server.command("timeout");
    // Nothing answers: the kernel would send its SYNs again after a second.
    net.server.must("ip", &["route", "add", "blackhole", "198.51.100.0/24"]);
    capture.args([
        "--signal=INT",
        "6",
        "tcpdump",
        "-nn",
        "-l",
        "-i",
        "eth0",
        "ip and (tcp or udp)",
    ]);
    let capture = capture.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_secs(1));
    net.client.must("ip", &["route", "add", "198.51.100.0/24", "via", SERVER]);
    windows.knock(&["198.51.100.1", "7000", "8000:udp", "9000"]);
    let seen = String::from_utf8(capture.wait_with_output().unwrap().stdout).unwrap();
    let to = |port: &str| {
        seen.lines().filter(|line| line.contains(&format!("> 198.51.100.1.{port}:"))).count()
    };
    assert_eq!(["7000", "8000", "9000"].map(to), [1; 3], "{seen}");
}
