//! knockd's own table: it locks the ports that doors open, and holds the grants.
//!
//! The kernel alone lets in and shuts out, and ends each grant by its own clock, whether knockd
//! lives or not. No program is run.
//!
//! While the table is replaced, a packet that is being judged at that very moment may be dropped
//! although a grant holds; TCP sends it again. None is let through that should not be.

mod standing;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, BorrowedFd};

use self::standing::Standing;
pub use self::standing::{check, guards, is_standing, remove_standing, standing};
use super::connections::{self, Connection};
use super::holders::{Hold, Holders};
use super::netlink::{
    Change, Comment, Entry, Event, Holding, Monitor, Netlink, NetlinkError, Removal, Seen, What,
};
use super::ruleset::{self, Element, Ruleset, Set, Slot, TABLE};
use crate::config::{Name, NftFamily};
use crate::time::Monotonic;

/// How often the table is loaded anew because somebody else changed one at that moment.
const TRIES: usize = 10;

/// Why the guard cannot do its work, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    #[error(
        "cannot set up the guard: no permission to change the firewall; run knockd as root, or with CAP_NET_ADMIN"
    )]
    NotPermitted,
    #[error(
        "cannot set up the guard: this kernel has no nf_tables; load the module (modprobe nf_tables), or open doors with 'via: iptables'"
    )]
    NoNftables,
    #[error(
        "cannot set up the guard: this kernel's nf_tables lack something that the table 'inet {TABLE}' needs (modules nft_ct with connection labels, nft_fib_inet): {0}"
    )]
    Incomplete(#[source] NetlinkError),
    #[error("the guard: {0}")]
    Kernel(#[source] NetlinkError),
}

impl From<NetlinkError> for GuardError {
    fn from(error: NetlinkError) -> Self {
        match error {
            NetlinkError::NotPermitted => Self::NotPermitted,
            NetlinkError::NoNftables => Self::NoNftables,
            error @ NetlinkError::RefusedObject { .. } => Self::Incomplete(error),
            error => Self::Kernel(error),
        }
    }
}

impl GuardError {
    /// Whether the table, or a set of it, is not there: [`Guard::restore`] brings it back.
    #[must_use]
    pub const fn is_disturbance(&self) -> bool {
        matches!(self, Self::Kernel(NetlinkError::NoTable(_) | NetlinkError::NoSet(_)))
    }
}

/// What somebody else did to the guard's table.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// It was deleted: by `nft flush ruleset`, or by another program that loads a firewall.
    Gone,
    /// It was replaced, or its chains, rules, sets or elements were changed.
    Changed,
    /// So much happened to all tables that the kernel could not tell what.
    Untold,
}

/// The table `inet knockd`, set up. Dropping it leaves the table where it is.
#[derive(Debug)]
pub struct Guard {
    netlink: Netlink,
    monitor: Monitor,
    ruleset: Ruleset,
    /// Where each door is in the ruleset.
    doors: HashMap<Name, usize>,
    /// When the kernel takes the locks away by itself.
    locked_until: Option<Monotonic>,
    holders: Holders,
    /// The guarded ports of the table that was loaded last, and the connections older than that.
    loaded: Option<(BTreeSet<Slot>, BTreeSet<Slot>)>,
}

impl Guard {
    /// Puts the table in place, in one transaction: a table that is there already is replaced by
    /// it without a moment at which a guarded port stands open. It holds the grants in `keep` and
    /// no others of knockd's; [`standing`] tells which an earlier process has left. What somebody
    /// has added by hand stays.
    ///
    /// Connections to a port that are older than its lock go on.
    ///
    /// # Errors
    /// Says what is missing and what to do; the old table then stands as it was.
    pub fn set_up(now: Monotonic, ruleset: Ruleset, keep: &[Element]) -> Result<Self, GuardError> {
        let mut guard = Self {
            netlink: Netlink::open()?,
            monitor: Monitor::new()?,
            ruleset: Ruleset::default(),
            doors: HashMap::new(),
            locked_until: None,
            holders: Holders::default(),
            loaded: None,
        };
        guard.replace(now, ruleset, keep)?;
        Ok(guard)
    }

    /// Puts another table in the place of this one, as [`set_up`](Self::set_up) does.
    ///
    /// # Errors
    /// As there.
    pub fn replace(
        &mut self,
        now: Monotonic,
        ruleset: Ruleset,
        keep: &[Element],
    ) -> Result<(), GuardError> {
        let doors = (0..).zip(&ruleset.doors).map(|(at, door)| (door.name.clone(), at)).collect();
        let locked_until = ruleset.locked_for.map(|left| now + left);
        let old = (
            std::mem::replace(&mut self.doors, doors),
            std::mem::replace(&mut self.ruleset, ruleset),
            std::mem::replace(&mut self.locked_until, locked_until),
            std::mem::take(&mut self.holders),
        );
        for grant in keep {
            for slot in self.slots(&grant.door, grant.address, grant.source_port) {
                self.holders.hold(slot, &grant.door, hold(now, grant));
            }
        }
        let restored = self.restore(now);
        if restored.is_err() {
            (self.doors, self.ruleset, self.locked_until, self.holders) = old;
        }
        restored
    }

    /// Sets up the same table again, with the grants that hold now, and the time that is left of
    /// a trial.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up).
    pub fn restore(&mut self, now: Monotonic) -> Result<(), GuardError> {
        let guarded = self.ruleset.guarded();
        for left in (0..TRIES).rev() {
            let generation = self.netlink.generation()?;
            let standing = Standing::read(&mut self.netlink, &self.ruleset)?;
            // What this process knows of its own table holds, whatever has become of that.
            let known = self.loaded.as_ref().map(|(guarded, older)| (guarded, older));
            let (before, older) = known.unwrap_or((&standing.guarded, &standing.older));
            let is_new = |slot: &Slot| guarded.contains(slot) && !before.contains(slot);
            let mut older = older.clone();
            if guarded.iter().any(is_new) {
                older.extend(connections(&mut self.netlink, is_new));
            }
            let mut changes = ruleset::table();
            for (set, entries) in self.contents(now, &guarded, &older, standing) {
                changes.extend(Change::add_all(&set.reference(), &entries));
            }
            // The last try does not ask whether somebody else was faster.
            match self.netlink.apply_at((left > 0).then_some(generation), &changes) {
                Err(NetlinkError::Overtaken) => {}
                done => {
                    done?;
                    self.loaded = Some((guarded, older));
                    break;
                }
            }
        }
        Ok(())
    }

    /// What the sets have to hold: of the standing table, what somebody else has added.
    fn contents(
        &self,
        now: Monotonic,
        guarded: &BTreeSet<Slot>,
        older: &BTreeSet<Slot>,
        standing: Standing,
    ) -> BTreeMap<Set, Vec<Entry>> {
        let locked_for = self.locked_until.map(|until| until.since(now));
        let mut contents = self.ruleset.contents(guarded, locked_for, &standing.trusted);
        let mut add = |Slot { set, key }: &Slot, left, comment: Comment| {
            let entry = Entry { key: key.clone(), is_end: false, left, comment };
            contents.entry(*set).or_default().push(entry);
        };
        older.iter().for_each(|slot| add(slot, None, Comment::default()));
        let by_hand: HashSet<&Slot> = standing.by_hand.iter().map(|(slot, _)| slot).collect();
        for (slot, hold) in self.holders.all().filter(|(slot, _)| !by_hand.contains(slot)) {
            if hold.until > now {
                add(slot, Some(hold.until.since(now)), hold.comment.clone());
            }
        }
        standing.by_hand.iter().for_each(|(slot, it)| add(slot, it.left, it.comment.clone()));
        contents
    }

    fn slots(&self, door: &Name, address: IpAddr, source_port: Option<NonZeroU16>) -> Vec<Slot> {
        let door = self.doors.get(door).and_then(|&at| self.ruleset.doors.get(at));
        door.map(|door| door.slots(address, source_port).collect()).unwrap_or_default()
    }

    /// Lets an address in for the time that `grant` has left from now on, at least. What
    /// somebody has let in by hand stays as it is.
    ///
    /// # Errors
    /// [`is_disturbance`](GuardError::is_disturbance) where the table has gone.
    pub fn open(&mut self, now: Monotonic, grant: &Element) -> Result<Holding, GuardError> {
        let mut holding = Holding::Kept;
        for slot in self.slots(&grant.door, grant.address, grant.source_port) {
            let set = slot.set.reference();
            let is_new = self.holders.longest(&slot).is_none();
            let before = self.holders.hold(slot.clone(), &grant.door, hold(now, grant));
            let (left, comment) = (grant.left, &grant.comment);
            let held = if is_new {
                self.netlink.add(&set, &slot.key, left, comment)
            } else {
                self.netlink.hold(&set, &slot.key, left, comment)
            };
            match held {
                Ok(Holding::Kept) => {}
                Ok(held) => holding = held,
                Err(error) => {
                    match before {
                        // What it has opened so far.
                        None => {
                            drop(self.close(now, &grant.door, grant.address, grant.source_port))
                        }
                        Some(before) => drop(self.holders.hold(slot, &grant.door, before)),
                    }
                    return Err(error.into());
                }
            }
        }
        Ok(holding)
    }

    /// Lets an address in no more, unless another door does or somebody did by hand. Connections
    /// that it has go on.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn close(
        &mut self,
        now: Monotonic,
        door: &Name,
        address: IpAddr,
        source_port: Option<NonZeroU16>,
    ) -> Result<Removal, GuardError> {
        let slots = self.slots(door, address, source_port);
        slots.iter().for_each(|slot| self.holders.release(slot, door));
        let mut removal = Removal::WasNotThere;
        for Slot { set, key } in &slots {
            let slot = Slot { set: *set, key: key.clone() };
            let other = self.holders.longest(&slot).filter(|hold| hold.until > now);
            let other = other.map(|hold| (hold.until.since(now), hold.comment.clone()));
            match self.netlink.release(&set.reference(), key, || other)? {
                Removal::WasNotThere => {}
                removed => removal = removed,
            }
        }
        Ok(removal)
    }

    /// For each of these doors and addresses, whether the kernel lets it in.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn are_open(
        &mut self,
        grants: &[(&Name, IpAddr, Option<NonZeroU16>)],
    ) -> Result<Vec<bool>, GuardError> {
        let open = Standing::open(&mut self.netlink)?;
        let is_open = |&(door, address, source_port): &(&Name, _, _)| {
            self.slots(door, address, source_port).iter().all(|slot| open.contains(slot))
        };
        Ok(grants.iter().map(is_open).collect())
    }

    /// What somebody else has done to the table since the last call; call it when
    /// [`as_fd`](Self::as_fd) is readable. What is added to its sets by another's hand is no
    /// disturbance, but for guarded ports: that is how an administrator lets somebody in without
    /// knockd.
    pub fn disturbance(&mut self) -> Option<Disturbance> {
        let mut is_gone = false;
        let seen = self.monitor.look(self.netlink.port(), |event: Event<'_>| {
            let is_ours = event.family == NftFamily::Inet && event.table == TABLE;
            is_gone |= is_ours && event.what == What::TableDeleted;
            let lets_in = |set: &str| !set.starts_with(Set::Guarded.base());
            is_ours && !matches!(event.what, What::ElementAdded(set) if lets_in(set))
        });
        match seen {
            Seen::Nothing => None,
            Seen::Something if is_gone => Some(Disturbance::Gone),
            Seen::Something => Some(Disturbance::Changed),
            Seen::Overflow => Some(Disturbance::Untold),
        }
    }

    /// Takes the table away: the ports are as open as the rest of the firewall leaves them.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up).
    pub fn remove(self) -> Result<(), GuardError> {
        remove_standing()
    }
}

/// Readable when any table of this host has changed: [`Guard::disturbance`] tells whether it
/// matters.
impl AsFd for Guard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }
}

fn hold(now: Monotonic, grant: &Element) -> Hold {
    Hold { until: now + grant.left, comment: grant.comment.clone() }
}

/// The connections of this moment to these guarded ports. What the kernel does not tell ends, which
/// is no reason to stay unguarded.
fn connections(netlink: &mut Netlink, is_guarded: impl Fn(&Slot) -> bool) -> BTreeSet<Slot> {
    let is_wanted = |connection: &Connection| connection.guarded().iter().any(&is_guarded);
    let mut found = netlink.tracked(is_wanted).unwrap_or_default();
    found.extend(connections::established().into_iter().filter(is_wanted));
    found.iter().map(Connection::older).collect()
}
