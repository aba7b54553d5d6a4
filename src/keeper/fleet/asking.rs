//! Proofs that the store is asked about before anything opens.

use std::collections::BTreeMap;

use super::Fleet;
use crate::config::{Name, WhenLost};
use crate::engine::Reason;
use crate::ipc::courier::{SharedProof, ToCourier};
use crate::keeper::claim::Claim;
use crate::ledger::Proof;
use crate::proto::duration;
use crate::proto::fleet::ItemId;
use crate::time::{Monotonic, Now, Wall};

/// How many claims may wait at once.
const MOST: usize = 4096;

/// A claim that need not wait any more, and why it is refused, if it is. What stands is for the
/// ledger to decide.
pub(in crate::keeper) type Decided = (Box<Claim>, Result<(), Reason>);

/// What the store is asked.
#[derive(Default)]
pub(super) struct Asking {
    /// The claims that wait, by the numbers of what is asked for them, and how long at the most.
    pub(super) waiting: BTreeMap<u64, (Monotonic, Box<Claim>)>,
    last: u64,
    /// How many were decided without the store.
    pub(super) alone: u64,
}

impl Fleet {
    /// Asks the store whether what proves a claim is unused; `None`: [`poll`](Self::poll) tells.
    pub(in crate::keeper) fn ask(&mut self, now: Now, claim: Box<Claim>) -> Option<Decided> {
        let Some(proof) = &claim.proof else { return Some((claim, Ok(()))) };
        if !self.link.is_live {
            return Some(self.without_store(claim));
        }
        self.asking.last += 1;
        let (ask, proof) = (self.asking.last, self.shared(proof));
        self.send(now, ToCourier::Take { ask: Some(ask), proof });
        // While an answer is overdue nobody waits for another.
        if self.link.is_late || self.asking.waiting.len() >= MOST {
            return Some(self.without_store(claim));
        }
        self.asking.waiting.insert(ask, (now.monotonic + self.settings.wait, claim));
        None
    }

    /// Has the store forget what a key has used ahead of this time.
    pub(in crate::keeper) fn lower(&mut self, now: Now, key: &[u8], stamp: Wall) {
        let id = self.mark(key);
        self.send(now, ToCourier::Lower { id, stamp });
    }

    /// What the store says of a proof.
    pub(super) fn taken(&mut self, now: Now, ask: u64, is_new: bool, decided: &mut Vec<Decided>) {
        if std::mem::take(&mut self.link.is_late) {
            self.turns(now, None);
        }
        let Some((_, claim)) = self.asking.waiting.remove(&ask) else { return };
        decided.push((claim, if is_new { Ok(()) } else { Err(Reason::UsedElsewhere) }));
    }

    /// Decides the claims that the store has not answered in time, or cannot answer any more.
    pub(super) fn decide_overdue(&mut self, now: Now, decided: &mut Vec<Decided>) {
        let is_over = |by: Monotonic| by <= now.monotonic || !self.link.is_live;
        let overdue: Vec<_> =
            self.asking.waiting.extract_if(.., |_, (by, _)| is_over(*by)).collect();
        if overdue.is_empty() {
            return;
        }
        if self.link.is_live && !std::mem::replace(&mut self.link.is_late, true) {
            let wait = duration::format(self.settings.wait);
            self.turns(now, Some(format!("it has not answered within {wait}")));
        }
        decided.extend(overdue.into_iter().map(|(_, (_, claim))| self.without_store(claim)));
    }

    fn without_store(&mut self, claim: Box<Claim>) -> Decided {
        self.asking.alone += 1;
        let outcome = match self.settings.when_lost {
            WhenLost::Alone => Ok(()),
            WhenLost::Refuse => Err(Reason::StoreLost),
        };
        (claim, outcome)
    }

    /// A proof by the name that every gateway has for it.
    pub(super) fn shared(&self, proof: &Proof) -> SharedProof {
        match proof {
            Proof::Monotonic { key, stamp } => {
                SharedProof::Highest { id: self.mark(key), stamp: *stamp }
            }
            Proof::Once { door, client, kind, bytes, until } => {
                let client = client.as_ref().map_or("", Name::as_str);
                let mut thing = format!("once {kind} {door} {client} ").into_bytes();
                thing.extend(bytes.expose());
                SharedProof::Once { id: self.settings.key.id(&thing), until: *until }
            }
        }
    }

    fn mark(&self, key: &[u8]) -> ItemId {
        self.settings.key.id(&[b"mark ", key].concat())
    }
}
