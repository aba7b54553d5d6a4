//! Sources that have failed too often, and for how long nobody listens to them.

use std::hash::RandomState;
use std::net::IpAddr;

use lru::LruCache;
use smallvec::SmallVec;

use super::DoorId;
use crate::config::Lockout;
use crate::proto::network::Network;
use crate::time::Monotonic;

/// How much more of an IPv6 /48 than of a /64 may fail: whoever has one has 65536 of them.
const PER_SITE: u32 = 10;

/// Who has failed how often, and who is locked out: at a door, or everywhere.
///
/// Holds a bounded number of each; whoever was silent for longest is forgotten first. Addresses
/// are an attacker's choice, so they are hashed with a random key.
#[derive(Debug)]
pub(super) struct Lockouts {
    failed: LruCache<Key, Record, RandomState>,
    locked: LruCache<Key, Monotonic, RandomState>,
    capacity: usize,
}

/// Whom a failure counts against, and at which door; `None`: everywhere.
type Key = (Option<DoorId>, Network);

#[derive(Debug, Default)]
struct Record {
    /// Knocks that have come to nothing, and are not yet a failure.
    knocks: usize,
    /// When the last of them was.
    latest: Monotonic,
    /// When it failed, oldest first. As many as the limit at most.
    failures: SmallVec<[Monotonic; 4]>,
}

/// Networks that count as one source, and how much more than one address each may fail.
fn networks(source: IpAddr) -> SmallVec<[(Network, u32); 2]> {
    match source.to_canonical() {
        source @ IpAddr::V4(_) => [(Network::around(source, 32), 1)].into_iter().collect(),
        source @ IpAddr::V6(_) => {
            [(Network::around(source, 64), 1), (Network::around(source, 48), PER_SITE)]
                .into_iter()
                .collect()
        }
    }
}

impl Lockouts {
    /// Remembers up to `capacity` networks that have failed, and as many that are locked out.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            failed: LruCache::unbounded_with_hasher(RandomState::new()),
            locked: LruCache::unbounded_with_hasher(RandomState::new()),
            capacity: capacity.max(1),
        }
    }

    /// Until when a source is not listened to; `None`: it is.
    pub(super) fn until(
        &mut self,
        door: Option<DoorId>,
        source: IpAddr,
        now: Monotonic,
    ) -> Option<Monotonic> {
        if self.locked.is_empty() {
            return None;
        }
        let mut latest = None;
        for (network, _) in networks(source) {
            match self.locked.peek(&(door, network)) {
                Some(&until) if until > now => latest = latest.max(Some(until)),
                Some(_) => _ = self.locked.pop(&(door, network)),
                None => {}
            }
        }
        latest
    }

    /// Counts a failure. Returns until when the source is locked out if this is one too many.
    pub(super) fn fail(
        &mut self,
        rule: &Lockout,
        door: Option<DoorId>,
        source: IpAddr,
        now: Monotonic,
    ) -> Option<Monotonic> {
        let fail = |(network, share)| self.fail_once(rule, (door, network), share, now);
        networks(source).into_iter().filter_map(fail).max()
    }

    /// Counts a knock that has come to nothing so far; `length` of them are a failure. Of the
    /// latest knocks, `stage` may still come to something. Returns as [`Self::fail`] does.
    pub(super) fn count_knock(
        &mut self,
        rule: &Lockout,
        door: DoorId,
        source: IpAddr,
        (length, stage): (usize, usize),
        now: Monotonic,
    ) -> Option<Monotonic> {
        let count = |(network, share)| {
            let record = self.record((Some(door), network));
            if now.since(record.latest) >= rule.within {
                record.knocks = 0;
            }
            record.latest = now;
            record.knocks += 1;
            if record.knocks.saturating_sub(stage) < length {
                return None;
            }
            record.knocks -= length;
            self.fail_once(rule, (Some(door), network), share, now)
        };
        networks(source).into_iter().filter_map(count).max()
    }

    fn fail_once(
        &mut self,
        rule: &Lockout,
        key: Key,
        share: u32,
        now: Monotonic,
    ) -> Option<Monotonic> {
        let limit = rule.failures.max(1).saturating_mul(share) as usize;
        let record = self.record(key);
        record.failures.retain(|at| now.since(*at) < rule.within);
        record.failures.push(now);
        if record.failures.len() < limit {
            return None;
        }
        let until = now + rule.lasts;
        self.failed.pop(&key);
        self.lock_network(key, until);
        Some(until)
    }

    /// The knocks counted last have opened the door: they are no failure.
    pub(super) fn forget_knocks(&mut self, door: DoorId, source: IpAddr) {
        for (network, _) in networks(source) {
            if let Some(record) = self.failed.get_mut(&(Some(door), network)) {
                record.knocks = 0;
            }
        }
    }

    /// Locks a source out, as an earlier watcher has.
    pub(super) fn lock(&mut self, door: Option<DoorId>, source: IpAddr, until: Monotonic) {
        if let Some(&(network, _)) = networks(source).first() {
            self.lock_network((door, network), until);
        }
    }

    /// Forgets all that is known of a source.
    pub(super) fn unlock(&mut self, source: IpAddr) {
        for (network, _) in networks(source) {
            for key in keys(&self.failed, network) {
                self.failed.pop(&key);
            }
            for key in keys(&self.locked, network) {
                self.locked.pop(&key);
            }
        }
    }

    fn lock_network(&mut self, key: Key, until: Monotonic) {
        self.locked.push(key, until);
        if self.locked.len() > self.capacity {
            self.locked.pop_lru();
        }
    }

    fn record(&mut self, key: Key) -> &mut Record {
        if self.failed.len() >= self.capacity && !self.failed.contains(&key) {
            self.failed.pop_lru();
        }
        self.failed.get_or_insert_mut(key, Record::default)
    }
}

fn keys<V>(table: &LruCache<Key, V, RandomState>, network: Network) -> Vec<Key> {
    table.iter().map(|(key, _)| *key).filter(|(_, of)| *of == network).collect()
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
        lockouts.fail(&RULE, DOOR, address(source), at(seconds))
    }

    #[test]
    fn whoever_is_unlocked_has_never_failed() {
        for source in ["192.0.2.2", "2001:db8::2"] {
            let mut lockouts = Lockouts::new(10);
            for _ in 0..3 {
                let _ = fail(&mut lockouts, source, 0);
            }
            assert!(until(&mut lockouts, source, 1).is_some());
            lockouts.unlock(address(source));
            assert_eq!(until(&mut lockouts, source, 1), None);
            assert_eq!(fail(&mut lockouts, source, 1), None);
            assert_eq!(fail(&mut lockouts, source, 1), None);
        }
    }

    fn until(lockouts: &mut Lockouts, source: &str, seconds: u64) -> Option<Monotonic> {
        lockouts.until(DOOR, address(source), at(seconds))
    }

    #[test]
    fn the_last_failure_that_is_allowed_locks_out_for_a_while() {
        let mut lockouts = Lockouts::new(10);
        assert_eq!(fail(&mut lockouts, "192.0.2.1", 10), None);
        assert_eq!(fail(&mut lockouts, "192.0.2.1", 20), None);
        assert_eq!(until(&mut lockouts, "192.0.2.1", 20), None);
        assert_eq!(fail(&mut lockouts, "192.0.2.1", 30), Some(at(3630)));
        assert_eq!(until(&mut lockouts, "192.0.2.1", 3629), Some(at(3630)));
        assert_eq!(until(&mut lockouts, "192.0.2.1", 3630), None);
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
        assert_eq!(until(&mut lockouts, "192.0.2.2", 4), None);
        assert_eq!(lockouts.until(None, address("192.0.2.1"), at(4)), None);
        assert_eq!(lockouts.until(Some(DoorId(8)), address("192.0.2.1"), at(4)), None);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_source() {
        let mut lockouts = Lockouts::new(100);
        for host in 1..=3 {
            fail(&mut lockouts, &format!("2001:db8:0:1::{host}"), 1);
        }
        assert!(until(&mut lockouts, "2001:db8:0:1:ffff::", 2).is_some());
        assert_eq!(until(&mut lockouts, "2001:db8:0:2::1", 2), None);
    }

    #[test]
    fn an_ipv6_site_may_fail_ten_times_as_often_as_one_of_its_networks() {
        let mut lockouts = Lockouts::new(100);
        for network in 1..30 {
            assert_eq!(fail(&mut lockouts, &format!("2001:db8:0:{network}::1"), 1), None);
        }
        assert!(fail(&mut lockouts, "2001:db8:0:30::1", 1).is_some());
        assert!(until(&mut lockouts, "2001:db8:0:ffff::1", 2).is_some());
        assert_eq!(until(&mut lockouts, "2001:db8:1::1", 2), None);
    }

    #[test]
    fn as_many_knocks_as_a_sequence_has_are_one_failure() {
        let mut lockouts = Lockouts::new(10);
        let mut knock =
            |stage| lockouts.count_knock(&RULE, DoorId(7), address("192.0.2.1"), (3, stage), at(1));
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
            lockouts.count_knock(&RULE, DoorId(7), source, (3, 0), at(1))
        };
        assert_eq!((1..90).find_map(&mut knock), None);
        assert!(knock(90).is_some());
    }

    #[test]
    fn knocks_that_may_come_to_something_wait() {
        let mut lockouts = Lockouts::new(10);
        let mut knock =
            |stage| lockouts.count_knock(&RULE, DoorId(7), address("192.0.2.1"), (3, stage), at(1));
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
                assert_eq!(lockouts.count_knock(&RULE, DoorId(7), source, (3, 0), at(1)), None);
            }
            lockouts.forget_knocks(DoorId(7), address("192.0.2.1"));
        }
    }

    #[test]
    fn what_an_earlier_watcher_locked_stays_locked() {
        let mut lockouts = Lockouts::new(10);
        lockouts.lock(None, address("2001:db8::1"), at(50));
        assert_eq!(lockouts.until(None, address("2001:db8::2"), at(49)), Some(at(50)));
        assert_eq!(lockouts.until(None, address("2001:db8::2"), at(50)), None);
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
                let locked = lockouts.fail(&RULE, DOOR, source, at(now)).is_some();
                prop_assert_eq!(locked, recent == 3);
                if locked {
                    failures.retain(|&(other, _)| other != host);
                }
                let _ = small.fail(&RULE, DOOR, source, at(now));
                prop_assert!(small.failed.len() <= 2 && small.locked.len() <= 2);
            }
        }
    }
}
