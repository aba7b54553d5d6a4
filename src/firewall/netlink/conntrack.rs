//! Connections that the kernel tracks, as its messages tell them: pure.
//!
//! (linux/netfilter/nfnetlink_conntrack.h)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use super::attribute::{array, find, find_u32};
use crate::firewall::connections::InboundConnection;
use crate::proto::knock::{Knock, Protocol};

/// The question for all of them.
pub(super) const GET: u16 = 1 << 8 | 1;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const SEEN_REPLY: u32 = 2;
const ADDRESSES: u16 = 1;
const PORTS: u16 = 2;

/// One direction of a connection: its protocol, whence, and where to.
type Direction = (Protocol, SocketAddr, SocketAddr);

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
        let port = Knock::new(protocol, NonZeroU16::new(to.port())?);
        Some(InboundConnection { peer: from, address: to.ip(), port })
    };
    let ways = [(from, to), (from, answered_from), (answered_from, answered_to)];
    ways.into_iter().filter_map(|(from, to)| comes(from, to)).collect()
}

fn direction(body: &[u8], which: u16) -> Option<Direction> {
    let tuple = find(body, &[which])?;
    let [protocol] = array(find(tuple, &[PORTS, 1])?, 0)?;
    let protocol = Protocol::ALL.into_iter().find(|known| known.number() == protocol)?;
    let end = |v4, v6, port| {
        let address = |kind| find(tuple, &[ADDRESSES, kind]);
        let ip: IpAddr = match address(v4) {
            Some(bytes) => Ipv4Addr::from(array::<4>(bytes, 0)?).into(),
            None => Ipv6Addr::from(array::<16>(address(v6)?, 0)?).into(),
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(array(find(tuple, &[PORTS, port])?, 0)?)))
    };
    Some((protocol, end(1, 3, 2)?, end(2, 4, 3)?))
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
        let told = connections(body.as_bytes()).into_iter();
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

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(0u8..12, 0..120)) {
            let _ = connections(&bytes);
        }
    }
}
