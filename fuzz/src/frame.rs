//! Frames that are mostly well-formed, and what a naive reader makes of any.

use std::net::IpAddr;

use libknock::wire::link::LinkType;

use crate::take;

/// A frame of the link type, with up to three tags and an extension header, made as the first bytes
/// of the input say. The rest are pairs of a place and what is added to the byte there.
pub fn build(link: LinkType, port: u16, mut input: &[u8]) -> Vec<u8> {
    let [shape, more, flags, length] = take(&mut input);
    let is_v6 = shape & 1 != 0;
    let is_udp = shape & 2 != 0;
    let behind = [None, Some(0), Some(43), Some(44), Some(51), Some(60)];
    let extension =
        behind[usize::from(more >> 4) % behind.len()].filter(|_| is_v6 || more >> 4 == 4);
    let payload = vec![0x41; usize::from(length)];
    let segment = if is_udp {
        let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
        [&[0x9c, 0x40], &port.to_be_bytes()[..], &length.to_be_bytes(), &[0, 0], &payload].concat()
    } else {
        let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 4, 0, 0, 0, 0, 0];
        [&[0x9c, 0x40], &port.to_be_bytes()[..], &rest, &payload].concat()
    };
    let transport = if is_udp { 17 } else { 6 };
    let packet = network(is_v6, shape & 4 != 0, extension, transport, &segment);
    let tags = usize::from(shape >> 3) % 4;
    let mut frame = framed(link, is_v6, tags, &packet);
    for change in input.chunks_exact(2) {
        let at = usize::from(change[0]) % frame.len();
        frame[at] = frame[at].wrapping_add(change[1]);
    }
    if shape & 0x40 != 0 {
        frame.truncate(usize::from(more & 0x0f) * 8);
    }
    frame
}

fn network(
    is_v6: bool,
    options: bool,
    extension: Option<u8>,
    transport: u8,
    segment: &[u8],
) -> Vec<u8> {
    // An authentication header counts in words of four bytes, less two.
    let next = extension.unwrap_or(transport);
    let header = match extension {
        None => Vec::new(),
        Some(51) => vec![transport, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1],
        Some(44) => vec![transport, 0, 0, u8::from(options), 0, 0, 0, 7],
        Some(_) => vec![transport, 0, 1, 4, 0, 0, 0, 0],
    };
    let behind = [&header, segment].concat();
    if is_v6 {
        let length = u16::try_from(behind.len()).unwrap_or(u16::MAX).to_be_bytes();
        let source = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        let to = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        [&[0x60, 0, 0, 0, length[0], length[1], next, 64], &source[..], &to, &behind].concat()
    } else {
        let options: &[u8] = if options { &[1, 1, 1, 0] } else { &[] };
        let words = if options.is_empty() { 0x45 } else { 0x46 };
        let length = u16::try_from(20 + options.len() + behind.len()).unwrap_or(u16::MAX);
        let [high, low] = length.to_be_bytes();
        let fixed = [words, 0, high, low, 0, 1, 0, 0, 64, next, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1];
        [&fixed[..], options, &behind].concat()
    }
}

fn framed(link: LinkType, is_v6: bool, tags: usize, packet: &[u8]) -> Vec<u8> {
    let inner: [u8; 2] = if is_v6 { [0x86, 0xdd] } else { [8, 0] };
    let known = [[0x81, 0], [0x88, 0xa8], [0x91, 0]];
    let outer = if tags > 0 { known[0] } else { inner };
    let station = [2, 0, 0, 0, 0, 2];
    let mut frame = match link {
        LinkType::Ethernet => [&[2, 0, 0, 0, 0, 1], &station[..], &outer].concat(),
        LinkType::Sll => [&[0, 0, 0, 1, 0, 6], &station[..], &[0, 0], &outer].concat(),
        LinkType::Sll2 => [&outer[..], &[0, 0, 0, 0, 0, 2, 0, 1, 0, 6], &station, &[0, 0]].concat(),
        LinkType::Raw => Vec::new(),
        LinkType::Null => vec![if is_v6 { 10 } else { 2 }, 0, 0, 0],
    };
    if !matches!(link, LinkType::Raw | LinkType::Null) {
        for tag in 0..tags {
            let next = if tag + 1 < tags { known[(tag + 1) % known.len()] } else { inner };
            frame.extend([0, 5, next[0], next[1]]);
        }
    }
    frame.extend(packet);
    frame
}

/// What a frame is as a naive reader has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naive<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub is_tcp: bool,
    pub ports: [u16; 2],
    /// From the transport header on, as far as the packet goes.
    pub segment: &'a [u8],
}

/// Reads a frame that is whole and plain: no tags, no extension headers, no options, no fragment.
pub fn plain(link: LinkType, frame: &[u8]) -> Option<Naive<'_>> {
    let start = match link {
        LinkType::Ethernet => 14,
        LinkType::Sll => 16,
        LinkType::Sll2 => 20,
        LinkType::Raw => 0,
        LinkType::Null => 4,
    };
    let announced = match link {
        LinkType::Ethernet | LinkType::Sll => frame.get(start - 2..start)?,
        LinkType::Sll2 => frame.get(..2)?,
        LinkType::Raw => match frame.first()? >> 4 {
            4 => &[8, 0],
            _ => &[0x86, 0xdd],
        },
        LinkType::Null => match *frame.get(..4)? {
            [2, 0, 0, 0] | [0, 0, 0, 2] => &[8, 0],
            [10, 0, 0, 0] | [0, 0, 0, 10] => &[0x86, 0xdd],
            _ => return None,
        },
    };
    match link {
        // What is said to be sent, or of hardware that has no such protocols.
        LinkType::Sll if frame[..4] != [0, 0, 0, 1] => return None,
        LinkType::Sll2 if frame.get(8..11)? != [0, 1, 0] => return None,
        _ => {}
    }
    let bytes = frame.get(start..)?;
    let number = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (header, length, next, addresses) = match (announced, *bytes.first()?) {
        ([8, 0], 0x45) if number(6)? & 0x3fff == 0 => {
            let four = |at: usize| Some(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?.into());
            (20, usize::from(number(2)?), *bytes.get(9)?, [four(12)?, four(16)?])
        }
        ([0x86, 0xdd], 0x60..=0x6f) => {
            let long = |at: usize| Some(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?.into());
            (40, 40 + usize::from(number(4)?), *bytes.get(6)?, [long(8)?, long(24)?])
        }
        _ => return None,
    };
    let is_tcp = match next {
        6 => true,
        17 => false,
        _ => return None,
    };
    let segment = bytes.get(header..length)?;
    let ports = [number(header)?, number(header + 2)?];
    let [source, destination] = addresses;
    Some(Naive { source, destination, is_tcp, ports, segment })
}
