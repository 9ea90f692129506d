use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn chain(document: u64, len: u64) -> Vec<u64> {
    (1..=len).map(|depth| (document << 32 | depth).wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect()
}

/// The obvious look-up: walk down until a block is missing.
fn linear(index: &Index, backend: usize, chain: &[u64]) -> u32 {
    chain.iter().take_while(|hash| index.find(backend, **hash).is_some()).count() as u32
}

fn depths(index: &Index, chain: &[u64]) -> Vec<u32> {
    let mut depths = vec![9; index.mirrors.len()];
    index.depths(chain, &Eligible::all(index.mirrors.len()), &mut depths);
    depths
}

fn hold(index: &mut Index, backend: usize, chain: &[u64], now: u64) {
    let pins = index.pin(backend, chain);
    index.unpin(backend, pins, Fate::Keep, Micros(now));
}

/// Chains that branch: a trunk of `shared` blocks, then a document's own.
fn branch(document: u64, shared: usize, len: usize) -> Vec<u64> {
    let mut blocks = chain(0, shared.min(len) as u64);
    blocks.extend(chain(document + 1 + ((shared as u64) << 8), (len - blocks.len()) as u64));
    blocks
}

proptest! {
    // 64 cases reach every ending at every depth; the walks make a case dear in a debug build.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn galloping_sees_what_a_linear_walk_sees(
        steps in prop::collection::vec((0_usize..70, 0_u64..4, 0_usize..60, 1_usize..90, 0_u8..4), 1..60),
        asked in (0_u64..4, 0_usize..60, 1_usize..90),
    ) {
        let mut index = Index::new(&[100; 70], MIB * 4).expect("fits");
        let mut running = Vec::new();
        for (now, (backend, document, shared, len, ending)) in steps.into_iter().enumerate() {
            let pins = index.pin(backend, &branch(document, shared, len));
            match ending {
                0 => running.push((backend, pins)),
                1 => index.unpin(backend, pins, Fate::RollBack, Micros(now as u64)),
                _ => index.unpin(backend, pins, Fate::Keep, Micros(now as u64)),
            }
        }
        let asked = branch(asked.0, asked.1, asked.2);
        let expected: Vec<u32> = (0..70).map(|backend| linear(&index, backend, &asked)).collect();
        prop_assert_eq!(depths(&index, &asked), expected, "every backend's depth");
        for (backend, pins) in running {
            index.unpin(backend, pins, Fate::RollBack, Micros(99));
        }
        for backend in 0..70 {
            prop_assert_eq!(index.active(backend), 0, "nothing is active once all have ended");
        }
    }

    #[test]
    fn the_index_stays_within_its_budget(
        capacities in prop::collection::vec(1_usize..5_000, 1..130),
        budget in 4_000_u64..400_000,
        documents in 1_u64..20,
    ) {
        let Some(mut index) = Index::new(&capacities, budget) else { return Ok(()) };
        for document in 0..documents {
            for backend in 0..capacities.len() {
                hold(&mut index, backend, &chain(document, 50), document);
                prop_assert!(index.held(backend) <= index.capacity(backend), "a mirror keeps its capacity");
            }
        }
        prop_assert!(index.bytes() <= budget, "{} of {budget} bytes", index.bytes());
    }
}

#[test]
fn the_oldest_chain_is_evicted_first_and_from_its_end() {
    let mut index = Index::new(&[6], MIB).expect("fits");
    hold(&mut index, 0, &chain(1, 3), 1);
    hold(&mut index, 0, &chain(2, 3), 2);
    hold(&mut index, 0, &chain(3, 1), 3);
    assert_eq!(depths(&index, &chain(1, 3)), [2], "the oldest loses its deepest block");
    assert_eq!(depths(&index, &chain(2, 3)), [3], "the younger loses nothing");
    hold(&mut index, 0, &chain(1, 2), 4);
    hold(&mut index, 0, &chain(4, 2), 5);
    assert_eq!(depths(&index, &chain(2, 3)), [1], "a touched chain is young again, so the other one loses");
}

#[test]
fn blocks_of_running_requests_are_never_evicted() {
    let mut index = Index::new(&[4], MIB).expect("fits");
    let pins = index.pin(0, &chain(1, 3));
    hold(&mut index, 0, &chain(2, 9), 1);
    assert_eq!(depths(&index, &chain(1, 3)), [3], "pinned blocks stay");
    assert_eq!(depths(&index, &chain(2, 9)), [1], "the other chain gets what is left");
    assert_eq!(index.active(0), 3, "three blocks are in use");
    index.unpin(0, pins, Fate::Keep, Micros(2));
    hold(&mut index, 0, &chain(2, 4), 3);
    assert_eq!(depths(&index, &chain(1, 3)), [0], "once released they can go");
}

#[test]
fn rolling_back_leaves_what_others_have_confirmed_or_use() {
    let mut index = Index::new(&[100], MIB).expect("fits");
    hold(&mut index, 0, &chain(1, 2), 1);
    let failed = index.pin(0, &chain(1, 8));
    let running = index.pin(0, &chain(1, 5));
    assert_eq!(failed.confirmed, 2, "two blocks were known");
    index.unpin(0, failed, Fate::RollBack, Micros(2));
    assert_eq!(depths(&index, &chain(1, 8)), [5], "what a running request uses stays");
    index.unpin(0, running, Fate::RollBack, Micros(3));
    assert_eq!(depths(&index, &chain(1, 8)), [2], "what was confirmed stays");
    assert_eq!(index.held(0), 2, "and nothing else");
}

#[test]
fn clearing_voids_pins_and_frees_every_block() {
    let mut index = Index::new(&[50, 50], MIB).expect("fits");
    hold(&mut index, 0, &chain(1, 10), 1);
    hold(&mut index, 1, &chain(1, 10), 1);
    let old = index.pin(0, &chain(2, 10));
    index.clear(0);
    assert_eq!((index.held(0), index.active(0)), (0, 0), "nothing is left on the backend");
    assert_eq!(depths(&index, &chain(1, 10)), [0, 10], "the other backend keeps its own");
    let new = index.pin(0, &chain(3, 10));
    index.confirm(0, &old);
    index.unpin(0, old, Fate::Keep, Micros(2));
    assert_eq!((index.held(0), index.active(0)), (10, 10), "old pins do not touch the new blocks");
    index.unpin(0, new, Fate::RollBack, Micros(3));
    assert_eq!(index.held(0), 0, "the new blocks were not confirmed by the old pins");
}

#[test]
fn age_counts_only_when_something_would_be_evicted() {
    let mut index = Index::new(&[4], MIB).expect("fits");
    hold(&mut index, 0, &chain(1, 3), 1_000);
    assert_eq!(index.eviction_age(0, 1, Micros(5_000)), None, "there is room for one");
    assert_eq!(index.eviction_age(0, 2, Micros(5_000)), Some(Micros(4_000)), "not for two");
}

#[test]
fn a_shrinking_mirror_gives_way_step_by_step_and_grows_back() {
    let mut index = Index::new(&[256], MIB).expect("fits");
    hold(&mut index, 0, &chain(1, 256), 1);
    (0..100).for_each(|_| index.shrink(0));
    assert_eq!(index.capacity(0), 32, "an eighth is the floor");
    hold(&mut index, 0, &chain(2, 30), 2);
    assert_eq!(index.held(0), 226, "one more goes than comes");
    (0..1_000).for_each(|_| index.grow(0));
    assert_eq!(index.capacity(0), 256, "it never exceeds what was configured");
}
