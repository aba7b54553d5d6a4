//! What a fleet costs and how soon its gateways agree: three gateways with a store on this machine,
//! two of them in a fleet at first.
//!
//! From a native request at the first to the first SYN/ACK of the port that it opens there, and from
//! that to the second's; and by turns with these the same at a gateway without a fleet. Then how long
//! a gateway takes to open ten thousand grants that the fleet has when it joins, and how soon all
//! agree when the store is back after it was killed. Needs root and redis-server.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "what only the tests need")]
mod support;

#[allow(dead_code, reason = "what other benchmarks need")]
mod probes;

use std::env;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use probes::{Attempted, Cable, until_all_open};
use support::fleet::{
    BY_SOCKET, DOORS, Fleet, Gateway, LAPTOP, NAMES, NO_STORE, clients, configuration, request,
    seal,
};
use support::{CLIENT, can_make_namespaces, eventually, has_programs};

const ROUNDS: u16 = 300;
const GRANTS: usize = 10_000;
const LOSSES: u8 = 10;

fn main() {
    if !can_make_namespaces("fleet") || !has_programs("fleet", &["nft", "redis-server"]) {
        return;
    }
    let mut fleet = Fleet::without_knockd("");
    for gateway in &fleet.gateways {
        // Sources of their own beyond the client, so that no round finds the port open.
        gateway.host.must("ip", &["route", "add", "198.51.100.0/22", "via", CLIENT]);
    }
    let text = NAMES.map(|name| configuration(name, BY_SOCKET, "", &clients(), DOORS));
    let without_fleet = configuration(NAMES[2], NO_STORE, "", &clients(), DOORS);
    fleet.start(0, &text[0]);
    fleet.start(1, &text[1]);
    fleet.start(2, &without_fleet);
    fleet.gateways[..2].iter().for_each(|gateway| gateway.is_soon("joined"));
    // `cargo bench --bench fleet -- join` measures only that.
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |part: &str| words.is_empty() || words.iter().any(|word| word == part);
    if wanted("openings") {
        openings(&fleet);
    }
    fleet.gateways[2].end(Signal::SIGTERM);
    fleet.start(2, &text[2]);
    fleet.joined();
    if wanted("losses") {
        losses(&mut fleet);
    }
    if wanted("join") {
        join(&mut fleet);
    }
}

/// What a request takes at gateways, of which the first is asked.
fn opening(fleet: &Fleet, gateways: &[usize], source: Ipv4Addr) -> Option<Vec<Duration>> {
    let servers: Vec<(&support::Host, Ipv4Addr)> = gateways
        .iter()
        .map(|&at| (&fleet.gateways[at].host, fleet.gateways[at].address.parse().unwrap()))
        .collect();
    let how = Attempted::Request(seal(&request("ssh"), LAPTOP).to_vec());
    let cable = Cable::bridged(&fleet.client, &servers);
    let times = until_all_open(&fleet.client, cable, source, how);
    // What is done after a door has opened is no part of the next round.
    thread::sleep(Duration::from_millis(20));
    times
}

fn openings(fleet: &Fleet) {
    let (mut second, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new());
    let (mut missed, mut source) = (0, 0u16);
    // The first rounds are to warm up.
    for round in 0..ROUNDS + 10 {
        let [shared, own, alone] = [&[0, 1][..], &[0], &[2]].map(|gateways| {
            source += 1;
            let (third, last) = (100 + source / 250, 1 + source % 250);
            opening(fleet, gateways, Ipv4Addr::new(198, 51, third as u8, last as u8))
        });
        if round < 10 {
            continue;
        }
        match shared.as_deref() {
            Some([first, other]) => second.push(other.saturating_sub(*first)),
            _ => missed += 1,
        }
        let own = own.and_then(|times| times.into_iter().next());
        let alone = alone.and_then(|times| times.into_iter().next());
        match own.zip(alone) {
            Some((own, alone)) => {
                with.push(own);
                without.push(alone);
            }
            None => missed += 1,
        }
    }
    report("second gateway after the first", &mut second);
    report("first gateway, in a fleet", &mut with);
    report("a gateway without a fleet", &mut without);
    if missed > 0 {
        println!("{missed} rounds never opened");
    }
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let Some(last) = times.len().checked_sub(1) else {
        println!("{what:32} never opened");
        return;
    };
    let at = |percent: usize| times[(times.len() * percent / 100).min(last)].as_secs_f64() * 1e3;
    let [p50, p99, most] = [50, 99, 100].map(at);
    println!("{what:32} p50 {p50:.3} ms, p99 {p99:.3} ms, most {most:.3} ms, of {}", times.len());
}

/// From the moment that the store takes connections again to that at which all gateways have what
/// two of them opened meanwhile.
fn losses(fleet: &mut Fleet) {
    let mut times = Vec::new();
    for number in 0..LOSSES {
        fleet.store.kill();
        thread::sleep(Duration::from_secs(1));
        let opened = [format!("192.0.2.{}", 100 + number), format!("192.0.2.{}", 200 + number)];
        for (gateway, address) in fleet.gateways.iter().zip(&opened) {
            assert_eq!(gateway.open_by_hand("ssh", address)["reply"], "done");
        }
        fleet.store.start_again();
        let begun = now();
        let has_both = |gateway: &Gateway| opened.iter().all(|it| gateway.has("ssh", it));
        let agree = || fleet.gateways.iter().all(has_both);
        assert!(eventually(Duration::from_secs(30), agree), "no agreement");
        times.push(begun.elapsed());
    }
    report("agreement after the store is back", &mut times);
}

/// From the start of a third gateway, and from when it listens, until it has opened ten thousand
/// grants, which another has opened before.
fn join(fleet: &mut Fleet) {
    fleet.gateways[2].end(Signal::SIGKILL);
    let address = |number: usize| format!("198.18.{}.{}", number / 250, 1 + number % 250);
    for number in 0..GRANTS {
        let said = fleet.gateways[0].open_by_hand("ssh", &address(number));
        assert_eq!(said["reply"], "done", "{said}");
    }
    let last = address(GRANTS - 1);
    assert!(eventually(Duration::from_secs(60), || fleet.gateways[1].has("ssh", &last)));
    let standing = fleet.gateways[0].kernel_lets_in(22).len();
    let begun = now();
    fleet.gateways[2].start_again();
    let listens = begun.elapsed();
    // What is asked costs the keeper time that is measured: this costs little.
    let open = || {
        let told = fleet.gateways[2].fleet();
        let own = told["gateways"].as_array().unwrap().iter().find(|it| it["is_this"] == true);
        own.and_then(|own| own["open"].as_u64()).unwrap_or_default() as usize
    };
    let all = eventually(Duration::from_secs(60), || open() >= standing);
    let done = begun.elapsed();
    let found = fleet.gateways[2].kernel_lets_in(22).len();
    assert!(all && found == standing, "{found} of {standing} are open");
    println!(
        "a join with {standing} grants: {:.3} s after the start, {:.3} s after it listens",
        done.as_secs_f64(),
        (done - listens).as_secs_f64()
    );
}

#[expect(clippy::disallowed_methods, reason = "this is what is measured")]
fn now() -> Instant {
    Instant::now()
}
