//! From the last knock on the wire to the first SYN/ACK of the port that it opens.
//!
//! In one run: a port that is open anyway (the floor), knockd with its guard, once to a sequence and
//! once to a native SPA request, and with a template,
//! classic knockd and fwknopd, each between two network namespaces of its own. Each of 200 rounds
//! measures all of them, one after the other, from another source. Both ends of a measurement are
//! stamps of the client's kernel. Needs root.

mod others;
mod probes;
#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "what only the tests need")]
mod support;

use std::net::Ipv4Addr;
use std::time::Duration;
use std::{env, fs};

use libknock::proto::fwknop;
use libknock::proto::spa::{PrivateKey, PublicKey};
use others::OtherServer;
use probes::{Attempted, PORT, until_open};
use support::{Knockd, Net, can_make_namespaces, has_programs};

const ROUNDS: u8 = 200;

fn main() {
    if !can_make_namespaces("latency") || !has_programs("latency", &["iptables"]) {
        return;
    }
    // `cargo bench --bench latency -- guard` measures only those with the word in their name.
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut entries: Vec<Entry> = CONTENDERS
        .into_iter()
        .filter(|(name, ..)| {
            *name == FLOOR || words.is_empty() || words.iter().any(|word| name.contains(word))
        })
        .filter(|(_, who, _)| !matches!(who, Contender::OtherBuild) || other_build().is_some())
        .filter(|(name, _, programs)| has_programs(name, programs))
        .map(|(name, who, _)| Entry::start(name, who))
        .collect();
    // In turn, so that whatever else the machine does meets all of them alike.
    for round in 1..=ROUNDS {
        for entry in &mut entries {
            entry.times.push(one_round(&entry.net, entry.who, entry.running.server_key(), round));
            // What is done after a door has opened is no part of the next round.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    println!("{:24} {:>10} {:>10} {:>9} {:>9}", "", "p50", "p99", "p50/floor", "p99/floor");
    let mut floor = None;
    for entry in entries {
        let figures = entry.figures();
        floor = floor.or(figures);
        entry.report(figures, floor);
    }
}

const FLOOR: &str = "open already (floor)";

/// Who is measured, and which programs that takes. The floor comes first.
const CONTENDERS: [(&str, Contender, &[&str]); 10] = [
    (FLOOR, Contender::Nothing, &[]),
    ("knockd, guard", Contender::Ours("via: guard"), &[]),
    ("knockd, guard, no sandbox", Contender::NoSandbox, &[]),
    ("other build, guard", Contender::OtherBuild, &[]),
    ("knockd, guard, SPA", Contender::Spa, &[]),
    ("knockd, guard, fwknop's", Contender::OurFwknop, &[]),
    ("knockd, iptables", Contender::Ours("via: iptables"), &[]),
    ("classic knockd, iptables", Contender::Classic, &["knockd"]),
    ("fwknopd, iptables", Contender::Fwknop { udp: false }, &["fwknopd"]),
    ("fwknopd, UDP, iptables", Contender::Fwknop { udp: true }, &["fwknopd"]),
];

fn other_build() -> Option<String> {
    env::var("OTHER_KNOCKD").ok()
}

fn with_sequence(via: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
         doors:\n  ssh: {{sequence: [7000, 8000, 9000], open: [22], {via}, open_for: 1h}}\n"
    )
}

/// Who opens the port.
#[derive(Clone, Copy)]
enum Contender {
    /// Nobody has to.
    Nothing,
    Ours(&'static str),
    /// The guard, with `sandbox: off`.
    NoSandbox,
    /// The guard of another `knockd`, which the environment variable `OTHER_KNOCKD` names.
    OtherBuild,
    /// The same guard, to one native datagram.
    Spa,
    /// The same guard, to one datagram of fwknop's.
    OurFwknop,
    Classic,
    /// By capture, or with a socket of its own.
    Fwknop {
        udp: bool,
    },
}

/// A contender at work between two namespaces of its own.
struct Entry {
    name: &'static str,
    who: Contender,
    // Before the namespaces that it runs in.
    running: Running,
    net: Net,
    /// `None`: the port did not open.
    times: Vec<Option<Duration>>,
}

/// p50 and p99.
type Figures = (Duration, Duration);

impl Entry {
    fn start(name: &'static str, who: Contender) -> Self {
        let net = Net::new();
        // Sources of their own beyond the client, so that no round finds the port open.
        net.server.must("ip", &["route", "add", "198.51.100.0/24", "via", support::CLIENT]);
        if matches!(
            who,
            Contender::Nothing
                | Contender::Spa
                | Contender::OurFwknop
                | Contender::OtherBuild
                | Contender::NoSandbox
                | Contender::Ours("via: guard")
        ) {
            net.server.listen(PORT);
        } else {
            net.shut(PORT);
        }
        let running = Running::start(&net, who);
        Self { name, who, running, net, times: Vec::new() }
    }

    /// `None`: the port has never opened.
    fn figures(&self) -> Option<Figures> {
        let mut times: Vec<Duration> = self.times.iter().copied().flatten().collect();
        times.sort();
        let last = times.len().checked_sub(1)?;
        let at = |percent: usize| times.get((times.len() * percent / 100).min(last)).copied();
        at(50).zip(at(99))
    }

    fn report(&self, figures: Option<Figures>, floor: Option<Figures>) {
        let Some((p50, p99)) = figures else {
            println!("{:24} never opened", self.name);
            return;
        };
        let ratio = |time: Duration, of: fn(Figures) -> Duration| {
            floor.map_or(1.0, |floor| time.as_secs_f64() / of(floor).as_secs_f64())
        };
        let missed = self.times.iter().filter(|time| time.is_none()).count();
        println!(
            "{:24} {:>7.3} ms {:>7.3} ms {:>9.1} {:>9.1}{}",
            self.name,
            p50.as_secs_f64() * 1e3,
            p99.as_secs_f64() * 1e3,
            ratio(p50, |floor| floor.0),
            ratio(p99, |floor| floor.1),
            if missed > 0 { format!("   {missed} rounds never opened") } else { String::new() }
        );
    }
}

/// Knocks from a source of its own, then asks for a connection again and again.
fn one_round(
    net: &Net,
    who: Contender,
    server_key: Option<PublicKey>,
    round: u8,
) -> Option<Duration> {
    let source = Ipv4Addr::new(198, 51, 100, round);
    let how = if matches!(who, Contender::OurFwknop | Contender::Fwknop { .. }) {
        Attempted::Request(of_fwknop(source))
    } else {
        server_key
            .map_or(Attempted::Sequence, |key| Attempted::Request(support::requests::native(&key)))
    };
    until_open(net, source, how)
}

fn of_fwknop(source: Ipv4Addr) -> Vec<u8> {
    let key = fwknop::FwknopKey::from_base64(KEY).unwrap();
    let hmac = fwknop::HmacKey::from_base64(HMAC_KEY).unwrap();
    support::requests::of_fwknop(&key, &hmac, Some(source))
}

const KEY: &str = "d2l0aG91dCBhIGtub2NrIG5vdGhpbmcgb3BlbnM=";
const HMAC_KEY: &str = "bm90aGluZyBvcGVucyB3aXRob3V0IGEga25vY2s=";

/// The server under test; ended when it goes out of scope.
struct Running {
    ours: Option<Knockd>,
    other: Option<OtherServer>,
    _directory: tempfile::TempDir,
}

impl Running {
    fn start(net: &Net, who: Contender) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut running =
            Self { ours: None, other: None, _directory: tempfile::tempdir().unwrap() };
        match who {
            Contender::Nothing => {}
            Contender::Ours(via) => {
                running.ours = Some(Knockd::start(&net.server, &with_sequence(via)));
            }
            Contender::NoSandbox => {
                let off = "user: nobody, sandbox: off";
                let text = with_sequence("via: guard").replace("user: nobody", off);
                running.ours = Some(Knockd::start(&net.server, &text));
            }
            Contender::OtherBuild => {
                let command = net.server.command(&other_build().unwrap());
                running.ours = Some(Knockd::start_by(command, &with_sequence("via: guard")));
            }
            Contender::Spa => {
                let configuration = format!(
                    "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody,\n\
                     \x20 spa: {{key_file: DIR/keys/server.key}}}}\n\
                     clients:\n  owner: {{doors: [ssh], spa: {{public_key: {}}}}}\n\
                     doors:\n  ssh: {{spa: true, open: [22], open_for: 1h}}\n",
                    support::requests::client_key().public()
                );
                running.ours = Some(Knockd::start(&net.server, &configuration));
            }
            Contender::OurFwknop => {
                let configuration = format!(
                    "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
                     clients:\n  owner: {{doors: [ssh], fwknop: {{key_base64: {KEY}, hmac_key_base64: {HMAC_KEY}}}}}\n\
                     doors:\n  ssh: {{fwknop: true, open: [22], open_for: 1h}}\n"
                );
                running.ours = Some(Knockd::start(&net.server, &configuration));
            }
            Contender::Classic => running.other = Some(OtherServer::knockd(net, directory.path())),
            Contender::Fwknop { udp } => {
                let keys = (KEY, HMAC_KEY);
                running.other = Some(OtherServer::fwknopd(net, directory.path(), keys, udp));
            }
        }
        running._directory = directory;
        std::thread::sleep(Duration::from_secs(2));
        running
    }
}

impl Running {
    /// The key for native requests, where the server takes any.
    fn server_key(&self) -> Option<PublicKey> {
        let path = self.ours.as_ref()?.directory.path().join("keys/server.key");
        let key: PrivateKey = fs::read_to_string(path).ok()?.parse().ok()?;
        Some(key.public())
    }
}
