//! A store that is gone, hangs, is full, forgets or is another's copy: each gateway goes on, and all
//! agree when it is back.

use std::fs;

use libknock::proto::spa::{Addresses, NamedAddresses, SpaRequest};
use nix::sys::signal::Signal;

use crate::support::fleet::{
    BY_NETWORK, BY_SOCKET, DOORS, Fleet, LAPTOP, PATIENT, STORE, Store, clients, configuration,
    request, seal,
};
use crate::support::{Beside, CLIENT, PATIENCE, eventually, needs};

const ELSEWHERE: &str = "198.51.100.7";

/// Each gateway goes on alone and says since when.
#[track_caller]
fn go_on_alone(fleet: &Fleet) {
    fleet.ask(0, "ssh");
    fleet.gateways[0].opens("ssh", CLIENT);
    fleet.gateways[1].says(&["open", "ssh", ELSEWHERE]);
    for gateway in &fleet.gateways {
        gateway.is_soon("alone");
        let link = gateway.knockd().ask(r#"{"do":"status"}"#).remove(0)["fleet"].clone();
        assert!(link["since"].is_number() && link["why"].is_string(), "{link}");
    }
}

/// What each opened alone is its own until the store is back.
#[track_caller]
fn share_nothing(fleet: &Fleet) {
    assert!(!fleet.gateways[1].has("ssh", CLIENT) && !fleet.gateways[0].has("ssh", ELSEWHERE));
}

/// What each opened alone is open at all.
#[track_caller]
fn agree(fleet: &Fleet) {
    fleet.all_open("ssh", CLIENT);
    fleet.all_open("ssh", ELSEWHERE);
    fleet.joined();
}

#[test]
fn where_the_store_is_killed_gateways_go_on_alone_and_agree_when_it_is_back() {
    needs!("fleet store killed", "redis-server", "nft");
    let mut fleet = Fleet::with(BY_SOCKET, PATIENT);
    let caught = fleet.ask(2, "local");
    fleet.gateways[2].opens("local", CLIENT);
    fleet.store.kill();
    go_on_alone(&fleet);
    share_nothing(&fleet);
    // It has forgotten everything; the ledgers have not.
    fleet.store.start_again();
    agree(&fleet);
    fleet.send(1, &caught);
    fleet.gateways[1].refuses("used-elsewhere", 1);
    assert!(!fleet.gateways[1].has("local", CLIENT));
}

#[test]
fn where_the_store_hangs_no_later_request_waits_and_gateways_agree_when_it_goes_on() {
    needs!("fleet store hangs", "redis-server", "nft");
    let fleet = Fleet::with(BY_SOCKET, PATIENT);
    fleet.store.signal(Signal::SIGSTOP);
    go_on_alone(&fleet);
    share_nothing(&fleet);
    // If each waited, there would not be time for so many.
    let all_open = eventually(PATIENCE, || {
        let open = fleet.gateways[0].kernel_lets_in(23).len();
        if open < 30 {
            ask_for(&fleet, "local", open);
            eventually(PATIENCE, || fleet.gateways[0].kernel_lets_in(23).len() > open);
        }
        open == 30
    });
    assert!(all_open, "{} are open", fleet.gateways[0].kernel_lets_in(23).len());
    fleet.store.signal(Signal::SIGCONT);
    agree(&fleet);
}

/// The laptop asks the first gateway for another address, by its number.
fn ask_for(fleet: &Fleet, door: &str, number: usize) {
    let named = format!("198.51.100.{}", 100 + number).parse().ok();
    let open = Addresses::Named(NamedAddresses::new(named, None).unwrap());
    fleet.send(0, &seal(&SpaRequest { open, ..request(door) }, LAPTOP));
}

#[test]
fn a_gateway_that_is_cut_off_goes_on_alone_while_the_others_share() {
    needs!("fleet cut off", "redis-server", "nft");
    let fleet = Fleet::with(BY_NETWORK, PATIENT);
    let [gw1, gw2, gw3] = &fleet.gateways[..] else { panic!("three") };
    fleet.store.cut_off(gw3);
    fleet.ask(2, "ssh");
    gw3.opens("ssh", CLIENT);
    gw3.is_soon("alone");
    gw1.says(&["open", "ssh", ELSEWHERE]);
    gw2.opens("ssh", ELSEWHERE);
    assert!(!gw3.has("ssh", ELSEWHERE) && !gw1.has("ssh", CLIENT));
    assert_eq!((gw1.state(), gw2.state()), ("joined".into(), "joined".into()));
    fleet.store.mend(gw3);
    agree(&fleet);
}

#[test]
fn a_store_that_is_wiped_is_told_anew_what_the_gateways_know() {
    needs!("fleet store wiped", "redis-server", "nft");
    let mut fleet = Fleet::with(BY_SOCKET, PATIENT);
    fleet.gateways[2].end(Signal::SIGTERM);
    let caught = fleet.ask(0, "local");
    fleet.gateways[0].opens("local", CLIENT);
    fleet.gateways[0].says(&["open", "ssh", ELSEWHERE]);
    fleet.gateways[1].opens("ssh", ELSEWHERE);
    fleet.store.say(&["FLUSHALL"]);
    let has_marks = || fleet.store.say(&["ZCARD", "knockd:marks"]) != redis::Value::Int(0);
    assert!(eventually(PATIENCE, has_marks), "no mark is told anew");
    let kept = || fleet.store.say(&["HLEN", "knockd:live"]);
    assert!(eventually(PATIENCE, || kept() != redis::Value::Int(0)), "no grant is told anew");
    fleet.gateways[2].start_again();
    fleet.gateways[2].opens("ssh", ELSEWHERE);
    fleet.send(1, &caught);
    fleet.gateways[1].refuses("used-elsewhere", 1);
    assert!(!fleet.gateways[1].has("local", CLIENT));
}

#[test]
fn a_full_store_counts_as_lost_until_there_is_room() {
    needs!("fleet store full", "redis-server", "nft");
    let fleet = Fleet::with(BY_SOCKET, PATIENT);
    fleet.store.say(&["CONFIG", "SET", "maxmemory", "1"]);
    // What it does not keep it may still hand on.
    go_on_alone(&fleet);
    fleet.store.say(&["CONFIG", "SET", "maxmemory", "0"]);
    agree(&fleet);
}

#[test]
fn a_gateway_that_is_to_refuse_without_the_store_opens_to_nobody_who_needs_it() {
    needs!("fleet refuse", "redis-server", "nft");
    let mut fleet = Fleet::with(BY_SOCKET, &format!("{PATIENT}, when_lost: refuse"));
    fleet.store.kill();
    let caught = fleet.ask(0, "ssh");
    fleet.gateways[0].refuses("store-lost", 1);
    fleet.gateways[0].is_soon("refusing");
    assert!(!fleet.gateways[0].has("ssh", CLIENT));
    // By hand it does.
    fleet.gateways[0].says(&["open", "ssh", ELSEWHERE]);
    fleet.store.start_again();
    fleet.joined();
    fleet.all_open("ssh", ELSEWHERE);
    // What was refused for that is not used up.
    fleet.send(1, &caught);
    fleet.all_open("ssh", CLIENT);
}

#[test]
fn a_replica_that_takes_over_without_the_latest_writes_is_told_them() {
    needs!("fleet failover", "redis-server", "redis-sentinel", "nft");
    let mut fleet = Fleet::without_knockd("");
    let settings = format!("port 6380\nreplicaof {STORE} 6379\nreplica-announce-ip {STORE}\n");
    let replica = Store::start(&fleet.store.host, &settings);
    let linked = || {
        let said = replica.say(&["INFO", "replication"]);
        format!("{said:?}").contains("master_link_status:up")
    };
    assert!(eventually(PATIENCE, linked), "no replica");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sentinel.conf");
    let text = format!(
        "port 26379\nprotected-mode no\ndir {}\nsentinel monitor gateways {STORE} 6379 1\n\
         sentinel down-after-milliseconds gateways 1000\nsentinel failover-timeout gateways 3000\n",
        directory.path().display()
    );
    fs::write(&file, text).unwrap();
    let mut sentinel = fleet.store.host.command("redis-sentinel");
    let _sentinel = Beside::start(sentinel.arg(&file));
    let address = format!("redis://{STORE}:26379/gateways");
    for (at, name) in crate::support::fleet::NAMES.iter().enumerate() {
        fleet.start(at, &configuration(name, &address, PATIENT, &clients(), DOORS));
    }
    fleet.joined();
    let knows_the_replica = || {
        let client = redis::Client::open(format!("redis://{STORE}:26379"));
        fleet.store.host.enter(move || {
            let mut sentinel = client.unwrap().get_connection().unwrap();
            let said: redis::Value = redis::cmd("SENTINEL")
                .arg("REPLICAS")
                .arg("gateways")
                .query(&mut sentinel)
                .unwrap();
            format!("{said:?}").contains("6380")
        })
    };
    assert!(eventually(PATIENCE, knows_the_replica), "the Sentinel has not found the replica");
    cut_off_replica(&fleet.store);
    let caught = fleet.ask(0, "local");
    fleet.gateways[0].opens("local", CLIENT);
    fleet.gateways[0].says(&["open", "ssh", ELSEWHERE]);
    fleet.all_open("ssh", ELSEWHERE);
    assert_eq!(replica.say(&["HLEN", "knockd:live"]), redis::Value::Int(0), "the replica hears");
    fleet.store.kill();
    fleet.gateways[1].is_soon("alone");
    // Whoever takes over ends all connections.
    let promoted =
        || replica.try_say(&["ROLE"]).is_ok_and(|it| format!("{it:?}").contains("master"));
    assert!(eventually(3 * PATIENCE, promoted), "nobody takes over");
    fleet.joined();
    for [count, key] in [["HLEN", "knockd:live"], ["ZCARD", "knockd:marks"]] {
        let told = || replica.say(&[count, key]) != redis::Value::Int(0);
        assert!(eventually(PATIENCE, told), "{key} is not told to the new store");
    }
    fleet.send(1, &caught);
    fleet.gateways[1].refuses("used-elsewhere", 1);
    assert!(!fleet.gateways[1].has("local", CLIENT));
}

/// Has what a store writes from here on not come to its replica, which hears of nothing.
fn cut_off_replica(store: &Store) {
    assert_eq!(store.say(&["HLEN", "knockd:live"]), redis::Value::Int(0));
    let listed: String =
        redis::from_redis_value(store.say(&["CLIENT", "LIST", "TYPE", "replica"])).unwrap();
    let (_, from) = listed.split_once(&format!(" addr={STORE}:")).unwrap();
    let (port, _) = from.split_once(' ').unwrap();
    let rule = format!("tcp sport 6379 tcp dport {port} drop;");
    let chain = format!("chain in {{ type filter hook input priority 0; {rule} }};");
    store.host.must("nft", &[&format!("table ip replica {{ {chain} }}")]);
}

#[test]
fn what_was_closed_while_the_store_was_lost_closes_at_all_when_it_is_back() {
    needs!("fleet closed alone", "redis-server", "nft");
    let mut fleet = Fleet::with(BY_SOCKET, PATIENT);
    fleet.ask(0, "ssh");
    fleet.gateways[1].says(&["open", "ssh", ELSEWHERE]);
    fleet.all_open("ssh", CLIENT);
    fleet.all_open("ssh", ELSEWHERE);
    fleet.store.kill();
    fleet.gateways[0].is_soon("alone");
    let said = fleet.gateways[0].says(&["close", "ssh", ELSEWHERE]);
    assert!(said.contains("when the fleet's store is back"), "{said}");
    assert!(!fleet.gateways[0].has("ssh", ELSEWHERE) && fleet.gateways[2].has("ssh", ELSEWHERE));
    // It is not open here any more, and may be elsewhere.
    let refused = fleet.gateways[0].knockctl(&["close", "ssh", ELSEWHERE]);
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.contains("when the fleet's store is back"), "{refused}");
    fleet.store.start_again();
    fleet.all_close("ssh", ELSEWHERE);
    fleet.joined();
    // Nor does the gateway that opened it tell it anew.
    fleet.all_open("ssh", CLIENT);
    assert!(!fleet.gateways[0].has("ssh", ELSEWHERE) && !fleet.gateways[2].has("ssh", ELSEWHERE));
}
