//! Lockouts that watchers have reported, which hold for the watchers that come after them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::{Config, Door, Name};
use crate::control::LockStatus;
use crate::engine::{DoorId, LockedSource};
use crate::time::Monotonic;

/// How many are remembered: more are locked out only where addresses are spoofed.
const MOST: usize = 1024;

/// The sources that are not listened to, at a door or at all, and until when. Bounded: those that
/// come when it is full are not remembered, so that nobody can push out his own lock with others'.
#[derive(Debug, Default)]
pub(super) struct LockoutTable(BTreeMap<(IpAddr, Option<Name>), Monotonic>);

impl LockoutTable {
    /// Takes note of a lock that a watcher has found due, or another gateway. It lasts no longer than
    /// the configuration says; until when, where it is remembered.
    pub(super) fn note(
        &mut self,
        now: Monotonic,
        config: &Config,
        door: Option<&Door>,
        source: IpAddr,
        until: Monotonic,
    ) -> Option<Monotonic> {
        let rule = door.map_or(config.settings.lockout, |door| door.recognition.lockout);
        let lasts = rule.map_or(Duration::ZERO, |rule| rule.lasts);
        self.0.retain(|_, until| *until > now);
        let key = (source, door.map(|door| door.name().clone()));
        let until = until.min(now + lasts);
        if until <= now || (self.0.len() >= MOST && !self.0.contains_key(&key)) {
            return None;
        }
        let known = self.0.entry(key).or_insert(until);
        *known = until.max(*known);
        Some(*known)
    }

    /// What a watcher for this configuration has to know.
    pub(super) fn of(&self, now: Monotonic, config: &Config) -> Vec<LockedSource> {
        let lock = |(source, door, until)| lock_of(config, source, door, until);
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

/// A lock as a watcher for this configuration knows it; `None`: the door is not in it.
pub(super) fn lock_of(
    config: &Config,
    source: IpAddr,
    door: Option<&Name>,
    until: Monotonic,
) -> Option<LockedSource> {
    let door = match door {
        None => None,
        Some(name) => Some(DoorId(u32::try_from(config.place_of(name)?).ok()?)),
    };
    Some(LockedSource { door, source, until })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{self, load};

    const HOUR: Duration = Duration::from_secs(3600);

    fn config(doors: &str) -> Config {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(file.path(), doors).unwrap();
        load(file.path(), &load::Options { insecure_permissions: true }).unwrap().config
    }

    /// A door whose codes lock out for an hour; whoever fails anywhere is locked out for two.
    fn codes() -> Config {
        config(
            "knockd: {lockout: {failures: 10, within: 10m, for: 2h}}\n\
             doors: {code: {totp: {mode: code, base: 7000}, start_command: 'true'}}",
        )
    }

    fn source(host: u16) -> IpAddr {
        let [high, low] = host.to_be_bytes();
        IpAddr::from([198, 51, high, low])
    }

    fn at(span: Duration) -> Monotonic {
        Monotonic::from_nanos(1_000_000_000_000) + span
    }

    fn locked_at(door: Option<u32>, host: u16, until: Duration) -> LockedSource {
        LockedSource { door: door.map(DoorId), source: source(host), until: at(until) }
    }

    #[test]
    fn a_lock_holds_for_the_watchers_that_come_after() {
        let (mut locks, config) = (LockoutTable::default(), codes());
        let now = at(Duration::ZERO);
        locks.note(now, &config, config.doors.first(), source(1), at(HOUR));
        locks.note(now, &config, None, source(2), at(2 * HOUR));
        let both = [locked_at(Some(0), 1, HOUR), locked_at(None, 2, 2 * HOUR)];
        assert_eq!(locks.of(now, &config), both);
        assert_eq!(locks.of(at(HOUR), &config), both[1..]);
        assert_eq!(locks.of(at(2 * HOUR), &config), []);
    }

    #[test]
    fn a_lock_goes_with_the_name_of_its_door() {
        let (mut locks, now) = (LockoutTable::default(), at(Duration::ZERO));
        locks.note(now, &codes(), codes().doors.first(), source(1), at(HOUR));
        let another = config(
            "doors: {another: {sequence: [7300, 7100, 7200], start_command: 'true'}, \
             code: {totp: {mode: code, base: 7000}, start_command: 'true'}}",
        );
        assert_eq!(locks.of(now, &another), [locked_at(Some(1), 1, HOUR)]);
        let gone =
            config("doors: {another: {sequence: [7300, 7100, 7200], start_command: 'true'}}");
        assert_eq!(locks.of(now, &gone), []);
    }

    #[test]
    fn no_watcher_can_lock_out_for_longer_than_the_configuration_says() {
        let (mut locks, config) = (LockoutTable::default(), codes());
        let now = at(Duration::ZERO);
        locks.note(now, &config, config.doors.first(), source(1), Monotonic::MAX);
        assert_eq!(locks.of(now, &config), [locked_at(Some(0), 1, HOUR)]);
    }

    #[test]
    fn a_lock_is_told_of_with_the_time_that_it_holds_here() {
        let (mut locks, config) = (LockoutTable::default(), codes());
        let (now, door) = (at(Duration::ZERO), codes().doors.remove(0));
        let mut note = |until| locks.note(now, &config, Some(&door), source(1), until);
        assert_eq!(note(at(HOUR / 2)), Some(at(HOUR / 2)));
        assert_eq!(note(at(2 * HOUR)), Some(at(HOUR)));
        assert_eq!(note(at(HOUR / 2)), Some(at(HOUR)), "another gateway does not shorten it");
    }

    #[test]
    fn where_the_configuration_locks_nobody_out_no_other_gateway_does() {
        let mut locks = LockoutTable::default();
        let config =
            config("doors: {plain: {sequence: [7300, 7100, 7200], start_command: 'true'}}");
        for door in [None, config.doors.first()] {
            assert_eq!(locks.note(at(Duration::ZERO), &config, door, source(1), at(HOUR)), None);
        }
        assert_eq!(locks.status(at(Duration::ZERO)).len(), 0);
    }

    #[test]
    fn of_too_many_those_stay_that_came_first_until_they_end() {
        let (mut locks, config) = (LockoutTable::default(), codes());
        for host in 0..=MOST as u16 {
            let now = at(Duration::from_secs(host.into()));
            locks.note(now, &config, config.doors.first(), source(host), now + HOUR);
        }
        let now = at(Duration::from_secs(MOST as u64));
        assert_eq!(locks.status(now).len(), MOST);
        assert!(!locks.forget(now, source(MOST as u16)));
        assert!(locks.forget(now, source(0)));
        let later = at(HOUR);
        locks.note(later, &config, config.doors.first(), source(5000), later + HOUR);
        assert!(locks.forget(later, source(5000)));
    }
}
