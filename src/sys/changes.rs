//! Changes of this host's network, as netlink(7) tells them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// Multicast groups of rtnetlink(7): changes of interfaces, of addresses, and of routes with the rules
/// that choose among tables of them.
pub(crate) const LINKS: u32 = 0x1;
pub(crate) const ADDRESSES: u32 = 0x10 | 0x100;
pub(crate) const ROUTES: u32 = 0x40 | 0x400 | 0x80 | 0x4_0000;

/// A socket that is readable when something has changed. Needs no privilege.
#[derive(derive_more::Deref)]
pub(crate) struct Changes(OwnedFd);

impl Changes {
    /// Follows some of the groups above.
    ///
    /// # Errors
    /// When the kernel has no netlink socket to give.
    pub(crate) fn follow(groups: u32) -> io::Result<Self> {
        Ok(Self(netlink_socket(SockProtocol::NetlinkRoute, SockFlag::SOCK_NONBLOCK, groups)?))
    }

    /// Whether something has changed since the last call.
    pub(crate) fn have_come(&self) -> bool {
        let mut changed = false;
        let mut buffer = [0; 8192];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // Where the kernel could not queue them all, something has changed all the same.
                Ok(_) | Err(Errno::ENOBUFS) => changed = true,
                Err(Errno::EINTR) => {}
                Err(_) => return changed,
            }
        }
    }
}

/// A socket of netlink(7) that hears some of the groups of its protocol; it closes on exec.
///
/// # Errors
/// When the kernel has none to give.
pub(crate) fn netlink_socket(
    protocol: SockProtocol,
    flags: SockFlag,
    groups: u32,
) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | flags;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}
