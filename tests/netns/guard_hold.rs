//! Grants that the packets of their sessions renew: real nftables, real packets, and no knockd.
//!
//! Needs root and nft; says loudly what it skips where it cannot run.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use libknock::firewall::guard::standing;
use libknock::firewall::ruleset::{GuardGrant, GuardedDoor, Ruleset};
use socket2::{Domain, Socket, Type};

use crate::guard_fixture::{
    Door, Guard, beyond, bound, door, door_to, doors, echo_tcp, echo_udp, grant, let_in, net, now,
    shut_out, ssh,
};
use crate::support::{CLIENT, CLIENT_6, Host, PATIENCE, SERVER, SERVER_6, eventually, needs};

const IDLE: Duration = Duration::from_secs(2);
/// Some packets in each idle time.
const OFTEN: Duration = Duration::from_millis(300);
const INSIDE: &str = "198.51.100.7";

/// A door whose grants are renewed for so long.
fn held((name, door): Door, idle: Duration) -> Door {
    let idle = Some(idle);
    (name, GuardedDoor { idle, ..door })
}

fn held_ssh() -> Ruleset {
    doors(&[held(door("ssh", &["22", "22/udp"]), IDLE)])
}

/// A grant that is over in two seconds where nobody connects, and in any case after this many.
fn held_grant(door: &str, client: &str, ceiling: u64) -> GuardGrant {
    GuardGrant { ceiling: Some(Duration::from_secs(ceiling)), ..grant(door, client, 2) }
}

/// Speaks to and fro for so long.
fn speak(stream: &mut TcpStream, times: u32) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..times {
        stream.write_all(b"!").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        thread::sleep(OFTEN);
    }
}

fn connect(host: &Host, to: &str, port: u16) -> TcpStream {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    host.enter(move || TcpStream::connect_timeout(&to, PATIENCE)).unwrap()
}

fn socket(host: &Host, to: &str, port: u16) -> UdpSocket {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    let from: &str = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = host.enter(move || UdpSocket::bind(from)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket
}

fn is_answered(socket: &UdpSocket) -> bool {
    socket.send(b"?").unwrap();
    socket.recv(&mut [0; 10]).is_ok()
}

fn is_held() -> bool {
    !standing().unwrap().is_empty()
}

/// Two seconds and some, at the end of which nobody has sent anything.
fn ends() -> bool {
    eventually(IDLE + Duration::from_secs(2), || !is_held())
}

#[test]
fn a_session_keeps_its_door_open_with_nobody_alive_and_shuts_it_by_its_silence() {
    needs!("hold tcp", "nft");
    let net = net();
    echo_tcp(22);
    let mut guard = Guard::set_up(now(), held_ssh(), &[]).unwrap();
    let_in(&mut guard, &held_grant("ssh", CLIENT, 60));
    let_in(&mut guard, &held_grant("ssh", CLIENT_6, 60));
    drop(guard);
    let mut streams = [connect(&net.client, SERVER, 22), connect(&net.client, SERVER_6, 22)];
    for _ in 0..10 {
        streams.iter_mut().for_each(|stream| speak(stream, 1));
    }
    assert_eq!(standing().unwrap().len(), 2);
    assert!(net.client.can_connect(SERVER, 22) && net.client.can_connect(SERVER_6, 22));
    assert!(ends());
    for (mut stream, server) in streams.into_iter().zip([SERVER, SERVER_6]) {
        speak(&mut stream, 3);
        assert!(!is_held(), "what has ended is made anew by what goes on");
        assert!(!net.client.can_connect(server, 22));
    }
}

#[test]
fn datagrams_that_are_answered_keep_a_door_open() {
    needs!("hold udp", "nft");
    let net = net();
    echo_udp(SERVER, 22);
    echo_udp(SERVER_6, 22);
    let mut guard = Guard::set_up(now(), held_ssh(), &[]).unwrap();
    for (client, server) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
        let_in(&mut guard, &held_grant("ssh", client, 60));
        let flow = socket(&net.client, server, 22);
        for _ in 0..10 {
            assert!(is_answered(&flow));
            thread::sleep(OFTEN);
        }
        assert!(is_answered(&socket(&net.client, server, 22)), "another flow begins");
        assert!(ends());
        assert!(is_answered(&flow), "what was let in goes on");
        assert!(!is_answered(&socket(&net.client, server, 22)));
    }
}

#[test]
fn a_syn_renews_nothing_nor_does_who_resets_what_another_began() {
    needs!("hold syn", "nft");
    let net = net();
    echo_tcp(22);
    let unanswered = "table inet x { chain c { type filter hook output priority 0; \
                      tcp flags & (fin|syn|rst|ack) == ack drop; }; }";
    net.client.must("nft", &[unanswered]);
    let mut guard = Guard::set_up(now(), held_ssh(), &[]).unwrap();
    let_in(&mut guard, &held_grant("ssh", CLIENT, 60));
    let sends = net.client.enter(|| {
        let to = SocketAddr::new(SERVER.parse().unwrap(), 22);
        move || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let answered = socket.connect_timeout(&to.into(), OFTEN).is_ok();
            socket.set_linger(Some(Duration::ZERO)).unwrap();
            answered
        }
    });
    let mut answered = 0;
    let over = || {
        answered += u32::from(net.client.enter(sends));
        thread::sleep(OFTEN);
        !is_held()
    };
    assert!(eventually(IDLE + Duration::from_secs(2), over));
    assert!(answered > 2, "the SYNs did not come through");
}

#[test]
fn what_is_sent_to_a_client_that_has_vanished_renews_nothing() {
    needs!("hold vanished", "nft");
    let net = net();
    let server = UdpSocket::bind((SERVER, 22)).unwrap();
    let mut guard = Guard::set_up(now(), held_ssh(), &[]).unwrap();
    let_in(&mut guard, &held_grant("ssh", CLIENT, 60));
    let flow = socket(&net.client, SERVER, 22);
    flow.send(b"?").unwrap();
    let (_, client) = server.recv_from(&mut [0; 10]).unwrap();
    let over = || {
        server.send_to(b"!", client).unwrap();
        thread::sleep(OFTEN);
        !is_held()
    };
    assert!(eventually(IDLE + Duration::from_secs(2), over));
}

#[test]
fn a_connection_that_one_side_has_closed_keeps_its_door_open() {
    needs!("hold half-closed", "nft");
    let net = net();
    let listener = TcpListener::bind((SERVER, 22)).unwrap();
    let mut guard = Guard::set_up(now(), held_ssh(), &[]).unwrap();
    let_in(&mut guard, &held_grant("ssh", CLIENT, 60));
    let mut client = connect(&net.client, SERVER, 22);
    let (mut server, _) = listener.accept().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    for _ in 0..12 {
        server.write_all(b"!").unwrap();
        client.read_exact(&mut [0]).unwrap();
        thread::sleep(OFTEN);
    }
    assert!(is_held());
    assert!(ends());
}

#[test]
fn nothing_passes_the_ceiling() {
    needs!("hold ceiling", "nft");
    let net = net();
    echo_tcp(22);
    let mut guard = Guard::set_up(now(), held_ssh(), &[]).unwrap();
    let_in(&mut guard, &held_grant("ssh", CLIENT, 4));
    drop(guard);
    let mut stream = connect(&net.client, SERVER, 22);
    speak(&mut stream, 8);
    assert!(is_held() && net.client.can_connect(SERVER, 22), "longer than without a packet");
    speak(&mut stream, 8);
    assert!(!is_held() && !net.client.can_connect(SERVER, 22));
    speak(&mut stream, 1);
}

#[test]
fn what_is_closed_stays_closed_while_packets_come() {
    needs!("hold close", "nft");
    let net = net();
    echo_udp(SERVER, 22);
    let mut guard = Guard::set_up(now(), held_ssh(), &[]).unwrap();
    let_in(&mut guard, &held_grant("ssh", CLIENT, 60));
    let flow = socket(&net.client, SERVER, 22);
    assert!(is_answered(&flow));
    let goes_on = Arc::new(AtomicBool::new(true));
    let sender = thread::spawn({
        let goes_on = goes_on.clone();
        move || {
            while goes_on.load(Ordering::Relaxed) {
                is_answered(&flow);
            }
            is_answered(&flow)
        }
    });
    for round in 0..200 {
        let another = socket(&net.client, SERVER, 22);
        shut_out(&mut guard, "ssh", CLIENT);
        assert!(!is_held());
        assert!(round % 20 > 0 || !is_answered(&another));
        let_in(&mut guard, &held_grant("ssh", CLIENT, 60));
        assert!(is_held());
        assert!(round % 20 > 0 || is_answered(&another));
    }
    shut_out(&mut guard, "ssh", CLIENT);
    assert!(!is_answered(&socket(&net.client, SERVER, 22)));
    goes_on.store(false, Ordering::Relaxed);
    assert!(sender.join().unwrap());
    assert_eq!(guard.disturbance(), None, "packets are no disturbance");
}

#[test]
fn a_held_grant_outlives_reloads_and_flushes_with_the_time_that_packets_gave_it() {
    needs!("hold reload", "nft");
    let net = net();
    echo_tcp(22);
    let with = |idle| doors(&[held(door("ssh", &["22"]), Duration::from_secs(idle))]);
    let mut guard = Guard::set_up(now(), with(30), &[]).unwrap();
    let_in(&mut guard, &held_grant("ssh", CLIENT, 100));
    let mut stream = connect(&net.client, SERVER, 22);
    speak(&mut stream, 1);
    // What the keeper knows is that it ends in less than two seconds.
    let is = |left: u64, ceiling: Option<u64>| {
        let [grant] = &standing().unwrap()[..] else { panic!() };
        let near = |is: Duration, wanted: u64| is.as_secs().abs_diff(wanted) <= 3;
        assert!(near(grant.left, left), "{grant:?}");
        assert_eq!(grant.ceiling.is_some(), ceiling.is_some(), "{grant:?}");
        assert!(grant.ceiling.is_none_or(|it| near(it, ceiling.unwrap())), "{grant:?}");
        assert!(grant.comment.as_str().starts_with("knockd ssh"));
    };
    is(30, Some(100));
    guard.restore(now()).unwrap();
    is(30, Some(100));
    let keep = guard.keep(now());
    guard.replace(now(), with(60), &keep).unwrap();
    is(30, Some(100));
    speak(&mut stream, 1);
    is(60, Some(100));
    guard.replace(now(), ssh(), &keep).unwrap();
    is(60, None);
    guard.replace(now(), with(60), &keep).unwrap();
    is(60, Some(100));
    speak(&mut stream, 1);
    drop(guard);
    is(60, Some(100));
    let mut guard = Guard::set_up(now(), with(60), &standing().unwrap()).unwrap();
    is(60, Some(100));
    net.server.must("nft", &["flush", "ruleset"]);
    let keep = GuardGrant { left: Duration::from_secs(10), ..held_grant("ssh", CLIENT, 90) };
    guard.replace(now(), with(60), &[keep]).unwrap();
    is(10, Some(90));
    speak(&mut stream, 1);
    is(60, Some(90));
}

#[test]
fn what_was_opened_before_its_door_was_held_ends_at_its_time() {
    needs!("hold before", "nft");
    let net = net();
    echo_tcp(22);
    let mut guard = Guard::set_up(now(), ssh(), &[]).unwrap();
    let_in(&mut guard, &grant("ssh", CLIENT, 3));
    let mut stream = connect(&net.client, SERVER, 22);
    let keep = guard.keep(now());
    guard.replace(now(), held_ssh(), &keep).unwrap();
    speak(&mut stream, 3);
    assert!(is_held());
    speak(&mut stream, 10);
    assert!(!is_held());
}

#[test]
fn a_door_to_another_host_follows_the_session_however_it_gets_there() {
    needs!("hold target", "nft");
    let net = net();
    let third = beyond(&net);
    let listener = third.enter(|| TcpListener::bind("198.51.100.7:2200")).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    let lead = format!(
        "table ip t {{ chain c {{ type nat hook prerouting priority -100; \
         ip daddr {SERVER} tcp dport 2222 dnat to {INSIDE}:2200; }}; }}"
    );
    net.server.must("nft", &[&lead]);
    let ruleset = doors(&[held(door_to(INSIDE, "inside", &["2200"]), IDLE)]);
    let mut guard = Guard::set_up(now(), ruleset, &[]).unwrap();
    for (to, port) in [(INSIDE, 2200), (SERVER, 2222)] {
        assert!(!net.client.can_connect(to, port));
        let_in(&mut guard, &held_grant("inside", CLIENT, 60));
        let mut stream = connect(&net.client, to, port);
        speak(&mut stream, 10);
        assert!(is_held() && net.client.can_connect(to, port), "{to} {port}");
        assert!(ends());
        assert!(!net.client.can_connect(to, port));
        shut_out(&mut guard, "inside", CLIENT);
    }
}

#[test]
fn a_grant_for_one_source_port_is_renewed_from_there_alone() {
    needs!("hold bound", "nft");
    let net = net();
    echo_udp(SERVER, 22);
    let mut guard = Guard::set_up(now(), held_ssh(), &[]).unwrap();
    let flow = socket(&net.client, SERVER, 22);
    let port = flow.local_addr().unwrap().port();
    let bound = bound(port, held_grant("ssh", CLIENT, 60));
    let_in(&mut guard, &bound);
    for _ in 0..10 {
        assert!(is_answered(&flow));
        assert!(!is_answered(&socket(&net.client, SERVER, 22)));
    }
    assert_eq!(standing().unwrap()[0].key, bound.key);
    assert!(ends());
}

#[test]
fn of_two_doors_to_one_port_each_has_its_own_patience() {
    needs!("hold shared", "nft");
    let net = net();
    echo_tcp(22);
    let (short, long) = (held(door("short", &["22"]), IDLE), held(door("long", &["22"]), IDLE * 3));
    let mut guard = Guard::set_up(now(), doors(&[short, long]), &[]).unwrap();
    let_in(&mut guard, &held_grant("short", CLIENT, 60));
    let_in(&mut guard, &held_grant("long", CLIENT, 60));
    speak(&mut connect(&net.client, SERVER, 22), 2);
    let doors =
        || standing().unwrap().into_iter().map(|it| it.key.door.to_string()).collect::<Vec<_>>();
    assert_eq!(doors().len(), 2);
    assert!(eventually(IDLE + Duration::from_secs(2), || doors() == ["long"]));
    assert!(net.client.can_connect(SERVER, 22));
    shut_out(&mut guard, "long", CLIENT);
    assert!(!net.client.can_connect(SERVER, 22));
}

#[test]
fn a_door_that_is_closed_leaves_a_renewed_element_to_the_other_one() {
    needs!("hold shared close", "nft");
    let net = net();
    echo_tcp(22);
    let both = ["one", "other"].map(|name| held(door(name, &["22"]), Duration::from_secs(30)));
    let mut guard = Guard::set_up(now(), doors(&both), &[]).unwrap();
    let_in(&mut guard, &held_grant("one", CLIENT, 50));
    let_in(&mut guard, &held_grant("other", CLIENT, 100));
    speak(&mut connect(&net.client, SERVER, 22), 1);
    shut_out(&mut guard, "one", CLIENT);
    let [left] = &standing().unwrap()[..] else { panic!() };
    assert_eq!(left.key.door.as_str(), "other");
    assert!(left.left > Duration::from_secs(25), "{left:?}");
    assert!(left.ceiling > Some(Duration::from_secs(90)), "{left:?}");
    shut_out(&mut guard, "other", CLIENT);
    assert!(!net.client.can_connect(SERVER, 22));
}

#[test]
fn ten_thousand_grants_are_held_and_packets_renew_their_own_alone() {
    needs!("hold many", "nft");
    let net = net();
    echo_tcp(22);
    let with = doors(&[held(door("ssh", &["22"]), Duration::from_secs(600))]);
    let address = |number: u32| format!("10.1.{}.{}", number / 256, number % 256);
    let many = (0..10_000).map(|number| GuardGrant {
        left: Duration::from_secs(60),
        ..held_grant("ssh", &address(number), 1000)
    });
    let mut keep: Vec<GuardGrant> = many.collect();
    keep.push(held_grant("ssh", CLIENT, 1000));
    let mut guard = Guard::set_up(now(), with, &keep).unwrap();
    speak(&mut connect(&net.client, SERVER, 22), 1);
    guard.restore(now()).unwrap();
    let there = standing().unwrap();
    assert_eq!(there.len(), 10_001);
    let renewed: Vec<_> = there.iter().filter(|it| it.left > Duration::from_secs(500)).collect();
    assert_eq!(renewed.len(), 1);
    assert_eq!(renewed[0].key.network, CLIENT.parse().unwrap());
}

#[test]
fn nft_reads_again_what_it_shows_of_held_grants() {
    needs!("hold listing", "nft");
    let net = net();
    echo_tcp(22);
    let with = doors(&[held(door("ssh", &["22"]), Duration::from_secs(600))]);
    let mut guard = Guard::set_up(now(), with, &[]).unwrap();
    let_in(&mut guard, &held_grant("ssh", CLIENT, 1000));
    let mut stream = connect(&net.client, SERVER, 22);
    speak(&mut stream, 1);
    let again = "nft list ruleset > /tmp/listing.$$ && nft flush ruleset && \
                 nft -f /tmp/listing.$$; result=$?; rm /tmp/listing.$$; exit $result";
    net.server.must("sh", &["-c", again]);
    let left = || standing().unwrap()[0].left;
    assert!(left() > Duration::from_secs(500), "it had been given two seconds");
    speak(&mut stream, 1);
    assert!(net.client.can_connect(SERVER, 22));
}
