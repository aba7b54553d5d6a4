//! What knockd makes of a bad day: signals, suspension, a full disk, a spoilt ledger, a crowd.
//!
//! Needs root; says loudly what it skips where it cannot run.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::mounts::{fill, on_a_small_disk};
use crate::support::usage::{descriptors, resident};
use crate::support::{CLIENT, Knockd, Net, PATIENCE, SERVER, eventually, must, needs};

const BY_COMMANDS: [&str; 3] = ["7000", "8000", "9000"];
const BY_GUARD: [&str; 3] = ["7100", "8100", "9100"];
const SOON: Duration = Duration::from_millis(5);

/// A door with commands, which write down what they do, and a guarded one.
fn configuration(open_for: &str) -> String {
    format!(
        "knockd: {{interfaces: [eth0], run_dir: DIR/run, state_dir: DIR/state, user: nobody}}\n\
         doors:\n\
         \x20 acts:\n\
         \x20   sequence: [7000, 8000, 9000]\n\
         \x20   open_for: {open_for}\n\
         \x20   start_command: echo open >> DIR/acts\n\
         \x20   stop_command: echo close >> DIR/acts\n\
         \x20 ssh: {{sequence: [7100, 8100, 9100], open: [22], open_for: {open_for}}}\n"
    )
}

fn acts(knockd: &Knockd) -> Vec<String> {
    let path = knockd.directory.path().join("acts");
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn knock(net: &Net, ports: &[&str]) {
    net.client.knock_from(CLIENT.parse().unwrap(), SERVER, ports, SOON);
}

/// Opens both doors.
fn open_both(net: &Net, knockd: &Knockd) {
    net.server.listen(22);
    knock(net, &BY_COMMANDS);
    knock(net, &BY_GUARD);
    assert!(eventually(PATIENCE, || acts(knockd) == ["open"]), "{:?}", acts(knockd));
    assert!(eventually(PATIENCE, || net.client.can_connect(SERVER, 22)));
}

fn is_shut(net: &Net) -> bool {
    eventually(PATIENCE, || !net.client.can_connect(SERVER, 22))
}

#[test]
fn whoever_is_opening_or_closing_at_sigterm_is_closed_once_before_it_ends() {
    needs!("sigterm", "nft");
    for (slow, at) in [("start", "running command"), ("stop", "command timeout")] {
        let net = Net::new();
        let command = format!("{slow}_command: ");
        let slow = configuration("1s").replace(&command, &format!("{command}sleep 0.5; "));
        let mut knockd = Knockd::start(&net.server, &slow);
        knock(&net, &BY_COMMANDS);
        knockd.wait_for(at);
        knockd.signal(Signal::SIGTERM);
        assert_eq!(knockd.ended().code(), Some(0));
        assert_eq!(acts(&knockd), ["open", "close"], "{at}");
    }
}

#[test]
fn in_a_storm_of_ten_thousand_sighups_doors_open_and_close_and_nothing_grows() {
    needs!("sighup storm", "nft");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &configuration("6s"));
    // What has been read and run once is there already.
    knockd.ask(r#"{"do":"reload"}"#);
    assert!(eventually(PATIENCE, || knockd.watchers().len() == 1));
    let open_before = descriptors(knockd.pid());
    open_both(&net, &knockd);
    let before = resident(knockd.pid());
    let from = |host: u8| IpAddr::from([192, 0, 2, host]);
    let mut opened = Vec::new();
    for hundred in 0..100 {
        for _ in 0..100 {
            knockd.signal(Signal::SIGHUP);
            thread::sleep(Duration::from_micros(200));
        }
        if hundred % 5 == 0 {
            let host = 10 + hundred / 5;
            net.client.must("ip", &["addr", "add", &format!("{}/24", from(host)), "dev", "eth0"]);
            net.client.knock_from(from(host), SERVER, &BY_GUARD, SOON);
            opened.push(host);
        }
    }
    for host in opened {
        let is_open = || knockd.count(&format!("192.0.2.{host}: ssh: OPEN SESAME")) == 1;
        assert!(eventually(PATIENCE, is_open), "{host}: {}", knockd.log().join("\n"));
    }
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()), "{:?}", knockd.grants());
    assert!(is_shut(&net));
    assert_eq!(acts(&knockd), ["open", "close"]);
    let is_one = || knockd.watchers().len() == 1;
    assert!(eventually(PATIENCE, is_one), "{:?}", knockd.watchers());
    assert_eq!(knockd.count("the watcher ended"), 0, "{}", knockd.log().join("\n"));
    let left = || descriptors(knockd.pid());
    assert!(eventually(PATIENCE, || left() <= open_before), "{open_before} are {}", left());
    let after = resident(knockd.pid());
    assert!(after < before + 4096, "{before} KiB have become {after}");
}

#[test]
fn while_every_watcher_is_killed_others_come_ever_later_and_what_is_open_stays_so_and_ends_in_time()
{
    needs!("watchers killed", "nft");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &configuration("5s"));
    open_both(&net, &knockd);
    let until = AtomicBool::new(false);
    thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut killed = 0;
            while !until.load(Ordering::Relaxed) {
                for watcher in knockd.watchers() {
                    // It may have been killed already.
                    killed += u32::from(kill(Pid::from_raw(watcher), Signal::SIGKILL).is_ok());
                }
                knock(&net, &BY_GUARD);
                thread::sleep(Duration::from_millis(5));
            }
            killed
        });
        thread::sleep(Duration::from_secs(3));
        assert_eq!(acts(&knockd), ["open"]);
        assert!(net.client.can_connect(SERVER, 22), "it takes away what was open");
        assert_eq!(knockd.grants().len(), 2);
        until.store(true, Ordering::Relaxed);
        killer.join().unwrap();
    });
    // 100 ms, 200, 400, ...: few in three seconds.
    let started = knockd.count("another starts in") + knockd.count("could not start");
    assert!((3..10).contains(&started), "{started}: {}", knockd.log().join("\n"));
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()), "{:?}", knockd.grants());
    assert!(is_shut(&net));
    assert_eq!(acts(&knockd), ["open", "close"]);
    let heard = eventually(PATIENCE, || {
        knock(&net, &BY_COMMANDS);
        acts(&knockd).len() == 3
    });
    assert!(heard, "{}", knockd.log().join("\n"));
}

#[test]
fn while_it_is_suspended_the_kernel_closes_and_commands_close_as_soon_as_it_goes_on() {
    needs!("suspended", "nft");
    let net = Net::new();
    let knockd = Knockd::start(&net.server, &configuration("2s"));
    open_both(&net, &knockd);
    knockd.signal(Signal::SIGSTOP);
    assert!(is_shut(&net), "the kernel waits for a process that is suspended");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(acts(&knockd), ["open"]);
    knockd.signal(Signal::SIGCONT);
    assert!(eventually(PATIENCE, || acts(&knockd) == ["open", "close"]), "{:?}", acts(&knockd));
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
}

fn in_state_dir(configuration: &str, state_dir: &Path) -> String {
    configuration.replace("DIR/state", state_dir.to_str().unwrap())
}

fn open_by_hand(knockd: &Knockd, door: &str, address: Ipv4Addr) {
    assert!(can_open_by_hand(knockd, door, address));
}

fn can_open_by_hand(knockd: &Knockd, door: &str, address: Ipv4Addr) -> bool {
    let request =
        format!(r#"{{"do":"open","door":"{door}","address":"{address}","seconds":null}}"#);
    knockd.ask(&request).pop().unwrap()["reply"] == "done"
}

#[test]
fn on_a_full_disk_nothing_opens_any_more_and_what_is_open_closes() {
    needs!("full disk", "nft");
    on_a_small_disk("full disk", |disk| {
        let net = Net::new();
        let knockd = Knockd::start(&net.server, &in_state_dir(&configuration("5s"), disk));
        open_both(&net, &knockd);
        let filler = fill(disk);
        // The write-ahead log may have a little room left.
        let refused = "not opened, since it cannot be recorded";
        let mut others = (1..1000).map(|n: u32| Ipv4Addr::from(0x6440_0000 + n));
        while can_open_by_hand(&knockd, "ssh", others.next().expect("the disk is not full")) {}
        knockd.wait_for(refused);
        let before = acts(&knockd).len();
        for address in others.by_ref().take(20) {
            let opened = ["acts", "ssh"].map(|door| can_open_by_hand(&knockd, door, address));
            assert_eq!(opened, [false; 2], "{}", knockd.log().join("\n"));
        }
        let late: Vec<_> = others.by_ref().take(1).collect();
        assert!(!can_open_by_hand(&knockd, "ssh", late[0]));
        assert!(knockd.grants().iter().all(|grant| grant["address"] != late[0].to_string()));
        assert!(is_shut(&net), "what was open stays open");
        knockd.wait_for("192.0.2.2: acts: command timeout");
        assert!(eventually(PATIENCE, || knockd.grants().is_empty()), "{:?}", knockd.grants());
        assert_eq!(acts(&knockd)[before..], ["close"], "a command ran that is not recorded");
        assert_eq!(knockd.count("what is open still closes"), 1, "it says so once");
        let opened = knockd.count("closed at once, since it cannot be recorded");
        assert!(opened <= 1, "what cannot be recorded opens for a moment, {opened} times");
        fs::remove_file(filler).unwrap();
        knock(&net, &BY_GUARD);
        knockd.wait_for_count("192.0.2.2: ssh: OPEN SESAME", 2);
        assert!(net.client.can_connect(SERVER, 22), "{}", knockd.log().join("\n"));
        knockd.wait_for("the ledger can be written again");
        drop(knockd);
    });
}

#[test]
fn on_a_full_disk_it_does_not_start_and_says_what_it_could_not_write() {
    needs!("full disk at start", "nft");
    on_a_small_disk("full disk at start", |disk| {
        let net = Net::new();
        fill(disk);
        for (directory, file) in [("DIR/state", "ledger"), ("DIR/run", "knockd.pid")] {
            let configuration = configuration("1s").replace(directory, disk.to_str().unwrap());
            let mut knockd = Knockd::spawn(&net.server, &configuration, &[]);
            assert_eq!(knockd.ended().code(), Some(1));
            let said = knockd.log().join("\n");
            assert!(said.contains(disk.join(file).to_str().unwrap()), "{said}");
            assert!(said.to_lowercase().contains("no space left"), "{said}");
        }
    });
}

#[test]
fn where_the_run_directory_and_the_log_are_on_a_full_disk_everything_else_goes_on() {
    needs!("full disk for the log", "nft");
    on_a_small_disk("full disk for the log", |disk| {
        let net = Net::new();
        let path = disk.to_str().unwrap();
        let configuration = configuration("1s")
            .replace("DIR/run", path)
            .replace("user: nobody", &format!("user: nobody, log: {{file: {path}/log}}"));
        let knockd = Knockd::start(&net.server, &configuration);
        let log = disk.join("log");
        // The last page that it takes has room for a line or two.
        let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
        let taken = file.metadata().unwrap().len() as usize;
        let left = (taken + 300).next_multiple_of(4096) - taken;
        file.write_all(format!("[{}] \n", "x".repeat(left - 200)).as_bytes()).unwrap();
        let filler = fill(disk);
        open_both(&net, &knockd);
        knockd.signal(Signal::SIGHUP);
        assert!(is_shut(&net));
        assert!(eventually(PATIENCE, || acts(&knockd) == ["open", "close"]));
        fs::remove_file(filler).unwrap();
        knock(&net, &BY_GUARD);
        knockd.wait_for_count("192.0.2.2: ssh: OPEN SESAME", 2);
        let text = || fs::read_to_string(&log).unwrap();
        assert!(eventually(PATIENCE, || text().contains("ssh: OPEN SESAME")), "{}", text());
        assert!(text().contains(" log lines could not be written here"), "{}", text());
        let is_whole = |line: &str| line.starts_with('[') && line.matches("] ").count() == 1;
        assert!(text().lines().all(is_whole), "{}", text());
        let (status, _) = knockd.stop();
        assert_eq!(status.code(), Some(0));
    });
}

#[test]
fn a_state_directory_that_cannot_be_written_is_an_error_at_start() {
    needs!("read-only state_dir", "nft");
    on_a_small_disk("read-only state_dir", |disk| {
        let net = Net::new();
        must("mount", &["-o", "remount,ro", disk.to_str().unwrap()]);
        let configuration = in_state_dir(&configuration("1s"), disk);
        let mut knockd = Knockd::spawn(&net.server, &configuration, &[]);
        assert_eq!(knockd.ended().code(), Some(1));
        let said = knockd.log().join("\n");
        assert!(said.contains("Read-only file system"), "{said}");
        assert!(said.contains(disk.to_str().unwrap()), "{said}");
    });
}

#[test]
fn a_corrupt_ledger_is_set_aside_and_knockd_starts_without_it() {
    needs!("corrupt ledger", "nft");
    let net = Net::new();
    let mut knockd = Knockd::start(&net.server, &configuration("2s"));
    knockd.signal(Signal::SIGTERM);
    knockd.ended();
    let state = knockd.directory.path().join("state");
    let garbage = [0x5a; 20_000];
    fs::write(state.join("ledger.db"), garbage).unwrap();
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for("the ledger was corrupt");
    knockd.wait_for("starting up");
    let kept = fs::read_dir(&state).unwrap().filter(|entry| {
        fs::read(entry.as_ref().unwrap().path()).is_ok_and(|bytes| bytes == garbage)
    });
    assert_eq!(kept.count(), 1, "what was there is kept under another name");
    open_both(&net, &knockd);
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
    assert_eq!(acts(&knockd), ["open", "close"]);
}

#[test]
fn a_door_that_a_reload_takes_away_is_closed_by_the_command_it_was_opened_with() {
    needs!("door gone", "nft");
    let net = Net::new();
    let before = configuration("3s");
    for after in [
        before.replace("  acts:", "  renamed:"),
        before.replace("echo close", "echo another close"),
    ] {
        let knockd = Knockd::start(&net.server, &before);
        knock(&net, &BY_COMMANDS);
        assert!(eventually(PATIENCE, || acts(&knockd) == ["open"]));
        knockd.configure(&after);
        knockd.signal(Signal::SIGHUP);
        knockd.wait_for("192.0.2.2: acts: command timeout");
        assert!(eventually(PATIENCE, || acts(&knockd) == ["open", "close"]), "{:?}", acts(&knockd));
        assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
    }
}

#[test]
fn a_door_that_is_gone_after_a_crash_is_closed_all_the_same() {
    needs!("door gone after a crash", "nft");
    let net = Net::new();
    let mut knockd = Knockd::start(&net.server, &configuration("1h"));
    open_both(&net, &knockd);
    knockd.signal(Signal::SIGKILL);
    knockd.ended();
    knockd.configure(&configuration("1h").replace("  ssh:", "  other:"));
    let knockd = knockd.start_again(&net.server);
    knockd.wait_for("starting up");
    assert!(is_shut(&net), "a door that is no more is open");
    let grants = knockd.grants();
    assert!(grants.iter().all(|grant| grant["door"] != "ssh"), "{grants:?}");
}

#[test]
fn ten_thousand_grants_are_open_at_once_and_all_of_them_close() {
    needs!("ten thousand", "nft");
    let net = Net::new();
    net.server.listen(22);
    let knockd = Knockd::start(&net.server, &configuration("1h"));
    for number in 0..10_000 {
        open_by_hand(&knockd, "ssh", Ipv4Addr::from(0x6440_0000 + number));
    }
    assert_eq!(knockd.grants().len(), 10_000);
    knock(&net, &BY_GUARD);
    assert!(eventually(PATIENCE, || net.client.can_connect(SERVER, 22)));
    assert_eq!(knockd.grants().len(), 10_001);
    let answer = knockd.ask(r#"{"do":"close_all"}"#);
    assert_eq!(answer[0]["reply"], "done", "{answer:?}");
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()));
    assert!(is_shut(&net));
    let table = net.server.must("nft", &["list", "table", "inet", "knockd"]);
    assert!(!table.contains("expires"), "an element is left");
}

#[test]
fn a_calendar_that_is_set_by_hours_ends_no_grant_early_or_late() {
    needs!("calendar", "nft");
    for hours in [5, -5] {
        let net = Net::new();
        let calendar = tempfile::NamedTempFile::new().unwrap();
        let environment = [("KNOCKD_CALENDAR", calendar.path().to_str().unwrap())];
        let knockd = Knockd::spawn_in(&net.server, &configuration("6s"), &[], &environment);
        knockd.wait_for("starting up");
        open_both(&net, &knockd);
        fs::write(calendar.path(), (hours * 3600).to_string()).unwrap();
        for grant in knockd.grants() {
            let left = grant["seconds_left"].as_f64().unwrap();
            assert!(left > 0.0 && left <= 6.0, "{hours}: {grant}");
        }
        thread::sleep(Duration::from_secs(1));
        assert_eq!(knockd.grants().len(), 2, "{hours}: it ended early");
        let ended = eventually(Duration::from_secs(10), || knockd.grants().is_empty());
        assert!(ended, "{hours}: it ends late");
        assert_eq!(acts(&knockd), ["open", "close"]);
        assert!(!net.client.can_connect(SERVER, 22), "{hours}: the guarded port stays open");
        // The calendar was set indeed, as the history tells.
        let told = knockd.ask(r#"{"do":"history","door":"ssh"}"#);
        let time = |place: usize| told[place]["time"].as_f64().unwrap();
        let apart = time(1) - time(0) - f64::from(hours) * 3600.0;
        assert!((0.0..60.0).contains(&apart), "{hours}: {told:?}");
        knock(&net, &BY_GUARD);
        assert!(eventually(PATIENCE, || knockd.grants().len() == 1), "{hours}: deaf");
    }
}
