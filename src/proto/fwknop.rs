//! Requests as fwknop 2.5 to 2.6.11 sends them: one datagram, encrypted with a key that both sides
//! share, and authenticated with another.
//!
//! ```text
//! fields     = random : user : time : version : type : message [: NAT] [: timeout]
//! blob       = "Salted__" salt AES(fields : digest of the fields)
//! text       = base64 of the blob; it always begins with U2FsdGVkX1
//! datagram   = text without those ten characters, then the HMAC of the whole text in base64
//! ```
//! Nowhere is base64 padded. Requests for access and for NAT are understood and made; those for
//! commands, and those that GnuPG encrypts, are told apart.

mod cipher;
mod error;
mod fields;
mod hash;
mod hmac_sha256;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::str;
use std::sync::LazyLock;

use data_encoding::{BASE64, BASE64_NOPAD, Encoding};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use cipher::{BLOCK, SALT};
use fields::{LONGEST_PLAIN, is_printable};
use hmac_sha256::{Sha256State, Sha256Text};

pub use cipher::CipherMode;
pub use error::{FwknopError, FwknopKeyError, SealError};
pub use fields::{Access, FwknopRequest, MAX_TIMEOUT, NatAccess, Random, User, read_ports};
pub use hash::Hash;

use super::secret::Secret;

/// How many characters a request has at the least.
pub const MIN_LEN: usize = 140;
/// No request has as many characters.
pub const END_LEN: usize = 1_500;

/// What every text begins with, and no datagram: `Salted__` in base64.
const PREFIX: &[u8] = b"U2FsdGVkX1";
const MAGIC: &[u8; 8] = b"Salted__";
/// What follows the prefix begins with one of these: four of its bits belong to the magic.
const FIRST: &[u8] = b"89+/";
/// What fwknop cuts off what GnuPG encrypts for an RSA or ElGamal key.
const GNUPG_PREFIX: &[u8] = b"hQ";
/// From this length on a fwknop server takes a request for one that GnuPG has encrypted.
const GNUPG_LEN: usize = 400;
const MIN_PLAIN: usize = 36;
/// No fwknop server understands a time stamp as late as this.
const END_OF_TIME: u64 = 1 << 31;
pub(crate) const PLACEHOLDER: &[u8] = b"__CHANGEME__";

/// Reads what base64 leaves over as fwknopd does: not at all. That tells an altered copy of a
/// request from what was never one.
pub(crate) static LENIENT: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = BASE64_NOPAD.specification();
    specification.check_trailing_bits = false;
    specification.encoding().unwrap_or(BASE64_NOPAD)
});

/// A key of 1 to `MOST` bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyOf<const MOST: usize>(Secret);

/// The key that a request is encrypted with.
pub type FwknopKey = KeyOf<32>;

/// The key that a request is authenticated with.
pub type HmacKey = KeyOf<128>;

impl<const MOST: usize> KeyOf<MOST> {
    /// The bytes as they are.
    ///
    /// # Errors
    /// If there are none or too many, or if they are fwknop's placeholder.
    pub fn new(bytes: Vec<u8>) -> Result<Self, FwknopKeyError> {
        let (length, is_placeholder) = (bytes.len(), bytes == PLACEHOLDER);
        let secret = Secret::new(bytes);
        match length {
            0 => Err(FwknopKeyError::Empty),
            _ if is_placeholder => Err(FwknopKeyError::Placeholder),
            _ if length > MOST => Err(FwknopKeyError::TooLong { length, most: MOST }),
            _ => Ok(Self(secret)),
        }
    }

    /// The bytes that are written in base64, with or without padding.
    ///
    /// # Errors
    /// As [`Self::new`], and if it is not base64.
    pub fn from_base64(text: &str) -> Result<Self, FwknopKeyError> {
        if text.as_bytes() == PLACEHOLDER {
            return Err(FwknopKeyError::Placeholder);
        }
        let encoding = if text.ends_with('=') { BASE64 } else { BASE64_NOPAD };
        Self::new(encoding.decode(text.as_bytes()).map_err(|_| FwknopKeyError::NotBase64)?)
    }

    /// The bytes, for whoever compares many.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

impl FwknopKey {
    /// Whether the bytes are those of the other key, which fwknop forbids.
    pub fn is_same_as(&self, hmac: &HmacKey) -> bool {
        self.0 == hmac.0
    }
}

/// A request that was decrypted, and the digest that makes it good for one time only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedRequest {
    pub request: FwknopRequest,
    /// SHA-256 over salt and ciphertext: two datagrams with the same digest are one request.
    pub replay: [u8; 32],
}

/// The keys that client and server share, and how they are used.
#[derive(Clone, Copy, Debug)]
pub struct FwknopKeys<'a> {
    pub key: &'a FwknopKey,
    pub mode: CipherMode,
    /// `None`: requests are not authenticated.
    pub hmac: Option<(&'a HmacKey, Hash)>,
}

/// Makes the datagram, for servers of fwknop's as well.
///
/// # Errors
/// [`SealError`] if no fwknop server would take it.
pub fn seal(
    request: &FwknopRequest,
    digest: Hash,
    keys: FwknopKeys<'_>,
    salt: [u8; SALT],
) -> Result<String, SealError> {
    let Access { ports, timeout, .. } = &request.access;
    if ports.is_empty() {
        return Err(SealError::NoPorts);
    }
    if let Some(timeout) = timeout.filter(|timeout| *timeout > MAX_TIMEOUT) {
        return Err(SealError::Timeout(timeout));
    }
    if request.timestamp >= END_OF_TIME {
        return Err(SealError::Timestamp(request.timestamp));
    }
    if keys.hmac.is_some_and(|(hmac, _)| keys.key.is_same_as(hmac)) {
        return Err(SealError::SameKeys);
    }
    let plain = request.to_text(digest);
    let (length, hmac_type) = (plain.len(), keys.hmac.map(|(_, hash)| hash));
    let most = max_plain(hmac_type);
    if length > most {
        return Err(SealError::TooLong { length, most, hmac: hmac_type });
    }
    let datagram = wrap(plain.as_bytes(), keys, salt);
    if datagram.len() < MIN_LEN { Err(SealError::TooShort) } else { Ok(datagram) }
}

/// How many bytes a fwknop server takes before they are encrypted.
///
/// It takes a text, or a datagram, of 400 characters or more for one of GnuPG's.
fn max_plain(hmac: Option<Hash>) -> usize {
    let mac = hmac.map_or(0, Hash::encoded_len);
    let fits = |most: &usize| {
        let blob = MAGIC.len() + SALT + most;
        encoded_len(blob, PREFIX.len()) < GNUPG_LEN && encoded_len(blob, mac) < GNUPG_LEN
    };
    // The padding is one byte at the least.
    (0..).step_by(BLOCK).take_while(fits).last().map_or(0, |most| most - 1)
}

fn wrap(plain: &[u8], keys: FwknopKeys<'_>, salt: [u8; SALT]) -> String {
    let FwknopKeys { key, mode, hmac } = keys;
    let ciphertext = mode.encrypt(key.0.expose(), salt, plain);
    let text = BASE64_NOPAD.encode(&[&MAGIC[..], &salt, &ciphertext].concat());
    let mac = hmac.map(|(key, hash)| hash.hmac(key.0.expose(), [text.as_bytes(), &[]]));
    let mut datagram = text.get(PREFIX.len()..).unwrap_or_default().to_owned();
    datagram.push_str(&mac.unwrap_or_default());
    datagram
}

/// The keys of one client, made ready to open requests with.
#[derive(Clone, Debug)]
pub struct FwknopReceiver {
    key: FwknopKey,
    mode: CipherMode,
    hmac: Option<(HmacKey, Hash)>,
    /// What the HMAC's key comes to, where it is one of SHA-256.
    sha256: Option<Sha256State>,
}

impl From<FwknopKeys<'_>> for FwknopReceiver {
    fn from(FwknopKeys { key, mode, hmac }: FwknopKeys<'_>) -> Self {
        let of_sha256 = hmac.filter(|(_, hash)| *hash == Hash::Sha256);
        Self {
            key: key.clone(),
            mode,
            hmac: hmac.map(|(key, hash)| (key.clone(), hash)),
            sha256: of_sha256.map(|(key, _)| Sha256State::new(key.expose())),
        }
    }
}

impl FwknopReceiver {
    /// How many characters a request to it can have: salt and whole blocks in base64, and its HMAC.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        let mac = self.hmac.as_ref().map_or(0, |(_, hash)| hash.encoded_len());
        // The padding is one byte at the least.
        (1..=LONGEST_PLAIN / BLOCK + 1)
            .map(move |blocks| encoded_len(MAGIC.len() + SALT + blocks * BLOCK, mac))
            .filter(|length| (MIN_LEN..END_LEN).contains(length))
    }
}

/// How many characters a datagram has whose blob has so many bytes, and its HMAC so many characters.
const fn encoded_len(blob: usize, mac: usize) -> usize {
    (blob * 4).div_ceil(3) - PREFIX.len() + mac
}

/// A datagram that may be somebody's request: its length, characters and beginning are right.
pub struct FwknopDatagram<'a> {
    bytes: &'a [u8],
    /// The text, made ready for all keys, and its HMAC, where that is one of SHA-256.
    of_sha256: OnceCell<(Sha256Text, Option<Vec<u8>>)>,
}

impl<'a> FwknopDatagram<'a> {
    /// Looks at a datagram without any key.
    ///
    /// # Errors
    /// [`FwknopError`] says why it is nobody's request.
    pub fn new(bytes: &'a [u8]) -> Result<Self, FwknopError> {
        if bytes.get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case(b"GET /")) {
            return Err(FwknopError::Http);
        }
        if !(MIN_LEN..END_LEN).contains(&bytes.len()) {
            return Err(FwknopError::Length);
        }
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
        match bytes.iter().find(|byte| !is_base64(byte)) {
            None => {}
            Some(b'=') => return Err(FwknopError::NotCanonical),
            Some(_) => return Err(FwknopError::NotBase64),
        }
        match bytes.first() {
            Some(first) if FIRST.contains(first) => Ok(Self { bytes, of_sha256: OnceCell::new() }),
            _ if bytes.starts_with(PREFIX) => Err(FwknopError::Prefix),
            _ if is_gnupg(bytes) => Err(FwknopError::Gnupg),
            _ => Err(FwknopError::NotSalted),
        }
    }

    /// Checks, decrypts and reads it with one client's keys. The HMAC comes before everything
    /// that costs more.
    ///
    /// # Errors
    /// [`FwknopError`] says why it asks that client's doors for nothing.
    pub fn open(&self, receiver: &FwknopReceiver) -> Result<OpenedRequest, FwknopError> {
        let FwknopReceiver { key, mode, .. } = receiver;
        let text = self.authenticated(receiver).ok_or(FwknopError::Hmac)?;
        let text = [PREFIX, text].concat();
        let blob = LENIENT.decode(&text).map_err(|_| FwknopError::Undecryptable)?;
        let salted = blob.strip_prefix(MAGIC).ok_or(FwknopError::NotSalted)?;
        let (&salt, ciphertext) =
            salted.split_first_chunk::<SALT>().ok_or(FwknopError::Undecryptable)?;
        let plain = mode
            .decrypt(key.0.expose(), salt, ciphertext)
            .map_err(|_| FwknopError::Undecryptable)?;
        let is_text = plain.len() >= MIN_PLAIN && plain.iter().all(|byte| is_printable(*byte));
        let plain =
            str::from_utf8(&plain).ok().filter(|_| is_text).ok_or(FwknopError::Undecryptable)?;
        let request = FwknopRequest::from_text(plain)?;
        if BASE64_NOPAD.encode(&blob).as_bytes() != text {
            return Err(FwknopError::NotCanonical);
        }
        Ok(OpenedRequest { request, replay: Sha256::digest(salted).into() })
    }

    /// What stands before the HMAC, if that is right.
    fn authenticated(&self, receiver: &FwknopReceiver) -> Option<&'a [u8]> {
        let Some((key, hash)) = &receiver.hmac else { return Some(self.bytes) };
        let end = self.bytes.len().checked_sub(hash.encoded_len())?;
        let (text, mac) = self.bytes.split_at_checked(end)?;
        let is_right = match &receiver.sha256 {
            Some(state) => {
                let (blocks, mac) = self.of_sha256.get_or_init(|| {
                    (Sha256Text::new([PREFIX, text]), BASE64_NOPAD.decode(mac).ok())
                });
                state.mac(blocks).as_slice().ct_eq(mac.as_deref()?)
            }
            None => hash.hmac(key.0.expose(), [PREFIX, text]).as_bytes().ct_eq(mac),
        };
        bool::from(is_right).then_some(text)
    }
}

/// Whether it begins with a session key for an RSA or ElGamal key (RFC 4880, 5.1): an old packet of
/// type 1 with a length of two bytes, version 3, eight bytes of key id.
fn is_gnupg(datagram: &[u8]) -> bool {
    let Some(begin) = datagram.get(..18) else { return false };
    let Ok(packet) = BASE64_NOPAD.decode(&[GNUPG_PREFIX, begin].concat()) else { return false };
    matches!(*packet, [0x85, _, _, 3, _, _, _, _, _, _, _, _, 1 | 2 | 16, ..])
}
