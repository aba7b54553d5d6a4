//! A guard in the namespace of a test's thread, and what it stands before.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use libknock::firewall::guard::Guard;
use libknock::firewall::netlink::{Comment, Holding, Removal};
use libknock::firewall::ruleset::{Element, GuardedDoor, Ruleset};
use libknock::sys::clock;
use libknock::time::Monotonic;
use nix::sched::{CloneFlags, setns};

use crate::support::{Host, Net, SERVER, eventually};

/// A net whose server is where this test's thread lives from now on, so that the guard does too.
pub fn net() -> Net {
    let net = Net::new();
    stay_in(&net.server);
    net
}

pub fn stay_in(host: &Host) {
    let namespace = File::open(format!("/run/netns/{}", host.name)).unwrap();
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
}

pub fn door(name: &str, ports: &[&str]) -> GuardedDoor {
    GuardedDoor {
        name: name.parse().unwrap(),
        ports: ports.iter().map(|port| port.parse().unwrap()).collect(),
        target: None,
    }
}

pub fn doors(doors: &[GuardedDoor]) -> Ruleset {
    Ruleset { doors: doors.to_vec(), ..Ruleset::default() }
}

pub fn ssh() -> Ruleset {
    doors(&[door("ssh", &["22"])])
}

pub fn grant(door: &str, address: &str, seconds: u64) -> Element {
    Element {
        door: door.parse().unwrap(),
        address: address.parse().unwrap(),
        source_port: None,
        left: Duration::from_secs(seconds),
        comment: Comment::new(&format!("knockd {door} knockctl")),
    }
}

pub fn let_in(guard: &mut Guard, grant: &Element) {
    assert_ne!(guard.open(now(), grant).unwrap(), Holding::NotOurs(None));
}

pub fn shut_out(guard: &mut Guard, door: &str, address: &str) {
    let (door, address) = (door.parse().unwrap(), address.parse().unwrap());
    assert_ne!(guard.close(now(), &door, address, None).unwrap(), Removal::NotOurs);
}

pub fn now() -> Monotonic {
    clock::now().monotonic
}

/// Answers every connection with what it sends.
pub fn echo_tcp(port: u16) {
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
pub fn echo_udp(address: &str, port: u16) {
    let socket = UdpSocket::bind((address.parse::<IpAddr>().unwrap(), port)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

/// The server as a router to 198.51.100.7, and what lies there.
pub fn beyond(net: &Net) -> Host {
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
