//! What comes from before: the grants of an earlier keeper, and those of another configuration.

use std::collections::{BTreeMap, HashMap, HashSet};

use tracing::{debug, error, info};

use super::{Doors, kept};
use crate::config::{Config, Name};
use crate::firewall::command::CommandRunner;
use crate::grants::{
    Change, Deed, Expired, GrantId, Grants, Listed, Place, Record, Recovered, Wanted,
};
use crate::keeper::alerts::Alerts;
use crate::keeper::books::{Books, Outcome};
use crate::keeper::sets::{self, Kept, Sets, SetsError};
use crate::ledger::Flush;
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
        books: Books,
        records: Vec<Record>,
        locked_until: Option<Monotonic>,
    ) -> Result<Self, Box<(SetsError, Self)>> {
        let settings = &config.settings;
        let mut grants = Grants::new();
        grants.limit(settings.max_grants, settings.max_grants_by_commands);
        let (held, failed) = match sets::standing(config) {
            Ok(held) => (held, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        let effects = grants.recover(now, books.boot(), records, held);
        let keep = kept(&grants, now.monotonic);
        let set_up = |_: ()| Sets::set_up(config, &keep, now.monotonic, locked_until);
        let (sets, failed) = match failed.map_or(Ok(()), Err).and_then(set_up) {
            Ok(sets) => (sets, None),
            Err(why) => (Sets::none(), Some(why)),
        };
        let mut doors = Self {
            grants,
            commands: CommandRunner::new(&config.settings.state_dir.join("commands")),
            sets,
            books,
            alerts: Alerts::new(config),
            jobs: HashMap::new(),
            last_job: 0,
            ended: Vec::new(),
            gone: HashSet::new(),
            not_closed: BTreeMap::new(),
            told: Vec::new(),
            lines: HashMap::new(),
        };
        if let Some(why) = failed {
            let by_commands = |it: &Recovered| matches!(it, Recovered::Close { delete: None, .. });
            effects.into_iter().filter(by_commands).for_each(|it| doors.recovered(now, it));
            return Err(Box::new((why, doors)));
        }
        for effect in effects {
            doors.recovered(now, effect);
        }
        doors.close_gone(now, config);
        Ok(doors)
    }

    fn recovered(&mut self, now: Now, effect: Recovered) {
        match effect {
            Recovered::Forget(id) => self.books.forget(id),
            Recovered::Ended(id) => {
                debug!(grant = id.0, "a grant of an earlier knockd has ended by itself");
                self.books.forget(id);
            }
            Recovered::Keep { id, restore } => {
                let Some((place, opener)) = self.whose(id) else { return };
                info!(source = %place.address, door = %place.door, "still open from before");
                let Some((element, left)) = restore else { return };
                // The guard's elements came back with its table.
                if !element.is_guards() {
                    let kept = Kept { place, opener, element, left };
                    if let Err(why) = self.sets.open(&kept, true) {
                        let Place { door, address, .. } = &kept.place;
                        error!(source = %address, door = %door, "cannot be restored: {why}");
                    }
                }
            }
            Recovered::Adopt(record) => {
                let Place { door, address, .. } = record.place.clone();
                info!(source = %address, door = %door, "still open from before");
                let written = self.books.write(&[Change::Record(record)], None, Flush::No);
                if written != Outcome::Recorded {
                    error!(source = %address, door = %door, "cannot be recorded");
                }
            }
            Recovered::Close { id, close, delete } => {
                let Some((place, _)) = self.whose(id) else { return };
                let expired = Expired { id, place, close, delete, again: false };
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
    ) -> Result<(), SetsError> {
        let keep = kept(&self.grants, now.monotonic);
        self.sets.replace(config, &keep, now.monotonic, locked_until)?;
        let settings = &config.settings;
        self.grants.limit(settings.max_grants, settings.max_grants_by_commands);
        self.close_gone(now, config);
        let open: HashSet<&Name> =
            self.grants.list().iter().map(|listed| &listed.place.door).collect();
        self.alerts.reconfigure(config, |door| open.contains(door));
        Ok(())
    }

    /// Ends what the kernel no longer lets in, since no door says so any more, and what was opened
    /// by clients that are no more.
    fn close_gone(&mut self, now: Now, config: &Config) {
        let is_gone = |listed: &Listed<'_>| {
            listed.element.is_some_and(|element| {
                let Place { door, address, source_port } = listed.place;
                let wanted = Wanted { source_port: *source_port, ..Wanted::by(*address) };
                let deed = config.door(door).map(|door| Deed::of(door, &wanted));
                !matches!(deed, Some(Ok(deed)) if deed.means.element() == Some(element))
            })
        };
        let gone: Vec<GrantId> =
            self.grants.list().into_iter().filter(is_gone).map(|listed| listed.id).collect();
        self.end_all(now, &gone, "closed, since the door is no more");
        let is_gone = |client: &Name| config.client(client).is_none();
        let revoked = self.grants.of(|_, opener| opener.client.as_ref().is_some_and(is_gone));
        self.end_all(now, &revoked, "closed, since its client is no more");
    }
}
