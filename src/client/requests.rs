//! Requests that are one datagram each.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::{NonZeroU16, NonZeroU32};

use super::plan::Datagram;
use super::send::any_like;
use super::stamps::Stamps;
use super::values::Address;
use super::voice::Voice;
use crate::proto::fwknop::SealError;
use crate::proto::name::Name;
use crate::proto::port_range::{PortRange, pick};
use crate::proto::spa::{
    self, Addresses, NamedAddresses, PrivateKey, PublicKey, SpaRequest, Stamp,
};
use crate::time::Wall;

/// Why a request cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("--address {0} is this machine's own: it means nothing to {1}")]
    Loopback(IpAddr, IpAddr),
    #[error("this machine gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Fwknop(#[from] SealError),
}

/// What a client asks of a server, time and again.
#[derive(Clone, Debug)]
pub struct Requests {
    pub client: PrivateKey,
    pub server: PublicKey,
    pub port: PortRange,
    pub address: Address,
    /// `None`: the client's only one.
    pub door: Option<Name>,
    /// Seconds; `None`: as the door says.
    pub open_for: Option<NonZeroU32>,
    pub close: bool,
    pub source_port: Option<NonZeroU16>,
    /// `None` where nothing is sent: then no stamp is used up.
    pub stamps: Option<Stamps>,
}

impl Requests {
    /// A request to `host` that was never made before.
    ///
    /// # Errors
    /// [`RequestError`] if it would be of no use, or if it cannot be encrypted.
    pub fn datagram(
        &self,
        now: Wall,
        host: SocketAddr,
        voice: Voice,
    ) -> Result<Datagram, RequestError> {
        let port = pick(&self.port, getrandom::u64()?);
        let whom = whom(self.address, host.ip(), || own_address(host, port))?;
        voice.say(|| format!("asking for {}", whom.describe()));
        let stamp = match &self.stamps {
            Some(stamps) => {
                let taken = stamps.take(now);
                taken.doubts.iter().for_each(|doubt| voice.warn(doubt));
                taken.stamp
            }
            None => now.into(),
        };
        let mut ephemeral = [0; 32];
        getrandom::fill(&mut ephemeral)?;
        let request = self.request(whom.addresses(), stamp);
        let bytes = spa::seal(&request, &self.client, &self.server, ephemeral);
        Ok(Datagram { port, from: None, bytes: bytes.to_vec() })
    }

    fn request(&self, open: Addresses, stamp: Stamp) -> SpaRequest {
        SpaRequest {
            open,
            close: self.close,
            source_port: self.source_port,
            open_for: self.open_for,
            stamp,
            door: self.door.clone(),
        }
    }
}

/// For whom a request asks, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    Given(NamedAddresses),
    Observed,
    /// Nobody out there knows this machine by its own address.
    Hidden(IpAddr),
}

impl Whom {
    const fn addresses(self) -> Addresses {
        match self {
            Self::Given(given) => Addresses::Named(given),
            Self::Observed | Self::Hidden(_) => Addresses::Observed,
        }
    }

    /// The address of IPv4 that is asked for by name.
    pub(super) const fn v4(self) -> Option<Ipv4Addr> {
        match self {
            Self::Given(given) => given.v4(),
            Self::Observed | Self::Hidden(_) => None,
        }
    }

    pub(super) fn describe(self) -> String {
        const OBSERVED: &str = "the address that the server sees";
        match self {
            Self::Given(given) => {
                given.iter().map(|ip| ip.to_string()).collect::<Vec<_>>().join(" and ")
            }
            Self::Observed => OBSERVED.to_owned(),
            Self::Hidden(own) => format!("{OBSERVED}: {own} is not a global one"),
        }
    }
}

pub(super) fn whom(
    address: Address,
    host: IpAddr,
    own: impl FnOnce() -> io::Result<IpAddr>,
) -> Result<Whom, RequestError> {
    match address {
        Address::Observed => Ok(Whom::Observed),
        Address::Given(given) => match given.iter().find(IpAddr::is_loopback) {
            Some(loopback) if !host.is_loopback() => Err(RequestError::Loopback(loopback, host)),
            _ => Ok(Whom::Given(given)),
        },
        Address::Auto => Ok(match own() {
            // Sending will say that there is no way to the host.
            Err(_) => Whom::Observed,
            Ok(ip) if !is_global(ip) => Whom::Hidden(ip),
            Ok(ip) => NamedAddresses::try_from(ip).map_or(Whom::Hidden(ip), Whom::Given),
        }),
    }
}

/// The address that the kernel would send from. Nothing is sent.
pub(super) fn own_address(mut host: SocketAddr, port: NonZeroU16) -> io::Result<IpAddr> {
    host.set_port(port.get());
    let socket = UdpSocket::bind(any_like(host, 0))?;
    socket.connect(host)?;
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
    use std::time::Duration;

    use super::*;
    use crate::proto::spa::Receiver;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

    fn asked(address: Address, own: &str) -> String {
        whom(address, HOST, || Ok(own.parse().unwrap())).unwrap().describe()
    }

    fn given(words: &[&str]) -> Address {
        let words: Vec<_> = words.iter().map(|word| word.parse().unwrap()).collect();
        Address::of(&words).unwrap().unwrap()
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
        assert!(whom(loopback, HOST, own).is_err());
        assert!(whom(loopback, Ipv4Addr::LOCALHOST.into(), own).is_ok());
    }

    #[test]
    fn the_server_reads_what_the_client_asked_for() {
        let server = PrivateKey::from([1; 32]);
        let client = PrivateKey::from([2; 32]);
        let requests = Requests {
            client: client.clone(),
            server: server.public(),
            port: crate::proto::port_range::parse("62000-62999").unwrap(),
            address: given(&["198.51.100.7", "2001:db8::7"]),
            door: Some("web".parse().unwrap()),
            open_for: NonZeroU32::new(20),
            close: false,
            source_port: NonZeroU16::new(40_000),
            stamps: None,
        };
        let now = Wall::ZERO + Duration::from_secs(1_700_000_000);
        let sent = requests.datagram(now, (HOST, 0).into(), Voice::SILENT).unwrap();
        assert!((62000..=62999).contains(&sent.port.get()));
        let (key, request) =
            Receiver::new(&server, []).open(&sent.bytes.try_into().unwrap()).unwrap();
        assert_eq!(key, client.public());
        let Address::Given(given) = requests.address else { unreachable!() };
        assert_eq!(request, requests.request(Addresses::Named(given), now.into()));
    }
}
