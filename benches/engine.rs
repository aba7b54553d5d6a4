//! What a packet costs, from its bytes to the verdict, and what following many sources costs in
//! memory.
//!
//! The frames are Ethernet, IPv4 and TCP, at 100,000 packets a second. Deadlines are looked at
//! before each packet, as the watcher does.

use std::time::Duration;

use divan::{Bencher, black_box};
use libknock::config::{Client, Recognition, TotpClient};
use libknock::engine::{Engine, Setup, Verdict};
use libknock::proto::knock::{Knock, Protocol};
use libknock::proto::secret::Secret;
use libknock::proto::totp::{Digits, Protocols, Scheme, TotpMode};
use libknock::time::{Monotonic, Now, Wall};
use libknock::wire::link::LinkType;

/// As configured when nothing is configured.
const SOURCES: usize = 65_536;
const DOORS: [usize; 3] = [1, 100, 10_000];
const SPOOFED: [u32; 3] = [1, 10_000, 1_000_000];
const BETWEEN_PACKETS: Duration = Duration::from_micros(10);

/// Who can knock a rotating sequence.
const CLIENTS: [u32; 3] = [1, 100, 10_000];

fn main() {
    memory::print();
    turning::print();
    divan::main();
}

/// A packet to a port that no door watches.
#[divan::bench(args = DOORS, sample_size = 2000, sample_count = 100)]
fn unwatched(bencher: Bencher<'_, '_>, doors: usize) {
    let mut bench = Bench::new(doors, 0);
    let port = bench.unwatched;
    bencher.bench_local(|| bench.send(1, port, 0));
}

/// Ten thousand people, each knocking at a door of its own, all right.
#[divan::bench(args = DOORS, sample_size = 2000, sample_count = 100)]
fn knocks(bencher: Bencher<'_, '_>, doors: usize) {
    const PEOPLE: u32 = 10_000;
    let mut bench = Bench::new(doors, 16);
    let mut sent = 0;
    let mut next = move || {
        let (person, knock) = (sent / 3 % PEOPLE, sent % 3);
        sent += 1;
        bench.send(person, bench.sequences[person as usize % doors][knock as usize], sent);
    };
    (0..3 * PEOPLE).for_each(|_| next());
    bencher.bench_local(next);
}

/// First knocks at one door of many from spoofed addresses.
#[divan::bench(args = DOORS, consts = SPOOFED, sample_size = 2000, sample_count = 100)]
fn flood<const SPOOFED: u32>(bencher: Bencher<'_, '_>, doors: usize) {
    let mut bench = Bench::new(doors, 16);
    let mut sent = 0;
    let mut next = move || {
        sent += 1;
        bench.send(sent % SPOOFED, bench.sequences[0][0], sent);
    };
    (0..SPOOFED).for_each(|_| next());
    bencher.bench_local(next);
}

/// First knocks at all doors in turn from spoofed addresses.
#[divan::bench(args = DOORS, consts = SPOOFED, sample_size = 2000, sample_count = 100)]
fn flood_all_doors<const SPOOFED: u32>(bencher: Bencher<'_, '_>, doors: usize) {
    let mut bench = Bench::new(doors, 16);
    let mut sent = 0;
    let mut next = move || {
        sent += 1;
        bench.send(sent % SPOOFED, bench.sequences[sent as usize % doors][0], sent);
    };
    (0..SPOOFED).for_each(|_| next());
    bencher.bench_local(next);
}

/// One address that scans all ports, again and again.
#[divan::bench(args = DOORS, sample_size = 2000, sample_count = 100)]
fn scan(bencher: Bencher<'_, '_>, doors: usize) {
    let mut bench = Bench::new(doors, 16);
    let mut sent = 0;
    let mut next = move || {
        sent += 1;
        bench.send(1, (sent % 65_535) as u16 + 1, sent);
    };
    (0..65_536).for_each(|_| next());
    bencher.bench_local(next);
}

/// Any port of the range of a door whose sequences rotate, from ten thousand addresses.
#[divan::bench(args = CLIENTS, sample_size = 2000, sample_count = 100)]
fn rotating(bencher: Bencher<'_, '_>, clients: u32) {
    let mut bench = Bench::rotating(turning::by_ports(), clients);
    let mut sent = 0u32;
    let mut next = move || {
        sent += 1;
        bench.send(sent % 10_000, 20_000 + (sent.wrapping_mul(40_507) % 10_000) as u16, sent);
    };
    (0..40_000).for_each(|_| next());
    bencher.bench_local(next);
}

/// Any port of the range of a door with codes, from ten thousand addresses.
#[divan::bench(args = CLIENTS, sample_size = 2000, sample_count = 100)]
fn rotating_codes(bencher: Bencher<'_, '_>, clients: u32) {
    let mut bench = Bench::rotating(turning::by_code(), clients);
    let mut sent = 0u32;
    let mut next = move || {
        sent += 1;
        bench.send(sent % 10_000, 20_000 + (sent.wrapping_mul(40_507) % 100) as u16, sent);
    };
    (0..40_000).for_each(|_| next());
    bencher.bench_local(next);
}

struct Bench {
    engine: Engine,
    sequences: Vec<[u16; 3]>,
    unwatched: u16,
    frame: Vec<u8>,
    time: Monotonic,
}

impl Bench {
    fn new(doors: usize, trip_wires: u16) -> Self {
        // A walk over all ports but the last in an order without order.
        let mut ports = (1..65_535).map(|step: u32| (step * 40_507 % 65_535) as u16);
        let mut port = || ports.next().unwrap_or(65_535);
        let sequences: Vec<[u16; 3]> = (0..doors).map(|_| [port(), port(), port()]).collect();
        let recognitions: Vec<Recognition> =
            sequences.iter().map(|ports| door(ports, trip_wires)).collect();
        let setup = Setup { doors: recognitions, sources: SOURCES, ..Setup::default() };
        Self {
            engine: Engine::new(setup),
            sequences,
            unwatched: port(),
            frame: frame(),
            time: Monotonic::from_nanos(1_000_000_000_000),
        }
    }

    /// A door whose sequences rotate.
    fn rotating(scheme: Scheme, clients: u32) -> Self {
        let mut bench = Self::new(0, 0);
        bench.engine = turning::engine(scheme, clients);
        while !bench.engine.is_ready() {
            let now = Now { monotonic: bench.time, wall: Wall::ZERO };
            black_box(bench.engine.work(now).len());
        }
        bench
    }

    /// One packet of another connection, and before it whatever is due.
    fn send(&mut self, source: u32, port: u16, number: u32) {
        self.frame[26..30].copy_from_slice(&(0x0a00_0000 + source).to_be_bytes());
        self.frame[36..38].copy_from_slice(&port.to_be_bytes());
        self.frame[38..42].copy_from_slice(&number.to_be_bytes());
        self.time = self.time + BETWEEN_PACKETS;
        let now = Now { monotonic: self.time, wall: Wall::ZERO };
        if self.engine.next_deadline().is_some_and(|deadline| deadline <= self.time) {
            black_box(self.engine.on_deadline(now).len());
        }
        if let Ok((packet, _)) = libknock::wire::parse(LinkType::Ethernet, black_box(&self.frame)) {
            match self.engine.on_packet(now, &packet) {
                Verdict::Knock(events) => _ = black_box(events.len()),
                Verdict::Ignored(reason) => _ = black_box(reason),
                Verdict::Requests(requests) => _ = black_box(requests.len()),
                Verdict::Refused(refusal) => _ = black_box(refusal),
                Verdict::NotOurs | Verdict::Waits => {}
            }
        }
    }
}

fn door(ports: &[u16], trip_wires: u16) -> Recognition {
    let knock = |&port: &u16| Some(Knock::new(Protocol::Tcp, port.try_into().ok()?));
    Recognition {
        sequence: ports.iter().filter_map(knock).collect(),
        trip_wires,
        ..Recognition::new("door".parse().expect("a name"))
    }
}

/// A SYN to 192.0.2.1; source address, destination port and sequence number are to be filled in.
fn frame() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00];
    frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    frame.extend([0x9c, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

/// What it takes to have the sequences of the next step ready, in the slices that a watcher does.
mod turning {
    use std::time::Instant;

    use super::*;

    pub(crate) fn by_ports() -> Scheme {
        let port = |number: u16| number.try_into().expect("a port");
        let (low, high) = (port(20_000), port(29_999));
        let mode = TotpMode::Ports { low, high, length: 4, protocol: Protocols::Mixed };
        Scheme::new(mode, 30, 1).expect("a scheme")
    }

    pub(crate) fn by_code() -> Scheme {
        Scheme::new(TotpMode::Code { base: 20_000, digits: Digits::Six }, 30, 1).expect("a scheme")
    }

    pub(crate) fn engine(scheme: Scheme, clients: u32) -> Engine {
        let clients: Vec<Client> = (0..clients)
            .map(|number| Client {
                width: None,
                name: "client".parse().expect("a name"),
                doors: vec!["door".parse().expect("a name")],
                expires: None,
                totp: Some(TotpClient {
                    secret: Secret::new(number.to_be_bytes().repeat(5)),
                    old: None,
                }),
                spa: None,
                fwknop: None,
            })
            .collect();
        let door =
            Recognition { totp: Some(scheme), ..Recognition::new("door".parse().expect("a name")) };
        Engine::new(Setup { doors: vec![door], clients, sources: SOURCES, ..Setup::default() })
    }

    pub(crate) fn print() {
        println!("preparing rotating sequences of four knocks, in slices");
        println!("{:>58} {:>9} {:>9} {:>12}", "", "ms", "slices", "longest, ms");
        for clients in CLIENTS {
            let mut engine = engine(by_ports(), clients);
            let start = Wall::ZERO + Duration::from_secs(1_700_000_010);
            row(&format!("all that hold, {clients} clients"), &mut engine, start);
            for turn in 1..4 {
                let then = start + Duration::from_secs(30 * turn);
                row(&format!("the step turns, {clients} clients"), &mut engine, then);
            }
        }
        println!();
    }

    #[expect(clippy::disallowed_methods, reason = "it measures")]
    fn row(what: &str, engine: &mut Engine, wall: Wall) {
        let now = Now { monotonic: Monotonic::from_nanos(wall.as_nanos()), wall };
        let (mut slices, mut total, mut longest) = (0, Duration::ZERO, Duration::ZERO);
        while engine.next_work().is_some_and(|at| at <= now.monotonic) {
            let before = Instant::now();
            black_box(engine.work(now).len());
            let took = before.elapsed();
            slices += 1;
            total += took;
            longest = longest.max(took);
        }
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!("{what:>58} {:>9.2} {slices:>9} {:>12.3}", ms(total), ms(longest));
    }
}

/// Resident memory, which divan does not measure.
mod memory {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::num::NonZeroU16;

    use libknock::proto::flags::TcpFlags;
    use libknock::wire::{Packet, Transport};

    use super::*;

    const MIB: f64 = 1024.0 * 1024.0;

    pub(crate) fn print() {
        println!("resident memory of an engine with room for {SOURCES} sources");
        println!("{:>58} {:>9} {:>9}", "", "followed", "MiB");
        row("10,000 doors, nothing seen", 10_000, 0, 0, ipv4);
        for sources in SPOOFED {
            row(&format!("first knocks from {sources} addresses"), 1, sources, 1, ipv4);
        }
        row("first knocks from 1000000 IPv6 networks", 1, 1_000_000, 1, ipv6);
        row("16 knocks to remember of each of 1000000 addresses", 1, 1_000_000, 16, ipv4);
        row("16 knocks to remember of each of 1000000 IPv6 networks", 1, 1_000_000, 16, ipv6);
        row("16 knocks, a quarter of them further along", 1, 1_000_000, 17, ipv6);
        println!();
    }

    fn ipv4(source: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + source))
    }

    /// Each in a /64 of its own.
    fn ipv6(source: u32) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(source) << 64 | 1))
    }

    fn row(what: &str, doors: usize, sources: u32, knocks: u32, address: fn(u32) -> IpAddr) {
        let before = resident();
        let mut bench = Bench::new(doors, 16);
        for source in 0..sources {
            for number in 0..knocks {
                let port = match number {
                    // The second knock last: it takes the source further along.
                    16 if source % 4 == 0 => bench.sequences[0][1],
                    16 => continue,
                    _ => bench.sequences[0][0],
                };
                bench.time = bench.time + Duration::from_nanos(100);
                let now = Now { monotonic: bench.time, wall: Wall::ZERO };
                let packet = Packet {
                    source: address(source),
                    destination: IpAddr::V4(Ipv4Addr::LOCALHOST),
                    transport: Transport::Tcp {
                        source_port: 40_000,
                        port: NonZeroU16::new(port).unwrap_or(NonZeroU16::MIN),
                        sequence: number,
                        flags: TcpFlags::SYN,
                    },
                    looped: false,
                };
                let _verdict = black_box(bench.engine.on_packet(now, &packet));
            }
        }
        let size = (resident().saturating_sub(before)) as f64 / MIB;
        println!("{what:>58} {:>9} {size:>9.1}", bench.engine.tracked());
        // Kept, so that the next one cannot use its pages.
        std::mem::forget(bench);
    }

    /// Bytes of this process that are in memory.
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc/self/statm");
        let pages = statm.split(' ').nth(1).and_then(|field| field.parse::<usize>().ok());
        pages.expect("a number of pages") * 4096
    }
}
