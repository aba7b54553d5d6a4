//! Commands of doors: what they are run for, and what follows when they have ended.

use tracing::{error, warn};

use super::takeover::FROM_BEFORE;
use super::{Doors, MOST_NOT_CLOSED, event_at, kept_one};
use crate::config::Name;
use crate::control::What;
use crate::firewall::{Failure, Finished, Job, JobId, JobKind, Outcome, Task};
use crate::grants::{
    AfterOpen, FailedClose, GrantId, GrantState, Listed, Manner, Opened, Opener, Place, Step,
};
use crate::keeper::sets::Kept;
use crate::ledger::{Event, Flush};
use crate::sys::fault;
use crate::time::{Monotonic, Now};

/// How many grants are looked at for one who asks for the status.
const LOOKED_AT: usize = 100;

/// What a job is for.
pub(super) enum Purpose {
    /// The manner is [`Manner::Once`] where the grant begins; otherwise it is open already, and
    /// somebody may have asked that it be open until then.
    Open(GrantId, Manner, Option<Monotonic>),
    /// With the steps, and the reason for the history.
    Close(GrantId, Vec<Step>, &'static str),
    Act(Place, Opener),
    /// Of these grants, each as often as it has something to look at.
    Look(Vec<GrantId>),
}

impl Doors {
    pub(super) fn submit(
        &mut self,
        now: Now,
        door: &Name,
        purpose: Purpose,
        kind: JobKind,
        tasks: Vec<Task>,
    ) -> JobId {
        self.last_job += 1;
        let id = JobId(self.last_job);
        self.jobs.insert(id, purpose);
        let limit = self.alerts.command_limit(door);
        let job = Job { id, door: door.clone(), kind, limit, tasks };
        self.commands.submit(now.monotonic, job);
        id
    }

    /// What has ended since the last call of all that was [under way](super::Answer::UnderWay).
    pub(in crate::keeper) fn take_ended(&mut self) -> Vec<(JobId, Result<(), String>)> {
        std::mem::take(&mut self.ended)
    }

    /// Opens what a grant opens, or sees to it that it is open.
    pub(super) fn run_open(
        &mut self,
        now: Now,
        door: &Name,
        id: GrantId,
        manner: Manner,
        until: Option<Monotonic>,
    ) -> JobId {
        let place = self.grants.whose(id).map(|(place, _)| place);
        let undo = place.is_some_and(|place| self.not_closed.remove(place).is_some());
        let task = |(step, manner): (Step, Manner)| Task {
            first: if undo || manner == Manner::Anew { step.close } else { None },
            // Without a look it is taken to be there.
            run: (manner != Manner::IfGone || step.verify.is_some()).then_some(step.open),
            verify: step.verify,
            look_first: manner == Manner::IfGone,
        };
        let tasks = self.grants.work(id, manner).into_iter().map(task).collect();
        self.submit(now, door, Purpose::Open(id, manner, until), JobKind::Open, tasks)
    }

    pub(super) fn close_steps(
        &mut self,
        now: Now,
        door: &Name,
        id: GrantId,
        steps: Vec<Step>,
        why: &'static str,
    ) {
        let task = |step: &Step| Task {
            run: step.close.clone(),
            verify: step.verify.clone(),
            ..Task::default()
        };
        let tasks = steps.iter().map(task).collect();
        self.submit(now, door, Purpose::Close(id, steps, why), JobKind::Close, tasks);
    }

    /// Looks whether doors are open: all that the kernel holds, and some of those that commands
    /// have opened.
    pub(in crate::keeper) fn look(&mut self, now: Now) {
        self.look_at_sets(now);
        if self.is_looking() {
            return;
        }
        let (mut ids, mut tasks, mut first) = (Vec::new(), Vec::new(), None);
        let looks = self.grants.looks().filter(|(.., looks)| !looks.is_empty());
        for (id, door, looks) in looks.take(LOOKED_AT) {
            first.get_or_insert(door.clone());
            ids.extend(looks.iter().map(|_| id));
            let task = |verify| Task { verify: Some(verify), ..Task::default() };
            tasks.extend(looks.into_iter().map(task));
        }
        if let Some(door) = first {
            self.submit(now, &door, Purpose::Look(ids), JobKind::Look, tasks);
        }
    }

    /// Nobody waits any more for what [`look`](Self::look) looks at.
    pub(in crate::keeper) fn stop_looking(&mut self) {
        self.commands.stop_looking();
    }

    fn look_at_sets(&mut self, now: Now) {
        let list = self.grants.list().into_iter();
        let is_open = |listed: &Listed<'_>| listed.state == GrantState::Open;
        let (ids, keep): (Vec<GrantId>, Vec<Kept>) = list
            .filter(is_open)
            .filter_map(|listed| {
                Some((listed.id, kept_one(&self.grants, listed.id, now.monotonic)?))
            })
            .unzip();
        match self.sets.are_held(&keep) {
            Ok(held) => {
                for (id, held) in ids.into_iter().zip(held) {
                    if held {
                        self.gone.remove(&id)
                    } else {
                        self.gone.insert(id)
                    };
                }
            }
            Err(why) => error!("cannot look who is let in: {why}"),
        }
    }

    /// Whether not all is known yet that [`look`](Self::look) looks at.
    pub(in crate::keeper) fn is_looking(&self) -> bool {
        self.jobs.values().any(|purpose| matches!(purpose, Purpose::Look(_)))
    }

    /// Whether a grant is known not to be open, though it should be.
    pub(in crate::keeper) fn is_gone(&self, id: GrantId) -> bool {
        self.gone.contains(&id)
    }

    pub(super) fn finished(&mut self, now: Now, finished: &Finished) {
        match self.jobs.remove(&finished.id) {
            Some(Purpose::Open(id, manner, until)) => {
                let ended = self.opened(now, id, finished, manner, until);
                self.ended.push((finished.id, ended));
            }
            Some(Purpose::Close(id, steps, why)) => {
                fault::point("close ended");
                let failed =
                    |(step, outcome)| matches!(outcome, &Outcome::Failed(_)).then_some(step);
                let failed = steps.into_iter().zip(&finished.outcomes).filter_map(failed).collect();
                self.close_ended(now, id, failed, why);
            }
            Some(Purpose::Act(place, opener)) => {
                let why = why(finished);
                if let Some(why) = &why {
                    self.failed(now, &place, &opener, "the command failed", why);
                }
                self.ended.push((finished.id, why.map_or(Ok(()), Err)));
            }
            Some(Purpose::Look(ids)) => {
                let looked = ids.into_iter().zip(&finished.outcomes);
                for (id, _) in looked.clone() {
                    self.gone.remove(&id);
                }
                let is_gone = |(_, outcome): &(GrantId, _)| matches!(outcome, &&Outcome::Failed(_));
                let is_left = |id: &GrantId| self.grants.whose(*id).is_some();
                self.gone.extend(looked.filter(is_gone).map(|(id, _)| id).filter(is_left));
            }
            None => {}
        }
    }

    /// Something that was granted did not work.
    pub(super) fn failed(
        &mut self,
        now: Now,
        place: &Place,
        opener: &Opener,
        what: &str,
        why: &str,
    ) {
        if self.may_tell(now, &place.door) {
            self.tell(event_at(place, What::Failed, format!("{what}: {why}")));
        }
        self.books.note(now, place, opener, Event::Failed, why);
    }

    fn opened(
        &mut self,
        now: Now,
        id: GrantId,
        finished: &Finished,
        manner: Manner,
        until: Option<Monotonic>,
    ) -> Result<(), String> {
        let Some((place, opener)) = self.whose(id) else { return Ok(()) };
        fault::point("opened");
        let done = finished.outcomes.len().saturating_sub(1);
        let outcome = match finished.failure() {
            None if !finished.outcomes.is_empty() => Opened::All,
            None | Some(Failure::NotStarted { .. }) => Opened::NotStarted(done),
            Some(Failure::NotThere) => Opened::NotThere(done),
            Some(_) => Opened::Failed(done),
        };
        let why = why(finished).unwrap_or_default();
        let is_new = manner == Manner::Once;
        self.gone.remove(&id);
        let after = self.grants.opened(id, outcome);
        if let AfterOpen::Again(manner) = after {
            self.run_open(now, &place.door, id, manner, None);
        }
        match after {
            AfterOpen::Open | AfterOpen::Again(_) if is_new => {
                self.books.advance(id, GrantState::Open, Flush::No);
                fault::point("open");
                self.is_open(now, &place, &opener, "");
            }
            AfterOpen::Open | AfterOpen::Again(_) => {
                let ran = finished.outcomes.contains(&Outcome::Done);
                let was_gone = manner == Manner::IfGone && ran;
                if was_gone || until.is_some() {
                    self.is_still_open(now, &place, &opener, was_gone, until);
                }
                return Ok(());
            }
            AfterOpen::WithErrors => {
                self.books.advance(id, GrantState::OpenedWithErrors, Flush::No);
                self.failed(now, &place, &opener, "opened with errors", &why);
                if is_new {
                    self.is_open(now, &place, &opener, "with errors");
                }
                return Err(format!("opened with errors, it may be open until its time: {why}"));
            }
            AfterOpen::Nothing => {
                self.failed(now, &place, &opener, "not opened", &why);
                self.books.forget(id);
            }
            AfterOpen::Close(steps) => {
                let what = "not opened, and what was done of it is undone";
                self.failed(now, &place, &opener, what, &why);
                self.books.advance(id, GrantState::Closing, Flush::Yes);
                let undone = "undone, since it could not be opened";
                self.close_steps(now, &place.door, id, steps, undone);
            }
        }
        if outcome == Opened::All { Ok(()) } else { Err(why) }
    }

    /// A door was open before, and stays so.
    pub(super) fn is_still_open(
        &mut self,
        now: Now,
        place: &Place,
        opener: &Opener,
        was_gone: bool,
        until: Option<Monotonic>,
    ) {
        let mut what =
            if was_gone { "opened again, since it was gone" } else { "open already" }.to_owned();
        let seconds = until.map(|until| until.since(now.monotonic).as_secs());
        if let Some(seconds) = seconds {
            what.push_str(&format!(", now for another {seconds} s"));
        }
        if self.may_tell(now, &place.door) {
            self.tell(event_at(place, What::Extend { seconds }, what.as_str()));
        }
        self.books.note(now, place, opener, Event::Extend, &what);
    }

    fn close_ended(&mut self, now: Now, id: GrantId, failed: Vec<Step>, why: &'static str) {
        let Some((place, opener)) = self.whose(id) else { return };
        if !failed.is_empty() {
            match self.grants.close_failed(now.monotonic, id, failed) {
                FailedClose::Ended => {}
                FailedClose::Again(pause) => {
                    warn!(source = %place.address, door = %place.door,
                        "a close command failed: it is tried again in {} s", pause.as_secs());
                    return;
                }
                FailedClose::GivenUp => {
                    let fails = "its close command fails: the door may still be open";
                    self.failed(now, &place, &opener, "not closed", fails);
                    // What the start could not close either is not tried for ever.
                    if why != FROM_BEFORE && self.not_closed.len() < MOST_NOT_CLOSED {
                        self.not_closed.insert(place.clone(), (id, opener));
                        return self.has_ended(now, id, &place);
                    }
                }
            }
        }
        self.is_closed(now, id, why);
    }
}

/// Why a job did not do what it should.
fn why(finished: &Finished) -> Option<String> {
    if finished.outcomes.is_empty() {
        return Some("knockd stops".to_owned());
    }
    finished.failure().map(ToString::to_string)
}
