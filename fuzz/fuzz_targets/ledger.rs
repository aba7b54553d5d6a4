//! A ledger whose file, or write-ahead log, is damaged: it opens, is set aside or is refused as
//! another's; what opened can be read and written without a panic, and opens again.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use knock_fuzz::{NOW, take};
use libfuzzer_sys::fuzz_target;
use libknock::config::Name;
use libknock::grants::{
    GrantBackend, GrantChange, GrantId, GrantKey, GrantRecord, GrantState, OpenedBy, Origin,
};
use libknock::ledger::{
    Durability, FILE, HistoryEntry, HistoryEvent, Ledger, LedgerError, OpenLedger, Proof, Query,
    Retention, Written,
};
use libknock::proto::method::Method;
use libknock::time::{BootId, Monotonic};

/// A ledger with something of everything: its file, and the log of the latest writes.
struct Template {
    dir: PathBuf,
    file: Vec<u8>,
    log: Vec<u8>,
    /// Where each page has what stands in rows: those of grants, of which each has to be read or the
    /// file is set aside, and the others.
    values: [Vec<Vec<usize>>; 2],
}

/// What stands in rows, beside times.
const VALUES: [&[u8]; 9] = [
    b"ssh",
    b"phone",
    b"192.0.2.",
    b"recorded",
    b"open",
    b"spa",
    b"commands",
    b"in words",
    b"totp",
];

static TEMPLATE: LazyLock<Template> = LazyLock::new(|| {
    // In memory where there is such a place.
    let shared = PathBuf::from("/dev/shm");
    let parent = if shared.is_dir() { shared } else { std::env::temp_dir() };
    let dir = parent.join(format!("knock-fuzz-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory");
    let mut ledger = Ledger::open(&dir, NOW.wall).expect("a new ledger").ledger;
    let _ = ledger.begin(NOW, BootId::default(), false).expect("a new ledger");
    for id in 1..=3 {
        assert_eq!(fill(&mut ledger, id).ok(), Some(Written::New));
    }
    drop(ledger);
    // With small pages it is small, and a run takes less time.
    let db = rusqlite::Connection::open(dir.join(FILE)).expect("a database");
    let smaller = format!("PRAGMA journal_mode = DELETE; PRAGMA page_size = {PAGE}; VACUUM");
    db.execute_batch(&smaller).expect("one");
    drop(db);
    let mut ledger = Ledger::open(&dir, NOW.wall).expect("a whole ledger").ledger;
    let file = fs::read(dir.join(FILE)).expect("it is there");
    assert_eq!(fill(&mut ledger, 4).ok(), Some(Written::New));
    let log = fs::read(dir.join(format!("{FILE}-wal"))).expect("it is there");
    let times = [NOW.wall, NOW.wall + Duration::from_secs(30)];
    let times = times.map(|time| time.as_nanos().to_be_bytes());
    let known: Vec<&[u8]> =
        VALUES.into_iter().chain(times.iter().map(<[u8; 8]>::as_slice)).collect();
    let places = |page: usize| {
        let within = page * PAGE..file.len().min((page + 1) * PAGE);
        let long =
            |at: usize| known.iter().find(|it| file[at..].starts_with(it)).map_or(0, |it| it.len());
        within.flat_map(|at| at..at + long(at)).collect::<Vec<_>>()
    };
    let of_grants =
        |page: &usize| file[page * PAGE..][..PAGE].windows(8).any(|value| value == b"commands");
    let (grants, others): (Vec<_>, Vec<_>) = (1..file.len() / PAGE).partition(of_grants);
    let values = [grants, others]
        .map(|pages| pages.into_iter().map(places).filter(|places| !places.is_empty()).collect());
    Template { dir, file, log, values }
});

/// The size of a page. The first one says what tables there are.
const PAGE: usize = 1024;

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// Writes of each kind that a keeper makes.
fn fill(ledger: &mut Ledger, id: u8) -> Result<Written, LedgerError> {
    let address = std::net::IpAddr::from([192, 0, 2, id]);
    let until = NOW.wall + Duration::from_secs(30);
    let record = GrantRecord {
        id: GrantId(id.into()),
        key: GrantKey::new(name("ssh"), address),
        origin: Origin { by: OpenedBy::Method(Method::Spa), client: Some(name("phone")) },
        state: GrantState::Starting,
        boot: BootId::default(),
        deadline: Monotonic::from_nanos(7),
        since: NOW.wall,
        until,
        ceiling: None,
        backend: GrantBackend::Commands(Vec::new()),
    };
    let once = Proof::Once {
        door: name("ssh"),
        client: Some(name("phone")),
        kind: "totp",
        bytes: libknock::proto::secret::Secret::new(vec![id; 8]),
        until: Some(until),
    };
    let entry = HistoryEntry {
        at: NOW.wall,
        door: Some(name("ssh")),
        network: Some(address.into()),
        client: Some(name("phone")),
        by: Some(OpenedBy::Knockctl),
        event: HistoryEvent::Open,
        detail: "in words".to_owned(),
    };
    ledger.append(&entry)?;
    let stamp = Proof::Monotonic { key: [id; 32], stamp: NOW.wall };
    let _ = ledger.write(&[], Some(&stamp), Durability::Crash)?;
    let written = ledger.write(&[GrantChange::Record(record)], Some(&once), Durability::Crash)?;
    if written == Written::New {
        ledger.advance(GrantId(id.into()), GrantState::Open, Durability::Crash)?;
    }
    Ok(written)
}

/// Bytes with changes: each is a place in three bytes, and what is added to the byte there. Of
/// `places` where there are any.
fn damaged(whole: &[u8], places: &[usize], mut changes: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    while !changes.is_empty() && !bytes.is_empty() {
        let [high, middle, low, change] = take(&mut changes);
        let at = u32::from_be_bytes([0, high, middle, low]) as usize;
        let at = if places.is_empty() { at % bytes.len() } else { places[at % places.len()] };
        bytes[at] = bytes[at].wrapping_add(change);
    }
    bytes
}

fuzz_target!(|input: &[u8]| {
    let mut input = input;
    let sum = input.iter().fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte));
    let [kind, cut] = take(&mut input);
    let Template { dir, file, log, values } = &*TEMPLATE;
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let _ = fs::remove_file(entry.path());
    }
    let (mut main, mut wal) = (file.clone(), log.clone());
    // In place of a file that is set aside a new one is made, which takes five times as long as to
    // open one, and is SQLite's work: now and then, whatever an input has grown from.
    let is_torn = sum % 8 == 7;
    match (kind % 4, is_torn) {
        (0 | 2, false) => {
            let pages = &values[usize::from(sum % 8 != 6)];
            let page = &pages[usize::from(cut) % pages.len()];
            main = damaged(file, page, input);
        }
        (0, true) => main = damaged(file, &[], input),
        (1, _) => wal = damaged(log, &[], input),
        (2, true) => main = input.to_vec(),
        _ => wal = input.to_vec(),
    }
    if kind & 4 != 0 && is_torn {
        main.truncate(file.len() * usize::from(cut) / 256);
    }
    fs::write(dir.join(FILE), &main).expect("there is room");
    if kind & 8 != 0 {
        fs::write(dir.join(format!("{FILE}-wal")), &wal).expect("there is room");
    }
    let OpenLedger { mut ledger, records, set_aside } = match Ledger::open(dir, NOW.wall) {
        Ok(open) => open,
        Err(LedgerError::OtherVersion { .. } | LedgerError::Foreign { .. }) => return,
        Err(error) => panic!("the keeper would not start: {error}"),
    };
    // What can still be read may be used, or fail; it is nothing to fall over.
    let works = match kind >> 4 & 3 {
        0 => true,
        1 => fill(&mut ledger, 9).is_ok() && ledger.forget(GrantId(9)).is_ok(),
        2 => {
            let query = Query { door: None, address: None, since: None, limit: 100 };
            ledger.history(&query).is_ok() && ledger.last_uses().is_ok()
        }
        _ => {
            let keep = Retention { rows: 2, ..Retention::default() };
            ledger.begin(NOW, BootId::default(), set_aside.is_some()).is_ok()
                && ledger.tidy(NOW.wall + Duration::from_secs(60), keep).is_ok()
        }
    };
    let Some(aside) = set_aside else { return };
    assert!(works, "a new ledger does not work");
    assert!(aside.path.exists() && aside.grants == records.len());
    if kind & 128 != 0 {
        assert!(ledger.end().is_ok());
        drop(ledger);
        let again = Ledger::open(dir, NOW.wall).expect("a new ledger is whole");
        assert_eq!(again.set_aside, None);
        // Of two for the same place one is left.
        assert!(again.records.iter().all(|record| records.contains(record)));
        assert_eq!(again.records.is_empty(), records.is_empty());
    }
});
