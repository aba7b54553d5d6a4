//! The fields of a request as text, which is what is encrypted.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::str::FromStr;

use data_encoding::BASE64_NOPAD;

use super::error::FwknopError;
use super::hash::Hash;
use crate::proto::knock::{Knock, Protocol, parse_port};

/// The longest time that a request may ask for, in seconds.
pub const MAX_TIMEOUT: u32 = 65_536;
/// How long a field in base64 may be.
const MAX_FIELD: usize = 256;
/// How many digits the random number has.
const DIGITS: usize = 16;
const MAX_USER: usize = 48;
/// How long a client's version may be. Nothing else depends on it.
const VERSION_LENGTHS: RangeInclusive<usize> = 1..=8;
/// That of fwknop 2.6.9 to 2.6.11.
const CLIENT_VERSION: &str = "3.0.0";
const MAX_TIMESTAMP: usize = 12;
const MAX_PORT: usize = 5;
const MAX_HOST: usize = 254;
/// The longest text in which fwknop's clients ask for access, the colons between its fields
/// included: random number, user, time, version, type, message, NAT, timeout and digest. What is
/// longer has fields that none of them sends, or that no server takes.
pub(super) const LONGEST_PLAIN: usize = DIGITS
    + MAX_USER.div_ceil(3) * 4
    + MAX_TIMESTAMP
    + *VERSION_LENGTHS.end()
    + 2
    + 2 * MAX_FIELD
    + 10
    + Hash::Sha512.encoded_len()
    + 8;

/// Sixteen decimal digits that make each request another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random(u64);

impl Random {
    /// Uniform, but for 1 part in 10^22, where the bytes are.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self((u128::from_be_bytes(bytes) % 10u128.pow(DIGITS as u32)) as u64)
    }
}

/// Exactly sixteen digits.
impl FromStr for Random {
    type Err = FwknopError;

    fn from_str(text: &str) -> Result<Self, FwknopError> {
        number(text, DIGITS).filter(|_| text.len() == DIGITS).map(Self).ok_or(FwknopError::Random)
    }
}

/// A user name: 1 to 48 characters of printable ASCII, none of `"/\[]:;|=,+*?<>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User(String);

impl User {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for User {
    type Err = FwknopError;

    fn from_str(text: &str) -> Result<Self, FwknopError> {
        let is_allowed = |byte: u8| is_printable(byte) && !br#""/\[]:;|=,+*?<>"#.contains(&byte);
        let is_one = (1..=MAX_USER).contains(&text.len()) && text.bytes().all(is_allowed);
        is_one.then(|| Self(text.to_owned())).ok_or(FwknopError::User)
    }
}

pub(super) fn is_printable(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

/// A request for ports to be opened, with what surrounds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FwknopRequest {
    pub random: Random,
    pub user: User,
    /// Seconds since 1970-01-01 UTC.
    pub timestamp: u64,
    pub access: Access,
}

/// The access that is asked for: for which address, to which ports, for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The address to open for; `None`, on the wire `0.0.0.0`: the one that the request comes from.
    pub address: Option<Ipv4Addr>,
    /// Never empty in a request that was opened.
    pub ports: Vec<Knock>,
    /// Where the ports shall lead, if not to themselves.
    pub nat: Option<NatAccess>,
    /// For how many seconds, where the client has a wish: 0 to [`MAX_TIMEOUT`].
    pub timeout: Option<u32>,
}

/// The host and the port that the ports of a request shall lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatAccess {
    host: String,
    pub port: NonZeroU16,
    /// The host is the one that is asked, by whatever name the client knows it.
    pub is_local: bool,
}

impl NatAccess {
    /// A host, by an address or a name, and a port of it.
    ///
    /// # Errors
    /// If no fwknop server takes the host.
    pub fn new(host: &str, port: NonZeroU16, is_local: bool) -> Result<Self, FwknopError> {
        let is_allowed = |byte: u8| is_printable(byte) && !br#" /?"'\,"#.contains(&byte);
        let is_one = (1..=MAX_HOST).contains(&host.len()) && host.bytes().all(is_allowed);
        let nat = Self { host: host.to_owned(), port, is_local };
        is_one.then_some(nat).ok_or(FwknopError::NatAccess)
    }

    /// Reads `192.0.2.1,22`.
    fn read(text: &str, is_local: bool) -> Option<Self> {
        let (host, port) = text.split_once(',')?;
        Self::new(host, parse_short_port(port)?, is_local).ok()
    }

    pub fn host(&self) -> &str {
        &self.host
    }
}

impl FwknopRequest {
    /// What is encrypted: the fields, and their digest.
    pub(super) fn to_text(&self, digest: Hash) -> String {
        let Access { address, ports, nat, timeout } = &self.access;
        let mut message = address.unwrap_or(Ipv4Addr::UNSPECIFIED).to_string();
        for Knock { protocol, port } in ports {
            // Writing to a string cannot fail.
            let _ = write!(message, ",{protocol}/{port}");
        }
        let mut text = format!(
            "{:0DIGITS$}:{}:{}:{}:{}:{}",
            self.random.0,
            BASE64_NOPAD.encode(self.user.0.as_bytes()),
            self.timestamp,
            CLIENT_VERSION,
            match (nat, timeout) {
                (None, None) => 1,
                (None, Some(_)) => 3,
                (Some(NatAccess { is_local: true, .. }), None) => 5,
                (Some(NatAccess { is_local: true, .. }), Some(_)) => 6,
                (Some(_), None) => 2,
                (Some(_), Some(_)) => 4,
            },
            BASE64_NOPAD.encode(message.as_bytes()),
        );
        if let Some(NatAccess { host, port, .. }) = nat {
            let _ = write!(text, ":{}", BASE64_NOPAD.encode(format!("{host},{port}").as_bytes()));
        }
        if let Some(timeout) = timeout {
            let _ = write!(text, ":{timeout}");
        }
        let digest = digest.digest(text.as_bytes());
        format!("{text}:{digest}")
    }

    /// Reads what was decrypted.
    ///
    /// # Errors
    /// The first thing that is wrong, from the left; that the digest is wrong comes before all
    /// fields but the random number.
    pub fn from_text(text: &str) -> Result<Self, FwknopError> {
        let (random, _) = text.split_once(':').ok_or(FwknopError::FieldCount)?;
        let random = random.parse()?;
        let (fields, digest) = text.rsplit_once(':').ok_or(FwknopError::FieldCount)?;
        if !is_digest_of(digest, fields) {
            return Err(FwknopError::Digest);
        }
        let mut fields = fields.split(':').skip(1);
        let mut field = || fields.next().ok_or(FwknopError::FieldCount);
        let (user, timestamp, version, kind, message) =
            (field()?, field()?, field()?, field()?, field()?);
        let mut rest = fields.collect::<Vec<&str>>().into_iter();
        let user = decode(user).and_then(|user| user.parse().ok()).ok_or(FwknopError::User)?;
        let timestamp = number(timestamp, MAX_TIMESTAMP).ok_or(FwknopError::Timestamp)?;
        if !VERSION_LENGTHS.contains(&version.len()) {
            return Err(FwknopError::Version);
        }
        let kind = match number(kind, 2).ok_or(FwknopError::Type)? {
            0 => return Err(FwknopError::Command),
            kind @ 1..=6 => kind,
            _ => return Err(FwknopError::Type),
        };
        let (has_nat, has_timeout) = (!matches!(kind, 1 | 3), matches!(kind, 3 | 4 | 6));
        let nat = has_nat.then(|| rest.next().ok_or(FwknopError::NatAccess)).transpose()?;
        let timeout = has_timeout.then(|| rest.next_back().ok_or(FwknopError::Timeout));
        let timeout = timeout.transpose()?;
        let server_auth = rest.next();
        if rest.next().is_some() {
            return Err(FwknopError::FieldCount);
        }
        if server_auth.is_some_and(|field| !is_base64(field)) {
            return Err(FwknopError::ServerAuth);
        }
        let (address, ports) = read_message(&decode(message).ok_or(FwknopError::Ports)?)?;
        let read_nat = |text: String| NatAccess::read(&text, matches!(kind, 5 | 6));
        let nat = nat.map(|field| decode(field).and_then(read_nat).ok_or(FwknopError::NatAccess));
        let nat = nat.transpose()?;
        let read_timeout = |digits: &str| {
            let seconds = number(digits, digits.len()).and_then(|it| u32::try_from(it).ok());
            seconds.filter(|it| *it <= MAX_TIMEOUT).ok_or(FwknopError::Timeout)
        };
        let timeout = timeout.map(read_timeout).transpose()?;
        Ok(Self { random, user, timestamp, access: Access { address, ports, nat, timeout } })
    }
}

/// Whether it is the digest of the fields, of whatever hash has this length. Compared as text: the
/// bits that base64 leaves over are a part of it.
fn is_digest_of(digest: &str, fields: &str) -> bool {
    Hash::ALL
        .into_iter()
        .filter(|hash| hash.encoded_len() == digest.len())
        .any(|hash| hash.digest(fields.as_bytes()) == digest)
}

/// A field in base64; fwknop's own clients write no padding, others do.
fn decode(field: &str) -> Option<String> {
    if field.len() > MAX_FIELD {
        return None;
    }
    String::from_utf8(BASE64_NOPAD.decode(field.trim_end_matches('=').as_bytes()).ok()?).ok()
}

fn is_base64(field: &str) -> bool {
    field.len() <= MAX_FIELD
        && BASE64_NOPAD.decode_len(field.trim_end_matches('=').len()).is_ok()
        && field.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
}

/// A number of decimal digits only, and of no more than `most`.
fn number(digits: &str, most: usize) -> Option<u64> {
    let is_number = digits.len() <= most && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

/// `192.0.2.1,tcp/22,udp/53`. An address with leading zeros is refused: some read them as octal.
fn read_message(message: &str) -> Result<(Option<Ipv4Addr>, Vec<Knock>), FwknopError> {
    let (address, ports) = message.split_once(',').unwrap_or((message, ""));
    let address: Ipv4Addr = address.parse().map_err(|_| FwknopError::Address)?;
    Ok(((!address.is_unspecified()).then_some(address), read_ports(ports)?))
}

/// `tcp/22,udp/53`, as fwknop has ports.
///
/// # Errors
/// [`FwknopError::Ports`].
pub fn read_ports(text: &str) -> Result<Vec<Knock>, FwknopError> {
    text.split(',').map(read_port).collect()
}

/// `tcp/22`, in this case only.
fn read_port(text: &str) -> Result<Knock, FwknopError> {
    let (protocol, port) = text.split_once('/').ok_or(FwknopError::Ports)?;
    let protocol = Protocol::ALL.into_iter().find(|known| known.as_str() == protocol);
    let port = parse_short_port(port).ok_or(FwknopError::Ports)?;
    Ok(Knock::new(protocol.ok_or(FwknopError::Ports)?, port))
}

fn parse_short_port(text: &str) -> Option<NonZeroU16> {
    if text.len() > MAX_PORT { None } else { parse_port(text).ok() }
}
