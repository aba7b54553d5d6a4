//! The table that is there already: of this process, of an earlier one, or of the former form.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use nix::errno::Errno;

use crate::config::{Family, Name, NftFamily, NftName};
use crate::firewall::netlink::{ElementRef, Netlink, NetlinkError, NftChange, SetElement, SetRef};
use crate::firewall::ruleset::observe::ObservedSource;
use crate::firewall::ruleset::{
    GuardElement, GuardGrant, GuardSet, Ruleset, SetKind, TABLE, VERSION, guarded,
};
use crate::proto::knock::Knock;
use crate::time::Monotonic;

/// The grants that hold in a table that an earlier process has left; none where there is no table.
///
/// # Errors
/// As [`Guard::set_up`](super::Guard::set_up).
pub fn standing() -> Result<Vec<GuardGrant>, NetlinkError> {
    let mut grants = StandingTable::read(&mut Netlink::open()?, &Ruleset::default())?.grants;
    grants.sort_by_key(|grant| Reverse(grant.left));
    let mut known = HashSet::new();
    grants.retain(|it| known.insert((it.door.clone(), it.network, it.source_port)));
    Ok(grants)
}

/// Whether a table stands that an earlier process has left.
pub fn is_standing() -> bool {
    let table = Netlink::open().and_then(|mut it| it.table(NftFamily::Inet, TABLE));
    table.is_ok_and(|table| table.is_some())
}

/// Who came to observed ports without a grant, and whether there may have been others for whom
/// there was no room.
///
/// # Errors
/// As [`Guard::set_up`](super::Guard::set_up).
pub fn observed() -> Result<(Vec<ObservedSource>, bool), NetlinkError> {
    let (mut netlink, mut sources, mut is_full) = (Netlink::open()?, Vec::new(), false);
    for set in GuardSet::all().filter(|set| set.kind.is_note()) {
        let elements = dump(&mut netlink, &set.reference())?;
        is_full |= set.kind.bounds().is_some_and(|(size, _)| elements.len() >= size as usize);
        sources.extend(elements.iter().filter_map(|element| set.source(element)));
    }
    Ok((sources, is_full))
}

/// Whether a table stands that locks this port of the host.
pub fn guards(port: Knock) -> bool {
    let GuardElement { set, key } = guarded(None, port);
    let Ok(mut netlink) = Netlink::open() else { return false };
    let sets = [set, GuardSet { is_of_ranges: true, ..set }];
    let mut at = sets.map(|set| ElementRef::new(set.reference(), key.clone()));
    at.iter_mut().any(|it| netlink.element(it).is_ok_and(|found| found.is_some()))
}

/// Whether the table could be put in place; nothing is changed.
///
/// # Errors
/// As [`Guard::set_up`](super::Guard::set_up).
pub fn check(ruleset: &Ruleset) -> Result<(), NetlinkError> {
    const NOBODYS: &str = "knockd-only-looks";
    let (older, added) = (BTreeSet::new(), BTreeMap::new());
    let mut changes = ruleset.changes(Monotonic::ZERO, VERSION, &older, added, &[]);
    // The last change cannot be made, so none is.
    changes.push(NftChange::delete_table(NOBODYS));
    match Netlink::open()?.apply(&changes) {
        Err(NetlinkError::RefusedObject { what, errno: Errno::ENOENT })
            if what.ends_with(NOBODYS) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Takes away a table that an earlier process has left.
///
/// # Errors
/// As [`Guard::set_up`](super::Guard::set_up).
pub fn remove_standing() -> Result<(), NetlinkError> {
    Netlink::open()?.apply(&[NftChange::table(TABLE, VERSION), NftChange::delete_table(TABLE)])
}

/// The contents of a table that stands.
#[derive(Debug, Default)]
pub(super) struct StandingTable {
    /// The elements that lock ports, and those that let older connections go on.
    pub(super) guarded: BTreeSet<GuardElement>,
    pub(super) older: BTreeSet<GuardElement>,
    /// By somebody else, and trusted networks of the configuration's; for each set that is there.
    pub(super) added: BTreeMap<GuardSet, Vec<SetElement>>,
    /// Of knockd's, each as often as its door has ports.
    grants: Vec<GuardGrant>,
}

impl StandingTable {
    /// Reads the table; what others added to one of the former form goes to the doors of `ruleset`.
    pub(super) fn read(netlink: &mut Netlink, ruleset: &Ruleset) -> Result<Self, NetlinkError> {
        let mut standing = Self::default();
        match netlink.table(NftFamily::Inet, TABLE)? {
            None => {}
            Some(table) if table.comment.starts_with(VERSION) => {
                let sets = netlink.sets(NftFamily::Inet, TABLE)?;
                let is_there = |set: &GuardSet| sets.contains(&set.reference().set.to_string());
                for set in GuardSet::all().filter(is_there) {
                    let mut elements = dump(netlink, &set.reference())?;
                    // Somebody may have made a set of another type in its place.
                    elements.retain(|element| element.key.as_bytes().len() == set.key_length());
                    standing.take(set, elements);
                }
                if table.comment != super::table_comment() {
                    standing.grants.clear();
                    standing.older.clear();
                }
            }
            Some(_) => standing.read_former(netlink, ruleset)?,
        }
        Ok(standing)
    }

    fn take(&mut self, set: GuardSet, elements: Vec<SetElement>) {
        let keys = elements.iter().map(|element| set.at(element.key.clone()));
        match (set.kind, set.family) {
            (SetKind::Guarded | SetKind::GuardedTo, _) => self.guarded.extend(keys),
            (SetKind::Older, _) => self.older.extend(keys),
            (SetKind::Trusted, _) => drop(self.added.insert(set, elements)),
            (kind, _) if kind.is_note() => drop(self.added.insert(set, elements)),
            (kind, Some(family)) if kind.is_of_grants() => {
                let is_bound = matches!(set.kind, SetKind::Bound | SetKind::BoundTo);
                let (ours, others): (Vec<_>, _) =
                    elements.into_iter().partition(SetElement::is_ours);
                self.added.insert(set, others);
                self.grants.extend(ours.iter().filter_map(|it| grant(it, family, is_bound)));
            }
            _ => {}
        }
    }

    /// What was let in by a table of the former form has no label. So that it goes on, what such a
    /// table has guarded counts as not guarded.
    fn read_former(
        &mut self,
        netlink: &mut Netlink,
        ruleset: &Ruleset,
    ) -> Result<(), NetlinkError> {
        for name in netlink.sets(NftFamily::Inet, TABLE)? {
            let Some((door, is_bound, family)) = former_set(&name) else { continue };
            let set = SetRef { set: NftName::own(name), ..GuardSet::GUARDED.reference() };
            for element in dump(netlink, &set)? {
                if element.is_ours() {
                    self.grants.extend(grant(&element, family, is_bound));
                } else if let Some((from, port)) = source(&element, family, is_bound) {
                    for (GuardElement { set, key }, _) in ruleset.elements(&door, from.into(), port)
                    {
                        let here = self.added.entry(set).or_default();
                        here.push(SetElement { key, ..element.clone() });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads the name of one of the four sets of a door in the former form: `g_DOOR_4`, `g_DOOR_6`, and
/// `p_DOOR_4` and `p_DOOR_6`, whose keys have a source port. Whose it is, whether it has one, and
/// of which family.
fn former_set(set: &str) -> Option<(Name, bool, Family)> {
    let (set, family) = set.rsplit_once('_')?;
    let (kind, door) = set.split_once('_')?;
    let is_bound = ["g", "p"].iter().position(|known| *known == kind)? == 1;
    let family = if family == "4" { Family::V4 } else { (family == "6").then_some(Family::V6)? };
    Some((door.parse().ok()?, is_bound, family))
}

/// The address, and the source port, that an element lets in.
fn source(
    element: &SetElement,
    family: Family,
    is_bound: bool,
) -> Option<(IpAddr, Option<NonZeroU16>)> {
    let port = if is_bound { Some(element.key.second_port(family)?) } else { None };
    Some((element.key.first_address(family)?, port))
}

/// The grant that one of knockd's own elements belongs to.
fn grant(element: &SetElement, family: Family, is_bound: bool) -> Option<GuardGrant> {
    let (address, source_port) = source(element, family, is_bound)?;
    let door = element.comment.as_str().split(' ').nth(1)?.parse().ok()?;
    let (left, comment) = (element.left?, element.comment.clone());
    let (network, ceiling) = (address.into(), None);
    Some(GuardGrant { door, network, source_port, left, ceiling, comment })
}

/// Nothing where there is no such set: another program may have changed the table.
fn dump(netlink: &mut Netlink, set: &SetRef) -> Result<Vec<SetElement>, NetlinkError> {
    match netlink.dump(set) {
        Err(NetlinkError::NoSet(_) | NetlinkError::NoTable(_)) => Ok(Vec::new()),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_name_of_a_former_set_says_whose_it_was(
            name in "[A-Za-z0-9_.-]{1,32}", is_bound: bool, is_v4: bool,
        ) {
            let kind = if is_bound { 'p' } else { 'g' };
            let set = format!("{kind}_{name}_{}", if is_v4 { 4 } else { 6 });
            let (door, bound, family) = former_set(&set).unwrap();
            let expected = if is_v4 { Family::V4 } else { Family::V6 };
            prop_assert_eq!((door.as_str(), bound, family), (&*name, is_bound, expected));
        }

        #[test]
        fn reading_any_name_is_no_panic(text in ".{0,40}") {
            let _ = former_set(&text);
        }
    }
}
