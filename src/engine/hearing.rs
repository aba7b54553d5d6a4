//! Advances, expires and locks out one source's attempts, and reports the events.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::doors::{Doors, Sight, Track, TrackId, Way};
use super::lockout::Lockouts;
use super::sequence::{Sequence, Times};
use super::totp::{Outcome, Rotation, Searches, Stage, Standing, Tail, Whole};
use super::tracker::{Attempt, Knocks, Source};
use super::{DoorId, Event, EventKind, Knocked, Reason, ReportWindow};
use crate::config::Lockout;
use crate::proto::knock::Knock;
use crate::time::{Monotonic, Now};

/// Tells what happens to one source.
pub(super) struct Teller<'a> {
    source: IpAddr,
    window: ReportWindow,
    events: &'a mut Vec<Event>,
}

impl<'a> Teller<'a> {
    pub(super) const fn new(
        source: IpAddr,
        window: ReportWindow,
        events: &'a mut Vec<Event>,
    ) -> Self {
        Self { source, window, events }
    }

    pub(super) fn tell(&mut self, door: DoorId, began: Monotonic, kind: EventKind) {
        if self.window.contains(began) {
            self.events.push(Event { door, source: self.source, kind, began });
        }
    }

    /// A sequence is broken, and perhaps the latest knocks still form the beginning of another.
    /// `knock`: the one that broke the sequence, unless its time was over.
    fn tell_reset(
        &mut self,
        door: DoorId,
        (before, after): (Stage, Stage),
        reason: Reason,
        knock: Option<Knock>,
    ) {
        if before.knocks > 0 {
            let kind = EventKind::Reset { stage: before.knocks, reason, knock };
            self.tell(door, before.began, kind);
        }
        if after.knocks > 0 {
            self.tell(door, after.began, EventKind::Stage(after.knocks));
        }
    }
}

/// How far a source has come with a fixed sequence, of no more than 32 knocks.
fn stage(times: &Times) -> Stage {
    Stage {
        knocks: u8::try_from(times.len()).unwrap_or(u8::MAX),
        began: times.first().copied().unwrap_or_default(),
    }
}

/// What listening to one source needs, and what comes of it.
pub(super) struct Hearing<'a> {
    doors: &'a Doors,
    /// Who is not listened to at any door.
    lockout: Option<Lockout>,
    lockouts: Option<&'a mut Lockouts>,
    searches: &'a mut Searches<TrackId>,
    now: Now,
    teller: Teller<'a>,
    opened: SmallVec<[(TrackId, Whole); 1]>,
    /// Where the knock has broken a sequence.
    broken: Option<DoorId>,
}

impl<'a> Hearing<'a> {
    pub(super) fn new(
        doors: &'a Doors,
        lockout: Option<Lockout>,
        lockouts: Option<&'a mut Lockouts>,
        searches: &'a mut Searches<TrackId>,
        now: Now,
        teller: Teller<'a>,
    ) -> Self {
        let opened = SmallVec::new();
        Self { doors, lockout, lockouts, searches, now, teller, opened, broken: None }
    }

    /// The rotating sequences that have opened a door.
    pub(super) fn opened(self) -> SmallVec<[(TrackId, Whole); 1]> {
        self.opened
    }

    /// Ends the attempts that are too old.
    pub(super) fn expire(&mut self, source: &mut Source) {
        if !source.is_due(self.now.monotonic) {
            return;
        }
        source.attempts.retain(|attempt| {
            let Some(track) = self.doors.track(attempt.track) else { return false };
            let timeout = self.doors.timeout(attempt.track);
            let (before, after) = match (&track.way, &mut attempt.knocks) {
                (Way::Fixed(sequence), Knocks::Fixed(times)) => {
                    let before = stage(times);
                    sequence.expire(times, self.now.monotonic, timeout);
                    (before, stage(times))
                }
                (Way::Rotating(rotation), Knocks::Rotating(tail)) => {
                    let before = tail.stage;
                    tail.expire(self.now.monotonic, timeout);
                    if self.now.monotonic.since(before.began) > timeout {
                        tail.stage = rotation.stage_of(tail, self.now);
                    }
                    (before, tail.stage)
                }
                _ => return false,
            };
            if after.knocks < before.knocks {
                self.teller.tell_reset(track.door, (before, after), Reason::Timeout, None);
            }
            attempt.oldest().is_some()
        });
        if source.attempts.is_empty() {
            source.recent.give_up();
        }
    }

    /// Takes a knock to every track that it may start and every attempt whose track sees it, in
    /// the order of the doors.
    ///
    /// # Errors
    /// [`Reason::LockedOut`] where those whom it concerns do not listen to this source.
    pub(super) fn knock(&mut self, source: &mut Source, sight: &Sight) -> Result<(), Reason> {
        let attempts = &mut source.attempts;
        let under_way = attempts.len();
        let mut locked = false;
        let may_start = self.teller.window.until.is_none_or(|until| self.now.monotonic <= until);
        for id in self.doors.starting(sight).filter(|_| may_start) {
            if attempts[..under_way].binary_search_by_key(&id, |attempt| attempt.track).is_ok() {
                continue;
            }
            let Some(track) = self.doors.track(id) else { continue };
            if self.is_locked_out(track) {
                locked = true;
                continue;
            }
            let knocks = match track.way {
                Way::Fixed(_) => Knocks::Fixed(Times::new()),
                Way::Rotating(_) => Knocks::Rotating(Box::default()),
            };
            attempts.push(Attempt { track: id, reach: self.doors.reach(id), knocks });
        }
        if !attempts.is_sorted_by_key(|attempt| attempt.track) {
            attempts.sort_by_key(|attempt| attempt.track);
        }
        let (mut heard, mut ended) = (false, false);
        for attempt in attempts.iter_mut().filter(|attempt| attempt.reach.includes(sight)) {
            let Some(track) = self.doors.seeing(attempt.track, sight) else { continue };
            if self.is_locked_out(track) {
                locked = true;
                continue;
            }
            heard = true;
            match (&track.way, &mut attempt.knocks) {
                (Way::Fixed(sequence), Knocks::Fixed(times)) => {
                    self.advance(track, sequence, times, sight);
                }
                (Way::Rotating(rotation), Knocks::Rotating(tail)) => {
                    self.turn(attempt.track, track, rotation, tail, sight);
                }
                _ => {}
            }
            ended |= attempt.oldest().is_none();
        }
        if ended {
            attempts.retain(|attempt| attempt.oldest().is_some());
        }
        if let Some(door) = self.broken
            && self.count(
                door,
                Stage::default(),
                self.lockout,
                true,
                |lockouts, rule, source, now| lockouts.fail(rule, None, source, now),
            )
        {
            source.attempts.clear();
        }
        if locked && !heard { Err(Reason::LockedOut) } else { Ok(()) }
    }

    /// A knock at a door with a sequence of its own.
    fn advance(&mut self, track: &Track, sequence: &Sequence, times: &mut Times, sight: &Sight) {
        if sequence.repeat(times, sight.knock, self.now.monotonic) {
            return;
        }
        let before = stage(times);
        sequence.advance(times, sight.knock, self.now.monotonic);
        let after = stage(times);
        if after.knocks <= before.knocks {
            let is_its_own = sequence.contains(sight.knock);
            let reason = if is_its_own { Reason::WrongKnock } else { Reason::TripWire };
            self.tell_broken(track, (before, after), reason, sight.knock);
            if before.knocks > 0 {
                let door = track.door;
                self.count(door, after, track.lockout, false, |lockouts, rule, source, now| {
                    lockouts.fail(rule, Some(door), source, now)
                });
            }
        } else if sequence.is_complete(times) {
            times.clear();
            let kind = EventKind::Open(Knocked::Sequence);
            self.teller.tell(track.door, after.began, kind);
        } else {
            self.teller.tell(track.door, after.began, EventKind::Stage(after.knocks));
        }
    }

    /// A knock at a door whose sequences rotate.
    fn turn(
        &mut self,
        id: TrackId,
        track: &Track,
        rotation: &Rotation,
        tail: &mut Tail,
        sight: &Sight,
    ) {
        let length = rotation.scheme().length();
        let source = self.teller.source;
        let again = tail.push(sight.knock, self.now.monotonic, length);
        let (before, after) = match rotation.recognise(tail, self.now) {
            Outcome::Partial(stage) => (std::mem::replace(&mut tail.stage, stage), stage),
            Outcome::Whole(whole) => {
                tail.clear();
                self.searches.forget(id, source);
                self.tell_whole(id, track, length, whole);
                return;
            }
        };
        if after.knocks > before.knocks {
            self.teller.tell(track.door, after.began, EventKind::Stage(after.knocks));
        } else if !again {
            // Every port of the range is a trip-wire, but for the one that is next.
            self.tell_broken(track, (before, after), Reason::TripWire, sight.knock);
        }
        if !again {
            self.searches.suggest(id, source, rotation, tail, self.now);
            let (door, lengths) = (track.door, (length, after.knocks.into()));
            self.count(door, after, track.lockout, false, |lockouts, rule, source, now| {
                lockouts.count_knock(rule, door, source, lengths, now)
            });
        }
    }

    fn tell_whole(&mut self, id: TrackId, track: &Track, length: usize, whole: Whole) {
        let Whole { client, step, began, standing, .. } = whole;
        let refused = |reason| EventKind::Reset { stage: length as u8, reason, knock: None };
        let kind = match standing {
            Standing::Good => {
                self.opened.push((id, whole));
                EventKind::Open(Knocked::Totp { client, step })
            }
            Standing::Used => refused(Reason::Used),
            Standing::Expired => refused(Reason::Expired),
        };
        self.teller.tell(track.door, began, kind);
        if let Some(lockouts) = &mut self.lockouts {
            let is_new = standing == Standing::Good;
            lockouts.forget_knocks(track.door, self.teller.source, is_new);
        }
    }

    fn tell_broken(&mut self, track: &Track, stages: (Stage, Stage), reason: Reason, knock: Knock) {
        if stages.0.knocks > 0 {
            self.broken = Some(track.door);
        }
        self.teller.tell_reset(track.door, stages, reason, Some(knock));
    }

    fn is_locked_out(&mut self, track: &Track) -> bool {
        track.lockout.is_some()
            && self.lockouts.as_mut().is_some_and(|lockouts| {
                let now = self.now.monotonic;
                lockouts.until(Some(track.door), self.teller.source, now).is_some()
            })
    }

    /// Counts what happened at a door against the source, where there is a rule: whether it is
    /// locked out for that. `stage`: what its latest knocks form now.
    fn count(
        &mut self,
        door: DoorId,
        stage: Stage,
        rule: Option<Lockout>,
        everywhere: bool,
        count: impl FnOnce(&mut Lockouts, &Lockout, IpAddr, Monotonic) -> Option<Monotonic>,
    ) -> bool {
        let (Some(rule), Some(lockouts)) = (rule, &mut self.lockouts) else { return false };
        let now = self.now.monotonic;
        let Some(until) = count(lockouts, &rule, self.teller.source, now) else { return false };
        let began = if stage.knocks > 0 { stage.began } else { now };
        self.teller.tell(door, began, EventKind::LockedOut { until, everywhere });
        true
    }
}
