//! The hashes that fwknop knows, as digest and as HMAC, in base64.

use data_encoding::BASE64_NOPAD;
use hmac::digest::Digest;
use hmac::digest::block_api::BlockSizeUser;
use hmac::{KeyInit, Mac, SimpleHmac};
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use sha3::{Sha3_256, Sha3_512};

use crate::proto::words::words;

words! {
FromStr(
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
        self.functions().2
    }

    /// The digest in base64.
    pub(super) fn digest(self, bytes: &[u8]) -> String {
        self.functions().0(bytes)
    }

    /// The HMAC over all parts, one after the other, in base64.
    pub(super) fn hmac(self, key: &[u8], parts: [&[u8]; 2]) -> String {
        self.functions().1(key, parts)
    }

    /// The functions, and how long what they give is.
    const fn functions(self) -> (DigestOf, HmacOf, usize) {
        match self {
            Self::Md5 => (digest::<Md5>, hmac::<Md5>, 22),
            Self::Sha1 => (digest::<Sha1>, hmac::<Sha1>, 27),
            Self::Sha256 => (digest::<Sha256>, hmac::<Sha256>, 43),
            Self::Sha384 => (digest::<Sha384>, hmac::<Sha384>, 64),
            Self::Sha512 => (digest::<Sha512>, hmac::<Sha512>, 86),
            Self::Sha3_256 => (digest::<Sha3_256>, hmac::<Sha3_256>, 43),
            Self::Sha3_512 => (digest::<Sha3_512>, hmac::<Sha3_512>, 86),
        }
    }
}

type DigestOf = fn(&[u8]) -> String;
type HmacOf = fn(&[u8], [&[u8]; 2]) -> String;

fn digest<D: Digest>(bytes: &[u8]) -> String {
    BASE64_NOPAD.encode(&D::digest(bytes))
}

/// The HMAC of RFC 2104.
fn hmac<D: Digest + BlockSizeUser>(key: &[u8], parts: [&[u8]; 2]) -> String {
    // A key of any length is a key; the result says otherwise for other kinds of MAC.
    let Ok(mut mac) = SimpleHmac::<D>::new_from_slice(key) else { return String::new() };
    parts.into_iter().for_each(|part| mac.update(part));
    BASE64_NOPAD.encode(&mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(hash.hmac(b"k", [b"x", b"y"]).len(), hash.encoded_len(), "{hash}");
        }
    }

    /// RFC 4231, test case 2; its SHA-3 values are NIST's.
    #[test]
    fn hmacs_are_those_of_the_standard() {
        let hex = |hash: Hash| {
            let mac = hash.hmac(b"Jefe", [b"what do ya want ", b"for nothing?"]);
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
}
