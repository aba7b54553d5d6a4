//! What others do to the firewall, as the kernel tells it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

use super::message::{self, Content, replies};
use super::set::number;
use super::{Family, NetlinkError, connect, receive};

/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << 6;
/// Own batches are heard as well: room for those of thousands of elements.
const BUFFER: usize = 4 << 20;
/// How much is looked at in one go.
const DATAGRAMS: usize = 10_000;

/// Readable when any table has been changed by anybody.
#[derive(Debug)]
pub struct Monitor {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// What happened to the tables one cares for since the last look.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing, or nothing that was not one's own doing.
    Nothing,
    /// Somebody else did something, or too much happened to be told.
    Something,
}

impl Monitor {
    /// # Errors
    /// As [`Netlink::open`](super::Netlink::open).
    pub fn new() -> Result<Self, NetlinkError> {
        let (socket, _) = connect(GROUP)?;
        // Refused without the privilege; a burst is then sooner too much to be told.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
        Ok(Self { socket, buffer: vec![0; super::BUFFER] })
    }

    /// Whether anybody but the owners of these ports has touched one of the tables that
    /// `is_ours` knows.
    pub fn look(&mut self, own: &[u32], is_ours: impl Fn(Family, &str) -> bool) -> Seen {
        let mut seen = Seen::Nothing;
        for _ in 0..DATAGRAMS {
            let received = match receive(&self.socket, &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return seen,
                Err(Errno::ENOBUFS) => {
                    seen = Seen::Something;
                    continue;
                }
                Err(_) => return Seen::Something,
            };
            let foreign = replies(received).any(|reply| {
                let Content::Object { kind, family, attributes } = reply.content else {
                    return false;
                };
                let family = Family::ALL.into_iter().find(|known| number(*known) == family);
                let table = message::table_of(attributes);
                kind != message::NEW_GENERATION
                    && !own.contains(&reply.port)
                    && family.zip(table).is_some_and(|(family, table)| is_ours(family, table))
            });
            if foreign {
                seen = Seen::Something;
            }
        }
        seen
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
