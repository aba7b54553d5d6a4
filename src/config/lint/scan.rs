//! Port scans: in which order they have ports, and how likely one opens a door.

use crate::config::{Lockout, Recognition};
use std::fmt;

use crate::proto::totp::Scheme;
use crate::proto::{Knock, PortSet};

/// The order in which a port scan has these ports, if there is one.
pub(super) fn scan_order(knocks: &[Knock]) -> Option<&'static str> {
    let ascends = |from: &Knock, to: &Knock| from.protocol == to.protocol && from.port < to.port;
    match knocks {
        [] | [_] => None,
        _ if knocks.is_sorted_by(ascends) => Some("ascending"),
        _ if knocks.is_sorted_by(|from, to| ascends(to, from)) => Some("descending"),
        _ => None,
    }
}

/// Whether a scan in ascending or descending order knocks so, with no trip-wire in between.
pub(crate) fn is_completed_in_order(knocks: &[Knock], trip_wires: u16) -> bool {
    let is_apart = |[one, next]: &[Knock; 2]| one.port.get().abs_diff(next.port.get()) > 1;
    scan_order(knocks).is_some() && (trip_wires == 0 || !knocks.array_windows().any(is_apart))
}

/// The odds that a port scan in random order opens a door.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Odds {
    /// There is no sequence.
    Never,
    OneIn(f64),
}

/// The odds of the fixed sequence of a door that watches w ports: w (w - 1) ... (w - n + 2) to one
/// for n knocks. A scan tries each port as often as the sequence has any of its own; a port tried
/// again at once does no harm.
pub fn scan_odds(door: &Recognition, watched: &PortSet) -> Odds {
    let mut knocks = door.sequence.clone();
    knocks.sort_unstable();
    let alike: Vec<usize> = knocks.chunk_by(|a, b| a == b).map(<[Knock]>::len).collect();
    let Some(&tries) = alike.iter().max() else { return Odds::Never };
    let orders = falling(tries * watched.len(), knocks.len() - 1);
    let right: f64 = alike.iter().map(|&count| falling(tries, count)).product();
    Odds::OneIn((orders / right).max(1.0))
}

/// How many ways there are to take so many of `all`, one after the other.
fn falling(all: usize, taken: usize) -> f64 {
    (0..all).rev().take(taken).map(|below| wide(below + 1)).product()
}

impl fmt::Display for Odds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Never => f.write_str("never"),
            Self::OneIn(one) if one <= 1.0 => f.write_str("every time"),
            Self::OneIn(number) if number < 1e15 => {
                let digits = format!("{number:.0}");
                let thousands = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
                write!(f, "1 time in {}", thousands.collect::<Vec<_>>().join(","))
            }
            Self::OneIn(number) => write!(f, "1 time in 10^{:.0}", number.log10().floor()),
        }
    }
}

/// The odds that a port scan in random order completes a sequence of one of `clients`, before a
/// lockout ends it.
pub fn rotating_odds(scheme: &Scheme, clients: usize, lockout: Option<Lockout>) -> Odds {
    let length = scheme.length();
    let whole = falling(scheme.watched().len(), length.saturating_sub(1));
    let single = match lockout {
        // Of each `length` knocks that are no sequence a failure is made.
        Some(Lockout { failures, .. }) => {
            whole.max(scheme.variety() / (f64::from(failures) * wide(length)))
        }
        None => whole,
    };
    Odds::OneIn(single / valid(scheme, clients))
}

/// How many of them are valid at a time.
pub(super) fn valid(scheme: &Scheme, clients: usize) -> f64 {
    wide(clients.max(1)) * f64::from(2 * u32::from(scheme.skew()) + 1)
}

fn wide(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;
    use std::time::Duration;

    use super::*;
    use crate::config::watch::watch_sets;
    use crate::proto::totp::{Digits, Protocols, TotpMode};

    fn odds(sequence: &[&str], trip_wires: u16) -> Odds {
        let door = Recognition {
            sequence: sequence.iter().map(|port| port.parse().unwrap()).collect(),
            trip_wires,
            ..Recognition::new("door".parse().unwrap())
        };
        let watched = watch_sets([&door]);
        scan_odds(&door, &watched[0])
    }

    #[test]
    fn three_knocks_among_their_trip_wires_are_hit_once_in_many_scans() {
        let odds = odds(&["7000", "8000", "9000"], 16);
        assert_eq!(odds, Odds::OneIn(99.0 * 98.0));
        assert_eq!(odds.to_string(), "1 time in 9,702");
    }

    #[test]
    fn without_trip_wires_one_scan_in_six_hits_three_knocks() {
        assert_eq!(odds(&["7000", "8000", "9000"], 0), Odds::OneIn(6.0));
    }

    #[test]
    fn one_knock_is_hit_by_every_scan() {
        assert_eq!(odds(&["7000"], 16).to_string(), "every time");
    }

    #[test]
    fn a_scan_that_tries_each_port_twice_may_hit_a_sequence_that_has_one_twice() {
        assert_eq!(odds(&["7000", "8000", "7000"], 0), Odds::OneIn(3.0));
        assert_eq!(odds(&["7000", "7000", "8000"], 16).to_string(), "1 time in 4,323");
        assert_eq!(odds(&[], 16), Odds::Never);
    }

    #[test]
    fn long_sequences_have_odds_that_can_be_read() {
        let ports: Vec<_> = (1..=32).map(|place| (place * 1000).to_string()).collect();
        let ports: Vec<_> = ports.iter().map(String::as_str).collect();
        assert_eq!(odds(&ports, 16).to_string(), "1 time in 10^93");
    }

    fn ports(high: u16, length: u8) -> Scheme {
        let port = |port| NonZeroU16::new(port).unwrap();
        let (low, high) = (port(20000), port(high));
        Scheme::new(TotpMode::Ports { low, high, length, protocol: Protocols::Tcp }, 30, 1).unwrap()
    }

    fn code(digits: Digits) -> Scheme {
        Scheme::new(TotpMode::Code { base: 7000, digits }, 30, 0).unwrap()
    }

    const LOCKOUT: Lockout =
        Lockout { failures: 5, within: Duration::from_secs(600), lasts: Duration::from_secs(3600) };

    #[test]
    fn a_scan_of_a_range_hardly_ever_completes_a_sequence() {
        // 100 times 99 ports for three knocks, and three steps are valid.
        assert_eq!(rotating_odds(&ports(20099, 3), 1, None), Odds::OneIn(3300.0));
        assert_eq!(rotating_odds(&ports(20099, 3), 10, None), Odds::OneIn(330.0));
        assert_eq!(
            rotating_odds(&ports(29999, 4), 1, None).to_string(),
            "1 time in 333,233,340,000"
        );
    }

    #[test]
    fn a_lockout_ends_a_scan_of_codes_early() {
        assert_eq!(rotating_odds(&code(Digits::Six), 1, None), Odds::OneIn(9900.0));
        let Odds::OneIn(odds) = rotating_odds(&code(Digits::Six), 1, Some(LOCKOUT)) else {
            panic!()
        };
        assert_eq!(odds.round(), 66_667.0);
        assert_eq!(rotating_odds(&code(Digits::Eight), 2, Some(LOCKOUT)), Odds::OneIn(2_500_000.0));
    }

    fn in_order(knocks: &[&str], trip_wires: u16) -> bool {
        let knocks: Vec<Knock> = knocks.iter().map(|knock| knock.parse().unwrap()).collect();
        is_completed_in_order(&knocks, trip_wires)
    }

    #[test]
    fn a_scan_in_order_completes_what_is_monotone_and_without_trip_wires() {
        assert!(in_order(&["7000", "7001", "7002"], 16));
        assert!(in_order(&["9000", "8000", "7000"], 0));
        assert!(!in_order(&["7000", "8000", "9000"], 16));
        assert!(!in_order(&["7000", "7002", "7001"], 0));
        assert!(!in_order(&["7000", "7001/udp", "7002"], 0));
        assert!(!in_order(&["7000"], 0));
    }
}
