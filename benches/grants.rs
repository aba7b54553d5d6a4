//! What 10,000 open doors cost: while they are open, and when all of them close at once.
//!
//! A guarded door is opened by hand for 10,000 addresses, in a network namespace. Needs root.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "what only the tests need")]
mod support;

use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use libknock::config::NftFamily;
use libknock::firewall::netlink::{ElementKey, ElementRef, Netlink, NftChange, SetRef};
use support::{Host, Knockd, can_make_namespaces};

const GRANTS: u64 = 10_000;
/// For how long idle processes are looked at.
const LOOK: Duration = Duration::from_secs(60);
/// When all grants end, after the first of them was opened.
const TOGETHER: Duration = Duration::from_secs(40);

/// How often the table is deleted.
const RESTORES: usize = 30;

const CONFIGURATION: &str = "
knockd: {interfaces: [lo], run_dir: DIR/run, state_dir: DIR/state, user: nobody}
doors:
  ssh: {sequence: [7000, 8000, 9000], open: [22]}
";

fn main() {
    if !can_make_namespaces("grants") {
        return;
    }
    let host = Host::new("s");
    let knockd = Knockd::start(&host, CONFIGURATION);
    if std::env::args().any(|word| word == "restore") {
        open_all(&knockd, |_| 3600);
        return restored(&host);
    }
    at_rest(&knockd, "no grant");
    let begun = now();
    open_all(&knockd, |_| 3600);
    println!(
        "opened:        {GRANTS} one after the other in {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    at_rest(&knockd, "all open");
    restored(&host);
    knockd.ask(r#"{"do":"close_all"}"#);
    assert!(knockd.grants().is_empty());
    end_together(&knockd);
}

fn open_all(knockd: &Knockd, seconds: impl Fn(Instant) -> u64) {
    let begun = now();
    for number in 1..=GRANTS {
        let seconds = seconds(begun);
        let replies = knockd.ask(&format!(
            r#"{{"do":"open","door":"ssh","address":"2001:db8::{number:x}","seconds":{seconds}}}"#
        ));
        assert_eq!(replies[0]["reply"], "done", "{replies:?}");
    }
    assert_eq!(knockd.grants().len() as u64, GRANTS);
}

/// What both processes do while nothing happens.
fn at_rest(knockd: &Knockd, what: &str) {
    thread::sleep(Duration::from_secs(2));
    let before = Usage::of(knockd);
    thread::sleep(LOOK);
    let used = Usage::of(knockd).since(&before);
    println!(
        "{:14} {:.2} s of processor time and {} wake-ups in {} s, {} KiB resident",
        format!("{what}:"),
        used.seconds,
        used.wakes,
        LOOK.as_secs(),
        used.resident
    );
}

/// From the deletion of the guard's table by somebody else until it is back with all grants.
fn restored(host: &Host) {
    let mut times = host.enter(|| {
        let mut netlink = Netlink::open().unwrap();
        let open = SetRef::new(NftFamily::Inet, "knockd", "open_6").unwrap();
        let last = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, GRANTS as u16]);
        let last = ElementRef::new(open, ElementKey::from(last).protocol(6).port(22));
        let mut one = || {
            thread::sleep(Duration::from_millis(1500));
            netlink.apply(&[NftChange::delete_table("knockd")]).unwrap();
            let deleted = now();
            while netlink.element(&last).unwrap().is_none() {
                thread::sleep(Duration::from_micros(20));
            }
            deleted.elapsed()
        };
        (0..RESTORES).map(|_| one()).collect::<Vec<_>>()
    });
    times.sort();
    println!(
        "restored:      p50 {:.1} ms, longest {:.1} ms of {RESTORES}",
        times[times.len() / 2].as_secs_f64() * 1e3,
        times[times.len() - 1].as_secs_f64() * 1e3
    );
}

/// All grants end within one second.
fn end_together(knockd: &Knockd) {
    open_all(knockd, |begun| TOGETHER.saturating_sub(begun.elapsed()).as_secs().max(1));
    let before = Usage::of(knockd);
    // How long whoever asks meanwhile waits at most.
    let (mut deaf, mut first, mut left) = (Duration::ZERO, None, GRANTS as usize);
    while left > 0 {
        let asked = now();
        let history = r#"{"do":"history","since":4102444800.0}"#;
        knockd.ask(history);
        deaf = deaf.max(asked.elapsed());
        left = knockd.grants().len();
        if left < GRANTS as usize {
            first.get_or_insert_with(now);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let took = first.map(|first| first.elapsed()).unwrap_or_default();
    let used = Usage::of(knockd).since(&before);
    println!(
        "all ended:     within {:.1} s (their ends are up to 1 s apart), {:.2} s of processor time; \
         whoever asked meanwhile waited at most {:.0} ms",
        took.as_secs_f64(),
        used.seconds,
        deaf.as_secs_f64() * 1e3
    );
}

/// What both processes have used so far.
struct Usage {
    seconds: f64,
    /// How often they have gone to sleep.
    wakes: u64,
    /// KiB.
    resident: u64,
}

impl Usage {
    fn of(knockd: &Knockd) -> Self {
        let mut all = Self { seconds: 0.0, wakes: 0, resident: 0 };
        for pid in knockd.watchers().into_iter().chain([knockd.pid()]) {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
            // utime and stime, in hundredths of a second.
            all.seconds +=
                fields[11..=12].iter().map(|it| it.parse::<f64>().unwrap()).sum::<f64>() / 100.0;
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let number = |name: &str| -> u64 {
                let line = status.lines().find(|line| line.starts_with(name)).unwrap();
                line.split_whitespace().nth(1).unwrap().parse().unwrap()
            };
            all.wakes += number("voluntary_ctxt_switches");
            all.resident += number("VmRSS");
        }
        all
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            seconds: self.seconds - before.seconds,
            wakes: self.wakes - before.wakes,
            resident: self.resident,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads a clock")]
fn now() -> Instant {
    Instant::now()
}
