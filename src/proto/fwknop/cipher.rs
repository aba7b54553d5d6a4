//! AES-256 with a key and an IV derived from what both sides share, as `openssl enc -md md5` does.

use std::str::FromStr;

use aes::Aes256;
use aes::cipher::block_padding::{NoPadding, Padding, Pkcs7};
use aes::cipher::{
    BlockModeDecrypt, BlockModeEncrypt, KeyInit, KeyIvInit, StreamCipher, block_padding,
};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::fields::is_printable;
use crate::proto::words::{UnknownWord, words};

pub(super) const SALT: usize = 8;
pub(super) const BLOCK: usize = 16;
/// How long a key is in legacy mode.
const LEGACY_KEY: usize = 16;

words! {
Display:
/// The mode in which blocks are chained. It is not said on the wire: both sides have to know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CipherMode {
    #[default]
    Cbc = "cbc",
    Ecb = "ecb",
    Cfb = "cfb",
    Ofb = "ofb",
    Ctr = "ctr",
    /// CBC as before fwknop 2.5: every key is cut or filled up to 16 bytes.
    Legacy = "legacy",
}
}

impl CipherMode {
    fn key(self, key: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new(key.to_vec());
        if self == Self::Legacy {
            // Cut or filled.
            key.resize(LEGACY_KEY, b'0');
        }
        key
    }

    /// The ciphertext, padded to whole blocks in every mode.
    pub(super) fn encrypt(self, key: &[u8], salt: [u8; SALT], plain: &[u8]) -> Vec<u8> {
        let derived = Derived::new(&self.key(key), salt);
        let (key, iv) = (&(*derived.key).into(), &(*derived.iv).into());
        match self {
            Self::Cbc | Self::Legacy => {
                cbc::Encryptor::<Aes256>::new(key, iv).encrypt_padded_vec::<Pkcs7>(plain)
            }
            Self::Ecb => ecb::Encryptor::<Aes256>::new(key).encrypt_padded_vec::<Pkcs7>(plain),
            Self::Cfb => {
                cfb_mode::Encryptor::<Aes256>::new(key, iv).encrypt_padded_vec::<Pkcs7>(plain)
            }
            Self::Ofb => stream(ofb::Ofb::<Aes256>::new(key, iv), pad(plain)),
            Self::Ctr => stream(ctr::Ctr128BE::<Aes256>::new(key, iv), pad(plain)),
        }
    }

    /// What was encrypted, without its padding. A text that fills its last block may have none, as
    /// fwknopd takes it.
    ///
    /// # Errors
    /// If it is not in whole blocks, or ends neither with a valid padding nor with text: another
    /// key or mode.
    pub(super) fn decrypt(
        self,
        key: &[u8],
        salt: [u8; SALT],
        ciphertext: &[u8],
    ) -> Result<Vec<u8>, block_padding::Error> {
        let derived = Derived::new(&self.key(key), salt);
        let (key, iv) = (&(*derived.key).into(), &(*derived.iv).into());
        unpad(match self {
            Self::Cbc | Self::Legacy => cbc::Decryptor::<Aes256>::new(key, iv)
                .decrypt_padded_vec::<NoPadding>(ciphertext)?,
            Self::Ecb => {
                ecb::Decryptor::<Aes256>::new(key).decrypt_padded_vec::<NoPadding>(ciphertext)?
            }
            Self::Cfb => cfb_mode::Decryptor::<Aes256>::new(key, iv)
                .decrypt_padded_vec::<NoPadding>(ciphertext)?,
            Self::Ofb => stream(ofb::Ofb::<Aes256>::new(key, iv), ciphertext.to_vec()),
            Self::Ctr => stream(ctr::Ctr128BE::<Aes256>::new(key, iv), ciphertext.to_vec()),
        })
    }
}

fn stream(mut cipher: impl StreamCipher, mut bytes: Vec<u8>) -> Vec<u8> {
    cipher.apply_keystream(&mut bytes);
    bytes
}

/// PKCS#7 for the modes that need none: fwknop pads there too.
fn pad(plain: &[u8]) -> Vec<u8> {
    let (whole, rest) = plain.as_chunks::<BLOCK>();
    let mut last = [0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    Pkcs7::raw_pad(&mut last, rest.len());
    [whole.as_flattened(), &last].concat()
}

fn unpad(mut padded: Vec<u8>) -> Result<Vec<u8>, block_padding::Error> {
    let (whole, []) = padded.as_chunks::<BLOCK>() else { return Err(block_padding::Error) };
    let (last, whole) = whole.split_last().ok_or(block_padding::Error)?;
    match Pkcs7::raw_unpad(last) {
        Ok(rest) => padded.truncate(whole.as_flattened().len() + rest.len()),
        // Another key never makes a whole text of it.
        Err(error) if !padded.iter().copied().all(is_printable) => return Err(error),
        Err(_) => {}
    }
    Ok(padded)
}

/// Key and IV: D1 = MD5(K S), D2 = MD5(D1 K S), D3 = MD5(D2 K S); the key is D1 D2, the IV D3.
pub(super) struct Derived {
    pub(super) key: Zeroizing<[u8; 32]>,
    pub(super) iv: Zeroizing<[u8; 16]>,
}

impl Derived {
    pub(super) fn new(key: &[u8], salt: [u8; SALT]) -> Self {
        let next = |last: &[u8]| -> Zeroizing<[u8; 16]> {
            let md5 = Md5::new().chain_update(last).chain_update(key).chain_update(salt);
            Zeroizing::new(md5.finalize().into())
        };
        let first = next(&[]);
        let second = next(&*first);
        let iv = next(&*second);
        let mut key = Zeroizing::new([0; 32]);
        key[..16].copy_from_slice(&*first);
        key[16..].copy_from_slice(&*second);
        Self { key, iv }
    }
}

/// Takes fwknop's names, in either case.
impl FromStr for CipherMode {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let why = if text.eq_ignore_ascii_case("asymmetric") {
            "is GnuPG, which is not spoken here: use a key that both sides share"
        } else {
            "is not an encryption mode: write cbc, ecb, cfb, ofb, ctr or legacy"
        };
        Self::of_word(text).ok_or_else(|| UnknownWord(text.to_owned(), why))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_taken_in_either_case() {
        assert_eq!("CBC".parse(), Ok(CipherMode::Cbc));
        assert_eq!("legacy".parse(), Ok(CipherMode::Legacy));
        for mode in CipherMode::ALL {
            assert_eq!(mode.to_string().to_uppercase().parse(), Ok(mode));
        }
    }

    #[test]
    fn what_is_not_spoken_here_is_said_so() {
        let error = "Asymmetric".parse::<CipherMode>().unwrap_err().to_string();
        assert!(error.starts_with("'Asymmetric' is GnuPG"), "{error}");
        assert!("PCBC".parse::<CipherMode>().unwrap_err().to_string().contains("'PCBC'"));
    }

    #[test]
    fn legacy_keys_are_cut_or_filled_to_sixteen_bytes() {
        assert_eq!(&*CipherMode::Legacy.key(b"shortkey"), b"shortkey00000000");
        assert_eq!(&*CipherMode::Legacy.key(b"abcdefghijklmnopqrst"), b"abcdefghijklmnop");
        assert_eq!(&*CipherMode::Cbc.key(b"shortkey"), b"shortkey");
    }

    #[test]
    fn only_a_whole_padding_is_taken() {
        let with = |end: &[u8]| unpad([&[b'x'; 32][end.len()..], end].concat());
        assert_eq!(with(&[3, 3, 3]).unwrap().len(), 29);
        assert_eq!(with(&[16; 16]).unwrap().len(), 16);
        for end in [&[0][..], &[2, 2, 3], &[0, 0, 3], &[17; 17]] {
            assert!(with(end).is_err(), "{end:?}");
        }
        assert!(unpad(vec![1; 15]).is_err());
        assert!(unpad(Vec::new()).is_err());
    }

    #[test]
    fn a_text_that_fills_its_last_block_may_have_no_padding() {
        let text = b"x:y".repeat(16);
        assert_eq!(unpad(text.clone()).unwrap(), text);
        assert!(unpad([&text[1..], &[0xff]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn what_is_encrypted_decrypts(
            plain in prop::collection::vec(any::<u8>(), 0..100),
            key in prop::collection::vec(any::<u8>(), 1..33),
            salt: [u8; SALT],
            mode in prop::sample::select(CipherMode::ALL.to_vec()),
        ) {
            let ciphertext = mode.encrypt(&key, salt, &plain);
            prop_assert!(ciphertext.len() > plain.len() && ciphertext.len() % BLOCK == 0);
            prop_assert_eq!(mode.decrypt(&key, salt, &ciphertext).unwrap(), plain);
        }

        #[test]
        fn no_bytes_make_it_panic(
            ciphertext in prop::collection::vec(any::<u8>(), 0..100),
            mode in prop::sample::select(CipherMode::ALL.to_vec()),
        ) {
            let _ = mode.decrypt(b"key", [0; SALT], &ciphertext);
        }
    }
}
