//! A bounded table of sources: whoever has been silent for longest goes first.

use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;

use lru::LruCache;
use smallvec::SmallVec;

/// How many addresses of one IPv6 /64 are followed: whoever has one has 2^64 of them.
pub(super) const PER_NETWORK: usize = 64;

/// A least-recently-used table of fixed capacity that is fair to IPv6 networks: a /64 has one
/// place in the order, and a limited number of addresses.
///
#[derive(Debug)]
pub(super) struct SourceTable<T> {
    networks: LruCache<HashedPrefix, PrefixMembers<T>, BuildHasherDefault<Hashed>>,
    capacity: usize,
    len: usize,
}

/// An IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SourcePrefix {
    V4(u32),
    V6(u64),
}

impl SourcePrefix {
    pub(super) const fn of(source: IpAddr) -> Self {
        split(source).0
    }
}

/// A source as tables look it up. Addresses are an attacker's choice, so they are hashed with a
/// random key; once, and not at each look-up.
#[derive(Clone, Copy, Debug)]
pub(super) struct HashedSource {
    pub(super) address: IpAddr,
    network: HashedPrefix,
    rest: u64,
}

impl HashedSource {
    pub(super) fn new(address: IpAddr, key: &RandomState) -> Self {
        let (prefix, rest) = split(address);
        Self { address, network: HashedPrefix { prefix, hash: key.hash_one(prefix) }, rest }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HashedPrefix {
    prefix: SourcePrefix,
    hash: u64,
}

impl Hash for HashedPrefix {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// The hasher of what has been hashed.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The addresses of one network, oldest first. Never empty. Of an IPv4 network there is one.
type PrefixMembers<T> = SmallVec<[PrefixMember<T>; 1]>;

#[derive(Debug)]
struct PrefixMember<T> {
    /// What the network leaves open.
    rest: u64,
    value: T,
}

impl<T> SourceTable<T> {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        // One place more, so that the table never pushes out a network as a whole.
        let places = capacity.saturating_add(1);
        Self {
            networks: LruCache::with_hasher(places, BuildHasherDefault::new()),
            capacity: capacity.get(),
            len: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// A source; its network becomes the most recently used.
    pub(super) fn touch(&mut self, source: HashedSource) -> Option<&mut T> {
        find(self.networks.get_mut(&source.network)?, source.rest)
    }

    /// A source, its place in the order kept.
    pub(super) fn peek(&mut self, source: HashedSource) -> Option<&mut T> {
        find(self.networks.peek_mut(&source.network)?, source.rest)
    }

    /// Adds a source that is not in it, its network as the most recently used, and gives back the
    /// one that has to go: the oldest of the same network where that had its share, else, where
    /// the table was full, the oldest of the least recently used network.
    #[must_use]
    pub(super) fn insert(&mut self, source: HashedSource, value: T) -> Option<(IpAddr, T)> {
        let HashedSource { network, rest, .. } = source;
        let newest = PrefixMembers::from_iter([PrefixMember { rest, value }]);
        self.len += 1;
        // Each look-up costs, and mostly the network is not there.
        if let Some((_, older)) = self.networks.push(network, newest)
            && let Some(hosts) = self.networks.peek_mut(&network)
        {
            let newest = std::mem::replace(hosts, older);
            hosts.extend(newest);
            if hosts.len() > PER_NETWORK {
                self.len -= 1;
                let gone = hosts.remove(0);
                return Some((join(network.prefix, gone.rest), gone.value));
            }
        }
        if self.len > self.capacity { self.pop() } else { None }
    }

    pub(super) fn remove(&mut self, source: HashedSource) -> Option<T> {
        let hosts = self.networks.peek_mut(&source.network)?;
        let place = hosts.iter().position(|host| host.rest == source.rest)?;
        Some(self.take(source.network, place)?.value)
    }

    /// Takes out the oldest of the least recently used network.
    pub(super) fn pop(&mut self) -> Option<(IpAddr, T)> {
        let (&network, hosts) = self.networks.peek_lru()?;
        let gone = if hosts.len() == 1 {
            self.len -= 1;
            self.networks.pop_lru()?.1.pop()?
        } else {
            self.take(network, 0)?
        };
        Some((join(network.prefix, gone.rest), gone.value))
    }

    fn take(&mut self, network: HashedPrefix, place: usize) -> Option<PrefixMember<T>> {
        let hosts = self.networks.peek_mut(&network)?;
        self.len -= 1;
        if hosts.len() == 1 {
            return self.networks.pop(&network)?.pop();
        }
        let host = hosts.remove(place);
        if hosts.len() <= hosts.capacity() / 4 {
            hosts.shrink_to_fit();
        }
        Some(host)
    }
}

const fn split(source: IpAddr) -> (SourcePrefix, u64) {
    match source {
        IpAddr::V4(address) => (SourcePrefix::V4(address.to_bits()), 0),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (SourcePrefix::V6((bits >> 64) as u64), bits as u64)
        }
    }
}

const fn join(network: SourcePrefix, rest: u64) -> IpAddr {
    match network {
        SourcePrefix::V4(bits) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
        SourcePrefix::V6(bits) => {
            IpAddr::V6(Ipv6Addr::from_bits((bits as u128) << 64 | rest as u128))
        }
    }
}

fn find<T>(hosts: &mut PrefixMembers<T>, rest: u64) -> Option<&mut T> {
    hosts.iter_mut().find(|host| host.rest == rest).map(|host| &mut host.value)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    fn table(capacity: usize) -> SourceTable<u32> {
        SourceTable::new(capacity.try_into().unwrap())
    }

    fn host(network: u64, host: u64) -> HashedSource {
        hashed(join(SourcePrefix::V6(network), host))
    }

    fn address(text: &str) -> HashedSource {
        hashed(text.parse().unwrap())
    }

    fn hashed(address: IpAddr) -> HashedSource {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        HashedSource::new(address, &KEY)
    }

    #[test]
    fn the_source_that_was_silent_for_longest_makes_room() {
        let mut table = table(2);
        assert_eq!(table.insert(address("192.0.2.1"), 1), None);
        assert_eq!(table.insert(address("192.0.2.2"), 2), None);
        table.touch(address("192.0.2.1")).unwrap();
        assert_eq!(table.insert(address("192.0.2.3"), 3), Some((address("192.0.2.2").address, 2)));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn looking_at_a_source_keeps_it_where_it_is() {
        let mut table = table(2);
        assert_eq!(table.insert(address("192.0.2.1"), 1), None);
        assert_eq!(table.insert(address("192.0.2.2"), 2), None);
        assert_eq!(table.peek(address("192.0.2.1")), Some(&mut 1));
        assert_eq!(table.insert(address("192.0.2.3"), 3), Some((address("192.0.2.1").address, 1)));
    }

    #[test]
    fn a_network_that_has_its_share_pushes_out_its_own_oldest() {
        let mut table = table(1000);
        assert_eq!(table.insert(address("2001:db8:0:1::1"), 0), None);
        for host in 1..=PER_NETWORK as u64 {
            let source = self::host(0x2001_0db8_0000_0002, host);
            assert_eq!(table.insert(source, 0), None);
        }
        let gone = table.insert(address("2001:db8:0:2:ffff::1"), 0);
        assert_eq!(gone, Some((address("2001:db8:0:2::1").address, 0)));
        assert!(table.peek(address("2001:db8:0:1::1")).is_some());
        assert_eq!(table.len(), PER_NETWORK + 1);
    }

    #[test]
    fn a_network_whose_sources_left_has_its_whole_share_again() {
        let mut table = table(1000);
        for host in 0..1000 {
            let source = self::host(0x2001_0db8_0000_0002, host);
            assert_eq!(table.insert(source, 0), None);
            assert_eq!(table.remove(source), Some(0));
        }
        assert_eq!(table.len(), 0);
        assert!(table.networks.is_empty());
    }

    #[test]
    fn the_oldest_of_the_network_that_was_silent_for_longest_makes_room() {
        let mut table = table(3);
        for (network, host) in [(1, 1), (1, 2), (2, 1)] {
            assert_eq!(table.insert(self::host(network, host), 0), None);
        }
        assert_eq!(table.insert(host(3, 1), 0), Some((host(1, 1).address, 0)));
        assert_eq!(table.insert(host(3, 2), 0), Some((host(1, 2).address, 0)));
        assert_eq!(table.insert(host(3, 3), 0), Some((host(2, 1).address, 0)));
        assert_eq!(table.insert(host(3, 4), 0), Some((host(3, 1).address, 0)));
        assert_eq!(table.len(), 3);
    }
}
