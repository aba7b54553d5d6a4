//! A token bucket, for how many lines strangers may cause.

use std::time::Duration;

use crate::time::Monotonic;

/// A token bucket: `burst` tokens at once, then one each `interval`.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    burst: u32,
    interval: Duration,
    /// When it is full again.
    full_at: Monotonic,
    refused: u64,
}

impl Limit {
    /// A full one.
    pub(crate) const fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, full_at: Monotonic::ZERO, refused: 0 }
    }

    /// Whether one more may pass now; counts those that may not.
    #[must_use]
    pub(crate) fn pass(&mut self, now: Monotonic) -> bool {
        let full_at = self.full_at.max(now) + self.interval;
        let passes = full_at.since(now) <= self.interval.saturating_mul(self.burst);
        if passes {
            self.full_at = full_at;
        } else {
            self.refused += 1;
        }
        passes
    }

    /// The same; where it passes, how many did not since this was last told.
    pub(crate) fn pass_after(&mut self, now: Monotonic) -> Option<u64> {
        self.pass(now).then(|| std::mem::take(&mut self.refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_burst_passes_and_what_follows_waits_for_its_turn() {
        let mut limit = Limit::new(3, Duration::from_millis(100));
        let passed: Vec<bool> = (0..5).map(|_| limit.pass(at(1000))).collect();
        assert_eq!(passed, [true, true, true, false, false]);
        assert!(limit.pass(at(1100)));
        assert!(!limit.pass(at(1150)));
        assert!(limit.pass(at(1200)));
    }

    #[test]
    fn what_did_not_pass_is_counted_once() {
        let mut limit = Limit::new(1, Duration::from_secs(1));
        let passed = (0..10).filter(|_| limit.pass(at(5000))).count();
        assert_eq!(passed, 1);
        assert_eq!([6000, 7000].map(|millis| limit.pass_after(at(millis))), [Some(9), Some(0)]);
    }

    #[test]
    fn a_long_silence_allows_no_more_than_the_burst() {
        let mut limit = Limit::new(2, Duration::from_millis(1));
        assert_eq!((0..10).filter(|_| limit.pass(at(1_000_000))).count(), 2);
    }
}
