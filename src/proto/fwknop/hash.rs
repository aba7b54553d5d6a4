//! The hashes that fwknop knows, as digest and as HMAC, in base64.

use std::{fmt, str};

use data_encoding::BASE64_NOPAD;
use hmac::digest::Digest;
use hmac::digest::block_api::BlockSizeUser;
use hmac::digest::common::Key;
use hmac::{Hmac, KeyInit, Mac, SimpleHmac};
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use sha3::{Sha3_256, Sha3_512};

use super::HmacKey;
use crate::proto::words::words;

words! {
AnyCase(
    "is not a hash that fwknop knows: write md5, sha1, sha256, sha384, sha512, sha3_256, \
     sha3_512"
):
/// A hash, for the digest within a request or for its HMAC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    Md5 = "md5",
    Sha1 = "sha1",
    #[default]
    Sha256 = "sha256",
    Sha384 = "sha384",
    Sha512 = "sha512",
    Sha3_256 = "sha3_256",
    Sha3_512 = "sha3_512",
}
}

impl Hash {
    /// How many characters its value has in base64 without padding.
    pub const fn encoded_len(self) -> usize {
        match self {
            Self::Md5 => 22,
            Self::Sha1 => 27,
            Self::Sha256 | Self::Sha3_256 => 43,
            Self::Sha384 => 64,
            Self::Sha512 | Self::Sha3_512 => 86,
        }
    }

    /// The digest in base64.
    pub(super) fn digest(self, bytes: &[u8]) -> String {
        fn of<D: Digest>(bytes: &[u8]) -> String {
            BASE64_NOPAD.encode(&D::digest(bytes))
        }
        match self {
            Self::Md5 => of::<Md5>(bytes),
            Self::Sha1 => of::<Sha1>(bytes),
            Self::Sha256 => of::<Sha256>(bytes),
            Self::Sha384 => of::<Sha384>(bytes),
            Self::Sha512 => of::<Sha512>(bytes),
            Self::Sha3_256 => of::<Sha3_256>(bytes),
            Self::Sha3_512 => of::<Sha3_512>(bytes),
        }
    }
}

/// An HMAC (RFC 2104) that has taken in its key: what depends on the key alone is worked out once.
#[derive(Clone)]
pub(super) struct KeyedHmac {
    hash: Hash,
    state: State,
}

#[derive(Clone)]
enum State {
    Md5(Hmac<Md5>),
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha384(Box<Hmac<Sha384>>),
    Sha512(Box<Hmac<Sha512>>),
    /// The library makes no state of these that is wiped from memory.
    Sha3(HmacKey),
}

impl KeyedHmac {
    pub(super) fn new(key: &HmacKey, hash: Hash) -> Self {
        fn of<M: Mac + KeyInit>(key: &HmacKey) -> M {
            // A key of any length is a key; the result says otherwise for other kinds of MAC.
            M::new_from_slice(key.expose()).unwrap_or_else(|_| M::new(&Key::<M>::default()))
        }
        let state = match hash {
            Hash::Md5 => State::Md5(of(key)),
            Hash::Sha1 => State::Sha1(of(key)),
            Hash::Sha256 => State::Sha256(of(key)),
            Hash::Sha384 => State::Sha384(Box::new(of(key))),
            Hash::Sha512 => State::Sha512(Box::new(of(key))),
            Hash::Sha3_256 | Hash::Sha3_512 => State::Sha3(key.clone()),
        };
        Self { hash, state }
    }

    /// How many characters its value has.
    pub(super) const fn encoded_len(&self) -> usize {
        self.hash.encoded_len()
    }

    /// Its value over all parts, one after the other, in base64.
    pub(super) fn mac(&self, parts: [&[u8]; 2]) -> EncodedMac {
        fn of<M: Mac>(mut mac: M, parts: [&[u8]; 2]) -> EncodedMac {
            parts.into_iter().for_each(|part| mac.update(part));
            EncodedMac::new(&mac.finalize().into_bytes())
        }
        fn from_key<D: Digest + BlockSizeUser>(key: &HmacKey, parts: [&[u8]; 2]) -> EncodedMac {
            let mac = SimpleHmac::<D>::new_from_slice(key.expose());
            mac.map_or_else(|_| EncodedMac::new(&[]), |mac| of(mac, parts))
        }
        match &self.state {
            State::Md5(mac) => of(mac.clone(), parts),
            State::Sha1(mac) => of(mac.clone(), parts),
            State::Sha256(mac) => of(mac.clone(), parts),
            State::Sha384(mac) => of((**mac).clone(), parts),
            State::Sha512(mac) => of((**mac).clone(), parts),
            State::Sha3(key) if self.hash == Hash::Sha3_256 => from_key::<Sha3_256>(key, parts),
            State::Sha3(key) => from_key::<Sha3_512>(key, parts),
        }
    }
}

impl fmt::Debug for KeyedHmac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyedHmac({})", self.hash)
    }
}

/// The value of an HMAC in base64.
pub(super) struct EncodedMac {
    characters: [u8; LONGEST_MAC],
    length: usize,
}

/// That of SHA-512.
const LONGEST_MAC: usize = Hash::Sha512.encoded_len();

impl EncodedMac {
    fn new(bytes: &[u8]) -> Self {
        let mut characters = [0; LONGEST_MAC];
        let length = BASE64_NOPAD.encode_len(bytes.len());
        if let Some(room) = characters.get_mut(..length) {
            BASE64_NOPAD.encode_mut(bytes, room);
        }
        Self { characters, length }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.characters.get(..self.length).unwrap_or_default()
    }

    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(key: &[u8], hash: Hash) -> KeyedHmac {
        KeyedHmac::new(&HmacKey::new(key.to_vec()).unwrap(), hash)
    }

    #[test]
    fn names_are_taken_in_either_case() {
        assert_eq!("SHA256".parse(), Ok(Hash::Sha256));
        assert_eq!("Sha3_512".parse(), Ok(Hash::Sha3_512));
        for hash in Hash::ALL {
            assert_eq!(hash.to_string().to_uppercase().parse(), Ok(hash));
        }
        assert!("sha224".parse::<Hash>().unwrap_err().to_string().contains("'sha224'"));
    }

    #[test]
    fn values_have_the_length_that_is_said() {
        for hash in Hash::ALL {
            assert_eq!(hash.digest(b"x").len(), hash.encoded_len(), "{hash}");
            let mac = keyed(b"k", hash).mac([b"x", b"y"]);
            assert_eq!(mac.as_str().len(), hash.encoded_len(), "{hash}");
        }
    }

    /// RFC 4231, test case 2; its SHA-3 values are NIST's.
    #[test]
    fn hmacs_are_those_of_the_standard() {
        let hex = |hash: Hash| {
            let mac = keyed(b"Jefe", hash).mac([b"what do ya want ", b"for nothing?"]);
            data_encoding::HEXLOWER.encode(&BASE64_NOPAD.decode(mac.as_bytes()).unwrap())
        };
        assert_eq!(
            hex(Hash::Sha256),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(Hash::Sha3_256),
            "c7d4072e788877ae3596bbb0da73b887c9171f93095b294ae857fbe2645e1ba5"
        );
        assert_eq!(hex(Hash::Md5), "750c783e6ab0b503eaa86e310a5db738");
    }

    #[test]
    fn a_key_that_was_taken_in_is_good_for_any_number_of_texts_and_shown_by_none() {
        for hash in Hash::ALL {
            let mac = keyed(b"Jefe", hash);
            let first = mac.mac([b"one", b""]);
            assert_ne!(first.as_str(), mac.mac([b"two", b""]).as_str(), "{hash}");
            assert_eq!(first.as_str(), mac.clone().mac([b"o", b"ne"]).as_str(), "{hash}");
            assert!(!format!("{mac:?}").contains("Jefe"), "{hash}");
        }
    }
}
