//! The life of a grant that commands open, against real firewalls: commands that fail, firewalls
//! that somebody else reloads, and more knocks than anybody honest makes.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{CLIENT, Knockd, Net, PATIENCE, SERVER, command, eventually, needs};

const SOON: Duration = Duration::from_millis(5);

/// A door `ssh` with this in it, and templates.
fn configuration(door: &str, rest: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
         doors:\n  ssh:\n    sequence: [7000, 8000, 9000]\n{door}{rest}"
    )
}

/// A template that accepts by iptables, and looks.
const ACCEPT: &str = "
templates:
  accept:
    open:   [iptables, -w, -I, INPUT, -s, '%IP%', -p, '%PROTO%', --dport, '%PORT%', -j, ACCEPT]
    close:  [iptables, -w, -D, INPUT, -s, '%IP%', -p, '%PROTO%', --dport, '%PORT%', -j, ACCEPT]
    verify: [iptables, -w, -C, INPUT, -s, '%IP%', -p, '%PROTO%', --dport, '%PORT%', -j, ACCEPT]
";

fn knock(net: &Net) {
    knock_from(net, CLIENT.parse().unwrap());
}

fn knock_from(net: &Net, address: IpAddr) {
    net.client.knock_from(address, SERVER, &["7000", "8000", "9000"], SOON);
}

fn rules(net: &Net) -> usize {
    let rules = net.server.must("iptables", &["-S", "INPUT"]);
    rules.lines().filter(|line| line.contains("-j ACCEPT")).count()
}

fn open_by_hand(knockd: &Knockd, door: &str, address: &str) -> Value {
    let request =
        format!(r#"{{"do":"open","door":"{door}","address":"{address}","seconds":null}}"#);
    knockd.ask(&request).pop().unwrap()
}

fn states(knockd: &Knockd) -> Vec<String> {
    knockd.grants().iter().map(|grant| grant["state"].as_str().unwrap().to_owned()).collect()
}

fn history(knockd: &Knockd) -> Vec<(String, String)> {
    let told = knockd.ask(r#"{"do":"history"}"#);
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let line = |line: &Value| (text(line, "event"), text(line, "message"));
    told.iter().filter(|line| line["reply"] == "event").map(line).collect()
}

#[test]
fn a_command_that_opened_and_then_failed_stands_with_errors_until_its_time() {
    needs!("opened with errors", "iptables");
    let net = Net::new();
    net.shut(22);
    let door = "    open_for: 3s
    start_command: iptables -w -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT && false
    stop_command: iptables -w -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT
";
    let knockd = Knockd::start(&net.server, &configuration(door, ""));
    knock(&net);
    assert!(eventually(PATIENCE, || states(&knockd) == ["opened with errors"]));
    assert!(net.client.can_connect(SERVER, 22));
    let knockctl = |arguments: &[&str]| {
        let mut knockctl = command(env!("CARGO_BIN_EXE_knockctl"));
        let output = knockctl.arg("-c").arg(&knockd.config).args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()))
    };
    let (_, said) = knockctl(&["status"]);
    assert!(said.as_ref().unwrap().contains("opened with errors"), "{said:?}");
    let (well, said) = knockctl(&["open", "ssh", "192.0.2.77"]);
    let said = said.unwrap();
    assert!(!well && said.contains("with errors"), "{said}");
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
    assert!(!net.client.can_connect(SERVER, 22));
    assert_eq!(rules(&net), 0);
    let events: Vec<String> = history(&knockd).into_iter().map(|(event, _)| event).collect();
    assert_eq!(events.iter().filter(|event| *event == "failed").count(), 2, "{events:?}");
    assert_eq!(events.iter().filter(|event| *event == "close").count(), 2, "{events:?}");
}

#[test]
fn a_template_of_which_one_port_fails_leaves_none_open() {
    needs!("half a template", "iptables");
    let net = Net::new();
    let door = "    open: [22/tcp, 23/tcp]\n    via: half\n    open_for: 1h\n";
    // The second one opens, and then says that it has failed.
    let half = "
templates:
  half:
    open: iptables -w -I INPUT -s %IP% -p tcp --dport %PORT% -j ACCEPT; test %PORT% = 22
    close: iptables -w -D INPUT -s %IP% -p tcp --dport %PORT% -j ACCEPT
";
    let knockd = Knockd::start(&net.server, &configuration(door, half));
    knock(&net);
    knockd.wait_for("what was done of it is undone");
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
    assert_eq!(rules(&net), 0);
    assert_eq!(knockd.count("may still be open"), 0);
}

#[test]
fn a_close_that_fails_is_tried_again() {
    needs!("close again");
    let net = Net::new();
    let door = "    open_for: 1s
    start_command: touch DIR/open
    stop_command: test -e DIR/works && rm DIR/open
";
    let knockd = Knockd::start(&net.server, &configuration(door, ""));
    let file = |name: &str| knockd.directory.path().join(name);
    knock(&net);
    knockd.wait_for_count("it is tried again", 2);
    assert!(file("open").exists() && states(&knockd) == ["closing"]);
    fs::write(file("works"), "").unwrap();
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
    assert!(!file("open").exists());
    assert_eq!(knockd.count("may still be open"), 0);
}

#[test]
fn a_close_that_keeps_failing_is_told_loudly_and_keeps_nobody_out_for_good() {
    needs!("close never");
    let net = Net::new();
    let door = "    open_for: 1s\n    start_command: 'true'\n    stop_command: 'false'\n";
    let knockd = Knockd::start(&net.server, &configuration(door, ""));
    knock(&net);
    knockd.wait_for("may still be open");
    assert_eq!(knockd.count("running command: false"), 5);
    let told = history(&knockd);
    assert!(told.iter().any(|(event, why)| event == "failed" && why.contains("still be open")));
    assert!(told.iter().all(|(event, _)| event != "close"), "{told:?}");
    assert_eq!(states(&knockd), ["not closed"]);
    knock(&net);
    knockd.wait_for_count("running command: true", 2);
    // What was left is undone first.
    assert_eq!(knockd.count("running command: false"), 6);
    assert!(eventually(PATIENCE, || states(&knockd) == ["not closed"]));
    let knockctl = command(env!("CARGO_BIN_EXE_knockctl"))
        .arg("-c")
        .arg(&knockd.config)
        .args(["close", "ssh", CLIENT])
        .status();
    assert!(knockctl.unwrap().success());
    assert!(states(&knockd).is_empty());
}

#[test]
fn what_commands_opened_is_closed_by_a_knockd_that_cannot_start() {
    needs!("no start", "nft");
    let net = Net::new();
    net.server.must(
        "nft",
        &["add table inet own; add set inet own let { type ipv4_addr; flags timeout; }"],
    );
    let door = "    open_for: 1h
    start_command: touch DIR/open
    stop_command: rm DIR/open
  set: {sequence: [7100, 8100, 9100], open: [22], open_for: 1h, via: {nft_set: {table: inet own, set4: let}}}
";
    let mut knockd = Knockd::start(&net.server, &configuration(door, ""));
    let open = knockd.directory.path().join("open");
    knock(&net);
    assert!(eventually(PATIENCE, || states(&knockd) == ["open"]));
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    net.server.must("nft", &["delete", "table", "inet", "own"]);
    let mut knockd = knockd.start_again(&net.server);
    assert_eq!(knockd.ended().code(), Some(1));
    assert!(knockd.count("there is no table 'inet own'") > 0, "{:?}", knockd.log());
    assert!(!open.exists());
}

#[test]
fn at_sigterm_what_is_still_opening_is_ended_and_closed() {
    needs!("stop while opening");
    let net = Net::new();
    let door = "    open_for: 1h
    command_limit: none
    start_command: touch DIR/open; exec sleep 1000
    stop_command: rm DIR/open
";
    let mut knockd = Knockd::start(&net.server, &configuration(door, ""));
    let open = knockd.directory.path().join("open");
    knock(&net);
    assert!(eventually(PATIENCE, || open.exists()));
    knockd.signal(Signal::SIGTERM);
    assert_eq!(knockd.ended().code(), Some(0));
    assert!(!open.exists());
    assert_eq!(knockd.count("could be closed in time"), 0);
}

#[test]
fn after_somebody_has_reloaded_the_firewall_a_knock_opens_again() {
    needs!("reloaded firewall", "iptables");
    let net = Net::new();
    net.shut(22);
    let door = "    open: [22/tcp]\n    via: accept\n    open_for: 8h\n";
    let knockd = Knockd::start(&net.server, &configuration(door, ACCEPT));
    knock(&net);
    assert!(eventually(PATIENCE, || states(&knockd) == ["open"]));
    assert!(net.client.can_connect(SERVER, 22));
    net.server.must("iptables", &["-F", "INPUT"]);
    net.server.must("iptables", &["-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "DROP"]);
    assert_eq!(states(&knockd), ["gone"]);
    assert!(!net.client.can_connect(SERVER, 22));
    knock(&net);
    knockd.wait_for("opened again, since it was gone");
    assert!(net.client.can_connect(SERVER, 22));
    assert_eq!(states(&knockd), ["open"]);
    // What is there is not opened twice.
    knock(&net);
    knockd.wait_for("open already, now for another");
    assert_eq!(rules(&net), 1);
    let (event, why) = history(&knockd).remove(1);
    assert!(event == "extend" && why.contains("since it was gone"), "{event}: {why}");
    let (status, _) = knockd.stop();
    assert!(status.success());
    assert_eq!(rules(&net), 0);
}

#[test]
fn a_door_that_is_not_open_after_its_open_command_is_not_called_open() {
    needs!("not there", "iptables");
    let net = Net::new();
    let door = "    open: [22/tcp]\n    via: accept\n";
    let nowhere = ACCEPT.replace("-I, INPUT", "-I, OUTPUT");
    let knockd = Knockd::start(&net.server, &configuration(door, &nowhere));
    let reply = open_by_hand(&knockd, "ssh", "192.0.2.7");
    assert_eq!(reply["reply"], "failed");
    assert!(reply["why"].as_str().unwrap().contains("is not there after its open command"));
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
    // The close command failed too, and there is nothing to close.
    assert_eq!(knockd.count("may still be open") + knockd.count("tried again"), 0);
}

#[test]
fn what_ends_by_itself_gets_its_new_time_and_is_not_missed_when_it_has_ended() {
    needs!("timed", "ipset");
    let net = Net::new();
    net.server.must("ipset", &["create", "allowed", "hash:ip", "timeout", "60"]);
    let door = "    open_for: 4s
    start_command: [ipset, add, allowed, '%IP%', timeout, '%SECONDS%']
    stop_command: [ipset, del, allowed, '%IP%']
";
    let knockd = Knockd::start(&net.server, &configuration(door, ""));
    let left = || {
        let list = net.server.must("ipset", &["list", "allowed"]);
        let line = list.lines().find(|line| line.starts_with(CLIENT)).map(str::to_owned);
        line.and_then(|line| line.split_whitespace().nth(2)?.parse::<u32>().ok())
    };
    knock(&net);
    assert!(eventually(PATIENCE, || left().is_some()));
    assert!(eventually(PATIENCE, || left() == Some(2)));
    knock(&net);
    knockd.wait_for("open already, now for another");
    assert!(left().unwrap() >= 3, "the element ends at its old time");
    net.server.must("ipset", &["del", "allowed", CLIENT]);
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
    assert_eq!(knockd.count("may still be open") + knockd.count("tried again"), 0);
}

#[test]
fn what_two_doors_hold_stays_until_the_last_of_them_has_closed() {
    needs!("two doors", "ipset");
    let net = Net::new();
    net.server.must("ipset", &["create", "both", "hash:ip"]);
    let set = "
templates:
  set:
    open:   [ipset, add, both, '%IP%']
    close:  [ipset, del, both, '%IP%']
    verify: [ipset, test, both, '%IP%']
";
    let door = "    open: [22/tcp]\n    via: set\n    open_for: 2s\n";
    let other = "  web: {sequence: [7100, 8100, 9100], open: [80/tcp], via: set, open_for: 1h}\n";
    let knockd = Knockd::start(&net.server, &configuration(door, &format!("{other}{set}")));
    assert_eq!(open_by_hand(&knockd, "ssh", "192.0.2.9")["reply"], "done");
    assert_eq!(open_by_hand(&knockd, "web", "192.0.2.9")["reply"], "done");
    assert!(eventually(PATIENCE, || knockd.grants().len() == 1));
    assert!(net.server.run("ipset", &["test", "both", "192.0.2.9"]).status.success());
    assert_eq!(knockd.count("running command: ipset add"), 1);
    knockd.ask(r#"{"do":"close","door":"web","address":"192.0.2.9"}"#);
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
    assert!(!net.server.run("ipset", &["test", "both", "192.0.2.9"]).status.success());
    assert_eq!(knockd.count("failed"), 0);
}

#[test]
fn at_sigterm_hundreds_of_rules_are_closed_before_it_ends() {
    needs!("sigterm rules", "iptables");
    let net = Net::new();
    let door = "    open: [22/tcp]\n    via: iptables\n    open_for: 1h\n";
    let mut knockd = Knockd::start(&net.server, &configuration(door, ""));
    for number in 0..300 {
        let address = format!("198.51.{}.{}", 100 + number / 200, number % 200);
        assert_eq!(open_by_hand(&knockd, "ssh", &address)["reply"], "done");
    }
    assert_eq!(rules(&net), 300);
    knockd.signal(Signal::SIGTERM);
    assert!(eventually(Duration::from_secs(120), || rules(&net) == 0));
    assert_eq!(knockd.ended().code(), Some(0));
}

/// Knocks truly, from so many addresses that are not the client's own.
fn flood(net: &Net, count: u8) {
    net.client.must("ip", &["route", "add", "local", "198.51.100.0/24", "dev", "lo"]);
    net.server.must("ip", &["route", "add", "198.51.100.0/24", "via", CLIENT]);
    let ports = ["7000", "8000", "9000"].map(str::to_owned);
    net.client.enter(move || {
        for last in 0..count {
            let from = IpAddr::from([198, 51, 100, last]);
            crate::support::knock(
                from,
                SERVER.parse().unwrap(),
                &ports,
                Duration::from_micros(500),
            );
        }
    });
}

#[test]
fn a_flood_of_true_knocks_meets_the_bound_and_whoever_is_in_can_stay() {
    needs!("flood", "nft");
    let net = Net::new();
    net.server.listen(22);
    let door = "    open: [22/tcp]\n    max_grants: 50\n    open_for: 1m\n";
    let knockd = Knockd::start(&net.server, &configuration(door, ""));
    knock(&net);
    assert!(eventually(PATIENCE, || net.client.can_connect(SERVER, 22)));
    flood(&net, 200);
    let refused = || {
        let status = knockd.ask(r#"{"do":"status"}"#).remove(0);
        status["counters"]["too-many"].as_u64().unwrap_or_default()
    };
    assert!(eventually(PATIENCE, || refused() >= 100), "{}", refused());
    assert_eq!(knockd.grants().len(), 50);
    knock(&net);
    knockd.wait_for("open already");
    let reply = open_by_hand(&knockd, "ssh", "192.0.2.99");
    assert!(reply["why"].as_str().unwrap().contains("too many"), "{reply}");
}

#[test]
fn a_close_does_not_wait_for_what_is_still_to_open() {
    needs!("close first");
    let net = Net::new();
    let door = "    open_for: 2s
    start_command: sleep 0.2; echo open %IP% >> DIR/acts
    stop_command: echo close %IP% >> DIR/acts
";
    let knockd = Knockd::start(&net.server, &configuration(door, ""));
    let acts = || {
        let acts = fs::read_to_string(knockd.directory.path().join("acts")).unwrap_or_default();
        acts.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    knock(&net);
    assert!(eventually(PATIENCE, || acts() == ["open 192.0.2.2"]));
    // These take more than ten seconds.
    flood(&net, 60);
    assert!(eventually(PATIENCE, || acts().contains(&"close 192.0.2.2".to_owned())));
    let opened = acts().iter().filter(|act| act.starts_with("open")).count();
    assert!(opened < 40, "{opened} doors were opened before one was closed");
    assert!(eventually(Duration::from_secs(60), || knockd.grants().is_empty()));
    let acts = acts();
    let count = |act: &str| acts.iter().filter(|line| line.starts_with(act)).count();
    assert_eq!(count("open"), count("close"), "{acts:?}");
}

#[test]
fn an_act_that_is_asked_for_too_often_is_refused() {
    needs!("act flood");
    let net = Net::new();
    let door = "    start_command: sleep 0.3; echo act >> DIR/acts\n";
    let knockd = Knockd::start(&net.server, &configuration(door, ""));
    flood(&net, 255);
    let refused = || {
        let status = knockd.ask(r#"{"do":"status"}"#).remove(0);
        status["counters"]["too-many"].as_u64().unwrap_or_default()
    };
    assert!(eventually(PATIENCE, || refused() > 10), "{}", refused());
    knockd.signal(Signal::SIGTERM);
}

#[test]
fn status_is_answered_while_a_look_hangs() {
    needs!("look hangs");
    let net = Net::new();
    let door = "    open_for: 1h
    start_command: 'true'
    stop_command: 'true'
    verify_command: test ! -e DIR/hangs || exec sleep 60
";
    let knockd = Knockd::start(&net.server, &configuration(door, ""));
    assert_eq!(open_by_hand(&knockd, "ssh", "192.0.2.9")["reply"], "done");
    let file = knockd.directory.path().join("hangs");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let asked: Vec<_> = (0..2).map(|_| states(&knockd)).collect();
    assert_eq!(asked, [["open"], ["open"]]);
    // Nobody else waits for it.
    knock(&net);
    knockd.wait_for("192.0.2.2: ssh: OPEN SESAME");
    thread::sleep(SOON);
}
