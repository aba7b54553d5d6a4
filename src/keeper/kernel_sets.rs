//! Sets of the kernel, whose elements are grants: the guard's table, and the administrator's own.

mod standing;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use tracing::{debug, info, warn};

use crate::config::{Config, Door, Mechanism, Name, NftSet};
use crate::firewall::guard::{self, Disturbance, Guard};
use crate::firewall::netlink::{
    ElementKey, ElementRef, Holding, Netlink, NetlinkError, Removal, SetRef,
};
use crate::firewall::nft_set::{NftSetError, OwnSets};
use crate::firewall::ruleset::{GuardGrant, GuardedDoor, Ruleset};
use crate::grants::{GrantKey, KernelElement, KernelGrant};
use crate::log::limit::Limit;
use crate::proto::Network;
use crate::time::Monotonic;

use self::standing::comment;
pub(super) use self::standing::standing;

/// The reason why the kernel does not do what it is asked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum KernelSetsError {
    #[error("cannot set up the guard: {0}")]
    Guard(#[source] NetlinkError),
    #[error(transparent)]
    Own(#[from] NftSetError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A grant of an earlier knockd may name a set that the configuration no longer does.
    #[error("its set is not one of this configuration")]
    NotInUse,
    #[error("a set of your own takes single addresses, not {0}")]
    Network(Network),
}

impl KernelSetsError {
    /// Whether the table, or a set of it, is not there.
    pub(super) const fn is_gap(&self) -> bool {
        matches!(self, Self::Netlink(NetlinkError::NoTable(_) | NetlinkError::NoSet(_)))
    }
}

type SetsResult<T> = Result<T, KernelSetsError>;

/// An element, and how long it is to be there.
type TimedElement = (ElementRef, Duration);

/// The sets that the configuration in force needs.
pub(super) struct KernelSets {
    guard: Option<Guard>,
    own: Option<OwnSets>,
    /// A program that keeps flushing must not keep this one busy.
    restores: Limit,
    /// What has not been mended yet, and when it will be.
    pending: Option<Disturbance>,
    next_try: Option<Monotonic>,
}

/// How many times in a row the table is restored at once, and how often after that.
const RESTORES: u32 = 10;
const RESTORE_EVERY: Duration = Duration::from_secs(1);

/// The guard of a configuration; `None` where no door is guarded.
pub(crate) fn ruleset(config: &Config, locked_until: Option<Monotonic>) -> Option<Ruleset> {
    let guarded = config.doors.iter().filter(|door| door.opening.mechanism == Mechanism::Guard);
    let door = |door: &Door| {
        let (opening, target) = (&door.opening, door.recognition.target);
        let (ports, forwards) = (opening.ports.clone(), opening.forwards.clone());
        let (mode, idle) = (opening.guard, opening.hold.map(|hold| hold.idle));
        (door.name().clone(), GuardedDoor { ports, forwards, target, mode, idle })
    };
    let doors: BTreeMap<Name, GuardedDoor> = guarded.map(door).collect();
    let trusted = config.settings.trusted.clone();
    (!doors.is_empty()).then_some(Ruleset { doors, trusted, locked_until })
}

fn all_own_sets(config: &Config) -> Vec<&NftSet> {
    let sets = config.doors.iter().filter_map(|door| match &door.opening.mechanism {
        Mechanism::Set(set) => Some(set),
        Mechanism::Guard | Mechanism::Commands { .. } => None,
    });
    let mut seen = HashSet::new();
    sets.filter(|set| seen.insert(*set)).collect()
}

impl KernelSets {
    /// Of no configuration: nothing in the kernel is looked at or changed.
    pub(super) fn none() -> Self {
        let restores = Limit::new(RESTORES, RESTORE_EVERY);
        Self { guard: None, own: None, restores, pending: None, next_try: None }
    }

    /// Puts in place what the configuration needs, holding the grants in `keep`, and takes away
    /// what it no longer needs.
    ///
    /// # Errors
    /// Says what is missing and what to do; then everything stands as it was.
    pub(super) fn set_up(
        config: &Config,
        keep: &[KernelGrant],
        now: Monotonic,
        locked_until: Option<Monotonic>,
    ) -> SetsResult<Self> {
        let mut sets = Self::none();
        sets.replace(config, keep, now, locked_until)?;
        if sets.guard.is_none() && guard::is_standing() {
            guard::remove_standing()?;
        }
        Ok(sets)
    }

    /// The same while it is at work. On trial the ports are locked only until then.
    ///
    /// # Errors
    /// As [`set_up`](Self::set_up).
    pub(super) fn replace(
        &mut self,
        config: &Config,
        keep: &[KernelGrant],
        now: Monotonic,
        locked_until: Option<Monotonic>,
    ) -> SetsResult<()> {
        let own = all_own_sets(config);
        let own = if own.is_empty() { None } else { Some(OwnSets::check(own)?) };
        let (elements, failed) = (guards_elements(keep), KernelSetsError::Guard);
        match (&mut self.guard, ruleset(config, locked_until)) {
            (Some(guard), Some(ruleset)) => {
                guard.replace(now, ruleset, &elements).map_err(failed)?;
            }
            (None, Some(ruleset)) => {
                self.guard = Some(Guard::set_up(now, ruleset, &elements).map_err(failed)?);
            }
            (Some(_), None) => {
                guard::remove_standing()?;
                self.guard = None;
            }
            (None, None) => {}
        }
        self.own = own;
        Ok(())
    }

    /// The elements that a grant is, each with its time, and through which they are changed.
    fn find(&mut self, kept: &KernelGrant) -> SetsResult<(Vec<TimedElement>, &mut Netlink)> {
        match (&kept.element, &mut self.guard, &mut self.own) {
            (KernelElement::Guard, Some(guard), _) => {
                Ok((guard.elements(&guards_grant(kept)), &mut guard.netlink))
            }
            (KernelElement::Set(set), _, Some(own)) => {
                Ok((vec![(own_element(&kept.key, set)?, kept.left)], &mut own.netlink))
            }
            _ => Err(KernelSetsError::NotInUse),
        }
    }

    /// Sees to it that an address is let in for the time that is left. What the administrator has
    /// added to a set by hand stays as it is, and is told. Whether it was not let in before; if it
    /// `is_new` that is what is to be expected, and then costs no question.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn open(&mut self, kept: &KernelGrant, is_new: bool) -> SetsResult<bool> {
        let KernelGrant { key, origin, .. } = kept;
        let comment = comment(&key.door, origin);
        let (slots, netlink) = self.find(kept)?;
        if is_new && netlink.add(&slots, &comment)? {
            if let Some(guard) = &mut self.guard
                && kept.element == KernelElement::Guard
                && let Err(why) = guard.forget_in_vain(key)
            {
                debug!(door = %key.door, "what was sent before is not led on: {why}");
            }
            return Ok(true);
        }
        let mut was_gone = false;
        for (slot, left) in &slots {
            match netlink.hold(slot, *left, &comment)? {
                Holding::Kept => {}
                Holding::Added => was_gone = true,
                Holding::NotOurs(left) => {
                    let until = match left {
                        Some(left) => format!("for another {} s, not by knockd", left.as_secs()),
                        None => "permanently".to_owned(),
                    };
                    info!(source = %key.network, door = %key.door,
                        "in the set '{}' already, {until}: left as it is", slot.set);
                }
            }
        }
        Ok(was_gone)
    }

    /// Lets an address in no more; what one of the `others` holds too, no longer than that one
    /// says. Where it leads, the last of them says.
    ///
    /// # Errors
    /// When the kernel refuses; an address that is not in is none.
    pub(super) fn close(
        &mut self,
        key: &GrantKey,
        element: &KernelElement,
        others: impl FnOnce() -> Vec<KernelGrant>,
    ) -> SetsResult<()> {
        let is_shared = match element {
            KernelElement::Guard => self.guard.as_ref().is_some_and(|it| it.shares(&key.door)),
            KernelElement::Set(_) => true,
        };
        let others = is_shared.then(others).unwrap_or_default();
        let mut held = Vec::new();
        for kept in &others {
            let slots = self.find(kept).map_or_else(|_| Vec::new(), |(slots, _)| slots);
            held.extend(slots.into_iter().map(|(at, left)| (at, left, kept)));
        }
        let (slots, netlink) = match (element, &mut self.guard, &mut self.own) {
            (KernelElement::Guard, Some(guard), _) => (guard.places(key), &mut guard.netlink),
            // The last door that used the table is no more.
            (KernelElement::Guard, None, _) => return Ok(()),
            (KernelElement::Set(set), _, Some(own)) => {
                (vec![own_element(key, set)?], &mut own.netlink)
            }
            (KernelElement::Set(set), _, None) => {
                (vec![own_element(key, set)?], &mut Netlink::open()?)
            }
        };
        let mut closed = Ok(());
        for slot in &slots {
            let mut others = held.iter().filter(|(at, ..)| at.is_at(slot)).cloned();
            let other = match slot.value {
                Some(_) => others.next_back(),
                None => others.max_by_key(|(_, left, _)| *left),
            };
            let says = |kept: &KernelGrant| comment(&kept.key.door, &kept.origin);
            let other = other.map(|(at, left, kept)| (at, left, says(kept)));
            match netlink.release(slot, other) {
                Ok(Removal::NotOurs) => {
                    info!(source = %key.network, door = %key.door,
                        "stays in the set '{}', since it was not knockd that put it there", slot.set);
                }
                Ok(Removal::Removed | Removal::WasNotThere) => {}
                // Of networks, there was none as wide when the table was replaced.
                Err(NetlinkError::NoSet(_)) if *element == KernelElement::Guard => {}
                Err(error) => closed = Err(error.into()),
            }
        }
        closed
    }

    /// For each of these, whether the kernel holds it: somebody may have flushed its set.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(super) fn are_held(&mut self, keep: &[KernelGrant]) -> SetsResult<Vec<bool>> {
        let mut sets: HashMap<SetRef, HashSet<ElementKey>> = HashMap::new();
        let mut is_held = |kept: &KernelGrant| {
            let Ok((slots, netlink)) = self.find(kept) else {
                return Ok(false);
            };
            // Where it leads somewhere else, another of the address's grants decides.
            for (ElementRef { set, key, .. }, _) in slots {
                let keys = match sets.entry(set) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unread) => {
                        let found = netlink.dump_if_there(unread.key())?;
                        unread.insert(found.into_iter().flatten().map(|it| it.key).collect())
                    }
                };
                if !keys.contains(&key) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        keep.iter().map(&mut is_held).collect()
    }

    /// What is left of the elements of a grant that packets renew: the longest time, if there are
    /// any.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(super) fn left(&mut self, kept: &KernelGrant) -> SetsResult<Option<Duration>> {
        let (slots, netlink) = self.find(kept)?;
        let mut longest = None;
        for (slot, _) in slots.iter().filter(|(slot, _)| slot.renewed.is_some()) {
            longest = longest.max(netlink.element(slot)?.and_then(|found| found.left));
        }
        Ok(longest)
    }

    /// Mends what others have done to the tables; `keep` are the grants that hold.
    ///
    /// # Errors
    /// When it cannot be mended.
    pub(super) fn poll(
        &mut self,
        now: Monotonic,
        keep: impl FnOnce() -> Vec<KernelGrant>,
    ) -> SetsResult<()> {
        let is_due = self.next_try.is_none_or(|at| at <= now);
        let disturbed = self.guard.as_mut().and_then(Guard::disturbance);
        let disturbed = disturbed.or(self.pending.take_if(|_| is_due));
        let may_restore = disturbed.is_none() || self.restores.pass(now);
        let mended = if may_restore { self.mend(now, disturbed, keep) } else { Ok(()) };
        if !may_restore || mended.is_err() {
            self.pending = disturbed;
            self.next_try = Some(now + RESTORE_EVERY);
        }
        mended
    }

    /// Mends this, and sets of the administrator's own that somebody has made anew.
    ///
    /// # Errors
    /// When it cannot be mended.
    pub(super) fn mend(
        &mut self,
        now: Monotonic,
        disturbed: Option<Disturbance>,
        keep: impl FnOnce() -> Vec<KernelGrant>,
    ) -> SetsResult<()> {
        let anew = self.own.as_mut().map_or_else(|| Ok(Vec::new()), OwnSets::made_anew);
        if disturbed.is_none() && anew.as_ref().is_ok_and(Vec::is_empty) {
            return Ok(());
        }
        self.next_try = None;
        let keep = keep();
        if let (Some(disturbance), Some(guard)) = (disturbed, &mut self.guard) {
            let what = match disturbance {
                Disturbance::Gone => "deleted",
                Disturbance::Changed => "changed",
                Disturbance::Untold => "may have changed",
                Disturbance::Outgrown => "has outgrown",
            };
            guard.restore(now, &guards_elements(&keep))?;
            if disturbance != Disturbance::Outgrown {
                warn!("somebody {what} the guard's table 'inet knockd': it is restored");
            }
        }
        for set in anew? {
            warn!("somebody made the set '{set}' anew: its grants are restored");
            let set = KernelElement::Set(set);
            for kept in keep.iter().filter(|kept| kept.element == set) {
                let _was_gone = self.open(kept, true)?;
            }
        }
        Ok(())
    }

    /// Takes the guard away.
    ///
    /// # Errors
    /// When it cannot be taken away.
    pub(super) fn remove(self) -> SetsResult<()> {
        self.guard.map_or(Ok(()), |_| Ok(guard::remove_standing()?))
    }

    /// When [`poll`](Self::poll) has to be called next.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        self.pending.and(self.next_try)
    }

    /// Readable when [`poll`](Self::poll) is worth while.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let guard = self.guard.as_ref().map(|guard| &guard.monitor);
        let own = self.own.as_ref().map(|own| &own.monitor);
        guard.into_iter().chain(own).map(|monitor| monitor.as_fd())
    }
}

fn own_element(key: &GrantKey, set: &SetRef) -> SetsResult<ElementRef> {
    let address = key.network.single().ok_or(KernelSetsError::Network(key.network))?;
    Ok(ElementRef::new(set.clone(), address.into()))
}

fn guards_elements(keep: &[KernelGrant]) -> Vec<GuardGrant> {
    keep.iter().filter(|kept| kept.element == KernelElement::Guard).map(guards_grant).collect()
}

fn guards_grant(kept: &KernelGrant) -> GuardGrant {
    let KernelGrant { key, origin, left, ceiling, .. } = kept;
    let comment = comment(&key.door, origin);
    GuardGrant { key: key.clone(), left: *left, ceiling: *ceiling, comment }
}
