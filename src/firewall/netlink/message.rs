//! nf_tables messages as bytes: pure, in both directions.
//!
//! Headers are in the machine's byte order (linux/netlink.h, linux/netfilter/nfnetlink.h,
//! linux/netfilter/nf_tables.h).

use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{NFT_MSG_DELSETELEM, NFT_MSG_DELTABLE, NFT_MSG_NEWSETELEM, c_int};

use super::attribute::{
    Attributes, array, attributes, comment, find, find_u32, find_u64, read_comment,
};
use super::{Comment, Counter, ElementKey, ElementRef, SetElement, SetRef, SetType, Table};
use crate::config::NftFamily;

/// Flags of a message.
pub(super) const REQUEST: u16 = 0x01;
pub(super) const ACK: u16 = 0x04;
pub(super) const DUMP: u16 = 0x300;
const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;
const DUMP_INTERRUPTED: u16 = 0x10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NF_TABLES: u16 = 10;
const OF_BATCH: [u8; 4] = [0, 0, 0, NF_TABLES as u8];

/// Kinds of messages that are also looked for.
pub const DELETE_TABLE: u16 = nft(NFT_MSG_DELTABLE);
pub const NEW_ELEMENT: u16 = nft(NFT_MSG_NEWSETELEM);
pub const DELETE_ELEMENT: u16 = nft(NFT_MSG_DELSETELEM);

/// The first attribute of everything that belongs to a table is the table's name, and the second
/// of a set and of a list of elements is the set's.
pub(super) const TABLE: u16 = 1;
pub(super) const SET: u16 = 2;
const ELEMENTS: u16 = 3;
pub(super) const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_VALUE: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_TIMEOUT: u16 = 4;
const ELEMENT_EXPIRATION: u16 = 5;
const ELEMENT_COMMENT: u16 = 6;
const ELEMENT_EXPRESSION: u16 = 7;
const ELEMENT_KEY_END: u16 = 10;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
const INTERVAL_END: u32 = 1;
const DATA_VALUE: u16 = 1;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
const SET_HANDLE: u16 = 16;
const TABLE_HANDLE: u16 = 4;
pub(super) const TABLE_USERDATA: u16 = 6;
/// In the message that begins a batch, and in the answer to a question for it.
const GENERATION: u16 = 1;
/// So many elements in one message: the length of their list has 16 bits.
const ELEMENTS_AT_A_TIME: usize = 256;

pub(super) const fn nft(message: c_int) -> u16 {
    NF_TABLES << 8 | message as u16
}

/// A change of the tables: one message of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NftChange {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) family: NftFamily,
    pub(super) body: Attributes,
    pub(super) of: ChangedObject,
}

/// The object of a change, for the message that says what the kernel has refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ChangedObject {
    Set(SetRef),
    /// `the chain input`
    Other(String),
}

impl NftChange {
    /// Adds an element with a timeout rounded up to milliseconds, never zero: an element without
    /// one stays. `exclusive`: fails if it is there already.
    pub fn add(
        ElementRef { set, key, value, renewed }: &ElementRef,
        left: Duration,
        comment: &Comment,
        exclusive: bool,
    ) -> Self {
        let (left, comment, value) = (Some(left), comment.clone(), value.clone());
        let element = SetElement { left, renewed: *renewed, comment, value, ..key.clone().into() };
        let flags = if exclusive { CREATE | EXCLUSIVE } else { CREATE };
        Self::elements(NEW_ELEMENT, flags, set, &[element])
    }

    /// Deletes an element.
    pub fn delete(ElementRef { set, key, .. }: &ElementRef) -> Self {
        Self::elements(DELETE_ELEMENT, 0, set, &[key.clone().into()])
    }

    /// Adds all the elements, with no more than some hundred in each change.
    pub fn add_all(set: &SetRef, elements: &[SetElement]) -> impl Iterator<Item = Self> {
        let some = elements.chunks(ELEMENTS_AT_A_TIME);
        some.map(|some| Self::elements(NEW_ELEMENT, CREATE, set, some))
    }

    fn elements(kind: u16, flags: u16, set: &SetRef, elements: &[SetElement]) -> Self {
        let (family, of) = (set.family, ChangedObject::Set(set.clone()));
        Self { kind, flags, family, body: in_set(set, elements), of }
    }
}

/// A batch of changes; the message of the n-th has the sequence number `first + 1 + n`, and the
/// last of them asks for the kernel's answer. With a generation, the kernel refuses it where
/// anybody has changed any table since.
pub fn batch(first: u32, generation: Option<u32>, changes: &[NftChange]) -> Vec<u8> {
    let none = Attributes::default;
    let mut bytes = Vec::with_capacity(64 + 160 * changes.len());
    let alone = generation.map_or_else(none, |at| none().u32(GENERATION, at));
    message(&mut bytes, BATCH_BEGIN, REQUEST, first, OF_BATCH, &alone);
    let mut sequence = first;
    for (at, change) in changes.iter().enumerate() {
        sequence = sequence.wrapping_add(1);
        let ack = if at + 1 == changes.len() { ACK } else { 0 };
        let NftChange { kind, flags, family, body, .. } = change;
        message(&mut bytes, *kind, REQUEST | ack | flags, sequence, head(*family), body);
    }
    message(&mut bytes, BATCH_END, REQUEST, sequence.wrapping_add(1), OF_BATCH, &none());
    bytes
}

pub(super) fn in_set(set: &SetRef, elements: &[SetElement]) -> Attributes {
    let list = elements.iter().fold(Attributes::default(), |list, element| {
        let SetElement { key, value, is_end, left, renewed, comment: says, counter } = element;
        let value = value.as_ref().map(|value| data_value(&value.bytes));
        let element = Attributes::default()
            .optional(is_end.then_some(INTERVAL_END), |it, flags| it.u32(ELEMENT_FLAGS, flags))
            // None is taken, nor one that is listed read again, of which more is left than that.
            .optional(*left, |it, left| {
                it.u64(ELEMENT_TIMEOUT, millis(left.max(renewed.unwrap_or_default())))
            })
            .optional(left.filter(|_| renewed.is_some()), |it, left| {
                it.u64(ELEMENT_EXPIRATION, millis(left))
            })
            .nest(ELEMENT_KEY, &data_value(&key.bytes))
            .optional(key.last.as_ref(), |it, last| it.nest(ELEMENT_KEY_END, &data_value(last)))
            .optional(value, |it, value| it.nest(ELEMENT_VALUE, &value))
            .optional(comment(says.as_str()), |it, says| it.bytes(ELEMENT_COMMENT, &says))
            .optional(*counter, |it, counter| it.nest(ELEMENT_EXPRESSION, &counting(counter)));
        list.nest(LIST_ELEMENT, &element)
    });
    set_name(set).nest(ELEMENTS, &list)
}

/// A value, as keys and registers have it.
pub(super) fn data_value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(DATA_VALUE, bytes)
}

/// The expression that counts, from here on.
pub(super) fn counting(Counter { packets, bytes }: Counter) -> Attributes {
    let data = Attributes::default().u64(COUNTER_BYTES, bytes).u64(COUNTER_PACKETS, packets);
    Attributes::default().text(EXPRESSION_NAME, "counter").nest(EXPRESSION_DATA, &data)
}

/// The number of a family of tables in messages (linux/netfilter.h).
pub(super) const fn number(family: NftFamily) -> u8 {
    match family {
        NftFamily::Inet => 1,
        NftFamily::Ip => 2,
        NftFamily::Ip6 => 10,
    }
}

/// What every message about a family begins with.
pub(super) const fn head(family: NftFamily) -> [u8; 4] {
    [number(family), 0, 0, 0]
}

/// The attributes that name a set.
pub(super) fn set_name(set: &SetRef) -> Attributes {
    table_name(set.table.as_str()).text(SET, set.set.as_str())
}

/// The attribute that names a table.
pub(super) fn table_name(table: &str) -> Attributes {
    Attributes::default().text(TABLE, table)
}

/// At least 1, since 0 means for ever, and at most some centuries.
pub(super) fn millis(timeout: Duration) -> u64 {
    let nanos = timeout.as_nanos().div_ceil(1_000_000);
    u64::try_from(nanos).unwrap_or(u64::MAX).clamp(1, 1 << 43)
}

/// Appends a message: its headers, of which the latter begins with the family, and the attributes in
/// `body`.
pub(super) fn message(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    head: [u8; 4],
    body: &Attributes,
) {
    let body = &body.0;
    let length = u32::try_from(20 + body.len()).unwrap_or(u32::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(head);
    bytes.extend(body);
}

/// A message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetlinkReply<'a> {
    pub kind: u16,
    flags: u16,
    pub sequence: u32,
    /// The port of the socket whose request this answers or tells others of.
    pub(super) port: u32,
    payload: &'a [u8],
}

impl<'a> NetlinkReply<'a> {
    /// The outcome of a request, or of a dump; `None`: this is an object.
    pub fn outcome(&self) -> Option<nix::Result<()>> {
        if ![NLMSG_ERROR, NLMSG_DONE].contains(&self.kind) {
            return None;
        }
        let errno = i32::from_ne_bytes(array(self.payload, 0).unwrap_or_default());
        Some(if errno == 0 { Ok(()) } else { Err(Errno::from_raw(errno.wrapping_neg())) })
    }

    /// Whether what was dumped changed meanwhile.
    pub const fn is_interrupted(&self) -> bool {
        self.flags & DUMP_INTERRUPTED != 0
    }

    /// The family of an object of netfilter, by its number.
    pub fn family(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// The attributes of an object.
    pub fn attributes(&self) -> &'a [u8] {
        self.payload.get(4..).unwrap_or_default()
    }
}

/// The messages in what was received; what is broken ends them.
pub fn replies(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkReply<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
        let reply = NetlinkReply {
            kind: u16::from_ne_bytes(array(bytes, 4)?),
            flags: u16::from_ne_bytes(array(bytes, 6)?),
            sequence: u32::from_ne_bytes(array(bytes, 8)?),
            port: u32::from_ne_bytes(array(bytes, 12)?),
            payload: bytes.get(16..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(reply)
    })
}

/// The table that an object is.
pub fn table(attributes: &[u8]) -> Option<Table> {
    let comment = find(attributes, &[TABLE_USERDATA]).and_then(read_comment).unwrap_or_default();
    Some(Table { handle: find_u64(attributes, TABLE_HANDLE)?, comment: comment.to_owned() })
}

/// The declaration of the set that an object is.
pub fn set_type(attributes: &[u8]) -> Option<SetType> {
    Some(SetType {
        handle: find_u64(attributes, SET_HANDLE)?,
        flags: find_u32(attributes, SET_FLAGS).unwrap_or(0),
        key: find_u32(attributes, SET_KEY_TYPE)?,
    })
}

/// The generation of the tables: how often anybody has changed any.
pub fn generation(attributes: &[u8]) -> Option<u32> {
    find_u32(attributes, GENERATION)
}

/// The elements in one message.
pub fn elements(body: &[u8]) -> Vec<SetElement> {
    let list = attributes(find(body, &[ELEMENTS]).unwrap_or_default());
    list.filter_map(|(_, body)| element(body)).collect()
}

fn element(element: &[u8]) -> Option<SetElement> {
    let last = find(element, &[ELEMENT_KEY_END, DATA_VALUE]).map(<[u8]>::to_vec);
    let key = ElementKey::from_bytes(find(element, &[ELEMENT_KEY, DATA_VALUE])?);
    let key = ElementKey { last, ..key };
    let value = find(element, &[ELEMENT_VALUE, DATA_VALUE]).map(ElementKey::from_bytes);
    let comment = find(element, &[ELEMENT_COMMENT]).and_then(read_comment).unwrap_or_default();
    let is_end = find_u32(element, ELEMENT_FLAGS).is_some_and(|flags| flags & INTERVAL_END != 0);
    let left = find_u64(element, ELEMENT_EXPIRATION).map(Duration::from_millis);
    let counter = find(element, &[ELEMENT_EXPRESSION, EXPRESSION_DATA]).and_then(|data| {
        let (packets, bytes) = (find_u64(data, COUNTER_PACKETS)?, find_u64(data, COUNTER_BYTES)?);
        Some(Counter { packets, bytes })
    });
    let comment = Comment::new(comment);
    Some(SetElement { key, value, is_end, left, renewed: None, comment, counter })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::super::attribute::find_text;
    use super::*;
    use crate::config::Family::{V4, V6};

    fn set() -> SetRef {
        SetRef::new(NftFamily::Inet, "knockd", "open_4").unwrap()
    }

    fn key(address: &str) -> ElementKey {
        address.parse::<IpAddr>().unwrap().into()
    }

    /// What `strace nft 'add element inet k s { 192.0.2.9 . 443 timeout 30s comment "hi" }'` shows,
    /// but for the number that nft gives to the set within the batch, and the wish for an answer.
    #[test]
    #[cfg(target_endian = "little")]
    fn an_element_is_written_as_nft_writes_it() {
        let set = SetRef::new(NftFamily::Inet, "k", "s").unwrap();
        let comment = Comment::new("hi");
        let key = key("192.0.2.9").port(443);
        let change =
            NftChange::add(&ElementRef::new(set, key), Duration::from_secs(30), &comment, false);
        let bytes = batch(7, None, &[change]);
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
    fn only_the_last_change_asks_for_an_answer() {
        let set = set();
        let at = |it| ElementRef::new(set.clone(), key(it));
        let deletes = ["192.0.2.1", "192.0.2.2"].map(|it| NftChange::delete(&at(it)));
        let bytes = batch(u32::MAX, None, &deletes);
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
        fn any_key()(v4: bool, bytes: [u8; 16], port: u16, protocol: u8) -> ElementKey {
            let short = [bytes[0], bytes[1], bytes[2], bytes[3]];
            let address: IpAddr = if v4 { short.into() } else { bytes.into() };
            let key = ElementKey::from(address).protocol(protocol);
            let (low, high) = (port.max(1), if port % 3 == 0 { u16::MAX } else { port.max(1) });
            key.ports(&(low.try_into().unwrap()..=high.try_into().unwrap()))
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            key in any_key(), value in proptest::option::of(any_key()), timeout in 1u64..1 << 40, comment in "[ -~]{0,200}",
            counted: Option<(u64, u64)>,
        ) {
            let (set, comment) = (set(), Comment::new(&comment));
            let timeout = Some(Duration::from_millis(timeout));
            let counter = counted.map(|(packets, bytes)| Counter { packets, bytes });
            let value = value.map(|key| ElementKey::from_bytes(&key.bytes));
            let element = SetElement { value, left: timeout, comment, counter, ..key.into() };
            let changes: Vec<_> = NftChange::add_all(&set, std::slice::from_ref(&element)).collect();
            let bytes = batch(1, None, &changes);
            let found: Vec<SetElement> = replies(&bytes)
                .filter(|reply| reply.kind == NEW_ELEMENT)
                .flat_map(|reply| {
                    let body = reply.attributes();
                    let names = [TABLE, SET].map(|kind| find_text(body, kind));
                    assert_eq!(names, [Some("knockd"), Some("open_4")]);
                    elements(body)
                })
                .collect();
            prop_assert_eq!(found, [SetElement { left: None, ..element }]);
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
                let attributes = reply.attributes();
                let _ = (find_text(attributes, TABLE), set_type(attributes));
                let _ = (table(attributes), elements(attributes), generation(attributes));
                let _ = (reply.outcome(), reply.family(), reply.is_interrupted());
            }
            let _ = (elements(&bytes), element(&bytes), read_comment(&bytes));
            let key = ElementKey::from_bytes(&bytes);
            let _ = (key.as_address(), key.first_address(V6), key.second_port(V4));
        }
    }
}
