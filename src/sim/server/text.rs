//! What a simulated engine says and how it counts: tokens of a prompt, its block hashes, the words of the answer. All
//! of it follows from the prompt alone, so equal requests get equal answers on every engine.

use crate::domain::units::Tokens;
use crate::sim::engine::BlockHash;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes that count as one token.
pub(super) const TOKEN_BYTES: usize = 4;
/// Shortest and longest answer where the engine itself ends it.
const NATURAL: (u64, u64) = (16, 128);
/// One token in so many carries no text: real engines hold text back while a UTF-8 letter is incomplete.
const SILENT_ONE_IN: u64 = 17;

/// Pseudo words; some have letters of two to four bytes, so that splits inside letters happen.
const WORDS: [&str; 32] = [
    " the",
    " weir",
    " holds",
    " back",
    " water",
    " and",
    " lets",
    " it",
    " flow",
    " over",
    " a",
    " low",
    " stone",
    " crest",
    " café",
    " naïve",
    " über",
    " стройка",
    " 水",
    " 流れ",
    " 🌊",
    " river",
    " gate",
    " level",
    " spill",
    " of",
    " in",
    " under",
    " measured",
    " slowly",
    " again",
    ".",
];

/// Mixes a number (splitmix64's finaliser).
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Tokens of a prompt: a quarter of its bytes, rounded up, one at least.
pub(super) fn count(prompt: &str) -> Tokens {
    Tokens((prompt.len().div_ceil(TOKEN_BYTES) as u64).max(1))
}

/// The hash that everything random about an answer follows from.
pub(super) fn seed(prompt: &str) -> u64 {
    xxh3_64_with_seed(prompt.as_bytes(), 0)
}

/// Chained hashes of the prompt's full blocks. `namespace` is what else the cache is keyed by: model and cache salt.
pub(super) fn chain(prompt: &str, namespace: &str, block_tokens: u64) -> Arc<[BlockHash]> {
    let block_bytes = usize::try_from(block_tokens).unwrap_or(usize::MAX).saturating_mul(TOKEN_BYTES).max(1);
    let mut parent = seed(namespace);
    prompt
        .as_bytes()
        .chunks_exact(block_bytes)
        .map(|block| {
            parent = xxh3_64_with_seed(block, parent);
            BlockHash(parent)
        })
        .collect()
}

/// How long the answer is where only the engine itself ends it.
pub(super) fn natural_length(seed: u64) -> Tokens {
    Tokens(NATURAL.0 + mixed(seed) % (NATURAL.1 - NATURAL.0 + 1))
}

/// The text of token `index` of choice `choice`; empty now and then.
pub(super) fn word(seed: u64, choice: usize, index: u64) -> &'static str {
    let roll = mixed(seed ^ mixed(index ^ ((choice as u64) << 48)));
    if index > 0 && roll.is_multiple_of(SILENT_ONE_IN) {
        return "";
    }
    let word = WORDS[(roll >> 8) as usize % WORDS.len()];
    if index == 0 { word.trim_start() } else { word }
}

/// An embedding: unit vector of `dimensions` numbers that follows from the text.
pub(super) fn embedding(text: &str, dimensions: usize) -> Vec<f32> {
    let seed = seed(text);
    let raw: Vec<f32> =
        (0..dimensions as u64).map(|i| (mixed(seed ^ i) >> 40) as f32 / (1_u64 << 23) as f32 - 1.0).collect();
    let norm = raw.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    raw.into_iter().map(|x| x / norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_share_the_blocks_of_their_common_beginning_only() {
        let (a, b) =
            (format!("{}{}", "x".repeat(128), "a".repeat(64)), format!("{}{}", "x".repeat(128), "b".repeat(64)));
        let (a, b) = (chain(&a, "m", 16), chain(&b, "m", 16));
        assert_eq!(a.len(), 3, "three blocks of 64 bytes");
        assert_eq!((&a[..2], a[2] == b[2]), (&b[..2], false), "two shared blocks, then none");
    }

    #[test]
    fn another_salt_is_another_cache() {
        let prompt = "x".repeat(64);
        assert_ne!(chain(&prompt, "m\0a", 16), chain(&prompt, "m\0b", 16), "the salt is part of every hash");
    }

    #[test]
    fn a_block_is_equal_only_where_everything_before_it_is_equal() {
        let (a, b) = (format!("{}{}", "a".repeat(64), "x".repeat(64)), format!("{}{}", "b".repeat(64), "x".repeat(64)));
        assert_ne!(chain(&a, "", 16)[1], chain(&b, "", 16)[1], "hashes are chained");
    }

    #[test]
    fn some_tokens_are_silent_but_never_the_first() {
        let silent = (0..1_000).filter(|index| word(7, 0, *index).is_empty()).count();
        assert!((20..120).contains(&silent), "about one in {SILENT_ONE_IN}, got {silent}");
        assert!((0..1_000).all(|seed| !word(seed, 0, 0).is_empty()), "the first token has text");
    }

    #[test]
    fn natural_lengths_stay_in_their_range() {
        assert!((0..1_000).all(|seed| (16..=128).contains(&natural_length(seed).0)), "16 to 128");
    }
}
