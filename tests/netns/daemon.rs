//! `knockd` as a daemon: users, log, signals, start-up errors. Needs root for its namespaces.

use std::fs;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{CLIENT, Host, Knockd, Net, PATIENCE, SERVER, eventually, needs};

const SEQUENCE: [&str; 3] = ["7000", "8000", "9000"];

fn configuration(settings: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state{settings}}}\n\
         doors:\n  ssh: {{sequence: [7000, 8000, 9000], start_command: echo %IP% >> DIR/opened}}\n"
    )
}

fn knock(net: &Net) {
    let from: IpAddr = CLIENT.parse().unwrap();
    net.client.knock_from(from, SERVER, &SEQUENCE, Duration::from_millis(10));
}

/// Starts `knockd` where it has to fail; gives the exit status and what it said.
fn refused(host: &Host, configuration: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut knockd = Knockd::spawn(host, configuration, arguments);
    let status = knockd.ended();
    (status.code(), knockd.log().join("\n"))
}

#[test]
fn root_is_refused_as_the_watchers_user() {
    needs!("user root");
    let net = Net::new();
    let (status, said) = refused(&net.server, &configuration(", user: root"), &[]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("'user: root' would leave the watcher with root's rights"), "{said}");
}

#[test]
fn an_unknown_user_is_refused_with_what_to_do() {
    needs!("unknown user");
    let net = Net::new();
    let (status, said) = refused(&net.server, &configuration(", user: nosuchuser"), &[]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("useradd --system nosuchuser"), "{said}");
}

#[test]
fn an_ordinary_user_is_told_how_to_get_the_right_to_capture() {
    needs!("ordinary user");
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("knock.yaml");
    fs::write(&config, configuration("").replace("DIR", "/nonexistent")).unwrap();
    for path in [directory.path(), &config] {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // The build directory may be closed to others; a copy is not.
    let program = directory.path().join("knockd");
    fs::copy(env!("CARGO_BIN_EXE_knockd"), &program).unwrap();
    let output = crate::support::command(program.to_str().unwrap())
        .args(["--insecure-permissions", "-c"])
        .arg(&config)
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("nothing is captured: run as root: setcap cap_net_raw+ep"), "{said}");
}

#[test]
fn a_json_log_has_the_facts_as_fields() {
    needs!("json log");
    let net = Net::new();
    let log = ", user: nobody, log: {file: DIR/log, format: json}";
    let knockd = Knockd::start(&net.server, &configuration(log));
    knock(&net);
    knockd.wait_for("OPEN SESAME");
    let text = fs::read_to_string(knockd.directory.path().join("log")).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stage = lines.iter().find(|line| line["message"] == "Stage 2").unwrap();
    assert_eq!(stage["source"], CLIENT);
    assert_eq!(stage["door"], "ssh");
    assert_eq!(stage["stage"], 2);
    assert_eq!(stage["level"], "info");
    assert!(lines.iter().any(|line| line["event"] == "open" && line["source"] == CLIENT));
}

#[test]
fn the_servers_own_address_knocks_over_loopback_only() {
    needs!("own address");
    for interfaces in ["eth0", "lo", "any"] {
        let net = Net::new();
        let other = "192.0.2.9";
        net.server.must("ip", &["addr", "add", &format!("{other}/24"), "dev", "eth0"]);
        let mac = net.server.must("cat", &["/sys/class/net/eth0/address"]);
        let neighbour = ["neigh", "replace", other, "lladdr", mac.trim(), "dev", "eth0"];
        net.client.must("ip", &neighbour);
        net.client.must("ip", &["addr", "add", &format!("{SERVER}/32"), "dev", "lo"]);
        let text = configuration("").replace("[eth0]", &format!("[{interfaces}]"));
        let knockd = Knockd::start(&net.server, &text);
        let opened =
            || fs::read_to_string(knockd.directory.path().join("opened")).unwrap_or_default();
        let knock = |host: &Host, from: &str| {
            host.knock_from(from.parse().unwrap(), other, &SEQUENCE, Duration::from_millis(10));
        };
        let mut expected = String::new();
        // Over the wire, with the server's address as the source: nobody's.
        knock(&net.client, SERVER);
        if interfaces != "lo" {
            let status = || knockd.ask(r#"{"do":"status"}"#).remove(0);
            let count = || status()["counters"]["impossible-address"].as_u64().unwrap_or(0);
            assert!(eventually(PATIENCE, || count() >= 3), "{interfaces}: {}", status());
            knock(&net.client, CLIENT);
            expected += "192.0.2.2\n";
            assert!(eventually(PATIENCE, || opened() == expected), "{interfaces}: {}", opened());
        }
        if interfaces != "eth0" {
            knock(&net.server, SERVER);
            expected += "192.0.2.1\n";
            assert!(eventually(PATIENCE, || opened() == expected), "{interfaces}: {}", opened());
        }
        assert_eq!(opened(), expected, "{interfaces}");
    }
}

#[test]
fn a_log_file_that_was_rotated_away_is_opened_anew_at_sighup() {
    needs!("rotated log");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &configuration(", user: nobody, log: {file: DIR/log}"));
    let log = knockd.directory.path().join("log");
    fs::rename(&log, knockd.directory.path().join("log.1")).unwrap();
    knockd.signal(Signal::SIGHUP);
    assert!(eventually(PATIENCE, || log.exists()));
    knock(&net);
    knockd.wait_for("OPEN SESAME");
    // It is written there a moment later.
    let has_it = || fs::read_to_string(&log).unwrap().contains("OPEN SESAME");
    assert!(eventually(PATIENCE, has_it));
}

#[test]
fn a_storm_of_sighups_ends_with_one_watcher_that_hears() {
    needs!("sighup storm");
    let net = Net::new();
    let configuration =
        configuration(", user: nobody").replace("start_command", "seq_timeout: 1, start_command");
    let knockd = Knockd::start(&net.server, &configuration);
    for _ in 0..200 {
        knockd.signal(Signal::SIGHUP);
        std::thread::sleep(Duration::from_millis(3));
    }
    assert!(eventually(PATIENCE, || knockd.watchers().len() == 1), "{:?}", knockd.watchers());
    knock(&net);
    knockd.wait_for("OPEN SESAME");
    assert_eq!(knockd.count("the watcher ended"), 0, "{}", knockd.log().join("\n"));
}

/// The client has this address too, and knocks from it.
fn knock_on(net: &Net, host: u8, ports: &[&str]) {
    let from = format!("192.0.2.{host}");
    let _ = net.client.run("ip", &["addr", "add", &format!("{from}/24"), "dev", "eth0"]);
    net.client.knock_from(from.parse().unwrap(), SERVER, ports, Duration::from_millis(10));
}

#[test]
fn after_a_reload_the_old_watcher_stays_only_for_those_who_are_half_way() {
    needs!("old watcher");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &configuration(", user: nobody, log: {level: debug}"));
    let first = knockd.watchers();
    knockd.signal(Signal::SIGHUP);
    let is_replaced = || knockd.watchers().len() == 1 && knockd.watchers() != first;
    assert!(eventually(PATIENCE, is_replaced), "{:?}", knockd.watchers());
    knock_on(&net, 10, &["7000"]);
    knockd.wait_for("Stage 1");
    let old = knockd.watchers();
    knockd.signal(Signal::SIGHUP);
    assert!(eventually(PATIENCE, || knockd.watchers().len() == 2), "{:?}", knockd.watchers());
    // Longer than it would stay for nobody. What begins now is no reason to stay.
    std::thread::sleep(Duration::from_millis(500));
    knock_on(&net, 11, &["7000"]);
    knock_on(&net, 10, &["8000", "9000"]);
    knockd.wait_for("OPEN SESAME");
    let has_left = || !knockd.watchers().contains(&old[0]);
    assert!(eventually(PATIENCE, has_left), "{:?}", knockd.watchers());
    knock_on(&net, 11, &["8000", "9000"]);
    knockd.wait_for_count("OPEN SESAME", 2);
}

#[test]
fn few_watchers_stay_for_those_who_are_half_way_and_a_reload_waits_for_the_first() {
    needs!("many reloads");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &configuration(", user: nobody, log: {level: debug}"));
    for round in 1..=9 {
        knock_on(&net, 10 + round, &["7000"]);
        knockd.wait_for_count("Stage 1", round.into());
        if round < 9 {
            // Answered when the next watcher is at work.
            knockd.ask(r#"{"do":"reload"}"#);
            assert_eq!(knockd.watchers().len(), usize::from(round) + 1);
        }
    }
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("reloading within");
    assert_eq!(knockd.count("re-reading"), 8, "{}", knockd.log().join("\n"));
    for round in 1..=9 {
        knock_on(&net, 10 + round, &["8000", "9000"]);
    }
    knockd.wait_for_count("OPEN SESAME", 9);
    knockd.wait_for_count("re-reading", 9);
    assert!(eventually(PATIENCE, || knockd.watchers().len() == 1), "{:?}", knockd.watchers());
}

#[test]
fn a_name_is_looked_up_after_the_door_has_opened() {
    needs!("lookup");
    let net = Net::new();
    // `ip netns exec` puts these files in the place of the system's.
    let etc = format!("/etc/netns/{}", net.server.name);
    fs::create_dir_all(&etc).unwrap();
    fs::write(format!("{etc}/hosts"), format!("{CLIENT} phone.example.net\n")).unwrap();
    let knockd = Knockd::spawn(&net.server, &configuration(", user: nobody"), &["-l"]);
    knockd.wait_for("starting up");
    fs::remove_dir_all(&etc).unwrap();
    // Left where others use it too.
    let _ = fs::remove_dir("/etc/netns");
    knock(&net);
    knockd.wait_for("192.0.2.2: is phone.example.net");
    let log = knockd.log();
    let place = |text: &str| log.iter().position(|line| line.contains(text)).unwrap();
    assert!(place("running command") < place("is phone.example.net"), "{log:?}");
}

#[test]
fn the_watcher_ends_with_its_keeper() {
    needs!("killed keeper");
    let net = Net::new();
    let mut knockd = Knockd::start(&net.server, &configuration(", user: nobody"));
    let watcher = knockd.watchers()[0];
    kill(Pid::from_raw(knockd.pid()), Signal::SIGKILL).unwrap();
    knockd.ended();
    assert!(eventually(PATIENCE, || !Path::new(&format!("/proc/{watcher}")).exists()));
}

#[test]
fn a_keeper_that_stops_leaves_no_watcher_behind() {
    needs!("stopped keeper");
    let net = Net::new();
    let mut knockd = Knockd::start(&net.server, &configuration(", user: nobody"));
    let watcher = knockd.watchers()[0];
    knockd.signal(Signal::SIGTERM);
    assert_eq!(knockd.ended().code(), Some(0));
    assert!(!Path::new(&format!("/proc/{watcher}")).exists());
}

#[test]
fn a_configuration_that_strangers_can_write_is_refused() {
    needs!("permissions");
    use std::os::unix::fs::PermissionsExt;
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &configuration(", user: nobody"));
    fs::set_permissions(&knockd.config, fs::Permissions::from_mode(0o666)).unwrap();
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("the old configuration stays");
}

#[test]
fn two_daemons_run_from_one_classic_file_and_each_is_asked_by_its_pid_file() {
    needs!("two daemons");
    let host = Host::new("two");
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("knockd.conf");
    fs::write(&config, "[ssh]\nSequence = 7000,8000,9000\nCommand = true\n").unwrap();
    // `ip netns exec` gives it a mount namespace of its own.
    let script = r#"
        set -e
        mount -t tmpfs none /var/lib
        mount -t tmpfs none /run
        for name in wan lan; do "$1" -d -s -c "$3" -i lo -p /run/$name.pid; done
        for name in wan lan; do "$2" -c "$3" -p /run/$name.pid status >/dev/null; done
        kill $(cat /run/wan.pid)
        while [ -e /run/wan.pid ]; do sleep 0.05; done
        ! "$2" -c "$3" -p /run/wan.pid status 2>/dev/null
        "$2" -c "$3" -p /run/lan.pid status
        kill $(cat /run/lan.pid)
        while [ -e /run/lan.pid ]; do sleep 0.05; done
        ls /var/lib/knockd/instances
    "#;
    let programs = [env!("CARGO_BIN_EXE_knockd"), env!("CARGO_BIN_EXE_knockctl")];
    let output =
        host.command("sh").args(["-c", script, "sh"]).args(programs).arg(&config).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("ssh") && told.ends_with("lan\nwan\n"), "{told}");
}
