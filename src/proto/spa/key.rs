//! X25519 keys as people carry them: 32 bytes in standard base64.

use std::str::FromStr;

use data_encoding::BASE64;
use derive_more::{Debug, Display, From};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::noise;
use crate::proto::secret::Secret;

/// Bytes in a key, private or public.
pub const KEY_LEN: usize = 32;
const TEXT_LEN: usize = 44;

/// The points whose product with any private key is the same: whoever holds one proves nothing.
/// 0, 1, the two of order eight, then p - 1, p and p + 1, as keys are written.
const LOW_ORDER: [&str; 7] = [
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "4Ot6fDtBuK4WVuP68Z/EatoJjeucMrH9hmIFFl9JuAA=",
    "X5yVvKNQjCSx0LFVnIPvWwREXMRYHI6G2CJO3dCfEVc=",
    "7P///////////////////////////////////////38=",
    "7f///////////////////////////////////////38=",
    "7v///////////////////////////////////////38=",
];

/// The reason why something is not a key. It never quotes what was read: that may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaKeyError {
    #[error(
        "a key has 44 characters of base64, this has {0}: copy it whole, with the '=' at its end"
    )]
    Length(usize),
    #[error("character {0} of the key is not one that base64 has there: copy it anew")]
    Character(usize),
    #[error("this is not a public key that anyone can hold: copy it anew from its owner")]
    LowOrder,
}

/// A public key with which a handshake can succeed.
#[derive(
    Clone, Copy, Debug, Display, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[debug("PublicKey({self})")]
#[display("{}", BASE64.encode_display(_0))]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl TryFrom<[u8; KEY_LEN]> for PublicKey {
    type Error = SpaKeyError;

    fn try_from(bytes: [u8; KEY_LEN]) -> Result<Self, SpaKeyError> {
        // The highest bit does not count (RFC 7748, section 5).
        let mut point = bytes;
        point[KEY_LEN - 1] &= 0x7f;
        let is_low = LOW_ORDER.contains(&BASE64.encode(&point).as_str());
        if is_low { Err(SpaKeyError::LowOrder) } else { Ok(Self(bytes)) }
    }
}

impl FromStr for PublicKey {
    type Err = SpaKeyError;

    fn from_str(text: &str) -> Result<Self, SpaKeyError> {
        Self::try_from(*decode(text)?)
    }
}

/// A private key: never printed, overwritten when it is dropped.
///
/// It is serialised only into what a keeper hands its watcher, which is memory.
#[derive(Clone, Debug, From, PartialEq, Eq, Serialize, Deserialize)]
#[from([u8; KEY_LEN])]
#[serde(try_from = "Secret")]
pub struct PrivateKey(Secret);

impl PrivateKey {
    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        // A base point times a clamped number is never of low order.
        PublicKey(noise::public(self.0.expose()))
    }

    /// The line of a key file, without its end.
    pub fn encode(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.0.expose()))
    }

    pub(super) fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

/// Reads what a key file holds: one line.
impl FromStr for PrivateKey {
    type Err = SpaKeyError;

    fn from_str(text: &str) -> Result<Self, SpaKeyError> {
        decode(text).map(|bytes| Self((*bytes).into()))
    }
}

impl TryFrom<Secret> for PrivateKey {
    type Error = SpaKeyError;

    fn try_from(secret: Secret) -> Result<Self, SpaKeyError> {
        match secret.expose().len() {
            KEY_LEN => Ok(Self(secret)),
            other => Err(SpaKeyError::Length(other.div_ceil(3) * 4)),
        }
    }
}

pub(in crate::proto) fn decode(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, SpaKeyError> {
    let text = text.trim();
    if let Some(position) = text.chars().position(|c| !c.is_ascii()) {
        return Err(SpaKeyError::Character(position + 1));
    }
    if text.len() != TEXT_LEN {
        return Err(SpaKeyError::Length(text.len()));
    }
    // Room for what 44 characters without padding hold.
    let mut room = Zeroizing::new([0; TEXT_LEN / 4 * 3]);
    let read = BASE64
        .decode_mut(text.as_bytes(), room.as_mut())
        .map_err(|partial| SpaKeyError::Character(partial.error.position + 1))?;
    let bytes = room.get(..read).and_then(|bytes| <[u8; KEY_LEN]>::try_from(bytes).ok());
    bytes.map(Zeroizing::new).ok_or(SpaKeyError::Character(TEXT_LEN))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRIVATE: &str = "uYMqxqI17aCacPp6idHMh0dtJZZSZ9PlaFvOcmwg7C4=";
    const PUBLIC: &str = "4BbmHjtWeVM7bEaAdK2cj0F9oCf/oNUue5BUuSUn6kA=";

    #[test]
    fn a_private_key_has_its_public_key() {
        let private: PrivateKey = PRIVATE.parse().unwrap();
        assert_eq!(private.public().to_string(), PUBLIC);
        assert_eq!(private.encode().as_str(), PRIVATE);
    }

    #[test]
    fn a_key_file_ends_with_its_line() {
        assert_eq!(format!("{PRIVATE}\n").parse::<PrivateKey>(), PRIVATE.parse());
    }

    #[test]
    fn no_output_shows_a_private_key() {
        let private: PrivateKey = PRIVATE.parse().unwrap();
        assert_eq!(format!("{private:?}"), "PrivateKey(Secret(..))");
        for cut in 0..PRIVATE.len() {
            let error = PRIVATE[cut..].replace('p', "*").parse::<PrivateKey>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("idHMh"), "{error}");
        }
    }

    #[test]
    fn what_is_no_key_is_an_error_that_says_why() {
        assert_eq!("".parse::<PublicKey>(), Err(SpaKeyError::Length(0)));
        assert_eq!(PUBLIC[..43].parse::<PublicKey>(), Err(SpaKeyError::Length(43)));
        assert_eq!(PUBLIC.replace('/', "_").parse::<PublicKey>(), Err(SpaKeyError::Character(28)));
        // 33 bytes, and 31.
        assert_eq!("A".repeat(44).parse::<PublicKey>(), Err(SpaKeyError::Character(44)));
        let short = format!("{}==", "A".repeat(42));
        assert_eq!(short.parse::<PublicKey>(), Err(SpaKeyError::Character(44)));
        // Bits behind the last byte.
        assert!(PUBLIC.replace("6kA=", "6kB=").parse::<PublicKey>().is_err());
    }

    #[test]
    fn a_point_that_gives_every_key_the_same_secret_is_no_public_key() {
        for text in LOW_ORDER {
            let mut point = *decode(text).unwrap();
            assert!(noise::tests::agree(&[7; KEY_LEN], &point).is_none(), "{point:x?}");
            assert_eq!(PublicKey::try_from(point), Err(SpaKeyError::LowOrder));
            point[KEY_LEN - 1] |= 0x80;
            assert!(noise::tests::agree(&[7; KEY_LEN], &point).is_none(), "{point:x?}");
            assert_eq!(PublicKey::try_from(point), Err(SpaKeyError::LowOrder));
        }
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_written(random: [u8; KEY_LEN]) {
            let private = PrivateKey::from(random);
            prop_assert_eq!(private.encode().parse(), Ok(private.clone()));
            let public = private.public();
            prop_assert_eq!(public.to_string().parse(), Ok(public));
            prop_assert_eq!(serde_json::from_value(serde_json::to_value(&private).unwrap()).ok(), Some(private));
            prop_assert_eq!(serde_json::from_value(serde_json::to_value(public).unwrap()).ok(), Some(public));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = text.parse::<PrivateKey>();
            let _ = text.parse::<PublicKey>();
        }

        #[test]
        fn a_point_that_agrees_with_nobody_is_refused(point: [u8; KEY_LEN]) {
            prop_assert_eq!(
                PublicKey::try_from(point).is_ok(),
                noise::tests::agree(&[7; KEY_LEN], &point).is_some()
            );
        }
    }
}
