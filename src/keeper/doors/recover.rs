//! Recovery of grants at start, and what a new configuration ends.

use std::collections::{BTreeMap, HashMap, HashSet};

use tracing::{debug, error, info};

use super::cut::{CutCause, Cuts};
use super::sessions::Sessions;
use super::{Doors, holding};
use crate::config::{Config, Name};
use crate::firewall::command::CommandRunner;
use crate::grants::{
    Action, Grant, GrantChange, GrantKey, GrantRecord, Grants, KernelElement, Recovered, ToClose,
};
use crate::keeper::alerts::Alerts;
use crate::keeper::journal::Journal;
use crate::keeper::kernel_sets::{self, KernelSets, KernelSetsError};
use crate::keeper::metrics::Counts;
use crate::ledger::Durability;
use crate::time::{Monotonic, Now};

/// Why a grant is closed that an earlier keeper has not closed.
pub(super) const FROM_BEFORE: &str = "closing what an earlier knockd left open";

impl Doors {
    /// Takes up what an earlier keeper has left, and puts in place what the configuration needs.
    ///
    /// # Errors
    /// When the firewall cannot be set up; then nothing in it has been changed, and what commands
    /// have opened is still to be [closed](Self::leave).
    pub(in crate::keeper) fn start(
        now: Now,
        config: &Config,
        journal: Journal,
        records: Vec<GrantRecord>,
        locked_until: Option<Monotonic>,
    ) -> Result<Self, Box<(KernelSetsError, Self)>> {
        let settings = &config.settings;
        let mut grants = Grants::default();
        grants.limit(settings.max_grants, settings.max_grants_by_commands);
        let (held, failed) = match kernel_sets::standing(config) {
            Ok(held) => (held, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        let effects = grants.recover(now, journal.boot, records, held);
        let keep = holding(grants.list(), now.monotonic);
        let set_up = |_: ()| KernelSets::set_up(config, &keep, now.monotonic, locked_until);
        let (sets, failed) = match failed.map_or(Ok(()), Err).and_then(set_up) {
            Ok(sets) => (sets, None),
            Err(why) => (KernelSets::none(), Some(why)),
        };
        let mut doors = Self {
            grants,
            commands: CommandRunner::new(&config.settings.state_dir.join("commands")),
            sets,
            sessions: Sessions::default(),
            journal,
            alerts: Alerts::new(config),
            jobs: HashMap::new(),
            last_job: 0,
            ended: Vec::new(),
            gone: HashSet::new(),
            not_closed: BTreeMap::new(),
            logged: Vec::new(),
            lines: HashMap::new(),
            cuts: Cuts::default(),
            news: Vec::new(),
            metrics: Counts::default(),
        };
        if let Some(why) = failed {
            let by_commands =
                |it: &Recovered| matches!(it, Recovered::Close(ToClose { delete: None, .. }));
            effects.into_iter().filter(by_commands).for_each(|it| doors.recovered(now, it));
            return Err(Box::new((why, doors)));
        }
        doors.learn(config);
        effects.into_iter().for_each(|effect| doors.recovered(now, effect));
        doors.close_gone(now, config);
        Ok(doors)
    }

    fn recovered(&mut self, now: Now, effect: Recovered) {
        match effect {
            Recovered::Forget(id) => self.journal.forget(id),
            Recovered::Ended(id, key) => {
                if self.is_cut_when_over(&key) {
                    self.cuts.due.insert((key, CutCause::Expiry));
                }
                debug!(grant = id.0, "a grant of an earlier knockd has ended by itself");
                self.journal.forget(id);
            }
            Recovered::Keep { id, restore } => {
                let Some(GrantKey { door, network, .. }) = self.grants.get(id).map(|it| &it.key)
                else {
                    return;
                };
                info!(source = %network, door = %door, "still open from before");
                // The guard's elements came back with its table.
                if restore
                    && let Some(kept) = self.in_kernel(now, id)
                    && kept.element != KernelElement::Guard
                    && let Err(why) = self.sets.open(&kept, true)
                {
                    error!(source = %network, door = %door, "cannot be restored: {why}");
                }
            }
            Recovered::Adopt(record) => {
                let GrantKey { door, network, .. } = record.key.clone();
                info!(source = %network, door = %door, "still open from before");
                if !self.journal.record(GrantChange::Record(record), Durability::Crash) {
                    error!(source = %network, door = %door, "cannot be recorded");
                }
            }
            Recovered::Close(expired) => {
                self.cut_when_over(expired.id);
                self.end(now, expired, FROM_BEFORE);
            }
        }
    }

    /// Another configuration is at work from now on.
    ///
    /// # Errors
    /// When the firewall cannot be set up for it; then everything stays as it was.
    pub(in crate::keeper) fn reconfigure(
        &mut self,
        now: Now,
        config: &Config,
        locked_until: Option<Monotonic>,
    ) -> Result<(), KernelSetsError> {
        let keep = holding(self.grants.list(), now.monotonic);
        self.sets.replace(config, &keep, now.monotonic, locked_until)?;
        let settings = &config.settings;
        self.grants.limit(settings.max_grants, settings.max_grants_by_commands);
        self.learn(config);
        self.close_gone(now, config);
        let open: HashSet<&Name> = self.grants.list().map(|grant| &grant.key.door).collect();
        self.alerts.reconfigure(config, |door| open.contains(door));
        Ok(())
    }

    /// Ends what the kernel no longer lets in, since no door says so any more, and what was opened
    /// by clients that are no more.
    fn close_gone(&mut self, now: Now, config: &Config) {
        let gone = self.grants.matching(|Grant { key, backend, .. }| {
            let action = config.door(&key.door).map(|door| Action::of(door, key, None, None));
            let element = backend.element();
            element.is_some()
                && !matches!(action, Some(Ok(action)) if action.backend.element() == element)
        });
        self.end_all(now, &gone, None, "closed, since the door is no more");
        let is_gone = |client: &Name| config.client(client).is_none();
        let revoked = self.grants.matching(|it| it.origin.client.as_ref().is_some_and(is_gone));
        self.end_all(now, &revoked, None, "closed, since its client is no more");
    }
}
