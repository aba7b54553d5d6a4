//! Sets of the administrator's own tables, to which doors add those they let in.

use std::collections::HashSet;

use super::netlink::{self, Monitor, Netlink, NetlinkError, NftEvent, SetRef};
use crate::config::{Family, NftSet};

/// `enum nft_set_flags` of linux/netfilter/nf_tables.h.
const CONSTANT: u32 = 0x2;
const INTERVAL: u32 = 0x4;
const MAP: u32 = 0x8;
const TIMEOUT: u32 = 0x10;

/// The reason why a set cannot take grants, and how to declare it.
#[derive(Debug, thiserror::Error)]
pub enum NftSetError {
    #[error("{what}; declare it with:{}", declaration(.set, .key, *.with_table))]
    Unfit { set: SetRef, key: &'static str, with_table: bool, what: String },
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
}

/// The numbers of a table and of a set in it: another one by their names has others.
type Handles = (u64, u64);

/// The sets of all doors, followed: another program may delete and make them anew.
#[derive(Debug)]
pub struct OwnSets {
    /// The connection through which elements are changed: what others change is told apart.
    pub netlink: Netlink,
    /// Readable when any table of this host has changed: [`Self::made_anew`] tells whether it
    /// matters.
    pub monitor: Monitor,
    /// With the handles of the table and the set, which tell it from one of the same name.
    known: Vec<(SetRef, Option<Handles>)>,
}

impl OwnSets {
    /// Checks that every set is there, has the right type and `flags timeout`.
    ///
    /// # Errors
    /// The first set that is unfit, with the nft lines that declare it.
    pub fn check<'a>(doors: impl IntoIterator<Item = &'a NftSet>) -> Result<Self, NftSetError> {
        let mut netlink = Netlink::open()?;
        let monitor = Monitor::new()?;
        let mut known = Vec::new();
        // Doors mostly share their sets.
        let mut checked = HashSet::new();
        let families = |door: &'a NftSet| [Family::V4, Family::V6].map(|family| (door, family));
        for (door, family) in doors.into_iter().flat_map(families) {
            let Some(set) = door.reference(family) else { continue };
            if checked.insert((set.clone(), family)) {
                let handles = check_set(&mut netlink, &set, family)?;
                known.push((set, Some(handles)));
            }
        }
        Ok(Self { netlink, monitor, known })
    }

    /// All of them, each once.
    pub fn all(&self) -> Vec<SetRef> {
        self.known.iter().map(|(set, _)| set.clone()).collect()
    }

    /// The sets that somebody has made anew since the last call, and that are therefore without
    /// the grants that hold; call it when its monitor is readable. A set that is gone is named when
    /// it comes back.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn made_anew(&mut self) -> netlink::Result<Vec<SetRef>> {
        let known = &self.known;
        let mut is_touched = false;
        let is_all = self.monitor.look(self.netlink.port, |event: NftEvent<'_>| {
            let is_its =
                |set: &SetRef| set.family == event.family && set.table.as_str() == event.table;
            is_touched |= known.iter().any(|(set, _)| is_its(set));
        });
        if is_all && !is_touched {
            return Ok(Vec::new());
        }
        let mut anew = Vec::new();
        for (set, known) in &mut self.known {
            let now = handles(&mut self.netlink, set)?;
            if now.is_some() && now != *known {
                anew.push(set.clone());
            }
            *known = now;
        }
        Ok(anew)
    }
}

/// The handles of a set's table and of the set; `None` where either is not there.
fn handles(netlink: &mut Netlink, set: &SetRef) -> netlink::Result<Option<Handles>> {
    let (table, set) = netlink.look_up(set)?;
    Ok(table.zip(set).map(|(table, set)| (table.handle, set.handle)))
}

/// The handles of a set that can take grants, and of its table.
fn check_set(netlink: &mut Netlink, set: &SetRef, family: Family) -> Result<Handles, NftSetError> {
    // nft's number and word for the type of the keys.
    let (number, key) = match family {
        Family::V4 => (7, "ipv4_addr"),
        Family::V6 => (8, "ipv6_addr"),
    };
    let unfit =
        |what, with_table| Err(NftSetError::Unfit { set: set.clone(), key, with_table, what });
    let (table, found) = match netlink.look_up(set)? {
        (Some(table), Some(found)) => (table, found),
        (Some(_), None) => return unfit(format!("there is no set '{set}'"), false),
        (None, _) => {
            let table = format!("{} {}", set.family.as_str(), set.table);
            return unfit(format!("there is no table '{table}'"), true);
        }
    };
    let has = |flag| found.flags & flag != 0;
    let of_other_type = format!("is not of type {key}");
    let faults = [
        (has(MAP), "is a map"),
        (found.key != number, &of_other_type),
        (has(INTERVAL), "has 'flags interval', which takes no single addresses"),
        (has(CONSTANT), "is constant"),
        (!has(TIMEOUT), "lacks 'flags timeout'"),
    ];
    match faults.into_iter().find(|(is_so, _)| *is_so) {
        Some((_, wrong)) => unfit(format!("the set '{set}' {wrong}"), false),
        None => Ok((table.handle, found.handle)),
    }
}

/// The lines that make a set.
fn declaration(set: &SetRef, key: &str, with_table: bool) -> String {
    let table = format!("{} {}", set.family.as_str(), set.table);
    let first = if with_table { format!("\n  nft add table {table}") } else { String::new() };
    format!("{first}\n  nft 'add set {set} {{ type {key}; flags timeout; }}'")
}
