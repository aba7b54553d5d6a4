//! From a completed knock to an open door and back: grants, what opens them, the ledger, the log.

mod takeover;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::alerts::Alerts;
use super::books::Books;
use super::sets::{Kept, Sets, SetsError};
use crate::config::{Door, Name, OnExit, Rendered};
use crate::engine::Reason;
use crate::firewall::command::Commands;
use crate::firewall::{Finished, Job, JobId, OnFailure};
use crate::grants::{
    AfterOpen, By, Closing, Decision, Deed, Expired, GrantId, GrantState, Grants, Listed, Means,
    Opened,
};
use crate::ledger::{Event, Flush};
use crate::sys::fault;
use crate::time::{Monotonic, Now};

/// All doors and whatever is under way at them.
pub(super) struct Doors {
    grants: Grants,
    commands: Commands,
    sets: Sets,
    books: Books,
    alerts: Alerts,
    jobs: HashMap<JobId, Purpose>,
    last_job: u64,
}

/// Who may open what, and since when.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) door: &'a Door,
    pub(super) address: IpAddr,
    pub(super) by: By,
    /// When the last knock came.
    pub(super) since: Monotonic,
    /// For how long, where that is not left to the door.
    pub(super) open_for: Option<Duration>,
}

/// What a job is for.
#[derive(Clone, Copy)]
enum Purpose {
    Open(GrantId),
    /// With the reason, for the history.
    Close(GrantId, &'static str),
    Act,
}

impl Doors {
    fn whose(&self, id: GrantId) -> Option<(Name, IpAddr, By)> {
        self.grants.whose(id).map(|(door, address, by)| (door.clone(), address, by))
    }

    /// Opens a door, or leaves it open longer.
    ///
    /// # Errors
    /// Why this door cannot be opened for this address.
    pub(super) fn open(&mut self, now: Now, request: &Request<'_>) -> Result<(), Reason> {
        let Request { door, address, by, since, open_for } = *request;
        let name = door.name();
        let deed = Deed::of(door, address, open_for).inspect_err(|reason| {
            say_who_opens(name, address, by);
            warn!(source = %address, door = %name, event = "refused", reason = reason.as_str(),
                "not opened: {reason}");
            self.books.note(now, name, address, by, Event::Refused, reason.as_str());
        })?;
        // A watcher cannot make a grant last longer by dating its knock ahead.
        let since = since.min(now.monotonic);
        let decision = self.grants.request(since, name, address, by, deed);
        // Whoever waits for the kernel need not wait for the log.
        let is_quick = matches!(decision, Decision::Open(_, Means::Kernel(_)));
        if !is_quick {
            say_who_opens(name, address, by);
        }
        self.decided(now, name, address, by, decision);
        if is_quick {
            say_who_opens(name, address, by);
        }
        Ok(())
    }

    fn decided(&mut self, now: Now, door: &Name, address: IpAddr, by: By, decision: Decision) {
        match decision {
            Decision::Open(id, Means::Commands(steps)) => {
                let open = steps.into_iter().map(|step| step.open).collect();
                self.open_by_commands(now, id, door, address, open);
            }
            Decision::Open(id, Means::Kernel(_)) => self.open_in_kernel(now, id, door, address, by),
            Decision::Act(commands) => {
                if self.books.note(now, door, address, by, Event::Act, "") {
                    self.submit(now, door, Purpose::Act, commands, OnFailure::Stop);
                } else {
                    self.not_recorded(now, door, address, by);
                }
            }
            Decision::Extend(id, until) => {
                let seconds = until.since(now.monotonic).as_secs();
                info!(source = %address, door = %door, event = "extend", seconds,
                    "open already, now for another {seconds} s");
                if let Some(kept) = kept_one(&self.grants, id, now.monotonic)
                    && let Err(why) = self.sets.open(&kept)
                {
                    error!(source = %address, door = %door, "cannot be extended: {why}");
                }
                self.books.extend(now, id, until, by);
                self.books.note(now, door, address, by, Event::Extend, &format!("{seconds} s"));
            }
            Decision::Wait => {
                info!(source = %address, door = %door, "closing just now, opens again after that");
            }
        }
    }

    /// Recorded first, flushed: what a command does may survive a power cut.
    fn open_by_commands(
        &mut self,
        now: Now,
        id: GrantId,
        door: &Name,
        address: IpAddr,
        commands: Vec<Rendered>,
    ) {
        let Some(record) = self.grants.record(id, now, self.books.boot()) else { return };
        fault::point("requested");
        if !self.books.record(&record, Flush::Yes) {
            self.not_recorded(now, door, address, record.by);
            let _nothing = self.grants.opened(id, Opened::Failed { done: 0, doubtful: false });
            return;
        }
        fault::point("recorded");
        self.submit(now, door, Purpose::Open(id), commands, OnFailure::Stop);
        fault::point("started");
    }

    /// The record may follow: there is no proof to use up, and the kernel ends it by itself.
    fn open_in_kernel(&mut self, now: Now, id: GrantId, door: &Name, address: IpAddr, by: By) {
        let Some(kept) = kept_one(&self.grants, id, now.monotonic) else { return };
        fault::point("requested");
        let failed = Opened::Failed { done: 0, doubtful: false };
        // Where recording fails at the moment, nothing opens until it is known whether it can be.
        if self.books.ails()
            && let Some(record) = self.grants.record(id, now, self.books.boot())
            && !self.books.record(&record, Flush::No)
        {
            self.not_recorded(now, door, address, by);
            let _nothing = self.grants.opened(id, failed);
            return;
        }
        if let Err(why) = self.sets.open(&kept) {
            error!(source = %address, door = %door, event = "failed", "not opened: {why}");
            self.books.note(now, door, address, by, Event::Failed, &why.to_string());
            self.books.forget(id);
            let _nothing = self.grants.opened(id, failed);
            return;
        }
        fault::point("set");
        let _open = self.grants.opened(id, Opened::All);
        let Some(record) = self.grants.record(id, now, self.books.boot()) else { return };
        if !self.books.record(&record, Flush::No) {
            self.not_recorded(now, door, address, by);
            if let Some(Closing::Now(expired)) = self.grants.close(door, address) {
                self.end(now, expired, "closed at once, since it cannot be recorded");
            }
            return;
        }
        fault::point("open");
        self.is_open(now, door, address, by);
    }

    fn not_recorded(&mut self, now: Now, door: &Name, address: IpAddr, by: By) {
        error!(source = %address, door = %door, event = "failed",
            "not opened, since it cannot be recorded");
        self.books.note(now, door, address, by, Event::Failed, "cannot be recorded");
    }

    fn is_open(&mut self, now: Now, door: &Name, address: IpAddr, by: By) {
        debug!(source = %address, door = %door, "open");
        self.books.note(now, door, address, by, Event::Open, "");
        self.alerts.opened(now, door, address);
    }

    /// Closes a door that is open for an address. False: it is not.
    pub(super) fn close(&mut self, now: Now, door: &Name, address: IpAddr) -> bool {
        match self.grants.close(door, address) {
            None => false,
            Some(Closing::Later) => true,
            Some(Closing::Now(expired)) => {
                self.end(now, expired, "closed by hand");
                true
            }
        }
    }

    /// What is open, opening or closing.
    #[must_use]
    pub(super) fn list(&self) -> Vec<Listed<'_>> {
        self.grants.list()
    }

    /// The history.
    pub(super) const fn books(&self) -> &Books {
        &self.books
    }

    fn submit(
        &mut self,
        now: Now,
        door: &Name,
        purpose: Purpose,
        commands: Vec<Rendered>,
        on_failure: OnFailure,
    ) {
        self.last_job += 1;
        let id = JobId(self.last_job);
        self.jobs.insert(id, purpose);
        let job = Job { id, door: door.clone(), commands, on_failure };
        self.commands.submit(now.monotonic, job);
    }

    /// Takes note of commands that have ended, closes what is over, mends what others broke.
    pub(super) fn poll(&mut self, now: Now) {
        for finished in self.commands.poll(now.monotonic) {
            self.finished(now, &finished);
        }
        for expired in self.grants.expire(now.monotonic) {
            self.end(now, expired, "command timeout");
        }
        let grants = &self.grants;
        if let Err(why) = self.sets.look(now.monotonic, || kept(grants, now.monotonic)) {
            error!("{why}");
        }
        self.alerts.poll(now.monotonic);
        self.books.poll(now);
    }

    /// A grant ends, for this reason.
    fn end(&mut self, now: Now, expired: Expired, why: &'static str) {
        let Expired { id, door, address, close, delete } = expired;
        info!(source = %address, door = %door, event = "close", "{why}");
        fault::point("expired");
        if let Some(element) = delete {
            // At its deadline the kernel has done it already, or is about to.
            if let Err(why) = self.sets.close(&door, address, &element) {
                error!(source = %address, door = %door, "cannot be closed now: {why}");
            }
            self.is_closed(now, id, why);
            return;
        }
        self.books.advance(id, GrantState::Closing, Flush::Yes);
        fault::point("closing");
        self.submit(now, &door, Purpose::Close(id, why), close, OnFailure::GoOn);
        fault::point("close started");
    }

    fn finished(&mut self, now: Now, finished: &Finished) {
        match self.jobs.remove(&finished.id) {
            Some(Purpose::Open(id)) => self.opened(now, id, finished),
            Some(Purpose::Close(id, why)) => {
                fault::point("close ended");
                let failed = "a close command failed: the door may still be open";
                match self.whose(id) {
                    Some((door, address, by)) if finished.failure.is_some() => {
                        error!(source = %address, door = %door, event = "failed", "{failed}");
                        self.books.note(now, &door, address, by, Event::Failed, failed);
                    }
                    _ => {}
                }
                self.is_closed(now, id, why);
            }
            // The runner has logged a failure.
            Some(Purpose::Act) | None => {}
        }
    }

    fn opened(&mut self, now: Now, id: GrantId, finished: &Finished) {
        let Some((door, address, by)) = self.whose(id) else { return };
        fault::point("opened");
        let outcome = match &finished.failure {
            None => Opened::All,
            Some(why) => Opened::Failed { done: finished.done, doubtful: why.is_doubtful() },
        };
        let why = finished.failure.as_ref().map(ToString::to_string).unwrap_or_default();
        match self.grants.opened(id, outcome) {
            AfterOpen::Open => {
                self.books.advance(id, GrantState::Open, Flush::No);
                fault::point("open");
                self.is_open(now, &door, address, by);
            }
            AfterOpen::Nothing => {
                error!(source = %address, door = %door, event = "failed", "not opened");
                self.books.note(now, &door, address, by, Event::Failed, &why);
                self.books.forget(id);
            }
            AfterOpen::Close(commands) => {
                error!(source = %address, door = %door, event = "failed",
                    "not opened: what was done of it is undone");
                self.books.note(now, &door, address, by, Event::Failed, &why);
                self.books.advance(id, GrantState::Closing, Flush::Yes);
                let undone = Purpose::Close(id, "undone, since it could not be opened");
                self.submit(now, &door, undone, commands, OnFailure::GoOn);
            }
        }
    }

    fn is_closed(&mut self, now: Now, id: GrantId, why: &str) {
        let Some((door, address, by)) = self.whose(id) else { return };
        self.books.forget(id);
        fault::point("closed");
        self.books.note(now, &door, address, by, Event::Close, why);
        debug!(source = %address, door = %door, "closed");
        self.alerts.closed(now, &door, address);
        if let Some(decision) = self.grants.closed(id) {
            self.decided(now, &door, address, by, decision);
        }
    }

    /// Closes everything that is open, and what is about to open as soon as it has.
    pub(super) fn close_all(&mut self, now: Now) {
        for expired in self.grants.expire_all() {
            self.end(now, expired, "closed by hand");
        }
    }

    /// Closes what only commands can close; the kernel ends the rest by itself.
    pub(super) fn leave(&mut self, now: Now) {
        for expired in self.grants.leave() {
            self.end(now, expired, "closing, since knockd stops");
        }
    }

    /// Whether nothing waits for a command.
    #[must_use]
    pub(super) fn is_idle(&self) -> bool {
        self.grants.is_empty() && self.jobs.is_empty()
    }

    /// Whether everybody who wants to know has been told what was opened and closed.
    #[must_use]
    pub(super) const fn has_told(&self) -> bool {
        self.alerts.is_idle()
    }

    /// Lets go of the firewall: the guard stays or goes.
    ///
    /// # Errors
    /// When it cannot be taken away.
    pub(super) fn finish(self, on_exit: OnExit) -> Result<(), SetsError> {
        self.sets.leave(on_exit)
    }

    /// When [`poll`](Self::poll) has to be called next.
    #[must_use]
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let deadlines = [
            self.grants.next_deadline(),
            self.commands.next_deadline(),
            self.alerts.next_deadline(),
            self.books.next_deadline(),
            self.sets.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = self.commands.fds();
        fds.extend(self.sets.fds());
        fds.extend(self.alerts.fds());
        fds
    }
}

fn say_who_opens(door: &Name, address: IpAddr, by: By) {
    let what = match by {
        By::Sequence => "OPEN SESAME",
        By::Knockctl => "opened by hand",
    };
    info!(source = %address, door = %door, event = "open", by = by.as_str(), "{what}");
}

/// What the kernel has to hold.
fn kept(grants: &Grants, now: Monotonic) -> Vec<Kept> {
    let kept = |listed: Listed<'_>| {
        Some(Kept {
            door: listed.door.clone(),
            address: listed.address,
            by: listed.by,
            element: listed.element?.clone(),
            left: listed.deadline.since(now),
        })
    };
    grants.list().into_iter().filter_map(kept).filter(|kept| !kept.left.is_zero()).collect()
}

fn kept_one(grants: &Grants, id: GrantId, now: Monotonic) -> Option<Kept> {
    let (door, address, by) = grants.whose(id)?;
    let (element, deadline) = grants.element(id)?;
    let (door, element) = (door.clone(), element.clone());
    Some(Kept { door, address, by, element, left: deadline.since(now) })
}
