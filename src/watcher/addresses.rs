//! The addresses of this host, followed as they come and go.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
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

    /// The addresses of the moment.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(super) fn read(&self) -> io::Result<BTreeSet<IpAddr>> {
        let addresses =
            getifaddrs()?.filter_map(|interface| interface.address).filter_map(|address| {
                let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
            });
        Ok(addresses.collect())
    }
}

impl AsFd for Addresses {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}
