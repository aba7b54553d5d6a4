//! What the engine promises, one behaviour each. The model has the rest.

mod model;
mod rotating;

use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::config::Recognition;
use crate::proto::{Knock, Protocol, TcpFlags};
use crate::time::Wall;
use crate::wire::Transport;

const SECOND: Duration = Duration::from_secs(1);
const ALICE: &str = "192.0.2.2";
const HOST: &str = "198.51.100.1";

/// A door with a timeout of ten seconds and no trip-wires.
fn door(sequence: &[&str]) -> Recognition {
    Recognition {
        sequence: sequence.iter().map(|knock| knock.parse().unwrap()).collect(),
        seq_timeout: 10 * SECOND,
        trip_wires: 0,
        ..Recognition::new("door".parse().unwrap())
    }
}

fn engine(doors: &[Recognition]) -> Engine {
    Engine::new(Setup { doors: doors.to_vec(), sources: 1000, ..Setup::default() })
}

fn at(span: Duration) -> Now {
    Now { monotonic: Monotonic::from_nanos(1_000_000_000_000) + span, wall: Wall::ZERO }
}

/// A first packet to a port; each number is another connection.
fn packet(source: IpAddr, knock: Knock, number: u32) -> Packet {
    let port = knock.port;
    let source_port = 1024 + number as u16 % 60_000;
    let transport = match knock.protocol {
        Protocol::Tcp => {
            Transport::Tcp { source_port, port, sequence: number, flags: TcpFlags::SYN }
        }
        Protocol::Udp => Transport::Udp { source_port, port },
    };
    Packet { source, destination: HOST.parse().unwrap(), transport, looped: false }
}

/// Knocks from one source, one second apart, and the events as text.
fn knocks(engine: &mut Engine, source: &str, knocks: &[&str]) -> Vec<String> {
    let mut told = Vec::new();
    for (second, knock) in (0..).zip(knocks) {
        let packet = packet(source.parse().unwrap(), knock.parse().unwrap(), second);
        told.extend(events(engine.on_packet(at(second * SECOND), &packet)));
    }
    told
}

fn events(verdict: Verdict<'_>) -> Vec<String> {
    match verdict {
        Verdict::Ignored(reason) => vec![format!("ignored: {}", reason.as_str())],
        Verdict::Knock(events) => events.iter().map(text).collect(),
        other => vec![format!("{other:?}")],
    }
}

fn text(event: &Event) -> String {
    let Some(DoorId(door)) = event.door else {
        let EventKind::LockedOut { until } = event.kind else { panic!("{event:?}") };
        return format!("locked out everywhere for {} s", until.since(event.began).as_secs());
    };
    match event.kind {
        EventKind::Stage { stage, .. } => format!("{door}: stage {stage}"),
        EventKind::Open(CompletedBy::Sequence) => format!("{door}: open"),
        EventKind::Open(CompletedBy::Totp { client, .. }) => {
            format!("{door}: open: client {}", client.0)
        }
        EventKind::Reset { stage, reason, knock } => {
            let by = knock.map(|knock| format!(" by {knock}")).unwrap_or_default();
            format!("{door}: {stage} lost{by}: {}", reason.as_str())
        }
        EventKind::Missed { client, steps } => {
            format!("{door}: client {} missed by {steps} steps", client.0)
        }
        EventKind::Unmatched => format!("{door}: nobody's"),
        EventKind::LockedOut { until } => {
            let seconds = until.since(event.began).as_secs();
            format!("{door}: locked out for {seconds} s")
        }
    }
}

fn opens(told: &[String]) -> usize {
    told.iter().filter(|event| event.contains(": open")).count()
}

#[test]
fn the_sequence_opens_the_door() {
    let told = knocks(
        &mut engine(&[door(&["7000", "8000/udp", "9000"])]),
        ALICE,
        &["7000", "8000/udp", "9000"],
    );
    assert_eq!(told, ["0: stage 1", "0: stage 2", "0: open"]);
}

#[test]
fn a_wrong_knock_may_be_the_first_of_the_right_sequence() {
    let told = knocks(
        &mut engine(&[door(&["7000", "8000", "9000"])]),
        ALICE,
        &["7000", "8000", "7000", "8000", "9000"],
    );
    assert_eq!(
        told,
        [
            "0: stage 1",
            "0: stage 2",
            "0: 2 lost by 7000/tcp: wrong-knock",
            "0: stage 1",
            "0: stage 2",
            "0: open"
        ]
    );
}

#[test]
fn a_knock_repeated_at_once_neither_breaks_nor_advances() {
    let told = knocks(
        &mut engine(&[Recognition { trip_wires: 16, ..door(&["7000", "8000", "9000"]) }]),
        ALICE,
        &["7000", "7000", "8000", "8000", "8000", "9000", "9000"],
    );
    assert_eq!(told, ["0: stage 1", "0: stage 2", "0: open"]);
}

#[test]
fn a_first_knock_made_again_begins_anew() {
    let mut engine = engine(&[door(&["1", "2"])]);
    let mut knock = |second: u32, port: &str| {
        let packet = packet(ALICE.parse().unwrap(), port.parse().unwrap(), second);
        events(engine.on_packet(at(second * SECOND), &packet))
    };
    assert_eq!(knock(0, "1"), ["0: stage 1"]);
    assert_eq!(knock(9, "1"), [""; 0]);
    assert_eq!(knock(19, "2"), ["0: open"]);
}

/// What comes of packets that all have one source port and number, as scapy sends them.
#[test]
fn who_numbers_nothing_opens_each_time_that_the_sequence_is_whole() {
    let mut engine = engine(&[door(&["7000", "8000", "7000"])]);
    let source = ALICE.parse().unwrap();
    let mut opened = 0;
    for (tenth, port) in (0..).zip(["7000", "8000", "7000"].into_iter().cycle().take(15)) {
        let packet = packet(source, port.parse().unwrap(), 20);
        opened += opens(&events(engine.on_packet(at(tenth * SECOND / 10), &packet)));
    }
    assert_eq!(opened, 5);
}

#[test]
fn who_numbers_nothing_may_try_again_after_the_timeout() {
    let timeout = Duration::from_secs(2);
    let mut engine = engine(&[Recognition { seq_timeout: timeout, ..door(&["7", "8", "9"]) }]);
    let source = ALICE.parse().unwrap();
    let mut told = Vec::new();
    for (tenth, port) in [(0, "7"), (30, "7"), (31, "8"), (32, "9")] {
        let packet = packet(source, port.parse().unwrap(), 20);
        told.extend(events(engine.on_packet(at(tenth * SECOND / 10), &packet)));
    }
    assert_eq!(opens(&told), 1, "{told:?}");
}

/// Three connections under way, of which each retransmits: they open once.
#[test]
fn a_whole_sequence_of_retransmissions_opens_nothing() {
    let mut engine = engine(&[door(&["7000", "8000", "9000"])]);
    let source = ALICE.parse().unwrap();
    let mut told = Vec::new();
    for second in [0, 1, 3, 7, 15, 31, 63, 127] {
        for (number, port) in (0..).zip(["7000", "8000", "9000"]) {
            let packet = packet(source, port.parse().unwrap(), number);
            let now = at(second * SECOND + number * SECOND / 10);
            told.extend(events(engine.on_packet(now, &packet)));
        }
    }
    assert_eq!(opens(&told), 1, "{told:?}");
}

#[test]
fn one_socket_may_knock_twice_with_datagrams_but_a_copy_is_no_knock() {
    let mut engine = engine(&[door(&["15637/udp", "15637/udp"])]);
    let datagram = packet(ALICE.parse().unwrap(), "15637/udp".parse().unwrap(), 1);
    let mut told = Vec::new();
    for micros in [0, 40, 100_000, 100_040] {
        told.extend(events(engine.on_packet(at(Duration::from_micros(micros)), &datagram)));
    }
    assert_eq!(told, ["0: stage 1", "ignored: duplicate", "0: open", "ignored: duplicate"]);
}

#[test]
fn a_completed_sequence_has_used_up_its_knocks() {
    let told = knocks(&mut engine(&[door(&["1", "2", "1"])]), ALICE, &["1", "2", "1", "2", "1"]);
    assert_eq!(told, ["0: stage 1", "0: stage 2", "0: open", "0: stage 1"]);
}

#[test]
fn a_single_knock_can_be_a_sequence() {
    let told = knocks(&mut engine(&[door(&["7000"])]), ALICE, &["7000", "7000"]);
    assert_eq!(told, ["0: open", "0: open"]);
}

#[test]
fn a_trip_wire_breaks_a_sequence_and_is_silent_where_there_is_none() {
    let mut engine = engine(&[Recognition { trip_wires: 1, ..door(&["7000", "8000"]) }]);
    let told = knocks(&mut engine, ALICE, &["7999", "7000", "8001", "8000"]);
    assert_eq!(told, ["0: stage 1", "0: 1 lost by 8001/tcp: trip-wire"]);
}

#[test]
fn a_retransmission_is_no_knock() {
    let mut engine = engine(&[Recognition { trip_wires: 1, ..door(&["7000", "8000"]) }]);
    let source = ALICE.parse().unwrap();
    let wire = packet(source, "7001".parse().unwrap(), 1);
    let first = packet(source, "7000".parse().unwrap(), 2);
    let second = packet(source, "8000".parse().unwrap(), 3);
    assert!(events(engine.on_packet(at(Duration::ZERO), &wire)).is_empty());
    assert_eq!(events(engine.on_packet(at(1 * SECOND), &first)), ["0: stage 1"]);
    for again in [wire, first] {
        assert_eq!(events(engine.on_packet(at(2 * SECOND), &again)), ["ignored: duplicate"]);
    }
    assert_eq!(events(engine.on_packet(at(3 * SECOND), &second)), ["0: open"]);
}

#[test]
fn doors_that_share_a_knock_both_follow_it_in_their_order() {
    let mut engine = engine(&[door(&["1", "2", "3"]), door(&["1", "2", "4"]), door(&["2", "3"])]);
    let told = knocks(&mut engine, ALICE, &["1", "2", "3"]);
    assert_eq!(
        told,
        [
            "0: stage 1",
            "1: stage 1",
            "0: stage 2",
            "1: stage 2",
            "2: stage 1",
            "0: open",
            "2: open",
        ]
    );
}

#[test]
fn two_people_behind_one_address_at_two_doors_both_get_in() {
    let wires = |door| Recognition { trip_wires: 16, ..door };
    let mut engine =
        engine(&[wires(door(&["7000", "8000", "9000"])), wires(door(&["7001", "8001", "9001"]))]);
    let told = knocks(&mut engine, ALICE, &["7000", "7001", "8001", "8000", "9000", "9001"]);
    assert_eq!(opens(&told), 2, "{told:?}");
}

#[test]
fn sources_never_affect_each_other() {
    let mut engine = engine(&[door(&["1", "2", "3"])]);
    let sources: Vec<IpAddr> =
        (1..=50).map(|host| IpAddr::V4(Ipv4Addr::new(203, 0, 113, host))).collect();
    let mut told = Vec::new();
    for knock in ["1", "2", "3"] {
        for &source in &sources {
            let packet = packet(source, knock.parse().unwrap(), 1);
            told.extend(events(engine.on_packet(at(SECOND), &packet)));
        }
    }
    assert_eq!(opens(&told), 50);
}

#[test]
fn the_last_moment_is_in_time_and_a_nanosecond_later_is_not() {
    for (late, outcome) in [(0, "0: open"), (1, "0: 1 lost: timeout")] {
        let mut engine = engine(&[door(&["1", "2"])]);
        knocks(&mut engine, ALICE, &["1"]);
        let packet = packet(ALICE.parse().unwrap(), "2".parse().unwrap(), 2);
        let now = at(10 * SECOND + Duration::from_nanos(late));
        assert_eq!(events(engine.on_packet(now, &packet)), [outcome]);
    }
}

#[test]
fn a_timeout_is_told_at_its_deadline_and_only_once() {
    let mut engine = engine(&[door(&["1", "2", "3"])]);
    knocks(&mut engine, ALICE, &["1", "2"]);
    let deadline = engine.next_deadline().unwrap();
    assert_eq!(deadline, at(10 * SECOND + Duration::from_nanos(1)).monotonic);
    assert_eq!(engine.on_deadline(at(10 * SECOND)), []);
    let told: Vec<String> = engine
        .on_deadline(Now { monotonic: deadline, wall: Wall::ZERO })
        .iter()
        .map(text)
        .collect();
    assert_eq!(told, ["0: 2 lost: timeout"]);
    assert_eq!(engine.on_deadline(at(11 * SECOND)), []);
    let third = packet(ALICE.parse().unwrap(), "3".parse().unwrap(), 3);
    assert!(events(engine.on_packet(at(11 * SECOND), &third)).is_empty());
}

#[test]
fn a_packet_after_an_untold_deadline_tells_it_first() {
    let mut engine = engine(&[door(&["5"]), door(&["1", "2"])]);
    knocks(&mut engine, ALICE, &["1"]);
    let late = packet(ALICE.parse().unwrap(), "5".parse().unwrap(), 9);
    let told = events(engine.on_packet(at(11 * SECOND), &late));
    assert_eq!(told, ["1: 1 lost: timeout", "0: open"]);
    assert_eq!(engine.on_deadline(at(12 * SECOND)), []);
}

#[test]
fn what_is_too_old_may_leave_the_beginning_of_another_try() {
    let mut engine = engine(&[door(&["1", "1", "2"])]);
    knocks(&mut engine, ALICE, &["1", "1"]);
    let told: Vec<String> =
        engine.on_deadline(at(10 * SECOND + SECOND / 2)).iter().map(text).collect();
    assert_eq!(told, ["0: 2 lost: timeout", "0: stage 1"]);
    let told: Vec<String> = engine.on_deadline(at(12 * SECOND)).iter().map(text).collect();
    assert_eq!(told, ["0: 1 lost: timeout"]);
}

#[test]
fn a_door_does_not_see_a_packet_without_its_flags() {
    let mut engine = engine(&[door(&["1", "2"])]);
    let source = ALICE.parse().unwrap();
    let mut ack = packet(source, "1".parse().unwrap(), 7);
    if let Transport::Tcp { flags, .. } = &mut ack.transport {
        *flags = TcpFlags::ACK;
    }
    knocks(&mut engine, ALICE, &["1"]);
    assert_eq!(events(engine.on_packet(at(SECOND), &ack)), ["ignored: not-watched"]);
    let second = packet(source, "2".parse().unwrap(), 2);
    assert_eq!(events(engine.on_packet(at(2 * SECOND), &second)), ["0: open"]);
}

#[test]
fn a_door_sees_what_is_sent_to_its_target_or_else_to_this_host() {
    let target = "203.0.113.80".parse().unwrap();
    let mut engine = engine(&[door(&["1"]), Recognition { target: Some(target), ..door(&["1"]) }]);
    engine.local = Local::Addresses([HOST.parse().unwrap()].into());
    let to = |destination: &str, number| Packet {
        destination: destination.parse().unwrap(),
        ..packet(ALICE.parse().unwrap(), "1".parse().unwrap(), number)
    };
    assert_eq!(events(engine.on_packet(at(SECOND), &to(HOST, 1))), ["0: open"]);
    assert_eq!(events(engine.on_packet(at(SECOND), &to("203.0.113.80", 2))), ["1: open"]);
    let other = to("203.0.113.81", 3);
    assert_eq!(events(engine.on_packet(at(SECOND), &other)), ["ignored: not-for-us"]);
    engine.local = Local::Any;
    assert_eq!(events(engine.on_packet(at(SECOND), &other)), ["0: open"]);
}

#[test]
fn what_no_packet_from_elsewhere_comes_from_is_nobodys_knock() {
    let mut engine = engine(&[door(&["1"])]);
    engine.local =
        Local::Addresses([HOST, "127.0.0.1", "::1"].map(|address| address.parse().unwrap()).into());
    let mut knock = |source: &str, looped, number| {
        let packet = packet(source.parse().unwrap(), "1".parse().unwrap(), number);
        events(engine.on_packet(at(number * SECOND), &Packet { looped, ..packet }))
    };
    for (number, source) in (0..).zip([
        "0.0.0.0",
        "0.9.9.9",
        "224.0.0.1",
        "255.255.255.255",
        "ff02::1",
        "::ffff:1.2.3.4",
    ]) {
        for looped in [false, true] {
            assert_eq!(knock(source, looped, number), ["ignored: impossible-address"], "{source}");
        }
    }
    for (number, source) in (10..).zip([HOST, "127.0.0.1", "127.9.9.9", "::1"]) {
        assert_eq!(knock(source, false, number), ["ignored: impossible-address"], "{source}");
        assert_eq!(knock(source, true, number), ["0: open"], "{source}");
    }
    assert_eq!(knock("fe80::1", false, 20), ["0: open"]);
}

#[test]
fn ipv6_is_not_looked_at_where_only_ipv4_is_wanted() {
    let doors = vec![door(&["1"])];
    let mut engine = Engine::new(Setup { doors, only_ipv4: true, ..Setup::default() });
    assert_eq!(knocks(&mut engine, "2001:db8::1", &["1"]), ["ignored: only-ipv4"]);
    assert_eq!(knocks(&mut engine, ALICE, &["1"]), ["0: open"]);
}

#[test]
fn a_port_that_nobody_watches_is_nobody_s_knock() {
    let mut engine = engine(&[door(&["1"])]);
    assert_eq!(knocks(&mut engine, ALICE, &["2"]), ["ignored: not-watched"]);
    assert_eq!(engine.tracked(), 0);
}

#[test]
fn two_watchers_that_share_a_cut_tell_each_sequence_once() {
    let doors = [door(&["1", "2", "3"]), door(&["2", "3"])];
    let cut = at(SECOND / 2).monotonic;
    let [mut old, mut new] = [(None, Some(cut)), (Some(cut), None)].map(|(after, until)| {
        let mut engine = engine(&doors);
        engine.window = ReportWindow { after, until };
        engine
    });
    assert_eq!(knocks(&mut old, ALICE, &["1", "2", "3"]), ["0: stage 1", "0: stage 2", "0: open"]);
    assert_eq!(knocks(&mut new, ALICE, &["1", "2", "3"]), ["1: stage 1", "1: open"]);
}

#[test]
fn after_its_window_an_engine_follows_only_what_is_under_way() {
    let mut engine = engine(&[door(&["1", "2", "3"])]);
    assert!(engine.is_idle());
    assert_eq!(knocks(&mut engine, ALICE, &["1"]), ["0: stage 1"]);
    engine.window = ReportWindow { after: None, until: Some(at(SECOND / 2).monotonic) };
    let send = |engine: &mut Engine, source: &str, port: &str| {
        let packet = packet(source.parse().unwrap(), port.parse().unwrap(), 7);
        events(engine.on_packet(at(SECOND), &packet))
    };
    assert!(send(&mut engine, "192.0.2.3", "1").is_empty());
    assert!(!engine.is_idle());
    assert_eq!(send(&mut engine, ALICE, "2"), ["0: stage 2"]);
    assert_eq!(send(&mut engine, ALICE, "3"), ["0: open"]);
    assert!(engine.is_idle());
    assert!(send(&mut engine, ALICE, "1").is_empty());
    assert!(engine.is_idle());
}

#[test]
fn an_ascending_scan_opens_no_door() {
    let mut engine = engine(&[Recognition { trip_wires: 1, ..door(&["7000", "8000", "9000"]) }]);
    let mut told = Vec::new();
    for port in 1..=u16::MAX {
        let knock = Knock::new(Protocol::Tcp, port.try_into().unwrap());
        let packet = packet(ALICE.parse().unwrap(), knock, u32::from(port));
        told.extend(events(engine.on_packet(at(SECOND), &packet)));
    }
    assert_eq!(opens(&told), 0);
    assert!(told.iter().any(|event| event.contains("trip-wire")));
}

/// Of all orders in which a scan can come by w watched ports, one in w (w - 1) completes three.
#[test]
fn a_scan_in_random_order_opens_as_rarely_as_promised() {
    let doors = vec![Recognition { trip_wires: 2, ..door(&["10", "11", "12"]) }];
    let mut engine = Engine::new(Setup { doors, sources: 10_000, ..Setup::default() });
    let (watched, _) = engine.watched().next().unwrap();
    let mut ports: Vec<u16> = watched.ranges(Protocol::Tcp).flat_map(|(a, b)| a..=b).collect();
    let (mut orders, mut opened) = (0, 0);
    permutations(&mut ports, 0, &mut |ports| {
        orders += 1;
        let source = IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7100 + orders));
        for (number, &port) in (0..).zip(ports) {
            let knock = Knock::new(Protocol::Tcp, port.try_into().unwrap());
            let packet = packet(source, knock, number);
            opened += opens(&events(engine.on_packet(at(SECOND), &packet)));
        }
    });
    let w = ports.len();
    assert_eq!((w, orders), (7, 5040));
    assert_eq!(opened * w * (w - 1), orders as usize);
}

fn permutations(items: &mut [u16], from: usize, visit: &mut impl FnMut(&[u16])) {
    if from == items.len() {
        visit(items);
    }
    for at in from..items.len() {
        items.swap(from, at);
        permutations(items, from + 1, visit);
        items.swap(from, at);
    }
}

/// `count` first knocks from as many addresses.
fn flood(engine: &mut Engine, count: u32, knock: &str) {
    let knock = knock.parse().unwrap();
    for number in 0..count {
        let source = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
        let _ = engine.on_packet(at(SECOND), &packet(source, knock, number));
    }
}

#[test]
fn a_flood_of_first_knocks_pushes_out_nobody_who_is_further_along() {
    let doors = vec![door(&["1", "2", "3", "4"])];
    let mut engine = Engine::new(Setup { doors, sources: 4096, ..Setup::default() });
    let mut told = knocks(&mut engine, ALICE, &["1", "2"]);
    for (second, knock) in [(3, "3"), (4, "4")] {
        flood(&mut engine, 200_000, "1");
        let packet = packet(ALICE.parse().unwrap(), knock.parse().unwrap(), second);
        told.extend(events(engine.on_packet(at(second * SECOND), &packet)));
    }
    assert_eq!(told.last().unwrap(), "0: open");
    assert!(engine.tracked() <= 4096);
}

#[test]
fn a_newcomer_outlasts_a_flood_smaller_than_the_room_for_newcomers() {
    for (flooders, outcome) in [(749, vec!["0: open"]), (750, vec![])] {
        let mut engine = engine(&[door(&["1", "2"])]);
        knocks(&mut engine, ALICE, &["1"]);
        flood(&mut engine, flooders, "1");
        assert_eq!(engine.crowded(), u64::from(flooders == 750));
        let packet = packet(ALICE.parse().unwrap(), "2".parse().unwrap(), 2);
        assert_eq!(events(engine.on_packet(at(SECOND), &packet)), outcome);
    }
}

#[test]
fn a_flood_from_one_ipv6_network_pushes_out_only_its_own() {
    let mut engine = engine(&[door(&["1", "2"])]);
    knocks(&mut engine, "2001:db8:0:1::1", &["1"]);
    for number in 0..10_000 {
        let source = IpAddr::V6(std::net::Ipv6Addr::from_bits(
            0x2001_0db8_0000_0002_0000_0000_0000_0000 + u128::from(number),
        ));
        let _ = engine.on_packet(at(SECOND), &packet(source, "1".parse().unwrap(), number));
    }
    assert_eq!(engine.tracked(), 1 + source_table::PER_NETWORK);
    let packet = packet("2001:db8:0:1::1".parse().unwrap(), "2".parse().unwrap(), 2);
    assert_eq!(events(engine.on_packet(at(SECOND), &packet)), ["0: open"]);
}

#[test]
fn a_source_that_has_gone_silent_is_forgotten() {
    let mut engine = engine(&[door(&["1", "2"]), door(&["7/udp", "8"])]);
    flood(&mut engine, 100, "1");
    knocks(&mut engine, ALICE, &["7/udp"]);
    assert_eq!(engine.tracked(), 101);
    assert_eq!(engine.on_deadline(at(100 * SECOND)).len(), 101);
    assert_eq!((engine.tracked(), engine.next_deadline()), (0, None));
}
