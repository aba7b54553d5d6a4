//! A bounded table of sources: whoever has been silent for longest goes first.

use std::collections::HashMap;
use std::hash::RandomState;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;

use lru::LruCache;
use smallvec::SmallVec;

/// How many addresses of one IPv6 /64 are followed: whoever has one has 2^64 of them.
pub(super) const PER_PREFIX: usize = 64;

/// A least-recently-used table of fixed capacity that is fair to IPv6 networks.
///
/// Addresses are an attacker's choice, so they are hashed with a random key.
#[derive(Debug)]
pub(super) struct Segment<T> {
    sources: LruCache<IpAddr, T, RandomState>,
    /// The addresses of each /64, oldest first.
    prefixes: HashMap<u64, SmallVec<[u64; 1]>>,
}

impl<T> Segment<T> {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self {
            sources: LruCache::with_hasher(capacity, RandomState::new()),
            prefixes: HashMap::with_capacity(capacity.get()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sources.len()
    }

    /// A source, which becomes the most recently used.
    pub(super) fn touch(&mut self, source: IpAddr) -> Option<&mut T> {
        self.sources.get_mut(&source)
    }

    /// A source, its place in the order kept.
    pub(super) fn peek(&mut self, source: IpAddr) -> Option<&mut T> {
        self.sources.peek_mut(&source)
    }

    /// Adds a source that is not in it as the most recently used, and gives back the one that has
    /// to go: the oldest of the same /64 where there are too many of it, else the least recently
    /// used where the table is full.
    #[must_use]
    pub(super) fn insert(&mut self, source: IpAddr, value: T) -> Option<(IpAddr, T)> {
        let gone = match self.oldest_of_full_prefix(source) {
            Some(oldest) => self.remove(oldest).map(|value| (oldest, value)),
            None if self.sources.len() == self.sources.cap().get() => self.pop(),
            None => None,
        };
        if let Some((prefix, host)) = split(source) {
            self.prefixes.entry(prefix).or_default().push(host);
        }
        self.sources.push(source, value);
        gone
    }

    pub(super) fn remove(&mut self, source: IpAddr) -> Option<T> {
        let value = self.sources.pop(&source)?;
        self.leave_prefix(source);
        Some(value)
    }

    /// Takes out the least recently used.
    pub(super) fn pop(&mut self) -> Option<(IpAddr, T)> {
        let (source, value) = self.sources.pop_lru()?;
        self.leave_prefix(source);
        Some((source, value))
    }

    fn oldest_of_full_prefix(&self, source: IpAddr) -> Option<IpAddr> {
        let (prefix, _) = split(source)?;
        let hosts = self.prefixes.get(&prefix)?;
        if hosts.len() < PER_PREFIX {
            return None;
        }
        hosts.first().map(|&host| join(prefix, host))
    }

    fn leave_prefix(&mut self, source: IpAddr) {
        let Some((prefix, host)) = split(source) else { return };
        if let Some(hosts) = self.prefixes.get_mut(&prefix) {
            hosts.retain(|other| *other != host);
            if hosts.is_empty() {
                self.prefixes.remove(&prefix);
            }
        }
    }
}

/// The /64 of an IPv6 address, and the rest of it.
const fn split(address: IpAddr) -> Option<(u64, u64)> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            Some(((bits >> 64) as u64, bits as u64))
        }
    }
}

const fn join(prefix: u64, host: u64) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits((prefix as u128) << 64 | host as u128))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(capacity: usize) -> Segment<u32> {
        Segment::new(capacity.try_into().unwrap())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_source_that_was_silent_for_longest_makes_room() {
        let mut segment = segment(2);
        assert_eq!(segment.insert(address("192.0.2.1"), 1), None);
        assert_eq!(segment.insert(address("192.0.2.2"), 2), None);
        segment.touch(address("192.0.2.1")).unwrap();
        assert_eq!(segment.insert(address("192.0.2.3"), 3), Some((address("192.0.2.2"), 2)));
        assert_eq!(segment.len(), 2);
    }

    #[test]
    fn looking_at_a_source_keeps_it_where_it_is() {
        let mut segment = segment(2);
        assert_eq!(segment.insert(address("192.0.2.1"), 1), None);
        assert_eq!(segment.insert(address("192.0.2.2"), 2), None);
        assert_eq!(segment.peek(address("192.0.2.1")), Some(&mut 1));
        assert_eq!(segment.insert(address("192.0.2.3"), 3), Some((address("192.0.2.1"), 1)));
    }

    #[test]
    fn a_network_that_has_its_share_pushes_out_its_own_oldest() {
        let mut segment = segment(1000);
        assert_eq!(segment.insert(address("2001:db8:0:1::1"), 0), None);
        for host in 1..=PER_PREFIX as u64 {
            let source = join(0x2001_0db8_0000_0002, host);
            assert_eq!(segment.insert(source, 0), None);
        }
        let gone = segment.insert(address("2001:db8:0:2:ffff::1"), 0);
        assert_eq!(gone, Some((address("2001:db8:0:2::1"), 0)));
        assert!(segment.peek(address("2001:db8:0:1::1")).is_some());
        assert_eq!(segment.len(), PER_PREFIX + 1);
    }

    #[test]
    fn a_network_whose_sources_left_has_its_whole_share_again() {
        let mut segment = segment(1000);
        for host in 0..1000 {
            let source = join(0x2001_0db8_0000_0002, host);
            assert_eq!(segment.insert(source, 0), None);
            assert_eq!(segment.remove(source), Some(0));
        }
        assert_eq!(segment.len(), 0);
        assert!(segment.prefixes.is_empty());
    }

    #[test]
    fn the_shares_follow_when_the_least_recently_used_goes() {
        let mut segment = segment(1);
        assert_eq!(segment.insert(address("2001:db8::1"), 1), None);
        assert_eq!(segment.insert(address("2001:db8:1::1"), 2), Some((address("2001:db8::1"), 1)));
        assert_eq!(segment.pop(), Some((address("2001:db8:1::1"), 2)));
        assert!(segment.prefixes.is_empty());
    }
}
