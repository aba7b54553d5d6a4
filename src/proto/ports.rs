//! A set of ports of both protocols, kept as ranges.

use std::num::NonZeroU16;

use rangemap::RangeInclusiveSet;

use super::knock::{Knock, Protocol};
use super::open_ports::OpenPorts;
use super::port_range::PortRange;

/// A set of knocks, as sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    /// Of each protocol, by its place among all.
    ranges: [RangeInclusiveSet<u16>; Protocol::ALL.len()],
}

impl PortSet {
    /// Adds every port of a range; an empty range adds nothing.
    pub fn insert_range(&mut self, protocol: Protocol, range: PortRange) {
        if !range.is_empty() {
            self.ranges[protocol as usize].insert(range.start().get()..=range.end().get());
        }
    }

    /// The ports of this set that are not in another.
    pub fn without(&self, other: &Self) -> Self {
        let of = |protocol| {
            let (ranges, other) =
                (&self.ranges[protocol as usize], &other.ranges[protocol as usize]);
            ranges.iter().flat_map(|range| other.gaps(range)).collect()
        };
        Self { ranges: Protocol::ALL.map(of) }
    }

    pub fn contains(&self, knock: Knock) -> bool {
        self.ranges[knock.protocol as usize].contains(&knock.port.get())
    }

    /// Whether it has one of these ports.
    pub fn meets(&self, ports: OpenPorts) -> bool {
        let range = ports.range();
        let range = range.start().get()..=range.end().get();
        self.ranges[ports.protocol() as usize].overlaps(&range)
    }

    /// The ranges of one protocol, ascending, both ends included.
    pub fn ranges(&self, protocol: Protocol) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.ranges[protocol as usize].iter().map(|range| (*range.start(), *range.end()))
    }

    /// Every port, ascending within its protocol.
    pub fn knocks(&self) -> impl Iterator<Item = Knock> + '_ {
        Protocol::ALL.into_iter().flat_map(|protocol| {
            let ports = self.ranges(protocol).flat_map(|(low, high)| low..=high);
            ports.filter_map(NonZeroU16::new).map(move |port| Knock::new(protocol, port))
        })
    }

    /// How many ports are in it, both protocols together.
    pub fn len(&self) -> usize {
        self.ranges.iter().flat_map(RangeInclusiveSet::iter).map(ExactSizeIterator::len).sum()
    }

    /// Adds every port of another set.
    pub fn extend_from(&mut self, other: &Self) {
        for (ranges, others) in self.ranges.iter_mut().zip(&other.ranges) {
            ranges.extend(others.iter().cloned());
        }
    }
}

impl<P: Into<OpenPorts>> Extend<P> for PortSet {
    fn extend<I: IntoIterator<Item = P>>(&mut self, ports: I) {
        let ports = ports.into_iter().map(Into::into);
        ports.for_each(|ports: OpenPorts| self.insert_range(ports.protocol(), ports.range()));
    }
}

impl FromIterator<Knock> for PortSet {
    fn from_iter<I: IntoIterator<Item = Knock>>(knocks: I) -> Self {
        let mut set = Self::default();
        set.extend(knocks);
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn port(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    proptest! {
        #[test]
        fn it_holds_what_a_plain_set_would_hold(
            steps in prop::collection::vec((any::<bool>(), 1u16..60, 0u16..6), 0..60),
        ) {
            let mut set = PortSet::default();
            let mut model = BTreeSet::new();
            for (add, low, width) in steps {
                if add {
                    set.insert_range(Protocol::Udp, port(low)..=port(low + width));
                    model.extend(low..=low + width);
                } else {
                    let one = Knock::new(Protocol::Udp, port(low));
                    set = set.without(&PortSet::from_iter([one]));
                    model.remove(&low);
                }
            }
            for number in 1..80 {
                prop_assert_eq!(
                    set.contains(Knock::new(Protocol::Udp, port(number))),
                    model.contains(&number)
                );
                prop_assert!(!set.contains(Knock::new(Protocol::Tcp, port(number))));
            }
            prop_assert_eq!(set.len(), model.len());
            let ranges: Vec<_> = set.ranges(Protocol::Udp).collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }

        #[test]
        fn what_is_left_without_another_set_is_in_this_one_alone(
            one in prop::collection::vec((prop_oneof![1u16..60, 65500..=65529u16], 0u16..6), 0..9),
            other in prop::collection::vec((prop_oneof![1u16..60, 65500..=65529u16], 0u16..6), 0..9),
        ) {
            let set = |ranges: &[(u16, u16)]| {
                let mut set = PortSet::default();
                for (low, width) in ranges {
                    set.insert_range(Protocol::Tcp, port(*low)..=port(*low + *width));
                }
                set
            };
            let (one, other) = (set(&one), set(&other));
            let left = one.without(&other);
            for number in (1..80).chain(65480..=65535) {
                let here = Knock::new(Protocol::Tcp, port(number));
                prop_assert_eq!(left.contains(here), one.contains(here) && !other.contains(here));
            }
            let ranges: Vec<_> = left.ranges(Protocol::Tcp).collect();
            prop_assert!(ranges.iter().all(|(low, high)| low <= high));
            prop_assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
        }
    }

    #[test]
    fn the_ends_of_the_port_space_hold() {
        let mut set = PortSet::default();
        set.insert_range(Protocol::Tcp, port(65535)..=port(65535));
        set.insert_range(Protocol::Tcp, port(1)..=port(1));
        assert_eq!(set.ranges(Protocol::Tcp).collect::<Vec<_>>(), [(1, 1), (65535, 65535)]);
    }
}
