//! The sources that have knocked lately, and how far they have come: bounded, whatever arrives.

use std::collections::BTreeSet;
use std::hash::RandomState;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use smallvec::SmallVec;

use super::doors::{DoorIndex, PortBloom, TrackId};
use super::duplicates::Duplicates;
use super::sequence::Times;
use super::source_table::{HashedSource, SourceTable, Visit};
use super::totp::RecentKnocks;
use crate::time::Monotonic;

/// From this stage on a source is further along: it has made more than a first knock.
const FURTHER: usize = 2;
/// How many attempts one source may have at the least.
const ATTEMPTS_OF_ONE: usize = 64;
/// How many attempts there may be for each source that there is room for, all together.
const ATTEMPTS_PER_SOURCE: usize = 4;
/// No table is smaller than this.
const SMALLEST: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// One source on its way through one door. Never empty.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) track: TrackId,
    pub(super) bloom: PortBloom,
    pub(super) knocks: Knocks,
}

/// The memory of the knocks of an attempt.
#[derive(Debug)]
pub(super) enum Knocks {
    /// When those were seen that the track's own sequence has matched.
    Fixed(Times),
    /// The latest in the range of rotating sequences, whatever they come to.
    Rotating(Box<RecentKnocks>),
}

impl Attempt {
    /// When the oldest knock was seen that is remembered; `None`: there is none.
    pub(super) fn oldest(&self) -> Option<Monotonic> {
        match &self.knocks {
            Knocks::Fixed(times) => times.first().copied(),
            Knocks::Rotating(recent) => recent.oldest(),
        }
    }

    /// How many of the latest knocks form the beginning of a sequence.
    pub(super) fn stage(&self) -> usize {
        match &self.knocks {
            Knocks::Fixed(times) => times.len(),
            Knocks::Rotating(recent) => recent.stage.knocks.into(),
        }
    }
}

/// A source: its attempts, and its latest knocks.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// In the order of the tracks.
    pub(super) attempts: SmallVec<[Attempt; 1]>,
    pub(super) duplicates: Duplicates,
    /// Its entry among the deadlines, if it has one.
    scheduled: Option<Monotonic>,
}

/// The sources that have knocked, in two tables: a flood of first knocks pushes out newcomers,
/// never those who are further along.
///
/// Holds at most as many sources as were asked for, and a bounded number of attempts.
#[derive(Debug)]
pub(super) struct Tracker {
    /// By their [`TableKind`].
    tables: [SourceTable<Source>; TableKind::ALL.len()],
    key: RandomState,
    pub(super) totals: Totals,
}

/// Deadlines, counts and limits of all sources together.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// When something is to be done for a source, each source at most once.
    deadlines: BTreeSet<(Monotonic, IpAddr)>,
    /// How many attempts there are.
    pub(super) attempts: usize,
    most_attempts: usize,
    most_attempts_of_one: usize,
    /// How many attempts were given up for want of room.
    pub(super) crowded: u64,
}

/// The table that a source belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TableKind {
    Newcomers,
    Further,
}

impl TableKind {
    const ALL: [Self; 2] = [Self::Newcomers, Self::Further];
}

impl Source {
    /// Whether there is something to be done without a packet.
    pub(super) fn is_due(&self, now: Monotonic) -> bool {
        self.scheduled.is_some_and(|at| at <= now)
    }

    /// Where it belongs, and the first moment at which something is to be done without a packet:
    /// an attempt is too old, or nothing is left to remember.
    fn survey(&self, doors: &DoorIndex) -> (Option<TableKind>, Option<Monotonic>) {
        let mut place = TableKind::Newcomers;
        let mut last_moment = Monotonic::MAX;
        for attempt in &self.attempts {
            if let Some(oldest) = attempt.oldest() {
                last_moment = last_moment.min(oldest + doors.timeout(attempt.track));
                if attempt.stage() >= FURTHER {
                    place = TableKind::Further;
                }
            }
        }
        let deadline = if self.attempts.is_empty() {
            self.duplicates.over()
        } else {
            Some(last_moment + Duration::from_nanos(1))
        };
        let is_empty = self.attempts.is_empty() && self.duplicates.is_empty();
        ((!is_empty).then_some(place), deadline.filter(|&at| at < Monotonic::MAX))
    }

    /// Gives up attempts until there are no more than `most`: those that have come least far, of
    /// these the oldest. Returns how many.
    fn limit(&mut self, most: usize) -> usize {
        let excess = self.attempts.len().saturating_sub(most);
        for _ in 0..excess {
            let least = (self.attempts.iter().enumerate())
                .map(|(place, attempt)| (attempt.stage(), attempt.oldest(), place))
                .min();
            if let Some((_, _, place)) = least {
                self.attempts.remove(place);
            }
        }
        if self.attempts.spilled() && self.attempts.capacity() / 4 >= self.attempts.len() {
            self.attempts.shrink_to_fit();
        }
        excess
    }
}

impl Tracker {
    /// Follows about `sources` sources; a quarter of the room is for those further along.
    /// `sharing` is how many doors one knock can start at, at most.
    pub(super) fn new(sources: usize, sharing: usize) -> Self {
        let at_least = |capacity| NonZeroUsize::new(capacity).map_or(SMALLEST, |c| c.max(SMALLEST));
        let further = at_least(sources / 4);
        let newcomers = at_least(sources.saturating_sub(further.get()));
        let most_attempts_of_one = sharing.max(ATTEMPTS_OF_ONE);
        let room = newcomers.get().saturating_add(further.get());
        Self {
            tables: [newcomers, further].map(SourceTable::new),
            key: RandomState::new(),
            totals: Totals {
                most_attempts: ATTEMPTS_PER_SOURCE.saturating_mul(room).max(most_attempts_of_one),
                most_attempts_of_one,
                ..Totals::default()
            },
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tables.iter().map(SourceTable::len).sum()
    }

    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        self.totals.deadlines.first().map(|&(at, _)| at)
    }

    /// A source whose deadline has come.
    pub(super) fn due(&self, now: Monotonic) -> Option<IpAddr> {
        self.totals.deadlines.first().filter(|&&(at, _)| at <= now).map(|&(_, address)| address)
    }

    /// Lets `change` at a source, then puts it where it belongs and keeps all within bounds.
    pub(super) fn visit<R>(
        &mut self,
        doors: &DoorIndex,
        address: IpAddr,
        visit: Visit,
        change: impl FnOnce(&mut Source) -> R,
    ) -> R {
        let Self { tables, totals, key } = self;
        let hashed = HashedSource::new(address, key);
        let mut new = Source::default();
        let mut all = TableKind::ALL.into_iter().zip(tables);
        let found = all.find_map(|(at, table)| Some((Some(at), table.get(hashed, visit)?)));
        let (from, source) = found.unwrap_or((None, &mut new));
        let (result, to) = totals.change(doors, address, source, change);
        if to != from
            && let Some(source) =
                from.map_or(Some(new), |from| self.tables[from as usize].remove(hashed))
        {
            self.settle(hashed, source, to);
        }
        self.bound(hashed);
        result
    }

    /// Puts a source that is in neither table into the one where it belongs, if there is one.
    fn settle(&mut self, hashed: HashedSource, source: Source, place: Option<TableKind>) {
        let gone = match place {
            Some(place) => self.tables[place as usize].insert(hashed, source),
            None => Some((hashed.address, source)),
        };
        if let Some((address, source)) = gone {
            self.totals.forget(address, &source);
        }
    }

    /// Forgets whoever was silent for longest while there are too many attempts, newcomers first,
    /// but not the source that has just knocked.
    fn bound(&mut self, latest: HashedSource) {
        for place in TableKind::ALL {
            while self.totals.attempts > self.totals.most_attempts {
                match self.tables[place as usize].pop() {
                    Some((address, source)) if address == latest.address => {
                        self.settle(latest, source, Some(place));
                        break;
                    }
                    Some((address, source)) => self.totals.forget(address, &source),
                    None => break,
                }
            }
        }
    }
}

impl Totals {
    /// Lets `change` at a source. Returns what that returns, and where the source belongs now.
    fn change<R>(
        &mut self,
        doors: &DoorIndex,
        address: IpAddr,
        source: &mut Source,
        change: impl FnOnce(&mut Source) -> R,
    ) -> (R, Option<TableKind>) {
        self.attempts -= source.attempts.len();
        let result = change(source);
        self.crowded += source.limit(self.most_attempts_of_one) as u64;
        self.attempts += source.attempts.len();
        let (place, deadline) = source.survey(doors);
        if deadline != source.scheduled {
            self.unschedule(address, source);
            self.deadlines.extend(deadline.map(|at| (at, address)));
            source.scheduled = deadline;
        }
        (result, place)
    }

    /// Takes a source out of the totals that is in no table any more.
    fn forget(&mut self, address: IpAddr, source: &Source) {
        self.unschedule(address, source);
        self.attempts -= source.attempts.len();
        self.crowded += source.attempts.len() as u64;
    }

    fn unschedule(&mut self, address: IpAddr, source: &Source) {
        if let Some(at) = source.scheduled {
            self.deadlines.remove(&(at, address));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Recognition;
    use crate::engine::{Engine, Setup};
    use crate::proto::flags::TcpFlags;
    use crate::proto::knock::{Knock, Protocol};
    use crate::time::{Now, Wall};
    use crate::wire::{Packet, Transport};

    /// Doors that all begin with a knock on port 1, which goes on with their own number.
    fn doors(count: u16, length: usize) -> Vec<Recognition> {
        let knock = |port: u16| Knock::new(Protocol::Tcp, port.try_into().unwrap());
        (0..count)
            .map(|door| Recognition {
                sequence: [knock(1), knock(100 + door)].into_iter().cycle().take(length).collect(),
                seq_timeout: Duration::from_secs(10 + u64::from(door)),
                trip_wires: 1,
                ..Recognition::new("door".parse().unwrap())
            })
            .collect()
    }

    fn engine(doors: &[Recognition], sources: usize) -> Engine {
        Engine::new(Setup { doors: doors.to_vec(), sources, ..Setup::default() })
    }

    fn send(engine: &mut Engine, seconds: u64, host: u128, port: u16, sequence: u32) {
        let now =
            Now { monotonic: Monotonic::from_nanos(seconds * 1_000_000_000), wall: Wall::ZERO };
        let packet = Packet {
            source: IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | host)),
            destination: IpAddr::V6(Ipv6Addr::LOCALHOST),
            transport: Transport::Tcp {
                source_port: 1024,
                port: port.try_into().unwrap(),
                sequence,
                flags: TcpFlags::SYN,
            },
            looped: false,
        };
        let _ = engine.on_packet(now, &packet);
        let _ = engine.on_deadline(now);
    }

    impl SourceTable<Source> {
        fn all(&mut self) -> Vec<(IpAddr, Source)> {
            std::iter::from_fn(|| self.pop()).collect()
        }
    }

    /// Takes the tracker apart and holds its totals against what is in it.
    fn check(mut tracker: Tracker) {
        let [newcomers, further] = tracker.tables.each_mut().map(SourceTable::all);
        let stage = |source: &Source| source.attempts.iter().map(Attempt::stage).max();
        assert!(newcomers.iter().all(|(_, source)| stage(source) < Some(2)));
        assert!(
            newcomers
                .iter()
                .all(|(_, source)| stage(source).is_some() || !source.duplicates.is_empty())
        );
        assert!(further.iter().all(|(_, source)| stage(source) >= Some(2)));
        let sources: Vec<_> = newcomers.into_iter().chain(further).collect();
        let attempts: usize = sources.iter().map(|(_, source)| source.attempts.len()).sum();
        assert_eq!(tracker.totals.attempts, attempts);
        assert!(attempts <= tracker.totals.most_attempts);
        let scheduled: BTreeSet<_> =
            sources.iter().map(|(address, source)| (source.scheduled.unwrap(), *address)).collect();
        assert_eq!(tracker.totals.deadlines, scheduled);
        for (_, source) in sources {
            assert!(source.attempts.len() <= tracker.totals.most_attempts_of_one);
            assert!(source.attempts.is_sorted_by(|a, b| a.track < b.track));
            assert!(source.attempts.iter().all(|attempt| attempt.oldest().is_some()));
        }
    }

    proptest! {
        #[test]
        fn its_books_are_right_whatever_arrives(
            count in 1u16..8,
            length in 1usize..5,
            steps in prop::collection::vec((0u64..4, 0u128..200, 0usize..5, any::<u32>()), 1..500),
        ) {
            let mut engine = engine(&doors(count, length), 1);
            let mut seconds = 1000;
            for (wait, host, port, sequence) in steps {
                seconds += wait;
                // Some of them in one network, some not.
                let host = (host % 20) | ((host / 20) << 64);
                send(&mut engine, seconds, host, [1, 1, 100, 101, 103][port], sequence);
            }
            check(engine.tracker);
        }
    }

    #[test]
    fn one_source_has_a_bounded_number_of_attempts_and_keeps_those_further_along() {
        // A hundred doors of which each begins with another port.
        let mut doors = doors(100, 2);
        for (port, door) in (1000..).zip(&mut doors) {
            door.sequence[0].port = (port as u16 * 10).try_into().unwrap();
            door.trip_wires = 0;
        }
        let third = Knock::new(Protocol::Tcp, 9.try_into().unwrap());
        doors[0].sequence.push(third);
        let mut engine = engine(&doors, 1000);
        send(&mut engine, 1000, 1, 10_000, 0);
        send(&mut engine, 1000, 1, 100, 0);
        for door in 1..100 {
            send(&mut engine, 1000, 1, 10_000 + 10 * door, 0);
        }
        assert_eq!(engine.tracker.totals.attempts, ATTEMPTS_OF_ONE);
        assert_eq!(engine.crowded(), 100 - ATTEMPTS_OF_ONE as u64);
        let source: IpAddr = "2001:db8::1".parse().unwrap();
        let source = HashedSource::new(source, &engine.tracker.key);
        let source = engine.tracker.tables[TableKind::Further as usize]
            .get(source, Visit::Deadline)
            .unwrap();
        assert_eq!(source.attempts[0].stage(), 2);
        assert_eq!(source.attempts[1].track, TrackId(37));
    }

    #[test]
    fn a_knock_that_begins_at_many_doors_is_followed_at_each_of_them() {
        let mut engine = engine(&doors(1000, 2), 1);
        send(&mut engine, 1000, 1, 1, 0);
        assert_eq!((engine.tracker.totals.attempts, engine.crowded()), (1000, 0));
    }

    #[test]
    fn all_sources_together_have_a_bounded_number_of_attempts() {
        let mut engine = engine(&doors(20, 3), 1);
        for host in 0..30 {
            send(&mut engine, 1000, host << 64, 1, 0);
            if host < 3 {
                send(&mut engine, 1000, host << 64, 100, 1);
            }
        }
        assert_eq!(engine.tracker.totals.most_attempts, 128);
        assert!(engine.tracker.totals.attempts <= 128);
        assert_eq!(engine.tracker.tables[TableKind::Further as usize].len(), 3);
        check(engine.tracker);
    }
}
