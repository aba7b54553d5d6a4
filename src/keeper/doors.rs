//! From a completed knock to an open door and back: grants, what opens them, the ledger, the log.

mod takeover;

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use tracing::{debug, error, info, warn};

use super::alerts::Alerts;
use super::ask::Ask;
use super::books::{Books, Outcome};
use super::sets::{Kept, Sets, SetsError};
use crate::config::{Name, OnExit, Rendered};
use crate::engine::Reason;
use crate::firewall::command::Commands;
use crate::firewall::{Finished, Job, JobId, OnFailure};
use crate::grants::{
    AfterOpen, Asked, By, Change, Closing, Decision, Deed, Expired, GrantId, GrantState, Grants,
    Listed, Means, Opened, Opener, Place,
};
use crate::ledger::{Event, Flush, Proof};
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

/// To whoever asked by hand.
const NOT_RECORDED: &str = "it cannot be recorded, and knockd's log says why";

impl Doors {
    fn whose(&self, id: GrantId) -> Option<(Place, Opener)> {
        self.grants.whose(id).map(|(place, opener)| (place.clone(), opener.clone()))
    }

    /// Does what has been asked for: opens a door, leaves it open longer, or closes it.
    ///
    /// # Errors
    /// Why it may not be done; for several addresses, why it may be done for none of them.
    pub(super) fn ask(&mut self, now: Now, ask: &Ask) -> Result<Answer, Reason> {
        if ask.close { self.close_as_asked(now, ask) } else { self.open_as_asked(now, ask) }
    }

    fn open_as_asked(&mut self, now: Now, ask: &Ask) -> Result<Answer, Reason> {
        // A watcher cannot make a grant last longer by dating its knock ahead.
        let since = ask.since.min(now.monotonic);
        let mut all_asked = Vec::with_capacity(ask.addresses.len());
        let mut refused = None;
        for &address in &ask.addresses {
            match Deed::of(&ask.door, &ask.wanted(address)) {
                Ok(deed) => {
                    let opener = ask.opener.clone();
                    all_asked.push(self.grants.ask(since, ask.place(address), opener, deed));
                }
                Err(reason) => {
                    self.refuse(now, ask, address, reason);
                    refused = Some(reason);
                }
            }
        }
        let Some(first) = all_asked.first() else {
            // It is over, whatever a later configuration would make of it.
            if let Some(proof) = &ask.proof {
                let _heeded = self.books.write(&[], Some(proof), Flush::No);
            }
            return refused.map_or(Ok(Answer::Done), Err);
        };
        // The record may follow where there is no proof to use up and the kernel ends the grant by
        // itself. Where recording fails at the moment, nothing opens until it is known whether it
        // can be.
        fault::point("requested");
        let record_first = ask.proof.is_some() || !first.is_the_kernels() || self.books.ails();
        if record_first {
            // What a command does may survive a power cut.
            let flush = match &ask.proof {
                Some(Proof::Later { .. }) | None if first.is_the_kernels() => Flush::No,
                _ => Flush::Yes,
            };
            let changes: Vec<Change> =
                all_asked.iter().filter_map(|asked| asked.change(now, self.books.boot())).collect();
            let outcome = if changes.is_empty() && ask.proof.is_none() {
                Outcome::Recorded
            } else {
                self.books.write(&changes, ask.proof.as_ref(), flush)
            };
            match outcome {
                Outcome::Recorded => fault::point("recorded"),
                Outcome::Used => return Err(self.refuse_all(now, ask, Reason::Used)),
                Outcome::Failed => {
                    for &address in &ask.addresses {
                        let _told = self.not_recorded(now, &ask.place(address), &ask.opener);
                    }
                    return Ok(Answer::Failed(NOT_RECORDED));
                }
            }
        }
        let mut answer = Answer::Done;
        for asked in all_asked {
            answer = self.take(now, asked, record_first);
        }
        Ok(answer)
    }

    fn take(&mut self, now: Now, asked: Asked, is_recorded: bool) -> Answer {
        let (place, opener) = (asked.place().clone(), asked.opener().clone());
        let change = if is_recorded { None } else { asked.change(now, self.books.boot()) };
        let decision = self.grants.take(asked);
        // Whoever waits for the kernel need not wait for the log.
        if !matches!(decision, Decision::Open(_, Means::Kernel(_))) {
            say_who_opens(&place, &opener);
        }
        match decision {
            Decision::Open(id, Means::Commands(steps)) => {
                let open = steps.into_iter().map(|step| step.open).collect();
                let job = self.submit(now, &place.door, Purpose::Open(id), open, OnFailure::Stop);
                fault::point("started");
                Answer::UnderWay(job)
            }
            Decision::Open(id, Means::Kernel(_)) => {
                self.open_in_kernel(now, id, &place, &opener, change)
            }
            Decision::Act(commands) => {
                if self.books.note(now, &place, &opener, Event::Act, "") {
                    let act = Purpose::Act(place.clone(), opener.clone());
                    let job = self.submit(now, &place.door, act, commands, OnFailure::Stop);
                    Answer::UnderWay(job)
                } else {
                    self.not_recorded(now, &place, &opener)
                }
            }
            Decision::Extend(id, until) => {
                self.extend(now, id, until, &place, &opener, change);
                Answer::Done
            }
            Decision::Wait => {
                info!(source = %place.address, door = %place.door,
                    "closing just now, opens again after that");
                Answer::Done
            }
        }
    }

    fn open_in_kernel(
        &mut self,
        now: Now,
        id: GrantId,
        place: &Place,
        opener: &Opener,
        change: Option<Change>,
    ) -> Answer {
        let Some(kept) = kept_one(&self.grants, id, now.monotonic) else { return Answer::Done };
        if let Err(why) = self.sets.open(&kept) {
            error!(source = %place.address, door = %place.door, event = "failed",
                "not opened: {why}");
            self.books.note(now, place, opener, Event::Failed, &why.to_string());
            self.books.forget(id);
            let _nothing = self.grants.opened(id, Opened::Failed { done: 0, doubtful: false });
            return Answer::Failed("the kernel refused, and knockd's log says why");
        }
        fault::point("set");
        say_who_opens(place, opener);
        let _open = self.grants.opened(id, Opened::All);
        // What was recorded first is known as starting; an element that the kernel holds is open.
        match change {
            None => self.books.advance(id, GrantState::Open, Flush::No),
            Some(_) => {
                let Some(record) = self.grants.record(id, now, self.books.boot()) else {
                    return Answer::Done;
                };
                let written = self.books.write(&[Change::Record(record)], None, Flush::No);
                if written != Outcome::Recorded {
                    let answer = self.not_recorded(now, place, opener);
                    self.end_all(now, &[id], "closed at once, since it cannot be recorded");
                    return answer;
                }
            }
        }
        fault::point("open");
        self.is_open(now, place, opener);
        Answer::Done
    }

    fn extend(
        &mut self,
        now: Now,
        id: GrantId,
        until: Monotonic,
        place: &Place,
        opener: &Opener,
        change: Option<Change>,
    ) {
        let seconds = until.since(now.monotonic).as_secs();
        let (address, door) = (place.address, &place.door);
        info!(source = %address, door = %door, event = "extend", seconds,
            "open already, now for another {seconds} s");
        if let Some(kept) = kept_one(&self.grants, id, now.monotonic)
            && let Err(why) = self.sets.extend(&kept)
        {
            error!(source = %address, door = %door, "cannot be extended: {why}");
        }
        // If it cannot be recorded the grant ends earlier after a crash.
        if let Some(change) = change {
            let _heeded = self.books.write(&[change], None, Flush::No);
        }
        self.books.note(now, place, opener, Event::Extend, &format!("{seconds} s"));
    }

    /// Closes what a request names, if what proves it is unused.
    fn close_as_asked(&mut self, now: Now, ask: &Ask) -> Result<Answer, Reason> {
        if let Some(proof) = &ask.proof {
            match self.books.write(&[], Some(proof), Flush::No) {
                // What cannot be recorded still closes.
                Outcome::Recorded | Outcome::Failed => {}
                Outcome::Used => return Err(self.refuse_all(now, ask, Reason::Used)),
            }
        }
        let ids = self.grants.of(|place, _| {
            place.door == *ask.door.name()
                && ask.addresses.contains(&place.address)
                && ask.source_port.is_none_or(|port| place.source_port == Some(port))
        });
        self.end_all(now, &ids, "closed as asked");
        Ok(Answer::Done)
    }

    /// Notes that something could not be done, for every address that it was asked for.
    pub(super) fn fail(&mut self, now: Now, ask: &Ask, why: &str) {
        for &address in &ask.addresses {
            let place = ask.place(address);
            error!(source = %address, door = %place.door, event = "failed", "not opened: {why}");
            self.books.note(now, &place, &ask.opener, Event::Failed, why);
        }
    }

    /// Notes that something may not be done, for every address that it was asked for.
    pub(super) fn refuse_all(&mut self, now: Now, ask: &Ask, reason: Reason) -> Reason {
        for &address in &ask.addresses {
            self.refuse(now, ask, address, reason);
        }
        reason
    }

    fn refuse(&mut self, now: Now, ask: &Ask, address: IpAddr, reason: Reason) {
        let place = ask.place(address);
        // A sequence that was completed is told of; what follows says what became of it.
        if matches!(ask.opener.by, By::Sequence | By::Knockctl) {
            say_who_opens(&place, &ask.opener);
        }
        let client = ask.opener.client.as_ref().map(Name::as_str);
        warn!(source = %address, door = %place.door, client, event = "refused",
            reason = reason.as_str(), "not opened: {reason}");
        self.books.note(now, &place, &ask.opener, Event::Refused, reason.as_str());
    }

    /// Notes in the history that a rotating sequence opened nothing; it has been logged.
    pub(super) fn note_refused(&mut self, now: Now, place: &Place, reason: Reason) {
        self.books.note(now, place, &By::Totp.into(), Event::Refused, reason.as_str());
    }

    fn not_recorded(&mut self, now: Now, place: &Place, opener: &Opener) -> Answer {
        error!(source = %place.address, door = %place.door, event = "failed",
            "not opened, since it cannot be recorded");
        self.books.note(now, place, opener, Event::Failed, "cannot be recorded");
        Answer::Failed(NOT_RECORDED)
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

    /// Opens a door again for which somebody knocked while it closed.
    fn open_again(&mut self, now: Now, asked: Asked) {
        let place = asked.place().clone();
        let opener = asked.opener().clone();
        if let Some(change) = asked.change(now, self.books.boot()) {
            let flush = if asked.is_the_kernels() { Flush::No } else { Flush::Yes };
            if self.books.write(&[change], None, flush) != Outcome::Recorded {
                let _told = self.not_recorded(now, &place, &opener);
                return;
            }
        }
        let _told = self.take(now, asked, true);
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

fn say_who_opens(place: &Place, opener: &Opener) {
    let Opener { by, client } = opener;
    let what = match by {
        By::Knockctl => "opened by hand",
        By::Sequence | By::OneTimeSequence | By::Totp | By::Spa | By::Fwknop => "OPEN SESAME",
    };
    let client = client.as_ref().map(Name::as_str);
    info!(source = %place.address, door = %place.door, event = "open", by = by.as_str(), client,
        "{what}");
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
