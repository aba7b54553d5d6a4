//! From a completed knock to an open door and back: grants, what opens them, the ledger, the log.

mod asking;
mod jobs;
mod takeover;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use tracing::{debug, error, warn};

use self::jobs::Purpose;

use super::alerts::Alerts;
use super::books::Books;
use super::sets::{Kept, Sets, SetsError};
use crate::config::{COMMAND_LIMIT, Name, OnExit};
use crate::control::{EventLine, What};
use crate::firewall::JobId;
use crate::firewall::command::Commands;
use crate::grants::{Expired, GrantId, GrantState, Grants, Listed, Manner, Opener, Place};
use crate::ledger::{Ahead, Event, Flush};
use crate::log::{self, limit::Limit};
use crate::sys::{clock, fault};
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
    /// Grants whose doors are not open though they should be, as far as is known.
    gone: HashSet<GrantId>,
    /// What no close command could close, as far as is known: it may still be open. Its record
    /// stays, so that the next start tries again; so does whoever opens it again.
    not_closed: BTreeMap<Place, (GrantId, Opener)>,
    /// What has happened since those who follow were told.
    told: Vec<EventLine>,
    /// How much is logged of each door.
    lines: HashMap<Name, Limit>,
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

/// How many are remembered that could not be closed.
const MOST_NOT_CLOSED: usize = 1000;
/// How many grants end before the keeper listens again: some ten milliseconds.
const AT_A_TIME: usize = 100;
/// How many lines about a door there may be at once, and how often one more.
const LINES: u32 = 1_000;
const LINE_EVERY: Duration = Duration::from_millis(50);

impl Doors {
    fn whose(&self, id: GrantId) -> Option<(Place, Opener)> {
        self.grants.whose(id).map(|(place, opener)| (place.clone(), opener.clone()))
    }

    fn is_open(&mut self, now: Now, place: &Place, opener: &Opener, how: &str) {
        debug!(source = %place.address, door = %place.door, "open");
        self.books.note(now, place, opener, Event::Open, how);
        let until = self.grants.open_until(place);
        let until = until.map(|until| now.wall + until.since(now.monotonic));
        self.alerts.opened(now, place, opener, until);
    }

    /// Closes a door that is open for an address, or strikes off that it could not be closed.
    /// False: it is not open.
    pub(super) fn close(&mut self, now: Now, door: &Name, address: IpAddr) -> bool {
        let ids = self.grants.of(|place, _| place.door == *door && place.address == address);
        self.end_all(now, &ids, "closed by hand");
        let place = Place::new(door.clone(), address);
        let struck = if ids.is_empty() { self.not_closed.remove(&place) } else { None };
        if let Some((id, _)) = &struck {
            self.books.forget(*id);
        }
        !ids.is_empty() || struck.is_some()
    }

    /// What may still be open, since it could not be closed, and who had opened it.
    pub(super) fn not_closed(&self) -> impl Iterator<Item = (&Place, &Opener)> {
        self.not_closed.iter().map(|(place, (_, opener))| (place, opener))
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
            if let Some(expired) = self.grants.close(id) {
                self.end(now, expired, why);
            }
        }
    }

    /// What is open, opening or closing.
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

    /// Whether one more thing about a door may be told: whoever makes thousands of grants does not
    /// fill the log.
    fn may_tell(&mut self, now: Now, door: &Name) -> bool {
        let limit = self.lines.entry(door.clone()).or_insert_with(|| Limit::new(LINES, LINE_EVERY));
        let passes = limit.pass(now.monotonic);
        if passes {
            let left_out = limit.take_refused();
            if left_out > 0 {
                warn!(door = %door, "so much happens here that {left_out} lines are left out");
            }
        }
        passes
    }

    /// Logs what has happened, for those who follow as well.
    pub(super) fn tell(&mut self, line: EventLine) {
        log::event(&line);
        self.told.push(line);
    }

    /// What has been told since the last call.
    pub(super) fn take_told(&mut self) -> Vec<EventLine> {
        std::mem::take(&mut self.told)
    }

    /// Takes note of commands that have ended, closes what is over, mends what others broke.
    pub(super) fn poll(&mut self, now: Now) {
        for finished in self.commands.poll(now.monotonic) {
            self.finished(now, &finished);
        }
        for expired in self.grants.expire_some(now.monotonic, AT_A_TIME) {
            let why = if expired.again { "closed, though not at once" } else { "command timeout" };
            self.end(now, expired, why);
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
        let Expired { id, place, close, delete, again } = expired;
        let Place { door, address, .. } = &place;
        if !again && self.may_tell(now, door) {
            self.tell(event_at(&place, What::Close, why));
        }
        fault::point("expired");
        if let Some(element) = delete {
            // At its deadline the kernel has done it already, or is about to.
            let grants = &self.grants;
            let others = || {
                let ids = grants.open_for(*address).filter(|&other| other != id);
                let kept = ids.filter_map(|id| kept_one(grants, id, now.monotonic));
                kept.filter(|kept| !kept.left.is_zero()).collect()
            };
            if let Err(why) = self.sets.close(&place, &element, others) {
                error!(source = %address, door = %door, "cannot be closed now: {why}");
            }
            self.is_closed(now, id, why);
            return;
        }
        if !again {
            self.books.advance(id, GrantState::Closing, Flush::Yes);
            fault::point("closing");
        }
        self.close_steps(now, door, id, close, why);
        fault::point("close started");
    }

    fn is_closed(&mut self, now: Now, id: GrantId, why: &str) {
        let Some((place, opener)) = self.whose(id) else { return };
        self.books.forget(id);
        self.not_closed.remove(&place);
        fault::point("closed");
        self.books.note(now, &place, &opener, Event::Close, why);
        debug!(source = %place.address, door = %place.door, "closed");
        self.alerts.closed(now, &place, &opener);
        self.has_ended(now, id, &place);
    }

    /// A grant is over, closed or not: others may need what it held.
    fn has_ended(&mut self, now: Now, id: GrantId, place: &Place) {
        self.gone.remove(&id);
        // Somebody has opened meanwhile what was closed here.
        for other in self.grants.also_held(id) {
            if self.grants.work_again(other, Manner::IfGone) {
                self.run_open(now, &place.door, other, Manner::IfGone, None);
            }
        }
        match self.grants.closed(id) {
            Some(asked) if asked.is_over(now.monotonic) => {
                let why = "its time was over before the door had closed";
                self.failed(now, asked.place(), asked.opener(), "not opened again", why);
            }
            Some(asked) => self.open_again(now, asked),
            None => {}
        }
    }

    /// Closes everything that is open, and what is about to open as soon as it has.
    pub(super) fn close_all(&mut self, now: Now) {
        let all = self.grants.of(|_, _| true);
        self.end_all(now, &all, "closed by hand");
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

    /// Whether nothing waits for a command.
    pub(super) fn is_idle(&self) -> bool {
        self.grants.is_empty() && self.jobs.is_empty()
    }

    /// Whether everybody who wants to know has been told what was opened and closed.
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

/// Something that happened at a door.
fn event_at(place: &Place, what: What, message: impl Into<String>) -> EventLine {
    let at = clock::now().wall;
    EventLine::new(at, Some(place.address), Some(&place.door), what, message)
}

/// What the kernel has to hold.
fn kept(grants: &Grants, now: Monotonic) -> Vec<Kept> {
    let list = grants.list().into_iter();
    let kept = list.filter_map(|listed| kept_one(grants, listed.id, now));
    kept.filter(|kept| !kept.left.is_zero()).collect()
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
