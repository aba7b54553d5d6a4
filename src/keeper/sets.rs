//! What the kernel opens and ends: the guard's table, and sets of the administrator's own.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use tracing::warn;

use crate::config::{Config, Door, How, Name, NftFamily, OnExit};
use crate::firewall::guard::{self, Disturbance, Guard, GuardError};
use crate::firewall::netlink::{Comment, NetlinkError, SetRef};
use crate::firewall::nft_set::{NftSetError, NftSets, OwnSets};
use crate::firewall::ruleset::{self, GuardedDoor, Ruleset};
use crate::grants::{By, Element, Held, Opener, Place};
use crate::log::limit::Limit;
use crate::time::Monotonic;

/// Why the kernel does not do what it is asked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetsError {
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error(transparent)]
    Own(#[from] NftSetError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A grant of an earlier knockd may name a set that the configuration no longer does.
    #[error("the set '{0} {1}' is not one of this configuration")]
    NotInUse(String, String),
}

/// A grant that the kernel holds, or has to hold.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) place: Place,
    pub(super) opener: Opener,
    pub(super) element: Element,
    pub(super) left: Duration,
}

/// The sets that the configuration in force needs.
pub(super) struct Sets {
    guard: Option<Guard>,
    own: Option<OwnSets>,
    /// A program that keeps flushing must not keep this one busy.
    restores: Limit,
    /// When the kernel takes the locks away by itself, on trial.
    locked_until: Option<Monotonic>,
    /// What has not been mended yet, and when it will be.
    owed: Option<Disturbance>,
    look_at: Option<Monotonic>,
}

/// How many times in a row the table is restored at once, and how often after that.
const RESTORES: u32 = 10;
const RESTORE_EVERY: Duration = Duration::from_secs(1);

/// Elements carry this word, the door and what opened it: others than ours are left alone.
const OURS: &str = "knockd";

fn comment(door: &Name, opener: &Opener) -> Comment {
    let Opener { by, client } = opener;
    Comment::new(&match client {
        Some(client) => format!("{OURS} {door} {by} {client}"),
        None => format!("{OURS} {door} {by}"),
    })
}

/// What a comment says; `None`: somebody else's element.
fn read_comment(comment: &Comment) -> Option<(Name, Opener)> {
    let mut words = comment.as_str().split(' ');
    (words.next() == Some(OURS)).then_some(())?;
    let (door, by) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let client = words.next().and_then(|client| client.parse().ok());
    Some((door, Opener { by, client }))
}

/// `None` where no door is guarded.
fn ruleset(config: &Config, locked_for: Option<Duration>) -> Option<Ruleset> {
    let guarded = |door: &Door| {
        matches!(door.opening.how, How::Guard).then(|| GuardedDoor {
            name: door.name().clone(),
            ports: door.opening.ports.clone(),
            target: door.recognition.target,
        })
    };
    let doors: Vec<GuardedDoor> = config.doors.iter().filter_map(guarded).collect();
    let trusted = config.settings.trusted.clone();
    (!doors.is_empty()).then_some(Ruleset { doors, trusted, locked_for })
}

fn all_own_sets(config: &Config) -> Vec<NftSets> {
    let sets = config.doors.iter().filter_map(|door| match &door.opening.how {
        How::Set(set) => Some(set),
        How::Guard | How::Commands { .. } => None,
    });
    let mut seen = HashSet::new();
    sets.filter(|set| seen.insert(*set)).map(NftSets::from).collect()
}

/// What the kernel still holds of an earlier keeper's grants.
pub(super) fn standing(config: &Config) -> Result<Vec<Held>, SetsError> {
    let mut held = Vec::new();
    let uses_guard = ruleset(config, None).is_some();
    let elements = match guard::standing() {
        Ok(elements) => elements,
        // A machine without nftables has no table; whoever wants one is told when it is set up.
        Err(_) if !uses_guard => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for element in elements {
        let opener = read_comment(&element.comment).map(|(_, opener)| opener);
        let (address, source_port) = (element.address, element.source_port);
        held.push(Held {
            element: Element::of_guard(&element.door, address, source_port),
            place: Place { door: element.door, address, source_port },
            opener: opener.unwrap_or_else(|| By::Sequence.into()),
            remaining: element.left,
        });
    }
    let own = all_own_sets(config);
    if own.is_empty() {
        return Ok(held);
    }
    let mut sets = OwnSets::check(&own)?;
    for reference in sets.all() {
        for entry in sets.entries(&reference)? {
            let Some((name, opener)) = read_comment(&entry.comment) else { continue };
            let how = config.door(&name).map(|door| &door.opening.how);
            let Some(How::Set(set)) = how else { continue };
            let address = entry.key.address;
            let (Some(element), Some(left)) = (Element::of_set(set, address), entry.left) else {
                continue;
            };
            if NftSets::from(set).of(address) == Some(&reference) {
                let place = Place::new(name, address);
                held.push(Held { place, opener, element, remaining: left });
            }
        }
    }
    Ok(held)
}

impl Sets {
    /// Puts in place what the configuration needs, holding the grants in `keep`, and takes away
    /// what it no longer needs.
    ///
    /// # Errors
    /// Says what is missing and what to do; then everything stands as it was.
    pub(super) fn set_up(
        config: &Config,
        keep: &[Kept],
        now: Monotonic,
        locked_until: Option<Monotonic>,
    ) -> Result<Self, SetsError> {
        let mut sets = Self {
            guard: None,
            own: None,
            restores: Limit::new(RESTORES, RESTORE_EVERY),
            locked_until: None,
            owed: None,
            look_at: None,
        };
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
        keep: &[Kept],
        now: Monotonic,
        locked_until: Option<Monotonic>,
    ) -> Result<(), SetsError> {
        let own = all_own_sets(config);
        let own = if own.is_empty() { None } else { Some(OwnSets::check(&own)?) };
        let elements = guards_elements(keep);
        let locked_for = locked_until.map(|until| until.since(now));
        match (&mut self.guard, ruleset(config, locked_for)) {
            (Some(guard), Some(ruleset)) => guard.replace(ruleset, &elements)?,
            (None, Some(ruleset)) => self.guard = Some(Guard::set_up(ruleset, &elements)?),
            (Some(_), None) => {
                guard::remove_standing()?;
                self.guard = None;
            }
            (None, None) => {}
        }
        self.own = own;
        self.locked_until = locked_until;
        Ok(())
    }

    /// Lets an address in for the time that is left, or gives it that time.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn open(&mut self, kept: &Kept) -> Result<(), SetsError> {
        if kept.element.is_guards() {
            let guard = self.guard.as_mut().ok_or_else(|| not_in_use(&kept.element))?;
            return Ok(guard.open(&guards_element(kept))?);
        }
        let own = self.own.as_mut().ok_or_else(|| not_in_use(&kept.element))?;
        let set = set_ref(&kept.element)?;
        let comment = comment(&kept.place.door, &kept.opener);
        Ok(own.open(&set, kept.place.address, kept.left, &comment)?)
    }

    /// Gives an address that is in the time that is left.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn extend(&mut self, kept: &Kept) -> Result<(), SetsError> {
        if kept.element.is_guards() {
            let guard = self.guard.as_mut().ok_or_else(|| not_in_use(&kept.element))?;
            return Ok(guard.extend(&guards_element(kept))?);
        }
        let own = self.own.as_mut().ok_or_else(|| not_in_use(&kept.element))?;
        let set = set_ref(&kept.element)?;
        let comment = comment(&kept.place.door, &kept.opener);
        Ok(own.extend(&set, kept.place.address, kept.left, &comment)?)
    }

    /// Lets an address in no more.
    ///
    /// # Errors
    /// When the kernel refuses; an address that is not in is none.
    pub(super) fn close(&mut self, place: &Place, element: &Element) -> Result<(), SetsError> {
        let Place { door, address, source_port } = place;
        if element.is_guards() {
            if let Some(guard) = &mut self.guard {
                let _removed = guard.close(door, *address, *source_port)?;
            }
        } else if let Some(own) = &mut self.own {
            let _removed = own.close(&set_ref(element)?, *address)?;
        }
        Ok(())
    }

    /// Mends what others have done to the tables; `keep` are the grants that hold.
    ///
    /// # Errors
    /// When it cannot be mended.
    pub(super) fn look(
        &mut self,
        now: Monotonic,
        keep: impl FnOnce() -> Vec<Kept>,
    ) -> Result<(), SetsError> {
        let mut disturbed = match &mut self.guard {
            Some(guard) => guard.disturbance()?,
            None => None,
        };
        disturbed = disturbed.or(self.owed.take_if(|_| self.look_at.is_none_or(|at| at <= now)));
        if disturbed.is_some() && !self.restores.pass(now) {
            self.owed = disturbed.take();
            self.look_at = Some(now + RESTORE_EVERY);
            return Ok(());
        }
        let anew = match &mut self.own {
            Some(own) => own.made_anew()?,
            None => Vec::new(),
        };
        if disturbed.is_none() && anew.is_empty() {
            return Ok(());
        }
        self.look_at = None;
        let keep = keep();
        if let (Some(disturbance), Some(guard)) = (disturbed, &mut self.guard) {
            let what = match disturbance {
                Disturbance::Gone => "deleted",
                Disturbance::Changed => "changed",
            };
            guard.restore(&guards_elements(&keep), self.locked_until.map(|it| it.since(now)))?;
            warn!("somebody {what} the guard's table 'inet knockd': it is restored");
        }
        for set in anew {
            warn!("somebody made the set '{set}' anew: its grants are restored");
            let of_set = |kept: &&Kept| set_ref(&kept.element).is_ok_and(|own| own == set);
            for kept in keep.iter().filter(of_set) {
                self.open(kept)?;
            }
        }
        Ok(())
    }

    /// Leaves the kernel to itself: the guard stays or goes.
    ///
    /// # Errors
    /// When it cannot be taken away.
    pub(super) fn leave(self, on_exit: OnExit) -> Result<(), SetsError> {
        match (self.guard, on_exit) {
            (Some(guard), OnExit::Remove) => Ok(guard.remove()?),
            _ => Ok(()),
        }
    }

    /// When [`look`](Self::look) has to be called next.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        self.owed.and(self.look_at)
    }

    /// Readable when [`look`](Self::look) is worth while.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let guard = self.guard.as_ref().map(AsFd::as_fd);
        guard.into_iter().chain(self.own.as_ref().map(AsFd::as_fd))
    }
}

fn not_in_use(element: &Element) -> SetsError {
    SetsError::NotInUse(element.table.clone(), element.set.clone())
}

fn set_ref(element: &Element) -> Result<SetRef, SetsError> {
    let (family, table) = element.table.split_once(' ').ok_or_else(|| not_in_use(element))?;
    let family = NftFamily::ALL.into_iter().find(|known| known.as_str() == family);
    let family = family.ok_or_else(|| not_in_use(element))?;
    SetRef::new(family, table, &element.set).map_err(|_| not_in_use(element))
}

fn guards_elements(keep: &[Kept]) -> Vec<ruleset::Element> {
    keep.iter().filter(|kept| kept.element.is_guards()).map(guards_element).collect()
}

fn guards_element(kept: &Kept) -> ruleset::Element {
    ruleset::Element {
        door: kept.place.door.clone(),
        address: kept.place.address,
        source_port: kept.place.source_port,
        left: kept.left,
        comment: comment(&kept.place.door, &kept.opener),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_says_whose_element_it_is() {
        let door: Name = "ssh".parse().unwrap();
        for client in [None, Some("phone".parse().unwrap())] {
            let opener = Opener { by: By::Totp, client };
            let ours = comment(&door, &opener);
            assert_eq!(read_comment(&ours), Some((door.clone(), opener)));
        }
        for other in ["", "added by hand", "knockd", "knockd ssh", "knockd ssh magic"] {
            assert_eq!(read_comment(&Comment::new(other)), None, "{other}");
        }
    }
}
