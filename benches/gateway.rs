//! What a packet costs on its way through a gateway with a thousand forwarding doors, and how soon
//! such a door opens.
//!
//! Round trips of datagrams between a client and a host behind the gateway, to which no door
//! leads: within one flow, and each in a flow of its own. Without knockd (but with connection
//! tracking, as any gateway has it), with one door that only locks a port, with one forwarding
//! door, and with as many as the first
//! argument says, each of them open for somebody. In turn, so that whatever else the machine does
//! meets all of them alike. The doors are knocked at by TCP alone: what is captured has a cost of
//! its own. And the same through a door to that host: one whose grants end at their time, one
//! whose grants packets renew, and one of those that is open for a network.
//!
//! Then the time from a request to the first SYN/ACK of the port that it opens, of this host or of
//! the one behind it: by turns, at one knockd, so that whichever processors its processes have come
//! to is the same for both; and where the ports are open anyway. Needs root.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "what only the tests need")]
mod support;

#[allow(dead_code, reason = "what other benchmarks need")]
mod probes;

use std::fmt::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use libknock::config::{GuardMode, Name};
use libknock::firewall::guard::Guard;
use libknock::firewall::netlink::Comment;
use libknock::firewall::ruleset::{GuardGrant, GuardedDoor, Ruleset};
use libknock::grants::GrantKey;
use libknock::proto::fwknop::{FwknopKey, HmacKey, NatAccess};
use libknock::proto::network::Network;
use libknock::sys::clock;
use probes::{Attempted, until_open};
use support::requests::of_fwknop_to;
use support::{CLIENT, Host, INNER, Knockd, Net, can_make_namespaces, has_programs};

const ROUNDS: usize = 60;
/// In one round.
const TRIPS: u32 = 1000;
const ECHO: u16 = 5000;
/// How often each door is opened.
const OPENED: u8 = 200;

fn main() {
    if !can_make_namespaces("gateway") || !has_programs("gateway", &["nft"]) {
        return;
    }
    let many = std::env::args().skip(1).find_map(|it| it.parse().ok()).unwrap_or(1000);
    let kinds = [(0, ""), (1, "open"), (1, "forward"), (many, "forward")];
    let through = [(1, "to it"), (1, "to it, held"), (1, "to it, held for a network")];
    let mut gateways: Vec<Gateway> = kinds.into_iter().chain(through).map(Gateway::start).collect();
    // The first round is to warm up.
    for round in 0..=ROUNDS {
        for gateway in &mut gateways {
            let times = gateway.round();
            if round > 0 {
                gateway.times.push(times);
            }
        }
    }
    println!("{:32} {:>22} {:>22}", "", "within a flow", "a flow each");
    let without = gateways[0].times.clone();
    for Gateway { name, times, .. } in &gateways {
        let shown = [0, 1].map(|kind| {
            let trip = middle(times.iter().map(|it| it[kind].as_secs_f64()));
            // Of each round: what the machine did meanwhile is in both.
            let pairs = times.iter().zip(&without);
            let ratio =
                middle(pairs.map(|(it, other)| it[kind].as_secs_f64() / other[kind].as_secs_f64()));
            format!("{:.2} us  x {ratio:.3}", trip * 1e6 / f64::from(TRIPS))
        });
        println!("{:32} {:>22} {:>22}", name, shown[0], shown[1]);
    }
    drop(gateways);
    opens();
}

/// One knockd with a door to its own port and one to the same port of the host behind it.
fn opens() {
    const KEY: &str = "d2l0aG91dCBhIGtub2NrIG5vdGhpbmcgb3BlbnM=";
    const HMAC_KEY: &str = "bm90aGluZyBvcGVucyB3aXRob3V0IGEga25vY2s=";
    let net = Net::new();
    let inner = net.inner_host();
    net.server.must("ip", &["route", "add", "198.51.100.0/23", "via", CLIENT]);
    [&net.server, &inner].into_iter().for_each(|host| host.listen(probes::PORT));
    let lead = format!(
        "table ip t {{ chain c {{ type nat hook prerouting priority -100;
         ip saddr 198.51.100.250-198.51.100.254 tcp dport 22 dnat to {INNER}; }}; }}"
    );
    net.server.must("nft", &[&lead]);
    let (key, hmac) =
        (FwknopKey::from_base64(KEY).unwrap(), HmacKey::from_base64(HMAC_KEY).unwrap());
    let nat = NatAccess::new(INNER, 22.try_into().unwrap(), false).unwrap();
    let knockd = Knockd::start(
        &net.server,
        &format!(
            "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
             \x20 trusted: [198.51.100.240/28]}}\n\
             clients: {{owner: {{doors: [here, there], fwknop: {{key_base64: {KEY}, hmac_key_base64: {HMAC_KEY}}}}}}}\n\
             doors:\n  here: {{fwknop: true, open: [22], open_for: 1h}}\n\
             \x20 there: {{fwknop: true, forward: {{on: 22, to: {INNER}}}, open_for: 1h}}\n"
        ),
    );
    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 0..OPENED {
        // Two that are trusted, and of which one is led on by another's rule: the floors.
        let sources = [[round, 0], [round, 1], [245, 2], [252, 3]];
        for ([last, kind], times) in sources.into_iter().zip(&mut times) {
            let source = Ipv4Addr::new(198, 51, if kind == 1 { 101 } else { 100 }, last);
            let nat = (kind == 1).then(|| nat.clone());
            let request = of_fwknop_to(&key, &hmac, Some(source), nat);
            let time = until_open(&net, source, Attempted::Request(request));
            times.extend(time.map(|time| time.as_secs_f64() * 1e3));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let [here, there, floor_here, floor_there] = times.map(|times| middle(times.into_iter()));
    println!(
        "from a request to the open port, p50: {here:.3} ms here, {there:.3} ms behind, x {:.2}",
        there / here
    );
    println!(
        "where they are open anyway:           {floor_here:.3} ms here, {floor_there:.3} ms behind"
    );
    drop(knockd);
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A gateway between two hosts.
struct Gateway {
    name: String,
    // Before the namespaces that it runs in.
    _knockd: Option<Knockd>,
    _inner: Host,
    net: Net,
    /// Within a flow, and with a flow each.
    times: Vec<[Duration; 2]>,
}

impl Gateway {
    fn start((doors, kind): (u32, &str)) -> Self {
        let net = Net::new();
        let inner = net.inner_host();
        inner.echo_udp(&[INNER], ECHO);
        let chain = "type filter hook forward priority 0; ct state invalid drop;";
        net.server
            .must("nft", &[&format!("table inet tracking {{ chain forward {{ {chain} }}; }}")]);
        if kind.starts_with("to it") {
            let (is_held, is_wide) = (kind.contains("held"), kind.contains("network"));
            net.server.enter(move || guard(is_held, is_wide));
        }
        let knockd = (doors > 0 && !kind.starts_with("to it")).then(|| {
            let knockd = Knockd::start(&net.server, &configuration(doors, kind));
            for door in 0..doors {
                let [.., high, low] = door.to_be_bytes();
                let request = format!(
                    r#"{{"do":"open","door":"d{door}","address":"198.51.{high}.{low}","seconds":null}}"#
                );
                assert_eq!(knockd.ask(&request).pop().unwrap()["reply"], "done");
            }
            knockd
        });
        let name = format!("{doors} doors {kind}");
        Self { name, _knockd: knockd, _inner: inner, net, times: Vec::new() }
    }

    fn round(&self) -> [Duration; 2] {
        self.net.client.enter(|| {
            let socket = || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                socket.connect((INNER, ECHO)).unwrap();
                socket
            };
            let trip = |socket: &UdpSocket| {
                socket.send(b"?").unwrap();
                socket.recv(&mut [0; 10]).unwrap();
            };
            let one = socket();
            trip(&one);
            let begun = now();
            (0..TRIPS).for_each(|_| trip(&one));
            let within = begun.elapsed();
            let begun = now();
            (0..TRIPS).for_each(|_| trip(&socket()));
            [within, begun.elapsed()]
        })
    }
}

/// Sets up a guard with a door to the host behind, open for the client.
fn guard(is_held: bool, is_wide: bool) {
    let name: Name = "inside".parse().unwrap();
    let door = GuardedDoor {
        ports: vec![format!("{ECHO}/udp").parse().unwrap()],
        forwards: Vec::new(),
        target: Some(INNER.parse().unwrap()),
        mode: GuardMode::Lock,
        idle: is_held.then_some(Duration::from_secs(60)),
    };
    let grant = GuardGrant {
        key: GrantKey::new(
            name.clone(),
            format!("{CLIENT}/{}", if is_wide { 24 } else { 32 }).parse::<Network>().unwrap(),
        ),
        left: Duration::from_secs(3600),
        ceiling: is_held.then_some(Duration::from_secs(7200)),
        comment: Comment::new("knockd inside knockctl"),
    };
    let ruleset = Ruleset { doors: [(name, door)].into(), ..Ruleset::default() };
    Guard::set_up(clock::now().monotonic, ruleset, &[grant]).unwrap();
}

fn configuration(doors: u32, kind: &str) -> String {
    let mut text =
        "knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}\n\
                    doors:\n"
            .to_owned();
    for door in 0..doors {
        let knock = |factor: u32| 1024 + door.wrapping_mul(factor) % 58_000;
        let (one, two, three) = (knock(40_503), knock(17_389), knock(26_881));
        let port = 60_000 + door % 5000;
        let opens = match kind {
            "open" => format!("open: [{port}]"),
            _ => format!("forward: {{on: {port}, to: {INNER}, port: 22}}"),
        };
        writeln!(text, "  d{door}: {{sequence: [{one}, {two}, {three}], {opens}, open_for: 1h}}")
            .unwrap();
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads a clock")]
fn now() -> Instant {
    Instant::now()
}
