//! A set of ports of both protocols, kept as ranges.

use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use super::knock::{Knock, Protocol};

/// A set of knocks, as sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    /// Of each protocol, by its place among all.
    ranges: [Vec<(u16, u16)>; Protocol::ALL.len()],
}

impl PortSet {
    pub fn insert(&mut self, knock: Knock) {
        self.insert_range(knock.protocol, knock.port..=knock.port);
    }

    /// Adds every port of a range; an empty range adds nothing.
    pub fn insert_range(&mut self, protocol: Protocol, range: RangeInclusive<NonZeroU16>) {
        let (low, high) = (range.start().get(), range.end().get());
        if low > high {
            return;
        }
        let ranges = &mut self.ranges[protocol as usize];
        // What overlaps or touches the new range is swallowed by it.
        let from = ranges.partition_point(|&(_, end)| end < low.saturating_sub(1));
        let to = ranges.partition_point(|&(start, _)| start <= high.saturating_add(1));
        let swallowed = &ranges[from..to];
        let merged = (
            swallowed.first().map_or(low, |&(start, _)| start.min(low)),
            swallowed.last().map_or(high, |&(_, end)| end.max(high)),
        );
        ranges.splice(from..to, [merged]);
    }

    /// The ports of this set that are not in another.
    pub fn without(&self, other: &Self) -> Self {
        let of =
            |protocol| without(&self.ranges[protocol as usize], &other.ranges[protocol as usize]);
        Self { ranges: Protocol::ALL.map(of) }
    }

    pub fn contains(&self, knock: Knock) -> bool {
        let port = knock.port.get();
        let ranges = &self.ranges[knock.protocol as usize];
        let at = ranges.partition_point(|&(_, end)| end < port);
        ranges.get(at).is_some_and(|&(start, _)| start <= port)
    }

    /// Whether a port of a range is in it.
    pub fn meets(&self, protocol: Protocol, range: RangeInclusive<NonZeroU16>) -> bool {
        let ranges = &self.ranges[protocol as usize];
        let at = ranges.partition_point(|&(_, end)| end < range.start().get());
        ranges.get(at).is_some_and(|&(start, _)| start <= range.end().get())
    }

    /// The ranges of one protocol, ascending, both ends included.
    pub fn ranges(&self, protocol: Protocol) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.ranges[protocol as usize].iter().copied()
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
        self.ranges.iter().flatten().map(|(low, high)| usize::from(high - low) + 1).sum()
    }

    /// Adds every port of another set.
    pub fn extend_from(&mut self, other: &Self) {
        for protocol in Protocol::ALL {
            for (low, high) in other.ranges(protocol) {
                if let (Some(low), Some(high)) = (NonZeroU16::new(low), NonZeroU16::new(high)) {
                    self.insert_range(protocol, low..=high);
                }
            }
        }
    }
}

fn without(ranges: &[(u16, u16)], other: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut left = Vec::new();
    for &(low, high) in ranges {
        let mut from = Some(low);
        let above = other.partition_point(|&(_, end)| end < low);
        for &(start, end) in other.iter().skip(above).take_while(|(start, _)| *start <= high) {
            if let Some(from) = from.filter(|from| *from < start) {
                left.push((from, start - 1));
            }
            from = end.checked_add(1).filter(|next| *next <= high);
        }
        left.extend(from.map(|from| (from, high)));
    }
    left
}

impl Extend<Knock> for PortSet {
    fn extend<I: IntoIterator<Item = Knock>>(&mut self, knocks: I) {
        knocks.into_iter().for_each(|knock| self.insert(knock));
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
