//! The ledger with its error policy: the first failed write is logged, none is fatal.

use std::path::Path;
use std::time::Duration;

use tracing::{error, info};

use crate::engine::UncleanStart;
use crate::grants::{GrantChange, GrantId, GrantRecord, GrantState, OpenedBy};
use crate::ledger::{
    Ahead, Durability, HistoryEntry, HistoryEvent, Ledger, LedgerError, OpenLedger, Proof,
    Quarantined, Retention, Written,
};
use crate::time::{BootId, Monotonic, Now, Wall};

/// How often what need not be kept is looked for, and how soon again when there is more.
const TIDY: Duration = Duration::from_secs(600);
const TIDY_MORE: Duration = Duration::from_millis(200);

/// The ledger, with what the keeper knows of it.
pub(super) struct Journal {
    /// To read the history.
    pub(super) ledger: Ledger,
    pub(super) boot: BootId,
    /// What may have been used though it does not say so.
    pub(super) missing: UncleanStart,
    /// Whether the last write failed: each failure is one line, however many follow.
    pub(super) is_failing: bool,
    pub(super) next_tidy: Monotonic,
}

impl Journal {
    /// Opens the ledger; gives the grants that have not closed.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub(super) fn open(
        state_dir: &Path,
        boot: BootId,
        now: Now,
    ) -> Result<(Self, Vec<GrantRecord>), LedgerError> {
        let OpenLedger { mut ledger, records, set_aside } = Ledger::open(state_dir, now.wall)?;
        let missing = UncleanStart(ledger.begin(now, boot, set_aside.is_some())?);
        if let Some(Quarantined { path, why, grants, proofs }) = set_aside {
            error!(
                "the ledger was corrupt ({why}): it is set aside as {}, and a new one begins, with \
                 {grants} grants and {proofs} used proofs that could be saved",
                path.display()
            );
        }
        let next_tidy = now.monotonic + TIDY;
        Ok((Self { ledger, boot, missing, is_failing: false, next_tidy }, records))
    }

    /// Nothing more will be written.
    pub(super) fn close(mut self) {
        let written = self.ledger.end();
        self.log_failure(written);
    }

    /// Records what has been asked for, before or after it happens, and uses up its proof. `None`:
    /// it could not be written, which has been logged; what it is about must not be open.
    pub(super) fn write(
        &mut self,
        changes: &[GrantChange],
        proof: Option<&Proof>,
        durability: Durability,
    ) -> Option<Written> {
        let written = self.ledger.write(changes, proof, durability);
        self.log_recovery(written)
    }

    /// Records one change that proves itself. False: it could not be written.
    pub(super) fn record(&mut self, change: GrantChange, durability: Durability) -> bool {
        self.write(&[change], None, durability) == Some(Written::New)
    }

    /// Records how far a grant has come, before what the state names begins.
    pub(super) fn advance(&mut self, id: GrantId, state: GrantState, durability: Durability) {
        let written = self.ledger.advance(id, state, durability);
        self.log_failure(written);
    }

    /// Removes the record of a grant that is over.
    pub(super) fn forget(&mut self, id: GrantId) {
        let written = self.ledger.forget(id);
        self.log_failure(written);
    }

    /// Adds to the history. False: it could not be written.
    pub(super) fn append(&mut self, entry: &HistoryEntry) -> bool {
        let written = self.ledger.append(entry);
        self.log_recovery(written).is_some()
    }

    /// What was used lately, for others to know; nothing where it cannot be read, which is logged.
    pub(super) fn recent_proofs(&mut self, marks_since: Wall, now: Wall) -> Vec<Proof> {
        let read = self.ledger.recent_proofs(marks_since, now);
        self.log_failure(read).unwrap_or_default()
    }

    /// Forgets what a client has used ahead of its time, and notes it in the history. How much that
    /// was; `None`: it could not be written.
    pub(super) fn forget_ahead(&mut self, now: Now, ahead: &Ahead) -> Option<usize> {
        let forgotten = self.ledger.forget_ahead(ahead).and_then(|count| {
            if count == 0 {
                return Ok(count);
            }
            self.ledger.append(&HistoryEntry {
                at: now.wall,
                door: None,
                network: None,
                client: Some(ahead.client.clone()),
                by: Some(OpenedBy::Knockctl),
                event: HistoryEvent::ClientReset,
                detail: format!("{count} proofs of client '{}' forgotten", ahead.client),
            })?;
            Ok(count)
        });
        self.log_failure(forgotten)
    }

    /// What adds to the ledger shows that it is well; to forget what is not there needs no room.
    fn log_recovery<T>(&mut self, written: Result<T, LedgerError>) -> Option<T> {
        if written.is_ok() && std::mem::take(&mut self.is_failing) {
            info!("the ledger can be written again");
        }
        self.log_failure(written)
    }

    /// Logs the first of several failures; `None`: it is one.
    fn log_failure<T>(&mut self, written: Result<T, LedgerError>) -> Option<T> {
        if let Err(why) = &written
            && !std::mem::replace(&mut self.is_failing, true)
        {
            error!(
                "the ledger: {why}; nothing opens that cannot be recorded, what is open still closes"
            );
        }
        written.ok()
    }

    /// Forgets a little of what need not be kept, when it is time.
    pub(super) fn poll(&mut self, now: Now) {
        if self.next_tidy > now.monotonic {
            return;
        }
        let more = self.ledger.tidy(now.wall, Retention::default());
        let has_more = self.log_failure(more) == Some(true);
        self.next_tidy = now.monotonic + if has_more { TIDY_MORE } else { TIDY };
    }
}
