//! Couriers and keepers that die, and grants in flight meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::fleet::{
    BY_SOCKET, DOORS, Fleet, Gateway, NAMES, NO_STORE, PATIENT, clients, configuration,
};
use crate::support::{CLIENT, PATIENCE, eventually, needs};

const ELSEWHERE: &str = "198.51.100.7";

fn address(number: usize) -> String {
    format!("198.51.{}.{}", 100 + number / 250, 1 + number % 250)
}

/// Whom each gateway's kernel lets in, beside the model: all of them.
#[track_caller]
fn all_let_in(fleet: &Fleet, expected: &BTreeSet<String>) {
    for gateway in &fleet.gateways {
        let mut found = BTreeSet::new();
        let agree = eventually(2 * PATIENCE, || {
            found = gateway.kernel_lets_in(22);
            found == *expected
        });
        let (missing, more) = (expected.difference(&found).count(), found.difference(expected));
        let more: Vec<&String> = more.collect();
        assert!(
            agree,
            "{}: {missing} are missing, more: {more:?}: {}",
            gateway.name,
            gateway.fleet()
        );
        let known: BTreeSet<String> = gateway.knockd().grants().iter().map(address_of).collect();
        assert_eq!(known, *expected, "{}: keeper and kernel differ", gateway.name);
    }
}

fn address_of(grant: &serde_json::Value) -> String {
    grant["address"].as_str().unwrap().to_owned()
}

fn kill_couriers(gateway: &Gateway) {
    for courier in gateway.couriers() {
        let _ = kill(Pid::from_raw(courier), Signal::SIGKILL);
    }
}

#[test]
fn where_couriers_die_again_and_again_nothing_is_lost() {
    needs!("fleet couriers die", "redis-server", "nft");
    const REQUESTS: usize = 60;
    let fleet = Fleet::with(BY_SOCKET, ", wait: 50ms");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                fleet.gateways.iter().for_each(kill_couriers);
                thread::sleep(Duration::from_millis(120));
            }
        });
        for number in 0..REQUESTS {
            let gateway = &fleet.gateways[number % 3];
            assert_eq!(gateway.open_by_hand("ssh", &address(number))["reply"], "done");
            if number % 2 == 1 {
                let closed =
                    format!(r#"{{"do":"close","door":"ssh","address":"{}"}}"#, address(number));
                let said = gateway.knockd().ask(&closed).pop().unwrap();
                assert_eq!(said["reply"], "done", "{said}");
            }
            fleet.ask(number % 3, "ssh");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    fleet.joined();
    let even = (0..REQUESTS).filter(|number| number % 2 == 0).map(address);
    all_let_in(&fleet, &even.chain([CLIENT.to_owned()]).collect());
}

#[test]
fn a_keeper_that_is_killed_and_started_again_has_what_was_shared_meanwhile() {
    needs!("fleet keeper killed", "redis-server", "nft");
    let mut fleet = Fleet::new();
    fleet.ask(2, "ssh");
    fleet.gateways[0].says(&["open", "ssh", ELSEWHERE]);
    fleet.all_open("ssh", CLIENT);
    fleet.all_open("ssh", ELSEWHERE);
    let couriers = fleet.gateways[2].couriers();
    let [courier] = couriers[..] else { panic!("one courier: {couriers:?}") };
    fleet.gateways[2].end(Signal::SIGKILL);
    let is_gone = || !fs::exists(format!("/proc/{courier}/exe")).unwrap_or(false);
    assert!(eventually(PATIENCE, is_gone), "the courier outlives its keeper");
    fleet.gateways[0].says(&["close", "ssh", ELSEWHERE]);
    fleet.gateways[1].says(&["open", "ssh", &address(1)]);
    let caught = fleet.ask(0, "local");
    fleet.gateways[0].opens("local", CLIENT);
    fleet.gateways[2].start_again();
    fleet.all_open("ssh", &address(1));
    fleet.all_open("ssh", CLIENT);
    fleet.all_close("ssh", ELSEWHERE);
    fleet.joined();
    fleet.send(2, &caught);
    fleet.gateways[2].refuses("used-elsewhere", 1);
}

#[test]
fn a_thousand_grants_in_flight_while_the_store_starts_anew_are_the_same_at_all_afterwards() {
    needs!("fleet thousand", "redis-server", "nft");
    const GRANTS: usize = 1000;
    let mut fleet = Fleet::with(BY_SOCKET, ", wait: 50ms");
    let (gateways, store) = (&fleet.gateways, &mut fleet.store);
    thread::scope(|scope| {
        for (at, gateway) in gateways.iter().enumerate() {
            scope.spawn(move || {
                for number in (at..GRANTS).step_by(3) {
                    assert_eq!(gateway.open_by_hand("ssh", &address(number))["reply"], "done");
                    // Each fifth is closed where it was opened.
                    if number % 5 == 0 {
                        let address = address(number);
                        let text =
                            format!(r#"{{"do":"close","door":"ssh","address":"{address}"}}"#);
                        assert_eq!(gateway.knockd().ask(&text).pop().unwrap()["reply"], "done");
                    }
                }
            });
        }
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(700));
            store.kill();
            thread::sleep(Duration::from_millis(300));
            store.start_again();
        }
    });
    let expected = (0..GRANTS).filter(|number| number % 5 != 0).map(address).collect();
    all_let_in(&fleet, &expected);
    fleet.joined();
    all_let_in(&fleet, &expected);
}

#[test]
fn a_gateway_leaves_and_joins_as_its_configuration_says() {
    needs!("fleet reload", "redis-server", "nft");
    let fleet = Fleet::new();
    let [gw1, gw2, gw3] = &fleet.gateways[..] else { panic!("three") };
    let text = fleet.at_the_store(&configuration("gw3", BY_SOCKET, PATIENT, &clients(), DOORS));
    let alone = configuration("gw3", NO_STORE, "", &clients(), DOORS);
    gw3.reload(&alone);
    assert!(eventually(PATIENCE, || gw3.couriers().is_empty()), "the courier stays");
    let is_alone = || gw3.children("").len() == gw3.knockd().watchers().len();
    let is_without = || gw3.state() == "none" && is_alone();
    assert!(eventually(PATIENCE, is_without), "the courier that has ended is not waited for");
    fleet.ask(0, "ssh");
    gw2.opens("ssh", CLIENT);
    assert!(!gw3.has("ssh", CLIENT));
    gw3.reload(&text);
    gw3.opens("ssh", CLIENT);
    fleet.joined();
    // Another door may become the fleet's.
    let more = |name: &str| {
        let doors = DOORS.replace("open: [23]", "open: [23], fleet: true");
        fleet.at_the_store(&configuration(name, BY_SOCKET, PATIENT, &clients(), &doors))
    };
    [gw1, gw2].iter().for_each(|gateway| gateway.reload(&more(gateway.name)));
    fleet.ask(0, "local");
    gw2.opens("local", CLIENT);
    assert!(!gw3.has("local", CLIENT));
}

#[test]
fn where_no_fleet_is_configured_there_is_no_courier_and_nothing_of_one() {
    needs!("no fleet", "redis-server", "nft");
    let mut fleet = Fleet::without_knockd("");
    for (at, store) in [BY_SOCKET, NO_STORE].into_iter().enumerate() {
        fleet.start(at, &configuration(NAMES[at], store, "", &clients(), DOORS));
    }
    let [with, without, _] = &fleet.gateways[..] else { panic!("three") };
    with.is_soon("joined");
    assert_eq!(without.state(), "none");
    let children = |gateway: &Gateway| gateway.children("").len();
    let watchers = |gateway: &Gateway| gateway.knockd().watchers().len();
    assert_eq!((children(with), with.couriers().len()), (watchers(with) + 1, 1));
    assert_eq!(children(without), watchers(without));
    let fds = |gateway: &Gateway| {
        fs::read_dir(format!("/proc/{}/fd", gateway.knockd().pid())).unwrap().count()
    };
    // The channel to the courier, and what it writes to standard error.
    assert_eq!(fds(with), fds(without) + 2);
}
