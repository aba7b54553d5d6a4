//! A table of tracked connections that has no room left.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket,
};
use nix::sys::time::TimeVal;

use super::Host;

const NEW: u16 = 1 << 8;
const DELETE: u16 = 1 << 8 | 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
/// Answered, lasting, known: none of these is given up for a new one.
const STATUS: u32 = 0b1110;
/// The first of the peers, and this end.
const PEER: u32 = 0x6440_0000;
const HERE: u32 = 0xc633_6401;
/// Where in a message the peer's address and port are, in either direction.
const PLACES: [[usize; 2]; 2] = [[32, 60], [92, 120]];
/// How many are added between two looks at what the kernel says.
const AT_ONCE: usize = 200;

/// Takes up all room for connections that a host's kernel may track.
pub(crate) fn fill(host: &Host) {
    host.enter(|| {
        let socket = netfilter();
        // Of the last of a batch, or of the first that has no room, the kernel says what became.
        let mut batch: Vec<Vec<u8>> = (0..AT_ONCE).map(|_| connection(REQUEST | CREATE)).collect();
        *batch.last_mut().unwrap() = connection(REQUEST | CREATE | ACKNOWLEDGE);
        let mut peers = (PEER..).flat_map(|peer| (1..u16::MAX).map(move |port| (peer, port)));
        loop {
            for (message, (peer, port)) in batch.iter_mut().zip(&mut peers) {
                for [at_peer, at_port] in PLACES {
                    message[at_peer..at_peer + 4].copy_from_slice(&peer.to_be_bytes());
                    message[at_port..at_port + 2].copy_from_slice(&port.to_be_bytes());
                }
            }
            send(socket.as_raw_fd(), &batch.concat(), MsgFlags::empty()).unwrap();
            if answer(&socket) != 0 {
                return;
            }
        }
    });
}

/// Forgets all connections of a host's kernel.
pub(crate) fn flush(host: &Host) {
    host.enter(|| {
        let socket = netfilter();
        let message = message(DELETE, REQUEST | ACKNOWLEDGE, &[]);
        send(socket.as_raw_fd(), &message, MsgFlags::empty()).unwrap();
        assert_eq!(answer(&socket), 0);
    });
}

fn netfilter() -> OwnedFd {
    let kind = (SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter);
    let socket = socket(AddressFamily::Netlink, kind.0, kind.1, kind.2).unwrap();
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).unwrap();
    let limit = TimeVal::new(10, 0);
    setsockopt(&socket, ReceiveTimeout, &limit).unwrap();
    setsockopt(&socket, SendTimeout, &limit).unwrap();
    socket
}

/// The error of the next answer, as a number; 0: it is done.
fn answer(socket: &OwnedFd) -> i32 {
    let mut buffer = [0; 8192];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
    assert!(length >= 20, "{}", io::Error::other("a short answer"));
    i32::from_ne_bytes(buffer[16..20].try_into().unwrap())
}

/// A request to track an established connection of others.
fn connection(flags: u16) -> Vec<u8> {
    let ends = |from: u32, to: u32, from_port: u16, to_port: u16| {
        let addresses =
            [attribute(1, &from.to_be_bytes()), attribute(2, &to.to_be_bytes())].concat();
        let ports = [
            attribute(1, &[6]),
            attribute(2, &from_port.to_be_bytes()),
            attribute(3, &to_port.to_be_bytes()),
        ];
        [attribute(1, &addresses), attribute(2, &ports.concat())].concat()
    };
    let established = attribute(1, &attribute(1, &[3]));
    let body = [
        attribute(1, &ends(PEER, HERE, 0, 443)),
        attribute(2, &ends(HERE, PEER, 443, 0)),
        attribute(3, &STATUS.to_be_bytes()),
        attribute(4, &established),
        attribute(7, &3600u32.to_be_bytes()),
    ];
    message(NEW, flags, &body.concat())
}

/// A message of conntrack's, about IPv4.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + body.len()).unwrap();
    let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]];
    [&head.concat()[..], &[2, 0, 0, 0], body].concat()
}

/// An attribute, nested where its content is attributes: the kernel does not mind the mark.
fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + content.len()).unwrap();
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
