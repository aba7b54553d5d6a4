//! What others do to the firewall, as the kernel tells it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

use super::message::{self, Content, replies};
use super::set::number;
use super::{Family, NetlinkError, connect, receive};

/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << 6;
/// Own changes are heard as well: room for some ten thousand, of about a kilobyte each, between two
/// looks.
const BUFFER: usize = 64 << 20;
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
    /// Somebody else did something.
    Something,
    /// Too much happened to be told.
    Overflow,
}

/// What somebody else did to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    pub family: Family,
    pub table: &'a str,
    pub what: What<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    TableDeleted,
    /// To this set.
    ElementAdded(&'a str),
    Other,
}

impl<'a> Event<'a> {
    fn read(kind: u16, family: u8, attributes: &'a [u8]) -> Option<Self> {
        let family = Family::ALL.into_iter().find(|known| number(*known) == family)?;
        let what = match kind {
            message::NEW_GENERATION => return None,
            message::DELETE_TABLE => What::TableDeleted,
            message::NEW_ELEMENT => What::ElementAdded(message::set_of(attributes)?),
            _ => What::Other,
        };
        Some(Self { family, table: message::table_of(attributes)?, what })
    }
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

    /// Whether anybody but the owner of this port has done something that `concerns`.
    pub fn look(&mut self, own: u32, mut concerns: impl FnMut(Event<'_>) -> bool) -> Seen {
        let mut seen = Seen::Nothing;
        for _ in 0..DATAGRAMS {
            let received = match receive(&self.socket, &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(received) => received,
                Err(Errno::EAGAIN) => return seen,
                Err(Errno::ENOBUFS) => {
                    seen = Seen::Overflow;
                    continue;
                }
                Err(_) => return Seen::Overflow,
            };
            for reply in replies(received).filter(|reply| reply.port != own) {
                let Content::Object { kind, family, attributes } = reply.content else { continue };
                if Event::read(kind, family, attributes).is_some_and(&mut concerns)
                    && seen == Seen::Nothing
                {
                    seen = Seen::Something;
                }
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
