//! The seal of what the gateways of a fleet tell each other, and the names under which their store
//! knows what is in it.
//!
//! A sealed text is: one byte, the version, 1; 16 bytes, the run of its sender, drawn at random;
//! 8 bytes, big-endian, its counter, which grows within a run; then the text, encrypted by
//! ChaCha20-Poly1305 (RFC 8439), which authenticates what stands before it too. The key is
//! HMAC-SHA256 under the fleet's key of "seal" and the run, the nonce four zero bytes and the
//! counter: no two texts have both.

use std::str::FromStr;

use chacha20poly1305::aead::{Aead, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use data_encoding::BASE64;
use derive_more::{Debug, From};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::secret::Secret;
use super::spa::{KEY_LEN, SpaKeyError, decode};
use crate::time::Wall;

const VERSION: u8 = 1;
const RUN: usize = 16;
/// Version, run and counter.
const HEADER: usize = 1 + RUN + 8;

/// The key of a fleet, 32 bytes: never printed, overwritten when it is dropped.
#[derive(Clone, Debug, From, PartialEq, Eq)]
#[from([u8; KEY_LEN])]
pub struct FleetKey(Secret);

/// The name under which the store knows a thing: it says nothing of it to who has not the key.
pub type ItemId = [u8; 16];

/// The start of a gateway that a text comes from.
pub type Run = [u8; RUN];

/// The reason why bytes are no text of a gateway of this fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("too short")]
    Short,
    #[error("of version {0}, and only 1 is known")]
    Version(u8),
    #[error("not sealed with this fleet's key, or altered")]
    Broken,
}

/// A text that a gateway of the fleet has sealed.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    pub run: Run,
    pub counter: u64,
    pub text: Vec<u8>,
}

impl FleetKey {
    /// The line of a key file, without its end.
    pub fn encode(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.0.expose()))
    }

    /// The name of a thing, whose bytes are these.
    pub fn id(&self, thing: &[u8]) -> ItemId {
        *self.derive(b"id", thing).first_chunk().expect("a hash is longer")
    }

    /// Opens what a gateway has sealed.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open(&self, sealed: &[u8]) -> Result<Opened, SealError> {
        let (header, sealed) = sealed.split_first_chunk::<HEADER>().ok_or(SealError::Short)?;
        let [version, rest @ ..] = header;
        if *version != VERSION {
            return Err(SealError::Version(*version));
        }
        let run: Run = *rest.first_chunk().ok_or(SealError::Short)?;
        let counter = u64::from_be_bytes(*rest.last_chunk().ok_or(SealError::Short)?);
        let sealed = Payload { msg: sealed, aad: header };
        let text = self.cipher(&run).decrypt(&nonce(counter), sealed);
        let text = text.map_err(|_| SealError::Broken)?;
        Ok(Opened { run, counter, text })
    }

    fn cipher(&self, run: &Run) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&(*self.derive(b"seal", run)).into())
    }

    fn derive(&self, purpose: &[u8], of: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose()).expect("a key of any length");
        mac.update(purpose);
        mac.update(of);
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce.into()
}

/// Reads what a key file holds: one line.
impl FromStr for FleetKey {
    type Err = SpaKeyError;

    fn from_str(text: &str) -> Result<Self, SpaKeyError> {
        decode(text).map(|bytes| Self((*bytes).into()))
    }
}

/// The seal of one gateway, from one start to the next.
#[derive(Debug)]
pub struct Sealer {
    #[debug(skip)]
    cipher: ChaCha20Poly1305,
    pub run: Run,
    last: u64,
}

impl Sealer {
    /// A run drawn at random must not be used for another.
    pub fn new(key: &FleetKey, run: Run) -> Self {
        Self { cipher: key.cipher(&run), run, last: 0 }
    }

    /// Seals a text; its counter, which is no less than the time, so that it grows over starts as far
    /// as the clock does.
    pub fn seal(&mut self, now: Wall, text: &[u8]) -> (u64, Vec<u8>) {
        self.last = (self.last + 1).max(now.as_nanos());
        let mut sealed = vec![VERSION];
        sealed.extend(self.run);
        sealed.extend(self.last.to_be_bytes());
        let text = Payload { msg: text, aad: &sealed };
        let encrypted = self.cipher.encrypt(&nonce(self.last), text);
        sealed.append(&mut encrypted.expect("a text is not as long as the cipher can take"));
        (self.last, sealed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> FleetKey {
        [byte; KEY_LEN].into()
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened(text: Vec<u8>, run: Run, nanos: u64) {
            let nanos = nanos / 2;
            let mut sealer = Sealer::new(&key(1), run);
            let (counter, sealed) = sealer.seal(Wall::from_nanos(nanos), &text);
            prop_assert_eq!(key(1).open(&sealed), Ok(Opened { run, counter, text }));
        }

        #[test]
        fn what_is_altered_or_cut_short_or_of_another_fleet_is_refused(
            text: Vec<u8>, place: prop::sample::Index, change in 1..=u8::MAX,
        ) {
            let (_, sealed) = Sealer::new(&key(1), [7; RUN]).seal(Wall::ZERO, &text);
            prop_assert_eq!(key(2).open(&sealed), Err(SealError::Broken));
            prop_assert!(key(1).open(&sealed[..place.index(sealed.len())]).is_err());
            let mut altered = sealed.clone();
            altered[place.index(sealed.len())] ^= change;
            prop_assert!(key(1).open(&altered).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            prop_assert!(key(1).open(&bytes).is_err());
        }
    }

    #[test]
    fn a_counter_follows_the_clock_and_never_goes_back() {
        let mut sealer = Sealer::new(&key(1), [0; RUN]);
        let mut at = |nanos| sealer.seal(Wall::from_nanos(nanos), b"").0;
        assert_eq!([at(100), at(100), at(50), at(200)], [100, 101, 102, 200]);
    }

    #[test]
    fn a_name_tells_things_and_fleets_apart() {
        let ids = [key(1).id(b"a"), key(1).id(b"b"), key(2).id(b"a")];
        assert!(ids[0] != ids[1] && ids[0] != ids[2]);
        assert_eq!(key(1).id(b"a"), ids[0]);
    }

    #[test]
    fn a_key_is_shown_to_nobody() {
        assert_eq!(format!("{:?}", key(1)), "FleetKey(Secret(..))");
        let shown = format!("{:?}", Sealer::new(&key(1), [0; RUN]));
        assert!(!shown.contains("cipher"), "{shown}");
    }
}
