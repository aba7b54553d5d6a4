//! Native requests, and what they come to.

use proptest::prelude::*;

use super::*;
use crate::config::{Client, Lockout, Recognition, SpaClient};
use crate::engine::{Engine, Event, EventKind, ReportWindow, Verdict};
use crate::proto::spa::{SpaRequest, Stamp, seal};
use crate::time::Monotonic;

const CLOCK: Duration = Duration::from_secs(1_700_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn key(number: u8) -> PrivateKey {
    PrivateKey::from([number; 32])
}

/// The server's key.
const SERVER: u8 = 1;
/// The keys of the clients `one` and `two`; the latter has two.
const ONE: u8 = 11;
const TWO: u8 = 21;
const TWO_AGAIN: u8 = 22;

fn server() -> SpaServer {
    let port = NonZeroU16::new(62_201).unwrap();
    SpaServer {
        ports: port..=port,
        keys: vec![ServerKey { key: key(SERVER), until: None }],
        max_age: 60 * SECOND,
        max_ahead: 10 * SECOND,
    }
}

fn client(name: &str, doors: &[&str], keys: &[u8]) -> Client {
    Client {
        width: None,
        name: name.parse().unwrap(),
        doors: doors.iter().map(|door| door.parse().unwrap()).collect(),
        expires: None,
        totp: None,
        spa: Some(SpaClient {
            keys: keys.iter().map(|&number| key(number).public()).collect(),
            address: AddressPolicy::Any,
        }),
        fwknop: None,
    }
}

fn clients() -> Vec<Client> {
    // `plain` takes no datagrams.
    vec![
        client("one", &["plain", "ssh"], &[ONE]),
        client("two", &["ssh", "web"], &[TWO, TWO_AGAIN]),
    ]
}

fn doors() -> Vec<Recognition> {
    let door = |name: &str, spa| Recognition { spa, ..Recognition::new(name.parse().unwrap()) };
    vec![door("plain", false), door("ssh", true), door("web", true), door("other", true)]
}

fn setup(server: SpaServer, clients: &[Client]) -> Setup {
    Setup { doors: doors(), clients: clients.to_vec(), spa: Some(server), ..Setup::default() }
}

fn spa_with(server: SpaServer, clients: &[Client]) -> SpaJudge {
    SpaJudge::new(&setup(server, clients)).unwrap()
}

fn spa() -> SpaJudge {
    spa_with(server(), &clients())
}

fn wall(after: Duration) -> Wall {
    Wall::ZERO + CLOCK + after
}

fn stamped(after: Duration) -> SpaRequest {
    SpaRequest {
        open: Addresses::Observed,
        widths: Widths::SINGLE,
        close: false,
        source_port: None,
        open_for: None,
        stamp: wall(after).into(),
        door: Some("ssh".parse().unwrap()),
    }
}

fn sealed(asked: &SpaRequest, by: u8) -> [u8; LEN] {
    seal(asked, &key(by), &key(SERVER).public(), [7; 32])
}

fn packet(source: &str) -> Packet {
    let port = NonZeroU16::new(62_201).unwrap();
    let (source, destination) = (source.parse().unwrap(), "198.51.100.1".parse().unwrap());
    Packet {
        source,
        destination,
        transport: Transport::Udp { source_port: 40_000, port },
        looped: false,
    }
}

fn at(after: Duration) -> Now {
    Now { monotonic: Monotonic::ZERO + 1000 * SECOND + after, wall: wall(after) }
}

fn judge(spa: &mut SpaJudge, after: Duration, source: &str, datagram: &[u8; LEN]) -> Judgement {
    spa.judge(at(after), &packet(source), datagram)
}

/// What a fresh server makes of a request.
fn asked(asked: &SpaRequest, by: u8) -> Judgement {
    judge(&mut spa(), Duration::ZERO, "192.0.2.2", &sealed(asked, by))
}

fn reason(answer: Judgement) -> Option<Reason> {
    match answer {
        Err(Denial::Ignored(reason)) => Some(reason),
        Err(Denial::Refused(refusal)) => Some(refusal.reason),
        Ok(_) => None,
    }
}

#[test]
fn a_client_gets_what_it_asks_for() {
    let request = SpaRequest {
        open: Addresses::Named(
            NamedAddresses::new("192.0.2.9".parse().ok(), "2001:db8::9".parse().ok()).unwrap(),
        ),
        close: true,
        source_port: NonZeroU16::new(40_000),
        open_for: NonZeroU32::new(20),
        door: Some("web".parse().unwrap()),
        ..stamped(Duration::ZERO)
    };
    let expected = DatagramRequest {
        door: DoorId(2),
        client: ClientId(1),
        credential: Credential::Spa { key: 1, stamp: wall(Duration::ZERO) },
        source: "192.0.2.2".parse().unwrap(),
        v4: "192.0.2.9".parse().ok(),
        v6: "2001:db8::9".parse().ok(),
        open_for: Some(20),
        source_port: NonZeroU16::new(40_000),
        close: true,
    };
    assert_eq!(asked(&request, TWO_AGAIN), Ok(vec![expected]));
}

#[test]
fn the_observed_address_is_the_one_the_datagram_comes_from() {
    for source in ["192.0.2.2", "2001:db8::2", "127.0.0.1"] {
        let datagram = sealed(&stamped(Duration::ZERO), ONE);
        let answer = judge(&mut spa(), Duration::ZERO, source, &datagram);
        let [request] = answer.unwrap()[..] else { panic!("one request") };
        let address = request.v4.or(request.v6);
        assert_eq!(address, Some(source.parse().unwrap()));
    }
}

#[test]
fn only_a_datagram_of_the_length_and_to_the_port_is_looked_at() {
    let spa = spa();
    let packet = packet("192.0.2.2");
    assert!(spa.datagram(&packet, &[0; LEN]).is_some());
    assert!(spa.datagram(&packet, &[0; LEN - 1]).is_none());
    assert!(spa.datagram(&packet, &[0; LEN + 1]).is_none());
    let port = NonZeroU16::new(62_202).unwrap();
    let other = Packet { transport: Transport::Udp { source_port: 1, port }, ..packet };
    assert!(spa.datagram(&other, &[0; LEN]).is_none());
}

#[test]
fn junk_is_ignored_and_leaves_nothing_behind() {
    let mut spa = spa();
    for byte in 0..=255 {
        let answer = judge(&mut spa, Duration::ZERO, "192.0.2.2", &[byte; LEN]);
        assert_eq!(answer, Err(Denial::Ignored(Reason::BadTag)));
    }
    assert!(spa.seen.is_empty());
}

#[test]
fn a_key_of_nobody_is_refused_whatever_it_says() {
    assert_eq!(reason(asked(&stamped(Duration::ZERO), 99)), Some(Reason::UnknownClient));
}

#[test]
fn a_client_whose_time_has_run_out_is_refused() {
    let mut clients = clients();
    clients[0].expires = Some(wall(SECOND));
    let mut spa = spa_with(server(), &clients);
    let datagram = sealed(&stamped(Duration::ZERO), ONE);
    assert_eq!(reason(judge(&mut spa, SECOND, "192.0.2.2", &datagram)), Some(Reason::Expired));
}

#[test]
fn a_stamp_may_be_as_old_and_as_far_ahead_as_is_said_and_no_more() {
    let micro = Duration::from_micros(1);
    let judged =
        |stamp, now| reason(judge(&mut spa(), now, "192.0.2.2", &sealed(&stamped(stamp), ONE)));
    assert_eq!(judged(Duration::ZERO, 60 * SECOND), None);
    assert_eq!(judged(Duration::ZERO, 60 * SECOND + micro), Some(Reason::TooOld));
    assert_eq!(judged(10 * SECOND, Duration::ZERO), None);
    assert_eq!(judged(10 * SECOND + micro, Duration::ZERO), Some(Reason::TooFarAhead));
}

#[test]
fn what_is_too_far_ahead_now_may_be_right_later() {
    let mut spa = spa();
    let datagram = sealed(&stamped(11 * SECOND), ONE);
    let early = judge(&mut spa, Duration::ZERO, "192.0.2.2", &datagram);
    assert_eq!(reason(early), Some(Reason::TooFarAhead));
    assert_eq!(reason(judge(&mut spa, 2 * SECOND, "192.0.2.2", &datagram)), None);
}

#[test]
fn what_may_have_been_used_before_the_start_is_refused() {
    // Five seconds ago, and requests may be ten ahead.
    let unclean_start = UncleanStart(Some(at(Duration::ZERO).monotonic - 5 * SECOND));
    let mut spa = SpaJudge::new(&Setup { unclean_start, ..setup(server(), &clients()) }).unwrap();
    let before = sealed(&stamped(5 * SECOND - Duration::from_micros(1)), ONE);
    let answer = judge(&mut spa, Duration::ZERO, "192.0.2.2", &before);
    assert_eq!(reason(answer), Some(Reason::BeforeStart));
    let after = sealed(&stamped(5 * SECOND), ONE);
    assert_eq!(reason(judge(&mut spa, Duration::ZERO, "192.0.2.2", &after)), None);
}

#[test]
fn a_calendar_that_is_set_right_later_does_no_harm() {
    let unclean_start = UncleanStart(Some(at(Duration::ZERO).monotonic - 20 * SECOND));
    let mut spa = SpaJudge::new(&Setup { unclean_start, ..setup(server(), &clients()) }).unwrap();
    // The machine started with a calendar of 1970; by now it has been set.
    let datagram = sealed(&stamped(Duration::ZERO), ONE);
    let early = Now { wall: Wall::ZERO + SECOND, ..at(Duration::ZERO) };
    let answer = spa.judge(early, &packet("192.0.2.2"), &datagram);
    assert_eq!(reason(answer), Some(Reason::TooFarAhead));
    assert_eq!(reason(judge(&mut spa, 2 * SECOND, "192.0.2.2", &datagram)), None);
    let old = sealed(
        &SpaRequest {
            stamp: (wall(Duration::ZERO) - 15 * SECOND).into(),
            ..stamped(Duration::ZERO)
        },
        TWO,
    );
    let answer = judge(&mut spa, Duration::ZERO, "192.0.2.2", &old);
    assert_eq!(reason(answer), Some(Reason::BeforeStart));
}

#[test]
fn a_replay_is_refused_from_wherever_it_comes() {
    let mut spa = spa();
    let datagram = sealed(&stamped(Duration::ZERO), ONE);
    assert_eq!(reason(judge(&mut spa, Duration::ZERO, "192.0.2.2", &datagram)), None);
    for source in ["192.0.2.3", "2001:db8::2"] {
        let replayed = judge(&mut spa, Duration::ZERO, source, &datagram);
        let expected = Refusal {
            client: Some(ClientId(0)),
            door: Some(DoorId(1)),
            ..Refusal::new(Method::Spa, source.parse().unwrap(), Reason::Used)
        };
        assert_eq!(replayed, Err(Denial::Refused(expected)));
    }
    let later = judge(&mut spa, SECOND, "192.0.2.2", &datagram);
    assert_eq!(reason(later), Some(Reason::Used));
}

#[test]
fn whoever_is_refused_too_often_is_not_listened_to_at_any_door() {
    let lasts = 3600 * SECOND;
    let lockout = Lockout { failures: 2, within: 600 * SECOND, lasts };
    let setup = setup(server(), &clients());
    let mut engine = Engine::new(Setup { lockout: Some(lockout), ..setup });
    let mut send = |after: Duration, stamp: Duration| {
        let datagram = sealed(&stamped(stamp), ONE);
        let verdict = match engine.receive(at(after), &packet("192.0.2.2"), &datagram) {
            Verdict::Requests(_) => None,
            Verdict::Refused(Refusal { reason, .. }) | Verdict::Ignored(reason) => Some(reason),
            Verdict::Knock(_) => panic!("no door watches this port"),
            Verdict::NotOurs => panic!("there is one watcher"),
            Verdict::Waits => panic!("there is one client"),
        };
        (verdict, engine.work(at(after)).to_vec())
    };
    let nothing = Vec::new;
    assert_eq!(send(Duration::ZERO, Duration::ZERO), (None, nothing()));
    assert_eq!(send(SECOND, Duration::ZERO), (Some(Reason::Used), nothing()));
    let until = at(2 * SECOND).monotonic + lasts;
    let locked_out = Event {
        door: None,
        source: "192.0.2.2".parse().unwrap(),
        kind: EventKind::LockedOut { until },
        began: at(2 * SECOND).monotonic,
    };
    assert_eq!(send(2 * SECOND, Duration::ZERO), (Some(Reason::Used), vec![locked_out]));
    assert_eq!(send(3 * SECOND, 3 * SECOND), (Some(Reason::LockedOut), nothing()));
    let after = lasts + 2 * SECOND;
    assert_eq!(send(after, after), (None, nothing()));
}

#[test]
fn what_two_interfaces_show_at_once_is_one_datagram() {
    let mut spa = spa();
    let datagram = sealed(&stamped(Duration::ZERO), ONE);
    assert_eq!(reason(judge(&mut spa, Duration::ZERO, "192.0.2.2", &datagram)), None);
    let copy = judge(&mut spa, Duration::from_millis(1), "192.0.2.2", &datagram);
    assert_eq!(copy, Err(Denial::Ignored(Reason::Duplicate)));
}

#[test]
fn a_newer_request_makes_an_older_one_worthless_to_this_key_only() {
    let mut spa = spa();
    let mut judged =
        |stamp, by| reason(judge(&mut spa, SECOND, "192.0.2.2", &sealed(&stamped(stamp), by)));
    assert_eq!(judged(SECOND, TWO), None);
    assert_eq!(judged(Duration::ZERO, TWO), Some(Reason::Used));
    assert_eq!(judged(Duration::ZERO, ONE), None);
    assert_eq!(judged(Duration::ZERO, TWO_AGAIN), None);
}

#[test]
fn what_is_refused_for_its_time_moves_no_mark() {
    let mut spa = spa();
    let mut judged =
        |stamp| reason(judge(&mut spa, Duration::ZERO, "192.0.2.2", &sealed(&stamped(stamp), ONE)));
    assert_eq!(judged(11 * SECOND), Some(Reason::TooFarAhead));
    assert_eq!(judged(Duration::ZERO), None);
}

#[test]
fn a_door_is_opened_only_to_whom_it_is_for() {
    let judged = |door: &str, by| {
        let door = door.parse().ok();
        reason(asked(&SpaRequest { door, ..stamped(Duration::ZERO) }, by))
    };
    assert_eq!(judged("web", TWO), None);
    assert_eq!(judged("web", ONE), Some(Reason::NotAllowed));
    assert_eq!(judged("other", TWO), Some(Reason::NotAllowed));
    // It takes no datagrams, though it is this client's.
    assert_eq!(judged("plain", ONE), Some(Reason::NotAllowed));
    assert_eq!(judged("none", ONE), Some(Reason::NoSuchDoor));
}

#[test]
fn the_door_that_is_not_for_a_client_is_named() {
    let refused = |door: &str| {
        let door = door.parse().ok();
        match asked(&SpaRequest { door, ..stamped(Duration::ZERO) }, ONE) {
            Err(Denial::Refused(refusal)) => refusal.door,
            _ => None,
        }
    };
    assert!(refused("web").is_some());
    assert_eq!(refused("none"), None);
}

#[test]
fn the_door_need_not_be_named_where_there_is_one_only() {
    let unnamed = SpaRequest { door: None, ..stamped(Duration::ZERO) };
    assert_eq!(reason(asked(&unnamed, ONE)), None);
    assert_eq!(reason(asked(&unnamed, TWO)), Some(Reason::NoSuchDoor));
}

#[test]
fn whoever_has_to_name_the_address_gets_nothing_for_the_observed_one() {
    let mut clients = clients();
    clients[0].spa.as_mut().unwrap().address = AddressPolicy::Explicit;
    let judged = |open| {
        let mut spa = spa_with(server(), &clients);
        let datagram = sealed(&SpaRequest { open, ..stamped(Duration::ZERO) }, ONE);
        reason(judge(&mut spa, Duration::ZERO, "192.0.2.2", &datagram))
    };
    let named = NamedAddresses::new("192.0.2.2".parse().ok(), None).unwrap();
    assert_eq!(judged(Addresses::Observed), Some(Reason::AddressNotNamed));
    assert_eq!(judged(Addresses::Named(named)), None);
}

/// What comes of a request for so wide a network, by a client and at a door that allow so much.
fn widened(client: Option<Widths>, door: Option<Widths>, request: &SpaRequest) -> Judgement {
    let mut setup = setup(server(), &clients());
    setup.clients[0].width = client;
    setup.doors[1].width = door;
    let datagram = sealed(request, ONE);
    judge(&mut SpaJudge::new(&setup).unwrap(), Duration::ZERO, "192.0.2.2", &datagram)
}

#[test]
fn a_network_is_taken_as_wide_as_door_and_client_allow() {
    let of = |ipv4| Some(Widths { ipv4, ipv6: 64 });
    let asked = |ipv4| SpaRequest { widths: Widths { ipv4, ipv6: 128 }, ..stamped(Duration::ZERO) };
    for (client, door, ipv4, expected) in [
        (None, None, 32, None),
        (None, None, 31, Some(Reason::Width)),
        (of(24), None, 24, None),
        (of(24), None, 23, Some(Reason::Width)),
        (None, of(24), 24, None),
        (of(16), of(24), 25, None),
        (of(16), of(24), 16, Some(Reason::Width)),
        (of(24), of(16), 16, Some(Reason::Width)),
    ] {
        let answer = widened(client, door, &asked(ipv4));
        assert_eq!(reason(answer), expected, "{client:?} {door:?} {ipv4}");
    }
}

#[test]
fn the_bits_behind_a_network_are_cleared_of_what_is_named_and_of_what_is_observed() {
    let widths = Widths { ipv4: 24, ipv6: 64 };
    let named =
        NamedAddresses::new("198.51.100.9".parse().ok(), "2001:db8::9".parse().ok()).unwrap();
    for (open, v4, v6) in [
        (Addresses::Observed, "192.0.2.0/24", ""),
        (Addresses::Named(named), "198.51.100.0/24", "2001:db8::/64"),
    ] {
        let request = SpaRequest { open, widths, ..stamped(Duration::ZERO) };
        let [opened] = widened(None, Some(widths), &request).unwrap()[..] else { panic!("one") };
        assert_eq!((opened.v4, opened.v6), (v4.parse().ok(), v6.parse().ok()));
    }
}

#[test]
fn a_network_with_something_of_nobodys_in_it_is_refused_however_wide_one_may_be() {
    let all = Widths { ipv4: 1, ipv6: 1 };
    for (v4, ipv4) in [("1.2.3.4", 7), ("126.9.9.9", 6), ("192.0.2.9", 2)] {
        let open = Addresses::Named(NamedAddresses::new(v4.parse().ok(), None).unwrap());
        let request =
            SpaRequest { open, widths: Widths { ipv4, ..all }, ..stamped(Duration::ZERO) };
        let refused = reason(widened(None, Some(all), &request));
        assert_eq!(refused, Some(Reason::ImpossibleAddress), "{v4}/{ipv4}");
    }
}

#[test]
fn loopback_is_opened_only_over_loopback() {
    for (v4, v6) in [("127.0.0.1", ""), ("", "::1"), ("192.0.2.2", "::1")] {
        let open = Addresses::Named(NamedAddresses::new(v4.parse().ok(), v6.parse().ok()).unwrap());
        let datagram = sealed(&SpaRequest { open, ..stamped(Duration::ZERO) }, ONE);
        for (source, expected) in
            [("192.0.2.2", Some(Reason::ImpossibleAddress)), ("127.0.0.1", None)]
        {
            let answer = judge(&mut spa(), Duration::ZERO, source, &datagram);
            assert_eq!(reason(answer), expected, "{open:?} from {source}");
        }
    }
}

#[test]
fn a_key_of_the_server_that_has_run_out_is_none() {
    let keys = vec![
        ServerKey { key: key(2), until: None },
        ServerKey { key: key(SERVER), until: Some(wall(SECOND)) },
    ];
    let mut spa = spa_with(SpaServer { keys, ..server() }, &clients());
    let datagram = sealed(&stamped(Duration::ZERO), ONE);
    assert_eq!(reason(judge(&mut spa, Duration::ZERO, "192.0.2.2", &datagram)), None);
    let datagram = sealed(&stamped(SECOND), ONE);
    assert_eq!(reason(judge(&mut spa, SECOND, "192.0.2.2", &datagram)), Some(Reason::BadTag));
    let fresh = seal(&stamped(SECOND), &key(ONE), &key(2).public(), [7; 32]);
    assert_eq!(reason(judge(&mut spa, SECOND, "192.0.2.2", &fresh)), None);
}

/// An engine with one more door, which has the requests' port in its sequence.
fn engine(only_ipv4: bool) -> Engine {
    let knocks = Recognition {
        sequence: vec!["62201/udp".parse().unwrap(), "7000".parse().unwrap()],
        ..Recognition::new("knocks".parse().unwrap())
    };
    let mut setup = Setup { only_ipv4, ..setup(server(), &clients()) };
    setup.doors.push(knocks);
    Engine::new(setup)
}

#[test]
fn a_request_is_no_knock_and_what_is_no_request_may_be_one() {
    let mut engine = engine(false);
    let packet = packet("192.0.2.2");
    let request = sealed(&stamped(Duration::ZERO), ONE);
    let verdict = engine.receive(at(Duration::ZERO), &packet, &request);
    assert!(matches!(verdict, Verdict::Requests([_])), "{verdict:?}");
    for (other, after) in [(&[0; LEN][..], 5 * SECOND), (&[0], 10 * SECOND)] {
        let verdict = engine.receive(at(after), &packet, other);
        assert!(matches!(verdict, Verdict::Knock(_)), "{verdict:?}");
    }
}

#[test]
fn where_only_ipv4_is_wanted_nobody_asks_over_ipv6() {
    let mut engine = engine(true);
    let request = sealed(&stamped(Duration::ZERO), ONE);
    let verdict = engine.receive(at(Duration::ZERO), &packet("2001:db8::2"), &request);
    assert_eq!(verdict, Verdict::Ignored(Reason::OnlyIpv4));
}

#[test]
fn what_another_watcher_tells_of_is_passed_over() {
    let mut engine = engine(false);
    let cut = at(SECOND).monotonic;
    let mut asks = |window, after| {
        engine.window = window;
        let request = sealed(&stamped(after), ONE);
        let verdict = engine.receive(at(after), &packet("192.0.2.2"), &request);
        matches!(verdict, Verdict::Requests([_]))
    };
    let from_the_cut_on = ReportWindow { after: Some(cut), until: None };
    assert!(!asks(from_the_cut_on, SECOND));
    assert!(asks(from_the_cut_on, 2 * SECOND));
    let up_to_the_cut = ReportWindow { after: None, until: Some(cut + 2 * SECOND) };
    assert!(asks(up_to_the_cut, 3 * SECOND));
    assert!(!asks(up_to_the_cut, 4 * SECOND));
}

#[test]
fn what_the_watcher_is_handed_comes_out_as_it_went_in() {
    let server = server();
    let text = serde_json::to_string(&server).unwrap();
    assert_eq!(serde_json::from_str::<SpaServer>(&text).unwrap(), server);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However datagrams are mixed up, repeated and delayed: no stamp is taken twice, none
    /// that is older than one taken before, none out of its time.
    #[test]
    fn stamps_are_taken_in_order_and_in_time(
        arrivals in prop::collection::vec((0..100u64, 0..100u64, 0..3u8), 1..40),
    ) {
        let mut spa = spa();
        let mut latest = None;
        let mut arrivals = arrivals;
        arrivals.sort_unstable_by_key(|&(when, ..)| when);
        for (when, stamp, from) in arrivals {
            let datagram = sealed(&stamped(Duration::from_secs(stamp)), ONE);
            let source = format!("192.0.2.{from}");
            let answer = judge(&mut spa, Duration::from_secs(when), &source, &datagram);
            let in_time = when <= stamp + 60 && stamp <= when + 10;
            let expected = in_time && latest.is_none_or(|latest| latest < stamp);
            prop_assert_eq!(answer.is_ok(), expected, "{:?}", answer);
            if expected {
                latest = Some(stamp);
            }
        }
    }

    #[test]
    fn no_stamp_makes_it_panic(stamp: u64) {
        let stamp = Stamp::from_micros(stamp);
        let _ = asked(&SpaRequest { stamp, ..stamped(Duration::ZERO) }, ONE);
    }
}
