//! Knocking with sequences that rotate with time.

use std::time::Duration;

use super::schedule::Schedule;
use crate::proto::totp::{Scheme, TotpKey};
use crate::time::Wall;

/// The time after its last knock that a sequence may still be on its way.
const SLACK: Duration = Duration::from_millis(500);

/// A client's rotating sequences at a door.
#[derive(Clone, Debug)]
pub struct TotpKnocker {
    pub key: TotpKey,
    pub scheme: Scheme,
    /// The door's name; without meaning where codes are knocked.
    pub door: String,
    /// Between two knocks.
    pub delay: Duration,
}

impl TotpKnocker {
    /// The moment at which a try may begin: `now`, or when the step turns, if the sequence of `now`
    /// would not be whole before that, or has opened once, when a try began at `last`.
    ///
    /// Where a sequence takes longer than a step there is no turn to wait for.
    pub fn start(&self, now: Wall, last: Option<Wall>) -> Wall {
        let knocks = u32::try_from(self.scheme.length()).unwrap_or(u32::MAX);
        let takes = self.delay.saturating_mul(knocks).saturating_add(SLACK);
        let step = self.scheme.step_at(now);
        let is_used = last.is_some_and(|last| self.scheme.step_at(last) == step);
        let turn = self.scheme.turns_at(step);
        let fits = now + takes < turn || takes >= self.scheme.step_length();
        if fits && !is_used { now } else { turn }
    }

    /// The sequence that is valid at `now`.
    pub fn schedule(&self, now: Wall) -> Schedule {
        let knocks = self.scheme.knocks(&self.key, &self.door, self.scheme.step_at(now));
        Schedule::new(&knocks, self.delay)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use crate::proto::totp::{Digits, Protocols, TotpMode, parse_secret};

    fn rotating(mode: TotpMode, delay: u64) -> TotpKnocker {
        TotpKnocker {
            key: TotpKey::from(&parse_secret("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP").unwrap()),
            scheme: Scheme::new(mode, 30, 1).unwrap(),
            door: "ssh".to_owned(),
            delay: Duration::from_millis(delay),
        }
    }

    fn ports(delay: u64) -> TotpKnocker {
        let port = |port| NonZeroU16::new(port).unwrap();
        let (low, high) = (port(20000), port(29999));
        rotating(TotpMode::Ports { low, high, length: 4, protocol: Protocols::Mixed }, delay)
    }

    fn millis(millis: u64) -> Wall {
        Wall::ZERO + Duration::from_millis(millis)
    }

    fn knocks(rotating: &TotpKnocker, seconds: u64) -> Vec<String> {
        let schedule = rotating.schedule(millis(seconds * 1000));
        schedule.knocks().map(|(_, knock)| knock.to_string()).collect()
    }

    #[test]
    fn the_ports_are_those_of_the_moment() {
        for (seconds, expected) in [
            (59, ["20259/tcp", "29408/udp", "28589/tcp", "25841/udp"]),
            (1_234_567_890, ["22983/tcp", "29692/tcp", "29001/udp", "26600/tcp"]),
        ] {
            assert_eq!(knocks(&ports(15), seconds), expected);
        }
    }

    #[test]
    fn a_code_is_knocked_two_digits_at_a_time() {
        let codes = rotating(TotpMode::Code { base: 7000, digits: Digits::Six }, 15);
        assert_eq!(knocks(&codes, 1_111_111_109), ["7008/tcp", "7083/tcp", "7009/tcp"]);
    }

    #[test]
    fn a_sequence_that_is_whole_before_the_turn_leaves_at_once() {
        // Four knocks 15 ms apart and half a second: 560 ms.
        assert_eq!(ports(15).start(millis(29_439), None), millis(29_439));
        assert_eq!(ports(15).start(millis(30_000), None), millis(30_000));
    }

    #[test]
    fn a_sequence_that_the_turn_would_cut_waits_for_the_next_step() {
        assert_eq!(ports(15).start(millis(29_440), None), millis(30_000));
        assert_eq!(ports(15).start(millis(29_999), None), millis(30_000));
        assert_eq!(ports(5_000).start(millis(10_000), None), millis(30_000));
    }

    #[test]
    fn a_sequence_that_has_left_waits_for_the_next_step() {
        let last = Some(millis(1_000));
        assert_eq!(ports(15).start(millis(2_000), last), millis(30_000));
        assert_eq!(ports(15).start(millis(30_000), last), millis(30_000));
        assert_eq!(ports(7_375).start(millis(2_000), last), millis(30_000));
    }

    #[test]
    fn a_sequence_that_is_longer_than_a_step_waits_for_nothing() {
        assert_eq!(ports(7_375).start(millis(29_000), None), millis(29_000));
        assert_eq!(ports(3_600_000).start(millis(29_000), None), millis(29_000));
    }

    proptest! {
        #[test]
        fn what_waited_leaves_at_the_turn(at in 0u64..1 << 40, delay in 0u64..7_000) {
            let rotating = ports(delay);
            let start = rotating.start(millis(at), None);
            prop_assert!(start >= millis(at));
            prop_assert_eq!(rotating.start(start, None), start);
        }
    }
}
