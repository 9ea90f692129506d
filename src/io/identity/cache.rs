//! Tokens whose signature has been checked: who they stand for, until when, under which keys. Decides whether one still
//! counts; keyed by the hash of the whole token, never by a part of it.

use crate::domain::principal::Principal;
use crate::domain::units::WallMicros;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

/// Tokens kept at most, where none is larger than [`UNIT`].
const MAX_TOKENS: usize = 100_000;
/// A larger token counts as several: its claims are kept with it, at up to ten times its size.
const UNIT: usize = 1024;

/// SHA-256 of a whole token.
pub(super) type TokenHash = [u8; 32];

/// The hash under which a token is kept.
pub(super) fn hash(token: &[u8]) -> TokenHash {
    Sha256::digest(token).into()
}

/// A token that was checked.
#[derive(Clone)]
pub(super) struct Verified {
    /// Who it stands for.
    pub(super) principal: Principal,
    /// It holds from this on.
    pub(super) from: WallMicros,
    /// It holds before this.
    pub(super) until: WallMicros,
    /// The generation of the keys that it was checked with.
    pub(super) generation: u64,
}

#[derive(Clone)]
struct Entry {
    verified: Verified,
    units: u32,
}

#[derive(Clone, Copy)]
struct Units;

impl Weighter<TokenHash, Entry> for Units {
    fn weight(&self, _: &TokenHash, entry: &Entry) -> u64 {
        entry.units.into()
    }
}

/// Verified tokens of one issuer.
pub(super) struct TokenCache(Cache<TokenHash, Entry, Units>);

impl TokenCache {
    pub(super) fn new() -> Self {
        Self(Cache::with_weighter(MAX_TOKENS, MAX_TOKENS as u64, Units))
    }

    /// The principal of a token that was verified with the keys of `generation` and holds `now`.
    pub(super) fn get(&self, token: &TokenHash, now: WallMicros, generation: u64) -> Option<Principal> {
        let entry = self.0.get(token)?.verified;
        let holds = entry.generation == generation && now < entry.until && now >= entry.from;
        holds.then_some(entry.principal)
    }

    /// Keeps a token of `length` bytes.
    pub(super) fn put(&self, token: TokenHash, length: usize, verified: Verified) {
        let units = u32::try_from(length.div_ceil(UNIT)).unwrap_or(u32::MAX);
        self.0.insert(token, Entry { verified, units });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(from: i64, until: i64, generation: u64) -> Verified {
        let principal = Principal::anonymous();
        Verified { principal, from: WallMicros(from), until: WallMicros(until), generation }
    }

    #[test]
    fn a_token_counts_between_its_times_and_under_its_keys() {
        let cache = TokenCache::new();
        let token = hash(b"a.b.c");
        cache.put(token, 5, verified(10, 20, 3));
        let known = |now, generation| cache.get(&token, WallMicros(now), generation).is_some();
        assert!(known(10, 3) && known(19, 3), "while it holds");
        assert!(!known(20, 3), "not when it is over");
        assert!(!known(9, 3), "nor before it begins, should the clock go back");
        assert!(!known(15, 4), "nor under other keys");
        assert!(cache.get(&hash(b"a.b.d"), WallMicros(15), 3).is_none(), "another token");
    }

    #[test]
    fn it_does_not_grow_past_its_bound() {
        let cache = TokenCache::new();
        for number in 0..(MAX_TOKENS as u64 / 8 * 2) {
            cache.put(hash(&number.to_le_bytes()), 8 * UNIT, verified(0, 9, 0));
        }
        assert!(cache.0.weight() <= MAX_TOKENS as u64, "large tokens count as several: {}", cache.0.weight());
        assert!(cache.0.len() <= MAX_TOKENS / 8, "{} tokens", cache.0.len());
    }
}
