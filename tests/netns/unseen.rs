//! Nothing to see: a host with knockd and its guard answers as one whose firewall drops the same
//! ports, compared packet by packet.
//!
//! Needs root, nmap and nft; says loudly what it skips where it cannot run.

mod seen;

use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use self::seen::{Observed, observe};
use crate::support::{
    CLIENT, CLIENT_6, Knockd, Net, PATIENCE, SERVER, SERVER_6, eventually, needs, tagged_syn,
};

/// Locked are 22/tcp and 53/udp, open is 80/tcp. Nothing listens on the ports of a sequence, on
/// the trip-wires beside them, and where requests go.
const CONFIGURATION: &str = "knockd: {interfaces: [any], run_dir: DIR/run, state_dir: DIR/state, user: nobody}
clients:
  laptop: {doors: [spa, code, fwknop], spa: {public_key: Xf7dO2vUf2+ijuFdlp1bsOpTd01Ii9r53xxuASSz7yI=},
    totp: {secret: JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP}, fwknop: {key: abcdefgh, hmac_key: ijklmnop}}
doors:
  classic: {sequence: [7000, 8000/udp, 9000], open: [22/tcp, 53/udp], open_for: 1h}
  code: {totp: {mode: code, base: 7100}, open: [22/tcp]}
  fwknop: {fwknop: true, open: [22/tcp]}
  spa: {spa: true, open: [22/tcp, 53/udp]}
";
const TCP: &str = "22,80,81,7000,7001,7142,9000";
const UDP: &str = "53,81,8000,8001,62201";

/// A gateway that leads whoever has knocked to another host: from ports with a service here and
/// from closed ones.
const GATEWAY: &str =
    "knockd: {interfaces: [any], run_dir: DIR/run, state_dir: DIR/state, user: nobody}
doors:
  inside:
    sequence: [7000, 8000/udp, 9000]
    forward: [{on: 22, to: 198.51.100.7}, {on: 22, to: '2001:db8:1::7'},
      {on: 81, to: 198.51.100.7}, {on: 81, to: '2001:db8:1::7'},
      {on: 53/udp, to: 198.51.100.7}, {on: 53/udp, to: '2001:db8:1::7'},
      {on: 81/udp, to: 198.51.100.7, masquerade: true}, {on: 81/udp, to: '2001:db8:1::7'}]
    open_for: 1h
";

/// Two servers with the same addresses, each with a client of its own: of one a firewall drops
/// what the other's guard locks.
struct Twins {
    plain: Net,
    guarded: Net,
    knockd: Knockd,
}

impl Twins {
    fn new() -> Self {
        let rules = "tcp dport 22 drop; udp dport 53 drop";
        let chain = "type filter hook input priority filter; policy accept;";
        let firewall = format!("table inet firewall {{ chain input {{ {chain} {rules}; }}; }}");
        Self::with(CONFIGURATION, &["nft", &firewall])
    }

    /// The other one's firewall is made by this command.
    fn with(configuration: &str, command: &[&str]) -> Self {
        let [plain, guarded] = [(); 2].map(|()| {
            let net = Net::new();
            for setting in ["ipv4.icmp_ratemask=0", "ipv6.icmp.ratelimit=0"] {
                // How many errors a second there may be is no matter here.
                net.server.must("sysctl", &["-qw", &format!("net.{setting}")]);
            }
            net.server.enter(|| {
                [22, 80].into_iter().for_each(greets);
                let socket = UdpSocket::bind("[::]:53").unwrap();
                thread::spawn(move || {
                    let mut buffer = [0; 2000];
                    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&buffer[..length], from);
                    }
                });
            });
            net
        });
        plain.server.must(command[0], &command[1..]);
        let knockd = Knockd::start(&guarded.server, configuration);
        Self { plain, guarded, knockd }
    }

    /// What the two answer, the plain one first. More than once where they differ: on a busy
    /// machine an answer may come too late to be seen.
    fn answers(&self, scan: &[&str]) -> [Observed; 2] {
        self.answers_to(|net| observe(&net.client, "nmap", scan))
    }

    fn answers_to(&self, scan: impl Fn(&Net) -> Observed + Sync) -> [Observed; 2] {
        let mut both = [Observed::default(), Observed::default()];
        for _ in 0..4 {
            let seen = thread::scope(|scope| {
                let plain = scope.spawn(|| scan(&self.plain));
                [scan(&self.guarded), plain.join().unwrap()]
            });
            let [guarded, plain] = seen;
            both[0].add(plain);
            both[1].add(guarded);
            if both[0] == both[1] {
                break;
            }
        }
        both
    }

    fn answer_alike(&self, what: &str, scans: &[String]) {
        for scan in scans {
            let arguments: Vec<&str> = scan.split(' ').collect();
            let [plain, guarded] = self.answers(&arguments);
            let differences = plain.differences(&guarded);
            assert!(differences.is_empty(), "{what}: nmap {scan}:\n{}", differences.join("\n"));
            assert!(!plain.is_empty(), "{what}: nmap {scan}: nothing was seen");
            eprintln!("{what}: nmap {scan}: {plain}, and {guarded}");
        }
    }
}

/// Greets whoever connects, and leaves it to them to close: what is sent has one order.
fn greets(port: u16) {
    let listener = TcpListener::bind(("::", port)).unwrap();
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
            open.push(stream);
        }
    });
}

/// The command lines of nmap, in both families.
fn scans() -> Vec<String> {
    // Each probe once, in order: what is asked is the same each time.
    let common = "-n -Pn -r --disable-arp-ping --max-retries 0 --initial-rtt-timeout 150ms \
                  --max-rtt-timeout 150ms --host-timeout 60s";
    let kinds = [
        format!("-sS -p {TCP}"),
        format!("-sF -p {TCP}"),
        format!("-sN -p {TCP}"),
        format!("-sX -p {TCP}"),
        format!("-sA -p {TCP}"),
        format!("-sU -p {UDP}"),
        "-sV --version-intensity 1 -p 22,80".to_owned(),
        "-O --max-os-tries 1 -p 22,80,81".to_owned(),
    ];
    let families = [("-4", SERVER), ("-6", SERVER_6)];
    let in_both = kinds.iter().flat_map(|kind| {
        families.map(|(family, server)| format!("{family} {common} {kind} {server}"))
    });
    let echo = families.map(|(family, server)| {
        format!(
            "{family} -n -sn --disable-arp-ping -PE -PS22,80,7000 -PA22,80 -PU53,62201 {server}"
        )
    });
    in_both.chain(echo).collect()
}

/// Knocks from everywhere, on ports of all doors, until it is told to stop.
fn flood(net: &Net, stop: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let mut cable =
        net.client.enter(|| pcap::Capture::from_device("eth0").unwrap().open().unwrap());
    let link = net.server.must("cat", &["/sys/class/net/eth0/address"]);
    let link: Vec<u8> =
        link.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        for number in 0_u32.. {
            let [.., high, low] = number.to_be_bytes();
            for port in [7000, 9000, 7142, 22] {
                let mut frame = tagged_syn(0, [198, 51, high, low], port, number);
                frame[..6].copy_from_slice(&link);
                cable.sendpacket(frame).unwrap();
            }
            if number % 8 == 0 {
                thread::sleep(Duration::from_millis(10));
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    })
}

#[test]
fn a_host_with_a_guard_answers_as_one_whose_firewall_drops_the_ports() {
    needs!("unseen", "nmap", "nft");
    let twins = Twins::new();
    twins.answer_alike("at rest", &scans());
}

#[test]
fn a_scanner_that_makes_its_own_packets_sees_no_difference_either() {
    needs!("unseen by masscan", "masscan", "nft");
    let twins = Twins::new();
    let [plain, guarded] = twins.answers_to(|net| {
        let link = net.server.must("cat", &["/sys/class/net/eth0/address"]);
        let scan = format!(
            "{SERVER} -p{TCP},U:53,U:8000,U:62201 --rate 1000 --wait 1 --seed 1 -e eth0 \
             --source-ip {CLIENT} --source-port 40000 --router-mac {}",
            link.trim()
        );
        observe(&net.client, "masscan", &scan.split(' ').collect::<Vec<_>>())
    });
    let differences = plain.differences(&guarded);
    assert!(differences.is_empty() && !plain.is_empty(), "{}", differences.join("\n"));
    eprintln!("masscan: {plain}, and {guarded}");
}

#[test]
fn a_firewall_that_refuses_is_told_apart() {
    needs!("told apart", "nmap", "nft");
    let twins = Twins::new();
    twins.plain.server.must(
        "nft",
        &["insert", "rule", "inet", "firewall", "input", "tcp", "dport", "22", "reject"],
    );
    let scan = scans().remove(0);
    let [plain, guarded] = twins.answers(&scan.split(' ').collect::<Vec<_>>());
    let differences = plain.differences(&guarded);
    assert!(differences.len() == 1 && differences[0].starts_with("tcp 22 "), "{differences:?}");
}

#[test]
fn it_does_so_while_it_is_flooded_with_knocks_and_a_door_is_open_for_somebody_else() {
    needs!("unseen under flood", "nmap", "nft");
    let twins = Twins::new();
    for address in ["192.0.2.3", "2001:db8::3"] {
        let open =
            format!(r#"{{"do":"open","door":"classic","address":"{address}","seconds":null}}"#);
        assert_eq!(twins.knockd.ask(&open).pop().unwrap()["reply"], "done");
    }
    let stop = Arc::default();
    let floods = [&twins.plain, &twins.guarded].map(|net| flood(net, &stop));
    twins.knockd.wait_for("Stage 1");
    twins.answer_alike("under flood", &scans());
    stop.store(true, Ordering::Relaxed);
    floods.into_iter().for_each(|flood| flood.join().unwrap());
}

#[test]
fn a_gateway_with_forwarding_doors_answers_strangers_as_one_without() {
    needs!("unseen gateway", "nmap", "nft");
    let router = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
    let command = [&["sysctl", "-qw"][..], &router].concat();
    let twins = Twins::with(GATEWAY, &command);
    twins.guarded.server.must(command[0], &command[1..]);
    twins.answer_alike("with nobody led on", &scans());
    for address in ["192.0.2.3", "2001:db8::3"] {
        let open =
            format!(r#"{{"do":"open","door":"inside","address":"{address}","seconds":null}}"#);
        assert_eq!(twins.knockd.ask(&open).pop().unwrap()["reply"], "done");
    }
    twins.answer_alike("with somebody else led on", &scans());
}

#[test]
fn whoever_has_been_let_in_sees_open_ports_and_no_more() {
    needs!("unseen by the granted", "nmap", "nft");
    let twins = Twins::new();
    for address in [CLIENT, CLIENT_6] {
        let open =
            format!(r#"{{"do":"open","door":"classic","address":"{address}","seconds":null}}"#);
        assert_eq!(twins.knockd.ask(&open).pop().unwrap()["reply"], "done");
    }
    twins.plain.server.must("nft", &["flush", "ruleset"]);
    assert!(eventually(PATIENCE, || twins.guarded.client.can_connect(SERVER, 22)));
    // Those that an open port answers otherwise than a closed one.
    let scans = scans()
        .into_iter()
        .filter(|scan| ["-sS", "-sU", "-sV", "-O"].iter().any(|kind| scan.contains(kind)));
    twins.answer_alike("let in", &scans.collect::<Vec<_>>());
}
