//! The guard between network namespaces: real nftables, real packets.
//!
//! Needs root and nft; says loudly what it skips where it cannot run.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use libknock::config::{Family, NftFamily, NftSet};
use libknock::firewall::guard::{Disturbance, standing};
use libknock::firewall::netlink::{
    Comment, ElementKey, ElementRef, Holding, Netlink, NetlinkError, NftChange, Removal, SetRef,
};
use libknock::firewall::nft_set::OwnSets;
use libknock::firewall::ruleset::{GuardGrant, Ruleset};
use libknock::sys::{clock, descriptors};

use crate::guard_fixture::{
    Guard, beyond, bound, door, door_to, doors, echo_tcp, echo_udp, grant, let_in, net, now,
    shut_out, ssh,
};
use crate::support::{CLIENT, CLIENT_6, Host, Net, SERVER, SERVER_6, eventually, needs};

fn is_answered(host: &Host, from: &str, to: &str, port: u16) -> bool {
    let from: IpAddr = from.parse().unwrap();
    let to = SocketAddr::new(to.parse().unwrap(), port);
    host.enter(move || {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket.send_to(b"?", to).unwrap();
        socket.recv_from(&mut [0; 10]).is_ok()
    })
}

/// Whether a connection from a source port is accepted.
fn can_connect_from_port(host: &Host, port: u16, to: &str) -> bool {
    let from =
        SocketAddr::new(if to.contains(':') { CLIENT_6 } else { CLIENT }.parse().unwrap(), port);
    let to = SocketAddr::new(to.parse().unwrap(), 22);
    host.enter(move || {
        let kind = socket2::Type::STREAM;
        let socket = socket2::Socket::new(socket2::Domain::for_address(to), kind, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&from.into()).unwrap();
        let accepted = socket.connect_timeout(&to.into(), Duration::from_millis(500)).is_ok();
        // A reset instead of TIME_WAIT, so that the port can be used again.
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        accepted
    })
}

#[test]
fn a_guarded_port_opens_for_the_granted_address_only_and_closes_again() {
    needs!("grant", "nft");
    let net = net();
    net.server.listen(22);
    net.server.listen(80);
    net.client.must("ip", &["addr", "add", "192.0.2.3/24", "dev", "eth0"]);
    assert!(net.client.can_connect(SERVER, 22));
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    assert!(!net.client.can_connect(SERVER, 22) && !net.client.can_connect(SERVER_6, 22));
    assert!(net.client.can_connect(SERVER, 80), "not a guarded port");
    assert!(net.server.can_connect("127.0.0.1", 22), "loopback");
    assert!(net.server.can_connect(SERVER, 22), "the host itself");

    let_in(&mut guard, &grant("ssh", CLIENT, 60));
    assert!(net.client.can_connect_from(CLIENT.parse().ok(), SERVER, 22));
    assert!(!net.client.can_connect_from("192.0.2.3".parse().ok(), SERVER, 22));
    assert!(!net.client.can_connect(SERVER_6, 22));

    shut_out(&mut guard, "ssh", CLIENT);
    shut_out(&mut guard, "ssh", CLIENT);
    assert!(!net.client.can_connect(SERVER, 22));

    let_in(&mut guard, &grant("ssh", CLIENT_6, 60));
    assert!(net.client.can_connect(SERVER_6, 22));
    shut_out(&mut guard, "ssh", CLIENT_6);
    assert!(!net.client.can_connect(SERVER_6, 22));
}

#[test]
fn the_kernel_closes_with_nobody_alive() {
    needs!("timeout", "nft");
    let net = net();
    net.server.listen(22);
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    let_in(&mut guard, &grant("ssh", CLIENT, 2));
    drop(guard);
    assert!(net.client.can_connect(SERVER, 22));
    assert!(eventually(Duration::from_secs(4), || !net.client.can_connect(SERVER, 22)));
}

#[test]
fn an_established_connection_survives_the_close() {
    needs!("established", "nft");
    let net = net();
    echo_tcp(22);
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    let_in(&mut guard, &grant("ssh", CLIENT, 60));
    let mut stream = net.client.enter(|| TcpStream::connect((SERVER, 22)).unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut says = |text: &[u8; 3]| {
        stream.write_all(text).unwrap();
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, text);
    };
    says(b"one");
    shut_out(&mut guard, "ssh", CLIENT);
    assert!(!net.client.can_connect(SERVER, 22));
    says(b"two");
    guard.restore(now()).unwrap();
    says(b"tri");
}

#[test]
fn a_connection_that_is_older_than_the_guard_goes_on() {
    needs!("older", "nft");
    let net = net();
    echo_tcp(22);
    let connect =
        |to: &'static str| net.client.enter(move || TcpStream::connect((to, 22)).unwrap());
    let mut streams = [SERVER, SERVER_6, SERVER].map(connect);
    // Nothing that tracks connections has run here before, and these say nothing on their own.
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    let mut says = |which: usize| {
        let stream = &mut streams[which];
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(b"one").unwrap();
        stream.read_exact(&mut [0; 3]).unwrap();
    };
    says(0);
    says(1);
    guard.restore(now()).unwrap();
    drop(guard);
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    says(2);
    assert!(!net.client.can_connect(SERVER, 22) && !net.client.can_connect(SERVER_6, 22));
    assert_eq!(standing().unwrap(), []);
    assert_eq!(guard.disturbance(), None);
}

#[test]
fn a_grant_can_be_made_longer_also_after_it_has_ended_and_never_shorter() {
    needs!("extend", "nft");
    let _net = net();
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    let left = || match standing().unwrap().as_slice() {
        [element] => element.left.as_secs_f32().round() as u64,
        other => panic!("{other:?}"),
    };
    let_in(&mut guard, &grant("ssh", CLIENT, 10));
    let again = Comment::new("knockd ssh spa phone");
    let_in(&mut guard, &GuardGrant { comment: again.clone(), ..grant("ssh", CLIENT, 100) });
    assert_eq!(left(), 100);
    assert_eq!(standing().unwrap()[0].comment, again);
    let_in(&mut guard, &grant("ssh", CLIENT, 20));
    assert_eq!(left(), 100);
    shut_out(&mut guard, "ssh", CLIENT);
    for _ in 0..200 {
        let_in(
            &mut guard,
            &GuardGrant { left: Duration::from_millis(1), ..grant("ssh", CLIENT, 0) },
        );
        thread::sleep(Duration::from_micros(700));
    }
    let_in(&mut guard, &grant("ssh", CLIENT, 30));
    assert_eq!(left(), 30);
    assert_eq!(guard.disturbance(), None, "what ends is no disturbance");
}

#[test]
fn a_udp_port_is_guarded_too() {
    needs!("udp", "nft");
    let net = net();
    echo_udp(SERVER, 53);
    echo_udp(SERVER_6, 53);
    let mut guard = Guard::set_up(now(), doors(&[door("dns", &["53/udp"])]), &[]).unwrap();
    assert!(!is_answered(&net.client, CLIENT, SERVER, 53));
    assert!(!is_answered(&net.client, CLIENT_6, SERVER_6, 53));
    let_in(&mut guard, &grant("dns", CLIENT, 60));
    let_in(&mut guard, &grant("dns", CLIENT_6, 60));
    assert!(is_answered(&net.client, CLIENT, SERVER, 53));
    assert!(is_answered(&net.client, CLIENT_6, SERVER_6, 53));
}

#[test]
fn a_grant_bound_to_a_source_port_lets_that_port_in_only() {
    needs!("source port", "nft");
    let net = net();
    net.server.listen(22);
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    for (client, server) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
        let bound = bound(4000, grant("ssh", client, 60));
        let_in(&mut guard, &bound);
        assert!(can_connect_from_port(&net.client, 4000, server));
        assert!(!can_connect_from_port(&net.client, 4001, server));
        assert_eq!(guard.close(now(), &bound.key).unwrap(), Removal::Removed);
        assert!(!can_connect_from_port(&net.client, 4000, server));
    }
}

#[test]
fn trusted_networks_need_no_grant() {
    needs!("trusted", "nft");
    let net = net();
    net.server.listen(22);
    net.client.must("ip", &["addr", "add", "192.0.2.130/24", "dev", "eth0"]);
    let trusted = vec!["192.0.2.128/25".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
    let _guard = Guard::set_up(now(), Ruleset { trusted, ..ssh() }, &[]).unwrap();
    assert!(net.client.can_connect_from("192.0.2.130".parse().ok(), SERVER, 22));
    assert!(net.client.can_connect(SERVER_6, 22));
    assert!(!net.client.can_connect_from(CLIENT.parse().ok(), SERVER, 22));
}

#[test]
fn of_two_doors_to_one_port_either_opens_it_and_no_other_port() {
    needs!("two doors", "nft");
    let net = net();
    for port in [22, 23, 24] {
        net.server.listen(port);
    }
    let ruleset = doors(&[door("a-1.x", &["22", "23"]), door("b", &["22", "24"])]);
    let mut guard = Guard::set_up(now(), ruleset, &[]).unwrap();
    let open = || [22, 23, 24].map(|port| net.client.can_connect(SERVER, port));
    assert_eq!(open(), [false, false, false]);
    let_in(&mut guard, &grant("a-1.x", CLIENT, 60));
    assert_eq!(open(), [true, true, false]);
    let_in(&mut guard, &grant("b", CLIENT, 60));
    assert_eq!(open(), [true, true, true]);
    shut_out(&mut guard, "a-1.x", CLIENT);
    assert_eq!(open(), [true, false, true]);
}

#[test]
fn forwarded_traffic_is_left_alone() {
    needs!("forwarded", "nft");
    let net = net();
    net.server.listen(22);
    let _third = beyond(&net);
    let _guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    assert!(net.client.can_connect("198.51.100.7", 22));
    assert!(!net.client.can_connect(SERVER, 22));
    assert!(!net.client.can_connect("198.51.100.1", 22), "another address of the router");
}

#[test]
fn a_door_with_a_target_guards_that_address_only() {
    needs!("target", "nft");
    let net = net();
    net.server.listen(22);
    let _third = beyond(&net);
    let target = door_to("198.51.100.7", "inner", &["22"]);
    let mut guard = Guard::set_up(now(), doors(&[target]), &[]).unwrap();
    let open = || ["198.51.100.7", "198.51.100.8", SERVER].map(|to| net.client.can_connect(to, 22));
    assert_eq!(open(), [false, true, true]);
    let_in(&mut guard, &grant("inner", CLIENT, 60));
    assert_eq!(open(), [true, true, true]);
}

#[test]
fn the_port_of_a_target_that_is_this_host_opens_for_the_doors_of_both() {
    needs!("target here", "nft");
    let net = net();
    net.server.listen(22);
    let target = door_to(SERVER, "one", &["22"]);
    let ruleset = doors(&[target, door("all", &["22"])]);
    let mut guard = Guard::set_up(now(), ruleset, &[]).unwrap();
    for name in ["one", "all"] {
        assert!(!net.client.can_connect(SERVER, 22));
        let_in(&mut guard, &grant(name, CLIENT, 60));
        assert!(net.client.can_connect(SERVER, 22), "{name}");
        shut_out(&mut guard, name, CLIENT);
    }
    let_in(&mut guard, &grant("one", CLIENT_6, 60));
    assert!(!net.client.can_connect(SERVER_6, 22), "a grant for another address of the host");
}

#[test]
fn a_lock_on_trial_ends_by_itself() {
    needs!("trial", "nft");
    let net = net();
    net.server.listen(22);
    let locked_until = Some(now() + Duration::from_secs(2));
    drop(Guard::set_up(now(), Ruleset { locked_until, ..ssh() }, &[]).unwrap());
    assert!(!net.client.can_connect(SERVER, 22));
    assert!(eventually(Duration::from_secs(4), || net.client.can_connect(SERVER, 22)));
    let _guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    assert!(!net.client.can_connect(SERVER, 22));
}

#[test]
fn grants_outlive_a_restart() {
    needs!("restart", "nft");
    let net = net();
    net.server.listen(22);
    assert_eq!(standing().unwrap(), []);
    let mut guard =
        Guard::set_up(now(), doors(&[door("ssh", &["22"]), door("old", &["25"])]), &[]).unwrap();
    let bound = bound(9, grant("ssh", CLIENT_6, 60));
    for element in [grant("ssh", CLIENT, 60), bound, grant("old", CLIENT, 60)] {
        let_in(&mut guard, &element);
    }
    drop(guard);
    let kept = standing().unwrap();
    assert_eq!(kept.len(), 3);
    let guard = Guard::set_up(now(), ssh(), &kept).unwrap();
    assert!(net.client.can_connect(SERVER, 22));
    let mut elements = standing().unwrap();
    elements.sort_by_key(|element| element.key.source_port);
    assert_eq!(elements.len(), 2, "the grant of a door that is no more ends");
    assert_eq!(elements[0].comment, Comment::new("knockd ssh knockctl"));
    assert!(
        elements[0].left > Duration::from_secs(50) && elements[0].left <= Duration::from_secs(60)
    );
    guard.remove().unwrap();
    assert!(!net.server.must("nft", &["list", "ruleset"]).contains("knockd"));
}

#[test]
fn while_the_table_is_replaced_no_guarded_port_is_open_and_no_grant_is_gone() {
    needs!("replacing", "nft");
    let net = net();
    net.client.must("ip", &["addr", "add", "192.0.2.3/24", "dev", "eth0"]);
    let receiver = UdpSocket::bind((SERVER, 53)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let ruleset = doors(&[door("dns", &["53/udp"])]);
    let mut guard = Guard::set_up(now(), ruleset.clone(), &[]).unwrap();
    let_in(&mut guard, &grant("dns", "192.0.2.3", 600));

    let stop = Arc::new(AtomicBool::new(false));
    let send = |from: &'static str, pause: Duration| {
        let (stop, sent) = (Arc::clone(&stop), Arc::new(AtomicUsize::new(0)));
        let counter = Arc::clone(&sent);
        let socket = net.client.enter(move || UdpSocket::bind((from, 0)).unwrap());
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                socket.send_to(from.as_bytes(), (SERVER, 53)).unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                thread::sleep(pause);
            }
        });
        (thread, sent)
    };
    let intruder = send(CLIENT, Duration::ZERO);
    let granted = send("192.0.2.3", Duration::from_millis(1));
    let heard = thread::spawn(move || {
        let (mut from_intruder, mut from_granted, mut buffer) = (0, 0, [0; 20]);
        while let Ok(length) = receiver.recv(&mut buffer) {
            let granted = &buffer[..length] == b"192.0.2.3";
            *(if granted { &mut from_granted } else { &mut from_intruder }) += 1;
        }
        (from_intruder, from_granted)
    });
    for round in 0..200 {
        let keep = standing().unwrap();
        if round % 2 == 0 {
            guard.replace(now(), ruleset.clone(), &keep).unwrap();
        } else {
            guard = Guard::set_up(now(), doors(&[door("dns", &["53/udp", "54"])]), &keep).unwrap();
        }
    }
    stop.store(true, Ordering::Relaxed);
    intruder.0.join().unwrap();
    granted.0.join().unwrap();
    let (from_intruder, from_granted) = heard.join().unwrap();
    let (tried, sent) = (intruder.1.load(Ordering::Relaxed), granted.1.load(Ordering::Relaxed));
    assert!(tried > 10_000 && sent > 100, "{tried} and {sent} sent");
    assert_eq!(from_intruder, 0, "of {tried} datagrams got through");
    // A packet that is being judged while the table changes may be lost; TCP sends it again.
    assert!(sent - from_granted <= 20, "{from_granted} of {sent} granted datagrams came");
}

#[test]
fn a_table_that_somebody_else_deletes_or_changes_is_noticed_and_restored() {
    needs!("disturbance", "nft");
    let net = net();
    net.server.listen(22);
    let trusted = vec!["2001:db8:1::/64".parse().unwrap()];
    let mut guard = Guard::set_up(now(), Ruleset { trusted, ..ssh() }, &[]).unwrap();
    let within = Some(Duration::from_secs(5));
    let held = [grant("ssh", CLIENT, 60)];
    let_in(&mut guard, &held[0]);
    let_in(&mut guard, &held[0]);
    assert_eq!(guard.disturbance(), None, "one's own doing");
    for (command, expected) in [
        ("flush ruleset", Some(Disturbance::Gone)),
        ("delete table inet knockd", Some(Disturbance::Gone)),
        ("flush chain inet knockd host", Some(Disturbance::Changed)),
        ("flush table inet knockd", Some(Disturbance::Changed)),
        ("delete element inet knockd guarded { tcp . 22 }", Some(Disturbance::Changed)),
        ("add element inet knockd guarded { tcp . 23 }", Some(Disturbance::Changed)),
        ("delete element inet knockd open_4 { 192.0.2.2 . tcp . 22 }", Some(Disturbance::Changed)),
        ("flush set inet knockd open_4", Some(Disturbance::Changed)),
        ("insert rule inet knockd input accept", Some(Disturbance::Changed)),
        ("add table inet knockd { flags dormant; }", Some(Disturbance::Changed)),
        ("flush set inet knockd trusted_6", Some(Disturbance::Changed)),
        ("add chain inet knockd more", Some(Disturbance::Changed)),
        ("flush ruleset; add table inet knockd", Some(Disturbance::Gone)),
        ("add table inet other", None),
        ("add element inet knockd open_4 { 192.0.2.77 . tcp . 22 timeout 9s }", None),
        ("add element inet knockd trusted_4 { 203.0.113.0/24 }", None),
    ] {
        net.server.must("nft", &[command]);
        assert_eq!(
            descriptors::wait(&[guard.monitor.as_fd()], within).unwrap(),
            [true],
            "{command}"
        );
        let found = guard.disturbance();
        // A table of the same name is another table.
        let is_expected = found == expected || (command.contains(';') && found.is_some());
        assert!(is_expected, "{command}: {found:?}");
        if found == Some(Disturbance::Gone) {
            let error = guard.open(now(), &grant("ssh", CLIENT, 60)).unwrap_err();
            assert!(matches!(error, NetlinkError::NoTable(_) | NetlinkError::NoSet(_)), "{error}");
        }
        guard.restore(now()).unwrap();
        assert_eq!(guard.disturbance(), None, "restored after {command}");
        assert!(net.client.can_connect(SERVER, 22));
        assert!(!net.client.can_connect(SERVER_6, 22), "{command}");
    }
}

#[test]
fn ten_thousand_grants_are_held_replaced_noticed_and_ended() {
    needs!("ten thousand", "nft");
    let net = net();
    net.server.listen(22);
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    let address = |n: u16| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]).to_string();
    for n in 0..10_000 {
        let_in(&mut guard, &grant("ssh", &address(n), 600));
    }
    let_in(&mut guard, &grant("ssh", CLIENT, 600));
    assert_eq!(guard.disturbance(), None);
    assert_eq!(standing().unwrap().len(), 10_001);
    assert!(net.client.can_connect(SERVER, 22));
    guard.restore(now()).unwrap();
    let grants = standing().unwrap();
    assert_eq!(grants.len(), 10_001);
    for GuardGrant { key, .. } in grants {
        assert_eq!(guard.close(now(), &key).unwrap(), Removal::Removed);
    }
    assert_eq!(standing().unwrap(), []);
    assert_eq!(guard.disturbance(), None);
    assert!(!net.client.can_connect(SERVER, 22));
}

/// A set of a table such as `inet filter`.
#[test]
fn a_set_of_another_type_does_not_stand_in_the_way() {
    needs!("another type", "nft");
    let net = net();
    net.server.listen(22);
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    let table = "add table inet knockd { comment \"knockd guard 2 x\"; }; \
                 add set inet knockd open_4 { type ipv4_addr; flags timeout; }; \
                 add element inet knockd open_4 { 192.0.2.2 }";
    for restored in [true, false] {
        net.server.must("nft", &[&format!("delete table inet knockd; {table}")]);
        if restored {
            guard.restore(now()).unwrap();
        } else {
            let _anew = Guard::set_up(now(), ssh(), &[]).unwrap();
        }
        assert!(!net.client.can_connect(SERVER, 22));
    }
}

#[test]
fn a_saved_ruleset_brings_no_grant_of_another_boot_back() {
    needs!("saved", "nft");
    let net = net();
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    let_in(&mut guard, &grant("ssh", CLIENT, 600));
    net.server.must("nft", &["add element inet knockd open_4 { 192.0.2.9 . tcp . 22 }"]);
    let boot = clock::boot_id().unwrap().to_string();
    let saved = net.server.must("nft", &["list", "table", "inet", "knockd"]);
    assert!(saved.contains(&boot), "{saved}");
    let file = tempfile::NamedTempFile::new().unwrap();
    for (text, grants) in [(saved.clone(), 1), (saved.replace(&boot, "another"), 0)] {
        fs::write(file.path(), format!("delete table inet knockd\n{text}")).unwrap();
        net.server.must("nft", &["-f", file.path().to_str().unwrap()]);
        assert_eq!(standing().unwrap().len(), grants);
    }
    let _guard = Guard::set_up(now(), ssh(), &standing().unwrap()).unwrap();
    let listed = net.server.must("nft", &["list", "set", "inet", "knockd", "open_4"]);
    assert!(listed.contains("192.0.2.9") && !listed.contains(CLIENT), "{listed}");
}

#[test]
fn sixty_thousand_ports_are_locked() {
    needs!("sixty thousand", "nft");
    let net = net();
    let ports: Vec<String> = (5_000..65_000).map(|port| format!("{port}/udp")).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    let mut guard = Guard::set_up(now(), doors(&[door("all", &ports)]), &[]).unwrap();
    for port in [5_000, 33_333, 64_999] {
        echo_udp(SERVER, port);
        assert!(!is_answered(&net.client, CLIENT, SERVER, port));
    }
    echo_udp(SERVER, 4_999);
    assert!(is_answered(&net.client, CLIENT, SERVER, 4_999));
    net.server.must("nft", &["flush ruleset"]);
    guard.restore(now()).unwrap();
    assert!(!is_answered(&net.client, CLIENT, SERVER, 64_999));
}

fn set_ref(table: &str, set: &str) -> SetRef {
    let (family, table) = table.split_once(' ').unwrap();
    let family = NftFamily::ALL.into_iter().find(|known| known.as_str() == family).unwrap();
    SetRef::new(family, table, set).unwrap()
}

/// A door's set for IPv4.
fn door_set(set: &SetRef) -> NftSet {
    let SetRef { family, table, set } = set.clone();
    NftSet { family, table, set4: Some(set), set6: None }
}

fn addition(set: &SetRef, key: &ElementKey, comment: &Comment) -> NftChange {
    NftChange::add(
        &ElementRef::new(set.clone(), key.clone()),
        Duration::from_secs(60),
        comment,
        true,
    )
}

#[test]
fn a_batch_is_all_or_nothing_and_says_what_is_missing() {
    needs!("batch", "nft");
    let net = net();
    net.server
        .must("nft", &["add table inet t; add set inet t s { type ipv4_addr; flags timeout; }"]);
    let mut netlink = Netlink::open().unwrap();
    let set = |table: &str, name: &str| set_ref(table, name);
    let (good, comment) = (set("inet t", "s"), Comment::new("x"));
    let keys: Vec<ElementKey> =
        (0..10).map(|last| IpAddr::from([192, 0, 2, last]).into()).collect();
    let key = |last: usize| &keys[last];

    for (missing, is_right) in [
        (set("inet t", "other"), (|e| matches!(e, NetlinkError::NoSet(_))) as fn(&_) -> bool),
        (set("inet other", "s"), |e| matches!(e, NetlinkError::NoTable(_))),
        (set("ip t", "s"), |e| matches!(e, NetlinkError::NoTable(_))),
    ] {
        let error = netlink
            .apply(&[
                addition(&good, key(1), &comment),
                addition(&missing, key(2), &comment),
                addition(&good, key(3), &comment),
            ])
            .unwrap_err();
        assert!(is_right(&error), "{error}");
        assert!(is_right(
            &netlink.release(&ElementRef::new(missing.clone(), key(1).clone()), None).unwrap_err()
        ));
        assert!(is_right(&netlink.dump(&missing).unwrap_err()));
    }
    assert_eq!(netlink.dump(&good).unwrap(), [], "nothing of a failed batch stays");

    netlink.apply(&[addition(&good, key(1), &comment), addition(&good, key(2), &comment)]).unwrap();
    let error = netlink
        .apply(&[addition(&good, key(3), &comment), addition(&good, key(2), &comment)])
        .unwrap_err();
    assert!(matches!(error, NetlinkError::Exists(_)), "{error}");
    let delete = NftChange::delete(&ElementRef::new(good.clone(), key(3).clone()));
    assert!(matches!(netlink.apply(&[delete]).unwrap_err(), NetlinkError::NoElement(_)));
    let listed = net.server.must("nft", &["list", "set", "inet", "t", "s"]);
    assert!(
        listed.contains("192.0.2.1 timeout 1m expires") && listed.contains("comment \"x\""),
        "{listed}"
    );
    let all: Vec<NftChange> = (1..=200)
        .flat_map(|_| [NftChange::delete(&ElementRef::new(good.clone(), key(9).clone()))])
        .collect();
    assert!(matches!(netlink.apply(&all).unwrap_err(), NetlinkError::NoElement(_)));
    assert_eq!(
        netlink.dump(&good).unwrap().len(),
        2,
        "answers of an earlier batch are not mixed up"
    );
}

#[test]
fn elements_in_bulk_are_one_batch() {
    needs!("bulk", "nft");
    let net = net();
    net.server.must("nft", &["add table ip6 t; add set ip6 t s { type ipv6_addr . inet_service; flags timeout; size 20000; }"]);
    let mut netlink = Netlink::open().unwrap();
    let (set, comment) = (SetRef::new(NftFamily::Ip6, "t", "s").unwrap(), Comment::new("many"));
    let key = |n: u16| ElementKey::from(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n])).port(n);
    let expected: Vec<ElementKey> = (1..=10_000).map(key).collect();
    let timeout = Duration::from_secs(600);
    let elements = expected.iter().map(|key| ElementRef::new(set.clone(), key.clone()));
    let changes: Vec<NftChange> =
        elements.map(|element| NftChange::add(&element, timeout, &comment, true)).collect();
    netlink.apply(&changes).unwrap();
    let mut keys: Vec<ElementKey> =
        netlink.dump(&set).unwrap().into_iter().map(|entry| entry.key).collect();
    keys.sort();
    assert_eq!(keys, expected);
    let error = netlink.apply(&changes).unwrap_err();
    assert!(matches!(error, NetlinkError::Exists(_)), "{error}");
    assert_eq!(netlink.dump(&set).unwrap().len(), 10_000);
}

#[test]
fn a_set_of_the_administrators_own_takes_grants_and_is_followed() {
    needs!("own set", "nft");
    let net = net();
    net.server.listen(22);
    let table = "\
table inet filter {
  set ssh4 { type ipv4_addr; flags timeout; }
  set ssh6 { type ipv6_addr; flags timeout; size 2; }
  chain input {
    type filter hook input priority 0; policy accept;
    tcp dport 22 iifname lo accept
    tcp dport 22 ip saddr @ssh4 accept
    tcp dport 22 ip6 saddr @ssh6 accept
    tcp dport 22 drop
  }
}";
    net.server.must("nft", &[table]);
    let set = |name: &str| set_ref("inet filter", name);
    let both = NftSet { set6: Some(set("ssh6").set), ..door_set(&set("ssh4")) };
    let mut own = OwnSets::check([&both]).unwrap();
    let (comment, long) = (Comment::new("knockd ssh totp"), Duration::from_secs(60));
    for (client, server) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
        let address: IpAddr = client.parse().unwrap();
        let set = &both.reference(Family::of(address)).unwrap();
        assert!(!net.client.can_connect(server, 22));
        for (left, holding) in [(Duration::from_secs(9), Holding::Added), (long, Holding::Kept)] {
            assert_eq!(
                own.netlink
                    .hold(&ElementRef::new(set.clone(), address.into()), left, &comment)
                    .unwrap(),
                holding
            );
        }
        assert!(own.netlink.dump(set).unwrap()[0].left > Some(Duration::from_secs(50)));
        assert!(net.client.can_connect(server, 22));
        assert_eq!(
            own.netlink.release(&ElementRef::new(set.clone(), address.into()), None).unwrap(),
            Removal::Removed
        );
        assert_eq!(
            own.netlink.release(&ElementRef::new(set.clone(), address.into()), None).unwrap(),
            Removal::WasNotThere
        );
        assert!(!net.client.can_connect(server, 22));
    }
    let mut fill = |last: u16| {
        let address = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        own.netlink.hold(&ElementRef::new(set("ssh6"), address.into()), long, &comment)
    };
    let full = (1..=10).find_map(|last| fill(last).err()).unwrap();
    assert!(matches!(full, NetlinkError::Full(_)), "{full}");

    assert_eq!(own.made_anew().unwrap(), []);
    net.server.must("nft", &["add table inet other"]);
    assert_eq!(own.made_anew().unwrap(), []);
    net.server.must("nft", &["flush ruleset"]);
    assert_eq!(own.made_anew().unwrap(), []);
    let error = own
        .netlink
        .hold(
            &ElementRef::new(set("ssh4"), CLIENT.parse::<IpAddr>().unwrap().into()),
            long,
            &comment,
        )
        .unwrap_err();
    assert!(matches!(error, NetlinkError::NoTable(_)), "{error}");
    net.server.must("nft", &[table]);
    assert_eq!(own.made_anew().unwrap(), [set("ssh4"), set("ssh6")]);
    net.server.must("nft", &[&format!("flush ruleset; {table}")]);
    assert_eq!(own.made_anew().unwrap(), [set("ssh4"), set("ssh6")]);
}

#[test]
fn what_others_have_put_into_a_set_is_neither_changed_nor_deleted() {
    needs!("elements of others", "nft");
    let net = net();
    net.server.must("nft", &["add table ip t; add set ip t s { type ipv4_addr; flags timeout; }"]);
    let set = set_ref("ip t", "s");
    let mut own = OwnSets::check([&door_set(&set)]).unwrap();
    let (ours, seconds) = (Comment::new("knockd ssh totp"), Duration::from_secs);
    let address = |last: u8| IpAddr::from([192, 0, 2, last]);
    for (last, element, left) in [
        (1, "", None),
        (2, "comment \"office\"", None),
        (3, "timeout 9s", Some(9)),
        (4, "timeout 900s comment \"office\"", Some(900)),
    ] {
        net.server.must("nft", &[&format!("add element ip t s {{ 192.0.2.{last} {element} }}")]);
        let holding = own
            .netlink
            .hold(&ElementRef::new(set.clone(), address(last).into()), seconds(60), &ours)
            .unwrap();
        let Holding::NotOurs(found) = holding else { panic!("{element}: {holding:?}") };
        assert_eq!(found.map(|left| left.as_secs_f32().round() as u64), left, "{element}");
        let it = ElementRef::new(set.clone(), address(last).into());
        let other = || Some((it.clone(), seconds(60), ours.clone()));
        assert_eq!(own.netlink.release(&it, other()).unwrap(), Removal::NotOurs, "{element}");
        assert_eq!(
            own.netlink.release(&ElementRef::new(set.clone(), address(last).into()), None).unwrap(),
            Removal::NotOurs,
            "{element}"
        );
    }
    assert_eq!(own.netlink.dump(&set).unwrap().len(), 4);
    // Made permanent while a grant holds it: nft leaves the comment of the grant.
    let _ours = own
        .netlink
        .hold(&ElementRef::new(set.clone(), address(5).into()), seconds(60), &ours)
        .unwrap();
    net.server.must("nft", &["add element ip t s { 192.0.2.5 }"]);
    assert_eq!(
        own.netlink.release(&ElementRef::new(set.clone(), address(5).into()), None).unwrap(),
        Removal::NotOurs
    );
}

#[test]
fn an_element_that_another_grant_holds_too_stays_until_that_one_ends() {
    needs!("shared element", "nft");
    let net = net();
    net.server.must("nft", &["add table ip t; add set ip t s { type ipv4_addr; flags timeout; }"]);
    let set = set_ref("ip t", "s");
    let mut own = OwnSets::check([&door_set(&set)]).unwrap();
    let (ssh, web) = (Comment::new("knockd ssh totp"), Comment::new("knockd web sequence"));
    let address: IpAddr = CLIENT.parse().unwrap();
    for (left, comment) in [(900, &ssh), (60, &web)] {
        let _ours = own
            .netlink
            .hold(&ElementRef::new(set.clone(), address.into()), Duration::from_secs(left), comment)
            .unwrap();
    }
    let found = own.netlink.dump(&set).unwrap();
    assert!(found[0].left > Some(Duration::from_secs(800)) && found[0].comment == ssh);
    let it = ElementRef::new(set.clone(), address.into());
    let other = || Some((it.clone(), Duration::from_secs(60), web.clone()));
    assert_eq!(own.netlink.release(&it, other()).unwrap(), Removal::Removed);
    let found = own.netlink.dump(&set).unwrap();
    assert!(found[0].left < Some(Duration::from_secs(61)) && found[0].comment == web);
    assert_eq!(
        own.netlink.release(&ElementRef::new(set.clone(), address.into()), None).unwrap(),
        Removal::Removed
    );
    assert_eq!(own.netlink.dump(&set).unwrap(), []);
}

#[test]
fn a_set_that_cannot_take_grants_is_refused_with_the_lines_that_declare_it() {
    needs!("unfit sets", "nft");
    let net = net();
    net.server.must(
        "nft",
        &["add table ip t;
           add set ip t plain { type ipv4_addr; };
           add set ip t ports { type inet_service; flags timeout; };
           add set ip t six { type ipv6_addr; flags timeout; };
           add set ip t ranges { type ipv4_addr; flags timeout, interval; };
           add map ip t marks { type ipv4_addr : mark; flags timeout; };"],
    );
    let complaint = |table: &str, name: &str| {
        OwnSets::check([&door_set(&set_ref(table, name))]).unwrap_err().to_string()
    };
    for (name, expected) in [
        ("missing", "there is no set 'ip t missing'"),
        ("plain", "the set 'ip t plain' lacks 'flags timeout'"),
        ("ports", "the set 'ip t ports' is not of type ipv4_addr"),
        ("six", "the set 'ip t six' is not of type ipv4_addr"),
        ("ranges", "the set 'ip t ranges' has 'flags interval', which takes no single addresses"),
        ("marks", "the set 'ip t marks' is a map"),
    ] {
        let said = complaint("ip t", name);
        let declare = format!("nft 'add set ip t {name} {{ type ipv4_addr; flags timeout; }}'");
        assert_eq!(said, format!("{expected}; declare it with:\n  {declare}"));
    }
    assert_eq!(
        complaint("ip none", "ssh4"),
        "there is no table 'ip none'; declare it with:\n  nft add table ip none\n  \
         nft 'add set ip none ssh4 { type ipv4_addr; flags timeout; }'"
    );
}

/// Runs one of the tests below in a process of its own that lacks something.
fn without(net: &Net, lacking: &[&str], test: &str) {
    let this = std::env::current_exe().unwrap();
    let this = this.to_str().unwrap();
    let arguments = ["--exact", test, "--ignored", "--nocapture"];
    let all: Vec<&str> = lacking[1..].iter().copied().chain([this]).chain(arguments).collect();
    let said = net.server.must(lacking[0], &all);
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn without_permission_the_guard_says_what_to_do() {
    needs!("permission", "nft");
    let lacking = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"];
    without(&net(), &lacking, "guard::here_is_no_permission");
}

#[test]
#[ignore = "needs a process without CAP_NET_ADMIN: another test starts it"]
fn here_is_no_permission() {
    let error = Guard::set_up(now(), ssh(), &[]).unwrap_err();
    assert!(matches!(error, NetlinkError::NotPermitted), "{error}");
    assert!(error.to_string().contains("as root, or with CAP_NET_ADMIN"), "{error}");
}

#[test]
fn the_guard_needs_no_program() {
    needs!("no nft", "nft");
    let hidden = "mount -t tmpfs none /usr/sbin && exec \"$@\"";
    let lacking = ["unshare", "--mount", "sh", "-c", hidden, "sh"];
    without(&net(), &lacking, "guard::here_is_no_nft");
}

#[test]
#[ignore = "needs a process that finds no nft: another test starts it"]
fn here_is_no_nft() {
    assert!(!std::path::Path::new("/usr/sbin/nft").exists());
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    let_in(&mut guard, &grant("ssh", CLIENT, 60));
    guard.restore(now()).unwrap();
    guard.remove().unwrap();
}
