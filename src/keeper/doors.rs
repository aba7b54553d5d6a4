//! From a completed knock to an open door and back: grants, what opens them, the ledger, the log.

mod asking;
mod takeover;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use tracing::{debug, error, info};

use super::alerts::Alerts;
use super::books::Books;
use super::sets::{Kept, Sets, SetsError};
use crate::config::{Name, OnExit, Rendered};
use crate::firewall::command::Commands;
use crate::firewall::{Finished, Job, JobId, OnFailure};
use crate::grants::{
    AfterOpen, Closing, Expired, GrantId, GrantState, Grants, Listed, Opened, Opener, Place,
};
use crate::ledger::{Ahead, Event, Flush};
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
    /// What became of doors that somebody waits for.
    ended: Vec<(JobId, Result<(), String>)>,
}

/// What a job is for.
enum Purpose {
    Open(GrantId),
    /// With the reason, for the history.
    Close(GrantId, &'static str),
    Act(Place, Opener),
}

/// What came of asking for something that may be done.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    /// [`Doors::take_ended`] tells how this ends.
    UnderWay(JobId),
    /// Why has been logged.
    Failed(&'static str),
}

/// How many grants end before the keeper listens again: some ten milliseconds.
const AT_A_TIME: usize = 100;

impl Doors {
    fn whose(&self, id: GrantId) -> Option<(Place, Opener)> {
        self.grants.whose(id).map(|(place, opener)| (place.clone(), opener.clone()))
    }

    fn is_open(&mut self, now: Now, place: &Place, opener: &Opener) {
        debug!(source = %place.address, door = %place.door, "open");
        self.books.note(now, place, opener, Event::Open, "");
        self.alerts.opened(now, place, opener);
    }

    /// Closes a door that is open for an address. False: it is not.
    pub(super) fn close(&mut self, now: Now, door: &Name, address: IpAddr) -> bool {
        let ids = self.grants.of(|place, _| place.door == *door && place.address == address);
        self.end_all(now, &ids, "closed by hand");
        !ids.is_empty()
    }

    /// Closes what a client has opened, or extended last. How many doors that were.
    pub(super) fn close_client(&mut self, now: Now, client: &Name) -> usize {
        let ids = self.grants.of(|_, opener| opener.client.as_ref() == Some(client));
        self.end_all(now, &ids, "closed, since its client is revoked");
        ids.len()
    }

    fn end_all(&mut self, now: Now, ids: &[GrantId], why: &'static str) {
        for &id in ids {
            // What is under way ends when its command has ended.
            if let Some(Closing::Now(expired)) = self.grants.close(id) {
                self.end(now, expired, why);
            }
        }
    }

    /// What is open, opening or closing.
    #[must_use]
    pub(super) fn list(&self) -> Vec<Listed<'_>> {
        self.grants.list()
    }

    /// Forgets what a client has used ahead of its time; how much that was. `None`: it cannot be
    /// written, which has been logged.
    pub(super) fn forget_ahead(&mut self, now: Now, ahead: &Ahead) -> Option<usize> {
        self.books.forget_ahead(now, ahead)
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
    ) -> JobId {
        self.last_job += 1;
        let id = JobId(self.last_job);
        self.jobs.insert(id, purpose);
        let job = Job { id, door: door.clone(), commands, on_failure };
        self.commands.submit(now.monotonic, job);
        id
    }

    /// What has ended since the last call of all that was [under way](Answer::UnderWay).
    pub(super) fn take_ended(&mut self) -> Vec<(JobId, Result<(), String>)> {
        std::mem::take(&mut self.ended)
    }

    /// Takes note of commands that have ended, closes what is over, mends what others broke.
    pub(super) fn poll(&mut self, now: Now) {
        for finished in self.commands.poll(now.monotonic) {
            self.finished(now, &finished);
        }
        for expired in self.grants.expire_some(now.monotonic, AT_A_TIME) {
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
        let Expired { id, place, close, delete } = expired;
        let Place { door, address, .. } = &place;
        info!(source = %address, door = %door, event = "close", "{why}");
        fault::point("expired");
        if let Some(element) = delete {
            // At its deadline the kernel has done it already, or is about to.
            if let Err(why) = self.sets.close(&place, &element) {
                error!(source = %address, door = %door, "cannot be closed now: {why}");
            }
            self.is_closed(now, id, why);
            return;
        }
        self.books.advance(id, GrantState::Closing, Flush::Yes);
        fault::point("closing");
        self.submit(now, door, Purpose::Close(id, why), close, OnFailure::GoOn);
        fault::point("close started");
    }

    fn finished(&mut self, now: Now, finished: &Finished) {
        match self.jobs.remove(&finished.id) {
            Some(Purpose::Open(id)) => {
                self.opened(now, id, finished);
                self.ended.push((finished.id, outcome(finished)));
            }
            Some(Purpose::Close(id, why)) => {
                fault::point("close ended");
                let failed = "a close command failed: the door may still be open";
                match self.whose(id) {
                    Some((place, opener)) if finished.failure.is_some() => {
                        error!(source = %place.address, door = %place.door, event = "failed",
                            "{failed}");
                        self.books.note(now, &place, &opener, Event::Failed, failed);
                    }
                    _ => {}
                }
                self.is_closed(now, id, why);
            }
            Some(Purpose::Act(place, opener)) => {
                if let Some(why) = &finished.failure {
                    error!(source = %place.address, door = %place.door, event = "failed",
                        "the command failed");
                    self.books.note(now, &place, &opener, Event::Failed, &why.to_string());
                }
                self.ended.push((finished.id, outcome(finished)));
            }
            None => {}
        }
    }

    fn opened(&mut self, now: Now, id: GrantId, finished: &Finished) {
        let Some((place, opener)) = self.whose(id) else { return };
        let Place { door, address, .. } = &place;
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
                self.is_open(now, &place, &opener);
            }
            AfterOpen::Nothing => {
                error!(source = %address, door = %door, event = "failed", "not opened");
                self.books.note(now, &place, &opener, Event::Failed, &why);
                self.books.forget(id);
            }
            AfterOpen::Close(commands) => {
                error!(source = %address, door = %door, event = "failed",
                    "not opened: what was done of it is undone");
                self.books.note(now, &place, &opener, Event::Failed, &why);
                self.books.advance(id, GrantState::Closing, Flush::Yes);
                let undone = Purpose::Close(id, "undone, since it could not be opened");
                self.submit(now, door, undone, commands, OnFailure::GoOn);
            }
        }
    }

    fn is_closed(&mut self, now: Now, id: GrantId, why: &str) {
        let Some((place, opener)) = self.whose(id) else { return };
        self.books.forget(id);
        fault::point("closed");
        self.books.note(now, &place, &opener, Event::Close, why);
        debug!(source = %place.address, door = %place.door, "closed");
        self.alerts.closed(now, &place, &opener);
        if let Some(asked) = self.grants.closed(id) {
            self.open_again(now, asked);
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
        self.books.close();
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

fn outcome(finished: &Finished) -> Result<(), String> {
    finished.failure.as_ref().map_or(Ok(()), |why| Err(why.to_string()))
}

/// What the kernel has to hold.
fn kept(grants: &Grants, now: Monotonic) -> Vec<Kept> {
    let kept = |listed: Listed<'_>| {
        Some(Kept {
            place: listed.place.clone(),
            opener: listed.opener.clone(),
            element: listed.element?.clone(),
            left: listed.deadline.since(now),
        })
    };
    grants.list().into_iter().filter_map(kept).filter(|kept| !kept.left.is_zero()).collect()
}

fn kept_one(grants: &Grants, id: GrantId, now: Monotonic) -> Option<Kept> {
    let (place, opener) = grants.whose(id)?;
    let (element, deadline) = grants.element(id)?;
    Some(Kept {
        place: place.clone(),
        opener: opener.clone(),
        element: element.clone(),
        left: deadline.since(now),
    })
}
