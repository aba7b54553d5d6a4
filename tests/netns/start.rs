//! Who starts `knockd`, where, and with what: none of it gives anybody else a say.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{CLIENT, Host, Knockd, Net, PATIENCE, SERVER, eventually, needs};

/// Nobody's, and no watcher's.
const STRANGER: u32 = 12345;

fn configuration(settings: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody\
         {settings}}}\n\
         doors:\n\x20 ssh: {{sequence: [7000, 8000, 9000], seq_timeout: 2s, start_command: \"exec sleep 3\"}}\n"
    )
}

/// Starts `knockd` in a directory that has been prepared.
fn spawn(host: &Host, settings: &str, prepare: impl FnOnce(&Path)) -> Knockd {
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path());
    let config = directory.path().join("knock.conf");
    let text = configuration(settings).replace("DIR", &directory.path().display().to_string());
    fs::write(&config, text).unwrap();
    fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
    Knockd::run(host, directory, config, &[], &[])
}

/// Starts `knockd` by a line of shell script, in which `"$@"` is its command line.
fn started_by(host: &Host, script: &str) -> Knockd {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("knock.conf");
    let text = configuration("").replace("DIR", &directory.path().display().to_string());
    fs::write(&config, text).unwrap();
    let mut command = host.command("bash");
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_knockd"), "-c"]).arg(&config);
    let knockd = Knockd::from_command(command, directory, config);
    knockd.wait_for("starting up, listening on");
    knockd
}

fn give(path: &Path) {
    chown(path, Some(STRANGER), None).unwrap();
}

fn children(knockd: &Knockd) -> Vec<String> {
    let pid = knockd.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn what_others_could_have_put_there_is_refused_with_what_to_do() {
    needs!("foreign state", "nft");
    let host = Host::new("s");
    let make = |path: PathBuf, mode: u32| {
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    type Prepare<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Prepare<'_>, &str, &str); 9] = [
        (
            "",
            &|at| give(&make(at.join("state"), 0o700)),
            "state: error: belongs to user 12345",
            "chown",
        ),
        (
            "",
            &|at| give(&make(at.join("run"), 0o755)),
            "run: error: belongs to user 12345",
            "chown",
        ),
        (
            "",
            &|at| drop(make(at.join("state"), 0o1777)),
            "state: error: everybody can write in it (mode 1777)",
            "name a directory below it that is knockd's alone",
        ),
        ("", &|at| drop(make(at.join("run"), 0o770)), "run: error: others than its owner", "go-w"),
        (
            "",
            &|at| {
                let state = make(at.join("state"), 0o700);
                fs::write(state.join("ledger.db"), "").unwrap();
                give(&state.join("ledger.db"));
            },
            "state/ledger.db: error: belongs to user 12345",
            "chown root",
        ),
        (
            "",
            &|at| {
                let state = make(at.join("state"), 0o700);
                fs::write(at.join("elsewhere"), "").unwrap();
                symlink(at.join("elsewhere"), state.join("lock")).unwrap();
            },
            "state/lock: error: is a symbolic link",
            "put the file itself there",
        ),
        (
            "",
            &|at| {
                drop(make(at.join("theirs"), 0o755));
                symlink(at.join("theirs"), at.join("state")).unwrap();
                std::os::unix::fs::lchown(at.join("state"), Some(STRANGER), None).unwrap();
            },
            "state: error: belongs to user 12345",
            "chown -h root",
        ),
        (
            ", pid_file: DIR/theirs/knockd.pid",
            &|at| give(&make(at.join("theirs"), 0o755)),
            "theirs: error: belongs to user 12345",
            "chown root",
        ),
        (
            ", log: {file: DIR/log}",
            &|at| {
                fs::write(at.join("log"), "").unwrap();
                give(&at.join("log"));
            },
            "belongs to user 12345",
            "chown -h root",
        ),
    ];
    for (settings, prepare, what, help) in cases {
        let mut knockd = spawn(&host, settings, prepare);
        let status = knockd.ended();
        let said = knockd.log().join("\n");
        assert_eq!(status.code(), Some(1), "{what}: {said}");
        assert!(said.contains(what) && said.contains(help), "{what}, {help}: {said}");
    }
}

#[test]
fn descriptors_of_the_starter_reach_neither_watcher_nor_command() {
    needs!("descriptors", "nft", "bash");
    let net = Net::new();
    let script = "exec 7</etc/hostname 9>/dev/null <&- >&-; \"$@\"";
    let knockd = started_by(&net.server, &script.replace("\"$@\"", "exec \"$@\""));
    let from: IpAddr = CLIENT.parse().unwrap();
    net.client.knock_from(from, SERVER, &["7000", "8000", "9000"], Duration::from_millis(10));
    // Between fork and exec it still has what the keeper has.
    let runs = |child: &String| {
        fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|it| it.starts_with("sleep"))
    };
    let running = eventually(PATIENCE, || children(&knockd).iter().any(runs));
    assert!(running && children(&knockd).len() == 2, "{}", knockd.log().join("\n"));
    for child in children(&knockd) {
        let open = fs::read_dir(format!("/proc/{child}/fd")).unwrap();
        for fd in open.flatten() {
            let target = fs::read_link(fd.path()).unwrap_or_default().display().to_string();
            let number: u32 = fd.file_name().to_str().unwrap().parse().unwrap();
            let is_own = ["socket:", "pipe:", "anon_inode:", "/memfd:"];
            let is_own = is_own.iter().any(|own| target.starts_with(own)) || target == "/dev/null";
            assert!(
                is_own && ![7, 9].contains(&number) || number < 3,
                "{child}: {number} {target}"
            );
        }
    }
}

#[test]
fn a_starter_that_blocks_signals_and_lets_all_write_is_not_followed() {
    needs!("starter", "nft", "bash", "perl");
    let host = Net::new();
    let script = "umask 0; ulimit -Sn 40; exec perl -MPOSIX -e '\
                  $SIG{CHLD} = $SIG{PIPE} = $SIG{TERM} = q(IGNORE); \
                  sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGTERM, SIGCHLD, SIGHUP)); \
                  exec @ARGV' -- \"$@\"";
    let mut knockd = started_by(&host.server, script);
    let limits = fs::read_to_string(format!("/proc/{}/limits", knockd.pid())).unwrap();
    let soft = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(soft.split_whitespace().nth(3).unwrap().parse::<u32>().unwrap() > 40, "{soft}");
    for name in ["run", "run/knockd.pid", "state", "state/ledger.db", "state/lock"] {
        let Ok(metadata) = fs::metadata(knockd.directory.path().join(name)) else { continue };
        assert_eq!(metadata.permissions().mode() & 0o022, 0, "{name}");
    }
    knockd.signal(Signal::SIGTERM);
    assert_eq!(knockd.ended().code(), Some(0));
}

#[test]
fn capabilities_that_are_handed_down_do_not_reach_the_watcher() {
    needs!("inheritable", "nft", "bash", "setpriv");
    let net = Net::new();
    let script = "exec setpriv --inh-caps +net_raw,+chown --ambient-caps +net_raw \"$@\"";
    let knockd = started_by(&net.server, script);
    let [watcher] = knockd.watchers()[..] else { panic!("one watcher") };
    let status = fs::read_to_string(format!("/proc/{watcher}/status")).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000")), "{set}: {status}");
    }
}

#[test]
fn it_ends_where_it_may_not_kill() {
    needs!("no CAP_KILL", "nft", "bash", "setpriv");
    let net = Net::new();
    let mut knockd = started_by(&net.server, "exec setpriv --bounding-set -kill \"$@\"");
    let [watcher] = knockd.watchers()[..] else { panic!("one watcher") };
    let held = fs::read_to_string(format!("/proc/{}/status", knockd.pid())).unwrap();
    let held = held.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap().to_owned();
    assert_eq!(u64::from_str_radix(&held, 16).unwrap() & (1 << 5), 0, "it has CAP_KILL");
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("re-reading config file");
    let replaced = eventually(PATIENCE, || !knockd.watchers().contains(&watcher));
    assert!(replaced, "{:?}", knockd.watchers());
    let watchers = knockd.watchers();
    knockd.signal(Signal::SIGTERM);
    assert_eq!(knockd.ended().code(), Some(0), "{}", knockd.log().join("\n"));
    // Nobody waits for them; init may take its time to notice that one has ended.
    let has_ended = |watcher: &i32| fs::read_link(format!("/proc/{watcher}/exe")).is_err();
    assert!(eventually(PATIENCE, || watchers.iter().all(has_ended)), "a watcher is left");
}

#[test]
fn lines_for_the_journal_carry_their_level() {
    needs!("journal", "nft", "bash");
    let host = Host::new("s");
    let journal = "JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/2) exec \"$@\"";
    let mut knockd = started_by(&host, journal);
    knockd.signal(Signal::SIGTERM);
    knockd.ended();
    let is_marked = |line: &String| ["<3>", "<4>", "<6>"].iter().any(|it| line.starts_with(it));
    let log = knockd.log();
    assert!(!log.is_empty() && log.iter().all(is_marked), "{log:?}");
    assert_eq!(knockd.count("<6>starting up"), 1);

    // Why it does not start, too, line by line.
    let broken = "sed -i s/7000/70000/ \"$3\"; ".to_owned() + journal;
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("knock.conf");
    fs::write(&config, configuration("")).unwrap();
    let mut command = host.command("bash");
    command.args(["-c", &broken, "sh", env!("CARGO_BIN_EXE_knockd"), "-c"]).arg(&config);
    let mut knockd = Knockd::from_command(command, directory, config);
    assert_eq!(knockd.ended().code(), Some(3));
    let log = knockd.log();
    assert!(log.len() > 1 && log.iter().all(|line| line.starts_with("<3>")), "{log:?}");
}

#[test]
fn what_syslog_hands_to_the_journal_does_not_go_there_by_standard_error_too() {
    needs!("journal, syslog", "nft", "bash", "unshare");
    let host = Host::new("s");
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let journal = UnixDatagram::bind(&socket).unwrap();
    journal.set_read_timeout(Some(PATIENCE)).unwrap();
    // A machine whose /dev/log is the journal's.
    let script = format!(
        "dev=$(mktemp -d); mount -t tmpfs dev \"$dev\"; cp -a /dev/null /dev/urandom \"$dev\"
         mount -t tmpfs run /run; mkdir -p /run/systemd/journal
         touch /run/systemd/journal/dev-log; mount --bind {} /run/systemd/journal/dev-log
         ln -s /run/systemd/journal/dev-log \"$dev/log\"; mount --move \"$dev\" /dev
         JOURNAL_STREAM=$(stat -L -c %d:%i /proc/$$/fd/2) exec \"$@\"",
        socket.display()
    );
    let config = directory.path().join("knock.conf");
    let text = configuration(", log: {syslog: daemon}");
    let text = text.replace("DIR", &directory.path().display().to_string());
    fs::write(&config, text).unwrap();
    let mut command = host.command("unshare");
    command.args(["--mount", "bash", "-c", &script, "sh", env!("CARGO_BIN_EXE_knockd"), "-c"]);
    command.arg(&config);
    let mut knockd = Knockd::from_command(command, directory, config);
    let hears = |what: &str| {
        let mut buffer = [0; 2000];
        while let Ok(length) = journal.recv(&mut buffer) {
            if String::from_utf8_lossy(&buffer[..length]).contains(what) {
                return true;
            }
        }
        false
    };
    assert!(hears("starting up"), "{:?}", knockd.log());
    knockd.signal(Signal::SIGTERM);
    knockd.ended();
    assert!(hears("shutting down"));
    assert_eq!(knockd.log(), [""; 0]);
}

#[test]
fn ps_tells_the_two_processes_apart() {
    needs!("ps", "nft", "bash");
    let host = Host::new("s");
    let knockd = started_by(&host, "exec \"$@\"");
    let [watcher] = knockd.watchers()[..] else { panic!("one watcher") };
    let shown = |pid: i32| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        (
            read("comm").trim_end().to_owned(),
            read("cmdline").replace('\0', " ").trim_end().to_owned(),
        )
    };
    assert_eq!(shown(watcher), ("knockd: watcher".to_owned(), "knockd: watcher".to_owned()));
    let (name, line) = shown(knockd.pid());
    assert!(name == "knockd" && line.contains("knockd -c "), "{name} {line}");
}
