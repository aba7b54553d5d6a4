//! A network: an address and how many of its bits count.

use std::net::IpAddr;
use std::str::FromStr;

use derive_more::Display;
use serde::{Deserialize, Serialize};

use super::words::serde_as_text;

/// A network such as `192.0.2.0/24`; its host bits are zero. One of a single address is shown as that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display)]
#[display("{address}{}", self.suffix())]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a network: write for example 192.0.2.0/24, 2001:db8::/32 or one address")]
pub struct NetworkError(String);

/// Takes an address for the network that holds nothing else. An IPv4 address that is written as an
/// IPv6 one is refused: no packet has it.
impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError(text.to_owned());
        let (address, prefix) = text.split_once('/').unzip();
        let address: IpAddr = address.unwrap_or(text).parse().map_err(|_| wrong())?;
        if address != address.to_canonical() {
            return Err(wrong());
        }
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(bits), |digits| {
            let prefix = digits.parse().ok().filter(|prefix| *prefix <= bits);
            prefix.filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
        });
        Ok(Self::around(address, prefix.ok_or_else(wrong)?))
    }
}

serde_as_text! { Network: Self::to_string, str::parse; }

/// The network that holds nothing but this address; one of IPv4 in IPv6 clothes is IPv4.
impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self::around(address.to_canonical(), u8::MAX)
    }
}

impl Network {
    /// The network of this length that an address is in. No prefix is longer than the address.
    pub fn around(address: IpAddr, prefix: u8) -> Self {
        let prefix = prefix.min(if address.is_ipv4() { 32 } else { 128 });
        let address = match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        };
        Self { address, prefix }
    }

    /// Whether an address is in it; an IPv4 address that is written as an IPv6 one counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && Self::around(address, self.prefix) == *self
    }

    /// The address that it is, where it is one.
    pub fn single(&self) -> Option<IpAddr> {
        (*self == Self::from(self.address)).then_some(self.address)
    }

    fn suffix(&self) -> String {
        self.single().map_or_else(|| format!("/{}", self.prefix), |_| String::new())
    }

    /// Its first address: the host bits are zero.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits of the address are the network's.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }
}

/// The widest networks that may be asked for: how many bits of an address count at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Widths {
    pub ipv4: u8,
    pub ipv6: u8,
}

impl Widths {
    /// Single addresses alone.
    pub const SINGLE: Self = Self { ipv4: 32, ipv6: 128 };

    /// Whether a network is not wider than this.
    pub const fn allows(self, network: &Network) -> bool {
        network.prefix >= if network.address.is_ipv4() { self.ipv4 } else { self.ipv6 }
    }
}

/// Whether one host can have this address: no packet comes from another, and none can be sent
/// there. Loopback is one; whether it is this host's is for the caller to know.
pub const fn is_a_hosts(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] != 0 && !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => {
            !v6.is_unspecified() && !v6.is_multicast() && v6.to_ipv4_mapped().is_none()
        }
    }
}

/// Whether somebody who sends from `source` may ask that a door be opened for an address.
pub const fn may_ask_for(source: IpAddr, address: IpAddr) -> bool {
    is_a_hosts(address) && (source.is_loopback() || !address.is_loopback())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn some_addresses_are_no_hosts() {
        for (address, is) in [
            ("192.0.2.1", true),
            ("127.0.0.1", true),
            ("169.254.1.1", true),
            ("240.0.0.1", true),
            ("2001:db8::1", true),
            ("fe80::1", true),
            ("::1", true),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("224.0.0.1", false),
            ("239.255.255.255", false),
            ("255.255.255.255", false),
            ("::", false),
            ("ff02::1", false),
            ("::ffff:192.0.2.1", false),
        ] {
            assert_eq!(is_a_hosts(address.parse().unwrap()), is, "{address}");
        }
    }

    #[test]
    fn loopback_is_for_whoever_sends_over_it() {
        let may = |source: &str, address: &str| {
            may_ask_for(source.parse().unwrap(), address.parse().unwrap())
        };
        assert!(may("127.0.0.1", "127.0.0.2") && may("::1", "127.0.0.1"));
        assert!(may("127.0.0.1", "192.0.2.1") && may("192.0.2.1", "192.0.2.2"));
        assert!(!may("192.0.2.1", "127.0.0.1") && !may("192.0.2.1", "::1"));
        assert!(!may("127.0.0.1", "0.0.0.0"));
    }

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_an_address_and_a_prefix_in_range() {
        let shown = |text: &str| text.parse::<Network>().map(|network| network.to_string());
        assert_eq!(shown("192.0.2.9/24").unwrap(), "192.0.2.0/24");
        assert_eq!(shown("192.0.2.9").unwrap(), "192.0.2.9");
        assert_eq!(shown("192.0.2.9/32").unwrap(), "192.0.2.9");
        assert_eq!(
            Network::from("::ffff:192.0.2.9".parse::<IpAddr>().unwrap()),
            network("192.0.2.9")
        );
        assert_eq!(shown("0.0.0.0/0").unwrap(), "0.0.0.0/0");
        assert_eq!(shown("2001:db8::1/32").unwrap(), "2001:db8::/32");
        assert_eq!(shown("::/0").unwrap(), "::/0");
        for text in [
            "",
            "192.0.2.0/33",
            "192.0.2.0/",
            "192.0.2.0/+8",
            "2001:db8::/129",
            "a/8",
            "::ffff:0:0/96",
        ] {
            assert!(shown(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(network("192.0.2.0/24").contains(at("192.0.2.255")));
        assert!(network("192.0.2.0/24").contains(at("::ffff:192.0.2.1")));
        assert!(!network("192.0.2.0/24").contains(at("192.0.3.0")));
        assert!(!network("192.0.2.1").contains(at("192.0.2.2")));
        assert!(network("2001:db8::/32").contains(at("2001:db8:ffff::1")));
        assert!(!network("2001:db8::/32").contains(at("2001:db9::")));
        assert!(network("0.0.0.0/0").contains(at("203.0.113.9")));
        assert!(!network("0.0.0.0/0").contains(at("2001:db8::1")));
        assert!(network("::/0").contains(at("2001:db8::1")));
    }

    proptest! {
        #[test]
        fn a_network_contains_its_own_address_and_is_read_as_it_is_shown(
            address: IpAddr, prefix in 0u8..=128,
        ) {
            let address = address.to_canonical();
            let prefix = if address.is_ipv4() { prefix.min(32) } else { prefix };
            let network: Network = format!("{address}/{prefix}").parse().unwrap();
            prop_assert!(network.contains(network.address()));
            prop_assert_eq!(network.to_string().parse::<Network>(), Ok(network));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = text.parse::<Network>();
        }
    }
}
