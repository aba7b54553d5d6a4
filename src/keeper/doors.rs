//! From a completed knock to an open door and back: grants, their commands, and the log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use crate::config::{Door, Name, Rendered};
use crate::engine::Reason;
use crate::firewall::{Finished, Firewall, Job, JobId, OnFailure};
use crate::grants::{
    AfterOpen, By, Closing, Decision, Deed, Expired, GrantId, Grants, Listed, Opened,
};
use crate::time::Monotonic;

/// All doors and whatever is under way at them. Runs the same over real commands and in a
/// simulation.
pub struct Doors<F> {
    grants: Grants,
    firewall: F,
    jobs: HashMap<JobId, Purpose>,
    last_job: u64,
}

/// Who may open what, and since when.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub door: &'a Door,
    pub address: IpAddr,
    pub by: By,
    /// When the last knock came.
    pub since: Monotonic,
    /// For how long, where that is not left to the door.
    pub open_for: Option<Duration>,
}

/// What a job is for.
#[derive(Clone, Copy)]
enum Purpose {
    Open(GrantId),
    Close(GrantId),
    Act,
}

impl<F: Firewall> Doors<F> {
    pub fn new(firewall: F) -> Self {
        Self { grants: Grants::new(), firewall, jobs: HashMap::new(), last_job: 0 }
    }

    /// Opens a door, or leaves it open longer: somebody earned it at `since`.
    ///
    /// # Errors
    /// Why this door cannot be opened for this address.
    pub fn open(&mut self, now: Monotonic, request: &Request<'_>) -> Result<(), Reason> {
        let Request { door, address, by, since, open_for } = *request;
        let name = door.name();
        let deed = Deed::of(door, address, open_for).inspect_err(|reason| {
            warn!(source = %address, door = %name, event = "refused", reason = reason.as_str(),
                "not opened: {reason}");
        })?;
        // A watcher cannot make a grant last longer by dating its knock ahead.
        let decision = self.grants.request(since.min(now), name, address, by, deed);
        self.decided(now, name, address, decision);
        Ok(())
    }

    fn decided(&mut self, now: Monotonic, door: &Name, address: IpAddr, decision: Decision) {
        match decision {
            Decision::Open(id, commands) => {
                self.submit(now, door, Purpose::Open(id), commands, OnFailure::Stop);
            }
            Decision::Act(commands) => {
                self.submit(now, door, Purpose::Act, commands, OnFailure::Stop);
            }
            Decision::Extend(until) => {
                let seconds = until.since(now).as_secs();
                info!(source = %address, door = %door, event = "extend", seconds,
                    "open already, now for another {seconds} s");
            }
            Decision::Wait => {
                info!(source = %address, door = %door, "closing just now, opens again after that");
            }
        }
    }

    /// Closes a door that is open for an address. False: it is not.
    pub fn close(&mut self, now: Monotonic, door: &Name, address: IpAddr) -> bool {
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
    pub fn list(&self) -> Vec<Listed<'_>> {
        self.grants.list()
    }

    fn submit(
        &mut self,
        now: Monotonic,
        door: &Name,
        purpose: Purpose,
        commands: Vec<Rendered>,
        on_failure: OnFailure,
    ) {
        self.last_job += 1;
        let id = JobId(self.last_job);
        self.jobs.insert(id, purpose);
        self.firewall.submit(now, Job { id, door: door.clone(), commands, on_failure });
    }

    /// Takes note of commands that have ended and closes what is over.
    pub fn poll(&mut self, now: Monotonic) {
        for finished in self.firewall.poll(now) {
            self.finished(now, finished);
        }
        for expired in self.grants.expire(now) {
            self.end(now, expired, "command timeout");
        }
    }

    fn end(&mut self, now: Monotonic, expired: Expired, why: &'static str) {
        let Expired { id, door, address, close } = expired;
        info!(source = %address, door = %door, event = "close", "{why}");
        self.submit(now, &door, Purpose::Close(id), close, OnFailure::GoOn);
    }

    fn finished(&mut self, now: Monotonic, finished: Finished) {
        let Some(purpose) = self.jobs.remove(&finished.id) else { return };
        let id = match purpose {
            Purpose::Open(id) | Purpose::Close(id) => id,
            // The runner has logged a failure.
            Purpose::Act => return,
        };
        let Some((door, address)) = self.grants.whose(id).map(|(door, ip)| (door.clone(), ip))
        else {
            return;
        };
        match purpose {
            Purpose::Open(_) => self.opened(now, id, &door, address, &finished),
            _ => {
                if finished.failure.is_some() {
                    error!(source = %address, door = %door,
                        "a close command failed: the door may still be open");
                } else {
                    debug!(source = %address, door = %door, "closed");
                }
                if let Some(decision) = self.grants.closed(id) {
                    self.decided(now, &door, address, decision);
                }
            }
        }
    }

    fn opened(
        &mut self,
        now: Monotonic,
        id: GrantId,
        door: &Name,
        address: IpAddr,
        finished: &Finished,
    ) {
        let outcome = match &finished.failure {
            None => Opened::All,
            Some(why) => Opened::Failed { done: finished.done, doubtful: why.is_doubtful() },
        };
        match self.grants.opened(id, outcome) {
            AfterOpen::Open => debug!(source = %address, door = %door, "open"),
            AfterOpen::Nothing => {
                error!(source = %address, door = %door, event = "failed", "not opened");
            }
            AfterOpen::Close(commands) => {
                error!(source = %address, door = %door, event = "failed",
                    "not opened: what was done of it is undone");
                self.submit(now, door, Purpose::Close(id), commands, OnFailure::GoOn);
            }
        }
    }

    /// Closes everything that is open, and what is about to open as soon as it has.
    pub fn close_all(&mut self, now: Monotonic, why: &'static str) {
        for expired in self.grants.expire_all() {
            self.end(now, expired, why);
        }
    }

    /// Whether nothing is open and nothing runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.grants.is_empty() && self.jobs.is_empty()
    }

    #[must_use]
    pub fn is_open(&self, door: &Name, address: IpAddr) -> bool {
        self.grants.is_open(door, address)
    }

    /// When [`poll`](Self::poll) has to be called next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        [self.grants.next_deadline(), self.firewall.next_deadline()].into_iter().flatten().min()
    }

    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.firewall.fds()
    }

    #[must_use]
    pub const fn firewall(&self) -> &F {
        &self.firewall
    }
}
