//! The one parser of captured bytes.

use std::net::IpAddr;
use std::num::NonZeroU16;

use etherparse::err::ip::LaxHeaderSliceError;
use etherparse::err::ipv6_exts;
use etherparse::{IpNumber, Ipv6Header, LaxIpSlice, LenSource, TcpHeader, UdpHeader};

use super::link::{self, IpVersion, LinkType};
use crate::proto::words::words;
use crate::proto::{Knock, Protocol, TcpFlags};

/// A packet, as far as the engine needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub transport: Transport,
    /// It is known never to have left its host: a loopback interface carried it.
    pub looped: bool,
}

/// A transport header, as far as it makes a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp { source_port: u16, port: NonZeroU16, sequence: u32, flags: TcpFlags },
    Udp { source_port: u16, port: NonZeroU16 },
}

impl Packet {
    /// The knock that this packet is.
    pub const fn knock(&self) -> Knock {
        match self.transport {
            Transport::Tcp { port, .. } => Knock::new(Protocol::Tcp, port),
            Transport::Udp { port, .. } => Knock::new(Protocol::Udp, port),
        }
    }

    pub const fn source_port(&self) -> u16 {
        match self.transport {
            Transport::Tcp { source_port, .. } | Transport::Udp { source_port, .. } => source_port,
        }
    }
}

words! {
/// The reason why captured bytes are no packet that anyone knocks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Ignored {
    /// The capture ends before the ports and flags do.
    #[error("cut off before its ports: capture with tcpdump -s 0")]
    Truncated = "truncated",
    /// A fragment: the first one has no whole datagram, the others no ports.
    #[error("a fragment")]
    Fragment = "fragment",
    /// Lengths or versions that contradict each other.
    #[error("its headers contradict each other")]
    Malformed = "malformed",
    /// Neither IPv4 nor IPv6.
    #[error("neither IPv4 nor IPv6")]
    NotIp = "not-ip",
    /// Neither TCP nor UDP.
    #[error("neither TCP nor UDP")]
    NotTransport = "not-tcp-or-udp",
    /// Sent by this machine.
    #[error("sent by this host")]
    Outgoing = "outgoing",
}
}

/// Reads one captured frame, and the payload where it is a UDP datagram that was captured as a whole.
/// Never panics, whatever the bytes are.
///
/// Says only what the packet claims and the capture holds: a packet cut off by the snap length is
/// read as long as its ports, and for TCP its sequence number and flags, are there. Any fragment
/// is ignored, also the first one; an IPv6 packet with a fragment header that is the only one of
/// its datagram (RFC 6946) is no fragment. Checksums are not looked at: network cards fill them in
/// after the capture.
///
/// # Errors
/// [`Ignored`] says why it cannot be a knock.
pub fn parse(link: LinkType, bytes: &[u8]) -> Result<(Packet, &[u8]), Ignored> {
    let looped = link::is_loopback(link, bytes);
    let (version, bytes) = link::network(link, bytes)?;
    let (ip, stopped) = LaxIpSlice::from_slice(bytes).map_err(|error| match error {
        LaxHeaderSliceError::Len(_) => Ignored::Truncated,
        LaxHeaderSliceError::Content(_) => Ignored::Malformed,
    })?;
    let claimed = match (version, &ip) {
        (IpVersion::V4, LaxIpSlice::Ipv4(ip)) => usize::from(ip.header().total_len()),
        (IpVersion::V6, LaxIpSlice::Ipv6(ip)) => {
            Ipv6Header::LEN + usize::from(ip.header().payload_length())
        }
        _ => return Err(Ignored::Malformed),
    };
    let payload = ip.payload();
    if payload.fragmented {
        return Err(Ignored::Fragment);
    }
    // etherparse falls back to what was captured where the header claims less than itself.
    if payload.len_source == LenSource::Slice && !payload.incomplete {
        return Err(Ignored::Malformed);
    }
    if let Some((error, _)) = stopped {
        return Err(match error {
            ipv6_exts::HeaderSliceError::Len(_) if payload.incomplete => Ignored::Truncated,
            _ => Ignored::Malformed,
        });
    }
    let segment = Segment {
        bytes: payload.payload,
        claimed: if payload.incomplete {
            claimed.saturating_sub(bytes.len() - payload.payload.len())
        } else {
            payload.payload.len()
        },
    };
    let (transport, payload) = match payload.ip_number {
        IpNumber::TCP => (segment.tcp()?, [].as_slice()),
        IpNumber::UDP => segment.udp()?,
        _ => return Err(Ignored::NotTransport),
    };
    let (source, destination) = (ip.source_addr(), ip.destination_addr());
    let packet = Packet { source, destination, transport, looped };
    Ok((packet, payload))
}

/// The payload of an IP packet: what was captured of it, and how long it is said to be.
struct Segment<'a> {
    bytes: &'a [u8],
    claimed: usize,
}

impl<'a> Segment<'a> {
    /// The first `N` bytes, of a header of at least `whole`.
    fn header<const N: usize>(&self, whole: usize) -> Result<&[u8; N], Ignored> {
        if self.claimed < whole {
            return Err(Ignored::Malformed);
        }
        self.bytes.first_chunk().ok_or(Ignored::Truncated)
    }

    /// RFC 9293, 3.1.
    fn tcp(&self) -> Result<Transport, Ignored> {
        let h = self.header::<14>(TcpHeader::MIN_LEN)?;
        let data_offset = usize::from(h[12] >> 4) * 4;
        if !(TcpHeader::MIN_LEN..=self.claimed).contains(&data_offset) {
            return Err(Ignored::Malformed);
        }
        Ok(Transport::Tcp {
            source_port: u16::from_be_bytes([h[0], h[1]]),
            port: port([h[2], h[3]])?,
            sequence: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            flags: TcpFlags(h[13]),
        })
    }

    /// RFC 768.
    fn udp(&self) -> Result<(Transport, &'a [u8]), Ignored> {
        let h = self.header::<{ UdpHeader::LEN }>(UdpHeader::LEN)?;
        let length = usize::from(u16::from_be_bytes([h[4], h[5]]));
        if !(UdpHeader::LEN..=self.claimed).contains(&length) {
            return Err(Ignored::Malformed);
        }
        let transport = Transport::Udp {
            source_port: u16::from_be_bytes([h[0], h[1]]),
            port: port([h[2], h[3]])?,
        };
        // What is shorter than it says is no request: the filter goes by what it says.
        Ok((transport, self.bytes.get(UdpHeader::LEN..length).unwrap_or_default()))
    }
}

/// No packet goes to port 0.
fn port(bytes: [u8; 2]) -> Result<NonZeroU16, Ignored> {
    NonZeroU16::new(u16::from_be_bytes(bytes)).ok_or(Ignored::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::tests::samples::{
        self, SEQUENCE, SOURCE_PORT, Sample, behind_fragment_header, destination, framed, source,
    };

    fn raw(bytes: &[u8]) -> Result<Packet, Ignored> {
        parse(LinkType::Raw, bytes).map(|(packet, _)| packet)
    }

    fn tcp4() -> Vec<u8> {
        Sample::default().ip()
    }

    fn tcp6() -> Vec<u8> {
        Sample { v6: true, ..Sample::default() }.ip()
    }

    fn udp4() -> Vec<u8> {
        Sample { protocol: Protocol::Udp, ..Sample::default() }.ip()
    }

    fn with(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        change(&mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn a_knock_is_read_from_every_link_layer(sample in samples::samples()) {
            let frame = sample.frame();
            let (packet, payload) = parse(sample.link, &frame).unwrap();
            let sent: &[u8] = if sample.protocol == Protocol::Udp { b"payload" } else { b"" };
            prop_assert_eq!(payload, sent);
            let port = NonZeroU16::new(sample.port).unwrap();
            prop_assert_eq!(packet, Packet {
                source: source(sample.v6),
                destination: destination(sample.v6),
                transport: match sample.protocol {
                    Protocol::Tcp => Transport::Tcp {
                        source_port: SOURCE_PORT,
                        port,
                        sequence: SEQUENCE,
                        flags: sample.flags,
                    },
                    Protocol::Udp => Transport::Udp { source_port: SOURCE_PORT, port },
                },
                looped: sample.link == LinkType::Null,
            });
        }

        #[test]
        fn no_bytes_make_it_panic(
            link in samples::links(),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = parse(link, &bytes);
        }

        #[test]
        fn no_change_to_a_good_packet_makes_it_panic(
            sample in samples::samples(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            length in any::<prop::sample::Index>(),
        ) {
            let mut frame = sample.frame();
            for (place, byte) in changes {
                let place = place.index(frame.len());
                frame[place] = byte;
            }
            let _ = parse(sample.link, &frame);
            let _ = parse(sample.link, &frame[..length.index(frame.len())]);
        }

        /// Cut anywhere, a packet is either read as it was or said to be cut.
        #[test]
        fn a_cut_packet_is_never_misread(
            sample in samples::samples(),
            length in any::<prop::sample::Index>(),
        ) {
            let frame = sample.frame();
            let read = |frame| parse(sample.link, frame).map(|(packet, _)| packet);
            let whole = read(&frame);
            let cut = read(&frame[..length.index(frame.len())]);
            prop_assert!(cut == whole || cut == Err(Ignored::Truncated), "{cut:?}");
        }

        #[test]
        fn padding_behind_a_packet_changes_nothing(sample in samples::samples(), pad in 0usize..40) {
            let mut frame = sample.frame();
            let bare = parse(sample.link, &frame).map(|(packet, _)| packet);
            frame.resize(frame.len() + pad, 0);
            prop_assert_eq!(parse(sample.link, &frame).map(|(packet, _)| packet), bare);
        }
    }

    #[test]
    fn fourteen_bytes_of_tcp_and_eight_of_udp_are_enough() {
        assert!(raw(&tcp4()[..20 + 14]).is_ok());
        assert_eq!(raw(&tcp4()[..20 + 13]), Err(Ignored::Truncated));
        assert!(raw(&udp4()[..20 + 8]).is_ok());
        assert_eq!(raw(&udp4()[..20 + 7]), Err(Ignored::Truncated));
    }

    #[test]
    fn of_a_datagram_that_was_cut_there_is_no_payload() {
        let (frame, says_more) = (udp4(), with(udp4(), |bytes| bytes[2..4].fill(0xff)));
        let payload = |frame| parse(LinkType::Raw, frame).map(|(_, payload)| payload.len());
        let sent = payload(&frame).unwrap();
        assert_eq!(payload(&frame[..frame.len() - 1]), Ok(0));
        assert_eq!(payload(&says_more), Ok(sent));
        assert_eq!(payload(&with(says_more.clone(), |bytes| bytes[24] = 0xff)), Ok(0));
    }

    #[test]
    fn no_bytes_at_all_are_a_truncated_packet() {
        for link in LinkType::ALL {
            assert_eq!(parse(link, &[]), Err(Ignored::Truncated), "{link:?}");
        }
    }

    #[test]
    fn every_ipv4_fragment_is_ignored() {
        for field in [0x2000u16, 0x2001, 0x0001, 0x1fff] {
            let fragment = with(tcp4(), |bytes| bytes[6..8].copy_from_slice(&field.to_be_bytes()));
            assert_eq!(raw(&fragment), Err(Ignored::Fragment), "{field:#06x}");
        }
        let not_to_be_fragmented = with(tcp4(), |bytes| bytes[6] = 0x40);
        assert!(raw(&not_to_be_fragmented).is_ok());
    }

    #[test]
    fn every_ipv6_fragment_is_ignored_but_an_atomic_one_is_whole() {
        for (offset, more) in [(0, true), (1, true), (1, false)] {
            let fragment = behind_fragment_header(offset, more);
            assert_eq!(raw(&fragment), Err(Ignored::Fragment), "{offset} {more}");
        }
        let atomic = raw(&behind_fragment_header(0, false)).unwrap();
        assert_eq!(atomic.knock(), "7000/udp".parse().unwrap());
    }

    #[test]
    fn lengths_that_contradict_each_other_are_malformed() {
        let cases: [(&str, Vec<u8>); 10] = [
            ("total length below the header", with(tcp4(), |b| b[2..4].copy_from_slice(&[0, 19]))),
            ("total length zero", with(tcp4(), |b| b[2..4].copy_from_slice(&[0, 0]))),
            ("total length ends in TCP", with(tcp4(), |b| b[2..4].copy_from_slice(&[0, 39]))),
            ("IHL below 5", with(tcp4(), |b| b[0] = 0x44)),
            ("data offset below 5", with(tcp4(), |b| b[32] = 0x40)),
            ("data offset past the end", with(tcp4(), |b| b[32] = 0xf0)),
            ("UDP length below 8", with(udp4(), |b| b[24..26].copy_from_slice(&[0, 7]))),
            ("UDP length past the end", with(udp4(), |b| b[24..26].copy_from_slice(&[0, 16]))),
            ("IPv6 payload length zero", with(tcp6(), |b| b[4..6].copy_from_slice(&[0, 0]))),
            ("hop-by-hop behind another", {
                let options = Sample { v6: true, options: true, ..Sample::default() };
                with(options.ip(), |b| b[40] = 0)
            }),
        ];
        for (what, bytes) in cases {
            assert_eq!(raw(&bytes), Err(Ignored::Malformed), "{what}");
        }
    }

    #[test]
    fn port_zero_is_malformed() {
        for protocol in Protocol::ALL {
            let sample = Sample { protocol, port: 0, ..Sample::default() };
            assert_eq!(raw(&sample.ip()), Err(Ignored::Malformed));
        }
    }

    #[test]
    fn a_version_that_the_link_layer_did_not_announce_is_malformed() {
        let mut frame = Sample::default().frame();
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(parse(LinkType::Ethernet, &frame), Err(Ignored::Malformed));
    }

    #[test]
    fn what_is_not_ip_is_told_apart_from_what_is_not_tcp_or_udp() {
        let arp = with(Sample::default().frame(), |b| b[12..14].copy_from_slice(&[0x08, 0x06]));
        assert_eq!(parse(LinkType::Ethernet, &arp), Err(Ignored::NotIp));
        let length_field = with(Sample::default().frame(), |b| b[12..14].copy_from_slice(&[0, 60]));
        assert_eq!(parse(LinkType::Ethernet, &length_field), Err(Ignored::NotIp));
        assert_eq!(raw(&[0x50; 40]), Err(Ignored::NotIp));
        assert_eq!(raw(&with(tcp4(), |b| b[9] = 1)), Err(Ignored::NotTransport));
        assert_eq!(raw(&with(tcp6(), |b| b[6] = 58)), Err(Ignored::NotTransport));
    }

    #[test]
    fn what_this_machine_sent_is_outgoing() {
        let sll = with(framed(LinkType::Sll, &[], &tcp4()), |b| b[1] = 4);
        assert_eq!(parse(LinkType::Sll, &sll), Err(Ignored::Outgoing));
        let sll2 = with(framed(LinkType::Sll2, &[], &tcp4()), |b| b[10] = 4);
        assert_eq!(parse(LinkType::Sll2, &sll2), Err(Ignored::Outgoing));
    }

    #[test]
    fn cooked_frames_of_loopback_and_tunnels_are_read_and_netlink_is_not() {
        for (hardware, readable) in [(772u16, true), (0xfffe, true), (512, true), (824, false)] {
            let frame = with(framed(LinkType::Sll, &[], &tcp4()), |b| {
                b[2..4].copy_from_slice(&hardware.to_be_bytes());
            });
            assert_eq!(parse(LinkType::Sll, &frame).is_ok(), readable, "{hardware}");
        }
    }

    #[test]
    fn the_family_of_null_is_read_in_either_byte_order() {
        for (families, packet) in [(&[2u32][..], tcp4()), (&[10, 24, 28, 30], tcp6())] {
            for family in families {
                for bytes in [family.to_be_bytes(), family.to_le_bytes()] {
                    let frame = [&bytes[..], &packet].concat();
                    assert!(parse(LinkType::Null, &frame).is_ok(), "{bytes:?}");
                }
            }
        }
        assert_eq!(parse(LinkType::Null, &[0, 0, 0, 7, 0x45]), Err(Ignored::NotIp));
    }

    #[test]
    fn tags_that_a_cooked_frame_does_not_own_up_to_are_stripped() {
        for (link, protocol) in [(LinkType::Sll, 14), (LinkType::Sll2, 0)] {
            for v6 in [false, true] {
                let packet = Sample { v6, port: 7000, ..Sample::default() }.ip();
                for tags in [&[0x8100][..], &[0x88a8, 0x8100], &[0x8100, 0x9100, 0x88a8]] {
                    let mut frame = framed(link, tags, &packet);
                    let inner = [[8, 0], [0x86, 0xdd]][usize::from(v6)];
                    frame[protocol..protocol + 2].copy_from_slice(&inner);
                    let (read, _) = parse(link, &frame).unwrap();
                    assert_eq!(read.knock().to_string(), "7000/tcp", "{link:?} {tags:x?}");
                }
            }
        }
    }

    #[test]
    fn a_cooked_frame_that_is_cut_off_among_such_tags_is_truncated() {
        let mut frame = framed(LinkType::Sll2, &[0x8100, 0x88a8], &tcp4());
        frame[..2].copy_from_slice(&[8, 0]);
        for length in 0..20 + 8 + 20 + 14 {
            let cut = parse(LinkType::Sll2, &frame[..length]);
            assert_eq!(cut, Err(Ignored::Truncated), "{length}");
        }
    }

    #[test]
    fn any_number_of_tags_is_stripped() {
        let frame = framed(LinkType::Ethernet, &[0x88a8, 0x9100, 0x8100, 0x8100], &tcp4());
        assert!(parse(LinkType::Ethernet, &frame).is_ok());
    }

    #[test]
    fn an_authentication_header_is_read_past() {
        let auth = [6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let v4 = with(tcp4(), |b| {
            b[3] += 24;
            b[9] = 51;
            b.splice(20..20, auth);
        });
        let v6 = with(tcp6(), |b| {
            b[5] += 24;
            b[6] = 51;
            b.splice(40..40, auth);
        });
        for packet in [v4, v6] {
            assert_eq!(raw(&packet).unwrap().knock(), "7000/tcp".parse().unwrap());
        }
    }
}
