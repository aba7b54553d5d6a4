//! Published ports of containers: locked without a grant and open with one, whatever publishes
//! them.
//!
//! Needs root and nft; says loudly what it skips where it cannot run.

mod programs;
mod rules;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU16;
use std::thread;
use std::time::Duration;

use libknock::config::Forward;
use libknock::firewall::ruleset::{GuardedDoor, Ruleset};
use libknock::proto::knock::{Knock, Protocol};

use self::rules::Language;
use crate::guard_fixture::{
    Guard, door, door_to, doors, echo_tcp, echo_udp, grant, let_in, net, now, shut_out,
};
use crate::support::{
    CLIENT, CLIENT_6, Host, Knockd, Net, PATIENCE, SERVER, SERVER_6, eventually, needs,
};

/// How long nobody answers where the guard drops.
const SILENCE: Duration = Duration::from_millis(400);
/// The bridge that the container is behind.
const BRIDGE: &str = "inner0";
/// The published ports, by those of the container. Doors open the first two.
const APP: (u16, u16) = (8443, 443);
const DNS: (u16, u16) = (5353, 53);
const WEB: (u16, u16) = (8080, 80);

/// Who speaks to whom in a family of addresses.
#[derive(Debug)]
struct Family {
    client: &'static str,
    server: &'static str,
    /// The container's address.
    inner: &'static str,
    inside: &'static str,
}

impl Family {
    fn is_v6(&self) -> bool {
        self.client == CLIENT_6
    }
}

const FAMILIES: [Family; 2] = [
    Family { client: CLIENT, server: SERVER, inner: "172.30.0.2", inside: "172.30.0.0/24" },
    Family { client: CLIENT_6, server: SERVER_6, inner: "fd00:30::2", inside: "fd00:30::/64" },
];

/// Whether a TCP port answers with what it is told.
fn speaks(host: &Host, to: &str, port: u16) -> bool {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    host.enter(move || {
        let Ok(mut stream) = TcpStream::connect_timeout(&to, SILENCE) else { return false };
        is_answered(&mut stream, Duration::from_secs(2))
    })
}

fn is_answered(stream: &mut TcpStream, limit: Duration) -> bool {
    stream.set_read_timeout(Some(limit)).unwrap();
    stream.write_all(b"one").is_ok() && stream.read_exact(&mut [0; 3]).is_ok()
}

/// Whether a UDP port answers.
fn answers(host: &Host, to: &str, port: u16) -> bool {
    is_echoed(&datagrams(host, to, port), SILENCE)
}

fn datagrams(host: &Host, to: &str, port: u16) -> UdpSocket {
    let to: IpAddr = to.parse().unwrap();
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = host.enter(move || UdpSocket::bind(any).unwrap());
    socket.connect((to, port)).unwrap();
    socket
}

fn is_echoed(socket: &UdpSocket, limit: Duration) -> bool {
    socket.set_read_timeout(Some(limit)).unwrap();
    socket.send(b"one").is_ok() && socket.recv(&mut [0; 3]).is_ok()
}

/// Has the services of a container run in its namespace.
fn serve(container: &Host) {
    container.enter(|| {
        echo_tcp(APP.1);
        echo_tcp(WEB.1);
        echo_udp("::", DNS.1);
    });
}

/// A container behind a bridge of the server, which forwards.
fn behind_a_bridge(net: &Net) -> Host {
    let container = Host::new("k");
    let server = &net.server;
    for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        server.must("sysctl", &["-qw", &format!("{key}=1")]);
    }
    for line in [
        &format!("link add {BRIDGE} type bridge"),
        &format!("addr add 172.30.0.1/24 dev {BRIDGE}"),
        &format!("addr add fd00:30::1/64 dev {BRIDGE} nodad"),
        &format!("link add port type veth peer name eth0 netns {}", container.name),
        &format!("link set port master {BRIDGE} up"),
        &format!("link set {BRIDGE} up"),
    ] {
        server.must("ip", &line.split(' ').collect::<Vec<_>>());
    }
    // What comes back to the container that sent it takes the way it came.
    server.must("ip", &["link", "set", "port", "type", "bridge_slave", "hairpin", "on"]);
    for line in [
        "addr add 172.30.0.2/24 dev eth0",
        "addr add fd00:30::2/64 dev eth0 nodad",
        "link set eth0 up",
        "route add default via 172.30.0.1",
        "-6 route add default via fd00:30::1",
    ] {
        container.must("ip", &line.split(' ').collect::<Vec<_>>());
    }
    serve(&container);
    container
}

/// A door to the container's published ports.
fn published() -> Ruleset {
    doors(&[door("app", &[&APP.0.to_string(), &format!("{}/udp", DNS.0)])])
}

/// What the guard is to make of the published ports of a container, asked in one family.
struct Question<'a> {
    net: &'a Net,
    container: &'a Host,
    family: &'a Family,
}

impl Question<'_> {
    fn opens(&self) -> [bool; 2] {
        let Self { net, family, .. } = self;
        [speaks(&net.client, family.server, APP.0), answers(&net.client, family.server, DNS.0)]
    }

    /// What no door is about: another published port, the container to the world outside, to a
    /// port there that is locked here, and to a published port of its host; and the host itself
    /// to one that is locked.
    fn others(&self) -> [bool; 4] {
        let Self { net, container, family } = self;
        [
            speaks(&net.client, family.server, WEB.0),
            speaks(container, family.client, APP.0),
            speaks(container, family.server, WEB.0),
            speaks(&net.server, family.server, APP.0),
        ]
    }

    fn ask(&self) {
        let Self { net, family, .. } = self;
        assert!(eventually(PATIENCE, || self.opens() == [true; 2]), "not published: {family:?}");
        assert!(eventually(PATIENCE, || self.others()[0]), "the other is not: {family:?}");
        let others = self.others();
        let mut guard = Guard::set_up(now(), published(), &[]).unwrap();
        assert_eq!(self.opens(), [false; 2], "it is not locked: {family:?}");
        assert_eq!(self.others(), others, "what is not its concern: {family:?}");
        let_in(&mut guard, &grant("app", family.client, 60));
        assert_eq!(self.opens(), [true; 2], "it does not open: {family:?}");
        let server = SocketAddr::new(family.server.parse().unwrap(), APP.0);
        let mut stream = net.client.enter(move || TcpStream::connect(server).unwrap());
        let socket = datagrams(&net.client, family.server, DNS.0);
        let mut go_on = || is_answered(&mut stream, PATIENCE) && is_echoed(&socket, PATIENCE);
        assert!(go_on());
        shut_out(&mut guard, "app", family.client);
        assert_eq!(self.opens(), [false; 2], "it is not locked again: {family:?}");
        assert!(go_on(), "what was let in is cut: {family:?}");
        guard.remove().unwrap();
    }

    /// The same for a door whose target is the container: whatever port is translated to it.
    fn ask_by_target(&self) {
        let family = self.family;
        let ports = [APP.1.to_string(), format!("{}/udp", DNS.1)];
        let inner = door_to(family.inner, "inner", &[&ports[0], &ports[1]]);
        let mut guard = Guard::set_up(now(), doors(&[inner]), &[]).unwrap();
        assert_eq!(self.opens(), [false; 2], "its target is not locked: {family:?}");
        assert!(self.others()[0], "another published port: {family:?}");
        let_in(&mut guard, &grant("inner", family.client, 60));
        assert_eq!(self.opens(), [true; 2], "its target does not open: {family:?}");
        guard.remove().unwrap();
    }
}

/// Puts the questions of both families to published ports, and what `check` says of them.
fn ask(net: &Net, container: &Host, families: &[Family]) {
    net.client.enter(|| echo_tcp(APP.0));
    let unused = unused(net);
    let listed = net.server.must("nft", &["-t", "list", "ruleset"]);
    // What is in a map is not looked at, so that any port may be.
    let may_be_any = listed.contains("th dport vmap @service-nodeports");
    assert_eq!(unused, if may_be_any { vec![] } else { vec!["9999/tcp"] });
    families.iter().for_each(|family| Question { net, container, family }.ask());
}

/// Of the ports of a door, those on which nothing listens, as `knockctl check` has it.
fn unused(net: &Net) -> Vec<String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let (app, dns) = (APP.0, DNS.0);
    writeln!(file, "doors: {{app: {{spa: true, open: [{app}, {dns}/udp, 9999]}}}}").unwrap();
    let path = file.path().to_str().unwrap();
    let output = net.server.run(env!("CARGO_BIN_EXE_knockctl"), &["-c", path, "check"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let ports = said.lines().filter_map(|line| line.split_once("nothing listens on "));
    ports.map(|(_, rest)| rest.replace(" now", "")).collect()
}

/// All that the guard is to make of rules that publish the ports of a container.
fn lock_and_open(language: Language, rules: &str) {
    let net = net();
    let container = behind_a_bridge(&net);
    for family in &FAMILIES {
        language.publish(&net.server, rules, family);
    }
    ask(&net, &container, &FAMILIES);
    for family in &FAMILIES {
        let question = Question { net: &net, container: &container, family };
        assert_eq!(question.others(), [true; 4]);
        question.ask_by_target();
    }
}

#[test]
fn those_of_docker() {
    needs!("docker's rules", "nft", "iptables");
    lock_and_open(Language::Iptables, rules::DOCKER);
}

#[test]
fn those_of_docker_in_nftables() {
    needs!("docker's rules in nftables", "nft");
    lock_and_open(Language::Nft, rules::DOCKER_NFT);
}

#[test]
fn those_of_docker_with_its_proxy_in_user_space() {
    needs!("docker's rules and proxy", "nft", "iptables");
    let net = net();
    let container = behind_a_bridge(&net);
    for family in &FAMILIES {
        proxy(family.server, APP.0, family.inner, APP.1);
        proxy(family.server, WEB.0, family.inner, WEB.1);
        Language::Iptables.publish(&net.server, rules::DOCKER_AND_PROXY, family);
    }
    ask(&net, &container, &FAMILIES);
}

/// Hands connections on, as a proxy of this host.
fn proxy(from: &str, port: u16, to: &str, inner: u16) {
    let listener = TcpListener::bind(SocketAddr::new(from.parse().unwrap(), port)).unwrap();
    let to = SocketAddr::new(to.parse().unwrap(), inner);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let Ok(inner) = TcpStream::connect(to) else { continue };
            let ways = [(&stream, &inner), (&inner, &stream)];
            for (from, to) in ways.map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap())) {
                thread::spawn(move || std::io::copy(&mut &from, &mut &to));
            }
        }
    });
}

#[test]
fn those_of_podman() {
    needs!("netavark's rules", "nft", "iptables");
    lock_and_open(Language::Iptables, rules::NETAVARK);
}

#[test]
fn those_of_podman_in_nftables() {
    needs!("netavark's rules in nftables", "nft");
    lock_and_open(Language::Nft, rules::NETAVARK_NFT);
}

#[test]
fn host_ports_of_kubernetes() {
    needs!("portmap's rules", "nft", "iptables");
    lock_and_open(Language::Iptables, rules::PORTMAP);
}

#[test]
fn host_ports_of_kubernetes_in_nftables() {
    needs!("portmap's rules in nftables", "nft");
    lock_and_open(Language::Nft, rules::PORTMAP_NFT);
}

#[test]
fn node_ports_of_kubernetes() {
    needs!("kube-proxy's rules", "nft", "iptables");
    lock_and_open(Language::Iptables, rules::KUBE_PROXY);
}

#[test]
fn node_ports_of_kubernetes_in_nftables() {
    needs!("kube-proxy's rules in nftables", "nft");
    lock_and_open(Language::Nft, rules::KUBE_PROXY_NFT);
}

#[test]
fn a_door_leads_to_what_a_container_does_not_publish_and_past_what_it_does() {
    needs!("forwards to containers", "nft", "iptables");
    const INNER: u16 = 81;
    let net = net();
    let container = behind_a_bridge(&net);
    let listener = container.enter(|| TcpListener::bind(("::", INNER)).unwrap());
    thread::spawn(move || listener.incoming().flatten().map(|mut it| it.write_all(b"81!")).count());
    for (language, rules) in
        [(Language::Iptables, rules::KUBE_PROXY), (Language::Nft, rules::NETAVARK_NFT)]
    {
        for family in &FAMILIES {
            language.publish(&net.server, rules, family);
            let hear = |port| hears(&net.client, family.server, port);
            let (name, app) = door("app", &[]);
            let forwards = [APP.0, 9000].map(|on| Forward {
                on: Knock::new(Protocol::Tcp, NonZeroU16::new(on).unwrap()),
                to: family.inner.parse().unwrap(),
                port: NonZeroU16::new(INNER).unwrap(),
                masquerade: false,
            });
            let app = GuardedDoor { forwards: forwards.to_vec(), ..app };
            let mut guard = Guard::set_up(now(), doors(&[(name, app)]), &[]).unwrap();
            let (published, led) = ([Some(*b"one"), None], [Some(*b"81!"); 2]);
            assert!(eventually(PATIENCE, || [APP.0, 9000].map(hear) == published), "{family:?}");
            let_in(&mut guard, &grant("app", family.client, 60));
            assert_eq!([APP.0, 9000].map(hear), led, "{family:?}");
            shut_out(&mut guard, "app", family.client);
            assert_eq!([APP.0, 9000].map(hear), published, "{family:?}");
            guard.remove().unwrap();
        }
    }
}

/// What a TCP port says to whoever says `one`.
fn hears(host: &Host, to: &str, port: u16) -> Option<[u8; 3]> {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    let mut stream = host.enter(move || TcpStream::connect_timeout(&to, SILENCE)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = [0; 3];
    stream.write_all(b"one").and_then(|()| stream.read_exact(&mut said)).ok().map(|()| said)
}

#[test]
fn a_container_is_locked_out_of_a_locked_port_of_its_host_unless_it_is_trusted() {
    needs!("containers as clients", "nft");
    let net = net();
    let container = behind_a_bridge(&net);
    for family in &FAMILIES {
        Language::Nft.publish(&net.server, rules::NETAVARK_NFT, family);
        let reaches = || speaks(&container, family.server, APP.0);
        assert!(eventually(PATIENCE, reaches), "not even without a guard: {family:?}");
        let guard = Guard::set_up(now(), published(), &[]).unwrap();
        assert!(!reaches(), "{family:?}");
        guard.remove().unwrap();
        let trusted = vec![family.inside.parse().unwrap()];
        let guard = Guard::set_up(now(), Ruleset { trusted, ..published() }, &[]).unwrap();
        assert!(reaches(), "{family:?}");
        guard.remove().unwrap();
    }
}

#[test]
fn the_port_that_a_container_listens_on_is_not_the_one_that_it_is_published_on() {
    needs!("inner ports", "nft");
    let net = net();
    let container = behind_a_bridge(&net);
    let inner = [APP.1.to_string(), format!("{}/udp", DNS.1)];
    for family in &FAMILIES {
        Language::Nft.publish(&net.server, rules::NETAVARK_NFT, family);
        let question = Question { net: &net, container: &container, family };
        let ruleset = doors(&[door("inner", &[&inner[0], &inner[1]])]);
        let guard = Guard::set_up(now(), ruleset, &[]).unwrap();
        assert!(eventually(PATIENCE, || question.opens() == [true; 2]), "{family:?}");
        guard.remove().unwrap();
    }
}

/// A daemon with a door to the container's published ports.
const CONFIGURATION: &str =
    "knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}
doors: {app: {sequence: [7000, 8000/udp, 9000], open: [8443, 5353/udp], open_for: 1s}}";

/// Knocks in each family, and holds what is published to it.
fn knock_and_reach(net: &Net, knockd: &Knockd) {
    for Family { client, server, .. } in &FAMILIES {
        let opens = || [speaks(&net.client, server, APP.0), answers(&net.client, server, DNS.0)];
        assert_eq!(opens(), [false; 2]);
        let ports = ["7000", "8000/udp", "9000"];
        net.client.knock_from(client.parse().unwrap(), server, &ports, Duration::from_millis(15));
        assert!(eventually(PATIENCE, || speaks(&net.client, server, APP.0)));
        assert!(eventually(PATIENCE, || opens() == [false; 2]), "the kernel does not close it");
    }
    assert_eq!(knockd.count("app: OPEN SESAME"), 2);
}

#[test]
fn a_knock_opens_a_published_port() {
    needs!("a knock for a container", "nft");
    let net = Net::new();
    let _container = behind_a_bridge(&net);
    FAMILIES.iter().for_each(|it| Language::Nft.publish(&net.server, rules::NETAVARK_NFT, it));
    let knockd = Knockd::start(&net.server, CONFIGURATION);
    knock_and_reach(&net, &knockd);
}

#[test]
fn knockd_has_enough_of_the_capabilities_that_the_page_on_containers_gives_it() {
    needs!("capabilities in a container", "nft", "setpriv");
    let page = include_str!("../../docs/containers.md");
    let given = page.split("--cap-add ").skip(1).filter_map(|rest| rest.split_whitespace().next());
    let given: String = given.map(|one| format!(",+{}", one.to_lowercase())).collect();
    assert_eq!(given.matches('+').count(), 6, "{given}");
    let net = Net::new();
    let _container = behind_a_bridge(&net);
    FAMILIES.iter().for_each(|it| Language::Nft.publish(&net.server, rules::NETAVARK_NFT, it));
    let mut command = net.server.command("setpriv");
    command.args(["--bounding-set", &format!("-all{given}"), env!("CARGO_BIN_EXE_knockd")]);
    let knockd = Knockd::start_by(command, CONFIGURATION);
    knock_and_reach(&net, &knockd);
    assert_eq!(knockd.stop().0.code(), Some(0));
}
