//! Games with beginnings and ends: watchers that come late, stay, are deaf, or do not die.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Scene, acts, clients, configuration, make, opens_to_the_truth, run, settings};
use crate::support::{Host, Knockd, PATIENCE, eventually, needs};

fn can_open_by_hand(knockd: &Knockd, door: &str) -> bool {
    let asked = format!(r#"{{"do":"open","door":"{door}","address":"192.0.2.8","seconds":null}}"#);
    knockd.ask(&asked).pop().unwrap()["reply"] == "done"
}

#[test]
fn a_watcher_takes_over_no_earlier_than_it_captures_however_much_the_other_says() {
    needs!("cut");
    let host = Host::new("server");
    let knockd = run(&host, "chatter");
    knockd.wait_for("starting up, listening on");
    for reload in 1..=8 {
        knockd.signal(Signal::SIGHUP);
        knockd.wait_for_count("watcher: from ", reload);
    }
    assert_eq!(knockd.count("watcher: from then on"), 8, "{}", knockd.log().join("\n"));
}

#[test]
fn one_that_has_been_replaced_opens_nothing_that_is_no_more_and_ends_though_it_stays() {
    needs!("one that stays");
    let host = Host::new("server");
    let knockd = run(&host, "stays");
    knockd.wait_for("starting up, listening on");
    // Its doors and its client are gone.
    let left = "doors: {guarded: {sequence: [7300, 8300, 9300], seq_timeout: 1s, open: [22]}}\n";
    knockd.configure(&[&settings("lo"), left].concat());
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("not opened: the configuration has changed since the knock began");
    assert!(eventually(PATIENCE, || knockd.watchers().len() == 1), "{:?}", knockd.watchers());
    assert_eq!(acts(&knockd), "");
    assert_eq!(knockd.count("watcher"), 0, "{}", knockd.log().join("\n"));
}

#[test]
fn the_credentials_of_a_client_that_is_revoked_open_nothing_whoever_has_them() {
    needs!("one whose client is revoked");
    let host = Host::new("server");
    let knockd = run(&host, "stays");
    knockd.wait_for("starting up, listening on");
    let revoked = clients().replace("doors: [code, fwknop, spa]", "doors: [fwknop]");
    let doors = super::DOORS.replace("  plain", "  simple");
    knockd.configure(&[settings("lo"), revoked, doors].concat());
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for_count("not opened: the configuration has changed since the knock began", 3);
    assert_eq!(acts(&knockd), "");
}

#[test]
fn one_that_does_not_begin_in_time_is_ended_and_the_other_works_on() {
    needs!("one that is late");
    let host = Host::new("server");
    let knockd = run(&host, "late");
    knockd.wait_for("starting up, listening on");
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("the new watcher did not start within 10 s");
    make(&knockd, "now");
    opens_to_the_truth(&knockd);
    assert_eq!(knockd.watchers().len(), 1);
    // Its words are bounded: twenty, and one a second.
    assert!(knockd.count("watcher: soon") < 60, "{}", knockd.count("watcher: soon"));
}

#[test]
fn one_that_tells_of_knocks_before_it_begins_is_ended_and_the_other_works_on() {
    needs!("one that is early");
    let host = Host::new("server");
    let knockd = run(&host, "early");
    knockd.wait_for("starting up, listening on");
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("the new watcher sent a malformed message and is ended");
    assert_eq!(acts(&knockd), "");
    make(&knockd, "now");
    opens_to_the_truth(&knockd);
}

#[test]
fn one_that_never_reads_keeps_nobody_waiting() {
    needs!("one that is deaf");
    let host = Host::new("server");
    let knockd = run(&host, "deaf");
    knockd.wait_for("starting up, listening on");
    // More than a channel holds.
    for _ in 0..1500 {
        knockd.ask(r#"{"do":"unlock","address":"192.0.2.7"}"#);
    }
    assert!(can_open_by_hand(&knockd, "plain"));
    make(&knockd, "now");
    assert!(eventually(PATIENCE, || acts(&knockd) == "plain 192.0.2.7\nplain 192.0.2.8\n"));
}

#[test]
fn one_that_closes_its_channel_and_lives_on_is_replaced() {
    needs!("one that closes its channel");
    let host = Host::new("server");
    let knockd = run(&host, "closes");
    for millis in [100, 200, 400] {
        knockd.wait_for(&format!(
            "the watcher ended (signal: 9 (SIGKILL)); another starts in {millis} ms"
        ));
    }
    assert!(eventually(PATIENCE, || knockd.watchers().len() <= 1), "{:?}", knockd.watchers());
}

#[test]
fn one_that_cannot_be_killed_is_said_to_live_and_replaced_all_the_same() {
    needs!("one that lives on", "setpriv");
    let host = Host::new("server");
    let mut command = host.command("setpriv");
    command.args(["--bounding-set=-kill", "--inh-caps=-kill", env!("CARGO_BIN_EXE_knockd")]);
    let knockd = Scene::new("lives").run_by(command, &configuration("lo"));
    knockd.wait_for_count("does not end, and may not be killed", 2);
    let last = knockd.count("the watcher is ended: it sent that it begins or ends");
    assert!(can_open_by_hand(&knockd, "plain"));
    knockd.wait_for_count("the watcher is ended: it sent that it begins or ends", last + 1);
    let (status, log) = knockd.stop();
    assert_eq!(status.code(), Some(0), "{}", log.join("\n"));
}

#[test]
fn one_that_says_again_and_again_that_its_interface_has_gone_starts_few_others() {
    needs!("an interface that seems to go");
    let host = Host::new("server");
    let knockd = run(&host, "gone");
    knockd.wait_for_count("lo is back, listening on it", 4);
    let begun = fs::metadata(knockd.directory.path().join("knock.conf")).unwrap();
    let age = || begun.modified().unwrap().elapsed().unwrap();
    // The pauses double: 0.1 s, 0.2 s, 0.4 s, ...
    while age() < Duration::from_secs(4) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let looks = (age().as_secs_f64() * 10.0).log2().ceil() as usize + 2;
    let backs = knockd.count("lo is back, listening on it");
    assert!(backs <= looks, "{backs} times, not {looks}");
    assert!(knockd.watchers().len() <= 10, "{:?}", knockd.watchers());
}
