//! Link layers: where the network header starts.

use super::Ignored;

/// The link types that knockd understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkType {
    Ethernet,
    Sll,
    Sll2,
    Raw,
    /// NULL and LOOP: four bytes of address family, in the byte order of whoever captured.
    Null,
}

impl LinkType {
    pub const ALL: [Self; 5] = [Self::Ethernet, Self::Sll, Self::Sll2, Self::Raw, Self::Null];

    /// The link type of a number of libpcap's (`DLT_…` or `LINKTYPE_…`), if it is understood.
    pub const fn from_dlt(dlt: i32) -> Option<Self> {
        match dlt {
            0 | 108 => Some(Self::Null),
            1 => Some(Self::Ethernet),
            // RAW is 12 on most systems, 14 on OpenBSD, 101 in files; 228 and 229 are RAW with
            // one IP version only.
            12 | 14 | 101 | 228 | 229 => Some(Self::Raw),
            113 => Some(Self::Sll),
            276 => Some(Self::Sll2),
            _ => None,
        }
    }

    /// A number of libpcap's that means this link type.
    pub const fn dlt(self) -> i32 {
        match self {
            Self::Null => 0,
            Self::Ethernet => 1,
            Self::Raw => 12,
            Self::Sll => 113,
            Self::Sll2 => 276,
        }
    }
}

/// The IP version that a link layer announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IpVersion {
    V4,
    V6,
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and what was used for stacked tags before 802.1ad.
const ETHERTYPE_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

const PACKET_OUTGOING: u16 = 4;
/// Hardware types whose SLL protocol field holds no EtherType: 802.11 with radiotap, frame relay,
/// netlink.
const NO_ETHERTYPE: [u16; 3] = [803, 770, 824];

/// ARPHRD_LOOPBACK.
const LOOPBACK: u16 = 772;

const AF_INET: u32 = 2;
/// Linux; NetBSD, OpenBSD; FreeBSD; Darwin.
const AF_INET6: [u32; 4] = [10, 24, 28, 30];

/// Strips the link layer, tags included.
///
/// # Errors
/// [`Ignored::Truncated`], [`Ignored::NotIp`], or [`Ignored::Outgoing`] where the link layer says
/// which way the packet went.
pub(super) fn network(link: LinkType, bytes: &[u8]) -> Result<(IpVersion, &[u8]), Ignored> {
    match link {
        LinkType::Ethernet => {
            let (header, rest) = split::<14>(bytes)?;
            ether_payload(be16(header, 12), rest)
        }
        LinkType::Sll => {
            let (header, rest) = split::<16>(bytes)?;
            cooked(be16(header, 0), be16(header, 2), be16(header, 14), rest)
        }
        LinkType::Sll2 => {
            let (header, rest) = split::<20>(bytes)?;
            cooked(header[10].into(), be16(header, 8), be16(header, 0), rest)
        }
        LinkType::Raw => match bytes.first().ok_or(Ignored::Truncated)? >> 4 {
            4 => Ok((IpVersion::V4, bytes)),
            6 => Ok((IpVersion::V6, bytes)),
            _ => Err(Ignored::NotIp),
        },
        LinkType::Null => {
            let (&family, rest) = split::<4>(bytes)?;
            let family = u32::from_be_bytes(family).min(u32::from_le_bytes(family));
            match family {
                AF_INET => Ok((IpVersion::V4, rest)),
                _ if AF_INET6.contains(&family) => Ok((IpVersion::V6, rest)),
                _ => Err(Ignored::NotIp),
            }
        }
    }
}

/// Whether the link layer says that a loopback interface carried a frame.
pub(super) fn is_loopback(link: LinkType, bytes: &[u8]) -> bool {
    let at = match link {
        LinkType::Null => return true,
        LinkType::Sll => 2,
        LinkType::Sll2 => 8,
        LinkType::Ethernet | LinkType::Raw => return false,
    };
    bytes.get(at..at + 2) == Some(&LOOPBACK.to_be_bytes())
}

fn cooked(
    packet_type: u16,
    hardware: u16,
    protocol: u16,
    rest: &[u8],
) -> Result<(IpVersion, &[u8]), Ignored> {
    if packet_type == PACKET_OUTGOING {
        return Err(Ignored::Outgoing);
    }
    if NO_ETHERTYPE.contains(&hardware) {
        return Err(Ignored::NotIp);
    }
    ether_payload(protocol, behind_tags(protocol, rest))
}

/// What stands behind the tags that Linux leaves in place in a cooked frame, though it says what
/// stands behind them all (6.11 and later, of a packet with more than one tag).
fn behind_tags(protocol: u16, whole: &[u8]) -> &[u8] {
    let version = if protocol == ETHERTYPE_IPV6 { 6 } else { 4 };
    let mut rest = whole;
    while let [_, _, high, low, inner @ ..] = rest {
        let ether_type = u16::from_be_bytes([*high, *low]);
        // No knock is so long that its own header could look like this.
        if ether_type == protocol && inner.first().is_none_or(|byte| byte >> 4 == version) {
            return inner;
        }
        if !ETHERTYPE_VLAN.contains(&ether_type) {
            return whole;
        }
        rest = inner;
    }
    // Cut off before there is a header of any kind.
    &[]
}

fn ether_payload(mut ether_type: u16, mut rest: &[u8]) -> Result<(IpVersion, &[u8]), Ignored> {
    loop {
        match ether_type {
            ETHERTYPE_IPV4 => return Ok((IpVersion::V4, rest)),
            ETHERTYPE_IPV6 => return Ok((IpVersion::V6, rest)),
            _ if ETHERTYPE_VLAN.contains(&ether_type) => {
                let (tag, inner) = split::<4>(rest)?;
                ether_type = be16(tag, 2);
                rest = inner;
            }
            _ => return Err(Ignored::NotIp),
        }
    }
}

fn split<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), Ignored> {
    bytes.split_first_chunk().ok_or(Ignored::Truncated)
}

const fn be16<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}
