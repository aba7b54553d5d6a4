//! Grants: doors open for an address, from the request to the close.
//!
//! Pure: it is told the time and what came of the commands, and answers with what is to be done.
//! A grant is *starting* while its open commands run, *open* until its deadline, *closing* while
//! its close commands run. What the kernel opens and ends has no commands: it is open at once.

mod action;
mod hold;
mod prepared;
mod record;
mod recovery;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::time::Duration;

pub use self::action::{Action, CommandPair};
use self::hold::Session;
pub use self::hold::{ConnectionPhase, DoorSessions, HoldEnd, TrackedConnection};
use self::prepared::Transition;
pub use self::prepared::{Extension, GrantChange, PreparedGrant};
pub use self::record::{
    GrantBackend, GrantKey, GrantRecord, GrantState, KernelElement, OpenedBy, Origin,
};
pub use self::recovery::{KernelGrant, Recovered};
use crate::config::{Name, Rendered};
use crate::engine::Reason;
use crate::proto::Network;
use crate::time::{BootId, Monotonic, Now};

/// The number of one grant among all that have not closed, over restarts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId(pub u64);

/// The decision on a completed knock.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Open it by this backend, where they are commands by [`Grants::work`], then say what came of
    /// it: [`Grants::opened`].
    Open(GrantId, GrantBackend),
    /// Run these; nothing has to be closed later.
    Act(Vec<Rendered>),
    /// The door is open already, and stays so until then; where there is a manner, once
    /// [`Grants::work`] of it has seen to it that it is: [`Grants::opened`].
    Extend(GrantId, Monotonic, Option<Manner>),
    /// The door is being closed; it opens again once that has ended.
    Wait,
}

/// The manner in which the open commands of a grant run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    /// Those whose work is not there.
    IfGone,
    /// All of them.
    Once,
    /// All of them, after what they opened for a shorter time has been closed.
    Anew,
}

/// The result of opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenResult {
    All,
    /// So many pairs succeeded, and the command of the next one could not be started: it has done
    /// nothing.
    NotStarted(usize),
    /// The command of the next one failed, and may have done its work all the same.
    Failed(usize),
    /// It succeeded, and yet what it opens is not there.
    NotThere(usize),
}

/// The outcome for a grant whose open commands have ended.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenOutcome {
    Open,
    /// It may be open, and is closed at its time.
    WithErrors,
    /// Somebody asked for more meanwhile: [`Grants::work`] of this manner.
    Again(Manner),
    /// Nothing was opened, so nothing has to be closed.
    Nothing,
    /// What was opened has to be closed at once.
    Close(Vec<CommandPair>),
}

/// A grant whose time has come.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToClose {
    pub id: GrantId,
    /// The steps to close, if any: what another grant holds too stays.
    pub close: Vec<CommandPair>,
    /// The element to delete, where the kernel has not done so by itself.
    pub delete: Option<KernelElement>,
    /// It could not be closed before.
    pub again: bool,
    /// Why, where it may follow a session and its time is over.
    pub end: Option<HoldEnd>,
}

/// The reason why a close failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseFailure {
    OfCommand,
    /// The machine had no room for it: that passes, and then it is closed, however late.
    NoRoom,
}

/// The outcome of a close that failed.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedClose {
    /// It has ended by itself.
    Ended,
    /// It expires once more, after this time.
    Again(Duration),
    /// It may still be open, and nobody tries any more.
    GivenUp,
}

/// After how many seconds a close that failed is tried again, each time.
const TRY_AGAIN: [u64; 4] = [1, 2, 4, 8];

#[derive(Debug)]
enum GrantPhase {
    /// `again`: more is to be done when that has ended.
    Starting { was_open: bool, again: Option<Manner> },
    /// `with_errors`: its commands have failed, and may have opened it.
    Open { with_errors: bool },
    /// `again`: somebody knocked meanwhile. `left`: what is being closed. `tries`: those that
    /// failed.
    Closing { again: Option<Box<(Origin, Action)>>, left: Vec<CommandPair>, tries: usize },
}

/// A door open for an address, or about to be, or not quite closed.
#[derive(Debug)]
pub struct Grant {
    pub id: GrantId,
    pub key: GrantKey,
    /// Who opened it, or extended it last.
    pub origin: Origin,
    pub deadline: Monotonic,
    /// When it ends whatever comes, where it follows its session.
    ceiling: Option<Monotonic>,
    pub backend: GrantBackend,
    /// How many addresses of its family its client may have open at the door, where it is known.
    addresses: Option<NonZeroUsize>,
    state: GrantPhase,
    session: Session,
    is_own: bool,
    /// The greater, the later it was opened or extended.
    pub turn: u64,
}

/// All grants, and when each ends; at first none, and no limits.
#[derive(Debug, Default)]
pub struct Grants {
    /// The most that there may be in all, and that commands open.
    limits: Option<(usize, usize)>,
    /// How many there are of each door, and that commands open.
    of_door: HashMap<Name, usize>,
    by_commands: usize,
    /// Who holds, open or about to be, what one and the same close command takes away. Only what
    /// can be looked at is held by several.
    holders: BTreeSet<(Vec<String>, GrantId)>,
    grants: HashMap<GrantId, Grant>,
    /// The one grant that there is for a key.
    by_key: BTreeMap<GrantKey, GrantId>,
    of_network: BTreeSet<(Network, GrantId)>,
    /// The lengths of prefixes that networks of grants have had.
    prefixes: BTreeSet<u8>,
    /// The open ones by the time at which they end, and those to be closed once more.
    deadlines: BTreeSet<(Monotonic, GrantId)>,
    last: u64,
    /// What is known of the doors.
    doors: HashMap<Name, DoorSessions>,
    /// How many may follow a session.
    held: usize,
    /// Of each door with a cooldown the last knock that it did something for, here or at another
    /// gateway, and whether none has been refused since.
    cooling: HashMap<Name, (Monotonic, bool)>,
}

impl Grants {
    /// How many there may be from now on, in all and that commands open. Those that there are stay.
    pub const fn limit(&mut self, all: usize, by_commands: usize) {
        self.limits = Some((all, by_commands));
    }

    /// Decides what a knock at `knocked` would do; nothing changes until [`apply`](Self::apply).
    /// `jobs_fit`: more commands may be asked for.
    ///
    /// # Errors
    /// [`Reason::TooMany`] where there is no room for another grant, [`Reason::Cooldown`] where the
    /// door has done something lately, unless an administrator or another gateway asks.
    pub fn prepare(
        &mut self,
        knocked: Monotonic,
        key: GrantKey,
        origin: Origin,
        action: Action,
        jobs_fit: bool,
    ) -> Result<PreparedGrant, Reason> {
        if matches!(origin.by, OpenedBy::Method(_))
            && let Some((last, _)) = self.cooling.get(&key.door)
            && knocked.since(*last) < action.cooldown
        {
            return Err(Reason::Cooldown);
        }
        let until = knocked + action.open_for;
        let known = self.by_key.get(&key).and_then(|id| Some((*id, self.grants.get(id)?)));
        let transition = match known {
            None if !jobs_fit && action.backend.element().is_none() => return Err(Reason::TooMany),
            None if action.is_act() => Transition::Act,
            None if self.is_full(&key.door, &action) => return Err(Reason::TooMany),
            None => self.open_new(),
            Some((id, grant)) => match grant.state {
                GrantPhase::Starting { .. } | GrantPhase::Open { .. } => {
                    let until = grant.deadline.max(until);
                    Transition::Extend(id, grant.ceiling.map_or(until, |it| until.min(it)))
                }
                GrantPhase::Closing { .. } => Transition::Wait(id),
            },
        };
        Ok(PreparedGrant { key, origin, until, action, transition })
    }

    /// Whether the door has refused nobody yet since its cooldown began: then it is told. From now
    /// on it has.
    pub fn refuses_first(&mut self, door: &Name) -> bool {
        self.cooling.get_mut(door).is_none_or(|(_, is_first)| std::mem::take(is_first))
    }

    fn is_full(&self, door: &Name, action: &Action) -> bool {
        let by_commands = action.backend.element().is_none();
        self.of_door.get(door).is_some_and(|&count| count >= action.most)
            || self.limits.is_some_and(|(all, most)| {
                self.grants.len() >= all || (by_commands && self.by_commands >= most)
            })
    }

    /// Ids are not given twice, also where nothing comes of what was asked for.
    const fn open_new(&mut self) -> Transition {
        self.last += 1;
        Transition::Open(GrantId(self.last))
    }

    /// Makes what was prepared so. Nothing else may have been prepared for its key since.
    pub fn apply(&mut self, prepared: PreparedGrant) -> Decision {
        if prepared.origin.by != OpenedBy::Knockctl && !prepared.action.cooldown.is_zero() {
            self.cooling.insert(prepared.key.door.clone(), (prepared.knocked(), true));
        }
        match prepared.transition {
            Transition::Open(id) => {
                self.add(prepared.grant(id));
                Decision::Open(id, prepared.action.backend)
            }
            Transition::Act => {
                let pairs = prepared.action.backend.pairs().iter();
                Decision::Act(pairs.map(|pair| pair.open.clone()).collect())
            }
            Transition::Extend(id, later) => {
                self.last += 1;
                let Some(grant) = self.grants.get_mut(&id) else { return Decision::Wait };
                grant.turn = self.last;
                (grant.session.knocked, grant.session.end) = (prepared.knocked(), None);
                grant.origin = prepared.origin;
                grant.addresses = prepared.action.addresses;
                let manner = grant.backend.renew(&prepared.action.backend, later > grant.deadline);
                if self.deadlines.remove(&(grant.deadline, id)) {
                    self.deadlines.insert((later, id));
                }
                grant.deadline = later;
                // What is about to open needs no look.
                let is_open = matches!(grant.state, GrantPhase::Open { .. });
                let manner = manner.filter(|&manner| is_open || manner == Manner::Anew);
                Decision::Extend(id, later, manner.filter(|&manner| self.work_again(id, manner)))
            }
            Transition::Wait(id) => {
                if let Some(grant) = self.grants.get_mut(&id)
                    && let GrantPhase::Closing { again, .. } = &mut grant.state
                {
                    // Its own time counts from its own knock.
                    if again.is_none() {
                        grant.deadline = prepared.until;
                    }
                    grant.deadline = grant.deadline.max(prepared.until);
                    *again = Some(Box::new((prepared.origin, prepared.action)));
                }
                Decision::Wait
            }
        }
    }

    /// Whether more has to be done for a grant, from now on, in this manner. If something is being
    /// done for it that comes first, and [`Grants::opened`] says so.
    #[must_use]
    pub fn work_again(&mut self, id: GrantId, manner: Manner) -> bool {
        let Some(grant) = self.grants.get_mut(&id) else { return false };
        match &mut grant.state {
            GrantPhase::Open { .. } => {
                self.deadlines.remove(&(grant.deadline, id));
                grant.state = GrantPhase::Starting { was_open: true, again: None };
                true
            }
            GrantPhase::Starting { again, .. } => {
                *again = (*again).max(Some(manner));
                false
            }
            GrantPhase::Closing { .. } => false,
        }
    }

    /// The steps of a grant that is starting, and how each is done.
    pub fn work(&self, id: GrantId, manner: Manner) -> Vec<(CommandPair, Manner)> {
        let shared = |pair: &CommandPair| self.holds_another(pair, id);
        let manner = |pair: &CommandPair| if shared(pair) { Manner::IfGone } else { manner };
        let pairs = self.grants.get(&id).into_iter().flat_map(|grant| grant.backend.pairs());
        pairs.map(|pair| (pair.clone(), manner(pair))).collect()
    }

    fn holds_another(&self, pair: &CommandPair, id: GrantId) -> bool {
        self.holders_of(pair).any(|other| other != id)
    }

    fn holders_of(&self, pair: &CommandPair) -> impl Iterator<Item = GrantId> {
        pair.held().into_iter().flat_map(|held| ids_of(&self.holders, held.to_vec()))
    }

    /// The other grants that hold what is being closed for this one.
    pub fn also_held(&self, id: GrantId) -> Vec<GrantId> {
        let Some(Grant { state: GrantPhase::Closing { left, .. }, .. }) = self.grants.get(&id)
        else {
            return Vec::new();
        };
        let holders: BTreeSet<_> = left.iter().flat_map(|pair| self.holders_of(pair)).collect();
        holders.into_iter().collect()
    }

    /// What came of opening a grant, or of seeing to it that it is open.
    pub fn opened(&mut self, id: GrantId, outcome: OpenResult) -> OpenOutcome {
        let Some(grant) = self.grants.get_mut(&id) else { return OpenOutcome::Nothing };
        let GrantPhase::Starting { was_open, again } = grant.state else {
            return OpenOutcome::Nothing;
        };
        let with_errors = matches!(outcome, OpenResult::Failed(_));
        if outcome == OpenResult::All || (with_errors && grant.is_own) {
            if let Some(manner) = again {
                grant.state = GrantPhase::Starting { was_open: true, again: None };
                return OpenOutcome::Again(manner);
            }
            grant.state = GrantPhase::Open { with_errors };
            self.deadlines.insert((grant.deadline, id));
            return if with_errors { OpenOutcome::WithErrors } else { OpenOutcome::Open };
        }
        let touched = match outcome {
            OpenResult::NotStarted(done) if !was_open => done,
            OpenResult::Failed(done) | OpenResult::NotThere(done) if !was_open => done + 1,
            _ => usize::MAX,
        };
        let close = self.begin_close(id, touched);
        if close.is_empty() {
            self.forget(id);
            return OpenOutcome::Nothing;
        }
        OpenOutcome::Close(close)
    }

    /// From here on a grant is closing; what of its first steps is to be closed.
    fn begin_close(&mut self, id: GrantId, first: usize) -> Vec<CommandPair> {
        let Some(grant) = self.grants.get(&id) else { return Vec::new() };
        let pairs = grant.backend.pairs();
        let left = self.alone(pairs.get(..first).unwrap_or(pairs), id);
        self.let_go(id);
        if let Some(grant) = self.grants.get_mut(&id) {
            grant.state = GrantPhase::Closing { again: None, left: left.clone(), tries: 0 };
        }
        left
    }

    /// Those steps that something closes, and that no other grant holds too.
    fn alone(&self, pairs: &[CommandPair], id: GrantId) -> Vec<CommandPair> {
        let alone = |pair: &&CommandPair| pair.close.is_some() && !self.holds_another(pair, id);
        pairs.iter().filter(alone).cloned().collect()
    }

    /// These steps of a grant could not be closed.
    pub fn close_failed(
        &mut self,
        now: Monotonic,
        id: GrantId,
        mut failed: Vec<CommandPair>,
        because: CloseFailure,
    ) -> FailedClose {
        let Some(grant) = self.grants.get_mut(&id) else { return FailedClose::Ended };
        let GrantPhase::Closing { left, tries, .. } = &mut grant.state else {
            return FailedClose::Ended;
        };
        failed.retain(|pair| !(pair.is_timed && grant.deadline <= now));
        if failed.is_empty() {
            return FailedClose::Ended;
        }
        let Some(&seconds) = TRY_AGAIN.get(*tries) else { return FailedClose::GivenUp };
        *left = failed;
        let most = TRY_AGAIN.len() - usize::from(because == CloseFailure::NoRoom);
        *tries = (*tries + 1).min(most);
        let pause = Duration::from_secs(seconds);
        self.deadlines.insert((now + pause, id));
        FailedClose::Again(pause)
    }

    /// The open grants that end now or have ended, the earliest first, but no more than `most` of
    /// them; each is closing from here on. Say when that has ended: [`Grants::closed`].
    #[must_use]
    pub fn expire_some(&mut self, now: Monotonic, most: usize) -> Vec<ToClose> {
        let mut expired = Vec::new();
        while expired.len() < most
            && let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
            && !self.is_to_look_at(id)
        {
            self.deadlines.pop_first();
            expired.extend(self.end(id));
        }
        expired
    }

    /// Where it is closing, what could not be closed before is closed again.
    fn end(&mut self, id: GrantId) -> Option<ToClose> {
        let grant = self.grants.get(&id)?;
        let (delete, end) = (grant.backend.element().cloned(), grant.hold_end());
        let (close, again) = match &grant.state {
            GrantPhase::Closing { left, .. } => (self.alone(left, id), true),
            _ => (self.begin_close(id, usize::MAX), false),
        };
        Some(ToClose { id, close, delete, again, end })
    }

    /// Ends one grant now, whoever opened it.
    ///
    /// `None`: there is no such grant, or it ends later. One that is still starting ends when it
    /// has opened, one that waits to open again does not.
    #[must_use]
    pub fn close(&mut self, id: GrantId) -> Option<ToClose> {
        let grant = self.grants.get_mut(&id)?;
        match &mut grant.state {
            GrantPhase::Starting { .. } => grant.deadline = Monotonic::ZERO,
            GrantPhase::Closing { again, .. } => *again = None,
            GrantPhase::Open { .. } => {
                self.deadlines.remove(&(grant.deadline, id));
                return self.end(id);
            }
        }
        None
    }

    /// The grants that one which has opened takes the place of: where its client may have so many
    /// addresses of its family open at the door and has more, those of the addresses that it opened
    /// first. What was asked for later than this one, and is not open yet, counts its own.
    pub fn displaced_by(&self, id: GrantId) -> Vec<GrantId> {
        let new = self.grants.get(&id).filter(|it| it.is_open() && it.origin.client.is_some());
        let limited = new.and_then(|new| Some((new, new.addresses?)));
        let Some((new, most)) = limited else { return Vec::new() };
        let rivals = self.matching(|it| {
            (&it.key.door, &it.origin.client) == (&new.key.door, &new.origin.client)
                && it.key.network.address().is_ipv4() == new.key.network.address().is_ipv4()
                && it.turn < new.turn
                && !matches!(it.state, GrantPhase::Closing { .. })
        });
        let mut kept = BTreeSet::from([new.key.network]);
        let rivals = rivals.into_iter().rev().filter_map(|id| self.grants.get(&id));
        let gives_way = |Grant { key: GrantKey { network, .. }, .. }: &&Grant| {
            !kept.contains(network) && (kept.len() >= most.get() || !kept.insert(*network))
        };
        rivals.filter(gives_way).map(|grant| grant.id).collect()
    }

    /// The grants that this is true of, the oldest first.
    pub fn matching(&self, is_wanted: impl Fn(&Grant) -> bool) -> Vec<GrantId> {
        let wanted = self.grants.values().filter(|grant| is_wanted(grant));
        let mut ids: Vec<GrantId> = wanted.map(|grant| grant.id).collect();
        ids.sort();
        ids
    }

    /// Leaves those to the kernel that the kernel ends, and [closes](Self::close) the others, but
    /// no more than `most` of them.
    #[must_use]
    pub fn leave(&mut self, most: usize) -> Vec<ToClose> {
        let kept = self.matching(|grant| grant.backend.element().is_some());
        for id in kept {
            if let Some(grant) = self.forget(id) {
                self.deadlines.remove(&(grant.deadline, id));
            }
        }
        let others = self.matching(|_| true).into_iter();
        others.filter_map(|id| self.close(id)).take(most).collect()
    }

    /// A grant has been closed, well or badly. If somebody knocked meanwhile the door opens again.
    #[must_use]
    pub fn closed(&mut self, id: GrantId) -> Option<PreparedGrant> {
        let grant = self.forget(id)?;
        let GrantPhase::Closing { again: Some(again), .. } = grant.state else { return None };
        let (origin, action) = *again;
        let transition = self.open_new();
        Some(PreparedGrant { key: grant.key, origin, until: grant.deadline, action, transition })
    }

    fn add(&mut self, grant: Grant) {
        *self.of_door.entry(grant.key.door.clone()).or_default() += 1;
        self.by_key.insert(grant.key.clone(), grant.id);
        self.of_network.insert((grant.key.network, grant.id));
        self.prefixes.insert(grant.key.network.prefix());
        self.by_commands += usize::from(grant.backend.element().is_none());
        self.held += usize::from(grant.ceiling.is_some());
        self.holders.extend(grant.held());
        self.grants.insert(grant.id, grant);
    }

    fn forget(&mut self, id: GrantId) -> Option<Grant> {
        self.let_go(id);
        let grant = self.grants.remove(&id)?;
        self.by_key.remove(&grant.key);
        self.of_network.remove(&(grant.key.network, id));
        self.by_commands -= usize::from(grant.backend.element().is_none());
        self.held -= usize::from(grant.ceiling.is_some());
        if let Some(count) = self.of_door.get_mut(&grant.key.door) {
            *count -= 1;
        }
        Some(grant)
    }

    /// It holds nothing any more that another grant holds too.
    fn let_go(&mut self, id: GrantId) {
        let held = self.grants.get(&id).into_iter().flat_map(Grant::held);
        held.for_each(|held| _ = self.holders.remove(&held));
    }

    /// How many a door has.
    pub fn count(&self, door: &Name) -> usize {
        self.of_door.get(door).copied().unwrap_or(0)
    }

    /// When the next open grant ends.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// A grant that has not closed.
    pub fn get(&self, id: GrantId) -> Option<&Grant> {
        self.grants.get(&id)
    }

    /// When the open grant for a key ends; `None`: there is none.
    pub fn open_until(&self, key: &GrantKey) -> Option<Monotonic> {
        let grant = self.grants.get(self.by_key.get(key)?)?;
        grant.is_open().then_some(grant.deadline)
    }

    /// All grants, in the order of their keys.
    pub fn list(&self) -> impl Iterator<Item = &Grant> {
        self.by_key.values().filter_map(|id| self.grants.get(id))
    }

    /// The open grants of one address or network.
    pub fn open_for(&self, network: Network) -> impl Iterator<Item = &Grant> {
        let grants = ids_of(&self.of_network, network).filter_map(|id| self.grants.get(&id));
        grants.filter(|grant| grant.is_open())
    }

    /// What looks whether each open grant is there, where something does.
    pub fn looks(&self) -> impl Iterator<Item = (GrantId, &Name, Vec<Rendered>)> {
        self.grants.values().filter(|grant| grant.is_open()).map(|grant| {
            let looks = grant.backend.pairs().iter().filter_map(|pair| pair.verify.clone());
            (grant.id, &grant.key.door, looks.collect())
        })
    }

    /// Whether there is none, not even one that closes.
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// How many there are, with those that close.
    pub fn len(&self) -> usize {
        self.grants.len()
    }
}

/// The grants of one key, in an index of all.
fn ids_of<K: Ord + Clone>(index: &BTreeSet<(K, GrantId)>, key: K) -> impl Iterator<Item = GrantId> {
    index.range((key.clone(), GrantId(0))..=(key, GrantId(u64::MAX))).map(|&(_, id)| id)
}

impl Grant {
    /// What the ledger has to know of it.
    pub fn record(&self, now: Now, boot: BootId) -> GrantRecord {
        GrantRecord {
            id: self.id,
            key: self.key.clone(),
            origin: self.origin.clone(),
            state: self.state(),
            boot,
            deadline: self.deadline,
            since: now.wall,
            until: now.wall + self.deadline.since(now.monotonic),
            ceiling: self.ceiling,
            backend: self.backend.clone(),
        }
    }

    /// What the ledger has to know when it ends later than before.
    pub fn extension(&self, now: Now) -> Extension {
        Extension::new(now, self.deadline, &self.origin)
    }

    /// What the kernel has to hold for it; `None`: commands open and close it.
    pub fn in_kernel(&self, now: Monotonic) -> Option<KernelGrant> {
        Some(KernelGrant {
            key: self.key.clone(),
            origin: self.origin.clone(),
            element: self.backend.element()?.clone(),
            left: self.left_in_kernel(now),
            ceiling: self.ceiling.map(|ceiling| ceiling.since(now)),
        })
    }

    fn held(&self) -> impl Iterator<Item = (Vec<String>, GrantId)> {
        let held = self.backend.pairs().iter().filter_map(CommandPair::held);
        held.map(|held| (held.to_vec(), self.id))
    }

    const fn is_open(&self) -> bool {
        matches!(self.state, GrantPhase::Open { .. })
    }

    /// How far it has come.
    pub const fn state(&self) -> GrantState {
        match self.state {
            GrantPhase::Starting { .. } => GrantState::Starting,
            GrantPhase::Open { with_errors: false } => GrantState::Open,
            GrantPhase::Open { with_errors: true } => GrantState::OpenedWithErrors,
            GrantPhase::Closing { .. } => GrantState::Closing,
        }
    }
}
