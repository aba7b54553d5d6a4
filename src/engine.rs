//! The pure core of the watcher: `(now, packet) -> Verdict`.
//!
//! *A door opens when the last n knocks from one source, on that door's ports and trip-wires, are
//! its sequence, in order, all within `seq_timeout`.* The knock just made, made again while another
//! one is wanted, does not count, and neither does a copy or a retransmission of one.

mod advance;
mod doors;
mod duplicates;
pub(crate) mod fwknop;
mod lockout;
mod replay;
mod sequence;
mod setup;
mod source_table;
pub mod spa;
#[cfg(test)]
mod tests;
mod totp;
mod tracker;
mod unclean_start;
mod verdict;
mod waiting;

use std::net::IpAddr;
use std::time::Duration;

use smallvec::SmallVec;

use crate::config::Lockout;
use crate::proto::fwknop::FwknopError;
use crate::proto::{FlagTest, PortSet};
use crate::time::{Monotonic, Now};
use crate::wire::Packet;
use crate::wire::filter::Datagrams;
use advance::{Advance, EventSink};
use doors::{DoorIndex, TrackKind};
use fwknop::FwknopJudge;
use lockout::Lockouts;
use source_table::Visit;
use spa::SpaJudge;
use totp::Searches;
use tracker::Tracker;
use waiting::{WaitingDatagram, WaitingRoom};

pub use doors::Local;
pub use setup::Setup;
pub use totp::SEARCHED;
pub use unclean_start::{Lifetime, MAX_UNFLUSHED_AHEAD, UncleanStart, is_over};
pub use verdict::{
    ClientId, CompletedBy, Credential, DatagramRequest, Denial, DoorId, Event, EventKind,
    Judgement, LockedSource, NAME_LEN, Reason, Refusal, TriedDatagram, Verdict,
};

/// The span in which sequences began that are reported: after `after`, and not after `until`.
///
/// At a hand-over one watcher reports what began up to the cut, the other what began after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportWindow {
    pub after: Option<Monotonic>,
    pub until: Option<Monotonic>,
}

impl ReportWindow {
    fn contains(self, began: Monotonic) -> bool {
        self.after.is_none_or(|after| began > after)
            && self.until.is_none_or(|until| began <= until)
    }
}

/// How many knocks of a source are remembered at the least, to know duplicates.
const REMEMBERED: usize = 16;
/// How many events the buffer keeps room for.
const EVENTS: usize = 1024;
/// How many HMACs one call of [`Engine::work`] is worth: about half a millisecond.
const WORK: usize = 1000;
/// By how much the two clocks drift apart at most unless one of them was set.
const CLOCK_WAS_SET: Duration = Duration::from_secs(1);

/// Recognises knocks: what every source has knocked lately, at every door.
///
/// Memory is bounded by its setup, whatever arrives. Time is an argument; it may
/// go backwards a little from one packet to the next.
#[derive(Debug)]
pub struct Engine {
    doors: DoorIndex,
    tracker: Tracker,
    only_ipv4: bool,
    /// The addresses of this host.
    pub local: Local,
    /// When those sequences began that are spoken of. None that begins after its end is followed.
    pub window: ReportWindow,
    /// How many knocks of a source are remembered.
    remembered: usize,
    lockout: Option<Lockout>,
    lockouts: Lockouts,
    searches: Searches,
    agenda: Agenda,
    events: Vec<Event>,
    /// What [`Self::work`] has yet to tell.
    untold: Vec<Event>,
    spa: Option<SpaJudge>,
    fwknop: Option<FwknopJudge>,
    waiting: WaitingRoom,
    /// What the datagram asked for that was judged last.
    requests: Vec<DatagramRequest>,
}

/// The work that can wait, and when it is due.
#[derive(Debug)]
struct Agenda {
    /// How far calendar time was ahead of the other when this was made up.
    ahead: i128,
    /// When there is something to prepare, and when that has to be done: what holds next is ready
    /// long before, so nobody need wake for it who wakes for something else meanwhile.
    due: Monotonic,
    by: Monotonic,
    /// Whether all sequences that hold are known.
    ready: bool,
}

impl Engine {
    /// An engine that has seen nothing yet, takes every destination for an address of this host
    /// and reports all sequences.
    pub fn new(setup: Setup) -> Self {
        let spa = SpaJudge::new(&setup);
        let fwknop = Some(FwknopJudge::new(&setup)).filter(|fwknop| !fwknop.is_empty());
        let Setup { doors, clients, only_ipv4, sources, lockout, locks, .. } = setup;
        let mut doors = DoorIndex::new(&doors, &clients);
        let rotates = doors.rotations().next().is_some();
        let due = if rotates { Monotonic::ZERO } else { Monotonic::MAX };
        let mut lockouts = Lockouts::new(sources);
        locks.into_iter().for_each(|lock| lockouts.lock(Monotonic::ZERO, lock));
        Self {
            tracker: Tracker::new(sources, doors.most_starting()),
            remembered: doors.longest_sequence().max(REMEMBERED),
            doors,
            only_ipv4,
            local: Local::default(),
            window: ReportWindow::default(),
            lockout,
            lockouts,
            searches: Searches::default(),
            agenda: Agenda { ahead: 0, due, by: due, ready: !rotates },
            events: Vec::new(),
            untold: Vec::new(),
            spa,
            fwknop,
            waiting: WaitingRoom::new(),
            requests: Vec::new(),
        }
    }

    /// Listens to a source no more until then.
    pub fn lock(&mut self, now: Monotonic, lock: LockedSource) {
        self.lockouts.lock(now, lock);
    }

    /// Listens to a source again, at every door, as if it had never failed.
    pub fn unlock(&mut self, source: IpAddr) {
        self.lockouts.unlock(source);
    }

    /// What one packet comes to, with what it carries: a request in one datagram, or a knock.
    pub fn receive(&mut self, now: Now, packet: &Packet, payload: &[u8]) -> Verdict<'_> {
        let native = self.spa.as_mut().and_then(|spa| Some((spa.datagram(packet, payload)?, spa)));
        let may_be_fwknops =
            self.fwknop.as_ref().is_some_and(|fwknop| fwknop.takes(packet, payload));
        if native.is_none() && !may_be_fwknops {
            return self.on_packet(now, packet);
        }
        if self.only_ipv4 && packet.source.is_ipv6() {
            return Verdict::Ignored(Reason::OnlyIpv4);
        }
        if !self.local.can_send(packet.source, packet.looped) {
            return Verdict::Ignored(Reason::ImpossibleAddress);
        }
        if !self.window.contains(now.monotonic) {
            return Verdict::NotOurs;
        }
        if self.lockouts.until(None, packet.source, now.monotonic).is_some() {
            return Verdict::Ignored(Reason::LockedOut);
        }
        if let Some((datagram, spa)) = native {
            match spa.judge(now, packet, datagram) {
                Err(Denial::Ignored(Reason::BadTag)) => {}
                judgement => return self.answer(now, judgement),
            }
        }
        if may_be_fwknops && let Some(fwknop) = &self.fwknop {
            let trials = fwknop.trials(packet.source, payload);
            if trials > 0 && !self.waiting.allows(trials) {
                let is_in = self.waiting.put(now, packet, payload).is_ok();
                return if is_in { Verdict::Waits } else { Verdict::Ignored(Reason::Untried) };
            }
        }
        self.try_keys(now, packet, payload)
    }

    /// What comes of a datagram of fwknop's that has waited; `None`: none is waiting. A call takes
    /// as long as trying the keys of all clients does.
    pub fn try_waiting(&mut self) -> Option<TriedDatagram<'_>> {
        let WaitingDatagram { at, packet, payload } = self.waiting.next()?;
        let verdict = self.try_keys(at, &packet, &payload);
        Some(TriedDatagram { at: at.monotonic, packet, verdict })
    }

    /// Whether [`Self::try_waiting`] has something to do.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What a datagram that is no native request comes to: a request of fwknop's, or a knock.
    fn try_keys(&mut self, now: Now, packet: &Packet, payload: &[u8]) -> Verdict<'_> {
        let may_be_native =
            self.spa.as_ref().is_some_and(|spa| spa.datagram(packet, payload).is_some());
        let mut noise = Reason::BadTag;
        if let Some(fwknop) = self.fwknop.as_mut().filter(|fwknop| fwknop.takes(packet, payload)) {
            match fwknop.judge(now, packet, &self.local, payload) {
                // A native datagram is hardly ever text: whoever sent it did not mean fwknop's.
                Err(Denial::Ignored(Reason::Fwknop(FwknopError::NotBase64))) if may_be_native => {}
                Err(Denial::Ignored(reason @ Reason::Fwknop(_))) => noise = reason,
                judgement => return self.answer(now, judgement),
            }
        }
        // Where a door watches this port too, it may be a knock.
        match self.on_packet(now, packet) {
            Verdict::Ignored(Reason::NotWatched) => Verdict::Ignored(noise),
            other => other,
        }
    }

    /// What a datagram comes to. One that is refused counts against its source.
    fn answer(&mut self, now: Now, judgement: Judgement) -> Verdict<'_> {
        let may_ask = |request: &DatagramRequest| {
            request.networks().all(|network| self.local.may_ask_for(request.source, network))
        };
        let refusal = match judgement {
            Ok(requests) => match requests.iter().find(|request| !may_ask(request)) {
                Some(request) => request.refused(Reason::ImpossibleAddress),
                None => {
                    self.requests = requests;
                    return Verdict::Requests(&self.requests);
                }
            },
            Err(Denial::Ignored(reason)) => return Verdict::Ignored(reason),
            Err(Denial::Refused(refusal)) => refusal,
        };
        if let Some(rule) = &self.lockout
            && let Some(until) =
                self.lockouts.count(rule, None, refusal.source, None, now.monotonic)
        {
            let (source, window) = (refusal.source, self.window);
            let mut sink = EventSink { source, window, events: &mut self.untold };
            sink.emit(None, now.monotonic, EventKind::LockedOut { until });
        }
        Verdict::Refused(refusal)
    }

    /// What one packet comes to, as a knock.
    ///
    /// Where a deadline of its source has passed that [`Self::on_deadline`] has not told yet, the
    /// events begin with it. Those of the packet follow, door by door.
    ///
    /// Rotating sequences that [`Self::work`] has not prepared in time are prepared now.
    pub fn on_packet(&mut self, now: Now, packet: &Packet) -> Verdict<'_> {
        self.start_events();
        if self.only_ipv4 && packet.source.is_ipv6() {
            return Verdict::Ignored(Reason::OnlyIpv4);
        }
        let candidate = match self.doors.classify(packet, &self.local) {
            Ok(candidate) => candidate,
            Err(reason) => return Verdict::Ignored(reason),
        };
        if !self.local.can_send(packet.source, packet.looped) {
            return Verdict::Ignored(Reason::ImpossibleAddress);
        }
        if self.lockouts.until(None, packet.source, now.monotonic).is_some() {
            return Verdict::Ignored(Reason::LockedOut);
        }
        self.doors.make_ready(&candidate, now.wall);
        let remembered = self.remembered;
        let (tracker, mut advance) = self.advance(packet.source, now);
        let heard = tracker.visit(advance.doors, packet.source, Visit::Packet, |source| {
            advance.expire(source);
            if !source.duplicates.record(packet, now.monotonic, remembered) {
                return Err(Reason::Duplicate);
            }
            advance.knock(source, &candidate)
        });
        for (track, complete) in advance.opened {
            if let Some(rotation) = self.doors.rotation(track) {
                rotation.use_up(&complete);
            }
        }
        match heard {
            Err(reason) if self.events.is_empty() => Verdict::Ignored(reason),
            _ => Verdict::Knock(&self.events),
        }
    }

    /// What ended without a packet up to now: sequences that were not completed in time.
    pub fn on_deadline(&mut self, now: Now) -> &[Event] {
        self.start_events();
        while let Some(address) = self.tracker.due(now.monotonic) {
            let (tracker, mut advance) = self.advance(address, now);
            tracker.visit(advance.doors, address, Visit::Deadline, |source| {
                source.duplicates.forget(now.monotonic);
                advance.expire(source);
            });
        }
        &self.events
    }

    /// Does a little of what can wait: prepares rotating sequences before they hold, looks for
    /// clients whose clock is off, and tells which sources were locked out for their datagrams. A
    /// call takes a few milliseconds at most; call again while [`Self::next_work`] has come.
    pub fn work(&mut self, now: Now) -> &[Event] {
        self.start_events();
        self.events.append(&mut self.untold);
        let mut work = WORK;
        self.prepare(now, &mut work);
        self.search(now, &mut work);
        &self.events
    }

    /// When [`Self::work`] has to be called next; it may be long past.
    pub fn next_work(&self) -> Option<Monotonic> {
        let preparation = Some(self.agenda.by).filter(|&by| by < Monotonic::MAX);
        let untold = (!self.untold.is_empty()).then_some(Monotonic::ZERO);
        [preparation, self.next_search(), untold].into_iter().flatten().min()
    }

    /// When [`Self::work`] begins or goes on to look for a client whose clock is off.
    pub fn next_search(&self) -> Option<Monotonic> {
        self.searches.due()
    }

    /// Whether all rotating sequences that hold were known at the last call of [`Self::work`]. If
    /// not, a packet may have to wait until they are.
    pub const fn is_ready(&self) -> bool {
        self.agenda.ready
    }

    /// The first moment at which [`Self::on_deadline`] has something to do.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.tracker.next_deadline()
    }

    /// What each door watches, in their order, and with which TCP flags.
    pub fn watched(&self) -> impl Iterator<Item = (&PortSet, FlagTest)> {
        self.doors.watched()
    }

    /// Which datagrams are looked at for what they carry.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagrams> {
        let fwknop = self.fwknop.iter().flat_map(FwknopJudge::datagrams);
        self.spa.iter().map(SpaJudge::datagrams).chain(fwknop)
    }

    /// Whether nobody is half-way through a sequence: with a window that has ended, there is
    /// nothing left to speak of.
    pub fn is_idle(&self) -> bool {
        self.tracker.totals.attempts == 0
            && self.next_search().is_none()
            && self.untold.is_empty()
            && self.waiting.is_empty()
    }

    /// How many sources are followed now.
    pub fn tracked(&self) -> usize {
        self.tracker.len()
    }

    /// How many beginnings of a sequence were given up, and how many failures not counted, for want
    /// of room, since the start. No event tells of them: there can be one for each packet of a
    /// flood.
    pub fn crowded(&self) -> u64 {
        self.tracker.totals.crowded + self.lockouts.crowded
    }

    /// Prepares rotating sequences, and finds out when there is more to prepare.
    fn prepare(&mut self, now: Now, work: &mut usize) {
        let ahead = i128::from(now.wall.as_nanos()) - i128::from(now.monotonic.as_nanos());
        let was_set = (ahead - self.agenda.ahead).unsigned_abs() > CLOCK_WAS_SET.as_nanos();
        if self.agenda.due <= now.monotonic || (was_set && self.agenda.due < Monotonic::MAX) {
            let (mut due, mut by, mut ready) = (Monotonic::MAX, Monotonic::MAX, true);
            for rotation in self.doors.rotations() {
                rotation.prepare(now.wall, work);
                let idle = rotation.idle(now.wall);
                due = due.min(now.monotonic + idle);
                let slack = if idle.is_zero() { idle } else { rotation.scheme.step_length() / 2 };
                by = by.min(now.monotonic + idle + slack);
                ready &= rotation.is_ready(now.wall);
            }
            self.agenda = Agenda { ahead, due, by, ready };
        }
    }

    /// Looks for clients whose clock is off.
    fn search(&mut self, now: Now, work: &mut usize) {
        while *work > 0
            && let Some(search) = self.searches.running(now.monotonic)
        {
            if let Some(track) = self.doors.track(search.track)
                && let TrackKind::Rotating(rotation) = &track.kind
            {
                let Some(kind) = rotation.search(search, work) else { break };
                let (source, window) = (search.source, self.window);
                let mut sink = EventSink { source, window, events: &mut self.events };
                sink.emit(Some(track.door), search.began, kind);
            }
            self.searches.end();
        }
    }

    /// What listening to a source needs, beside the tracker.
    fn advance(&mut self, source: IpAddr, now: Now) -> (&mut Tracker, Advance<'_>) {
        let Self { doors, tracker, lockout, lockouts, searches, window, events, .. } = self;
        let (lockout, sink) = (*lockout, EventSink { source, window: *window, events });
        let (opened, is_broken) = (SmallVec::new(), false);
        (tracker, Advance { doors, lockout, lockouts, searches, now, sink, opened, is_broken })
    }

    fn start_events(&mut self) {
        self.events.clear();
        self.events.shrink_to(EVENTS);
    }
}
