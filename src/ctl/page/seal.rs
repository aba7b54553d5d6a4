//! A client's secret, encrypted under a passphrase as browsers can decrypt it.

use std::num::NonZeroU32;

use data_encoding::BASE64;
use getrandom::Error;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::pbkdf2::{self, PBKDF2_HMAC_SHA256};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::proto::Secret;

/// How often PBKDF2 hashes: half a second of a browser's time, and of a guesser's for each guess.
const ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();

/// Seals a secret for those who know the passphrase, together with a text that is no secret: by
/// AES-256-GCM, with a key that PBKDF2-HMAC-SHA-256 makes; the tag stands after what is encrypted.
///
/// # Errors
/// When no random numbers can be had.
pub(super) fn seal(secret: &Secret, passphrase: &str, with: &str) -> Result<Value, Error> {
    let (mut salt, mut nonce) = ([0; 16], [0; NONCE_LEN]);
    getrandom::fill(&mut salt)?;
    getrandom::fill(&mut nonce)?;
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2::derive(PBKDF2_HMAC_SHA256, ROUNDS, &salt, passphrase.as_bytes(), key.as_mut_slice());
    let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("a key of 32 bytes");
    // At its full length: what outgrows its place leaves a copy there.
    let mut text = Vec::with_capacity(secret.expose().len() + AES_256_GCM.tag_len());
    text.extend_from_slice(secret.expose());
    LessSafeKey::new(key)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(with), &mut text)
        .expect("a secret is short");
    let [salt, nonce, secret] = [&salt[..], &nonce, &text].map(|bytes| BASE64.encode(bytes));
    Ok(json!({"rounds": ROUNDS, "salt": salt, "nonce": nonce, "secret": secret}))
}
