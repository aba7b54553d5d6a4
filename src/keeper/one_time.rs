//! One-time sequences at work: a line is struck out before its door opens, and the next one takes
//! its place.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::claim::{Claim, one_time_proof, used_line};
use super::one_time_files::{StrikeError, strike_out};
use super::state::Keeper;
use crate::config::Name;
use crate::engine::Reason;
use crate::fleet::News;
use crate::ledger::{Durability, Proof};
use crate::time::Now;

/// From here on each use says how many are left.
const FEW: usize = 3;

impl Keeper {
    /// Opens what a one-time sequence opens. Its line is struck out, durably, before that: one
    /// that cannot be opens nothing.
    pub(super) fn use_line(&mut self, now: Now, claim: &Claim) {
        let recognition = &claim.door.recognition;
        let Some(one_time) = &claim.door.one_time else { return };
        match strike_out(one_time, &recognition.sequence, self.cli.options()) {
            Ok(left) => {
                say_left(claim.door.name(), left);
                if let (Some(fleet), Some(Proof::Once { door, bytes, .. })) =
                    (&mut self.fleet, &claim.proof)
                {
                    let (door, line) = (door.clone(), bytes.expose().to_vec());
                    fleet.tell(now, News::Struck { door, line }, false);
                }
                if let Err(reason) = self.doors.carry_out(now, claim) {
                    // It has been logged.
                    self.watchers.intake.refused(claim, reason);
                }
            }
            Err(why @ StrikeError::NotCurrent(_)) => {
                warn!(door = %claim.door.name(), "{why}");
                let reason = self.doors.refuse_all(now, claim, Reason::Used);
                self.watchers.intake.refused(claim, reason);
            }
            Err(why) => {
                error!(door = %claim.door.name(), "{why}");
                self.doors.fail(now, claim, "its line could not be struck out");
            }
        }
        self.take_up_lists(now);
    }

    /// Another gateway has used the line of a list that this proves. It opens nothing here any more,
    /// and is struck out where it is the one that counts.
    pub(super) fn strike(&mut self, now: Now, door: &Name, line: &[u8]) {
        let config = Arc::clone(&self.watchers.config);
        let Some(door) = config.door(door) else { return };
        let Some(one_time) = &door.one_time else { return };
        // Lines may be told of in another order than they were used in.
        let _logged =
            self.doors.journal.write(&[], Some(&used_line(door, line)), Durability::PowerLoss);
        if one_time_proof(one_time.line, door) != line {
            return;
        }
        match strike_out(one_time, &door.recognition.sequence, self.cli.options()) {
            Ok(left) => {
                info!(door = %door.name(), "a line is struck out that another gateway has used");
                say_left(door.name(), left);
            }
            // It is struck out already, and a watcher starts that knows.
            Err(StrikeError::NotCurrent(_)) => {}
            Err(why) => error!(door = %door.name(), "{why}"),
        }
        self.take_up_lists(now);
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

fn say_left(door: &Name, left: usize) {
    let door = door.as_str();
    match left {
        0 => warn!(door, "no one-time sequence is left: the door stays shut for new knocks"),
        1 => warn!(door, "1 one-time sequence is left"),
        2..=FEW => warn!(door, "{left} one-time sequences are left"),
        _ => info!(door, "{left} one-time sequences are left"),
    }
}
