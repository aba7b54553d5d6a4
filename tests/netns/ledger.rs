//! The ledger against the real things: killed processes, full disks, read-only file systems.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Write};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use libknock::config::Rendered;
use libknock::grants::{
    CommandPair, GrantBackend, GrantChange, GrantId, GrantKey, GrantRecord, GrantState, Origin,
};
use libknock::ledger::{Durability, Ledger, LedgerError, OpenLedger, Proof, Written};
use libknock::proto::secret::Secret;
use libknock::time::{BootId, Monotonic, Wall};
use nix::sched::{CloneFlags, unshare};

use crate::support::{command, must, skipped};

const NOW: Wall = Wall::from_nanos(1_795_344_888_000_000_000);

fn record(id: u64) -> GrantRecord {
    let command = |text: &str| Rendered { argv: vec![text.to_owned()], environment: Vec::new() };
    GrantRecord {
        ceiling: None,
        id: GrantId(id),
        key: GrantKey::new(
            "ssh".parse().unwrap(),
            IpAddr::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(id))),
        ),
        origin: Origin::KNOCKCTL,
        state: GrantState::Open,
        boot: BootId::default(),
        deadline: Monotonic::ZERO,
        since: NOW,
        until: NOW,
        backend: GrantBackend::Commands(vec![CommandPair {
            open: command("open"),
            close: Some(command("close")),
            verify: None,
            is_timed: false,
        }]),
    }
}

fn proof(id: u64) -> Proof {
    let bytes = Secret::new(id.to_be_bytes().to_vec());
    Proof::Once { door: "ssh".parse().unwrap(), client: None, kind: "totp", bytes, until: None }
}

fn open(directory: &Path) -> OpenLedger {
    Ledger::open(directory, NOW).unwrap()
}

/// This test binary anew, as a process that has the ledger in `directory` open and writes records
/// from `first` on; and what it reports, a number a line.
fn start_writer(directory: &Path, first: u64) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = command(std::env::current_exe().unwrap().to_str().unwrap())
        .args(["ledger::writer", "--exact", "--ignored", "--nocapture"])
        .env("LEDGER", directory)
        .env("FIRST", first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while lines.next().expect("the writer has ended").unwrap() != "ready" {}
    (child, lines)
}

/// Not a test: what `start_writer` runs.
#[test]
#[ignore = "a part of other tests, which run it as a process of its own"]
fn writer() {
    let Some(directory) = std::env::var_os("LEDGER") else { return };
    let first: u64 = std::env::var("FIRST").unwrap().parse().unwrap();
    let mut ledger = open(Path::new(&directory)).ledger;
    let mut out = std::io::stdout();
    writeln!(out, "\nready").unwrap();
    for id in first.. {
        let flush = if id % 64 == 63 { Durability::PowerLoss } else { Durability::Crash };
        assert_eq!(
            ledger.write(&[GrantChange::Record(record(id))], Some(&proof(id)), flush).unwrap(),
            Written::New
        );
        if writeln!(out, "{id}").is_err() {
            return;
        }
    }
}

#[test]
fn what_was_committed_survives_a_killed_process_and_what_was_not_does_not() {
    const ROUNDS: u64 = 200;
    let directory = tempfile::tempdir().unwrap();
    let mut kept: HashSet<u64> = HashSet::new();
    let mut written = 0;
    for round in 0..ROUNDS {
        let first = round * 1_000_000;
        let (mut writer, lines) = start_writer(directory.path(), first);
        thread::sleep(Duration::from_micros(round * 7919 % 20_000));
        writer.kill().unwrap();
        let reported = lines.map_while(Result::ok).filter_map(|line| line.parse().ok()).last();
        writer.wait().unwrap();

        let OpenLedger { mut ledger, records, set_aside } = open(directory.path());
        assert_eq!(set_aside, None);
        let found: HashSet<u64> = records.iter().map(|record| record.id.0).collect();
        // The one that was being written may be there or not; nothing else may.
        let next = reported.map_or(first, |last: u64| last + 1);
        kept.extend(first..next);
        written += next - first;
        if found.contains(&next) {
            kept.insert(next);
        }
        assert_eq!(found, kept, "round {round}, reported {reported:?}");
        // Grant and proof are one step.
        let used =
            ledger.write(&[], Some(&proof(next)), Durability::Crash).unwrap() == Written::Used;
        assert_eq!(used, found.contains(&next), "round {round}");
        // Few are kept, or reading them would take most of the time.
        if round % 20 == 0 {
            for id in kept.drain() {
                ledger.forget(GrantId(id)).unwrap();
            }
        }
    }
    assert!(written > ROUNDS, "the writers were killed before they wrote: {written}");
}

#[test]
fn a_second_process_is_refused_and_told_about_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let (mut writer, _lines) = start_writer(directory.path(), 0);
    let error = Ledger::open(directory.path(), NOW).unwrap_err();
    assert!(matches!(error, LedgerError::InUse { .. }), "{error:?}");
    let expected = format!("process {}", writer.id());
    assert!(error.to_string().contains(&expected), "{error}");
    writer.kill().unwrap();
    writer.wait().unwrap();
    let _ = open(directory.path());
}

/// Runs a function with a file system of its own, of so many KiB, that nobody else sees.
fn on_a_small_disk(test: &str, size: u32, function: impl FnOnce(&Path) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        return skipped(test, "needs root, to mount a file system");
    }
    let mount = move || {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        must("mount", &["--make-rprivate", "/"]);
        must(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={size}k,mode=0700"), "knock-test", path],
        );
        function(directory.path());
        must("umount", &[path]);
    };
    // The namespace is the thread's, and goes with it.
    let thread = thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNS) {
        Ok(()) => {
            mount();
            true
        }
        Err(_) => false,
    });
    match thread.join() {
        Ok(true) => {}
        Ok(false) => skipped(test, "this machine does not let root make a mount namespace"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Writes until nothing more fits.
fn fill(directory: &Path) {
    let mut file = File::create(directory.join("filler")).unwrap();
    while file.write_all(&[b'x'; 512]).is_ok() {}
}

#[test]
fn on_a_full_disk_nothing_is_recorded_and_nothing_is_lost() {
    on_a_small_disk("a_full_disk", 512, |directory| {
        let mut ledger = open(directory).ledger;
        assert_eq!(
            ledger.write(&[GrantChange::Record(record(1))], None, Durability::PowerLoss).unwrap(),
            Written::New
        );
        fill(directory);
        // The write-ahead log may have a little room left.
        let mut written = vec![record(1)];
        let error = loop {
            let next = record(written.len() as u64 + 1);
            match ledger.write(
                &[GrantChange::Record(next.clone())],
                Some(&proof(next.id.0)),
                Durability::PowerLoss,
            ) {
                Ok(_) => written.push(next),
                Err(error) => break error,
            }
            assert!(written.len() < 1000, "the disk is not full");
        };
        assert!(error.to_string().contains("no space left"), "{error}");

        // What is open can still be learnt after a restart, so that it can be closed.
        drop(ledger);
        let OpenLedger { mut ledger, records, set_aside } = open(directory);
        assert_eq!((records, set_aside), (written.clone(), None));

        fs::remove_file(directory.join("filler")).unwrap();
        let next = record(written.len() as u64 + 1);
        let recorded = ledger
            .write(
                &[GrantChange::Record(next.clone())],
                Some(&proof(next.id.0)),
                Durability::PowerLoss,
            )
            .unwrap();
        assert_eq!(recorded, Written::New, "the proof was not used up in vain");
    });
}

#[test]
fn a_disk_that_is_full_from_the_start_is_an_error_that_says_so() {
    on_a_small_disk("a_disk_full_from_the_start", 64, |directory| {
        fill(directory);
        let error = Ledger::open(directory, NOW).unwrap_err();
        let text = error.to_string().to_lowercase();
        assert!(text.contains("no space left"), "{error:?}");
    });
}

#[test]
fn a_read_only_file_system_is_an_error_that_says_so() {
    on_a_small_disk("a_read_only_file_system", 512, |directory| {
        drop(open(directory));
        must("mount", &["-o", "remount,ro", directory.to_str().unwrap()]);
        let error = Ledger::open(directory, NOW).unwrap_err();
        assert!(error.to_string().contains("Read-only file system"), "{error:?}");
        assert!(error.to_string().contains(directory.to_str().unwrap()), "{error}");
    });
}

#[test]
fn a_directory_that_does_not_exist_is_an_error_that_names_it() {
    let error = Ledger::open(Path::new("/nowhere/at/all"), NOW).unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all/lock"), "{error}");
}
