//! Connections that the kernel tracks, as its messages tell them: pure.
//!
//! (linux/netfilter/nfnetlink_conntrack.h)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::attribute::{Attributes, array, find, find_u32};
use crate::firewall::connections::InboundConnection;
use crate::grants::{ConnectionPhase, TrackedConnection};
use crate::proto::{Knock, Protocol};

/// Kinds of messages: a question for them, or what one of them has become; and one that is no more.
pub(super) const GET: u16 = 1 << 8 | 1;
pub(super) const DELETE: u16 = 1 << 8 | 2;
/// `NFNLGRP_CONNTRACK_NEW`, `_UPDATE` and `_DESTROY`, as bits.
pub(super) const GROUPS: u32 = 0b111;

pub(super) const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const SEEN_REPLY: u32 = 2;
const ASSURED: u32 = 4;
const TCP_STATE: [u16; 3] = [4, 1, 1];
const TIMEOUT: u16 = 7;
const ID: u16 = 12;
const ADDRESSES: u16 = 1;
pub(super) const PORTS: u16 = 2;
pub(super) const PROTOCOL: u16 = 1;
pub(super) const TO_PORT: u16 = 3;

/// One direction of a connection: its protocol, whence, and where to.
type Direction = (Protocol, SocketAddr, SocketAddr);

/// The times after which the kernel forgets a connection that is silent, in seconds: the setting
/// `net.netfilter.nf_conntrack_NAME`, and its default. The first two are for TCP with something
/// unacknowledged, the next three for its states from ESTABLISHED on, the last two for UDP.
const TIMES: [(&str, u32); 7] = [
    ("tcp_timeout_max_retrans", 300),
    ("tcp_timeout_unacknowledged", 300),
    ("tcp_timeout_established", 432_000),
    ("tcp_timeout_fin_wait", 120),
    ("tcp_timeout_close_wait", 60),
    ("udp_timeout", 30),
    ("udp_timeout_stream", 120),
];

/// After how long the kernel forgets a connection that is silent.
#[derive(Clone, Copy, Debug)]
pub struct Oblivion([u32; TIMES.len()]);

impl Oblivion {
    /// As this host is set.
    pub fn of_host() -> Self {
        Self(TIMES.map(|(name, default)| {
            let setting = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
            let setting = std::fs::read_to_string(setting);
            setting.ok().and_then(|it| it.trim().parse().ok()).unwrap_or(default)
        }))
    }

    /// How long a connection has been silent that is forgotten after so many seconds more.
    fn silence(&self, state: Option<u8>, is_assured: bool, left: u32) -> Duration {
        let [retransmitted, unanswered, states @ .., udp, stream] = self.0;
        let usual = match state {
            Some(state) => states.get(usize::from(state).wrapping_sub(3)).copied(),
            None => Some(if is_assured { stream } else { udp }),
        };
        let others = state.into_iter().flat_map(|_| [retransmitted, unanswered]);
        let began = others.chain(usual).filter(|time| *time >= left).min().unwrap_or(left);
        Duration::from_secs((began - left).into())
    }
}

/// The connection in a message of this kind. None where it has no ports, and where the message
/// does not say how far one of TCP is: then that is as it was.
pub fn tracked(times: &Oblivion, kind: u16, body: &[u8]) -> Option<TrackedConnection> {
    let (protocol, client, to) = direction(body, ORIGINAL)?;
    let (_, answered_by, _) = direction(body, REPLY)?;
    let is_answered = find_u32(body, STATUS)? & SEEN_REPLY != 0;
    let tcp = find(body, &TCP_STATE).and_then(|state| state.first());
    let phase = match (protocol, tcp) {
        _ if kind == DELETE => ConnectionPhase::Gone,
        (Protocol::Tcp, None) => return None,
        // `TCP_CONNTRACK_…`: LAST_ACK, TIME_WAIT, CLOSE.
        (Protocol::Tcp, Some(6..=8)) => ConnectionPhase::Ended,
        // ESTABLISHED, FIN_WAIT, CLOSE_WAIT.
        (Protocol::Tcp, Some(3..=5)) | (Protocol::Udp, _) if is_answered => ConnectionPhase::Alive,
        _ => ConnectionPhase::Begun,
    };
    let left = find_u32(body, TIMEOUT).unwrap_or(0);
    let is_assured = find_u32(body, STATUS)? & ASSURED != 0;
    let silent = times.silence(tcp.copied(), is_assured, left);
    let id = find_u32(body, ID)?;
    Some(TrackedConnection { id, protocol, client, to, answered_by, phase, silent })
}

/// What names a connection in a request to delete it.
pub(super) fn name(it: &TrackedConnection) -> Attributes {
    let none = Attributes::default;
    let addresses = [(it.client.ip(), [1, 3]), (it.to.ip(), [2, 4])];
    let addresses = addresses.into_iter().fold(none(), |list, (ip, [v4, v6])| match ip {
        IpAddr::V4(ip) => list.bytes(v4, &ip.octets()),
        IpAddr::V6(ip) => list.bytes(v6, &ip.octets()),
    });
    let ports = none().bytes(PROTOCOL, &[it.protocol.number()]);
    let ports = ports.bytes(2, &it.client.port().to_be_bytes());
    let ports = ports.bytes(TO_PORT, &it.to.port().to_be_bytes());
    none().nest(ORIGINAL, &none().nest(ADDRESSES, &addresses).nest(PORTS, &ports)).u32(ID, it.id)
}

/// The packets of a connection that may come to this host: of either direction, and of the first
/// as it is after translation too. None where it has not been answered.
pub fn connections(body: &[u8]) -> Vec<InboundConnection> {
    let directions = direction(body, ORIGINAL).zip(direction(body, REPLY));
    let Some(((protocol, from, to), (_, answered_from, answered_to))) =
        directions.filter(|_| find_u32(body, STATUS).is_some_and(|it| it & SEEN_REPLY != 0))
    else {
        return Vec::new();
    };
    let comes = |from: SocketAddr, to: SocketAddr| {
        let port = Knock::at(protocol, to)?;
        Some(InboundConnection { peer: from, address: to.ip(), port })
    };
    let ways = [(from, to), (from, answered_from), (answered_from, answered_to)];
    ways.into_iter().filter_map(|(from, to)| comes(from, to)).collect()
}

fn direction(body: &[u8], which: u16) -> Option<Direction> {
    let tuple = find(body, &[which])?;
    let [protocol] = array(find(tuple, &[PORTS, PROTOCOL])?, 0)?;
    let protocol = Protocol::ALL.into_iter().find(|known| known.number() == protocol)?;
    let end = |v4, v6, port| {
        let address = |kind| find(tuple, &[ADDRESSES, kind]);
        let ip: IpAddr = match address(v4) {
            Some(bytes) => Ipv4Addr::from(array::<4>(bytes, 0)?).into(),
            None => Ipv6Addr::from(array::<16>(address(v6)?, 0)?).into(),
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(array(find(tuple, &[PORTS, port])?, 0)?)))
    };
    Some((protocol, end(1, 3, 2)?, end(2, 4, TO_PORT)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::attribute::Attributes;
    use super::*;

    fn tuple(protocol: u8, from: (&str, u16), to: (&str, u16)) -> Attributes {
        let octets = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
        let none = Attributes::default;
        let addresses = none().bytes(1, &octets(from.0)).bytes(2, &octets(to.0));
        let ports = none().bytes(1, &[protocol]);
        let ports = ports.bytes(2, &from.1.to_be_bytes()).bytes(3, &to.1.to_be_bytes());
        none().nest(ADDRESSES, &addresses).nest(PORTS, &ports)
    }

    fn told(protocol: u8, status: u32) -> Vec<String> {
        let original = tuple(protocol, ("192.0.2.2", 4000), ("192.0.2.1", 22));
        let reply = tuple(protocol, ("198.51.100.7", 2222), ("192.0.2.2", 4000));
        let body = Attributes::default().nest(ORIGINAL, &original).nest(REPLY, &reply);
        let body = body.u32(STATUS, status);
        let told = connections(&body.0).into_iter();
        told.map(|it| format!("{} to {} {}", it.peer, it.address, it.port)).collect()
    }

    #[test]
    fn a_connection_is_told_as_its_packets_come_before_and_after_translation() {
        let expected = [
            "192.0.2.2:4000 to 192.0.2.1 22/tcp",
            "192.0.2.2:4000 to 198.51.100.7 2222/tcp",
            "198.51.100.7:2222 to 192.0.2.2 4000/tcp",
        ];
        assert_eq!(told(6, SEEN_REPLY), expected);
    }

    #[test]
    fn what_has_not_been_answered_or_has_no_ports_is_none() {
        assert_eq!(told(6, 0), [""; 0]);
        assert_eq!(told(1, SEEN_REPLY), [""; 0]);
    }

    fn phase(kind: u16, protocol: u8, status: u32, state: Option<u8>) -> Option<ConnectionPhase> {
        let (client, here) = (("192.0.2.2", 4000), ("192.0.2.1", 22));
        let state = state.map(|state| {
            let tcp = Attributes::default().bytes(1, &[state]);
            Attributes::default().nest(1, &tcp)
        });
        let body = Attributes::default()
            .nest(ORIGINAL, &tuple(protocol, client, here))
            .nest(REPLY, &tuple(protocol, here, client))
            .u32(STATUS, status)
            .u32(ID, 7)
            .optional(state, |it, state| it.nest(TCP_STATE[0], &state));
        tracked(&Oblivion(TIMES.map(|(_, time)| time)), kind, &body.0).map(|it| it.phase)
    }

    #[test]
    fn only_what_both_have_agreed_on_is_alive() {
        use ConnectionPhase::{Alive, Begun, Ended, Gone};
        let new = GET - 1;
        for (state, expected) in [
            (1, Begun),
            (2, Begun),
            (3, Alive),
            (4, Alive),
            (5, Alive),
            (6, Ended),
            (7, Ended),
            (8, Ended),
            (9, Begun),
        ] {
            assert_eq!(phase(new, 6, SEEN_REPLY, Some(state)), Some(expected), "{state}");
        }
        assert_eq!(phase(new, 6, 0, Some(3)), Some(Begun), "taken up in the middle, unanswered");
        assert_eq!(phase(new, 17, 0, None), Some(Begun));
        assert_eq!(phase(new, 17, SEEN_REPLY, None), Some(Alive));
        assert_eq!(phase(new, 6, SEEN_REPLY, None), None, "something else has changed");
        assert_eq!(phase(DELETE, 6, SEEN_REPLY, None), Some(Gone));
        assert_eq!(phase(DELETE, 17, 0, None), Some(Gone));
    }

    #[test]
    fn a_connection_has_been_silent_since_the_time_that_it_is_forgotten_after_began() {
        let times = Oblivion(TIMES.map(|(_, time)| time));
        let silence = |state, is_assured, left| times.silence(state, is_assured, left).as_secs();
        for (state, is_assured, left, silent) in [
            (Some(3), true, 432_000, 0),
            (Some(3), true, 431_940, 60),
            (Some(3), true, 290, 10),
            (Some(3), true, 500_000, 0),
            (Some(4), true, 100, 20),
            (Some(5), true, 50, 10),
            (None, false, 20, 10),
            (None, true, 20, 100),
        ] {
            assert_eq!(silence(state, is_assured, left), silent, "{state:?} {left}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(0u8..12, 0..120)) {
            let _ = (connections(&bytes), tracked(&Oblivion::of_host(), GET, &bytes));
        }
    }
}
