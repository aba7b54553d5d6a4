//! The latest run and how it ended: whether a power cut may have taken what was not flushed.

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::integer;
use crate::time::{BootId, Monotonic};

/// From when on this boot's ledger is known to say all; `None`: it always has. `unknown`: what that
/// is where it does not say how the run before ended.
pub(super) fn begin(
    db: &Connection,
    boot: BootId,
    unknown: Option<Monotonic>,
) -> rusqlite::Result<Option<Monotonic>> {
    let boot = boot.to_string();
    let last: Option<(String, bool, Option<i64>)> = db
        .query_row("SELECT boot, ended, missing FROM runs", [], |row| row.try_into())
        .optional()?;
    let missing = match last {
        None => unknown,
        // A killed process is not a power cut: what it wrote is there.
        Some((of, _, missing)) if of == boot => {
            missing.and_then(|nanos| u64::try_from(nanos).ok()).map(Monotonic::from_nanos)
        }
        Some((_, true, _)) => None,
        Some(_) => Some(Monotonic::ZERO),
    };
    let nanos = missing.map(|missing| integer(missing.as_nanos()));
    db.execute(
        "INSERT OR REPLACE INTO runs (one, boot, ended, missing) VALUES (1, ?, 0, ?)",
        params![boot, nanos],
    )?;
    Ok(missing)
}

pub(super) fn end(db: &Connection) -> rusqlite::Result<()> {
    db.execute("UPDATE runs SET ended = 1", []).map(drop)
}
