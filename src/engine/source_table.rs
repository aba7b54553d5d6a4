//! A bounded table of sources: whoever has been silent for longest goes first.

use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;

use hashbrown::HashTable;
use smallvec::SmallVec;

/// How many addresses of one IPv6 /64 are followed: whoever has one has 2^64 of them.
pub(super) const PER_NETWORK: usize = 64;

/// A least-recently-used table of fixed capacity that is fair to IPv6 networks: a /64 has one
/// place in the order, and a limited number of addresses.
///
/// In a flood each newcomer takes the slot of whoever was silent for longest: slots are used one
/// after the other, which memory is fast at, and nothing is allocated.
#[derive(Debug)]
pub(super) struct SourceTable<T> {
    /// The slots of networks, by the hashes of these.
    index: HashTable<u32>,
    /// The networks, linked to a ring in their order through the slot [`ENDS`], which has none.
    slots: Vec<Slot<T>>,
    /// The first of the free slots. Each has the next one for its `newer`; [`ENDS`]: there is none.
    free: u32,
    capacity: usize,
    len: usize,
}

/// The slot between the most and the least recently used network.
const ENDS: u32 = 0;

/// The place of a network in the table, or a free one.
#[derive(Debug)]
struct Slot<T> {
    network: HashedPrefix,
    older: u32,
    newer: u32,
    members: PrefixMembers<T>,
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

#[derive(Clone, Copy, Debug)]
struct HashedPrefix {
    prefix: SourcePrefix,
    hash: u64,
}

/// The reason why a source is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Visit {
    /// It sent a packet: it becomes the most recently used, and is added if it is new.
    Packet,
    /// A deadline of its has passed.
    Deadline,
}

/// The addresses of one network, oldest first. Of an IPv4 network there is one.
type PrefixMembers<T> = SmallVec<[PrefixMember<T>; 1]>;

#[derive(Debug)]
struct PrefixMember<T> {
    /// What the network leaves open.
    rest: u64,
    value: T,
}

impl<T> SourceTable<T> {
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        let network = HashedPrefix { prefix: SourcePrefix::V4(0), hash: 0 };
        let ends = Slot { network, older: ENDS, newer: ENDS, members: PrefixMembers::new() };
        let (index, slots) = (HashTable::new(), vec![ends]);
        Self { index, slots, free: ENDS, capacity: capacity.get(), len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// A source. To a packet's its network becomes the most recently used.
    pub(super) fn get(&mut self, source: HashedSource, visit: Visit) -> Option<&mut T> {
        let place = self.find(source.network)?;
        if visit == Visit::Packet {
            self.renew(place);
        }
        let mut members = self.slot(place).members.iter_mut();
        members.find(|member| member.rest == source.rest).map(|member| &mut member.value)
    }

    /// Adds a source that is not in it, its network as the most recently used, and gives back the
    /// one that has to go: the oldest of the same network where that had its share, else, where
    /// the table was full, the oldest of the least recently used network.
    #[must_use]
    pub(super) fn insert(&mut self, source: HashedSource, value: T) -> Option<(IpAddr, T)> {
        let HashedSource { network, rest, .. } = source;
        let newest = PrefixMember { rest, value };
        let Some(place) = self.find(network) else {
            let gone = if self.len == self.capacity { self.pop() } else { None };
            self.add(network, newest);
            return gone;
        };
        self.renew(place);
        self.len += 1;
        let members = &mut self.slot(place).members;
        members.push(newest);
        if members.len() > PER_NETWORK {
            self.take(place, 0)
        } else if self.len > self.capacity {
            self.pop()
        } else {
            None
        }
    }

    pub(super) fn remove(&mut self, source: HashedSource) -> Option<T> {
        let place = self.find(source.network)?;
        let members = &self.slot(place).members;
        let member = members.iter().position(|member| member.rest == source.rest)?;
        self.take(place, member).map(|(_, value)| value)
    }

    /// Takes out the oldest of the least recently used network.
    pub(super) fn pop(&mut self) -> Option<(IpAddr, T)> {
        let oldest = self.slot(ENDS).newer;
        self.take(oldest, 0)
    }

    /// Takes out a member of a network, and the network with the last of them.
    fn take(&mut self, place: u32, member: usize) -> Option<(IpAddr, T)> {
        let Slot { network, members, .. } = self.slot(place);
        let network = *network;
        let gone = if member < members.len() { members.remove(member) } else { return None };
        if members.spilled() && members.len() <= members.capacity() / 4 {
            members.shrink_to_fit();
        }
        self.len -= 1;
        if self.slot(place).members.is_empty() {
            self.unlink(place);
            self.slot(place).newer = mem::replace(&mut self.free, place);
            if let Ok(entry) = self.index.find_entry(network.hash, |&other| other == place) {
                entry.remove();
            }
        }
        Some((join(network.prefix, gone.rest), gone.value))
    }

    /// Adds a network that is not in it, as the most recently used.
    fn add(&mut self, network: HashedPrefix, member: PrefixMember<T>) {
        let place = match self.free {
            ENDS => {
                let members = PrefixMembers::new();
                self.slots.push(Slot { network, older: ENDS, newer: ENDS, members });
                (self.slots.len() - 1) as u32
            }
            free => {
                self.free = self.slot(free).newer;
                free
            }
        };
        let slot = self.slot(place);
        slot.network = network;
        slot.members.push(member);
        self.link(place);
        let Self { index, slots, len, .. } = self;
        index.insert_unique(network.hash, place, |&other| slots[other as usize].network.hash);
        *len += 1;
    }

    fn find(&self, network: HashedPrefix) -> Option<u32> {
        let is_it = |&place: &u32| self.slots[place as usize].network.prefix == network.prefix;
        self.index.find(network.hash, is_it).copied()
    }

    fn slot(&mut self, place: u32) -> &mut Slot<T> {
        &mut self.slots[place as usize]
    }

    /// Makes a network the most recently used.
    fn renew(&mut self, place: u32) {
        self.unlink(place);
        self.link(place);
    }

    /// Takes a slot out of the ring.
    fn unlink(&mut self, place: u32) {
        let Slot { older, newer, .. } = *self.slot(place);
        self.slot(older).newer = newer;
        self.slot(newer).older = older;
    }

    /// Puts a slot that is not in the ring into it, as the most recently used.
    fn link(&mut self, place: u32) {
        let newest = mem::replace(&mut self.slot(ENDS).older, place);
        self.slot(newest).newer = place;
        let slot = self.slot(place);
        (slot.older, slot.newer) = (newest, ENDS);
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

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

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
        table.get(address("192.0.2.1"), Visit::Packet).unwrap();
        assert_eq!(table.insert(address("192.0.2.3"), 3), Some((address("192.0.2.2").address, 2)));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn looking_at_a_source_keeps_it_where_it_is() {
        let mut table = table(2);
        assert_eq!(table.insert(address("192.0.2.1"), 1), None);
        assert_eq!(table.insert(address("192.0.2.2"), 2), None);
        assert_eq!(table.get(address("192.0.2.1"), Visit::Deadline), Some(&mut 1));
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
        assert!(table.get(address("2001:db8:0:1::1"), Visit::Deadline).is_some());
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
        assert!(table.index.is_empty());
        assert_eq!(table.slots.len(), 2);
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

    /// What the table is to be: networks with their members, both oldest first.
    #[derive(Default)]
    struct Model(Vec<(u64, Vec<u64>)>);

    impl Model {
        fn renew(&mut self, network: u64) -> Option<&mut Vec<u64>> {
            let place = self.0.iter().position(|(known, _)| *known == network)?;
            let entry = self.0.remove(place);
            self.0.push(entry);
            self.0.last_mut().map(|(_, members)| members)
        }

        fn has(&self, (network, member): (u64, u64)) -> bool {
            self.0.iter().any(|(known, members)| *known == network && members.contains(&member))
        }

        fn len(&self) -> usize {
            self.0.iter().map(|(_, members)| members.len()).sum()
        }

        fn take(&mut self, place: usize, member: usize) -> Option<(u64, u64)> {
            let (network, members) = self.0.get_mut(place)?;
            let gone = (*network, members.remove(member));
            self.0.retain(|(_, members)| !members.is_empty());
            Some(gone)
        }

        fn insert(&mut self, (network, member): (u64, u64), capacity: usize) -> Option<(u64, u64)> {
            match self.renew(network) {
                Some(members) => members.push(member),
                None => self.0.push((network, vec![member])),
            }
            let newest = self.0.len() - 1;
            if self.0[newest].1.len() > PER_NETWORK {
                self.take(newest, 0)
            } else if self.len() > capacity {
                self.take(0, 0)
            } else {
                None
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_what_two_lists_are(
            capacity in 1usize..100,
            steps in prop::collection::vec((0u8..10, 0u64..6, 0u64..80), 1..600),
        ) {
            let (mut table, mut model) = (table(capacity), Model::default());
            let named = |(network, member)| host(network, member).address;
            for (step, network, member) in steps {
                // Some networks have one member, as those of IPv4.
                let it = (network, if network < 3 { 0 } else { member });
                let source = host(it.0, it.1);
                let there = model.has(it);
                match step {
                    0 => prop_assert_eq!(table.get(source, Visit::Deadline).is_some(), there),
                    1 => {
                        prop_assert_eq!(table.get(source, Visit::Packet).is_some(), there);
                        model.renew(it.0);
                    }
                    2 => {
                        prop_assert_eq!(table.remove(source).is_some(), there);
                        let place = model.0.iter().position(|(known, _)| *known == it.0);
                        if let Some(place) = place.filter(|_| there) {
                            let member = model.0[place].1.iter().position(|known| *known == it.1);
                            model.take(place, member.unwrap());
                        }
                    }
                    3 => {
                        let gone = table.pop().map(|(address, _)| address);
                        prop_assert_eq!(gone, model.take(0, 0).map(named));
                    }
                    _ if there => {}
                    _ => {
                        let gone = table.insert(source, 0).map(|(address, _)| address);
                        prop_assert_eq!(gone, model.insert(it, capacity).map(named));
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.index.len(), model.0.len());
            }
        }
    }
}
