//! The KV cache of one engine as counts of blocks: which prefix blocks can be hit, which are held, and which goes first
//! when room is needed. It does not know sequences or time.

use rustc_hash::FxHashMap;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Chained hash of a prefix block: equal hashes mean equal text from the start of the prompt to the block's end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BlockHash(pub u64);

#[derive(Debug)]
struct Cached {
    refs: u32,
    depth: u32,
    idle_since: u64,
}

/// Counts of blocks, all within `capacity`: private to a sequence, cached and held, cached and idle (evictable).
#[derive(Debug)]
pub(super) struct Blocks {
    capacity: u64,
    private: u64,
    held: u64,
    cached: FxHashMap<BlockHash, Cached>,
    /// Unreferenced cached blocks in the order of eviction: least recently released first, then deepest first, so
    /// that no block outlives the one before it.
    idle: BTreeSet<(u64, Reverse<u32>, BlockHash)>,
    releases: u64,
}

impl Blocks {
    pub(super) fn new(capacity: u64) -> Self {
        Self { capacity, private: 0, held: 0, cached: FxHashMap::default(), idle: BTreeSet::new(), releases: 0 }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Blocks that sequences hold; the idle ones count as free, as in vLLM's `kv_cache_usage_perc`.
    pub(super) fn used(&self) -> u64 {
        self.private + self.held
    }

    /// Cached blocks, held or idle.
    #[cfg(test)]
    pub(super) fn cached(&self) -> usize {
        self.cached.len()
    }

    fn available(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }

    /// How many blocks from the start of `chain` can be hit.
    pub(super) fn matched(&self, chain: &[BlockHash]) -> usize {
        chain.iter().take_while(|hash| self.cached.contains_key(hash)).count()
    }

    /// Holds the cached blocks `hits` and takes `fresh` private ones; all or nothing.
    pub(super) fn admit(&mut self, hits: &[BlockHash], fresh: u64) -> bool {
        let woken = hits.iter().filter(|hash| self.cached.get(hash).is_some_and(|block| block.refs == 0)).count();
        if self.available() < fresh + woken as u64 {
            return false;
        }
        for hash in hits {
            self.hold(*hash);
        }
        self.take(fresh)
    }

    /// Takes `fresh` private blocks, evicting idle ones as needed; nothing happens if they do not fit.
    pub(super) fn take(&mut self, fresh: u64) -> bool {
        if self.available() < fresh {
            return false;
        }
        self.private += fresh;
        while self.private + self.cached.len() as u64 > self.capacity {
            let Some((_, _, hash)) = self.idle.pop_first() else { break };
            self.cached.remove(&hash);
        }
        true
    }

    /// A private block has been computed and can be hit from now on. If another sequence was faster with the same
    /// text, its copy is shared and ours is given back.
    pub(super) fn commit(&mut self, hash: BlockHash, depth: usize) {
        self.private -= 1;
        if self.cached.contains_key(&hash) {
            self.hold(hash);
            return;
        }
        let depth = u32::try_from(depth).unwrap_or(u32::MAX);
        self.cached.insert(hash, Cached { refs: 1, depth, idle_since: 0 });
        self.held += 1;
    }

    fn hold(&mut self, hash: BlockHash) {
        let Some(block) = self.cached.get_mut(&hash) else { return };
        if block.refs == 0 {
            self.idle.remove(&(block.idle_since, Reverse(block.depth), hash));
            self.held += 1;
        }
        block.refs += 1;
    }

    /// Gives back what a sequence held: its cached blocks become idle unless others hold them too.
    pub(super) fn release(&mut self, held: &[BlockHash], private: u64) {
        self.releases += 1;
        self.private -= private;
        for hash in held {
            let Some(block) = self.cached.get_mut(hash) else { continue };
            block.refs -= 1;
            if block.refs == 0 {
                block.idle_since = self.releases;
                self.idle.insert((self.releases, Reverse(block.depth), *hash));
                self.held -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(from: u64, n: u64) -> Vec<BlockHash> {
        (from..from + n).map(BlockHash).collect()
    }

    fn computed(blocks: &mut Blocks, chain: &[BlockHash]) {
        assert!(blocks.take(chain.len() as u64), "the chain must fit");
        for (depth, hash) in chain.iter().enumerate() {
            blocks.commit(*hash, depth);
        }
    }

    #[test]
    fn the_least_recently_released_chain_goes_first_and_its_deepest_block_before_the_rest() {
        let mut blocks = Blocks::new(6);
        let (old, new) = (chain(10, 3), chain(20, 3));
        computed(&mut blocks, &old);
        computed(&mut blocks, &new);
        blocks.release(&old, 0);
        blocks.release(&new, 0);
        assert!(blocks.take(1), "an idle block makes room");
        assert_eq!((blocks.matched(&old), blocks.matched(&new)), (2, 3), "the old chain lost its tail only");
        assert!(blocks.take(2), "two more");
        assert_eq!((blocks.matched(&old), blocks.matched(&new)), (0, 3), "the old chain is gone, the new one whole");
    }

    #[test]
    fn a_held_block_is_never_evicted() {
        let mut blocks = Blocks::new(3);
        let held = chain(1, 3);
        computed(&mut blocks, &held);
        assert!(!blocks.take(1), "everything is held");
        assert_eq!(blocks.matched(&held), 3, "a refused take changes nothing");
    }

    #[test]
    fn admission_is_all_or_nothing_and_counts_the_idle_blocks_that_it_wakes() {
        let mut blocks = Blocks::new(4);
        let prefix = chain(1, 3);
        computed(&mut blocks, &prefix);
        blocks.release(&prefix, 0);
        assert!(!blocks.admit(&prefix, 2), "3 woken + 2 fresh do not fit into 4");
        assert_eq!(blocks.used(), 0, "nothing is held after a refusal");
        assert!(blocks.admit(&prefix, 1), "3 woken + 1 fresh fit");
        assert_eq!(blocks.used(), 4, "all four are held");
    }

    #[test]
    fn two_copies_of_the_same_text_become_one_block() {
        let mut blocks = Blocks::new(4);
        assert!(blocks.take(2), "two sequences compute the same block");
        blocks.commit(BlockHash(7), 0);
        blocks.commit(BlockHash(7), 0);
        assert_eq!((blocks.used(), blocks.cached()), (1, 1), "the second copy is given back");
        blocks.release(&[BlockHash(7)], 0);
        assert_eq!(blocks.used(), 1, "the other sequence still holds it");
    }
}
