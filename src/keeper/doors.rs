//! From a completed knock to an open door and back: grants, their commands, and the log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use tracing::{debug, error, info, warn};

use crate::config::{Door, Name, Rendered};
use crate::firewall::{Finished, Firewall, Job, JobId, OnFailure};
use crate::grants::{AfterOpen, Decision, Deed, GrantId, Grants, Opened};
use crate::time::Monotonic;

/// All doors and whatever is under way at them. Runs the same over real commands and in a
/// simulation.
pub struct Doors<F> {
    grants: Grants,
    firewall: F,
    jobs: HashMap<JobId, Purpose>,
    last_job: u64,
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

    /// Opens a door, or leaves it open longer: its knock was completed at `knocked`.
    pub fn knocked(&mut self, now: Monotonic, knocked: Monotonic, door: &Door, address: IpAddr) {
        let name = door.name();
        info!(source = %address, door = %name, event = "open", "OPEN SESAME");
        let deed = match Deed::of(door, address) {
            Ok(deed) => deed,
            Err(reason) => {
                warn!(source = %address, door = %name, reason = reason.as_str(),
                    "not opened: the door has no command for this address family");
                return;
            }
        };
        // A watcher cannot make a grant last longer by dating its knock ahead.
        let decision = self.grants.request(knocked.min(now), name, address, deed);
        self.decided(now, name, address, decision);
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
                info!(source = %address, door = %door, seconds,
                    "open already, now for another {seconds} s");
            }
            Decision::Wait => {
                info!(source = %address, door = %door, "closing just now, opens again after that");
            }
        }
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
            self.close(now, expired, "command timeout");
        }
    }

    fn close(&mut self, now: Monotonic, expired: crate::grants::Expired, why: &'static str) {
        let crate::grants::Expired { id, door, address, close } = expired;
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
            AfterOpen::Nothing => error!(source = %address, door = %door, "not opened"),
            AfterOpen::Close(commands) => {
                error!(source = %address, door = %door,
                    "not opened: what was done of it is undone");
                self.submit(now, door, Purpose::Close(id), commands, OnFailure::GoOn);
            }
        }
    }

    /// Closes everything that is open, and what is about to open as soon as it has.
    pub fn close_all(&mut self, now: Monotonic) {
        for expired in self.grants.expire_all() {
            self.close(now, expired, "closing, since knockd stops");
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
