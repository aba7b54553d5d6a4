//! Knocking with requests of one datagram each (knock-spa(7)), and why a request cannot be made.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use super::messages;
use super::requested_address::{RequestedAddress, own_address};
use super::route::Route;
use super::schedule::{RequestDatagram, Schedule};
use super::stamps::Stamps;
use super::values::Address;
use crate::proto::fwknop::SealError;
use crate::proto::name::Name;
use crate::proto::port_range::pick;
use crate::proto::spa::{self, Addresses, PrivateKey, PublicKey, SpaRequest};
use crate::proto::{PortRange, Widths};
use crate::time::Wall;

/// The reason why a request cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("--address {0} is this machine's own: it means nothing to {1}")]
    Loopback(IpAddr, IpAddr),
    #[error("this machine gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    #[error(transparent)]
    Fwknop(#[from] SealError),
}

/// A client's requests of a server.
#[derive(Clone, Debug)]
pub(super) struct SpaKnocker {
    pub client: PrivateKey,
    pub server: PublicKey,
    pub port: PortRange,
    pub address: Address,
    /// How many bits of it count.
    pub width: Widths,
    /// `None`: the client's only one.
    pub door: Option<Name>,
    /// Seconds; `None`: as the door says.
    pub open_for: Option<NonZeroU32>,
    pub close: bool,
    pub source_port: Option<NonZeroU16>,
    /// `None` where nothing is sent: then no stamp is used up.
    pub stamps: Option<Stamps>,
}

impl SpaKnocker {
    /// A request on this route that was never made before.
    ///
    /// # Errors
    /// [`RequestError`] if it would be of no use, or if it cannot be encrypted.
    pub(super) fn request(&self, now: Wall, route: &Route) -> Result<Schedule, RequestError> {
        let port = pick(&self.port, getrandom::u64()?);
        let whom =
            RequestedAddress::of(self.address, route.host.ip(), || own_address(route, port))?;
        messages::say(|| match self.width {
            Widths::SINGLE => format!("asking for {whom}"),
            Widths { ipv4, ipv6 } => {
                format!("asking for {whom} and its network, /{ipv4} of IPv4 and /{ipv6} of IPv6")
            }
        });
        let stamp = match &self.stamps {
            Some(stamps) => {
                let issued = stamps.issue(now);
                issued.warnings.iter().for_each(|warning| messages::warn(warning));
                issued.stamp
            }
            None => now.into(),
        };
        let mut ephemeral = [0; 32];
        getrandom::fill(&mut ephemeral)?;
        let request = SpaRequest {
            open: whom.named().map_or(Addresses::Observed, Addresses::Named),
            widths: self.width,
            close: self.close,
            source_port: self.source_port,
            open_for: self.open_for,
            stamp,
            door: self.door.clone(),
        };
        let bytes = spa::seal(&request, &self.client, &self.server, ephemeral);
        let (bytes, stamps) = (bytes.to_vec(), self.stamps.clone());
        Ok(Schedule::request(port, RequestDatagram { from: None, bytes, stamps }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::client::settings::RouteOptions;
    use crate::proto::spa::Receiver;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

    fn given(words: &[&str]) -> Address {
        Address::of(words).unwrap().unwrap()
    }

    #[test]
    fn the_server_reads_what_the_client_asked_for() {
        let server = PrivateKey::from([1; 32]);
        let client = PrivateKey::from([2; 32]);
        let requests = SpaKnocker {
            client: client.clone(),
            server: server.public(),
            port: crate::proto::port_range::parse("62000-62999").unwrap(),
            address: given(&["198.51.100.7", "2001:db8::7"]),
            width: Widths { ipv4: 24, ipv6: 64 },
            door: Some("web".parse().unwrap()),
            open_for: NonZeroU32::new(20),
            close: false,
            source_port: NonZeroU16::new(40_000),
            stamps: None,
        };
        let now = Wall::ZERO + Duration::from_secs(1_700_000_000);
        let route = Route { host: (HOST, 0).into(), options: RouteOptions::default() };
        let sent = requests.request(now, &route).unwrap();
        let (_, knock) = sent.knocks().next().unwrap();
        assert!((62000..=62999).contains(&knock.port.get()));
        let (key, request) = Receiver::new(&server, [])
            .open(sent.request.as_ref().unwrap().bytes.as_slice().try_into().unwrap())
            .unwrap();
        assert_eq!(key, client.public());
        let Address::Given(given) = requests.address else { unreachable!() };
        let expected = SpaRequest {
            open: Addresses::Named(given),
            widths: requests.width,
            close: false,
            source_port: NonZeroU16::new(40_000),
            open_for: NonZeroU32::new(20),
            stamp: now.into(),
            door: Some("web".parse().unwrap()),
        };
        assert_eq!(request, expected);
    }
}
