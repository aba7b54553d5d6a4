//! Floods of a taken-over watcher: what they leave on the disk, and who gets through meanwhile.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{acts, exists, make, opens_to_the_truth, run};
use crate::support::{Host, Knockd, PATIENCE, eventually, needs};

/// The longest of so many answers to whoever asks for the status and opens a door by hand.
fn longest_answer(knockd: &Knockd, asked: u8) -> Duration {
    let mut longest = Duration::ZERO;
    for number in 1..=asked {
        let begun = now();
        assert_eq!(knockd.ask(r#"{"do":"status"}"#)[0]["reply"], "status");
        let open = format!(
            r#"{{"do":"open","door":"guarded","address":"198.51.100.{number}","seconds":1}}"#
        );
        assert_eq!(knockd.ask(&open).pop().unwrap()["reply"], "done");
        longest = longest.max(begun.elapsed() / 2);
        thread::sleep(Duration::from_millis(20));
    }
    longest
}

#[expect(clippy::disallowed_methods, reason = "how long a flood lasts bounds what it leaves")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn a_flood_of_words_is_not_a_flood_of_lines() {
    needs!("flood of words");
    let host = Host::new("server");
    let knockd = run(&host, "words");
    let begun = now();
    opens_to_the_truth(&knockd);
    let history = knockd.ask(r#"{"do":"history"}"#).len();
    assert!(history < 100, "{history} entries");
    // It sent 90,000; a thousand may come at once, then 200 a second.
    let most = 1_500 + 200 * (begun.elapsed() + PATIENCE).as_secs() as usize;
    assert!(knockd.log().len() < most, "{} lines", knockd.log().len());
    assert_eq!(knockd.count("is ended"), 0);
}

#[test]
fn a_flood_of_claims_fills_no_disk_uses_no_list_up_and_keeps_nobody_waiting() {
    needs!("flood of claims");
    let host = Host::new("server");
    let mut knockd = run(&host, "opens");
    let begun = now();
    knockd.wait_for("starting up, listening on");
    let longest = longest_answer(&knockd, 100);
    make(&knockd, "enough");
    assert!(eventually(PATIENCE, || exists(&knockd, "said")));
    let seconds = begun.elapsed().as_secs() as usize + 1;
    let said = fs::read_to_string(knockd.directory.path().join("said")).unwrap();
    // What was opened by hand closes, and so does what was asked for.
    assert!(eventually(PATIENCE, || knockd.grants().is_empty()), "{:?}", knockd.grants());
    let state = knockd.directory.path().join("state");
    let once = acts(&knockd).lines().filter(|line| line.starts_with("once")).count();
    assert!((1..=11).contains(&once), "{once} lines of the list");
    let left = fs::read_to_string(knockd.directory.path().join("once")).unwrap();
    let left = left.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(left, 30 - once);
    assert_eq!(knockd.count("is ended"), 0);
    let lines = knockd.log().len();
    knockd.signal(Signal::SIGTERM);
    assert_eq!(knockd.ended().code(), Some(0));
    let ledger = rusqlite::Connection::open(state.join("ledger.db")).unwrap();
    let rows = |of: &str| -> usize {
        let count = format!("SELECT count(*) FROM {of}");
        ledger.query_row(&count, [], |row| row.get::<_, u32>(0)).unwrap() as usize
    };
    let size: u64 =
        fs::read_dir(&state).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    let (proofs, history) = (rows("proofs"), rows("history"));
    let digests = rows("proofs WHERE kind = 'fwknop'");
    eprintln!(
        "{said} frames in {seconds} s: {proofs} proofs ({digests} digests), {history} rows, {size} bytes, \
         {lines} lines, the longest answer after {longest:?}"
    );
    // Three doors with a rate of 50 a second after the first thousand, fwknop's with 20; the codes
    // hold in few steps, and of the list ten lines at once and one a minute.
    let claims = 4_000 + 170 * seconds;
    assert!(digests <= 1_000 + 20 * seconds, "{digests} digests");
    assert!(proofs <= digests + 10 + 2 * seconds + 11, "{proofs} proofs");
    // Each opens and closes.
    assert!(history <= 2 * claims + 1_000, "{history} rows");
    assert!(size <= 400 * (proofs + history) as u64 + (8 << 20), "{size} bytes");
    // A thousand of its words and 200 a second; of each of five doors a thousand things and 20 a
    // second, of up to three lines each, and what the commands do.
    let most = 1_000 + 200 * seconds + 5 * 3 * (1_000 + 20 * seconds) + claims;
    assert!(lines <= most, "{lines} lines");
}

#[test]
fn whatever_is_written_to_standard_error_without_end_keeps_nobody_waiting() {
    needs!("flood of standard error");
    for what in ["lines", "newlines", "bytes"] {
        let host = Host::new("server");
        let knockd = run(&host, &format!("stderr {what}"));
        let begun = now();
        opens_to_the_truth(&knockd);
        let longest = longest_answer(&knockd, 20);
        let lines = knockd.count("watcher: ");
        let seconds = begun.elapsed().as_secs() as usize + 1;
        eprintln!("{what}: {lines} lines in {seconds} s, the longest answer after {longest:?}");
        assert!(lines <= 20 + seconds, "{what}: {lines} lines in {seconds} s");
    }
}
