//! How the latest run ended: whether a power cut may have taken what was not flushed.

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::nanos;
use crate::time::{BootId, Monotonic};

/// What was there before this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    /// This ledger.
    Ledger,
    /// A ledger that was set aside.
    Corrupt,
}

/// The run before this one.
struct Last {
    boot: String,
    ended: bool,
    missing: Option<Monotonic>,
}

/// From when on this boot's ledger is known to say all; `None`: it always has.
pub(super) fn begin(
    db: &Connection,
    now: Monotonic,
    boot: BootId,
    before: Before,
) -> rusqlite::Result<Option<Monotonic>> {
    let boot = boot.to_string();
    let last = db
        .query_row("SELECT boot, ended, missing FROM runs", [], |row| {
            let missing: Option<i64> = row.get(2)?;
            let missing = missing.and_then(|nanos| u64::try_from(nanos).ok());
            Ok(Last {
                boot: row.get(0)?,
                ended: row.get(1)?,
                missing: missing.map(Monotonic::from_nanos),
            })
        })
        .optional()?;
    let missing = match last {
        None => match before {
            Before::Nothing => None,
            Before::Corrupt => Some(now),
            // Nobody knows how its last run ended.
            Before::Ledger => Some(Monotonic::ZERO),
        },
        // A killed process is not a power cut: what it wrote is there.
        Some(last) if last.boot == boot => last.missing,
        Some(last) if last.ended => None,
        Some(_) => Some(Monotonic::ZERO),
    };
    let nanos = missing.map(|missing| nanos(missing.as_nanos()));
    db.execute(
        "INSERT OR REPLACE INTO runs (one, boot, ended, missing) VALUES (1, ?, 0, ?)",
        params![boot, nanos],
    )?;
    Ok(missing)
}

pub(super) fn end(db: &Connection) -> rusqlite::Result<()> {
    db.execute("UPDATE runs SET ended = 1", []).map(drop)
}
