//! The ledger: the durable record of open grants, of what was already used, and of what happened.
//!
//! SQLite in `state_dir/ledger.db`, in WAL mode. A committed write survives a killed process; one
//! that was [flushed](Durability::PowerLoss) also a power cut. One process at a time may have it
//! open.

mod error;
mod history;
mod rows;
mod runs;
mod schema;
#[cfg(test)]
mod tests;
mod values;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::Flock;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use rusqlite::{Connection, OptionalExtension, params};

pub use self::error::LedgerError;
pub use self::history::{HistoryEntry, HistoryEvent, Query};
use crate::config::Name;
use crate::grants::{GrantChange, GrantRecord};
use crate::proto::Secret;
use crate::sys::clock;
use crate::sys::lock_file::{self, LockFileError};
use crate::time::Wall;

/// The name of the ledger's file in the state directory.
pub const FILE: &str = "ledger.db";

/// The durability of a write: what it has to survive.
///
/// Measured (`cargo bench --bench ledger`, two cores, a virtual disk): recording a grant takes 16
/// µs with `Crash` and 210 µs with `PowerLoss`, with a proof 18 µs and 200 µs; a line of history 6
/// µs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Crash,
    /// Before a command runs, and before anything opens on a proof that could be used again after a
    /// power cut.
    PowerLoss,
}

/// A proof: something that may be used once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// These bytes, once: a TOTP step, a line of a list, an fwknop digest.
    Once {
        door: Name,
        client: Option<Name>,
        /// What sort of proof it is; each sort has its own bytes.
        kind: &'static str,
        /// An unused one is a secret.
        bytes: Secret,
        /// When it stops proving anything and need not be remembered; `None`: never.
        until: Option<Wall>,
    },
    /// A stamp later than the latest that this public key has used.
    Monotonic { key: [u8; 32], stamp: Wall },
}

/// The bounds of what a client can have used by now; whatever lies beyond it can be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    pub client: Name,
    /// Its public keys.
    pub keys: Vec<[u8; 32]>,
    /// The latest stamp that is taken by now.
    pub stamp: Wall,
    /// The latest step that holds by now, at each door.
    pub steps: Vec<(Name, u64)>,
}

/// The outcome of a write that needed a proof.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is recorded, and the proof, if there was one, is used up.
    New,
    /// The proof was used before. Nothing is recorded, nothing may open.
    Used,
}

/// The retention of the history: how much of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub age: Duration,
    pub rows: u32,
}

/// One year, and 100,000 rows (some 20 MB).
impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_secs(365 * 24 * 3600), rows: 100_000 }
    }
}

/// A ledger that could not be read any more, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it is now.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// How many grants could be taken over from it.
    pub grants: usize,
    /// How many used proofs and stamps could be taken over from it; without them, what was used
    /// may be used again.
    pub proofs: usize,
}

/// A ledger that has just been opened, and what it knew.
#[must_use]
#[derive(Debug)]
pub struct OpenLedger {
    pub ledger: Ledger,
    /// The grants that have not closed, the oldest first.
    pub records: Vec<GrantRecord>,
    /// There was a corrupt ledger: say so loudly.
    pub set_aside: Option<Quarantined>,
}

/// The open ledger. Nobody else can open it until this is dropped or the process ends.
///
/// Whoever gets an error from a write must not open what it was about; what is open still closes.
#[derive(Debug)]
pub struct Ledger {
    db: Connection,
    path: PathBuf,
    is_new: bool,
    durability: Durability,
    /// How long writes took, in seconds.
    pub write_times: Histogram,
    // The file stays: were it removed, two processes could each lock a file of their own.
    _lock: Flock<File>,
}

impl Ledger {
    /// Opens the ledger in a state directory, or makes one. `now` dates what is set aside.
    ///
    /// # Errors
    /// [`LedgerError::InUse`] when another process has it open; [`LedgerError::OtherVersion`] and
    /// [`LedgerError::Foreign`] when it is not this program's to write; otherwise what the file
    /// system says. A corrupt one is no error: see [`Quarantined`].
    pub fn open(state_dir: &Path, now: Wall) -> Result<OpenLedger, LedgerError> {
        let path = state_dir.join("lock");
        let (lock, _pid_written) = lock_file::lock(&path, 0o600).map_err(|error| match error {
            LockFileError::Held { pid } => LedgerError::InUse { pid, dir: state_dir.to_owned() },
            LockFileError::File { doing, source } => LedgerError::File { doing, path, source },
        })?;
        let path = state_dir.join(FILE);
        let schema::OpenFile { db, records, is_new, set_aside } = schema::open(&path, now)?;
        let durability = Durability::Crash;
        let write_times = Histogram::new(exponential_buckets(1e-5, 4.0, 10));
        let ledger = Self { db, path, is_new, durability, write_times, _lock: lock };
        Ok(OpenLedger { ledger, records, set_aside })
    }

    /// Whether [`open`](Self::open) would refuse the ledger of a state directory for what it is.
    /// Nothing is made, changed or locked.
    ///
    /// # Errors
    /// [`LedgerError::OtherVersion`] and [`LedgerError::Foreign`].
    pub fn check(state_dir: &Path) -> Result<(), LedgerError> {
        schema::look(&state_dir.join(FILE))
    }

    /// Records grants and later deadlines, and uses up what proves the right to them, in one step.
    ///
    /// A grant takes the place of an earlier record for the same place, which has closed.
    ///
    /// # Errors
    /// [`LedgerError`]: then nothing is recorded and the proof is as unused as before.
    pub fn write(
        &mut self,
        changes: &[GrantChange],
        proof: Option<&Proof>,
        durability: Durability,
    ) -> Result<Written, LedgerError> {
        self.run("record a grant", durability, |db| {
            // A statement of its own is a transaction of its own.
            match (changes, proof) {
                ([change], None) => return rows::change(db, change).map(|()| Written::New),
                ([], Some(proof)) => return rows::use_up(db, proof),
                _ => {}
            }
            // Dropped without a commit, it leaves everything as it was.
            let transaction = db.transaction()?;
            if let Some(proof) = proof
                && rows::use_up(&transaction, proof)? == Written::Used
            {
                return Ok(Written::Used);
            }
            changes.iter().try_for_each(|change| rows::change(&transaction, change))?;
            transaction.commit().map(|()| Written::New)
        })
    }

    /// Forgets a little of what need not be kept, and moves the write-ahead log into the file.
    ///
    /// To be called now and then while nothing else is to be done; takes a few milliseconds.
    /// Returns whether there is more to do.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn tidy(&mut self, now: Wall, keep: Retention) -> Result<bool, LedgerError> {
        self.run("tidy up", Durability::Crash, |db| {
            let pruned = history::prune(db, now, keep)?;
            let lapsed = rows::prune_proofs(db, now)?;
            db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).optional()?;
            Ok(pruned || lapsed)
        })
    }

    /// Does something so that it survives this much.
    ///
    /// In WAL mode `FULL` syncs the log at each commit, `NORMAL` only when it is moved into the
    /// file.
    fn run<T>(
        &mut self,
        doing: &'static str,
        durability: Durability,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let began = clock::now().monotonic;
        if self.durability != durability {
            let pragma = match durability {
                Durability::Crash => "PRAGMA synchronous = NORMAL",
                Durability::PowerLoss => "PRAGMA synchronous = FULL",
            };
            self.done("set how writes are flushed", self.db.execute(pragma, params![]))?;
            self.durability = durability;
        }
        let done = work(&mut self.db);
        self.write_times.observe(clock::now().monotonic.since(began).as_secs_f64());
        self.done(doing, done)
    }

    /// Says of what failed what it was for.
    fn done<T>(&self, doing: &'static str, done: rusqlite::Result<T>) -> Result<T, LedgerError> {
        done.map_err(LedgerError::database(doing, &self.path))
    }
}
