//! Doors that open for a whole network, and clients that move from one address to another.
//!
//! Needs root and a firewall; says loudly what it skips where it cannot run.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use libknock::proto::network::Widths;
use libknock::proto::spa::{Addresses, NamedAddresses, SpaRequest};
use nix::sys::signal::Signal;

use crate::spa::{ELSEWHERE, LAPTOP, PHONE, Scene, key, request};
use crate::support::{
    CLIENT, CLIENT_6, Host, PATIENCE, SERVER, SERVER_6, command, eventually, needs,
};

/// The firewall lets nobody to port 22, nor to 23.
const SHUT: [&str; 2] = ["iptables", "ip6tables"];

/// `ssh` is opened by iptables, `acts` by commands of its own; the door allows networks. The phone
/// may have one address open. `both` is for it and for single addresses.
fn configuration(width: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
         \x20 spa: {{key_file: DIR/keys/server.key}}}}\n\
         clients:\n\
         \x20 laptop: {{doors: [ssh, acts, moves], spa: {{public_key: {}}}{width}}}\n\
         \x20 phone: {{doors: [moves], spa: {{public_key: {}}}}}\n\
         doors:\n\
         \x20 ssh: {{spa: true, open: [22], open_for: 1h, via: iptables,\n\
         \x20   on_open: echo hook %NET% >> DIR/acts}}\n\
         \x20 acts: {{spa: true, open_for: 1h,\n\
         \x20   start_command: echo open %NET% $KNOCK_NET >> DIR/acts,\n\
         \x20   stop_command: echo close %NET% >> DIR/acts}}\n\
         \x20 moves: {{spa: true, open: [23], open_for: 1h, via: iptables, addresses: 1}}\n",
        key(LAPTOP).public(),
        key(PHONE).public(),
    )
}

fn scene(width: &str) -> Scene {
    let scene = Scene::with(&configuration(width));
    for iptables in SHUT {
        for port in ["22", "23"] {
            let established = ["-A", "INPUT", "-p", "tcp", "--dport", port];
            let rule = ["-m", "conntrack", "--ctstate", "NEW", "-j", "DROP"];
            scene.net.server.must(iptables, &[&established[..], &rule].concat());
        }
    }
    scene
}

const WIDE: &str = ", width: {ipv4: 24, ipv6: 64}";

fn wide(ipv4: u8, ipv6: u8) -> SpaRequest {
    SpaRequest { widths: Widths { ipv4, ipv6 }, ..request() }
}

fn at(door: &str, request: SpaRequest) -> SpaRequest {
    SpaRequest { door: Some(door.parse().unwrap()), ..request }
}

/// What `knockctl` prints.
fn says(scene: &Scene, arguments: &[&str]) -> String {
    let mut knockctl = command(env!("CARGO_BIN_EXE_knockctl"));
    let output = knockctl.arg("-c").arg(&scene.knockd().config).args(arguments).output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output.stderr));
    said(&output.stdout)
}

fn connects(scene: &Scene, from: &str, to: &str, port: u16) -> bool {
    scene.net.client.can_connect_from(from.parse().ok(), to, port)
}

#[test]
fn a_request_opens_for_the_network_that_it_comes_from() {
    needs!("network opens", "iptables", "ip6tables");
    let scene = scene(WIDE);
    assert!(!connects(&scene, CLIENT, SERVER, 22) && !connects(&scene, CLIENT_6, SERVER_6, 22));
    scene.ask(&wide(24, 128));
    assert_eq!(scene.grants(1)[0]["address"], "192.0.2.0/24");
    assert!(scene.opens(SERVER, 22) && connects(&scene, ELSEWHERE, SERVER, 22));
    scene.send(scene.seal(&wide(32, 64), LAPTOP), CLIENT_6, SERVER_6);
    assert_eq!(scene.grants(2)[1]["address"], "2001:db8::/64");
    assert!(scene.opens(SERVER_6, 22));
    scene.knockd().wait_for("192.0.2.0/24: ssh: OPEN SESAME, asked for by 192.0.2.2");
}

#[test]
fn a_network_is_found_by_any_address_in_it() {
    needs!("network found", "iptables", "ip6tables");
    let scene = scene(WIDE);
    scene.ask(&wide(24, 128));
    assert!(scene.opens(SERVER, 22));
    let status = says(&scene, &["status"]);
    assert!(status.contains("192.0.2.0/24"), "{status}");
    let of = |address| says(&scene, &["history", "--ip", address]);
    assert!(of("192.0.2.77").contains("192.0.2.0/24"), "{}", of("192.0.2.77"));
    assert!(!of("192.0.3.1").contains("192.0.2.0/24"), "{}", of("192.0.3.1"));
    let explained = scene.knockd().says_while(&["explain", "--live", "--ip", "192.0.2.9"], || ());
    assert!(explained.contains("192.0.2.0/24"), "{explained}");
    says(&scene, &["close", "ssh", "192.0.2.77"]);
    scene.grants(0);
    assert!(!connects(&scene, CLIENT, SERVER, 22));
}

#[test]
fn whoever_names_a_network_to_close_closes_what_has_an_address_of_it() {
    needs!("network closes", "iptables", "ip6tables");
    let scene = scene(WIDE);
    let named =
        |address: &str| Addresses::Named(NamedAddresses::new(address.parse().ok(), None).unwrap());
    for (request, left) in [
        (SpaRequest { open: named("192.0.2.9"), ..request() }, 1),
        (SpaRequest { open: named("192.0.3.9"), ..request() }, 2),
        (SpaRequest { close: true, ..wide(24, 128) }, 1),
        (wide(24, 128), 2),
        (SpaRequest { close: true, open: named("192.0.2.200"), ..request() }, 1),
    ] {
        scene.ask(&request);
        scene.grants(left);
    }
    assert_eq!(scene.grants(1)[0]["address"], "192.0.3.9");
    says(&scene, &["close", "ssh", "192.0.0.0/16"]);
    scene.grants(0);
}

#[test]
fn more_than_the_client_may_ask_for_is_refused() {
    needs!("network refused", "iptables", "ip6tables");
    let scene = scene(WIDE);
    scene.ask(&wide(23, 128));
    scene.refused("asks for a wider network than the door and the client allow", 1);
    let own = Addresses::Named(NamedAddresses::new("192.0.2.9".parse().ok(), None).unwrap());
    let phone = SpaRequest { open: own, ..at("moves", wide(31, 128)) };
    scene.send(scene.seal(&phone, PHONE), CLIENT, SERVER);
    scene.refused("asks for a wider network than the door and the client allow", 2);
    let metrics = says(&scene, &["metrics"]);
    for door in ["ssh", "moves"] {
        let counted = format!(r#"{{door="{door}",method="spa",outcome="width"}} 1"#);
        assert!(metrics.contains(&counted), "{metrics}");
    }
}

#[test]
fn commands_and_hooks_are_told_the_network() {
    needs!("network commands", "iptables", "ip6tables");
    let scene = scene(WIDE);
    let acts = scene.knockd().directory.path().join("acts");
    let read = || fs::read_to_string(&acts).unwrap_or_default();
    let says = |lines: &str| eventually(PATIENCE, || read() == lines);
    scene.ask(&at("acts", wide(24, 128)));
    assert!(says("open 192.0.2.0/24 192.0.2.0/24\n"), "{}", read());
    scene.ask(&SpaRequest { close: true, ..at("acts", wide(24, 128)) });
    assert!(says("open 192.0.2.0/24 192.0.2.0/24\nclose 192.0.2.0/24\n"), "{}", read());
    fs::remove_file(&acts).unwrap();
    scene.ask(&wide(25, 128));
    assert!(says("hook 192.0.2.0/25\n"), "{}", read());
}

#[test]
fn knock_asks_for_the_network_that_it_is_told() {
    needs!("knock --width", "iptables", "ip6tables");
    let scene = scene(WIDE);
    let directory = tempfile::tempdir().unwrap();
    let key_file = directory.path().join("laptop.key");
    fs::write(&key_file, format!("{}\n", data_encoding::BASE64.encode(&[LAPTOP; 32]))).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    let server_key = scene.server_key().to_string();
    let hosts = directory.path().join("hosts.yaml");
    let entry = format!("mode: spa, key_file: laptop.key, server_key: {server_key}, door: ssh");
    let entries = [("a", "24"), ("b", "{ipv4: 25, ipv6: 64}"), ("c", "'26,64'")]
        .map(|(name, width)| format!("  {name}: {{host: {SERVER}, {entry}, width: {width}}}\n"));
    fs::write(&hosts, format!("hosts:\n{}", entries.concat())).unwrap();
    fs::set_permissions(&hosts, fs::Permissions::from_mode(0o600)).unwrap();
    let knock = env!("CARGO_BIN_EXE_knock");
    let hosts = hosts.display().to_string();
    for (name, network) in [("a", "192.0.2.0/24"), ("b", "192.0.2.0/25"), ("c", "192.0.2.0/26")] {
        scene.net.client.must(knock, &["--hosts", &hosts, name]);
        scene.knockd().wait_for(&format!("{network}: ssh: OPEN SESAME"));
    }
    let key = key_file.display().to_string();
    let asked = ["--spa", "--key", &key, "--server-key", &server_key, "--door", "ssh", "--width"];
    let said = scene.net.client.run(knock, &[&asked[..], &["27", "-v", SERVER]].concat());
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("and its network, /27 of IPv4 and /128 of IPv6"), "{said}");
    scene.knockd().wait_for("192.0.2.0/27: ssh: OPEN SESAME");
}

#[test]
fn the_guard_opens_for_a_network() {
    needs!("network guard", "nft");
    let door = "{spa: true, open: [22], open_for: 1h, open_for_max: 2h";
    let wide = crate::spa::configuration("", "").replace(door, &format!("{door}{WIDE}"));
    let mut scene = Scene::with(&wide);
    assert!(!connects(&scene, CLIENT, SERVER, 22) && !connects(&scene, CLIENT_6, SERVER_6, 22));
    scene.ask(&self::wide(24, 128));
    scene.send(scene.seal(&self::wide(32, 64), LAPTOP), CLIENT_6, SERVER_6);
    let addresses: Vec<_> = scene.grants(2).iter().map(|it| it["address"].clone()).collect();
    assert_eq!(addresses, ["192.0.2.0/24", "2001:db8::/64"]);
    let is_open = |scene: &Scene| {
        scene.opens(SERVER, 22)
            && scene.opens(SERVER_6, 22)
            && connects(scene, ELSEWHERE, SERVER, 22)
    };
    assert!(is_open(&scene));
    scene.restart(Signal::SIGKILL);
    scene.grants(2);
    assert!(is_open(&scene), "after a crash");
    says(&scene, &["close", "ssh", ELSEWHERE]);
    scene.grants(1);
    assert!(!connects(&scene, CLIENT, SERVER, 22) && !connects(&scene, ELSEWHERE, SERVER, 22));
}

/// The phone asks for `moves`, from this address.
fn moves(scene: &Scene, from: &str, to: &str) {
    scene.send(scene.seal(&at("moves", request()), PHONE), from, to);
}

#[test]
fn where_a_client_has_one_address_the_new_one_takes_the_place_of_the_old() {
    needs!("addresses: 1", "iptables", "ip6tables");
    let mut scene = scene("");
    moves(&scene, CLIENT, SERVER);
    assert!(scene.opens(SERVER, 23));
    moves(&scene, CLIENT_6, SERVER_6);
    scene.grants(2);
    // The laptop has its own.
    scene.ask(&at("moves", request()));
    moves(&scene, CLIENT, SERVER);
    scene.grants(2);
    let mut session = connection(&scene.net.client, CLIENT, 23);
    moves(&scene, ELSEWHERE, SERVER);
    scene.knockd().wait_for("192.0.2.2: moves: moved to 192.0.2.3");
    let addresses: Vec<_> = scene.grants(2).iter().map(|it| it["address"].clone()).collect();
    assert_eq!(addresses, [ELSEWHERE, CLIENT_6], "each family has its own");
    assert!(connects(&scene, ELSEWHERE, SERVER, 23));
    assert!(eventually(PATIENCE, || !connects(&scene, CLIENT, SERVER, 23)));
    session.write_all(b"still here").unwrap();
    let history = says(&scene, &["history", "--ip", CLIENT]);
    assert!(history.contains("close: moved to 192.0.2.3"), "{history}");
    // Who opened it, and when, is known after a crash too.
    scene.restart(Signal::SIGKILL);
    scene.grants(2);
    moves(&scene, CLIENT, SERVER);
    scene.knockd().wait_for("192.0.2.3: moves: moved to 192.0.2.2");
    assert!(connects(&scene, CLIENT, SERVER, 23));
    assert!(eventually(PATIENCE, || !connects(&scene, ELSEWHERE, SERVER, 23)));
}

#[test]
fn a_door_that_follows_its_session_is_shut_behind_who_moves_while_that_goes_on() {
    needs!("addresses: 1 and hold", "nft");
    let door = "{spa: true, open: [22], open_for: 1h, open_for_max: 2h";
    let held = door.replace("22", "2200") + ", hold: {at_most: 12h}, addresses: 1";
    let scene = Scene::with(&crate::spa::configuration("", "").replace(door, &held));
    let listener =
        scene.net.server.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 2200)).unwrap());
    scene.ask(&request());
    assert!(scene.opens(SERVER, 2200));
    let mut here = connection(&scene.net.client, CLIENT, 2200);
    let port = here.local_addr().unwrap().port();
    // Before it came those that looked whether the door is open.
    let mut there = listener.incoming().map(Result::unwrap);
    let mut there = there.find(|it| it.peer_addr().unwrap().port() == port).unwrap();
    let mut goes_on = |word: &[u8; 6]| {
        let mut heard = [0; 6];
        here.write_all(word).unwrap();
        there.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, word);
    };
    goes_on(b"before");
    scene.send(scene.seal(&request(), LAPTOP), ELSEWHERE, SERVER);
    scene.knockd().wait_for("192.0.2.2: ssh: moved to 192.0.2.3");
    for _ in 0..3 {
        // What goes on there does not bring it back.
        goes_on(b"behind");
        assert_eq!(scene.grants(1)[0]["address"], ELSEWHERE);
        assert!(!connects(&scene, CLIENT, SERVER, 2200));
        assert!(connects(&scene, ELSEWHERE, SERVER, 2200));
    }
}

/// A connection that has been let in.
fn connection(client: &Host, from: &str, port: u16) -> TcpStream {
    let from: IpAddr = from.parse().unwrap();
    client.enter(move || {
        let domain = socket2::Domain::IPV4;
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect(&SocketAddr::new(SERVER.parse().unwrap(), port).into()).unwrap();
        socket.into()
    })
}
