//! Claims carried out: recorded, then opened, extended, closed, or refused.

use tracing::info;

use super::{ClaimOutcome, DoorEvent, Doors, Purpose, holding};
use crate::engine::Reason;
use crate::firewall::command::{CommandTask, JobKind};
use crate::firewall::guard::{self, Disturbance};
use crate::grants::{
    Action, Decision, GrantBackend, GrantChange, GrantId, GrantKey, GrantState, KernelElement,
    KernelGrant, Manner, OpenResult, Origin, PreparedGrant,
};
use crate::keeper::claim::Claim;
use crate::keeper::kernel_sets::KernelSetsError;
use crate::keeper::metrics::REQUESTS;
use crate::ledger::{Durability, Written};
use crate::proto::{Method, Network};
use crate::sys::fault;
use crate::time::{Monotonic, Now};

/// To whoever asked by hand.
const NOT_RECORDED: &str = "it cannot be recorded, and knockd's log says why";

impl Doors {
    /// Does what has been asked for: opens a door, leaves it open longer, or closes it.
    ///
    /// # Errors
    /// Why it may not be done; for several networks, why it may be done for none of them.
    pub(in crate::keeper) fn carry_out(
        &mut self,
        now: Now,
        claim: &Claim,
    ) -> Result<ClaimOutcome, Reason> {
        if claim.close {
            return self.close_as_asked(now, claim);
        }
        // A watcher cannot make a grant last longer by dating its knock ahead.
        let since = claim.since.min(now.monotonic);
        let mut prepared = Vec::with_capacity(claim.networks.len());
        let mut refused = None;
        for &network in &claim.networks {
            let jobs_fit = !self.commands.is_full(claim.door.name());
            let (key, origin) = (claim.key(network), claim.origin.clone());
            let grant = Action::of(&claim.door, &key, origin.client.as_ref(), claim.open_for)
                .and_then(|action| self.grants.prepare(since, key, origin, action, jobs_fit));
            match grant {
                Ok(grant) => prepared.push(grant),
                Err(reason) => {
                    self.refuse(now, claim, network, reason);
                    refused = Some(reason);
                }
            }
        }
        let Some(first) = prepared.first() else {
            // It is over, whatever a later configuration would make of it.
            if let Some(proof) = &claim.proof {
                let _logged = self.journal.write(&[], Some(proof), Durability::Crash);
            }
            return refused.map_or(Ok(ClaimOutcome::Done), Err);
        };
        fault::point("requested");
        // The record may follow where the kernel ends the grant by itself, its proof may not. Where
        // recording fails at the moment, nothing opens until it is known whether it can be.
        let record_first = !first.is_the_kernels() || self.journal.is_failing;
        let recorded = prepared.iter().filter(|_| record_first);
        let changes: Vec<GrantChange> =
            recorded.filter_map(|it| it.change(now, self.journal.boot)).collect();
        if !changes.is_empty() || claim.proof.is_some() {
            // What a command does may survive a power cut.
            let durability = match first.is_the_kernels() {
                true => claim.durability(now.wall),
                false => Durability::PowerLoss,
            };
            match self.journal.write(&changes, claim.proof.as_ref(), durability) {
                Some(Written::New) => fault::point("recorded"),
                Some(Written::Used) => return Err(self.refuse_all(now, claim, Reason::Used)),
                None => {
                    self.tell_all(now, claim, DoorEvent::NotRecorded);
                    return Ok(ClaimOutcome::Failed(NOT_RECORDED));
                }
            }
        }
        let mut outcome = ClaimOutcome::Done;
        for grant in prepared {
            outcome = self.apply(now, grant, record_first, Some(claim));
        }
        Ok(outcome)
    }

    fn apply(
        &mut self,
        now: Now,
        prepared: PreparedGrant,
        is_recorded: bool,
        claim: Option<&Claim>,
    ) -> ClaimOutcome {
        let (key, origin) = (prepared.key.clone(), prepared.origin.clone());
        let change = if is_recorded { None } else { prepared.change(now, self.journal.boot) };
        let decision = self.grants.apply(prepared);
        // Whoever waits for the door to open connects at once.
        if self.grants.is_holding() {
            self.sessions.listen();
        }
        // Whoever waits for the kernel need not wait for the log.
        if !matches!(decision, Decision::Open(_, GrantBackend::Kernel(_))) {
            self.tell(now, &key, &origin, DoorEvent::Asked(claim));
        }
        match decision {
            Decision::Open(id, GrantBackend::Commands(_)) => {
                let job = self.run_open(now, &key.door, id, Manner::Once, None);
                fault::point("started");
                ClaimOutcome::UnderWay(job)
            }
            Decision::Open(id, GrantBackend::Kernel(_)) => {
                self.open_in_kernel(now, id, &key, &origin, change, claim)
            }
            Decision::Act(commands) => {
                if !self.tell(now, &key, &origin, DoorEvent::Act) {
                    return self.not_recorded(now, &key, &origin);
                }
                let door = key.door.clone();
                let tasks = commands.into_iter().map(CommandTask::from).collect();
                let act = Purpose::Act(key, origin);
                ClaimOutcome::UnderWay(self.submit(now, &door, act, JobKind::Open, tasks))
            }
            Decision::Extend(id, until, manner) => {
                // If it cannot be recorded the grant ends earlier after a crash.
                if let Some(change) = change {
                    let _logged = self.journal.record(change, Durability::Crash);
                }
                if let Some(manner) = manner {
                    let job = self.run_open(now, &key.door, id, manner, Some(until));
                    return ClaimOutcome::UnderWay(job);
                }
                self.extend(now, id, until, &key, &origin);
                self.displace(now, id, &key);
                ClaimOutcome::Done
            }
            Decision::Wait => {
                info!(source = %key.network, door = %key.door,
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
        claim: Option<&Claim>,
    ) -> ClaimOutcome {
        let Some(kept) = self.in_kernel(now, id) else {
            return ClaimOutcome::Done;
        };
        if let Err(why) = self.let_in(now, &kept, true) {
            self.tell(now, key, origin, DoorEvent::Failed("not opened", &why.to_string()));
            self.journal.forget(id);
            let _nothing = self.grants.opened(id, OpenResult::NotStarted(0));
            return ClaimOutcome::Failed("the kernel refused, and knockd's log says why");
        }
        fault::point("set");
        self.tell(now, key, origin, DoorEvent::Asked(claim));
        let _open = self.grants.opened(id, OpenResult::All);
        // What was recorded first is known as starting; an element that the kernel holds is open.
        if change.is_none() {
            self.journal.advance(id, GrantState::Open, Durability::Crash);
        } else if let Some(grant) = self.grants.get(id)
            && let record = grant.record(now, self.journal.boot)
            && !self.journal.record(GrantChange::Record(record), Durability::Crash)
        {
            let outcome = self.not_recorded(now, key, origin);
            self.end_all(now, &[id], None, "closed at once, since it cannot be recorded");
            return outcome;
        }
        fault::point("open");
        self.tell(now, key, origin, DoorEvent::Open(""));
        self.displace(now, id, key);
        ClaimOutcome::Done
    }

    pub(super) fn in_kernel(&self, now: Now, id: GrantId) -> Option<KernelGrant> {
        self.grants.get(id)?.in_kernel(now.monotonic)
    }

    /// Whether it was not let in before.
    fn let_in(
        &mut self,
        now: Now,
        kept: &KernelGrant,
        is_new: bool,
    ) -> Result<bool, KernelSetsError> {
        match self.sets.open(kept, is_new) {
            // Somebody has taken the table away, or it has no set for networks as wide as this one:
            // it comes back with this grant.
            Err(why) if kept.element == KernelElement::Guard && why.is_gap() => {
                let (grants, at) = (&self.grants, now.monotonic);
                let what =
                    if guard::is_standing() { Disturbance::Outgrown } else { Disturbance::Gone };
                self.sets.mend(at, Some(what), || holding(grants.list(), at))?;
                Ok(true)
            }
            result => result,
        }
    }

    fn extend(&mut self, now: Now, id: GrantId, until: Monotonic, key: &GrantKey, origin: &Origin) {
        let kept = self.in_kernel(now, id);
        match kept.map_or(Ok(false), |kept| self.let_in(now, &kept, false)) {
            Ok(was_gone) => {
                self.tell(now, key, origin, DoorEvent::Extended { was_gone, until: Some(until) });
            }
            Err(why) => {
                let why = why.to_string();
                self.tell(now, key, origin, DoorEvent::Failed("cannot be extended", &why));
            }
        }
    }

    /// Closes what a request names, whatever has an address of it, if what proves it is unused.
    fn close_as_asked(&mut self, now: Now, claim: &Claim) -> Result<ClaimOutcome, Reason> {
        if let Some(proof) = &claim.proof {
            match self.journal.write(&[], Some(proof), Durability::Crash) {
                // What cannot be recorded still closes.
                Some(Written::New) | None => {}
                Some(Written::Used) => return Err(self.refuse_all(now, claim, Reason::Used)),
            }
        }
        let asked: Vec<_> = claim.networks.iter().map(|network| claim.key(*network)).collect();
        let ids = self.grants.matching(|it| asked.iter().any(|asked| it.key.is_meant_by(asked)));
        self.end_all(now, &ids, Some(claim.origin.by), "closed as asked");
        self.metrics.add(REQUESTS, &[claim.door.name(), &claim.origin.by, &"closed"], 1);
        Ok(ClaimOutcome::Done)
    }

    /// Tells that something could not be done, for every network that it was asked for.
    pub(in crate::keeper) fn fail(&mut self, now: Now, claim: &Claim, why: &str) {
        self.tell_all(now, claim, DoorEvent::Failed("not opened", why));
    }

    /// Tells that something may not be done, for every network that it was asked for.
    pub(in crate::keeper) fn refuse_all(
        &mut self,
        now: Now,
        claim: &Claim,
        reason: Reason,
    ) -> Reason {
        claim.networks.iter().for_each(|&network| self.refuse(now, claim, network, reason));
        reason
    }

    /// Refuses what the fleet's store has decided about; why. What proves it is used up here too.
    pub(in crate::keeper) fn refuse_used(
        &mut self,
        now: Now,
        claim: &Claim,
        reason: Reason,
    ) -> Reason {
        let is_used = reason == Reason::UsedElsewhere;
        let proof = claim.proof.as_ref().filter(|_| is_used);
        let written =
            proof.and_then(|proof| self.journal.write(&[], Some(proof), Durability::Crash));
        let was_here = written == Some(Written::Used);
        self.refuse_all(now, claim, if was_here { Reason::Used } else { reason })
    }

    fn refuse(&mut self, now: Now, claim: &Claim, network: Network, reason: Reason) {
        let key = claim.key(network);
        // At a door with a cooldown, whoever goes on knocking is told of once.
        if reason != Reason::Cooldown || self.grants.refuses_first(&key.door) {
            self.tell(now, &key, &claim.origin, DoorEvent::Refused(reason, claim));
        }
    }

    /// Notes in the history that a rotating sequence opened nothing; it has been logged.
    pub(in crate::keeper) fn note_refused(&mut self, now: Now, key: &GrantKey, reason: Reason) {
        self.tell(now, key, &Method::Totp.into(), DoorEvent::Spent(reason));
    }

    fn tell_all(&mut self, now: Now, claim: &Claim, what: DoorEvent<'_>) {
        for &network in &claim.networks {
            self.tell(now, &claim.key(network), &claim.origin, what);
        }
    }

    fn not_recorded(&mut self, now: Now, key: &GrantKey, origin: &Origin) -> ClaimOutcome {
        self.tell(now, key, origin, DoorEvent::NotRecorded);
        ClaimOutcome::Failed(NOT_RECORDED)
    }

    /// Opens a door again for which somebody knocked while it closed.
    pub(super) fn open_again(&mut self, now: Now, prepared: PreparedGrant) {
        if let Some(change) = prepared.change(now, self.journal.boot) {
            let durability = match prepared.is_the_kernels() {
                true => Durability::Crash,
                false => Durability::PowerLoss,
            };
            if !self.journal.record(change, durability) {
                self.tell(now, &prepared.key, &prepared.origin, DoorEvent::NotRecorded);
                return;
            }
        }
        let _told = self.apply(now, prepared, true, None);
    }
}
