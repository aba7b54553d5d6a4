//! The addresses of this host.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// What is this host's at the moment.
#[derive(Debug, Default)]
pub struct Home {
    pub addresses: BTreeSet<IpAddr>,
    /// The names of its loopback interfaces.
    pub loopbacks: BTreeSet<String>,
}

/// Asks the kernel. Needs no privilege.
///
/// # Errors
/// When the kernel does not tell.
pub fn read() -> io::Result<Home> {
    let mut home = Home::default();
    for interface in getifaddrs()? {
        if interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            home.loopbacks.insert(interface.interface_name);
        }
        let Some(address) = interface.address else { continue };
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let v6 = || address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
        home.addresses.extend(v4.or_else(v6));
    }
    Ok(home)
}
