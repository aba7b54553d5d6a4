//! What the guard makes of every kind of packet: locked without a grant, open with one.
//!
//! Needs root and nft; says loudly what it skips where it cannot run.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use etherparse::PacketBuilder;
use libknock::firewall::guard::{Disturbance, standing};
use libknock::firewall::netlink::{Holding, Removal};
use libknock::firewall::ruleset::{GuardGrant, Ruleset};
use libknock::grants::GrantKey;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::guard_fixture::{
    Guard, beyond, door, door_to, doors, echo_tcp, grant, key, let_in, net, now, shut_out, ssh,
};
use crate::support::{
    CLIENT, CLIENT_6, Host, Net, PATIENCE, SERVER, SERVER_6, eventually, needs, skipped,
};

/// How long nobody answers where the guard drops.
const SILENCE: Duration = Duration::from_millis(300);

/// The same door for all kinds: ssh and DNS.
fn both() -> Ruleset {
    doors(&[door("both", &["22", "53/udp"])])
}

/// A probe gets through without a guard, not through a guard, with a grant, and then not again.
fn locked_and_opened(ruleset: Ruleset, client: &str, gets_through: impl Fn() -> bool) {
    assert!(eventually(PATIENCE, &gets_through), "it does not get through anyway");
    let name = ruleset.doors.keys().next().unwrap().clone();
    let mut guard = Guard::set_up(now(), ruleset, &[]).unwrap();
    assert!(!gets_through(), "it is not locked");
    let_in(&mut guard, &grant(name.as_str(), client, 60));
    assert!(eventually(PATIENCE, &gets_through), "it does not open");
    shut_out(&mut guard, name.as_str(), client);
    assert!(!gets_through(), "it is not locked again");
    guard.remove().unwrap();
}

/// Answers every datagram to a port, whatever its destination, from an address of its own.
fn answers(address: &str, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((address.parse::<IpAddr>().unwrap(), port)).unwrap();
    let answering = socket.try_clone().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 9000];
        while let Ok((length, from)) = answering.recv_from(&mut buffer) {
            let _ = answering.send_to(&buffer[..length.min(10)], from);
        }
    });
    socket
}

/// Whether a datagram of this length is answered, by whatever address.
fn is_answered(host: &Host, to: &str, port: u16, length: usize) -> bool {
    let to: IpAddr = to.parse().unwrap();
    host.enter(move || {
        let from: IpAddr = if to.is_ipv4() { CLIENT } else { CLIENT_6 }.parse().unwrap();
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        let to = match to {
            IpAddr::V4(to) => SocketAddr::from((to, port)),
            IpAddr::V6(to) => {
                SocketAddrV6::new(to, port, 0, if_nametoindex("eth0").unwrap()).into()
            }
        };
        socket.send_to(&vec![b'?'; length], to).unwrap();
        socket.recv_from(&mut [0; 10]).is_ok()
    })
}

#[test]
fn broadcast() {
    needs!("broadcast", "nft");
    let net = net();
    let _socket = answers("0.0.0.0", 53);
    for to in ["192.0.2.255", "255.255.255.255"] {
        locked_and_opened(both(), CLIENT, || is_answered(&net.client, to, 53, 1));
    }
}

#[test]
fn multicast() {
    needs!("multicast", "nft");
    let net = net();
    let socket = answers("0.0.0.0", 53);
    socket.join_multicast_v4(&"239.1.2.3".parse().unwrap(), &SERVER.parse().unwrap()).unwrap();
    net.client.must("ip", &["route", "add", "239.0.0.0/8", "dev", "eth0"]);
    locked_and_opened(both(), CLIENT, || is_answered(&net.client, "239.1.2.3", 53, 1));
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
    socket.set_only_v6(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 53)).into()).unwrap();
    let socket: UdpSocket = socket.into();
    let interface = if_nametoindex("eth0").unwrap();
    socket.join_multicast_v6(&"ff05::123".parse().unwrap(), interface).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 10];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    for to in ["ff02::1", "ff05::123"] {
        locked_and_opened(both(), CLIENT_6, || is_answered(&net.client, to, 53, 1));
    }
}

#[test]
fn anycast() {
    needs!("anycast", "nft");
    let net = net();
    // A router answers to the first address of each of its networks.
    net.server.must("sysctl", &["-qw", "net.ipv6.conf.all.forwarding=1"]);
    let _socket = answers("::", 53);
    locked_and_opened(both(), CLIENT_6, || is_answered(&net.client, "2001:db8::", 53, 1));
}

fn nat(net: &Net, rule: &str) {
    let chain = "type nat hook prerouting priority dstnat; policy accept;";
    let table = format!("table inet nat {{ chain prerouting {{ {chain} {rule}; }}; }}");
    net.server.must("nft", &[&table]);
}

#[test]
fn a_guarded_port_that_is_translated_to_another_host() {
    needs!("dnat", "nft");
    let net = net();
    let _third = beyond(&net);
    nat(&net, "ip daddr 192.0.2.1 tcp dport 22 dnat ip to 198.51.100.7:22");
    locked_and_opened(both(), CLIENT, || net.client.can_connect(SERVER, 22));
}

#[test]
fn a_port_that_is_translated_onto_a_target() {
    needs!("dnat to target", "nft");
    let net = net();
    let _third = beyond(&net);
    nat(&net, "ip daddr 192.0.2.1 tcp dport 2222 dnat ip to 198.51.100.7:22");
    let target = door_to("198.51.100.7", "inner", &["22"]);
    locked_and_opened(doors(&[target]), CLIENT, || net.client.can_connect(SERVER, 2222));
}

#[test]
fn a_port_that_is_redirected_onto_a_guarded_one_and_a_guarded_one_that_is_redirected() {
    needs!("redirect", "nft");
    let net = net();
    net.server.listen(22);
    net.server.listen(80);
    nat(&net, "tcp dport 2222 redirect to :22");
    for (client, server) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
        locked_and_opened(both(), client, || net.client.can_connect(server, 2222));
    }
    net.server.must("nft", &["flush ruleset"]);
    nat(&net, "tcp dport 22 redirect to :80");
    for (client, server) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
        locked_and_opened(both(), client, || net.client.can_connect(server, 22));
    }
}

#[test]
fn a_broadcast_that_is_redirected() {
    needs!("redirected broadcast", "nft");
    let net = net();
    let _socket = answers("0.0.0.0", 5353);
    nat(&net, "udp dport 53 redirect to :5353");
    let asks = || {
        net.client.enter(|| {
            let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.set_read_timeout(Some(SILENCE)).unwrap();
            socket.send_to(b"?", ("192.0.2.255", 53)).unwrap();
            socket.recv_from(&mut [0; 10]).is_ok()
        })
    };
    locked_and_opened(both(), CLIENT, asks);
}

#[test]
fn transparently_proxied() {
    needs!("tproxy", "nft");
    let net = net();
    net.server.must("ip", &["rule", "add", "fwmark", "1", "lookup", "100"]);
    net.server.must("ip", &["route", "add", "local", "default", "dev", "lo", "table", "100"]);
    net.client.must("ip", &["route", "add", "198.51.100.0/24", "via", SERVER]);
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    setsockopt(&listener, sockopt::IpTransparent, &true).unwrap();
    listener.bind(&SocketAddr::from(([0, 0, 0, 0], 1234)).into()).unwrap();
    listener.listen(10).unwrap();
    let listener: TcpListener = listener.into();
    thread::spawn(move || for _ in listener.incoming() {});
    let chain = "type filter hook prerouting priority mangle; policy accept;";
    let rule = "tcp dport 22 tproxy ip to 127.0.0.1:1234 meta mark set 1 accept";
    net.server.must("nft", &[&format!("table inet t {{ chain c {{ {chain} {rule}; }}; }}")]);
    // An address of this host, and one of another that is intercepted here.
    for to in [SERVER, "198.51.100.7"] {
        locked_and_opened(both(), CLIENT, || net.client.can_connect(to, 22));
    }
}

#[test]
fn by_a_virtual_routing_table() {
    needs!("vrf", "nft");
    let net = net();
    let made = net.server.run("ip", &["link", "add", "vrf0", "type", "vrf", "table", "10"]);
    if !made.status.success() {
        skipped("vrf", "this kernel has no VRF");
        return;
    }
    net.server.must("sysctl", &["-qw", "net.ipv4.tcp_l3mdev_accept=1"]);
    net.server.must("ip", &["link", "set", "vrf0", "up"]);
    net.server.must("ip", &["link", "set", "eth0", "master", "vrf0"]);
    net.server.listen(22);
    locked_and_opened(both(), CLIENT, || net.client.can_connect(SERVER, 22));
}

/// Makes the server's cable a port of a bridge that has its addresses.
fn bridged(net: &Net) {
    for line in [
        "link add br0 type bridge",
        "addr flush dev eth0",
        "link set eth0 master br0",
        "addr add 192.0.2.1/24 dev br0",
        "addr add 2001:db8::1/64 dev br0 nodad",
        "link set br0 up",
    ] {
        net.server.must("ip", &line.split(' ').collect::<Vec<_>>());
    }
}

#[test]
fn by_a_bridge() {
    needs!("bridge", "nft");
    let net = net();
    bridged(&net);
    net.server.listen(22);
    let _socket = answers("0.0.0.0", 53);
    for calls in ["0", "1"] {
        let call = format!("net.bridge.bridge-nf-call-iptables={calls}");
        let _not_built_in = net.server.run("sysctl", &["-qw", &call]);
        for (client, server) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
            locked_and_opened(both(), client, || net.client.can_connect(server, 22));
        }
        locked_and_opened(both(), CLIENT, || is_answered(&net.client, "192.0.2.255", 53, 1));
    }
}

#[test]
fn what_a_bridge_hands_on_to_others_is_left_alone() {
    needs!("bridged", "nft");
    let net = net();
    bridged(&net);
    let third = Host::new("t");
    let peer =
        ["link", "add", "port", "type", "veth", "peer", "name", "eth0", "netns", &third.name];
    net.server.must("ip", &peer);
    net.server.must("ip", &["link", "set", "port", "master", "br0", "up"]);
    third.must("ip", &["addr", "add", "192.0.2.9/24", "dev", "eth0"]);
    third.must("ip", &["link", "set", "eth0", "up"]);
    let _not_built_in = net.server.run("sysctl", &["-qw", "net.bridge.bridge-nf-call-iptables=1"]);
    third.listen(22);
    let _socket = third.enter(|| answers("0.0.0.0", 53));
    let _guard = Guard::set_up(now(), both(), &[]).unwrap();
    assert!(eventually(PATIENCE, || net.client.can_connect("192.0.2.9", 22)));
    assert!(is_answered(&net.client, "192.0.2.255", 53, 1), "broadcast");
}

#[test]
fn in_fragments() {
    needs!("fragments", "nft");
    let net = net();
    let _sockets = [answers(SERVER, 53), answers(SERVER_6, 53)];
    for (client, server) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
        locked_and_opened(both(), client, || is_answered(&net.client, server, 53, 5000));
    }
}

/// An IPv6 packet with an empty datagram to port 53, behind extension headers of these kinds.
fn extended(headers: &[u8], source_port: u16) -> Vec<u8> {
    let addresses = [CLIENT_6, SERVER_6].map(|it| it.parse::<Ipv6Addr>().unwrap().octets());
    let mut datagram = [source_port, 53, 8, 0].map(u16::to_be_bytes).concat();
    let pseudo = [&addresses.concat()[..], &[0, 0, 0, 8, 0, 0, 0, 17], &datagram].concat();
    let words = pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    let kinds: Vec<u8> = headers.iter().copied().chain([17]).collect();
    // Options: padding over the rest of eight bytes. A fragment: the first and the last.
    let behind = kinds.windows(2).flat_map(|pair| match pair[0] {
        44 => [pair[1], 0, 0, 0, 0, 0, 0, 7],
        _ => [pair[1], 0, 1, 4, 0, 0, 0, 0],
    });
    let behind: Vec<u8> = behind.chain(datagram).collect();
    let mut packet = vec![0x60, 0, 0, 0, 0, behind.len() as u8, kinds[0], 64];
    packet.extend(addresses.concat());
    packet.extend(behind);
    packet
}

#[test]
fn behind_extension_headers() {
    needs!("extension headers", "nft");
    let net = net();
    let _socket = answers(SERVER_6, 53);
    // Each time from another port: what has been answered once is a connection, and goes on.
    let port = AtomicU16::new(5000);
    // Hop-by-hop options, destination options, fragment.
    for headers in [&[][..], &[0], &[60], &[44], &[0, 60], &[60, 44, 60], &[60, 60, 60, 60]] {
        let is_answered = || {
            let port = port.fetch_add(1, Ordering::Relaxed);
            let packet = extended(headers, port);
            net.client.enter(move || {
                let answered = UdpSocket::bind((CLIENT_6, port)).unwrap();
                answered.set_read_timeout(Some(SILENCE)).unwrap();
                let raw =
                    Socket::new(Domain::IPV6, Type::from(3), Some(Protocol::from(255))).unwrap();
                let to = SocketAddr::new(SERVER_6.parse().unwrap(), 0);
                raw.send_to(&packet, &to.into()).unwrap();
                answered.recv_from(&mut [0; 10]).is_ok()
            })
        };
        locked_and_opened(both(), CLIENT_6, is_answered);
    }
}

/// Whether an address answers an echo request (RFC 792, RFC 4443).
fn echoes(host: &Host, to: &str) -> bool {
    let to: IpAddr = to.parse().unwrap();
    host.enter(move || {
        let (domain, protocol, request, header, reply) = match to {
            IpAddr::V4(_) => {
                (Domain::IPV4, Protocol::ICMPV4, [8, 0, 0xf7, 0xff, 0, 0, 0, 0], 20, 0)
            }
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, [128, 0, 0, 0, 0, 0, 0, 0], 0, 129),
        };
        let mut socket = Socket::new(domain, Type::from(3), Some(protocol)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.send_to(&request, &SocketAddr::new(to, 0).into()).unwrap();
        let mut packet = [0; 100];
        while socket.read(&mut packet).is_ok() {
            if packet[header] == reply {
                return true;
            }
        }
        false
    })
}

#[test]
fn icmp_is_left_alone() {
    needs!("icmp", "nft");
    let net = net();
    let _guard = Guard::set_up(now(), both(), &[]).unwrap();
    for server in [SERVER, SERVER_6] {
        net.client.must("ip", &["neigh", "flush", "dev", "eth0"]);
        assert!(eventually(PATIENCE, || echoes(&net.client, server)), "{server}");
    }
    // An error comes back to a guarded port that sends.
    for (client, server) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
        let socket = UdpSocket::bind((server, 53)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect((client, 9)).unwrap();
        socket.send(b"?").unwrap();
        let error = socket.recv(&mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn what_this_host_begins_from_a_guarded_port_is_answered() {
    needs!("begun here", "nft");
    let net = net();
    net.client.listen(80);
    let _socket = net.client.enter(|| answers(CLIENT, 5353));
    let _guard = Guard::set_up(now(), both(), &[]).unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(SERVER.parse().unwrap(), 22).into()).unwrap();
    let to = SocketAddr::new(CLIENT.parse().unwrap(), 80);
    assert!(socket.connect_timeout(&to.into(), PATIENCE).is_ok());
    let socket = UdpSocket::bind((SERVER, 53)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..2 {
        socket.send_to(b"?", (CLIENT, 5353)).unwrap();
        socket.recv(&mut [0; 10]).unwrap();
    }
}

/// Sends a packet of the client's that claims to come from another address, to be forwarded.
fn send_forged(net: &Net, from: (&str, u16), to: (&str, u16), is_tcp: bool) {
    let octets = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
    let mac = |host: &Host| {
        let text = host.must("cat", &["/sys/class/net/eth0/address"]);
        let bytes = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
        <[u8; 6]>::try_from(bytes.collect::<Vec<_>>()).unwrap()
    };
    let packet = PacketBuilder::ethernet2(mac(&net.client), mac(&net.server)).ipv6(
        octets(from.0),
        octets(to.0),
        64,
    );
    let mut frame = Vec::new();
    if is_tcp {
        packet.tcp(from.1, to.1, 1000, 1024).syn().write(&mut frame, &[]).unwrap();
    } else {
        packet.udp(from.1, to.1).write(&mut frame, b"!").unwrap();
    }
    net.client.enter(move || {
        let mut cable = pcap::Capture::from_device("eth0").unwrap().open().unwrap();
        cable.sendpacket(frame).unwrap();
    });
}

/// A connection to the server's port 22 from a port of the client's. It is reset when it ends.
fn from_port(net: &Net, to: &str, port: u16) -> std::io::Result<TcpStream> {
    let client = if to == SERVER { CLIENT } else { CLIENT_6 };
    let from = SocketAddr::new(client.parse().unwrap(), port);
    let to = SocketAddr::new(to.parse().unwrap(), 22);
    net.client.enter(move || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(3))?;
        Ok(socket.into())
    })
}

#[test]
fn what_claims_to_come_from_a_guarded_port_and_is_forwarded_opens_nothing() {
    needs!("forged", "nft");
    let net = net();
    echo_tcp(22);
    let _socket = answers(SERVER_6, 53);
    net.server.must("sysctl", &["-qw", "net.ipv6.conf.all.forwarding=1"]);
    // So that the client does not answer what it has not asked for.
    let silent =
        "table inet s { chain c { type filter hook input priority 0; tcp flags == syn drop; }; }";
    net.client.must("nft", &[silent]);
    let _guard = Guard::set_up(now(), both(), &[]).unwrap();

    let socket = net.client.enter(|| UdpSocket::bind((CLIENT_6, 4000)).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    send_forged(&net, (SERVER_6, 53), (CLIENT_6, 4000), false);
    assert_eq!(socket.recv(&mut [0; 10]).unwrap(), 1, "it is forwarded");
    socket.send_to(b"?", (SERVER_6, 53)).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(socket.recv(&mut [0; 10]).is_err(), "what looks like an answer passes");

    send_forged(&net, (SERVER_6, 22), (CLIENT_6, 4003), true);
    assert!(from_port(&net, SERVER_6, 4003).is_err(), "what looks like an answer passes");
}

#[test]
fn nobody_begins_anew_on_what_is_left_of_a_connection() {
    needs!("left over", "nft");
    let net = net();
    echo_tcp(22);
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    let_in(&mut guard, &grant("ssh", CLIENT, 60));
    let mut talk = Talk(from_port(&net, SERVER, 4446).unwrap());
    assert!(talk.goes_on());
    // The client vanishes without a word.
    let silent = "table inet s { chain c { type filter hook output priority 0; tcp flags & rst == rst drop; }; }";
    net.client.must("nft", &[silent]);
    drop(talk);
    net.client.must("nft", &["delete table inet s"]);
    shut_out(&mut guard, "ssh", CLIENT);
    assert!(from_port(&net, SERVER, 4446).is_err());
    let_in(&mut guard, &grant("ssh", CLIENT, 60));
    assert!(from_port(&net, SERVER, 4446).is_ok());
}

#[test]
fn what_belongs_to_an_open_connection_opens_no_guarded_port() {
    needs!("related", "nft");
    let net = net();
    net.server.listen(22);
    let listener = TcpListener::bind((SERVER, 21)).unwrap();
    // To the kernel's helper for FTP, the server announces the client's next connection.
    let helper = "ct helper ftp { type \"ftp\" protocol tcp; }";
    let chain = "type filter hook prerouting priority 0; tcp dport 21 ct helper set \"ftp\";";
    net.server.must("nft", &[&format!("table inet f {{ {helper}; chain c {{ {chain} }}; }}")]);
    let _guard = Guard::set_up(now(), both(), &[]).unwrap();
    let mut control = net.client.enter(|| TcpStream::connect((SERVER, 21)).unwrap());
    let (mut stream, _) = listener.accept().unwrap();
    let announcement = b"227 Entering Passive Mode (192,0,2,1,0,22)\r\n";
    stream.write_all(announcement).unwrap();
    control.read_exact(&mut [0; 44]).unwrap();
    assert!(!net.client.can_connect(SERVER, 22));
}

/// A client's connection to an echo, and what is said over it.
struct Talk(TcpStream);

impl Talk {
    fn begin(net: &Net, to: &'static str, port: u16) -> Self {
        let stream = net.client.enter(move || TcpStream::connect((to, port)).unwrap());
        Self(stream)
    }

    fn goes_on(&mut self) -> bool {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        self.0.write_all(b"one").is_ok() && self.0.read_exact(&mut [0; 3]).is_ok()
    }

    fn is_cut(&mut self) -> bool {
        self.0.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        self.0.write_all(b"one").is_err() || self.0.read_exact(&mut [0; 3]).is_err()
    }
}

#[test]
fn what_slipped_in_while_the_table_was_gone_does_not_go_on_and_what_was_let_in_does() {
    needs!("slipped in", "nft");
    let net = net();
    echo_tcp(22);
    // Whether or not somebody else has connections tracked in the gap.
    for others in
        ["", "table inet o { chain c { type filter hook input priority 0; ct state new; }; }"]
    {
        let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
        for to in [SERVER, SERVER_6] {
            let client = if to == SERVER { CLIENT } else { CLIENT_6 };
            let_in(&mut guard, &grant("ssh", client, 60));
            let mut let_in = Talk::begin(&net, to, 22);
            assert!(let_in.goes_on());
            shut_out(&mut guard, "ssh", client);
            net.server.must("nft", &["flush ruleset"]);
            if !others.is_empty() {
                net.server.must("nft", &[others]);
            }
            let mut slipped = Talk::begin(&net, to, 22);
            assert!(slipped.goes_on(), "nothing locks the port now");
            assert_eq!(guard.disturbance(), Some(Disturbance::Gone));
            guard.restore(now()).unwrap();
            assert!(slipped.is_cut(), "it goes on: {to} {others}");
            assert!(let_in.goes_on(), "it is cut: {to} {others}");
        }
        guard.remove().unwrap();
        net.server.must("nft", &["flush ruleset"]);
    }
}

#[test]
fn what_slipped_in_does_not_go_on_although_the_server_speaks_first() {
    needs!("server first", "nft");
    let net = net();
    let listener = TcpListener::bind((SERVER, 22)).unwrap();
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    net.server.must("nft", &["flush ruleset"]);
    let mut slipped = Talk::begin(&net, SERVER, 22);
    let (mut stream, _) = listener.accept().unwrap();
    assert!(guard.disturbance().is_some());
    guard.restore(now()).unwrap();
    // The kernel takes it for a connection that this host begins.
    stream.write_all(b"hello").unwrap();
    slipped.0.set_read_timeout(Some(PATIENCE)).unwrap();
    slipped.0.read_exact(&mut [0; 5]).unwrap();
    slipped.0.write_all(b"in").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(stream.read(&mut [0; 2]).is_err(), "it is heard");
}

#[test]
fn a_connection_that_is_older_than_the_lock_of_its_port_goes_on_and_begins_no_more() {
    needs!("older than a reload", "nft");
    let net = net();
    echo_tcp(22);
    let from_port = |port: u16| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        socket.bind(&SocketAddr::new(CLIENT.parse().unwrap(), port).into()).unwrap();
        let to = SocketAddr::new(SERVER.parse().unwrap(), 22);
        socket.connect_timeout(&to.into(), Duration::from_secs(1)).map(|()| TcpStream::from(socket))
    };
    let mut guard = Guard::set_up(now(), doors(&[door("web", &["80"])]), &[]).unwrap();
    let mut older = Talk(net.client.enter(move || from_port(4000).unwrap()));
    assert!(older.goes_on());
    guard.replace(now(), ssh(), &[]).unwrap();
    assert!(older.goes_on());
    guard.restore(now()).unwrap();
    drop(guard);
    let _guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    assert!(older.goes_on(), "after a restart");
    drop(older);
    assert!(net.client.enter(move || from_port(4000).is_err()), "a new one from the same port");
}

#[test]
fn a_datagram_connection_that_is_older_than_the_guard_goes_on() {
    needs!("older datagrams", "nft");
    let net = net();
    let _socket = answers(SERVER, 53);
    net.server.must(
        "nft",
        &["table inet o { chain c { type filter hook input priority 0; ct state new; }; }"],
    );
    let socket = net.client.enter(|| UdpSocket::bind((CLIENT, 0)).unwrap());
    socket.connect((SERVER, 53)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let is_answered = || socket.send(b"?").is_ok() && socket.recv(&mut [0; 10]).is_ok();
    assert!(is_answered());
    let _guard = Guard::set_up(now(), both(), &[]).unwrap();
    assert!(is_answered());
    assert!(!self::is_answered(&net.client, SERVER, 53, 1));
}

#[test]
fn an_element_that_somebody_added_by_hand_stays_what_it_is() {
    needs!("by hand", "nft");
    let net = net();
    net.server.listen(22);
    net.client.must("ip", &["addr", "add", "203.0.113.9/24", "dev", "eth0"]);
    net.server.must("ip", &["route", "add", "203.0.113.0/24", "dev", "eth0"]);
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    net.server.must("nft", &["add element inet knockd open_4 { 192.0.2.2 . tcp . 22 }"]);
    net.server.must("nft", &["add element inet knockd trusted_4 { 203.0.113.0/24 }"]);
    let stays = |after: &str| {
        let listed = net.server.must("nft", &["list", "set", "inet", "knockd", "open_4"]);
        assert!(listed.contains("{ 192.0.2.2 . tcp . 22 }"), "{after}: {listed}");
        let other = "203.0.113.9".parse().ok();
        assert!(net.client.can_connect_from(other, SERVER, 22), "{after}");
        assert!(net.client.can_connect(SERVER, 22), "{after}");
    };
    stays("adding");
    assert_eq!(guard.disturbance(), None);
    assert_eq!(guard.open(now(), &grant("ssh", CLIENT, 60)).unwrap(), Holding::NotOurs(None));
    stays("a grant");
    let reload = |trusted: &[&str]| {
        let trusted = trusted.iter().map(|network| network.parse().unwrap()).collect();
        Ruleset { trusted, ..ssh() }
    };
    guard.replace(now(), reload(&["203.0.113.9", "203.0.112.0/23"]), &[]).unwrap();
    stays("a reload");
    assert_eq!(guard.open(now(), &grant("ssh", CLIENT, 60)).unwrap(), Holding::NotOurs(None));
    assert_eq!(guard.close(now(), &key("ssh", CLIENT)).unwrap(), Removal::NotOurs);
    stays("a close");
    net.server.must("nft", &["insert rule inet knockd input drop"]);
    assert_eq!(guard.disturbance(), Some(Disturbance::Changed));
    guard.restore(now()).unwrap();
    stays("a restore");
    drop(guard);
    assert_eq!(standing().unwrap(), []);
    let _guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    stays("a restart");
    let trusted = net.server.must("nft", &["list", "set", "inet", "knockd", "trusted_4"]);
    assert!(trusted.contains("203.0.112.0/23"), "{trusted}");
}

/// A table as the former version made it, with a grant of each kind.
const FORMER: &str = include_str!("../data/guard/former.nft");

#[test]
fn a_table_of_the_former_form_is_taken_over_with_its_grants() {
    needs!("former", "nft");
    let net = net();
    echo_tcp(22);
    net.client.must("ip", &["addr", "add", "192.0.2.3/24", "dev", "eth0"]);
    net.client.must("ip", &["addr", "add", "192.0.2.4/24", "dev", "eth0"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), FORMER).unwrap();
    net.server.must("nft", &["-f", file.path().to_str().unwrap()]);
    let mut let_in = Talk::begin(&net, SERVER, 22);
    assert!(let_in.goes_on());
    let mut grants = standing().unwrap();
    grants.sort_by_key(|grant| grant.key.network);
    let found: Vec<String> = grants
        .iter()
        .map(|GuardGrant { key, comment, .. }| {
            let GrantKey { door, network, source_port } = key;
            format!("{door} {network} {source_port:?} {}", comment.as_str())
        })
        .collect();
    let expected = [
        "ssh 192.0.2.2 None knockd ssh spa phone",
        "ssh 2001:db8::2 Some(4000) knockd ssh totp phone",
    ];
    assert_eq!(found, expected);
    let guard = Guard::set_up(now(), ssh(), &grants).unwrap();
    let connects = |from: &str| net.client.can_connect_from(from.parse().ok(), SERVER, 22);
    assert!(connects("192.0.2.2"), "a grant is lost");
    assert!(connects("192.0.2.3"), "who was let in for good is not any more");
    assert!(!connects("192.0.2.4"));
    assert!(let_in.goes_on(), "a connection is cut");
    let listed = net.server.must("nft", &["list", "table", "inet", "knockd"]);
    assert!(
        listed.contains("comment \"knockd guard 2 ") && !listed.contains("g_ssh_4"),
        "{listed}"
    );
    assert_eq!(standing().unwrap().len(), 2);
    drop(guard);
}

#[test]
fn the_rules_are_the_same_for_one_door_and_for_a_thousand() {
    needs!("rules", "nft");
    let net = net();
    let rules = || {
        let listed = net.server.must("nft", &["-s", "-t", "list", "table", "inet", "knockd"]);
        listed
            .lines()
            .skip_while(|line| !line.contains("chain"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    let one = rules();
    for line in [
        "ip6 saddr . meta l4proto . th dport @open_6 goto let_in",
        "ct state established ct label 91 jump begun",
        "meta l4proto . th dport @guarded goto untranslated",
        "fib daddr type anycast goto host",
        "tcp flags != syn / fin,syn,rst,ack goto older",
    ] {
        assert!(one.iter().any(|rule| rule.trim() == line), "{line} in {one:#?}");
    }
    // What nft lists it takes: an administrator may save it.
    let listed = net.server.must("nft", &["list", "ruleset"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("flush ruleset\n{listed}")).unwrap();
    net.server.must("nft", &["-f", file.path().to_str().unwrap()]);
    assert_eq!(rules(), one);
    assert!(guard.disturbance().is_some());
    guard.restore(now()).unwrap();
    assert_eq!(rules(), one);
    let many = (1..=1000).map(|n| door(&format!("d{n}"), &[&n.to_string()]));
    guard.replace(now(), doors(&many.collect::<Vec<_>>()), &[]).unwrap();
    assert_eq!(rules(), one);
    net.server.listen(999);
    assert!(!net.client.can_connect(SERVER, 999));
    let_in(&mut guard, &grant("d999", CLIENT, 60));
    assert!(net.client.can_connect(SERVER, 999));
}
