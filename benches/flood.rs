//! Whether the owner gets in while strangers flood the wire, and what that costs.
//!
//! Between two network namespaces spoofed packets go to a door's first port, or to where requests
//! go; meanwhile a legitimate address knocks, or sends a request, twenty times. With the environment
//! variable `OTHER_KNOCKD` another `knockd` is measured too, in the same rounds. Needs root.
//!
//! `-- native` measures only floods with the word in their name; `-- rate` looks for the highest
//! rate that the daemon takes on one processor.

mod probes;
#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "what only the tests need")]
mod support;

use std::cell::Cell;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use libknock::proto::fwknop::{FwknopKey, HmacKey};
use libknock::proto::spa::{PrivateKey, PublicKey};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use probes::{Attempted, PORT, until_open};
use support::flood::{Flood, FloodKind, FloodRate};
use support::{CLIENT, Knockd, Net, can_make_namespaces, has_programs};

const ROUNDS: usize = 3;
const WINDOW: Duration = Duration::from_secs(3);
/// How many times fwknop's own client asks before its user gives up.
const TRIES: usize = 3;

fn main() {
    if !can_make_namespaces("flood") || !has_programs("flood", &["iptables"]) {
        return;
    }
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    for scene in SCENES.into_iter().filter(|scene| is_wanted(scene.name)) {
        println!("{}, {} a second", scene.name, scene.per_second);
        measure(&scene);
    }
    if words.iter().any(|word| word == "rate") {
        println!("highest rate of first knocks on one processor");
        find_highest_rate();
    }
}

/// How many knocks a round has without and with a flood. With 20 the 99th of a hundred is the worst.
fn knocks() -> usize {
    env::var("KNOCKS").ok().and_then(|count| count.parse().ok()).unwrap_or(20)
}

/// A flood, and how the owner gets in.
struct Scene {
    name: &'static str,
    flood: fn() -> FloodKind,
    per_second: u64,
    /// How many more clients there are that hold fwknop's keys.
    clients: usize,
    by: By,
}

#[derive(Clone, Copy)]
enum By {
    Sequence,
    Native,
    Fwknop,
}

const FIRST_KNOCKS: fn() -> FloodKind = || FloodKind::Knocks(7000..=7000);
const SCENES: [Scene; 9] = [
    Scene {
        name: "first knocks",
        flood: FIRST_KNOCKS,
        per_second: 100_000,
        clients: 0,
        by: By::Sequence,
    },
    Scene {
        name: "junk native datagrams",
        flood: || FloodKind::Native,
        per_second: 100_000,
        clients: 0,
        by: By::Native,
    },
    Scene {
        name: "junk fwknop datagrams",
        flood: || FloodKind::Fwknop(204),
        per_second: 100_000,
        clients: 0,
        by: By::Fwknop,
    },
    many_clients("fwknop long, sequence", LONG, By::Sequence),
    many_clients("fwknop long, request", LONG, By::Native),
    many_clients("fwknop long, fwknop", LONG, By::Fwknop),
    many_clients("fwknop stock, sequence", STOCK, By::Sequence),
    many_clients("fwknop stock, request", STOCK, By::Native),
    many_clients("fwknop stock, fwknop", STOCK, By::Fwknop),
];

const LONG: fn() -> FloodKind = || FloodKind::Fwknop(1400);
/// As long as the stock client's requests are.
const STOCK: fn() -> FloodKind = || FloodKind::Fwknop(225);

const fn many_clients(name: &'static str, flood: fn() -> FloodKind, by: By) -> Scene {
    Scene { name, flood, per_second: 3000, clients: 999, by }
}

/// Both builds in turn, so that whatever else the machine does meets both alike.
fn measure(scene: &Scene) {
    let mut all: Vec<(Server, Vec<Figures>)> =
        builds().into_iter().map(|build| (Server::start(build, scene), Vec::new())).collect();
    for _ in 0..ROUNDS {
        for (server, rounds) in &mut all {
            rounds.push(one_round(server, scene));
        }
    }
    // The kernel's losses are told every ten seconds.
    thread::sleep(Duration::from_secs(21));
    println!(
        "  {:12} {:>10} {:>8} {:>9} {:>9} {:>17} {:>17} {:>7} {:>7}",
        "",
        "packets/s",
        "ns/pkt",
        "wake/s",
        "pkt/wake",
        "idle p50 p99 ms",
        "flood p50 p99 ms",
        "opened",
        "tries"
    );
    for (server, rounds) in &all {
        for figures in rounds {
            figures.print(server.build.0);
        }
        let dropped: Vec<_> =
            server.knockd.log().into_iter().filter(|line| line.contains("dropped")).collect();
        println!(
            "  {:12} {}, {} log lines",
            server.build.0,
            server.resident(),
            server.knockd.log().len()
        );
        dropped.iter().for_each(|line| println!("  {:12} {line}", ""));
    }
}

struct Figures {
    packets: u64,
    window: Duration,
    processor: Duration,
    wakes: u64,
    idle: Vec<Duration>,
    flooded: Vec<Duration>,
    opened: usize,
    tries: usize,
}

impl Figures {
    fn print(&self, name: &str) {
        let percentile = |times: &[Duration], percent: usize| {
            let mut times = times.to_vec();
            times.sort();
            let place = (times.len() * percent / 100).min(times.len().saturating_sub(1));
            times.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        let (seconds, packets) = (self.window.as_secs_f64(), self.packets as f64);
        println!(
            "  {name:12} {:>10.0} {:>8.0} {:>9.0} {:>9.1} {:>8.3} {:>8.3} {:>8.3} {:>8.3} {:>7} {:>7}",
            packets / seconds,
            self.processor.as_nanos() as f64 / packets,
            self.wakes as f64 / seconds,
            packets / self.wakes.max(1) as f64,
            percentile(&self.idle, 50),
            percentile(&self.idle, 99),
            percentile(&self.flooded, 50),
            percentile(&self.flooded, 99),
            self.opened,
            self.tries,
        );
    }
}

fn one_round(server: &Server, scene: &Scene) -> Figures {
    let knock = || {
        thread::sleep(Duration::from_millis(30));
        server.knock(scene.by)
    };
    let idle = (0..knocks()).filter_map(|_| knock()).collect();
    let flood = Flood::start(&server.net, (scene.flood)(), FloodRate::PerSecond(scene.per_second));
    thread::sleep(Duration::from_secs(1));
    let (sent, used, begun) = (flood.sent(), server.used(), now());
    thread::sleep(WINDOW);
    let (window, used_then) = (begun.elapsed(), server.used());
    let packets = flood.sent() - sent;
    let mut tries = 0;
    let flooded: Vec<_> = (0..knocks())
        .filter_map(|_| {
            let limit = if matches!(scene.by, By::Fwknop) { TRIES } else { 1 };
            (0..limit).find_map(|_| {
                tries += 1;
                knock()
            })
        })
        .collect();
    Figures {
        packets,
        window,
        processor: used_then.0 - used.0,
        wakes: used_then.1 - used.1,
        idle,
        opened: flooded.len(),
        flooded,
        tries,
    }
}

fn find_highest_rate() {
    let scene = &SCENES[0];
    let rates = [100, 200, 300, 400, 500, 600, 800, 1000, 1500].map(|thousands| thousands * 1000);
    let rates = rates.map(FloodRate::PerSecond).into_iter().chain([FloodRate::Unlimited]);
    let servers: Vec<_> = builds().into_iter().map(|build| Server::start(build, scene)).collect();
    servers.iter().for_each(|server| server.pin(0));
    println!("  {:12} {:>12} {:>12} {:>8} {:>8}", "", "asked for", "sent/s", "opened", "load");
    for rate in rates {
        for server in &servers {
            let flood = Flood::start_on(&server.net, (scene.flood)(), rate, Some(1));
            thread::sleep(Duration::from_secs(1));
            let (sent, used, begun) = (flood.sent(), server.used(), now());
            let opened = (0..knocks()).filter(|_| server.opens_to_knocks()).count();
            let seconds = begun.elapsed().as_secs_f64();
            let asked = match rate {
                FloodRate::PerSecond(rate) => rate.to_string(),
                FloodRate::Unlimited => "unlimited".to_owned(),
            };
            println!(
                "  {:12} {asked:>12} {:>12.0} {opened:>8} {:>6.0} %",
                server.build.0,
                (flood.sent() - sent) as f64 / seconds,
                (server.used().0 - used.0).as_secs_f64() / seconds * 100.0,
            );
        }
    }
}

/// The name of a build and its program.
type Build = (&'static str, String);

fn builds() -> Vec<Build> {
    let own = ("this build", env!("CARGO_BIN_EXE_knockd").to_owned());
    [Some(own), env::var("OTHER_KNOCKD").ok().map(|other| ("other build", other))]
        .into_iter()
        .flatten()
        .collect()
}

struct Server {
    build: Build,
    // Before the namespaces that it runs in.
    knockd: Knockd,
    net: Net,
    key: PublicKey,
    rounds: Cell<u32>,
}

impl Server {
    fn start(build: Build, scene: &Scene) -> Self {
        let net = Net::new();
        // Or the kernel would answer each with an error.
        for (protocol, ports) in [("tcp", "7000:9000"), ("udp", "62201")] {
            let drop = ["-A", "INPUT", "-p", protocol, "--dport", ports, "-j", "DROP"];
            net.server.must("iptables", &drop);
        }
        net.server.must("ip", &["route", "add", "198.18.0.0/15", "via", CLIENT]);
        net.server.listen(PORT);
        let knockd = Knockd::start_by(net.server.command(&build.1), &configuration(scene.clients));
        let key = fs::read_to_string(knockd.directory.path().join("keys/server.key")).unwrap();
        let key: PrivateKey = key.parse().unwrap();
        thread::sleep(Duration::from_secs(1));
        Self { build, knockd, net, key: key.public(), rounds: Cell::default() }
    }

    /// From the last knock to the open port, from a source of its own.
    fn knock(&self, by: By) -> Option<Duration> {
        let source = self.source();
        let how = match by {
            By::Sequence => Attempted::Sequence,
            By::Native => Attempted::Request(support::requests::native(&self.key)),
            By::Fwknop => Attempted::Request(support::requests::of_fwknop(
                &FwknopKey::new(b"testkey".to_vec()).unwrap(),
                &HmacKey::new(b"hmackey".to_vec()).unwrap(),
                Some(source),
            )),
        };
        until_open(&self.net, source, how)
    }

    /// Whether three knocks open the port, asked about so seldom that it costs nothing.
    fn opens_to_knocks(&self) -> bool {
        let (before, source) = (self.knockd.count("OPEN SESAME"), self.source());
        probes::knock(&self.net, source);
        support::eventually(Duration::from_secs(1), || self.knockd.count("OPEN SESAME") > before)
    }

    fn source(&self) -> Ipv4Addr {
        self.rounds.set(self.rounds.get() + 1);
        Ipv4Addr::from_bits(0xc612_0000 + self.rounds.get())
    }

    fn processes(&self) -> Vec<i32> {
        [self.knockd.watchers(), vec![self.knockd.pid()]].concat()
    }

    /// The processor time of all threads of all processes, and how often they were woken.
    fn used(&self) -> (Duration, u64) {
        let (mut nanos, mut wakes) = (0, 0);
        for pid in self.processes() {
            for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
                let read = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
                let first = |text: &str| text.split_whitespace().next()?.parse::<u64>().ok();
                nanos += first(&read("schedstat")).unwrap_or(0);
                let status = read("status");
                let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
                wakes += line.and_then(first).unwrap_or(0);
            }
        }
        (Duration::from_nanos(nanos), wakes)
    }

    fn pin(&self, processor: usize) {
        let mut one = CpuSet::new();
        one.set(processor).unwrap();
        for pid in self.processes() {
            for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
                let thread = thread.file_name().to_string_lossy().parse().unwrap();
                sched_setaffinity(Pid::from_raw(thread), &one).unwrap();
            }
        }
    }

    /// Resident memory of all processes, the mapped rings included.
    fn resident(&self) -> String {
        let kib = |pid: &i32| -> u64 {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let each: Vec<u64> = self.processes().iter().map(kib).collect();
        format!("{} KiB resident ({each:?}: watcher, keeper)", each.iter().sum::<u64>())
    }
}

fn configuration(clients: usize) -> String {
    let mut text = String::from(
        "knockd: {interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
         \x20 spa: {key_file: DIR/keys/server.key}}\n\
         clients:\n",
    );
    for client in 0..clients {
        let keys = format!("{{key: key number {client}, hmac_key: HMAC key number {client}}}");
        writeln!(text, "  c{client}: {{doors: [ssh], fwknop: {keys}}}").unwrap();
    }
    // Last, so that all other keys are tried before.
    writeln!(
        text,
        "  owner: {{doors: [ssh], spa: {{public_key: {}}}, fwknop: {{key: testkey, hmac_key: hmackey}}}}\n\
         doors:\n\
         \x20 ssh: {{sequence: [7000, 8000, 9000], spa: true, fwknop: true, open: [{PORT}], open_for: 1h}}",
        support::requests::client_key().public()
    )
    .unwrap();
    text
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads a clock")]
fn now() -> Instant {
    Instant::now()
}
