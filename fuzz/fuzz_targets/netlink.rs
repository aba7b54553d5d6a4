//! Answers of the kernel: no bytes are too much, what is read stands in them, and what is written
//! is read again.
#![no_main]

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::LazyLock;
use std::time::Duration;

use knock_fuzz::take;
use libfuzzer_sys::fuzz_target;
use libknock::config::{Family, NftFamily};
use libknock::firewall::netlink::conntrack::{Oblivion, connections, tracked};
use libknock::firewall::netlink::message::{batch, elements, generation, replies, set_type, table};
use libknock::firewall::netlink::{
    Comment, Counter, ElementKey, NEW_ELEMENT, NftChange, SetElement, SetRef,
};

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    let [kind] = take(&mut rest);
    if kind >= 0xc0 {
        return is_read_again(rest);
    }
    let mut at = 0;
    for reply in replies(rest) {
        // The headers as linux/netlink.h has them, read naively.
        let word = |from: usize| {
            let bytes = rest.get(at + from..at + from + 4).and_then(|it| it.try_into().ok());
            u32::from_ne_bytes(bytes.expect("a header is there"))
        };
        let length = word(0) as usize;
        assert!(length >= 16 && at + length <= rest.len());
        assert_eq!(u32::from(reply.kind), word(4) & 0xffff);
        assert_eq!(reply.sequence, word(8));
        at += length.next_multiple_of(4);
        let body = reply.attributes();
        assert!(body.len() <= length - 16);
        let _ = (reply.outcome(), reply.family(), reply.is_interrupted());
        read(body);
    }
    read(rest);
});

fn read(body: &[u8]) {
    let _ = (set_type(body), generation(body), table(body));
    let found = elements(body);
    let keys: usize = found.iter().filter(|it| it.key != ElementKey::default()).count();
    assert!(keys * 4 <= body.len());
    for SetElement { key, comment, .. } in found {
        assert!(comment.as_str().bytes().all(|it| it == b' ' || it.is_ascii_graphic()));
        for family in [Family::V4, Family::V6] {
            if let Some(address) = key.first_address(family) {
                assert_eq!(address.is_ipv4(), family == Family::V4);
            }
            let _ = key.second_port(family);
        }
        let _ = key.as_address();
    }
    static TIMES: LazyLock<Oblivion> = LazyLock::new(Oblivion::of_host);
    let times = &*TIMES;
    if let (Some(it), Some(gone)) = (tracked(times, 1 << 8, body), tracked(times, 1 << 8 | 2, body))
    {
        assert_eq!((it.id, it.client, it.to), (gone.id, gone.client, gone.to));
    }
    for connection in connections(body) {
        assert_eq!(connection.peer.is_ipv4(), connection.peer.ip().is_ipv4());
    }
}

/// Elements as they would be added, and as the kernel lists them.
fn is_read_again(mut input: &[u8]) {
    let set = SetRef::new(NftFamily::Inet, "knockd", "open_4").expect("two names");
    let mut added = Vec::new();
    while !input.is_empty() && added.len() < 300 {
        let [shape, protocol, high, low, length] = take(&mut input);
        let address: IpAddr = match shape & 1 {
            0 => take::<4>(&mut input).into(),
            _ => take::<16>(&mut input).into(),
        };
        let mut key = ElementKey::from(address);
        let value = (shape & 32 != 0).then(|| ElementKey::from(address).port(1));
        if shape & 2 != 0 {
            key = key.port(u16::from_be_bytes([high, low])).protocol(protocol);
        }
        if let (Some(first), 64..) = (NonZeroU16::new(low.into()), shape) {
            key = key.ports(&(first..=first.saturating_add(high.into())));
        }
        let says = input.split_at(input.len().min(length.into()));
        input = says.1;
        let comment = Comment::new(&String::from_utf8_lossy(says.0));
        let left = (shape & 4 != 0).then(|| Duration::from_millis(u64::from(high) << 20 | 1));
        let counted = Counter { packets: u64::from(high), bytes: u64::from(low) << 40 };
        let counter = (shape & 16 != 0).then_some(counted);
        let (is_end, renewed) = (shape & 8 != 0, None);
        added.push(SetElement { key, value, is_end, left, renewed, comment, counter });
    }
    let changes: Vec<_> = NftChange::add_all(&set, &added).collect();
    let bytes = batch(u32::MAX - 1, None, &changes);
    let all: Vec<_> = replies(&bytes).collect();
    assert_eq!(all.len(), changes.len() + 2);
    let read: Vec<_> = all
        .iter()
        .filter(|reply| reply.kind == NEW_ELEMENT)
        .flat_map(|reply| elements(reply.attributes()))
        .collect();
    // The kernel says when one expires, not what it was given.
    let added: Vec<_> = added.into_iter().map(|it| SetElement { left: None, ..it }).collect();
    assert_eq!(read, added);
}
