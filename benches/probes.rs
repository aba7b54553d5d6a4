//! From the last knock on the wire to the first SYN/ACK of the port that it opens, as the client's
//! kernel stamps both.

use std::net::Ipv4Addr;
use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use libknock::sys::scheduling;
use pcap::{Active, Capture};

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

/// Knocks from a source of its own, then asks for a connection again and again; `None`: in vain.
pub(crate) fn until_open(net: &Net, source: Ipv4Addr, how: Attempted) -> Option<Duration> {
    let macs = (mac(&net.server), mac(&net.client));
    net.client.enter(move || {
        // Or the pauses between probes would be ten times as long as they are meant to be, and
        // longer still where the servers, which a client's own machine would not have to run, are
        // at work on the same processor.
        nix::sys::prctl::set_timerslack(1).unwrap();
        scheduling::request_short_slices().unwrap();
        // The kernel shows a handle no packet that it has sent itself, so another one looks.
        let mut cable = Capture::from_device("eth0").unwrap().open().unwrap();
        let mut seeing = Capture::from_device("eth0")
            .unwrap()
            .immediate_mode(true)
            .precision(pcap::Precision::Nano)
            .open()
            .unwrap()
            .setnonblock()
            .unwrap();
        seeing.filter("tcp or udp", true).unwrap();
        let last_knock = match how {
            Attempted::Request(payload) => {
                cable.sendpacket(datagram(macs, source, &payload)).unwrap();
                (true, SPA_PORT)
            }
            Attempted::Sequence => {
                send_sequence(&mut cable, macs, source);
                (false, SEQUENCE[2])
            }
        };
        let (mut knocked, mut answered) = (None, None);
        for probe in 0..50_000u32 {
            // The first probe follows the last knock at once, as a client's would.
            let port = 32_768 + (probe % 20_000) as u16;
            cable.sendpacket(syn(macs, source, port, PORT, probe)).unwrap();
            while let Ok(packet) = seeing.next_packet() {
                let ts = packet.header.ts;
                let stamp = Duration::new(ts.tv_sec as u64, ts.tv_usec as u32);
                match seen(packet.data) {
                    Some(Seen::To(udp, port)) if (udp, port) == last_knock => knocked = Some(stamp),
                    Some(Seen::SynAck { to, number }) => {
                        answered = answered.or(Some(stamp));
                        // Or the listener's queue would fill with connections half made.
                        cable.sendpacket(reset(macs, source, to, number)).unwrap();
                    }
                    _ => {}
                }
            }
            if answered.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_micros(5));
        }
        Some(answered?.saturating_sub(knocked?))
    })
}

/// Knocks, and does not wait for anything.
#[allow(dead_code, reason = "what one benchmark needs")]
pub(crate) fn knock(net: &Net, source: Ipv4Addr) {
    let macs = (mac(&net.server), mac(&net.client));
    net.client.enter(move || {
        let mut cable = Capture::from_device("eth0").unwrap().open().unwrap();
        send_sequence(&mut cable, macs, source);
    });
}

fn send_sequence(cable: &mut Capture<Active>, macs: Macs, source: Ipv4Addr) {
    for (number, port) in (0..).zip(SEQUENCE) {
        std::thread::sleep(Duration::from_millis(3));
        cable.sendpacket(syn(macs, source, 30_000, port, number)).unwrap();
    }
}

enum Seen {
    /// A packet to this port; true: by UDP.
    To(bool, u16),
    SynAck {
        to: u16,
        number: u32,
    },
}

fn seen(bytes: &[u8]) -> Option<Seen> {
    match SlicedPacket::from_ethernet(bytes).ok()?.transport? {
        TransportSlice::Tcp(tcp) if tcp.syn() && tcp.ack() => {
            let number = tcp.acknowledgment_number();
            (tcp.source_port() == PORT)
                .then_some(Seen::SynAck { to: tcp.destination_port(), number })
        }
        TransportSlice::Tcp(tcp) => Some(Seen::To(false, tcp.destination_port())),
        TransportSlice::Udp(udp) => Some(Seen::To(true, udp.destination_port())),
        _ => None,
    }
}

fn datagram(macs: Macs, source: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let to: Ipv4Addr = SERVER.parse().unwrap();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(macs.1, macs.0)
        .ipv4(source.octets(), to.octets(), 64)
        .udp(30_000, SPA_PORT)
        .write(&mut bytes, payload)
        .unwrap();
    bytes
}

/// Of server and client.
type Macs = ([u8; 6], [u8; 6]);

fn mac(host: &Host) -> [u8; 6] {
    let text = host.must("cat", &["/sys/class/net/eth0/address"]);
    let bytes: Vec<u8> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn syn(macs: Macs, source: Ipv4Addr, from: u16, to: u16, number: u32) -> Vec<u8> {
    let server: Ipv4Addr = SERVER.parse().unwrap();
    let builder = PacketBuilder::ethernet2(macs.1, macs.0)
        .ipv4(source.octets(), server.octets(), 64)
        .tcp(from, to, number, 1024)
        .syn();
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[]).unwrap();
    bytes
}

fn reset(macs: Macs, source: Ipv4Addr, from: u16, number: u32) -> Vec<u8> {
    let server: Ipv4Addr = SERVER.parse().unwrap();
    let builder = PacketBuilder::ethernet2(macs.1, macs.0)
        .ipv4(source.octets(), server.octets(), 64)
        .tcp(from, PORT, number, 0)
        .rst();
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[]).unwrap();
    bytes
}
