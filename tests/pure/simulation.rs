//! From the client's plan to the firewall under virtual time, over a network that loses, doubles,
//! delays and reorders what it carries.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use libknock::client::schedule::Schedule;
use libknock::config::lint::{Odds, scan_odds};
use libknock::config::watch::watch_sets;
use libknock::config::{Door, Recognition, Rendered, load};
use libknock::engine::{Engine, Event, EventKind, Setup, Verdict};
use libknock::grants::{
    Action, CommandPair, Decision, GrantBackend, GrantKey, Grants, OpenOutcome, OpenResult,
};
use libknock::proto::flags::TcpFlags;
use libknock::proto::knock::{Knock, Protocol};
use libknock::proto::method::Method;
use libknock::time::{Monotonic, Now, Wall};
use libknock::wire::{Packet, Transport};
use proptest::prelude::*;
use proptest::sample::Index;

const DOORS: &str = r#"
doors:
  mail:
    sequence: [2222/udp, 3333, 4444/udp]
    start_command: "open mail %IP%"
    stop_command: "close mail %IP%"
    cmd_timeout: 3s
  ssh:
    sequence: [7000, 8000, 9000]
    start_command: "open ssh %IP%"
    stop_command: "close ssh %IP%"
    cmd_timeout: 10s
  twice:
    sequence: [7100, 7100, 7200, 7100]
    seq_timeout: 2s
    start_command: "open twice %IP%"
    stop_command: "close twice %IP%"
    cmd_timeout: 1m
"#;

/// The daemon, without its shells: the engine, the grants, and a firewall that only remembers.
struct World {
    doors: Vec<Door>,
    engine: Engine,
    grants: Grants,
    completed: Vec<Event>,
    /// What is open, and since when.
    open: BTreeMap<String, Monotonic>,
    /// What was open from when to when.
    was_open: Vec<(String, Monotonic, Monotonic)>,
}

impl World {
    fn new() -> Self {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        std::fs::write(file.path(), DOORS).unwrap();
        let options = load::Options { insecure_permissions: true };
        let doors =
            load::load(file.path(), &options).unwrap_or_else(|e| panic!("{e}")).config.doors;
        let recognitions = doors.iter().map(|door| door.recognition.clone()).collect();
        Self {
            engine: Engine::new(Setup { doors: recognitions, sources: 1000, ..Setup::default() }),
            doors,
            grants: Grants::default(),
            completed: Vec::new(),
            open: BTreeMap::new(),
            was_open: Vec::new(),
        }
    }

    /// What arrives, in the order of its time, and then all that follows from it.
    fn run(&mut self, arrivals: &[(Monotonic, Packet)]) {
        for (at, packet) in arrivals {
            self.advance(*at);
            if let Verdict::Knock(events) = self.engine.on_packet(now(*at), packet) {
                let completed =
                    events.iter().filter(|event| matches!(event.kind, EventKind::Open(_)));
                let completed: Vec<Event> = completed.copied().collect();
                for event in completed {
                    self.complete(*at, event);
                }
            }
        }
        self.advance(Monotonic::MAX);
        assert!(self.open.is_empty(), "left open: {:?}", self.open);
        assert!(self.grants.is_empty());
        assert_eq!(self.engine.tracked(), 0);
    }

    /// Does all that is due up to a time, each thing at its own time.
    fn advance(&mut self, until: Monotonic) {
        let next = |world: &Self| {
            let deadlines = [world.engine.next_deadline(), world.grants.next_deadline()];
            deadlines.into_iter().flatten().min().filter(|&next| next <= until)
        };
        while let Some(at) = next(self) {
            let _timeouts = self.engine.on_deadline(now(at));
            for expired in self.grants.expire_some(at, usize::MAX) {
                self.close(at, &expired.close);
                assert!(self.grants.closed(expired.id).is_none());
            }
            assert!(next(self).is_none_or(|next| next > at), "what was due at {at:?} is done");
        }
    }

    fn complete(&mut self, at: Monotonic, event: Event) {
        self.completed.push(event);
        let door = &self.doors[event.door.unwrap().0 as usize];
        let key = GrantKey::new(door.name().clone(), event.source);
        let action = Action::of(door, &key, None, None).unwrap();
        let asked = self.grants.prepare(at, key, Method::Sequence.into(), action, true).unwrap();
        match self.grants.apply(asked) {
            Decision::Open(id, GrantBackend::Commands(steps)) => {
                for command in steps.into_iter().map(|step| step.open) {
                    let what = words(&command, "open ");
                    assert_eq!(self.open.insert(what, at), None, "opened once only");
                }
                assert_eq!(self.grants.opened(id, OpenResult::All), OpenOutcome::Open);
            }
            Decision::Extend(..) => {}
            other => panic!("{other:?}"),
        }
    }

    fn close(&mut self, at: Monotonic, steps: &[CommandPair]) {
        for command in steps.iter().filter_map(|step| step.close.as_ref()) {
            let what = words(command, "close ");
            let since = self.open.remove(&what).expect("what is closed was open");
            self.was_open.push((what, since, at));
        }
    }

    fn door(&self, index: Index) -> &Door {
        index.get(&self.doors)
    }
}

/// `mail 192.0.2.2`, of `/bin/sh -c "open mail 192.0.2.2"`.
fn words(command: &Rendered, verb: &str) -> String {
    let text = command.argv.last().unwrap();
    text.strip_prefix(verb).unwrap_or_else(|| panic!("{text}")).to_owned()
}

fn now(monotonic: Monotonic) -> Now {
    Now { monotonic, wall: Wall::ZERO }
}

fn start() -> Monotonic {
    Monotonic::ZERO + Duration::from_secs(1000)
}

fn source(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, host))
}

/// What the client sends, as in `knock -d`: each knock from a fresh port.
fn sent(
    from: IpAddr,
    sequence: &[Knock],
    at: Monotonic,
    delay: Duration,
    connection: u16,
) -> Vec<(Monotonic, Packet)> {
    let steps = Schedule::new(sequence, delay);
    let packets = steps.knocks().zip(40_000 + connection..).map(|((due, knock), source_port)| {
        let port = knock.port;
        let transport = match knock.protocol {
            Protocol::Tcp => {
                let sequence = u32::from(source_port).wrapping_mul(2_654_435_761);
                Transport::Tcp { source_port, port, sequence, flags: TcpFlags::SYN }
            }
            Protocol::Udp => Transport::Udp { source_port, port },
        };
        let destination = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
        (at + due, Packet { source: from, destination, transport, looped: false })
    });
    packets.collect()
}

/// What becomes of one packet on its way.
#[derive(Clone, Debug)]
struct Fate {
    delay: Duration,
    /// It arrives again, this much later.
    again: Option<Duration>,
}

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

/// All packets take equally long, and some arrive twice, a segment as late as it is retransmitted.
fn in_order() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop::option::of(millis(0..1100))
        .prop_map(|again| Fate { delay: Duration::from_millis(20), again });
    prop::collection::vec(fate, 8)
}

/// Each packet takes its own time, and some arrive twice.
fn out_of_order() -> impl Strategy<Value = Vec<Fate>> {
    let fate = (millis(0..60), prop::option::of(millis(0..900)))
        .prop_map(|(delay, again)| Fate { delay, again });
    prop::collection::vec(fate, 8)
}

fn carry(sent: &[(Monotonic, Packet)], fates: &[Fate]) -> Vec<(Monotonic, Packet)> {
    let mut arrivals = Vec::new();
    for ((at, packet), fate) in sent.iter().zip(fates.iter().cycle()) {
        arrivals.push((*at + fate.delay, *packet));
        let again = fate.again.map(|again| match packet.transport {
            Transport::Tcp { .. } => again,
            // A datagram is not sent again: it is copied where it arrives.
            Transport::Udp { .. } => again / 100,
        });
        arrivals.extend(again.map(|again| (*at + fate.delay + again, *packet)));
    }
    arrivals.sort_by_key(|(at, _)| *at);
    arrivals
}

proptest! {
    #[test]
    fn what_arrives_in_order_opens_whatever_arrives_twice(
        door in any::<Index>(),
        delay in millis(0..600),
        fates in in_order(),
    ) {
        let mut world = World::new();
        let door = world.door(door).clone();
        let sent = sent(source(2), &door.recognition.sequence, start(), delay, 0);
        world.run(&carry(&sent, &fates));
        let knocked = start() + delay * (sent.len() as u32 - 1) + Duration::from_millis(20);
        let what = format!("{} 192.0.2.2", door.name());
        prop_assert_eq!(world.was_open, [(what, knocked, knocked + door.opening.open_for)]);
    }

    #[test]
    fn a_lost_knock_never_opens(
        door in any::<Index>(),
        lost in any::<Index>(),
        delay in millis(0..600),
        fates in out_of_order(),
    ) {
        let mut world = World::new();
        let sequence = world.door(door).recognition.sequence.clone();
        let mut sent = sent(source(2), &sequence, start(), delay, 0);
        sent.remove(lost.index(sent.len()));
        world.run(&carry(&sent, &fates));
        prop_assert_eq!(world.completed, []);
    }

    #[test]
    fn what_overtakes_opens_only_if_it_cannot_be_told_apart(
        door in any::<Index>(),
        delay in millis(0..60),
        fates in out_of_order(),
    ) {
        let mut world = World::new();
        let sequence = world.door(door).recognition.sequence.clone();
        let sent = sent(source(2), &sequence, start(), delay, 0);
        let firsts: Vec<Fate> =
            fates.iter().map(|fate| Fate { again: None, ..fate.clone() }).collect();
        let in_order: Vec<Knock> =
            carry(&sent, &firsts).iter().map(|(_, packet)| packet.knock()).collect();
        world.run(&carry(&sent, &fates));
        prop_assert_eq!(world.completed.len(), usize::from(in_order == sequence));
    }

    #[test]
    fn fifty_sources_at_once_all_get_in(
        doors in prop::collection::vec(any::<Index>(), 50),
        starts in prop::collection::vec(millis(0..50), 50),
        fates in in_order(),
    ) {
        let mut world = World::new();
        let mut all = Vec::new();
        for ((host, door), wait) in (1..).zip(&doors).zip(starts) {
            let sequence = &world.door(*door).recognition.sequence;
            all.extend(sent(source(host), sequence, start() + wait, Duration::from_millis(15), 0));
        }
        world.run(&carry(&all, &fates));
        let mut sources: Vec<IpAddr> = world.completed.iter().map(|event| event.source).collect();
        sources.sort();
        prop_assert_eq!(sources, (1..=50).map(source).collect::<Vec<_>>());
    }

    #[test]
    fn a_door_is_open_from_each_knock_for_its_time_and_no_longer(
        knocks in prop::collection::vec((any::<Index>(), 1u8..4, millis(100..8000)), 1..20),
    ) {
        let mut world = World::new();
        let (mut at, mut all) = (start(), Vec::new());
        let mut expected: BTreeMap<String, Vec<(Monotonic, Monotonic)>> = BTreeMap::new();
        for (connection, (door, host, wait)) in (0u16..).step_by(8).zip(knocks) {
            at = at + wait;
            let door = world.door(door);
            let from = sent(source(host), &door.recognition.sequence, at, Duration::ZERO, connection);
            all.extend(from);
            let spans = expected.entry(format!("{} {}", door.name(), source(host))).or_default();
            let until = at + door.opening.open_for;
            match spans.last_mut() {
                Some((_, end)) if at < *end => *end = until,
                _ => spans.push((at, until)),
            }
        }
        world.run(&all);
        let mut was_open: BTreeMap<String, Vec<(Monotonic, Monotonic)>> = BTreeMap::new();
        for (what, since, until) in world.was_open {
            was_open.entry(what).or_default().push((since, until));
        }
        prop_assert_eq!(was_open, expected);
    }
}

/// In which order, and how often, a scanner tries the ports.
#[derive(Clone, Copy, Debug)]
enum Scan {
    Once,
    /// Each port again before the next one: slow scans, where nothing answers.
    EachAgain,
    /// All again in the same order: what nmap does with those that did not answer.
    AllAgain,
    /// All again in another order.
    AllAnew,
    /// Each so often, and all of that in random order.
    Mixed(usize),
}

/// A random number below a limit, by splitmix64.
fn below(state: &mut u64, limit: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ x >> 31) % limit as u64) as usize
}

fn shuffled<T: Clone>(state: &mut u64, items: &[T]) -> Vec<T> {
    let mut items = items.to_vec();
    for last in (1..items.len()).rev() {
        items.swap(last, below(state, last + 1));
    }
    items
}

/// How many of so many scans, each from another address, open a door. Like nmap's, the packets of a
/// scan have one source port and number, and those of a second try another.
fn opened_by(scan: Scan, door: &Recognition, scans: u32) -> u32 {
    let setup = Setup { doors: vec![door.clone()], ..Setup::default() };
    let mut engine = Engine::new(setup);
    let ports: Vec<Knock> = watch_sets([door])[0]
        .ranges(Protocol::Tcp)
        .flat_map(|(low, high)| low..=high)
        .map(|port| Knock::new(Protocol::Tcp, port.try_into().unwrap()))
        .collect();
    let mut state = 1;
    let mut opened = 0;
    for number in 0..scans {
        let first = shuffled(&mut state, &ports);
        let tries = |order: Vec<Knock>, number| order.into_iter().map(move |knock| (knock, number));
        let order: Vec<(Knock, u16)> = match scan {
            Scan::Once => tries(first, 0).collect(),
            Scan::EachAgain => first.iter().flat_map(|&knock| [(knock, 0), (knock, 1)]).collect(),
            Scan::AllAgain => tries(first.clone(), 0).chain(tries(first, 1)).collect(),
            Scan::AllAnew => {
                let second = shuffled(&mut state, &ports);
                tries(first, 0).chain(tries(second, 1)).collect()
            }
            Scan::Mixed(times) => {
                let all = (0..times as u16).flat_map(|number| tries(first.clone(), number));
                shuffled(&mut state, &all.collect::<Vec<_>>())
            }
        };
        let mut at = start() + Duration::from_secs(1) * number;
        let mut has_opened = false;
        for (knock, again) in order {
            at = at + Duration::from_millis(2);
            let transport = Transport::Tcp {
                source_port: 40_000 + again,
                port: knock.port,
                sequence: 77 + u32::from(again),
                flags: TcpFlags::SYN,
            };
            let packet = Packet {
                source: IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + number)),
                destination: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
                transport,
                looped: false,
            };
            if let Verdict::Knock(events) = engine.on_packet(now(at), &packet) {
                has_opened |= events.iter().any(|event| matches!(event.kind, EventKind::Open(_)));
            }
        }
        opened += u32::from(has_opened);
    }
    opened
}

fn scanned(sequence: &[&str]) -> (Recognition, f64) {
    let door = Recognition {
        sequence: sequence.iter().map(|knock| knock.parse().unwrap()).collect(),
        trip_wires: 1,
        ..Recognition::new("door".parse().unwrap())
    };
    let Odds::OneIn(odds) = scan_odds(&door, &watch_sets([&door])[0]) else { panic!() };
    (door, odds)
}

/// Holds how many of the scans open the door against what is expected, give or take four standard
/// deviations.
fn opens_one_in(odds: f64, scan: Scan, door: &Recognition) {
    const SCANS: u32 = 6000;
    let expected = f64::from(SCANS) / odds;
    let opened = f64::from(opened_by(scan, door, SCANS));
    let tolerance = 4.0 * expected.sqrt();
    let sequence = &door.sequence;
    assert!((opened - expected).abs() < tolerance, "{scan:?} {sequence:?}: {opened} {expected}");
}

#[test]
fn a_scan_in_random_order_opens_a_door_as_often_as_is_said() {
    for sequence in [&["20", "10"][..], &["20", "10", "30"]] {
        let (door, odds) = scanned(sequence);
        opens_one_in(odds, Scan::Once, &door);
        opens_one_in(odds, Scan::EachAgain, &door);
    }
}

#[test]
fn a_scan_that_tries_all_ports_twice_opens_a_door_twice_as_often_at_most() {
    let (door, odds) = scanned(&["20", "10", "30"]);
    // The end of the first try and the beginning of the second may be a sequence too.
    opens_one_in(odds * 7.0 / 9.0, Scan::AllAgain, &door);
    opens_one_in(odds / 2.0, Scan::AllAnew, &door);
    opens_one_in(odds / 2.0, Scan::Mixed(2), &door);
}

#[test]
fn a_sequence_that_has_a_port_twice_is_hit_as_often_as_is_said() {
    for (times, sequence) in
        [(2, &["20", "10", "20"][..]), (2, &["20", "20", "10"]), (3, &["10", "10", "10"])]
    {
        let (door, odds) = scanned(sequence);
        opens_one_in(odds, Scan::Mixed(times), &door);
        assert_eq!(opened_by(Scan::Once, &door, 500), 0, "{sequence:?}");
    }
}
