//! A client's secret, encrypted under a passphrase as browsers can decrypt it.

use std::num::NonZeroU32;

use data_encoding::BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::ctl::error::Error;
use crate::proto::Secret;

/// How often PBKDF2 hashes: half a second of a browser's time, and of a guesser's for each guess.
const ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();

/// A secret under AES-256-GCM, with a key that PBKDF2-HMAC-SHA-256 makes of a passphrase; each in
/// base64, the tag after the text.
#[derive(Debug, Serialize)]
pub(super) struct Sealed {
    rounds: NonZeroU32,
    salt: String,
    nonce: String,
    secret: String,
}

impl Sealed {
    /// Seals a secret for those who know the passphrase, together with this description.
    ///
    /// # Errors
    /// When no random numbers can be had.
    pub(super) fn new(secret: &Secret, passphrase: &str, described: &str) -> Result<Self, Error> {
        let (mut salt, mut nonce) = ([0; 16], [0; NONCE_LEN]);
        getrandom::fill(&mut salt)?;
        getrandom::fill(&mut nonce)?;
        let mut key = Zeroizing::new([0; 32]);
        let how = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(how, ROUNDS, &salt, passphrase.as_bytes(), key.as_mut_slice());
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("a key of 32 bytes");
        let mut text = secret.expose().to_vec();
        LessSafeKey::new(key)
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(described),
                &mut text,
            )
            .expect("a secret is short");
        Ok(Self {
            rounds: ROUNDS,
            salt: BASE64.encode(&salt),
            nonce: BASE64.encode(&nonce),
            secret: BASE64.encode(&text),
        })
    }
}
