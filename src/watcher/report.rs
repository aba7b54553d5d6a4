//! What the keeper gets to hear: every completed sequence, and of the rest no more than it can log.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::engine::{Event, EventKind, Reason};
use crate::ipc::{Channel, Frame, FromWatcher};
use crate::log::limit::Limit;
use crate::time::Monotonic;

/// How many frames wait while the keeper is busy; only completed sequences do.
const WAITING: usize = 4096;
/// How often counts are handed on.
const EVERY: Duration = Duration::from_secs(10);
/// How soon a keeper that did not keep up is tried again.
const RETRY: Duration = Duration::from_millis(2);

/// The watcher's side of the channel.
pub(super) struct Reporter {
    channel: Channel,
    waiting: VecDeque<FromWatcher>,
    verbose: bool,
    /// Anybody can make a first knock, with any source address; further ones take knowledge. So
    /// strangers cannot keep the knocks of those who know out of the log.
    first_knocks: Limit,
    further_knocks: Limit,
    suppressed: u64,
    counts: HashMap<Reason, u64>,
    dropped: u64,
    next_counts: Option<Monotonic>,
}

impl Reporter {
    pub(super) fn new(channel: Channel, verbose: bool) -> Self {
        Self {
            channel,
            waiting: VecDeque::new(),
            verbose,
            first_knocks: Limit::new(100, Duration::from_millis(100)),
            further_knocks: Limit::new(400, Duration::from_millis(20)),
            suppressed: 0,
            counts: HashMap::new(),
            dropped: 0,
            next_counts: None,
        }
    }

    pub(super) const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Reports an event that happened at `at`, or counts it.
    pub(super) fn event(&mut self, at: Monotonic, event: Event) {
        let limit = match event.kind {
            EventKind::Open => {
                self.flush();
                self.send_or_wait(FromWatcher::Event { event, at });
                return;
            }
            EventKind::Reset { reason, .. } if reason != Reason::Timeout && !self.verbose => return,
            EventKind::Stage(stage) | EventKind::Reset { stage, .. } if stage <= 1 => {
                &mut self.first_knocks
            }
            EventKind::Stage(_) | EventKind::Reset { .. } => &mut self.further_knocks,
        };
        if !limit.pass(at) || self.send(&FromWatcher::Event { event, at }).is_err() {
            self.suppressed += 1;
            self.count_later(at);
        }
    }

    /// Counts packets, or beginnings of sequences, that came to nothing.
    pub(super) fn count(&mut self, at: Monotonic, reason: Reason, count: u64) {
        if count > 0 {
            *self.counts.entry(reason).or_default() += count;
            self.count_later(at);
        }
    }

    /// Adds to the packets that the kernel dropped.
    pub(super) fn dropped(&mut self, at: Monotonic, count: u64) {
        if count > 0 {
            self.dropped += count;
            self.count_later(at);
        }
    }

    fn count_later(&mut self, at: Monotonic) {
        self.next_counts.get_or_insert(at + EVERY);
    }

    /// Reports something that must not be lost.
    pub(super) fn say(&mut self, frame: FromWatcher) {
        self.flush();
        self.send_or_wait(frame);
    }

    fn send_or_wait(&mut self, frame: FromWatcher) {
        if (!self.waiting.is_empty() || self.send(&frame).is_err()) && self.waiting.len() < WAITING
        {
            self.waiting.push_back(frame);
        }
    }

    fn send(&self, frame: &impl Frame) -> std::io::Result<()> {
        self.channel.send(frame)
    }

    fn flush(&mut self) {
        while let Some(frame) = self.waiting.front() {
            if self.send(frame).is_err() {
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// Sends what is due by now.
    pub(super) fn poll(&mut self, now: Monotonic) {
        self.flush();
        if self.next_counts.is_some_and(|next| next <= now) {
            self.send_counts();
        }
    }

    /// Sends what has been counted, whether it is due or not.
    pub(super) fn send_counts(&mut self) {
        self.next_counts = None;
        for (reason, count) in std::mem::take(&mut self.counts) {
            self.say(FromWatcher::Count { reason, count });
        }
        for (count, frame) in [
            (self.suppressed, FromWatcher::Suppressed { count: self.suppressed }),
            (self.dropped, FromWatcher::Dropped { count: self.dropped }),
        ] {
            if count > 0 {
                self.say(frame);
            }
        }
        (self.suppressed, self.dropped) = (0, 0);
    }

    /// When [`poll`](Self::poll) has to be called next.
    pub(super) fn next_deadline(&self, now: Monotonic) -> Option<Monotonic> {
        if self.waiting.is_empty() { self.next_counts } else { Some(now + RETRY) }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::engine::DoorId;
    use crate::ipc::Received;
    use crate::sys::files::frame_channel;

    fn at(millis: u64) -> Monotonic {
        Monotonic::ZERO + Duration::from_secs(100) + Duration::from_millis(millis)
    }

    fn event(kind: EventKind) -> Event {
        let source = IpAddr::from([192, 0, 2, 2]);
        Event { door: DoorId(0), source, kind, began: at(0) }
    }

    fn pair(verbose: bool) -> (Reporter, Channel) {
        let (ours, theirs) = frame_channel().unwrap();
        (Reporter::new(Channel::new(ours), verbose), Channel::new(theirs))
    }

    fn heard(keeper: &Channel) -> Vec<FromWatcher> {
        std::iter::from_fn(|| match keeper.receive() {
            Received::Frame(frame) => Some(frame),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn a_flood_of_first_knocks_hides_neither_later_stages_nor_itself() {
        let (mut reporter, keeper) = pair(false);
        for _ in 0..100_000 {
            reporter.event(at(0), event(EventKind::Stage(1)));
        }
        assert_eq!(heard(&keeper).len(), 100);
        reporter.event(at(0), event(EventKind::Stage(2)));
        assert_eq!(heard(&keeper).len(), 1);
        reporter.poll(at(10_000));
        assert_eq!(heard(&keeper), [FromWatcher::Suppressed { count: 99_900 }]);
    }

    #[test]
    fn no_completed_sequence_is_lost_while_the_keeper_is_busy() {
        let (mut reporter, keeper) = pair(false);
        for _ in 0..2000 {
            reporter.event(at(0), event(EventKind::Open));
        }
        let mut count = 0;
        while count < 2000 {
            let frames = heard(&keeper).len();
            assert!(frames > 0, "{count} of 2000 came");
            count += frames;
            reporter.poll(at(1));
        }
        assert_eq!(reporter.next_deadline(at(1)), None);
    }

    #[test]
    fn only_a_debug_log_is_told_of_broken_sequences() {
        let reset = EventKind::Reset { stage: 2, reason: Reason::TripWire };
        for verbose in [false, true] {
            let (mut reporter, keeper) = pair(verbose);
            reporter.event(at(0), event(reset));
            assert_eq!(!heard(&keeper).is_empty(), verbose);
        }
    }

    #[test]
    fn what_came_to_nothing_is_handed_on_as_a_number() {
        let (mut reporter, keeper) = pair(false);
        for _ in 0..5 {
            reporter.count(at(0), Reason::Duplicate, 1);
        }
        assert_eq!(reporter.next_deadline(at(0)), Some(at(10_000)));
        reporter.poll(at(10_000));
        let expected = FromWatcher::Count { reason: Reason::Duplicate, count: 5 };
        assert_eq!(heard(&keeper), [expected]);
    }
}
