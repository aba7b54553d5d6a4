//! Packets for tests, on every link layer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, TcpHeader, UdpHeader,
};
use proptest::prelude::*;

use crate::proto::{Protocol, TcpFlags};
use crate::wire::link::LinkType;

pub(crate) const SOURCE_PORT: u16 = 40_000;
pub(crate) const SEQUENCE: u32 = 0x0102_0304;

/// A knock and what is wrapped around it.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub v6: bool,
    pub protocol: Protocol,
    pub port: u16,
    pub flags: TcpFlags,
    /// IPv4 options, IPv6 destination options.
    pub options: bool,
    /// VLAN tags, outermost first: the EtherType that announces each.
    pub tags: Vec<u16>,
    pub link: LinkType,
    pub payload: Vec<u8>,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            v6: false,
            protocol: Protocol::Tcp,
            port: 7000,
            flags: TcpFlags::SYN,
            options: false,
            tags: Vec::new(),
            link: LinkType::Ethernet,
            payload: b"payload".to_vec(),
        }
    }
}

pub(crate) fn source(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into()
    } else {
        Ipv4Addr::new(192, 0, 2, 2).into()
    }
}

pub(crate) fn destination(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(192, 0, 2, 1).into()
    }
}

impl Sample {
    /// The whole frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        framed(self.link, &self.tags, &self.ip())
    }

    /// From the IP header on.
    pub(crate) fn ip(&self) -> Vec<u8> {
        let segment = self.segment();
        let mut packet = Vec::new();
        headers(self.protocol, self.v6, self.options, segment.len()).write(&mut packet).unwrap();
        packet.extend(segment);
        packet
    }

    fn segment(&self) -> Vec<u8> {
        let mut bytes = match self.protocol {
            Protocol::Tcp => {
                let mut header = TcpHeader::new(SOURCE_PORT, self.port, SEQUENCE, 1024).to_bytes();
                header[13] = self.flags.0;
                header.to_vec()
            }
            Protocol::Udp => {
                let length = u16::try_from(UdpHeader::LEN + self.payload.len()).unwrap();
                let header = UdpHeader {
                    source_port: SOURCE_PORT,
                    destination_port: self.port,
                    length,
                    checksum: 0,
                };
                header.to_bytes().to_vec()
            }
        };
        bytes.extend(&self.payload);
        bytes
    }
}

pub(crate) fn number(protocol: Protocol) -> IpNumber {
    match protocol {
        Protocol::Tcp => IpNumber::TCP,
        Protocol::Udp => IpNumber::UDP,
    }
}

fn headers(protocol: Protocol, v6: bool, options: bool, payload: usize) -> IpHeaders {
    let next = number(protocol);
    match (source(v6), destination(v6)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let payload = u16::try_from(payload).unwrap();
            let mut header =
                Ipv4Header::new(payload, 64, next, from.octets(), to.octets()).unwrap();
            if options {
                header.options = [1, 1, 1, 0].into();
                header.total_len += 4;
            }
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut extensions = Ipv6Extensions::default();
            let mut first = next;
            if options {
                let header = Ipv6RawExtHeader::new_raw(next, &[1, 4, 0, 0, 0, 0]).unwrap();
                extensions.destination_options = Some(header);
                first = IpNumber::IPV6_DESTINATION_OPTIONS;
            }
            let header = Ipv6Header {
                payload_length: u16::try_from(payload + extensions.header_len()).unwrap(),
                next_header: first,
                hop_limit: 64,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, extensions)
        }
        _ => unreachable!("both are of one family"),
    }
}

/// An IPv6 knock on 7000/udp behind a fragment header.
pub(crate) fn behind_fragment_header(offset: u16, more: bool) -> Vec<u8> {
    let whole = Sample { v6: true, protocol: Protocol::Udp, ..Sample::default() }.ip();
    let (header, datagram) = whole.split_at(Ipv6Header::LEN);
    let mut packet = header.to_vec();
    packet[5] += 8;
    packet[6] = IpNumber::IPV6_FRAGMENTATION_HEADER.0;
    let offset = IpFragOffset::try_new(offset).unwrap();
    packet.extend(Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, 1).to_bytes());
    packet.extend(datagram);
    packet
}

/// Puts an IP packet behind a link layer; one that knows no tags gets none.
pub(crate) fn framed(link: LinkType, tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let v6 = packet[0] >> 4 == 6;
    let inner: u16 = if v6 { 0x86dd } else { 0x0800 };
    let mut frame = Vec::new();
    let ether_type = tags.first().copied().unwrap_or(inner).to_be_bytes();
    match link {
        LinkType::Ethernet => {
            frame.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
            frame.extend(ether_type);
        }
        LinkType::Sll => {
            frame.extend([0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 2, 0, 0]);
            frame.extend(ether_type);
        }
        LinkType::Sll2 => {
            frame.extend(ether_type);
            frame.extend([0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 2, 0, 0]);
        }
        LinkType::Raw => {}
        LinkType::Null => frame.extend(if v6 { 10u32 } else { 2 }.to_ne_bytes()),
    }
    if !matches!(link, LinkType::Raw | LinkType::Null) {
        for next in tags.iter().skip(1).copied().chain(tags.first().map(|_| inner)) {
            frame.extend([0, 5]);
            frame.extend(next.to_be_bytes());
        }
    }
    frame.extend(packet);
    frame
}

pub(crate) fn links() -> impl Strategy<Value = LinkType> {
    prop::sample::select(LinkType::ALL.to_vec())
}

prop_compose! {
    pub fn samples()(
        v6: bool,
        protocol in prop::sample::select(Protocol::ALL.to_vec()),
        port in 1u16..,
        flags in any::<u8>().prop_map(TcpFlags),
        options: bool,
        tags in prop::collection::vec(prop::sample::select(vec![0x8100, 0x88a8, 0x9100]), 0..=2),
        link in links(),
    ) -> Sample {
        Sample { v6, protocol, port, flags, options, tags, link, ..Sample::default() }
    }
}
