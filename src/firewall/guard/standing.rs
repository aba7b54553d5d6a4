//! A table that is there already: of this process, of an earlier one, or of the former form.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU16;

use nix::errno::Errno;

use crate::config::{Family, Name, NftFamily, NftName};
use crate::firewall::netlink::{Netlink, NetlinkError, NftChange, SetElement, SetRef};
use crate::firewall::ruleset::{
    self, GuardElement, GuardGrant, Ruleset, Set, SetKind, TABLE, VERSION, guarded,
};
use crate::proto::knock::Knock;
use crate::time::Monotonic;

/// What a table holds.
#[derive(Debug, Default)]
pub(super) struct StandingTable {
    pub(super) guarded: BTreeSet<GuardElement>,
    pub(super) older: BTreeSet<GuardElement>,
    /// By somebody else, and trusted networks of the configuration's.
    pub(super) added: BTreeMap<Set, Vec<SetElement>>,
    /// Grants of knockd's, whose set has source ports or not: an element for each port.
    grants: Vec<(Family, bool, SetElement)>,
}

/// From where an element lets in.
type Source = (IpAddr, Option<NonZeroU16>);

impl StandingTable {
    /// What was let in by a table of the former form has no label. So that it goes on, what such a
    /// table has guarded counts as not guarded.
    pub(super) fn read(netlink: &mut Netlink, ruleset: &Ruleset) -> Result<Self, NetlinkError> {
        let mut standing = Self::default();
        match netlink.table(NftFamily::Inet, TABLE)? {
            None => {}
            Some(table) if table.says.starts_with(VERSION) => {
                for set in Set::all() {
                    let mut entries = dump(netlink, &set.reference())?;
                    // Somebody may have made a set of another type in its place.
                    entries.retain(|entry| entry.key.as_bytes().len() == set.key_length());
                    standing.take(set, entries);
                }
                if table.says != super::says() {
                    (standing.grants, standing.older) = (Vec::new(), BTreeSet::new());
                }
            }
            Some(_) => {
                for name in netlink.sets(NftFamily::Inet, TABLE)? {
                    let Some((door, is_bound, family)) = read_former(&name) else { continue };
                    let set = SetRef { set: NftName::own(name), ..Set::GUARDED.reference() };
                    for entry in dump(netlink, &set)? {
                        if entry.is_ours() {
                            standing.grants.push((family, is_bound, entry));
                            continue;
                        }
                        let Some((from, port)) = source(&entry, family, is_bound) else { continue };
                        for GuardElement { set, key } in ruleset.slots(&door, from, port) {
                            let here = standing.added.entry(set).or_default();
                            here.push(SetElement { key, ..entry.clone() });
                        }
                    }
                }
            }
        }
        Ok(standing)
    }

    fn take(&mut self, set: Set, entries: Vec<SetElement>) {
        let slots = entries.iter().map(|entry| set.at(entry.key.clone()));
        match (set.kind, set.family) {
            (SetKind::Guarded | SetKind::GuardedTo, _) | (_, None) => self.guarded.extend(slots),
            (SetKind::Older, _) => self.older.extend(slots),
            (SetKind::Trusted, _) => drop(self.added.insert(set, entries)),
            (SetKind::Open | SetKind::OpenTo | SetKind::Bound | SetKind::BoundTo, Some(family)) => {
                let is_bound = matches!(set.kind, SetKind::Bound | SetKind::BoundTo);
                let (ours, others) = entries.into_iter().partition(SetElement::is_ours);
                self.added.insert(set, others);
                let ours: Vec<SetElement> = ours;
                self.grants.extend(ours.into_iter().map(|entry| (family, is_bound, entry)));
            }
        }
    }
}

/// Reads the name of one of the four sets of a door in the former form: `g_DOOR_4`, `g_DOOR_6`, and
/// `p_DOOR_4` and `p_DOOR_6`, whose keys have a source port. Whose it is, whether it has one, and
/// of which family.
fn read_former(set: &str) -> Option<(Name, bool, Family)> {
    let (set, family) = set.rsplit_once('_')?;
    let (kind, door) = set.split_once('_')?;
    let is_bound = ["g", "p"].iter().position(|known| *known == kind)? == 1;
    let family = if family == "4" { Family::V4 } else { (family == "6").then_some(Family::V6)? };
    Some((door.parse().ok()?, is_bound, family))
}

fn source(entry: &SetElement, family: Family, is_bound: bool) -> Option<Source> {
    let port = if is_bound { Some(entry.key.second_port(family)?) } else { None };
    Some((entry.key.first_address(family)?, port))
}

/// Nothing where there is no such set: another program may have changed the table.
fn dump(netlink: &mut Netlink, set: &SetRef) -> Result<Vec<SetElement>, NetlinkError> {
    match netlink.dump(set) {
        Err(NetlinkError::NoSet(_) | NetlinkError::NoTable(_)) => Ok(Vec::new()),
        found => found,
    }
}

/// The grants that hold in a table that an earlier process has left; none where there is no table.
///
/// # Errors
/// As [`Guard::set_up`](super::Guard::set_up).
pub fn standing() -> Result<Vec<GuardGrant>, NetlinkError> {
    let standing = StandingTable::read(&mut Netlink::open()?, &Ruleset::default())?;
    let grants = standing.grants.into_iter().filter_map(|(family, is_bound, entry)| {
        let door = entry.comment.as_str().split(' ').nth(1)?.parse().ok()?;
        let (address, source_port) = source(&entry, family, is_bound)?;
        Some(GuardGrant { door, address, source_port, left: entry.left?, comment: entry.comment })
    });
    let mut longest: HashMap<(Name, Source), GuardGrant> = HashMap::new();
    for grant in grants {
        let key = (grant.door.clone(), (grant.address, grant.source_port));
        let known = longest.entry(key).or_insert_with(|| grant.clone());
        known.left = known.left.max(grant.left);
    }
    Ok(longest.into_values().collect())
}

/// Whether a table stands that an earlier process has left.
pub fn is_standing() -> bool {
    let table = Netlink::open().and_then(|mut it| it.table(NftFamily::Inet, TABLE));
    table.is_ok_and(|table| table.is_some())
}

/// Whether a table stands that locks this port of the host.
pub fn guards(port: Knock) -> bool {
    let GuardElement { set, key } = guarded(None, port);
    Netlink::open().and_then(|mut it| it.has(&(set.reference(), key))).unwrap_or(false)
}

/// Whether the table could be put in place; nothing is changed.
///
/// # Errors
/// As [`Guard::set_up`](super::Guard::set_up).
pub fn check(ruleset: &Ruleset) -> Result<(), NetlinkError> {
    const NOBODYS: &str = "knockd-only-looks";
    let mut changes = ruleset::table(VERSION);
    for (set, entries) in ruleset.contents(Monotonic::ZERO, BTreeMap::new()) {
        changes.extend(NftChange::add_all(&set.reference(), &entries));
    }
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
    let changes = [NftChange::table(TABLE, VERSION), NftChange::delete_table(TABLE)];
    Netlink::open()?.apply(&changes)
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
            let (door, bound, family) = read_former(&set).unwrap();
            let expected = if is_v4 { Family::V4 } else { Family::V6 };
            prop_assert_eq!((door.as_str(), bound, family), (&*name, is_bound, expected));
        }

        #[test]
        fn reading_any_name_is_no_panic(text in ".{0,40}") {
            let _ = read_former(&text);
        }
    }
}
