//! The set of backends that may be chosen. It decides nothing: health, drain and earlier attempts are the caller's.

/// A bit per backend of a pool, in the pool's order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Eligible {
    words: Vec<u64>,
    backends: usize,
}

impl Eligible {
    /// No backend of a pool of `backends`.
    #[must_use]
    pub fn none(backends: usize) -> Self {
        Self { words: vec![0; backends.div_ceil(64)], backends }
    }

    /// All of them.
    #[must_use]
    pub fn all(backends: usize) -> Self {
        let mut set = Self::none(backends);
        (0..backends).for_each(|backend| set.insert(backend));
        set
    }

    /// Puts a backend in; one that the pool does not have is ignored.
    pub fn insert(&mut self, backend: usize) {
        if backend < self.backends {
            self.words[backend / 64] |= 1 << (backend % 64);
        }
    }

    /// Takes a backend out, such as one that has just failed.
    pub fn remove(&mut self, backend: usize) {
        if backend < self.backends {
            self.words[backend / 64] &= !(1 << (backend % 64));
        }
    }

    /// True if the backend may be chosen.
    #[must_use]
    pub fn contains(&self, backend: usize) -> bool {
        backend < self.backends && self.words[backend / 64] >> (backend % 64) & 1 == 1
    }

    /// True if there is nobody to choose.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// How many may be chosen.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The backends, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| bits(*word).map(move |bit| at * 64 + bit))
    }

    /// The backends, from a random one on and around: whoever takes the first of equals is fair with it.
    pub fn iter_from(&self, chance: u64) -> impl Iterator<Item = usize> + '_ {
        let start = (chance % self.backends.max(1) as u64) as usize;
        (start..self.backends).chain(0..start).filter(|backend| self.contains(*backend))
    }

    /// The raw bits, 64 backends a word.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }
}

/// The set bits of a word, ascending.
pub(super) fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros() as usize;
        word &= word - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_holds_what_was_put_in_beyond_one_word() {
        let mut set = Eligible::all(70);
        set.remove(0);
        set.remove(69);
        set.insert(1_000);
        assert_eq!(set.count(), 68, "two of seventy left, and nobody came");
        assert_eq!(set.iter().collect::<Vec<_>>(), (1..69).collect::<Vec<_>>(), "ascending");
        let around: Vec<usize> = set.iter_from(68).collect();
        assert_eq!((around[0], around[1], around.len()), (68, 1, 68), "from 68, then around, each once");
        assert!(Eligible::none(3).is_empty() && !set.is_empty(), "emptiness");
    }
}
