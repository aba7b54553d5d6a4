//! Advances, expires and locks out one source's attempts, and reports the events.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::doors::{Candidate, DoorIndex, Track, TrackId, TrackKind};
use super::lockout::Lockouts;
use super::sequence::{CompiledSequence, Times};
use super::totp::{CompleteMatch, DoorRotation, Matched, RecentKnocks, Searches, Stage};
use super::tracker::{Attempt, Knocks, Source};
use super::{CompletedBy, DoorId, Event, EventKind, Reason, ReportWindow};
use crate::config::Lockout;
use crate::proto::Knock;
use crate::time::{Monotonic, Now};

/// A list of one source's events, but for those of sequences that began outside the window.
pub(super) struct EventSink<'a> {
    pub(super) source: IpAddr,
    pub(super) window: ReportWindow,
    pub(super) events: &'a mut Vec<Event>,
}

impl EventSink<'_> {
    pub(super) fn emit(&mut self, door: Option<DoorId>, began: Monotonic, kind: EventKind) {
        if self.window.contains(began) {
            self.events.push(Event { door, source: self.source, kind, began });
        }
    }

    /// A sequence is broken, and perhaps the latest knocks still form the beginning of another.
    /// `knock`: the one that broke the sequence, unless its time was over.
    fn emit_reset(
        &mut self,
        door: Option<DoorId>,
        (before, after): (Stage, Stage),
        reason: Reason,
        knock: Option<Knock>,
    ) {
        if before.knocks > 0 {
            let kind = EventKind::Reset { stage: before.knocks, reason, knock };
            self.emit(door, before.began, kind);
        }
        if after.knocks > 0 {
            self.emit(door, after.began, EventKind::Stage { stage: after.knocks, knock });
        }
    }
}

/// One packet or deadline of one source: what it needs of the engine, and what came of it.
pub(super) struct Advance<'a> {
    pub(super) doors: &'a DoorIndex,
    /// Who is not listened to at any door.
    pub(super) lockout: Option<Lockout>,
    pub(super) lockouts: &'a mut Lockouts,
    pub(super) searches: &'a mut Searches,
    pub(super) now: Now,
    pub(super) sink: EventSink<'a>,
    /// The rotating sequences that have opened a door.
    pub(super) opened: SmallVec<[(TrackId, CompleteMatch); 1]>,
    /// Whether the knock has broken a sequence.
    pub(super) is_broken: bool,
}

impl Advance<'_> {
    /// Ends the attempts that are too old.
    pub(super) fn expire(&mut self, source: &mut Source) {
        if !source.is_due(self.now.monotonic) {
            return;
        }
        source.attempts.retain(|attempt| {
            let Some(track) = self.doors.track(attempt.track) else { return false };
            let timeout = self.doors.timeout(attempt.track);
            let (before, after) = match (&track.kind, &mut attempt.knocks) {
                (TrackKind::Fixed(sequence), Knocks::Fixed(times)) => {
                    let before = stage(times);
                    sequence.expire(times, self.now.monotonic, timeout);
                    (before, stage(times))
                }
                (TrackKind::Rotating(rotation), Knocks::Rotating(recent)) => {
                    let before = recent.stage;
                    recent.expire(self.now.monotonic, timeout);
                    if self.now.monotonic.since(before.began) > timeout {
                        recent.stage = rotation.stage_of(recent, self.now);
                    }
                    (before, recent.stage)
                }
                _ => return false,
            };
            if after.knocks < before.knocks {
                self.sink.emit_reset(Some(track.door), (before, after), Reason::Timeout, None);
            }
            attempt.oldest().is_some()
        });
        if source.attempts.is_empty() {
            source.duplicates.give_up();
        }
    }

    /// Takes a knock to every track that it may start and every attempt whose track sees it, in
    /// the order of the doors.
    ///
    /// # Errors
    /// [`Reason::LockedOut`] where those whom it concerns do not listen to this source.
    pub(super) fn knock(
        &mut self,
        source: &mut Source,
        candidate: &Candidate,
    ) -> Result<(), Reason> {
        let attempts = &mut source.attempts;
        let under_way = attempts.len();
        let mut locked = false;
        let may_start = self.sink.window.until.is_none_or(|until| self.now.monotonic <= until);
        for id in self.doors.starting(candidate).filter(|_| may_start) {
            if attempts[..under_way].binary_search_by_key(&id, |attempt| attempt.track).is_ok() {
                continue;
            }
            let Some(track) = self.doors.track(id) else { continue };
            if self.is_locked_out(track) {
                locked = true;
                continue;
            }
            let knocks = match track.kind {
                TrackKind::Fixed(_) => Knocks::Fixed(Times::new()),
                TrackKind::Rotating(_) => Knocks::Rotating(Box::default()),
            };
            attempts.push(Attempt { track: id, bloom: track.bloom, knocks });
        }
        if !attempts.is_sorted_by_key(|attempt| attempt.track) {
            attempts.sort_by_key(|attempt| attempt.track);
        }
        let (mut heard, mut ended) = (false, false);
        for attempt in attempts.iter_mut().filter(|attempt| attempt.bloom.includes(candidate)) {
            let Some(track) = self.doors.matching(attempt.track, candidate) else { continue };
            if self.is_locked_out(track) {
                locked = true;
                continue;
            }
            heard = true;
            match (&track.kind, &mut attempt.knocks) {
                (TrackKind::Fixed(sequence), Knocks::Fixed(times)) => {
                    self.advance(track, sequence, times, candidate);
                }
                (TrackKind::Rotating(rotation), Knocks::Rotating(recent)) => {
                    self.turn(attempt.track, track, rotation, recent, candidate);
                }
                _ => {}
            }
            ended |= attempt.oldest().is_none();
        }
        if ended {
            attempts.retain(|attempt| attempt.oldest().is_some());
        }
        if self.is_broken && self.count(self.lockout, None, None, Stage::default()) {
            source.attempts.clear();
        }
        if locked && !heard { Err(Reason::LockedOut) } else { Ok(()) }
    }

    /// A knock at a door with a sequence of its own.
    fn advance(
        &mut self,
        track: &Track,
        sequence: &CompiledSequence,
        times: &mut Times,
        candidate: &Candidate,
    ) {
        if sequence.repeat(times, candidate.knock, self.now.monotonic) {
            return;
        }
        let before = stage(times);
        sequence.advance(times, candidate.knock, self.now.monotonic);
        let after = stage(times);
        if after.knocks <= before.knocks {
            let is_its_own = sequence.knocks.contains(&candidate.knock);
            let reason = if is_its_own { Reason::WrongKnock } else { Reason::TripWire };
            self.emit_broken(track, (before, after), reason, candidate.knock);
            if before.knocks > 0 {
                self.count(track.lockout, Some(track.door), None, after);
            }
        } else if times.len() == sequence.knocks.len() {
            times.clear();
            let kind = EventKind::Open(CompletedBy::Sequence);
            self.sink.emit(Some(track.door), after.began, kind);
        } else {
            let (stage, knock) = (after.knocks, Some(candidate.knock));
            self.sink.emit(Some(track.door), after.began, EventKind::Stage { stage, knock });
        }
    }

    /// A knock at a door whose sequences rotate.
    fn turn(
        &mut self,
        id: TrackId,
        track: &Track,
        rotation: &DoorRotation,
        recent: &mut RecentKnocks,
        candidate: &Candidate,
    ) {
        let length = rotation.scheme.length();
        let source = self.sink.source;
        let again = recent.push(candidate.knock, self.now.monotonic, length);
        let (before, after) = match rotation.recognise(recent, self.now) {
            Matched::Partial(stage) => (std::mem::replace(&mut recent.stage, stage), stage),
            Matched::Complete(complete) => {
                recent.clear();
                self.searches.forget(id, source);
                self.emit_match(id, track, length, complete);
                return;
            }
        };
        if after.knocks > before.knocks {
            let (stage, knock) = (after.knocks, Some(candidate.knock));
            self.sink.emit(Some(track.door), after.began, EventKind::Stage { stage, knock });
        } else if !again {
            // Every port of the range is a trip-wire, but for the one that is next.
            self.emit_broken(track, (before, after), Reason::TripWire, candidate.knock);
        }
        if !again {
            self.searches.suggest(id, source, rotation, recent, self.now);
            let knocks = Some((length, after.knocks.into()));
            self.count(track.lockout, Some(track.door), knocks, after);
        }
    }

    fn emit_match(&mut self, id: TrackId, track: &Track, length: usize, complete: CompleteMatch) {
        let CompleteMatch { client, step, began, refused, .. } = complete;
        let kind = match refused {
            None => {
                self.opened.push((id, complete));
                EventKind::Open(CompletedBy::Totp { client, step })
            }
            Some(reason) => EventKind::Reset { stage: length as u8, reason, knock: None },
        };
        self.sink.emit(Some(track.door), began, kind);
        self.lockouts.forget_knocks(track.door, self.sink.source, refused.is_none());
    }

    fn emit_broken(&mut self, track: &Track, stages: (Stage, Stage), reason: Reason, knock: Knock) {
        self.is_broken |= stages.0.knocks > 0;
        self.sink.emit_reset(Some(track.door), stages, reason, Some(knock));
    }

    fn is_locked_out(&self, track: &Track) -> bool {
        let (door, source, now) = (Some(track.door), self.sink.source, self.now.monotonic);
        track.lockout.is_some() && self.lockouts.until(door, source, now).is_some()
    }

    /// Counts a failure, or knocks that may be one, against the source if there is a rule, and
    /// reports that it is locked out for that, if it is. `stage`: what its latest knocks form now.
    fn count(
        &mut self,
        rule: Option<Lockout>,
        door: Option<DoorId>,
        knocks: Option<(usize, usize)>,
        stage: Stage,
    ) -> bool {
        let (source, now) = (self.sink.source, self.now.monotonic);
        let until = rule.and_then(|rule| self.lockouts.count(&rule, door, source, knocks, now));
        let Some(until) = until else { return false };
        let began = if stage.knocks > 0 { stage.began } else { now };
        self.sink.emit(door, began, EventKind::LockedOut { until });
        true
    }
}

/// How far a source has come with a fixed sequence, of no more than 32 knocks.
fn stage(times: &Times) -> Stage {
    Stage {
        knocks: u8::try_from(times.len()).unwrap_or(u8::MAX),
        began: times.first().copied().unwrap_or_default(),
    }
}
