//! The life of a grant: asked for, opened once, extended, closed.
//!
//! Pure: it is told the time and what came of the commands, and answers with what is to be done.
//! A grant is *starting* while its open commands run, *open* until its deadline, *closing* while
//! its close commands run. What the kernel opens and ends has no commands: it is open at once.
#![forbid(unsafe_code)]

#[cfg(test)]
mod lives;
mod record;
mod recovery;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::record::{By, Element, GrantState, Means, Opener, Place, Record, UnknownWord};
pub use self::recovery::{Held, Recovered};
use crate::config::{Command, Door, Family, Holes, How, Name, Rendered};
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
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub open: Rendered,
    pub close: Option<Rendered>,
    /// Exits 0 while what `open` did is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Rendered>,
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
        let means = match &opening.how {
            How::Guard => Means::Kernel(Element::of_guard(door.name(), address, source_port)),
            _ if source_port.is_some() => return Err(Reason::SourcePort),
            How::Set(set) => Means::Kernel(Element::of_set(set, address).ok_or(Reason::NoCommand)?),
            How::Commands { commands, .. } => {
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
                    }
                };
                Means::Commands(if opening.ports.is_empty() {
                    vec![step(None)]
                } else {
                    opening.ports.iter().map(|&port| step(Some(port))).collect()
                })
            }
        };
        Ok(Self { means, open_for })
    }

    /// Whether nothing undoes it: it then runs at every completed knock, and makes no grant.
    #[must_use]
    pub fn is_act(&self) -> bool {
        match &self.means {
            Means::Commands(steps) => steps.iter().all(|step| step.close.is_none()),
            Means::Kernel(_) => false,
        }
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
    #[must_use]
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
    #[must_use]
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

    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }

    #[must_use]
    pub const fn opener(&self) -> &Opener {
        &self.opener
    }

    /// Whether the kernel both opens and ends it.
    #[must_use]
    pub const fn is_the_kernels(&self) -> bool {
        matches!(self.deed.means, Means::Kernel(_))
    }

    fn grant(&self) -> Grant {
        Grant {
            place: self.place.clone(),
            opener: self.opener.clone(),
            state: State::Starting,
            deadline: self.until,
            means: self.deed.means.clone(),
        }
    }
}

/// What a completed knock leads to.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Open it by these means, then say what came of it: [`Grants::opened`].
    Open(GrantId, Means),
    /// Run these; nothing has to be closed later.
    Act(Vec<Rendered>),
    /// The door is open already, and stays so until then.
    Extend(GrantId, Monotonic),
    /// The door is being closed; it opens again once that has ended.
    Wait,
}

/// What came of opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    All,
    /// The commands of the first `done` steps succeeded; the next one did not.
    /// `doubtful`: it may have done its work all the same, since it had to be killed.
    Failed {
        done: usize,
        doubtful: bool,
    },
}

/// What a grant comes to after its open commands have ended.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterOpen {
    Open,
    /// Nothing was opened, so nothing has to be closed.
    Nothing,
    /// What was opened has to be closed at once.
    Close(Vec<Rendered>),
}

/// A grant whose time has come.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    pub id: GrantId,
    pub place: Place,
    pub close: Vec<Rendered>,
    /// The element to delete, where the kernel has not done so by itself.
    pub delete: Option<Element>,
}

/// What closing a door by hand comes to.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    Now(Expired),
    /// A command is under way; when it has ended the grant ends.
    Later,
}

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
    Starting,
    Open,
    /// `again`: somebody knocked meanwhile.
    Closing {
        again: Option<(Opener, Deed)>,
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
}

impl Grant {
    fn expired(&self, id: GrantId) -> Expired {
        Expired {
            id,
            place: self.place.clone(),
            close: self.means.closes(),
            delete: self.means.element().cloned(),
        }
    }
}

/// All grants, and when each ends.
#[derive(Debug, Default)]
pub struct Grants {
    grants: HashMap<GrantId, Grant>,
    /// The one grant that there is for a place.
    places: HashMap<Place, GrantId>,
    /// The open ones, by the time at which they end.
    deadlines: BTreeSet<(Monotonic, GrantId)>,
    last: u64,
}

impl Grants {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What it would lead to that somebody may open a door, since `knocked`.
    pub fn ask(&mut self, knocked: Monotonic, place: Place, opener: Opener, deed: Deed) -> Asked {
        let until = knocked + deed.open_for;
        let known = self.places.get(&place).and_then(|id| Some((*id, self.grants.get(id)?)));
        let answer = match known {
            None if deed.is_act() => Answer::Act,
            None => self.answer_open(),
            Some((id, grant)) => match grant.state {
                State::Starting | State::Open => Answer::Extend(id, grant.deadline.max(until)),
                State::Closing { .. } => Answer::Wait(id),
            },
        };
        Asked { place, opener, until, deed, answer }
    }

    /// Ids are not given twice, also where nothing comes of what was asked for.
    const fn answer_open(&mut self) -> Answer {
        self.last += 1;
        Answer::Open(GrantId(self.last))
    }

    /// Makes what was asked for so. Nothing else may have been asked for at its place since.
    pub fn take(&mut self, asked: Asked) -> Decision {
        match asked.answer {
            Answer::Open(id) => {
                let grant = asked.grant();
                self.places.insert(asked.place, id);
                self.grants.insert(id, grant);
                Decision::Open(id, asked.deed.means)
            }
            Answer::Act => match asked.deed.means {
                Means::Commands(steps) => {
                    Decision::Act(steps.into_iter().map(|step| step.open).collect())
                }
                Means::Kernel(_) => Decision::Act(Vec::new()),
            },
            Answer::Extend(id, later) => {
                if let Some(grant) = self.grants.get_mut(&id) {
                    grant.opener = asked.opener;
                    if self.deadlines.remove(&(grant.deadline, id)) {
                        self.deadlines.insert((later, id));
                    }
                    grant.deadline = later;
                }
                Decision::Extend(id, later)
            }
            Answer::Wait(id) => {
                if let Some(grant) = self.grants.get_mut(&id)
                    && let State::Closing { again } = &mut grant.state
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

    /// What came of opening a grant.
    pub fn opened(&mut self, id: GrantId, outcome: Opened) -> AfterOpen {
        let Some(grant) = self.grants.get_mut(&id) else { return AfterOpen::Nothing };
        let Opened::Failed { done, doubtful } = outcome else {
            grant.state = State::Open;
            self.deadlines.insert((grant.deadline, id));
            return AfterOpen::Open;
        };
        let touched = done + usize::from(doubtful);
        let close = match &grant.means {
            Means::Commands(steps) => Step::closes(steps.get(..touched).unwrap_or(steps)),
            Means::Kernel(_) => Vec::new(),
        };
        if close.is_empty() {
            self.forget(id);
            return AfterOpen::Nothing;
        }
        grant.state = State::Closing { again: None };
        AfterOpen::Close(close)
    }

    /// The open grants that end now or have ended, the earliest first; each is closing from here
    /// on. Say when that has ended: [`Grants::closed`].
    #[must_use]
    pub fn expire(&mut self, now: Monotonic) -> Vec<Expired> {
        self.expire_some(now, usize::MAX)
    }

    /// As [`expire`](Self::expire), but no more than `most` of them.
    #[must_use]
    pub fn expire_some(&mut self, now: Monotonic, most: usize) -> Vec<Expired> {
        let mut expired = Vec::new();
        while expired.len() < most
            && let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let Some(grant) = self.grants.get_mut(&id) else { continue };
            grant.state = State::Closing { again: None };
            expired.push(grant.expired(id));
        }
        expired
    }

    /// Ends one grant now, whoever opened it; `None`: there is no such grant.
    ///
    /// One that is still starting ends when it has opened, one that waits to open again does not.
    #[must_use]
    pub fn close(&mut self, id: GrantId) -> Option<Closing> {
        let grant = self.grants.get_mut(&id)?;
        match &mut grant.state {
            State::Starting => grant.deadline = Monotonic::ZERO,
            State::Closing { again } => *again = None,
            State::Open => {
                self.deadlines.remove(&(grant.deadline, id));
                grant.state = State::Closing { again: None };
                return Some(Closing::Now(grant.expired(id)));
            }
        }
        Some(Closing::Later)
    }

    /// The grants that this is true of.
    #[must_use]
    pub fn of(&self, is_wanted: impl Fn(&Place, &Opener) -> bool) -> Vec<GrantId> {
        let wanted =
            |(id, grant): (&GrantId, &Grant)| is_wanted(&grant.place, &grant.opener).then_some(*id);
        let mut ids: Vec<GrantId> = self.grants.iter().filter_map(wanted).collect();
        ids.sort();
        ids
    }

    /// Ends every open grant, as if its time had come: what is still starting ends when it has
    /// opened, what is waiting to open again does not.
    #[must_use]
    pub fn expire_all(&mut self) -> Vec<Expired> {
        for grant in self.grants.values_mut() {
            match &mut grant.state {
                State::Starting => grant.deadline = Monotonic::ZERO,
                State::Closing { again } => *again = None,
                State::Open => {}
            }
        }
        self.expire(Monotonic::MAX)
    }

    /// Leaves those to the kernel that the kernel ends, and ends all others, as
    /// [`expire_all`](Self::expire_all) does.
    #[must_use]
    pub fn leave(&mut self) -> Vec<Expired> {
        let kept: Vec<GrantId> = self
            .grants
            .iter()
            .filter(|(_, grant)| grant.means.element().is_some())
            .map(|(&id, _)| id)
            .collect();
        for id in kept {
            if let Some(grant) = self.forget(id) {
                self.deadlines.remove(&(grant.deadline, id));
            }
        }
        self.expire_all()
    }

    /// A grant has been closed, well or badly. If somebody knocked meanwhile the door opens again.
    #[must_use]
    pub fn closed(&mut self, id: GrantId) -> Option<Asked> {
        let grant = self.forget(id)?;
        let State::Closing { again: Some((opener, deed)) } = grant.state else { return None };
        let answer = self.answer_open();
        Some(Asked { place: grant.place, opener, until: grant.deadline, deed, answer })
    }

    fn forget(&mut self, id: GrantId) -> Option<Grant> {
        let grant = self.grants.remove(&id)?;
        self.places.remove(&grant.place);
        Some(grant)
    }

    /// When the next open grant ends.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Whose a grant is, and who opened it.
    #[must_use]
    pub fn whose(&self, id: GrantId) -> Option<(&Place, &Opener)> {
        self.grants.get(&id).map(|grant| (&grant.place, &grant.opener))
    }

    /// The element that a grant is, and when it ends; `None`: commands open and close it.
    #[must_use]
    pub fn element(&self, id: GrantId) -> Option<(&Element, Monotonic)> {
        let grant = self.grants.get(&id)?;
        Some((grant.means.element()?, grant.deadline))
    }

    /// What the ledger has to know of a grant.
    #[must_use]
    pub fn record(&self, id: GrantId, now: Now, boot: BootId) -> Option<Record> {
        self.grants.get(&id).map(|grant| grant.record(id, now, boot))
    }

    /// Whether there is an open grant for a place.
    #[must_use]
    pub fn is_open(&self, place: &Place) -> bool {
        self.places
            .get(place)
            .and_then(|id| self.grants.get(id))
            .is_some_and(|grant| matches!(grant.state, State::Open))
    }

    /// All grants, by their places.
    #[must_use]
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

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    #[must_use]
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
            State::Starting => GrantState::Starting,
            State::Open => GrantState::Open,
            State::Closing { .. } => GrantState::Closing,
        }
    }
}

impl Step {
    fn closes(steps: &[Self]) -> Vec<Rendered> {
        steps.iter().filter_map(|step| step.close.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        };
        Deed {
            means: Means::Commands((0..ports).map(step).collect()),
            open_for: Duration::from_secs(open_for),
        }
    }

    fn place(address: IpAddr) -> Place {
        Place::new(door(), address)
    }

    fn ask(grants: &mut Grants, seconds: u64, address: IpAddr, deed: Deed) -> Decision {
        let asked = grants.ask(at(seconds), place(address), By::Sequence.into(), deed);
        grants.take(asked)
    }

    fn open(grants: &mut Grants, seconds: u64, open_for: u64) -> GrantId {
        let decision = ask(grants, seconds, ADDRESS, deed(1, open_for));
        let Decision::Open(id, _) = decision else { panic!("{decision:?}") };
        assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
        id
    }

    #[test]
    fn a_grant_closes_at_its_deadline_and_not_before() {
        let mut grants = Grants::new();
        let id = open(&mut grants, 100, 30);
        assert_eq!(grants.next_deadline(), Some(at(130)));
        assert!(grants.expire(at(129)).is_empty());
        let expired = grants.expire(at(130));
        assert_eq!(expired[0].close, [command("close 0")]);
        assert!(grants.closed(id).is_none());
        assert!(grants.is_empty());
    }

    #[test]
    fn another_knock_extends_without_opening_again() {
        let mut grants = Grants::new();
        open(&mut grants, 100, 30);
        let decision = ask(&mut grants, 120, ADDRESS, deed(1, 30));
        assert_eq!(decision, Decision::Extend(GrantId(1), at(150)));
        assert!(grants.expire(at(149)).is_empty());
        assert_eq!(grants.expire(at(150)).len(), 1);
    }

    #[test]
    fn a_shorter_knock_does_not_shorten() {
        let mut grants = Grants::new();
        open(&mut grants, 100, 30);
        let decision = ask(&mut grants, 101, ADDRESS, deed(1, 5));
        assert_eq!(decision, Decision::Extend(GrantId(1), at(130)));
    }

    #[test]
    fn a_knock_while_the_open_command_runs_extends() {
        let mut grants = Grants::new();
        let Decision::Open(id, _) = ask(&mut grants, 0, ADDRESS, deed(1, 10)) else { panic!() };
        assert_eq!(ask(&mut grants, 5, ADDRESS, deed(1, 10)), Decision::Extend(GrantId(1), at(15)));
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
            let steps = vec![Step { open: command("wake"), close: None, verify: None }];
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
        let failed = Opened::Failed { done: 0, doubtful: false };
        assert_eq!(grants.opened(id, failed), AfterOpen::Nothing);
        assert!(grants.is_empty() && !grants.is_open(&place(ADDRESS)));
    }

    #[test]
    fn ports_that_were_opened_before_one_failed_are_closed_again() {
        let mut grants = Grants::new();
        let Decision::Open(id, _) = ask(&mut grants, 0, ADDRESS, deed(3, 10)) else { panic!() };
        let failed = Opened::Failed { done: 2, doubtful: false };
        let close = vec![command("close 0"), command("close 1")];
        assert_eq!(grants.opened(id, failed), AfterOpen::Close(close));
        assert!(grants.closed(id).is_none());
        assert!(grants.is_empty());
    }

    #[test]
    fn a_command_that_had_to_be_killed_is_undone_as_well() {
        let mut grants = Grants::new();
        let Decision::Open(id, _) = ask(&mut grants, 0, ADDRESS, deed(1, 10)) else { panic!() };
        let failed = Opened::Failed { done: 0, doubtful: true };
        assert_eq!(grants.opened(id, failed), AfterOpen::Close(vec![command("close 0")]));
    }

    #[test]
    fn stopping_closes_what_is_open_and_what_is_still_starting() {
        let mut grants = Grants::new();
        open(&mut grants, 0, 1000);
        let other = "192.0.2.3".parse().unwrap();
        let Decision::Open(starting, _) = ask(&mut grants, 1, other, deed(1, 10)) else { panic!() };
        assert_eq!(grants.expire_all().len(), 1);
        assert_eq!(grants.opened(starting, Opened::All), AfterOpen::Open);
        assert_eq!(grants.expire_all().len(), 1);
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
                            Decision::Extend(_, until) => prop_assert!(until >= at(now + 10)),
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
                            let failed = Opened::Failed { done: 0, doubtful: false };
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
