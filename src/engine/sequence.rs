//! A door's sequence, compiled: how far a source has come in it.

use std::time::Duration;

use smallvec::SmallVec;

use crate::proto::Knock;
use crate::time::Monotonic;

/// The times at which the knocks that a source has matched so far were seen. Its length is the
/// stage.
pub(super) type Times = SmallVec<[Monotonic; 2]>;

/// The knocks that open a door, and where to go on when one of them is wrong or too old.
#[derive(Clone, Debug)]
pub(super) struct CompiledSequence {
    pub(super) knocks: Box<[Knock]>,
    /// For each prefix, by its length less one: how long its longest border is. A border is a
    /// shorter prefix that it also ends with (the failure function of Knuth, Morris and Pratt).
    borders: Box<[usize]>,
}

impl CompiledSequence {
    pub(super) fn new(knocks: &[Knock]) -> Self {
        let mut borders = Vec::with_capacity(knocks.len());
        let mut border = 0;
        for (at, knock) in knocks.iter().enumerate() {
            while border > 0 && knocks[border] != *knock {
                border = borders[border - 1];
            }
            if at > 0 && knocks[border] == *knock {
                border += 1;
            }
            borders.push(border);
        }
        Self { knocks: knocks.into(), borders: borders.into() }
    }

    /// Adds a knock on one of the door's ports or trip-wires: afterwards `times` are those of the
    /// longest prefix that the latest knocks form. What was there must be in time (see
    /// [`Self::expire`]) and not complete.
    pub(super) fn advance(&self, times: &mut Times, knock: Knock, now: Monotonic) {
        let mut stage = times.len();
        while stage > 0 && self.knocks.get(stage) != Some(&knock) {
            stage = self.border(stage);
        }
        if self.knocks.get(stage) == Some(&knock) {
            keep_last(times, stage);
            times.push(now);
        } else {
            times.clear();
        }
    }

    /// Passes over the knock just made, made again while another one is wanted; false: it is no
    /// such. Of several that are alike the latest count, so as not to be too old soon.
    pub(super) fn repeat(&self, times: &mut Times, knock: Knock, now: Monotonic) -> bool {
        let (made, wanted) = self.knocks.split_at(times.len().min(self.knocks.len()));
        let alike = made.iter().rev().take_while(|&&made| made == knock).count();
        let is_passed_over = alike > 0 && wanted.first() != Some(&knock);
        if is_passed_over {
            times.remove(times.len() - alike);
            times.push(now);
        }
        is_passed_over
    }

    /// Gives up what is older than the timeout allows: `times` become those of the longest prefix
    /// that is still in time.
    pub(super) fn expire(&self, times: &mut Times, now: Monotonic, timeout: Duration) {
        let mut stage = times.len();
        while stage > 0 && now.since(times[times.len() - stage]) > timeout {
            stage = self.border(stage);
        }
        keep_last(times, stage);
    }

    fn border(&self, stage: usize) -> usize {
        stage.checked_sub(1).and_then(|at| self.borders.get(at)).map_or(0, |&border| border)
    }
}

fn keep_last(times: &mut Times, count: usize) {
    let gone = times.len().saturating_sub(count);
    if gone > 0 {
        times.drain(..gone);
        if times.len() <= times.inline_size() {
            times.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn sequence(ports: &[&str]) -> CompiledSequence {
        let knocks: Vec<Knock> = ports.iter().map(|port| port.parse().unwrap()).collect();
        CompiledSequence::new(&knocks)
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic::ZERO + Duration::from_secs(seconds)
    }

    /// Knocks at the given seconds; the times of what is matched in the end.
    fn after(sequence: &CompiledSequence, knocks: &[(u64, &str)]) -> Vec<Monotonic> {
        let mut times = Times::new();
        for (second, knock) in knocks {
            sequence.advance(&mut times, knock.parse().unwrap(), at(*second));
        }
        times.to_vec()
    }

    #[test]
    fn the_stage_grows_with_each_right_knock() {
        let sequence = sequence(&["1", "2", "3"]);
        assert_eq!(after(&sequence, &[(0, "1"), (1, "2")]), [at(0), at(1)]);
        assert_eq!(after(&sequence, &[(0, "1"), (1, "2"), (2, "3")]).len(), 3);
    }

    #[test]
    fn a_wrong_knock_may_be_the_first_of_another_try() {
        let sequence = sequence(&["1", "2", "3"]);
        assert_eq!(after(&sequence, &[(0, "1"), (1, "2"), (2, "1")]), [at(2)]);
        assert!(after(&sequence, &[(0, "1"), (1, "2"), (2, "2")]).is_empty());
    }

    #[test]
    fn a_port_that_is_not_in_the_sequence_breaks_all_of_it() {
        let sequence = sequence(&["1", "1", "2"]);
        assert!(after(&sequence, &[(0, "1"), (1, "1"), (2, "9")]).is_empty());
    }

    #[test]
    fn the_same_port_in_the_other_protocol_is_another_knock() {
        let sequence = sequence(&["1", "2/udp", "3"]);
        assert!(after(&sequence, &[(0, "1"), (1, "2")]).is_empty());
        assert_eq!(after(&sequence, &[(0, "1"), (1, "2/udp")]).len(), 2);
    }

    #[test]
    fn falling_back_to_a_border_keeps_the_times_of_its_own_knocks() {
        let sequence = sequence(&["1", "1", "2"]);
        assert_eq!(after(&sequence, &[(0, "1"), (1, "1"), (2, "1")]), [at(1), at(2)]);
        let sequence = self::sequence(&["1", "2", "1", "2", "3"]);
        let knocks = [(0, "1"), (1, "2"), (2, "1"), (3, "2"), (4, "1")];
        assert_eq!(after(&sequence, &knocks), [at(2), at(3), at(4)]);
    }

    /// The times after each knock, made at the given seconds, where repetitions are passed over.
    fn with_repetitions(sequence: &CompiledSequence, knocks: &[(u64, &str)]) -> Vec<Monotonic> {
        let mut times = Times::new();
        for (second, knock) in knocks {
            let knock = knock.parse().unwrap();
            if !sequence.repeat(&mut times, knock, at(*second)) {
                sequence.advance(&mut times, knock, at(*second));
            }
        }
        times.to_vec()
    }

    #[test]
    fn a_knock_made_again_is_passed_over_where_another_is_wanted() {
        let sequence = sequence(&["1", "2", "3"]);
        let knocks = [(0, "1"), (1, "1"), (2, "2"), (3, "2")];
        assert_eq!(with_repetitions(&sequence, &knocks), [at(1), at(3)]);
        assert!(with_repetitions(&sequence, &[(0, "1"), (1, "2"), (2, "2"), (3, "1")]).len() == 1);
        assert!(with_repetitions(&sequence, &[(0, "2"), (1, "2")]).is_empty());
    }

    #[test]
    fn a_knock_that_is_wanted_again_is_not_passed_over() {
        let sequence = sequence(&["1", "1", "2"]);
        assert_eq!(with_repetitions(&sequence, &[(0, "1"), (1, "1")]), [at(0), at(1)]);
    }

    #[test]
    fn of_knocks_that_are_alike_the_latest_count() {
        let sequence = sequence(&["5", "1", "1", "2"]);
        let knocks = [(0, "5"), (1, "1"), (2, "1"), (3, "1"), (4, "1")];
        assert_eq!(with_repetitions(&sequence, &knocks), [at(0), at(3), at(4)]);
    }

    #[test]
    fn exactly_the_timeout_is_in_time_and_a_nanosecond_more_is_not() {
        let sequence = sequence(&["1", "2"]);
        let mut times = Times::from_slice(&[at(5)]);
        sequence.expire(&mut times, at(5) + TIMEOUT, TIMEOUT);
        assert_eq!(times.len(), 1);
        sequence.expire(&mut times, at(5) + TIMEOUT + Duration::from_nanos(1), TIMEOUT);
        assert!(times.is_empty());
    }

    #[test]
    fn what_is_too_old_falls_back_to_the_longest_border_that_is_in_time() {
        let sequence = sequence(&["1", "1", "1", "2"]);
        let mut times = Times::from_slice(&[at(0), at(4), at(8)]);
        sequence.expire(&mut times, at(11), TIMEOUT);
        assert_eq!(times.as_slice(), [at(4), at(8)]);
        sequence.expire(&mut times, at(17), TIMEOUT);
        assert_eq!(times.as_slice(), [at(8)]);
    }

    #[test]
    fn a_knock_that_seems_older_than_the_one_before_it_is_in_time() {
        let sequence = sequence(&["1", "2", "3"]);
        assert_eq!(after(&sequence, &[(9, "1"), (8, "2")]).len(), 2);
    }
}
