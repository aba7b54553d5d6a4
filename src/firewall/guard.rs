//! The guard, knockd's own table: it locks the ports that doors open, and holds the grants.
//!
//! The kernel alone lets in and shuts out, and ends each grant by its own clock, whether knockd
//! lives or not. No program is run.
//!
//! While the table is replaced, a packet that is being judged at that very moment may be dropped
//! although a grant holds; TCP sends it again. None is let through that should not be.

mod standing;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use self::standing::StandingTable;
pub use self::standing::{check, guards, is_standing, observed, remove_standing, standing};
use super::connections::{self, InboundConnection};
use super::netlink::{
    self, DELETE_ELEMENT, DELETE_TABLE, ElementRef, Monitor, NEW_ELEMENT, Netlink, NetlinkError,
    NftEvent,
};
use super::ruleset::{GuardElement, GuardGrant, GuardSet, Ruleset, TABLE, VERSION};
use crate::config::{Name, NftFamily};
use crate::grants::{ConnectionPhase, GrantKey};
use crate::proto::{OpenPorts, Protocol};
use crate::sys::clock;
use crate::time::Monotonic;

/// How often the table is loaded anew because somebody else changed one at that moment.
const TRIES: usize = 10;

/// A change that somebody else made to the guard's table.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// It was deleted: by `nft flush ruleset`, or by another program that loads a firewall.
    Gone,
    /// It was replaced, or its chains, rules, sets or elements were changed.
    Changed,
    /// So much happened to all tables that the kernel could not tell what.
    Untold,
    /// Nobody did anything: a grant is for a network as wide as none before.
    Outgrown,
}

/// The table `inet knockd`, set up. Dropping it leaves the table where it is.
#[derive(Debug)]
pub struct Guard {
    /// The connection through which elements are changed: what others change is told apart.
    pub netlink: Netlink,
    /// Readable when any table of this host has changed: [`Self::disturbance`] tells whether it
    /// matters.
    pub monitor: Monitor,
    ruleset: Ruleset,
    shared: HashSet<Name>,
    /// The connections that were there before the lock of their port.
    older: BTreeSet<GuardElement>,
}

impl Guard {
    /// Puts the table in place, in one transaction: a table that is there already is replaced by
    /// it without a moment at which a guarded port stands open. It holds the grants in `keep` and
    /// no others of knockd's; [`standing()`] tells which an earlier process has left. What somebody
    /// has added by hand stays.
    ///
    /// Connections to a port that are older than its lock go on.
    ///
    /// # Errors
    /// Says what is missing and what to do; the old table then stands as it was.
    pub fn set_up(now: Monotonic, ruleset: Ruleset, keep: &[GuardGrant]) -> netlink::Result<Self> {
        let (mut netlink, monitor) = (Netlink::open()?, Monitor::new()?);
        let older = load(&mut netlink, now, &ruleset, None, keep)?;
        Ok(Self { netlink, monitor, shared: ruleset.shared(), ruleset, older })
    }

    /// Puts another table in the place of this one, as [`set_up`](Self::set_up) does.
    ///
    /// # Errors
    /// As there.
    pub fn replace(
        &mut self,
        now: Monotonic,
        ruleset: Ruleset,
        keep: &[GuardGrant],
    ) -> netlink::Result<()> {
        let known = Some((&self.ruleset, &self.older));
        self.older = load(&mut self.netlink, now, &ruleset, known, keep)?;
        self.shared = ruleset.shared();
        self.ruleset = ruleset;
        Ok(())
    }

    /// Sets up the same table again, with the grants that hold now, and the time that is left of
    /// a trial.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up).
    pub fn restore(&mut self, now: Monotonic, keep: &[GuardGrant]) -> netlink::Result<()> {
        self.replace(now, self.ruleset.clone(), keep)
    }

    /// The elements that let in at a door for a grant, or lead on from there, each with the time
    /// that is left of it.
    pub fn elements(&self, grant: &GuardGrant) -> Vec<(ElementRef, Duration)> {
        self.ruleset.references(grant)
    }

    /// All elements that a grant may have, whatever it was opened for, in the order in which they
    /// are to be taken away.
    pub fn places(&self, key: &GrantKey) -> Vec<ElementRef> {
        let elements = |is_held| self.ruleset.elements(key, is_held);
        let all: BTreeSet<_> = [false, true].into_iter().flat_map(elements).collect();
        // Ceilings first: without them no packet makes anew what is deleted.
        all.into_iter().rev().map(|(it, value)| it.reference(value)).collect()
    }

    /// Makes the kernel forget what has come in vain to where a door leads on: otherwise whoever goes
    /// on sending from the same port would not be led on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget_in_vain(&mut self, key: &GrantKey) -> netlink::Result<()> {
        let door = self.ruleset.doors.get(&key.door);
        let on = door.iter().flat_map(|door| &door.forwards).map(|forward| forward.on);
        let on = on.filter(|on| on.protocol == Protocol::Udp).map(OpenPorts::from);
        let mut tracked = self.netlink.connections(&on.collect::<Vec<_>>())?;
        tracked.retain(|it| {
            let was_led = it.answered_by != it.to;
            it.phase == ConnectionPhase::Begun && !was_led && key.network.contains(it.client.ip())
        });
        tracked.iter().try_for_each(|it| self.netlink.forget(it))
    }

    /// Whether other doors open a port that this one opens.
    pub fn shares(&self, door: &Name) -> bool {
        self.shared.contains(door)
    }

    /// The change that somebody else has made to the table since the last call; call it when its
    /// monitor is readable. What is added to its sets by another's hand is no disturbance, but for
    /// guarded ports: that is how an administrator lets somebody in without knockd. Nor is it to
    /// take out what the kernel has noted.
    pub fn disturbance(&mut self) -> Option<Disturbance> {
        let mut found = None;
        let is_all = self.monitor.look(self.netlink.port, |event: NftEvent<'_>| {
            let lets_in = |set: &str| !set.starts_with(GuardSet::GUARDED.kind.as_str());
            let is_note = |name: &str| {
                let mut bounded = GuardSet::all().filter(|set| set.kind.bounds().is_some());
                bounded.any(|set| set.reference().set.as_str() == name)
            };
            match event.kind {
                _ if event.family != NftFamily::Inet || event.table != TABLE => {}
                DELETE_TABLE => found = Some(Disturbance::Gone),
                NEW_ELEMENT if event.set.is_some_and(lets_in) => {}
                DELETE_ELEMENT if event.set.is_some_and(is_note) => {}
                _ => found = found.or(Some(Disturbance::Changed)),
            }
        });
        found.or((!is_all).then_some(Disturbance::Untold))
    }
}

/// Puts the table in place, and returns the elements that let older connections go on. What this
/// process has locked, if it is `known`, and what was older than that, hold whatever has become of
/// the table.
fn load(
    netlink: &mut Netlink,
    now: Monotonic,
    ruleset: &Ruleset,
    known: Option<(&Ruleset, &BTreeSet<GuardElement>)>,
    keep: &[GuardGrant],
) -> netlink::Result<BTreeSet<GuardElement>> {
    let known = known.map(|(ruleset, older)| (ruleset.guarded(), older));
    for left in (0..TRIES).rev() {
        let generation = netlink.generation()?;
        let standing = StandingTable::read(netlink, ruleset)?;
        let keep = standing.renewing(keep);
        let (before, mut older) = match &known {
            Some((before, older)) => (before, BTreeSet::clone(older)),
            None => (&standing.guarded, standing.older),
        };
        let mut new = ruleset.guarded();
        new.retain(|element| !before.contains(element));
        if !new.is_empty() {
            older.extend(connections(netlink, &new));
        }
        let changes = ruleset.changes(now, &table_comment(), &older, standing.added, &keep);
        // The last try does not ask whether somebody else was faster.
        match netlink.apply_at((left > 0).then_some(generation), &changes) {
            Err(NetlinkError::Overtaken) => {}
            loaded => return loaded.map(|()| older),
        }
    }
    Err(NetlinkError::Overtaken)
}

/// The table's comment: a saved ruleset must not bring the grants of another boot back.
fn table_comment() -> String {
    clock::boot_id().map_or_else(|_| VERSION.to_owned(), |boot| format!("{VERSION} {boot}"))
}

/// The elements that let the connections of this moment to these guarded ports go on. What the
/// kernel does not tell ends, which is no reason to stay unguarded.
fn connections(
    netlink: &mut Netlink,
    ports: &BTreeSet<GuardElement>,
) -> impl Iterator<Item = GuardElement> {
    let ranges: Vec<_> = ports.iter().filter(|port| port.set.is_of_ranges).collect();
    let is_locked =
        |one: &GuardElement| ports.contains(one) || ranges.iter().any(|range| range.covers(one));
    let is_wanted = |it: &InboundConnection| it.guarded().iter().any(is_locked);
    let mut found = netlink.tracked(is_wanted).unwrap_or_default();
    found.extend(connections::established().into_iter().filter(is_wanted));
    found.into_iter().map(|connection| connection.older())
}
