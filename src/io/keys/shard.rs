//! A part of a snapshot: entries packed without gaps, and an open hash index into them. Decides where an entry is; for
//! an id that is not there it does the same work on another entry.

use super::entry::{Entry, Kind};
use crate::io::store::error::MAX_KEYS;
use crate::logic::access::api_key::IdBytes;
use std::hint::black_box;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bits of a slot that say which entry; the others hold a part of its hash, so that ids are rarely compared in vain.
const INDEX_BITS: u32 = 21;
const INDEX: u32 = (1 << INDEX_BITS) - 1;
/// Marks a free slot: no entry has this index.
const FREE: u32 = u32::MAX;
/// All keys could be in one shard, and each would have its index.
const _: () = assert!(MAX_KEYS + MAX_STUBS <= INDEX as usize, "an index does not hold every key");

/// Keys at most that were revoked and are in the store no longer: whoever takes them out of it, deleting rows or setting
/// an older copy in its place, does so rarely.
pub(super) const MAX_STUBS: usize = MAX_KEYS;

/// The hash of an id; the seed is the process's own, so that nobody can choose ids that collide.
#[derive(Clone, Copy)]
pub(super) struct Hash(u64);

impl Hash {
    pub(super) fn of(id: &IdBytes, seed: u64) -> Self {
        Self(xxh3_64_with_seed(id, seed))
    }

    /// Which of `shards` (a power of two).
    pub(super) fn shard(self, shards: usize) -> usize {
        (self.0 >> 48) as usize & (shards - 1)
    }

    fn slot(self, mask: usize) -> usize {
        self.0 as usize & mask
    }

    /// The upper bits of a slot.
    fn mark(self) -> u32 {
        (self.0 >> 16) as u32 & !INDEX
    }
}

/// Where an id was looked for.
pub(super) struct Found<'s> {
    /// The entry of the id, or another one.
    pub entry: &'s Entry,
    /// True if it is the entry of the id.
    pub known: bool,
}

/// Entries and their index.
#[derive(Default)]
pub(super) struct Shard {
    entries: Box<[Entry]>,
    /// As many as a power of two, at least twice as many as entries.
    slots: Box<[u32]>,
    plain: usize,
    foreign: usize,
    stubs: usize,
}

impl Shard {
    /// Packs entries whose ids are all different, at most [`MAX_KEYS`] and [`MAX_STUBS`].
    pub(super) fn new(entries: Vec<Entry>, seed: u64) -> Self {
        if entries.is_empty() {
            return Self::default();
        }
        let mut slots = vec![FREE; (2 * entries.len()).next_power_of_two()].into_boxed_slice();
        let mask = slots.len() - 1;
        for (index, entry) in (0u32..).zip(&entries) {
            let hash = Hash::of(&entry.id, seed);
            // Half of the slots stay free, so one is found.
            let free = (0..=mask).map(|step| (hash.slot(mask) + step) & mask).find(|at| slots.get(*at) == Some(&FREE));
            if let Some(slot) = free.and_then(|at| slots.get_mut(at)) {
                *slot = hash.mark() | index;
            }
        }
        let count = |kind| entries.iter().filter(|entry| entry.has(kind)).count();
        let (plain, foreign) = (count(Kind::Plain), count(Kind::Foreign));
        let stubs = entries.iter().filter(|entry| entry.is_stub()).count();
        Self { plain, foreign, stubs, slots, entries: entries.into_boxed_slice() }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Keys with a secret that is kept as its plain SHA-256.
    pub(super) fn plain(&self) -> usize {
        self.plain
    }

    /// Keys that were revoked and of which nothing else is kept.
    pub(super) fn stubs(&self) -> usize {
        self.stubs
    }

    /// Keys with a secret that cannot be checked.
    pub(super) fn foreign(&self) -> usize {
        self.foreign
    }

    /// The entry of an id.
    pub(super) fn get(&self, id: &IdBytes, hash: Hash) -> Option<&Entry> {
        let mask = self.slots.len().checked_sub(1)?;
        for step in 0..=mask {
            let slot = *self.slots.get((hash.slot(mask) + step) & mask)?;
            if slot == FREE {
                return None;
            }
            if slot & !INDEX == hash.mark()
                && let Some(entry) = self.entries.get((slot & INDEX) as usize).filter(|entry| entry.id == *id)
            {
                return Some(entry);
            }
        }
        None
    }

    /// The entry of an id, or some entry as cold as that one would be; `None`: the shard is empty.
    pub(super) fn find(&self, id: &IdBytes, hash: Hash) -> Option<Found<'_>> {
        if let Some(entry) = self.get(id, hash) {
            return Some(Found { entry, known: true });
        }
        // Which one comes out of what the index says: else the processor would fetch it ahead, and an unknown id would
        // take 60 ns less than a known one.
        let mask = self.slots.len().checked_sub(1)?;
        let slot = black_box(*self.slots.get(hash.slot(mask))?);
        let decoy = hash.slot(usize::MAX).wrapping_add(slot as usize).checked_rem(self.entries.len())?;
        // Compared though it cannot be equal: the id is on another cache line than the digest, and both are read then.
        self.entries.get(decoy).map(|entry| Found { entry, known: entry.id == *id })
    }
}
