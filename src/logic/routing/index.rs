//! What each backend's KV cache holds, as far as Weir can tell: block names to backend sets, and per backend an LRU
//! mirror of the engine's cache. It decides what is evicted from the mirror; it does not decide where a request goes.
//!
//! One flat table names the backends of each block; a second one leads from (block, backend) to a node of that
//! backend's LRU list. Blocks of running requests are pinned: they are off the list and are never evicted, as in the
//! engine. A request's blocks are pinned from the root down and return to the list from the deepest up, so a
//! parent is always younger than its children, and every backend's blocks are closed under prefixes. The gallop relies
//! on that. One exception: [`Fate::Truncate`] may orphan the blocks of another branch; they can be matched too
//! deep until they age out or the next answer corrects them.

use super::eligible::{Eligible, bits};
use super::table::Table;
use crate::domain::units::Micros;

/// Backends of one indexed pool at most (nodes carry their backend in 16 bits).
pub const MAX_BACKENDS: usize = 4_096;

/// Evictions per insertion at most, so that a mirror that was told to shrink does so without a pause.
const EVICT_STEP: usize = 2;

/// A mirror never learns to be smaller than this fraction of the configured capacity.
const CAPACITY_FLOOR: usize = 8;

/// "No node."
const NIL: u32 = u32::MAX;

/// The prefix index of one pool.
#[derive(Debug)]
pub struct Index {
    /// Block name → bit per backend.
    blocks: Table,
    /// Block name and backend → node.
    held: Table,
    nodes: Vec<Node>,
    free: u32,
    mirrors: Vec<Mirror>,
    words: usize,
}

/// A block in a backend's cache.
#[derive(Clone, Copy, Debug)]
struct Node {
    hash: u64,
    touched: Micros,
    older: u32,
    newer: u32,
    /// Running requests that use it; while above zero it is on no list.
    pins: u32,
    backend: u16,
    /// Some request has had output after it: the engine has computed this block.
    confirmed: bool,
}

/// One backend's cache: the list of its unpinned blocks, and how many it may hold.
#[derive(Clone, Debug)]
struct Mirror {
    newest: u32,
    oldest: u32,
    held: usize,
    pinned: usize,
    capacity: usize,
    configured: usize,
    /// Counts [`Index::clear`]: pins from before it are void.
    epoch: u32,
}

/// The blocks that a request has pinned; owed back to [`Index::unpin`].
#[must_use = "pinned blocks are never evicted: give them back with unpin"]
#[derive(Debug, Default)]
pub struct Pins {
    nodes: Box<[u32]>,
    epoch: u32,
    /// How many of them, from the root, the engine is known to have computed.
    pub confirmed: u32,
}

/// What becomes of a request's blocks when it ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Prefill is done: they are in the cache.
    Keep,
    /// Prefill was not finished: those that nobody has confirmed or uses are not there.
    RollBack,
    /// The engine contradicted us: it had only this many of them.
    Truncate(usize),
}

impl Index {
    /// An index for backends that hold `capacities` blocks each, within `budget` bytes (mirrors shrink in proportion
    /// where they do not fit). `None` where the budget is too small for anything, or there are over [`MAX_BACKENDS`].
    #[must_use]
    pub fn new(capacities: &[usize], budget: u64) -> Option<Self> {
        let words = capacities.len().div_ceil(64);
        let wanted = capacities.iter().fold(0_usize, |sum, capacity| sum.saturating_add(*capacity));
        if wanted == 0 || capacities.len() > MAX_BACKENDS {
            return None;
        }
        let slot = (words + 1 + 2) * size_of::<u64>() + size_of::<Node>() * 3 / 4;
        let affordable = usize::try_from(budget).unwrap_or(usize::MAX) / slot;
        if affordable < 16 {
            return None;
        }
        let most = 1_usize << affordable.ilog2().min(31);
        let slots = wanted.saturating_mul(4).div_ceil(3).min(most).max(16).next_power_of_two().min(most);
        let limit = wanted.min(slots * 3 / 4);
        let share = |capacity: usize| (capacity as u128 * limit as u128 / wanted as u128) as usize;
        Some(Self {
            blocks: Table::new(slots, words),
            held: Table::new(slots, 1),
            nodes: Vec::with_capacity(limit),
            free: NIL,
            mirrors: capacities.iter().map(|capacity| Mirror::new(share(*capacity))).collect(),
            words,
        })
    }

    /// Writes to `depths` how many blocks of `chain`, from the root, each of the backends holds (0 for others).
    /// Gallops: membership only shrinks with depth, so it probes depths 1, 10, 28, 64, … and halves the intervals in
    /// which a backend drops out: O(log depth × distinct depths) probes.
    pub fn depths(&self, chain: &[u64], eligible: &Eligible, depths: &mut [u32]) {
        depths.fill(0);
        for (word, wanted) in eligible.words().iter().take(self.words).enumerate() {
            Gallop { blocks: &self.blocks, chain, word, depths }.run(*wanted);
        }
    }

    /// Pins the chain on a backend from the root down, inserting what is missing (speculatively: before the engine
    /// has computed it). Ends early where everything the mirror holds is pinned.
    pub fn pin(&mut self, backend: usize, chain: &[u64]) -> Pins {
        let mut nodes = Vec::with_capacity(chain.len());
        let mut confirmed = 0;
        self.held.warm(chain.iter().map(|hash| Self::pair(backend, *hash)));
        let known = chain.iter().take_while(|hash| self.find(backend, **hash).is_some()).count();
        for (depth, &hash) in chain.iter().enumerate() {
            if depth == known {
                // The known ones are pinned by now, so that they do not make room for their own children.
                self.make_room(backend, chain.len() - known);
                self.blocks.warm(chain[known..].iter().copied());
            }
            let Some(at) = self.find(backend, hash).or_else(|| self.insert(backend, hash)) else { break };
            if self.nodes[at as usize].pins == 0 {
                self.unlink(backend, at);
                self.mirrors[backend].pinned += 1;
            }
            let node = &mut self.nodes[at as usize];
            node.pins += 1;
            if node.confirmed && confirmed == depth {
                confirmed += 1;
            }
            nodes.push(at);
        }
        Pins { nodes: nodes.into(), epoch: self.mirrors[backend].epoch, confirmed: confirmed as u32 }
    }

    /// Prefill is done: the engine has computed these blocks.
    pub fn confirm(&mut self, backend: usize, pins: &Pins) {
        if pins.epoch == self.mirrors[backend].epoch {
            pins.nodes.iter().for_each(|at| self.nodes[*at as usize].confirmed = true);
        }
    }

    /// Gives pinned blocks back, the deepest first, so that the deepest are evicted first.
    pub fn unpin(&mut self, backend: usize, pins: Pins, fate: Fate, now: Micros) {
        if pins.epoch != self.mirrors[backend].epoch {
            return;
        }
        for (depth, &at) in pins.nodes.iter().enumerate().rev() {
            let node = &mut self.nodes[at as usize];
            node.pins -= 1;
            node.confirmed |= fate == Fate::Keep;
            if node.pins > 0 {
                continue;
            }
            node.touched = now;
            let stays = match fate {
                Fate::Keep => true,
                Fate::RollBack => node.confirmed,
                Fate::Truncate(actual) => depth < actual,
            };
            self.mirrors[backend].pinned -= 1;
            self.link(backend, at);
            if !stays {
                self.evict(backend, at);
            }
        }
    }

    /// The engine held less than we thought: its mirror gets a sixteenth smaller, down to an eighth.
    pub fn shrink(&mut self, backend: usize) {
        let mirror = &mut self.mirrors[backend];
        let floor = (mirror.configured / CAPACITY_FLOOR).max(1);
        mirror.capacity = (mirror.capacity - mirror.capacity / 16).max(floor).min(mirror.configured);
    }

    /// The engine held what we thought: its mirror grows back a little, up to the configured size.
    pub fn grow(&mut self, backend: usize) {
        let mirror = &mut self.mirrors[backend];
        mirror.capacity = (mirror.capacity + mirror.configured / 256 + 1).min(mirror.configured);
    }

    /// Forgets a backend's blocks, such as after its restart. Pins of running requests become void.
    pub fn clear(&mut self, backend: usize) {
        for at in 0..self.nodes.len() {
            let node = self.nodes[at];
            if usize::from(node.backend) == backend && node.pins != NIL {
                if node.pins == 0 {
                    self.unlink(backend, at as u32);
                }
                self.forget(backend, at as u32);
            }
        }
        let mirror = &mut self.mirrors[backend];
        mirror.pinned = 0;
        mirror.epoch = mirror.epoch.wrapping_add(1);
    }

    /// How long ago the block was last used that `more` new blocks would evict first; `None` while there is room.
    #[must_use]
    pub fn eviction_age(&self, backend: usize, more: usize, now: Micros) -> Option<Micros> {
        let mirror = &self.mirrors[backend];
        if mirror.held + more <= mirror.capacity {
            return None;
        }
        Some(self.nodes.get(mirror.oldest as usize).map_or(Micros(0), |node| now - node.touched))
    }

    /// Blocks that a backend holds.
    #[must_use]
    pub fn held(&self, backend: usize) -> usize {
        self.mirrors[backend].held
    }

    /// Blocks of a backend that running requests use, each counted once.
    #[must_use]
    pub fn active(&self, backend: usize) -> usize {
        self.mirrors[backend].pinned
    }

    /// Blocks that a backend may hold now.
    #[must_use]
    pub fn capacity(&self, backend: usize) -> usize {
        self.mirrors[backend].capacity
    }

    /// Different blocks in the index.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Bytes taken at most, once every page has been written to.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks.bytes() + self.held.bytes() + (self.nodes.capacity() * size_of::<Node>()) as u64
    }

    /// Distinct for each backend of the same block: for one backend a bijection of the name.
    fn pair(backend: usize, hash: u64) -> u64 {
        hash ^ (backend as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn find(&self, backend: usize, hash: u64) -> Option<u32> {
        let at = self.held.word(Self::pair(backend, hash), 0).checked_sub(1)? as u32;
        let node = self.nodes.get(at as usize)?;
        (node.hash == hash && usize::from(node.backend) == backend).then_some(at)
    }

    /// Evicts the oldest blocks, as far as `more` new ones need their places.
    fn make_room(&mut self, backend: usize, more: usize) {
        let mirror = &self.mirrors[backend];
        let excess = (mirror.held + more).saturating_sub(mirror.capacity).min(more * EVICT_STEP);
        let younger = |at: &u32| Some(self.nodes[*at as usize].newer).filter(|at| *at != NIL);
        let oldest = Some(mirror.oldest).filter(|at| *at != NIL);
        let victims: Vec<u32> = std::iter::successors(oldest, younger).take(excess).collect();
        let hashes = || victims.iter().map(|at| self.nodes[*at as usize].hash);
        self.held.warm(hashes().map(|hash| Self::pair(backend, hash)));
        self.blocks.warm(hashes());
        victims.iter().for_each(|at| self.evict(backend, *at));
    }

    /// Adds a block. `None`: the mirror is full, and everything in it is pinned.
    fn insert(&mut self, backend: usize, hash: u64) -> Option<u32> {
        if self.mirrors[backend].held >= self.mirrors[backend].configured {
            return None;
        }
        let key = Self::pair(backend, hash);
        if self.held.word(key, 0) != 0 {
            // Another (block, backend) has the same 64 bits: not worth a place of its own.
            return None;
        }
        let backend_bits = u16::try_from(backend).ok()?;
        let node =
            Node { hash, touched: Micros(0), older: NIL, newer: NIL, pins: 0, backend: backend_bits, confirmed: false };
        let at = if self.free == NIL {
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        } else {
            let at = self.free;
            self.free = self.nodes[at as usize].older;
            self.nodes[at as usize] = node;
            at
        };
        self.held.entry(key)[0] = u64::from(at) + 1;
        self.blocks.entry(hash)[backend / 64] |= 1 << (backend % 64);
        self.mirrors[backend].held += 1;
        self.link(backend, at);
        Some(at)
    }

    fn evict(&mut self, backend: usize, at: u32) {
        self.unlink(backend, at);
        self.forget(backend, at);
    }

    /// Takes an unlinked node out of both tables and gives it to the free list.
    fn forget(&mut self, backend: usize, at: u32) {
        let hash = self.nodes[at as usize].hash;
        self.held.remove(Self::pair(backend, hash));
        let mask = self.blocks.entry(hash);
        mask[backend / 64] &= !(1 << (backend % 64));
        if mask.iter().all(|word| *word == 0) {
            self.blocks.remove(hash);
        }
        let node = &mut self.nodes[at as usize];
        // The mark of a free node, for `clear`.
        node.pins = NIL;
        node.older = self.free;
        self.free = at;
        self.mirrors[backend].held -= 1;
    }

    /// Puts a node at the young end of its backend's list.
    fn link(&mut self, backend: usize, at: u32) {
        let newest = std::mem::replace(&mut self.mirrors[backend].newest, at);
        let node = &mut self.nodes[at as usize];
        node.older = newest;
        node.newer = NIL;
        match self.nodes.get_mut(newest as usize) {
            Some(former) => former.newer = at,
            None => self.mirrors[backend].oldest = at,
        }
    }

    fn unlink(&mut self, backend: usize, at: u32) {
        let Node { older, newer, .. } = self.nodes[at as usize];
        match self.nodes.get_mut(older as usize) {
            Some(node) => node.newer = newer,
            None => self.mirrors[backend].oldest = newer,
        }
        match self.nodes.get_mut(newer as usize) {
            Some(node) => node.older = older,
            None => self.mirrors[backend].newest = older,
        }
    }
}

impl Mirror {
    fn new(capacity: usize) -> Self {
        Self { newest: NIL, oldest: NIL, held: 0, pinned: 0, capacity, configured: capacity, epoch: 0 }
    }
}

/// A look-up of one word (64 backends) along a chain.
struct Gallop<'a> {
    blocks: &'a Table,
    chain: &'a [u64],
    word: usize,
    depths: &'a mut [u32],
}

impl Gallop<'_> {
    fn run(mut self, wanted: u64) {
        let (mut near, mut here, mut far) = (0, wanted, 1);
        while here != 0 && near < self.chain.len() {
            far = far.min(self.chain.len());
            let there = here & self.at(far);
            self.split(near, here, far, there);
            (near, here, far) = (far, there, 2 * far + 8);
        }
        self.settle(here, near);
    }

    /// The backends that hold block number `depth`, counted from 1.
    fn at(&self, depth: usize) -> u64 {
        self.blocks.word(self.chain[depth - 1], self.word)
    }

    /// Between `near` (held by `here`) and `far` (held by `there`), finds the depth of those that drop out.
    fn split(&mut self, near: usize, here: u64, far: usize, there: u64) {
        if here == there {
            return;
        }
        if far - near == 1 {
            self.settle(here & !there, near);
            return;
        }
        let middle = near + (far - near) / 2;
        let between = here & self.at(middle) | there;
        self.split(near, here, middle, between);
        self.split(middle, between, far, there);
    }

    fn settle(&mut self, backends: u64, depth: usize) {
        for bit in bits(backends) {
            self.depths[self.word * 64 + bit] = depth as u32;
        }
    }
}

#[cfg(test)]
mod tests;
