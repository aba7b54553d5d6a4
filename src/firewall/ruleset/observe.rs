//! What the guard notes of those who come to observed ports without a grant: pure.
//!
//! Three sets tell a login from a scan, by source and port: who tried, who was connected, whose
//! connection stayed. To be in the second takes an answer that arrived, so forged sources do not
//! get there, and in the third a connection that stands after [`GRACE`]: to be dropped by then is
//! the fate of whoever cannot log in. Each has room of its own: the many of one crowd nobody out
//! of the next.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use super::{FAMILIES, GuardSet, SetKind, TableNeeds};
use crate::firewall::netlink::{Counter, Load, NftRule, Noting, SetElement};
use crate::proto::{Knock, Protocol};

/// How long a connection has to stand: two minutes in which sshd lets one log in, and some in which
/// the kernel hangs up on who does not answer.
const GRACE: Duration = Duration::from_secs(300);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A source that came to an observed port without a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSource {
    pub address: IpAddr,
    pub port: Knock,
    /// How far it came: the kind of the set that notes it.
    pub came: SetKind,
    pub counter: Counter,
    /// How long ago its last packet came.
    pub ago: Duration,
}

impl SetKind {
    /// Whether it notes sources, for people to read: how far they came.
    pub(in crate::firewall) const fn is_note(self) -> bool {
        matches!(self, Self::Tried | Self::Connected | Self::Stayed)
    }

    /// How many elements a set has room for that the kernel fills, and how long they stay there.
    pub(in crate::firewall) const fn bounds(self) -> Option<(u32, Duration)> {
        Some(match self {
            Self::Tried => (4096, DAY),
            Self::Connected => (8192, DAY.saturating_mul(7)),
            Self::Stayed => (1024, DAY.saturating_mul(30)),
            // Sessions that begin; and those that go on, for which a pause is no end.
            Self::Arrived => (8192, GRACE),
            Self::Active => (8192, GRACE.saturating_mul(3)),
            _ => return None,
        })
    }
}

impl GuardSet {
    /// The source that an element of a set of notes tells of.
    pub(in crate::firewall) fn source(self, element: &SetElement) -> Option<ObservedSource> {
        let [number, _, _, _, high, low, _, _] = *element.key.bytes.last_chunk()?;
        let protocol = Protocol::ALL.into_iter().find(|known| known.number() == number)?;
        let port = NonZeroU16::new(u16::from_be_bytes([high, low]))?;
        Some(ObservedSource {
            address: element.key.first_address(self.family?)?,
            port: Knock::new(protocol, port),
            came: self.kind,
            counter: element.counter?,
            ago: self.kind.bounds()?.1.saturating_sub(element.left?),
        })
    }

    /// Notes a packet of its family.
    pub(super) fn noting(self, rule: NftRule, noting: Noting) -> NftRule {
        self.concerns(rule).note(&self.reference(), &self.key(), noting)
    }
}

/// The rules that note packets to observed ports; none drops any.
pub(super) fn rules(needs: &TableNeeds) -> Vec<(&'static str, NftRule)> {
    let any = NftRule::default;
    let has = |load, bit: u32| any().has(load, &bit.to_ne_bytes());
    let translated = || has(Load::STATUS, 32);
    let mut rules = Vec::new();
    for width in needs.widths() {
        let observed = |rule| GuardSet::OBSERVED.width(width).holds(rule);
        rules.push(("prerouting", observed(any()).goto("observed")));
        rules.push(("input", observed(translated()).goto("noted")));
    }
    // To this host, to all on a network, to one of several hosts, to a group (`RTN_…` of
    // linux/rtnetlink.h).
    let kinds = (2_u32..=5).map(|kind| any().is(Load::DESTINATION_TYPE, &kind.to_ne_bytes()));
    rules.extend(kinds.map(|rule| ("observed", rule.goto("noted"))));
    rules.push(("noted", any().jump("granted")));
    for family in FAMILIES {
        let set = |kind: SetKind| kind.of(family);
        let [arrived, active] = [SetKind::Arrived, SetKind::Active].map(set);
        // Not what an earlier connection from the same port was.
        let new = arrived.noting(has(Load::STATE, 8), Noting::REMOVE);
        let new = active.noting(new, Noting::REMOVE);
        // Established, and assured: an answer has been answered.
        let connected = || has(Load::STATE, 2).has(Load::STATUS, &4_u32.to_ne_bytes());
        let begins = active.noting(arrived.holds(connected()), Noting::RENEW);
        let stays = active.noting(active.holds(connected()), Noting::RENEW);
        for width in needs.widths() {
            let set = |kind| set(kind).width(width);
            let observed = |rule| set(SetKind::ObservedTo).holds(rule).goto("noted");
            rules.push(("prerouting", observed(any())));
            rules.extend(["input", "forward"].map(|chain| (chain, observed(translated()))));
        }
        let lets_in = [SetKind::OpenTo, SetKind::BoundTo].into_iter();
        let lets_in = lets_in.flat_map(|kind| needs.letting_in(set(kind)));
        rules.extend(lets_in.map(|set| ("noted", set.lets_in(any()).goto("let_in"))));
        let noted = [
            set(SetKind::Tried).noting(new, Noting::COUNT),
            set(SetKind::Connected).noting(connected(), Noting::COUNT),
            begins.accept(),
            set(SetKind::Stayed).noting(stays, Noting::COUNT).accept(),
            arrived.noting(connected(), Noting::ONCE),
        ];
        rules.extend(noted.map(|rule| ("noted", rule)));
    }
    rules
}
