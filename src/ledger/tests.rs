//! What the ledger promises.

use std::fs;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::config::Rendered;
use crate::config::{NftFamily, SetRef};
use crate::grants::{
    CommandPair, Extension, GrantBackend, GrantId, GrantKey, GrantState, KernelElement, OpenedBy,
    Origin,
};
use crate::proto::Method;
use crate::time::{BootId, Monotonic, Now};

fn now() -> Wall {
    Wall::ZERO + Duration::from_secs(1_795_344_888)
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(dir: &TempDir) -> OpenLedger {
    Ledger::open(dir.path(), now()).unwrap()
}

/// Opens a ledger that is not new, and tells what was in it.
fn reopen(dir: &TempDir) -> Vec<GrantRecord> {
    let OpenLedger { records, set_aside, .. } = open(dir);
    assert_eq!(set_aside, None);
    records
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn record(id: u64) -> GrantRecord {
    let command = |what: &str| Rendered {
        argv: vec![what.to_owned()],
        environment: vec![("KNOCK_IP".to_owned(), format!("192.0.2.{id}"))],
    };
    GrantRecord {
        ceiling: None,
        id: GrantId(id),
        key: GrantKey::new(name("ssh"), IpAddr::from([192, 0, 2, u8::try_from(id).unwrap()])),
        origin: Method::Sequence.into(),
        state: GrantState::Starting,
        boot: BootId::default(),
        deadline: Monotonic::from_nanos(7),
        since: now(),
        until: now() + Duration::from_secs(30),
        backend: GrantBackend::Commands(vec![CommandPair {
            open: command("open"),
            close: Some(command("close")),
            verify: None,
            is_timed: false,
        }]),
    }
}

fn recorded(id: u64) -> GrantChange {
    GrantChange::Record(record(id))
}

fn extended(id: u64) -> GrantChange {
    let origin = record(id).origin;
    GrantChange::Extend(
        GrantId(id),
        Extension { deadline: Monotonic::MAX, until: Wall::MAX, origin },
    )
}

fn proof(byte: u8) -> Proof {
    let until = Some(now() + Duration::from_secs(90));
    Proof::Once {
        door: name("ssh"),
        client: None,
        kind: "totp",
        bytes: Secret::new(vec![byte]),
        until,
    }
}

fn entry(id: u8, at: Wall) -> HistoryEntry {
    HistoryEntry {
        at,
        door: Some(name(if id.is_multiple_of(2) { "even" } else { "odd" })),
        network: Some(IpAddr::from([192, 0, 2, id]).into()),
        client: Some(name("phone")),
        by: Some(OpenedBy::Knockctl),
        event: HistoryEvent::Open,
        detail: String::new(),
    }
}

fn everything() -> Query {
    Query { door: None, address: None, since: None, limit: 1000 }
}

mod a_grant {
    use super::*;

    #[test]
    fn is_there_again_after_reopening() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        for (id, flush) in
            [(1, Durability::Crash), (2, Durability::PowerLoss), (3, Durability::Crash)]
        {
            assert_eq!(ledger.write(&[recorded(id)], None, flush).unwrap(), Written::New);
        }
        drop(ledger);
        assert_eq!(reopen(&dir), [record(1), record(2), record(3)]);
    }

    #[test]
    fn keeps_its_state_and_its_deadline() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let _ = ledger.write(&[recorded(1)], None, Durability::Crash).unwrap();
        ledger.advance(GrantId(1), GrantState::Starting, Durability::PowerLoss).unwrap();
        let to = Extension {
            deadline: Monotonic::from_nanos(8),
            until: now() + Duration::from_secs(31),
            origin: Origin { by: OpenedBy::Knockctl, client: Some(name("phone")) },
        };
        let change = GrantChange::Extend(GrantId(1), to.clone());
        assert_eq!(ledger.write(&[change], None, Durability::Crash).unwrap(), Written::New);
        drop(ledger);
        let expected = GrantRecord {
            state: GrantState::Starting,
            deadline: to.deadline,
            until: to.until,
            origin: to.origin,
            ..record(1)
        };
        assert_eq!(reopen(&dir), [expected]);
    }

    #[test]
    fn that_has_closed_is_gone() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let _ = ledger.write(&[recorded(1)], None, Durability::Crash).unwrap();
        ledger.forget(GrantId(1)).unwrap();
        drop(ledger);
        assert_eq!(reopen(&dir), []);
    }

    #[test]
    fn takes_the_place_of_one_whose_end_could_not_be_recorded() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let _ = ledger.write(&[recorded(1)], None, Durability::Crash).unwrap();
        let next = GrantRecord { id: GrantId(2), ..record(1) };
        let _ =
            ledger.write(&[GrantChange::Record(next.clone())], None, Durability::Crash).unwrap();
        drop(ledger);
        assert_eq!(reopen(&dir), [next]);
    }

    #[test]
    fn that_was_never_recorded_cannot_be_written_about() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        assert!(ledger.advance(GrantId(1), GrantState::Open, Durability::Crash).is_err());
    }
}

mod a_proof {
    use super::*;

    #[test]
    fn can_be_used_once() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let first = ledger.write(&[recorded(1)], Some(&proof(1)), Durability::PowerLoss).unwrap();
        let again = ledger.write(&[recorded(2)], Some(&proof(1)), Durability::PowerLoss).unwrap();
        assert_eq!((first, again), (Written::New, Written::Used));
        drop(ledger);
        assert_eq!(reopen(&dir), [record(1)]);
        assert_eq!(
            open(&dir).ledger.write(&[], Some(&proof(1)), Durability::Crash).unwrap(),
            Written::Used,
            "after a restart"
        );
    }

    #[test]
    fn that_was_used_extends_nothing() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let _ = ledger.write(&[recorded(1)], Some(&proof(1)), Durability::Crash).unwrap();
        let extended = ledger.write(&[extended(1)], Some(&proof(1)), Durability::Crash).unwrap();
        assert_eq!(extended, Written::Used);
        drop(ledger);
        assert_eq!(reopen(&dir), [record(1)]);
    }

    #[test]
    fn is_as_unused_as_before_when_what_it_was_for_could_not_be_recorded() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let changes = [recorded(1), extended(9)];
        assert!(ledger.write(&changes, Some(&proof(1)), Durability::Crash).is_err());
        assert_eq!(ledger.write(&[], Some(&proof(1)), Durability::Crash).unwrap(), Written::New);
    }

    #[test]
    fn of_another_client_door_or_kind_is_another() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let once = |door: &str, client: Option<&str>, kind| Proof::Once {
            door: name(door),
            client: client.map(name),
            kind,
            bytes: Secret::new(vec![1]),
            until: None,
        };
        for proof in [
            once("ssh", None, "totp"),
            once("web", None, "totp"),
            once("ssh", Some("phone"), "totp"),
            once("ssh", None, "one_time_sequence"),
        ] {
            assert_eq!(
                ledger.write(&[], Some(&proof), Durability::Crash).unwrap(),
                Written::New,
                "{proof:?}"
            );
        }
    }

    #[test]
    fn with_a_stamp_has_to_be_later_than_the_latest_of_its_key() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let mut uses = |key: u8, nanos| {
            let proof = Proof::Monotonic { key: [key; 32], stamp: Wall::from_nanos(nanos) };
            ledger.write(&[], Some(&proof), Durability::Crash).unwrap()
        };
        assert_eq!(uses(1, 100), Written::New);
        assert_eq!(uses(1, 100), Written::Used);
        assert_eq!(uses(1, 99), Written::Used);
        assert_eq!(uses(2, 99), Written::New);
        assert_eq!(uses(1, 101), Written::New);
    }

    #[test]
    fn is_forgotten_once_it_proves_nothing_any_more() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        assert_eq!(ledger.write(&[], Some(&proof(1)), Durability::Crash).unwrap(), Written::New);
        let at = |seconds| now() + Duration::from_secs(seconds);
        assert!(!ledger.tidy(at(90), Retention::default()).unwrap());
        assert_eq!(ledger.write(&[], Some(&proof(1)), Durability::Crash).unwrap(), Written::Used);
        assert!(!ledger.tidy(at(91), Retention::default()).unwrap());
        assert_eq!(ledger.write(&[], Some(&proof(1)), Durability::Crash).unwrap(), Written::New);
    }

    #[test]
    fn that_was_used_lately_or_holds_still_can_be_told_others() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let at = |seconds| now() + Duration::from_secs(seconds);
        let stamp = |key: u8, seconds| Proof::Monotonic { key: [key; 32], stamp: at(seconds) };
        let once = |client: Option<&str>, byte, until| Proof::Once {
            door: name("ssh"),
            client: client.map(name),
            kind: Method::Fwknop.as_str(),
            bytes: Secret::new(vec![byte]),
            until,
        };
        let (line, later) = (once(None, 3, None), once(Some("phone"), 4, Some(at(200))));
        let (sooner, over) = (once(None, 5, Some(at(101))), once(None, 6, Some(at(100))));
        let used = [stamp(1, 49), stamp(2, 50), stamp(3, 70), line, later, sooner, over];
        for proof in &used {
            assert_eq!(ledger.write(&[], Some(proof), Durability::Crash).unwrap(), Written::New);
        }
        let [_, second, third, line, later, sooner, _] = used;
        let expected = [third, second, line, later, sooner];
        assert_eq!(ledger.recent_proofs(at(50), at(100)).unwrap(), expected);
    }

    #[test]
    fn that_lies_ahead_is_forgotten_on_demand_and_no_other() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let stamp =
            |key: u8, nanos| Proof::Monotonic { key: [key; 32], stamp: Wall::from_nanos(nanos) };
        let code = |client: &str, step: u64| Proof::Once {
            door: name("ssh"),
            client: Some(name(client)),
            kind: Method::Totp.as_str(),
            bytes: Secret::new(step.to_be_bytes().to_vec()),
            until: None,
        };
        let used = [
            stamp(1, u64::MAX),
            stamp(2, 900),
            stamp(3, u64::MAX),
            code("phone", 300),
            code("phone", 255),
            code("other", 300),
        ];
        for proof in &used {
            assert_eq!(ledger.write(&[], Some(proof), Durability::Crash).unwrap(), Written::New);
        }
        let ahead = Ahead {
            client: name("phone"),
            keys: vec![[1; 32], [2; 32]],
            stamp: Wall::from_nanos(1000),
            steps: vec![(name("ssh"), 255), (name("web"), 0)],
        };
        assert_eq!(ledger.forget_ahead(&ahead).unwrap(), 2);
        assert_eq!(ledger.forget_ahead(&ahead).unwrap(), 0);
        drop(ledger);
        let mut ledger = open(&dir).ledger;
        let mut is_new =
            |proof| ledger.write(&[], Some(&proof), Durability::Crash).unwrap() == Written::New;
        assert!(!is_new(stamp(1, 1000)) && is_new(stamp(1, 1001)), "may be used from then on");
        assert!(!is_new(stamp(2, 900)) && is_new(stamp(2, 901)), "did not lie ahead");
        assert!(!is_new(stamp(3, 1001)), "of somebody else");
        assert!(!is_new(code("phone", 255)) && is_new(code("phone", 300)));
        assert!(!is_new(code("other", 300)));
    }

    #[test]
    fn does_not_show_its_bytes() {
        let secret = Proof::Once {
            door: name("ssh"),
            client: None,
            kind: "k",
            bytes: Secret::new(vec![99]),
            until: None,
        };
        assert!(!format!("{secret:?}").contains("99"));
    }
}

mod history {
    use super::*;

    fn filled(dir: &TempDir) -> Ledger {
        let mut ledger = open(dir).ledger;
        for id in 0..10 {
            ledger.append(&entry(id, now() + Duration::from_secs(id.into()))).unwrap();
        }
        ledger
    }

    fn ids(entries: &[HistoryEntry]) -> Vec<u8> {
        let last = |entry: &HistoryEntry| match entry.network.map(|network| network.address()) {
            Some(IpAddr::V4(address)) => address.octets()[3],
            _ => unreachable!(),
        };
        entries.iter().map(last).collect()
    }

    #[test]
    fn comes_back_whole_and_the_latest_first() {
        let dir = dir();
        let entries = filled(&dir).history(&everything()).unwrap();
        assert_eq!(ids(&entries), [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(entries[9], entry(0, now()));
    }

    #[test]
    fn may_be_about_a_client_and_no_door() {
        let dir = dir();
        let mut ledger = filled(&dir);
        let reset = HistoryEntry {
            door: None,
            network: None,
            event: HistoryEvent::ClientReset,
            ..entry(10, now())
        };
        ledger.append(&reset).unwrap();
        assert_eq!(ledger.history(&Query { limit: 1, ..everything() }).unwrap(), [reset]);
        let of_door = ledger.history(&Query { door: Some(name("even")), ..everything() }).unwrap();
        assert_eq!(ids(&of_door), [8, 6, 4, 2, 0]);
    }

    #[test]
    fn can_be_asked_for_a_door_an_address_a_time_and_a_number() {
        let dir = dir();
        let ledger = filled(&dir);
        let ask = |query| ids(&ledger.history(&query).unwrap());
        assert_eq!(ask(Query { door: Some(name("odd")), ..everything() }), [9, 7, 5, 3, 1]);
        let address = Some(IpAddr::from([192, 0, 2, 4]));
        assert_eq!(ask(Query { address, ..everything() }), [4]);
        let since = Some(now() + Duration::from_secs(8));
        assert_eq!(ask(Query { since, ..everything() }), [9, 8]);
        assert_eq!(ask(Query { limit: 1, ..everything() }), [9]);
    }

    #[test]
    fn that_is_too_old_is_forgotten() {
        let dir = dir();
        let mut ledger = filled(&dir);
        let keep = Retention { age: Duration::from_secs(100), rows: 100 };
        assert!(!ledger.tidy(now() + Duration::from_secs(108), keep).unwrap());
        assert_eq!(ids(&ledger.history(&everything()).unwrap()), [9, 8]);
    }

    #[test]
    fn that_is_too_long_loses_its_oldest_rows() {
        let dir = dir();
        let mut ledger = filled(&dir);
        assert!(!ledger.tidy(now(), Retention { rows: 9, ..Retention::default() }).unwrap());
        assert_eq!(ids(&ledger.history(&everything()).unwrap()), [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn that_is_too_long_loses_rows_of_the_door_that_has_most() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        for id in [0, 1, 3, 5, 7, 9] {
            ledger.append(&entry(id, now())).unwrap();
        }
        assert!(!ledger.tidy(now(), Retention { rows: 3, ..Retention::default() }).unwrap());
        assert_eq!(ids(&ledger.history(&everything()).unwrap()), [9, 7, 0]);
    }

    #[test]
    fn is_not_sorted_to_find_the_door_that_has_most() {
        let ledger = open(&dir()).ledger;
        let plan = "EXPLAIN QUERY PLAN SELECT door FROM history GROUP BY door";
        let plan: String = ledger.db.query_row(plan, [], |row| row.get("detail")).unwrap();
        assert!(plan.contains("COVERING INDEX"), "{plan}");
    }

    #[test]
    fn is_forgotten_in_small_steps() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        for _ in 0..120 {
            for id in 0..10 {
                ledger.append(&entry(id, now())).unwrap();
            }
        }
        let keep = Retention { rows: 10, ..Retention::default() };
        let more: Vec<bool> = (0..4).map(|_| ledger.tidy(now(), keep).unwrap()).collect();
        assert_eq!(more, [true, true, true, false]);
        assert_eq!(ledger.history(&everything()).unwrap().len(), 10);
    }
}

mod the_file {
    use super::*;

    #[test]
    fn is_nobody_elses_business() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let _ = ledger.write(&[recorded(1)], None, Durability::Crash).unwrap();
        for file in fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.path().display());
        }
    }

    #[test]
    fn is_open_in_one_process_at_a_time_and_the_other_one_is_named() {
        let dir = dir();
        let opened = open(&dir);
        let error = Ledger::open(dir.path(), now()).unwrap_err();
        assert!(matches!(&error, LedgerError::InUse { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        assert!(message.contains(dir.path().to_str().unwrap()), "{message}");
        drop(opened);
        assert_eq!(reopen(&dir), []);
    }

    #[test]
    fn cannot_be_locked_by_another_program_meanwhile() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let other = Connection::open(dir.path().join(FILE)).unwrap();
        other.busy_timeout(Duration::ZERO).unwrap();
        assert!(other.execute_batch("BEGIN IMMEDIATE").is_err());
        assert_eq!(ledger.write(&[recorded(1)], None, Durability::Crash).unwrap(), Written::New);
    }

    #[test]
    fn that_another_program_has_locked_is_an_error() {
        let dir = dir();
        drop(open(&dir));
        let other = Connection::open(dir.path().join(FILE)).unwrap();
        other.execute_batch("BEGIN IMMEDIATE; DELETE FROM grants").unwrap();
        let error = Ledger::open(dir.path(), now()).unwrap_err();
        assert!(error.to_string().contains("another program has"), "{error}");
    }

    #[test]
    fn of_another_version_is_refused_and_left_alone() {
        for other in [1, 3, 6, 99] {
            let dir = dir();
            drop(open(&dir));
            let path = dir.path().join(FILE);
            Connection::open(&path).unwrap().pragma_update(None, "user_version", other).unwrap();
            let error = Ledger::open(dir.path(), now()).unwrap_err();
            let is_told = |it: &LedgerError| matches!(it, LedgerError::OtherVersion { found, known: 5, .. } if *found == other);
            assert!(is_told(&error), "{error:?}");
            assert!(is_told(&Ledger::check(dir.path()).unwrap_err()));
            let version: i64 = Connection::open(&path)
                .unwrap()
                .query_row("PRAGMA user_version", [], |row| row.get(0))
                .unwrap();
            assert_eq!(version, other);
        }
    }

    #[test]
    fn of_the_version_before_is_brought_up_to_date_with_what_it_knows() {
        let dir = dir();
        let set = |family, set| KernelElement::Set(SetRef::new(family, "fw", set).unwrap());
        let backends = [
            record(1).backend,
            GrantBackend::Kernel(KernelElement::Guard),
            GrantBackend::Kernel(set(NftFamily::Inet, "ssh4")),
            GrantBackend::Kernel(set(NftFamily::Ip6, "ssh6")),
        ];
        let grants: Vec<_> = (1..)
            .zip(backends)
            .map(|(id, backend)| GrantRecord { backend, ..record(id) })
            .collect();
        let changes: Vec<_> = grants.iter().cloned().map(GrantChange::Record).collect();
        let _ = open(&dir).ledger.write(&changes, None, Durability::Crash).unwrap();
        // As the version before has them.
        Connection::open(dir.path().join(FILE))
            .unwrap()
            .execute_batch(
                r#"UPDATE grants SET means = '{"table":"inet knockd","set":"p_ssh_4","source_port":7}' WHERE id = 2;
                   UPDATE grants SET means = '{"table":"inet fw","set":"ssh4"}' WHERE id = 3;
                   UPDATE grants SET means = '{"table":"ip6 fw","set":"ssh6"}' WHERE id = 4;
                   DROP INDEX of_door;
                   PRAGMA user_version = 4;"#,
            )
            .unwrap();
        assert!(Ledger::check(dir.path()).is_ok());
        assert_eq!(reopen(&dir), grants);
        assert_eq!(reopen(&dir), grants);
    }

    #[test]
    fn whose_grants_cannot_be_looked_at_is_as_good_as_before() {
        let step = r#"{"open":{"argv":["a"],"environment":[]},"close":null}"#;
        let step: CommandPair = serde_json::from_str(step).unwrap();
        assert_eq!(step.verify, None);
        assert!(!serde_json::to_string(&step).unwrap().contains("verify"));
    }

    #[test]
    fn of_another_program_is_refused_and_left_alone() {
        let dir = dir();
        let path = dir.path().join(FILE);
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE bookmarks (url)").unwrap();
        let before = fs::read(&path).unwrap();
        let error = Ledger::open(dir.path(), now()).unwrap_err();
        assert!(matches!(error, LedgerError::Foreign { .. }), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn that_is_empty_becomes_a_ledger() {
        let dir = dir();
        fs::write(dir.path().join(FILE), "").unwrap();
        assert_eq!(reopen(&dir), []);
    }

    #[test]
    fn of_garbage_is_set_aside_under_another_name() {
        let dir = dir();
        let garbage = "this is no database. ".repeat(1000);
        fs::write(dir.path().join(FILE), &garbage).unwrap();
        let OpenLedger { mut ledger, records, set_aside } = open(&dir);
        let set_aside = set_aside.unwrap();
        assert_eq!(set_aside.path, dir.path().join("ledger.db.corrupt-20261122T105448Z"));
        assert_eq!(fs::read_to_string(&set_aside.path).unwrap(), garbage);
        assert_eq!((records, set_aside.grants, set_aside.proofs), (Vec::new(), 0, 0));
        assert_eq!(ledger.write(&[recorded(1)], None, Durability::Crash).unwrap(), Written::New);
        drop(ledger);
        assert_eq!(reopen(&dir), [record(1)]);
    }

    #[test]
    fn is_never_set_aside_over_an_earlier_one() {
        let dir = dir();
        for text in ["one ", "two "] {
            fs::write(dir.path().join(FILE), text.repeat(1000)).unwrap();
            drop(open(&dir));
        }
        let first = fs::read_to_string(dir.path().join("ledger.db.corrupt-20261122T105448Z"));
        let second = fs::read_to_string(dir.path().join("ledger.db.corrupt-20261122T105448Z-1"));
        assert!(first.unwrap().starts_with("one") && second.unwrap().starts_with("two"));
    }

    #[test]
    fn that_is_corrupt_hands_over_the_grants_and_proofs_that_can_be_read() {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let _ = ledger.write(&[recorded(1)], Some(&proof(1)), Durability::Crash).unwrap();
        let _ = ledger.write(&[recorded(2)], None, Durability::Crash).unwrap();
        drop(ledger);
        let db = Connection::open(dir.path().join(FILE)).unwrap();
        db.execute("UPDATE grants SET means='{' WHERE id=2", []).unwrap();
        drop(db);
        let OpenLedger { mut ledger, records, set_aside } = open(&dir);
        let set_aside = set_aside.unwrap();
        assert_eq!((set_aside.grants, set_aside.proofs), (1, 1));
        assert_eq!(records, [record(1)]);
        assert_eq!(ledger.write(&[], Some(&proof(1)), Durability::Crash).unwrap(), Written::Used);
        drop(ledger);
        assert_eq!(reopen(&dir), [record(1)]);
    }
}

fn text() -> impl Strategy<Value = String> {
    any::<String>().prop_filter("no NUL in a command", |text| !text.contains('\0'))
}

fn backend() -> impl Strategy<Value = GrantBackend> {
    let rendered = || {
        (prop::collection::vec(text(), 1..4), prop::collection::vec(text(), 0..2)).prop_map(
            |(argv, values)| Rendered {
                argv,
                environment: values
                    .into_iter()
                    .map(|value| ("KNOCK_DOOR".to_owned(), value))
                    .collect(),
            },
        )
    };
    let step = (rendered(), prop::option::of(rendered()), prop::option::of(rendered()));
    let step =
        step.prop_map(|(open, close, verify)| CommandPair { open, close, verify, is_timed: false });
    prop_oneof![
        prop::collection::vec(step, 0..3).prop_map(GrantBackend::Commands),
        Just(GrantBackend::Kernel(KernelElement::Guard)),
        (prop::sample::select(&NftFamily::ALL[..]), "[a-z_.][a-z0-9_./-]{0,9}").prop_map(
            |(family, name)| {
                let set = SetRef::new(family, "filter", &name).unwrap();
                GrantBackend::Kernel(KernelElement::Set(set))
            }
        ),
    ]
}

fn id_of(boot: u128) -> BootId {
    format!("{boot:032x}").parse().unwrap()
}

fn any_record() -> impl Strategy<Value = GrantRecord> {
    let time = || 0..=i64::MAX.unsigned_abs();
    let who = (
        "[A-Za-z0-9_.-]{1,32}",
        any::<IpAddr>(),
        any::<u16>(),
        prop::option::of("[A-Za-z0-9_.-]{1,32}"),
        prop::option::of(prop::sample::select(&Method::ALL[..])),
        prop::sample::select(&GrantState::ALL[..]),
    );
    let when = (any::<u128>(), time(), time(), time(), prop::option::of(time()));
    (time(), who, when, backend()).prop_map(|(id, who, when, backend)| {
        let (door, address, port, client, method, state) = who;
        let by = method.map_or(OpenedBy::Knockctl, OpenedBy::Method);
        let (boot, deadline, since, until, ceiling) = when;
        GrantRecord {
            ceiling: ceiling.map(Monotonic::from_nanos),
            id: GrantId(id),
            key: GrantKey {
                source_port: NonZeroU16::new(port),
                ..GrantKey::new(name(&door), address)
            },
            origin: Origin { by, client: client.map(|client| name(&client)) },
            state,
            boot: id_of(boot),
            deadline: Monotonic::from_nanos(deadline),
            since: Wall::from_nanos(since),
            until: Wall::from_nanos(until),
            backend,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_record_is_read_as_it_was_written(record in any_record()) {
        let dir = dir();
        let _ = open(&dir).ledger.write(&[GrantChange::Record(record.clone())], None, Durability::Crash).unwrap();
        prop_assert_eq!(reopen(&dir), [record]);
    }

    /// Bytes changed anywhere in the file: it opens, is set aside, or is refused with a reason.
    /// Nothing panics, and nothing is deleted.
    #[test]
    fn a_damaged_file_is_never_a_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        for id in 1..20 {
            let _ = ledger.write(&[recorded(id)], None, Durability::Crash).unwrap();
        }
        drop(ledger);
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&path, &bytes).unwrap();
        match Ledger::open(dir.path(), now()) {
            Ok(OpenLedger { mut ledger, set_aside, .. }) => {
                if let Some(Quarantined { path, .. }) = set_aside {
                    prop_assert_eq!(fs::read(path).unwrap(), bytes);
                }
                let _ = ledger.write(&[recorded(40)], None, Durability::Crash);
            }
            Err(LedgerError::Foreign { .. } | LedgerError::OtherVersion { .. }) => {
                prop_assert_eq!(fs::read(path).unwrap(), bytes);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

fn boot(number: u8) -> BootId {
    format!("{number:032x}").parse().unwrap()
}

/// Begins a run a hundred seconds after the start of the machine.
fn begin(ledger: &mut Ledger, number: u8) -> Option<Monotonic> {
    let monotonic = Monotonic::ZERO + Duration::from_secs(100);
    ledger.begin(Now { monotonic, wall: now() }, boot(number), false).unwrap()
}

#[test]
fn a_first_run_misses_nothing() {
    let dir = dir();
    assert_eq!(begin(&mut open(&dir).ledger, 1), None);
}

#[test]
fn a_boot_after_a_run_that_has_ended_misses_nothing() {
    let dir = dir();
    let mut ledger = open(&dir).ledger;
    assert_eq!(begin(&mut ledger, 1), None);
    ledger.end().unwrap();
    drop(ledger);
    assert_eq!(begin(&mut open(&dir).ledger, 2), None);
}

#[test]
fn a_boot_after_a_run_that_was_cut_off_may_miss_what_came_before_it() {
    let dir = dir();
    assert_eq!(begin(&mut open(&dir).ledger, 1), None);
    let mut ledger = open(&dir).ledger;
    assert_eq!(begin(&mut ledger, 2), Some(Monotonic::ZERO));
    ledger.end().unwrap();
    drop(ledger);
    // A run that ends well does not make good what an earlier boot has lost.
    let mut ledger = open(&dir).ledger;
    assert_eq!(begin(&mut ledger, 2), Some(Monotonic::ZERO));
    ledger.end().unwrap();
    drop(ledger);
    assert_eq!(begin(&mut open(&dir).ledger, 3), None);
}

#[test]
fn a_killed_process_is_no_power_cut() {
    let dir = dir();
    assert_eq!(begin(&mut open(&dir).ledger, 1), None);
    assert_eq!(begin(&mut open(&dir).ledger, 1), None);
}

#[test]
fn after_a_corrupt_ledger_everything_before_may_be_missing() {
    let dir = dir();
    let begun = Now { monotonic: Monotonic::ZERO + Duration::from_secs(100), wall: now() };
    assert_eq!(open(&dir).ledger.begin(begun, boot(1), true).unwrap(), Some(begun.monotonic));
}

#[test]
fn a_ledger_that_does_not_say_how_its_last_run_ended_counts_as_cut_off() {
    let dir = dir();
    let mut ledger = open(&dir).ledger;
    assert_eq!(begin(&mut ledger, 1), None);
    ledger.end().unwrap();
    drop(ledger);
    let db = Connection::open(dir.path().join(FILE)).unwrap();
    db.execute("DELETE FROM runs", []).unwrap();
    drop(db);
    assert_eq!(begin(&mut open(&dir).ledger, 2), Some(Monotonic::ZERO));
}

#[test]
fn a_corrupt_row_is_not_in_the_way_of_those_that_can_be_read() {
    let dir = dir();
    let mut ledger = open(&dir).ledger;
    let _ = ledger.write(&[recorded(1)], Some(&proof(1)), Durability::Crash).unwrap();
    drop(ledger);
    let db = Connection::open(dir.path().join(FILE)).unwrap();
    // Bytes where the name of a door stands, as no statement can write it.
    db.execute_batch(
        "ALTER TABLE proofs RENAME TO right;
         CREATE TABLE proofs (door, client, kind, bytes, until);
         INSERT INTO proofs SELECT * FROM right;
         INSERT INTO proofs VALUES (x'00', '', 'totp', x'02', NULL);
         DROP TABLE history;",
    )
    .unwrap();
    drop(db);
    let OpenLedger { mut ledger, records, set_aside } = open(&dir);
    assert_eq!((records, set_aside.map(|it| it.proofs)), (vec![record(1)], Some(1)));
    let again = ledger.write(&[], Some(&proof(1)), Durability::Crash).unwrap();
    assert_eq!(again, Written::Used);
}

#[test]
fn a_ledger_that_lacks_a_table_is_set_aside_with_what_it_still_has() {
    for table in ["grants", "proofs", "marks", "history", "runs"] {
        let dir = dir();
        let mut ledger = open(&dir).ledger;
        let _ = ledger.write(&[recorded(1)], Some(&proof(1)), Durability::Crash).unwrap();
        drop(ledger);
        let db = Connection::open(dir.path().join(FILE)).unwrap();
        db.execute(&format!("DROP TABLE {table}"), []).unwrap();
        drop(db);
        let OpenLedger { mut ledger, records, set_aside } = open(&dir);
        let set_aside = set_aside.unwrap_or_else(|| panic!("without {table} it is used"));
        let saved = (usize::from(table != "grants"), usize::from(table != "proofs"));
        assert_eq!((set_aside.grants, set_aside.proofs), saved, "{table}");
        assert_eq!(records.len(), saved.0);
        assert!(ledger.begin(Now::default(), boot(1), true).is_ok());
        drop(ledger);
        assert!(open(&dir).set_aside.is_none());
    }
}
