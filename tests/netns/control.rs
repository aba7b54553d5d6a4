//! `knockctl` beside a running `knockd`. Needs root for its namespaces.

use std::net::IpAddr;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{
    CLIENT, Knockd, Net, PATIENCE, SERVER, can_make_namespaces, command, eventually, has_programs,
    needs,
};

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
        can_make_namespaces(test).then(|| Self::with(DOORS, &[]))
    }

    /// The same, where the guard is needed; something listens on ports 22 and 80.
    fn guarded(test: &str, configuration: &str, arguments: &[&str]) -> Option<Self> {
        (can_make_namespaces(test) && has_programs(test, &["nft"])).then(|| {
            let site = Self::with(configuration, arguments);
            site.net.server.listen(22);
            site.net.server.listen(80);
            site
        })
    }

    fn with(configuration: &str, arguments: &[&str]) -> Self {
        let net = Net::new();
        let knockd = Knockd::spawn(&net.server, configuration, arguments);
        knockd.wait_for("starting up, listening on");
        Self { net, knockd }
    }

    fn is_open(&self, port: u16) -> bool {
        self.net.client.can_connect(SERVER, port)
    }

    fn opens(&self, port: u16) -> bool {
        eventually(PATIENCE, || self.is_open(port))
    }

    /// How many seconds each guarded port was locked for; `None`: for good.
    fn locked_for(&self) -> Vec<Option<u64>> {
        let set = ["-j", "list", "set", "inet", "knockd", "guarded"];
        let said: serde_json::Value =
            serde_json::from_str(&self.net.server.must("nft", &set)).unwrap();
        let sets = said["nftables"].as_array().unwrap().iter();
        let elements = sets.filter_map(|it| it["set"]["elem"].as_array()).flatten();
        elements.map(|element| element["elem"]["timeout"].as_u64()).collect()
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
        self.knockd.says_while(arguments, meanwhile)
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
fn whoever_opens_a_door_that_somebody_else_is_opening_is_told_what_came_of_it() {
    let Some(site) = Site::new("open by hand, two") else { return };
    let open = |door: &str| {
        let child = site.knockctl(&["open", door, CLIENT, "--for", "10m"]).spawn().unwrap();
        assert!(eventually(PATIENCE, || site.grants().iter().any(|it| it["state"] == "starting")));
        child
    };
    let mut first = open("slow");
    let said = site.says(&["open", "slow", CLIENT, "--for", "20m"]);
    let closes = |left| said.starts_with(&format!("slow is open for {CLIENT}, closes in {left}"));
    assert!(closes("20m\n") || closes("19m"), "{said}");
    assert!(first.wait().unwrap().success());
    let mut first = open("broken");
    let said = site.fails(&["open", "broken", CLIENT]);
    assert!(said.contains("opened with errors"), "{said}");
    assert!(!first.wait().unwrap().success());
}

#[test]
fn a_door_that_does_not_open_by_hand_is_an_error() {
    let Some(site) = Site::new("open by hand fails") else { return };
    let said = site.fails(&["open", "broken", CLIENT]);
    assert!(said.contains(&format!("broken could not be opened for {CLIENT}")), "{said}");
    // It stays as it is, for longer.
    let said = site.says(&["open", "broken", CLIENT, "--for", "10m"]);
    assert_eq!(said, format!("broken is opened with errors for {CLIENT}, closes in 10m\n"));
    assert!(site.fails(&["open", "nosuch", CLIENT]).contains("there is no door 'nosuch'"));
}

#[test]
fn an_act_whose_command_fails_is_an_error_and_in_the_history() {
    needs!("act fails");
    let bell = "  bell: {sequence: [7400, 8400, 9400], start_command: sleep 0.2; exit 3}\n";
    let site = Site::with(&format!("{DOORS}{bell}"), &[]);
    let said = site.fails(&["open", "bell", CLIENT]);
    assert!(said.contains(&format!("bell could not be opened for {CLIENT}: ")), "{said}");
    let events = ["bell act knockctl", "bell failed knockctl"];
    assert_eq!(told(&site.says(&["history", "--json"])), events);
    let knock = || site.knock(&["7400", "8400", "9400"]);
    let said = site.says_while(&["watch", "--json"], || {
        knock();
        assert!(eventually(PATIENCE, || site.knockd.count("the command failed") == 2));
    });
    assert!(said.contains(r#""event":"failed""#), "{said}");
}

#[test]
fn an_act_by_hand_is_said_to_be_done() {
    needs!("act by hand");
    let bell = "  bell: {sequence: [7400, 8400, 9400], start_command: 'true'}\n";
    let site = Site::with(&format!("{DOORS}{bell}"), &[]);
    let said = site.says(&["open", "bell", CLIENT]);
    assert!(said.contains("what it does is done for 192.0.2.2"), "{said}");
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
        "ssh     reset at stage 2 of 3: 9001/tcp is a trip-wire, 9000/tcp was expected",
        "slow    stage 1 of 3 (7100/tcp)",
    ] {
        assert!(said.contains(expected), "{expected} is not in\n{said}");
    }
    let said = site.says_while(&["explain", "--live", "--ip", "192.0.2.9"], || ());
    assert_eq!(said, "");
}

#[test]
fn whoever_asks_about_all_is_told_while_somebody_asks_about_one() {
    let Some(site) = Site::new("explain --live, two") else { return };
    let said = site.says_while(&["explain", "--live"], || {
        let of_one = &["explain", "--live", "--ip", "192.0.2.9"];
        let said = site.says_while(of_one, || site.knock(&["7000", "7001"]));
        assert_eq!(said, "");
    });
    assert!(said.contains("reset at stage 1 of 3: 7001/tcp is a trip-wire"), "{said}");
}

#[test]
fn what_happened_before_a_reload_is_explained_with_what_came_of_it() {
    let Some(site) = Site::new("explain after a reload") else { return };
    site.knock(&["7000", "8000", "9001"]);
    site.knock(&["7000", "8000", "9000"]);
    assert!(eventually(PATIENCE, || site.grants().len() == 1));
    let first = site.knockd.watchers();
    site.knockd.signal(Signal::SIGHUP);
    assert!(eventually(PATIENCE, || !site.knockd.watchers().contains(&first[0])), "no new watcher");
    site.knock(&["7100"]);
    let said = site.says_while(&["explain", "--live", "--ip", CLIENT], || site.knock(&["7103"]));
    let mut rest = said.as_str();
    for expected in [
        "ssh     stage 2 of 3 (8000/tcp)",
        "ssh     reset at stage 2 of 3: 9001/tcp is a trip-wire, 9000/tcp was expected",
        "ssh     stage 3 of 3 (9000/tcp)",
        "ssh     open by sequence",
        "slow    stage 1 of 3 (7100/tcp)",
        "slow    reset at stage 1 of 3: 7103/tcp is a trip-wire, 8100/tcp was expected",
    ] {
        let at = rest.find(expected);
        let at = at.unwrap_or_else(|| panic!("{expected} is not in its place in\n{said}"));
        rest = &rest[at..];
    }
}

#[test]
fn a_sequence_that_opens_nothing_is_not_said_to_be_open() {
    let Some(site) = Site::new("complete, refused") else { return };
    let door = "  v6: {sequence: [7300, 8300, 9300], start_command: '', start_command_6: 'true'}\n";
    site.knockd.configure(&format!("{DOORS}{door}"));
    site.says(&["reload"]);
    let said = site.says_while(&["explain", "--live"], || site.knock(&["7300", "8300", "9300"]));
    let refused = "v6      refused: nothing opens the door for IPv4\n";
    let complete = said.find("v6      complete by sequence\n");
    let refused = said.find(refused);
    assert!(complete.is_some() && complete < refused && !said.contains("open by"), "{said}");
}

/// What the history has: `door event by`, the oldest first.
fn told(history: &str) -> Vec<String> {
    let line = |line: &str| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let part = |name: &str| event[name].as_str().unwrap().to_owned();
        format!("{} {} {}", part("door"), part("event"), part("by"))
    };
    history.lines().map(line).collect()
}

#[test]
fn the_history_has_what_was_opened_closed_refused_and_what_failed() {
    needs!("history");
    let doors = format!(
        "{DOORS}  v4: {{sequence: [7300, 8300, 9300], start_command: 'true', \
         start_command_6: '', stop_command: 'true'}}\n  \
         bell: {{sequence: [7400, 8400, 9400], start_command: 'true'}}\n"
    );
    let site = Site::with(&doors, &[]);
    let history =
        |arguments: &[&str]| told(&site.says(&[&["history", "--json"], arguments].concat()));
    assert!(history(&[]).is_empty());

    site.knock(&["7000", "8000", "9000"]);
    assert!(eventually(PATIENCE, || history(&[]) == ["ssh open sequence"]));
    site.says(&["open", "ssh", CLIENT, "--for", "2h"]);
    site.says(&["close", "ssh", CLIENT]);
    assert!(eventually(PATIENCE, || history(&[]).len() == 3));
    site.fails(&["open", "broken", "192.0.2.9"]);
    site.fails(&["open", "v4", "2001:db8::9"]);
    site.says(&["open", "bell", CLIENT]);

    let ssh = ["ssh open sequence", "ssh extend knockctl", "ssh close knockctl"];
    // What a command of its own failed to do may be done all the same.
    let broken = ["broken failed knockctl", "broken open knockctl"];
    let rest = ["v4 refused knockctl", "bell act knockctl"];
    assert_eq!(history(&[]), [&ssh[..], &broken, &rest].concat());
    assert_eq!(history(&["--door", "ssh"]), ssh);
    assert_eq!(history(&["--ip", "192.0.2.9"]), broken);
    assert_eq!(history(&["--ip", "2001:db8::9", "--since", "1h"]), ["v4 refused knockctl"]);
    assert!(history(&["--since", "2100-01-01"]).is_empty());

    let said = site.says(&["history", "--door", "ssh"]);
    assert!(said.contains("open by sequence\n") && said.contains("closed by hand\n"), "{said}");
}

#[test]
fn all_doors_are_closed_at_once() {
    let Some(site) = Site::new("close --all") else { return };
    assert_eq!(site.says(&["close", "--all"]), "nothing is open\n");
    site.says(&["open", "ssh", CLIENT]);
    assert_eq!(site.says(&["close", "--all"]), "1 open door closes\n");
    assert!(eventually(PATIENCE, || site.grants().is_empty()));
}

const GUARDED: &str = "
knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}
doors:
  ssh: {sequence: [7000, 8000, 9000], open: [22]}
";
const ONE_MORE: &str = "  web: {sequence: [7100, 8100, 9100], open: [80]}\n";

#[test]
fn a_configuration_that_is_confirmed_stays() {
    let Some(site) = Site::guarded("try, confirm", DOORS, &[]) else { return };
    site.knockd.configure(GUARDED);
    let said = site.says(&["try", "--for", "10s"]);
    assert!(said.contains("check from a NEW connection"), "{said}");
    assert!(said.contains(&format!("knockctl -c {} confirm", site.knockd.config.display())));
    assert!(!site.is_open(22), "the new configuration is not in force");
    assert_eq!(site.locked_for(), [Some(10)]);
    assert!(site.says(&["status"]).contains("on trial       until "));

    assert!(site.says(&["confirm"]).contains("the configuration stays"));
    assert_eq!(site.locked_for(), [None]);
    assert!(!site.says(&["status"]).contains("on trial"));
    assert!(site.fails(&["confirm"]).contains("nothing is on trial"));
    assert!(!site.is_open(22));
}

#[test]
fn without_a_confirmation_a_configuration_without_a_guard_comes_back() {
    let Some(site) = Site::guarded("try, back to no guard", DOORS, &[]) else { return };
    site.knockd.configure(GUARDED);
    site.says(&["try", "--for", "10s"]);
    assert!(!site.is_open(22));
    site.knockd.wait_for("the configuration before the trial is in force again");
    assert!(site.is_open(22), "the port stays locked");
    assert!(site.fails(&["confirm"]).contains("nothing is on trial"));
    let said = site.says(&["status"]);
    assert!(said.contains("broken") && !said.contains("guard"), "{said}");
}

#[test]
fn without_a_confirmation_the_guard_of_before_comes_back_with_its_grants() {
    let Some(site) = Site::guarded("try, back to a guard", GUARDED, &[]) else { return };
    site.says(&["open", "ssh", "192.0.2.9", "--for", "1h"]);
    site.knockd.configure(&format!("{GUARDED}{ONE_MORE}"));
    site.says(&["try", "--for", "10s"]);
    assert!(!site.is_open(22) && !site.is_open(80));
    site.says(&["open", "web", "192.0.2.9", "--for", "1h"]);
    site.knockd.wait_for("the configuration before the trial is in force again");
    assert!(site.is_open(80), "the port stays locked");
    assert!(!site.is_open(22), "the port of before is not locked any more");
    assert_eq!(site.locked_for(), [None]);
    let grants = site.grants();
    assert_eq!(grants.len(), 1, "{grants:?}");
    assert_eq!(grants[0]["door"], "ssh");
}

#[test]
fn a_way_back_that_is_barred_is_taken_once_it_is_free() {
    needs!("try, barred", "nft");
    let net = Net::new();
    let table = "add table inet t; add set inet t s { type ipv4_addr; flags timeout; }";
    net.server.must("nft", &[table]);
    let own = "  own: {sequence: [7200, 8200], via: {nft_set: {table: inet t, set4: s}}}\n";
    let knockd = Knockd::start(&net.server, &format!("{GUARDED}{own}"));
    let site = Site { net, knockd };
    site.net.server.listen(22);
    site.net.server.listen(80);
    site.knockd.configure(&format!("{GUARDED}{ONE_MORE}"));
    site.says(&["try", "--for", "10s"]);
    // What the configuration before needs is not there.
    site.net.server.must("nft", &["delete table inet t"]);
    site.knockd.wait_for("; once more in 15s");
    // The kernel takes the locks of the trial away: nobody is locked out.
    assert!(site.opens(22) && site.opens(80));
    site.net.server.must("nft", &[table]);
    site.knockd.wait_for("the configuration before the trial is in force again");
    assert!(!site.is_open(22) && site.is_open(80));
}

#[test]
fn nothing_else_is_taken_up_during_a_trial() {
    let Some(site) = Site::guarded("try, reload", DOORS, &[]) else { return };
    site.knockd.configure(GUARDED);
    site.says(&["try", "--for", "1h"]);
    site.knockd.configure(&format!("{GUARDED}{ONE_MORE}"));
    site.knockd.signal(Signal::SIGHUP);
    site.knockd.wait_for("not reloading: a configuration is on trial");
    assert!(site.fails(&["try"]).contains("on trial already"));
    assert!(site.is_open(80));

    site.says(&["confirm"]);
    site.knockd.signal(Signal::SIGHUP);
    assert!(eventually(PATIENCE, || !site.is_open(80)), "80 is not locked");
}

#[test]
fn a_table_restored_during_a_trial_is_locked_for_no_longer() {
    let Some(site) = Site::guarded("try, flush", DOORS, &[]) else { return };
    site.knockd.configure(GUARDED);
    site.says(&["try", "--for", "1h"]);
    thread::sleep(Duration::from_millis(2500));
    site.net.server.must("nft", &["flush", "ruleset"]);
    site.knockd.wait_for("it is restored");
    let locked_for = site.locked_for();
    assert!(matches!(locked_for[..], [Some(..3599)]), "{locked_for:?}");
}

#[test]
fn a_configuration_that_cannot_be_taken_up_is_not_on_trial() {
    let Some(site) = Site::guarded("try, broken", GUARDED, &[]) else { return };
    site.knockd.configure(&GUARDED.replace("7000", "70000"));
    assert!(site.fails(&["try"]).contains("70000"));
    // There is no such set.
    site.knockd
        .configure(&GUARDED.replace("[22]", "[22, 80], via: {nft_set: {table: ip x, set4: y}}"));
    assert!(site.fails(&["try"]).contains("knockctl: error: "));
    assert!(site.fails(&["confirm"]).contains("nothing is on trial"));
    assert!(!site.is_open(22));
    assert_eq!(site.locked_for(), [None]);
}

#[test]
fn a_knockd_started_on_trial_goes_on_once_confirmed() {
    let Some(site) = Site::guarded("--try, confirm", GUARDED, &["--try", "1h"]) else { return };
    assert!(site.says(&["status"]).contains("on trial"));
    let locked_for = site.locked_for();
    assert!(matches!(locked_for[..], [Some(3500..=3600)]), "{locked_for:?}");
    site.says(&["confirm"]);
    assert_eq!(site.locked_for(), [None]);
    assert!(!site.is_open(22));
}

#[test]
fn a_knockd_started_on_trial_says_how_to_confirm_and_leaves_no_lock_if_nobody_does() {
    let Some(mut site) = Site::guarded("--try, Ctrl-C", GUARDED, &["--try", "1h"]) else { return };
    site.knockd
        .wait_for(&format!("then type: knockctl -c {} confirm", site.knockd.config.display()));
    site.knockd.wait_for("on trial until ");
    site.knockd.signal(Signal::SIGINT);
    assert_eq!(site.knockd.ended().code(), Some(0));
    assert!(site.is_open(22), "the port stays locked");
    assert_eq!(site.knockd.count("stays locked"), 0);
}

#[test]
fn a_knockd_that_stops_during_a_trial_leaves_the_locks_of_before_and_says_so() {
    let Some(mut site) = Site::guarded("try, stop", GUARDED, &[]) else { return };
    site.knockd.configure(&format!("{GUARDED}{ONE_MORE}"));
    site.says(&["try", "--for", "1h"]);
    assert!(!site.is_open(80));
    site.knockd.signal(Signal::SIGTERM);
    assert_eq!(site.knockd.ended().code(), Some(0));
    site.knockd.wait_for("stays locked: 22/tcp; 'nft delete table inet knockd' unlocks");
    assert!(site.is_open(80) && !site.is_open(22));
    assert_eq!(site.locked_for(), [None]);
}

#[test]
fn a_knockd_that_died_during_a_trial_is_on_trial_when_it_is_started_anew() {
    let Some(mut site) = Site::guarded("try, died", DOORS, &[]) else { return };
    site.knockd.configure(GUARDED);
    site.says(&["try", "--for", "1h"]);
    site.knockd.signal(Signal::SIGKILL);
    site.knockd.ended();
    site.knockd = site.knockd.start_again(&site.net.server);
    site.knockd.wait_for("this configuration was on trial before this start: it still is");
    site.knockd.wait_for("starting up");
    let locked_for = site.locked_for();
    assert!(matches!(locked_for[..], [Some(3500..=3600)]), "{locked_for:?}");

    site.says(&["confirm"]);
    site.knockd.signal(Signal::SIGKILL);
    site.knockd.ended();
    site.knockd = site.knockd.start_again(&site.net.server);
    site.knockd.wait_for("starting up");
    assert_eq!(site.locked_for(), [None]);
}

#[test]
fn a_watcher_that_dies_during_a_trial_does_not_end_it() {
    let Some(site) = Site::guarded("try, watcher", DOORS, &[]) else { return };
    site.knockd.configure(GUARDED);
    site.says(&["try", "--for", "10s"]);
    // The one of before may still be seeing its sequences out.
    for watcher in site.knockd.watchers() {
        kill(Pid::from_raw(watcher), Signal::SIGKILL).unwrap();
    }
    site.knockd.wait_for("the watcher ended");
    site.knockd.wait_for("the configuration before the trial is in force again");
    assert!(site.opens(22), "the port stays locked");
}

#[test]
fn whoever_guesses_codes_is_locked_out_over_a_reload_and_until_somebody_unlocks_them() {
    let configuration = "
knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}
clients:
  phone: {doors: [ssh], totp: {secret: JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP}}
doors:
  ssh: {totp: {mode: code, base: 7000}, open: [22], seq_timeout: 1s,
        lockout: {failures: 2, within: 10m, for: 1h}}
";
    let Some(site) = Site::guarded("lockout", configuration, &[]) else { return };
    let guess = |from: &str| {
        // Two more than two codes have: the last may be the beginning of a code that is right now.
        let ports = ["7001", "7002", "7003", "7001", "7003", "7002", "7001", "7003"];
        let delay = Duration::from_millis(5);
        site.net.client.knock_from(from.parse::<IpAddr>().unwrap(), SERVER, &ports, delay);
    };
    guess(CLIENT);
    site.knockd.wait_for("192.0.2.2: ssh: failed too often: not listened to at this door");
    let locked = || site.knockd.ask(r#"{"do":"status"}"#)[0]["locked_out"][0].clone();
    assert_eq!((&locked()["door"], &locked()["address"]), (&"ssh".into(), &CLIENT.into()));
    let first = site.knockd.watchers();
    site.knockd.signal(Signal::SIGHUP);
    site.knockd.wait_for("re-reading config file");
    assert!(eventually(PATIENCE, || !site.knockd.watchers().contains(&first[0])), "no new watcher");
    assert!(!locked().is_null(), "a reload forgets who is locked out");
    guess(CLIENT);
    assert_eq!(site.knockd.count("failed too often"), 1, "the new watcher listens to it");
    let unlocked = site.run(&["unlock", CLIENT]);
    assert!(unlocked.status.success(), "{unlocked:?}");
    assert!(locked().is_null());
    guess(CLIENT);
    site.knockd.wait_for_count("failed too often: not listened to at this door", 2);
    assert_eq!(site.knockd.count("failed too often"), 2, "it was listened to while locked out");
    let stranger = site.run(&["unlock", "192.0.2.99"]);
    assert!(!stranger.status.success());
    assert!(String::from_utf8_lossy(&stranger.stderr).contains("192.0.2.99 is not locked out"));
}
