//! The name of a prompt's prefix: a chain of 64-bit hashes over chunks of 256 bytes. It decides which bytes make a
//! block; it does not know what is cached where.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of prompt text in a block.
pub const BLOCK_BYTES: usize = 256;

/// Tokens that a block stands for, at four bytes a token (insensitive: an error of 20 % costs nothing).
pub const BLOCK_TOKENS: u64 = 64;

/// Blocks of one prompt that are looked at: 4 MiB of text, a million tokens. What lies beyond is never shared alone.
pub const MAX_BLOCKS: usize = 16_384;

/// Hashes the prompt: block `i` is named by `xxh3(chunk_i, seed = name of block i-1)`, so equal names mean equal
/// prefixes. The chain starts from `namespace` (model, and tenant where tenants are kept apart). `parts` count as one
/// text; a last chunk that is not full is no block, since the next turn would change it.
#[must_use]
pub fn chain<'a>(namespace: &[&[u8]], parts: impl Iterator<Item = &'a [u8]>) -> Vec<u64> {
    let mut last = namespace.iter().fold(0, |seed, name| xxh3_64_with_seed(name, seed ^ name.len() as u64));
    let mut blocks = Vec::new();
    let mut straddle = [0_u8; BLOCK_BYTES];
    let mut filled = 0;
    for mut part in parts {
        if filled > 0 {
            let taken = part.len().min(BLOCK_BYTES - filled);
            straddle[filled..filled + taken].copy_from_slice(&part[..taken]);
            filled += taken;
            part = &part[taken..];
            if filled < BLOCK_BYTES {
                continue;
            }
            last = xxh3_64_with_seed(&straddle, last);
            blocks.push(last);
        }
        let chunks = part.chunks_exact(BLOCK_BYTES);
        let rest = chunks.remainder();
        for chunk in chunks.take(MAX_BLOCKS.saturating_sub(blocks.len())) {
            last = xxh3_64_with_seed(chunk, last);
            blocks.push(last);
        }
        if blocks.len() >= MAX_BLOCKS {
            break;
        }
        straddle[..rest.len()].copy_from_slice(rest);
        filled = rest.len();
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &[u8]) -> Vec<u64> {
        chain(&[b"m"], std::iter::once(text))
    }

    proptest! {
        #[test]
        fn the_cut_into_parts_is_invisible(text in prop::collection::vec(any::<u8>(), 0..1500), cuts in prop::collection::vec(0_usize..1500, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.push(0);
            cuts.push(text.len());
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(chain(&[b"m"], parts.into_iter()), one(&text), "parts are one text");
        }
    }

    #[test]
    fn a_longer_prompt_keeps_the_names_of_its_beginning() {
        let text = [7_u8; 3 * BLOCK_BYTES + 10];
        let long = one(&text);
        assert_eq!(long.len(), 3, "the last chunk is not full and is no block");
        assert_eq!(one(&text[..2 * BLOCK_BYTES])[..], long[..2], "a prefix has the same names");
        assert_ne!(long[0], long[1], "equal chunks at different depths differ");
    }

    #[test]
    fn an_early_change_renames_everything_behind_it() {
        let mut text = [7_u8; 3 * BLOCK_BYTES];
        let before = one(&text);
        text[BLOCK_BYTES] = 8;
        let after = one(&text);
        assert_eq!(before[0], after[0], "the block before the change stays");
        assert!(before[1] != after[1] && before[2] != after[2], "both blocks from the change on are others");
    }

    #[test]
    fn namespaces_share_nothing() {
        let text = [7_u8; BLOCK_BYTES];
        let of = |names: &[&[u8]]| chain(names, std::iter::once(&text[..]));
        assert_ne!(of(&[b"m", b"a"]), of(&[b"m", b"b"]), "tenants are apart");
        assert_ne!(of(&[b"ma", b"b"]), of(&[b"m", b"ab"]), "names do not run into each other");
    }

    #[test]
    fn a_prompt_is_hashed_up_to_the_bound() {
        let text = vec![1_u8; (MAX_BLOCKS + 3) * BLOCK_BYTES];
        assert_eq!(one(&text).len(), MAX_BLOCKS, "one part");
        let halves = [&text[..100], &text[100..]];
        assert_eq!(chain(&[b"m"], halves.into_iter()).len(), MAX_BLOCKS, "two parts");
    }
}
