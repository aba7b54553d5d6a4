//! All sequences of one step, by their beginnings.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::SecretHolder;
use crate::proto::knock::Knock;
use crate::proto::totp::Scheme;

/// The sequences of all holders in one step, as far as they are prepared.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) number: u64,
    /// How many holders are in it.
    prepared: usize,
    /// Of each beginning of a sequence its [`key`]; of a whole one also the first who holds it.
    beginnings: HashMap<u64, Option<u32>, BuildHasherDefault<AsItIs>>,
    /// Keys of sequences that have opened.
    used: Vec<u64>,
}

/// Stands for knocks in their order. Different ones have different keys, but for one in 2^64: what
/// depends on it compares the knocks themselves.
pub(super) fn key(knocks: &[Knock]) -> u64 {
    knocks.iter().fold(0, |key, &knock| extend(key, knock))
}

/// The key of some knocks and one more (the finalizer of splitmix64 at each).
const fn extend(key: u64, knock: Knock) -> u64 {
    let knock = (knock.protocol as u64) << 16 | knock.port.get() as u64;
    let mut x = key.wrapping_add(knock.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

impl Step {
    /// A step with room for all holders, and none of them in it.
    pub(super) fn new(number: u64, scheme: &Scheme, holders: &[SecretHolder]) -> Self {
        let room = holders.len() * scheme.length();
        let beginnings = HashMap::with_capacity_and_hasher(room, BuildHasherDefault::default());
        Self { number, prepared: 0, beginnings, used: Vec::new() }
    }

    pub(super) const fn is_finished(&self, holders: &[SecretHolder]) -> bool {
        self.prepared >= holders.len()
    }

    /// Puts more holders in, for as much of `work` as there is.
    pub(super) fn prepare(
        &mut self,
        scheme: &Scheme,
        door: &str,
        holders: &[SecretHolder],
        work: &mut usize,
    ) {
        while let Some(holder) = holders.get(self.prepared) {
            if *work == 0 {
                return;
            }
            *work = work.saturating_sub(scheme.length());
            let knocks = scheme.knocks(&holder.key, door, self.number);
            let mut key = 0;
            for &knock in &knocks {
                key = extend(key, knock);
                self.beginnings.entry(key).or_insert(None);
            }
            let holder = u32::try_from(self.prepared).unwrap_or(u32::MAX);
            self.beginnings.entry(key).and_modify(|known| _ = known.get_or_insert(holder));
            self.prepared += 1;
        }
    }

    /// Whether a sequence begins so.
    pub(super) fn has(&self, key: u64) -> bool {
        self.beginnings.contains_key(&key)
    }

    /// The place of the first holder with this whole sequence.
    pub(super) fn holder(&self, key: u64) -> Option<usize> {
        self.beginnings.get(&key).copied().flatten().map(|holder| holder as usize)
    }

    pub(super) fn use_up(&mut self, key: u64) {
        if !self.is_used(key) {
            self.used.push(key);
        }
    }

    pub(super) fn is_used(&self, key: u64) -> bool {
        self.used.contains(&key)
    }
}

/// Hashes a key to itself: it is one already.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0 << 8 ^ u64::from(byte));
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}
