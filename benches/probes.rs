//! From the last knock on the wire to the first SYN/ACK of the port that it opens, as the client's
//! kernel stamps both.

use std::net::Ipv4Addr;
use std::time::Duration;

use etherparse::{
    IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice,
};
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
        let mut seeing = Capture::from_device(at.device)
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
                cable.sendpacket(at.datagram(source, &payload)).unwrap();
                (true, SPA_PORT)
            }
            Attempted::Sequence => {
                at.send_sequence(&mut cable, source);
                (false, SEQUENCE[2])
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
                let ts = packet.header.ts;
                let stamp = Duration::new(ts.tv_sec as u64, ts.tv_usec as u32);
                match seen(packet.data) {
                    Some(Seen::To(udp, port)) if (udp, port) == last_knock => knocked = Some(stamp),
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

/// Knocks, and does not wait for anything.
#[allow(dead_code, reason = "what one benchmark needs")]
pub(crate) fn knock(net: &Net, source: Ipv4Addr) {
    let at = Cable::new(net);
    net.client.enter(move || at.send_sequence(&mut at.open(), source));
}

enum Seen {
    /// A packet to this port; true: by UDP.
    To(bool, u16),
    SynAck {
        from: Ipv4Addr,
        to: u16,
        number: u32,
    },
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
        TransportSlice::Tcp(tcp) => Some(Seen::To(false, tcp.destination_port())),
        TransportSlice::Udp(udp) => Some(Seen::To(true, udp.destination_port())),
        _ => None,
    }
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
