//! A search for clients whose clock is off: for the step in which their sequence would have been
//! right.
//!
//! It only helps people, so it is rationed: one search at a time, a few a minute, and only for
//! whole sequences of sources that have gone quiet.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use smallvec::SmallVec;

use super::{DoorRotation, RecentKnocks};
use crate::engine::EventKind;
use crate::engine::doors::TrackId;
use crate::proto::{Knock, push_latest};
use crate::time::{Monotonic, Now};

/// How far a clock may be off, in seconds.
pub const SEARCHED: u64 = 3600;
/// How long a source has to be quiet before its last knocks are looked at.
const QUIET: Duration = Duration::from_secs(1);
/// How many searches may begin within [`PERIOD`].
const SEARCHES: usize = 10;
const PERIOD: Duration = Duration::from_secs(60);
/// How many sources may wait to be looked at.
const WAITING: usize = 8;
/// How many sequences are compared at most: what a second of work is for.
const COMPARISONS: u64 = 2_000_000;
/// One in so many searches may find by chance what nobody knocked.
const BY_CHANCE: u64 = 100;

/// Knocks that may be somebody's whole sequence in another step.
#[derive(Debug)]
pub(in crate::engine) struct Search {
    pub(in crate::engine) track: TrackId,
    pub(in crate::engine) source: IpAddr,
    /// When the last knock came.
    at: Now,
    pub(in crate::engine) began: Monotonic,
    candidates: SmallVec<[SmallVec<[Knock; 8]>; 1]>,
    /// How many steps of how many holders have been compared.
    compared: u64,
}

/// The search that is on, and those that wait.
#[derive(Debug, Default)]
pub(in crate::engine) struct Searches {
    waiting: Vec<Search>,
    running: Option<Search>,
    /// When the latest began.
    begun: VecDeque<Monotonic>,
}

impl Searches {
    /// Takes note of the latest knocks of a source, in place of those before.
    pub(in crate::engine) fn suggest(
        &mut self,
        track: TrackId,
        source: IpAddr,
        rotation: &DoorRotation,
        recent: &RecentKnocks,
        now: Now,
    ) {
        self.forget(track, source);
        if self.waiting.len() >= WAITING {
            return;
        }
        let length = rotation.scheme.length();
        let mut candidates = SmallVec::new();
        let mut began = now.monotonic;
        let _ = recent.candidates(length, &mut |knocks, first| {
            if knocks.len() < length {
                return ControlFlow::Break(());
            }
            candidates.push(knocks.into());
            began = began.min(first);
            ControlFlow::Continue(())
        });
        if !candidates.is_empty() {
            let search = Search { track, source, at: now, began, candidates, compared: 0 };
            self.waiting.push(search);
        }
    }

    /// The source got in, or is not to be looked at for another reason.
    pub(in crate::engine) fn forget(&mut self, track: TrackId, source: IpAddr) {
        self.waiting.retain(|search| (search.track, search.source) != (track, source));
    }

    /// When there is something to do.
    pub(in crate::engine) fn due(&self) -> Option<Monotonic> {
        if self.running.is_some() {
            return Some(Monotonic::ZERO);
        }
        let quiet = self.waiting.iter().map(|search| search.at.monotonic + QUIET).min()?;
        let allowed = match self.begun.front() {
            Some(&first) if self.begun.len() >= SEARCHES => first + PERIOD,
            _ => Monotonic::ZERO,
        };
        Some(quiet.max(allowed))
    }

    /// The search that is on, after the next has begun if it is time.
    pub(in crate::engine) fn running(&mut self, now: Monotonic) -> Option<&mut Search> {
        if self.running.is_none() && self.due().is_some_and(|due| due <= now) {
            let quiet = |search: &Search| search.at.monotonic + QUIET <= now;
            let next = self.waiting.iter().position(quiet)?;
            self.running = Some(self.waiting.remove(next));
            push_latest(&mut self.begun, SEARCHES, now);
        }
        self.running.as_mut()
    }

    /// The search that is on has come to its end.
    pub(in crate::engine) fn end(&mut self) {
        self.running = None;
    }
}

impl DoorRotation {
    /// Goes on with a search, the nearest steps first, for as much of `work` as there is. Returns
    /// what has come of it; `None`: it is not at its end yet.
    pub(in crate::engine) fn search(
        &self,
        search: &mut Search,
        work: &mut usize,
    ) -> Option<EventKind> {
        let most = (self.scheme.variety() as u64 / BY_CHANCE).min(COMPARISONS);
        let holders = self.holders.len() as u64;
        let now = self.scheme.step_at(search.at.wall);
        let skew = u64::from(self.scheme.skew());
        while *work > 0 {
            let (round, place) = match search.compared.checked_div(holders) {
                Some(round) => (round, search.compared % holders),
                None => return Some(EventKind::Unmatched),
            };
            // Ahead and behind in turn, and ever farther.
            let distance = skew + 1 + round / 2;
            if search.compared >= most || distance > SEARCHED / u64::from(self.scheme.step()) {
                return Some(EventKind::Unmatched);
            }
            // At most 3600.
            let steps = if round % 2 == 0 { distance as i32 } else { -(distance as i32) };
            search.compared += 1;
            *work -= 1;
            let holder = usize::try_from(place).ok().and_then(|place| self.holders.get(place));
            if let Some(holder) = holder
                && let Some(step) = now.checked_add_signed(steps.into())
                && search
                    .candidates
                    .iter()
                    .any(|knocks| self.scheme.matches(&holder.key, &self.door, step, knocks))
            {
                return Some(EventKind::Missed { client: holder.client, steps });
            }
        }
        None
    }
}
