//! The contents of the sets of trusted networks: pure.

use crate::config::Family;
use crate::firewall::netlink::{Comment, ElementKey, SetElement};
use crate::proto::Network;

/// The elements of such a set: the networks of the configuration, and those that somebody else has
/// added to the set as it is `there`. What meets becomes one.
pub(super) fn trusted(
    family: Family,
    networks: &[Network],
    there: &[SetElement],
) -> Vec<SetElement> {
    let bytes = if family == Family::V4 { 4 } else { 16 };
    let most = u128::MAX >> (128 - 8 * bytes);
    let number =
        |key: &ElementKey| key.bytes.iter().fold(0, |all, &byte| all << 8 | u128::from(byte));
    let of_network = |network: &Network| {
        let first = number(&network.address().into());
        (first, first | most.checked_shr(network.prefix().into()).unwrap_or(0), Comment::OURS)
    };
    let of_family = networks.iter().filter(|it| Family::of(it.address()) == family);
    // First and last address, and the comment.
    let mut ranges: Vec<(u128, u128, &str)> = of_family.map(of_network).collect();
    let mut there: Vec<&SetElement> = there.iter().collect();
    there.sort_by_key(|element| (&element.key, !element.is_end));
    let next = there.iter().skip(1).map(|next| number(&next.key).saturating_sub(1));
    for (element, last) in there.iter().zip(next.chain([most])) {
        if !element.is_end && !element.comment.is_ours() {
            ranges.push((number(&element.key), last, element.comment.as_str()));
        }
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128, &str)> = Vec::new();
    for (first, last, comment) in ranges {
        match merged.last_mut().filter(|known| first <= known.1.saturating_add(1)) {
            Some(known) => {
                known.1 = known.1.max(last);
                if known.2 != comment {
                    known.2 = "";
                }
            }
            None => merged.push((first, last, comment)),
        }
    }
    let element = |at: u128, is_end, comment| {
        let key = ElementKey::from_bytes(at.to_be_bytes().split_at(16 - bytes).1);
        SetElement { is_end, comment: Comment::new(comment), ..key.into() }
    };
    let ends = merged.into_iter().flat_map(|(first, last, comment)| {
        [Some(element(first, false, comment)), (last < most).then(|| element(last + 1, true, ""))]
    });
    ends.flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    /// Networks around 192.0.2.0, and ranges that somebody else has added, which do not meet.
    fn networks() -> impl Strategy<Value = (Vec<Network>, Vec<SetElement>)> {
        let network = (any::<u8>(), 24u8..=32).prop_map(|(last, prefix)| {
            Network::around(Ipv4Addr::new(192, 0, 2, last).into(), prefix)
        });
        let ends = proptest::collection::btree_set(any::<u8>(), 0..6).prop_map(|ends| {
            let entry = |(at, last): (usize, u8)| SetElement {
                is_end: at % 2 == 1,
                ..ElementKey::from(IpAddr::from([192, 0, 2, last])).into()
            };
            ends.into_iter().enumerate().map(entry).collect()
        });
        (proptest::collection::vec(network, 0..5), ends)
    }

    /// Whether the kernel finds an address in a set of intervals.
    fn holds(entries: &[SetElement], address: &ElementKey) -> bool {
        let below = entries.iter().filter(|entry| entry.key <= *address);
        below.max_by_key(|entry| (&entry.key, !entry.is_end)).is_some_and(|entry| !entry.is_end)
    }

    proptest! {
        #[test]
        fn trusted_is_what_either_says_and_intervals_never_meet((networks, there) in networks()) {
            let trusted = trusted(Family::V4, &networks, &there);
            prop_assert!(trusted.windows(2).all(|two| two[0].key < two[1].key));
            prop_assert!(trusted.windows(2).all(|two| two[0].is_end != two[1].is_end));
            for last in 0..=255 {
                let address = IpAddr::from([192, 0, 2, last]);
                let either = networks.iter().any(|network| network.contains(address))
                    || holds(&there, &address.into());
                prop_assert_eq!(holds(&trusted, &address.into()), either, "{}", address);
            }
        }
    }
}
