//! Rotating sequences from the client's plan to the engine under virtual time: two clocks that
//! differ, over a network that delays and doubles what it carries.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use libknock::client::totp::TotpKnocker;
use libknock::config::{Client, Recognition, TotpClient};
use libknock::engine::{ClientId, CompletedBy, Engine, EventKind, Setup, Verdict};
use libknock::proto::flags::TcpFlags;
use libknock::proto::knock::{Knock, Protocol};
use libknock::proto::secret::Secret;
use libknock::proto::totp::{Digits, Protocols, Scheme, TotpKey, TotpMode};
use libknock::time::{Monotonic, Now, Wall};
use libknock::wire::{Packet, Transport};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

/// A door, two clients of it, and the time by the daemon's clock.
struct World {
    engine: Engine,
    scheme: Scheme,
    door: String,
    secrets: [Secret; 2],
    start: Wall,
    connections: u32,
}

impl World {
    fn new(scheme: Scheme, door: &str, secrets: [[u8; 20]; 2], start: u64) -> Self {
        let secrets = secrets.map(|bytes| Secret::new(bytes.to_vec()));
        let clients: Vec<Client> = ["one", "other"]
            .iter()
            .zip(&secrets)
            .map(|(name, secret)| Client {
                width: None,
                name: name.parse().unwrap(),
                doors: vec![door.parse().unwrap()],
                expires: None,
                totp: Some(TotpClient { secret: secret.clone(), old: None }),
                spa: None,
                fwknop: None,
            })
            .collect();
        let recognition =
            Recognition { totp: Some(scheme), ..Recognition::new(door.parse().unwrap()) };
        let engine = Engine::new(Setup { doors: vec![recognition], clients, ..Setup::default() });
        let start = Wall::from_nanos(start);
        Self { engine, scheme, door: door.to_owned(), secrets, start, connections: 0 }
    }

    /// What a client knocks whose clock is so many seconds ahead, and after how long by its clock:
    /// as `knock` does, it waits for the next step where the sequence would be cut.
    fn plan(&self, client: usize, ahead: i64, delay: Duration) -> Vec<(Duration, Knock)> {
        let rotating = TotpKnocker {
            key: TotpKey::from(&self.secrets[client]),
            scheme: self.scheme,
            door: self.door.clone(),
            delay,
        };
        let offset = Duration::from_secs(ahead.unsigned_abs());
        let clock = if ahead < 0 { self.start - offset } else { self.start + offset };
        let leaves = rotating.start(clock, None);
        let waited = leaves.since(clock);
        rotating.schedule(leaves).knocks().map(|(due, knock)| (waited + due, knock)).collect()
    }

    /// Who opens the door by these knocks, and in which step.
    fn carry(&mut self, knocks: &[(Duration, Knock)], fates: &[Fate]) -> Vec<(ClientId, u64)> {
        let mut arrivals = Vec::new();
        for (&(at, knock), fate) in knocks.iter().zip(fates.iter().cycle()) {
            self.connections += 1;
            let packet = packet(knock, self.connections);
            arrivals.push((at + LATENCY, packet));
            let again = fate.map(|again| match packet.transport {
                Transport::Tcp { .. } => again,
                // A datagram is not sent again: it is copied where it arrives.
                Transport::Udp { .. } => again / 100,
            });
            arrivals.extend(again.map(|again| (at + LATENCY + again, packet)));
        }
        arrivals.sort_by_key(|(at, _)| *at);
        let mut opened = Vec::new();
        for (at, packet) in arrivals {
            let now = self.at(at);
            while self.engine.next_work().is_some_and(|due| due <= now.monotonic) {
                let _events = self.engine.work(now);
            }
            if let Verdict::Knock(events) = self.engine.on_packet(now, &packet) {
                opened.extend(events.iter().filter_map(|event| match event.kind {
                    EventKind::Open(CompletedBy::Totp { client, step }) => Some((client, step)),
                    _ => None,
                }));
            }
        }
        opened
    }

    fn at(&self, span: Duration) -> Now {
        Now { monotonic: Monotonic::from_nanos(1000 * SECOND) + span, wall: self.start + span }
    }
}

const LATENCY: Duration = Duration::from_millis(20);

/// After how long a packet comes again, if it does.
type Fate = Option<Duration>;

fn packet(knock: Knock, connection: u32) -> Packet {
    let port = knock.port;
    let source_port = 1024 + (connection % 60_000) as u16;
    let transport = match knock.protocol {
        Protocol::Tcp => {
            let sequence = connection.wrapping_mul(2_654_435_761);
            Transport::Tcp { source_port, port, sequence, flags: TcpFlags::SYN }
        }
        Protocol::Udp => Transport::Udp { source_port, port },
    };
    Packet {
        source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
        destination: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
        transport,
        looped: false,
    }
}

/// Schemes with so many sequences that two are never the same.
fn any_scheme() -> impl Strategy<Value = Scheme> {
    let protocols = prop_oneof![Just(Protocols::Tcp), Just(Protocols::Udp), Just(Protocols::Mixed)];
    let mode = prop_oneof![
        (1u16..60_000, 500u16..3000, 4u8..=8, protocols).prop_map(
            |(low, width, length, protocol)| TotpMode::Ports {
                low: low.try_into().unwrap(),
                high: (low + width).try_into().unwrap(),
                length,
                protocol,
            }
        ),
        (1u16..=65_436).prop_map(|base| TotpMode::Code { base, digits: Digits::Eight }),
    ];
    (mode, 5u32..120, 0u8..=3).prop_map(|(mode, step, skew)| Scheme::new(mode, step, skew).unwrap())
}

fn any_fates() -> impl Strategy<Value = Vec<Fate>> {
    prop::collection::vec(prop::option::of((0u64..900).prop_map(Duration::from_millis)), 8)
}

fn any_start() -> std::ops::Range<u64> {
    0..4_000_000_000 * SECOND
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn client_and_daemon_agree_while_their_clocks_do(
        scheme in any_scheme(),
        door in "[A-Za-z0-9_-]{1,32}",
        secrets: [[u8; 20]; 2],
        start in any_start(),
        client in 0usize..2,
        delay in (0u64..100).prop_map(Duration::from_millis),
        fates in any_fates(),
    ) {
        let mut world = World::new(scheme, &door, secrets, start);
        let knocks = world.plan(client, 0, delay);
        let opened = world.carry(&knocks, &fates);
        prop_assert_eq!(opened.len(), 1);
        prop_assert_eq!(opened[0].0, ClientId(client as u32));
        // The same again is worth nothing, from wherever.
        prop_assert_eq!(world.carry(&knocks, &[None]), []);
    }

    #[test]
    fn clocks_may_differ_by_the_skew_and_no_more(
        scheme in any_scheme(),
        secrets: [[u8; 20]; 2],
        start in any_start(),
        steps in 0u32..=5,
        behind: bool,
        fates in any_fates(),
    ) {
        let start = start + 86_400 * SECOND;
        let mut world = World::new(scheme, "ssh", secrets, start);
        let ahead = i64::from(steps * scheme.step()) * if behind { -1 } else { 1 };
        let knocks = world.plan(0, ahead, Duration::from_millis(15));
        let opened = world.carry(&knocks, &fates);
        prop_assert_eq!(opened.len(), usize::from(steps <= u32::from(scheme.skew())));
    }

    #[test]
    fn two_clients_knock_at_the_same_time_from_different_steps(
        scheme in any_scheme(),
        secrets: [[u8; 20]; 2],
        start in any_start(),
        fates in any_fates(),
    ) {
        let mut world = World::new(scheme, "ssh", secrets, start);
        for client in 0..2 {
            let knocks = world.plan(client, 0, Duration::from_millis(15));
            let opened = world.carry(&knocks, &fates);
            prop_assert_eq!(opened.len(), 1);
            prop_assert_eq!(opened[0].0, ClientId(client as u32));
        }
    }

    #[test]
    fn a_sequence_without_one_of_its_knocks_opens_nothing(
        scheme in any_scheme(),
        secrets: [[u8; 20]; 2],
        start in any_start(),
        lost in any::<prop::sample::Index>(),
        fates in any_fates(),
    ) {
        let mut world = World::new(scheme, "ssh", secrets, start);
        let mut knocks = world.plan(0, 0, Duration::from_millis(15));
        knocks.remove(lost.index(knocks.len()));
        prop_assert_eq!(world.carry(&knocks, &fates), []);
    }
}
