//! What a datagram costs that has the length and the port of a native SPA request, from its bytes
//! to the verdict.
//!
//! Junk is what a flood consists of; a request is what only the server's public key makes.

use std::time::Duration;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use libknock::config::{AddressPolicy, Client, FwknopClient, Recognition, SpaClient, SpaSettings};
use libknock::engine::spa::{ServerKey, SpaServer};
use libknock::engine::{Engine, Setup, Verdict};
use libknock::proto::fwknop::{CipherMode, FwknopKey, Hash, HmacKey};
use libknock::proto::network::Widths;
use libknock::proto::spa::{Addresses, LEN, PORT, PrivateKey, SpaRequest, Stamp, seal};
use libknock::time::{Monotonic, Now, Wall};
use libknock::wire::link::LinkType;

/// How many clients are enrolled.
const CLIENTS: [usize; 2] = [1, 1000];
const CLOCK: u64 = 1_700_000_000;
const HEADERS: usize = 14 + 20 + 8;

fn main() {
    divan::main();
}

/// Random bytes: one HMAC, and nothing is left behind.
#[divan::bench(args = CLIENTS, sample_size = 2000, sample_count = 100)]
fn junk(bencher: Bencher<'_, '_>, clients: usize) {
    let mut bench = Bench::new(clients);
    let mut frame = frame(&[0xa5; LEN]);
    let mut number: u32 = 0;
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        number = number.wrapping_add(1);
        frame[HEADERS..HEADERS + 4].copy_from_slice(&number.to_be_bytes());
        bench.receive(&frame)
    });
}

/// The same datagram again and again, by someone who has caught it.
#[divan::bench(args = CLIENTS, sample_size = 2000, sample_count = 100)]
fn replays(bencher: Bencher<'_, '_>, clients: usize) {
    let mut bench = Bench::new(clients);
    let frame = frame(&request(1));
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| bench.receive(&frame));
}

/// Requests that may have what they ask for: a handshake each.
#[divan::bench(args = CLIENTS, sample_size = 10, sample_count = 100)]
fn requests(bencher: Bencher<'_, '_>, clients: usize) {
    let mut bench = Bench::new(clients);
    let mut number = 0;
    bencher
        .counter(ItemsCount::new(1u32))
        .with_inputs(|| {
            number += 1;
            frame(&request(number))
        })
        .bench_local_values(|frame| bench.receive(&frame));
}

/// Base64 as long as a request of fwknop's by its stock client, and longer than any: one HMAC for
/// each client, or none.
#[divan::bench(args = CLIENTS, consts = [225, 1400], sample_size = 10, sample_count = 100)]
fn fwknop_junk<const LENGTH: usize>(bencher: Bencher<'_, '_>, clients: usize) {
    let mut bench = Bench::new(clients);
    let mut payload = [b'8'; LENGTH];
    let mut number: u32 = 0;
    bencher.counter(ItemsCount::new(1u32)).bench_local(|| {
        number = number.wrapping_add(1);
        payload[1..9].copy_from_slice(format!("{number:08x}").as_bytes());
        bench.receive(&frame(&payload))
    });
}

struct Bench {
    engine: Engine,
}

impl Bench {
    fn new(clients: usize) -> Self {
        let door = Recognition { spa: true, fwknop: true, ..Recognition::new(name("door")) };
        let clients: Vec<Client> = (0..clients).map(client).collect();
        let keys = vec![ServerKey { key: server(), until: None }];
        let spa = Some(SpaServer::new(&SpaSettings::default(), keys));
        let setup = Setup { doors: vec![door], clients, spa, sources: 1024, ..Setup::default() };
        Self { engine: Engine::new(setup) }
    }

    fn receive(&mut self, frame: &[u8]) -> bool {
        let now = Now {
            monotonic: Monotonic::ZERO + Duration::from_secs(1000),
            wall: Wall::ZERO + Duration::from_secs(CLOCK),
        };
        let (packet, payload) =
            libknock::wire::parse(LinkType::Ethernet, black_box(frame)).expect("a packet");
        let is_request = matches!(self.engine.receive(now, &packet, payload), Verdict::Requests(_));
        while self.engine.try_waiting().is_some() {}
        is_request
    }
}

fn name(text: &str) -> libknock::config::Name {
    text.parse().expect("a name")
}

fn server() -> PrivateKey {
    PrivateKey::from([1; 32])
}

/// The first eight bits of a key do not all count.
fn key(number: usize) -> PrivateKey {
    let mut bytes = [2; 32];
    bytes[8..16].copy_from_slice(&(number as u64).to_be_bytes());
    PrivateKey::from(bytes)
}

fn client(number: usize) -> Client {
    Client {
        width: None,
        name: name(&format!("c{number}")),
        doors: vec![name("door")],
        expires: None,
        totp: None,
        spa: Some(SpaClient { keys: vec![key(number).public()], address: AddressPolicy::Any }),
        fwknop: Some(FwknopClient {
            key: FwknopKey::new(b"key".to_vec()).expect("a key"),
            mode: CipherMode::Cbc,
            hmac: Some((HmacKey::new(format!("{number}").into()).expect("a key"), Hash::Sha256)),
            from: Vec::new(),
            destination: Vec::new(),
            username: None,
            address: AddressPolicy::Any,
            old: None,
            force_nat: false,
        }),
    }
}

/// A request of the first client, later than those with a lower number.
fn request(number: u64) -> [u8; LEN] {
    let request = SpaRequest {
        widths: Widths::SINGLE,
        open: Addresses::Observed,
        close: false,
        source_port: None,
        open_for: None,
        stamp: Stamp::from_micros(CLOCK * 1_000_000 + number),
        door: None,
    };
    seal(&request, &key(0), &server().public(), [3; 32])
}

/// A datagram from 192.0.2.2 to 192.0.2.1.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    let (segment, whole) = (8 + payload.len() as u16, 28 + payload.len() as u16);
    let length = whole.to_be_bytes();
    frame.extend([0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend([192, 0, 2, 2, 192, 0, 2, 1]);
    frame.extend(u16::to_be_bytes(40_000));
    frame.extend(PORT.to_be_bytes());
    frame.extend(segment.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}
