//! A guard in the namespace of a test's thread, and what it stands before.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU16;
use std::ops::{Deref, DerefMut};
use std::thread;
use std::time::Duration;

use libknock::config::{GuardMode, Name};
use libknock::firewall::guard::{self, remove_standing};
use libknock::firewall::netlink::{Comment, Holding, NetlinkError, Removal};
use libknock::firewall::ruleset::{GuardGrant, GuardedDoor, Ruleset};
use libknock::grants::GrantKey;
use libknock::proto::network::Network;
use libknock::sys::clock;
use libknock::time::Monotonic;
use nix::sched::{CloneFlags, setns};

use crate::support::{Host, Net, SERVER, eventually};

/// A guard beside what the keeper knows: the grants that hold.
#[derive(Debug)]
pub(crate) struct Guard {
    guard: guard::Guard,
    grants: Vec<(Monotonic, GuardGrant)>,
}

impl Deref for Guard {
    type Target = guard::Guard;

    fn deref(&self) -> &guard::Guard {
        &self.guard
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut guard::Guard {
        &mut self.guard
    }
}

impl Guard {
    pub(crate) fn set_up(
        now: Monotonic,
        ruleset: Ruleset,
        keep: &[GuardGrant],
    ) -> Result<Self, NetlinkError> {
        let guard = guard::Guard::set_up(now, ruleset, keep)?;
        Ok(Self { guard, grants: until(now, keep) })
    }

    pub(crate) fn replace(
        &mut self,
        now: Monotonic,
        ruleset: Ruleset,
        keep: &[GuardGrant],
    ) -> Result<(), NetlinkError> {
        self.grants = until(now, keep);
        self.guard.replace(now, ruleset, keep)
    }

    pub(crate) fn restore(&mut self, now: Monotonic) -> Result<(), NetlinkError> {
        let keep = self.keep(now);
        self.guard.restore(now, &keep)
    }

    /// The grants that hold, as the keeper knows them.
    pub(crate) fn keep(&self, now: Monotonic) -> Vec<GuardGrant> {
        let left = |(until, grant): &(Monotonic, GuardGrant)| {
            let left = until.since(now);
            let gone = grant.left.saturating_sub(left);
            let ceiling = grant.ceiling.map(|ceiling| ceiling.saturating_sub(gone));
            GuardGrant { left, ceiling, ..grant.clone() }
        };
        self.grants.iter().map(left).collect()
    }

    pub(crate) fn open(
        &mut self,
        now: Monotonic,
        grant: &GuardGrant,
    ) -> Result<Holding, NetlinkError> {
        let slots = self.guard.elements(grant);
        let (left, comment) = (grant.left, &grant.comment);
        let mut holding = Holding::Added;
        let added = match self.guard.netlink.add(&slots, comment) {
            // The first for a network as wide as this one.
            Err(NetlinkError::NoSet(_)) if grant.key.network.single().is_none() => {
                self.grants.push((now + left, grant.clone()));
                return self.restore(now).map(|()| Holding::Added);
            }
            added => added?,
        };
        if !added {
            holding = Holding::Kept;
            for (slot, left) in &slots {
                match self.guard.netlink.hold(slot, *left, comment)? {
                    Holding::Kept => {}
                    other => holding = other,
                }
            }
        }
        // A grant is never made shorter.
        let before = self.grants.iter().find(|(_, it)| it.key == grant.key).map(|it| it.0);
        self.forget(&grant.key);
        let until = before.unwrap_or(Monotonic::ZERO).max(now + left);
        self.grants.push((until, grant.clone()));
        Ok(holding)
    }

    pub(crate) fn close(
        &mut self,
        now: Monotonic,
        key: &GrantKey,
    ) -> Result<Removal, NetlinkError> {
        self.forget(key);
        let mut removal = Removal::WasNotThere;
        let others = self.keep(now);
        for slot in self.guard.places(key) {
            let holds = |it: &GuardGrant| {
                let mut slots = self.guard.elements(it).into_iter();
                let (at, left) = slots.find(|(it, _)| it.is_at(&slot))?;
                (!it.left.is_zero()).then(|| (at, left, it.comment.clone()))
            };
            let others = others.iter().filter(|it| it.key.network == key.network);
            let mut others = others.filter_map(holds);
            let other = match slot.value {
                Some(_) => others.next_back(),
                None => others.max_by_key(|(_, left, _)| *left),
            };
            match self.guard.netlink.release(&slot, other) {
                // Of networks, there was none as wide when the table was replaced.
                Ok(Removal::WasNotThere) | Err(NetlinkError::NoSet(_)) => {}
                done => removal = done?,
            }
        }
        Ok(removal)
    }

    fn forget(&mut self, key: &GrantKey) {
        self.grants.retain(|(_, it)| it.key != *key);
    }

    pub(crate) fn remove(self) -> Result<(), NetlinkError> {
        remove_standing()
    }
}

fn until(now: Monotonic, grants: &[GuardGrant]) -> Vec<(Monotonic, GuardGrant)> {
    grants.iter().map(|grant| (now + grant.left, grant.clone())).collect()
}

/// A net whose server is where this test's thread lives from now on, so that the guard does too.
pub(crate) fn net() -> Net {
    let net = Net::new();
    stay_in(&net.server);
    net
}

pub(crate) fn stay_in(host: &Host) {
    let namespace = File::open(format!("/run/netns/{}", host.name)).unwrap();
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
}

/// A door by its name.
pub(crate) type Door = (Name, GuardedDoor);

pub(crate) fn door(name: &str, ports: &[&str]) -> Door {
    let ports = ports.iter().map(|port| port.parse().unwrap()).collect();
    let door =
        GuardedDoor { idle: None, ports, forwards: vec![], target: None, mode: GuardMode::Lock };
    (name.parse().unwrap(), door)
}

/// The same, for one address.
pub(crate) fn door_to(target: &str, name: &str, ports: &[&str]) -> Door {
    let (name, door) = door(name, ports);
    (name, GuardedDoor { target: target.parse().ok(), ..door })
}

pub(crate) fn doors(doors: &[Door]) -> Ruleset {
    Ruleset { doors: doors.iter().cloned().collect(), ..Ruleset::default() }
}

pub(crate) fn ssh() -> Ruleset {
    doors(&[door("ssh", &["22"])])
}

pub(crate) fn key(door: &str, network: &str) -> GrantKey {
    GrantKey::new(door.parse().unwrap(), network.parse::<Network>().unwrap())
}

/// The grant from one source port alone.
pub(crate) fn bound(port: u16, grant: GuardGrant) -> GuardGrant {
    let key = GrantKey { source_port: NonZeroU16::new(port), ..grant.key };
    GuardGrant { key, ..grant }
}

pub(crate) fn grant(door: &str, address: &str, seconds: u64) -> GuardGrant {
    GuardGrant {
        key: key(door, address),
        ceiling: None,
        left: Duration::from_secs(seconds),
        comment: Comment::new(&format!("knockd {door} knockctl")),
    }
}

pub(crate) fn let_in(guard: &mut Guard, grant: &GuardGrant) {
    assert_ne!(guard.open(now(), grant).unwrap(), Holding::NotOurs(None));
}

pub(crate) fn shut_out(guard: &mut Guard, door: &str, network: &str) {
    assert_ne!(guard.close(now(), &key(door, network)).unwrap(), Removal::NotOurs);
}

pub(crate) fn now() -> Monotonic {
    clock::now().monotonic
}

/// Answers every connection with what it sends.
pub(crate) fn echo_tcp(port: u16) {
    let listener = TcpListener::bind(SocketAddr::from(([0u16; 8], port))).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                std::io::copy(&mut stream, &mut writer)
            });
        }
    });
}

/// Answers every datagram with what it says.
pub(crate) fn echo_udp(address: &str, port: u16) {
    let socket = UdpSocket::bind((address.parse::<IpAddr>().unwrap(), port)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

/// The server as a router to 198.51.100.7, and what lies there.
pub(crate) fn beyond(net: &Net) -> Host {
    let third = Host::new("t");
    net.server.must("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
    net.server.must(
        "ip",
        &["link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns", &third.name],
    );
    net.server.must("ip", &["addr", "add", "198.51.100.1/24", "dev", "inside"]);
    net.server.must("ip", &["link", "set", "inside", "up"]);
    third.must("ip", &["addr", "add", "198.51.100.7/24", "dev", "eth0"]);
    third.must("ip", &["addr", "add", "198.51.100.8/24", "dev", "eth0"]);
    third.must("ip", &["link", "set", "eth0", "up"]);
    third.must("ip", &["route", "add", "default", "via", "198.51.100.1"]);
    net.client.must("ip", &["route", "add", "198.51.100.0/24", "via", SERVER]);
    third.listen(22);
    assert!(eventually(Duration::from_secs(10), || net.client.can_connect("198.51.100.7", 22)));
    third
}
