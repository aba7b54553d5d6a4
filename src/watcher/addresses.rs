//! The addresses of this host, followed as they come and go.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// The multicast groups of rtnetlink(7) that tell of addresses.
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;

/// Readable when an address has come or gone. Needs no privilege.
pub(super) struct Addresses {
    changes: OwnedFd,
}

impl Addresses {
    /// # Errors
    /// When the kernel has no netlink socket to give.
    pub(super) fn follow() -> io::Result<Self> {
        let changes = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        let groups = NetlinkAddr::new(0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR);
        bind(changes.as_raw_fd(), &groups)?;
        Ok(Self { changes })
    }

    /// Whether something has changed since the last call.
    pub(super) fn have_changed(&self) -> bool {
        let mut changed = false;
        let mut buffer = [0; 8192];
        loop {
            match recv(self.changes.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(_) => changed = true,
                Err(Errno::EINTR) => {}
                // The kernel could not queue them all: something has changed all the same.
                Err(Errno::ENOBUFS) => changed = true,
                Err(_) => return changed,
            }
        }
    }
}

impl AsFd for Addresses {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}
