//! What a write to the ledger costs. On the disk that holds `TMPDIR`: `cargo bench --bench ledger`.

use std::net::{IpAddr, Ipv4Addr};

use divan::Bencher;
use libknock::config::Rendered;
use libknock::grants::{
    CommandPair, GrantBackend, GrantChange, GrantId, GrantKey, GrantRecord, GrantState, OpenedBy,
};
use libknock::ledger::{Durability, HistoryEntry, HistoryEvent, Ledger, OpenLedger, Proof, Query};
use libknock::proto::method::Method;
use libknock::proto::secret::Secret;
use libknock::time::{BootId, Monotonic, Wall};
use tempfile::TempDir;

fn main() {
    divan::main();
}

fn record(id: u64) -> GrantRecord {
    let argv = "/usr/sbin/iptables -I INPUT -s 192.0.2.2 -p tcp --dport 22 -j ACCEPT";
    let command = || Rendered {
        argv: argv.split(' ').map(str::to_owned).collect(),
        environment: vec![("KNOCK_IP".to_owned(), "192.0.2.2".to_owned())],
    };
    GrantRecord {
        ceiling: None,
        id: GrantId(id),
        key: GrantKey::new(
            "ssh".parse().unwrap(),
            IpAddr::V4(Ipv4Addr::from(u32::try_from(id).unwrap())),
        ),
        origin: Method::Sequence.into(),
        state: GrantState::Starting,
        boot: BootId::default(),
        deadline: Monotonic::ZERO,
        since: Wall::ZERO,
        until: Wall::ZERO,
        backend: GrantBackend::Commands(vec![CommandPair {
            open: command(),
            close: Some(command()),
            verify: None,
            is_timed: false,
        }]),
    }
}

fn entry() -> HistoryEntry {
    HistoryEntry {
        at: Wall::ZERO,
        door: Some("ssh".parse().unwrap()),
        network: Some(IpAddr::V4(Ipv4Addr::LOCALHOST).into()),
        client: None,
        by: Some(OpenedBy::Method(Method::Sequence)),
        event: HistoryEvent::Open,
        detail: String::new(),
    }
}

fn proof(id: u64) -> Proof {
    let bytes = Secret::new(id.to_be_bytes().to_vec());
    Proof::Once { door: "ssh".parse().unwrap(), client: None, kind: "totp", bytes, until: None }
}

fn open() -> (TempDir, Ledger) {
    let directory = tempfile::tempdir().unwrap();
    let OpenLedger { ledger, .. } = Ledger::open(directory.path(), Wall::ZERO).unwrap();
    (directory, ledger)
}

#[divan::bench(args = [Durability::Crash, Durability::PowerLoss])]
fn record_a_grant(bencher: Bencher, flush: Durability) {
    let (_directory, mut ledger) = open();
    let mut id = 0;
    bencher.bench_local(|| {
        id += 1;
        ledger.write(&[GrantChange::Record(record(id))], None, flush).unwrap()
    });
}

#[divan::bench(args = [Durability::Crash, Durability::PowerLoss])]
fn record_a_grant_and_use_up_a_proof(bencher: Bencher, flush: Durability) {
    let (_directory, mut ledger) = open();
    let mut id = 0;
    bencher.bench_local(|| {
        id += 1;
        ledger.write(&[GrantChange::Record(record(id))], Some(&proof(id)), flush).unwrap()
    });
}

#[divan::bench]
fn advance(bencher: Bencher) {
    let (_directory, mut ledger) = open();
    let _ = ledger.write(&[GrantChange::Record(record(1))], None, Durability::Crash).unwrap();
    // What is the same as before is not written.
    let mut states = GrantState::ALL.iter().copied().cycle();
    bencher.bench_local(|| {
        let state = states.next().unwrap();
        ledger.advance(GrantId(1), state, Durability::Crash).unwrap();
    });
}

#[divan::bench]
fn append_to_the_history(bencher: Bencher) {
    let (_directory, mut ledger) = open();
    bencher.bench_local(|| ledger.append(&entry()).unwrap());
}

/// The worst case: all of a full history is looked through in vain.
#[divan::bench(sample_count = 10)]
fn query_100_000_rows(bencher: Bencher) {
    let (_directory, mut ledger) = open();
    for _ in 0..100_000 {
        ledger.append(&entry()).unwrap();
    }
    let door = Some("other".parse().unwrap());
    let query = Query { door, address: None, since: None, limit: 100 };
    bencher.bench_local(|| ledger.history(&query).unwrap());
}

#[divan::bench(sample_count = 10)]
fn tidy(bencher: Bencher) {
    let (_directory, mut ledger) = open();
    for _ in 0..100_000 {
        ledger.append(&entry()).unwrap();
    }
    let keep = libknock::ledger::Retention { rows: 1000, ..Default::default() };
    bencher.bench_local(|| ledger.tidy(Wall::ZERO, keep).unwrap());
}

#[divan::bench(args = [0, 10_000], sample_count = 10)]
fn open_with_grants(bencher: Bencher, grants: u64) {
    let (directory, mut ledger) = open();
    for id in 0..grants {
        let _ = ledger.write(&[GrantChange::Record(record(id))], None, Durability::Crash).unwrap();
    }
    drop(ledger);
    bencher.bench_local(|| Ledger::open(directory.path(), Wall::ZERO).unwrap().records.len());
}
