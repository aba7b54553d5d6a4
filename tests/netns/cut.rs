//! Connections that are cut: real sessions, on this host, behind it and beside it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Output;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::forward::{INNER, inner_host};
use crate::guard_fixture::{echo_tcp, echo_udp};
use crate::support::{
    CLIENT, CLIENT_6, Host, Knockd, Net, PATIENCE, SERVER, SERVER_6, command, eventually, needs,
};

/// How long to wait for an answer that is not to come.
const IN_VAIN: Duration = Duration::from_millis(400);
const WAYS: [(&str, &str); 2] = [(CLIENT, SERVER), (CLIENT_6, SERVER_6)];
/// Another client than the one whose connections are cut.
const OTHER: &str = "192.0.2.3";

/// A client, a server that echoes at 22/tcp and at 60001/udp, and a host behind it that echoes at 2222/tcp and 5000/udp.
struct Scene {
    net: Net,
    inner: Host,
}

impl Scene {
    fn new() -> Self {
        let net = Net::new();
        let inner = inner_host(&net);
        net.server.enter(|| {
            echo_tcp(22);
            [SERVER, SERVER_6].into_iter().for_each(|to| echo_udp(to, 60001));
        });
        inner.enter(|| echo_tcp(2222));
        Self { net, inner }
    }

    fn knockd(&self, doors: &str) -> Knockd {
        Knockd::start(&self.net.server, &configuration(doors))
    }

    /// A session of a client with what echoes at a port.
    fn session(&self, from: &str, to: &str, port: u16) -> TcpStream {
        let (from, to) = (SocketAddr::new(from.parse().unwrap(), 0), to.parse().unwrap());
        let mut stream: TcpStream = self.net.client.enter(move || {
            let kind = socket2::Domain::for_address(from);
            let socket = socket2::Socket::new(kind, socket2::Type::STREAM, None).unwrap();
            socket.bind(&from.into()).unwrap();
            let to = SocketAddr::new(to, port);
            socket.connect_timeout(&to.into(), PATIENCE).unwrap();
            socket.into()
        });
        assert!(lives(&mut stream), "{stream:?}");
        stream
    }

    /// A client that sends all its datagrams from one port.
    fn sender(&self, from: &str, to: &str, port: u16) -> UdpSocket {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        self.net.client.enter(move || {
            let socket = UdpSocket::bind((from, 6100)).unwrap();
            socket.connect((to, port)).unwrap();
            socket.set_read_timeout(Some(IN_VAIN)).unwrap();
            socket
        })
    }
}

fn configuration(doors: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
         clients:\n  phone: {{doors: [ssh], totp: {{secret: JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP}}}}\n\
         doors:\n{doors}\n"
    )
}

const SSH: &str = "  ssh: {sequence: [7000, 8000, 9000], open: [22, 60001/udp, 60002/udp]}";

fn lives(stream: &mut TcpStream) -> bool {
    is_answered_within(stream, PATIENCE)
}

fn is_silent(stream: &mut TcpStream) -> bool {
    !is_answered_within(stream, IN_VAIN)
}

fn is_answered_within(stream: &mut TcpStream, limit: Duration) -> bool {
    stream.set_read_timeout(Some(limit)).unwrap();
    stream.write_all(b"?").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

/// Whether the other end has reset it, without a word from here.
fn is_reset(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

fn comes_back(socket: &UdpSocket) -> bool {
    eventually(PATIENCE, || is_answered(socket))
}

fn is_answered(socket: &UdpSocket) -> bool {
    // What came too late for the last question, or an error for it.
    socket.set_nonblocking(true).unwrap();
    while !matches!(socket.recv(&mut [0; 10]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    {
    }
    socket.set_nonblocking(false).unwrap();
    let _ = socket.send(b"?");
    socket.recv(&mut [0; 10]).is_ok()
}

fn open(knockd: &Knockd, door: &str, address: &str) {
    let request = format!(r#"{{"do":"open","door":"{door}","address":"{address}"}}"#);
    let replies = knockd.ask(&request);
    assert_eq!(replies.last().unwrap()["reply"], "done", "{replies:?}");
}

fn knockctl(knockd: &Knockd, arguments: &str) -> Output {
    let mut knockctl = command(env!("CARGO_BIN_EXE_knockctl"));
    knockctl.arg("-c").arg(&knockd.config).args(arguments.split(' ')).output().unwrap()
}

/// What knockctl says of what it has done.
fn done(knockd: &Knockd, arguments: &str) -> String {
    let output = knockctl(knockd, arguments);
    assert!(output.status.success(), "{arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_session_on_this_host_is_reset_for_both_of_its_ends_and_those_of_others_go_on() {
    needs!("cut", "nft");
    let scene = Scene::new();
    let knockd = scene.knockd(SSH);
    for (from, to) in WAYS {
        open(&knockd, "ssh", from);
        open(&knockd, "ssh", OTHER);
        let mut cut = [scene.session(from, to, 22), scene.session(from, to, 22)];
        let mut others = scene.session(OTHER, SERVER, 22);
        let said = done(&knockd, &format!("close ssh {from} --cut"));
        assert_eq!(said, format!("ssh closes for {from}, 2 connections cut"));
        assert!(cut.iter_mut().all(is_reset));
        assert!(lives(&mut others), "of another client");
        open(&knockd, "ssh", from);
        drop(scene.session(from, to, 22));
        assert_eq!(done(&knockd, &format!("close ssh {OTHER}")), "ssh closes for 192.0.2.3");
        assert!(lives(&mut others), "without --cut");
    }
    assert_eq!(knockd.count("192.0.2.2: 2 connections cut"), 1);
}

#[test]
fn what_this_host_has_begun_itself_from_a_port_of_a_range_goes_on() {
    needs!("cut own", "nft");
    let scene = Scene::new();
    let knockd = scene.knockd(&SSH.replace("[22, ", "[22, 40000-41000, "));
    open(&knockd, "ssh", CLIENT);
    scene.net.client.enter(|| echo_tcp(80));
    scene.net.server.enter(|| echo_tcp(40500));
    let mut own: TcpStream = scene.net.server.enter(|| {
        let kind = (socket2::Domain::IPV4, socket2::Type::STREAM);
        let socket = socket2::Socket::new(kind.0, kind.1, None).unwrap();
        let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
        socket.bind(&at(SERVER, 40001).into()).unwrap();
        socket.connect(&at(CLIENT, 80).into()).unwrap();
        socket.into()
    });
    let mut session = scene.session(CLIENT, SERVER, 40500);
    assert!(lives(&mut own));
    let said = done(&knockd, &format!("close ssh {CLIENT} --cut"));
    assert_eq!(said, "ssh closes for 192.0.2.2, 1 connection cut");
    assert!(is_reset(&mut session) && lives(&mut own));
}

#[test]
fn what_goes_on_after_the_door_has_closed_can_still_be_cut() {
    needs!("cut later", "nft");
    let scene = Scene::new();
    let knockd = scene.knockd(SSH);
    open(&knockd, "ssh", CLIENT);
    let mut session = scene.session(CLIENT, SERVER, 22);
    done(&knockd, &format!("close ssh {CLIENT}"));
    assert!(lives(&mut session));
    assert_eq!(done(&knockd, &format!("close ssh {CLIENT} --cut")), "1 connection cut");
    assert!(is_reset(&mut session));
    let output = knockctl(&knockd, &format!("close ssh {CLIENT} --cut"));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("ssh is not open for 192.0.2.2"));
}

#[test]
fn a_door_that_says_so_cuts_when_its_time_is_over_and_not_while_another_lets_in() {
    needs!("cut on expiry", "nft");
    let scene = Scene::new();
    scene.net.server.enter(|| echo_tcp(2200));
    let door = "{sequence: [7000, 8000, 9000], open: [22, 2200], open_for: 2s, on_expiry: cut}";
    let longer = "{sequence: [7001, 8001, 9001], open: [20-30], open_for: 5s}";
    let knockd = scene.knockd(&format!("  ssh: {door}\n  longer: {longer}"));
    open(&knockd, "ssh", CLIENT);
    open(&knockd, "ssh", CLIENT_6);
    open(&knockd, "longer", CLIENT_6);
    let mut session = scene.session(CLIENT, SERVER, 22);
    let mut other = scene.session(CLIENT_6, SERVER_6, 22);
    let mut elsewhere = scene.session(CLIENT_6, SERVER_6, 2200);
    assert!(lives(&mut session));
    assert!(is_reset(&mut session));
    knockd.wait_for_count("ssh: command timeout", 2);
    assert!(lives(&mut other), "the other door is open");
    assert!(is_reset(&mut elsewhere), "but not for that port");
    knockd.wait_for("longer: command timeout");
    assert!(lives(&mut other), "a door that does not say so");
}

#[test]
fn where_nothing_goes_on_at_the_end_the_log_tells_of_no_cut() {
    needs!("nothing to cut", "nft");
    let scene = Scene::new();
    let door =
        |open_for| format!("{{sequence: [1], open: [22], open_for: {open_for}, on_expiry: cut}}");
    let knockd = scene.knockd(&format!("  ssh: {}\n  longer: {}", door("1s"), door("3s")));
    open(&knockd, "ssh", CLIENT);
    knockd.wait_for("ssh: command timeout");
    open(&knockd, "longer", CLIENT);
    let mut session = scene.session(CLIENT, SERVER, 22);
    assert!(is_reset(&mut session));
    knockd.wait_for("192.0.2.2: 1 connection cut");
    assert_eq!(knockd.count("connections cut"), 0);
}

#[test]
fn a_door_that_says_so_cuts_what_ended_while_knockd_was_dead() {
    needs!("cut after death", "nft");
    let scene = Scene::new();
    let door = "{sequence: [7000, 8000, 9000], open: [22], open_for: 2s, on_expiry: cut}";
    let mut knockd = scene.knockd(&format!("  ssh: {door}"));
    open(&knockd, "ssh", CLIENT);
    let mut session = scene.session(CLIENT, SERVER, 22);
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    assert!(eventually(PATIENCE, || !scene.net.client.can_connect(SERVER, 22)));
    assert!(lives(&mut session));
    let knockd = knockd.start_again(&scene.net.server);
    assert!(is_reset(&mut session));
    knockd.wait_for("192.0.2.2: 1 connection cut");
}

#[test]
fn whoever_is_revoked_loses_what_goes_on_though_its_grant_is_over() {
    needs!("cut revoked", "nft");
    let scene = Scene::new();
    let knockd = scene.knockd(SSH);
    let mut session = {
        open(&knockd, "ssh", CLIENT);
        scene.session(CLIENT, SERVER, 22)
    };
    let ask = |request: &str| knockd.ask(request).pop().unwrap()["text"].clone();
    assert_eq!(ask(r#"{"do":"revoke","client":"phone","cut":true}"#), "");
    assert!(lives(&mut session), "not the client's");
    done(&knockd, &format!("close ssh {CLIENT}"));
    // As if the phone had knocked.
    let mut knockd = knockd;
    knockd.signal(Signal::SIGTERM);
    knockd.ended();
    let history = knockd.directory.path().join("state/ledger.db");
    let db = rusqlite::Connection::open(history).unwrap();
    db.execute("UPDATE history SET client = 'phone' WHERE event = 'open'", []).unwrap();
    drop(db);
    let knockd = knockd.start_again(&scene.net.server);
    knockd.wait_for("starting up, listening on");
    assert!(lives(&mut session));
    let ask = |request: &str| knockd.ask(request).pop().unwrap()["text"].clone();
    assert_eq!(ask(r#"{"do":"revoke","client":"phone","cut":true}"#), "1 connection cut");
    assert!(is_reset(&mut session));
}

#[test]
fn all_that_doors_let_in_is_cut_at_once() {
    needs!("cut all", "nft");
    let scene = Scene::new();
    let forward = "{on: 2222, to: 198.51.100.7}";
    let inner = format!("  in: {{sequence: [7001, 8001, 9001], forward: {forward}}}");
    let knockd = scene.knockd(&format!("{SSH}\n{inner}"));
    for (door, from) in [("ssh", CLIENT), ("ssh", CLIENT_6), ("in", CLIENT)] {
        open(&knockd, door, from);
    }
    let mut sessions = WAYS.map(|(from, to)| scene.session(from, to, 22));
    let mut led = scene.session(CLIENT, SERVER, 2222);
    let said = done(&knockd, "close --all --cut");
    assert_eq!(said, "3 open doors close, 3 connections cut");
    assert!(sessions.iter_mut().all(is_reset));
    assert!(is_silent(&mut led));
}

#[test]
fn what_is_led_to_another_host_is_cut_and_opens_again_at_once() {
    needs!("cut forwarded", "nft");
    let scene = Scene::new();
    let to = |port: &str, inner: u16| {
        let forward = INNER.map(|to| format!("{{on: {port}, to: \"{to}\", port: {inner}}}"));
        forward.join(", ")
    };
    let forwards = [to("2222", 2222), to("60003/udp", 5000)].join(", ");
    let knockd =
        scene.knockd(&format!("  ssh: {{sequence: [7000, 8000, 9000], forward: [{forwards}]}}"));
    for (from, to) in WAYS {
        open(&knockd, "ssh", from);
        let mut session = scene.session(from, to, 2222);
        let sender = scene.sender(from, to, 60003);
        assert!(comes_back(&sender));
        done(&knockd, &format!("close ssh {from}"));
        assert!(lives(&mut session) && comes_back(&sender), "without --cut");
        let said = done(&knockd, &format!("close ssh {from} --cut"));
        assert_eq!(said, "2 connections cut");
        assert!(is_silent(&mut session) && !is_answered(&sender));
        open(&knockd, "ssh", from);
        drop(scene.session(from, to, 2222));
        assert!(comes_back(&sender), "from the same port");
        assert!(is_silent(&mut session), "the old session");
        done(&knockd, &format!("close ssh {from} --cut"));
    }
    drop(scene.inner);
}

#[test]
fn what_somebody_else_leads_to_a_container_is_cut_and_that_of_another_client_goes_on() {
    needs!("cut published", "nft");
    let scene = Scene::new();
    let rules = "table ip published { chain pre { type nat hook prerouting priority -100;
        tcp dport 8443 dnat to 198.51.100.7:2222
        udp dport 8053 dnat to 198.51.100.7:5000
        }
        }";
    scene.net.server.must("nft", &[rules]);
    let knockd = scene.knockd(&SSH.replace("[22, ", "[8443, 8053/udp, "));
    for client in [CLIENT, OTHER] {
        open(&knockd, "ssh", client);
    }
    let mut session = scene.session(CLIENT, SERVER, 8443);
    let mut other = scene.session(OTHER, SERVER, 8443);
    let sender = scene.sender(CLIENT, SERVER, 8053);
    assert!(comes_back(&sender));
    let said = done(&knockd, &format!("close ssh {CLIENT} --cut"));
    assert_eq!(said, "ssh closes for 192.0.2.2, 2 connections cut");
    assert!(is_silent(&mut session) && !is_answered(&sender) && lives(&mut other));
    open(&knockd, "ssh", CLIENT);
    drop(scene.session(CLIENT, SERVER, 8443));
    assert!(comes_back(&sender) && is_silent(&mut session));
}

#[test]
fn datagrams_are_cut_though_the_server_goes_on_sending_and_come_again_after_a_knock() {
    needs!("cut udp", "nft");
    let scene = Scene::new();
    let knockd = scene.knockd(SSH);
    for (from, to) in WAYS {
        open(&knockd, "ssh", from);
        let here = SocketAddr::new(to.parse().unwrap(), 60002);
        let server = scene.net.server.enter(move || UdpSocket::bind(here).unwrap());
        server.set_read_timeout(Some(IN_VAIN)).unwrap();
        let client = scene.sender(from, to, 60002);
        let is_heard = || client.send(b"?").is_ok() && server.recv(&mut [0; 10]).is_ok();
        let at = client.local_addr().unwrap();
        let hears = || server.send_to(b"!", at).is_ok() && client.recv(&mut [0; 10]).is_ok();
        assert!(is_heard() && hears());
        let said = done(&knockd, &format!("close ssh {from} --cut"));
        assert_eq!(said, format!("ssh closes for {from}, 1 connection cut"));
        // As mosh goes on for as long as it lives.
        for _ in 0..3 {
            assert!(!hears() && !is_heard(), "what the server sends is no way in");
        }
        open(&knockd, "ssh", from);
        assert!(is_heard() && hears(), "from the same port");
        done(&knockd, &format!("close ssh {from}"));
        assert!(is_heard() && hears(), "without --cut");
    }
}

#[test]
fn where_the_kernel_ends_no_sockets_the_session_is_dropped() {
    needs!("cut dropped", "nft");
    let scene = Scene::new();
    let lacking = [("KNOCKD_LACKS", "SOCK_DESTROY")];
    let knockd = Knockd::spawn_in(&scene.net.server, &configuration(SSH), &[], &lacking);
    knockd.wait_for("starting up, listening on");
    for (from, to) in WAYS {
        open(&knockd, "ssh", from);
        let mut session = scene.session(from, to, 22);
        let said = done(&knockd, &format!("close ssh {from} --cut"));
        assert_eq!(said, format!("ssh closes for {from}, 1 connection cut"));
        assert!(is_silent(&mut session));
        open(&knockd, "ssh", from);
        drop(scene.session(from, to, 22));
        assert!(is_silent(&mut session), "though its address is let in again");
    }
}

#[test]
fn where_no_guard_opens_what_is_led_on_and_datagrams_are_cut_too() {
    needs!("cut set", "nft");
    let scene = Scene::new();
    let rules = "table inet own {
        set open { type ipv4_addr; flags timeout; }
        chain input { type filter hook input priority 0;
            ct state established,related accept
            ip saddr @open udp dport 60002 accept
            udp dport 60002 drop
        }
        chain forward { type filter hook forward priority 0;
            ct state established,related accept
            ip saddr @open ct state new accept
            ip saddr 198.51.100.0/24 ct state new accept
            drop
        }
        }";
    scene.net.server.must("nft", &[rules]);
    let door = "{sequence: [7000, 8000, 9000], open: [2222, 60002/udp], via: {nft_set: {table: inet own, set4: open}}}";
    let knockd = scene.knockd(&format!("  ssh: {door}"));
    open(&knockd, "ssh", CLIENT);
    let server = scene.net.server.enter(|| UdpSocket::bind((SERVER, 60002)).unwrap());
    server.set_read_timeout(Some(IN_VAIN)).unwrap();
    let client = scene.sender(CLIENT, SERVER, 60002);
    let is_heard = || client.send(b"?").is_ok() && server.recv(&mut [0; 10]).is_ok();
    let at = client.local_addr().unwrap();
    assert!(is_heard());
    server.send_to(b"!", at).unwrap();
    let mut session = scene.session(CLIENT, INNER[0], 2222);
    done(&knockd, &format!("close ssh {CLIENT}"));
    assert!(lives(&mut session) && is_heard(), "without --cut");
    assert_eq!(done(&knockd, &format!("close ssh {CLIENT} --cut")), "2 connections cut");
    assert!(is_silent(&mut session));
    for _ in 0..3 {
        let _ = server.send_to(b"!", at);
        assert!(!is_heard());
    }
    open(&knockd, "ssh", CLIENT);
    assert!(is_heard(), "from the same port");
    drop(scene.session(CLIENT, INNER[0], 2222));
}

#[test]
fn nothing_stands_in_the_way_of_a_packet_until_something_is_cut_nor_after_the_guard_is_removed() {
    needs!("cut table", "nft");
    let scene = Scene::new();
    let config = configuration(SSH).replace("knockd: {", "knockd: {on_exit: remove, ");
    let knockd = Knockd::start(&scene.net.server, &config);
    let tables = || scene.net.server.must("nft", &["list", "tables"]);
    open(&knockd, "ssh", CLIENT);
    drop(scene.session(CLIENT, SERVER, 22));
    done(&knockd, &format!("close ssh {CLIENT} --cut"));
    assert_eq!(tables(), "table inet knockd\n");
    open(&knockd, "ssh", CLIENT);
    assert!(comes_back(&scene.sender(CLIENT, SERVER, 60001)));
    done(&knockd, &format!("close ssh {CLIENT} --cut"));
    assert_eq!(tables(), "table inet knockd\ntable inet knockd_cut\n");
    scene.net.server.must(
        "sh",
        &["-c", "nft list table inet knockd_cut >/tmp/cut.nft && nft -c -f /tmp/cut.nft"],
    );
    let (status, _) = knockd.stop();
    assert!(status.success());
    assert_eq!(tables(), "");
}
