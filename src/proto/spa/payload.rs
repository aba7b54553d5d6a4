//! The encoding of a native request in 80 bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};
use std::str;

use super::{AddressError, Addresses, NamedAddresses, SpaRequest, Stamp};
use crate::proto::name::Name;
use crate::proto::network::{Widths, is_a_hosts};

/// Bytes in a request.
pub const PAYLOAD_LEN: usize = 80;
/// Of a request for addresses, and of one for networks.
const VERSIONS: [u8; 2] = [1, 2];
const OBSERVED: u8 = 1;
const CLOSE: u8 = 2;
const DOOR_LEN: usize = 32;

/// The reason why what a client has encrypted is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedPayload {
    #[error("version {0}: this server speaks versions 1 and 2")]
    Version(u8),
    #[error("unknown flags {0:#04x}")]
    Flags(u8),
    #[error("bytes that must be zero are not")]
    Padding,
    #[error("more bits of an address would count than it has")]
    Width,
    #[error("an address is given beside the observed one")]
    ObservedAndGiven,
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("the door's name is not valid")]
    Door,
}

impl SpaRequest {
    /// The bytes that are encrypted, of version 1 where that can say it.
    pub fn encode(&self) -> [u8; PAYLOAD_LEN] {
        let (observed, v4, v6) = match self.open {
            Addresses::Observed => (OBSERVED, None, None),
            Addresses::Named(given) => (0, given.v4, given.v6),
        };
        let flags = observed | if self.close { CLOSE } else { 0 };
        let widths = [self.widths.ipv4 % 32, self.widths.ipv6 % 128];
        let version = VERSIONS[usize::from(widths != [0; 2])];
        let mut payload = [0; PAYLOAD_LEN];
        let mut rest = payload.as_mut_slice();
        let mut put = |bytes: &[u8], len: usize| {
            let (room, left) = std::mem::take(&mut rest).split_at_mut(len);
            room[..bytes.len()].copy_from_slice(bytes);
            rest = left;
        };
        put(&[version, flags], 2);
        put(&self.source_port.map_or(0, NonZeroU16::get).to_be_bytes(), 2);
        put(&self.open_for.map_or(0, NonZeroU32::get).to_be_bytes(), 4);
        put(&self.stamp.as_micros().to_be_bytes(), 8);
        put(&v4.unwrap_or(Ipv4Addr::UNSPECIFIED).octets(), 4);
        put(&widths, 12);
        put(&v6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets(), 16);
        put(self.door.as_ref().map_or("", Name::as_str).as_bytes(), DOOR_LEN);
        payload
    }

    /// Reads what was encrypted.
    ///
    /// # Errors
    /// [`MalformedPayload`], the first thing that is wrong.
    pub fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Self, MalformedPayload> {
        let mut rest = payload.as_slice();
        let [version, flags] = take(&mut rest);
        let source_port = u16::from_be_bytes(take(&mut rest));
        let open_for = u32::from_be_bytes(take(&mut rest));
        let stamp = u64::from_be_bytes(take(&mut rest));
        let v4 = Ipv4Addr::from(take(&mut rest));
        let widths: [u8; 2] = take(&mut rest);
        let zero: [u8; 10] = take(&mut rest);
        let v6 = Ipv6Addr::from(take::<16>(&mut rest));
        let door: [u8; DOOR_LEN] = take(&mut rest);

        if !VERSIONS.contains(&version) {
            return Err(MalformedPayload::Version(version));
        }
        if flags & !(OBSERVED | CLOSE) != 0 {
            return Err(MalformedPayload::Flags(flags));
        }
        if zero != [0; 10] || (version == 1 && widths != [0; 2]) {
            return Err(MalformedPayload::Padding);
        }
        let [ipv4, ipv6] = widths;
        let or_all = |given: u8, all: u8| if given == 0 { all } else { given };
        let widths = Widths { ipv4: or_all(ipv4, 32), ipv6: or_all(ipv6, 128) };
        if widths.ipv4 > 32 || widths.ipv6 > 128 {
            return Err(MalformedPayload::Width);
        }
        let v4 = Some(v4).filter(|address| !address.is_unspecified());
        let v6 = Some(v6).filter(|address| !address.is_unspecified());
        let open = match (flags & OBSERVED != 0, v4, v6) {
            (true, None, None) => Addresses::Observed,
            (true, ..) => return Err(MalformedPayload::ObservedAndGiven),
            (false, ..) => Addresses::Named(NamedAddresses::new(v4, v6)?),
        };
        Ok(Self {
            open,
            widths,
            close: flags & CLOSE != 0,
            source_port: NonZeroU16::new(source_port),
            open_for: NonZeroU32::new(open_for),
            stamp: Stamp::from_micros(stamp),
            door: name(&door)?,
        })
    }
}

fn take<const LEN: usize>(rest: &mut &[u8]) -> [u8; LEN] {
    let (head, tail) = rest.split_first_chunk().expect("as many bytes as the layout has");
    *rest = tail;
    *head
}

fn name(padded: &[u8; DOOR_LEN]) -> Result<Option<Name>, MalformedPayload> {
    let len = padded.iter().position(|&byte| byte == 0).unwrap_or(DOOR_LEN);
    let (text, padding) = padded.split_at(len);
    if padding.iter().any(|&byte| byte != 0) {
        return Err(MalformedPayload::Padding);
    }
    if text.is_empty() {
        return Ok(None);
    }
    let text = str::from_utf8(text).map_err(|_| MalformedPayload::Door)?;
    text.parse().map(Some).map_err(|_| MalformedPayload::Door)
}

impl NamedAddresses {
    /// The addresses to open for: one, or one of each family.
    ///
    /// # Errors
    /// [`AddressError`] if there is none, or one that no single host has. Loopback is allowed
    /// here; the server takes it only over loopback.
    pub fn new(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Result<Self, AddressError> {
        if v4.is_none() && v6.is_none() {
            return Err(AddressError::None);
        }
        let mut all = v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6));
        let of_no_host = all.find(|address| !is_a_hosts(*address));
        of_no_host.map_or(Ok(Self { v4, v6 }), |address| Err(AddressError::OfNoHost(address)))
    }
}

impl TryFrom<IpAddr> for NamedAddresses {
    type Error = AddressError;

    fn try_from(address: IpAddr) -> Result<Self, AddressError> {
        match address {
            IpAddr::V4(v4) => Self::new(Some(v4), None),
            IpAddr::V6(v6) => Self::new(None, Some(v6)),
        }
    }
}
