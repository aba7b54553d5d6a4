//! A door's sequences that rotate with time: which of them hold now, and whose they are.
//!
//! Each step has an index of its own. It is prepared before it counts, a slice at a time, so that
//! the step turns without anybody waiting.

mod recent_knocks;
mod search;
mod step;

use std::collections::VecDeque;
use std::ops::{ControlFlow, RangeInclusive};
use std::time::Duration;

use super::{ClientId, Reason, is_over};
use crate::proto::Knock;
use crate::proto::totp::{Scheme, TotpKey};
use crate::time::{Monotonic, Now, Wall};
use step::Step;

pub(super) use recent_knocks::RecentKnocks;
pub use search::SEARCHED;
pub(super) use search::Searches;

/// How many steps are kept after they ran out, at most, for sequences that began before.
const RETIRED: u64 = 64;

/// A client's secret for a door.
#[derive(Debug)]
pub(super) struct SecretHolder {
    pub(super) client: ClientId,
    pub(super) key: TotpKey,
    /// From then on the secret opens nothing.
    pub(super) until: Option<Wall>,
}

/// A door's sequences, of all who may open it, in the steps around now.
#[derive(Debug)]
pub(super) struct DoorRotation {
    pub(super) scheme: Scheme,
    door: String,
    timeout: Duration,
    holders: Vec<SecretHolder>,
    /// Consecutive. Only the last may be unfinished.
    steps: VecDeque<Step>,
}

/// The extent to which the latest knocks of a source match a sequence.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Matched {
    /// They are all of a sequence.
    Complete(CompleteMatch),
    /// They end with the beginning of one, which may be empty.
    Partial(Stage),
}

/// A whole sequence that was knocked: whose it is, and whether it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CompleteMatch {
    pub(super) client: ClientId,
    pub(super) step: u64,
    key: u64,
    /// When its first knock came.
    pub(super) began: Monotonic,
    /// Why it opens nothing: it did, once, or its secret has run out.
    pub(super) refused: Option<Reason>,
}

/// A stage: how many knocks form the beginning of a sequence, and when the first of them came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stage {
    pub(super) knocks: u8,
    pub(super) began: Monotonic,
}

impl DoorRotation {
    /// The sequences with which `holders` open a door, all within `timeout`.
    pub(super) fn new(
        scheme: Scheme,
        door: &str,
        timeout: Duration,
        holders: Vec<SecretHolder>,
    ) -> Self {
        Self { scheme, door: door.to_owned(), timeout, holders, steps: VecDeque::new() }
    }

    /// The steps to have ready: those that hold, the one after, and those that held when a sequence
    /// began that can still be completed.
    fn wanted(&self, now: Wall) -> RangeInclusive<u64> {
        let window = self.scheme.window(now);
        let retired = self.scheme.window(now - self.timeout);
        let first = (*retired.start()).max(window.start().saturating_sub(RETIRED));
        first..=window.end().saturating_add(1)
    }

    /// Whether all that holds now is there to be matched.
    pub(super) fn is_ready(&self, now: Wall) -> bool {
        let window = self.scheme.window(now);
        self.steps.front().is_some_and(|first| first.number <= *window.start())
            && self.last_finished() >= Some(*window.end())
    }

    fn last_finished(&self) -> Option<u64> {
        let mut latest_first = self.steps.iter().rev();
        latest_first.find(|step| step.is_finished(&self.holders)).map(|step| step.number)
    }

    /// Makes ready what holds now, however long that takes.
    pub(super) fn make_ready(&mut self, now: Wall) {
        if !self.is_ready(now) {
            self.prepare(now, &mut { usize::MAX });
        }
    }

    /// How long until there is something to prepare.
    pub(super) fn idle(&self, now: Wall) -> Duration {
        if self.is_ready(now) && self.last_finished() >= Some(*self.wanted(now).end()) {
            self.scheme.turns_at(self.scheme.step_at(now)).since(now)
        } else {
            Duration::ZERO
        }
    }

    /// Prepares what is missing, for as much of `work` as there is; takes what it used off it. A
    /// unit of work is about one HMAC.
    pub(super) fn prepare(&mut self, now: Wall, work: &mut usize) {
        let (window, wanted) = (self.scheme.window(now), self.wanted(now));
        while self.steps.pop_front_if(|step| step.number < *wanted.start()).is_some() {}
        while self.steps.pop_back_if(|step| step.number > *wanted.end()).is_some() {}
        // There is nothing yet, or the clock was set back.
        if self.steps.front().is_none_or(|first| first.number > *window.start()) {
            self.steps.clear();
            self.steps.push_back(Step::new(*wanted.start(), &self.scheme, &self.holders));
        }
        while let Some(last) = self.steps.back_mut() {
            last.prepare(&self.scheme, &self.door, &self.holders, work);
            if !last.is_finished(&self.holders) || last.number >= *wanted.end() || *work == 0 {
                return;
            }
            let next = last.number + 1;
            self.steps.push_back(Step::new(next, &self.scheme, &self.holders));
        }
    }

    /// How far the latest knocks of a source match a sequence.
    ///
    /// A sequence counts if its step holds now, or held when its first knock came.
    pub(super) fn recognise(&self, recent: &RecentKnocks, now: Now) -> Matched {
        let length = self.scheme.length();
        let mut outcome = Matched::Partial(Stage::default());
        let _ = recent.candidates(length, &mut |knocks, began| {
            let key = step::key(knocks);
            let mut held = self.held(now, began);
            if knocks.len() < length {
                if !held.any(|step| step.has(key)) {
                    return ControlFlow::Continue(());
                }
                // No longer than a sequence: at most eight.
                outcome = Matched::Partial(Stage { knocks: knocks.len() as u8, began });
            } else {
                let whole = held.find_map(|step| {
                    let holder = self.holder_of(step, key, knocks)?;
                    let refused = self.refused(key, holder, now.wall);
                    let (client, step) = (holder.client, step.number);
                    Some(CompleteMatch { client, step, key, began, refused })
                });
                let Some(whole) = whole else { return ControlFlow::Continue(()) };
                outcome = Matched::Complete(whole);
            }
            ControlFlow::Break(())
        });
        outcome
    }

    /// How far knocks have come of which the oldest have been forgotten.
    pub(super) fn stage_of(&self, recent: &RecentKnocks, now: Now) -> Stage {
        let Some(last) = recent.latest() else { return Stage::default() };
        // What holds only by now was not there to be knocked.
        let then = Now { monotonic: last, wall: now.wall - now.monotonic.since(last) };
        match self.recognise(recent, then) {
            Matched::Partial(stage) => stage,
            Matched::Complete(_) => Stage::default(),
        }
    }

    /// The steps that hold now, or did at a moment before.
    fn held(&self, now: Now, then: Monotonic) -> impl Iterator<Item = &Step> {
        let at_first = self.scheme.window(now.wall - now.monotonic.since(then));
        let at_last = self.scheme.window(now.wall);
        self.steps
            .iter()
            .filter(move |step| at_last.contains(&step.number) || at_first.contains(&step.number))
    }

    fn holder_of(&self, step: &Step, key: u64, knocks: &[Knock]) -> Option<&SecretHolder> {
        let holder = self.holders.get(step.holder(key)?)?;
        let same = self.scheme.matches(&holder.key, &self.door, step.number, knocks);
        same.then_some(holder)
    }

    fn refused(&self, key: u64, holder: &SecretHolder, now: Wall) -> Option<Reason> {
        if self.steps.iter().any(|step| step.is_used(key)) {
            Some(Reason::Used)
        } else {
            is_over(holder.until, now).then_some(Reason::Expired)
        }
    }

    /// Remembers that a sequence has opened the door: whoever knocks it again is refused, even
    /// where it is someone else's too.
    pub(super) fn use_up(&mut self, whole: &CompleteMatch) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.number == whole.step) {
            step.use_up(whole.key);
        }
    }
}

#[cfg(test)]
mod tests;
