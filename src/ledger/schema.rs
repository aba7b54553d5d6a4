//! The file of the ledger: made, recognised, brought up to date, or set aside.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use nix::libc::O_NOFOLLOW;
use rusqlite::config::DbConfig;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags, params_from_iter};

use super::error::is_corrupt;
use super::rows::{self, unreadable};
use super::{LedgerError, Quarantined};
use crate::grants::GrantRecord;
use crate::time::Wall;

/// Marks the file as a ledger of this program: "knok".
const APPLICATION: i64 = 0x6b6e_6f6b;

/// The version of a ledger of these tables.
const VERSION: i64 = 5;
/// The version before, which [`UPGRADE`] brings up to date.
const FORMER: i64 = 4;

/// What makes such a ledger one of this version. Elements of the kernel's sets had their names as texts,
/// `{"table":"inet filter","set":"ssh4"}`, and history no index.
const UPGRADE: &str = r#"
    UPDATE grants SET means = iif(place = 'inet knockd', '"Guard"', json_object('Set', json_object(
        'family', upper(substr(place, 1, 1)) || substr(place, 2, instr(place, ' ') - 2),
        'table', substr(place, instr(place, ' ') + 1), 'set', name)))
    FROM (SELECT id AS of, means ->> 'table' AS place, means ->> 'set' AS name FROM grants)
    WHERE id = of AND kind = 'kernel';
    CREATE INDEX IF NOT EXISTS of_door ON history (door);
"#;

const TABLES: &str = "
    CREATE TABLE grants (
        id          INTEGER PRIMARY KEY,
        door        TEXT    NOT NULL,
        address     TEXT    NOT NULL,
        source_port INTEGER NOT NULL,  -- 0: any
        client      TEXT,
        by          TEXT    NOT NULL,
        state       TEXT    NOT NULL,
        boot        TEXT    NOT NULL,
        deadline    INTEGER NOT NULL,  -- CLOCK_BOOTTIME of that boot; all times in nanoseconds
        since       INTEGER NOT NULL,
        until       INTEGER NOT NULL,
        kind        TEXT    NOT NULL,  -- commands | kernel
        means       TEXT    NOT NULL,  -- JSON
        ceiling     INTEGER,           -- as deadline
        UNIQUE (door, address, source_port)
    ) STRICT;
    CREATE TABLE proofs (
        door     TEXT NOT NULL,
        client   TEXT NOT NULL,
        kind     TEXT NOT NULL,
        bytes    BLOB NOT NULL,
        until    INTEGER,
        PRIMARY KEY (door, client, kind, bytes)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX lapsing ON proofs (until) WHERE until IS NOT NULL;
    CREATE TABLE marks (
        key      BLOB PRIMARY KEY,
        stamp    INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE history (
        id       INTEGER PRIMARY KEY,
        at       INTEGER NOT NULL,
        door     TEXT    NOT NULL,
        address  TEXT    NOT NULL,
        client   TEXT,
        by       TEXT,
        event    TEXT    NOT NULL,
        detail   TEXT    NOT NULL
    ) STRICT;
    -- Without it, to find out of which door there is most in a long history takes 60 ms.
    CREATE INDEX of_door ON history (door);
    CREATE TABLE runs (
        one     INTEGER PRIMARY KEY CHECK (one = 1),
        boot    TEXT    NOT NULL,
        ended   INTEGER NOT NULL,  -- 1: and all that was written is on disk
        missing INTEGER            -- what was written before this time of that boot may be lost
    ) STRICT;
";

/// What every statement of this program needs to be there. The grants are all read in any case.
const NEEDED: [&str; 4] = [
    "SELECT door, client, kind, bytes, until FROM proofs",
    "SELECT key, stamp FROM marks",
    "SELECT id, at, door, address, client, by, event, detail FROM history",
    "SELECT one, boot, ended, missing FROM runs",
];

/// The open file and the grants in it.
pub(super) struct OpenFile {
    pub db: Connection,
    pub records: Vec<GrantRecord>,
    /// There was none before.
    pub is_new: bool,
    pub set_aside: Option<Quarantined>,
}

/// The rows that could be read from a corrupt ledger.
#[derive(Default)]
struct Salvage {
    records: Vec<GrantRecord>,
    /// Of proofs and marks, each with what writes it.
    used: Vec<(&'static str, Vec<Value>)>,
}

pub(super) fn open(path: &Path, now: Wall) -> Result<OpenFile, LedgerError> {
    match open_whole(path) {
        Err(LedgerError::Database { source, .. }) if is_corrupt(&source) => {
            start_anew(path, now, source.to_string())
        }
        result => result,
    }
}

/// Opens a ledger and reads every page of it, and every grant.
fn open_whole(path: &Path) -> Result<OpenFile, LedgerError> {
    let failed = LedgerError::database("open the ledger", path);
    let mut db = connect(path)?;
    let (application, version, tables) = head(&db).map_err(&failed)?;
    let is_new = recognise(path, application, version, tables == 0)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(LedgerError::file("set the mode of", path))?;
    let records = read_whole(&mut db).map_err(failed)?;
    Ok(OpenFile { db, records, is_new, set_aside: None })
}

fn read_whole(db: &mut Connection) -> rusqlite::Result<Vec<GrantRecord>> {
    let checked: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if checked != "ok" {
        return Err(unreadable(checked));
    }
    make_tables(db)?;
    NEEDED.iter().try_for_each(|needed| db.prepare(needed).map(drop))?;
    let records = rows::grants(db)?.into_iter().collect::<rusqlite::Result<Vec<_>>>()?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(records)
}

fn connect(path: &Path) -> Result<Connection, LedgerError> {
    // SQLite would make it readable for everybody; its other files take over the mode of this one.
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW);
    drop(options.open(path).map_err(LedgerError::file("open", path))?);
    let failed = LedgerError::database("open the ledger", path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(&failed)?;
    db.busy_timeout(Duration::from_millis(500))
        // Until it is known to be whole, the file is evidence: nothing is moved about in it.
        .and_then(|()| db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true))
        .and_then(|_| set_up(&db))
        .map_err(failed)?;
    Ok(db)
}

/// The lock is taken before the first access in WAL mode: then there is no shared memory, and no
/// other program can hold up a write.
fn set_up(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA synchronous = NORMAL;
         PRAGMA journal_size_limit = 16777216;
         PRAGMA wal_autocheckpoint = 4000;
         PRAGMA temp_store = MEMORY;
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;",
    )
}

/// Whether a file is one that [`open`] takes, by its head alone: another process may have it open.
/// A file that is none, or no database, is taken.
pub(super) fn look(path: &Path) -> Result<(), LedgerError> {
    let mut head = [0; 72];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    let number =
        |at| i64::from(head.iter().skip(at).take(4).fold(0u32, |n, b| n << 8 | u32::from(*b)));
    if read.is_err() || !head.starts_with(b"SQLite format 3\0") {
        return Ok(());
    }
    // The offsets are those of the database header of SQLite's file format.
    recognise(path, number(68), number(60), true).map(drop)
}

/// The application, the version and the number of tables that a file says it has.
fn head(db: &Connection) -> rusqlite::Result<(i64, i64, i64)> {
    let number = |query| db.query_row(query, [], |row| row.get(0));
    Ok((
        number("PRAGMA application_id")?,
        number("PRAGMA user_version")?,
        number("SELECT count(*) FROM sqlite_schema")?,
    ))
}

/// A file of this program, or a new one: then true.
fn recognise(
    path: &Path,
    application: i64,
    version: i64,
    is_empty: bool,
) -> Result<bool, LedgerError> {
    let path = path.to_owned();
    match application {
        APPLICATION if ![FORMER, VERSION].contains(&version) => {
            Err(LedgerError::OtherVersion { path, found: version, known: VERSION })
        }
        APPLICATION => Ok(false),
        0 if is_empty && version == 0 => Ok(true),
        _ => Err(LedgerError::Foreign { path }),
    }
}

fn make_tables(db: &mut Connection) -> rusqlite::Result<()> {
    // Each setting is kept in the file; SQLite answers with the one that took effect.
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some(format!("the journal mode stays '{mode}'")),
        ));
    }
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == VERSION {
        return Ok(());
    }
    flushed(db, |transaction| {
        transaction.execute_batch(if version == FORMER { UPGRADE } else { TABLES })?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)
    })
}

/// Does this in one step that survives a power cut.
fn flushed(
    db: &mut Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    db.execute_batch("PRAGMA synchronous = FULL")?;
    let transaction = db.transaction()?;
    work(&transaction)?;
    transaction.commit()?;
    db.execute_batch("PRAGMA synchronous = NORMAL")
}

/// Sets a corrupt ledger aside, and takes over from it what can still be read.
fn start_anew(path: &Path, now: Wall, why: String) -> Result<OpenFile, LedgerError> {
    let salvage = salvage(path);
    let aside = set_aside(path, now)?;
    let mut found = open_whole(path)?;
    let failed = LedgerError::database("start a new ledger", path);
    let proofs = take_over(&mut found.db, &salvage).map_err(failed)?;
    let set_aside = Quarantined { path: aside, why, grants: salvage.records.len(), proofs };
    Ok(OpenFile { records: salvage.records, set_aside: Some(set_aside), ..found })
}

/// Whatever cannot be read is left out.
fn salvage(path: &Path) -> Salvage {
    let Ok(db) = connect(path) else { return Salvage::default() };
    let records = rows::grants(&db).unwrap_or_default().into_iter().flatten().collect();
    let tables = [
        ("proofs", 5, "INSERT OR IGNORE INTO proofs VALUES (?,?,?,?,?)"),
        ("marks", 2, "INSERT OR IGNORE INTO marks VALUES (?,?)"),
    ];
    let used = tables.into_iter().flat_map(|(name, columns, insert)| {
        let rows = table(&db, name, columns).unwrap_or_default();
        rows.into_iter().map(move |row| (insert, row))
    });
    Salvage { records, used: used.collect() }
}

fn table(db: &Connection, name: &str, columns: usize) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut statement = db.prepare(&format!("SELECT * FROM {name}"))?;
    let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect())?;
    // After an error SQLite can go no further.
    Ok(rows.map_while(Result::ok).collect())
}

/// Renames the ledger and its write-ahead log, which belongs to it.
fn set_aside(path: &Path, now: Wall) -> Result<PathBuf, LedgerError> {
    let with = |path: &Path, end: &str| {
        let mut name = OsString::from(path);
        name.push(end);
        PathBuf::from(name)
    };
    let stamp = Timestamp::from_nanosecond(now.as_nanos().into()).unwrap_or_default();
    let stamp = stamp.strftime("%Y%m%dT%H%M%SZ");
    let mut free = (0..1000).map(|count| match count {
        0 => with(path, &format!(".corrupt-{stamp}")),
        _ => with(path, &format!(".corrupt-{stamp}-{count}")),
    });
    let failed = LedgerError::file("set aside", path);
    let aside = free
        .find(|aside| !aside.exists())
        .ok_or_else(|| failed(io::ErrorKind::AlreadyExists.into()))?;
    // The log first: left behind, it would be taken for the new ledger's.
    match fs::rename(with(path, "-wal"), with(&aside, "-wal")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    fs::rename(path, &aside).map_err(&failed)?;
    Ok(aside)
}

/// Writes what was saved; how many proofs that were.
fn take_over(db: &mut Connection, salvage: &Salvage) -> rusqlite::Result<usize> {
    let mut proofs = 0;
    flushed(db, |db| {
        salvage.records.iter().try_for_each(|record| rows::insert(db, record))?;
        for (insert, row) in &salvage.used {
            // A value of a type that the column does not have was not written by this program.
            match db.prepare_cached(insert)?.execute(params_from_iter(row)) {
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                }
                inserted => proofs += inserted?,
            }
        }
        Ok(())
    })?;
    Ok(proofs)
}
