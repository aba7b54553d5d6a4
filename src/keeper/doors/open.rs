//! From what is asked to what is done: recorded, then opened, extended, closed, or refused.

use std::net::IpAddr;

use tracing::info;

use super::{ClaimOutcome, Doors, Purpose, event_at, kept_one};
use crate::config::Name;
use crate::engine::Reason;
use crate::firewall::{JobKind, Task};
use crate::grants::{
    Action, Decision, GrantBackend, GrantChange, GrantId, GrantKey, GrantState, KernelGrant,
    Manner, OpenResult, OpenedBy, Origin, PreparedGrant,
};
use crate::keeper::claim::Claim;
use crate::keeper::journal::WriteOutcome;
use crate::keeper::kernel_sets::KernelSetsError;
use crate::ledger::{Durability, HistoryEvent};
use crate::proto::method::Method;
use crate::sys::fault;
use crate::time::{Monotonic, Now};

/// To whoever asked by hand.
const NOT_RECORDED: &str = "it cannot be recorded, and knockd's log says why";

impl Doors {
    /// Does what has been asked for: opens a door, leaves it open longer, or closes it.
    ///
    /// # Errors
    /// Why it may not be done; for several addresses, why it may be done for none of them.
    pub(in crate::keeper) fn carry_out(
        &mut self,
        now: Now,
        claim: &Claim,
    ) -> Result<ClaimOutcome, Reason> {
        if claim.close { self.close_as_asked(now, claim) } else { self.open_as_asked(now, claim) }
    }

    fn open_as_asked(&mut self, now: Now, claim: &Claim) -> Result<ClaimOutcome, Reason> {
        // A watcher cannot make a grant last longer by dating its knock ahead.
        let since = claim.since.min(now.monotonic);
        let mut all_asked = Vec::with_capacity(claim.addresses.len());
        let mut refused = None;
        for &address in &claim.addresses {
            let jobs_fit = !self.commands.is_full(claim.door.name());
            let asked = Action::of(&claim.door, &claim.target(address)).and_then(|action| {
                self.grants.prepare(
                    since,
                    claim.key(address),
                    claim.origin.clone(),
                    action,
                    jobs_fit,
                )
            });
            match asked {
                Ok(asked) => all_asked.push(asked),
                Err(reason) => {
                    self.refuse(now, claim, address, reason);
                    refused = Some(reason);
                }
            }
        }
        let Some(first) = all_asked.first() else {
            // It is over, whatever a later configuration would make of it.
            if let Some(proof) = &claim.proof {
                let _heeded = self.journal.write(&[], Some(proof), Durability::Crash);
            }
            return refused.map_or(Ok(ClaimOutcome::Done), Err);
        };
        fault::point("requested");
        // The record may follow where the kernel ends the grant by itself, its proof may not. Where
        // recording fails at the moment, nothing opens until it is known whether it can be.
        let record_first = !first.is_the_kernels() || self.journal.is_failing();
        let changes: Vec<GrantChange> = if record_first {
            all_asked.iter().filter_map(|asked| asked.change(now, self.journal.boot())).collect()
        } else {
            Vec::new()
        };
        if !changes.is_empty() || claim.proof.is_some() {
            // What a command does may survive a power cut.
            let flush =
                if first.is_the_kernels() { claim.flush(now.wall) } else { Durability::PowerLoss };
            match self.journal.write(&changes, claim.proof.as_ref(), flush) {
                WriteOutcome::Recorded => fault::point("recorded"),
                WriteOutcome::Used => return Err(self.refuse_all(now, claim, Reason::Used)),
                WriteOutcome::Failed => {
                    for &address in &claim.addresses {
                        let _told = self.not_recorded(now, &claim.key(address), &claim.origin);
                    }
                    return Ok(ClaimOutcome::Failed(NOT_RECORDED));
                }
            }
        }
        let mut answer = ClaimOutcome::Done;
        for asked in all_asked {
            answer = self.take(now, asked, record_first, claim.last_stage());
        }
        Ok(answer)
    }

    fn take(
        &mut self,
        now: Now,
        asked: PreparedGrant,
        is_recorded: bool,
        last: Option<usize>,
    ) -> ClaimOutcome {
        let (key, origin) = (asked.key().clone(), asked.origin().clone());
        let change = if is_recorded { None } else { asked.change(now, self.journal.boot()) };
        let decision = self.grants.apply(asked);
        // Whoever waits for the kernel need not wait for the log.
        if !matches!(decision, Decision::Open(_, GrantBackend::Kernel(_))) {
            self.say_who_opens(now, &key, &origin, last);
        }
        match decision {
            Decision::Open(id, GrantBackend::Commands(_)) => {
                let job = self.run_open(now, &key.door, id, Manner::Once, None);
                fault::point("started");
                ClaimOutcome::UnderWay(job)
            }
            Decision::Open(id, GrantBackend::Kernel(_)) => {
                self.open_in_kernel(now, id, &key, &origin, change, last)
            }
            Decision::Act(commands) => {
                if self.journal.record_history(now, &key, &origin, HistoryEvent::Act, "") {
                    let act = Purpose::Act(key.clone(), origin.clone());
                    let tasks = commands.into_iter().map(Task::from).collect();
                    ClaimOutcome::UnderWay(self.submit(now, &key.door, act, JobKind::Open, tasks))
                } else {
                    self.not_recorded(now, &key, &origin)
                }
            }
            Decision::Extend(id, until, manner) => {
                // If it cannot be recorded the grant ends earlier after a crash.
                if let Some(change) = change {
                    let _heeded = self.journal.write(&[change], None, Durability::Crash);
                }
                if let Some(manner) = manner {
                    let until = Some(until);
                    return ClaimOutcome::UnderWay(
                        self.run_open(now, &key.door, id, manner, until),
                    );
                }
                self.extend(now, id, until, &key, &origin);
                ClaimOutcome::Done
            }
            Decision::Wait => {
                info!(source = %key.address, door = %key.door,
                    "closing just now, opens again after that");
                ClaimOutcome::Done
            }
        }
    }

    fn open_in_kernel(
        &mut self,
        now: Now,
        id: GrantId,
        key: &GrantKey,
        origin: &Origin,
        change: Option<GrantChange>,
        last: Option<usize>,
    ) -> ClaimOutcome {
        let Some(kept) = kept_one(&self.grants, id, now.monotonic) else {
            return ClaimOutcome::Done;
        };
        if let Err(why) = self.let_in(now, &kept, true) {
            self.failed(now, key, origin, "not opened", &why.to_string());
            self.journal.forget(id);
            let _nothing = self.grants.opened(id, OpenResult::NotStarted(0));
            return ClaimOutcome::Failed("the kernel refused, and knockd's log says why");
        }
        fault::point("set");
        self.say_who_opens(now, key, origin, last);
        let _open = self.grants.opened(id, OpenResult::All);
        // What was recorded first is known as starting; an element that the kernel holds is open.
        match change {
            None => self.journal.advance(id, GrantState::Open, Durability::Crash),
            Some(_) => {
                let Some(record) = self.grants.record(id, now, self.journal.boot()) else {
                    return ClaimOutcome::Done;
                };
                let written =
                    self.journal.write(&[GrantChange::Record(record)], None, Durability::Crash);
                if written != WriteOutcome::Recorded {
                    let answer = self.not_recorded(now, key, origin);
                    self.end_all(now, &[id], "closed at once, since it cannot be recorded");
                    return answer;
                }
            }
        }
        fault::point("open");
        self.is_open(now, key, origin, "");
        ClaimOutcome::Done
    }

    /// Whether it was not let in before.
    fn let_in(
        &mut self,
        now: Now,
        kept: &KernelGrant,
        is_new: bool,
    ) -> Result<bool, KernelSetsError> {
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

    fn extend(&mut self, now: Now, id: GrantId, until: Monotonic, key: &GrantKey, origin: &Origin) {
        let kept = kept_one(&self.grants, id, now.monotonic);
        match kept.map_or(Ok(false), |kept| self.let_in(now, &kept, false)) {
            Ok(was_gone) => self.is_still_open(now, key, origin, was_gone, Some(until)),
            Err(why) => self.failed(now, key, origin, "cannot be extended", &why.to_string()),
        }
    }

    /// Closes what a request names, if what proves it is unused.
    fn close_as_asked(&mut self, now: Now, claim: &Claim) -> Result<ClaimOutcome, Reason> {
        if let Some(proof) = &claim.proof {
            match self.journal.write(&[], Some(proof), Durability::Crash) {
                // What cannot be recorded still closes.
                WriteOutcome::Recorded | WriteOutcome::Failed => {}
                WriteOutcome::Used => return Err(self.refuse_all(now, claim, Reason::Used)),
            }
        }
        let ids = self.grants.matching(|key, _| {
            key.door == *claim.door.name()
                && claim.addresses.contains(&key.address)
                && claim.source_port.is_none_or(|port| key.source_port == Some(port))
        });
        self.end_all(now, &ids, "closed as asked");
        Ok(ClaimOutcome::Done)
    }

    /// Notes that something could not be done, for every address that it was asked for.
    pub(in crate::keeper) fn fail(&mut self, now: Now, claim: &Claim, why: &str) {
        for &address in &claim.addresses {
            self.failed(now, &claim.key(address), &claim.origin, "not opened", why);
        }
    }

    /// Notes that something may not be done, for every address that it was asked for.
    pub(in crate::keeper) fn refuse_all(
        &mut self,
        now: Now,
        claim: &Claim,
        reason: Reason,
    ) -> Reason {
        for &address in &claim.addresses {
            self.refuse(now, claim, address, reason);
        }
        reason
    }

    fn refuse(&mut self, now: Now, claim: &Claim, address: IpAddr, reason: Reason) {
        let key = claim.key(address);
        // At a door with a cooldown, whoever goes on knocking is told of once.
        if reason == Reason::Cooldown && !self.grants.refuses_first(&key.door) {
            return;
        }
        // A sequence that was completed is told of; what follows says what became of it.
        if !self.may_tell(now, &key.door) {
            return;
        }
        if matches!(claim.origin.by, OpenedBy::Method(Method::Sequence) | OpenedBy::Knockctl) {
            self.say_who_opens(now, &key, &claim.origin, claim.last_stage());
        }
        let line = event_at(&key, "refused", format!("not opened: {reason}"))
            .with("client", claim.origin.client.as_ref().map(Name::as_str))
            .with("reason", reason.as_str());
        self.tell(line);
        self.journal.record_history(
            now,
            &key,
            &claim.origin,
            HistoryEvent::Refused,
            reason.as_str(),
        );
    }

    /// Notes in the history that a rotating sequence opened nothing; it has been logged.
    pub(in crate::keeper) fn note_refused(&mut self, now: Now, key: &GrantKey, reason: Reason) {
        self.journal.record_history(
            now,
            key,
            &Method::Totp.into(),
            HistoryEvent::Refused,
            reason.as_str(),
        );
    }

    fn not_recorded(&mut self, now: Now, key: &GrantKey, origin: &Origin) -> ClaimOutcome {
        self.tell(event_at(key, "failed", "not opened, since it cannot be recorded"));
        self.journal.record_history(now, key, origin, HistoryEvent::Failed, "cannot be recorded");
        ClaimOutcome::Failed(NOT_RECORDED)
    }

    /// Opens a door again for which somebody knocked while it closed.
    pub(super) fn open_again(&mut self, now: Now, asked: PreparedGrant) {
        let key = asked.key().clone();
        let origin = asked.origin().clone();
        if let Some(change) = asked.change(now, self.journal.boot()) {
            let flush =
                if asked.is_the_kernels() { Durability::Crash } else { Durability::PowerLoss };
            if self.journal.write(&[change], None, flush) != WriteOutcome::Recorded {
                let _told = self.not_recorded(now, &key, &origin);
                return;
            }
        }
        let _told = self.take(now, asked, true, None);
    }

    /// `last` is the stage that a sequence ended with, which is told here: until now nothing waited
    /// for the log.
    fn say_who_opens(&mut self, now: Now, key: &GrantKey, origin: &Origin, last: Option<usize>) {
        if !self.may_tell(now, &key.door) {
            return;
        }
        if let Some(last) = last {
            self.tell(event_at(key, "stage", format!("Stage {last}")).with("stage", last));
        }
        let Origin { by, client } = origin;
        let what = if *by == OpenedBy::Knockctl { "opened by hand" } else { "OPEN SESAME" };
        let line = event_at(key, "open", what).with("by", by.as_str());
        self.tell(line.with("client", client.as_ref().map(Name::as_str)));
    }
}
