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
/// How many are added between two looks at what the kernel says.
const AT_ONCE: u32 = 200;

/// Takes up all room for connections that a host's kernel may track; how many it took.
pub(crate) fn fill(host: &Host) -> u32 {
    host.enter(|| {
        let socket = netfilter();
        let mut added = 0;
        loop {
            let batch: Vec<u8> = (added..added + AT_ONCE)
                .flat_map(|number| connection(number, number + 1 == added + AT_ONCE))
                .collect();
            send(socket.as_raw_fd(), &batch, MsgFlags::empty()).unwrap();
            added += AT_ONCE;
            // The last of them, or the first that had no room, is answered.
            if answer(&socket) != 0 {
                return added;
            }
        }
    })
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

/// An established connection of others, with this number.
fn connection(number: u32, is_last: bool) -> Vec<u8> {
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
    let (peer, port) = (0x6440_0000 + number / 50_000, (10_000 + number % 50_000) as u16);
    let here = 0xc633_6401;
    let state = attribute(1, &attribute(1, &[3]));
    let body = [
        attribute(1, &ends(peer, here, port, 443)),
        attribute(2, &ends(here, peer, 443, port)),
        attribute(3, &STATUS.to_be_bytes()),
        attribute(4, &state),
        attribute(7, &3600u32.to_be_bytes()),
    ];
    let wants = if is_last { ACKNOWLEDGE } else { 0 };
    message(NEW, REQUEST | CREATE | wants, &body.concat())
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
