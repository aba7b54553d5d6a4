//! Reset of a client (`knockctl client reset`): what it has used in the future is forgotten.

use super::state::Keeper;
use crate::config::Name;
use crate::control::{EventLine, What};
use crate::ledger::Ahead;
use crate::proto::duration;
use crate::sys::clock;
use crate::time::Now;

impl Keeper {
    /// Forgets what lies further ahead than the client can have used by now: a stamp that is
    /// later than any that is taken now, and steps that do not hold yet. What may be used now
    /// stays used, so nothing that was caught on the way opens anything once more.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn reset_client(&mut self, now: Now, name: &Name) -> Result<String, String> {
        let config = &self.watchers.config;
        let client = config.client(name);
        let client = client.ok_or_else(|| format!("there is no client '{name}'"))?;
        let spa = client.spa.iter().flat_map(|spa| &spa.keys);
        let doors = config.doors.iter().filter(|door| client.doors.contains(door.name()));
        let ahead = Ahead {
            client: name.clone(),
            keys: spa.map(|key| *key.as_bytes()).collect(),
            stamp: now.wall + config.settings.spa.max_ahead,
            steps: doors
                .filter_map(|door| {
                    Some((door.name().clone(), *door.recognition.totp?.window(now.wall).end()))
                })
                .collect(),
        };
        let again = duration::format(config.settings.spa.max_ahead);
        let unwritten = || "the ledger cannot be written, and knockd's log says why".to_owned();
        let count = self.doors.journal.forget_ahead(now, &ahead).ok_or_else(unwritten)?;
        if let Some(fleet) = &mut self.fleet {
            ahead.keys.iter().for_each(|key| fleet.lower(now, key, ahead.stamp));
        }
        // The one at work may remember it too.
        self.watchers.renew(now.monotonic).map_err(|why| format!("no watcher starts: {why}"))?;
        if count == 0 {
            return Ok(format!("'{name}' has used nothing ahead of its time"));
        }
        let what = format!("what client '{name}' has used ahead of its time is forgotten: {count}");
        let reset = What::ClientReset { count: Some(count) };
        let line = EventLine::new(clock::now().wall, None, None, reset, what);
        self.doors.log_event(line.of_client(Some(name)));
        Ok(format!(
            "what '{name}' had used ahead of its time is forgotten; it gets in again in {again}"
        ))
    }
}
