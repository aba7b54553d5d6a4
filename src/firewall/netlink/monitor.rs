//! The changes that others make to the firewall, as the kernel tells them.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockProtocol, setsockopt, sockopt};

use super::attribute::find_text;
use super::message::{NetlinkReply, SET, TABLE, number, replies};
use super::{Result, connect, receive};
use crate::config::NftFamily;

/// `NFNLGRP_NFTABLES`, as a bit.
const GROUP: u32 = 1 << 6;
/// Own changes are heard as well: room for some ten thousand, of about a kilobyte each, between two
/// looks.
const BUFFER: usize = 64 << 20;
/// How much is looked at in one go.
const DATAGRAMS: usize = 10_000;

/// A socket that is readable when any table has been changed by anybody.
#[derive(Debug, derive_more::Deref)]
pub struct Monitor(#[deref(forward)] Listener);

/// A socket that hears what happens from now on, as the kernel tells everybody.
#[derive(Debug, derive_more::Deref)]
pub struct Listener {
    #[deref]
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// A change that somebody else made to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NftEvent<'a> {
    /// `NFT_MSG_…` of linux/netfilter/nf_tables.h, with the number of nf_tables before it.
    pub kind: u16,
    pub family: NftFamily,
    pub table: &'a str,
    /// Of a set and of elements.
    pub set: Option<&'a str>,
}

impl Monitor {
    /// A monitor that hears what happens from now on.
    ///
    /// # Errors
    /// As [`Netlink::open`](super::Netlink::open).
    pub fn new() -> Result<Self> {
        Listener::open(GROUP, BUFFER).map(Self)
    }

    /// Tells what anybody but the owner of this port has done since the last look; whether that
    /// is all that happened: otherwise it was too much to be told.
    #[must_use]
    pub fn look(&mut self, own: u32, mut saw: impl FnMut(NftEvent<'_>)) -> bool {
        self.0.look(|reply| {
            if reply.port == own {
                return;
            }
            let is_its = |known: &NftFamily| Some(number(*known)) == reply.family();
            let family = NftFamily::ALL.into_iter().find(is_its);
            let (kind, body) = (reply.kind, reply.attributes());
            if let (Some(family), Some(table)) = (family, find_text(body, TABLE)) {
                saw(NftEvent { kind, family, table, set: find_text(body, SET) });
            }
        })
    }
}

impl Listener {
    /// One of these multicast groups, with so much room between two looks.
    pub(super) fn open(groups: u32, room: usize) -> Result<Self> {
        let (socket, _) = connect(SockProtocol::NetlinkNetFilter, groups)?;
        // Refused without the privilege; a burst is then sooner too much to be told.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &room);
        Ok(Self { socket, buffer: vec![0; super::BUFFER] })
    }

    /// Tells what it has heard since the last look; whether that is all there was: otherwise it was
    /// too much to be told.
    pub(super) fn look(&mut self, mut heard: impl FnMut(NetlinkReply<'_>)) -> bool {
        let mut is_all = true;
        for _ in 0..DATAGRAMS {
            match receive(&self.socket, &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(received) => replies(received).for_each(&mut heard),
                Err(Errno::EAGAIN) => break,
                Err(Errno::ENOBUFS) => is_all = false,
                Err(_) => return false,
            }
        }
        is_all
    }
}
