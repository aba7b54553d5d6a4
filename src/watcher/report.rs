//! Reports to the keeper: every completed sequence, and of the rest no more than it can log.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::engine::{DoorId, Event, EventKind, Reason, Refusal};
use crate::ipc::{Channel, ExplainFilter, FromWatcher};
use crate::log::limit::Limit;
use crate::proto::push_latest;
use crate::time::Monotonic;
use crate::wire::Packet;

/// How many frames wait while the keeper is busy; only completed sequences do.
const WAITING: usize = 4096;
/// How much of that may be about one door: the others still have room while it is flooded.
const WAITING_OF_A_DOOR: usize = 3072;
/// How many events are kept until the keeper has said where to begin.
const HELD_BACK: usize = 4096;
/// How often counts are handed on.
const COUNTS_EVERY: Duration = Duration::from_secs(1);
/// How often the log says how much was left out.
const SUPPRESSED_EVERY: Duration = Duration::from_secs(10);
/// How much is remembered for whoever asks later, of each kind.
const REMEMBERED: usize = 1024;
/// How soon a keeper that did not keep up is tried again.
const RETRY: Duration = Duration::from_millis(2);

/// The watcher's side of the channel.
pub(super) struct Reporter {
    pub(super) channel: Channel,
    waiting: VecDeque<FromWatcher>,
    /// What waits for the keeper to say what is this watcher's to tell; `None`: it has.
    held_back: Option<VecDeque<FromWatcher>>,
    verbose: bool,
    /// Anybody can make a first knock, with any source address; further ones take knowledge. So
    /// strangers cannot keep the knocks of those who know out of the log, and a flood pushes only
    /// itself out of the memory.
    first_knocks: Limited,
    further_knocks: Limited,
    suppressed: u64,
    counts: HashMap<Reason, u64>,
    next_counts: Option<Monotonic>,
    next_suppressed: Option<Monotonic>,
    asked: ExplainFilter,
}

/// The reports that strangers or clients may cause at will: as much of it is told as its limit
/// allows. The rest that happened lately is remembered for whoever asks why a knock did not open.
/// What has been told
/// the keeper remembers.
struct Limited {
    limit: Limit,
    untold: VecDeque<(IpAddr, Monotonic, FromWatcher)>,
}

impl Limited {
    const fn new(burst: u32, interval: Duration) -> Self {
        Self { limit: Limit::new(burst, interval), untold: VecDeque::new() }
    }

    fn remember(&mut self, source: IpAddr, at: Monotonic, happened: FromWatcher) {
        push_latest(&mut self.untold, REMEMBERED, (source, at, happened));
    }
}

impl Reporter {
    pub(super) fn new(channel: Channel, verbose: bool) -> Self {
        Self {
            channel,
            waiting: VecDeque::new(),
            held_back: Some(VecDeque::new()),
            verbose,
            first_knocks: Limited::new(100, Duration::from_millis(100)),
            further_knocks: Limited::new(400, Duration::from_millis(20)),
            suppressed: 0,
            counts: HashMap::new(),
            next_counts: None,
            next_suppressed: None,
            asked: ExplainFilter::Nobody,
        }
    }

    /// Reports an event that happened at `at`, or counts it.
    fn event(&mut self, at: Monotonic, event: Event) {
        let frame = FromWatcher::Event { event, at };
        let further = match event.kind {
            EventKind::Open(_) | EventKind::LockedOut { .. } => return self.say(frame),
            EventKind::Missed { .. } | EventKind::Unmatched => true,
            EventKind::Stage { stage, .. } | EventKind::Reset { stage, .. } => stage > 1,
        };
        let past = FromWatcher::ReplayedEvent { event, at };
        if let EventKind::Reset { reason, .. } = event.kind {
            self.count(at, reason, 1);
            let is_for_all = matches!(reason, Reason::Used | Reason::Expired | Reason::Timeout);
            if !is_for_all && !self.verbose && !self.asked.includes(event.source) {
                return self.limited(further).remember(event.source, at, past);
            }
        }
        self.send_limited(at, further, event.source, [frame, past]);
    }

    const fn limited(&mut self, further: bool) -> &mut Limited {
        if further { &mut self.further_knocks } else { &mut self.first_knocks }
    }

    /// Reports what strangers or clients may cause at will as often as their limit allows; the rest
    /// is counted, and remembered as `past`.
    fn send_limited(
        &mut self,
        at: Monotonic,
        further: bool,
        source: IpAddr,
        [frame, past]: [FromWatcher; 2],
    ) {
        if !self.limited(further).limit.pass(at) || self.channel.send(&frame).is_err() {
            self.limited(further).remember(source, at, past);
            self.suppressed += 1;
            self.next_suppressed.get_or_insert(at + SUPPRESSED_EVERY);
        }
    }

    /// Counts a packet that came to nothing, and tells whoever asks about its source.
    pub(super) fn ignored(&mut self, at: Monotonic, packet: &Packet, reason: Reason) {
        self.count(at, reason, 1);
        // The filter passes some packets that no door watches; nobody knocked with them.
        if reason == Reason::NotWatched {
            return;
        }
        let seen =
            FromWatcher::Ignored { source: packet.source, knock: packet.knock(), reason, at };
        let is_asked = self.asked.includes(packet.source) && self.first_knocks.limit.pass(at);
        let is_told = is_asked && self.channel.send(&seen).is_ok();
        // Anybody can send any number of those: they push nothing else out.
        if !is_told && reason != Reason::BadTag {
            self.first_knocks.remember(packet.source, at, seen);
        }
    }

    /// From now on somebody asks about these; tells what is remembered of them, in the order in
    /// which it happened.
    pub(super) fn explain(&mut self, asked: ExplainFilter) {
        self.asked = asked;
        let mut wanted = Vec::new();
        for limited in [&mut self.first_knocks, &mut self.further_knocks] {
            let all = std::mem::take(&mut limited.untold).into_iter();
            let told;
            (told, limited.untold) = all.partition(|&(source, ..)| asked.includes(source));
            wanted.extend(told);
        }
        wanted.sort_by_key(|&(_, at, _)| at);
        for (.., happened) in wanted {
            self.say(happened);
        }
    }

    /// Reports events that happened at `at`, or counts them.
    pub(super) fn events(&mut self, at: Monotonic, events: &[Event]) {
        events.iter().for_each(|&event| self.report(FromWatcher::Event { event, at }));
    }

    /// Reports what a packet has brought about, or counts it. It waits until it is known what is
    /// this watcher's to tell.
    pub(super) fn report(&mut self, happened: FromWatcher) {
        if let Some(held_back) = &mut self.held_back {
            return push_latest(held_back, HELD_BACK, happened);
        }
        match happened {
            FromWatcher::Event { event, at } => self.event(at, event),
            FromWatcher::Refused { refusal, at } => self.refused(at, refusal),
            other => self.say(other),
        }
    }

    /// What began after this is this watcher's to tell.
    pub(super) fn begin(&mut self, after: Monotonic) {
        for happened in self.held_back.take().unwrap_or_default() {
            let began = match happened {
                FromWatcher::Event { event, .. } => event.began,
                FromWatcher::Request { at, .. } | FromWatcher::Refused { at, .. } => at,
                _ => continue,
            };
            if began > after {
                self.report(happened);
            }
        }
    }

    /// Counts an authenticated datagram that may not have what it asks for, and says so.
    fn refused(&mut self, at: Monotonic, refusal: Refusal) {
        self.count(at, refusal.reason, 1);
        let frames =
            [FromWatcher::Refused { refusal, at }, FromWatcher::ReplayedRefusal { refusal, at }];
        self.send_limited(at, true, refusal.source, frames);
    }

    /// Counts packets, or beginnings of sequences, that came to nothing.
    pub(super) fn count(&mut self, at: Monotonic, reason: Reason, count: u64) {
        if count > 0 {
            *self.counts.entry(reason).or_default() += count;
            self.next_counts.get_or_insert(at + COUNTS_EVERY);
        }
    }

    /// Reports something that must not be lost. What finds no room is counted: a completed knock
    /// leaves a trace at least.
    pub(super) fn say(&mut self, frame: FromWatcher) {
        self.flush();
        if self.waiting.is_empty() && self.channel.send(&frame).is_ok() {
            return;
        }
        let door = door_of(&frame);
        let of_door = |it: &&FromWatcher| door.is_some() && door_of(it) == door;
        let is_full = self.waiting.len() >= WAITING
            || self.waiting.iter().filter(of_door).count() >= WAITING_OF_A_DOOR;
        if !is_full {
            self.waiting.push_back(frame);
        } else if door.is_some() {
            self.count(Monotonic::ZERO, Reason::TooMany, 1);
        }
    }

    fn flush(&mut self) {
        while let Some(frame) = self.waiting.front()
            && self.channel.send(frame).is_ok()
        {
            self.waiting.pop_front();
        }
    }

    /// Sends what is due by now.
    pub(super) fn poll(&mut self, now: Monotonic) {
        self.flush();
        if self.next_counts.is_some_and(|next| next <= now) {
            self.send_counts();
        }
        if self.next_suppressed.is_some_and(|next| next <= now) {
            self.send_suppressed();
        }
    }

    /// Sends what has been counted, whether it is due or not.
    pub(super) fn send_all(&mut self) {
        self.send_counts();
        self.send_suppressed();
    }

    fn send_counts(&mut self) {
        self.next_counts = None;
        for (reason, count) in std::mem::take(&mut self.counts) {
            self.say(FromWatcher::Count { reason, count });
        }
    }

    fn send_suppressed(&mut self) {
        self.next_suppressed = None;
        let count = std::mem::take(&mut self.suppressed);
        if count > 0 {
            self.say(FromWatcher::Suppressed { count });
        }
    }

    /// When [`poll`](Self::poll) has to be called next.
    pub(super) fn next_deadline(&self, now: Monotonic) -> Option<Monotonic> {
        let retry = (!self.waiting.is_empty()).then(|| now + RETRY);
        [retry, self.next_counts, self.next_suppressed].into_iter().flatten().min()
    }
}

/// The door that somebody has knocked at, or asks for.
const fn door_of(frame: &FromWatcher) -> Option<DoorId> {
    match frame {
        FromWatcher::Event { event, .. } => event.door,
        FromWatcher::Request { request, .. } => Some(request.door),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::engine::CompletedBy;
    use crate::ipc::Received;
    use crate::proto::method::Method;
    use crate::sys::descriptors::frame_channel;
    use crate::wire::Transport;

    fn at(millis: u64) -> Monotonic {
        Monotonic::ZERO + Duration::from_secs(100) + Duration::from_millis(millis)
    }

    fn event(kind: EventKind) -> Event {
        let source = IpAddr::from([192, 0, 2, 2]);
        Event { door: Some(DoorId(0)), source, kind, began: at(0) }
    }

    fn pair(verbose: bool) -> (Reporter, Channel) {
        let (ours, theirs) = frame_channel().unwrap();
        let mut reporter = Reporter::new(Channel(ours), verbose);
        reporter.begin(Monotonic::ZERO);
        (reporter, Channel(theirs))
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
            reporter.event(at(0), event(EventKind::Stage { stage: 1, knock: None }));
        }
        assert_eq!(heard(&keeper).len(), 100);
        reporter.event(at(0), event(EventKind::Stage { stage: 2, knock: None }));
        assert_eq!(heard(&keeper).len(), 1);
        reporter.poll(at(10_000));
        assert_eq!(heard(&keeper), [FromWatcher::Suppressed { count: 99_900 }]);
    }

    #[test]
    fn no_completed_sequence_is_lost_while_the_keeper_is_busy() {
        let (mut reporter, keeper) = pair(false);
        for _ in 0..2000 {
            reporter.event(at(0), event(EventKind::Open(CompletedBy::Sequence)));
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
    fn a_flood_at_one_door_leaves_room_for_another_and_is_counted() {
        let (mut reporter, keeper) = pair(false);
        let open = event(EventKind::Open(CompletedBy::Sequence));
        (0..20_000).for_each(|_| reporter.event(at(0), open));
        reporter.event(at(0), Event { door: Some(DoorId(1)), ..open });
        let (mut told, mut lost, mut other) = (0, 0, 0);
        loop {
            let frames = heard(&keeper);
            if frames.is_empty() {
                break;
            }
            for frame in frames {
                match frame {
                    FromWatcher::Event { event, .. } if event.door == Some(DoorId(1)) => other += 1,
                    FromWatcher::Event { .. } => told += 1,
                    FromWatcher::Count { reason: Reason::TooMany, count } => lost += count,
                    frame => panic!("{frame:?}"),
                }
            }
            reporter.poll(at(1));
        }
        assert_eq!((told + lost, other), (20_000, 1));
        assert!(lost > 0);
    }

    #[test]
    fn only_a_debug_log_is_told_of_broken_sequences() {
        let reset = EventKind::Reset { stage: 2, reason: Reason::TripWire, knock: None };
        for verbose in [false, true] {
            let (mut reporter, keeper) = pair(verbose);
            reporter.event(at(0), event(reset));
            assert_eq!(!heard(&keeper).is_empty(), verbose);
        }
    }

    #[test]
    fn whoever_asks_later_is_told_of_requests_that_were_refused_and_not_told_of() {
        let (mut reporter, keeper) = pair(false);
        let source = IpAddr::from([192, 0, 2, 2]);
        let refusal = Refusal::new(Method::Spa, source, Reason::TooOld);
        (0..401).for_each(|_| reporter.report(FromWatcher::Refused { refusal, at: at(1) }));
        let told = heard(&keeper).len();
        assert!((1..401).contains(&told));
        reporter.explain(ExplainFilter::One(IpAddr::from([192, 0, 2, 3])));
        assert_eq!(heard(&keeper), []);
        reporter.explain(ExplainFilter::One(source));
        let past = FromWatcher::ReplayedRefusal { refusal, at: at(1) };
        assert_eq!((heard(&keeper).first(), told <= 400), (Some(&past), true));
    }

    #[test]
    fn whoever_asks_is_told_once_what_was_not_told_and_then_all_there_is() {
        let (mut reporter, keeper) = pair(false);
        let reset = event(EventKind::Reset { stage: 2, reason: Reason::TripWire, knock: None });
        reporter.event(at(1), event(EventKind::Stage { stage: 2, knock: None }));
        reporter.event(at(2), reset);
        reporter.event(at(3), Event { source: IpAddr::from([192, 0, 2, 3]), ..reset });
        heard(&keeper);
        for past in [&[FromWatcher::ReplayedEvent { event: reset, at: at(2) }][..], &[]] {
            reporter.explain(ExplainFilter::One(reset.source));
            assert_eq!(heard(&keeper), past);
        }
        reporter.event(at(4), reset);
        assert_eq!(heard(&keeper), [FromWatcher::Event { event: reset, at: at(4) }]);
    }

    #[test]
    fn junk_is_not_remembered_and_told_only_to_who_asks_meanwhile() {
        let (mut reporter, keeper) = pair(false);
        let source = IpAddr::from([192, 0, 2, 2]);
        let port = NonZeroU16::new(62_201).unwrap();
        let transport = Transport::Udp { source_port: 40_000, port };
        let junk = Packet { source, destination: source, transport, looped: false };
        reporter.ignored(at(0), &junk, Reason::BadTag);
        reporter.explain(ExplainFilter::One(source));
        assert_eq!(heard(&keeper), []);
        reporter.ignored(at(1), &junk, Reason::BadTag);
        let (knock, reason) = (junk.knock(), Reason::BadTag);
        assert_eq!(heard(&keeper), [FromWatcher::Ignored { source, knock, reason, at: at(1) }]);
    }

    #[test]
    fn what_came_to_nothing_is_handed_on_as_a_number() {
        let (mut reporter, keeper) = pair(false);
        for _ in 0..5 {
            reporter.count(at(0), Reason::Duplicate, 1);
        }
        assert_eq!(reporter.next_deadline(at(0)), Some(at(1000)));
        reporter.poll(at(1000));
        let expected = FromWatcher::Count { reason: Reason::Duplicate, count: 5 };
        assert_eq!(heard(&keeper), [expected]);
    }
}
