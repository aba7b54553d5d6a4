//! From the last knock on the wire to the first SYN/ACK of the port that it opens, as the client's
//! kernel stamps both.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use etherparse::{
    IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice,
};
use libknock::sys::{clock, scheduling};
use libknock::time::Wall;
use pcap::{Active, Capture, Packet};

use crate::support::{Host, Net, SERVER};

/// The port that opens.
pub(crate) const PORT: u16 = 22;
pub(crate) const SEQUENCE: [u16; 3] = [7000, 8000, 9000];
/// Where requests in one datagram go.
const SPA_PORT: u16 = 62201;

/// What a client sends.
pub(crate) enum Attempted {
    /// Three knocks, 3 ms apart.
    Sequence,
    Request(Vec<u8>),
}

/// What a program sends that knocks.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "what one benchmark needs")]
pub(crate) enum KnockKind {
    Datagram,
    Syn,
    /// A TCP segment with something in it.
    Segment,
}

/// From the moment at which a program was started.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "what one benchmark needs")]
pub(crate) struct ProgramTimes {
    /// Its first packet left.
    pub first: Duration,
    /// The packet left that completes what opens.
    pub last: Duration,
    /// The first SYN/ACK came.
    pub open: Duration,
    /// It had ended.
    pub ended: Duration,
}

/// A cable, as its end at the client is called, and who is at the other.
pub(crate) struct Cable {
    device: &'static str,
    client: Mac,
    servers: Vec<(Mac, Ipv4Addr)>,
}

impl Cable {
    pub(crate) fn new(net: &Net) -> Self {
        let servers = vec![(mac(&net.server, "eth0"), SERVER.parse().unwrap())];
        Self { device: "eth0", client: mac(&net.client, "eth0"), servers }
    }

    /// To several servers, by a bridge of the client's.
    #[allow(dead_code, reason = "what one benchmark needs")]
    pub(crate) fn bridged(client: &Host, servers: &[(&Host, Ipv4Addr)]) -> Self {
        let servers = servers.iter().map(|(host, address)| (mac(host, "eth0"), *address));
        Self { device: "br0", client: mac(client, "br0"), servers: servers.collect() }
    }

    fn open(&self) -> Capture<Active> {
        Capture::from_device(self.device).unwrap().open().unwrap()
    }

    /// What goes over it; a handle that blocks does so for this many milliseconds.
    fn watch(&self, timeout: i32) -> Capture<Active> {
        let capture = Capture::from_device(self.device).unwrap().immediate_mode(true);
        let capture = capture.precision(pcap::Precision::Nano).timeout(timeout);
        let mut seeing = capture.open().unwrap();
        seeing.filter("tcp or udp", true).unwrap();
        seeing
    }
}

/// Knocks from a source of its own, then asks for a connection again and again; `None`: in vain.
pub(crate) fn until_open(net: &Net, source: Ipv4Addr, how: Attempted) -> Option<Duration> {
    until_all_open(&net.client, Cable::new(net), source, how)?.pop()
}

/// Knocks at the first of some servers, then asks all of them for a connection again and again: how
/// long each took. `None`: in vain.
pub(crate) fn until_all_open(
    client: &Host,
    at: Cable,
    source: Ipv4Addr,
    how: Attempted,
) -> Option<Vec<Duration>> {
    client.enter(move || {
        // Or the pauses between probes would be ten times as long as they are meant to be, and
        // longer still where the servers, which a client's own machine would not have to run, are
        // at work on the same processor.
        nix::sys::prctl::set_timerslack(1).unwrap();
        scheduling::request_short_slices().unwrap();
        // The kernel shows a handle no packet that it has sent itself, so another one looks.
        let mut cable = at.open();
        let mut seeing = at.watch(0).setnonblock().unwrap();
        let last_knock = match how {
            Attempted::Request(payload) => {
                cable.sendpacket(at.datagram(source, &payload)).unwrap();
                (KnockKind::Datagram, SPA_PORT)
            }
            Attempted::Sequence => {
                at.send_sequence(&mut cable, source);
                (KnockKind::Syn, SEQUENCE[2])
            }
        };
        let mut knocked = None;
        let mut answered: Vec<Option<Duration>> = vec![None; at.servers.len()];
        for probe in 0..50_000u32 {
            // The first probe follows the last knock at once, as a client's would.
            let port = 32_768 + (probe % 20_000) as u16;
            for server in (0..answered.len()).filter(|it| answered[*it].is_none()) {
                cable.sendpacket(at.syn(server, source, port, PORT, probe)).unwrap();
            }
            while let Ok(packet) = seeing.next_packet() {
                let stamp = stamp(&packet);
                match seen(packet.data) {
                    Some(Seen::To { kind, port }) if (kind, port) == last_knock => {
                        knocked = Some(stamp);
                    }
                    Some(Seen::SynAck { from, to, number }) => {
                        let server = at.servers.iter().position(|(_, address)| *address == from);
                        let Some(server) = server else { continue };
                        answered[server] = answered[server].or(Some(stamp));
                        // Or the listener's queue would fill with connections half made.
                        cable.sendpacket(at.reset(server, source, to, number)).unwrap();
                    }
                    _ => {}
                }
            }
            if answered.iter().all(Option::is_some) {
                break;
            }
            std::thread::sleep(Duration::from_micros(5));
        }
        let knocked = knocked?;
        answered.into_iter().map(|it| Some(it?.saturating_sub(knocked))).collect()
    })
}

/// Starts a program that knocks from `source` with so many packets of a kind, then asks for a
/// connection again and again; `None`: in vain.
#[allow(dead_code, reason = "what one benchmark needs")]
pub(crate) fn until_open_by(
    net: &Net,
    source: Ipv4Addr,
    mut program: Command,
    (kind, count): (KnockKind, usize),
) -> Option<ProgramTimes> {
    let at = Cable::new(net);
    net.client.enter(move || {
        nix::sys::prctl::set_timerslack(1).unwrap();
        scheduling::request_short_slices().unwrap();
        let mut cable = at.open();
        let mut seeing = at.watch(5_000);
        seeing.filter(&format!("src host {source} or tcp src port {PORT}"), true).unwrap();
        let wall = || clock::now().wall.since(Wall::ZERO);
        let started = wall();
        let mut child = program.spawn().unwrap();
        let ended = std::thread::spawn(move || {
            child.wait().unwrap();
            clock::now().wall.since(Wall::ZERO)
        });
        let (mut first, mut last) = (None, None);
        let mut left = count;
        while left > 0 {
            let Ok(packet) = seeing.next_packet() else { break };
            if let Some(Seen::To { kind: sent, port }) = seen(packet.data)
                && port != PORT
            {
                first = first.or(Some(stamp(&packet)));
                if sent == kind {
                    left -= 1;
                    last = Some(stamp(&packet));
                }
            }
        }
        let mut seeing = seeing.setnonblock().unwrap();
        let mut open = None;
        for probe in 0..50_000u32 {
            if left > 0 || open.is_some() {
                break;
            }
            let port = 32_768 + (probe % 20_000) as u16;
            // What answers is the client's kernel, which resets the connection.
            cable.sendpacket(at.syn(0, source, port, PORT, probe)).unwrap();
            while let Ok(packet) = seeing.next_packet() {
                if matches!(seen(packet.data), Some(Seen::SynAck { .. })) {
                    open = open.or(Some(stamp(&packet)));
                }
            }
            std::thread::sleep(Duration::from_micros(5));
        }
        let after = |moment: Duration| moment.saturating_sub(started);
        let ended = after(ended.join().unwrap());
        Some(ProgramTimes { first: after(first?), last: after(last?), open: after(open?), ended })
    })
}

/// Knocks, and does not wait for anything.
#[allow(dead_code, reason = "what one benchmark needs")]
pub(crate) fn knock(net: &Net, source: Ipv4Addr) {
    let at = Cable::new(net);
    net.client.enter(move || at.send_sequence(&mut at.open(), source));
}

enum Seen {
    To { kind: KnockKind, port: u16 },
    SynAck { from: Ipv4Addr, to: u16, number: u32 },
}

fn seen(bytes: &[u8]) -> Option<Seen> {
    let packet = SlicedPacket::from_ethernet(bytes).ok()?;
    match packet.transport? {
        TransportSlice::Tcp(tcp) if tcp.syn() && tcp.ack() => {
            let Some(NetSlice::Ipv4(ip)) = packet.net else { return None };
            let (from, number) = (ip.header().source_addr(), tcp.acknowledgment_number());
            (tcp.source_port() == PORT).then_some(Seen::SynAck {
                from,
                to: tcp.destination_port(),
                number,
            })
        }
        TransportSlice::Tcp(tcp) if tcp.syn() || !tcp.payload().is_empty() => {
            let kind = if tcp.syn() { KnockKind::Syn } else { KnockKind::Segment };
            Some(Seen::To { kind, port: tcp.destination_port() })
        }
        TransportSlice::Udp(udp) => {
            Some(Seen::To { kind: KnockKind::Datagram, port: udp.destination_port() })
        }
        _ => None,
    }
}

fn stamp(packet: &Packet<'_>) -> Duration {
    let ts = packet.header.ts;
    Duration::new(ts.tv_sec as u64, ts.tv_usec as u32)
}

type Mac = [u8; 6];

fn mac(host: &Host, device: &str) -> Mac {
    let text = host.must("cat", &[&format!("/sys/class/net/{device}/address")]);
    let bytes: Vec<u8> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

impl Cable {
    fn send_sequence(&self, cable: &mut Capture<Active>, source: Ipv4Addr) {
        for (number, port) in (0..).zip(SEQUENCE) {
            std::thread::sleep(Duration::from_millis(3));
            cable.sendpacket(self.syn(0, source, 30_000, port, number)).unwrap();
        }
    }

    fn packet(&self, server: usize, source: Ipv4Addr) -> PacketBuilderStep<IpHeaders> {
        let (mac, address) = self.servers[server];
        PacketBuilder::ethernet2(self.client, mac).ipv4(source.octets(), address.octets(), 64)
    }

    fn datagram(&self, source: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.packet(0, source).udp(30_000, SPA_PORT).write(&mut bytes, payload).unwrap();
        bytes
    }

    fn syn(&self, server: usize, source: Ipv4Addr, from: u16, to: u16, number: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let packet = self.packet(server, source).tcp(from, to, number, 1024).syn();
        packet.write(&mut bytes, &[]).unwrap();
        bytes
    }

    fn reset(&self, server: usize, source: Ipv4Addr, from: u16, number: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let packet = self.packet(server, source).tcp(from, PORT, number, 0).rst();
        packet.write(&mut bytes, &[]).unwrap();
        bytes
    }
}
