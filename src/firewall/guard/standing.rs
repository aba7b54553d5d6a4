//! The table that is there already: of this process, of an earlier one, or of the former form.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use nix::errno::Errno;

use crate::config::{Family, Name, NftFamily, NftName};
use crate::firewall::netlink::{
    self, ElementRef, Netlink, NetlinkError, NftChange, SetElement, SetRef,
};
use crate::firewall::ruleset::observe::ObservedSource;
use crate::firewall::ruleset::{
    GuardElement, GuardGrant, GuardSet, Lifetime, Ruleset, SetKind, TABLE, VERSION, guarded,
};
use crate::grants::GrantKey;
use crate::proto::Knock;
use crate::time::Monotonic;

/// The grants that hold in a table that an earlier process has left; none where there is no table.
///
/// # Errors
/// As [`Guard::set_up`](super::Guard::set_up).
pub fn standing() -> netlink::Result<Vec<GuardGrant>> {
    let standing = StandingTable::read(&mut Netlink::open()?, &Ruleset::default())?;
    Ok(longest(&standing.grants).into_values().collect())
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
pub fn observed() -> netlink::Result<(Vec<ObservedSource>, bool)> {
    let (mut netlink, mut sources, mut is_full) = (Netlink::open()?, Vec::new(), false);
    for set in GuardSet::all().filter(|set| set.kind.is_note()) {
        let elements = netlink.dump_if_there(&set.reference())?.unwrap_or_default();
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
pub fn check(ruleset: &Ruleset) -> netlink::Result<()> {
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
pub fn remove_standing() -> netlink::Result<()> {
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
    /// Of grants that packets renew, how long they still do.
    renewed: HashMap<GuardElement, Duration>,
}

impl StandingTable {
    /// Reads the table; what others added to one of the former form goes to the doors of `ruleset`.
    pub(super) fn read(netlink: &mut Netlink, ruleset: &Ruleset) -> netlink::Result<Self> {
        let mut standing = Self::default();
        match netlink.table(NftFamily::Inet, TABLE)? {
            None => {}
            Some(table) if table.comment.starts_with(VERSION) => {
                let sets = netlink.sets(NftFamily::Inet, TABLE)?;
                // Those that are renewed come before their ceilings.
                for set in GuardSet::named(&sets) {
                    let found = netlink.dump_if_there(&set.reference())?;
                    let mut elements = found.unwrap_or_default();
                    // Somebody may have made a set of another type in its place.
                    elements.retain(|element| element.key.bytes.len() == set.key_length());
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
        match set.kind {
            SetKind::Guarded | SetKind::GuardedTo => self.guarded.extend(keys),
            SetKind::Older => self.older.extend(keys),
            _ if set.renewed().is_some() => {
                // There may be two of one key, of which packets renew either.
                for (key, element) in keys.zip(&elements) {
                    let left = self.renewed.entry(key).or_default();
                    *left = element.left.unwrap_or(Duration::MAX).max(*left);
                }
            }
            SetKind::Trusted => drop(self.added.insert(set, elements)),
            kind if kind.is_note() => drop(self.added.insert(set, elements)),
            kind if kind.is_of_grants() => {
                let (ours, others): (Vec<_>, _) =
                    elements.into_iter().partition(SetElement::is_ours);
                let grants = ours.iter().filter_map(|it| Some((it, grant(it, set)?)));
                let Lifetime::Ceiling(idle) = set.lifetime else {
                    self.grants.extend(grants.map(|(_, grant)| grant));
                    self.added.insert(set, others);
                    return;
                };
                let renewed = set.lasting(Lifetime::Renewed(idle));
                self.grants.extend(grants.filter_map(|(it, grant)| {
                    let left = *self.renewed.get(&renewed.at(it.key.clone()))?;
                    let ceiling = Some(grant.left);
                    Some(GuardGrant { left: left.min(grant.left), ceiling, ..grant })
                }));
            }
            _ => {}
        }
    }

    /// The grants to keep, each that packets renew for as long as they have.
    pub(super) fn renewing(&self, keep: &[GuardGrant]) -> Vec<GuardGrant> {
        let known = longest(&self.grants);
        let renewed = |grant: &GuardGrant| {
            let known = grant.ceiling.and_then(|_| known.get(&grant.key));
            let left = known.map_or(grant.left, |known| known.left.max(grant.left));
            GuardGrant { left, ..grant.clone() }
        };
        keep.iter().map(renewed).collect()
    }

    /// What was let in by a table of the former form has no label. So that it goes on, what such a
    /// table has guarded counts as not guarded.
    fn read_former(&mut self, netlink: &mut Netlink, ruleset: &Ruleset) -> netlink::Result<()> {
        for name in netlink.sets(NftFamily::Inet, TABLE)? {
            let Some((door, kind)) = former_set(&name) else { continue };
            let set = SetRef { set: NftName::own(name), ..GuardSet::GUARDED.reference() };
            for element in netlink.dump_if_there(&set)?.into_iter().flatten() {
                if element.is_ours() {
                    self.grants.extend(grant(&element, kind));
                } else if let Some(key) = key(&element, kind, door.clone()) {
                    for (GuardElement { set, key }, _) in ruleset.elements(&key, false) {
                        let here = self.added.entry(set).or_default();
                        here.push(SetElement { key, ..element.clone() });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Grants, each once: for as long as the longest of its elements.
fn longest(grants: &[GuardGrant]) -> HashMap<&GrantKey, GuardGrant> {
    let mut all: HashMap<_, GuardGrant> = HashMap::new();
    for grant in grants {
        let known = all.entry(&grant.key).or_insert_with(|| grant.clone());
        let ceiling = known.ceiling.max(grant.ceiling);
        if known.left < grant.left {
            *known = grant.clone();
        }
        known.ceiling = ceiling;
    }
    all
}

/// Reads the name of one of the four sets of a door in the former form: `g_DOOR_4`, `g_DOOR_6`, and
/// `p_DOOR_4` and `p_DOOR_6`, whose keys have a source port. Whose it is, and which set has such
/// keys now.
fn former_set(set: &str) -> Option<(Name, GuardSet)> {
    let (set, family) = set.rsplit_once('_')?;
    let (kind, door) = set.split_once('_')?;
    let kind = if kind == "g" { SetKind::Open } else { (kind == "p").then_some(SetKind::Bound)? };
    let family = if family == "4" { Family::V4 } else { (family == "6").then_some(Family::V6)? };
    Some((door.parse().ok()?, kind.of(family)))
}

/// The key of a grant of this door that lets in what an element does.
fn key(element: &SetElement, set: GuardSet, door: Name) -> Option<GrantKey> {
    let is_bound = matches!(set.kind, SetKind::Bound | SetKind::BoundTo);
    let source_port = if is_bound { Some(element.key.second_port(set.family?)?) } else { None };
    Some(GrantKey { door, network: set.network(&element.key)?, source_port })
}

/// The grant that one of knockd's own elements belongs to.
fn grant(element: &SetElement, set: GuardSet) -> Option<GuardGrant> {
    let door = element.comment.as_str().split(' ').nth(1)?.parse().ok()?;
    let (left, comment) = (element.left?, element.comment.clone());
    Some(GuardGrant { key: key(element, set, door)?, left, ceiling: None, comment })
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
            let (door, set) = former_set(&set).unwrap();
            let family = if is_v4 { Family::V4 } else { Family::V6 };
            let kind = if is_bound { SetKind::Bound } else { SetKind::Open };
            prop_assert_eq!((door.as_str(), set), (&*name, kind.of(family)));
        }

        #[test]
        fn reading_any_name_is_no_panic(text in ".{0,40}") {
            let _ = former_set(&text);
        }
    }
}
