//! nf_tables messages as bytes: pure, in both directions.
//!
//! Headers are in the machine's byte order, the values of attributes in the network's
//! (linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use super::super::connections::{Connection, Older};
use super::set::number;
use super::{Comment, Entry, Family, Key, SetRef};

pub(super) const REQUEST: u16 = 0x01;
pub(super) const ACK: u16 = 0x04;
pub(super) const DUMP: u16 = 0x300;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
/// In a reply: what was dumped changed while it was.
const DUMP_INTERRUPTED: u16 = 0x10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;

pub(super) const GET_TABLE: u16 = kind(1);
pub(super) const GET_CHAIN: u16 = kind(4);
pub(super) const GET_RULE: u16 = kind(7);
pub(super) const GET_SET: u16 = kind(10);
pub(super) const NEW_ELEMENT: u16 = kind(12);
pub(super) const GET_ELEMENT: u16 = kind(13);
pub(super) const DELETE_ELEMENT: u16 = kind(14);
pub(super) const NEW_GENERATION: u16 = kind(15);
pub(super) const GET_GENERATION: u16 = kind(16);

/// The first attribute of everything that belongs to a table is the table's name, and the second
/// of a set and of a list of elements is the set's.
pub(super) const TABLE: u16 = 1;
const SET: u16 = 2;
const ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_EXPIRATION: u16 = 5;
const ELEMENT_COMMENT: u16 = 6;
const DATA_VALUE: u16 = 1;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_HANDLE: u16 = 16;
const TABLE_HANDLE: u16 = 4;
const NESTED: u16 = 0x8000;

const fn kind(of_nf_tables: u16) -> u16 {
    SUBSYSTEM << 8 | of_nf_tables
}

/// One change of one set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// With a timeout rounded up to milliseconds, never zero: an element without one stays.
    /// `exclusive`: fails if the element is there already.
    Add {
        set: &'a SetRef,
        key: Key,
        timeout: Duration,
        comment: &'a Comment,
        exclusive: bool,
    },
    Delete {
        set: &'a SetRef,
        key: Key,
    },
}

impl Change<'_> {
    pub(super) const fn set(&self) -> &SetRef {
        match self {
            Self::Add { set, .. } | Self::Delete { set, .. } => set,
        }
    }
}

/// A batch of changes; the message of the n-th has the sequence number `first + 1 + n`, and the
/// last of them asks for the kernel's answer.
pub(super) fn batch(first: u32, changes: &[Change<'_>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + 160 * changes.len());
    message(&mut bytes, BATCH_BEGIN, REQUEST, first, 0, SUBSYSTEM, &[]);
    let mut sequence = first;
    for (at, change) in changes.iter().enumerate() {
        sequence = sequence.wrapping_add(1);
        let ack = if at + 1 == changes.len() { ACK } else { 0 };
        let (kind, flags, set, element) = match change {
            Change::Add { set, key, timeout, comment, exclusive } => {
                let flags = if *exclusive { CREATE | EXCLUSIVE } else { CREATE };
                (NEW_ELEMENT, flags, set, element(*key, Some((*timeout, comment))))
            }
            Change::Delete { set, key } => (DELETE_ELEMENT, 0, set, element(*key, None)),
        };
        let body = in_set(set, &element);
        let family = number(set.family);
        message(&mut bytes, kind, REQUEST | ack | flags, sequence, family, 0, &body);
    }
    message(&mut bytes, BATCH_END, REQUEST, sequence.wrapping_add(1), 0, SUBSYSTEM, &[]);
    bytes
}

/// Names one element of a set.
pub(super) fn element_name(set: &SetRef, key: Key) -> Vec<u8> {
    in_set(set, &element(key, None))
}

fn in_set(set: &SetRef, element: &[u8]) -> Vec<u8> {
    let mut body = set_name(set);
    attribute(&mut body, ELEMENTS | NESTED, &nested(LIST_ELEMENT | NESTED, element));
    body
}

/// A question: about a table, a set or everything of a kind, as `body` says.
pub(super) fn question(
    kind: u16,
    flags: u16,
    sequence: u32,
    family: Family,
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    message(&mut bytes, kind, REQUEST | flags, sequence, number(family), 0, body);
    bytes
}

/// The attributes that name a set.
pub(super) fn set_name(set: &SetRef) -> Vec<u8> {
    let mut body = table_name(set.table.as_str());
    attribute(&mut body, SET, &terminated(set.set.as_str()));
    body
}

/// The attribute that names a table.
pub(super) fn table_name(table: &str) -> Vec<u8> {
    nested(TABLE, &terminated(table))
}

fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn element(key: Key, holds: Option<(Duration, &Comment)>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    if let Some((timeout, _)) = holds {
        attribute(&mut body, ELEMENT_TIMEOUT, &millis(timeout).to_be_bytes());
    }
    attribute(&mut body, ELEMENT_KEY | NESTED, &nested(DATA_VALUE, &key_bytes(key)));
    let comment = holds.map_or("", |(_, comment)| comment.as_str());
    if let Some(length) = u8::try_from(comment.len() + 1).ok().filter(|&length| length > 1) {
        // The form that nft reads and writes: kind 0 (a comment), length, text, NUL.
        let text = [&[0, length], comment.as_bytes(), &[0]].concat();
        attribute(&mut body, ELEMENT_COMMENT, &text);
    }
    body
}

/// At least 1, since 0 means for ever, and at most some centuries.
fn millis(timeout: Duration) -> u64 {
    let nanos = timeout.as_nanos().div_ceil(1_000_000);
    u64::try_from(nanos).unwrap_or(u64::MAX).clamp(1, 1 << 43)
}

/// Each part of a concatenation fills whole registers of four bytes.
fn key_bytes(key: Key) -> Vec<u8> {
    let mut bytes = match key.address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    if let Some(port) = key.port {
        bytes.extend(port.get().to_be_bytes());
        bytes.extend([0; 2]);
    }
    bytes
}

fn message(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    body: &[u8],
) {
    let length = u32::try_from(20 + body.len()).unwrap_or(u32::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(body);
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 8);
    attribute(&mut bytes, kind, value);
    bytes
}

/// Names have at most 255 bytes and comments 127, so no length overflows.
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    pub(super) sequence: u32,
    /// The port of the socket whose request this answers or tells others of.
    pub(super) port: u32,
    pub(super) interrupted: bool,
    pub(super) content: Content<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// A request has succeeded (0) or failed (errno).
    Outcome(i32),
    /// The end of a dump.
    Done(i32),
    Object {
        kind: u16,
        family: u8,
        attributes: &'a [u8],
    },
    Other,
}

/// The messages in what was received; what is broken ends them.
pub(super) fn replies(mut bytes: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let (reply, rest) = next_reply(bytes)?;
        bytes = rest;
        Some(reply)
    })
}

fn next_reply(bytes: &[u8]) -> Option<(Reply<'_>, &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
    let payload = bytes.get(16..length)?;
    let kind = u16::from_ne_bytes(array(bytes, 4)?);
    let errno = || Some(i32::from_ne_bytes(array(payload, 0)?).wrapping_neg());
    let content = match kind {
        NLMSG_ERROR => Content::Outcome(errno()?),
        NLMSG_DONE => Content::Done(errno().unwrap_or(0)),
        kind if kind >> 8 == SUBSYSTEM => {
            Content::Object { kind, family: *payload.first()?, attributes: payload.get(4..)? }
        }
        _ => Content::Other,
    };
    let reply = Reply {
        sequence: u32::from_ne_bytes(array(bytes, 8)?),
        port: u32::from_ne_bytes(array(bytes, 12)?),
        interrupted: u16::from_ne_bytes(array(bytes, 6)?) & DUMP_INTERRUPTED != 0,
        content,
    };
    Some((reply, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The attributes one after the other; what is broken ends them.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(array(bytes, 0)?));
        let kind = u16::from_ne_bytes(array(bytes, 2)?) & !(NESTED | 0x4000);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|&(kind, _)| kind == wanted).map(|(_, value)| value)
}

fn find_u32(bytes: &[u8], wanted: u16) -> Option<u32> {
    Some(u32::from_be_bytes(array(find(bytes, wanted)?, 0)?))
}

fn find_u64(bytes: &[u8], wanted: u16) -> Option<u64> {
    Some(u64::from_be_bytes(array(find(bytes, wanted)?, 0)?))
}

/// The text of an attribute, up to its NUL.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.split(|&byte| byte == 0).next()?).ok()
}

/// The name of the table that an object belongs to, or of the table itself.
pub(super) fn table_of(attributes: &[u8]) -> Option<&str> {
    text(find(attributes, TABLE)?)
}

/// The name of a set, or of the set that elements belong to.
pub(super) fn set_of(attributes: &[u8]) -> Option<&str> {
    text(find(attributes, SET)?)
}

/// What tells a table, and a set, from one of the same name that replaced it.
pub(super) fn table_handle(attributes: &[u8]) -> Option<u64> {
    find_u64(attributes, TABLE_HANDLE)
}

pub(super) fn set_handle(attributes: &[u8]) -> Option<u64> {
    find_u64(attributes, SET_HANDLE)
}

/// The flags of a set and the number of its key's type.
pub(super) fn set_type(attributes: &[u8]) -> Option<(u32, u32)> {
    Some((find_u32(attributes, SET_FLAGS).unwrap_or(0), find_u32(attributes, SET_KEY_TYPE)?))
}

/// The raw keys of the elements in one message.
pub(super) fn raw_keys(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let list = find(body, ELEMENTS).unwrap_or_default();
    attributes(list).filter_map(|(_, element)| find(find(element, ELEMENT_KEY)?, DATA_VALUE))
}

/// The elements in one message whose keys are addresses, with or without a port.
pub(super) fn entries(body: &[u8]) -> impl Iterator<Item = Entry> {
    attributes(find(body, ELEMENTS).unwrap_or_default()).filter_map(|(_, element)| entry(element))
}

fn entry(element: &[u8]) -> Option<Entry> {
    let key = read_key(find(find(element, ELEMENT_KEY)?, DATA_VALUE)?)?;
    let comment = find(element, ELEMENT_COMMENT).and_then(read_comment).unwrap_or_default();
    let left = find_u64(element, ELEMENT_EXPIRATION).map(Duration::from_millis);
    Some(Entry { key, left, comment: Comment::new(comment) })
}

fn read_key(bytes: &[u8]) -> Option<Key> {
    let v4 = || Some(IpAddr::from(Ipv4Addr::from(array::<4>(bytes, 0)?)));
    let v6 = || Some(IpAddr::from(Ipv6Addr::from(array::<16>(bytes, 0)?)));
    let port = |at| NonZeroU16::new(u16::from_be_bytes(array(bytes, at)?));
    match bytes.len() {
        4 => Some(Key { address: v4()?, port: None }),
        8 => Some(Key { address: v4()?, port: Some(port(4)?) }),
        16 => Some(Key { address: v6()?, port: None }),
        20 => Some(Key { address: v6()?, port: Some(port(16)?) }),
        _ => None,
    }
}

/// The elements in one message that are connections: an address, its port, a port of this host.
pub(super) fn connections(body: &[u8]) -> impl Iterator<Item = Older> {
    attributes(find(body, ELEMENTS).unwrap_or_default()).filter_map(|(_, element)| {
        let key = find(find(element, ELEMENT_KEY)?, DATA_VALUE)?;
        let (peer, last) = key.split_at_checked(key.len().checked_sub(4)?)?;
        let Key { address, port } = read_key(peer)?;
        let peer = SocketAddr::new(address, port?.get());
        let connection = Connection { peer, port: u16::from_be_bytes(array(last, 0)?) };
        let left = Duration::from_millis(find_u64(element, ELEMENT_EXPIRATION)?);
        Some(Older { connection, left })
    })
}

/// User data is a row of kind, length, value; a comment has kind 0.
fn read_comment(mut bytes: &[u8]) -> Option<&str> {
    loop {
        let (&kind, &length) = (bytes.first()?, bytes.get(1)?);
        let end = 2 + usize::from(length);
        if kind == 0 {
            return text(bytes.get(2..end)?);
        }
        bytes = bytes.get(end..)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set() -> SetRef {
        SetRef::new(Family::Inet, "knockd", "g_ssh_4").unwrap()
    }

    fn key(address: &str, port: u16) -> Key {
        Key { address: address.parse().unwrap(), port: NonZeroU16::new(port) }
    }

    /// What `strace nft 'add element inet k s { 192.0.2.9 . 443 timeout 30s comment "hi" }'` shows,
    /// but for the number that nft gives to the set within the batch, and the wish for an answer.
    #[test]
    #[cfg(target_endian = "little")]
    fn an_element_is_written_as_nft_writes_it() {
        let set = SetRef::new(Family::Inet, "k", "s").unwrap();
        let comment = Comment::new("hi");
        let change = Change::Add {
            set: &set,
            key: key("192.0.2.9", 443),
            timeout: Duration::from_secs(30),
            comment: &comment,
            exclusive: false,
        };
        let bytes = batch(7, &[change]);
        let begin = [20, 0, 0, 0, 0x10, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10];
        let end = [20, 0, 0, 0, 0x11, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10];
        #[rustfmt::skip]
        let body = [
            84, 0, 0, 0, 12, 10, 5, 4, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0,
            6, 0, 1, 0, b'k', 0, 0, 0,
            6, 0, 2, 0, b's', 0, 0, 0,
            48, 0, 3, 0x80,
                44, 0, 1, 0x80,
                    12, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0x75, 0x30,
                    16, 0, 1, 0x80, 12, 0, 1, 0, 192, 0, 2, 9, 1, 187, 0, 0,
                    9, 0, 6, 0, 0, 3, b'h', b'i', 0, 0, 0, 0,
        ];
        assert_eq!(bytes, [&begin[..], &body, &end].concat());
    }

    #[test]
    fn a_timeout_is_never_for_ever() {
        assert_eq!(millis(Duration::ZERO), 1);
        assert_eq!(millis(Duration::from_nanos(1_000_001)), 2);
        assert_eq!(millis(Duration::from_secs(30)), 30_000);
        assert_eq!(millis(Duration::MAX), 1 << 43);
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_ipv4() {
        assert_eq!(key_bytes(key("::ffff:192.0.2.9", 0)), [192, 0, 2, 9]);
    }

    #[test]
    fn only_the_last_change_asks_for_an_answer() {
        let set = set();
        let delete =
            |last: u8| Change::Delete { set: &set, key: key(&format!("192.0.2.{last}"), 0) };
        let bytes = batch(u32::MAX, &[delete(1), delete(2)]);
        let flags: Vec<u16> = (0..4)
            .scan(0, |at, _| {
                let here = *at;
                *at += u32::from_ne_bytes(array(&bytes, here).unwrap()) as usize;
                Some(u16::from_ne_bytes(array(&bytes, here + 6).unwrap()))
            })
            .collect();
        assert_eq!(flags, [REQUEST, REQUEST, REQUEST | ACK, REQUEST]);
        let sequences: Vec<u32> = replies(&bytes).map(|reply| reply.sequence).collect();
        assert_eq!(sequences, [u32::MAX, 0, 1, 2]);
    }

    prop_compose! {
        fn any_key()(v4: bool, bytes: [u8; 16], port: Option<NonZeroU16>) -> Key {
            let short = [bytes[0], bytes[1], bytes[2], bytes[3]];
            let address: IpAddr = if v4 { short.into() } else { bytes.into() };
            Key { address: address.to_canonical(), port }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            key in any_key(), timeout in 1u64..1 << 40, comment in "[ -~]{0,200}",
        ) {
            let (set, comment) = (set(), Comment::new(&comment));
            let change = Change::Add {
                set: &set, key, timeout: Duration::from_millis(timeout), comment: &comment,
                exclusive: true,
            };
            let bytes = batch(1, &[change]);
            let found: Vec<Entry> = replies(&bytes)
                .filter_map(|reply| match reply.content {
                    Content::Object { kind: NEW_ELEMENT, attributes, .. } => Some(attributes),
                    _ => None,
                })
                .flat_map(|body| {
                    assert_eq!((table_of(body), set_of(body)), (Some("knockd"), Some("g_ssh_4")));
                    entries(body)
                })
                .collect();
            prop_assert_eq!(found, [Entry { key, left: None, comment }]);
        }

        #[test]
        fn no_bytes_from_the_kernel_are_a_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300), shape: bool,
        ) {
            if shape && bytes.len() >= 24 {
                let length = u32::try_from(bytes.len()).unwrap();
                bytes[..4].copy_from_slice(&length.to_ne_bytes());
                bytes[4..6].copy_from_slice(&NEW_ELEMENT.to_ne_bytes());
                bytes[20..24].copy_from_slice(&[16, 0, 3, 0]);
            }
            for reply in replies(&bytes) {
                if let Content::Object { attributes, .. } = reply.content {
                    let _ = (table_of(attributes), set_of(attributes), set_type(attributes));
                    let _ = (table_handle(attributes), set_handle(attributes));
                    let _ = (entries(attributes).count(), raw_keys(attributes).count());
                    let _ = connections(attributes).count();
                }
            }
            let _ = (entries(&bytes).count(), entry(&bytes), read_comment(&bytes));
            let _ = read_key(&bytes);
        }
    }
}
