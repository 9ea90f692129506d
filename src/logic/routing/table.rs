//! A flat open-addressing table from 64-bit hashes to a few words. Its size is fixed at the start: no growth means no
//! pause under the pool's lock and a byte budget that holds exactly; pages are taken only as they are written to.

/// Linear probing, backward-shift deletion (no tombstones). The caller keeps it at most three quarters full.
#[derive(Debug)]
pub(super) struct Table {
    /// `stride` words a slot: the key (0: free), then the value.
    slots: Vec<u64>,
    stride: usize,
    mask: usize,
    len: usize,
}

impl Table {
    /// A table of `slots` (a power of two) with values of `words`.
    pub fn new(slots: usize, words: usize) -> Self {
        debug_assert!(slots.is_power_of_two(), "the mask needs a power of two");
        Self { slots: vec![0; slots * (words + 1)], stride: words + 1, mask: slots - 1, len: 0 }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes taken at most.
    pub fn bytes(&self) -> u64 {
        (self.slots.len() * size_of::<u64>()) as u64
    }

    /// The slot of a key, or the free slot where it would go. Keys are hashes already: their low bits are the place.
    fn slot(&self, key: u64) -> (usize, bool) {
        let mut at = key as usize & self.mask;
        loop {
            let found = self.slots[at * self.stride];
            if found == key {
                return (at, true);
            }
            if found == 0 {
                return (at, false);
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Reads where these keys live, so that what is done with them next finds it in the processor's cache. The reads do
    /// not depend on each other and their misses overlap; look-ups, one at a time, would pay for each in full.
    pub fn warm(&self, keys: impl Iterator<Item = u64>) {
        let seen = keys.fold(0, |seen, key| seen ^ self.slots[(key.max(1) as usize & self.mask) * self.stride]);
        std::hint::black_box(seen);
    }

    /// One word of a key's value; 0 where the key is not there.
    pub fn word(&self, key: u64, word: usize) -> u64 {
        let (at, found) = self.slot(key.max(1));
        if found { self.slots[at * self.stride + 1 + word] } else { 0 }
    }

    /// The value of a key, made of zeros when it was not there.
    pub fn entry(&mut self, key: u64) -> &mut [u64] {
        let key = key.max(1);
        let (at, found) = self.slot(key);
        let start = at * self.stride;
        if !found {
            debug_assert!(self.len < self.mask, "the table must keep a free slot");
            self.slots[start] = key;
            self.len += 1;
        }
        &mut self.slots[start + 1..start + self.stride]
    }

    /// Removes a key and closes the gap behind it.
    pub fn remove(&mut self, key: u64) {
        let (mut hole, found) = self.slot(key.max(1));
        if !found {
            return;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask;
            let key = self.slots[at * self.stride];
            if key == 0 {
                break;
            }
            let from_home = at.wrapping_sub(key as usize & self.mask) & self.mask;
            let from_hole = at.wrapping_sub(hole) & self.mask;
            if from_home >= from_hole {
                self.slots.copy_within(at * self.stride..(at + 1) * self.stride, hole * self.stride);
                hole = at;
            }
        }
        self.slots[hole * self.stride..(hole + 1) * self.stride].fill(0);
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn it_agrees_with_a_map_under_any_order(steps in prop::collection::vec((any::<bool>(), 0_u64..20, 1_u64..9), 0..200)) {
            let mut table = Table::new(32, 2);
            let mut map: HashMap<u64, u64> = HashMap::new();
            for (insert, key, value) in steps {
                // Low bits collide on purpose, and 31 wraps around the end.
                let key = 1 + (key / 4) * 32 + [0, 1, 30, 31][(key % 4) as usize];
                if insert {
                    table.entry(key)[1] = value;
                    map.insert(key, value);
                } else {
                    table.remove(key);
                    map.remove(&key);
                }
                prop_assert_eq!(table.len(), map.len(), "as many entries");
                for near in 0..=5 * 32 {
                    prop_assert_eq!(table.word(near + 1, 1), map.get(&(near + 1)).copied().unwrap_or(0), "value of {}", near + 1);
                }
            }
        }
    }
}
