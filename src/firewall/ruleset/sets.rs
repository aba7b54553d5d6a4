//! The sets of the guard's table: their names, keys and declarations: pure.

use std::collections::BTreeSet;
use std::iter::once;
use std::time::Duration;

use super::{FAMILIES, GuardElement, TABLE, TableNeeds, wide};
use crate::config::{Family, NftFamily, NftName};
use crate::firewall::netlink::{ElementKey, KeyPart, Load, NftChange, NftRule, SetRef};
use crate::proto::words::words;
use crate::proto::{Network, OpenPorts, duration};

words! {
/// The purpose of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Guarded ports of the host.
    Guarded = "guarded",
    /// Guarded ports of other addresses, or of one of the host's.
    GuardedTo = "guarded_to",
    /// Who may reach a port of the host.
    Open = "open",
    OpenTo = "open_to",
    /// The same, from one source port only.
    Bound = "bound",
    BoundTo = "bound_to",
    /// Connections that are older than the lock of their port.
    Older = "older",
    Trusted = "trusted",
    /// Who is led to another host by a port of this one, or by one of an address; and where to.
    /// These are there only to forward.
    Forwarded = "forwarded",
    ForwardedTo = "forwarded_to",
    Forward = "forward",
    ForwardTo = "forward_to",
    /// The hosts and ports for which who is led there comes from this host.
    Masqueraded = "masqueraded",
    /// Ports of the host that everybody may reach, and who does is noted. From here on sets are
    /// there only to observe.
    Observed = "observed",
    ObservedTo = "observed_to",
    /// Who has sent there what the lock would drop.
    Tried = "tried",
    /// Who had a connection, and whose stayed.
    Connected = "connected",
    Stayed = "stayed",
    /// Connections to such a port that have just begun, and those that go on.
    Arrived = "arrived",
    Active = "active",
}
}

impl SetKind {
    pub(in crate::firewall) const fn of(self, family: Family) -> GuardSet {
        GuardSet { kind: self, family: Some(family), ..GuardSet::GUARDED }
    }

    /// Whether there is a set of ranges beside that of single ports.
    fn has_ranges(self) -> bool {
        self <= Self::BoundTo || matches!(self, Self::Observed | Self::ObservedTo)
    }

    /// Whether it is there to let in, at a port.
    fn lets_in(self) -> bool {
        (Self::Open..=Self::BoundTo).contains(&self)
    }

    /// Whether its elements are grants.
    pub(in crate::firewall) fn is_of_grants(self) -> bool {
        self.lets_in() || (Self::Forwarded..=Self::ForwardTo).contains(&self)
    }
}

/// What ends the elements of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::firewall) enum Lifetime {
    /// The time that each is given.
    Given,
    /// So long a time without a packet of a connection that they let in. They count for nothing
    /// without their ceiling: where one is just being added or deleted, a packet makes another.
    Renewed(Duration),
    /// The time that each is given, whatever comes: beside those that are renewed for so long.
    Ceiling(Duration),
}

/// A set of the table; but for those of the host's ports there are two of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::firewall) struct GuardSet {
    pub(in crate::firewall) kind: SetKind,
    pub(in crate::firewall) family: Option<Family>,
    /// Those are apart: each range in a set costs a packet something, a single port does not.
    pub(in crate::firewall) is_of_ranges: bool,
    pub(in crate::firewall) lifetime: Lifetime,
    /// How many bits of a source count, if not all: that of a key is a network's first address.
    pub(in crate::firewall) prefix: Option<u8>,
}

impl GuardSet {
    pub(in crate::firewall) const GUARDED: Self = Self {
        kind: SetKind::Guarded,
        family: None,
        is_of_ranges: false,
        lifetime: Lifetime::Given,
        prefix: None,
    };

    pub(super) const OBSERVED: Self = Self { kind: SetKind::Observed, ..Self::GUARDED };

    /// All but those of grants that packets renew, and of networks.
    pub(in crate::firewall) fn all() -> impl Iterator<Item = Self> {
        SetKind::ALL.into_iter().flat_map(|kind| {
            let sets = match kind {
                SetKind::Guarded | SetKind::Observed => vec![Self { kind, ..Self::GUARDED }],
                _ => FAMILIES.map(|family| kind.of(family)).to_vec(),
            };
            let of_ranges = |set: &Self| Self { is_of_ranges: true, ..*set };
            let ranges: Vec<_> = sets.iter().filter(|_| kind.has_ranges()).map(of_ranges).collect();
            sets.into_iter().chain(ranges)
        })
    }

    /// The sets of these names.
    pub(in crate::firewall) fn named(names: &[String]) -> BTreeSet<Self> {
        let words = || names.iter().flat_map(|name| name.split('_'));
        let bits = words().filter_map(|word| word.parse().ok());
        let idles = words().filter_map(|word| duration::parse(word).ok());
        let needs = TableNeeds {
            idles: idles.flat_map(|idle| [false, true].map(|is_to| (is_to, idle))).collect(),
            wide: bits.flat_map(|bits| FAMILIES.map(|family| (family, bits))).collect(),
            ..TableNeeds::default()
        };
        let is_there = |set: &Self| names.contains(&set.reference().set.to_string());
        Self::all().flat_map(|set| set.beside(&needs)).filter(is_there).collect()
    }

    /// This set, and those beside it that are needed: of networks, the narrowest first, and of
    /// grants that packets renew.
    pub(super) fn beside(self, needs: &TableNeeds) -> impl Iterator<Item = Self> {
        let is_renewed = self.kind.lets_in() && !self.is_of_ranges;
        let is_to = matches!(self.kind, SetKind::OpenTo | SetKind::BoundTo);
        let idles = needs.idles.iter().filter(move |it| is_renewed && it.0 == is_to);
        let pairs = idles.flat_map(|&(_, it)| [Lifetime::Renewed(it), Lifetime::Ceiling(it)]);
        let lifetimes = once(Lifetime::Given).chain(pairs);
        let of_family =
            move |it: &&(Family, u8)| self.kind.is_of_grants() && Some(it.0) == self.family;
        let prefixes = needs.wide.iter().rev().filter(of_family).map(|wide| Some(wide.1));
        once(None).chain(prefixes).flat_map(move |prefix| {
            lifetimes.clone().map(move |lifetime| Self { lifetime, prefix, ..self })
        })
    }

    /// The network that a key begins with.
    pub(in crate::firewall) fn network(self, key: &ElementKey) -> Option<Network> {
        Some(Network::around(key.first_address(self.family?)?, self.prefix.unwrap_or(u8::MAX)))
    }

    /// The set of such elements beside this one.
    pub(in crate::firewall) const fn lasting(self, lifetime: Lifetime) -> Self {
        Self { lifetime, ..self }
    }

    /// How long packets renew its elements, if they do.
    pub(in crate::firewall) const fn renewed(self) -> Option<Duration> {
        match self.lifetime {
            Lifetime::Renewed(idle) => Some(idle),
            Lifetime::Given | Lifetime::Ceiling(_) => None,
        }
    }

    /// The set of networks as wide as this one.
    pub(super) fn around(self, network: Network) -> Self {
        Self { prefix: wide(network).map(|wide| wide.1), ..self }
    }

    /// The set for such ports beside this one.
    pub(super) const fn width(self, is_of_ranges: bool) -> Self {
        Self { is_of_ranges, ..self }
    }

    pub(super) fn at_ports(self, key: ElementKey, ports: OpenPorts) -> GuardElement {
        let key = key.protocol(ports.protocol().number()).ports(&ports.range());
        self.width(ports.single().is_none()).at(key)
    }

    pub(in crate::firewall) const fn at(self, key: ElementKey) -> GuardElement {
        GuardElement { set: self, key }
    }

    pub(in crate::firewall) fn reference(self) -> SetRef {
        let ranges = if self.is_of_ranges { "_ranges" } else { "" };
        let lifetime = match self.lifetime {
            Lifetime::Given => String::new(),
            Lifetime::Renewed(idle) => format!("_held_{}", duration::format(idle)),
            Lifetime::Ceiling(idle) => format!("_ceiling_{}", duration::format(idle)),
        };
        let network = self.prefix.map_or_else(String::new, |prefix| format!("_{prefix}"));
        let family = match self.family {
            None => "",
            Some(Family::V4) => "_4",
            Some(Family::V6) => "_6",
        };
        let name = format!("{}{ranges}{lifetime}{network}{family}", self.kind.as_str());
        let (family, table) = (NftFamily::Inet, NftName::own(TABLE.to_owned()));
        SetRef { family, table, set: NftName::own(name) }
    }

    /// How long its keys are, in bytes.
    pub(in crate::firewall) fn key_length(self) -> usize {
        self.key().iter().map(|part| part.bytes()).sum()
    }

    pub(super) fn key(self) -> Vec<KeyPart> {
        let [source, destination] = KeyPart::addresses(self.family.unwrap_or(Family::V4));
        let source = source.of_network(self.prefix);
        let (from, port) = (KeyPart::SOURCE_PORT, [KeyPart::PROTOCOL, KeyPart::PORT]);
        let before: &[KeyPart] = match self.kind {
            SetKind::Trusted => return vec![source],
            SetKind::Guarded | SetKind::Observed => &[],
            SetKind::GuardedTo | SetKind::ObservedTo | SetKind::Masqueraded => &[destination],
            SetKind::Open | SetKind::Tried | SetKind::Connected | SetKind::Stayed => &[source],
            SetKind::Forwarded | SetKind::Forward => &[source],
            SetKind::OpenTo | SetKind::ForwardedTo | SetKind::ForwardTo => &[source, destination],
            SetKind::Bound | SetKind::Older | SetKind::Arrived | SetKind::Active => &[source, from],
            SetKind::BoundTo => &[source, from, destination],
        };
        [before, &port].concat()
    }

    pub(super) fn declaration(self, id: u32) -> NftChange {
        // `NFT_SET_INTERVAL`, `NFT_SET_TIMEOUT`, and `NFT_SET_EVAL` for what rules fill.
        // And `NFT_SET_MAP`, and `NFT_SET_CONCAT` for ranges in a part of a key.
        let bounds = self.kind.bounds().map(|(size, timeout)| (Some(size), timeout));
        // The kernel gives it room for 65,535; it would take memory for a size that is said.
        let bounds = bounds.or(self.renewed().map(|idle| (None, idle)));
        let flags = match self.kind {
            SetKind::Trusted => 0x4,
            SetKind::Older | SetKind::Observed | SetKind::ObservedTo | SetKind::Masqueraded => 0,
            kind if kind.is_map() => 0x18,
            _ if bounds.is_some() => 0x30,
            _ => 0x10,
        };
        let flags = if self.is_of_ranges { flags | 0x84 } else { flags };
        let set = NftChange::set(&self.reference(), id, flags, &self.key());
        match (bounds, self.value()) {
            (Some((size, timeout)), _) => set.bounded(size, timeout),
            (None, Some(value)) => set.to(&value),
            (None, None) if self.is_of_ranges => set.of_ranges(&self.key()),
            (None, None) => set,
        }
    }

    /// Goes on where a packet is in the set.
    pub(super) fn holds(self, rule: NftRule) -> NftRule {
        self.concerns(rule).in_set(&self.reference(), &self.key())
    }

    /// Goes on where a packet is let in by the set.
    pub(super) fn lets_in(self, rule: NftRule) -> NftRule {
        let ceilings = self.renewed().map(|idle| self.lasting(Lifetime::Ceiling(idle)));
        self.holds(ceilings.into_iter().fold(rule, |rule, ceilings| ceilings.holds(rule)))
    }

    /// Goes on where a packet is of the set's family.
    pub(super) fn concerns(self, rule: NftRule) -> NftRule {
        match self.family {
            None => rule,
            Some(Family::V4) => rule.is(Load::NETWORK_PROTOCOL, &[2]),
            Some(Family::V6) => rule.is(Load::NETWORK_PROTOCOL, &[10]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_known_by_their_names() {
        let needs = TableNeeds {
            observing: true,
            ranges: true,
            forwards: true,
            idles: [(false, 90_000), (true, 1500)]
                .map(|(is_to, millis)| (is_to, Duration::from_millis(millis)))
                .into(),
            wide: [(Family::V4, 24), (Family::V4, 1), (Family::V6, 64)].into(),
        };
        let all: Vec<GuardSet> = GuardSet::all().flat_map(|set| set.beside(&needs)).collect();
        let names: BTreeSet<String> = all.iter().map(|it| it.reference().set.to_string()).collect();
        assert_eq!(names.len(), all.len());
        for name in [
            "open_held_1m30s_4",
            "bound_to_ceiling_1s500ms_6",
            "open_24_4",
            "open_ranges_1_4",
            "forward_to_64_6",
            "open_held_1m30s_64_6",
        ] {
            assert!(names.contains(name), "{name}");
        }
        let strange = ["", "_4", "open", "open_5", "guarded_4", "open_held_4", "trusted_24_4"];
        let named: Vec<String> = names.into_iter().chain(strange.map(str::to_owned)).collect();
        assert_eq!(GuardSet::named(&named), all.into_iter().collect());
    }
}
