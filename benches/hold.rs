//! What ten thousand held grants with live traffic cost the keeper, and how soon a door shuts after
//! its session.
//!
//! Each grant has a UDP flow, which says something every five seconds. Of the keeper: processor time
//! and wake-ups for a minute, with the guard, whose grants packets renew, and with a set of nftables,
//! for which it asks connection tracking. Then the time from the end of a TCP connection to the close
//! of its door, less `grace`. Needs root; the first argument is how many grants.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "what only the tests need")]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Host, Knockd, Net, SERVER, can_make_namespaces, has_programs};

const PORT: u16 = 5000;
const SAYS_EVERY: Duration = Duration::from_secs(5);
const MEASURED: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(1);
const SESSIONS: u8 = 30;

fn main() {
    if !can_make_namespaces("hold") || !has_programs("hold", &["nft", "conntrack"]) {
        return;
    }
    let grants = std::env::args().skip(1).find_map(|it| it.parse().ok()).unwrap_or(10_000);
    for via in ["guard", "{nft_set: {table: inet own, set4: held}}"] {
        costs(via, grants);
    }
    shuts();
}

fn configuration(door: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
         doors:\n  held: {{sequence: [7000, 8000, 9000], {door}}}\n"
    )
}

fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(100, 64, 1, 0).to_bits() + number)
}

/// Opens the door by hand.
fn open(knockd: &Knockd, source: Ipv4Addr) {
    let request = format!(r#"{{"do":"open","door":"held","address":"{source}","seconds":null}}"#);
    let replies = knockd.ask(&request);
    assert_eq!(replies[0]["reply"], "opened", "{replies:?}");
}

fn costs(via: &str, grants: u32) {
    let net = Net::new();
    net.server.must("ip", &["route", "add", "100.64.0.0/10", "dev", "eth0"]);
    net.server.must("sysctl", &["-qw", "net.ipv4.conf.all.rp_filter=0"]);
    // Each address of the client's has to be known where it is answered.
    net.client.must("ip", &["route", "add", "local", "100.64.0.0/10", "dev", "lo"]);
    net.client.must("sysctl", &["-qw", "net.ipv4.conf.all.proxy_arp=1"]);
    let sizes =
        ["neigh.default.gc_thresh1", "neigh.default.gc_thresh2", "neigh.default.gc_thresh3"];
    sizes.iter().for_each(|it| {
        let _may_be_fixed = net.server.run("sysctl", &["-qw", &format!("net.ipv4.{it}=65536")]);
    });
    net.server.must(
        "nft",
        &["add table inet own; add set inet own held { type ipv4_addr; flags timeout; }; \
           add chain inet own input { type filter hook input priority 0; }; \
           add rule inet own input ct state established accept"],
    );
    net.server.echo_udp(&[SERVER], PORT);
    let door = format!(
        "open: [{PORT}/udp], via: {via}, open_for: 10m, max_grants: 50000, \
         hold: {{idle: 60s, at_most: 2h}}"
    );
    let knockd = Knockd::start(&net.server, &configuration(&door));
    (0..grants).for_each(|number| open(&knockd, source(number)));
    let flows = net.client.enter(move || Flows::begin(grants));
    thread::sleep(Duration::from_secs(75));
    let before = Usage::of(knockd.pid());
    let begun = now();
    thread::sleep(MEASURED);
    let (used, time) = (Usage::of(knockd.pid()), begun.elapsed().as_secs_f64());
    let held = knockd.ask(r#"{"do":"status"}"#)[0]["doors"][0]["open"].clone();
    println!(
        "{via}: {held} of {grants} grants open, {:.0} packets/s; keeper {:.2} % of a core, {:.1} wake-ups/s",
        flows.sent.load(Ordering::Relaxed) as f64 / flows.begun.elapsed().as_secs_f64(),
        (used.ticks - before.ticks) as f64 / time,
        (used.wakes - before.wakes) as f64 / time,
    );
    flows.is_over.store(true, Ordering::Relaxed);
}

/// One flow for each source, which all say something every few seconds.
struct Flows {
    sent: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    begun: Instant,
}

impl Flows {
    fn begin(count: u32) -> Self {
        let flows = Self { sent: Arc::default(), is_over: Arc::default(), begun: now() };
        let (sent, is_over) = (flows.sent.clone(), flows.is_over.clone());
        let sockets: Vec<UdpSocket> = (0..count)
            .map(|number| {
                let socket = UdpSocket::bind((source(number), 0)).unwrap();
                socket.connect((SERVER, PORT)).unwrap();
                socket
            })
            .collect();
        thread::spawn(move || {
            let pause = SAYS_EVERY / 100;
            while !is_over.load(Ordering::Relaxed) {
                for some in sockets.chunks(sockets.len().div_ceil(100)) {
                    for socket in some {
                        sent.fetch_add(u64::from(socket.send(b"word").is_ok()), Ordering::Relaxed);
                    }
                    thread::sleep(pause);
                }
            }
        });
        flows
    }
}

/// What a process has used: hundredths of a second, and how often it began to wait.
struct Usage {
    ticks: u64,
    wakes: u64,
}

impl Usage {
    fn of(pid: i32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let after = stat.rsplit(')').next().unwrap();
        let fields: Vec<u64> = after.split_whitespace().filter_map(|it| it.parse().ok()).collect();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let wakes = status.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"));
        // utime and stime; the state, which is a letter, is left out.
        Self { ticks: fields[10] + fields[11], wakes: wakes.unwrap().trim().parse().unwrap() }
    }
}

/// From the end of a session to the close of its door.
fn shuts() {
    let net = Net::new();
    let listener =
        net.server.enter(|| TcpListener::bind(SocketAddr::from(([0u16; 8], 22))).unwrap());
    // Closes when the client has.
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ended = stream.read_to_end(&mut Vec::new());
        }
    });
    let door = "open: [22], open_for: 1h, hold: {idle: 60s, grace: 1s}";
    let knockd = Knockd::start(&net.server, &configuration(door));
    let mut late = Vec::new();
    let client: Ipv4Addr = support::CLIENT.parse().unwrap();
    for round in 1..=usize::from(SESSIONS) {
        open(&knockd, client);
        let mut session = connect(&net.client);
        session.write_all(b"word").unwrap();
        thread::sleep(Duration::from_millis(50));
        drop(session);
        let ended = now();
        knockd.wait_for_count("closed: session ended", round);
        late.push(ended.elapsed().saturating_sub(GRACE).as_secs_f64() * 1e3);
    }
    late.sort_by(f64::total_cmp);
    println!(
        "a door shuts after its session and {GRACE:?}: p50 {:.1} ms, worst {:.1} ms later",
        late[late.len() / 2],
        late[late.len() - 1]
    );
}

fn connect(client: &Host) -> TcpStream {
    let to: SocketAddr = (SERVER.parse::<Ipv4Addr>().unwrap(), 22).into();
    client.enter(move || TcpStream::connect(to).unwrap())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads a clock")]
fn now() -> Instant {
    Instant::now()
}
