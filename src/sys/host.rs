//! The addresses and interfaces of this host, and when they change.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::{InterfaceFlags, if_indextoname, if_nametoindex};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

/// Multicast groups of rtnetlink(7): changes of interfaces, of addresses, and of routes with the rules
/// that choose among tables of them.
pub(crate) const LINKS: u32 = 0x1;
pub(crate) const ADDRESSES: u32 = 0x10 | 0x100;
pub(crate) const ROUTES: u32 = 0x40 | 0x400 | 0x80 | 0x4_0000;

/// The addresses of this host at the moment. Needs no privilege.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    Ok(addresses.collect())
}

/// The number of the interface that has a name, or another name, at the moment; `None` of `any`.
pub(crate) fn index(name: &str) -> Option<u32> {
    if_nametoindex(name).ok()
}

/// The name of the interface with a number, at the moment.
pub(crate) fn name_of(index: u32) -> Option<String> {
    // nix takes no name for an empty one.
    if_indextoname(index).ok()?.into_string().ok().filter(|name| !name.is_empty())
}

/// Whether there is an interface with a name, or another name, and it has a flag.
pub(crate) fn has(name: &str, flag: InterfaceFlags) -> bool {
    let name = index(name).and_then(name_of);
    let is_it = |it: &InterfaceAddress| name.as_ref() == Some(&it.interface_name);
    getifaddrs().is_ok_and(|mut all| all.any(|it| is_it(&it) && it.flags.contains(flag)))
}

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
