//! Commands of doors: what they are run for, and what follows when they have ended.

use tracing::{error, info, warn};

use super::{Doors, kept_one};
use crate::config::{Name, Rendered};
use crate::firewall::{Failure, Finished, Job, JobId, JobKind, Outcome, Task};
use crate::grants::{
    AfterOpen, FailedClose, GrantId, GrantState, Listed, Manner, Opened, Opener, Place, Step,
    Trouble,
};
use crate::keeper::sets::{Kept, are_held};
use crate::ledger::{Event, Flush};
use crate::sys::fault;
use crate::time::{Monotonic, Now};

/// How many grants are looked at for one who asks for the status.
const LOOKED_AT: usize = 100;

/// What a job is for.
pub(super) enum Purpose {
    Open(GrantId),
    /// That it is open, and until when, if somebody asked for that.
    Ensure(GrantId, Manner, Option<Monotonic>),
    /// With the steps, and the reason for the history.
    Close(GrantId, Vec<Step>, &'static str),
    Act(Place, Opener),
    /// Of these grants, each as often as it has something to look at.
    Look(Vec<GrantId>),
}

/// What became of a door that somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::keeper) enum Ended {
    Open,
    /// It may be open, and is closed at its time.
    WithErrors(String),
    Failed(String),
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
        self.commands.submit(now.monotonic, Job { id, door: door.clone(), kind, tasks });
        id
    }

    /// What has ended since the last call of all that was [under way](super::Answer::UnderWay).
    pub(in crate::keeper) fn take_ended(&mut self) -> Vec<(JobId, Ended)> {
        std::mem::take(&mut self.ended)
    }

    pub(super) fn run_open(&mut self, now: Now, door: &Name, id: GrantId) -> JobId {
        let tasks = self.tasks(id, Manner::Once);
        self.submit(now, door, Purpose::Open(id), JobKind::Open, tasks)
    }

    pub(super) fn run_act(
        &mut self,
        now: Now,
        place: &Place,
        opener: &Opener,
        commands: Vec<Rendered>,
    ) -> JobId {
        let act = Purpose::Act(place.clone(), opener.clone());
        let tasks = commands.into_iter().map(Task::from).collect();
        self.submit(now, &place.door, act, JobKind::Open, tasks)
    }

    /// Sees to it that a grant that is starting is open.
    pub(super) fn ensure(
        &mut self,
        now: Now,
        id: GrantId,
        manner: Manner,
        until: Option<Monotonic>,
    ) -> Option<JobId> {
        let (place, _) = self.whose(id)?;
        let tasks = self.tasks(id, manner);
        let purpose = Purpose::Ensure(id, manner, until);
        Some(self.submit(now, &place.door, purpose, JobKind::Open, tasks))
    }

    fn tasks(&self, id: GrantId, manner: Manner) -> Vec<Task> {
        let task = |(step, manner): (Step, Manner)| Task {
            first: if manner == Manner::Anew { step.close } else { None },
            // Without a look it is taken to be there.
            run: (manner != Manner::IfGone || step.verify.is_some()).then_some(step.open),
            verify: step.verify,
            look_first: manner == Manner::IfGone,
        };
        self.grants.work(id, manner).into_iter().map(task).collect()
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
        let mut by_door: std::collections::BTreeMap<Name, (Vec<GrantId>, Vec<Task>)> =
            std::collections::BTreeMap::new();
        let looks = self.grants.looks().filter(|(_, _, looks)| !looks.is_empty());
        for (id, door, looks) in looks.take(LOOKED_AT) {
            let (ids, tasks) = by_door.entry(door.clone()).or_default();
            for verify in looks {
                ids.push(id);
                tasks.push(Task { verify: Some(verify), ..Task::default() });
            }
        }
        for (door, (ids, tasks)) in by_door {
            self.submit(now, &door, Purpose::Look(ids), JobKind::Look, tasks);
        }
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
        match are_held(&keep) {
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
    #[must_use]
    pub(in crate::keeper) fn is_looking(&self) -> bool {
        self.jobs.values().any(|purpose| matches!(purpose, Purpose::Look(_)))
    }

    /// Whether a grant is known not to be open, though it should be.
    #[must_use]
    pub(in crate::keeper) fn is_gone(&self, id: GrantId) -> bool {
        self.gone.contains(&id)
    }

    pub(super) fn finished(&mut self, now: Now, finished: &Finished) {
        let failure = finished.failure();
        match self.jobs.remove(&finished.id) {
            Some(Purpose::Open(id)) => {
                let ended = self.opened(now, id, finished, None);
                self.ended.push((finished.id, ended));
            }
            Some(Purpose::Ensure(id, manner, until)) => {
                let ended = self.opened(now, id, finished, Some((manner, until)));
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
                if let Some(why) = failure {
                    self.failed(now, &place, &opener, "the command failed", &why.to_string());
                }
                let ended = failure.map_or(Ended::Open, |why| Ended::Failed(why.to_string()));
                self.ended.push((finished.id, ended));
            }
            Some(Purpose::Look(ids)) => {
                self.gone.retain(|id| !ids.contains(id));
                for (id, outcome) in ids.into_iter().zip(&finished.outcomes) {
                    if matches!(outcome, Outcome::Failed(_)) && self.grants.whose(id).is_some() {
                        self.gone.insert(id);
                    }
                }
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
            error!(source = %place.address, door = %place.door, event = "failed", "{what}: {why}");
        }
        self.books.note(now, place, opener, Event::Failed, why);
    }

    /// `ensured`: it was open before.
    fn opened(
        &mut self,
        now: Now,
        id: GrantId,
        finished: &Finished,
        ensured: Option<(Manner, Option<Monotonic>)>,
    ) -> Ended {
        let Some((place, opener)) = self.whose(id) else { return Ended::Open };
        fault::point("opened");
        let done = finished.outcomes.len().saturating_sub(1);
        let outcome = match finished.failure() {
            None => Opened::All,
            Some(Failure::NotStarted { .. }) => {
                Opened::Failed { done, trouble: Trouble::NotStarted }
            }
            Some(Failure::NotThere) => Opened::Failed { done, trouble: Trouble::NotThere },
            Some(_) => Opened::Failed { done, trouble: Trouble::Failed },
        };
        let why = finished.failure().map(ToString::to_string).unwrap_or_default();
        self.gone.remove(&id);
        let after = self.grants.opened(id, outcome);
        if let AfterOpen::Again(manner) = after {
            self.ensure(now, id, manner, None);
        }
        match after {
            AfterOpen::Open | AfterOpen::Again(_) => match ensured {
                Some((manner, until)) => {
                    let is_anew = finished.outcomes.contains(&Outcome::Done);
                    let was_gone = manner == Manner::IfGone && is_anew;
                    self.is_still_open(now, &place, &opener, was_gone, until);
                }
                None => {
                    self.books.advance(id, GrantState::Open, Flush::No);
                    fault::point("open");
                    self.is_open(now, &place, &opener, "");
                }
            },
            AfterOpen::WithErrors => {
                self.books.advance(id, GrantState::OpenedWithErrors, Flush::No);
                self.failed(now, &place, &opener, "opened with errors", &why);
                if ensured.is_none() {
                    self.is_open(now, &place, &opener, "with errors");
                }
                return Ended::WithErrors(why);
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
        finished.failure().map_or(Ended::Open, |_| Ended::Failed(why))
    }

    /// A door was open before, and stays so until then.
    pub(super) fn is_still_open(
        &mut self,
        now: Now,
        place: &Place,
        opener: &Opener,
        was_gone: bool,
        until: Option<Monotonic>,
    ) {
        let Place { door, address, .. } = place;
        let again = "opened again, since it was gone";
        let seconds = until.map(|until| until.since(now.monotonic).as_secs());
        let (said, noted) = match (was_gone, seconds) {
            (false, None) => return,
            (false, Some(seconds)) => {
                (format!("open already, now for another {seconds} s"), format!("{seconds} s"))
            }
            (true, None) => (again.to_owned(), again.to_owned()),
            (true, Some(seconds)) => {
                (format!("{again}, now for another {seconds} s"), format!("{seconds} s, {again}"))
            }
        };
        if self.may_tell(now, door) {
            info!(source = %address, door = %door, event = "extend", seconds, "{said}");
        }
        self.books.note(now, place, opener, Event::Extend, &noted);
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
                    let failed = "its close command fails: the door may still be open";
                    error!(source = %place.address, door = %place.door, event = "failed",
                        "{failed}");
                    self.books.note(now, &place, &opener, Event::Failed, failed);
                }
            }
        }
        self.is_closed(now, id, why);
    }
}
