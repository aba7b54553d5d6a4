//! The address that a request asks to open for, and the one that this machine has.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::num::NonZeroU16;

use derive_more::Display;
use socket2::Type;

use super::route::Route;
use super::spa::RequestError;
use super::values::Address;
use crate::proto::spa::NamedAddresses;

const OBSERVED: &str = "the address that the server sees";

/// The address that a request asks for, and why.
#[derive(Clone, Copy, Debug, Display, PartialEq, Eq)]
pub(super) enum RequestedAddress {
    #[display("{}", _0.iter().map(|ip| ip.to_string()).collect::<Vec<_>>().join(" and "))]
    Given(NamedAddresses),
    #[display("{OBSERVED}")]
    Observed,
    /// Nobody out there knows this machine by its own address.
    #[display("{OBSERVED}: {_0} is not a global one")]
    Hidden(IpAddr),
}

impl RequestedAddress {
    /// Decides for whom to ask `host`; `own` is the address that this machine uses towards it.
    ///
    /// # Errors
    /// [`RequestError::Loopback`] if the address would mean another machine there.
    pub(super) fn of(
        address: Address,
        host: IpAddr,
        own: impl FnOnce() -> io::Result<IpAddr>,
    ) -> Result<Self, RequestError> {
        Ok(match address {
            Address::Observed => Self::Observed,
            Address::Given(given) => match given.iter().find(IpAddr::is_loopback) {
                Some(loopback) if !host.is_loopback() => {
                    return Err(RequestError::Loopback(loopback, host));
                }
                _ => Self::Given(given),
            },
            Address::Auto => match own() {
                // Sending will say that there is no way to the host.
                Err(_) => Self::Observed,
                Ok(ip) if !is_global(ip) => Self::Hidden(ip),
                Ok(ip) => NamedAddresses::try_from(ip).map_or(Self::Hidden(ip), Self::Given),
            },
        })
    }

    /// What is asked for by name; `None`: the observed address.
    pub(super) const fn named(self) -> Option<NamedAddresses> {
        match self {
            Self::Given(given) => Some(given),
            Self::Observed | Self::Hidden(_) => None,
        }
    }
}

/// The address that the kernel would send from. Nothing is sent.
pub(super) fn own_address(route: &Route, port: NonZeroU16) -> io::Result<IpAddr> {
    let socket = UdpSocket::from(route.socket(Type::DGRAM, None)?);
    socket.connect(route.to(port))?;
    Ok(socket.local_addr()?.ip())
}

/// Whether an address is the same for everyone: no router has to put another in its place.
fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && b & 0xc0 == 64;
            let of_the_protocol = (a, b, c) == (192, 0, 0);
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || shared
                || of_the_protocol
                || a == 0
                || a >= 240)
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_global(v4.into()),
            None => {
                !(v6.is_unspecified()
                    || v6.is_loopback()
                    || v6.is_multicast()
                    || v6.is_unicast_link_local()
                    || v6.is_unique_local())
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

    fn asked(address: Address, own: &str) -> String {
        RequestedAddress::of(address, HOST, || Ok(own.parse().unwrap())).unwrap().to_string()
    }

    fn given(words: &[&str]) -> Address {
        Address::of(words).unwrap().unwrap()
    }

    #[test]
    fn a_global_address_is_asked_for_by_name() {
        for own in ["192.0.2.2", "100.128.0.1", "172.32.0.1", "2001:db8::2"] {
            assert_eq!(asked(Address::Auto, own), own);
        }
    }

    #[test]
    fn behind_a_translator_the_server_knows_better() {
        for own in [
            "10.0.0.5",
            "172.16.0.1",
            "192.168.1.2",
            "100.64.0.1",
            "192.0.0.2",
            "169.254.3.4",
            "127.0.0.1",
            "fd00::1",
            "fe80::1",
            "::1",
            "::ffff:10.0.0.5",
        ] {
            assert_eq!(
                asked(Address::Auto, own),
                format!("the address that the server sees: {own} is not a global one")
            );
        }
    }

    #[test]
    fn addresses_that_are_given_are_asked_for_whatever_the_own_one_is() {
        assert_eq!(
            asked(given(&["2001:db8::7", "10.0.0.1"]), "192.0.2.2"),
            "10.0.0.1 and 2001:db8::7"
        );
        assert_eq!(asked(Address::Observed, "192.0.2.2"), "the address that the server sees");
    }

    #[test]
    fn a_loopback_address_means_nothing_to_another_machine() {
        let loopback = given(&["127.0.0.1"]);
        let own = || -> io::Result<IpAddr> { unreachable!("nobody asks") };
        assert!(RequestedAddress::of(loopback, HOST, own).is_err());
        assert!(RequestedAddress::of(loopback, Ipv4Addr::LOCALHOST.into(), own).is_ok());
    }
}
