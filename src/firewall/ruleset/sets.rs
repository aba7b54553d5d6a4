//! The sets of the guard's table: their names, keys and declarations: pure.

use super::{FAMILIES, GuardElement, TABLE};
use crate::config::{Family, NftFamily, NftName};
use crate::firewall::netlink::{ElementKey, KeyPart, Load, NftChange, NftRule, SetRef};
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
        GuardSet { kind: self, family: Some(family), is_of_ranges: false }
    }

    /// Whether there is a set of ranges beside that of single ports.
    fn has_ranges(self) -> bool {
        self <= Self::BoundTo || matches!(self, Self::Observed | Self::ObservedTo)
    }

    /// Whether its elements are grants.
    pub(in crate::firewall) fn is_of_grants(self) -> bool {
        (Self::Open..=Self::BoundTo).contains(&self)
            || (Self::Forwarded..=Self::ForwardTo).contains(&self)
    }
}

/// A set of the table; but for those of the host's ports there are two of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::firewall) struct GuardSet {
    pub(in crate::firewall) kind: SetKind,
    pub(in crate::firewall) family: Option<Family>,
    /// Those are apart: each range in a set costs a packet something, a single port does not.
    pub(in crate::firewall) is_of_ranges: bool,
}

impl GuardSet {
    pub(in crate::firewall) const GUARDED: Self =
        Self { kind: SetKind::Guarded, family: None, is_of_ranges: false };

    pub(super) const OBSERVED: Self = Self { kind: SetKind::Observed, ..Self::GUARDED };

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
        let family = match self.family {
            None => "",
            Some(Family::V4) => "_4",
            Some(Family::V6) => "_6",
        };
        let name = format!("{}{ranges}{family}", self.kind.as_str());
        let (family, table) = (NftFamily::Inet, NftName::own(TABLE.to_owned()));
        SetRef { family, table, set: NftName::own(name) }
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
            SetKind::Trusted => 0x4,
            SetKind::Older | SetKind::Observed | SetKind::ObservedTo | SetKind::Masqueraded => 0,
            kind if kind.is_map() => 0x18,
            _ if self.kind.bounds().is_some() => 0x30,
            _ => 0x10,
        };
        let flags = if self.is_of_ranges { flags | 0x84 } else { flags };
        let set = NftChange::set(&self.reference(), id, flags, &self.key());
        match (self.kind.bounds(), self.value()) {
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

    /// Goes on where a packet is of the set's family.
    pub(super) fn concerns(self, rule: NftRule) -> NftRule {
        match self.family {
            None => rule,
            Some(Family::V4) => rule.is(Load::NETWORK_PROTOCOL, &[2]),
            Some(Family::V6) => rule.is(Load::NETWORK_PROTOCOL, &[10]),
        }
    }
}
