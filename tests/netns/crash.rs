//! What is left when knockd is killed: at every step of a grant's life, and at any moment.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use libknock::ledger::Ledger;
use libknock::time::Wall;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{CLIENT, Host, Knockd, Net, PATIENCE, SERVER, eventually, needs};

const BY_COMMANDS: [&str; 3] = ["7000", "8000", "9000"];
const BY_GUARD: [&str; 3] = ["7100", "8100", "9100"];
const SOON: Duration = Duration::from_millis(5);

/// A door with commands, which write down what they do, and a guarded one.
fn configuration(open_for: &str, open: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
         doors:\n\
         \x20 acts:\n\
         \x20   sequence: [7000, 8000, 9000]\n\
         \x20   open_for: {open_for}\n\
         \x20   start_command: \"{open}\"\n\
         \x20   stop_command: echo close %IP% >> DIR/acts\n\
         \x20 ssh: {{sequence: [7100, 8100, 9100], open: [22], open_for: {open_for}}}\n"
    )
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn knock(net: &Net, ports: &[&str]) {
    net.client.knock_from(CLIENT.parse().unwrap(), SERVER, ports, SOON);
}

/// Everything has been closed, and nothing is left in the ledger.
fn nothing_is_left(mut knockd: Knockd) {
    let ended = eventually(PATIENCE, || knockd.grants().is_empty());
    assert!(ended, "{:?}", knockd.grants());
    knockd.signal(Signal::SIGTERM);
    assert_eq!(knockd.ended().code(), Some(0));
    let opened = Ledger::open(&knockd.directory.path().join("state"), Wall::ZERO).unwrap();
    assert_eq!(opened.set_aside, None);
    assert_eq!(opened.records, []);
}

/// When a new keeper takes over.
#[derive(Clone, Copy, Debug)]
enum Again {
    /// While what the commands have started is still at work.
    AtOnce,
    AfterTheDeadline,
}

/// Starts a keeper that dies at a step of the grant that this knock makes, and another after it.
fn dies_at(net: &Net, step: &str, ports: &[&str], open: &str, again: Again) -> Knockd {
    let environment = [("KNOCKD_DIE_AT", step)];
    let configuration = configuration("1s", open);
    let mut knockd = Knockd::spawn_in(&net.server, &configuration, &[], &environment);
    knockd.wait_for("starting up");
    knock(net, ports);
    let status = knockd.ended();
    assert_eq!(status.code(), None, "it was to die at {step:?}:\n{}", knockd.log().join("\n"));
    if matches!(again, Again::AfterTheDeadline) {
        thread::sleep(Duration::from_millis(1200));
        let shut = eventually(PATIENCE, || !net.client.can_connect(SERVER, 22));
        assert!(shut, "{step}: the guarded port is open after its time, with nobody alive");
    }
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for("starting up");
    knockd
}

fn at_each(steps: &[&'static str], test: fn(&'static str, Again)) {
    let tests: Vec<_> = steps
        .iter()
        .flat_map(|&step| [(step, Again::AtOnce), (step, Again::AfterTheDeadline)])
        .map(|(step, again)| thread::spawn(move || test(step, again)))
        .collect();
    // All of them clean up before one fails the test.
    let ended: Vec<_> = tests.into_iter().map(thread::JoinHandle::join).collect();
    assert!(ended.iter().all(Result::is_ok));
}

#[test]
fn whenever_it_dies_commands_open_at_most_once_and_close_at_least_once() {
    needs!("crash commands", "nft");
    let steps = [
        "requested",
        "recorded",
        "started",
        "opened",
        "open",
        "expired",
        "closing",
        "close started",
        "close ended",
        "closed",
    ];
    at_each(&steps, |step, again| {
        let net = Net::new();
        // What it starts opens once more, unless it is ended with a command that had not ended.
        let open = "echo open >> DIR/acts; (sleep 0.4; echo late >> DIR/acts) &";
        let knockd = dies_at(&net, step, &BY_COMMANDS, open, again);
        let acts = knockd.directory.path().join("acts");
        assert!(eventually(PATIENCE, || knockd.grants().is_empty()), "{step}: still open");
        thread::sleep(Duration::from_millis(600));
        let acts = lines(&acts);
        let count = |act: &str| acts.iter().filter(|line| line.starts_with(act)).count();
        let (opens, closes, late) = (count("open"), count("close"), count("late"));
        let said = format!("{step:?}, {again:?}: {acts:?}");
        assert!(opens <= 1, "{said}");
        assert!((opens..=opens + 1).contains(&closes), "{said}");
        let last = acts.iter().rfind(|line| *line != "late");
        assert!(last.is_none_or(|last| last.starts_with("close")), "{said}");
        let has_ended = !["requested", "recorded", "started"].contains(&step);
        assert!(opens == 1 || !has_ended, "{said}");
        let last_is_late = acts.last().is_some_and(|last| last == "late");
        assert!(if has_ended { late == 1 } else { !last_is_late }, "{said}");
        nothing_is_left(knockd);
    });
}

#[test]
fn whenever_it_dies_a_guarded_port_is_shut_in_time_and_nothing_is_forgotten() {
    needs!("crash guard", "nft");
    at_each(&["requested", "set", "open", "expired", "closed"], |step, again| {
        let net = Net::new();
        net.server.listen(22);
        let knockd = dies_at(&net, step, &BY_GUARD, "true", again);
        assert!(eventually(PATIENCE, || !net.client.can_connect(SERVER, 22)), "{step}: open");
        assert!(eventually(PATIENCE, || knockd.grants().is_empty()), "{step}: still open");
        knock(&net, &BY_GUARD);
        let opens = eventually(PATIENCE, || net.client.can_connect(SERVER, 22));
        assert!(opens, "{step}: it does not open any more");
        nothing_is_left(knockd);
    });
}

#[test]
fn what_a_command_that_has_ended_left_running_outlives_knockd_and_a_mark_means_nothing() {
    needs!("crash service", "nft");
    let net = Net::new();
    let open = "sleep 1000 & echo $! > DIR/service; echo open >> DIR/acts";
    let knockd = Knockd::start(&net.server, &configuration("20s", open));
    let directory = knockd.directory.path().to_owned();
    knock(&net, &BY_COMMANDS);
    assert!(eventually(PATIENCE, || knockd.grants().iter().any(|grant| grant["state"] == "open")));
    let mut marked = crate::support::command("sleep");
    let marked = marked.arg("1000").env("KNOCKD_STATE_DIR", directory.join("state"));
    let mut marked = marked.spawn().unwrap();
    let service = fs::read_to_string(directory.join("service")).unwrap();
    let service = Pid::from_raw(service.trim().parse().unwrap());
    let mut knockd = knockd;
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for("starting up");
    let alive = (kill(service, None), marked.try_wait().unwrap());
    kill(service, Signal::SIGKILL).unwrap();
    marked.kill().unwrap();
    marked.wait().unwrap();
    assert_eq!(alive, (Ok(()), None));
    assert_eq!(knockd.count("processes of commands"), 0);
}

/// The same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn wait(&mut self, most: u64) {
        thread::sleep(Duration::from_millis(self.below(most)));
    }
}

/// Kills the keeper, a watcher or both, now. Whether the keeper is dead.
fn strike(knockd: &mut Knockd, dice: &mut Dice) -> bool {
    let blow = dice.below(3);
    if blow > 0 {
        for watcher in knockd.watchers() {
            // It may be gone already.
            let _ = kill(Pid::from_raw(watcher), Signal::SIGKILL);
        }
    }
    if blow == 1 {
        return false;
    }
    if blow == 2 {
        dice.wait(20);
    }
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    true
}

/// Starts the next keeper after one that has died in the middle of its work.
fn after_crash(knockd: Knockd, net: &Net, dice: &mut Dice) -> Knockd {
    let acts = knockd.directory.path().join("acts");
    let mut file = OpenOptions::new().create(true).append(true).open(acts).unwrap();
    file.write_all(b"crash\n").unwrap();
    dice.wait(150);
    knockd.start_again(&net.server)
}

/// Waits until it has started. One whose first watcher is killed does not, and says so.
fn up(mut knockd: Knockd, net: &Net, dice: &mut Dice) -> Knockd {
    loop {
        let over = eventually(PATIENCE, || {
            knockd.count("starting up") + knockd.count("no watcher could start") > 0
        });
        assert!(over, "it does not start:\n{}", knockd.log().join("\n"));
        if knockd.count("starting up") > 0 {
            return knockd;
        }
        knockd.ended();
        knockd = after_crash(knockd, net, dice);
    }
}

fn source(round: usize) -> IpAddr {
    IpAddr::from([198, 51, 100, u8::try_from(round).unwrap()])
}

/// Knocks at both doors in each round, from another address, and strikes at some moment.
fn rounds(seed: u64, rounds: usize) {
    let mut dice = Dice(seed);
    let net = Net::new();
    net.server.listen(22);
    net.client.must("ip", &["route", "add", "local", "198.51.100.0/24", "dev", "lo"]);
    net.server.must("ip", &["route", "add", "198.51.100.0/24", "via", CLIENT]);
    let configuration = configuration("1s", "echo open %IP% >> DIR/acts");
    let mut knockd = Knockd::start(&net.server, &configuration);
    let acts = knockd.directory.path().join("acts");
    for round in 0..rounds {
        let client = Host { name: net.client.name.clone() };
        let knocking = thread::spawn(move || {
            client.knock_from(source(round), SERVER, &BY_COMMANDS, Duration::from_millis(2));
            client.knock_from(source(round), SERVER, &BY_GUARD, Duration::from_millis(2));
            // It is not this thread's to remove.
            std::mem::forget(client);
        });
        dice.wait(500);
        if strike(&mut knockd, &mut dice) {
            knockd = after_crash(knockd, &net, &mut dice);
        }
        knocking.join().unwrap();
        // Sometimes it is struck while it starts.
        if dice.below(4) > 0 {
            knockd = up(knockd, &net, &mut dice);
        }
    }
    let knockd = up(knockd, &net, &mut dice);
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()), "{:?}", knockd.grants());
    let table = net.server.must("nft", &["list", "table", "inet", "knockd"]);
    assert!(!table.contains("expires"), "seed {seed}: {table}");
    let acts = lines(&acts);
    let mut opened = 0;
    for round in 0..rounds {
        let address = source(round).to_string();
        let is_of = |line: &&String| line.split(' ').nth(1) == Some(address.as_str());
        let Some(first) = acts.iter().position(|line| is_of(&line)) else { continue };
        let last = acts.iter().rposition(|line| is_of(&line)).unwrap();
        let life = &acts[first..=last];
        let count =
            |act: &str| life.iter().filter(|line| is_of(line) && line.starts_with(act)).count();
        let crashes = life.iter().filter(|line| *line == "crash").count();
        let said = format!("seed {seed}: {address}: {life:#?}");
        opened += count("open");
        assert!(count("open") <= 1, "opened twice, {said}");
        assert!(life.last().unwrap().starts_with("close"), "not closed at last, {said}");
        assert!(count("close") <= 1 + crashes, "closed too often, {said}");
    }
    assert!(opened >= rounds / 4, "seed {seed}: only {opened} grants were opened");
    nothing_is_left(knockd);
}

#[test]
fn at_whatever_moment_it_is_killed_nothing_stays_open_and_nothing_opens_twice() {
    needs!("crash at random", "nft");
    let all: Vec<_> = (1..=6).map(|seed| thread::spawn(move || rounds(seed, 40))).collect();
    let ended: Vec<_> = all.into_iter().map(thread::JoinHandle::join).collect();
    assert!(ended.iter().all(Result::is_ok));
}
