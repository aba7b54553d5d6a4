//! Floods of packets from a namespace, past its own network stack.
//!
//! Frames go out through `AF_PACKET` with `PACKET_QDISC_BYPASS`, many a system call: the rate is
//! what is asked for, up to what one processor can send. No capture in the sending namespace sees
//! them.

use std::fs::File;
use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::{Range, RangeInclusive};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use libknock::proto::spa;
use nix::libc;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, bind, sendmmsg, socket,
};
use nix::unistd::Pid;

use super::{Net, SERVER, SERVER_6};

/// The most packets that one system call sends.
const MOST_AT_ONCE: usize = 64;
/// How many packets come close together where a rate is asked for: a network card hands on a few at
/// a time too.
const BURST: u64 = 4;
const ETHERNET: usize = 14;
const IPV4: usize = ETHERNET + 20;
const IPV6: usize = ETHERNET + 40;
/// Where both addresses stand.
const ADDRESSES_4: Range<usize> = IPV4 - 8..IPV4;
const ADDRESSES_6: Range<usize> = IPV6 - 32..IPV6;
/// Where no route of the server's leads to, and no address of any net of these tests is.
const SPOOFED: u32 = 0x6440_0000;
const SPOOFED_MASK: u32 = 0x003f_ffff;
const SPOOFED_NETWORK: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0xf, 0, 0, 0, 0);

/// Where the frames of a flood come from.
pub(crate) const SOURCE_MAC: &str = "02:00:00:00:00:09";

/// What a flood consists of. Each packet has another source, of four million IPv4 addresses unless
/// it is said otherwise, another source port and another sequence number.
#[derive(Clone, Debug)]
pub(crate) enum FloodKind {
    /// SYNs to any port of a range: of one port, first knocks.
    Knocks(RangeInclusive<u16>),
    /// The same from one IPv6 /64.
    KnocksOfOneNetwork(RangeInclusive<u16>),
    /// Random bytes as long as a native request, to the port of those.
    Native,
    /// Random base64 of so many characters, as a request of fwknop's begins, to the same port.
    Fwknop(usize),
    /// First fragments of datagrams to a port.
    Fragments(u16),
    /// SYNs to a port behind so many IPv6 extension headers, from any /64.
    ExtensionHeaders(u16, usize),
}

/// How many packets a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloodRate {
    PerSecond(u64),
    /// As many as one processor can send.
    Unlimited,
}

/// Packets to the server, until it goes out of scope.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    pub(crate) fn start(net: &Net, kind: FloodKind, rate: FloodRate) -> Self {
        Self::start_on(net, kind, rate, None)
    }

    /// Starts it on one processor alone.
    pub(crate) fn start_on(
        net: &Net,
        kind: FloodKind,
        rate: FloodRate,
        processor: Option<usize>,
    ) -> Self {
        let mut flood = Self { stop: Arc::default(), sent: Arc::default(), thread: None };
        let (stop, sent) = (Arc::clone(&flood.stop), Arc::clone(&flood.sent));
        let mac = net.server.must("cat", &["/sys/class/net/eth0/address"]);
        let mac: Vec<u8> =
            mac.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let frames = frames(&kind, mac.try_into().unwrap());
        let namespace = File::open(format!("/run/netns/{}", net.client.name)).unwrap();
        flood.thread = Some(thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            nix::sys::prctl::set_timerslack(1).unwrap();
            if let Some(processor) = processor {
                let mut one = CpuSet::new();
                one.set(processor).unwrap();
                sched_setaffinity(Pid::from_raw(0), &one).unwrap();
            }
            send(&stop, &sent, rate, frames);
        }));
        flood
    }

    /// How many packets it has sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the flood has failed");
    }
}

/// A frame, and what makes another one of it by a random number.
type Frames = (Vec<u8>, Box<dyn FnMut(&mut [u8], u64) + Send>);

fn send(stop: &AtomicBool, sent: &AtomicU64, rate: FloodRate, (template, mut vary): Frames) {
    let cable = cable();
    let mut frames = vec![template; MOST_AT_ONCE];
    let mut headers = MultiHeaders::<()>::preallocate(MOST_AT_ONCE, None);
    let begun = now();
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let wanted = match rate {
            FloodRate::Unlimited => MOST_AT_ONCE,
            FloodRate::PerSecond(rate) => {
                let due = u128::from(rate) * begun.elapsed().as_nanos() / 1_000_000_000;
                let due = u64::try_from(due).unwrap().saturating_sub(count);
                if due < BURST {
                    thread::sleep(Duration::from_nanos(
                        1_000_000_000 * (BURST - due) / rate.max(1),
                    ));
                    continue;
                }
                usize::try_from(due).unwrap().min(MOST_AT_ONCE)
            }
        };
        for frame in &mut frames[..wanted] {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            vary(frame, state);
        }
        let slices: Vec<[IoSlice<'_>; 1]> =
            frames[..wanted].iter().map(|frame| [IoSlice::new(frame)]).collect();
        let nowhere = vec![None; wanted];
        let flags = MsgFlags::empty();
        let done = sendmmsg(cable.as_raw_fd(), &mut headers, &slices, &nowhere, [], flags);
        // What finds no room is sent again.
        count += done.map_or(0, |done| done.count() as u64);
        sent.store(count, Ordering::Relaxed);
    }
}

/// A socket that sends whole frames through the interface `eth0`.
fn cable() -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let cable = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>).unwrap();
    let address = nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter(|interface| interface.interface_name == "eth0")
        .find_map(|interface| interface.address?.as_link_addr().copied());
    bind(cable.as_raw_fd(), &address.unwrap()).unwrap();
    let yes: libc::c_int = 1;
    // SAFETY: the kernel reads four bytes, the size of the number.
    #[expect(unsafe_code, reason = "no library sets this option")]
    let done = unsafe {
        libc::setsockopt(
            cable.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const yes).cast(),
            size_of_val(&yes) as libc::socklen_t,
        )
    };
    assert_eq!(done, 0);
    cable
}

fn frames(kind: &FloodKind, mac: [u8; 6]) -> Frames {
    let server: Ipv4Addr = SERVER.parse().unwrap();
    let server_6: Ipv6Addr = SERVER_6.parse().unwrap();
    let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], mac);
    let ipv4 = || ethernet().ipv4([0; 4], server.octets(), 64);
    let ipv6 = || ethernet().ipv6(SPOOFED_NETWORK.octets(), server_6.octets(), 64);
    let mut frame = Vec::new();
    let spa_port = spa::PORT;
    match kind {
        FloodKind::Knocks(ports) => {
            let ports = ports.clone();
            ipv4().tcp(0, *ports.start(), 0, 1024).syn().write(&mut frame, &[]).unwrap();
            (
                frame,
                Box::new(move |frame, random| {
                    vary_ipv4(frame, random);
                    vary_segment(frame, ADDRESSES_4, IPV4, random, &ports);
                }),
            )
        }
        FloodKind::KnocksOfOneNetwork(ports) => {
            let ports = ports.clone();
            ipv6().tcp(0, *ports.start(), 0, 1024).syn().write(&mut frame, &[]).unwrap();
            (
                frame,
                Box::new(move |frame, random| {
                    frame[IPV6 - 24..IPV6 - 16].copy_from_slice(&mixed(random).to_be_bytes());
                    vary_segment(frame, ADDRESSES_6, IPV6, random, &ports);
                }),
            )
        }
        FloodKind::Native => {
            ipv4().udp(0, spa_port).write(&mut frame, &[0; spa::LEN]).unwrap();
            (
                frame,
                Box::new(|frame, random| {
                    vary_datagram(frame, random);
                    vary_bytes(&mut frame[IPV4 + 8..], random);
                }),
            )
        }
        FloodKind::Fwknop(length) => {
            ipv4().udp(0, spa_port).write(&mut frame, &vec![b'8'; *length]).unwrap();
            (
                frame,
                Box::new(|frame, random| {
                    vary_datagram(frame, random);
                    // Only the HMAC tells that it is none.
                    for (place, byte) in (1..).zip(&mut frame[IPV4 + 9..IPV4 + 25]) {
                        *byte = b'A' + (random >> (place * 3) & 15) as u8;
                    }
                }),
            )
        }
        FloodKind::Fragments(port) => {
            ipv4().udp(0, *port).write(&mut frame, &[0; 24]).unwrap();
            // More fragments; the other ones never come.
            frame[ETHERNET + 6] = 0x20;
            (
                frame,
                Box::new(|frame, random| {
                    vary_datagram(frame, random);
                    frame[ETHERNET + 4..ETHERNET + 6]
                        .copy_from_slice(&(random as u16).to_be_bytes());
                    vary_ipv4(frame, random);
                }),
            )
        }
        FloodKind::ExtensionHeaders(port, count) => {
            ipv6().tcp(0, *port, 0, 1024).syn().write(&mut frame, &[]).unwrap();
            let segment = frame.split_off(IPV6);
            // Destination options that only fill up: who comes next, and no more than eight bytes.
            for left in (0..*count).rev() {
                let next = if left == 0 { 6 } else { 60 };
                frame.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            }
            if *count > 0 {
                frame[ETHERNET + 6] = 60;
            }
            frame.extend(segment);
            let length = (frame.len() - IPV6) as u16;
            frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
            let (at, port) = (IPV6 + 8 * count, *port);
            (
                frame,
                Box::new(move |frame, random| {
                    frame[IPV6 - 28..IPV6 - 20].copy_from_slice(&mixed(random).to_be_bytes());
                    vary_segment(frame, ADDRESSES_6, at, random, &(port..=port));
                }),
            )
        }
    }
}

/// Another number that follows from one: bits that the first did not use for something else.
const fn mixed(random: u64) -> u64 {
    random.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

fn vary_bytes(bytes: &mut [u8], random: u64) {
    for (number, eight) in (1..).zip(bytes.chunks_exact_mut(8)) {
        eight.copy_from_slice(&mixed(random ^ number).to_be_bytes());
    }
}

/// Gives an IPv4 packet another source.
fn vary_ipv4(frame: &mut [u8], random: u64) {
    let source = SPOOFED | (random as u32 & SPOOFED_MASK);
    frame[ETHERNET + 12..ETHERNET + 16].copy_from_slice(&source.to_be_bytes());
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let sum = checksum(0, &frame[ETHERNET..IPV4]);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum);
}

/// Gives a datagram by IPv4, which may do without a checksum, another source and source port.
fn vary_datagram(frame: &mut [u8], random: u64) {
    vary_ipv4(frame, random);
    frame[IPV4..IPV4 + 2].copy_from_slice(&source_port(random));
    frame[IPV4 + 6..IPV4 + 8].fill(0);
}

/// Gives the segment that begins at a place other ports and another number.
fn vary_segment(
    frame: &mut [u8],
    addresses: Range<usize>,
    at: usize,
    random: u64,
    ports: &RangeInclusive<u16>,
) {
    let addresses = sum_of(&frame[addresses]);
    let segment = &mut frame[at..];
    let many = u64::from(ports.end() - ports.start()) + 1;
    let port = ports.start() + (mixed(random) % many) as u16;
    segment[0..2].copy_from_slice(&source_port(random));
    segment[2..4].copy_from_slice(&port.to_be_bytes());
    segment[4..8].copy_from_slice(&(mixed(random) as u32).to_be_bytes());
    segment[16..18].fill(0);
    let protocol_and_length = 6 + segment.len() as u32;
    let sum = checksum(addresses + protocol_and_length, segment);
    segment[16..18].copy_from_slice(&sum);
}

const fn source_port(random: u64) -> [u8; 2] {
    ((random >> 40) as u16 | 1024).to_be_bytes()
}

fn sum_of(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum()
}

/// The Internet's checksum (RFC 1071), of an even number of bytes.
fn checksum(partial: u32, bytes: &[u8]) -> [u8; 2] {
    let mut sum = partial + sum_of(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[expect(clippy::disallowed_methods, reason = "a rate is so many in so long")]
fn now() -> Instant {
    Instant::now()
}
