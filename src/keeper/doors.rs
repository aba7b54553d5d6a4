//! Doors at work: from a claim to an open door and back, through grants, commands, sets and ledger.

mod cut;
mod jobs;
mod news;
mod open;
mod recover;
mod sessions;
mod tell;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::BorrowedFd;

use tracing::error;

use self::cut::{CutCause, Cuts};
use self::jobs::Purpose;
pub(super) use self::news::DoorNews;
use self::sessions::Sessions;
use self::tell::DoorEvent;

use super::alerts::Alerts;
use super::journal::Journal;
use super::kernel_sets::{KernelSets, KernelSetsError};
use super::metrics::Counts;
use crate::config::{COMMAND_LIMIT, Name, OnExit};
use crate::control::EventLine;
use crate::firewall;
use crate::firewall::command::{CommandRunner, JobId};
use crate::grants::{
    Grant, GrantId, GrantKey, GrantState, Grants, KernelGrant, Manner, OpenedBy, Origin, ToClose,
};
use crate::ledger::Durability;
use crate::log::limit::Limit;
use crate::sys::fault;
use crate::time::{Monotonic, Now};

/// All doors and whatever is under way at them.
pub(super) struct Doors {
    grants: Grants,
    commands: CommandRunner,
    sets: KernelSets,
    sessions: Sessions,
    pub(super) journal: Journal,
    pub(super) alerts: Alerts,
    jobs: HashMap<JobId, Purpose>,
    last_job: u64,
    /// What became of doors that somebody waits for, since it was last taken.
    pub(super) ended: Vec<(JobId, Result<(), String>)>,
    /// Grants whose doors are not open though they should be, as far as is known.
    gone: HashSet<GrantId>,
    /// What no close command could close, as far as is known: it may still be open. Its record
    /// stays, so that the next start tries again; so does whoever opens it again.
    not_closed: BTreeMap<GrantKey, (GrantId, Origin)>,
    /// What has been logged since those who follow were told.
    pub(super) logged: Vec<EventLine>,
    /// How much is logged of each door.
    lines: HashMap<Name, Limit>,
    cuts: Cuts,
    /// What the other gateways of the fleet have not been told yet.
    pub(super) news: Vec<DoorNews>,
    /// What is counted for monitoring.
    pub(super) metrics: Counts,
}

/// The outcome of a claim that may be carried out.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimOutcome {
    Done,
    /// [`Doors::ended`] tells how this ends.
    UnderWay(JobId),
    /// Why has been logged.
    Failed(&'static str),
}

/// The reason why a grant ends, for log and history.
type EndReason = Cow<'static, str>;

/// How many are remembered that could not be closed.
const MOST_NOT_CLOSED: usize = 1000;
/// How many grants end before the keeper listens again: some milliseconds, on a busy machine some
/// ten.
const AT_A_TIME: usize = 32;

impl Doors {
    fn owner(&self, id: GrantId) -> Option<(GrantKey, Origin)> {
        self.grants.get(id).map(|grant| (grant.key.clone(), grant.origin.clone()))
    }

    /// Closes a door that is open for an address of a network, for this source port or whichever,
    /// or strikes off that it could not be closed. False: it is not open. To `cut`: connections from
    /// there are [due](Self::cut_due) to end.
    pub(super) fn close(&mut self, now: Now, asked: &GrantKey, cut: bool, by: OpenedBy) -> bool {
        let is_meant = |it: &Grant| it.key.is_meant_by(asked) && self.reaches(by, &it.key.door);
        let ids = self.grants.matching(is_meant);
        if cut {
            self.cuts.with.extend(ids.iter().map(|id| (*id, CutCause::Request)));
            self.cuts.due.insert((asked.clone(), CutCause::Request));
        }
        self.end_all(now, &ids, Some(by), closed_by(by));
        let struck = self.not_closed.extract_if(.., |key, _| key.is_meant_by(asked));
        let struck = struck.map(|(_, (id, _))| self.journal.forget(id)).count();
        !ids.is_empty() || struck > 0
    }

    /// What may still be open, since it could not be closed, and who had opened it.
    pub(super) fn not_closed(&self) -> impl Iterator<Item = (&GrantKey, &Origin)> {
        self.not_closed.iter().map(|(key, (_, origin))| (key, origin))
    }

    /// Closes what a client has opened, or extended last. How many doors that were.
    pub(super) fn close_client(&mut self, now: Now, of: &Name, cut: bool, by: OpenedBy) -> usize {
        let is_meant = |it: &Grant| it.origin.client.as_ref() == Some(of);
        let ids = self.grants.matching(|it| is_meant(it) && self.reaches(by, &it.key.door));
        if cut {
            self.cut_with(by, &ids, Some(of));
        }
        self.end_all(now, &ids, Some(by), "closed, since its client is revoked");
        ids.len()
    }

    /// Ends those that a grant which is open takes the place of.
    fn displace(&mut self, now: Now, id: GrantId, key: &GrantKey) {
        let by = self.owner(id).map(|(_, origin)| origin.by);
        let ids = self.grants.displaced_by(id);
        self.end_all(now, &ids, by, &format!("moved to {}", key.network));
    }

    /// `by`: somebody has asked for it, which the other gateways hear unless it was one of them.
    fn end_all(&mut self, now: Now, ids: &[GrantId], by: Option<OpenedBy>, why: &str) {
        for &id in ids {
            if by.is_some_and(|by| by != OpenedBy::Fleet)
                && let Some((key, _)) = self.owner(id)
                && self.is_fleets(&key.door)
            {
                self.news.push(DoorNews::Close { key });
            }
            // What is under way ends when its command has ended.
            if let Some(expired) = self.grants.close(id) {
                self.end(now, expired, why.to_owned());
            }
        }
    }

    /// What is open, opening or closing.
    pub(super) fn list(&self) -> Vec<&Grant> {
        self.grants.list().collect()
    }

    /// How many grants a door has.
    pub(super) fn count(&self, door: &Name) -> usize {
        self.grants.count(door)
    }

    /// Takes note of commands that have ended, closes what is over, mends what others broke.
    pub(super) fn poll(&mut self, now: Now) {
        for finished in self.commands.poll(now.monotonic) {
            self.finished(now, &finished);
        }
        let (grants, sessions, at) = (&mut self.grants, &mut self.sessions, now.monotonic);
        let keep = || {
            // How long packets had renewed what somebody has taken away nobody knows any more.
            let all = Some(()).filter(|()| grants.is_holding()).and_then(|()| sessions.all());
            let _restored = all.map(|all| grants.saw_all(at, &all));
            holding(grants.list(), at)
        };
        if let Err(why) = self.sets.poll(at, keep) {
            error!("{why}");
        }
        self.follow_sessions(now);
        for expired in self.grants.expire_some(now.monotonic, AT_A_TIME) {
            self.cut_when_over(expired.id);
            let why = match expired.end {
                _ if expired.again => "closed, though not at once",
                Some(end) => end.as_str(),
                None => "command timeout",
            };
            self.end(now, expired, why);
        }
        let _logged = self.cut_due();
        self.alerts.poll(now.monotonic);
        self.journal.poll(now);
    }

    /// A grant ends, for this reason.
    fn end(&mut self, now: Now, expired: ToClose, why: impl Into<EndReason>) {
        let why = why.into();
        let ToClose { id, close, delete, again, .. } = expired;
        let Some((key, origin)) = self.owner(id) else { return };
        let GrantKey { door, network, .. } = &key;
        if !again {
            self.tell(now, &key, &origin, DoorEvent::Closing(&why));
        }
        fault::point("expired");
        if let Some(element) = delete {
            // At its deadline the kernel has done it already, or is about to.
            let grants = &self.grants;
            let others = || {
                let others = grants.open_for(*network).filter(|other| other.id != id);
                holding(others, now.monotonic)
            };
            if let Err(why) = self.sets.close(&key, &element, others) {
                error!(source = %network, door = %door, "cannot be closed now: {why}");
            }
            self.is_closed(now, id, &why);
            return;
        }
        if !again {
            self.journal.advance(id, GrantState::Closing, Durability::PowerLoss);
            fault::point("closing");
        }
        self.close_steps(now, door, id, close, why);
        fault::point("close started");
    }

    fn is_closed(&mut self, now: Now, id: GrantId, why: &str) {
        let Some((key, origin)) = self.owner(id) else { return };
        self.journal.forget(id);
        self.not_closed.remove(&key);
        fault::point("closed");
        self.tell(now, &key, &origin, DoorEvent::Closed(why));
        self.has_ended(now, id, &key);
    }

    /// A grant is over, closed or not: others may need what it held.
    fn has_ended(&mut self, now: Now, id: GrantId, key: &GrantKey) {
        self.gone.remove(&id);
        if let Some(cause) = self.cuts.with.remove(&id) {
            self.cuts.due.insert((key.clone(), cause));
        }
        // Somebody has opened meanwhile what was closed here.
        for other in self.grants.also_held(id) {
            if self.grants.work_again(other, Manner::IfGone) {
                self.run_open(now, &key.door, other, Manner::IfGone, None);
            }
        }
        match self.grants.closed(id) {
            Some(prepared) if prepared.until <= now.monotonic => {
                let why = "its time was over before the door had closed";
                let failed = DoorEvent::Failed("not opened again", why);
                self.tell(now, &prepared.key, &prepared.origin, failed);
            }
            Some(prepared) => self.open_again(now, prepared),
            None => {}
        }
    }

    /// Closes everything that is open, and what is about to open as soon as it has.
    pub(super) fn close_all(&mut self, now: Now, cut: bool, by: OpenedBy) {
        let ids = self.grants.matching(|it| self.reaches(by, &it.key.door));
        if cut {
            self.cut_with(by, &ids, None);
        }
        self.end_all(now, &ids, Some(by), closed_by(by));
    }

    /// Closes what only commands can close, a part of it at each call; the kernel ends the rest by
    /// itself. How many grants there still are.
    pub(super) fn leave(&mut self, now: Now) -> usize {
        self.commands.only_close();
        // What opens, and has a close, is not waited for longer than others are.
        let opens = |id| matches!(self.jobs.get(&id), Some(Purpose::Open(..)));
        self.commands.limit(opens, COMMAND_LIMIT);
        for expired in self.grants.leave(AT_A_TIME) {
            self.end(now, expired, "closing, since knockd stops");
        }
        self.grants.len()
    }

    /// Whether a command has to run whatever comes: what an earlier keeper has left is to be closed.
    pub(super) fn has_commands_to_run(&self) -> bool {
        !self.jobs.is_empty() || self.grants.list().any(|it| it.backend.element().is_none())
    }

    /// Whether nothing waits for a command.
    pub(super) fn is_idle(&self) -> bool {
        self.grants.is_empty() && self.jobs.is_empty()
    }

    /// Lets go of the firewall: the guard stays or goes.
    ///
    /// # Errors
    /// When it cannot be taken away.
    pub(super) fn finish(self, on_exit: OnExit) -> Result<(), KernelSetsError> {
        self.journal.close();
        if on_exit == OnExit::Keep {
            return Ok(());
        }
        // Where there is no nf_tables there is no table either.
        let _ = firewall::cut::remove();
        self.sets.remove()
    }

    /// When [`poll`](Self::poll) has to be called next.
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        let deadlines = [
            self.grants.next_deadline(),
            self.commands.next_deadline(),
            self.alerts.runner.next_deadline(),
            Some(self.journal.next_tidy),
            self.sets.next_deadline(),
            self.sessions.next_look,
        ];
        deadlines.into_iter().flatten().min()
    }

    pub(super) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = self.commands.fds();
        fds.extend(self.sets.fds());
        fds.extend(self.sessions.fd());
        fds.extend(self.alerts.runner.fds());
        fds
    }
}

/// Why a grant ends that somebody has asked to end, other than its client.
const fn closed_by(by: OpenedBy) -> &'static str {
    if matches!(by, OpenedBy::Fleet) { "closed at another gateway" } else { "closed by hand" }
}

/// What the kernel has to hold, of these; what was opened or extended last comes last.
fn holding<'a>(grants: impl Iterator<Item = &'a Grant>, now: Monotonic) -> Vec<KernelGrant> {
    let mut grants: Vec<_> = grants.collect();
    grants.sort_unstable_by_key(|grant| grant.turn);
    let held = grants.into_iter().filter_map(|grant| grant.in_kernel(now));
    held.filter(|held| !held.left.is_zero()).collect()
}
