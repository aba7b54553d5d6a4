//! What 10,000 doors cost: to start with them, in memory, and after many reloads.
//!
//! `knockd` runs in a network namespace with doors of one kind after the other: with commands of
//! their own, of a template, of sets, guarded, and forwarding. `-- 3000 guard` takes another number and some of
//! the kinds. Needs root.

#[path = "../tests/support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros, reason = "what only the tests need")]
mod support;

use std::fmt::Write;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{Host, Knockd, can_make_namespaces, eventually, has_programs};

const RELOADS: usize = 15;
const QUICK: Duration = Duration::from_millis(200);

/// The kinds of doors, and what each says besides its sequence.
const KINDS: [(&str, &str); 5] = [
    ("commands", "start_command: /bin/true %IP% NUMBER, stop_command: /bin/true %IP% NUMBER"),
    ("template", "open: [PORT], via: iptables"),
    ("nft_set", "open: [PORT], via: {nft_set: {table: inet filter, set4: s4, set6: s6}}"),
    ("guard", "open: [PORT]"),
    ("forward", "forward: {on: PORT, to: 198.51.100.7, port: 22}"),
];
const SETS: &str = "table inet filter {
    set s4 { type ipv4_addr; flags timeout; }
    set s6 { type ipv6_addr; flags timeout; }
}";

fn main() {
    if !can_make_namespaces("doors") || !has_programs("doors", &["nft"]) {
        return;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = arguments.iter().find_map(|it| it.parse().ok()).unwrap_or(10_000);
    let named = |kind: &str| arguments.iter().any(|it| it == kind);
    let all = !KINDS.iter().any(|(kind, _)| named(kind));
    for (kind, lines) in KINDS.into_iter().filter(|(kind, _)| all || named(kind)) {
        measure(kind, &configuration(number, lines));
    }
}

/// Three knocks a door, spread over all ports, which repeat from run to run.
fn configuration(number: u32, lines: &str) -> String {
    let mut text =
        "knockd: {interfaces: [lo], run_dir: DIR/run, state_dir: DIR/state, user: nobody}\n\
                    doors:\n"
            .to_owned();
    for door in 0..number {
        let knock = |factor: u32| 1024 + door.wrapping_mul(factor) % 58_000;
        let lines = lines
            .replace("NUMBER", &door.to_string())
            .replace("PORT", &(60_000 + door % 5000).to_string());
        let (one, two, three) = (knock(40_503), knock(17_389), knock(26_881));
        writeln!(text, "  d{door:05}: {{sequence: [{one}, {two}/udp, {three}], {lines}}}").unwrap();
    }
    text
}

fn measure(kind: &str, configuration: &str) {
    let host = Host::new("s");
    let sets = tempfile::NamedTempFile::new().unwrap();
    fs::write(sets.path(), SETS).unwrap();
    host.must("nft", &["-f", sets.path().to_str().unwrap()]);
    let begun = now();
    let knockd = Knockd::start(&host, configuration);
    let started = begun.elapsed();
    thread::sleep(Duration::from_secs(1));
    let (keeper, watchers) = used(&knockd);
    println!(
        "{kind}: started in {:.2} s, {:.1} MiB: {keeper:.1} the keeper, {watchers:.1} the watcher",
        started.as_secs_f64(),
        keeper + watchers
    );
    let begun = now();
    knockd.ask(r#"{"do":"reload"}"#);
    println!("{kind}: reloaded in {:.2} s", begun.elapsed().as_secs_f64());
    for _ in 0..RELOADS {
        knockd.signal(Signal::SIGHUP);
        thread::sleep(QUICK);
    }
    // It has taken up the last one.
    let mut quiet = 0;
    let is_done = || {
        quiet = if knockd.watchers().len() == 1 { quiet + 1 } else { 0 };
        thread::sleep(Duration::from_millis(100));
        quiet > 20
    };
    assert!(eventually(Duration::from_secs(60), is_done), "{:?}", knockd.watchers());
    let (keeper, watchers) = used(&knockd);
    println!(
        "{kind}: after {RELOADS} more, 0.2 s apart, {:.1} MiB: {keeper:.1} and {watchers:.1}",
        keeper + watchers
    );
}

/// The proportional set size of the keeper, and of all watchers, in MiB.
fn used(knockd: &Knockd) -> (f64, f64) {
    let of = |pid: i32| -> f64 {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap_or_default();
        line.split_whitespace().nth(1).map_or(0.0, |kib| kib.parse::<f64>().unwrap() / 1024.0)
    };
    (of(knockd.pid()), knockd.watchers().into_iter().map(of).sum())
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads a clock")]
fn now() -> Instant {
    Instant::now()
}
