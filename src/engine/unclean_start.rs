//! Replay protection after an unclean shutdown: requests stamped before it are refused.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Reason;
use crate::time::{Monotonic, Now, Wall};

/// A request that is stamped this far ahead of this host's clock, or further, has to be on the disk
/// before it opens.
pub const MAX_UNFLUSHED_AHEAD: Duration = Duration::from_secs(10);

/// The start of the machine, if it follows an unclean end: uses of before may be missing from the
/// ledger.
///
/// On the clock that does not jump: when the calendar is set right, so is what this means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UncleanStart(pub Option<Monotonic>);

impl UncleanStart {
    /// Whether a request with this stamp may be of before the start, and used without the ledger
    /// saying so.
    ///
    /// Each use that was not on the disk came before that time, and its stamp was less than
    /// [`MAX_UNFLUSHED_AHEAD`] later than it.
    pub fn is_preceded_by(self, stamp: Wall, now: Now) -> bool {
        self.0.is_some_and(|until| {
            stamp < now.wall - now.monotonic.since(until) + MAX_UNFLUSHED_AHEAD
        })
    }
}

/// The stamps that a request may have: how old, how far ahead, from which side of a start.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    pub max_age: Duration,
    pub max_ahead: Duration,
    pub unclean_start: UncleanStart,
}

impl Lifetime {
    /// Whether a request that was stamped so is good at a moment.
    ///
    /// # Errors
    /// Why it is not.
    pub fn judge(&self, stamp: Wall, now: Now) -> Result<(), Reason> {
        if now.wall.since(stamp) > self.max_age {
            return Err(Reason::TooOld);
        }
        if stamp.since(now.wall) > self.max_ahead {
            return Err(Reason::TooFarAhead);
        }
        if self.unclean_start.is_preceded_by(stamp, now) {
            return Err(Reason::BeforeStart);
        }
        Ok(())
    }
}

/// Whether what holds until then no longer does.
pub fn is_over(until: Option<Wall>, now: Wall) -> bool {
    until.is_some_and(|until| until <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Wall = Wall::from_nanos(3_600_000_000_000);

    fn after(seconds: u64) -> Now {
        let seconds = Duration::from_secs(seconds);
        Now { monotonic: Monotonic::ZERO + seconds, wall: HOUR + seconds }
    }

    #[test]
    fn nothing_is_hidden_where_nothing_is_missing() {
        assert!(!UncleanStart(None).is_preceded_by(Wall::ZERO, after(5)));
    }

    #[test]
    fn what_was_stamped_less_than_ten_seconds_after_the_start_may_be_hidden() {
        let unclean_start = UncleanStart(Some(Monotonic::ZERO));
        for now in [5, 60, 3600] {
            assert!(unclean_start.is_preceded_by(HOUR, after(now)));
            assert!(
                unclean_start.is_preceded_by(
                    HOUR + MAX_UNFLUSHED_AHEAD - Duration::from_nanos(1),
                    after(now)
                )
            );
            assert!(!unclean_start.is_preceded_by(HOUR + MAX_UNFLUSHED_AHEAD, after(now)));
        }
    }

    #[test]
    fn a_calendar_that_is_set_right_later_moves_the_start_with_it() {
        let unclean_start = UncleanStart(Some(Monotonic::ZERO));
        let set_right = Now { wall: HOUR + HOUR.since(Wall::ZERO), ..after(60) };
        assert!(unclean_start.is_preceded_by(set_right.wall - Duration::from_secs(60), set_right));
        assert!(!unclean_start.is_preceded_by(set_right.wall, set_right));
    }
}
