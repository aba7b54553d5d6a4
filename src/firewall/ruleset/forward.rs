//! How the guard leads whoever a door is open for to another host: pure.
//!
//! A grant is two elements for each forward: one says, before translation, that the packet is to be
//! led on, which labels its connection; the other, in a map, where to. Whoever has neither meets
//! the port as if there were no door. A connection goes on by its label when the grant is over.

use super::{FAMILIES, GuardElement, GuardSet, GuardedDoor, LABEL, Ruleset, SetKind, TableNeeds};
use crate::config::{Family, Forward};
use crate::firewall::netlink::{ElementKey, KeyPart, Load, NftRule};
use crate::proto::Network;

/// The bit of a connection's label that says: it is led to another host. Bit 93 on machines that
/// are little-endian.
const FORWARDED: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0];

impl SetKind {
    /// Whether it is there only to forward.
    pub(in crate::firewall) fn is_forward(self) -> bool {
        (Self::Forwarded..=Self::Masqueraded).contains(&self)
    }

    /// Whether its keys lead to an address and a port.
    pub(in crate::firewall) const fn is_map(self) -> bool {
        matches!(self, Self::Forward | Self::ForwardTo)
    }
}

impl GuardSet {
    /// What the values of a map are.
    pub(super) fn value(self) -> Option<[KeyPart; 2]> {
        let address = KeyPart::addresses(self.family.unwrap_or(Family::V4))[1];
        self.kind.is_map().then_some([address, KeyPart::PORT])
    }
}

impl GuardedDoor {
    /// The elements that lead an address on, each with what it leads to if it is one of a map.
    pub(super) fn forwarding(
        &self,
        network: Network,
    ) -> impl Iterator<Item = (GuardElement, Option<ElementKey>)> + '_ {
        let kinds = match self.target {
            None => [SetKind::Forwarded, SetKind::Forward],
            Some(_) => [SetKind::ForwardedTo, SetKind::ForwardTo],
        };
        let address = network.address();
        let family = Family::of(address);
        let from = ElementKey::from(address);
        let from = self.target.iter().fold(from, |key, target| key.address(*target));
        self.forwards.iter().filter(move |it| it.is_for(address)).flat_map(move |forward| {
            let leads_to = ElementKey::from(forward.to).port(forward.port.get());
            let set = |kind: SetKind| kind.of(family).around(network);
            let of = |kind| set(kind).at_ports(from.clone(), forward.on.into());
            let [led, map] = kinds.map(of);
            [(led, None), (map, Some(leads_to))]
        })
    }
}

impl Ruleset {
    pub(super) fn forwards(&self) -> impl Iterator<Item = &Forward> {
        self.doors.values().flat_map(|door| &door.forwards)
    }

    /// The elements of the hosts for which connections come from this one.
    pub(super) fn masqueraded(&self) -> impl Iterator<Item = GuardElement> {
        self.forwards().filter(|forward| forward.masquerade).map(|forward| {
            let set = SetKind::Masqueraded.of(Family::of(forward.to));
            set.at_ports(forward.to.into(), forward.inner().into())
        })
    }
}

/// The rules that come before those that lock.
pub(super) fn rules(needs: &TableNeeds) -> Vec<(&'static str, NftRule)> {
    let any = NftRule::default;
    let state = |bits: u32| any().has(Load::STATE, &bits.to_ne_bytes());
    let labelled = |rule: NftRule| rule.has(Load::LABEL, &FORWARDED);
    let translated = || any().has(Load::STATUS, &32_u32.to_ne_bytes());
    // New, or one whose first packet comes again: an answer of ICMP is neither.
    let begins = || state(8 | 2);
    // Asked last, since it looks at the routes.
    let local = |rule: NftRule| rule.is(Load::DESTINATION_TYPE, &2_u32.to_ne_bytes());
    let mut rules = vec![
        ("prerouting", state(8).jump("forwards")),
        ("prerouting", labelled(state(2)).jump("forwards")),
        // Of a grant that is over.
        ("prerouting", labelled(begins()).drop()),
        ("input", labelled(translated()).accept()),
        ("forward", labelled(translated()).accept()),
        // Of one that was over before its packet was translated.
        ("input", labelled(begins()).drop()),
        ("forwarded", any().label(&LABEL).label(&FORWARDED).accept()),
    ];
    for family in FAMILIES {
        let each = |kind: SetKind| kind.of(family).beside(needs);
        for set in each(SetKind::Forwarded) {
            rules.push(("forwards", local(set.holds(any())).goto("forwarded")));
        }
        for set in each(SetKind::ForwardedTo) {
            rules.push(("forwards", set.holds(any()).goto("forwarded")));
        }
        for set in each(SetKind::ForwardTo).chain(each(SetKind::Forward)) {
            let labelled = labelled(set.concerns(any()));
            let leads = labelled.forward(&set.reference(), &set.key(), family);
            rules.push(("nat_prerouting", leads));
        }
        let masqueraded = SetKind::Masqueraded.of(family).holds(labelled(any()));
        rules.push(("nat_postrouting", masqueraded.masquerade()));
    }
    rules
}
