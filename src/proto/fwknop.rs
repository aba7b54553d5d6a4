//! What fwknop speaks.

use serde::{Deserialize, Serialize};

use super::secret::Secret;

/// How a request is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    #[default]
    Cbc,
    Ecb,
    Cfb,
    Ofb,
    Ctr,
    /// Of clients before 2.5.
    Legacy,
}

/// A hash function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hash {
    Md5,
    Sha1,
    #[default]
    Sha256,
    Sha384,
    Sha512,
    Sha3_256,
    Sha3_512,
}

/// What encrypts a request: 1 to 32 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(Secret);

/// What authenticates a request: 1 to 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HmacKey(Secret);
