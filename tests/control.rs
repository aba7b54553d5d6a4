//! `knockctl` beside a running `knockd`. Needs root for its namespaces.

#![cfg(feature = "daemon")]

mod support;

use std::net::IpAddr;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{CLIENT, Knockd, Net, PATIENCE, SERVER, can_make_namespaces, command, eventually};

const DOORS: &str = "
knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}
doors:
  ssh: {sequence: [7000, 8000, 9000], start_command: 'true', stop_command: 'true', open_for: 1h}
  slow: {sequence: [7100, 8100, 9100], start_command: sleep 0.5, stop_command: 'true'}
  broken: {sequence: [7200, 8200, 9200], start_command: sleep 0.2; false, stop_command: 'true'}
";

struct Site {
    net: Net,
    knockd: Knockd,
}

impl Site {
    /// `None` where there can be no namespaces.
    fn new(test: &str) -> Option<Self> {
        can_make_namespaces(test).then(|| {
            let net = Net::new();
            let knockd = Knockd::start(&net.server, DOORS);
            Self { net, knockd }
        })
    }

    fn knock(&self, ports: &[&str]) {
        let from: IpAddr = CLIENT.parse().unwrap();
        self.net.client.knock_from(from, SERVER, ports, Duration::from_millis(10));
    }

    fn knockctl(&self, arguments: &[&str]) -> Command {
        let mut command = command(env!("CARGO_BIN_EXE_knockctl"));
        command.arg("-c").arg(&self.knockd.config).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.knockctl(arguments).output().unwrap()
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn grants(&self) -> Vec<serde_json::Value> {
        let status: serde_json::Value =
            serde_json::from_str(&self.says(&["status", "--json"])).unwrap();
        status["grants"].as_array().unwrap().clone()
    }

    /// What a command that goes on until it is interrupted says while `meanwhile` runs.
    fn says_while(&self, arguments: &[&str], meanwhile: impl FnOnce()) -> String {
        let child = self.knockctl(arguments).stdout(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_millis(500));
        meanwhile();
        thread::sleep(Duration::from_millis(500));
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).unwrap()
    }
}

#[test]
fn who_knocked_is_in_the_status_until_the_door_is_closed_by_hand() {
    let Some(site) = Site::new("status") else { return };
    site.knock(&["7000", "8000", "9000"]);
    assert!(eventually(PATIENCE, || site.grants().len() == 1));
    let grant = site.grants().remove(0);
    assert_eq!((&grant["door"], &grant["address"]), (&"ssh".into(), &CLIENT.into()));
    assert_eq!(grant["by"], "sequence");
    assert!(grant["seconds_left"].as_f64().is_some_and(|left| left > 3500.0), "{grant}");

    site.says(&["close", "ssh", CLIENT]);
    assert!(eventually(PATIENCE, || site.grants().is_empty()));
    assert!(site.fails(&["close", "ssh", CLIENT]).contains("is not open"));
}

#[test]
fn a_door_opened_by_hand_is_open_when_it_is_said_to_be() {
    let Some(site) = Site::new("open by hand") else { return };
    let said = site.says(&["open", "slow", CLIENT, "--for", "10m"]);
    assert!(said.starts_with(&format!("slow is open for {CLIENT}, closes ")), "{said}");
    let grant = site.grants().remove(0);
    assert_eq!((&grant["state"], &grant["by"]), (&"open".into(), &"knockctl".into()));
    site.says(&["close", "--all"]);
    assert!(eventually(PATIENCE, || site.grants().is_empty()));
}

#[test]
fn a_door_that_does_not_open_by_hand_is_an_error() {
    let Some(site) = Site::new("open by hand fails") else { return };
    let said = site.fails(&["open", "broken", CLIENT]);
    assert!(said.contains(&format!("broken could not be opened for {CLIENT}")), "{said}");
    assert!(site.fails(&["open", "nosuch", CLIENT]).contains("there is no door 'nosuch'"));
}

#[test]
fn what_happens_is_watched() {
    let Some(site) = Site::new("watch") else { return };
    let said = site.says_while(&["watch", "--json"], || site.knock(&["7000", "8000", "9000"]));
    let events: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert!(kinds.starts_with(&["stage", "stage"]) && kinds.contains(&"open"), "{said}");
    assert!(events.iter().all(|event| event["source"] == CLIENT), "{said}");
}

#[test]
fn a_knock_that_did_not_open_is_explained_afterwards_and_as_it_happens() {
    let Some(site) = Site::new("explain --live") else { return };
    site.knock(&["7000", "8000", "9001"]);
    let said = site.says_while(&["explain", "--live", "--ip", CLIENT], || site.knock(&["7100"]));
    for expected in [
        "ssh     stage 2 of 3 (8000/tcp)",
        "ssh     reset at stage 2 of 3: a trip-wire was hit, 9000/tcp was expected",
        "slow    stage 1 of 3 (7100/tcp)",
    ] {
        assert!(said.contains(expected), "{expected} is not in\n{said}");
    }
    let said = site.says_while(&["explain", "--live", "--ip", "192.0.2.9"], || ());
    assert_eq!(said, "");
}
