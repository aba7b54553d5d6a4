//! What the keeper, its commands and its helpers may do, and what they have given up.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{CLIENT, Knockd, Net, PATIENCE, SERVER, command, eventually, must, needs};

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
    configured(net, GUARDED)
}

/// The same as a gateway of a fleet.
fn in_a_fleet() -> String {
    let fleet = "knockd: {fleet: {name: gw1, store: 'unix:/no/store', key_file: DIR/key}, ";
    GUARDED.replace("knockd: {", fleet)
}

fn configured(net: &Net, text: &str) -> Knockd {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("log")).unwrap();
    let key = directory.path().join("key");
    fs::write(&key, "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n").unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let config = directory.path().join("knock.conf");
    let text = text.replace("DIR", &directory.path().display().to_string());
    fs::write(&config, text).unwrap();
    // A copy, which can be replaced.
    let program = directory.path().join("knockd");
    fs::copy(env!("CARGO_BIN_EXE_knockd"), &program).unwrap();
    let mut command = net.server.command(program.to_str().unwrap());
    command.arg("-c").arg(&config);
    let knockd = Knockd::from_command(command, directory, config);
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

    // Another watcher, in place of one that has died and of one that is asked to go: by the program
    // that runs, whatever has become of its file.
    fs::remove_file(knockd.directory.path().join("knockd")).unwrap();
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
fn where_files_are_in_somebody_elses_directory_the_keeper_keeps_the_right_to_pass() {
    needs!("files of others", "nft");
    let net = Net::new();
    let directory = tempfile::tempdir().unwrap();
    let theirs = directory.path().join("log");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, Permissions::from_mode(0o700)).unwrap();
    chown(&theirs, Some(12345), None).unwrap();
    let config = directory.path().join("knock.conf");
    let text = GUARDED.replace("DIR", &directory.path().display().to_string());
    fs::write(&config, text).unwrap();
    let knockd = Knockd::run(&net.server, directory, config, &[], &[]);
    knockd.wait_for("the keeper keeps CAP_DAC_OVERRIDE CAP_KILL CAP_NET_ADMIN");
    knockd.wait_for("starting up, listening on");
    fs::remove_file(theirs.join("knockd.log")).unwrap();
    assert_eq!(knockd.ask(r#"{"do":"reload"}"#)[0]["reply"], "done", "{:?}", knockd.log());
    assert!(theirs.join("knockd.log").exists());
}

#[test]
fn where_a_file_is_somebody_elses_the_keeper_keeps_the_right_to_read_it() {
    needs!("files of others", "nft");
    let net = Net::new();
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("list");
    fs::write(&list, "7000,8000,9000\n").unwrap();
    fs::set_permissions(&list, Permissions::from_mode(0o600)).unwrap();
    chown(&list, Some(12345), None).unwrap();
    let config = directory.path().join("knock.conf");
    let listed = format!("one_time_sequences: {}", list.display());
    let text = GUARDED.replace("sequence: [7000, 8000, 9000]", &listed);
    fs::create_dir(directory.path().join("log")).unwrap();
    fs::write(&config, text.replace("DIR", &directory.path().display().to_string())).unwrap();
    let knockd = Knockd::run(&net.server, directory, config, &["--insecure-permissions"], &[]);
    knockd.wait_for("the keeper keeps CAP_DAC_OVERRIDE CAP_KILL CAP_NET_ADMIN");
    knockd.wait_for("starting up, listening on");
    assert_eq!(knockd.ask(r#"{"do":"reload"}"#)[0]["reply"], "done", "{:?}", knockd.log());
    assert_eq!(knockd.count("opens to nobody"), 0, "{:?}", knockd.log());
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
    let keyed = |key: &str| {
        let spa = format!("knockd: {{spa: {{key_file: {key}}}, ");
        GUARDED.replace("knockd: {", &spa).replace("open: [", "spa: true, open: [")
    };
    let keyed_elsewhere = keyed(&elsewhere.path().join("server.key").display().to_string());
    for (configuration, why) in [
        (command, "door 'ssh', which runs commands, may need any privilege: "),
        (logged, "the configuration has files in "),
        (listed, "cannot be read: Permission denied"),
        (keyed_elsewhere, "the configuration has files in "),
        (keyed("DIR/server.key"), "server.key: Permission denied"),
        (in_a_fleet(), "'fleet' needs a way to its store: "),
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
fn a_gateway_whose_courier_is_not_installed_says_what_to_install_and_opens_alone() {
    needs!("no courier", "nft");
    let net = Net::new();
    net.server.listen(22);
    // A copy of knockd, and nothing beside it.
    let knockd = configured(&net, &in_a_fleet());
    let courier = knockd.directory.path().join("knock-courier");
    let said = format!("there is no {}: install the package knock-fleet", courier.display());
    knockd.wait_for(&said);
    opens(&net, &knockd);
}

#[test]
fn where_its_directory_has_been_replaced_the_log_says_that_a_restart_helps() {
    needs!("replaced", "nft");
    let net = Net::new();
    net.server.listen(22);
    let knockd = guarding(&net);
    let state = knockd.directory.path().join("state");
    fs::rename(&state, knockd.directory.path().join("before")).unwrap();
    fs::create_dir(&state).unwrap();
    knockd.configure(&GUARDED.replace("[22/tcp]", "[22/tcp, 80/tcp]"));
    assert_eq!(knockd.ask(r#"{"do":"reload"}"#)[0]["reply"], "done", "{:?}", knockd.log());
    let said = "state/guard: Permission denied (os error 13) (if its directory has been replaced, \
                restart knockd); 'knockd --lock-only' would not know these ports";
    knockd.wait_for(said);
    opens(&net, &knockd);
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
    assert_eq!(knockd.count(" capabilities, and all files"), 1, "{:?}", knockd.log());
    knock(&net);
    knockd.wait_for("OPEN SESAME");
}

#[test]
fn what_a_command_has_yet_to_close_keeps_all_rights_after_a_restart_without_commands() {
    needs!("recovered", "nft");
    let net = Net::new();
    let door = "sequence: [7000, 8000, 9000], start_command: \"true\", \
                stop_command: \"grep CapEff /proc/self/status > DIR/closed\", open_for: 2s";
    let guarded = GUARDED.replace("log/knockd.log", "knockd.log");
    let commands =
        guarded.replace("sequence: [7000, 8000, 9000], open: [22/tcp], open_for: 20s", door);
    let mut knockd = Knockd::start(&net.server, &commands);
    knock(&net);
    knockd.wait_for("OPEN SESAME");
    knockd.wait_for("ssh: running command");
    let opened = || knockd.grants().first().is_some_and(|grant| grant["state"] == "open");
    assert!(eventually(PATIENCE, opened), "{:?}", knockd.log());
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    knockd.configure(&guarded);
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for(" capabilities, and all files");
    let closed = knockd.directory.path().join("closed");
    assert!(eventually(PATIENCE, || closed.exists()), "{:?}", knockd.log());
}

/// The children of a process that are called so.
fn children(pid: i32, name: &str) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let is_called = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    children.split_whitespace().map(|pid| pid.parse().unwrap()).filter(is_called).collect()
}

#[test]
fn names_are_looked_up_by_a_process_that_has_nothing_else() {
    needs!("names", "nft");
    let net = Net::new();
    // What stands there is this namespace's for whoever is started in it.
    let etc = Path::new("/etc/netns").join(&net.server.name);
    fs::create_dir_all(&etc).unwrap();
    fs::write(etc.join("hosts"), format!("{CLIENT} knocker.example.com\n")).unwrap();
    let knockd = Knockd::spawn(&net.server, &GUARDED.replace("/log/", "/"), &["-l"]);
    knockd.wait_for("starting up, listening on");
    knock(&net);
    knockd.wait_for_count("192.0.2.2: is knocker.example.com", 1);
    let [names] = children(knockd.pid(), "knockd: names")[..] else { panic!("one process") };
    let status = status_of(names);
    assert!(told(&status, "Uid").starts_with("65534\t65534\t65534"), "{status}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(told(&status, set), format!("{:016x}", 0), "{set}");
    }
    // It ends, as if it had a fault: a door opens all the same, and after a while names are back.
    kill(Pid::from_raw(names), Signal::SIGKILL).unwrap();
    knockd.wait_for("the process that looks up names ended; no name is looked up for 1 s");
    knock(&net);
    knockd.wait_for_count("OPEN SESAME", 2);
    std::thread::sleep(Duration::from_secs(1));
    knock(&net);
    knockd.wait_for_count("192.0.2.2: is knocker.example.com", 2);
    let (status, _) = knockd.stop();
    assert_eq!(status.code(), Some(0));
    fs::remove_dir_all(etc).unwrap();
}

/// A user without root, with a home of its own and a copy of the programs.
struct Ordinary {
    directory: tempfile::TempDir,
}

const ORDINARY: u32 = 4242;
const TO_ORDINARY: [&str; 6] =
    ["--reuid", "4242", "--regid", "4242", "--clear-groups", "--inh-caps=-all,+net_raw"];

const ROOTLESS: &str = "doors:
  game:
    sequence: [7000, 8000, 9000]
    start_command: id -u > DIR/home/opened; grep CapAmb /proc/self/status >> DIR/home/opened
    stop_command: 'true'
    open_for: 1h
";

impl Ordinary {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        fs::create_dir_all(at.join("home")).unwrap();
        for program in [env!("CARGO_BIN_EXE_knockd"), env!("CARGO_BIN_EXE_knockctl")] {
            let name = Path::new(program).file_name().unwrap();
            fs::copy(program, at.join(name)).unwrap();
        }
        fs::write(at.join("knock.yaml"), "").unwrap();
        for path in [at.to_owned(), at.join("home"), at.join("knock.yaml")] {
            chown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
        }
        let ordinary = Self { directory };
        ordinary.configure(ROOTLESS);
        ordinary
    }

    fn configure(&self, text: &str) {
        let at = self.directory.path();
        fs::write(at.join("knock.yaml"), text.replace("DIR", at.to_str().unwrap())).unwrap();
    }

    /// Starts `knockd`, by `setpriv` with these arguments too.
    fn spawn(&self, net: &Net, setpriv: &[&str], arguments: &[&str]) -> Knockd {
        let at = self.directory.path();
        let mut command = net.server.command("env");
        command.args(["-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.arg(format!("HOME={}", at.join("home").display()));
        command.arg("setpriv").args(TO_ORDINARY).args(setpriv).arg(at.join("knockd"));
        command.args(["-i", "eth0", "-c"]).arg(at.join("knock.yaml")).args(arguments);
        Knockd::from_command(command, tempfile::tempdir().unwrap(), at.join("knock.yaml"))
    }

    fn knockctl(&self, arguments: &[&str]) -> String {
        let at = self.directory.path();
        let mut knockctl = command("setpriv");
        knockctl.args(&TO_ORDINARY[..5]).arg(at.join("knockctl")).arg("-c");
        knockctl.arg(at.join("knock.yaml")).args(arguments);
        knockctl.env_clear().env("HOME", at.join("home"));
        let output = knockctl.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8(said).unwrap()
    }

    /// A day in its life: knocks, a watcher that dies, a reload, knockctl, the end.
    fn live(&self, net: &Net, mut knockd: Knockd, state: &str, run: &str) {
        let at = self.directory.path();
        knockd.wait_for("starting up, listening on eth0");
        let [watcher] = knockd.watchers()[..] else { panic!("one watcher") };
        let status = status_of(watcher);
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(told(&status, set), format!("{:016x}", 0), "{set}");
        }
        knock(net);
        let opened = at.join("home/opened");
        let has_opened = || fs::read_to_string(&opened).is_ok_and(|it| it.ends_with("000\n"));
        assert!(eventually(PATIENCE, has_opened), "{:?}", knockd.log());
        let said = fs::read_to_string(&opened).unwrap();
        assert_eq!(said, format!("{ORDINARY}\nCapAmb:\t{:016x}\n", 0));

        kill(Pid::from_raw(watcher), Signal::SIGKILL).unwrap();
        knockd.wait_for("another starts");
        assert!(eventually(PATIENCE, || knockd.watchers().iter().any(|&it| it != watcher)));
        let reloads = || self.knockctl(&["reload"]).contains("the configuration is in force");
        assert!(eventually(PATIENCE, reloads), "{:?}", knockd.log());
        knockd.signal(Signal::SIGHUP);
        knockd.wait_for_count("re-reading config file", 2);

        assert!(at.join(state).join("ledger.db").exists());
        assert!(at.join(run).join("control.sock").exists());
        let said = self.knockctl(&["status"]);
        assert!(said.contains("game") && said.contains("192.0.2.2"), "{said}");
        let said = self.knockctl(&["open", "game", "192.0.2.9"]);
        assert!(said.contains("game is open for 192.0.2.9"), "{said}");

        let watchers = knockd.watchers();
        knockd.signal(Signal::SIGTERM);
        assert_eq!(knockd.ended().code(), Some(0), "{:?}", knockd.log());
        assert!(!at.join(run).join("knockd.pid").exists());
        // Who has ended has no program any more, though init may take its time to notice.
        let is_gone = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_err();
        assert!(eventually(PATIENCE, || watchers.iter().all(is_gone)), "a watcher is left");
    }
}

#[test]
fn an_ordinary_user_with_the_ambient_right_to_capture_runs_it() {
    needs!("rootless, ambient", "setpriv");
    let net = Net::new();
    let ordinary = Ordinary::new();
    let knockd = ordinary.spawn(&net, &["--ambient-caps=-all,+net_raw"], &[]);
    let state = "home/.local/state/knockd";
    ordinary.live(&net, knockd, state, &format!("{state}/run"));
}

#[test]
fn an_ordinary_user_with_a_program_that_may_capture_runs_it() {
    needs!("rootless, file capability", "setpriv", "setcap");
    let net = Net::new();
    let ordinary = Ordinary::new();
    let at = ordinary.directory.path();
    must("setcap", &["cap_net_raw+ep", at.join("knockd").to_str().unwrap()]);
    let [state, run] = ["own-state", "own-run"].map(|name| at.join("home").join(name));
    let options = ["--state-dir", state.to_str().unwrap(), "--run-dir", run.to_str().unwrap()];
    let knockd = ordinary.spawn(&net, &[], &[&options[..], &["-l"]].concat());
    knockd.wait_for("starting up, listening on eth0");
    let said = ordinary.knockctl(&["--run-dir", run.to_str().unwrap(), "status"]);
    assert!(said.contains("listening on   eth0"), "{said}");
    let settings = format!("knockd: {{run_dir: {}}}\n{ROOTLESS}", run.display());
    ordinary.configure(&settings);
    ordinary.live(&net, knockd, "home/own-state", "home/own-run");
}

#[test]
fn what_cannot_be_done_without_root_is_named_at_the_start() {
    needs!("rootless, refused", "setpriv");
    let net = Net::new();
    let ordinary = Ordinary::new();
    ordinary.configure(
        "knockd: {user: root}\ndoors:\n  \
         ssh: {sequence: [7000, 8000, 9000], open: [22]}\n  \
         game: {sequence: [7100, 8100, 9100], start_command: 'true'}\n",
    );
    let mut knockd = ordinary.spawn(&net, &[], &[]);
    assert_eq!(knockd.ended().code(), Some(1));
    let said = knockd.log().join("\n");
    for line in [
        "knockd: error: not started as root, and without that:",
        "    nothing is captured: run as root: setcap cap_net_raw+ep ",
        "    the watcher does not become 'root': take 'user' away",
        "    door 'ssh' does not open via guard, which takes CAP_NET_ADMIN: write a start_command",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("'game'"), "{said}");
    assert!(!ordinary.directory.path().join("home/.local").exists(), "nothing is left behind");
}
