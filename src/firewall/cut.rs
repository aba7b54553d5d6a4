//! The end of connections that go on.
//!
//! A TCP socket of this host is destroyed, which both ends notice at once. Of all else the kernel
//! forgets the connection, and a door that has closed lets its packets in no more. That alone would
//! be undone by the next packet of the other end, which begins the connection anew as one from
//! here; so what begins between the two is dropped, until neither sends any more.
//!
//! What drops it is a table of its own, which is there from the first such cut on: doors that the
//! guard does not open need it too, and where nothing is cut no packet pays for it. Whoever is let in
//! again is not kept out: a connection that they begin is not begun by the other end.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::netlink::{
    self, ChainKind, Comment, ElementKey, ElementRef, Hook, KeyPart, Load, Netlink, NftChange,
    NftRule, Noting, SetRef, SockDiag,
};
use super::ruleset::{FAMILIES, PRIORITY};
use crate::config::{Family, NftFamily, NftName};
use crate::grants::{ConnectionPhase, TrackedConnection};
use crate::proto::{OpenPorts, Protocol};

/// The table, in the family `inet`.
const TABLE: &str = "knockd_cut";
const COMMENT: &str = "knockd cut 1";
/// How long after its last packet a connection is over. By default TCP goes on sending what is not
/// answered for 15 minutes and a half (`tcp_retries2`), two minutes apart at the most.
const TIME_TO_GIVE_UP: Duration = Duration::from_secs(16 * 60);
/// How many there can be at once.
const MOST: u32 = 65_536;

/// Ends the connections to these ports that are to be cut: of a protocol, from a client and to where
/// it sends. How many that were that were alive.
///
/// # Errors
/// Where the kernel does not tell of connections, or drops nothing. What could be cut is.
pub fn cut(
    ports: &[OpenPorts],
    is_cut: impl Fn(Protocol, SocketAddr, SocketAddr) -> bool,
) -> netlink::Result<usize> {
    let mut netlink = Netlink::of_connections()?;
    let tracked = netlink.connections(ports);
    let mut left = tracked.as_ref().cloned().unwrap_or_default();
    left.retain(|it| it.phase < ConnectionPhase::Ended && is_cut(it.protocol, it.client, it.to));
    // A socket does not know that packets to another port were led to it.
    let ends = |it: &TrackedConnection| (it.protocol, it.client, it.answered_by);
    let led: HashSet<_> = left.iter().map(ends).collect();
    // One that is not tracked may have been begun by this host, from a port in a range.
    let single = ports.iter().filter_map(|ports| ports.single());
    let single: HashSet<u16> = single.map(|port| port.port.get()).collect();
    let is_its = |client: SocketAddr, here: SocketAddr| {
        led.contains(&(Protocol::Tcp, client, here))
            || (single.contains(&here.port()) && is_cut(Protocol::Tcp, client, here))
    };
    let mut ended = HashSet::new();
    // Where it does not work, the other way is left.
    if let Ok(mut sockets) = SockDiag::open() {
        for (client, here, socket) in sockets.sockets(is_its).unwrap_or_default() {
            if sockets.destroy(socket).is_ok() {
                ended.insert((Protocol::Tcp, client, here));
            }
        }
    }
    left.retain(|it| !ended.contains(&ends(it)));
    let dropped = drop_what_begins(&mut netlink, &left);
    let forgotten = left.iter().try_for_each(|it| netlink.forget(it));
    tracked.and(dropped).and(forgotten)?;
    let alive = left.iter().filter(|it| it.phase == ConnectionPhase::Alive).count();
    Ok(ended.len() + alive)
}

/// From now on drops what would begin these connections anew.
fn drop_what_begins(netlink: &mut Netlink, all: &[TrackedConnection]) -> netlink::Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    let stands = netlink.table(NftFamily::Inet, TABLE)?.is_some();
    let mut changes = if stands { Vec::new() } else { table() };
    for it in all {
        let client = ElementKey::from(it.client.ip()).port(it.client.port());
        let client = client.protocol(it.protocol.number());
        let set = set(Family::of(it.client.ip()));
        // The other end is seen as who answers before it is translated.
        for port in BTreeSet::from([it.to.port(), it.answered_by.port()]) {
            let at = ElementRef::new(set.clone(), client.clone().port(port));
            changes.push(NftChange::add(&at, TIME_TO_GIVE_UP, &Comment::default(), false));
        }
    }
    netlink.apply(&changes)
}

/// Takes the table away; where there is none, does nothing.
///
/// # Errors
/// When the kernel refuses.
pub fn remove() -> netlink::Result<()> {
    // To add a table that is there already is no error; to delete one that is not would be.
    Netlink::open()?.apply(&[NftChange::table(TABLE, COMMENT), NftChange::delete_table(TABLE)])
}

fn set(family: Family) -> SetRef {
    let set = if family == Family::V4 { "cut_4" } else { "cut_6" };
    let [table, set] = [TABLE, set].map(|name| NftName::own(name.to_owned()));
    SetRef { family: NftFamily::Inet, table, set }
}

/// What makes the table.
fn table() -> Vec<NftChange> {
    let mut changes = vec![NftChange::table(TABLE, COMMENT)];
    let hooks =
        [("prerouting", Hook::Prerouting), ("output", Hook::Output), ("forward", Hook::Forward)];
    let at = |hook| Some((ChainKind::Filter, hook, PRIORITY));
    changes.extend(hooks.map(|(chain, hook)| NftChange::chain(TABLE, chain, at(hook))));
    for (family, (id, number)) in FAMILIES.into_iter().zip([(1, 2), (2, 10)]) {
        let (set, [from, to]) = (set(family), KeyPart::addresses(family));
        let there = [from, KeyPart::SOURCE_PORT, KeyPart::PROTOCOL, KeyPart::PORT];
        let back = [to, KeyPart::PORT, KeyPart::PROTOCOL, KeyPart::SOURCE_PORT];
        // `NFT_SET_TIMEOUT` and `NFT_SET_EVAL`.
        changes.push(NftChange::set(&set, id, 0x30, &there).bounded(Some(MOST), TIME_TO_GIVE_UP));
        let new = NftRule::default().has(Load::STATE, &8_u32.to_ne_bytes());
        let new = new.is(Load::NETWORK_PROTOCOL, &[number]);
        // A SYN, of FIN, SYN, RST and ACK alone, begins another one.
        let goes_on = new.clone().is(Load::PROTOCOL, &[Protocol::Tcp.number()]);
        let goes_on = goes_on.masked(Load::TCP_FLAGS, &[0x17], false, &[0x02]);
        let rules =
            [(goes_on, "prerouting", there), (new.clone(), "output", back), (new, "forward", back)];
        for (rule, chain, key) in rules {
            let rule = rule.in_set(&set, &key).note(&set, &key, Noting::RENEW).drop();
            changes.push(NftChange::rule(TABLE, chain, &rule));
        }
    }
    changes
}
