//! Sources that have failed too often, and for how long nobody listens to them.

use std::collections::{BTreeSet, HashMap};
use std::hash::RandomState;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;

use lru::LruCache;
use smallvec::{SmallVec, smallvec};

use super::{DoorId, LockedSource};
use crate::config::Lockout;
use crate::proto::Network;
use crate::time::Monotonic;

/// How much more of an IPv6 /48 than of a /64 may fail: whoever has one has 65536 of them.
const PER_SITE: u32 = 10;
/// How many networks that have opened a door lately have room of their own.
const PROVEN: NonZeroUsize = NonZeroUsize::new(1024).expect("is not zero");

/// The failures and locks of all sources: at a door, or everywhere.
///
/// Source addresses can be invented at will, so no number of strangers may push out what is known
/// of somebody who guesses: what counts stays until it counts no more, and locks have room of
/// their own. All of it is bounded.
///
/// Where there is no room for a newcomer, somebody makes up sources by the ten thousand. From then
/// on all newcomers of a door together are one source, with one budget: whoever guesses gains one
/// more source by such a flood, however many it has, and not a second try for each. That lets
/// strangers shut the door to newcomers while they keep at it. It does not shut out those who are
/// counted already, nor the networks from which a code was right lately, for which no stranger can
/// take the room; and only doors that open by codes count like this, since a code is short enough
/// to be guessed.
///
/// Addresses are an attacker's choice, so they are hashed with a random key.
#[derive(Debug)]
pub(super) struct Lockouts {
    failed: Lapsing<FailureRecord>,
    locked: Lapsing<()>,
    /// Where a code was right lately.
    proven: LruCache<LockoutKey, (), RandomState>,
    /// How many knocks, failures and locks there was no room for.
    pub(super) crowded: u64,
}

/// The key of a count of failures: the network, and at which door; `None`: everywhere.
type LockoutKey = (Option<DoorId>, Network);

/// The failures that are counted against one source.
#[derive(Debug, Default)]
struct FailureRecord {
    /// Knocks that have come to nothing, and are not yet a failure.
    knocks: usize,
    /// When it failed, oldest first. As many as the limit at most.
    failures: SmallVec<[Monotonic; 4]>,
}

/// There is no room to count a source.
struct Full;

/// A bounded table of what is true until a time each, and forgotten no sooner.
#[derive(Debug)]
struct Lapsing<V> {
    table: HashMap<LockoutKey, (Monotonic, V), RandomState>,
    /// In the order in which they lapse.
    order: BTreeSet<(Monotonic, LockoutKey)>,
    capacity: usize,
}

impl Lockouts {
    /// Counts what up to `capacity` networks do, and locks out as many; a constant and the doors
    /// more.
    pub(super) fn new(capacity: usize) -> Self {
        let proven = LruCache::with_hasher(PROVEN, RandomState::new());
        let (failed, locked) = (Lapsing::new(capacity), Lapsing::new(capacity));
        Self { failed, locked, proven, crowded: 0 }
    }

    /// Until when a source is not listened to; `None`: it is.
    pub(super) fn until(
        &self,
        door: Option<DoorId>,
        source: IpAddr,
        now: Monotonic,
    ) -> Option<Monotonic> {
        if self.locked.table.is_empty() {
            return None;
        }
        let networks = networks(source);
        let own = networks.iter().filter_map(|(of, _)| self.locked.holds(&(door, *of), now)).max();
        own.or_else(|| {
            let until = self.locked.holds(&newcomers(door?), now)?;
            let is_newcomer = networks.iter().any(|(network, _)| {
                let key = (door, *network);
                !self.proven.contains(&key) && self.failed.holds(&key, now).is_none()
            });
            is_newcomer.then_some(until)
        })
    }

    /// Counts a failure or, where `knocks` are given as length and stage, a knock that has come to
    /// nothing so far: as many as the length are a failure, but of the latest ones the stage may
    /// still come to something. Counts against all that the source is a part of, and returns until
    /// when it is locked out if this is one too many.
    pub(super) fn count(
        &mut self,
        rule: &Lockout,
        door: Option<DoorId>,
        source: IpAddr,
        knocks: Option<(usize, usize)>,
        now: Monotonic,
    ) -> Option<Monotonic> {
        let mut is_full = false;
        let mut first = None;
        for (network, share) in networks(source) {
            let failures = rule.failures.max(1).saturating_mul(share);
            match self.count_once(&Lockout { failures, ..*rule }, (door, network), knocks, now) {
                Ok(locked) => first = first.or(locked),
                Err(Full) => is_full = true,
            }
        }
        self.crowded += u64::from(is_full);
        let door = door.filter(|_| is_full && first.is_none());
        first.or_else(|| self.count_once(rule, newcomers(door?), knocks, now).ok()?)
    }

    fn count_once(
        &mut self,
        rule: &Lockout,
        key: LockoutKey,
        knocks: Option<(usize, usize)>,
        now: Monotonic,
    ) -> Result<Option<Monotonic>, Full> {
        let extra = self.extra(&key);
        let record = self.failed.renew(key, extra, now, now + rule.within)?;
        if let Some((length, stage)) = knocks {
            record.knocks += 1;
            if record.knocks.saturating_sub(stage) < length {
                return Ok(None);
            }
            record.knocks -= length;
        }
        record.failures.retain(|at| now.since(*at) < rule.within);
        record.failures.push(now);
        if record.failures.len() < rule.failures as usize {
            return Ok(None);
        }
        // Where there is no room for its lock, it is a newcomer once more.
        self.failed.remove(&key);
        let until = now + rule.lasts;
        if key.1.prefix() > 0 && self.locked.renew(key, extra, now, until).is_ok() {
            return Ok(Some(until));
        }
        self.crowded += u64::from(key.1.prefix() > 0);
        let Some(door) = key.0 else { return Ok(None) };
        // As long as failures count: who was not counted until then could fail anew.
        let until = now + rule.within;
        let _room = self.locked.renew(newcomers(door), usize::MAX, now, until);
        Ok(Some(until))
    }

    /// How much more room there is for a key than for others.
    fn extra(&self, key: &LockoutKey) -> usize {
        match key.1.prefix() {
            // All newcomers of a door: there are few doors.
            0 => usize::MAX,
            _ if self.proven.contains(key) => PROVEN.get(),
            _ => 0,
        }
    }

    /// The knocks counted last were a code: they are no failure. `is_new`: and it opened the door,
    /// which strangers cannot do.
    pub(super) fn forget_knocks(&mut self, door: DoorId, source: IpAddr, is_new: bool) {
        for (network, _) in networks(source) {
            let key = (Some(door), network);
            if let Some((_, record)) = self.failed.table.get_mut(&key) {
                record.knocks = 0;
            }
            if is_new {
                self.proven.put(key, ());
            }
        }
    }

    /// Locks a source out, as an earlier watcher has, or another gateway.
    pub(super) fn lock(&mut self, now: Monotonic, lock: LockedSource) {
        if let Some(&(network, _)) = networks(lock.source).first() {
            let _room = self.locked.renew((lock.door, network), 0, now, lock.until);
        }
    }

    /// Forgets all that is known of a source.
    pub(super) fn unlock(&mut self, source: IpAddr) {
        for (network, _) in networks(source) {
            self.failed.forget(network);
            self.locked.forget(network);
        }
    }
}

impl<V: Default> Lapsing<V> {
    fn new(capacity: usize) -> Self {
        Self { table: HashMap::default(), order: BTreeSet::new(), capacity: capacity.max(1) }
    }

    fn holds(&self, key: &LockoutKey, now: Monotonic) -> Option<Monotonic> {
        self.table.get(key).map(|&(until, _)| until).filter(|until| *until > now)
    }

    /// What is known of a key, from now on until `until`. `extra`: how much more room there is for
    /// it than for others.
    fn renew(
        &mut self,
        key: LockoutKey,
        extra: usize,
        now: Monotonic,
        until: Monotonic,
    ) -> Result<&mut V, Full> {
        while let Some(&(first, lapsed)) = self.order.first()
            && first <= now
        {
            self.remove(&lapsed);
        }
        let is_full = self.table.len() >= self.capacity.saturating_add(extra);
        if is_full && !self.table.contains_key(&key) {
            return Err(Full);
        }
        let (known, value) = self.table.entry(key).or_insert_with(|| (until, V::default()));
        self.order.remove(&(*known, key));
        self.order.insert((until, key));
        *known = until;
        Ok(value)
    }

    fn remove(&mut self, key: &LockoutKey) {
        if let Some((until, _)) = self.table.remove(key) {
            self.order.remove(&(until, *key));
        }
    }

    fn forget(&mut self, network: Network) {
        let keys = self.table.keys().filter(|(_, of)| *of == network);
        for key in keys.copied().collect::<Vec<_>>() {
            self.remove(&key);
        }
    }
}

/// Networks that count as one source, and how much more than one address each may fail.
fn networks(source: IpAddr) -> SmallVec<[(Network, u32); 2]> {
    match source.to_canonical() {
        source @ IpAddr::V4(_) => smallvec![(Network::around(source, 32), 1)],
        source @ IpAddr::V6(_) => {
            smallvec![(Network::around(source, 64), 1), (Network::around(source, 48), PER_SITE)]
        }
    }
}

/// All newcomers at a door.
fn newcomers(door: DoorId) -> LockoutKey {
    (Some(door), Network::around(Ipv4Addr::UNSPECIFIED.into(), 0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const RULE: Lockout =
        Lockout { failures: 3, within: Duration::from_secs(600), lasts: Duration::from_secs(3600) };
    const DOOR: Option<DoorId> = Some(DoorId(7));

    fn at(seconds: u64) -> Monotonic {
        Monotonic::ZERO + Duration::from_secs(seconds)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fail(lockouts: &mut Lockouts, source: &str, seconds: u64) -> Option<Monotonic> {
        lockouts.count(&RULE, DOOR, address(source), None, at(seconds))
    }

    #[test]
    fn whoever_is_unlocked_has_never_failed() {
        for source in ["192.0.2.2", "2001:db8::2"] {
            let mut lockouts = Lockouts::new(10);
            for _ in 0..3 {
                let _ = fail(&mut lockouts, source, 0);
            }
            assert!(until(&lockouts, source, 1).is_some());
            lockouts.unlock(address(source));
            assert_eq!(until(&lockouts, source, 1), None);
            assert_eq!(fail(&mut lockouts, source, 1), None);
            assert_eq!(fail(&mut lockouts, source, 1), None);
        }
    }

    #[test]
    fn a_lock_from_elsewhere_holds_at_its_door_alone_and_takes_the_room_of_what_is_over() {
        let mut lockouts = Lockouts::new(1);
        let lock = |source, until| LockedSource { door: DOOR, source: address(source), until };
        lockouts.lock(at(0), lock("192.0.2.2", at(10)));
        lockouts.lock(at(5), lock("192.0.2.3", at(20)));
        assert_eq!(until(&lockouts, "192.0.2.3", 6), None, "there is room for one");
        lockouts.lock(at(10), lock("2001:db8::3", at(20)));
        assert_eq!(until(&lockouts, "2001:db8::4", 11), Some(at(20)));
        assert_eq!(lockouts.until(None, address("2001:db8::3"), at(11)), None);
    }

    fn until(lockouts: &Lockouts, source: &str, seconds: u64) -> Option<Monotonic> {
        lockouts.until(DOOR, address(source), at(seconds))
    }

    #[test]
    fn the_last_failure_that_is_allowed_locks_out_for_a_while() {
        let mut lockouts = Lockouts::new(10);
        assert_eq!(fail(&mut lockouts, "192.0.2.1", 10), None);
        assert_eq!(fail(&mut lockouts, "192.0.2.1", 20), None);
        assert_eq!(until(&lockouts, "192.0.2.1", 20), None);
        assert_eq!(fail(&mut lockouts, "192.0.2.1", 30), Some(at(3630)));
        assert_eq!(until(&lockouts, "192.0.2.1", 3629), Some(at(3630)));
        assert_eq!(until(&lockouts, "192.0.2.1", 3630), None);
    }

    #[test]
    fn after_a_lock_all_failures_are_allowed_again() {
        let mut lockouts = Lockouts::new(10);
        for second in [1, 2, 3] {
            fail(&mut lockouts, "192.0.2.1", second);
        }
        assert_eq!(fail(&mut lockouts, "192.0.2.1", 3700), None);
        assert_eq!(fail(&mut lockouts, "192.0.2.1", 3701), None);
        assert!(fail(&mut lockouts, "192.0.2.1", 3702).is_some());
    }

    #[test]
    fn failures_that_are_long_ago_do_not_count() {
        let mut lockouts = Lockouts::new(10);
        assert_eq!(fail(&mut lockouts, "192.0.2.1", 0), None);
        assert_eq!(fail(&mut lockouts, "192.0.2.1", 300), None);
        assert_eq!(fail(&mut lockouts, "192.0.2.1", 600), None);
        assert!(fail(&mut lockouts, "192.0.2.1", 899).is_some());
    }

    #[test]
    fn others_and_other_doors_are_not_locked_out() {
        let mut lockouts = Lockouts::new(10);
        for second in [1, 2, 3] {
            fail(&mut lockouts, "192.0.2.1", second);
        }
        assert_eq!(until(&lockouts, "192.0.2.2", 4), None);
        assert_eq!(lockouts.until(None, address("192.0.2.1"), at(4)), None);
        assert_eq!(lockouts.until(Some(DoorId(8)), address("192.0.2.1"), at(4)), None);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_source() {
        let mut lockouts = Lockouts::new(100);
        for host in 1..=3 {
            fail(&mut lockouts, &format!("2001:db8:0:1::{host}"), 1);
        }
        assert!(until(&lockouts, "2001:db8:0:1:ffff::", 2).is_some());
        assert_eq!(until(&lockouts, "2001:db8:0:2::1", 2), None);
    }

    #[test]
    fn an_ipv6_site_may_fail_ten_times_as_often_as_one_of_its_networks() {
        let mut lockouts = Lockouts::new(100);
        for network in 1..30 {
            assert_eq!(fail(&mut lockouts, &format!("2001:db8:0:{network}::1"), 1), None);
        }
        assert!(fail(&mut lockouts, "2001:db8:0:30::1", 1).is_some());
        assert!(until(&lockouts, "2001:db8:0:ffff::1", 2).is_some());
        assert_eq!(until(&lockouts, "2001:db8:1::1", 2), None);
    }

    #[test]
    fn as_many_knocks_as_a_sequence_has_are_one_failure() {
        let mut lockouts = Lockouts::new(10);
        let mut knock =
            |stage| lockouts.count(&RULE, DOOR, address("192.0.2.1"), Some((3, stage)), at(1));
        for _ in 0..8 {
            assert_eq!(knock(0), None);
        }
        assert!(knock(0).is_some());
    }

    #[test]
    fn knocks_that_are_spread_over_an_ipv6_site_add_up() {
        let mut lockouts = Lockouts::new(1000);
        let mut knock = |network| {
            let source = address(&format!("2001:db8:0:{network}::1"));
            lockouts.count(&RULE, DOOR, source, Some((3, 0)), at(1))
        };
        assert_eq!((1..90).find_map(&mut knock), None);
        assert!(knock(90).is_some());
    }

    #[test]
    fn knocks_that_may_come_to_something_wait() {
        let mut lockouts = Lockouts::new(10);
        let mut knock =
            |stage| lockouts.count(&RULE, DOOR, address("192.0.2.1"), Some((3, stage)), at(1));
        for stage in [0, 0, 0, 0, 0, 0, 0, 1, 2] {
            assert_eq!(knock(stage), None);
        }
        assert!(knock(0).is_some());
    }

    #[test]
    fn knocks_that_opened_are_no_failure() {
        let mut lockouts = Lockouts::new(10);
        for _ in 0..20 {
            for _ in 0..2 {
                let source = address("192.0.2.1");
                assert_eq!(lockouts.count(&RULE, DOOR, source, Some((3, 0)), at(1)), None);
            }
            lockouts.forget_knocks(DoorId(7), address("192.0.2.1"), true);
        }
    }

    #[test]
    fn what_an_earlier_watcher_locked_stays_locked() {
        let mut lockouts = Lockouts::new(10);
        let everywhere = LockedSource { door: None, source: address("2001:db8::1"), until: at(50) };
        lockouts.lock(at(0), everywhere);
        assert_eq!(lockouts.until(None, address("2001:db8::2"), at(49)), Some(at(50)));
        assert_eq!(lockouts.until(None, address("2001:db8::2"), at(50)), None);
    }

    /// What strangers can do with so many packets from each of many invented addresses.
    fn flood(lockouts: &mut Lockouts, knocks: usize, seconds: u64) {
        for stranger in 0..1000u32 {
            let source = IpAddr::from((0xc633_0000 + stranger).to_be_bytes());
            for _ in 0..knocks {
                let _ = lockouts.count(&RULE, DOOR, source, Some((3, 0)), at(seconds));
            }
        }
    }

    fn sizes(lockouts: &Lockouts) -> [usize; 2] {
        [lockouts.failed.table.len(), lockouts.locked.table.len()]
    }

    #[test]
    fn a_guesser_is_locked_out_as_soon_with_a_flood_between_his_knocks_as_without() {
        // Nine knocks lock a stranger out: then there is no room for a lock of its own.
        for (knocks, newcomers) in [(0, false), (1, false), (3, true), (9, true)] {
            let mut lockouts = Lockouts::new(100);
            let guesser = address("203.0.113.1");
            let lasts = if newcomers { 600 } else { 3600 };
            for second in 1..=9 {
                let locked = lockouts.count(&RULE, DOOR, guesser, Some((3, 0)), at(second));
                let expected = at(second + lasts);
                assert_eq!(locked, (second == 9).then_some(expected), "{knocks}: {second}");
                if second < 9 {
                    flood(&mut lockouts, knocks, second);
                }
            }
            let until = lockouts.until(DOOR, guesser, at(10));
            assert_eq!(until, Some(at(9 + lasts)));
            flood(&mut lockouts, 9, 20);
            assert!(lockouts.until(DOOR, guesser, at(600)).is_some(), "{knocks}");
            // One more, for all newcomers together.
            assert!(sizes(&lockouts).iter().all(|size| *size <= 101), "{:?}", sizes(&lockouts));
        }
    }

    #[test]
    fn newcomers_are_one_source_while_there_is_no_room_for_them() {
        let mut lockouts = Lockouts::new(100);
        for stranger in 0..100 {
            assert_eq!(fail(&mut lockouts, &format!("192.0.2.{stranger}"), 0), None);
        }
        let mut come = |stranger: u8, seconds| {
            lockouts.count(&RULE, DOOR, IpAddr::from([203, 0, 113, stranger]), None, at(seconds))
        };
        assert_eq!((come(1, 1), come(2, 1)), (None, None));
        assert_eq!(come(3, 2), Some(at(602)));
        assert_eq!(until(&lockouts, "203.0.113.99", 601), Some(at(602)));
        assert_eq!(until(&lockouts, "192.0.2.7", 3), None, "counted before");
        assert_eq!(until(&lockouts, "203.0.113.99", 602), None);
        assert_eq!(lockouts.until(Some(DoorId(8)), address("203.0.113.99"), at(3)), None);
        assert_eq!(lockouts.crowded, 3);
        // By then there is room again.
        assert_eq!(fail(&mut lockouts, "203.0.113.1", 602), None);
        assert_eq!(lockouts.crowded, 3);
    }

    #[test]
    fn what_counts_for_long_does_not_keep_what_has_lapsed() {
        let mut lockouts = Lockouts::new(100);
        let long = Lockout { within: Duration::from_secs(100_000), ..RULE };
        for stranger in 0..50 {
            let source = IpAddr::from([192, 0, 2, stranger]);
            assert_eq!(lockouts.count(&long, None, source, None, at(0)), None);
        }
        for second in 0..1000 {
            fail(&mut lockouts, &format!("203.0.{}.{}", second / 200, second % 200), 20 * second);
        }
        assert_eq!(lockouts.crowded, 0);
        assert_eq!(
            lockouts.failed.holds(&(None, Network::around(address("192.0.2.7"), 32)), at(99_999)),
            Some(at(100_000))
        );
    }

    #[test]
    fn where_a_code_was_right_there_is_room_though_it_is_full_and_a_failure_counts() {
        let mut lockouts = Lockouts::new(100);
        let owner = "203.0.113.1";
        lockouts.forget_knocks(DoorId(7), address(owner), true);
        flood(&mut lockouts, 9, 0);
        assert_eq!(until(&lockouts, owner, 1), None);
        assert!(until(&lockouts, "203.0.113.2", 1).is_some());
        assert_eq!(fail(&mut lockouts, owner, 1), None);
        assert_eq!(fail(&mut lockouts, owner, 2), None);
        assert_eq!(fail(&mut lockouts, owner, 3), Some(at(3603)));
        for host in 0..=u16::MAX {
            let [high, low] = host.to_be_bytes();
            let source = IpAddr::from([10, 0, high, low]);
            lockouts.forget_knocks(DoorId(7), source, true);
            let _ = lockouts.count(&RULE, DOOR, source, Some((3, 0)), at(4));
        }
        assert!(sizes(&lockouts).iter().all(|size| *size <= 101 + PROVEN.get()));
    }

    proptest! {
        #[test]
        fn it_holds_no_more_than_it_may_and_locks_as_a_plain_list_would(
            steps in prop::collection::vec((0u8..6, 0u64..400), 1..200),
        ) {
            // There is room for all: then it agrees with the list.
            let mut lockouts = Lockouts::new(6);
            let mut small = Lockouts::new(2);
            let mut failures: Vec<(u8, u64)> = Vec::new();
            let mut now = 0;
            for (host, wait) in steps {
                now += wait;
                let source = IpAddr::from([192, 0, 2, host]);
                failures.push((host, now));
                let recent = failures
                    .iter()
                    .filter(|&&(other, at)| other == host && now - at < 600)
                    .count();
                let locked = lockouts.count(&RULE, DOOR, source, None, at(now)).is_some();
                prop_assert_eq!(locked, recent == 3);
                if locked {
                    failures.retain(|&(other, _)| other != host);
                }
                let _ = small.count(&RULE, DOOR, source, None, at(now));
                // One more, for all newcomers together.
                prop_assert!(sizes(&small).iter().all(|size| *size <= 3));
            }
        }
    }
}
