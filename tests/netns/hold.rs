//! Grants that follow the sessions that they let in: real connections, a real kernel, and a daemon
//! that dies.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::forward::{INNER, inner_host};
use crate::support::{CLIENT, Host, Knockd, Net, PATIENCE, SERVER, SERVER_6, eventually, needs};

const SEQUENCE: [&str; 3] = ["7000", "8000", "9000"];
const SOON: Duration = Duration::from_millis(10);
/// Longer than `open_for` in these tests, and than `idle`.
const LONG: Duration = Duration::from_secs(6);

fn configuration(door: &str) -> String {
    let open_for = if door.contains("open_for") { "" } else { "open_for: 2s, " };
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
         doors:\n  ssh: {{sequence: [7000, 8000, 9000], {open_for}{door}}}\n"
    )
}

/// A server with something that echoes, behind a door that is open for the client.
struct Scene {
    net: Net,
    knockd: Knockd,
}

impl Scene {
    fn new(door: &str) -> Self {
        let net = Net::new();
        echoes(&net, 22);
        net.server.echo_udp(&[SERVER, SERVER_6], 5000);
        Self::opened(net, door)
    }

    fn opened(net: Net, door: &str) -> Self {
        let knockd = Knockd::start(&net.server, &configuration(door));
        let scene = Self { net, knockd };
        scene.knock();
        scene
    }

    fn knock(&self) {
        self.net.client.knock_from(CLIENT.parse::<IpAddr>().unwrap(), SERVER, &SEQUENCE, SOON);
        assert!(eventually(PATIENCE, || self.is_open()), "{}", self.knockd.log().join("\n"));
    }

    fn is_open(&self) -> bool {
        self.knockd.grants().iter().any(|grant| grant["state"] == "open")
    }

    fn connect(&self, port: u16) -> TcpStream {
        let to: SocketAddr = SocketAddr::new(SERVER.parse().unwrap(), port);
        let stream = self.net.client.enter(move || {
            TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("it is not let in")
        });
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What knockctl says, on either stream.
    fn knockctl(&self, command: &str) -> String {
        let config = self.knockd.config.to_str().unwrap();
        let arguments = ["-c", config, command];
        let output = self.net.server.run(env!("CARGO_BIN_EXE_knockctl"), &arguments);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// The grant is held by so many connections.
    fn is_held_by(&self, count: u64) {
        let held = || self.knockd.grants().iter().any(|grant| grant["held_by"] == count);
        assert!(eventually(PATIENCE, held), "{:?}", self.knockd.grants());
    }

    /// It closes, and the log and the history say why.
    fn closes(&self, why: &str) {
        self.knockd.wait_for(&format!("{CLIENT}: ssh: {why}"));
        assert!(eventually(PATIENCE, || !self.is_open()));
        let said = |line: &serde_json::Value| {
            line["event"] == "close" && line["message"].as_str().is_some_and(|it| it == why)
        };
        let query = r#"{"do":"history","door":null,"address":null,"since":null}"#;
        let history = || self.knockd.ask(query).iter().any(said);
        assert!(eventually(PATIENCE, history), "{:?}", self.knockd.ask(query));
    }
}

/// Something that says again what it is told, until it is told no more.
fn echoes(net: &Net, port: u16) {
    let listener =
        net.server.enter(move || TcpListener::bind(SocketAddr::from(([0u16; 8], port))).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let mut buffer = [0; 100];
                while let Ok(length @ 1..) = from.read(&mut buffer) {
                    if to.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// Talks for a time, a word every quarter of a second.
fn talks(stream: &mut TcpStream, time: Duration) {
    for _ in 0..time.as_millis() / 250 {
        stream.write_all(b"word").unwrap();
        stream.read_exact(&mut [0; 4]).expect("no answer");
        thread::sleep(Duration::from_millis(250));
    }
}

fn talks_by_udp(net: &Net, to: &str, port: u16, time: Duration) {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    net.client.enter(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(to).unwrap();
        for _ in 0..time.as_millis() / 250 {
            socket.send(b"word").unwrap();
            socket.recv(&mut [0; 10]).expect("no answer");
            thread::sleep(Duration::from_millis(250));
        }
    });
}

/// Doors that open 22/tcp and 5000/udp in each of the ways in which that is held.
const WAYS: [&str; 3] = ["via: guard", "via: iptables", "via: {nft_set: SET}"];

/// Does this in all of these ways at the same time, each between namespaces of its own.
fn in_each_way(test: impl Fn(&str) + Sync) {
    let test = &test;
    thread::scope(|scope| {
        for way in WAYS {
            scope.spawn(move || test(way));
        }
    });
}

fn held(way: &str) -> String {
    let way = way.replace("SET", "{table: inet filter, set4: allowed}");
    format!("open: [22, 5000/udp], {way}, hold: {{idle: 4s, grace: 2s, at_most: 1h}}")
}

fn prepared(way: &str) -> Net {
    let net = Net::new();
    echoes(&net, 22);
    net.server.echo_udp(&[SERVER, SERVER_6], 5000);
    if way.contains("nft_set") {
        net.server.must(
            "nft",
            &["add table inet filter; \
               add set inet filter allowed { type ipv4_addr; flags timeout; }; \
               add chain inet filter input { type filter hook input priority 0; }; \
               add rule inet filter input ct state established accept; \
               add rule inet filter input tcp dport 22 ip saddr != @allowed drop; \
               add rule inet filter input udp dport 5000 ip saddr != @allowed drop"],
        );
    } else if way.contains("iptables") {
        for rule in [
            "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
            "-A INPUT -p tcp --dport 22 -j DROP",
            "-A INPUT -p udp --dport 5000 -j DROP",
        ] {
            net.server.must("iptables", &rule.split(' ').collect::<Vec<_>>());
        }
    }
    net
}

#[test]
fn a_session_holds_its_door_and_shuts_it_when_it_ends() {
    needs!("hold", "nft", "iptables");
    in_each_way(|way| {
        let scene = Scene::opened(prepared(way), &held(way));
        let mut session = scene.connect(22);
        scene.is_held_by(1);
        talks(&mut session, LONG);
        assert!(scene.is_open(), "{way}");
        let mut second = scene.connect(22);
        talks(&mut second, SOON * 30);
        scene.is_held_by(2);
        let status = scene.knockctl("status");
        assert!(status.contains("sequence  held by 2 connections\n"), "{status}");
        drop(second);
        scene.is_held_by(1);
        drop(session);
        scene.closes("closed: session ended");
        assert!(!scene.net.client.can_connect(SERVER, 22), "{way}");
    });
}

#[test]
fn a_session_that_begins_as_soon_as_the_door_opens_is_heard_to_end() {
    needs!("hold at once", "nft");
    let scene = Scene::new("open: [22], open_for: 1h, hold: {idle: 1h, grace: 1s}");
    let begin = |count| {
        let session = scene.connect(22);
        drop(session);
        scene.knockd.wait_for_count("closed: session ended", count);
    };
    begin(1);
    for count in 2..6 {
        let open = r#"{"do":"open","door":"ssh","address":"192.0.2.2","seconds":null}"#;
        assert_eq!(scene.knockd.ask(open)[0]["reply"], "opened");
        begin(count);
    }
}

#[test]
fn datagrams_hold_a_door_until_they_cease() {
    needs!("hold by udp", "nft", "iptables");
    in_each_way(|way| {
        let scene = Scene::opened(prepared(way), &held(way));
        talks_by_udp(&scene.net, SERVER, 5000, LONG);
        assert!(scene.is_open(), "{way}");
        scene.closes("closed: idle");
        assert!(!scene.net.client.is_answered(SERVER, 5000, SOON * 30), "{way}");
    });
}

#[test]
fn a_client_that_vanishes_or_falls_silent_holds_nothing_for_long() {
    needs!("hold idle", "nft", "iptables");
    in_each_way(|way| {
        let scene = Scene::opened(prepared(way), &held(way));
        let mut session = scene.connect(22);
        talks(&mut session, SOON * 30);
        scene.net.client.must("ip", &["link", "set", "eth0", "down"]);
        scene.closes("closed: idle");
    });
}

#[test]
fn a_connection_that_is_half_closed_goes_on_and_a_reset_ends_it() {
    needs!("hold half-closed", "nft");
    let scene = Scene::new("open: [23], hold: {idle: 4s, grace: 1s}");
    // It says something for as long as somebody may listen.
    let listener =
        scene.net.server.enter(|| TcpListener::bind(SocketAddr::from(([0u16; 8], 23))).unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                while stream.write_all(b"word").is_ok() {
                    thread::sleep(Duration::from_millis(250));
                }
            });
        }
    });
    let mut session = scene.connect(23);
    session.shutdown(Shutdown::Write).unwrap();
    for _ in 0..LONG.as_millis() / 250 {
        session.read_exact(&mut [0; 4]).unwrap();
    }
    assert!(scene.is_open());
    scene.is_held_by(1);
    let session = socket2::Socket::from(session);
    session.set_linger(Some(Duration::ZERO)).unwrap();
    drop(session);
    scene.closes("closed: session ended");
}

#[test]
fn without_a_connection_or_with_one_that_nobody_answers_it_ends_as_any_door_does() {
    needs!("hold nothing", "nft");
    let scene = Scene::new("open: [22, 5001/udp], hold: {idle: 20s}");
    scene.net.client.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((SERVER, 5001)).unwrap();
        for _ in 0..12 {
            // Nobody listens there.
            let _refused = socket.send(b"?");
            thread::sleep(Duration::from_millis(250));
        }
    });
    scene.closes("command timeout");
}

#[test]
fn nothing_is_open_for_longer_than_at_most() {
    needs!("hold at_most", "nft", "iptables");
    in_each_way(|way| {
        let door = held(way).replace("idle: 4s, grace: 2s, at_most: 1h", "idle: 3s, at_most: 5s");
        let scene = Scene::opened(prepared(way), &door);
        let mut session = scene.connect(22);
        talks(&mut session, Duration::from_secs(3));
        scene.knock();
        talks(&mut session, Duration::from_secs(3));
        scene.closes("closed: open for at_most");
        talks(&mut session, SOON * 30);
        assert!(!scene.net.client.can_connect(SERVER, 22), "{way}");
        scene.knock();
        assert!(scene.net.client.can_connect(SERVER, 22), "{way}: a knock opens it anew");
    });
}

#[test]
fn the_kernel_alone_holds_it_and_lets_go_while_knockd_is_dead() {
    needs!("hold without knockd", "nft");
    let mut scene = Scene::new("open: [22], hold: {idle: 3s, grace: 1s}");
    let mut session = scene.connect(22);
    talks(&mut session, SOON * 30);
    scene.knockd.signal(Signal::SIGKILL);
    scene.knockd.ended();
    talks(&mut session, LONG);
    assert!(scene.net.client.can_connect(SERVER, 22), "traffic does not hold it");
    thread::sleep(Duration::from_secs(4));
    assert!(!scene.net.client.can_connect(SERVER, 22), "silence does not shut it");
    talks(&mut session, SOON * 30);
    assert!(!scene.net.client.can_connect(SERVER, 22), "what goes on opens it again");
}

#[test]
fn who_starts_again_knows_what_is_held_and_how_long_it_may_be() {
    needs!("hold after a crash", "nft", "iptables");
    in_each_way(|way| {
        let door = held(way).replace("at_most: 1h", "at_most: 12s");
        let mut scene = Scene::opened(prepared(way), &door);
        let mut session = scene.connect(22);
        scene.is_held_by(1);
        scene.knockd.signal(Signal::SIGKILL);
        scene.knockd.ended();
        talks(&mut session, Duration::from_secs(1));
        scene.knockd = scene.knockd.start_again(&scene.net.server);
        scene.knockd.wait_for("still open from before");
        scene.is_held_by(1);
        talks(&mut session, LONG);
        assert!(scene.is_open(), "{way}: {:?}", scene.knockd.log());
        let talk = thread::spawn(move || talks(&mut session, LONG));
        scene.closes("closed: open for at_most");
        talk.join().unwrap();
    });
}

#[test]
fn ranges_and_what_leads_inside_are_held_too() {
    needs!("hold a range", "nft");
    let net = Net::new();
    let _inner = inner_host(&net);
    net.server.echo_udp(&[SERVER], 60500);
    let on = format!("{{on: 5000/udp, to: {}}}", INNER[0]);
    let door = format!("open: [60000-61000/udp], forward: [{on}], hold: {{idle: 4s, grace: 1s}}");
    let scene = Scene::opened(net, &door);
    for (count, port) in [(1, 60500), (2, 5000)] {
        scene.knock();
        talks_by_udp(&scene.net, SERVER, port, LONG);
        assert!(
            scene.is_open(),
            "{port}: {:?} {}",
            scene.knockd.grants(),
            scene.knockd.log().join("\n")
        );
        scene.knockd.wait_for_count("closed: idle", count);
        assert!(eventually(PATIENCE, || !scene.is_open()), "{port}");
    }
}

#[test]
fn where_the_kernel_tells_of_no_connections_they_are_asked_for() {
    needs!("hold without events", "nft", "iptables");
    in_each_way(|way| {
        let net = prepared(way);
        net.server.must("sysctl", &["-qw", "net.netfilter.nf_conntrack_events=0"]);
        let scene = Scene::opened(net, &held(way));
        let mut session = scene.connect(22);
        scene.is_held_by(1);
        talks(&mut session, LONG);
        assert!(scene.is_open(), "{way}");
        drop(session);
        scene.closes("closed: session ended");
    });
}

#[test]
fn who_closes_by_hand_closes_what_is_held_and_the_session_goes_on() {
    needs!("hold closed by hand", "nft");
    let scene = Scene::new("open: [22], hold: {idle: 30s}");
    let mut session = scene.connect(22);
    scene.is_held_by(1);
    scene.knockd.ask(&format!(r#"{{"do":"close","door":"ssh","address":"{CLIENT}"}}"#));
    scene.closes("closed by hand");
    talks(&mut session, Duration::from_secs(2));
    assert!(!scene.net.client.can_connect(SERVER, 22));
    assert!(!scene.is_open(), "what goes on has opened it again");
}

#[test]
fn sessions_from_behind_a_router_hold_the_door_of_its_address() {
    needs!("hold behind nat", "nft");
    let scene = Scene::new("open: [22], hold: {idle: 4s, grace: 1s}");
    let (router, behind) = (&scene.net.client, Host::new("b"));
    let cable = ["link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns"];
    router.must("ip", &[&cable[..], &[&behind.name]].concat());
    router.must("ip", &["addr", "add", "100.64.0.1/24", "dev", "inside"]);
    router.must("ip", &["link", "set", "inside", "up"]);
    router.must("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
    router.must(
        "nft",
        &["add table ip n; add chain ip n p { type nat hook postrouting priority 100; }; \
           add rule ip n p oifname eth0 masquerade"],
    );
    behind.must("ip", &["addr", "add", "100.64.0.2/24", "dev", "eth0"]);
    behind.must("ip", &["link", "set", "eth0", "up"]);
    behind.must("ip", &["route", "add", "default", "via", "100.64.0.1"]);
    let server: SocketAddr = SocketAddr::new(SERVER.parse().unwrap(), 22);
    scene.knock();
    let mut sessions = [(); 2].map(|()| {
        let reached = || behind.enter(move || TcpStream::connect_timeout(&server, PATIENCE).ok());
        reached().expect("it is not let in")
    });
    scene.is_held_by(2);
    sessions.iter_mut().for_each(|session| talks(session, LONG / 2));
    assert!(scene.is_open());
    let [one, other] = sessions;
    drop(one);
    scene.is_held_by(1);
    drop(other);
    scene.closes("closed: session ended");
}

#[test]
fn what_is_not_tracked_holds_nothing_and_check_says_so() {
    needs!("hold notrack", "nft");
    let net = prepared("via: iptables");
    net.server.must(
        "nft",
        &["add table inet r; add chain inet r p { type filter hook prerouting priority -300; }; \
           add rule inet r p tcp dport 22 notrack"],
    );
    let scene = Scene::opened(net, &held("via: iptables"));
    let said = scene.knockctl("check");
    assert!(said.contains("a rule seems to say notrack for 22/tcp"), "{said}");
    let _session = scene.connect(22);
    scene.closes("command timeout");
}

#[test]
fn who_takes_the_table_away_again_and_again_ends_no_session() {
    needs!("hold flushed", "nft");
    let scene = Scene::new("open: [22], hold: {idle: 3s}");
    let mut session = scene.connect(22);
    scene.is_held_by(1);
    for _ in 0..6 {
        talks(&mut session, Duration::from_millis(1500));
        scene.net.server.must("nft", &["flush", "ruleset"]);
    }
    scene.knockd.wait_for_count("it is restored", 6);
    talks(&mut session, SOON * 30);
    assert!(scene.is_open(), "{}", scene.knockd.log().join("\n"));
    assert!(scene.net.client.can_connect(SERVER, 22));
}

#[test]
fn a_reload_changes_how_long_what_is_held_lasts_and_a_flush_loses_nothing() {
    needs!("hold reload", "nft");
    let scene = Scene::new("open: [22], hold: {idle: 20s}");
    let mut session = scene.connect(22);
    scene.is_held_by(1);
    scene.net.server.must("nft", &["flush", "ruleset"]);
    scene.knockd.wait_for("it is restored");
    talks(&mut session, SOON * 30);
    scene.knockd.configure(&configuration("open: [22], hold: {idle: 3s}"));
    scene.knockd.signal(Signal::SIGHUP);
    thread::sleep(Duration::from_secs(1));
    talks(&mut session, LONG);
    assert!(scene.is_open(), "{}", scene.knockd.log().join("\n"));
    scene.closes("closed: idle");
}
