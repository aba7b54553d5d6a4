//! The pure core of the watcher: `(now, packet) -> Verdict`.
//!
//! *A door opens when the last n knocks from one source, on that door's ports and trip-wires, are
//! its sequence, in order, all within `seq_timeout`.*
#![forbid(unsafe_code)]

mod doors;
mod fwknop;
#[cfg(test)]
mod model;
mod recent;
mod segment;
mod sequence;
pub mod spa;
#[cfg(test)]
mod tests;
mod tracker;
mod verdict;

use std::net::IpAddr;
use std::slice;

use crate::config::Recognition;
use crate::proto::flags::FlagTest;
use crate::proto::ports::PortSet;
use crate::time::{Monotonic, Now};
use crate::wire::Packet;
use crate::wire::filter::Datagrams;
use doors::{Doors, Sight};
use sequence::{Sequence, Times};
use spa::{Answer, Spa};
use tracker::{Attempt, Source, Tracker, Visit};

pub use doors::Local;
pub use fwknop::Fwknop;
pub use verdict::{
    ClientId, Credential, DoorId, Event, EventKind, Knocked, Reason, Refusal, Request, Verdict,
};

/// How the engine is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many sources are followed at once.
    pub sources: usize,
    pub only_ipv4: bool,
}

/// The sequences to speak of: those that began after `after` and not after `until`.
///
/// At a hand-over one watcher reports what began up to the cut, the other what began after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    pub after: Option<Monotonic>,
    pub until: Option<Monotonic>,
}

impl Window {
    fn contains(self, began: Monotonic) -> bool {
        self.after.is_none_or(|after| began > after)
            && self.until.is_none_or(|until| began <= until)
    }
}

/// How many knocks of a source are remembered at the least, to know duplicates.
const RECENT: usize = 16;
/// How many events the buffer keeps room for.
const EVENTS: usize = 1024;

/// Recognises knocks: what every source has knocked lately, at every door.
///
/// Memory is bounded by the options and the doors, whatever arrives. Time is an argument; it may
/// go backwards a little from one packet to the next.
#[derive(Debug)]
pub struct Engine {
    doors: Doors,
    tracker: Tracker,
    only_ipv4: bool,
    local: Local,
    window: Window,
    /// How many knocks of a source are remembered.
    recent: usize,
    events: Vec<Event>,
    spa: Option<Spa>,
    request: Option<Request>,
}

impl Engine {
    /// An engine that has seen nothing yet, takes every destination for an address of this host
    /// and reports all sequences. The place of a door in `doors` is its [`DoorId`].
    #[must_use]
    pub fn new<'a>(doors: impl IntoIterator<Item = &'a Recognition>, options: &Options) -> Self {
        let doors = Doors::new(doors);
        Self {
            tracker: Tracker::new(options.sources, doors.most_starting()),
            recent: doors.longest_sequence().max(RECENT),
            doors,
            only_ipv4: options.only_ipv4,
            local: Local::default(),
            window: Window::default(),
            events: Vec::new(),
            spa: None,
            request: None,
        }
    }

    /// From now on native SPA datagrams are taken too.
    pub fn take_spa(&mut self, spa: Spa) {
        self.spa = Some(spa);
    }

    /// From now on these are the addresses of this host.
    pub fn set_local(&mut self, local: Local) {
        self.local = local;
    }

    /// From now on only sequences that began in this window are spoken of. All are still followed.
    pub fn report(&mut self, window: Window) {
        self.window = window;
    }

    /// What one packet comes to, with what it carries: a request in one datagram, or a knock.
    pub fn receive(&mut self, now: Now, packet: &Packet, payload: &[u8]) -> Verdict<'_> {
        let asked = self.spa.as_mut().and_then(|spa| Some((spa.datagram(packet, payload)?, spa)));
        let Some((datagram, spa)) = asked else { return self.on_packet(now, packet) };
        if self.only_ipv4 && packet.source.is_ipv6() {
            return Verdict::Ignored(Reason::OnlyIpv4);
        }
        if !self.window.contains(now.monotonic) {
            return Verdict::Asked(&[]);
        }
        match spa.judge(now, packet, datagram) {
            // Where a door watches this port too, it may be a knock.
            Answer::Ignored(Reason::BadTag) => match self.on_packet(now, packet) {
                Verdict::Ignored(Reason::NotWatched) => Verdict::Ignored(Reason::BadTag),
                other => other,
            },
            Answer::Ignored(reason) => Verdict::Ignored(reason),
            Answer::Refused(refusal) => Verdict::Refused(refusal),
            Answer::Asked(request) => Verdict::Asked(slice::from_ref(self.request.insert(request))),
        }
    }

    /// What one packet comes to, as a knock.
    ///
    /// Where a deadline of its source has passed that [`Self::on_deadline`] has not told yet, the
    /// events begin with it. Those of the packet follow, door by door.
    pub fn on_packet(&mut self, now: Now, packet: &Packet) -> Verdict<'_> {
        self.start_events();
        if self.only_ipv4 && packet.source.is_ipv6() {
            return Verdict::Ignored(Reason::OnlyIpv4);
        }
        let sight = match self.doors.look(packet, &self.local) {
            Ok(sight) => sight,
            Err(reason) => return Verdict::Ignored(reason),
        };
        let now = now.monotonic;
        let Self { doors, tracker, window, recent, events, .. } = self;
        let mut teller = Teller { source: packet.source, window: *window, events };
        let is_knock = tracker.visit(doors, packet.source, Visit::Packet, |source| {
            if !source.recent.record(packet, now, *recent) {
                return false;
            }
            expire(source, doors, now, &mut teller);
            knock(source, doors, &sight, now, &mut teller);
            true
        });
        if is_knock { Verdict::Knock(&self.events) } else { Verdict::Ignored(Reason::Duplicate) }
    }

    /// What ended without a packet up to now: sequences that were not completed in time.
    pub fn on_deadline(&mut self, now: Now) -> &[Event] {
        self.start_events();
        let now = now.monotonic;
        while let Some(address) = self.tracker.due(now) {
            let Self { doors, tracker, window, events, .. } = self;
            let mut teller = Teller { source: address, window: *window, events };
            tracker.visit(doors, address, Visit::Deadline, |source| {
                source.recent.forget(now);
                expire(source, doors, now, &mut teller);
            });
        }
        &self.events
    }

    /// The first moment at which [`Self::on_deadline`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.tracker.next_deadline()
    }

    /// What each door watches, in their order, and with which TCP flags.
    pub fn watched(&self) -> impl Iterator<Item = (&PortSet, FlagTest)> {
        self.doors.watched()
    }

    /// Which datagrams are looked at for what they carry.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagrams> {
        self.spa.iter().map(Spa::datagrams)
    }

    /// How many sources are followed now.
    #[must_use]
    pub fn tracked(&self) -> usize {
        self.tracker.len()
    }

    /// How many beginnings of a sequence were given up for want of room, since the start. No event
    /// tells of them: there can be one for each packet of a flood.
    #[must_use]
    pub const fn crowded(&self) -> u64 {
        self.tracker.crowded()
    }

    fn start_events(&mut self) {
        self.events.clear();
        self.events.shrink_to(EVENTS);
    }
}

/// Tells what happens to one source.
struct Teller<'a> {
    source: IpAddr,
    window: Window,
    events: &'a mut Vec<Event>,
}

impl Teller<'_> {
    fn tell(&mut self, door: DoorId, began: Monotonic, kind: EventKind) {
        if self.window.contains(began) {
            self.events.push(Event { door, source: self.source, kind, began });
        }
    }

    /// A sequence is broken, and perhaps its latest knocks still form the beginning of another.
    fn tell_reset(&mut self, door: DoorId, before: &Progress, after: &Times, reason: Reason) {
        if let Some(began) = before.began {
            self.tell(door, began, EventKind::Reset { stage: before.stage, reason });
        }
        if let Some(&began) = after.first() {
            self.tell(door, began, EventKind::Stage(stage(after)));
        }
    }
}

/// How far a source had come at a door.
struct Progress {
    began: Option<Monotonic>,
    stage: u8,
}

impl Progress {
    fn of(times: &Times) -> Self {
        Self { began: times.first().copied(), stage: stage(times) }
    }
}

/// No sequence is longer than 32 knocks.
fn stage(times: &Times) -> u8 {
    u8::try_from(times.len()).unwrap_or(u8::MAX)
}

/// Ends the attempts that are too old.
fn expire(source: &mut Source, doors: &Doors, now: Monotonic, teller: &mut Teller<'_>) {
    if !source.is_due(now) {
        return;
    }
    source.attempts.retain(|attempt| {
        let Some(sequence) = doors.sequence(attempt.door) else { return false };
        let before = Progress::of(&attempt.times);
        sequence.expire(&mut attempt.times, now, doors.timeout(attempt.door));
        if stage(&attempt.times) < before.stage {
            teller.tell_reset(attempt.door, &before, &attempt.times, Reason::Timeout);
        }
        !attempt.times.is_empty()
    });
}

/// Takes a knock to every door that it starts at and every attempt whose door sees it, in the
/// order of the doors.
fn knock(
    source: &mut Source,
    doors: &Doors,
    sight: &Sight,
    now: Monotonic,
    teller: &mut Teller<'_>,
) {
    let attempts = &mut source.attempts;
    let under_way = attempts.len();
    for door in doors.starting(sight) {
        if attempts[..under_way].binary_search_by_key(&door, |attempt| attempt.door).is_err() {
            attempts.push(Attempt { door, reach: doors.reach(door), times: Times::new() });
        }
    }
    if !attempts.is_sorted_by_key(|attempt| attempt.door) {
        attempts.sort_by_key(|attempt| attempt.door);
    }
    let mut ended = false;
    for attempt in attempts.iter_mut().filter(|attempt| attempt.reach.includes(sight)) {
        if let Some(sequence) = doors.seeing(attempt.door, sight) {
            advance(attempt, sequence, sight, now, teller);
            ended |= attempt.times.is_empty();
        }
    }
    if ended {
        attempts.retain(|attempt| !attempt.times.is_empty());
    }
}

fn advance(
    attempt: &mut Attempt,
    sequence: &Sequence,
    sight: &Sight,
    now: Monotonic,
    teller: &mut Teller<'_>,
) {
    let before = Progress::of(&attempt.times);
    let length = attempt.times.len();
    sequence.advance(&mut attempt.times, sight.knock, now);
    if attempt.times.len() <= length {
        let reason =
            if sequence.contains(sight.knock) { Reason::WrongKnock } else { Reason::TripWire };
        teller.tell_reset(attempt.door, &before, &attempt.times, reason);
        return;
    }
    let began = attempt.times.first().copied().unwrap_or(now);
    if sequence.is_complete(&attempt.times) {
        attempt.times.clear();
        teller.tell(attempt.door, began, EventKind::Open(Knocked::Sequence));
    } else {
        teller.tell(attempt.door, began, EventKind::Stage(stage(&attempt.times)));
    }
}
