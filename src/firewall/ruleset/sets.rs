//! The sets of the guard's table: their names, keys and declarations: pure.

use std::collections::BTreeSet;
use std::iter::once;
use std::time::Duration;

use super::{FAMILIES, GuardElement, TABLE};
use crate::config::{Family, NftFamily, NftName};
use crate::firewall::netlink::{ElementKey, KeyPart, Load, NftChange, NftRule, SetRef};
use crate::proto::duration;
use crate::proto::open_ports::OpenPorts;
use crate::proto::words::words;

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
}

impl GuardSet {
    pub(in crate::firewall) const GUARDED: Self = Self {
        kind: SetKind::Guarded,
        family: None,
        is_of_ranges: false,
        lifetime: Lifetime::Given,
    };

    pub(super) const OBSERVED: Self = Self { kind: SetKind::Observed, ..Self::GUARDED };

    /// All but those of grants that packets renew.
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

    /// The set of this name.
    pub(in crate::firewall) fn named(name: &str) -> Option<Self> {
        Self::all().find_map(|mut set| {
            let (before, after) = set.name();
            let mut words = name.strip_prefix(&before)?.strip_suffix(after)?.split('_').skip(1);
            while let Some(word) = words.next().filter(|_| set.kind.lets_in()) {
                let mut idle = || duration::parse(words.next()?).ok();
                set.lifetime = match word {
                    "held" => Lifetime::Renewed(idle()?),
                    "ceiling" => Lifetime::Ceiling(idle()?),
                    _ => return None,
                };
            }
            (set.reference().set.as_str() == name).then_some(set)
        })
    }

    /// This set, and those beside it for grants that packets renew for so long.
    pub(super) fn beside(self, idles: &BTreeSet<Duration>) -> impl Iterator<Item = Self> {
        let idles = idles.iter().filter(move |_| self.kind.lets_in() && !self.is_of_ranges);
        let pairs = idles.flat_map(|&idle| [Lifetime::Renewed(idle), Lifetime::Ceiling(idle)]);
        once(Lifetime::Given).chain(pairs).map(move |it| self.lasting(it))
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
        let (before, after) = self.name();
        let lifetime = match self.lifetime {
            Lifetime::Given => String::new(),
            Lifetime::Renewed(idle) => format!("_held_{}", duration::format(idle)),
            Lifetime::Ceiling(idle) => format!("_ceiling_{}", duration::format(idle)),
        };
        let (family, table) = (NftFamily::Inet, NftName::own(TABLE.to_owned()));
        SetRef { family, table, set: NftName::own(format!("{before}{lifetime}{after}")) }
    }

    /// The beginning of its name, and the end.
    fn name(self) -> (String, &'static str) {
        let ranges = if self.is_of_ranges { "_ranges" } else { "" };
        let family = match self.family {
            None => "",
            Some(Family::V4) => "_4",
            Some(Family::V6) => "_6",
        };
        (format!("{}{ranges}", self.kind.as_str()), family)
    }

    /// How long its keys are, in bytes.
    pub(in crate::firewall) fn key_length(self) -> usize {
        self.key().iter().map(|part| part.bytes()).sum()
    }

    pub(super) fn key(self) -> Vec<KeyPart> {
        let [source, destination] = KeyPart::addresses(self.family.unwrap_or(Family::V4));
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
        let flags = match self.kind {
            _ if self.renewed().is_some() => 0x30,
            SetKind::Trusted => 0x4,
            SetKind::Older | SetKind::Observed | SetKind::ObservedTo | SetKind::Masqueraded => 0,
            kind if kind.is_map() => 0x18,
            _ if self.kind.bounds().is_some() => 0x30,
            _ => 0x10,
        };
        let flags = if self.is_of_ranges { flags | 0x84 } else { flags };
        let set = NftChange::set(&self.reference(), id, flags, &self.key());
        match (self.kind.bounds(), self.value(), self.renewed()) {
            (Some((size, timeout)), ..) => set.bounded(size).lasting(timeout),
            (None, Some(value), _) => set.to(&value),
            // The kernel gives it room for 65,535; it would take memory for a size that is said.
            (None, None, Some(idle)) => set.lasting(idle),
            (None, None, None) if self.is_of_ranges => set.of_ranges(&self.key()),
            (None, None, None) => set,
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
    fn a_set_is_known_by_its_name_and_no_other_name_is_one() {
        let idles = [90_000, 1500].map(Duration::from_millis).into();
        let all: Vec<GuardSet> = GuardSet::all().flat_map(|set| set.beside(&idles)).collect();
        let names: BTreeSet<String> = all.iter().map(|it| it.reference().set.to_string()).collect();
        assert_eq!(names.len(), all.len());
        assert!(
            names.contains("open_held_1m30s_4") && names.contains("bound_to_ceiling_1s500ms_6")
        );
        for set in all {
            assert_eq!(GuardSet::named(set.reference().set.as_str()), Some(set));
        }
        for other in [
            "",
            "_4",
            "open",
            "open_5",
            "guarded_4",
            "open_held_90s_4",
            "open_held_4",
            "trusted_held_1m_4",
        ] {
            assert_eq!(GuardSet::named(other), None, "{other}");
        }
    }
}
