//! The addresses and interfaces of this host.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::{InterfaceFlags, if_indextoname, if_nametoindex};
use nix::sys::socket::setsockopt;
use nix::{libc, setsockopt_impl, sockopt_impl};

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

/// Keeps the filter of a socket as it is, for good: nobody can detach or replace it any more.
///
/// # Errors
/// When it is no socket.
pub(crate) fn lock_filter(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, LockFilter, &true)?)
}

sockopt_impl!(LockFilter, SetOnly, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, bool);
