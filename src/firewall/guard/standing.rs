//! A table that is there already: of this process, of an earlier one, or of the former form.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use nix::errno::Errno;

use super::GuardError;
use crate::config::{Family, Name, NftFamily, NftName};
use crate::firewall::netlink::{Change, Entry, Netlink, NetlinkError, SetRef};
use crate::firewall::ruleset::{self, Element, Ruleset, Set, Slot, TABLE, VERSION, guarded};
use crate::proto::knock::Knock;

/// What a table holds.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) guarded: BTreeSet<Slot>,
    pub(super) older: BTreeSet<Slot>,
    pub(super) trusted: BTreeMap<Family, Vec<Entry>>,
    /// Whom somebody else lets in.
    pub(super) by_hand: Vec<(Slot, Entry)>,
    /// An element for each port.
    grants: Vec<Element>,
}

/// From where an element lets in.
type Source = (IpAddr, Option<NonZeroU16>);

impl Standing {
    /// What was let in by a table of the former form has no label. So that it goes on, what such a
    /// table has guarded counts as not guarded.
    pub(super) fn read(netlink: &mut Netlink, ruleset: &Ruleset) -> Result<Self, GuardError> {
        let mut standing = Self::default();
        match netlink.table(NftFamily::Inet, TABLE)? {
            None => {}
            Some(table) if table.says == VERSION => {
                for set in Set::all() {
                    standing.take(set, dump(netlink, &set.reference())?);
                }
            }
            Some(_) => {
                for name in netlink.sets(NftFamily::Inet, TABLE)? {
                    let Some((door, is_bound, is_v4)) = read_former(&name) else { continue };
                    let family = if is_v4 { Family::V4 } else { Family::V6 };
                    let set = SetRef { set: NftName::own(name), ..Set::Guarded.reference() };
                    for entry in dump(netlink, &set)? {
                        let from = source(&entry, family, is_bound);
                        standing.take_former(ruleset, &door, from, entry);
                    }
                }
            }
        }
        Ok(standing)
    }

    fn take(&mut self, set: Set, entries: Vec<Entry>) {
        let slots = entries.iter().map(|entry| Slot { set, key: entry.key.clone() });
        match set {
            Set::Guarded | Set::GuardedTo(_) => self.guarded.extend(slots),
            Set::Older(_) => self.older.extend(slots),
            Set::Trusted(family) => drop(self.trusted.insert(family, entries)),
            Set::Open(family) | Set::OpenTo(family) | Set::Bound(family) | Set::BoundTo(family) => {
                let is_bound = matches!(set, Set::Bound(_) | Set::BoundTo(_));
                for (slot, entry) in slots.zip(&entries) {
                    let door = entry.comment.as_str().split(' ').nth(1);
                    match door.and_then(|door| door.parse().ok()).filter(|_| entry.is_ours()) {
                        Some(door) => self.grant(door, source(entry, family, is_bound), entry),
                        None => self.by_hand.push((slot, entry.clone())),
                    }
                }
            }
        }
    }

    fn take_former(&mut self, ruleset: &Ruleset, door: &Name, from: Option<Source>, entry: Entry) {
        let known = ruleset.doors.iter().find(|known| known.name == *door);
        match (entry.left, known, from) {
            (Some(_), _, _) => self.grant(door.clone(), from, &entry),
            (None, Some(door), Some((address, port))) => {
                self.by_hand.extend(door.slots(address, port).map(|slot| (slot, entry.clone())));
            }
            (None, _, _) => {}
        }
    }

    fn grant(&mut self, door: Name, from: Option<Source>, entry: &Entry) {
        if let (Some((address, source_port)), Some(left)) = (from, entry.left) {
            let comment = entry.comment.clone();
            self.grants.push(Element { door, address, source_port, left, comment });
        }
    }

    /// Everything that lets somebody in.
    pub(super) fn open(netlink: &mut Netlink) -> Result<HashSet<Slot>, GuardError> {
        let mut open = HashSet::new();
        for set in Set::all().filter(|set| set.has_grants()) {
            let there = dump(netlink, &set.reference())?.into_iter();
            open.extend(there.map(|entry| Slot { set, key: entry.key }));
        }
        Ok(open)
    }
}

/// Reads the name of one of the four sets of a door in the former form: `g_DOOR_4`, `g_DOOR_6`, and
/// `p_DOOR_4` and `p_DOOR_6`, whose keys have a source port. Whose it is, whether it has one, and
/// whether it is of IPv4.
fn read_former(set: &str) -> Option<(Name, bool, bool)> {
    let (set, family) = set.rsplit_once('_')?;
    let (kind, door) = set.split_once('_')?;
    let is = |word: &str, yes, no| (word == yes || word == no).then_some(word == yes);
    Some((door.parse().ok()?, is(kind, "p", "g")?, is(family, "4", "6")?))
}

fn source(entry: &Entry, family: Family, is_bound: bool) -> Option<Source> {
    let is_v4 = family == Family::V4;
    let port = if is_bound { NonZeroU16::new(entry.key.second_port(is_v4)?) } else { None };
    Some((entry.key.first_address(is_v4)?, port))
}

/// Nothing where there is no such set: another program may have changed the table.
fn dump(netlink: &mut Netlink, set: &SetRef) -> Result<Vec<Entry>, GuardError> {
    match netlink.dump(set) {
        Err(NetlinkError::NoSet(_) | NetlinkError::NoTable(_)) => Ok(Vec::new()),
        found => Ok(found?),
    }
}

/// The grants that hold in a table that an earlier process has left; none where there is no table.
///
/// # Errors
/// As [`Guard::set_up`](super::Guard::set_up).
pub fn standing() -> Result<Vec<Element>, GuardError> {
    let standing = Standing::read(&mut Netlink::open()?, &Ruleset::default())?;
    let mut grants: HashMap<(Name, Source), Element> = HashMap::new();
    for grant in standing.grants {
        let key = (grant.door.clone(), (grant.address, grant.source_port));
        let known = grants.entry(key).or_insert_with(|| grant.clone());
        known.left = known.left.max(grant.left);
    }
    Ok(grants.into_values().collect())
}

/// Whether a table stands that an earlier process has left.
#[must_use]
pub fn is_standing() -> bool {
    let table = Netlink::open().and_then(|mut it| it.table(NftFamily::Inet, TABLE));
    table.is_ok_and(|table| table.is_some())
}

/// Whether a table stands that locks this port of the host.
#[must_use]
pub fn guards(port: Knock) -> bool {
    let Slot { set, key } = guarded(None, port);
    let found = Netlink::open().and_then(|mut netlink| netlink.element(&set.reference(), &key));
    found.is_ok_and(|found| found.is_some())
}

/// Whether the table could be put in place; nothing is changed.
///
/// # Errors
/// As [`Guard::set_up`](super::Guard::set_up).
pub fn check(ruleset: &Ruleset) -> Result<(), GuardError> {
    const NOBODYS: &str = "knockd-only-looks";
    let mut changes = ruleset::table();
    for (set, entries) in ruleset.contents(&ruleset.guarded(), None, &BTreeMap::new()) {
        changes.extend(Change::add_all(&set.reference(), &entries));
    }
    // The last change cannot be made, so none is.
    changes.push(Change::delete_table(NOBODYS));
    match Netlink::open()?.apply(&changes) {
        Err(NetlinkError::RefusedObject { what, errno: Errno::ENOENT })
            if what.ends_with(NOBODYS) =>
        {
            Ok(())
        }
        result => Ok(result?),
    }
}

/// Takes away a table that an earlier process has left.
///
/// # Errors
/// As [`Guard::remove`](super::Guard::remove).
pub fn remove_standing() -> Result<(), GuardError> {
    let changes = [Change::table(TABLE, VERSION), Change::delete_table(TABLE)];
    Ok(Netlink::open()?.apply(&changes)?)
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
            let (door, bound, v4) = read_former(&set).unwrap();
            prop_assert_eq!((door.as_str(), bound, v4), (&*name, is_bound, is_v4));
        }

        #[test]
        fn reading_any_name_is_no_panic(text in ".{0,40}") {
            let _ = read_former(&text);
        }
    }
}
