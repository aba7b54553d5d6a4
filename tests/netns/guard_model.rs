//! The guard against a model of who may pass, through random lives: grants, closes, reloads, other
//! programs' doings, deaths of knockd, and time. The kernel's answer is asked by packets.
//!
//! Needs root and nft; says loudly what it skips where it cannot run.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use libknock::config::Forward;
use libknock::firewall::guard::standing;
use libknock::firewall::ruleset::{GuardGrant, GuardedDoor, Ruleset};
use libknock::proto::knock::Knock;
use libknock::proto::network::Network;
use libknock::sys::descriptors;
use libknock::time::Monotonic;

use crate::forward::{INNER, OTHER, inner_host};
use crate::guard_fixture::{Door, Guard, door, door_to, doors, grant, let_in, net, now, shut_out};
use crate::support::{CLIENT, CLIENT_6, Host, Net, SERVER, SERVER_6, needs};

const STEPS: u32 = 50;
/// Those of ranges among them, beside each other and beyond their ends.
const PORTS: [u16; 10] = [2201, 2202, 2203, 2204, 2205, 2207, 2208, 2209, 2210, 2213];
/// Of the inner hosts.
const INSIDE: u16 = 6000;
const CLIENTS: [&str; 3] = [CLIENT, "192.0.2.3", CLIENT_6];
/// Those who may be let in: the networks have two clients and one.
const GRANTED: [&str; 5] = [CLIENT, "192.0.2.3", CLIENT_6, "192.0.2.2/31", "2001:db8::/64"];
/// Around a deadline the answer may be either.
const UNSURE: Duration = Duration::from_millis(400);

/// Numbers as random as this needs (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A door that leads a port to a host, by both families.
fn leading(name: &str, on: u16, to: [&str; 2]) -> Door {
    let forward = |to: &str| Forward {
        on: format!("{on}/udp").parse().unwrap(),
        to: to.parse().unwrap(),
        port: INSIDE.try_into().unwrap(),
        masquerade: to == OTHER[0],
    };
    let (name, door) = door(name, &[]);
    (name, GuardedDoor { forwards: to.map(forward).to_vec(), ..door })
}

/// A door whose grants packets would renew, if any came but the first.
fn held((name, door): Door) -> Door {
    (name, GuardedDoor { idle: Some(Duration::from_secs(20)), ..door })
}

/// Each is one that packets renew, where the door says so.
fn granted(door: &str, network: &str, left: Duration) -> GuardGrant {
    let ceiling = Some(left.max(Duration::from_secs(100)));
    GuardGrant { left, ceiling, ..grant(door, network, 0) }
}

fn rulesets() -> [Ruleset; 3] {
    let to_server = door_to(SERVER, "c", &["2203/udp"]);
    let (low, high) = (door("low", &["2205-2209/udp"]), door("high", &["2208-2212/udp"]));
    [
        doors(&[
            held(door("a", &["2201/udp", "2202/udp"])),
            door("b", &["2202/udp"]),
            held(to_server.clone()),
            low.clone(),
            high.clone(),
        ]),
        doors(&[
            door("a", &["2201/udp", "2203/udp"]),
            door("b", &["2202/udp"]),
            leading("f", 2202, INNER),
            leading("g", 2204, INNER),
            low.clone(),
        ]),
        doors(&[
            held(door("b", &["2202/udp", "2204/udp"])),
            to_server,
            leading("f", 2204, INNER),
            leading("g", 2204, OTHER),
            low,
            high,
        ]),
    ]
}

/// Who may pass, and where to.
struct Model {
    ruleset: Ruleset,
    /// Until when, and the step in which it was opened.
    grants: BTreeMap<(String, String), (Monotonic, u32)>,
}

impl Model {
    /// Whose answer a client gets; `None` where it depends on the moment.
    fn answerer(&self, client: &str, port: u16) -> Option<Option<String>> {
        let now = now();
        let knock: Knock = format!("{port}/udp").parse().unwrap();
        let (server, from): (IpAddr, IpAddr) =
            (server_of(client).parse().unwrap(), client.parse().unwrap());
        let (mut is_locked, mut is_open, mut led) = (false, false, None);
        for (name, door) in &self.ruleset.doors {
            let opens = door.ports.iter().any(|ports| ports.contains(knock));
            let mut forwards = door.forwards.iter().filter(|it| it.on == knock);
            let forward = forwards.find(|it| it.to.is_ipv4() == from.is_ipv4());
            let is_here = door.target.is_none_or(|target| target == server);
            if !is_here || !(opens || forward.is_some()) {
                continue;
            }
            is_locked |= opens;
            for ((door, network), &(until, opened)) in &self.grants {
                let network: Network = network.parse().unwrap();
                if *door != name.as_str() || !network.contains(from) {
                    continue;
                }
                if until.since(now).max(now.since(until)) <= UNSURE {
                    return None;
                }
                if until > now {
                    is_open |= opens;
                    // The narrowest decides, of several the one that was opened last.
                    led = led.max(forward.map(|forward| (network.prefix(), opened, forward.to)));
                }
            }
        }
        Some(match led {
            Some((.., host)) => Some(host.to_string()),
            None => (is_open || !is_locked).then(|| server.to_string()),
        })
    }

    fn elements(&self) -> Vec<GuardGrant> {
        let now = now();
        let mut grants: Vec<_> = self.grants.iter().collect();
        grants.sort_by_key(|(_, (_, opened))| *opened);
        let left = grants.into_iter().map(|(key, (until, _))| (key, until.since(now)));
        let grants = left.filter(|(_, left)| !left.is_zero());
        grants.map(|((door, client), left)| granted(door, client, left)).collect()
    }
}

fn server_of(client: &str) -> &'static str {
    if client.contains(':') { SERVER_6 } else { SERVER }
}

/// Asks with a datagram from a port that was not used before: who answers.
fn answer(net: &Net, client: &str, port: u16, limit: Duration) -> Option<String> {
    let from: IpAddr = client.parse().unwrap();
    let to = SocketAddr::new(server_of(client).parse().unwrap(), port);
    net.client.enter(move || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(limit)).unwrap();
        socket.send_to(b"?", to).unwrap();
        let mut said = [0; 50];
        let (length, _) = socket.recv_from(&mut said).ok()?;
        Some(String::from_utf8_lossy(&said[..length]).into_owned())
    })
}

/// Answers every datagram with the address that it came to.
fn tells(host: &Host, address: &'static str, port: u16) {
    let socket =
        host.enter(move || UdpSocket::bind((address.parse::<IpAddr>().unwrap(), port)).unwrap());
    thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 10]) {
            let _ = socket.send_to(address.as_bytes(), from);
        }
    });
}

fn live(seed: u64) {
    let net = net();
    let inner = inner_host(&net);
    for address in [SERVER, SERVER_6] {
        PORTS.iter().for_each(|port| tells(&net.server, address, *port));
    }
    INNER.into_iter().chain(OTHER).for_each(|address| tells(&inner, address, INSIDE));
    let mut dice = Dice(seed);
    let rulesets = rulesets();
    let mut model = Model { ruleset: rulesets[0].clone(), grants: BTreeMap::new() };
    let mut guard = Guard::set_up(now(), model.ruleset.clone(), &[]).unwrap();
    for step in 0..STEPS {
        let names: Vec<String> = model.ruleset.doors.keys().map(ToString::to_string).collect();
        let (name, client) = (dice.of(&names).clone(), *dice.of(&GRANTED));
        let what = match dice.below(12) {
            0..=4 => {
                // Of doors that lead one port to different hosts the keeper sees to the end.
                let leads = ["f", "g"].contains(&name.as_str());
                let seconds = if leads { *dice.of(&[60, 90]) } else { *dice.of(&[1, 60, 60]) };
                let until = now() + Duration::from_secs(seconds);
                let_in(&mut guard, &granted(&name, client, Duration::from_secs(seconds)));
                let key = (name.clone(), client.to_owned());
                // It is never made shorter.
                let before = model.grants.get(&key).map_or(until, |(before, _)| *before);
                model.grants.insert(key, (until.max(before), step + 1));
                format!("{name} opens for {client} for {seconds} s")
            }
            5 | 6 => {
                shut_out(&mut guard, &name, client);
                model.grants.remove(&(name.clone(), client.to_owned()));
                format!("{name} closes for {client}")
            }
            7 => {
                model.ruleset = dice.of(&rulesets).clone();
                let doors = &model.ruleset.doors;
                model.grants.retain(|(door, _), _| doors.keys().any(|it| it.as_str() == door));
                guard.replace(now(), model.ruleset.clone(), &model.elements()).unwrap();
                "another configuration".to_owned()
            }
            8 | 9 => {
                let doing = *dice.of(&[
                    "flush ruleset",
                    "flush table inet knockd",
                    "delete table inet knockd",
                    "flush set inet knockd guarded",
                    "flush set inet knockd open_4",
                    "flush set inet knockd open_6",
                    "insert rule inet knockd prerouting accept",
                    "add table inet knockd { flags dormant; }",
                ]);
                net.server.must("nft", &[doing]);
                descriptors::wait(&[guard.monitor.as_fd()], Some(Duration::from_secs(5))).unwrap();
                if guard.disturbance().is_some() {
                    guard.restore(now()).unwrap();
                }
                format!("somebody does: {doing}")
            }
            10 => {
                drop(guard);
                // Some end while this looks.
                let sure: Vec<_> = model
                    .elements()
                    .into_iter()
                    .filter(|grant| grant.left > UNSURE)
                    .map(|grant| (grant.key.door, grant.key.network))
                    .collect();
                let there = standing().unwrap();
                for (door, network) in sure {
                    let is_there = |GuardGrant { key, .. }: &GuardGrant| {
                        key.network == network && key.door == door
                    };
                    let opens_here = model.ruleset.doors.iter().any(|(name, it)| {
                        let meets = |to: IpAddr| to.is_ipv4() == network.address().is_ipv4();
                        *name == door && it.target.is_none_or(meets)
                    });
                    // Of several holders of one element, it names the last.
                    let shared = there.iter().any(|grant| grant.key.network == network);
                    assert!(
                        !opens_here || shared || there.iter().any(is_there),
                        "{door} {network}"
                    );
                }
                guard = Guard::set_up(now(), model.ruleset.clone(), &model.elements()).unwrap();
                "knockd dies and starts again".to_owned()
            }
            _ => {
                thread::sleep(Duration::from_secs(1));
                "time passes".to_owned()
            }
        };
        for _ in 0..6 {
            let (client, port) = (*dice.of(&CLIENTS), *dice.of(&PORTS));
            let Some(answerer) = model.answerer(client, port) else { continue };
            let limit = Duration::from_millis(if answerer.is_some() { 3000 } else { 50 });
            let said = answer(&net, client, port, limit);
            // What held when it was asked may have ended before it was answered.
            if model.answerer(client, port).as_ref() == Some(&answerer) {
                assert_eq!(said, answerer, "seed {seed}, step {step}: {what}; {client} {port}");
            }
        }
    }
}

#[test]
fn the_guard_lets_in_whom_the_model_lets_in() {
    needs!("model", "nft");
    for seed in [1, 20, 300] {
        live(seed);
    }
}
