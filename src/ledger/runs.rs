//! The latest run and how it ended: whether a power cut may have taken what was not flushed.

use rusqlite::{OptionalExtension, params};

use super::{Durability, Ledger, LedgerError};
use crate::time::{BootId, Monotonic, Now};

impl Ledger {
    /// Notes that a run begins in this boot; [`end`](Self::end) that it has ended. `set_aside`: the
    /// ledger before this one was corrupt.
    ///
    /// Returns the time of this boot before which stamps may have been used though the ledger does
    /// not say so: what was written without a flush, before a power cut. `None`: it says all.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn begin(
        &mut self,
        now: Now,
        boot: BootId,
        set_aside: bool,
    ) -> Result<Option<Monotonic>, LedgerError> {
        // Where it does not say how the run before ended.
        let unknown = match set_aside {
            true => Some(now.monotonic),
            false => (!self.is_new).then_some(Monotonic::ZERO),
        };
        self.run("note the start", Durability::PowerLoss, |db| {
            let last: Option<(String, bool, Option<i64>)> = db
                .query_row("SELECT boot, ended, missing FROM runs", [], |row| row.try_into())
                .optional()?;
            let missing = match last {
                None => unknown,
                // A killed process is not a power cut: what it wrote is there.
                Some((of, _, missing)) if of == boot.to_string() => {
                    missing.and_then(|nanos| u64::try_from(nanos).ok()).map(Monotonic::from_nanos)
                }
                Some((_, true, _)) => None,
                Some(_) => Some(Monotonic::ZERO),
            };
            let run = "INSERT OR REPLACE INTO runs (one, boot, ended, missing) VALUES (1, ?, 0, ?)";
            db.execute(run, params![boot, missing])?;
            Ok(missing)
        })
    }

    /// Notes that the run has ended, and brings all that was written to the disk.
    ///
    /// # Errors
    /// [`LedgerError`]: then the next boot takes it for a power cut.
    pub fn end(&mut self) -> Result<(), LedgerError> {
        self.run("note the end", Durability::PowerLoss, |db| {
            db.execute("UPDATE runs SET ended = 1", []).map(drop)
        })
    }
}
