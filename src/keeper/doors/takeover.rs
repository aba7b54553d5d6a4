//! What comes from before: the grants of an earlier keeper, and those of another configuration.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use tracing::{debug, error, info};

use super::{Doors, kept};
use crate::config::{Config, Name};
use crate::firewall::command::Commands;
use crate::grants::{Closing, Deed, Expired, Grants, Listed, Record, Recovered};
use crate::keeper::alerts::Alerts;
use crate::keeper::books::Books;
use crate::keeper::sets::{self, Kept, Sets, SetsError};
use crate::ledger::Flush;
use crate::time::{Monotonic, Now};

impl Doors {
    /// Takes up what an earlier keeper has left, and puts in place what the configuration needs.
    ///
    /// # Errors
    /// When the firewall cannot be set up; then nothing has been changed.
    pub(in crate::keeper) fn start(
        now: Now,
        config: &Config,
        books: Books,
        records: Vec<Record>,
        locked_until: Option<Monotonic>,
    ) -> Result<Self, SetsError> {
        let mut grants = Grants::new();
        let held = sets::standing(config)?;
        let effects = grants.recover(now, books.boot(), records, held);
        let keep = kept(&grants, now.monotonic);
        let sets = Sets::set_up(config, &keep, now.monotonic, locked_until)?;
        let mut doors = Self {
            grants,
            commands: Commands::new(&config.settings.state_dir),
            sets,
            books,
            alerts: Alerts::new(config),
            jobs: HashMap::new(),
            last_job: 0,
        };
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
                let Some((door, address, by)) = self.whose(id) else { return };
                info!(source = %address, door = %door, "still open from before");
                let Some((element, left)) = restore else { return };
                // The guard's elements came back with its table.
                if !element.is_guards() {
                    let kept = Kept { door, address, by, element, left };
                    if let Err(why) = self.sets.open(&kept) {
                        error!(source = %address, door = %kept.door, "cannot be restored: {why}");
                    }
                }
            }
            Recovered::Adopt(record) => {
                let (address, door) = (record.address, record.door.clone());
                info!(source = %address, door = %door, "still open from before");
                if !self.books.record(&record, Flush::No) {
                    error!(source = %address, door = %door, "cannot be recorded");
                }
            }
            Recovered::Close { id, close, delete } => {
                let Some((door, address, _)) = self.whose(id) else { return };
                let expired = Expired { id, door, address, close, delete };
                self.end(now, expired, "closing what an earlier knockd left open");
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
        self.close_gone(now, config);
        let open: HashSet<&Name> = self.grants.list().iter().map(|listed| listed.door).collect();
        self.alerts.reconfigure(config, |door| open.contains(door));
        Ok(())
    }

    /// Ends what the kernel no longer lets in, since no door says so any more.
    fn close_gone(&mut self, now: Now, config: &Config) {
        let is_gone = |listed: &Listed<'_>| {
            listed.element.is_some_and(|element| {
                !config.doors.iter().any(|door| {
                    let deed = Deed::of(door, listed.address, None);
                    door.name() == listed.door
                        && deed.is_ok_and(|deed| deed.means.element() == Some(element))
                })
            })
        };
        let gone: Vec<(Name, IpAddr)> = self
            .grants
            .list()
            .into_iter()
            .filter(is_gone)
            .map(|listed| (listed.door.clone(), listed.address))
            .collect();
        for (door, address) in gone {
            if let Some(Closing::Now(expired)) = self.grants.close(&door, address) {
                self.end(now, expired, "closed, since the door is no more");
            }
        }
    }
}
