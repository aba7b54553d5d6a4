//! Grants for networks: real nftables, real packets.
//!
//! Needs root and nft; says loudly what it skips where it cannot run.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use libknock::config::Forward;
use libknock::firewall::guard::standing;
use libknock::firewall::ruleset::{GuardGrant, GuardedDoor};

use crate::forward::{INNER, OTHER, inner_host};
use crate::guard_fixture::{
    Door, Guard, beyond, bound, door, door_to, doors, echo_udp, grant, let_in, net, now, shut_out,
    ssh,
};
use crate::support::{CLIENT, CLIENT_6, Host, Net, SERVER, SERVER_6, needs};

/// Two addresses of one network of 30, and 126, bits with the client's, and one of the next.
const WITHIN: [&str; 2] = ["192.0.2.3", "2001:db8::3"];
const BESIDE: [&str; 2] = ["192.0.2.5", "2001:db8::5"];
const NETWORKS: [&str; 2] = ["192.0.2.0/30", "2001:db8::/126"];
const SERVERS: [&str; 2] = [SERVER, SERVER_6];

/// A net whose client has them all.
fn wide_net() -> Net {
    let net = net();
    add(&net, WITHIN);
    add(&net, BESIDE);
    net
}

fn add(net: &Net, addresses: [&str; 2]) {
    for address in addresses {
        let bits = if address.contains(':') { 64 } else { 24 };
        let address = format!("{address}/{bits}");
        net.client.must("ip", &["addr", "add", &address, "dev", "eth0", "nodad"]);
    }
}

/// What answers a datagram from this address, and port; `None`: nobody.
fn answer(host: &Host, from: (&str, u16), to: &str, port: u16) -> Option<String> {
    let from = SocketAddr::new(from.0.parse().unwrap(), from.1);
    let to = SocketAddr::new(to.parse().unwrap(), port);
    host.enter(move || {
        let socket = UdpSocket::bind(from).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        socket.send_to(b"?", to).unwrap();
        let mut said = [0; 50];
        let (length, _) = socket.recv_from(&mut said).ok()?;
        Some(String::from_utf8_lossy(&said[..length]).into_owned())
    })
}

/// Answers with its own address.
fn tells(host: &Host, address: &'static str, port: u16) {
    let at = (address.parse::<IpAddr>().unwrap(), port);
    let socket = host.enter(move || UdpSocket::bind(at).unwrap());
    thread::spawn(move || {
        while let Ok((_, from)) = socket.recv_from(&mut [0; 10]) {
            let _ = socket.send_to(address.as_bytes(), from);
        }
    });
}

/// Whether each of the three is let in: the client, one in its network, and one beside it.
fn let_in_of(net: &Net, family: usize, to: &str, port: u16) -> [bool; 3] {
    let from = [[CLIENT, CLIENT_6][family], WITHIN[family], BESIDE[family]];
    from.map(|from| answer(&net.client, (from, 0), to, port).is_some())
}

#[test]
fn a_network_is_let_in_as_a_whole_and_nobody_beside_it() {
    needs!("networks", "nft");
    let net = wide_net();
    let all = doors(&[door("all", &["5000/udp", "6000-6010/udp"])]);
    for port in [5000, 6005] {
        SERVERS.iter().for_each(|server| echo_udp(server, port));
    }
    let mut guard = Guard::set_up(now(), all.clone(), &[]).unwrap();
    for (family, network) in NETWORKS.into_iter().enumerate() {
        let here = |port| let_in_of(&net, family, SERVERS[family], port);
        let_in(&mut guard, &grant("all", network, 60));
        for port in [5000, 6005] {
            assert_eq!(here(port), [true, true, false], "{network} {port}");
        }
        let there = standing().unwrap();
        assert_eq!((there.len(), there[0].key.network.to_string()), (1, network.to_owned()));
        guard.restore(now()).unwrap();
        drop(guard);
        guard = Guard::set_up(now(), all.clone(), &there).unwrap();
        assert_eq!(here(5000), [true, true, false]);
        net.server.must("nft", &["flush", "ruleset"]);
        guard.replace(now(), all.clone(), &there).unwrap();
        assert_eq!(here(6005), [true, true, false]);
        shut_out(&mut guard, "all", network);
        assert_eq!(here(5000), [false; 3]);
        assert_eq!(here(6005), [false; 3]);
    }
}

#[test]
fn networks_within_each_other_and_an_address_in_them_end_each_alone() {
    needs!("networks within", "nft");
    let net = wide_net();
    let here = || let_in_of(&net, 0, SERVER, 6005);
    echo_udp(SERVER, 6005);
    let all = doors(&[door("all", &["6000-6010/udp"]), door("other", &["6005/udp"])]);
    let mut guard = Guard::set_up(now(), all, &[]).unwrap();
    for network in [NETWORKS[0], "192.0.2.0/29", CLIENT] {
        let_in(&mut guard, &grant("all", network, 60));
    }
    let_in(&mut guard, &grant("other", NETWORKS[0], 60));
    assert_eq!(here(), [true; 3]);
    shut_out(&mut guard, "all", "192.0.2.0/29");
    assert_eq!(here(), [true, true, false]);
    shut_out(&mut guard, "all", NETWORKS[0]);
    assert_eq!(here(), [true, true, false], "the other door's port is within the range");
    shut_out(&mut guard, "other", NETWORKS[0]);
    assert_eq!(here(), [true, false, false]);
}

#[test]
fn a_network_is_let_in_to_another_host_and_from_one_source_port() {
    needs!("networks to a target", "nft");
    let net = wide_net();
    let third = beyond(&net);
    tells(&third, "198.51.100.7", 5000);
    echo_udp(SERVER, 5000);
    let here = door("here", &["5000/udp"]);
    let inside = door_to("198.51.100.7", "inside", &["5000/udp"]);
    let mut guard = Guard::set_up(now(), doors(&[here, inside]), &[]).unwrap();
    for (name, to) in [("here", SERVER), ("inside", "198.51.100.7")] {
        let_in(&mut guard, &grant(name, NETWORKS[0], 60));
        assert_eq!(let_in_of(&net, 0, to, 5000), [true, true, false], "{to}");
        shut_out(&mut guard, name, NETWORKS[0]);
        let bound = bound(4000, grant(name, NETWORKS[0], 60));
        let_in(&mut guard, &bound);
        assert_eq!(standing().unwrap()[0].key, bound.key);
        let asks = |from, port| answer(&net.client, (from, port), to, 5000).is_some();
        assert_eq!([asks(WITHIN[0], 4000), asks(BESIDE[0], 4000)], [true, false], "{to}");
        assert!(!asks(WITHIN[0], 4001));
        let closed = guard.close(now(), &bound.key);
        assert!(closed.is_ok() && !asks(CLIENT, 4000));
    }
}

#[test]
fn a_network_is_led_on_unless_one_within_it_is_led_elsewhere() {
    needs!("networks forward", "nft");
    let net = net();
    let inner = inner_host(&net);
    add(&net, BESIDE);
    INNER.into_iter().chain(OTHER).for_each(|address| tells(&inner, address, 6000));
    let leading = |name: &str, to: [&str; 2]| -> Door {
        let forward = |to: &str| Forward {
            on: "5000/udp".parse().unwrap(),
            to: to.parse().unwrap(),
            port: 6000.try_into().unwrap(),
            masquerade: false,
        };
        let (name, door) = door(name, &[]);
        (name, GuardedDoor { forwards: to.map(forward).to_vec(), ..door })
    };
    let both = doors(&[leading("one", INNER), leading("other", OTHER)]);
    let mut guard = Guard::set_up(now(), both, &[]).unwrap();
    for family in [0, 1] {
        let client = [CLIENT, CLIENT_6][family];
        let says = |from: &str| answer(&net.client, (from, 0), SERVERS[family], 5000);
        let_in(&mut guard, &grant("one", client, 60));
        let_in(&mut guard, &grant("other", NETWORKS[family], 60));
        assert_eq!(says(client).as_deref(), Some(INNER[family]));
        assert_eq!(says(WITHIN[family]).as_deref(), Some(OTHER[family]));
        assert_eq!(says(BESIDE[family]), None);
        shut_out(&mut guard, "one", client);
        assert_eq!(says(client).as_deref(), Some(OTHER[family]));
        shut_out(&mut guard, "other", NETWORKS[family]);
        assert_eq!(says(client), None);
    }
}

#[test]
fn whoever_is_in_a_network_renews_its_grant() {
    needs!("networks held", "nft");
    let net = wide_net();
    echo_udp(SERVER, 5000);
    let (name, held) = door("held", &["5000/udp"]);
    let held = GuardedDoor { idle: Some(Duration::from_secs(2)), ..held };
    let mut guard = Guard::set_up(now(), doors(&[(name, held)]), &[]).unwrap();
    let ceiling = Some(Duration::from_secs(60));
    let_in(&mut guard, &GuardGrant { ceiling, ..grant("held", NETWORKS[0], 2) });
    drop(guard);
    let to = (SERVER, 5000);
    net.client.enter(move || {
        let socket = UdpSocket::bind((WITHIN[0], 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for _ in 0..12 {
            socket.send_to(b"?", to).unwrap();
            socket.recv_from(&mut [0; 10]).unwrap();
            thread::sleep(Duration::from_millis(300));
        }
    });
    let there = standing().unwrap();
    assert_eq!((there.len(), there[0].key.network.to_string()), (1, NETWORKS[0].to_owned()));
    assert_eq!(let_in_of(&net, 0, SERVER, 5000), [true, true, false]);
}

#[test]
fn nft_reads_again_what_it_shows_of_networks() {
    needs!("networks listing", "nft");
    let net = wide_net();
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    NETWORKS.iter().for_each(|network| let_in(&mut guard, &grant("ssh", network, 60)));
    let again = "nft list ruleset > /tmp/listing.$$ && nft flush ruleset && \
                 nft -f /tmp/listing.$$; result=$?; rm /tmp/listing.$$; exit $result";
    let listed = || net.server.must("nft", &["-s", "list", "ruleset"]);
    let before = listed();
    net.server.must("sh", &["-c", again]);
    assert_eq!(listed(), before);
    assert_eq!(standing().unwrap().len(), 2);
}
