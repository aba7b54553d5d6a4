//! Whoever owns the store may lose and delay what gateways tell each other; nothing that they write
//! there opens a door, or closes one that should stay.

use std::collections::BTreeMap;
use std::time::Duration;

use libknock::config::Name;
use libknock::fleet::{News, seal};
use libknock::grants::GrantKey;
use libknock::proto::fleet::{FleetKey, ItemId, Sealer};
use libknock::proto::network::Network;
use libknock::sys::clock;
use libknock::time::Wall;
use nix::sys::signal::Signal;
use redis::Value;

use crate::support::fleet::{
    BY_SOCKET, DOORS, Fleet, PATIENT, Store, clients, configuration, fleet_key,
};
use crate::support::{CLIENT, PATIENCE, eventually, needs};

const ELSEWHERE: &str = "198.51.100.7";
const NEWS: &str = "knockd:news";
const LIVE: &str = "knockd:live";

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn now() -> Wall {
    clock::now().wall
}

fn open(door: &str, network: &str, client: Option<&str>, left: Duration) -> News {
    let key = GrantKey::new(name(door), network.parse::<Network>().unwrap());
    News::Open { key, client: client.map(name), until: now() + left }
}

fn close(network: &str) -> News {
    let network: Network = network.parse().unwrap();
    News::Close { key: GrantKey::new(name("ssh"), network), cut: false }
}

const HOUR: Duration = Duration::from_secs(3600);

/// A gateway of the fleet, or who has taken its key: whatever it says is sealed.
struct Stranger {
    key: FleetKey,
    sealer: Sealer,
    name: Name,
}

impl Stranger {
    fn new(key: FleetKey, gateway: &str) -> Self {
        let mut run = [0; 16];
        getrandom::fill(&mut run).unwrap();
        Self { sealer: Sealer::new(&key, run), key, name: name(gateway) }
    }

    fn seals(&mut self, news: &News) -> Vec<u8> {
        seal(&mut self.sealer, now(), &self.name, &BTreeMap::new(), false, news.clone()).1
    }

    /// Tells it to who listens, and keeps it for who comes later.
    fn tells(&mut self, store: &Store, news: &News) {
        let (sealed, item) = (self.seals(news), news.item(&self.key).unwrap());
        keeps(store, item, &sealed);
        publishes(store, &sealed);
    }
}

fn publishes(store: &Store, bytes: &[u8]) {
    let _: Value = redis::cmd("PUBLISH").arg(NEWS).arg(bytes).query(&mut store.connect()).unwrap();
}

fn keeps(store: &Store, item: ItemId, bytes: &[u8]) {
    let mut pipe = redis::pipe();
    let end = (now() + HOUR).as_nanos() / 1_000_000;
    pipe.cmd("HSET").arg(LIVE).arg(&item).arg(bytes);
    pipe.cmd("ZADD").arg("knockd:ends").arg(end).arg(&item);
    let _: Value = pipe.query(&mut store.connect()).unwrap();
}

/// Notes what passes over the channel while something happens.
fn overhears(store: &Store, happens: impl FnOnce()) -> Vec<Vec<u8>> {
    let mut connection = store.connect();
    let mut listening = connection.as_pubsub();
    listening.subscribe(NEWS).unwrap();
    listening.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    happens();
    let mut heard = Vec::new();
    while let Ok(message) = listening.get_message() {
        heard.push(message.get_payload_bytes().to_vec());
    }
    heard
}

/// All go on, and share as before.
#[track_caller]
fn still_share(fleet: &Fleet) {
    fleet.joined();
    fleet.ask(1, "ssh");
    fleet.all_open("ssh", CLIENT);
    for gateway in &fleet.gateways {
        assert!(!gateway.has("ssh", ELSEWHERE), "{}: a forged entry opens", gateway.name);
    }
}

#[test]
fn entries_that_were_not_sealed_with_the_fleets_key_open_and_close_nothing() {
    needs!("fleet forged", "redis-server", "nft");
    let fleet = Fleet::new();
    fleet.ask(0, "ssh");
    fleet.all_open("ssh", CLIENT);
    let mut forger = Stranger::new([9; 32].into(), "gw1");
    forger.tells(&fleet.store, &open("ssh", ELSEWHERE, None, HOUR));
    forger.tells(&fleet.store, &open("ssh", ELSEWHERE, Some("laptop"), HOUR));
    forger.tells(&fleet.store, &close(CLIENT));
    forger.tells(&fleet.store, &News::CloseAll { cut: false });
    // Real ones, cut short, lengthened or altered in each place.
    let real = overhears(&fleet.store, || {
        fleet.gateways[0].says(&["open", "ssh", ELSEWHERE]);
        fleet.gateways[0].says(&["close", "ssh", ELSEWHERE]);
    });
    assert!(real.len() >= 2, "{}", real.len());
    fleet.all_close("ssh", ELSEWHERE);
    for sealed in &real {
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            publishes(&fleet.store, &altered);
            publishes(&fleet.store, &sealed[..at]);
        }
        publishes(&fleet.store, &[&sealed[..], b"more"].concat());
    }
    for bytes in [&b""[..], b"rubbish", &[1; 25], &[1; 16_000], &[255; 100_000]] {
        publishes(&fleet.store, bytes);
        keeps(&fleet.store, [bytes.len().to_be_bytes(); 2].concat().try_into().unwrap(), bytes);
    }
    assert!(fleet.gateways.iter().all(|gateway| gateway.has("ssh", CLIENT)), "a door has closed");
    still_share(&fleet);
}

#[test]
fn entries_that_come_again_or_in_another_order_change_nothing() {
    needs!("fleet replayed", "redis-server", "nft");
    let mut fleet = Fleet::new();
    let heard = overhears(&fleet.store, || {
        fleet.gateways[0].says(&["open", "ssh", ELSEWHERE]);
        fleet.all_open("ssh", ELSEWHERE);
        fleet.gateways[1].says(&["close", "ssh", ELSEWHERE]);
        fleet.all_close("ssh", ELSEWHERE);
    });
    fleet.ask(0, "ssh");
    fleet.all_open("ssh", CLIENT);
    let mut both_ways = heard.clone();
    both_ways.extend(heard.iter().rev().cloned());
    for sealed in both_ways.iter().cycle().take(500) {
        publishes(&fleet.store, sealed);
    }
    still_share(&fleet);
    // And to one that joins, in what is kept, under its own name and others.
    let key = fleet_key();
    let News::Open { key: grant, .. } = open("ssh", ELSEWHERE, None, HOUR) else { unreachable!() };
    let item = News::Open { key: grant, client: None, until: now() }.item(&key).unwrap();
    fleet.gateways[2].end(Signal::SIGKILL);
    keeps(&fleet.store, item, &heard[0]);
    keeps(&fleet.store, [1; 16], &heard[0]);
    for (at, sealed) in (2..).zip(&heard) {
        keeps(&fleet.store, [at; 16], sealed);
    }
    fleet.gateways[2].start_again();
    still_share(&fleet);
}

#[test]
fn an_entry_of_a_gateway_with_another_configuration_does_what_this_one_allows() {
    needs!("fleet another configuration", "redis-server", "nft");
    let fleet = Fleet::new();
    let mut other = Stranger::new(fleet_key(), "gw9");
    for news in [
        open("nosuch", ELSEWHERE, None, HOUR),
        open("local", ELSEWHERE, None, HOUR),
        open("ssh", ELSEWHERE, Some("nobody"), HOUR),
        // Its client may not open that door here.
        open("ssh", ELSEWHERE, Some("phone"), HOUR),
        open("ssh", "198.51.100.0/24", None, HOUR),
        open("ssh", "0.0.0.0/0", Some("laptop"), HOUR),
        open("ssh", ELSEWHERE, None, Duration::ZERO),
    ] {
        other.tells(&fleet.store, &news);
    }
    // A day is more than two hours.
    other.tells(&fleet.store, &open("ssh", CLIENT, Some("laptop"), 24 * HOUR));
    for gateway in &fleet.gateways {
        let grant = gateway.opens("ssh", CLIENT);
        let left = grant["seconds_left"].as_f64().unwrap();
        assert!(left > 7000.0 && left <= 7200.0, "{grant}");
        assert_eq!(gateway.knockd().grants().len(), 1, "{:?}", gateway.knockd().grants());
    }
    // What closes, or is locked out, here and there has no more weight than here.
    other.tells(&fleet.store, &News::Revoke { client: name("nobody"), cut: false });
    let anywhere: Network = "0.0.0.0/0".parse().unwrap();
    let key = GrantKey::new(name("local"), anywhere);
    other.tells(&fleet.store, &News::Close { key, cut: false });
    still_share(&fleet);
}

#[test]
fn keys_of_another_kind_are_a_store_that_is_lost_and_nothing_worse() {
    needs!("fleet rubbish", "redis-server", "nft");
    let fleet = Fleet::by("", |name| configuration(name, BY_SOCKET, PATIENT, &clients(), DOORS));
    fleet.ask(0, "ssh");
    fleet.all_open("ssh", CLIENT);
    let keys = ["knockd:live", "knockd:ends", "knockd:marks", "knockd:gateways"];
    for key in keys {
        fleet.store.say(&["SET", key, "rubbish"]);
    }
    for gateway in &fleet.gateways {
        gateway.is_soon("alone");
        gateway.says(&["open", "ssh", "198.51.100.8"]);
    }
    fleet.store.say(&[&["DEL"][..], &keys].concat());
    fleet.joined();
    // Of the right kind, and rubbish within.
    let many: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    for number in &many {
        let mut pipe = redis::pipe();
        pipe.cmd("HSET").arg("knockd:live").arg(number).arg(number.repeat(20));
        pipe.cmd("ZADD").arg("knockd:ends").arg(1).arg(number);
        pipe.cmd("ZADD").arg("knockd:marks").arg("inf").arg(number);
        pipe.cmd("HSET").arg("knockd:gateways").arg(number).arg(number.repeat(20));
        let _: Value = pipe.query(&mut fleet.store.connect()).unwrap();
    }
    for gateway in &fleet.gateways {
        for courier in gateway.couriers() {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(courier), Signal::SIGKILL).unwrap();
        }
        assert!(eventually(PATIENCE, || !gateway.couriers().is_empty()));
    }
    still_share(&fleet);
    assert!(fleet.gateways.iter().all(|gateway| gateway.has("ssh", "198.51.100.8")));
}
