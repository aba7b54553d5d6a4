//! Schedules of what to send when, made without a clock or a socket.

use std::num::NonZeroU16;
use std::time::Duration;

use super::stamps::Stamps;
use crate::proto::{Knock, Protocol};
use crate::time::Monotonic;

/// One try to open a door: all that is sent for it, and when each packet is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    knocks: Vec<Knock>,
    /// Between two of them.
    pub(super) delay: Duration,
    /// The load of the one knock of a request.
    pub request: Option<RequestDatagram>,
}

/// One UDP datagram that holds a whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestDatagram {
    /// The port that it is sent from; `None`: any.
    pub from: Option<NonZeroU16>,
    pub bytes: Vec<u8>,
    /// Those of its key: to be flushed when it has left.
    pub(super) stamps: Option<Stamps>,
}

impl Schedule {
    /// The knocks in their order, the first at once, each of the others `delay` after the one
    /// before it.
    pub fn new(knocks: &[Knock], delay: Duration) -> Self {
        Self { knocks: knocks.to_vec(), delay, request: None }
    }

    /// One datagram, at once.
    pub fn request(port: NonZeroU16, datagram: RequestDatagram) -> Self {
        let knocks = vec![Knock::new(Protocol::Udp, port)];
        Self { knocks, delay: Duration::ZERO, request: Some(datagram) }
    }

    /// The knocks in the order in which they are due, each with its time from the start.
    pub fn knocks(&self) -> impl ExactSizeIterator<Item = (Duration, Knock)> + '_ {
        let mut due = Duration::ZERO;
        self.knocks.iter().map(move |&knock| {
            let at = due;
            due = due.saturating_add(self.delay);
            (at, knock)
        })
    }
}

/// The next thing to do for a client that waits for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum WaitAction {
    /// Send a whole try.
    Knock,
    /// Try to connect, no longer than `until`. A connection ends the wait.
    Connect { until: Monotonic },
    /// Do nothing before `until`.
    Pause { until: Monotonic },
    /// The port stayed shut.
    GiveUp,
}

/// The time that each try to connect after a knock may take, in milliseconds.
///
/// The first are short: a SYN that comes before the door is open is dropped, and the kernel would
/// wait a second before it sent another. A door near by opens within a millisecond. The last leaves
/// time for a slow line.
const TRIES: [u64; 8] = [2, 13, 35, 100, 200, 400, 750, 1_500];

/// A wait for a port to accept a connection: knocks, tries to connect for three seconds, knocks
/// again.
#[derive(Clone, Debug)]
pub struct Wait {
    knocks_left: u32,
    /// Tries since the last knock.
    tries: usize,
    /// A try that failed early does not make the next one earlier.
    not_before: Monotonic,
}

impl Wait {
    /// Knocks once, and up to `retries` times more.
    pub const fn new(retries: u16) -> Self {
        Self { knocks_left: retries as u32 + 1, tries: TRIES.len(), not_before: Monotonic::ZERO }
    }

    /// The thing to do at `now`; call it again when that is done.
    pub fn next(&mut self, now: Monotonic) -> WaitAction {
        if now < self.not_before {
            return WaitAction::Pause { until: self.not_before };
        }
        if let Some(&length) = TRIES.get(self.tries) {
            self.tries += 1;
            self.not_before = now + Duration::from_millis(length);
            return WaitAction::Connect { until: self.not_before };
        }
        match self.knocks_left.checked_sub(1) {
            Some(left) => {
                self.knocks_left = left;
                self.tries = 0;
                WaitAction::Knock
            }
            None => WaitAction::GiveUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn millis(millis: u64) -> Monotonic {
        Monotonic::from_nanos(millis * 1_000_000)
    }

    fn knocks(texts: &[&str]) -> Vec<Knock> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn due(schedule: &Schedule) -> Vec<(u128, String)> {
        schedule.knocks().map(|(at, knock)| (at.as_millis(), knock.to_string())).collect()
    }

    #[test]
    fn knocks_leave_in_their_order_and_a_delay_apart() {
        let schedule =
            Schedule::new(&knocks(&["9000", "8000/udp", "9000"]), Duration::from_millis(15));
        assert_eq!(
            due(&schedule),
            [(0, "9000/tcp".into()), (15, "8000/udp".into()), (30, "9000/tcp".into())]
        );
    }

    #[test]
    fn without_a_delay_all_knocks_are_due_at_once() {
        let schedule = Schedule::new(&knocks(&["1", "2"]), Duration::ZERO);
        assert_eq!(due(&schedule), [(0, "1/tcp".into()), (0, "2/tcp".into())]);
    }

    #[test]
    fn the_longest_delay_does_not_overflow() {
        let schedule = Schedule::new(&knocks(&["1", "2", "3"]), Duration::MAX);
        assert_eq!(schedule.knocks().last().unwrap().0, Duration::MAX);
    }

    #[test]
    fn a_wait_begins_with_a_knock_and_tries_to_connect_at_once() {
        let mut wait = Wait::new(3);
        assert_eq!(wait.next(millis(0)), WaitAction::Knock);
        assert_eq!(wait.next(millis(5)), WaitAction::Connect { until: millis(7) });
    }

    #[test]
    fn a_refused_try_does_not_make_the_next_one_earlier() {
        let mut wait = Wait::new(0);
        let _ = wait.next(millis(0));
        let _ = wait.next(millis(0));
        assert_eq!(wait.next(millis(1)), WaitAction::Pause { until: millis(2) });
        assert_eq!(wait.next(millis(2)), WaitAction::Connect { until: millis(15) });
    }

    #[test]
    fn a_try_that_took_its_whole_time_is_followed_by_a_longer_one() {
        let mut wait = Wait::new(0);
        let _ = wait.next(millis(0));
        let _ = wait.next(millis(0));
        assert_eq!(wait.next(millis(4)), WaitAction::Connect { until: millis(17) });
    }

    #[test]
    fn a_machine_that_slept_still_tries_before_it_gives_up() {
        let mut wait = Wait::new(0);
        let _ = wait.next(millis(0));
        let _ = wait.next(millis(0));
        assert!(matches!(wait.next(millis(3_600_000)), WaitAction::Connect { .. }));
    }

    /// Runs a wait in which every try fails after `each`, and returns what it did.
    fn run(retries: u16, each: Duration) -> (usize, usize, Monotonic) {
        let mut wait = Wait::new(retries);
        let (mut knocked, mut tried, mut now) = (0, 0, Monotonic::ZERO);
        loop {
            match wait.next(now) {
                WaitAction::Knock => knocked += 1,
                WaitAction::Connect { until } => {
                    tried += 1;
                    now = until.min(now + each);
                }
                WaitAction::Pause { until } => now = until,
                WaitAction::GiveUp => return (knocked, tried, now),
            }
        }
    }

    #[test]
    fn it_knocks_again_three_seconds_after_the_last_knock() {
        let mut wait = Wait::new(1);
        let mut now = millis(0);
        let mut knocks = Vec::new();
        loop {
            match wait.next(now) {
                WaitAction::Knock => knocks.push(now),
                WaitAction::Connect { until } | WaitAction::Pause { until } => now = until,
                WaitAction::GiveUp => break,
            }
        }
        assert_eq!(knocks, [millis(0), millis(3_000)]);
        assert_eq!(now, millis(6_000));
    }

    proptest! {
        #[test]
        fn it_ends_after_the_first_knock_and_the_retries(retries in 0u16..200, each in 0u64..3_000) {
            let (knocked, tried, end) = run(retries, Duration::from_millis(each));
            let rounds = usize::from(retries) + 1;
            prop_assert_eq!(knocked, rounds);
            prop_assert_eq!(tried, rounds * TRIES.len());
            prop_assert_eq!(end, millis(3_000 * (u64::from(retries) + 1)));
        }
    }
}
