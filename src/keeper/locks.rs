//! Who is locked out: what one watcher has found holds for those that come after it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::{Config, Name};
use crate::control::LockStatus;
use crate::engine::{DoorId, Lock};
use crate::time::Monotonic;

/// How many are remembered: more are locked out only where addresses are spoofed.
const MOST: usize = 1024;

/// Who is not listened to, at a door or at all, and until when. Bounded.
#[derive(Debug, Default)]
pub(super) struct Locks(BTreeMap<(IpAddr, Option<Name>), Monotonic>);

impl Locks {
    /// Takes note of a lock that a watcher has found due. It lasts no longer than the
    /// configuration says.
    pub(super) fn note(
        &mut self,
        now: Monotonic,
        config: &Config,
        id: DoorId,
        source: IpAddr,
        (until, everywhere): (Monotonic, bool),
    ) {
        let door = config.doors.get(id.0 as usize);
        let (rule, name) = if everywhere {
            (config.settings.lockout, None)
        } else {
            (door.and_then(|door| door.recognition.lockout), door.map(|door| door.name().clone()))
        };
        let lasts = rule.map_or(Duration::ZERO, |rule| rule.lasts);
        self.0.retain(|_, until| *until > now);
        self.0.insert((source, name), until.min(now + lasts));
        if self.0.len() > MOST {
            let first = self.0.iter().min_by_key(|&(_, until)| until).map(|(key, _)| key.clone());
            first.and_then(|key| self.0.remove(&key));
        }
    }

    /// What a watcher for this configuration has to know.
    pub(super) fn of(&self, now: Monotonic, config: &Config) -> Vec<Lock> {
        let lock = |(source, door, until): (IpAddr, Option<&Name>, Monotonic)| {
            let door = match door {
                None => None,
                Some(name) => {
                    let place = config.doors.iter().position(|door| door.name() == name)?;
                    Some(DoorId(u32::try_from(place).ok()?))
                }
            };
            Some(Lock { door, source, until })
        };
        self.holding(now).filter_map(lock).collect()
    }

    /// What the status says.
    pub(super) fn status(&self, now: Monotonic) -> Vec<LockStatus> {
        self.holding(now)
            .map(|(address, door, until)| LockStatus {
                address,
                door: door.cloned(),
                seconds_left: until.since(now).as_secs_f64(),
            })
            .collect()
    }

    /// Forgets that a source is locked out. False: it is not.
    pub(super) fn forget(&mut self, now: Monotonic, source: IpAddr) -> bool {
        let is_locked = self.holding(now).any(|(locked, ..)| locked == source);
        self.0.retain(|(locked, _), _| *locked != source);
        is_locked
    }

    fn holding(&self, now: Monotonic) -> impl Iterator<Item = (IpAddr, Option<&Name>, Monotonic)> {
        self.0
            .iter()
            .filter(move |&(_, &until)| until > now)
            .map(|((source, door), &until)| (*source, door.as_ref(), until))
    }
}
