//! The life of a grant: asked for, opened once, extended, closed.
//!
//! Pure: it is told the time and what came of the commands, and answers with what is to be done.
//! A grant is *starting* while its open commands run, *open* until its deadline, *closing* while
//! its close commands run. What the kernel opens and ends has no commands: it is open at once.

#[cfg(test)]
mod lives;
mod record;
mod recovery;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::record::{By, Element, GrantState, Means, Opener, Place, Record};
pub use self::recovery::{Held, Recovered};
use crate::config::{Command, Door, Family, Holes, Mechanism, Name, Rendered};
use crate::engine::Reason;
use crate::time::{BootId, Monotonic, Now, Wall};

/// Names one grant among all that have not closed, over restarts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId(pub u64);

/// What opening a door for one address does, ready to be done.
///
/// The close commands are rendered with the open commands, so a later change of configuration
/// cannot alter them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    pub means: Means,
    pub open_for: Duration,
    /// By commands of the door's own: one that fails may have opened, and is closed at its time.
    pub is_own: bool,
    /// How many grants the door may have.
    pub most: usize,
    /// How long after it the door does nothing more.
    pub cooldown: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub open: Rendered,
    pub close: Option<Rendered>,
    /// Exits 0 while what `open` did is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Rendered>,
    /// `open` is told for how long: what it opens ends by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_timed: bool,
}

impl Deed {
    /// What opening `door` for `wanted` does.
    ///
    /// # Errors
    /// [`Reason::NoCommand`] when nothing opens the door for the family of the address,
    /// [`Reason::SourcePort`] when it cannot be opened for one source port only.
    pub fn of(door: &Door, wanted: &Wanted<'_>) -> Result<Self, Reason> {
        let opening = &door.opening;
        let Wanted { address, source_port, client, open_for } = *wanted;
        let open_for = open_for.unwrap_or(opening.open_for);
        let mut is_own = false;
        let means = match &opening.mechanism {
            Mechanism::Guard => Means::Kernel(Element::of_guard(door.name(), address, source_port)),
            _ if source_port.is_some() => return Err(Reason::SourcePort),
            Mechanism::Set(set) => {
                Means::Kernel(Element::of_set(set, address).ok_or(Reason::NoCommand)?)
            }
            Mechanism::Commands { commands, template } => {
                is_own = template.is_none();
                let pair = commands.of(Family::of(address));
                let open = pair.open.as_ref().ok_or(Reason::NoCommand)?;
                let step = |port| {
                    let seconds = open_for.as_secs();
                    let holes = Holes { address, door: door.name(), client, port, seconds };
                    let render = |command: &Option<Command>| Some(command.as_ref()?.render(&holes));
                    Step {
                        open: open.render(&holes),
                        close: render(&pair.close),
                        verify: render(&pair.verify),
                        is_timed: open.is_timed(),
                    }
                };
                Means::Commands(if opening.ports.is_empty() {
                    vec![step(None)]
                } else {
                    opening.ports.iter().map(|&port| step(Some(port))).collect()
                })
            }
        };
        let (most, cooldown) = (opening.max_grants, opening.cooldown);
        Ok(Self { means, open_for, is_own, most, cooldown })
    }

    /// Whether nothing undoes it: it then runs at every completed knock, and makes no grant.
    pub fn is_act(&self) -> bool {
        self.means.element().is_none() && self.means.steps().iter().all(|step| step.close.is_none())
    }
}

/// For whom a door is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub address: IpAddr,
    /// Only for connections from this port.
    pub source_port: Option<NonZeroU16>,
    pub client: Option<&'a Name>,
    /// For how long; `None`: as the door says.
    pub open_for: Option<Duration>,
}

impl Wanted<'_> {
    /// An address, for as long as the door says.
    pub const fn by(address: IpAddr) -> Self {
        Self { address, source_port: None, client: None, open_for: None }
    }
}

/// What a completed knock would lead to. Nothing has happened yet: what is in it can be recorded
/// first, and [`Grants::take`] then makes it so.
#[must_use]
#[derive(Debug)]
pub struct Asked {
    place: Place,
    opener: Opener,
    until: Monotonic,
    deed: Deed,
    answer: Answer,
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Open(GrantId),
    Act,
    Extend(GrantId, Monotonic),
    Wait(GrantId),
}

/// What the ledger has to know before something asked for happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Record(Record),
    Extend(GrantId, Extension),
}

/// A later deadline for an open grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    pub deadline: Monotonic,
    pub until: Wall,
    pub opener: Opener,
}

impl Asked {
    /// What has to be recorded; `None`: it makes no grant, or not yet.
    pub fn change(&self, now: Now, boot: BootId) -> Option<Change> {
        match self.answer {
            Answer::Open(id) => {
                let grant = self.grant();
                Some(Change::Record(grant.record(id, now, boot)))
            }
            Answer::Extend(id, deadline) => {
                let until = now.wall + deadline.since(now.monotonic);
                let opener = self.opener.clone();
                Some(Change::Extend(id, Extension { deadline, until, opener }))
            }
            Answer::Act | Answer::Wait(_) => None,
        }
    }

    pub const fn place(&self) -> &Place {
        &self.place
    }

    pub const fn opener(&self) -> &Opener {
        &self.opener
    }

    /// Whether it would be over before it begins: what had to close first may have taken long.
    pub fn is_over(&self, now: Monotonic) -> bool {
        self.until <= now
    }

    /// Whether the kernel both opens and ends it.
    pub const fn is_the_kernels(&self) -> bool {
        matches!(self.deed.means, Means::Kernel(_))
    }

    fn grant(&self) -> Grant {
        Grant {
            place: self.place.clone(),
            opener: self.opener.clone(),
            state: State::Starting { was_open: false, again: None },
            deadline: self.until,
            means: self.deed.means.clone(),
            is_own: self.deed.is_own,
        }
    }
}

/// What a completed knock leads to.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Open it by these means, where they are commands by [`Grants::work`], then say what came of
    /// it: [`Grants::opened`].
    Open(GrantId, Means),
    /// Run these; nothing has to be closed later.
    Act(Vec<Rendered>),
    /// The door is open already, and stays so until then; where there is a manner, once
    /// [`Grants::work`] of it has seen to it that it is: [`Grants::opened`].
    Extend(GrantId, Monotonic, Option<Manner>),
    /// The door is being closed; it opens again once that has ended.
    Wait,
}

/// How the open commands of a grant run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    /// Those whose work is not there.
    IfGone,
    /// All of them.
    Once,
    /// All of them, after what they opened for a shorter time has been closed.
    Anew,
}

/// What came of opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    All,
    /// So many steps succeeded, and the command of the next one could not be started: it has done
    /// nothing.
    NotStarted(usize),
    /// The command of the next one failed, and may have done its work all the same.
    Failed(usize),
    /// It succeeded, and yet what it opens is not there.
    NotThere(usize),
}

/// What a grant comes to after its open commands have ended.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterOpen {
    Open,
    /// It may be open, and is closed at its time.
    WithErrors,
    /// Somebody asked for more meanwhile: [`Grants::work`] of this manner.
    Again(Manner),
    /// Nothing was opened, so nothing has to be closed.
    Nothing,
    /// What was opened has to be closed at once.
    Close(Vec<Step>),
}

/// A grant whose time has come.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    pub id: GrantId,
    pub place: Place,
    /// The steps to close, if any: what another grant holds too stays.
    pub close: Vec<Step>,
    /// The element to delete, where the kernel has not done so by itself.
    pub delete: Option<Element>,
    /// It could not be closed before.
    pub again: bool,
}

/// What comes of a close that failed.
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

/// A grant, for whoever asks what is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    pub id: GrantId,
    pub place: &'a Place,
    pub opener: &'a Opener,
    pub state: GrantState,
    pub deadline: Monotonic,
    pub element: Option<&'a Element>,
}

#[derive(Debug)]
enum State {
    /// `again`: more is to be done when that has ended.
    Starting {
        was_open: bool,
        again: Option<Manner>,
    },
    Open {
        with_errors: bool,
    },
    /// `again`: somebody knocked meanwhile. `left`: what is being closed. `tries`: those that
    /// failed.
    Closing {
        again: Option<(Opener, Deed)>,
        left: Vec<Step>,
        tries: usize,
    },
}

#[derive(Debug)]
struct Grant {
    place: Place,
    /// Who opened it, or extended it last.
    opener: Opener,
    state: State,
    deadline: Monotonic,
    means: Means,
    is_own: bool,
}

/// All grants, and when each ends.
#[derive(Debug, Default)]
pub struct Grants {
    /// How many there may be in all, and that commands open.
    limits: Option<(usize, usize)>,
    /// How many there are of each door, and that commands open.
    of_door: HashMap<Name, usize>,
    by_commands: usize,
    /// Who holds, open or about to be, what one and the same close command takes away. Only what
    /// can be looked at is held by several.
    holders: HashMap<Vec<String>, BTreeSet<GrantId>>,
    grants: HashMap<GrantId, Grant>,
    /// The one grant that there is for a place.
    places: HashMap<Place, GrantId>,
    of_address: HashMap<IpAddr, BTreeSet<GrantId>>,
    /// The open ones by the time at which they end, and those to be closed once more.
    deadlines: BTreeSet<(Monotonic, GrantId)>,
    last: u64,
    /// Of each door with a cooldown the last knock that it did something for, and whether none has
    /// been refused since.
    cooling: HashMap<Name, (Monotonic, bool)>,
}

impl Grants {
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there may be from now on, in all and that commands open. Those that there are stay.
    pub const fn limit(&mut self, all: usize, by_commands: usize) {
        self.limits = Some((all, by_commands));
    }

    /// Decides what a knock at `knocked` would do; nothing changes until [`take`](Self::take).
    /// `jobs_fit`: more commands may be asked for.
    ///
    /// # Errors
    /// [`Reason::TooMany`] where there is no room for another grant, [`Reason::Cooldown`] where the
    /// door has done something for another knock lately, unless an administrator asks.
    pub fn ask(
        &mut self,
        knocked: Monotonic,
        place: Place,
        opener: Opener,
        deed: Deed,
        jobs_fit: bool,
    ) -> Result<Asked, Reason> {
        if opener.by != By::Knockctl
            && let Some((last, _)) = self.cooling.get(&place.door)
            && knocked.since(*last) < deed.cooldown
        {
            return Err(Reason::Cooldown);
        }
        let until = knocked + deed.open_for;
        let known = self.places.get(&place).and_then(|id| Some((*id, self.grants.get(id)?)));
        let answer = match known {
            None if !jobs_fit && deed.means.element().is_none() => return Err(Reason::TooMany),
            None if deed.is_act() => Answer::Act,
            None if self.is_full(&place.door, &deed) => return Err(Reason::TooMany),
            None => self.answer_open(),
            Some((id, grant)) => match grant.state {
                State::Starting { .. } | State::Open { .. } => {
                    Answer::Extend(id, grant.deadline.max(until))
                }
                State::Closing { .. } => Answer::Wait(id),
            },
        };
        Ok(Asked { place, opener, until, deed, answer })
    }

    /// Whether the door has refused nobody yet since its cooldown began: then it is told. From now
    /// on it has.
    pub fn refuses_first(&mut self, door: &Name) -> bool {
        self.cooling.get_mut(door).is_none_or(|(_, is_first)| std::mem::take(is_first))
    }

    fn is_full(&self, door: &Name, deed: &Deed) -> bool {
        let by_commands = deed.means.element().is_none();
        self.of_door.get(door).is_some_and(|&count| count >= deed.most)
            || self.limits.is_some_and(|(all, most)| {
                self.grants.len() >= all || (by_commands && self.by_commands >= most)
            })
    }

    /// Ids are not given twice, also where nothing comes of what was asked for.
    const fn answer_open(&mut self) -> Answer {
        self.last += 1;
        Answer::Open(GrantId(self.last))
    }

    /// Makes what was asked for so. Nothing else may have been asked for at its place since.
    pub fn take(&mut self, asked: Asked) -> Decision {
        if asked.opener.by != By::Knockctl && !asked.deed.cooldown.is_zero() {
            let knocked = asked.until - asked.deed.open_for;
            self.cooling.insert(asked.place.door.clone(), (knocked, true));
        }
        match asked.answer {
            Answer::Open(id) => {
                self.add(id, asked.grant());
                Decision::Open(id, asked.deed.means)
            }
            Answer::Act => {
                let steps = asked.deed.means.steps().iter();
                Decision::Act(steps.map(|step| step.open.clone()).collect())
            }
            Answer::Extend(id, later) => {
                let Some(grant) = self.grants.get_mut(&id) else { return Decision::Wait };
                grant.opener = asked.opener;
                let manner = grant.means.renew(&asked.deed.means, later > grant.deadline);
                if self.deadlines.remove(&(grant.deadline, id)) {
                    self.deadlines.insert((later, id));
                }
                grant.deadline = later;
                // What is about to open needs no look.
                let is_open = matches!(grant.state, State::Open { .. });
                let manner = manner.filter(|&manner| is_open || manner == Manner::Anew);
                Decision::Extend(id, later, manner.filter(|&manner| self.work_again(id, manner)))
            }
            Answer::Wait(id) => {
                if let Some(grant) = self.grants.get_mut(&id)
                    && let State::Closing { again, .. } = &mut grant.state
                {
                    // Its own time counts from its own knock.
                    if again.is_none() {
                        grant.deadline = asked.until;
                    }
                    grant.deadline = grant.deadline.max(asked.until);
                    *again = Some((asked.opener, asked.deed));
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
            State::Open { .. } => {
                self.deadlines.remove(&(grant.deadline, id));
                grant.state = State::Starting { was_open: true, again: None };
                true
            }
            State::Starting { again, .. } => {
                *again = (*again).max(Some(manner));
                false
            }
            State::Closing { .. } => false,
        }
    }

    /// The steps of a grant that is starting, and how each is done.
    pub fn work(&self, id: GrantId, manner: Manner) -> Vec<(Step, Manner)> {
        let shared = |step: &Step| self.holds_another(step, id);
        let manner = |step: &Step| if shared(step) { Manner::IfGone } else { manner };
        let steps = self.grants.get(&id).into_iter().flat_map(|grant| grant.means.steps());
        steps.map(|step| (step.clone(), manner(step))).collect()
    }

    fn holds_another(&self, step: &Step, id: GrantId) -> bool {
        let holders = step.held().and_then(|held| self.holders.get(held));
        holders.is_some_and(|holders| holders.iter().any(|&other| other != id))
    }

    /// The other grants that hold what is being closed for this one.
    pub fn also_held(&self, id: GrantId) -> Vec<GrantId> {
        let Some(Grant { state: State::Closing { left, .. }, .. }) = self.grants.get(&id) else {
            return Vec::new();
        };
        let holders = left.iter().filter_map(|step| self.holders.get(step.held()?));
        holders.flatten().copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What came of opening a grant, or of seeing to it that it is open.
    pub fn opened(&mut self, id: GrantId, outcome: Opened) -> AfterOpen {
        let Some(grant) = self.grants.get_mut(&id) else { return AfterOpen::Nothing };
        let State::Starting { was_open, again } = grant.state else { return AfterOpen::Nothing };
        let with_errors = matches!(outcome, Opened::Failed(_));
        if outcome == Opened::All || (with_errors && grant.is_own) {
            if let Some(manner) = again {
                grant.state = State::Starting { was_open: true, again: None };
                return AfterOpen::Again(manner);
            }
            grant.state = State::Open { with_errors };
            self.deadlines.insert((grant.deadline, id));
            return if with_errors { AfterOpen::WithErrors } else { AfterOpen::Open };
        }
        let touched = match outcome {
            Opened::NotStarted(done) if !was_open => done,
            Opened::Failed(done) | Opened::NotThere(done) if !was_open => done + 1,
            _ => usize::MAX,
        };
        let close = self.begin_close(id, touched);
        if close.is_empty() {
            self.forget(id);
            return AfterOpen::Nothing;
        }
        AfterOpen::Close(close)
    }

    /// From here on a grant is closing; what of its first steps is to be closed.
    fn begin_close(&mut self, id: GrantId, first: usize) -> Vec<Step> {
        let Some(grant) = self.grants.get(&id) else { return Vec::new() };
        let steps = grant.means.steps();
        let left = self.alone(steps.get(..first).unwrap_or(steps), id);
        self.let_go(id);
        if let Some(grant) = self.grants.get_mut(&id) {
            grant.state = State::Closing { again: None, left: left.clone(), tries: 0 };
        }
        left
    }

    /// Those steps that something closes, and that no other grant holds too.
    fn alone(&self, steps: &[Step], id: GrantId) -> Vec<Step> {
        let alone = |step: &&Step| step.close.is_some() && !self.holds_another(step, id);
        steps.iter().filter(alone).cloned().collect()
    }

    /// These steps of a grant could not be closed.
    pub fn close_failed(
        &mut self,
        now: Monotonic,
        id: GrantId,
        mut failed: Vec<Step>,
    ) -> FailedClose {
        let Some(grant) = self.grants.get_mut(&id) else { return FailedClose::Ended };
        let State::Closing { left, tries, .. } = &mut grant.state else {
            return FailedClose::Ended;
        };
        failed.retain(|step| !(step.is_timed && grant.deadline <= now));
        if failed.is_empty() {
            return FailedClose::Ended;
        }
        let Some(&seconds) = TRY_AGAIN.get(*tries) else { return FailedClose::GivenUp };
        *left = failed;
        *tries += 1;
        let pause = Duration::from_secs(seconds);
        self.deadlines.insert((now + pause, id));
        FailedClose::Again(pause)
    }

    /// The open grants that end now or have ended, the earliest first, but no more than `most` of
    /// them; each is closing from here on. Say when that has ended: [`Grants::closed`].
    #[must_use]
    pub fn expire_some(&mut self, now: Monotonic, most: usize) -> Vec<Expired> {
        let mut expired = Vec::new();
        while expired.len() < most
            && let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let left = match self.grants.get(&id).map(|grant| &grant.state) {
                Some(State::Closing { left, .. }) => Some(self.alone(left, id)),
                _ => None,
            };
            expired.extend(self.expired(id, left));
        }
        expired
    }

    /// `left`: what could not be closed before.
    fn expired(&mut self, id: GrantId, left: Option<Vec<Step>>) -> Option<Expired> {
        let again = left.is_some();
        let close = left.unwrap_or_else(|| self.begin_close(id, usize::MAX));
        let grant = self.grants.get(&id)?;
        let delete = grant.means.element().cloned();
        Some(Expired { id, place: grant.place.clone(), close, delete, again })
    }

    /// Ends one grant now, whoever opened it.
    ///
    /// `None`: there is no such grant, or it ends later. One that is still starting ends when it
    /// has opened, one that waits to open again does not.
    #[must_use]
    pub fn close(&mut self, id: GrantId) -> Option<Expired> {
        let grant = self.grants.get_mut(&id)?;
        match &mut grant.state {
            State::Starting { .. } => grant.deadline = Monotonic::ZERO,
            State::Closing { again, .. } => *again = None,
            State::Open { .. } => {
                self.deadlines.remove(&(grant.deadline, id));
                return self.expired(id, None);
            }
        }
        None
    }

    /// The grants that this is true of.
    pub fn of(&self, is_wanted: impl Fn(&Place, &Opener) -> bool) -> Vec<GrantId> {
        let wanted =
            |(id, grant): (&GrantId, &Grant)| is_wanted(&grant.place, &grant.opener).then_some(*id);
        let mut ids: Vec<GrantId> = self.grants.iter().filter_map(wanted).collect();
        ids.sort();
        ids
    }

    /// Leaves those to the kernel that the kernel ends, and [closes](Self::close) the others, but no
    /// more than `most` of them.
    #[must_use]
    pub fn leave(&mut self, most: usize) -> Vec<Expired> {
        let all = self.of(|_, _| true).into_iter();
        let (kept, others): (Vec<_>, Vec<_>) = all.partition(|&id| self.element(id).is_some());
        for id in kept {
            if let Some(grant) = self.forget(id) {
                self.deadlines.remove(&(grant.deadline, id));
            }
        }
        others.into_iter().filter_map(|id| self.close(id)).take(most).collect()
    }

    /// A grant has been closed, well or badly. If somebody knocked meanwhile the door opens again.
    #[must_use]
    pub fn closed(&mut self, id: GrantId) -> Option<Asked> {
        let grant = self.forget(id)?;
        let State::Closing { again: Some((opener, deed)), .. } = grant.state else { return None };
        let answer = self.answer_open();
        Some(Asked { place: grant.place, opener, until: grant.deadline, deed, answer })
    }

    fn add(&mut self, id: GrantId, grant: Grant) {
        *self.of_door.entry(grant.place.door.clone()).or_default() += 1;
        self.places.insert(grant.place.clone(), id);
        self.of_address.entry(grant.place.address).or_default().insert(id);
        self.by_commands += usize::from(grant.means.element().is_none());
        for held in grant.means.steps().iter().filter_map(Step::held) {
            self.holders.entry(held.to_vec()).or_default().insert(id);
        }
        self.grants.insert(id, grant);
    }

    fn forget(&mut self, id: GrantId) -> Option<Grant> {
        self.let_go(id);
        let grant = self.grants.remove(&id)?;
        self.places.remove(&grant.place);
        if let Entry::Occupied(mut ids) = self.of_address.entry(grant.place.address) {
            ids.get_mut().remove(&id);
            if ids.get().is_empty() {
                ids.remove();
            }
        }
        self.by_commands -= usize::from(grant.means.element().is_none());
        if let Some(count) = self.of_door.get_mut(&grant.place.door) {
            *count -= 1;
            if *count == 0 {
                self.of_door.remove(&grant.place.door);
            }
        }
        Some(grant)
    }

    /// It holds nothing any more that another grant holds too.
    fn let_go(&mut self, id: GrantId) {
        let Some(grant) = self.grants.get(&id) else { return };
        for held in grant.means.steps().iter().filter_map(Step::held) {
            if let Some(holders) = self.holders.get_mut(held) {
                holders.remove(&id);
                if holders.is_empty() {
                    self.holders.remove(held);
                }
            }
        }
    }

    /// When the next open grant ends.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Whose a grant is, and who opened it.
    pub fn whose(&self, id: GrantId) -> Option<(&Place, &Opener)> {
        self.grants.get(&id).map(|grant| (&grant.place, &grant.opener))
    }

    /// The element that a grant is, and when it ends; `None`: commands open and close it.
    pub fn element(&self, id: GrantId) -> Option<(&Element, Monotonic)> {
        let grant = self.grants.get(&id)?;
        Some((grant.means.element()?, grant.deadline))
    }

    /// What the ledger has to know of a grant.
    pub fn record(&self, id: GrantId, now: Now, boot: BootId) -> Option<Record> {
        self.grants.get(&id).map(|grant| grant.record(id, now, boot))
    }

    /// When the open grant for a place ends; `None`: there is none.
    pub fn open_until(&self, place: &Place) -> Option<Monotonic> {
        let grant = self.grants.get(self.places.get(place)?)?;
        matches!(grant.state, State::Open { .. }).then_some(grant.deadline)
    }

    /// All grants, by their places.
    pub fn list(&self) -> Vec<Listed<'_>> {
        let mut list: Vec<_> = self
            .grants
            .iter()
            .map(|(&id, grant)| Listed {
                id,
                place: &grant.place,
                opener: &grant.opener,
                state: grant.state(),
                deadline: grant.deadline,
                element: grant.means.element(),
            })
            .collect();
        list.sort_by_key(|listed| listed.place);
        list
    }

    /// The open grants of one address.
    pub fn open_for(&self, address: IpAddr) -> impl Iterator<Item = GrantId> {
        let ids = self.of_address.get(&address).into_iter().flatten();
        let is_open =
            |id| matches!(self.grants.get(id), Some(Grant { state: State::Open { .. }, .. }));
        ids.filter(move |id| is_open(id)).copied()
    }

    /// What looks whether each open grant is there, where something does.
    pub fn looks(&self) -> impl Iterator<Item = (GrantId, &Name, Vec<Rendered>)> {
        let open = |(_, grant): &(_, &Grant)| matches!(grant.state, State::Open { .. });
        self.grants.iter().filter(open).map(|(&id, grant)| {
            let looks = grant.means.steps().iter().filter_map(|step| step.verify.clone());
            (id, &grant.place.door, looks.collect())
        })
    }

    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    pub fn len(&self) -> usize {
        self.grants.len()
    }
}

impl Grant {
    fn record(&self, id: GrantId, now: Now, boot: BootId) -> Record {
        Record {
            id,
            place: self.place.clone(),
            opener: self.opener.clone(),
            state: self.state(),
            boot,
            deadline: self.deadline,
            since: now.wall,
            until: now.wall + self.deadline.since(now.monotonic),
            means: self.means.clone(),
        }
    }

    const fn state(&self) -> GrantState {
        match self.state {
            State::Starting { .. } => GrantState::Starting,
            State::Open { with_errors: false } => GrantState::Open,
            State::Open { with_errors: true } => GrantState::OpenedWithErrors,
            State::Closing { .. } => GrantState::Closing,
        }
    }
}

impl Step {
    /// What it holds, where several grants can hold it: the command that takes it away.
    fn held(&self) -> Option<&[String]> {
        self.verify.as_ref().filter(|_| !self.is_timed)?;
        Some(&self.close.as_ref()?.argv)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Grants {
        /// All that end now or have ended.
        pub(super) fn expire(&mut self, now: Monotonic) -> Vec<Expired> {
            self.expire_some(now, usize::MAX)
        }
    }

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn at(seconds: u64) -> Monotonic {
        Monotonic::ZERO + Duration::from_secs(seconds)
    }

    fn door() -> Name {
        "ssh".parse().unwrap()
    }

    fn command(text: &str) -> Rendered {
        Rendered { argv: vec![text.to_owned()], environment: Vec::new() }
    }

    fn deed(ports: usize, open_for: u64) -> Deed {
        let step = |port: usize| Step {
            open: command(&format!("open {port}")),
            close: Some(command(&format!("close {port}"))),
            verify: None,
            is_timed: false,
        };
        Deed {
            means: Means::Commands((0..ports).map(step).collect()),
            open_for: Duration::from_secs(open_for),
            is_own: false,
            most: usize::MAX,
            cooldown: Duration::ZERO,
        }
    }

    fn closes(steps: &[Step]) -> Vec<String> {
        steps
            .iter()
            .map(|step| step.close.as_ref().unwrap().to_string().replace('\'', ""))
            .collect()
    }

    fn undone(after: AfterOpen) -> Vec<String> {
        let AfterOpen::Close(steps) = after else { panic!("{after:?}") };
        closes(&steps)
    }

    fn step() -> Step {
        let close = Some(command("close"));
        Step { open: command("open"), close, verify: None, is_timed: false }
    }

    fn place(address: IpAddr) -> Place {
        Place::new(door(), address)
    }

    fn ask(grants: &mut Grants, seconds: u64, address: IpAddr, deed: Deed) -> Decision {
        let asked =
            grants.ask(at(seconds), place(address), By::Sequence.into(), deed, true).unwrap();
        grants.take(asked)
    }

    fn open(grants: &mut Grants, seconds: u64, open_for: u64) -> GrantId {
        let decision = ask(grants, seconds, ADDRESS, deed(1, open_for));
        let Decision::Open(id, _) = decision else { panic!("{decision:?}") };
        assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
        id
    }

    #[test]
    fn a_door_does_nothing_for_anybody_else_while_it_cools_down() {
        let mut grants = Grants::new();
        let cooling = |open_for| Deed { cooldown: Duration::from_secs(60), ..deed(1, open_for) };
        let other = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3));
        let mut ask = |seconds, address, by: By, deed| {
            let asked = grants.ask(at(seconds), place(address), by.into(), deed, true);
            let answer = asked.map(|asked| _ = grants.take(asked));
            (answer.err(), grants.refuses_first(&door()))
        };
        assert_eq!(ask(0, ADDRESS, By::Sequence, cooling(10)), (None, true));
        for seconds in [0, 59] {
            for address in [ADDRESS, other] {
                let (refused, _) = ask(seconds, address, By::Totp, cooling(10));
                assert_eq!(refused, Some(Reason::Cooldown));
            }
        }
        // What was refused does not begin it anew; it is the first of its own cooldown alone.
        assert_eq!(ask(60, other, By::Sequence, cooling(10)), (None, true));
        assert_eq!(ask(61, other, By::Sequence, cooling(10)), (Some(Reason::Cooldown), false));
        // An administrator may, and begins none; and a reload may do away with it.
        assert_eq!(ask(62, other, By::Knockctl, cooling(10)), (None, false));
        assert_eq!(ask(63, other, By::Sequence, deed(1, 10)), (None, false));
    }

    #[test]
    fn a_grant_closes_at_its_deadline_and_not_before() {
        let mut grants = Grants::new();
        let id = open(&mut grants, 100, 30);
        assert_eq!(grants.next_deadline(), Some(at(130)));
        assert!(grants.expire(at(129)).is_empty());
        let expired = grants.expire(at(130));
        assert_eq!(closes(&expired[0].close), ["close 0"]);
        assert!(grants.closed(id).is_none());
        assert!(grants.is_empty());
    }

    #[test]
    fn another_knock_extends_without_opening_again() {
        let mut grants = Grants::new();
        open(&mut grants, 100, 30);
        let decision = ask(&mut grants, 120, ADDRESS, deed(1, 30));
        assert_eq!(decision, Decision::Extend(GrantId(1), at(150), None));
        assert!(grants.expire(at(149)).is_empty());
        assert_eq!(grants.expire(at(150)).len(), 1);
    }

    #[test]
    fn a_shorter_knock_does_not_shorten() {
        let mut grants = Grants::new();
        open(&mut grants, 100, 30);
        let decision = ask(&mut grants, 101, ADDRESS, deed(1, 5));
        assert_eq!(decision, Decision::Extend(GrantId(1), at(130), None));
    }

    #[test]
    fn a_knock_while_the_open_command_runs_extends() {
        let mut grants = Grants::new();
        let Decision::Open(id, _) = ask(&mut grants, 0, ADDRESS, deed(1, 10)) else { panic!() };
        assert_eq!(
            ask(&mut grants, 5, ADDRESS, deed(1, 10)),
            Decision::Extend(GrantId(1), at(15), None)
        );
        assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
        assert_eq!(grants.next_deadline(), Some(at(15)));
    }

    #[test]
    fn a_knock_while_the_close_command_runs_opens_again_afterwards() {
        let mut grants = Grants::new();
        let id = open(&mut grants, 0, 10);
        assert_eq!(grants.expire(at(10)).len(), 1);
        assert_eq!(ask(&mut grants, 11, ADDRESS, deed(1, 10)), Decision::Wait);
        let asked = grants.closed(id).unwrap();
        let Decision::Open(again, _) = grants.take(asked) else { panic!() };
        assert_ne!(id, again);
        assert_eq!(grants.opened(again, Opened::All), AfterOpen::Open);
        assert_eq!(grants.next_deadline(), Some(at(21)));
    }

    #[test]
    fn a_door_without_a_close_is_an_act_each_time() {
        let mut grants = Grants::new();
        let act = {
            let steps =
                vec![Step { open: command("wake"), close: None, verify: None, is_timed: false }];
            Deed { means: Means::Commands(steps), ..deed(0, 10) }
        };
        for seconds in 0..3 {
            let decision = ask(&mut grants, seconds, ADDRESS, act.clone());
            assert_eq!(decision, Decision::Act(vec![command("wake")]));
        }
        assert!(grants.is_empty());
    }

    #[test]
    fn an_open_that_failed_is_no_grant() {
        let mut grants = Grants::new();
        let Decision::Open(id, _) = ask(&mut grants, 0, ADDRESS, deed(2, 10)) else { panic!() };
        let failed = Opened::NotStarted(0);
        assert_eq!(grants.opened(id, failed), AfterOpen::Nothing);
        assert!(grants.is_empty() && grants.open_until(&place(ADDRESS)).is_none());
    }

    #[test]
    fn ports_that_were_opened_before_one_failed_are_closed_again() {
        let mut grants = Grants::new();
        let Decision::Open(id, _) = ask(&mut grants, 0, ADDRESS, deed(3, 10)) else { panic!() };
        let failed = Opened::NotStarted(2);
        assert_eq!(undone(grants.opened(id, failed)), ["close 0", "close 1"]);
        assert!(grants.closed(id).is_none());
        assert!(grants.is_empty());
    }

    #[test]
    fn stopping_closes_what_is_open_and_what_is_still_starting() {
        let mut grants = Grants::new();
        open(&mut grants, 0, 1000);
        let other = "192.0.2.3".parse().unwrap();
        let Decision::Open(starting, _) = ask(&mut grants, 1, other, deed(1, 10)) else { panic!() };
        assert_eq!(grants.leave(9).len(), 1);
        assert_eq!(grants.opened(starting, Opened::All), AfterOpen::Open);
        assert_eq!(grants.leave(9).len(), 1);
    }

    fn starting(deed: Deed) -> (Grants, GrantId) {
        let mut grants = Grants::new();
        let Decision::Open(id, _) = ask(&mut grants, 0, ADDRESS, deed) else { panic!() };
        (grants, id)
    }

    fn verified(deed: Deed) -> Deed {
        let Means::Commands(mut steps) = deed.means else { panic!() };
        steps.iter_mut().for_each(|step| step.verify = Some(command("verify")));
        Deed { means: Means::Commands(steps), ..deed }
    }

    fn timed(deed: Deed, open: &str) -> Deed {
        let Means::Commands(mut steps) = deed.means else { panic!() };
        for step in &mut steps {
            step.is_timed = true;
            step.open = command(open);
        }
        Deed { means: Means::Commands(steps), ..deed }
    }

    #[test]
    fn what_failed_and_what_is_not_there_is_closed_with_what_was_opened_before() {
        for outcome in [Opened::Failed(1), Opened::NotThere(1)] {
            let (mut grants, id) = starting(deed(3, 10));
            assert_eq!(undone(grants.opened(id, outcome)), ["close 0", "close 1"], "{outcome:?}");
        }
    }

    #[test]
    fn an_own_command_that_failed_may_have_opened_and_is_closed_at_its_time() {
        let (mut grants, id) = starting(Deed { is_own: true, ..deed(1, 10) });
        let failed = Opened::Failed(0);
        assert_eq!(grants.opened(id, failed), AfterOpen::WithErrors);
        assert_eq!(grants.list()[0].state, GrantState::OpenedWithErrors);
        assert_eq!(closes(&grants.expire(at(10))[0].close), ["close 0"]);
    }

    #[test]
    fn an_own_command_after_which_nothing_is_there_opened_nothing() {
        let (mut grants, id) = starting(Deed { is_own: true, ..deed(1, 10) });
        let failed = Opened::NotThere(0);
        assert_eq!(undone(grants.opened(id, failed)), ["close 0"]);
    }

    #[test]
    fn a_close_that_failed_is_tried_again_a_few_times_and_later_each_time() {
        let mut grants = Grants::new();
        let id = open(&mut grants, 0, 10);
        let mut left = grants.expire(at(10)).remove(0).close;
        let mut now = 10;
        for pause in TRY_AGAIN {
            let again = FailedClose::Again(Duration::from_secs(pause));
            assert_eq!(grants.close_failed(at(now), id, left), again);
            assert!(grants.expire(at(now + pause - 1)).is_empty());
            now += pause;
            let expired = grants.expire(at(now)).remove(0);
            assert!(expired.again);
            left = expired.close;
        }
        assert_eq!(grants.close_failed(at(now), id, left), FailedClose::GivenUp);
    }

    #[test]
    fn what_could_be_closed_is_not_closed_again() {
        let (mut grants, id) = starting(deed(3, 10));
        assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
        let close = grants.expire(at(10)).remove(0).close;
        let _again = grants.close_failed(at(10), id, close[1..2].to_vec());
        assert_eq!(closes(&grants.expire(at(11))[0].close), ["close 1"]);
    }

    #[test]
    fn a_knock_looks_whether_the_door_is_open_where_that_can_be_looked_at() {
        let (mut grants, id) = starting(verified(deed(1, 30)));
        assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
        let decision = ask(&mut grants, 20, ADDRESS, verified(deed(1, 30)));
        assert_eq!(decision, Decision::Extend(id, at(50), Some(Manner::IfGone)));
        assert_eq!(grants.work(id, Manner::IfGone)[0].1, Manner::IfGone);
        // While it is being looked at nothing closes it.
        assert!(grants.expire(at(60)).is_empty());
        assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
        assert_eq!(grants.expire(at(60)).len(), 1);
    }

    #[test]
    fn what_is_gone_and_cannot_be_opened_again_is_closed_as_a_whole() {
        let (mut grants, id) = starting(verified(deed(2, 30)));
        assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
        let _ensure = ask(&mut grants, 20, ADDRESS, verified(deed(2, 30)));
        let failed = Opened::Failed(0);
        assert_eq!(undone(grants.opened(id, failed)), ["close 0", "close 1"]);
    }

    #[test]
    fn what_is_told_its_time_is_told_the_new_one() {
        let (mut grants, id) = starting(timed(deed(1, 30), "for 30"));
        assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
        let decision = ask(&mut grants, 10, ADDRESS, timed(deed(1, 60), "for 60"));
        assert_eq!(decision, Decision::Extend(id, at(70), Some(Manner::Anew)));
        assert_eq!(grants.work(id, Manner::Anew)[0].0.open, command("for 60"));
        assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
        // A shorter time changes nothing.
        let decision = ask(&mut grants, 11, ADDRESS, timed(deed(1, 5), "for 5"));
        assert_eq!(decision, Decision::Extend(id, at(70), None));
    }

    #[test]
    fn what_is_opening_when_its_time_changes_is_opened_again() {
        let (mut grants, id) = starting(timed(deed(1, 30), "for 30"));
        let decision = ask(&mut grants, 1, ADDRESS, timed(deed(1, 30), "for 30"));
        assert_eq!(decision, Decision::Extend(id, at(31), None));
        assert_eq!(grants.opened(id, Opened::All), AfterOpen::Again(Manner::Anew));
        assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
    }

    #[test]
    fn what_ends_by_itself_cannot_fail_to_close_at_its_time() {
        for (closed_at, expected) in
            [(30, FailedClose::Ended), (20, FailedClose::Again(Duration::from_secs(1)))]
        {
            let (mut grants, id) = starting(timed(deed(1, 30), "for 30"));
            assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
            let close = grants.close(id).unwrap().close;
            assert_eq!(grants.close_failed(at(closed_at), id, close), expected);
        }
    }

    fn open_at(grants: &mut Grants, door: &str, seconds: u64) -> GrantId {
        let place = Place::new(door.parse().unwrap(), ADDRESS);
        let deed = verified(deed(1, 30));
        let asked = grants.ask(at(seconds), place, By::Sequence.into(), deed, true).unwrap();
        let Decision::Open(id, _) = grants.take(asked) else { panic!() };
        id
    }

    #[test]
    fn what_two_doors_hold_is_closed_with_the_last_of_them() {
        let mut grants = Grants::new();
        let ids = [("ssh", 0), ("web", 10)].map(|(door, seconds)| {
            let id = open_at(&mut grants, door, seconds);
            let manner = if seconds == 0 { Manner::Once } else { Manner::IfGone };
            assert_eq!(grants.work(id, Manner::Once)[0].1, manner, "{door}");
            assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
            id
        });
        let first = grants.expire(at(30)).remove(0);
        assert_eq!((first.id, first.close.len()), (ids[0], 0));
        assert!(grants.closed(ids[0]).is_none());
        assert_eq!(closes(&grants.expire(at(40))[0].close), ["close 0"]);
    }

    #[test]
    fn what_could_not_be_closed_and_is_held_by_another_door_now_is_left_to_it() {
        let mut grants = Grants::new();
        let first = open_at(&mut grants, "ssh", 0);
        assert_eq!(grants.opened(first, Opened::All), AfterOpen::Open);
        let close = grants.expire(at(30)).remove(0).close;
        let _again = grants.close_failed(at(30), first, close);
        let second = open_at(&mut grants, "web", 30);
        assert_eq!(grants.opened(second, Opened::All), AfterOpen::Open);
        assert_eq!(grants.expire(at(31))[0].close, []);
    }

    #[test]
    fn what_is_told_its_time_is_held_by_one_door_alone() {
        let mut grants = Grants::new();
        for door in ["ssh", "web"] {
            let place = Place::new(door.parse().unwrap(), ADDRESS);
            let deed = timed(verified(deed(1, 30)), "for 30");
            let asked = grants.ask(at(0), place, By::Sequence.into(), deed, true).unwrap();
            let Decision::Open(id, _) = grants.take(asked) else { panic!() };
            assert_eq!(grants.work(id, Manner::Once)[0].1, Manner::Once, "{door}");
        }
    }

    #[test]
    fn what_a_door_holds_that_opened_while_another_closed_it_is_looked_at_again() {
        let mut grants = Grants::new();
        let first = open_at(&mut grants, "ssh", 0);
        assert_eq!(grants.opened(first, Opened::All), AfterOpen::Open);
        assert_eq!(grants.expire(at(30)).len(), 1);
        let second = open_at(&mut grants, "web", 30);
        assert_eq!(grants.also_held(first), [second]);
        assert!(!grants.work_again(second, Manner::IfGone), "it is still opening");
        assert_eq!(grants.opened(second, Opened::All), AfterOpen::Again(Manner::IfGone));
    }

    #[test]
    fn there_are_no_more_grants_than_the_door_and_all_doors_may_have() {
        let address = |last| IpAddr::from([192, 0, 2, last]);
        for (most, all, by_commands) in [(2, 9, 9), (9, 2, 9), (9, 9, 2)] {
            let mut grants = Grants::new();
            grants.limit(all, by_commands);
            let mut ask = |last| {
                let deed = Deed { most, ..deed(1, 30) };
                let asked =
                    grants.ask(at(0), place(address(last)), By::Sequence.into(), deed, true);
                asked.map(|asked| grants.take(asked))
            };
            assert!(ask(1).is_ok() && ask(2).is_ok());
            assert_eq!(ask(3), Err(Reason::TooMany));
            assert!(matches!(ask(1), Ok(Decision::Extend(..))), "an extension always fits");
            assert_eq!(grants.close(GrantId(1)), None, "it has not opened yet");
        }
    }

    #[test]
    fn what_needs_a_command_is_refused_while_too_many_wait() {
        let mut grants = Grants::new();
        let mut ask = |deed| grants.ask(at(0), place(ADDRESS), By::Sequence.into(), deed, false);
        assert!(matches!(ask(deed(1, 30)), Err(Reason::TooMany)));
        let act = vec![Step { close: None, ..step() }];
        assert!(matches!(
            ask(Deed { means: Means::Commands(act), ..deed(1, 30) }),
            Err(Reason::TooMany)
        ));
    }

    #[test]
    fn a_grant_that_has_closed_makes_room() {
        let mut grants = Grants::new();
        grants.limit(1, 1);
        for round in 0..3 {
            let id = open(&mut grants, round * 100, 10);
            assert_eq!(grants.expire(at(round * 100 + 10)).len(), 1);
            assert!(grants.closed(id).is_none());
        }
    }

    #[derive(Clone, Debug)]
    enum Move {
        Knock(u8),
        Pass(u64),
        CommandEnds(u8, bool),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            (0..3u8).prop_map(Move::Knock),
            (0..20u64).prop_map(Move::Pass),
            (0..3u8, any::<bool>()).prop_map(|(who, well)| Move::CommandEnds(who, well)),
        ];
        prop::collection::vec(one, 0..60)
    }

    proptest! {
        /// Whatever happens in whatever order: no open without a close, no close without an open,
        /// at most one command a place at a time, nothing open past its deadline.
        #[test]
        fn opens_and_closes_alternate(moves in moves()) {
            let mut grants = Grants::new();
            let mut now = 0;
            // Who has a command running: the grant, and whether it opens.
            let mut running: HashMap<u8, (GrantId, bool)> = HashMap::new();
            let mut holding: HashMap<u8, bool> = HashMap::new();
            let address = |who: u8| IpAddr::from([192, 0, 2, who]);
            for step in moves {
                match step {
                    Move::Knock(who) => {
                        match ask(&mut grants, now, address(who), deed(1, 10)) {
                            Decision::Open(id, _) => {
                                prop_assert_eq!(running.insert(who, (id, true)), None);
                                prop_assert!(!holding.contains_key(&who));
                            }
                            Decision::Extend(_, until, _) => prop_assert!(until >= at(now + 10)),
                            Decision::Wait => prop_assert!(!running[&who].1),
                            Decision::Act(_) => prop_assert!(false),
                        }
                    }
                    Move::Pass(seconds) => now += seconds,
                    Move::CommandEnds(who, well) => {
                        let Some((id, opens)) = running.remove(&who) else { continue };
                        if opens && well {
                            prop_assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
                            holding.insert(who, true);
                        } else if opens {
                            let failed = Opened::NotStarted(0);
                            prop_assert_eq!(grants.opened(id, failed), AfterOpen::Nothing);
                        } else {
                            holding.remove(&who);
                            if let Some(asked) = grants.closed(id)
                                && let Decision::Open(id, _) = grants.take(asked)
                            {
                                running.insert(who, (id, true));
                            }
                        }
                    }
                }
                for expired in grants.expire(at(now)) {
                    let IpAddr::V4(address) = expired.place.address else { unreachable!() };
                    let who = address.octets()[3];
                    prop_assert_eq!(holding.get(&who), Some(&true));
                    prop_assert_eq!(running.insert(who, (expired.id, false)), None);
                }
                prop_assert!(grants.next_deadline().is_none_or(|deadline| deadline > at(now)));
            }
        }
    }
}
