//! What a packet costs on its way through a gateway with a thousand forwarding doors.
//!
//! Round trips of datagrams between a client and a host behind the gateway, to which no door
//! leads: within one flow, and each in a flow of its own. Without knockd (but with connection
//! tracking, as any gateway has it), with one door that only locks a port, with one forwarding
//! door, and with as many as the first
//! argument says, each of them open for somebody. In turn, so that whatever else the machine does
//! meets all of them alike. The doors are knocked at by TCP alone: what is captured has a cost of
//! its own. Needs root.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "what only the tests need")]
mod support;

use std::fmt::Write;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use support::{Host, INNER, Knockd, Net, can_make_namespaces, has_programs};

const ROUNDS: usize = 60;
/// In one round.
const TRIPS: u32 = 1000;
const PORT: u16 = 5000;

fn main() {
    if !can_make_namespaces("gateway") || !has_programs("gateway", &["nft"]) {
        return;
    }
    let many = std::env::args().skip(1).find_map(|it| it.parse().ok()).unwrap_or(1000);
    let mut gateways =
        [(0, ""), (1, "open"), (1, "forward"), (many, "forward")].map(Gateway::start);
    // The first round is to warm up.
    for round in 0..=ROUNDS {
        for gateway in &mut gateways {
            let times = gateway.round();
            if round > 0 {
                gateway.times.push(times);
            }
        }
    }
    println!("{:24} {:>22} {:>22}", "", "within a flow", "a flow each");
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
        println!("{:24} {:>22} {:>22}", name, shown[0], shown[1]);
    }
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
        inner.echo_udp(&[INNER], PORT);
        let chain = "type filter hook forward priority 0; ct state invalid drop;";
        net.server
            .must("nft", &[&format!("table inet tracking {{ chain forward {{ {chain} }}; }}")]);
        let knockd = (doors > 0).then(|| {
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
                socket.connect((INNER, PORT)).unwrap();
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
