//! All sequences of one step, by their beginnings.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::SecretHolder;
use crate::proto::Knock;
use crate::proto::totp::Scheme;

/// The sequences of all holders in one step, as far as they are prepared.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) number: u64,
    /// How many holders are in it.
    prepared: usize,
    /// Of each beginning of a sequence its [`key`]; of a whole one also the first who holds it.
    beginnings: HashTable<(u64, Option<u32>)>,
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
        Self { number, prepared: 0, beginnings: HashTable::with_capacity(room), used: Vec::new() }
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
                self.entry(key).or_insert((key, None));
            }
            let holder = u32::try_from(self.prepared).unwrap_or(u32::MAX);
            self.entry(key).and_modify(|(_, known)| _ = known.get_or_insert(holder));
            self.prepared += 1;
        }
    }

    /// A key is its own hash.
    fn entry(&mut self, key: u64) -> Entry<'_, (u64, Option<u32>)> {
        self.beginnings.entry(key, |it| it.0 == key, |it| it.0)
    }

    fn find(&self, key: u64) -> Option<&(u64, Option<u32>)> {
        self.beginnings.find(key, |it| it.0 == key)
    }

    /// Whether a sequence begins so.
    pub(super) fn has(&self, key: u64) -> bool {
        self.find(key).is_some()
    }

    /// The place of the first holder with this whole sequence.
    pub(super) fn holder(&self, key: u64) -> Option<usize> {
        self.find(key)?.1.map(|holder| holder as usize)
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
