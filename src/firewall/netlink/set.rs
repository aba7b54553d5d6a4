//! Sets of nftables and their elements: names, keys, comments.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use super::attribute::array;
use crate::config::{Family, SetRef};
use crate::proto::PortRange;

/// A set and a key in it, which name an element; and what that is to lead to, in a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementRef {
    pub set: SetRef,
    pub key: ElementKey,
    pub value: Option<ElementKey>,
    /// How long packets renew it, in a set of which knockd and its rules make all elements.
    pub renewed: Option<Duration>,
}

impl ElementRef {
    /// An element of a set that is no map.
    pub const fn new(set: SetRef, key: ElementKey) -> Self {
        Self { set, key, value: None, renewed: None }
    }

    /// Whether what was found there is a grant of knockd's.
    pub(super) fn is_ours(&self, found: &SetElement) -> bool {
        self.renewed.is_some() || found.is_ours()
    }

    /// Whether both name the same element.
    pub fn is_at(&self, other: &Self) -> bool {
        (&self.set, &self.key) == (&other.set, &other.key)
    }
}

/// The key of an element in its set: an address, or a concatenation such as address, protocol and
/// port. Each part fills whole registers of four bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ElementKey {
    pub(in crate::firewall) bytes: Vec<u8>,
    /// Of a key that stands for a range, its last.
    pub(super) last: Option<Vec<u8>>,
}

impl From<IpAddr> for ElementKey {
    fn from(address: IpAddr) -> Self {
        Self::default().address(address)
    }
}

impl ElementKey {
    pub(in crate::firewall) fn from_bytes(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), last: None }
    }

    /// Whether a key of one port is in this range, where it differs from it in the port alone, which
    /// comes last.
    pub(in crate::firewall) fn covers(&self, one: &Self) -> bool {
        self.bytes <= one.bytes && self.last.as_ref().is_some_and(|last| one.bytes <= *last)
    }

    /// With an address after what is there; an IPv4 one in IPv6 clothes is IPv4.
    pub fn address(self, address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => self.part(&address.octets()),
            IpAddr::V6(address) => self.part(&address.octets()),
        }
    }

    /// With a port after what is there.
    pub fn port(self, port: u16) -> Self {
        self.part(&port.to_be_bytes())
    }

    /// With ports after what is there; several make it a range.
    pub fn ports(self, range: &PortRange) -> Self {
        let (low, high) = (range.start().get(), range.end().get());
        let last = (low < high).then(|| self.clone().port(high).bytes);
        Self { last, ..self.port(low) }
    }

    /// With the number of a protocol after what is there.
    pub fn protocol(self, protocol: u8) -> Self {
        self.part(&[protocol])
    }

    fn part(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// The address at its beginning, in a set that has such.
    pub fn first_address(&self, family: Family) -> Option<IpAddr> {
        Some(match family {
            Family::V4 => array::<4>(&self.bytes, 0)?.into(),
            Family::V6 => array::<16>(&self.bytes, 0)?.into(),
        })
    }

    /// The address that it is, of a set that has nothing else.
    pub fn as_address(&self) -> Option<IpAddr> {
        match self.bytes.len() {
            4 => self.first_address(Family::V4),
            16 => self.first_address(Family::V6),
            _ => None,
        }
    }

    /// The port right after the address at its beginning.
    pub fn second_port(&self, family: Family) -> Option<NonZeroU16> {
        let at = if family == Family::V4 { 4 } else { 16 };
        NonZeroU16::new(u16::from_be_bytes(array(&self.bytes, at)?))
    }
}

/// A comment that nft can show and read again: printable ASCII without quotes, at most 127 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Comment(String);

impl Comment {
    /// The first word of the comments of elements that knockd adds.
    pub const OURS: &str = "knockd";

    /// A comment of a text: other characters become `?`, and what is too long is cut.
    pub fn new(text: &str) -> Self {
        let printable = |c: char| (c == ' ' || c.is_ascii_graphic()) && !"\"\\".contains(c);
        Self(text.chars().map(|c| if printable(c) { c } else { '?' }).take(127).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it says that knockd has made what it is at.
    pub fn is_ours(&self) -> bool {
        self.0.split(' ').next() == Some(Self::OURS)
    }
}

/// An element of a set, as the kernel has it or is to have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetElement {
    pub key: ElementKey,
    /// What its key leads to, in a map.
    pub value: Option<ElementKey>,
    /// Whether it ends an interval, in a set of such: the first key that is no more in it.
    pub is_end: bool,
    /// Until it goes away; `None`: never.
    pub left: Option<Duration>,
    /// How long packets renew it, if they do.
    pub renewed: Option<Duration>,
    pub comment: Comment,
    /// What rules have counted at it, where they count.
    pub counter: Option<Counter>,
}

/// The packets that a rule has counted, and the bytes in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

/// The element that does not end and says nothing: as one is asked for and deleted.
impl From<ElementKey> for SetElement {
    fn from(key: ElementKey) -> Self {
        Self { key, ..Self::default() }
    }
}

impl SetElement {
    /// Whether it is a grant of knockd's. An element that does not end is the administrator's,
    /// whatever it says: to add one again without a timeout makes it permanent, under its old
    /// comment.
    pub fn is_ours(&self) -> bool {
        self.left.is_some() && self.comment.is_ours()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_what_nft_can_show_and_read_again() {
        assert_eq!(Comment::new("door \"x\"\n\\é").as_str(), "door ?x????");
        assert_eq!(Comment::new(&"x".repeat(200)).as_str().len(), 127);
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_ipv4() {
        let address: IpAddr = "::ffff:192.0.2.9".parse().unwrap();
        assert_eq!(ElementKey::from(address).bytes, [192, 0, 2, 9]);
    }
}
