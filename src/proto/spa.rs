//! The native SPA datagram: 192 bytes that say one request, to one server only.
//!
//! To whoever lacks the server's public key they are random. What they hold and how is in
//! knock-spa(7).

mod key;
mod noise;
mod payload;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use snow::params::NoiseParams;

pub(super) use self::key::decode;
pub use self::key::{KEY_LEN, PrivateKey, PublicKey, SpaKeyError};
pub use self::payload::{MalformedPayload, PAYLOAD_LEN};
use crate::proto::name::Name;
use crate::proto::network::Widths;
use crate::proto::port_range::PortRange;
use crate::time::Wall;

/// Bytes in a datagram: all have this length.
pub const LEN: usize = 192;
/// The port that a server listens to unless told otherwise.
pub const PORT: u16 = 62201;
/// The same, as a range.
pub const PORTS: PortRange = {
    let port = NonZeroU16::new(PORT).expect("is not zero");
    port..=port
};

const TAG_LEN: usize = 16;
const MASK_FROM: usize = LEN - 16;

/// A client's request, as a datagram holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaRequest {
    /// Whom to open or close for.
    pub open: Addresses,
    /// How many bits of these addresses count.
    pub widths: Widths,
    /// Close instead.
    pub close: bool,
    /// Let only this source port in; otherwise any.
    pub source_port: Option<NonZeroU16>,
    /// In seconds; otherwise as the door says.
    pub open_for: Option<NonZeroU32>,
    /// When the client made it. No two requests of one key have the same.
    pub stamp: Stamp,
    /// The door; otherwise the client's only one.
    pub door: Option<Name>,
}

/// The addresses that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// The address that the datagram comes from.
    Observed,
    /// Those that it names.
    Named(NamedAddresses),
}

/// An address, or one of each family; each of them can be a host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedAddresses {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl NamedAddresses {
    pub const fn v4(&self) -> Option<Ipv4Addr> {
        self.v4
    }

    /// The addresses, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// The reason why nothing can be opened for some addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("no address is given, and the observed one is not asked for")]
    None,
    #[error("{0} is not the address of a host")]
    OfNoHost(IpAddr),
}

/// The time at which a request was made: microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(u64);

impl Stamp {
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    pub const fn as_micros(self) -> u64 {
        self.0
    }
}

/// Drops what is less than a microsecond.
impl From<Wall> for Stamp {
    fn from(wall: Wall) -> Self {
        Self(wall.as_nanos() / 1_000)
    }
}

/// Saturates in the year 2554.
impl From<Stamp> for Wall {
    fn from(stamp: Stamp) -> Self {
        Self::from_nanos(stamp.0.saturating_mul(1_000))
    }
}

/// The reason why a datagram says nothing that counts; the later it is found, the more it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaError {
    #[error("not made for this server")]
    BadTag,
    #[error("made with this server's public key, but not by any client")]
    Undecryptable,
    #[error("malformed: {why}")]
    Malformed { client: PublicKey, why: MalformedPayload },
}

/// The datagram in which a client asks a server.
///
/// `ephemeral` is 32 bytes of fresh randomness, for this one datagram.
pub fn seal(
    request: &SpaRequest,
    client: &PrivateKey,
    server: &PublicKey,
    ephemeral: [u8; KEY_LEN],
) -> [u8; LEN] {
    seal_payload(&request.encode(), client, server, ephemeral)
}

fn seal_payload(
    payload: &[u8; PAYLOAD_LEN],
    client: &PrivateKey,
    server: &PublicKey,
    ephemeral: [u8; KEY_LEN],
) -> [u8; LEN] {
    let mut datagram = [0; LEN];
    let (tag, body) = datagram.split_at_mut(TAG_LEN);
    body.copy_from_slice(&noise::write(client, server, ephemeral, payload));
    let states = States::new(server);
    states.mask(body);
    tag.copy_from_slice(&states.tag(body)[..TAG_LEN]);
    datagram
}

/// The receiving end of one server key: it decrypts what was made for that key.
#[derive(Clone, derive_more::Debug)]
#[debug("Receiver {{ .. }}")]
pub struct Receiver {
    states: States,
    server: noise::X25519,
    params: NoiseParams,
}

impl Receiver {
    /// A receiver of anyone's datagrams, which decrypts those of expected clients sooner.
    pub fn new(server: &PrivateKey, expected: impl IntoIterator<Item = PublicKey>) -> Self {
        Self {
            states: States::new(&server.public()),
            server: noise::X25519::prepared(server, expected),
            params: noise::params(),
        }
    }

    /// Whether a datagram was made by someone who holds the server's public key.
    ///
    /// It costs one HMAC: nothing is allocated, nothing depends on where the tag is wrong.
    pub fn has_tag(&self, datagram: &[u8]) -> bool {
        match datagram.split_first_chunk::<TAG_LEN>() {
            Some((tag, body)) if datagram.len() == LEN => {
                self.states.tag.clone().chain_update(body).verify_truncated_left(tag).is_ok()
            }
            _ => false,
        }
    }

    /// Who asks, and for what.
    ///
    /// # Errors
    /// [`SpaError`], by the first step that failed.
    pub fn open(&self, datagram: &[u8; LEN]) -> Result<(PublicKey, SpaRequest), SpaError> {
        if !self.has_tag(datagram) {
            return Err(SpaError::BadTag);
        }
        let mut message = [0; noise::MESSAGE_LEN];
        message.copy_from_slice(&datagram[TAG_LEN..]);
        self.states.mask(&mut message);
        let (client, payload) = noise::read(self.params.clone(), &self.server, &message)
            .ok_or(SpaError::Undecryptable)?;
        match SpaRequest::decode(&payload) {
            Ok(request) => Ok((client, request)),
            Err(why) => Err(SpaError::Malformed { client, why }),
        }
    }
}

/// The two HMACs that a server's public key gives, each with its key taken in.
#[derive(Clone)]
struct States {
    tag: Hmac<Sha256>,
    mask: Hmac<Sha256>,
}

impl States {
    fn new(server: &PublicKey) -> Self {
        let state = |label: &[u8]| {
            let key = Sha256::new().chain_update(label).chain_update(server.as_bytes()).finalize();
            Hmac::new_from_slice(&key).expect("a key of any length")
        };
        Self { tag: state(b"knock spa v1 tag"), mask: state(b"knock spa v1 mask") }
    }

    fn tag(&self, body: &[u8]) -> [u8; 32] {
        self.tag.clone().chain_update(body).finalize().into_bytes().into()
    }

    /// Masks the ephemeral key at the front of a body, or takes the mask off.
    fn mask(&self, body: &mut [u8]) {
        let (ephemeral, rest) = body.split_at_mut(KEY_LEN);
        let last = &rest[MASK_FROM - TAG_LEN - KEY_LEN..];
        let mask = self.mask.clone().chain_update(last).finalize().into_bytes();
        ephemeral.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
}
