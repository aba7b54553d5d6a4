//! The engine against a naive reading of its one sentence.
//!
//! The model keeps every knock that was ever seen and, at each packet, looks for the longest
//! prefix of each sequence among the latest ones. It shares only the watch sets with the engine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::super::*;
use crate::config::Recognition;
use crate::config::watch::watch_sets;
use crate::proto::{Knock, Protocol, TcpFlags};
use crate::time::Wall;
use crate::wire::Transport;

struct Model {
    doors: Vec<(Recognition, PortSet)>,
    local: IpAddr,
    sources: BTreeMap<IpAddr, History>,
}

struct History {
    /// What was a knock, when it was seen first and last, in the order of the latter.
    segments: Vec<(Monotonic, Monotonic, Transport)>,
    /// For each door: the knocks that it has seen and not used up, but for those passed over, and
    /// the stage that was told last.
    doors: Vec<(Vec<(Monotonic, Knock)>, Told)>,
}

/// A stage, and when its first knock was.
type Told = Option<(usize, Monotonic)>;

impl Model {
    fn sees(&self, door: usize, packet: &Packet) -> bool {
        let (door, watched) = &self.doors[door];
        let flags = match packet.transport {
            Transport::Tcp { flags, .. } => door.flags.passes(flags),
            Transport::Udp { .. } => true,
        };
        watched.contains(packet.knock())
            && flags
            && packet.destination == door.target.unwrap_or(self.local)
    }

    /// The longest prefix of the sequence that the latest knocks form, all in time.
    fn stage(&self, source: IpAddr, door: usize, now: Monotonic) -> Told {
        let seen = &self.sources[&source].doors[door].0;
        let Recognition { sequence, seq_timeout, .. } = &self.doors[door].0;
        (1..=sequence.len().min(seen.len())).rev().find_map(|length| {
            let latest = &seen[seen.len() - length..];
            let began = latest[0].0;
            let matches = latest.iter().zip(sequence).all(|((_, knock), wanted)| knock == wanted);
            (matches && now.since(began) <= *seq_timeout).then_some((length, began))
        })
    }

    /// Takes note of a packet; true: it is a copy of an earlier one, or a retransmission.
    fn is_duplicate(&mut self, now: Monotonic, packet: &Packet) -> bool {
        let longest = self.doors.iter().map(|(door, _)| door.sequence.len()).max().unwrap_or(0);
        let history = self.sources.get_mut(&packet.source).unwrap();
        let segments = &mut history.segments;
        let (now, transport) = (micros(now), packet.transport);
        segments.retain(|(first, last, transport)| {
            let (first, last) = (micros(*first), micros(*last));
            match transport {
                // It comes again after 1, 3, 7, 15... s, and one of these may be lost.
                Transport::Tcp { .. } => {
                    now < last + (4_000_000 + 3 * (last - first)).min(130_000_000)
                }
                Transport::Udp { .. } => now < last + 20_000,
            }
        });
        let before = segments.iter().position(|(.., earlier)| is_same(*earlier, transport));
        let before = before.map(|place| segments.remove(place));
        // Nobody who numbers segments gives one number to two.
        let unnumbered = segments.iter().any(|(.., other)| match (*other, transport) {
            (
                Transport::Tcp { source_port: a, port: b, sequence: c, .. },
                Transport::Tcp { source_port, port, sequence, .. },
            ) => (a, c) == (source_port, sequence) && b != port,
            _ => false,
        });
        let before = before.filter(|(_, last, _)| !unnumbered || now < micros(*last) + 20_000);
        let now = Monotonic::from_nanos(now * 1000);
        segments.push((before.map_or(now, |(first, ..)| first), now, transport));
        let excess = segments.len().saturating_sub(longest.max(16));
        segments.drain(..excess);
        before.is_some()
    }

    fn timeouts(&mut self, source: IpAddr, now: Monotonic) -> Vec<Event> {
        let mut events = Vec::new();
        let begun = |history: &History| history.doors.iter().any(|(_, told)| told.is_some());
        let had_begun = begun(&self.sources[&source]);
        for door in 0..self.doors.len() {
            let after = self.stage(source, door, now);
            let told = &mut self.sources.get_mut(&source).unwrap().doors[door].1;
            let before = std::mem::replace(told, after);
            if before != after {
                events.extend(reset(source, door, before, after, (Reason::Timeout, None)));
            }
        }
        let history = self.sources.get_mut(&source).unwrap();
        if had_begun && !begun(history) {
            // Whoever gave up may send the same once more, unless it is being retransmitted.
            history.segments.retain(|(first, last, _)| micros(*last) - micros(*first) > 20_000);
        }
        events
    }

    /// `None`: it is nobody's knock.
    fn on_packet(&mut self, now: Monotonic, packet: &Packet) -> Option<Vec<Event>> {
        let doors = self.doors.len();
        if !(0..doors).any(|door| self.sees(door, packet)) {
            return None;
        }
        let (source, knock) = (packet.source, packet.knock());
        self.sources.entry(source).or_insert_with(|| History {
            segments: Vec::new(),
            doors: vec![(Vec::new(), None); doors],
        });
        let mut events = self.timeouts(source, now);
        if self.is_duplicate(now, packet) {
            return Some(events).filter(|events| !events.is_empty());
        }
        for door in (0..doors).filter(|&door| self.sees(door, packet)).collect::<Vec<_>>() {
            let sequence = &self.doors[door].0.sequence;
            let (seen, told) = &mut self.sources.get_mut(&source).unwrap().doors[door];
            if let Some((stage, began)) = told
                && sequence[*stage - 1] == knock
                && sequence[*stage] != knock
            {
                // Passed over; of those that are alike the latest count.
                let alike =
                    sequence[..*stage].iter().rev().take_while(|made| **made == knock).count();
                seen.remove(seen.len() - alike);
                seen.push((now, knock));
                *began = seen[seen.len() - *stage].0;
                continue;
            }
            seen.push((now, knock));
            let mut after = self.stage(source, door, now);
            let history = self.sources.get_mut(&source).unwrap();
            let before = history.doors[door].1;
            let sequence = &self.doors[door].0.sequence;
            match after {
                Some((stage, began)) if stage == before.map_or(0, |(stage, _)| stage) + 1 => {
                    let mut kind = EventKind::Stage { stage: stage as u8, knock: Some(knock) };
                    if stage == sequence.len() {
                        kind = EventKind::Open(CompletedBy::Sequence);
                        history.doors[door].0.clear();
                        after = None;
                    }
                    events.push(event(source, door, began, kind));
                }
                _ => {
                    let wrong = sequence.contains(&knock);
                    let reason = if wrong { Reason::WrongKnock } else { Reason::TripWire };
                    let why = (reason, Some(knock));
                    events.extend(reset(source, door, before, after, why));
                }
            }
            history.doors[door].1 = after;
        }
        Some(events)
    }

    fn on_deadline(&mut self, now: Monotonic) -> Vec<Event> {
        let sources: Vec<IpAddr> = self.sources.keys().copied().collect();
        sources.into_iter().flat_map(|source| self.timeouts(source, now)).collect()
    }

    fn next_timeout(&self) -> Option<Monotonic> {
        let told = self.sources.values().flat_map(|history| history.doors.iter().enumerate());
        told.filter_map(|(door, (_, told))| {
            Some((*told)?.1 + self.doors[door].0.seq_timeout + Duration::from_nanos(1))
        })
        .min()
    }
}

/// Whether two packets have the same ports and, as segments, the same number.
fn is_same(one: Transport, other: Transport) -> bool {
    match (one, other) {
        (
            Transport::Tcp { source_port: a, port: b, sequence: c, .. },
            Transport::Tcp { source_port, port, sequence, .. },
        ) => (a, b, c) == (source_port, port, sequence),
        _ => one == other,
    }
}

fn micros(time: Monotonic) -> u64 {
    time.as_nanos() / 1000
}

fn event(source: IpAddr, door: usize, began: Monotonic, kind: EventKind) -> Event {
    Event { door: Some(DoorId(door as u32)), source, kind, began }
}

fn reset(
    source: IpAddr,
    door: usize,
    before: Told,
    after: Told,
    (reason, knock): (Reason, Option<Knock>),
) -> Vec<Event> {
    let broken = before.map(|(stage, began)| {
        event(source, door, began, EventKind::Reset { stage: stage as u8, reason, knock })
    });
    let left = after.map(|(stage, began)| {
        event(source, door, began, EventKind::Stage { stage: stage as u8, knock })
    });
    broken.into_iter().chain(left).collect()
}

const HERE: &str = "192.0.2.1";
const TARGET: &str = "198.51.100.1";
const ELSEWHERE: &str = "203.0.113.1";

fn any_knock() -> impl Strategy<Value = Knock> {
    (select(&Protocol::ALL[..]), 10u16..14)
        .prop_map(|(protocol, port)| Knock::new(protocol, port.try_into().unwrap()))
}

fn any_door() -> impl Strategy<Value = Recognition> {
    let flags = [
        FlagTest::SYN,
        FlagTest::SYN,
        FlagTest::ANY,
        FlagTest { set: TcpFlags::ACK, clear: TcpFlags::FIN },
    ];
    (
        prop_oneof![
            prop::collection::vec(any_knock(), 1..6),
            prop::collection::vec(
                any_knock().prop_map(|knock| Knock { protocol: Protocol::Tcp, ..knock }),
                1..6
            ),
            prop::collection::vec(select(vec!["10".parse().unwrap(), "11".parse().unwrap()]), 1..8),
        ],
        select(vec![0u64, 1, 300, 1000, 2000, 5000, 400_000]),
        select(flags.to_vec()),
        select(vec![None, None, None, Some(TARGET)]),
        0u16..4,
        prop::collection::vec(any_knock(), 0..2),
    )
        .prop_map(|(sequence, timeout, flags, target, trip_wires, opens)| Recognition {
            sequence,
            seq_timeout: Duration::from_millis(timeout),
            flags,
            target: target.map(|target| target.parse().unwrap()),
            trip_wires,
            opens: opens.into_iter().map(Into::into).collect(),
            ..Recognition::new("door".parse().unwrap())
        })
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Time goes by.
    Wait(Duration),
    /// Time goes by to just where a deadline is, and this much further.
    WaitFor(Duration),
    /// The shell looks at its deadlines.
    Look,
    Packet(Packet),
    /// The next knock that a source needs at a door.
    Next(Index, Index),
    /// An earlier packet comes again.
    Again(Index),
}

fn any_source() -> impl Strategy<Value = IpAddr> {
    select(vec!["192.0.2.7", "192.0.2.8", "2001:db8::7"]).prop_map(|text| text.parse().unwrap())
}

fn any_packet() -> impl Strategy<Value = Packet> {
    (
        any_source(),
        select(vec![HERE, HERE, HERE, TARGET, ELSEWHERE]),
        any::<bool>(),
        7u16..18,
        0u16..30,
        0u32..3,
        select(vec![TcpFlags::SYN, TcpFlags::SYN, TcpFlags::ACK, TcpFlags(0x11)]),
    )
        .prop_map(|(source, destination, tcp, port, source_port, sequence, flags)| Packet {
            source,
            destination: destination.parse().unwrap(),
            transport: transport(tcp, port, source_port, sequence, flags),
            looped: false,
        })
}

fn transport(tcp: bool, port: u16, source_port: u16, sequence: u32, flags: TcpFlags) -> Transport {
    let port = port.try_into().unwrap();
    if tcp {
        Transport::Tcp { source_port, port, sequence, flags }
    } else {
        Transport::Udp { source_port, port }
    }
}

fn any_span() -> impl Strategy<Value = Duration> {
    let millis = vec![0u64, 0, 0, 1, 19, 20, 300, 999, 1000, 2000, 4000, 12_000, 130_000];
    (select(millis), 0u64..2)
        .prop_map(|(millis, nanos)| Duration::from_millis(millis) + Duration::from_nanos(nanos))
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_span().prop_map(Step::Wait),
        1 => (0u64..2).prop_map(|nanos| Step::WaitFor(Duration::from_nanos(nanos))),
        1 => Just(Step::Look),
        5 => any_packet().prop_map(Step::Packet),
        9 => (any::<Index>(), any::<Index>()).prop_map(|(source, door)| Step::Next(source, door)),
        1 => any::<Index>().prop_map(Step::Again),
    ]
}

/// The packet that takes a source further at a door, as far as the model knows.
fn next_packet(model: &Model, source: IpAddr, door: usize, number: u32) -> Packet {
    let told = model.sources.get(&source).and_then(|history| history.doors[door].1);
    let door = &model.doors[door].0;
    let knock = door.sequence[told.map_or(0, |(stage, _)| stage)];
    let tcp = knock.protocol == Protocol::Tcp;
    let flags = if door.flags.set == TcpFlags::ACK { TcpFlags::ACK } else { TcpFlags::SYN };
    Packet {
        source,
        destination: door.target.unwrap_or(model.local),
        transport: transport(tcp, knock.port.get(), 1000 + number as u16, number, flags),
        looped: false,
    }
}

fn at(monotonic: Monotonic) -> Now {
    Now { monotonic, wall: Wall::ZERO }
}

fn compare(
    doors: Vec<Recognition>,
    steps: Vec<Step>,
    punctual: bool,
) -> Result<usize, TestCaseError> {
    let setup = Setup { doors: doors.clone(), sources: 1000, ..Setup::default() };
    let mut engine = Engine::new(setup);
    let local: IpAddr = HERE.parse().unwrap();
    engine.local = Local::Addresses([local].into());
    let sets = watch_sets(&doors);
    let mut model =
        Model { doors: doors.into_iter().zip(sets).collect(), local, sources: BTreeMap::new() };
    let sources: Vec<IpAddr> =
        ["192.0.2.7", "192.0.2.8", "2001:db8::7"].map(|text| text.parse().unwrap()).into();

    let mut now = Monotonic::ZERO + Duration::from_secs(1000);
    let mut sent: Vec<Packet> = Vec::new();
    let mut opened = 0;
    for step in steps {
        let packet = match step {
            Step::Wait(span) => {
                now = now + span;
                None
            }
            Step::WaitFor(further) => {
                let deadline = model.next_timeout().unwrap_or(now);
                now = now.max(deadline + further - Duration::from_nanos(1));
                None
            }
            Step::Look => {
                let mut events = engine.on_deadline(at(now)).to_vec();
                events.sort_by_key(|event| event.source);
                prop_assert_eq!(events, model.on_deadline(now));
                prop_assert!(engine.next_deadline().is_none_or(|deadline| deadline > now));
                None
            }
            Step::Packet(packet) => Some(packet),
            Step::Next(source, door) => {
                let door = door.index(model.doors.len());
                Some(next_packet(&model, *source.get(&sources), door, sent.len() as u32))
            }
            Step::Again(which) => {
                (!sent.is_empty()).then(|| sent[sent.len() - 1 - which.index(sent.len()).min(3)])
            }
        };
        if punctual {
            while let Some(deadline) = engine.next_deadline().filter(|&deadline| deadline <= now) {
                prop_assert!(model.next_timeout().is_none_or(|timeout| timeout >= deadline));
                let mut events = engine.on_deadline(at(deadline)).to_vec();
                events.sort_by_key(|event| event.source);
                prop_assert_eq!(events, model.on_deadline(deadline));
            }
            prop_assert!(model.next_timeout().is_none_or(|timeout| timeout > now));
        }
        let Some(packet) = packet else { continue };
        sent.push(packet);
        let expected = model.on_packet(now, &packet);
        match engine.on_packet(at(now), &packet) {
            Verdict::Knock(events) => {
                opened +=
                    events.iter().filter(|event| matches!(event.kind, EventKind::Open(_))).count();
                prop_assert_eq!(Some(events.to_vec()), expected);
            }
            Verdict::Ignored(_) => prop_assert_eq!(None, expected),
            other => prop_assert!(false, "{other:?}"),
        }
    }
    Ok(opened)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_happens_is_what_the_sentence_says(
        doors in prop::collection::vec(any_door(), 1..5),
        steps in prop::collection::vec(any_step(), 1..80),
        punctual in any::<bool>(),
    ) {
        let _opened = compare(doors, steps, punctual)?;
    }

    #[test]
    fn times_that_jump_about_harm_nothing(
        doors in prop::collection::vec(any_door(), 1..5),
        packets in prop::collection::vec((any::<u64>(), any_packet(), any::<bool>()), 1..60),
    ) {
        let mut engine = Engine::new(Setup { doors, sources: 1, ..Setup::default() });
        for (nanos, packet, look) in packets {
            let now = at(Monotonic::from_nanos(nanos));
            let _ = engine.on_packet(now, &packet);
            if look {
                let _ = engine.on_deadline(now);
                prop_assert!(engine.next_deadline().is_none_or(|next| next > now.monotonic));
            }
        }
    }
}
