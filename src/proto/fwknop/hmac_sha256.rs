//! HMAC with SHA-256 (RFC 2104) of one text with many keys.

use sha2::block_api::compress256;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const BLOCK: usize = 64;
const LEN: usize = 32;
/// The state before the first block (FIPS 180-4, 5.3.3).
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// An HMAC with SHA-256 after its key: the state of the inner hash, and that of the outer one.
///
/// The library can go on from such a state, but not with a text that is made ready once for all
/// keys, and what it does beside hashing takes as long as the hashing. fwknop's clients use this
/// hash unless they are told otherwise, and junk has to be tried with the keys of all of them.
#[derive(Clone, derive_more::Debug)]
#[debug("Sha256State(..)")]
pub(super) struct Sha256State(Zeroizing<[[u32; 8]; 2]>);

/// A text in the blocks that the inner hash takes, its padding included.
pub(super) struct Sha256Text(Vec<[u8; BLOCK]>);

impl Sha256State {
    pub(super) fn new(key: &[u8]) -> Self {
        let mut block = Zeroizing::new([0; BLOCK]);
        if let Some(start) = block.get_mut(..key.len()) {
            start.copy_from_slice(key);
        } else {
            block[..LEN].copy_from_slice(&Sha256::digest(key));
        }
        let after = |pad: u8| {
            let block = Zeroizing::new(block.map(|byte| byte ^ pad));
            let mut state = START;
            compress256(&mut state, &[*block]);
            state
        };
        Self(Zeroizing::new([after(0x36), after(0x5c)]))
    }

    pub(super) fn mac(&self, text: &Sha256Text) -> [u8; LEN] {
        let [mut inner, mut outer] = *self.0;
        compress256(&mut inner, &text.0);
        let mut last = [0; BLOCK];
        last[..LEN].copy_from_slice(&bytes(inner));
        last[LEN] = 0x80;
        let bits = 8 * (BLOCK + LEN) as u16;
        last[BLOCK - 2..].copy_from_slice(&bits.to_be_bytes());
        compress256(&mut outer, &[last]);
        bytes(outer)
    }
}

impl Sha256Text {
    /// Of all parts, one after the other, behind a block with the key.
    pub(super) fn new(parts: [&[u8]; 2]) -> Self {
        let mut text = parts.concat();
        let bits = 8 * (BLOCK + text.len()) as u64;
        text.push(0x80);
        text.resize((text.len() + size_of_val(&bits)).next_multiple_of(BLOCK), 0);
        if let Some(end) = text.last_chunk_mut() {
            *end = bits.to_be_bytes();
        }
        Self(text.as_chunks().0.to_vec())
    }
}

fn bytes(state: [u32; 8]) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(state) {
        *to = word.to_be_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64_NOPAD;

    use super::*;
    use crate::proto::fwknop::Hash;

    #[test]
    fn it_is_the_librarys_for_all_lengths_of_key_and_text() {
        for length in 1..=128 {
            let key: Vec<u8> = (0..length).collect();
            let text = vec![b'x'; key.len() * 3];
            let (first, second) = text.split_at(key.len());
            let own = Sha256State::new(&key).mac(&Sha256Text::new([first, second]));
            let library = Hash::Sha256.hmac(&key, [&text, &[]]);
            assert_eq!(BASE64_NOPAD.encode(&own), library, "{length}");
        }
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        assert_eq!(format!("{:?}", Sha256State::new(b"key")), "Sha256State(..)");
    }
}
