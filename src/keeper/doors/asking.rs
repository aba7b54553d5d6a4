//! From what is asked to what is done: recorded, then opened, extended, closed, or refused.

use std::net::IpAddr;

use tracing::info;

use super::{Answer, Doors, Purpose, event_at, kept_one};
use crate::control::{EventLine, What};
use crate::engine::Reason;
use crate::firewall::{JobKind, Task};
use crate::grants::{
    Asked, By, Change, Decision, Deed, GrantId, GrantState, Manner, Means, Opened, Opener, Place,
};
use crate::keeper::ask::Ask;
use crate::keeper::books::Outcome;
use crate::keeper::sets::{Kept, SetsError};
use crate::ledger::{Event, Flush};
use crate::sys::fault;
use crate::time::{Monotonic, Now};

/// To whoever asked by hand.
const NOT_RECORDED: &str = "it cannot be recorded, and knockd's log says why";

impl Doors {
    /// Does what has been asked for: opens a door, leaves it open longer, or closes it.
    ///
    /// # Errors
    /// Why it may not be done; for several addresses, why it may be done for none of them.
    pub(in crate::keeper) fn ask(&mut self, now: Now, ask: &Ask) -> Result<Answer, Reason> {
        if ask.close { self.close_as_asked(now, ask) } else { self.open_as_asked(now, ask) }
    }

    fn open_as_asked(&mut self, now: Now, ask: &Ask) -> Result<Answer, Reason> {
        // A watcher cannot make a grant last longer by dating its knock ahead.
        let since = ask.since.min(now.monotonic);
        let mut all_asked = Vec::with_capacity(ask.addresses.len());
        let mut refused = None;
        for &address in &ask.addresses {
            let jobs_fit = !self.commands.is_full(ask.door.name());
            let asked = Deed::of(&ask.door, &ask.wanted(address)).and_then(|deed| {
                self.grants.ask(since, ask.place(address), ask.opener.clone(), deed, jobs_fit)
            });
            match asked {
                Ok(asked) => all_asked.push(asked),
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
        fault::point("requested");
        // The record may follow where the kernel ends the grant by itself, its proof may not. Where
        // recording fails at the moment, nothing opens until it is known whether it can be.
        let record_first = !first.is_the_kernels() || self.books.ails();
        let changes: Vec<Change> = if record_first {
            all_asked.iter().filter_map(|asked| asked.change(now, self.books.boot())).collect()
        } else {
            Vec::new()
        };
        if !changes.is_empty() || ask.proof.is_some() {
            // What a command does may survive a power cut.
            let flush = if first.is_the_kernels() { ask.flush(now.wall) } else { Flush::Yes };
            match self.books.write(&changes, ask.proof.as_ref(), flush) {
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
            answer = self.take(now, asked, record_first, Completion::of(ask));
        }
        Ok(answer)
    }

    fn take(
        &mut self,
        now: Now,
        asked: Asked,
        is_recorded: bool,
        completion: Completion,
    ) -> Answer {
        let (place, opener) = (asked.place().clone(), asked.opener().clone());
        let change = if is_recorded { None } else { asked.change(now, self.books.boot()) };
        let decision = self.grants.take(asked);
        // Whoever waits for the kernel need not wait for the log.
        if !matches!(decision, Decision::Open(_, Means::Kernel(_))) {
            self.say_who_opens(now, &place, &opener, completion);
        }
        match decision {
            Decision::Open(id, Means::Commands(_)) => {
                let job = self.run_open(now, &place.door, id, Manner::Once, None);
                fault::point("started");
                Answer::UnderWay(job)
            }
            Decision::Open(id, Means::Kernel(_)) => {
                self.open_in_kernel(now, id, &place, &opener, change, completion)
            }
            Decision::Act(commands) => {
                if self.books.note(now, &place, &opener, Event::Act, "") {
                    let act = Purpose::Act(place.clone(), opener.clone());
                    let tasks = commands.into_iter().map(Task::from).collect();
                    Answer::UnderWay(self.submit(now, &place.door, act, JobKind::Open, tasks))
                } else {
                    self.not_recorded(now, &place, &opener)
                }
            }
            Decision::Extend(id, until, manner) => {
                // If it cannot be recorded the grant ends earlier after a crash.
                if let Some(change) = change {
                    let _heeded = self.books.write(&[change], None, Flush::No);
                }
                if let Some(manner) = manner {
                    let until = Some(until);
                    return Answer::UnderWay(self.run_open(now, &place.door, id, manner, until));
                }
                self.extend(now, id, until, &place, &opener);
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
        completion: Completion,
    ) -> Answer {
        let Some(kept) = kept_one(&self.grants, id, now.monotonic) else { return Answer::Done };
        if let Err(why) = self.let_in(now, &kept, true) {
            self.failed(now, place, opener, "not opened", &why.to_string());
            self.books.forget(id);
            let _nothing = self.grants.opened(id, Opened::NotStarted(0));
            return Answer::Failed("the kernel refused, and knockd's log says why");
        }
        fault::point("set");
        self.say_who_opens(now, place, opener, completion);
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
        self.is_open(now, place, opener, "");
        Answer::Done
    }

    /// Whether it was not let in before.
    fn let_in(&mut self, now: Now, kept: &Kept, is_new: bool) -> Result<bool, SetsError> {
        match self.sets.open(kept, is_new) {
            // Somebody has taken the table away: it comes back with this grant.
            Err(why) if kept.element.is_guards() && why.is_gap() => {
                let (grants, at) = (&self.grants, now.monotonic);
                self.sets.bring_back(at, || super::kept(grants, at))?;
                Ok(true)
            }
            result => result,
        }
    }

    fn extend(&mut self, now: Now, id: GrantId, until: Monotonic, place: &Place, opener: &Opener) {
        let kept = kept_one(&self.grants, id, now.monotonic);
        match kept.map_or(Ok(false), |kept| self.let_in(now, &kept, false)) {
            Ok(was_gone) => self.is_still_open(now, place, opener, was_gone, Some(until)),
            Err(why) => self.failed(now, place, opener, "cannot be extended", &why.to_string()),
        }
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
    pub(in crate::keeper) fn fail(&mut self, now: Now, ask: &Ask, why: &str) {
        for &address in &ask.addresses {
            self.failed(now, &ask.place(address), &ask.opener, "not opened", why);
        }
    }

    /// Notes that something may not be done, for every address that it was asked for.
    pub(in crate::keeper) fn refuse_all(&mut self, now: Now, ask: &Ask, reason: Reason) -> Reason {
        for &address in &ask.addresses {
            self.refuse(now, ask, address, reason);
        }
        reason
    }

    fn refuse(&mut self, now: Now, ask: &Ask, address: IpAddr, reason: Reason) {
        let place = ask.place(address);
        // At a door with a cooldown, whoever goes on knocking is told of once.
        if reason == Reason::Cooldown && !self.grants.refuses_first(&place.door) {
            return;
        }
        // A sequence that was completed is told of; what follows says what became of it.
        if !self.may_tell(now, &place.door) {
            return;
        }
        if matches!(ask.opener.by, By::Sequence | By::Knockctl) {
            let line = self.completed(&place, &ask.opener, Completion::of(ask), What::Complete);
            self.tell(line);
        }
        let line = event_at(&place, What::refused(reason), format!("not opened: {reason}"));
        self.tell(line.of_client(ask.opener.client.as_ref()).asked_by(ask.asked_by));
        self.books.note(now, &place, &ask.opener, Event::Refused, reason.as_str());
    }

    /// Notes in the history that a rotating sequence opened nothing; it has been logged.
    pub(in crate::keeper) fn note_refused(&mut self, now: Now, place: &Place, reason: Reason) {
        self.books.note(now, place, &By::Totp.into(), Event::Refused, reason.as_str());
    }

    fn not_recorded(&mut self, now: Now, place: &Place, opener: &Opener) -> Answer {
        self.tell(event_at(place, What::Failed, "not opened, since it cannot be recorded"));
        self.books.note(now, place, opener, Event::Failed, "cannot be recorded");
        Answer::Failed(NOT_RECORDED)
    }

    /// Opens a door again for which somebody knocked while it closed.
    pub(super) fn open_again(&mut self, now: Now, asked: Asked) {
        let place = asked.place().clone();
        let opener = asked.opener().clone();
        if let Some(change) = asked.change(now, self.books.boot()) {
            let flush = if asked.is_the_kernels() { Flush::No } else { Flush::Yes };
            if self.books.write(&[change], None, flush) != Outcome::Recorded {
                let _told = self.not_recorded(now, &place, &opener);
                return;
            }
        }
        let _told = self.take(now, asked, true, Completion::default());
    }

    fn say_who_opens(&mut self, now: Now, place: &Place, opener: &Opener, completion: Completion) {
        if self.may_tell(now, &place.door) {
            let line = self.completed(place, opener, completion, What::Open { knock: None });
            self.tell(line);
        }
    }

    /// Tells of the last stage, which until now nothing waited for the log to say; and what is to
    /// be said of whoever has completed it.
    fn completed(
        &mut self,
        place: &Place,
        opener: &Opener,
        completion: Completion,
        what: What,
    ) -> EventLine {
        if let Some(last) = completion.last_stage {
            self.tell(event_at(place, What::stage(last), format!("Stage {last}")));
        }
        let Opener { by, client } = opener;
        let message = if *by == By::Knockctl { "opened by hand" } else { "OPEN SESAME" };
        let line = event_at(place, what, message).of_client(client.as_ref());
        EventLine { by: Some(*by), ..line.asked_by(completion.asked_by) }
    }
}

/// What is told of a sequence or a request that is complete.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Completion {
    /// The stage that a sequence ended with.
    last_stage: Option<usize>,
    asked_by: Option<IpAddr>,
}

impl Completion {
    fn of(ask: &Ask) -> Self {
        Self { last_stage: ask.last_stage(), asked_by: ask.asked_by }
    }
}
