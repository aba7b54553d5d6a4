//! The first hour: `knockctl init`, from nothing to an open door. What starts knockd needs root and
//! namespaces.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::output::{complained, said, text};
use crate::support::mounts::in_own_mounts;
use crate::support::{
    CLIENT, Host, Knockd, Net, PATIENCE, SERVER, command, eventually, must, needs, skipped,
};

const KNOCK: &str = env!("CARGO_BIN_EXE_knock");
const KNOCKCTL: &str = env!("CARGO_BIN_EXE_knockctl");
const KNOCKD: &str = env!("CARGO_BIN_EXE_knockd");

/// `knockctl -c CONFIG init LINE`, where nobody can be asked.
fn init(config: &Path, line: &str) -> Command {
    let mut knockctl = command(KNOCKCTL);
    knockctl.arg("-c").arg(config).arg("init").args(line.split_whitespace());
    knockctl.stdin(Stdio::null()).env_remove("SSH_CONNECTION");
    knockctl
}

/// A directory for a configuration which is not there yet.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("knock.d")
    }

    /// The same with files in it.
    fn with(files: &[(&str, &str)]) -> Self {
        let place = Self::new();
        fs::create_dir(place.config()).unwrap();
        for (name, text) in files {
            let path = place.config().join(name);
            fs::write(&path, text.replace("DIR", place.0.path().to_str().unwrap())).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        place
    }

    fn init(&self, line: &str) -> Output {
        init(&self.config(), line).output().unwrap()
    }

    /// All paths below it.
    fn paths(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut left = vec![self.0.path().to_owned()];
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            found.insert(path);
        }
        found
    }
}

const PLAIN: &str = "--open 22/tcp --by plain --from none";

#[test]
fn a_dry_run_prints_what_would_be_written_and_writes_nothing() {
    let place = Place::new();
    for (line, wanted) in [
        ("--open 22 --by plain --from 192.0.2.2", &["trusted: ['192.0.2.2']", "sequence: ["][..]),
        ("--open 22 --by phone --from none", &["totp: {mode: code, base: ", "# client-phone.yaml"]),
        (
            "--open 1194/udp --by laptop --from none --name mine",
            &["door-1194-udp.yaml", "spa: true", "open: [1194/udp]", "client-mine.yaml"],
        ),
    ] {
        let before = place.paths();
        let (printed, _) = said(place.init(&format!("{line} --dry-run")));
        for wanted in wanted {
            assert!(printed.contains(wanted), "{wanted}: {printed}");
        }
        assert_eq!(place.paths(), before, "{line}");
    }
}

#[test]
fn where_nobody_can_be_asked_the_option_that_is_missing_is_named() {
    let place = Place::new();
    for (given, missing) in [
        ("", "add for example --open 22/tcp"),
        ("--open 22 --from none", "add for example --by laptop"),
        ("--open 22 --by plain", "add for example --from none"),
    ] {
        let error = complained(place.init(&format!("{given} --dry-run")));
        assert!(error.contains(missing), "{given}: {error}");
    }
    let mut guesses = init(&place.config(), "--open 22 --by plain --dry-run");
    let error = guesses.env("SSH_CONNECTION", "198.51.100.7 50123 192.0.2.1 22").output().unwrap();
    assert!(complained(error).contains("--from 198.51.100.7"));
}

#[test]
fn an_answer_that_is_none_is_wrong_usage() {
    let place = Place::new();
    for line in ["--open ssh", "--open 0", "--by horse", "--from home", "--for 9s"] {
        assert_eq!(place.init(line).status.code(), Some(2), "{line}");
    }
    let error = complained(place.init(&format!("{PLAIN} --name phone --dry-run")));
    assert!(error.contains("leave out --name"), "{error}");
}

/// What a dry run prints, and asks, where these lines are typed at a terminal.
fn typed(options: &str, ssh: Option<&str>, lines: &str) -> (String, String) {
    let place = Place::new();
    let terminal = openpty(None, None).unwrap();
    let mut knockctl = init(&place.config(), &format!("{options} --dry-run"));
    if let Some(ssh) = ssh {
        knockctl.env("SSH_CONNECTION", ssh);
    }
    knockctl.stdin(terminal.slave).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = knockctl.spawn().unwrap();
    // It holds the terminal too.
    drop(knockctl);
    let mut keyboard = File::from(terminal.master);
    keyboard.write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if lines.ends_with('\u{4}') {
        return (String::new(), complained(output));
    }
    said(output)
}

#[test]
fn at_a_terminal_the_three_questions_are_asked_and_an_empty_line_takes_the_guess() {
    let (printed, asked) = typed("", Some("198.51.100.7 50123 192.0.2.1 2222"), "\n\n\n");
    for question in ["[2222/tcp]", "[laptop]", "[198.51.100.7]"] {
        assert!(asked.contains(question), "{question}: {asked}");
    }
    for wanted in ["open: [2222/tcp]", "spa: true", "trusted: ['198.51.100.7']"] {
        assert!(printed.contains(wanted), "{wanted}: {printed}");
    }
}

#[test]
fn what_an_option_answers_is_not_asked() {
    let (printed, asked) = typed("--by phone --from none", None, "8443\n");
    assert_eq!(asked.matches("]: ").count(), 1, "{asked}");
    assert!(printed.contains("open: [8443/tcp]") && !printed.contains("trusted"), "{printed}");
}

#[test]
fn a_question_is_asked_until_there_is_an_answer() {
    let (printed, asked) = typed("--open 22", None, "\u{1b}[Ahorse\nplain\nhome\nnone\n");
    assert_eq!(asked.matches("[laptop]: ").count(), 2, "{asked}");
    let none = "'\\u{1b}[Ahorse' is none of phone, laptop and plain";
    assert!(asked.contains(none) && !asked.contains('\u{1b}'), "{asked}");
    assert!(asked.contains("'home' is not a network"), "{asked}");
    assert!(printed.contains("sequence: ["), "{printed}");
    let (_, asked) = typed("--open 22", None, "\u{4}");
    assert!(asked.contains("nothing has been done"), "{asked}");
}

#[test]
fn whoever_is_here_over_loopback_is_no_guess() {
    let (_, asked) = typed("--open 22 --by plain", Some("127.0.0.1 50123 127.0.0.1 22"), "\n");
    assert!(asked.contains("[none]"), "{asked}");
}

#[test]
fn a_configuration_that_is_there_is_never_overwritten() {
    let door = "doors: {mine: {sequence: [7113, 9218, 8127], open: [22/tcp]}}";
    let error = |files: &[(&str, &str)]| {
        let place = Place::with(files);
        let before = place.paths();
        let error = complained(place.init(&format!("{PLAIN} --dry-run")));
        assert_eq!(place.paths(), before);
        error
    };
    let there = error(&[("mine.yaml", door)]);
    for wanted in ["mine.yaml:1:9", "knockctl enroll", "--try 5m", "move "] {
        assert!(there.contains(wanted), "{wanted}: {there}");
    }
    let broken = error(&[("mine.yaml", "doors: {mine: {sequnce: [1, 2, 3]}}")]);
    assert!(broken.contains("did you mean 'sequence'?"), "{broken}");

    let place = Place::with(&[("one.yaml", door)]);
    let file = place.config().join("one.yaml");
    let error = complained(init(&file, &format!("{PLAIN} --dry-run")).output().unwrap());
    assert!(error.contains("one.yaml:1:9"), "{error}");
}

#[test]
fn the_configuration_that_is_installed_is_no_obstacle() {
    let place = Place::with(&[
        ("knockd.yaml", include_str!("../../knock.d/knockd.yaml")),
        ("doors.yaml", include_str!("../../knock.d/doors.yaml")),
    ]);
    said(place.init(&format!("{PLAIN} --dry-run")));
    fs::remove_dir_all(place.config()).unwrap();
    fs::create_dir(place.config()).unwrap();
    said(place.init(&format!("{PLAIN} --dry-run")));
}

#[test]
fn what_could_not_start_leaves_nothing_behind() {
    if !geteuid().is_root() {
        return skipped("a failed init", "needs root");
    }
    for (settings, line, why) in [
        ("state_dir: DIR/knock.d/knockd.yaml/state", "--by laptop", "knockd.yaml/state"),
        ("trusted: [192.0.2.0/24]", "--by phone", "'trusted' is given twice"),
        ("user: nosuchuser-at-all", "--by plain", "nosuchuser-at-all"),
    ] {
        let own = "knockd: {run_dir: DIR/run, spa: {key_file: DIR/knock.d/keys/server.key}, ";
        let place = Place::with(&[("knockd.yaml", &format!("{own}{settings}}}"))]);
        let before = place.paths();
        let error = complained(place.init(&format!("--open 22 {line} --from 192.0.2.2")));
        assert!(error.contains(why) && error.contains("no file is left\n"), "{error}");
        assert_eq!(place.paths(), before, "{line}");
    }
}

/// The root of a container with our programs, the libraries that they need, and nothing else.
struct Container {
    root: PathBuf,
}

impl Container {
    /// Runs a test in one, which has [`SERVER`]'s network; `root` is empty.
    fn run(test: &'static str, function: impl FnOnce(&Self, &Net) + Send + 'static) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().to_owned();
        in_own_mounts(test, move || {
            let container = Self { root };
            container.fill();
            let net = Net::new();
            net.server.listen(22);
            function(&container, &net);
        });
    }

    fn fill(&self) {
        for directory in ["dev", "etc", "proc", "run", "tmp", "usr/sbin", "var/lib"] {
            fs::create_dir_all(self.root.join(directory)).unwrap();
        }
        fs::write(self.root.join("etc/passwd"), "root:x:0:0::/:\nnobody:x:65534:65534::/:\n")
            .unwrap();
        fs::write(self.root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
        must("mount", &["-t", "proc", "proc", self.root.join("proc").to_str().unwrap()]);
        let mut files = vec![
            ("/dev/null".to_owned(), "dev/null".to_owned()),
            (KNOCKD.to_owned(), "usr/sbin/knockd".to_owned()),
            (KNOCKCTL.to_owned(), "usr/sbin/knockctl".to_owned()),
        ];
        let linked = [KNOCKD, KNOCKCTL].map(|program| must("ldd", &[program])).concat();
        let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
        let libraries: BTreeSet<&str> = libraries.collect();
        files.extend(libraries.into_iter().map(|path| (path.to_owned(), path[1..].to_owned())));
        for (from, to) in files {
            let to = self.root.join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            File::create(&to).unwrap();
            must("mount", &["--bind", &from, to.to_str().unwrap()]);
        }
    }

    /// Runs `knockctl` in it, for 20 seconds at most.
    fn knockctl(&self, host: &Host, line: &str) -> Output {
        let mut timeout = host.command("timeout");
        timeout.args(["20", "chroot"]).arg(&self.root).arg("/usr/sbin/knockctl");
        timeout.args(line.split_whitespace()).stdin(Stdio::null()).env_remove("SSH_CONNECTION");
        timeout.output().unwrap()
    }

    /// The process of its `knockd`, if one runs.
    fn knockd(&self) -> Option<Pid> {
        let file = fs::read_to_string(self.root.join("run/knockd/knockd.pid")).ok()?;
        Some(Pid::from_raw(file.trim().parse().unwrap()))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(knockd) = self.knockd() {
            let _ = kill(knockd, Signal::SIGTERM);
            let _ = eventually(PATIENCE, || self.knockd().is_none());
        }
    }
}

/// The words of a line after this text in it.
fn after<'a>(printed: &'a str, text: &str) -> Vec<&'a str> {
    let rest = printed.lines().find_map(|line| Some(line.split_once(text)?.1));
    rest.unwrap_or_else(|| panic!("no {text:?} in\n{printed}")).split_whitespace().collect()
}

/// Takes up the link that `init` has printed; the hosts file.
fn import(laptop: &tempfile::TempDir, printed: &str) -> PathBuf {
    let hosts = laptop.path().join("hosts.yaml");
    let mut knock = assert_cmd::Command::new(KNOCK);
    knock.args(["import", "--hosts", hosts.to_str().unwrap(), "-"]);
    knock.write_stdin(printed).assert().success();
    hosts
}

#[test]
fn three_commands_of_twenty_seconds_at_most_open_a_door_from_nothing() {
    needs!("from nothing, plain", "timeout", "chroot", "ldd");
    Container::run("from nothing, plain", |container, net| {
        let line = format!("init {PLAIN} --host {SERVER}");
        let (printed, _) = said(container.knockctl(&net.server, &line));
        assert!(!net.client.can_connect(SERVER, 22), "locked");

        let knock = after(&printed, "knock from elsewhere: ");
        let mut timeout = net.client.command("timeout");
        said(timeout.args(["20", KNOCK]).args(&knock[1..]).output().unwrap());
        assert!(eventually(PATIENCE, || net.client.can_connect(SERVER, 22)), "{printed}");

        let confirm = after(&printed, "a NEW connection gets in then: ");
        assert_eq!(confirm, ["knockctl", "confirm"]);
        let (confirmed, _) = said(container.knockctl(&net.server, "confirm"));
        assert!(confirmed.contains("confirmed"), "{confirmed}");
        let (status, _) = said(container.knockctl(&net.server, "status"));
        assert!(!status.contains("on trial"), "{status}");
    });
}

#[test]
fn a_phone_opens_with_the_code_of_an_authenticator() {
    needs!("from nothing, phone", "timeout", "chroot", "ldd", "oathtool");
    Container::run("from nothing, phone", |container, net| {
        let line = format!("init --open 22 --by phone --from none --host {SERVER}");
        let (printed, _) = said(container.knockctl(&net.server, &line));
        assert!(printed.contains("█▀▀▀▀▀█"), "a QR code: {printed}");
        let uri = printed.lines().find(|line| line.starts_with("otpauth://totp/")).unwrap();
        let secret = uri.split_once("secret=").unwrap().1.split('&').next().unwrap();
        // The example's first two digits are 49.
        let example = after(&printed, &format!("http://{SERVER}:"))[0].trim_end_matches('/');
        let base = example.parse::<u16>().unwrap() - 49;
        let from: IpAddr = CLIENT.parse().unwrap();
        // A step may end between the code and its knocks.
        let opened = eventually(PATIENCE, || {
            let code = must("oathtool", &["--totp", "-b", secret]);
            let ports = [0, 2, 4].map(|at| base + code[at..at + 2].parse::<u16>().unwrap());
            let ports = ports.map(|port| port.to_string());
            let ports = ports.each_ref().map(String::as_str);
            net.client.knock_from(from, SERVER, &ports, Duration::from_millis(20));
            net.client.can_connect(SERVER, 22)
        });
        assert!(opened, "{printed}");
        let (clients, _) = said(container.knockctl(&net.server, "clients"));
        assert!(clients.contains("phone"), "{clients}");
    });
}

#[test]
fn a_laptop_opens_with_the_files_that_are_printed() {
    needs!("from nothing, laptop", "timeout", "chroot", "ldd");
    Container::run("from nothing, laptop", |container, net| {
        let line = format!("init --open 22 --by laptop --from none --name mine --host {SERVER}");
        let (printed, _) = said(container.knockctl(&net.server, &line));
        let laptop = tempfile::tempdir().unwrap();
        let hosts = import(&laptop, &printed);
        let key =
            fs::read_dir(&laptop).unwrap().map(|it| it.unwrap().path()).find(|it| *it != hosts);
        let key = fs::read_to_string(key.unwrap()).unwrap();

        let knock = after(&printed, "knock from elsewhere: ");
        assert_eq!(knock[..2], ["knock", SERVER]);
        // It waits until the port is open.
        net.client.must(KNOCK, &["--hosts", hosts.to_str().unwrap(), SERVER]);
        let (status, _) = said(container.knockctl(&net.server, "status"));
        assert!(status.contains("mine"), "{status}");
        // The secret is nowhere but there.
        let directory = container.root.join("etc/knock.d");
        let files = ["door-ssh.yaml", "client-mine.yaml", "keys/server.key"];
        let texts = files.map(|file| fs::read_to_string(directory.join(file)).unwrap());
        assert!(texts.iter().all(|text| !text.contains(key.trim())));
    });
}

#[test]
fn a_laptop_is_told_to_knock_at_the_name_that_is_in_its_files() {
    needs!("init, no host", "timeout", "chroot", "ldd");
    Container::run("init, no host", |container, net| {
        let line = "init --open 22 --by laptop --from none";
        let (printed, _) = said(container.knockctl(&net.server, line));
        let laptop = tempfile::tempdir().unwrap();
        let hosts = fs::read_to_string(import(&laptop, &printed)).unwrap();
        let host = after(&hosts, "    host: ")[0];
        assert_eq!(after(&printed, "knock from elsewhere: ")[..2], ["knock", host]);
    });
}

#[test]
fn who_is_connected_from_there_gets_in_without_a_knock_and_nobody_else_does() {
    needs!("init --from", "timeout", "chroot", "ldd");
    Container::run("init --from", |container, net| {
        net.client.must("ip", &["addr", "add", "192.0.2.3/24", "dev", "eth0"]);
        let line = format!("init --open 22 --by plain --from {CLIENT}");
        let (printed, _) = said(container.knockctl(&net.server, &line));
        assert!(printed.contains(&format!("({CLIENT} need not)")), "{printed}");
        assert!(net.client.can_connect(SERVER, 22));
        assert!(!net.client.can_connect_from(Some("192.0.2.3".parse().unwrap()), SERVER, 22));
    });
}

#[test]
fn what_nobody_confirms_is_unlocked_and_its_knockd_goes() {
    needs!("init unconfirmed", "timeout", "chroot", "ldd");
    Container::run("init unconfirmed", |container, net| {
        said(container.knockctl(&net.server, &format!("init {PLAIN} --for 10s")));
        assert!(!net.client.can_connect(SERVER, 22));
        assert!(eventually(PATIENCE, || net.client.can_connect(SERVER, 22)));
        assert!(eventually(PATIENCE, || container.knockd().is_none()));
        // The way on from here.
        let error = complained(container.knockctl(&net.server, &format!("init {PLAIN}")));
        assert!(error.contains("'knockd -d --try 5m'"), "{error}");
    });
}

#[test]
fn where_only_the_start_fails_the_files_stay_and_the_way_on_is_told() {
    needs!("init without knockd", "timeout", "chroot", "ldd");
    Container::run("init without knockd", |container, net| {
        must("umount", &[container.root.join("usr/sbin/knockd").to_str().unwrap()]);
        fs::remove_file(container.root.join("usr/sbin/knockd")).unwrap();
        let output = container.knockctl(&net.server, "init --open 22 --by phone --from none");
        let printed = text(output.stdout.clone());
        assert!(printed.contains("otpauth://"), "the secret is shown this once: {printed}");
        let error = complained(output);
        assert!(error.contains("cannot run /usr/sbin/knockd: "), "{error}");
        assert!(error.contains("go on with 'knockd -d --try 5m'"), "{error}");
        assert!(net.client.can_connect(SERVER, 22), "nothing is locked");
        said(container.knockctl(&net.server, "check"));
    });
}

#[test]
fn beside_a_knockd_that_runs_nothing_is_written() {
    needs!("init beside a knockd");
    let net = Net::new();
    let settings = "{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}";
    let other = Place::with(&[("knockd.yaml", &format!("knockd: {settings}"))]);
    let (config, run_dir) = (other.config(), other.0.path().join("run"));
    let knockd = Knockd::run(&net.server, other.0, config, &[], &[]);
    knockd.wait_for("starting up, listening on");
    let place = Place::new();
    let before = place.paths();
    let error = complained(place.init(&format!("--run-dir {} {PLAIN}", run_dir.display())));
    assert!(error.contains("a knockd runs already: stop it first"), "{error}");
    assert_eq!(place.paths(), before);
}

/// Says that it is systemd, and starts knockd as that does.
const SYSTEMCTL: &str = "#!/bin/sh
case \"$*\" in
    'cat knockd-lock.service') ;;
    'start knockd.service') echo started >>/run/asked; exec KNOCKD -d ;;
    *) exit 1 ;;
esac
";

#[test]
fn under_systemd_the_service_is_started_and_on_trial() {
    needs!("init under systemd");
    let net = Net::new();
    net.server.listen(22);
    let sbin = tempfile::tempdir().unwrap();
    let systemctl = sbin.path().join("systemctl");
    fs::write(&systemctl, SYSTEMCTL.replace("KNOCKD", KNOCKD)).unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    // `ip netns exec` gives it a mount namespace of its own.
    let script = "set -e; mount --bind \"$1\" /usr/local/sbin
        for place in /run /var/lib; do mount -t tmpfs -o mode=0755 knock-test $place; done
        mkdir -p /run/systemd/system /etc/knock.d; mount -t tmpfs -o mode=0755 knock-test /etc/knock.d
        \"$2\" init --open 22 --by plain --from none
        cat /run/asked; \"$2\" status; echo ready; read -r now
        \"$2\" confirm; [ ! -e /var/lib/knockd/trial ]; \"$2\" status
        kill $(cat /run/knockd/knockd.pid)";
    let mut shell = net.server.command("sh");
    shell.args(["-c", script, "sh"]).arg(sbin.path()).arg(KNOCKCTL);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut printed = Vec::new();
    let mut output = shell.stdout.take().unwrap();
    let is_ready = |printed: &[u8]| printed.windows(6).any(|it| it == b"ready\n");
    while !is_ready(&printed) {
        let mut some = [0; 1024];
        let count = output.read(&mut some).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&printed));
        printed.extend(&some[..count]);
    }
    assert!(!net.client.can_connect(SERVER, 22));
    shell.stdin.take().unwrap().write_all(b"\n").unwrap();
    output.read_to_end(&mut printed).unwrap();
    assert!(shell.wait().unwrap().success());
    let printed = text(printed);
    assert!(printed.contains("started\n"), "{printed}");
    assert_eq!(printed.matches("\non trial  ").count(), 1, "before it is confirmed: {printed}");
    assert!(printed.contains("for the next start of this machine: systemctl enable knockd"));
}
