//! The latest knocks of one source in the range of a rotating sequence.

use std::ops::ControlFlow;
use std::time::Duration;

use smallvec::SmallVec;

use super::Stage;
use crate::proto::Knock;
use crate::time::Monotonic;

/// As many of the latest knocks as a sequence may need: as many different ones in a row, and of
/// each as many repetitions, which count only where a sequence has them.
#[derive(Debug, Default)]
pub(in crate::engine) struct RecentKnocks {
    knocks: SmallVec<[TimedKnock; 4]>,
    /// How far they had come when last looked at.
    pub(in crate::engine) stage: Stage,
}

/// A knock, and when it came.
#[derive(Clone, Copy, Debug)]
struct TimedKnock {
    knock: Knock,
    at: Monotonic,
}

impl RecentKnocks {
    /// Adds a knock, and forgets what a sequence of `length` does not need. True: it is the same
    /// knock as the one before it.
    pub(in crate::engine) fn push(&mut self, knock: Knock, at: Monotonic, length: usize) -> bool {
        let again = self.knocks.last().is_some_and(|last| last.knock == knock);
        self.knocks.push(TimedKnock { knock, at });
        let latest = self.knocks.iter().rev().take_while(|timed| timed.knock == knock).count();
        if latest > length {
            self.knocks.remove(self.knocks.len() - latest);
        }
        let kept: usize = self.runs().rev().take(length).map(<[TimedKnock]>::len).sum();
        self.knocks.drain(..self.knocks.len().saturating_sub(kept));
        again
    }

    /// Forgets what is older than the timeout allows.
    pub(in crate::engine) fn expire(&mut self, now: Monotonic, timeout: Duration) {
        let gone = self.knocks.iter().take_while(|timed| now.since(timed.at) > timeout).count();
        self.knocks.drain(..gone);
    }

    pub(in crate::engine) fn clear(&mut self) {
        *self = Self::default();
    }

    /// When the oldest knock came that is remembered.
    pub(in crate::engine) fn oldest(&self) -> Option<Monotonic> {
        self.knocks.first().map(|timed| timed.at)
    }

    /// When the latest knock came.
    pub(super) fn latest(&self) -> Option<Monotonic> {
        self.knocks.last().map(|timed| timed.at)
    }

    fn runs(&self) -> impl DoubleEndedIterator<Item = &[TimedKnock]> {
        self.knocks.chunk_by(|a, b| a.knock == b.knock)
    }

    /// Shows what the latest knocks may be, and when the first of them came: the longest first, of
    /// `length` knocks at most, until it is told to stop.
    pub(super) fn candidates(
        &self,
        length: usize,
        visit: &mut impl FnMut(&[Knock], Monotonic) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let runs: SmallVec<[&[TimedKnock]; 8]> = self.runs().collect();
        let mut taken = SmallVec::new();
        (1..=length.min(self.knocks.len()))
            .rev()
            .try_for_each(|wanted| compose(&runs, wanted, &mut taken, visit))
    }
}

/// Shows every way to take `wanted` knocks from the last runs, at least one of each that is taken
/// from. `taken` are those already taken, the last first.
fn compose(
    runs: &[&[TimedKnock]],
    wanted: usize,
    taken: &mut SmallVec<[Knock; 8]>,
    visit: &mut impl FnMut(&[Knock], Monotonic) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Some((run, earlier)) = runs.split_last() else { return ControlFlow::Continue(()) };
    let before = taken.len();
    // The latest of a run are those that are left out last.
    for (count, timed) in (1..=wanted).zip(run.iter().rev()) {
        taken.push(timed.knock);
        if count < wanted {
            compose(earlier, wanted - count, taken, visit)?;
        } else {
            let knocks: SmallVec<[Knock; 8]> = taken.iter().rev().copied().collect();
            visit(&knocks, timed.at)?;
        }
    }
    taken.truncate(before);
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Monotonic {
        Monotonic::ZERO + Duration::from_secs(second)
    }

    /// One knock a second, from second 1.
    fn recent(ports: &[&str], length: usize) -> RecentKnocks {
        let mut recent = RecentKnocks::default();
        for (second, port) in (1..).zip(ports) {
            recent.push(port.parse().unwrap(), at(second), length);
        }
        recent
    }

    /// Ports, and the second of the first.
    fn candidates(recent: &RecentKnocks, length: usize) -> Vec<(Vec<u16>, u64)> {
        let mut found = Vec::new();
        let _ = recent.candidates(length, &mut |knocks, began| {
            let ports = knocks.iter().map(|knock| knock.port.get()).collect();
            found.push((ports, began.since(Monotonic::ZERO).as_secs()));
            ControlFlow::Continue(())
        });
        found
    }

    #[test]
    fn only_the_latest_knocks_count() {
        let recent = recent(&["1", "2", "3", "4"], 3);
        assert_eq!(candidates(&recent, 3), [(vec![2, 3, 4], 2), (vec![3, 4], 3), (vec![4], 4)]);
    }

    #[test]
    fn a_repetition_may_count_or_not() {
        let recent = recent(&["1", "1", "2"], 3);
        assert_eq!(candidates(&recent, 3), [(vec![1, 1, 2], 1), (vec![1, 2], 2), (vec![2], 3)]);
        let recent = self::recent(&["1", "2", "2", "3"], 3);
        assert_eq!(
            candidates(&recent, 3),
            [(vec![1, 2, 3], 1), (vec![2, 2, 3], 2), (vec![2, 3], 3), (vec![3], 4)]
        );
    }

    #[test]
    fn any_number_of_repetitions_is_one_run() {
        let mut ports = vec!["1"; 50];
        ports.extend(["2"; 50]);
        ports.extend(["3"; 50]);
        let recent = recent(&ports, 3);
        assert_eq!(recent.knocks.len(), 9);
        let whole: Vec<_> = candidates(&recent, 3)
            .into_iter()
            .filter(|(ports, _)| ports.len() == 3)
            .map(|(ports, _)| ports)
            .collect();
        assert_eq!(whole, [[1, 2, 3], [2, 2, 3], [2, 3, 3], [3, 3, 3]]);
    }

    #[test]
    fn the_first_knock_of_a_run_is_the_latest_that_will_do() {
        let recent = recent(&["1", "1", "1", "2"], 3);
        assert_eq!(candidates(&recent, 3), [(vec![1, 1, 2], 2), (vec![1, 2], 3), (vec![2], 4)]);
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let mut recent = recent(&["1", "2", "3"], 3);
        recent.expire(at(11), Duration::from_secs(10));
        assert_eq!(recent.oldest(), Some(at(1)));
        recent.expire(at(12), Duration::from_secs(10));
        assert_eq!(recent.oldest(), Some(at(2)));
        recent.expire(at(30), Duration::from_secs(10));
        assert_eq!(recent.oldest(), None);
    }
}
