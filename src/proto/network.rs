//! A network: an address and how many of its bits count.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use derive_more::Display;
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};

/// A network such as `192.0.2.0/24`; its host bits are zero. One of a single address is shown as that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display)]
#[display("{address}{}", self.suffix())]
#[derive(SerializeDisplay, DeserializeFromStr)]
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

    /// Whether some address is in both.
    pub fn meets(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
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

    /// What is allowed where one says this and another that: both have to allow it; where neither
    /// says anything, single addresses.
    pub fn both(one: Option<Self>, other: Option<Self>) -> Self {
        let or_single = |widths: Option<Self>| widths.unwrap_or(Self::SINGLE);
        let (one, other) = (or_single(one.or(other)), or_single(other.or(one)));
        Self { ipv4: one.ipv4.max(other.ipv4), ipv6: one.ipv6.max(other.ipv6) }
    }

    /// The network of this width that an address is in.
    pub fn around(self, address: IpAddr) -> Network {
        Network::around(address, if address.is_ipv4() { self.ipv4 } else { self.ipv6 })
    }

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

/// The last addresses of what is no host's, or loopback, and does not begin where addresses do: what
/// holds some of that begins in it, or ends with it.
const NOBODYS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(127, 255, 255, 255)),
    IpAddr::V4(Ipv4Addr::BROADCAST),
    IpAddr::V6(Ipv4Addr::BROADCAST.to_ipv6_mapped()),
    IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
];

/// Whether somebody who sends from `source` may ask that a door be opened for a network: every
/// address in it can be one host's.
pub fn may_ask_for(source: IpAddr, network: Network) -> bool {
    let may = |it: IpAddr| is_a_hosts(it) && (source.is_loopback() || !it.is_loopback());
    let holds = |last: IpAddr| Network::around(last, network.prefix) == network;
    may(network.address) && NOBODYS.into_iter().all(|last| may(last) || !holds(last))
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

    fn may(source: &str, network: &str) -> bool {
        may_ask_for(source.parse().unwrap(), network.parse().unwrap())
    }

    #[test]
    fn no_part_of_what_is_asked_for_is_nobodys() {
        for wide in ["198.51.100.0/24", "1.0.0.0/8", "192.0.0.0/3", "2001:db8::/32", "fe80::/10"] {
            assert!(may("192.0.2.1", wide), "{wide}");
        }
        for wide in [
            "0.0.0.0/0",
            "0.0.0.0/1",
            "1.0.0.0/7",
            "126.0.0.0/7",
            "127.0.0.0/8",
            "127.9.0.0/16",
            "192.0.0.0/2",
            "224.9.0.0/16",
            "255.255.255.0/24",
            "::/0",
            "::/64",
            "::/127",
            "::8000:0:0/81",
            "fe00::/7",
            "ff02::/16",
        ] {
            assert!(!may("192.0.2.1", wide), "{wide}");
        }
        assert!(may("127.0.0.1", "127.0.0.0/8") && !may("127.0.0.1", "0.0.0.0/1"));
    }

    #[test]
    fn networks_meet_where_one_holds_the_other() {
        let meet = |one: &str, other: &str| network(one).meets(&network(other));
        assert!(meet("192.0.2.0/24", "192.0.2.7") && meet("192.0.2.7", "192.0.2.0/24"));
        assert!(!meet("192.0.2.0/24", "192.0.3.0/24") && !meet("0.0.0.0/0", "::/0"));
    }

    #[test]
    fn where_door_and_client_say_how_wide_both_have_to_allow_it() {
        let widths = |ipv4, ipv6| Some(Widths { ipv4, ipv6 });
        assert_eq!(Widths::both(None, None), Widths::SINGLE);
        assert_eq!(Some(Widths::both(widths(24, 64), None)), widths(24, 64));
        assert_eq!(Some(Widths::both(None, widths(24, 64))), widths(24, 64));
        assert_eq!(Some(Widths::both(widths(24, 56), widths(16, 64))), widths(24, 64));
    }

    #[test]
    fn loopback_is_for_whoever_sends_over_it() {
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
        fn a_network_may_be_asked_for_where_every_address_in_it_may(
            bits in any::<u32>(), prefix in 18u8..=32, near in prop::sample::select(vec![
                "0.255.255.0", "127.0.0.0", "126.255.255.0", "224.0.0.0", "223.255.255.0", "255.255.255.0",
            ]),
        ) {
            let near: Ipv4Addr = near.parse().unwrap();
            for address in [bits, near.to_bits() ^ (bits & 0x1ff)].map(Ipv4Addr::from_bits) {
                let network = Network::around(address.into(), prefix);
                let IpAddr::V4(first) = network.address() else { unreachable!() };
                let first = first.to_bits();
                let last = first | u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
                let mut all = (first..=last).map(|it| IpAddr::V4(it.into()));
                let source = IpAddr::from([192, 0, 2, 1]);
                let every = all.all(|it| may_ask_for(source, it.into()));
                prop_assert_eq!(may_ask_for(source, network), every, "{}", network);
            }
        }

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
