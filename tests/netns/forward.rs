//! Doors that lead to hosts behind a gateway: a client, a gateway and inner hosts, real packets.
//!
//! Needs root and nft; says loudly what it skips where it cannot run.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use libknock::sys::clock;
use nix::sys::signal::Signal;

use crate::support::{
    CLIENT, CLIENT_6, Host, Knockd, Net, PATIENCE, SERVER, SERVER_6, command, eventually, must,
    needs,
};
use crate::templates::{FIREWALLD, Firewall, UFW};

/// The gateway's addresses inside, and those of the inner hosts.
const GATEWAY: [&str; 2] = ["198.51.100.1", "2001:db8:1::1"];
pub(crate) const INNER: [&str; 2] = ["198.51.100.7", "2001:db8:1::7"];
pub(crate) const OTHER: [&str; 2] = ["198.51.100.8", "2001:db8:1::8"];
/// Another client than the one that knocks.
const STRANGER: &str = "192.0.2.3";
const STRANGER_6: &str = "2001:db8::3";
const SEQUENCE: [&str; 3] = ["7000", "8000", "9000"];
/// Both families: where the client comes from, and the gateway's address for it.
const WAYS: [(&str, &str); 2] = [(CLIENT, SERVER), (CLIENT_6, SERVER_6)];
/// How long to wait for an answer that is not to come.
const IN_VAIN: Duration = Duration::from_millis(400);

/// A client, a gateway (the server of the net), and behind it two inner hosts on one cable.
struct Scene {
    net: Net,
    inner: Host,
}

impl Scene {
    fn new() -> Self {
        let net = Net::new();
        let scene = Self { inner: inner_host(&net), net };
        for address in INNER {
            let is_there = |(from, _)| scene.asks(from, address, 22).is_some();
            assert!(eventually(PATIENCE, || WAYS.into_iter().any(is_there)), "{address}");
        }
        scene
    }

    fn knockd(&self, doors: &str) -> Knockd {
        Knockd::start(&self.net.server, &configuration(doors))
    }

    /// The client knocks, by both families.
    fn knock(&self, ports: [&str; 3]) {
        for (from, to) in WAYS {
            let from: IpAddr = from.parse().unwrap();
            self.net.client.knock_from(from, to, &ports, Duration::from_millis(10));
        }
    }

    /// What the service at a port says to a client's address: where it is and whom it sees.
    fn asks(&self, from: &str, to: &str, port: u16) -> Option<String> {
        asks(&self.net.client, from, to, port)
    }

    fn connects(&self, from: &str, to: &str, port: u16) -> Option<TcpStream> {
        connects(&self.net.client, from, to, port)
    }

    /// Whether the port of the gateway becomes the inner host's for the client, in both families.
    fn leads_inside(&self, on: u16) {
        for ((from, to), inner) in WAYS.into_iter().zip(INNER) {
            let seen = format!("{inner} sees {from}");
            let led = eventually(PATIENCE, || self.asks(from, to, on).as_ref() == Some(&seen));
            assert!(led, "{to} {on} is not led to {inner}: {:?}", self.asks(from, to, on));
        }
    }

    fn leads_nowhere(&self, on: u16) {
        for (from, to) in WAYS {
            let closed = eventually(PATIENCE, || self.asks(from, to, on).is_none());
            assert!(closed, "{to} {on} still leads: {:?}", self.asks(from, to, on));
        }
    }
}

/// The server of a net as the gateway to an inner host, whose services tell who comes.
pub(crate) fn inner_host(net: &Net) -> Host {
    let inner_host = Host::new("i");
    let (client, gateway, inner) = (&net.client, &net.server, &inner_host);
    gateway.must("sysctl", &["-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
    let cable = ["link", "add", "inside", "type", "veth", "peer", "name", "eth0", "netns"];
    gateway.must("ip", &[&cable[..], &[&inner.name]].concat());
    let add = |host: &Host, address: &str, link| {
        let wide = if address.contains(':') { "64" } else { "24" };
        let address = format!("{address}/{wide}");
        host.must("ip", &[&["addr", "add", &address, "dev", link][..], nodad(wide)].concat());
    };
    GATEWAY.iter().for_each(|address| add(gateway, address, "inside"));
    INNER.iter().chain(&OTHER).for_each(|address| add(inner, address, "eth0"));
    add(client, STRANGER, "eth0");
    // What does not say where it comes from comes from the other address.
    let stranger = format!("{STRANGER_6}/64");
    client.must("ip", &["addr", "add", &stranger, "dev", "eth0", "nodad", "preferred_lft", "0"]);
    gateway.must("ip", &["link", "set", "inside", "up"]);
    inner.must("ip", &["link", "set", "eth0", "up"]);
    for [to, via] in [["default", GATEWAY[0]], ["default", GATEWAY[1]]] {
        inner.must("ip", &["route", "add", to, "via", via]);
    }
    for (inside, via) in [("198.51.100.0/24", SERVER), ("2001:db8:1::/64", SERVER_6)] {
        client.must("ip", &["route", "add", inside, "via", via]);
    }
    tells(inner, 22);
    inner.echo_udp(&[INNER, OTHER].concat(), 5000);
    for address in INNER.into_iter().chain(OTHER) {
        // Neighbours take a moment.
        assert!(eventually(PATIENCE, || gateway.reaches(address)), "no connection to {address}");
    }
    let others = || OTHER.into_iter().all(|address| gateway.reaches(address));
    assert!(eventually(PATIENCE, others), "no connection to {OTHER:?}");
    inner_host
}

fn asks(client: &Host, from: &str, to: &str, port: u16) -> Option<String> {
    let mut said = String::new();
    connects(client, from, to, port)?.read_to_string(&mut said).ok()?;
    Some(said)
}

fn connects(client: &Host, from: &str, to: &str, port: u16) -> Option<TcpStream> {
    let from: IpAddr = from.parse().unwrap();
    let to = SocketAddr::new(to.parse().unwrap(), port);
    if from.is_ipv4() != to.is_ipv4() {
        return None;
    }
    client.enter(move || {
        let kind = socket2::Domain::for_address(to);
        let socket = socket2::Socket::new(kind, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect_timeout(&to.into(), Duration::from_millis(500)).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(socket.into())
    })
}

fn nodad(wide: &str) -> &'static [&'static str] {
    if wide == "64" { &["nodad"] } else { &[] }
}

/// Tells each connection where it has come to and whom it is from: `198.51.100.7 sees 192.0.2.2`.
fn tells(host: &Host, port: u16) {
    let listener =
        host.enter(move || TcpListener::bind(SocketAddr::from(([0u16; 8], port))).unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let [at, from] = [stream.local_addr(), stream.peer_addr()]
                .map(|it| it.map(|it| it.ip().to_canonical().to_string()).unwrap_or_default());
            let _ = write!(stream, "{at} sees {from}");
        }
    });
}

fn configuration(doors: &str) -> String {
    let spa = if doors.contains("spa: true") { SPA } else { "" };
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody{spa}}}\n\
         {doors}\n"
    )
}

const SPA: &str = ", spa: {key_file: DIR/keys/server.key}";

/// A door that leads `on` to a port of the inner host, by both families.
fn door(on: &str, inner: [&str; 2], port: u16, more: &str) -> String {
    let forward = inner.map(|to| format!("{{on: {on}, to: \"{to}\", port: {port}}}"));
    format!("{{sequence: [7000, 8000, 9000], forward: [{}]{more}}}", forward.join(", "))
}

fn ssh(more: &str) -> String {
    format!("doors:\n  ssh: {}", door("2222", INNER, 22, more))
}

fn request(knockd: &Knockd, what: &str, door: &str, address: &str) {
    let request = format!(r#"{{"do":"{what}","door":"{door}","address":"{address}"}}"#);
    let replies = knockd.ask(&request);
    assert_eq!(replies.last().unwrap()["reply"], "done", "{request}: {replies:?}");
}

fn open(knockd: &Knockd, door: &str) {
    WAYS.iter().for_each(|(client, _)| request(knockd, "open", door, client));
}

fn close(knockd: &Knockd, door: &str) {
    WAYS.iter().for_each(|(client, _)| request(knockd, "close", door, client));
}

#[test]
fn whoever_has_knocked_is_led_to_the_inner_host_and_nobody_else_is() {
    needs!("forward", "nft");
    let scene = Scene::new();
    let knockd = scene.knockd(&ssh(", open_for: 3s"));
    scene.leads_nowhere(2222);
    scene.knock(SEQUENCE);
    scene.leads_inside(2222);
    let mut knockctl = command(env!("CARGO_BIN_EXE_knockctl"));
    let said = knockctl.arg("-c").arg(&knockd.config).arg("status").output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    let shown = "2222/tcp->198.51.100.7:22 2222/tcp->[2001:db8:1::7]:22";
    assert!(said.contains(shown), "{said}");
    for (from, to) in [(STRANGER, SERVER), (STRANGER_6, SERVER_6)] {
        assert_eq!(scene.asks(from, to, 2222), None, "{from} has not knocked");
    }
    for (from, to) in WAYS {
        assert_eq!(scene.asks(from, to, 2223), None, "the port beside it");
    }
    knockd.wait_for_count("ssh: command timeout", 2);
    scene.leads_nowhere(2222);
}

#[test]
fn datagrams_are_led_on_too_and_the_answers_come_back() {
    needs!("forward udp", "nft");
    let scene = Scene::new();
    let knockd = scene.knockd(&format!("doors:\n  mosh: {}", door("60001/udp", INNER, 5000, "")));
    let answered = |to, limit| scene.net.client.is_answered(to, 60001, limit);
    for (_, to) in WAYS {
        assert!(!answered(to, IN_VAIN), "{to}");
    }
    open(&knockd, "mosh");
    for (_, to) in WAYS {
        assert!(answered(to, PATIENCE), "{to}");
    }
    close(&knockd, "mosh");
    for (_, to) in WAYS {
        assert!(!answered(to, IN_VAIN), "{to}");
    }
}

#[test]
fn who_sends_from_one_port_all_the_time_gets_through_where_the_port_is_locked() {
    needs!("forward a sender", "nft");
    let scene = Scene::new();
    let locking = ", open: [60001/udp]";
    let knockd =
        scene.knockd(&format!("doors:\n  vpn: {}", door("60001/udp", INNER, 5000, locking)));
    let senders = WAYS.map(|(from, to)| {
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        scene.net.client.enter(move || {
            let socket = UdpSocket::bind((from, 6100)).unwrap();
            socket.connect((to, 60001)).unwrap();
            socket.set_read_timeout(Some(IN_VAIN)).unwrap();
            socket
        })
    });
    let is_answered = |socket: &UdpSocket| {
        // An error may have come for what was sent before.
        let _ = socket.send(b"?");
        socket.recv(&mut [0; 10]).is_ok()
    };
    assert!(!senders.iter().any(is_answered));
    open(&knockd, "vpn");
    assert!(senders.iter().all(|it| eventually(PATIENCE, || is_answered(it))));
    close(&knockd, "vpn");
    assert!(senders.iter().all(is_answered), "what has begun does not go on");
}

#[test]
fn who_sent_before_the_door_opened_is_led_on_from_the_same_port_at_once() {
    needs!("forward a sender before", "nft");
    let scene = Scene::new();
    let knockd = scene.knockd(&format!("doors:\n  vpn: {}", door("60001/udp", INNER, 5000, "")));
    for (from, to) in WAYS {
        let (source, at): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let sender = scene.net.client.enter(move || {
            let socket = UdpSocket::bind((source, 6100)).unwrap();
            socket.set_read_timeout(Some(IN_VAIN)).unwrap();
            socket
        });
        let is_answered = || {
            sender.send_to(b"?", (at, 60001)).unwrap();
            sender.recv(&mut [0; 10]).is_ok()
        };
        assert!(!is_answered() && !is_answered());
        request(&knockd, "open", "vpn", from);
        assert!(is_answered(), "{from}");
    }
}

#[test]
fn a_door_with_a_target_leads_on_from_that_address_only() {
    needs!("forward from a target", "nft");
    let scene = Scene::new();
    let own = ["192.0.2.10", "2001:db8::10"];
    for address in own {
        let wide = if address.contains(':') { "64" } else { "24" };
        let (address, more) = (format!("{address}/{wide}"), nodad(wide));
        let add = ["addr", "add", &address, "dev", "eth0"];
        scene.net.server.must("ip", &[&add[..], more].concat());
    }
    let of = |target: &str, host: &str| {
        format!(
            "{{sequence: [7000, 8000, 9000], target: '{target}', forward: {{on: 2222, to: '{host}', port: 22}}}}"
        )
    };
    let doors =
        format!("doors:\n  four: {}\n  six: {}", of(own[0], INNER[0]), of(own[1], INNER[1]));
    let knockd = scene.knockd(&doors);
    for (((from, to), own), (door, inner)) in
        WAYS.into_iter().zip(own).zip(["four", "six"].into_iter().zip(INNER))
    {
        request(&knockd, "open", door, from);
        let led = eventually(PATIENCE, || {
            scene.asks(from, own, 2222) == Some(format!("{inner} sees {from}"))
        });
        assert!(led, "{own}");
        assert_eq!(scene.asks(from, to, 2222), None, "{to} leads on too");
        request(&knockd, "close", door, from);
        assert_eq!(scene.asks(from, own, 2222), None, "{own}");
    }
}

#[test]
fn a_forward_without_a_port_leads_to_the_same_one() {
    needs!("forward to the same", "nft");
    let scene = Scene::new();
    let door = "{sequence: [7000, 8000, 9000], forward: {on: 22, to: 198.51.100.7}}";
    let knockd = scene.knockd(&format!("doors:\n  ssh: {door}"));
    tells(&scene.net.server, 22);
    assert_eq!(scene.asks(CLIENT, SERVER, 22).as_deref(), Some("192.0.2.1 sees 192.0.2.2"));
    request(&knockd, "open", "ssh", CLIENT);
    assert_eq!(scene.asks(CLIENT, SERVER, 22).as_deref(), Some("198.51.100.7 sees 192.0.2.2"));
    // Whoever has not knocked, and the other family, for which nothing is said, meet the gateway's.
    let of_gateway = "192.0.2.1 sees 192.0.2.3";
    assert_eq!(scene.asks(STRANGER, SERVER, 22).as_deref(), Some(of_gateway));
    assert!(scene.asks(CLIENT_6, SERVER_6, 22).is_some_and(|said| said.starts_with(SERVER_6)));
}

/// `knock` with these arguments, in a directory with the keys of a client.
fn knock_with(scene: &Scene, knockd: &Knockd, arguments: &str) {
    let path = knockd.directory.path().display().to_string();
    let arguments = arguments.replace("DIR", &path);
    let arguments: Vec<&str> = arguments.split(' ').collect();
    scene.net.client.must(env!("CARGO_BIN_EXE_knock"), &arguments);
}

#[test]
fn every_kind_of_knock_leads_on() {
    needs!("forward by every knock", "nft");
    let scene = Scene::new();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let public =
        must(env!("CARGO_BIN_EXE_knock"), &["--keygen", path("own.key").to_str().unwrap()]);
    let forward = |on: u16| format!("forward: [{{on: {on}, to: 198.51.100.7, port: 22}}]");
    let doors = format!(
        "clients:\n  laptop: {{doors: [code, spa, fwknop], totp: {{secret: JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP}},\n\
         \x20   spa: {{public_key: {}}}, fwknop: {{key: abcdefgh, hmac_key: ijklmnop}}}}\n\
         doors:\n\
         \x20 plain: {{sequence: [7000, 8000, 9000], {}}}\n\
         \x20 code: {{totp: {{ports: 20000-29999, step: 1h}}, {}}}\n\
         \x20 spa: {{spa: true, {}}}\n\
         \x20 fwknop: {{fwknop: true, open: [8080], {}}}\n",
        public.trim(),
        forward(2201),
        forward(2202),
        forward(2203),
        forward(2204)
    );
    let knockd = scene.knockd(&doors);
    for (name, text) in [
        ("totp", "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP\n"),
        ("fwknop", "KEY_BASE64: YWJjZGVmZ2g=\nHMAC_KEY_BASE64: aWprbG1ub3A=\n"),
        ("spa", &fs::read_to_string(path("own.key")).unwrap()),
    ] {
        let path = knockd.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    let server_key = knockd.server_key();
    for (on, knock) in [
        (2201, format!("-d 10 {SERVER} 7000 8000 9000")),
        (
            2202,
            format!(
                "--totp --door code --ports 20000-29999 --step 1h --secret-file DIR/totp -d 10 {SERVER}"
            ),
        ),
        (2203, format!("--spa --door spa --key DIR/spa --server-key {server_key} {SERVER}")),
        (2204, format!("--fwknop --key DIR/fwknop --address {CLIENT} {SERVER} 8080")),
    ] {
        assert_eq!(scene.asks(CLIENT, SERVER, on), None, "{on} before {knock}");
        knock_with(&scene, &knockd, &knock);
        let seen = Some("198.51.100.7 sees 192.0.2.2".to_owned());
        let led = eventually(PATIENCE, || scene.asks(CLIENT, SERVER, on) == seen);
        assert!(led, "{knock}\n{}", knockd.log().join("\n"));
    }
}

#[test]
fn ssh_goes_through_to_the_inner_host() {
    needs!("forward ssh", "nft", "sshd", "ssh", "ssh-keygen");
    let scene = Scene::new();
    let directory = tempfile::tempdir().unwrap();
    let shown = |name: &str| directory.path().join(name).display().to_string();
    for key in ["host", "user"] {
        must("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &shown(key)]);
    }
    fs::create_dir_all("/run/sshd").unwrap();
    let options = [
        "Port=2022".to_owned(),
        format!("HostKey={}", shown("host")),
        format!("AuthorizedKeysFile={}", shown("user.pub")),
        "PidFile=none".to_owned(),
        "StrictModes=no".to_owned(),
        "UsePAM=no".to_owned(),
        "PermitRootLogin=yes".to_owned(),
    ];
    let mut sshd = scene.inner.command("/usr/sbin/sshd");
    sshd.args(["-D", "-e", "-f", "/dev/null"]);
    sshd.args(options.iter().flat_map(|option| ["-o", option]));
    let mut sshd = sshd.stderr(fs::File::create(shown("log")).unwrap()).spawn().unwrap();
    let _knockd = scene.knockd(&format!("doors:\n  ssh: {}", door("2222", INNER, 2022, "")));
    assert!(eventually(PATIENCE, || scene.net.client.can_connect(INNER[0], 2022)));
    scene.knock(SEQUENCE);
    for (_, to) in WAYS {
        assert!(eventually(PATIENCE, || scene.net.client.can_connect(to, 2222)), "{to}");
        let user = shown("user");
        let login = format!("root@{to}");
        let ssh = ["-F", "none", "-p", "2222", "-i", &user, "-o", "BatchMode=yes"];
        let hosts = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
        let said = scene
            .net
            .client
            .run("ssh", &[&ssh[..], &hosts, &[&login, "echo $SSH_CONNECTION"]].concat());
        let (out, err) =
            (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        let words: Vec<&str> = out.split_whitespace().collect();
        let inner = INNER[usize::from(to == SERVER_6)];
        assert!(words.len() == 4 && words[2..] == [inner, "2022"], "{to}: {out}{err}");
    }
    let _ = sshd.kill();
    let _ = sshd.wait();
}

#[test]
fn an_inner_host_without_a_way_back_is_reached_only_by_masquerade() {
    needs!("masquerade", "nft");
    let scene = Scene::new();
    for family in ["-4", "-6"] {
        scene.inner.must("ip", &[family, "route", "del", "default"]);
    }
    let masked = door("2223", INNER, 22, "").replace("port: 22}", "port: 22, masquerade: true}");
    let masked = masked.replace("7000, 8000, 9000", "7100, 9100, 8100");
    let plain = door("2222", OTHER, 22, "");
    let knockd = scene.knockd(&format!("doors:\n  plain: {plain}\n  masked: {masked}"));
    open(&knockd, "plain");
    open(&knockd, "masked");
    for ((from, to), (inner, gateway)) in WAYS.into_iter().zip(INNER.into_iter().zip(GATEWAY)) {
        assert_eq!(scene.asks(from, to, 2222), None, "there is a way back");
        let seen = format!("{inner} sees {gateway}");
        assert_eq!(scene.asks(from, to, 2223), Some(seen));
    }
}

#[test]
fn a_grant_is_extended_and_closed_by_hand_and_what_is_connected_goes_on() {
    needs!("forward by hand", "nft");
    let scene = Scene::new();
    let echo = scene.inner.enter(|| TcpListener::bind("[::]:23").unwrap());
    thread::spawn(move || {
        for mut stream in echo.incoming().flatten() {
            let mut writer = stream.try_clone().unwrap();
            thread::spawn(move || std::io::copy(&mut stream, &mut writer));
        }
    });
    let doors = format!("doors:\n  ssh: {}", door("2222", INNER, 23, ", open_for: 3s"));
    let knockd = scene.knockd(&doors);
    open(&knockd, "ssh");
    let connect = |(from, to)| scene.connects(from, to, 2222);
    let mut streams = WAYS.map(|way| connect(way).unwrap());
    let mut say = |text: &[u8; 3]| {
        for stream in &mut streams {
            stream.write_all(text).unwrap();
            let mut answer = [0; 3];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, text);
        }
    };
    say(b"one");
    for (client, _) in WAYS {
        let longer = format!(r#"{{"do":"open","door":"ssh","address":"{client}","seconds":3600}}"#);
        assert_eq!(knockd.ask(&longer).pop().unwrap()["reply"], "done");
    }
    // Longer than it was open at first.
    thread::sleep(Duration::from_secs(4));
    assert!(WAYS.iter().all(|way| connect(*way).is_some()), "not extended");
    close(&knockd, "ssh");
    assert!(WAYS.iter().all(|way| connect(*way).is_none()), "still leads");
    say(b"two");
    knockd
        .configure(&configuration("doors:\n  other: {sequence: [7000, 8000, 9000], open: [25]}\n"));
    assert_eq!(knockd.ask(r#"{"do":"reload"}"#).pop().unwrap()["reply"], "done");
    say(b"tri");
}

#[test]
fn the_kernel_ends_it_though_knockd_has_been_killed() {
    needs!("forward killed", "nft");
    let scene = Scene::new();
    let mut knockd = scene.knockd(&ssh(", open_for: 4s"));
    scene.knock(SEQUENCE);
    scene.leads_inside(2222);
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    assert!(scene.asks(CLIENT, SERVER, 2222).is_some(), "the death has closed it");
    scene.leads_nowhere(2222);
}

#[test]
fn a_restart_finds_what_is_open_and_ends_it_in_time() {
    needs!("forward restarted", "nft");
    let scene = Scene::new();
    let mut knockd = scene.knockd(&ssh(", open_for: 6s"));
    scene.knock(SEQUENCE);
    scene.leads_inside(2222);
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    let again = knockd.start_again(&scene.net.server);
    again.wait_for("starting up");
    again.wait_for("192.0.2.2: ssh: still open from before");
    assert!(scene.asks(CLIENT, SERVER, 2222).is_some(), "the restart has closed it");
    again.wait_for_count("ssh: command timeout", 2);
    scene.leads_nowhere(2222);
}

#[test]
fn what_another_program_flushes_is_restored() {
    needs!("forward flushed", "nft");
    let scene = Scene::new();
    let knockd = scene.knockd(&ssh(", open_for: 1h"));
    open(&knockd, "ssh");
    scene.leads_inside(2222);
    for doing in
        ["flush ruleset", "flush map inet knockd forward_4", "flush set inet knockd forwarded_4"]
    {
        // Restores within one second are put off.
        thread::sleep(Duration::from_secs(2));
        scene.net.server.must("nft", &[doing]);
        let begun = clock::now().monotonic;
        let led = || scene.asks(CLIENT, SERVER, 2222).is_some_and(|it| it.starts_with(INNER[0]));
        assert!(eventually(PATIENCE, led), "{doing}: {}", knockd.log().join("\n"));
        let took = clock::now().monotonic.since(begun);
        eprintln!("after '{doing}' it led again within {took:?}");
    }
    scene.leads_inside(2222);
    close(&knockd, "ssh");
    scene.leads_nowhere(2222);
}

#[test]
fn of_two_doors_on_one_port_the_one_opened_last_decides() {
    needs!("two forwards", "nft");
    let scene = Scene::new();
    let other = door("2222", OTHER, 22, "").replace("7000, 8000, 9000", "7100, 9100, 8100");
    let knockd =
        scene.knockd(&format!("doors:\n  one: {}\n  two: {other}", door("2222", INNER, 22, "")));
    let leads_to = |hosts: [&str; 2]| {
        for ((from, to), host) in WAYS.into_iter().zip(hosts) {
            let leads = || scene.asks(from, to, 2222).is_some_and(|it| it.starts_with(host));
            assert!(eventually(PATIENCE, leads), "{to}: {:?}", scene.asks(from, to, 2222));
        }
    };
    open(&knockd, "one");
    leads_to(INNER);
    open(&knockd, "two");
    leads_to(OTHER);
    // Both are open, though one of them leads nobody at the moment.
    assert!(knockd.grants().iter().all(|it| it["state"] == "open"), "{:?}", knockd.grants());
    open(&knockd, "one");
    leads_to(INNER);
    close(&knockd, "one");
    leads_to(OTHER);
    close(&knockd, "two");
    scene.leads_nowhere(2222);
    open(&knockd, "one");
    open(&knockd, "two");
    close(&knockd, "one");
    leads_to(OTHER);
}

#[test]
fn the_one_opened_last_decides_too_when_its_time_is_the_shorter() {
    needs!("forwards of different lengths", "nft");
    let scene = Scene::new();
    let door = |name: &str, inner, ports: &str, open_for: &str| {
        let door = door("2222", inner, 22, &format!(", open_for: {open_for}"));
        format!("  {name}: {}\n", door.replace("7000, 8000, 9000", ports))
    };
    let doors = door("one", INNER, "7000, 8000, 9000", "3h")
        + &door("two", OTHER, "7100, 9100, 8100", "2h")
        + &door("three", INNER, "7200, 9200, 8200", "1h");
    let mut knockd = scene.knockd(&format!("doors:\n{doors}"));
    let leads_to = |hosts: [&str; 2], after: &str| {
        for ((from, to), host) in WAYS.into_iter().zip(hosts) {
            let leads = || scene.asks(from, to, 2222).is_some_and(|it| it.starts_with(host));
            assert!(eventually(PATIENCE, leads), "{after}: {:?}", scene.asks(from, to, 2222));
        }
    };
    ["one", "two", "three"].iter().for_each(|door| open(&knockd, door));
    close(&knockd, "three");
    leads_to(OTHER, "the end of another");
    knockd.ask(r#"{"do":"reload"}"#);
    leads_to(OTHER, "a reload");
    scene.net.server.must("nft", &["flush", "ruleset"]);
    knockd.wait_for("it is restored");
    leads_to(OTHER, "a flush");
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    let again = knockd.start_again(&scene.net.server);
    again.wait_for("starting up");
    leads_to(OTHER, "a restart");
    open(&again, "one");
    again.ask(r#"{"do":"reload"}"#);
    leads_to(INNER, "a reload after it was extended");
}

#[test]
fn a_port_that_another_door_locks_stays_locked_for_who_is_not_led_on() {
    needs!("forward of a locked port", "nft");
    let scene = Scene::new();
    tells(&scene.net.server, 2222);
    let here = "{sequence: [7100, 9100, 8100], open: [2222]}";
    let knockd =
        scene.knockd(&format!("doors:\n  here: {here}\n  inside: {}", door("2222", INNER, 22, "")));
    scene.leads_nowhere(2222);
    open(&knockd, "here");
    for (from, to) in WAYS {
        assert_eq!(scene.asks(from, to, 2222), Some(format!("{to} sees {from}")));
    }
    open(&knockd, "inside");
    scene.leads_inside(2222);
    close(&knockd, "here");
    scene.leads_inside(2222);
    close(&knockd, "inside");
    scene.leads_nowhere(2222);
}

#[test]
fn whoever_is_led_to_a_locked_host_passes_its_lock_and_by_no_other_way() {
    needs!("forward to a locked host", "nft");
    let scene = Scene::new();
    let target = |number: u16, to: &str| {
        format!(
            "{{sequence: [7{number}00, 9{number}00, 8{number}00], target: \"{to}\", open: [22]}}"
        )
    };
    let knockd = scene.knockd(&format!(
        "doors:\n  locked4: {}\n  locked6: {}\n  inside: {}",
        target(1, INNER[0]),
        target(2, INNER[1]),
        door("2222", INNER, 22, "")
    ));
    let straight =
        || WAYS.map(|(from, _)| INNER.iter().any(|to| scene.asks(from, to, 22).is_some()));
    assert_eq!(straight(), [false, false]);
    open(&knockd, "inside");
    scene.leads_inside(2222);
    assert_eq!(straight(), [false, false]);
    request(&knockd, "open", "locked4", CLIENT);
    request(&knockd, "open", "locked6", CLIENT_6);
    assert_eq!(straight(), [true, true]);
    close(&knockd, "inside");
    scene.leads_nowhere(2222);
}

#[test]
fn the_guard_locks_routed_hosts_behind_the_gateway() {
    needs!("transit", "nft");
    let scene = Scene::new();
    for address in OTHER {
        assert!(WAYS.iter().any(|(from, _)| scene.asks(from, address, 22).is_some()));
    }
    let door = |name: &str, to: &str, first: u16| {
        format!(
            "  {name}: {{sequence: [{first}, 8000, 9000], target: \"{to}\", open: [22, 5000/udp], open_for: 3s}}\n"
        )
    };
    let doors = door("four", INNER[0], 7000) + &door("six", INNER[1], 7001);
    let _knockd = scene.knockd(&format!("doors:\n{doors}"));
    for (((from, _), (inner, other)), first) in
        WAYS.into_iter().zip(INNER.into_iter().zip(OTHER)).zip(["7000", "7001"])
    {
        let udp = |to, limit| scene.net.client.is_answered(to, 5000, limit);
        assert_eq!(scene.asks(from, inner, 22), None, "{inner} is not locked");
        assert!(!udp(inner, IN_VAIN), "{inner} is not locked");
        assert!(scene.asks(from, other, 22).is_some() && udp(other, PATIENCE), "{other}");
        let knocks = [first, "8000", "9000"];
        scene.net.client.knock_from(
            from.parse().unwrap(),
            inner,
            &knocks,
            Duration::from_millis(10),
        );
        let seen = Some(format!("{inner} sees {from}"));
        assert!(eventually(PATIENCE, || scene.asks(from, inner, 22) == seen), "{inner}");
        assert!(udp(inner, PATIENCE), "{inner}");
        let closed = || scene.asks(from, inner, 22).is_none() && !udp(inner, IN_VAIN);
        assert!(eventually(PATIENCE, closed), "{inner} stays open");
    }
}

#[test]
fn a_reload_without_the_door_ends_what_it_led_to() {
    needs!("forward removed", "nft");
    let scene = Scene::new();
    let knockd = scene.knockd(&ssh(", open_for: 1h"));
    open(&knockd, "ssh");
    scene.leads_inside(2222);
    let elsewhere = ssh(", open_for: 1h").replace(INNER[0], OTHER[0]).replace(INNER[1], OTHER[1]);
    knockd.configure(&configuration(&elsewhere));
    knockd.ask(r#"{"do":"reload"}"#);
    for ((from, to), host) in WAYS.into_iter().zip(OTHER) {
        let is_there = || scene.asks(from, to, 2222).is_some_and(|said| said.starts_with(host));
        assert!(eventually(PATIENCE, is_there), "{:?}", scene.asks(from, to, 2222));
    }
    let other = "doors:\n  other: {sequence: [7000, 8000, 9000], open: [25]}\n";
    knockd.configure(&configuration(other));
    knockd.ask(r#"{"do":"reload"}"#);
    scene.leads_nowhere(2222);
}

/// A firewall that drops what is forwarded, until what `check` says of it is done.
fn check_says_what_lets_it_through(prepare: &str, commands: [&str; 2]) {
    let firewall = Firewall::new(prepare);
    let inner = inner_host(&firewall.net);
    let text = configuration(&ssh(""));
    let knockd = Knockd::start_by(firewall.command(env!("CARGO_BIN_EXE_knockd")), &text);
    open(&knockd, "ssh");
    let check = || {
        let mut knockctl = firewall.command(env!("CARGO_BIN_EXE_knockctl"));
        let output = knockctl.arg("-c").arg(&knockd.config).arg("check").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        let told = said.lines().filter_map(|line| line.split("keep that over a reboot: ").nth(1));
        told.map(str::to_owned).collect::<Vec<_>>()
    };
    let led = || WAYS.map(|(from, to)| asks(&firewall.net.client, from, to, 2222).is_some());
    assert_eq!(check(), commands.map(str::to_owned), "{prepare}");
    assert_eq!(led(), [false; 2], "{prepare}");
    commands.iter().for_each(|command| drop(firewall.must(command)));
    assert!(eventually(PATIENCE, || led() == [true; 2]), "{prepare}");
    assert_eq!(check(), [""; 0]);
    drop(inner);
}

#[test]
fn check_says_what_to_write_for_nft() {
    needs!("check nft", "nft", "nsenter");
    let rule = "nft insert rule inet filter forward ct status dnat";
    check_says_what_lets_it_through(
        "nft 'table inet filter { chain forward {
             type filter hook forward priority 0; policy drop;
             ct state established,related accept; iifname inside accept; }; }'\n",
        [
            &format!("{rule} ip daddr 198.51.100.7 tcp dport 22 accept"),
            &format!("{rule} ip6 daddr 2001:db8:1::7 tcp dport 22 accept"),
        ],
    );
}

#[test]
fn check_says_what_to_write_for_iptables() {
    needs!("check iptables", "nft", "iptables", "ip6tables", "nsenter");
    let rule = "-p tcp --dport 22 -m conntrack --ctstate DNAT -j ACCEPT";
    check_says_what_lets_it_through(
        "for iptables in iptables ip6tables; do $iptables -P FORWARD DROP
             $iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; done\n",
        [
            &format!("iptables -I FORWARD -d 198.51.100.7 {rule}"),
            &format!("ip6tables -I FORWARD -d 2001:db8:1::7 {rule}"),
        ],
    );
}

#[test]
fn check_says_what_to_write_for_ufw() {
    needs!("check ufw", "nft", "ufw", "iptables", "ip6tables", "nsenter");
    check_says_what_lets_it_through(
        UFW,
        [
            "ufw route allow proto tcp to 198.51.100.7 port 22",
            "ufw route allow proto tcp to 2001:db8:1::7 port 22",
        ],
    );
}

#[test]
fn firewalld_lets_through_what_is_led_on_and_check_says_nothing() {
    needs!("check firewalld", "nft", "firewalld", "dbus-daemon", "nsenter");
    let firewall = Firewall::new(FIREWALLD);
    let inner = inner_host(&firewall.net);
    let text = configuration(&ssh(""));
    let knockd = Knockd::start_by(firewall.command(env!("CARGO_BIN_EXE_knockd")), &text);
    open(&knockd, "ssh");
    for (from, to) in WAYS {
        let is_led = || asks(&firewall.net.client, from, to, 2222).is_some();
        assert!(eventually(PATIENCE, is_led), "{to}");
    }
    let mut knockctl = firewall.command(env!("CARGO_BIN_EXE_knockctl"));
    let output = knockctl.arg("-c").arg(&knockd.config).arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("may lead nowhere"), "{said}");
    drop(inner);
}

#[test]
fn a_range_opens_as_one_element_and_not_the_ports_beside_it() {
    needs!("ranges", "nft");
    let net = Net::new();
    const PORTS: [u16; 5] = [59_999, 60_000, 60_500, 61_000, 61_001];
    for port in PORTS {
        net.server.listen(port);
        net.server.echo_udp(&[SERVER, SERVER_6], port);
    }
    let range = "60000-61000";
    let knockd = Knockd::start(
        &net.server,
        &configuration(&format!(
            "doors:\n  media: {{sequence: [7000, 8000, 9000], open: [{range}/udp, {range}/tcp]}}"
        )),
    );
    let passing = |to: &str| {
        let tcp = PORTS.map(|port| net.client.can_connect(to, port));
        let udp = PORTS.map(|port| net.client.is_answered(to, port, IN_VAIN));
        [tcp, udp]
    };
    let locked = [[true, false, false, false, true]; 2];
    for (set, (from, to)) in ["open_ranges_4", "open_ranges_6"].into_iter().zip(WAYS) {
        let elements = || {
            let listed = net.server.must("nft", &["list", "set", "inet", "knockd", set]);
            listed.matches(from).count()
        };
        assert_eq!(passing(to), locked);
        request(&knockd, "open", "media", from);
        assert_eq!(passing(to), [[true; 5]; 2]);
        assert_eq!(elements(), 2, "one for each protocol");
        request(&knockd, "close", "media", from);
        assert_eq!(passing(to), locked);
        assert_eq!(elements(), 0);
    }
}

#[test]
fn overlapping_ranges_of_two_doors_open_and_close_each_on_its_own() {
    needs!("overlapping ranges", "nft");
    let net = Net::new();
    const PORTS: [u16; 5] = [6000, 6400, 6500, 6600, 7000];
    PORTS.iter().for_each(|port| net.server.listen(*port));
    let doors = "doors:\n  low: {sequence: [1700, 1800, 1900], open: [6000-6599]}\n  \
                 high: {sequence: [2700, 2900, 2800], open: [6500-7000, 6400]}";
    let knockd = Knockd::start(&net.server, &configuration(doors));
    for (from, to) in WAYS {
        let passing = || PORTS.map(|port| net.client.can_connect(to, port));
        assert_eq!(passing(), [false; 5]);
        request(&knockd, "open", "low", from);
        assert_eq!(passing(), [true, true, true, false, false]);
        request(&knockd, "open", "high", from);
        assert_eq!(passing(), [true; 5]);
        request(&knockd, "close", "low", from);
        assert_eq!(passing(), [false, true, true, true, true]);
        request(&knockd, "open", "low", from);
        request(&knockd, "close", "high", from);
        assert_eq!(passing(), [true, true, true, false, false]);
        request(&knockd, "close", "low", from);
        assert_eq!(passing(), [false; 5]);
    }
}
