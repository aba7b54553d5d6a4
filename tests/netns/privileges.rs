//! What the keeper, its commands and its helpers may do, and what they have given up.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{CLIENT, Knockd, Net, PATIENCE, SERVER, eventually, needs};

const SEQUENCE: [&str; 3] = ["7000", "8000", "9000"];

fn knock(net: &Net) {
    let from: IpAddr = CLIENT.parse().unwrap();
    net.client.knock_from(from, SERVER, &SEQUENCE, Duration::from_millis(10));
}

/// What the kernel tells of a process under a key of its status.
fn told(status: &str, key: &str) -> String {
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
    value.unwrap_or_else(|| panic!("{key}: {status}")).to_owned()
}

#[test]
fn a_command_gets_a_session_of_its_own_and_nothing_else() {
    needs!("commands", "nft");
    let net = Net::new();
    let report = |to: &str| {
        format!(
            "(ls -l /proc/$$/fd > DIR/{to}.fds); cat /proc/$$/stat > DIR/{to}.stat; \
             cat /proc/$$/limits > DIR/{to}.limits; cat /proc/$$/status > DIR/{to}.status; \
             env > DIR/{to}.env; : > DIR/{to}"
        )
    };
    let knockd = Knockd::start(
        &net.server,
        &format!(
            "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody, \
             no_new_privs: true}}\n\
             doors:\n  denied: {{sequence: [7000, 8000, 9000], start_command: '{}'}}\n\
             \x20 granted: {{sequence: [7000, 8000, 9000], start_command: '{}', no_new_privs: false}}\n",
            report("denied"),
            report("granted")
        ),
    );
    knock(&net);
    let directory = knockd.directory.path();
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    for (door, no_new_privs) in [("denied", "1"), ("granted", "0")] {
        assert!(eventually(PATIENCE, || directory.join(door).exists()), "{:?}", knockd.log());
        let fds = read(&format!("{door}.fds"));
        let open: Vec<&str> = fds.lines().filter(|line| line.contains(" -> ")).collect();
        assert_eq!(open.len(), 3, "{fds}");
        assert!(open[0].ends_with(" 0 -> /dev/null"), "{fds}");
        assert!(open[1..].iter().all(|line| line.contains("pipe:")), "{fds}");
        let stat = read(&format!("{door}.stat"));
        let fields: Vec<&str> = stat.split(' ').collect();
        let (pid, group, session, terminal) = (fields[0], fields[4], fields[5], fields[6]);
        assert_eq!((pid, pid, "0"), (group, session, terminal), "{stat}");
        let limits = read(&format!("{door}.limits"));
        let limit = |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert!(limit("Max core file size").trim_start().starts_with("0 "), "{limits}");
        assert!(limit("Max open files").trim_start().starts_with("1024 "), "{limits}");
        assert_eq!(told(&read(&format!("{door}.status")), "NoNewPrivs"), no_new_privs);
        let environment = read(&format!("{door}.env"));
        let known = ["PATH=", "PWD=", "_=", "SHLVL=", "OLDPWD=", "KNOCK_"];
        let is_known = |line: &str| known.iter().any(|known| line.starts_with(known));
        assert!(environment.lines().all(is_known), "{environment}");
    }
    assert!(Path::new(directory).join("state/commands").exists());
}

const GUARDED: &str = "knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody, \
    log: {file: DIR/log/knockd.log}}\n\
    doors:\n  ssh: {sequence: [7000, 8000, 9000], open: [22/tcp], open_for: 20s}\n";

/// Starts a `knockd` that guards a port and runs no command.
fn guarding(net: &Net) -> Knockd {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("log")).unwrap();
    let config = directory.path().join("knock.conf");
    let text = GUARDED.replace("DIR", &directory.path().display().to_string());
    fs::write(&config, text).unwrap();
    let knockd = Knockd::run(&net.server, directory, config, &[], &[]);
    knockd.wait_for("starting up, listening on");
    knockd
}

fn status_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap()
}

/// Opens by knocks, and is closed by hand for the next time.
fn opens(net: &Net, knockd: &Knockd) {
    let before = knockd.count("OPEN SESAME");
    knock(net);
    knockd.wait_for_count("OPEN SESAME", before + 1);
    assert!(net.client.can_connect(SERVER, 22), "{:?}", knockd.log());
    let closed = knockd.ask(r#"{"do":"close","door":"ssh","address":"192.0.2.2"}"#);
    assert_eq!(closed[0]["reply"], "done", "{closed:?}");
}

#[test]
fn a_keeper_without_commands_keeps_what_its_guard_and_watchers_need_and_works() {
    needs!("keeper", "nft");
    let net = Net::new();
    net.server.listen(22);
    let mut knockd = guarding(&net);
    let status = status_of(knockd.pid());
    // CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_NET_ADMIN and CAP_NET_RAW.
    let few = format!("{:016x}", (1 << 5) | (1 << 6) | (1 << 7) | (1 << 12) | (1 << 13));
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(told(&status, set), few, "{set}");
    }
    assert_eq!(told(&status, "CapInh"), format!("{:016x}", 0));
    assert_eq!(told(&status, "NoNewPrivs"), "1");
    opens(&net, &knockd);

    // Another watcher, in place of one that has died and of one that is asked to go.
    let [watcher] = knockd.watchers()[..] else { panic!("one watcher") };
    kill(Pid::from_raw(watcher), Signal::SIGKILL).unwrap();
    knockd.wait_for("another starts");
    let is_new = || knockd.watchers().iter().any(|&it| it != watcher);
    assert!(eventually(PATIENCE, is_new), "{:?}", knockd.log());
    eventually(PATIENCE, || knockd.ask(r#"{"do":"reload"}"#)[0]["reply"] == "done");
    let log = knockd.directory.path().join("log/knockd.log");
    fs::rename(&log, log.with_extension("1")).unwrap();
    let reloaded = knockd.ask(r#"{"do":"reload"}"#);
    assert_eq!(reloaded[0]["reply"], "done", "{:?}", knockd.log());
    assert!(log.exists(), "the log file is made anew");
    opens(&net, &knockd);

    let answer = knockd.ask(r#"{"do":"status"}"#).remove(0);
    let keeper = &answer["sandbox"]["keeper"];
    let names = ["CAP_KILL", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID"];
    assert_eq!(keeper["capabilities"], serde_json::json!(names));
    assert!(keeper["landlock"].is_string(), "{keeper}");
    assert_eq!(knockd.count("the keeper keeps CAP_KILL CAP_NET_ADMIN"), 1);

    knockd.signal(Signal::SIGTERM);
    assert_eq!(knockd.ended().code(), Some(0), "{:?}", knockd.log());
    for left in ["run/knockd.pid", "run/control.sock"] {
        assert!(!knockd.directory.path().join(left).exists(), "{left}");
    }
    assert_eq!(knockd.count("cannot"), 0, "{:?}", knockd.log());
}

#[test]
fn a_reload_that_needs_what_has_been_given_up_asks_for_a_restart() {
    needs!("restart", "nft");
    let net = Net::new();
    net.server.listen(22);
    let knockd = guarding(&net);
    let elsewhere = tempfile::tempdir().unwrap();
    let list = elsewhere.path().join("list");
    fs::write(&list, "7000,8000,9000\n").unwrap();
    let command = GUARDED.replace("open_for: 20s", "open_for: 20s, on_open: \"true\"");
    let logged = GUARDED.replace("DIR/log", &elsewhere.path().display().to_string());
    let listed = format!("one_time_sequences: {}", list.display());
    let listed = GUARDED.replace("sequence: [7000, 8000, 9000]", &listed);
    for (configuration, why) in [
        (command, "door 'ssh', which runs commands, may need any privilege: "),
        (logged, "it has files in "),
        (listed, "cannot be read: Permission denied"),
    ] {
        knockd.configure(&configuration);
        let answer = knockd.ask(r#"{"do":"reload"}"#).remove(0);
        let said = answer["why"].as_str().unwrap_or_default();
        let help = "knockd has given up what it did not need when it started: restart it";
        assert!(said.contains(why) && said.contains(help), "{answer}");
        opens(&net, &knockd);
    }
    knockd.configure(GUARDED);
    assert_eq!(knockd.ask(r#"{"do":"reload"}"#)[0]["reply"], "done", "{:?}", knockd.log());
}

#[test]
fn where_a_command_may_need_it_the_keeper_keeps_all() {
    needs!("commands", "nft");
    let net = Net::new();
    let configuration = GUARDED.replace("open_for: 20s", "open_for: 20s, on_close: \"true\"");
    let configuration = configuration.replace("log/knockd.log", "knockd.log");
    let knockd = Knockd::start(&net.server, &configuration);
    let own = status_of(i32::try_from(std::process::id()).unwrap());
    assert_eq!(told(&status_of(knockd.pid()), "CapBnd"), told(&own, "CapBnd"));
    assert_eq!(knockd.count("the keeper keeps all that it has, since commands may need it"), 1);
    knock(&net);
    knockd.wait_for("OPEN SESAME");
    // What it has opened is closed after a restart, though the configuration runs no command now.
}
