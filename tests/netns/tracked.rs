//! The lives of connections as the kernel tells them: real connections, real events.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use libknock::firewall::netlink::{ConnectionEvents, Netlink};
use libknock::grants::ConnectionPhase::{Alive, Begun, Ended, Gone};
use libknock::grants::{ConnectionPhase, TrackedConnection};
use libknock::proto::open_ports::OpenPorts;
use nix::poll::{PollFd, PollFlags, poll};

use crate::guard_fixture::net;
use crate::support::{Host, Net, PATIENCE, SERVER, SERVER_6, conntrack, eventually, needs};

/// Long enough for whatever is told to arrive.
const A_MOMENT: u16 = 300;

fn ports(wanted: &[&str]) -> Vec<OpenPorts> {
    wanted.iter().map(|ports| ports.parse().unwrap()).collect()
}

/// A server that this thread lives on, whose kernel tracks connections.
fn tracking() -> Net {
    let net = net();
    let rule = "add table inet t; add chain inet t c { type filter hook prerouting priority 0; }; \
                add rule inet t c ct state new accept";
    net.server.must("nft", &[rule]);
    net
}

fn connect(net: &Net, to: &str, port: u16) -> (TcpStream, TcpStream) {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    let listener = TcpListener::bind(to).unwrap();
    let client = net.client.enter(move || TcpStream::connect(to).unwrap());
    (client, listener.accept().unwrap().0)
}

fn is_readable(events: &ConnectionEvents, wait: u16) -> bool {
    let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, wait).unwrap() > 0
}

/// What is told until the last of these phases has come.
fn phases(events: &mut ConnectionEvents, last: ConnectionPhase) -> Vec<ConnectionPhase> {
    let mut phases = Vec::new();
    let came = eventually(PATIENCE, || {
        assert!(events.look(|it| phases.push(it.phase)));
        phases.contains(&last)
    });
    assert!(came, "{phases:?}");
    phases.dedup();
    phases
}

fn datagram(host: &Host, to: &str, port: u16) -> UdpSocket {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    host.enter(move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(to).unwrap();
        socket.send(b"?").unwrap();
        socket
    })
}

#[test]
fn a_connection_begins_lives_half_closed_ends_and_is_forgotten() {
    needs!("tracked tcp", "nft");
    let net = tracking();
    for server in [SERVER, SERVER_6] {
        let mut events = ConnectionEvents::open(&ports(&["22"])).unwrap();
        let (mut client, mut served) = connect(&net, server, 22);
        assert_eq!(phases(&mut events, Alive), [Begun, Alive]);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(served.read(&mut [0; 9]).unwrap(), 0);
        served.write_all(b"half of it goes on").unwrap();
        client.read_exact(&mut [0; 18]).unwrap();
        assert_eq!(phases(&mut events, Alive), [Alive]);
        drop(served);
        assert_eq!(client.read(&mut [0; 9]).unwrap(), 0);
        assert_eq!(phases(&mut events, Ended), [Ended]);
        conntrack::flush(&net.server);
        assert_eq!(phases(&mut events, Gone), [Gone]);
    }
}

#[test]
fn a_reset_ends_a_connection() {
    needs!("tracked reset", "nft");
    let net = tracking();
    let mut events = ConnectionEvents::open(&ports(&["22"])).unwrap();
    let (client, served) = connect(&net, SERVER, 22);
    let client = socket2::Socket::from(client);
    client.set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    phases(&mut events, Ended);
    drop(served);
}

#[test]
fn what_goes_on_and_what_is_to_other_ports_wakes_nobody() {
    needs!("tracked others", "nft");
    let net = tracking();
    let mut events = ConnectionEvents::open(&ports(&["22", "60000-61000/udp", "80"])).unwrap();
    let (mut client, mut served) = connect(&net, SERVER, 22);
    phases(&mut events, Alive);
    while is_readable(&events, A_MOMENT) {
        assert!(events.look(|_| {}));
    }
    for _ in 0..100 {
        client.write_all(b"0123456789").unwrap();
        served.read_exact(&mut [0; 10]).unwrap();
    }
    for other in [21, 23, 60000, 443] {
        drop(connect(&net, SERVER, other));
    }
    for other in [22, 59999, 61001, 80] {
        drop(datagram(&net.client, SERVER, other));
    }
    assert!(!is_readable(&events, A_MOMENT));
    for wanted in [60000, 60500, 61000] {
        drop(datagram(&net.client, SERVER, wanted));
        assert_eq!(phases(&mut events, Begun), [Begun], "{wanted}");
    }
}

#[test]
fn of_very_many_ports_none_is_left_out_and_none_too_many_is_told() {
    needs!("tracked ports", "nft");
    let net = tracking();
    let many: Vec<OpenPorts> =
        (0..2000).map(|at| format!("{}/udp", 10_000 + at * 20).parse().unwrap()).collect();
    let mut events = ConnectionEvents::open(&many).unwrap();
    for at in [0, 1, 777, 1999] {
        let (port, beside) = (10_000 + at * 20, 10_007 + at * 20);
        drop(datagram(&net.client, SERVER, beside));
        drop(datagram(&net.client, SERVER, port));
        let mut told = Vec::new();
        let came = eventually(PATIENCE, || {
            assert!(events.look(|it| told.push(it.to.port())));
            !told.is_empty()
        });
        assert!(came && told == [port], "{told:?} of {port}");
    }
}

#[test]
fn a_dump_tells_the_connections_to_these_ports() {
    needs!("tracked dump", "nft");
    let net = tracking();
    let mut held = Vec::new();
    for server in [SERVER, SERVER_6] {
        held.extend([22, 23].map(|port| connect(&net, server, port)));
    }
    let answered = datagram(&net.client, SERVER, 60001);
    net.server.echo_udp(&[SERVER], 60002);
    assert!(net.client.is_answered(SERVER, 60002, PATIENCE));
    let mut netlink = Netlink::open().unwrap();
    let mut dump = |wanted: &[&str]| {
        let all = netlink.connections(&ports(wanted)).unwrap().into_iter();
        let shown = |it: TrackedConnection| {
            assert!(it.silent < Duration::from_secs(9) && it.answered_by == it.to, "{it:?}");
            format!("{} {:?}", it.to, it.phase)
        };
        let mut all: Vec<String> = all.map(shown).collect();
        all.sort();
        all
    };
    let ssh = ["192.0.2.1:22 Alive", "[2001:db8::1]:22 Alive"];
    let udp = ["192.0.2.1:60001 Begun", "192.0.2.1:60002 Alive"];
    assert_eq!(dump(&["22"]), ssh);
    assert_eq!(dump(&["60000-61000/udp"]), udp);
    let all = ["192.0.2.1:22 Alive", udp[0], udp[1], ssh[1]];
    assert_eq!(dump(&["22", "60000-61000/udp"]), all);
    assert_eq!(dump(&["22", "60001/udp", "60002/udp"]), all);
    assert_eq!(dump(&["24", "22/udp", "60001"]), [""; 0]);
    assert_eq!(dump(&[]), [""; 0]);
    drop((held, answered));
}

#[test]
fn too_much_to_be_told_is_said() {
    needs!("tracked lost", "nft");
    let net = tracking();
    let mut events = ConnectionEvents::open(&ports(&["60000/udp"])).unwrap();
    socket2::SockRef::from(&*events).set_recv_buffer_size(2048).unwrap();
    let sent: Vec<_> = (0..50).map(|_| datagram(&net.client, SERVER, 60000)).collect();
    assert!(is_readable(&events, A_MOMENT));
    assert!(!events.look(|_| {}));
    assert!(events.look(|_| {}));
    drop(sent);
}

#[test]
fn whether_the_kernel_tells_at_all_is_known() {
    needs!("tracked off", "nft");
    let net = tracking();
    let mut events = ConnectionEvents::open(&ports(&["22"])).unwrap();
    assert!(ConnectionEvents::are_told());
    net.server.must("sysctl", &["-qw", "net.netfilter.nf_conntrack_events=0"]);
    assert!(!ConnectionEvents::are_told());
    let held = connect(&net, SERVER, 22);
    assert!(!is_readable(&events, A_MOMENT));
    assert!(events.look(|_| {}));
    assert_eq!(Netlink::open().unwrap().connections(&ports(&["22"])).unwrap().len(), 1);
    drop(held);
}
