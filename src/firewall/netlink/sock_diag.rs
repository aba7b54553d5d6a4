//! TCP sockets of this host, listed and ended (linux/inet_diag.h).

use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::SockProtocol;

use super::attribute::{Attributes, array};
use super::{Netlink, NetlinkError, Result, message};
use crate::config::NftFamily;
use crate::proto::Protocol;
use crate::sys::fault;

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY`.
const LIST: u16 = 20;
const DESTROY: u16 = 21;
/// Not TIME_WAIT, CLOSE and LISTEN.
const STATES: u32 = !(1 << 6 | 1 << 7 | 1 << 10);

/// A connection to the part of the kernel that knows sockets.
pub(in crate::firewall) struct SockDiag(Netlink);

/// A socket: its family, and what tells it from all others, those that listen there above all.
type SocketId = (NftFamily, [u8; 48]);

impl SockDiag {
    pub(in crate::firewall) fn open() -> Result<Self> {
        Ok(Self(Netlink::to(SockProtocol::NetlinkSockDiag)?))
    }

    /// The sockets of this network namespace that are connected from one address to another that are
    /// wanted: the other end's comes first.
    pub(in crate::firewall) fn sockets(
        &mut self,
        is_wanted: impl Fn(SocketAddr, SocketAddr) -> bool,
    ) -> Result<Vec<(SocketAddr, SocketAddr, SocketId)>> {
        let mut found = Vec::new();
        for family in super::BOTH {
            let take = |body: &[u8]| read(family, body).filter(|it| is_wanted(it.0, it.1));
            found.extend(self.ask(LIST, message::DUMP, (family, [0; 48]), take)?);
        }
        Ok(found)
    }

    /// Ends a connection at once, for both of its ends. Takes a kernel with
    /// `CONFIG_INET_DIAG_DESTROY`.
    pub(in crate::firewall) fn destroy(&mut self, it: SocketId) -> Result<()> {
        if fault::lacks("SOCK_DESTROY") {
            return Err(NetlinkError::Malformed);
        }
        self.ask(DESTROY, message::ACK, it, |_| None::<()>).map(drop)
    }

    fn ask<T>(
        &mut self,
        kind: u16,
        flags: u16,
        (family, id): SocketId,
        take: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let head = [message::number(family), Protocol::Tcp.number(), 0, 0];
        let body = Attributes([&STATES.to_ne_bytes()[..], &id].concat());
        Ok(self.0.ask(kind, flags, head, &body, take)?.unwrap_or_default())
    }
}

/// Reads what follows the first four bytes of a `struct inet_diag_msg`.
fn read(family: NftFamily, body: &[u8]) -> Option<(SocketAddr, SocketAddr, SocketId)> {
    let end = |address, port| {
        let ip: IpAddr = match family {
            NftFamily::Ip => array::<4>(body, address)?.into(),
            _ => array::<16>(body, address)?.into(),
        };
        Some(SocketAddr::new(ip.to_canonical(), u16::from_be_bytes(array(body, port)?)))
    };
    Some((end(20, 2)?, end(4, 0)?, (family, array(body, 0)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_ipv4_connection_to_a_socket_of_ipv6_is_ipv4() {
        let mut body = [0; 60];
        body[..4].copy_from_slice(&[0, 22, 0x0f, 0xa0]);
        body[14..20].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        body[30..36].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 2]);
        let (remote, local, (_, id)) = read(NftFamily::Ip6, &body).unwrap();
        assert_eq!(format!("{local} {remote}"), "192.0.2.1:22 192.0.2.2:4000");
        assert_eq!(id, body[..48]);
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let found = [NftFamily::Ip, NftFamily::Ip6].map(|family| read(family, &body));
            prop_assert_eq!(found.iter().flatten().count(), if body.len() < 48 { 0 } else { 2 });
        }
    }
}
