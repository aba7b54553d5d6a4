//! One-time sequences at work: a line is struck out before its door opens, and the next one takes
//! its place.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::claim::{Claim, line_proof, once};
use super::one_time_files::{StrikeError, strike_out};
use super::state::Keeper;
use crate::config::Name;
use crate::engine::Reason;
use crate::fleet::News;
use crate::ledger::{Durability, Proof};
use crate::proto::Method;
use crate::time::Now;

/// From here on each use says how many are left.
const FEW: usize = 3;

impl Keeper {
    /// Opens what a one-time sequence opens, or gives the reason why not. Its line is struck out,
    /// durably, before that: one that cannot be opens nothing.
    pub(super) fn use_line(&mut self, now: Now, claim: &Claim) -> Option<Reason> {
        let recognition = &claim.door.recognition;
        let one_time = claim.door.one_time.as_ref()?;
        let refused = match strike_out(one_time, &recognition.sequence, self.cli.options()) {
            Ok(left) => {
                let door = claim.door.name().as_str();
                match left {
                    0 => warn!(
                        door,
                        "no one-time sequence is left: the door stays shut for new knocks"
                    ),
                    1 => warn!(door, "1 one-time sequence is left"),
                    2..=FEW => warn!(door, "{left} one-time sequences are left"),
                    _ => info!(door, "{left} one-time sequences are left"),
                }
                if let (Some(fleet), Some(Proof::Once { door, bytes, .. })) =
                    (&mut self.fleet, &claim.proof)
                {
                    let (door, line) = (door.clone(), bytes.expose().to_vec());
                    fleet.tell(now, News::Struck { door, line }, false);
                }
                self.doors.carry_out(now, claim).err()
            }
            Err(why @ StrikeError::NotCurrent(_)) => {
                warn!(door = %claim.door.name(), "{why}");
                Some(self.doors.refuse_all(now, claim, Reason::Used))
            }
            Err(why) => {
                error!(door = %claim.door.name(), "{why}");
                self.doors.fail(now, claim, "its line could not be struck out");
                None
            }
        };
        self.take_up_lists(now);
        refused
    }

    /// Another gateway has used the line of a list that this proves: it opens nothing here any more.
    pub(super) fn strike(&mut self, now: Now, door: &Name, line: &[u8]) {
        let config = Arc::clone(&self.watchers.config);
        let Some(door) = config.door(door).filter(|door| door.one_time.is_some()) else { return };
        let proof = once(door, None, Method::OneTimeSequence, line.to_vec());
        let _logged = self.doors.journal.write(&[], Some(&proof), Durability::PowerLoss);
        self.strike_used(now);
    }

    /// Strikes out the lines that count and that another gateway has used. Lines may be told of in
    /// another order than they were used in, and while a watcher starts.
    pub(super) fn strike_used(&mut self, now: Now) {
        let config = Arc::clone(&self.watchers.config);
        let doors = config.settings.fleet.iter().flat_map(|_| &config.doors);
        for door in doors {
            let is_used = |proof| self.doors.journal.ledger.is_used(&proof);
            let used = door.one_time.as_ref().filter(|_| line_proof(door).is_some_and(is_used));
            let Some(one_time) = used else { continue };
            match strike_out(one_time, &door.recognition.sequence, self.cli.options()) {
                Ok(left) => warn!(door = %door.name(),
                    "a line that another gateway has used is struck out: {left} left"),
                // A watcher starts that knows.
                Err(StrikeError::NotCurrent(_)) => {}
                Err(why) => error!(door = %door.name(), "{why}"),
            }
            self.take_up_lists(now);
        }
    }

    /// Takes up lists that have changed since they were read.
    pub(super) fn look_after_lists(&mut self, now: Now) {
        if self.lists.have_changed(now.monotonic, &self.watchers.config) {
            self.take_up_lists(now);
        }
    }

    /// Reads all lists, and starts a watcher that knows the lines that count now.
    fn take_up_lists(&mut self, now: Now) {
        self.lists.pending = self.watchers.is_changing();
        if self.lists.pending {
            return;
        }
        let current = &self.watchers.config;
        let Some(next) = self.lists.read_into(current, self.cli.options()) else { return };
        let server = self.watchers.server.clone();
        if let Err(why) = self.watchers.start(now.monotonic, Arc::new(next), server) {
            error!("cannot start a watcher: {why}");
            self.lists.pending = true;
        }
    }
}
