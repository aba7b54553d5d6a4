//! Jobs of doors: commands, what they are run for, and what follows when they have ended.

use tracing::{error, warn};

use super::recover::FROM_BEFORE;
use super::{DoorEvent, Doors, EndReason, MOST_NOT_CLOSED};
use crate::config::Name;
use crate::firewall::command::{CommandTask, Failure, Finished, Job, JobId, JobKind, TaskOutcome};
use crate::grants::{
    CloseFailure, CommandPair, FailedClose, GrantId, GrantKey, GrantState, KernelGrant, Manner,
    OpenOutcome, OpenResult, Origin,
};
use crate::ledger::Durability;
use crate::sys::fault;
use crate::time::{Monotonic, Now};

/// How many grants are looked at for one who asks for the status.
const LOOKED_AT: usize = 100;

/// The purpose of a job.
pub(super) enum Purpose {
    /// The manner is [`Manner::Once`] where the grant begins; otherwise it is open already, and
    /// somebody may have asked that it be open until then.
    Open(GrantId, Manner, Option<Monotonic>),
    /// With the steps, and the reason for the history.
    Close(GrantId, Vec<CommandPair>, EndReason),
    Act(GrantKey, Origin),
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
        tasks: Vec<CommandTask>,
    ) -> JobId {
        self.last_job += 1;
        let id = JobId(self.last_job);
        self.jobs.insert(id, purpose);
        let (limit, new_privileges) = self.alerts.command_rules(door);
        let job = Job { id, door: door.clone(), kind, limit, new_privileges, tasks };
        self.commands.submit(now.monotonic, job);
        id
    }

    /// The job that opens a door now, while it is starting.
    pub(in crate::keeper) fn opened_by(&self, key: &GrantKey) -> Option<JobId> {
        let opens = |id: &GrantId| {
            let grant = self.grants.get(*id);
            grant.is_some_and(|it| it.key == *key && it.state() == GrantState::Starting)
        };
        let mut jobs = self.jobs.iter();
        jobs.find(|(_, it)| matches!(it, Purpose::Open(id, ..) if opens(id))).map(|(job, _)| *job)
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
        let key = self.grants.get(id).map(|grant| &grant.key);
        let undo = key.is_some_and(|key| self.not_closed.remove(key).is_some());
        let task = |(pair, manner): (CommandPair, Manner)| CommandTask {
            first: if undo || manner == Manner::Anew { pair.close } else { None },
            // Without a look it is taken to be there.
            run: (manner != Manner::IfGone || pair.verify.is_some()).then_some(pair.open),
            verify: pair.verify,
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
        pairs: Vec<CommandPair>,
        why: impl Into<EndReason>,
    ) {
        let task = |pair: &CommandPair| CommandTask {
            run: pair.close.clone(),
            verify: pair.verify.clone(),
            ..CommandTask::default()
        };
        let tasks = pairs.iter().map(task).collect();
        self.submit(now, door, Purpose::Close(id, pairs, why.into()), JobKind::Close, tasks);
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
            let task = |verify| CommandTask { verify: Some(verify), ..CommandTask::default() };
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
        let open = self.grants.list().filter(|grant| grant.state() == GrantState::Open);
        let kept = open.filter_map(|grant| Some((grant.id, grant.in_kernel(now.monotonic)?)));
        let (ids, keep): (Vec<GrantId>, Vec<KernelGrant>) = kept.unzip();
        match self.sets.are_held(&keep) {
            Ok(held) => {
                for (id, held) in ids.into_iter().zip(held) {
                    let _was_known =
                        if held { self.gone.remove(&id) } else { self.gone.insert(id) };
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
            Some(Purpose::Close(id, pairs, why)) => {
                fault::point("close ended");
                let failed =
                    |(pair, outcome)| matches!(outcome, &TaskOutcome::Failed(_)).then_some(pair);
                let failed = pairs.into_iter().zip(&finished.outcomes).filter_map(failed).collect();
                let no_room = |it: &_| matches!(it, TaskOutcome::Failed(Failure::NoRoom { .. }));
                let because = if finished.outcomes.iter().any(no_room) {
                    CloseFailure::NoRoom
                } else {
                    CloseFailure::OfCommand
                };
                self.close_ended(now, id, (failed, because), why);
            }
            Some(Purpose::Act(key, origin)) => {
                let why = why(finished);
                if let Some(why) = &why {
                    self.tell(now, &key, &origin, DoorEvent::Failed("the command failed", why));
                }
                self.ended.push((finished.id, why.map_or(Ok(()), Err)));
            }
            Some(Purpose::Look(ids)) => {
                let looked = ids.into_iter().zip(&finished.outcomes);
                for (id, _) in looked.clone() {
                    self.gone.remove(&id);
                }
                let is_gone =
                    |(_, outcome): &(GrantId, _)| matches!(outcome, &&TaskOutcome::Failed(_));
                let is_left = |id: &GrantId| self.grants.get(*id).is_some();
                self.gone.extend(looked.filter(is_gone).map(|(id, _)| id).filter(is_left));
            }
            None => {}
        }
    }

    fn opened(
        &mut self,
        now: Now,
        id: GrantId,
        finished: &Finished,
        manner: Manner,
        until: Option<Monotonic>,
    ) -> Result<(), String> {
        let Some((key, origin)) = self.owner(id) else { return Ok(()) };
        fault::point("opened");
        let done = finished.outcomes.len().saturating_sub(1);
        let outcome = match finished.failure() {
            None if !finished.outcomes.is_empty() => OpenResult::All,
            None | Some(Failure::NotStarted { .. } | Failure::NoRoom { .. }) => {
                OpenResult::NotStarted(done)
            }
            Some(Failure::NotThere) => OpenResult::NotThere(done),
            Some(_) => OpenResult::Failed(done),
        };
        let why = why(finished).unwrap_or_default();
        let is_new = manner == Manner::Once;
        self.gone.remove(&id);
        let after = self.grants.opened(id, outcome);
        if let OpenOutcome::Again(manner) = after {
            self.run_open(now, &key.door, id, manner, None);
        }
        match after {
            OpenOutcome::Open | OpenOutcome::Again(_) if is_new => {
                self.journal.advance(id, GrantState::Open, Durability::Crash);
                fault::point("open");
                self.tell(now, &key, &origin, DoorEvent::Open(""));
                self.displace(now, id, &key);
            }
            OpenOutcome::Open | OpenOutcome::Again(_) => {
                let ran = finished.outcomes.contains(&TaskOutcome::Done);
                let was_gone = manner == Manner::IfGone && ran;
                if was_gone || until.is_some() {
                    self.tell(now, &key, &origin, DoorEvent::Extended { was_gone, until });
                }
                self.displace(now, id, &key);
                return Ok(());
            }
            OpenOutcome::WithErrors => {
                self.journal.advance(id, GrantState::OpenedWithErrors, Durability::Crash);
                self.tell(now, &key, &origin, DoorEvent::Failed("opened with errors", &why));
                if is_new {
                    self.tell(now, &key, &origin, DoorEvent::Open("with errors"));
                }
                return Err(format!("opened with errors, it may be open until its time: {why}"));
            }
            OpenOutcome::Nothing => {
                self.tell(now, &key, &origin, DoorEvent::Failed("not opened", &why));
                self.journal.forget(id);
            }
            OpenOutcome::Close(pairs) => {
                let what = "not opened, and what was done of it is undone";
                self.tell(now, &key, &origin, DoorEvent::Failed(what, &why));
                self.journal.advance(id, GrantState::Closing, Durability::PowerLoss);
                let undone = "undone, since it could not be opened";
                self.close_steps(now, &key.door, id, pairs, undone);
            }
        }
        if outcome == OpenResult::All { Ok(()) } else { Err(why) }
    }

    fn close_ended(
        &mut self,
        now: Now,
        id: GrantId,
        (failed, because): (Vec<CommandPair>, CloseFailure),
        why: EndReason,
    ) {
        let Some((key, origin)) = self.owner(id) else { return };
        if !failed.is_empty() {
            match self.grants.close_failed(now.monotonic, id, failed, because) {
                FailedClose::Ended => {}
                FailedClose::Again(pause) => {
                    warn!(source = %key.network, door = %key.door,
                        "a close command failed: it is tried again in {} s", pause.as_secs());
                    return;
                }
                FailedClose::GivenUp => {
                    let fails = "its close command fails: the door may still be open";
                    self.tell(now, &key, &origin, DoorEvent::Failed("not closed", fails));
                    // What the start could not close either is not tried for ever.
                    if why != FROM_BEFORE && self.not_closed.len() < MOST_NOT_CLOSED {
                        self.not_closed.insert(key.clone(), (id, origin));
                        return self.has_ended(now, id, &key);
                    }
                }
            }
        }
        self.is_closed(now, id, &why);
    }
}

/// Why a job did not do what it should.
fn why(finished: &Finished) -> Option<String> {
    if finished.outcomes.is_empty() {
        return Some("knockd stops".to_owned());
    }
    finished.failure().map(ToString::to_string)
}
