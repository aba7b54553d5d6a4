//! The guard against a model of who may pass, through random lives: grants, closes, reloads, other
//! programs' doings, deaths of knockd, and time. The kernel's answer is asked by packets.
//!
//! Needs root and nft; says loudly what it skips where it cannot run.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use libknock::firewall::guard::standing;
use libknock::firewall::ruleset::{GuardGrant, GuardedDoor, Ruleset};
use libknock::sys::files;
use libknock::time::Monotonic;

use crate::guard_fixture::{
    Guard, door, door_to, doors, echo_udp, grant, let_in, net, now, shut_out,
};
use crate::support::{CLIENT, CLIENT_6, Net, SERVER, SERVER_6, needs};

const STEPS: u32 = 50;
const PORTS: [u16; 4] = [2201, 2202, 2203, 2204];
const CLIENTS: [&str; 3] = [CLIENT, "192.0.2.3", CLIENT_6];
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

fn rulesets() -> [Ruleset; 3] {
    let to_server = door_to(SERVER, "c", &["2203/udp"]);
    [
        doors(&[door("a", &["2201/udp", "2202/udp"]), door("b", &["2202/udp"]), to_server.clone()]),
        doors(&[door("a", &["2201/udp", "2203/udp"]), door("b", &["2202/udp"])]),
        doors(&[door("b", &["2202/udp", "2204/udp"]), to_server]),
    ]
}

/// Who may pass.
struct Model {
    ruleset: Ruleset,
    grants: BTreeMap<(String, String), Monotonic>,
}

impl Model {
    /// `None` where it depends on the moment.
    fn passes(&self, client: &str, port: u16) -> Option<bool> {
        let now = now();
        let server: IpAddr = server_of(client).parse().unwrap();
        let guards = |(_, door): &(_, &GuardedDoor)| {
            let is_here = door.target.is_none_or(|target| target == server);
            is_here && door.ports.iter().any(|ports| ports.first().port.get() == port)
        };
        let guarding: Vec<_> = self.ruleset.doors.iter().filter(guards).collect();
        let until = guarding.iter().filter_map(|(name, _)| {
            self.grants.get(&(name.to_string(), client.to_owned())).copied()
        });
        let until = until.max().unwrap_or(Monotonic::ZERO);
        let is_sure = until.since(now).max(now.since(until)) > UNSURE;
        is_sure.then_some(guarding.is_empty() || until > now)
    }

    fn elements(&self) -> Vec<GuardGrant> {
        let now = now();
        let left = self.grants.iter().map(|(key, until)| (key, until.since(now)));
        let grants = left.filter(|(_, left)| !left.is_zero());
        grants.map(|((door, client), left)| GuardGrant { left, ..grant(door, client, 0) }).collect()
    }
}

fn server_of(client: &str) -> &'static str {
    if client.contains(':') { SERVER_6 } else { SERVER }
}

/// Asks with a datagram from a port that was not used before.
fn is_answered(net: &Net, client: &str, port: u16, limit: Duration) -> bool {
    let from: IpAddr = client.parse().unwrap();
    let to = SocketAddr::new(server_of(client).parse().unwrap(), port);
    net.client.enter(move || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(limit)).unwrap();
        socket.send_to(b"?", to).unwrap();
        socket.recv_from(&mut [0; 10]).is_ok()
    })
}

fn live(seed: u64) {
    let net = net();
    net.client.must("ip", &["addr", "add", "192.0.2.3/24", "dev", "eth0"]);
    for port in PORTS {
        for address in [SERVER, SERVER_6] {
            echo_udp(address, port);
        }
    }
    let mut dice = Dice(seed);
    let rulesets = rulesets();
    let mut model = Model { ruleset: rulesets[0].clone(), grants: BTreeMap::new() };
    let mut guard = Guard::set_up(now(), model.ruleset.clone(), &[]).unwrap();
    for step in 0..STEPS {
        let names: Vec<String> = model.ruleset.doors.keys().map(ToString::to_string).collect();
        let (name, client) = (dice.of(&names).clone(), *dice.of(&CLIENTS));
        let what = match dice.below(12) {
            0..=4 => {
                let seconds = *dice.of(&[1, 60, 60]);
                let until = now() + Duration::from_secs(seconds);
                let_in(&mut guard, &grant(&name, client, seconds));
                model.grants.insert((name.clone(), client.to_owned()), until);
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
                    "insert rule inet knockd prerouting accept",
                    "add table inet knockd { flags dormant; }",
                ]);
                net.server.must("nft", &[doing]);
                files::wait(&[guard.monitor.as_fd()], Some(Duration::from_secs(5))).unwrap();
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
                    .map(|grant| (grant.door, grant.address))
                    .collect();
                let there = standing().unwrap();
                for (door, address) in sure {
                    let is_there =
                        |grant: &GuardGrant| grant.address == address && grant.door == door;
                    let opens_here = model.ruleset.doors.iter().any(|(name, it)| {
                        *name == door
                            && it.target.is_none_or(|to| to.is_ipv4() == address.is_ipv4())
                    });
                    // Of several holders of one element, it names the last.
                    let shared = there.iter().any(|grant| grant.address == address);
                    assert!(
                        !opens_here || shared || there.iter().any(is_there),
                        "{door} {address}"
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
        for _ in 0..4 {
            let (client, port) = (*dice.of(&CLIENTS), *dice.of(&PORTS));
            let Some(passes) = model.passes(client, port) else { continue };
            let limit = Duration::from_millis(if passes { 3000 } else { 50 });
            let answered = is_answered(&net, client, port, limit);
            // What held when it was asked may have ended before it was answered.
            if model.passes(client, port) == Some(passes) {
                assert_eq!(answered, passes, "seed {seed}, step {step}: {what}; {client} {port}");
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
