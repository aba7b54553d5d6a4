//! Doors whose sequences rotate, and who is locked out of them.

use super::*;
use crate::config::{Client, Lockout, TotpClient};
use crate::proto::Secret;
use crate::proto::totp::{Digits, Protocols, Scheme, TotpKey, TotpMode};

const BOB: &str = "192.0.2.3";
const LOCKOUT: Lockout =
    Lockout { failures: 5, within: Duration::from_secs(600), lasts: Duration::from_secs(3600) };

fn secret(number: u8) -> Secret {
    Secret::new(vec![number; 20])
}

fn client(number: u8, doors: &[&str]) -> Client {
    Client {
        width: None,
        name: format!("client{number}").parse().unwrap(),
        doors: doors.iter().map(|door| door.parse().unwrap()).collect(),
        expires: None,
        totp: Some(TotpClient { secret: secret(number), old: None }),
        spa: None,
        fwknop: None,
    }
}

fn by_ports() -> Scheme {
    let port = |number: u16| number.try_into().unwrap();
    let (low, high) = (port(20_000), port(29_999));
    let mode = TotpMode::Ports { low, high, length: 4, protocol: Protocols::Mixed };
    Scheme::new(mode, 30, 1).unwrap()
}

fn by_code() -> Scheme {
    Scheme::new(TotpMode::Code { base: 7000, digits: Digits::Six }, 30, 1).unwrap()
}

fn rotating(name: &str, scheme: Scheme) -> Recognition {
    Recognition {
        totp: Some(scheme),
        seq_timeout: 10 * SECOND,
        ..Recognition::new(name.parse().unwrap())
    }
}

/// A world in which it is a whole number of steps at its beginning.
struct World {
    engine: Engine,
    sent: u32,
    now: Now,
}

const STEP: u64 = 56_666_667;

impl World {
    fn new(doors: &[Recognition], clients: &[Client]) -> Self {
        Self::with(doors, clients, Setup { sources: 1000, ..Setup::default() })
    }

    fn with(doors: &[Recognition], clients: &[Client], setup: Setup) -> Self {
        Self {
            engine: Engine::new(Setup {
                doors: doors.to_vec(),
                clients: clients.to_vec(),
                ..setup
            }),
            sent: 0,
            now: Now {
                monotonic: Monotonic::ZERO + Duration::from_secs(1000),
                wall: Wall::ZERO + Duration::from_secs(30 * STEP),
            },
        }
    }

    fn wait(&mut self, span: Duration) -> Vec<String> {
        self.now = Now { monotonic: self.now.monotonic + span, wall: self.now.wall + span };
        let mut told: Vec<String> = self.engine.on_deadline(self.now).iter().map(text).collect();
        while self.engine.next_work().is_some_and(|at| at <= self.now.monotonic) {
            told.extend(self.engine.work(self.now).iter().map(text));
        }
        told
    }

    /// Knocks a tenth of a second apart, and what they come to.
    fn knocks(&mut self, source: &str, knocks: &[Knock]) -> Vec<String> {
        let mut told = Vec::new();
        for &knock in knocks {
            told.extend(self.wait(SECOND / 10));
            self.sent += 1;
            let packet = packet(source.parse().unwrap(), knock, self.sent);
            told.extend(events(self.engine.on_packet(self.now, &packet)));
        }
        told
    }
}

fn sequence(scheme: Scheme, number: u8, door: &str, step: u64) -> Vec<Knock> {
    scheme.knocks(&TotpKey::from(&secret(number)), door, step).to_vec()
}

fn tcp(port: u16) -> Knock {
    Knock::new(Protocol::Tcp, port.try_into().unwrap())
}

const OPENED: [&str; 4] = ["0: stage 1", "0: stage 2", "0: stage 3", "0: open: client 0"];

#[test]
fn the_sequence_of_the_step_opens_the_door_and_says_whose_it_is() {
    let doors = [rotating("ssh", by_ports())];
    let mut world = World::new(&doors, &[client(1, &["ssh"]), client(2, &["ssh"])]);
    assert_eq!(world.knocks(ALICE, &sequence(by_ports(), 1, "ssh", STEP)), OPENED);
    let told = world.knocks(BOB, &sequence(by_ports(), 2, "ssh", STEP));
    assert_eq!(told.last().unwrap(), "0: open: client 1");
}

#[test]
fn nobody_has_to_wake_when_a_step_turns_and_the_sequence_of_the_new_step_opens_all_the_same() {
    let mut world = World::new(&[rotating("ssh", by_ports())], &[client(1, &["ssh"])]);
    world.wait(SECOND);
    let turn = world.now.monotonic + 29 * SECOND;
    assert_eq!(world.engine.next_work(), Some(turn + 15 * SECOND));
    world.wait(42 * SECOND);
    assert!(world.engine.is_ready());
    assert_eq!(world.knocks(ALICE, &sequence(by_ports(), 1, "ssh", STEP + 1)), OPENED);
    // Whoever is awake for something else after the turn prepares the next one then.
    let _ = world.engine.work(world.now);
    assert_eq!(world.engine.next_work(), Some(turn + 45 * SECOND));
}

#[test]
fn a_sequence_that_has_opened_is_refused_from_wherever_it_comes() {
    let mut world = World::new(&[rotating("ssh", by_ports())], &[client(1, &["ssh"])]);
    let knocks = sequence(by_ports(), 1, "ssh", STEP);
    world.knocks(ALICE, &knocks);
    for source in [ALICE, BOB] {
        assert_eq!(world.knocks(source, &knocks).last().unwrap(), "0: 4 lost: used");
    }
}

#[test]
fn a_client_opens_only_its_own_doors_and_with_their_own_sequences() {
    let doors = [rotating("ssh", by_ports()), rotating("web", by_ports())];
    let mut world = World::new(&doors, &[client(1, &["web"]), client(2, &["ssh"])]);
    assert_eq!(opens(&world.knocks(ALICE, &sequence(by_ports(), 1, "ssh", STEP))), 0);
    let told = world.knocks(ALICE, &sequence(by_ports(), 1, "web", STEP));
    assert_eq!(told.last().unwrap(), "1: open: client 0");
    let told = world.knocks(ALICE, &sequence(by_ports(), 2, "ssh", STEP));
    assert_eq!(told.last().unwrap(), "0: open: client 1");
}

#[test]
fn during_a_rotation_of_the_secret_both_hold_and_then_only_the_new_one() {
    let mut both = client(1, &["ssh"]);
    let until = Wall::ZERO + Duration::from_secs(30 * STEP + 60);
    both.totp.as_mut().unwrap().old = Some((secret(9), until));
    let mut world = World::new(&[rotating("ssh", by_ports())], &[both]);
    assert_eq!(world.knocks(ALICE, &sequence(by_ports(), 1, "ssh", STEP)), OPENED);
    assert_eq!(world.knocks(ALICE, &sequence(by_ports(), 9, "ssh", STEP)), OPENED);
    world.wait(60 * SECOND);
    let told = world.knocks(ALICE, &sequence(by_ports(), 9, "ssh", STEP + 2));
    assert_eq!(told.last().unwrap(), "0: 4 lost: expired");
    assert_eq!(world.knocks(ALICE, &sequence(by_ports(), 1, "ssh", STEP + 2)), OPENED);
}

#[test]
fn a_client_that_has_expired_opens_nothing() {
    let expires = Some(Wall::ZERO + Duration::from_secs(30 * STEP));
    let gone = Client { expires, ..client(1, &["ssh"]) };
    let mut world = World::new(&[rotating("ssh", by_ports())], &[gone]);
    let told = world.knocks(ALICE, &sequence(by_ports(), 1, "ssh", STEP));
    assert_eq!(told.last().unwrap(), "0: 4 lost: expired");
}

#[test]
fn every_other_port_of_the_range_is_a_trip_wire() {
    let mut world = World::new(&[rotating("ssh", by_ports())], &[client(1, &["ssh"])]);
    let mut knocks = sequence(by_ports(), 1, "ssh", STEP);
    knocks.insert(2, tcp(29_998));
    let told = world.knocks(ALICE, &knocks);
    assert_eq!(told, ["0: stage 1", "0: stage 2", "0: 2 lost by 29998/tcp: trip-wire"]);
}

#[test]
fn a_sequence_that_is_not_completed_in_time_is_lost() {
    let mut world = World::new(&[rotating("ssh", by_ports())], &[client(1, &["ssh"])]);
    let knocks = sequence(by_ports(), 1, "ssh", STEP);
    assert_eq!(world.knocks(ALICE, &knocks[..3]).len(), 3);
    assert_eq!(world.wait(11 * SECOND), ["0: 3 lost: timeout"]);
    assert_eq!(opens(&world.knocks(ALICE, &knocks[3..])), 0);
    world.wait(200 * SECOND);
    assert_eq!(world.engine.tracked(), 0);
}

#[test]
fn a_door_opens_by_its_own_sequence_and_by_those_that_rotate() {
    let door =
        Recognition { sequence: vec![tcp(20_100), tcp(9000)], ..rotating("ssh", by_ports()) };
    let mut world = World::new(&[door], &[client(1, &["ssh"])]);
    let told = world.knocks(ALICE, &[tcp(20_100), tcp(9000)]);
    assert_eq!(told, ["0: stage 1", "0: open"]);
    // A port of the other sequence does not matter to this one.
    let mut knocks = sequence(by_ports(), 1, "ssh", STEP);
    knocks.insert(2, tcp(9000));
    assert_eq!(world.knocks(ALICE, &knocks), OPENED);
}

#[test]
fn two_sources_on_their_way_at_once_do_not_disturb_each_other() {
    let doors = [rotating("ssh", by_ports())];
    let mut world = World::new(&doors, &[client(1, &["ssh"]), client(2, &["ssh"])]);
    let [first, second] = [1, 2].map(|number| sequence(by_ports(), number, "ssh", STEP));
    let mut told = Vec::new();
    for (one, other) in first.iter().zip(&second) {
        told.extend(world.knocks(ALICE, &[*one]));
        told.extend(world.knocks(BOB, &[*other]));
    }
    assert_eq!(opens(&told), 2);
}

#[test]
fn a_clock_that_is_off_is_told_once_the_source_has_gone_quiet() {
    let mut world = World::new(&[rotating("ssh", by_ports())], &[client(1, &["ssh"])]);
    let told = world.knocks(ALICE, &sequence(by_ports(), 1, "ssh", STEP + 20));
    assert_eq!(opens(&told), 0);
    assert!(world.wait(SECOND / 2).is_empty());
    assert_eq!(world.wait(SECOND), ["0: client 0 missed by 20 steps"]);
    world.knocks(ALICE, &sequence(by_ports(), 1, "ssh", STEP - 120));
    assert_eq!(world.wait(2 * SECOND), ["0: client 0 missed by -120 steps"]);
    // An hour is 120 steps.
    world.knocks(ALICE, &sequence(by_ports(), 1, "ssh", STEP + 130));
    assert_eq!(world.wait(2 * SECOND).last().map(String::as_str), Some("0: nobody's"));
}

#[test]
fn a_late_start_of_the_preparation_loses_no_packet() {
    let mut world = World::new(&[rotating("ssh", by_ports())], &[client(1, &["ssh"])]);
    assert!(!world.engine.is_ready());
    world.sent += 10;
    let mut told = Vec::new();
    for (number, knock) in (0..).zip(sequence(by_ports(), 1, "ssh", STEP)) {
        let packet = packet(ALICE.parse().unwrap(), knock, number);
        told.extend(events(world.engine.on_packet(world.now, &packet)));
    }
    assert_eq!(told, OPENED);
}

#[test]
fn the_clock_can_be_set_while_it_runs() {
    let mut world = World::new(&[rotating("ssh", by_ports())], &[client(1, &["ssh"])]);
    assert_eq!(world.knocks(ALICE, &sequence(by_ports(), 1, "ssh", STEP)), OPENED);
    for steps in [STEP + 5000, STEP - 5000] {
        world.now.wall = Wall::ZERO + Duration::from_secs(30 * steps);
        assert!(world.wait(SECOND).is_empty());
        assert!(world.engine.is_ready());
        assert_eq!(world.knocks(ALICE, &sequence(by_ports(), 1, "ssh", steps)), OPENED);
    }
}

/// What a browser does with an address that it cannot reach: several connections, each of them
/// tried again.
fn browse(world: &mut World, ports: &[Knock]) -> Vec<String> {
    let mut told = Vec::new();
    for &port in ports {
        let connections: Vec<Packet> = (0..3)
            .map(|number| packet(ALICE.parse().unwrap(), port, 100 * world.sent + number))
            .collect();
        for _ in 0..3 {
            world.sent += 1;
            told.extend(world.wait(SECOND / 3));
            for connection in &connections {
                told.extend(events(world.engine.on_packet(world.now, connection)));
            }
        }
    }
    told.retain(|event| event != "ignored: duplicate");
    told
}

#[test]
fn a_code_can_be_knocked_with_a_browser() {
    let mut world = World::new(&[rotating("ssh", by_code())], &[client(1, &["ssh"])]);
    let code = sequence(by_code(), 1, "ssh", STEP);
    let told = browse(&mut world, &code);
    assert_eq!(opens(&told), 1, "{told:?}");
    assert!(!told.iter().any(|event| event.contains("lost")), "{told:?}");
}

fn code_door() -> Recognition {
    Recognition { lockout: Some(LOCKOUT), ..rotating("ssh", by_code()) }
}

#[test]
fn who_guesses_codes_is_locked_out_after_the_fifth_failure() {
    let mut world = World::new(&[code_door()], &[client(1, &["ssh"])]);
    // No port of the code, so no stage either.
    let valid: Vec<Knock> =
        (STEP - 1..=STEP + 1).flat_map(|step| sequence(by_code(), 1, "ssh", step)).collect();
    let wrong: Vec<Knock> = (7000..7100).map(tcp).filter(|knock| !valid.contains(knock)).collect();
    assert_eq!(world.knocks(ALICE, &wrong[..14]), [""; 0]);
    assert_eq!(world.knocks(ALICE, &wrong[14..15]), ["0: locked out for 3600 s"]);
    assert_eq!(world.knocks(ALICE, &wrong[15..16]), ["ignored: locked-out"]);
    let code = |step| sequence(by_code(), 1, "ssh", step);
    assert_eq!(world.knocks(ALICE, &code(STEP)), ["ignored: locked-out"; 3]);
    assert_eq!(opens(&world.knocks(BOB, &code(STEP))), 1);
    world.wait(3600 * SECOND);
    assert_eq!(opens(&world.knocks(ALICE, &code(STEP + 120))), 1);
}

#[test]
fn a_typo_or_a_browser_locks_nobody_out() {
    let mut world = World::new(&[code_door()], &[client(1, &["ssh"])]);
    for round in 0..20 {
        let code = sequence(by_code(), 1, "ssh", STEP + 4 * round);
        if round % 4 == 0 {
            world.knocks(ALICE, &[code[0], code[2]]);
        }
        let told = browse(&mut world, &code);
        assert_eq!(opens(&told), 1, "{round}: {told:?}");
        world.now.wall = Wall::ZERO + Duration::from_secs(30 * (STEP + 4 * round + 4));
        world.now.monotonic = Monotonic::ZERO + Duration::from_secs(1000 + 120 * (round + 1));
    }
}

#[test]
fn an_address_of_a_locked_ipv6_network_is_locked_out_too() {
    let mut world = World::new(&[code_door()], &[client(1, &["ssh"])]);
    let wrong: Vec<Knock> = (7000..7060).map(tcp).collect();
    for (host, knocks) in wrong.chunks(3).enumerate() {
        world.knocks(&format!("2001:db8::{host:x}"), knocks);
    }
    assert_eq!(world.knocks("2001:db8::ffff", &wrong[..1]), ["ignored: locked-out"]);
    let told = world.knocks("2001:db8:0:1::1", &wrong[..1]);
    assert_ne!(told, ["ignored: locked-out"]);
}

#[test]
fn whoever_breaks_sequences_too_often_is_not_listened_to_anywhere() {
    let setup = Setup { lockout: Some(LOCKOUT), ..Setup::default() };
    let doors = [door(&["1", "2", "3"]), door(&["4", "5"])];
    let mut world = World::with(&doors, &[], setup);
    for _ in 0..4 {
        assert_eq!(
            world.knocks(ALICE, &[tcp(1), tcp(3)]),
            ["0: stage 1", "0: 1 lost by 3/tcp: wrong-knock"]
        );
    }
    let told = world.knocks(ALICE, &[tcp(1), tcp(3)]);
    assert_eq!(
        told,
        ["0: stage 1", "0: 1 lost by 3/tcp: wrong-knock", "locked out everywhere for 3600 s"]
    );
    assert_eq!(world.knocks(ALICE, &[tcp(4)]), ["ignored: locked-out"]);
    assert_eq!(world.knocks(BOB, &[tcp(4), tcp(5)]), ["1: stage 1", "1: open"]);
}

#[test]
fn locks_of_an_earlier_engine_hold() {
    let until = Monotonic::ZERO + 1100 * SECOND;
    let locks = vec![LockedSource { door: Some(DoorId(0)), source: ALICE.parse().unwrap(), until }];
    let setup = Setup { locks, ..Setup::default() };
    let mut world = World::with(&[code_door()], &[client(1, &["ssh"])], setup);
    let code = sequence(by_code(), 1, "ssh", STEP);
    assert_eq!(world.knocks(ALICE, &code), ["ignored: locked-out"; 3]);
    world.wait(100 * SECOND);
    assert_eq!(opens(&world.knocks(ALICE, &sequence(by_code(), 1, "ssh", STEP + 3))), 1);
}

#[test]
fn a_guesser_is_locked_out_after_as_many_knocks_with_a_flood_between_them() {
    for (sources, strangers) in [(20, 0), (20, 3), (20, 60), (1000, 2000)] {
        let setup = Setup { sources, ..Setup::default() };
        let mut world = World::with(&[code_door()], &[client(1, &["ssh"])], setup);
        let (mut knocks, mut stranger) = (0, 0xcb00_7100u32);
        let locked = loop {
            let wrong = tcp(7000 + knocks % 2);
            knocks += 1;
            let told = world.knocks(ALICE, &[wrong]);
            if told.iter().any(|event| event.contains("locked out for 3600 s")) {
                break true;
            }
            if knocks > 30 {
                break false;
            }
            for _ in 0..strangers {
                stranger += 1;
                world.sent += 1;
                let source = IpAddr::V4(Ipv4Addr::from_bits(stranger));
                let packet = packet(source, tcp(7050), world.sent);
                let _ = world.engine.on_packet(world.now, &packet);
            }
        };
        // Up to the knocks of a beginning that may still be right.
        assert!(locked && (15..=18).contains(&knocks), "{strangers}: {knocks}");
    }
}

#[test]
fn in_a_flood_newcomers_are_one_source_and_whoever_has_opened_is_none_of_them() {
    let setup = Setup { sources: 20, ..Setup::default() };
    let mut world = World::with(&[code_door()], &[client(1, &["ssh"])], setup);
    let code = |world: &World| {
        let step = world.now.wall.as_nanos() / 30_000_000_000;
        sequence(by_code(), 1, "ssh", step)
    };
    let good = code(&world);
    assert_eq!(opens(&world.knocks(ALICE, &good)), 1);
    let mut told = Vec::new();
    for stranger in 1..=60 {
        told.extend(world.knocks(&format!("203.0.113.{stranger}"), &[tcp(7000)]));
    }
    assert!(told.contains(&"0: locked out for 600 s".to_owned()), "{told:?}");
    world.wait(60 * SECOND);
    let good = code(&world);
    assert_eq!(world.knocks(BOB, &good), ["ignored: locked-out"; 3]);
    assert_eq!(opens(&world.knocks(ALICE, &good)), 1);
    world.wait(600 * SECOND);
    let good = code(&world);
    assert_eq!(opens(&world.knocks(BOB, &good)), 1, "it is over");
}

/// A source can try more codes than it knocks if it repeats each knock so that it counts as often
/// as a code may want it. With f failures of n knocks each there are f n - r + 1 places for r
/// different knocks in a row, and as many ways to repeat these as n can be composed of r parts.
fn codes_to_try(failures: u64, n: u64) -> u64 {
    let ways: &[u64] = if n == 3 { &[1, 2, 1] } else { &[1, 3, 3, 1] };
    (1..=n).zip(ways).map(|(r, ways)| (failures * n - r + 1) * ways).sum()
}

#[test]
fn the_manual_says_how_many_codes_can_be_tried() {
    assert_eq!(codes_to_try(5, 3), 56);
    assert_eq!(codes_to_try(5, 4), 148);
}

/// How many different knocks in a row a code has.
fn runs(code: &[Knock]) -> usize {
    code.chunk_by(PartialEq::eq).count()
}

#[test]
fn guessing_succeeds_as_rarely_as_the_manual_says() {
    const SOURCES: u32 = 1500;
    let (failures, n) = (u64::from(LOCKOUT.failures), 3);
    // Many clients, so that there is something to be seen.
    let clients: Vec<Client> = (1..=250).map(|number| client(number, &["ssh"])).collect();
    let setup = Setup { sources: 10_000, ..Setup::default() };
    let mut world = World::with(&[code_door()], &clients, setup);
    let valid: std::collections::BTreeSet<Vec<Knock>> = (STEP - 1..=STEP + 1)
        .flat_map(|step| (1..=250).map(move |number| sequence(by_code(), number, "ssh", step)))
        .collect();
    let mut random = 0x2545_f491_4f6c_dd1du64;
    let mut below_100 = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 32) as u16 % 100
    };
    let (mut hits, mut locked, mut knocks) = (0, 0, 0);
    for source in 0..SOURCES {
        let source = IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7100 + source));
        let mut last = 100;
        'source: loop {
            let Some(digits) = Some(below_100()).filter(|&digits| digits != last) else { continue };
            last = digits;
            knocks += 1;
            for _ in 0..n {
                world.sent += 1;
                let packet = packet(source, tcp(7000 + digits), world.sent);
                for event in events(world.engine.on_packet(world.now, &packet)) {
                    // A code that another source has hit before is hit again.
                    hits += u32::from(event.contains("open") || event.contains("used"));
                    if event.contains("locked") {
                        locked += 1;
                        break 'source;
                    }
                }
            }
        }
    }
    // Of the knocks of a beginning that may still be right one is not counted yet.
    assert_eq!(locked, SOURCES);
    let allowed = u64::from(SOURCES) * failures * n;
    assert!((allowed..=allowed * 6 / 5).contains(&knocks), "{knocks}");
    // Codes with equal pairs side by side are rare, and tried more often than their share.
    let share = |wanted: usize, codes: f64| {
        valid.iter().filter(|code| runs(code) == wanted).count() as f64 / codes
    };
    let per_knock = share(3, 100.0 * 99.0 * 99.0) + 2.0 * share(2, 2.0 * 9900.0) + share(1, 100.0);
    let expected = per_knock * knocks as f64;
    let off = (f64::from(hits) - expected).abs();
    assert!(off < 4.0 * expected.sqrt(), "{hits} hits instead of {expected}");
}
