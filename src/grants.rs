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
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::record::{By, Element, GrantState, Means, Record, UnknownWord};
pub use self::recovery::{Held, Recovered};
use crate::config::{Door, Family, Holes, How, Name, Rendered};
use crate::engine::Reason;
use crate::time::{BootId, Monotonic, Now};

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
}

impl Deed {
    /// What opening `door` for `address` does; for as long as the door says where no other time is
    /// given.
    ///
    /// # Errors
    /// [`Reason::NoCommand`] when nothing opens the door for the family of the address.
    pub fn of(door: &Door, address: IpAddr, open_for: Option<Duration>) -> Result<Self, Reason> {
        let opening = &door.opening;
        let open_for = open_for.unwrap_or(opening.open_for);
        let means = match &opening.how {
            How::Guard => Means::Kernel(Element::of_guard(door.name(), address)),
            How::Set(set) => Means::Kernel(Element::of_set(set, address).ok_or(Reason::NoCommand)?),
            How::Commands { commands, .. } => {
                let pair = commands.of(Family::of(address));
                let open = pair.open.as_ref().ok_or(Reason::NoCommand)?;
                let step = |port| {
                    let seconds = open_for.as_secs();
                    let holes = Holes { address, door: door.name(), client: None, port, seconds };
                    let close = pair.close.as_ref().map(|close| close.render(&holes));
                    Step { open: open.render(&holes), close }
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
    pub door: Name,
    pub address: IpAddr,
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
    pub door: &'a Name,
    pub address: IpAddr,
    pub by: By,
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
        again: Option<(By, Deed)>,
    },
}

#[derive(Debug)]
struct Grant {
    door: Name,
    address: IpAddr,
    /// What opened it, or extended it last.
    by: By,
    state: State,
    deadline: Monotonic,
    means: Means,
}

impl Grant {
    fn expired(&self, id: GrantId) -> Expired {
        Expired {
            id,
            door: self.door.clone(),
            address: self.address,
            close: self.means.closes(),
            delete: self.means.element().cloned(),
        }
    }
}

/// All grants, and when each ends.
#[derive(Debug, Default)]
pub struct Grants {
    grants: HashMap<GrantId, Grant>,
    /// The one grant that a door has for an address.
    places: HashMap<(Name, IpAddr), GrantId>,
    /// The open ones, by the time at which they end.
    deadlines: BTreeSet<(Monotonic, GrantId)>,
    last: u64,
}

impl Grants {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Somebody may open a door, since `knocked`.
    pub fn request(
        &mut self,
        knocked: Monotonic,
        door: &Name,
        address: IpAddr,
        by: By,
        deed: Deed,
    ) -> Decision {
        let until = knocked + deed.open_for;
        let place = (door.clone(), address);
        let known = self.places.get(&place).and_then(|id| Some((*id, self.grants.get_mut(id)?)));
        match known {
            None => match deed.means {
                Means::Commands(steps) if steps.iter().all(|step| step.close.is_none()) => {
                    Decision::Act(steps.into_iter().map(|step| step.open).collect())
                }
                means => self.start(place, by, until, means),
            },
            Some((id, grant)) => match &mut grant.state {
                State::Starting | State::Open => {
                    grant.by = by;
                    let later = grant.deadline.max(until);
                    if self.deadlines.remove(&(grant.deadline, id)) {
                        self.deadlines.insert((later, id));
                    }
                    grant.deadline = later;
                    Decision::Extend(id, later)
                }
                State::Closing { again } => {
                    // Its own time counts from its own knock.
                    if again.is_none() {
                        grant.deadline = until;
                    }
                    grant.deadline = grant.deadline.max(until);
                    *again = Some((by, deed));
                    Decision::Wait
                }
            },
        }
    }

    fn start(
        &mut self,
        place: (Name, IpAddr),
        by: By,
        deadline: Monotonic,
        means: Means,
    ) -> Decision {
        self.last += 1;
        let id = GrantId(self.last);
        let (door, address) = place.clone();
        self.places.insert(place, id);
        let state = State::Starting;
        let grant = Grant { door, address, by, state, deadline, means: means.clone() };
        self.grants.insert(id, grant);
        Decision::Open(id, means)
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
        let mut expired = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            let Some(grant) = self.grants.get_mut(&id) else { continue };
            grant.state = State::Closing { again: None };
            expired.push(grant.expired(id));
        }
        expired
    }

    /// Ends one grant now, whoever opened it; `None`: the door is not open for the address.
    ///
    /// One that is still starting ends when it has opened, one that waits to open again does not.
    #[must_use]
    pub fn close(&mut self, door: &Name, address: IpAddr) -> Option<Closing> {
        let id = *self.places.get(&(door.clone(), address))?;
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
    pub fn closed(&mut self, id: GrantId) -> Option<Decision> {
        let grant = self.forget(id)?;
        let State::Closing { again: Some((by, deed)) } = grant.state else { return None };
        Some(self.start((grant.door, grant.address), by, grant.deadline, deed.means))
    }

    fn forget(&mut self, id: GrantId) -> Option<Grant> {
        let grant = self.grants.remove(&id)?;
        self.places.remove(&(grant.door.clone(), grant.address));
        Some(grant)
    }

    /// When the next open grant ends.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Whose a grant is, and what opened it.
    #[must_use]
    pub fn whose(&self, id: GrantId) -> Option<(&Name, IpAddr, By)> {
        self.grants.get(&id).map(|grant| (&grant.door, grant.address, grant.by))
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
        let grant = self.grants.get(&id)?;
        Some(Record {
            id,
            door: grant.door.clone(),
            address: grant.address,
            client: None,
            by: grant.by,
            state: grant.state(),
            boot,
            deadline: grant.deadline,
            since: now.wall,
            until: now.wall + grant.deadline.since(now.monotonic),
            means: grant.means.clone(),
        })
    }

    /// Whether the door is open for the address.
    #[must_use]
    pub fn is_open(&self, door: &Name, address: IpAddr) -> bool {
        self.places
            .get(&(door.clone(), address))
            .and_then(|id| self.grants.get(id))
            .is_some_and(|grant| matches!(grant.state, State::Open))
    }

    /// All grants, by door and address.
    #[must_use]
    pub fn list(&self) -> Vec<Listed<'_>> {
        let mut list: Vec<_> = self
            .grants
            .values()
            .map(|grant| Listed {
                door: &grant.door,
                address: grant.address,
                by: grant.by,
                state: grant.state(),
                deadline: grant.deadline,
                element: grant.means.element(),
            })
            .collect();
        list.sort_by_key(|listed| (listed.door, listed.address));
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
        };
        Deed {
            means: Means::Commands((0..ports).map(step).collect()),
            open_for: Duration::from_secs(open_for),
        }
    }

    fn open(grants: &mut Grants, seconds: u64, open_for: u64) -> GrantId {
        let decision =
            grants.request(at(seconds), &door(), ADDRESS, By::Sequence, deed(1, open_for));
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
        assert_eq!(grants.closed(id), None);
        assert!(grants.is_empty());
    }

    #[test]
    fn another_knock_extends_without_opening_again() {
        let mut grants = Grants::new();
        open(&mut grants, 100, 30);
        let decision = grants.request(at(120), &door(), ADDRESS, By::Sequence, deed(1, 30));
        assert_eq!(decision, Decision::Extend(GrantId(1), at(150)));
        assert!(grants.expire(at(149)).is_empty());
        assert_eq!(grants.expire(at(150)).len(), 1);
    }

    #[test]
    fn a_shorter_knock_does_not_shorten() {
        let mut grants = Grants::new();
        open(&mut grants, 100, 30);
        let decision = grants.request(at(101), &door(), ADDRESS, By::Sequence, deed(1, 5));
        assert_eq!(decision, Decision::Extend(GrantId(1), at(130)));
    }

    #[test]
    fn a_knock_while_the_open_command_runs_extends() {
        let mut grants = Grants::new();
        let Decision::Open(id, _) =
            grants.request(at(0), &door(), ADDRESS, By::Sequence, deed(1, 10))
        else {
            panic!()
        };
        assert_eq!(
            grants.request(at(5), &door(), ADDRESS, By::Sequence, deed(1, 10)),
            Decision::Extend(GrantId(1), at(15))
        );
        assert_eq!(grants.opened(id, Opened::All), AfterOpen::Open);
        assert_eq!(grants.next_deadline(), Some(at(15)));
    }

    #[test]
    fn a_knock_while_the_close_command_runs_opens_again_afterwards() {
        let mut grants = Grants::new();
        let id = open(&mut grants, 0, 10);
        assert_eq!(grants.expire(at(10)).len(), 1);
        assert_eq!(
            grants.request(at(11), &door(), ADDRESS, By::Sequence, deed(1, 10)),
            Decision::Wait
        );
        let Some(Decision::Open(again, _)) = grants.closed(id) else { panic!() };
        assert_ne!(id, again);
        assert_eq!(grants.opened(again, Opened::All), AfterOpen::Open);
        assert_eq!(grants.next_deadline(), Some(at(21)));
    }

    #[test]
    fn a_door_without_a_close_is_an_act_each_time() {
        let mut grants = Grants::new();
        let act = {
            let steps = vec![Step { open: command("wake"), close: None }];
            Deed { means: Means::Commands(steps), ..deed(0, 10) }
        };
        for seconds in 0..3 {
            let decision = grants.request(at(seconds), &door(), ADDRESS, By::Sequence, act.clone());
            assert_eq!(decision, Decision::Act(vec![command("wake")]));
        }
        assert!(grants.is_empty());
    }

    #[test]
    fn an_open_that_failed_is_no_grant() {
        let mut grants = Grants::new();
        let Decision::Open(id, _) =
            grants.request(at(0), &door(), ADDRESS, By::Sequence, deed(2, 10))
        else {
            panic!()
        };
        let failed = Opened::Failed { done: 0, doubtful: false };
        assert_eq!(grants.opened(id, failed), AfterOpen::Nothing);
        assert!(grants.is_empty() && !grants.is_open(&door(), ADDRESS));
    }

    #[test]
    fn ports_that_were_opened_before_one_failed_are_closed_again() {
        let mut grants = Grants::new();
        let Decision::Open(id, _) =
            grants.request(at(0), &door(), ADDRESS, By::Sequence, deed(3, 10))
        else {
            panic!()
        };
        let failed = Opened::Failed { done: 2, doubtful: false };
        let close = vec![command("close 0"), command("close 1")];
        assert_eq!(grants.opened(id, failed), AfterOpen::Close(close));
        assert_eq!(grants.closed(id), None);
        assert!(grants.is_empty());
    }

    #[test]
    fn a_command_that_had_to_be_killed_is_undone_as_well() {
        let mut grants = Grants::new();
        let Decision::Open(id, _) =
            grants.request(at(0), &door(), ADDRESS, By::Sequence, deed(1, 10))
        else {
            panic!()
        };
        let failed = Opened::Failed { done: 0, doubtful: true };
        assert_eq!(grants.opened(id, failed), AfterOpen::Close(vec![command("close 0")]));
    }

    #[test]
    fn stopping_closes_what_is_open_and_what_is_still_starting() {
        let mut grants = Grants::new();
        open(&mut grants, 0, 1000);
        let other = "192.0.2.3".parse().unwrap();
        let Decision::Open(starting, _) =
            grants.request(at(1), &door(), other, By::Sequence, deed(1, 10))
        else {
            panic!()
        };
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
                        match grants.request(at(now), &door(), address(who), By::Sequence, deed(1, 10)) {
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
                            if let Some(Decision::Open(id, _)) = grants.closed(id) {
                                running.insert(who, (id, true));
                            }
                        }
                    }
                }
                for expired in grants.expire(at(now)) {
                    let IpAddr::V4(address) = expired.address else { unreachable!() };
                    let who = address.octets()[3];
                    prop_assert_eq!(holding.get(&who), Some(&true));
                    prop_assert_eq!(running.insert(who, (expired.id, false)), None);
                }
                prop_assert!(grants.next_deadline().is_none_or(|deadline| deadline > at(now)));
            }
        }
    }
}
