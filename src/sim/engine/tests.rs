use super::*;
use crate::domain::units::{Micros, Tokens};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

fn engine(kv_tokens: u64) -> Engine {
    let profile = Profile::named("8b-h100").expect("a known profile");
    Engine::new(EngineLimits { kv_tokens: Tokens(kv_tokens), ..EngineLimits::of(profile) })
}

fn chain(seed: u64, blocks: u64) -> Arc<[BlockHash]> {
    (0..blocks).map(|depth| BlockHash(seed * 1_000_000 + depth)).collect()
}

fn job(id: u64, seed: u64, input: u64, output: u64) -> Job {
    Job { id: SeqId(id), chain: chain(seed, input / BLOCK_TOKENS), input: Tokens(input), output: Tokens(output) }
}

fn run(engine: &mut Engine) -> Vec<EngineEvent> {
    let mut events = Vec::new();
    engine.advance(Micros(u64::MAX / 2), &mut events);
    events
}

fn done_at(events: &[EngineEvent], wanted: u64) -> (Micros, Tokens) {
    events
        .iter()
        .find_map(|event| match event {
            EngineEvent::Done { id, at, cached } if id.0 == wanted => Some((*at, *cached)),
            _ => None,
        })
        .expect("the sequence must be done")
}

fn first_at(events: &[EngineEvent], wanted: u64) -> Micros {
    events
        .iter()
        .find_map(|event| match event {
            EngineEvent::FirstToken { id, at, .. } if id.0 == wanted => Some(*at),
            _ => None,
        })
        .expect("the sequence must have a first token")
}

#[test]
fn a_lone_prompt_takes_one_prefill_step_and_a_decode_step_for_each_further_token() {
    let mut engine = engine(400_000);
    engine.submit(job(1, 1, 1_000, 3), Micros(500)).expect("fits");
    let events = run(&mut engine);
    let profile = Profile::named("8b-h100").expect("a known profile");
    let mut prefill = StepWork::default();
    prefill.chunk(1_000, 0);
    let mut at = Micros(500) + profile.step_time(&prefill);
    let mut want = vec![EngineEvent::FirstToken { id: SeqId(1), at, cached: Tokens(0) }];
    for context in [1_001, 1_002] {
        let mut decode = StepWork::default();
        decode.decode(context);
        at += profile.step_time(&decode);
        want.push(EngineEvent::Token { id: SeqId(1), at });
    }
    want.push(EngineEvent::Done { id: SeqId(1), at, cached: Tokens(0) });
    assert_eq!(events, want, "prefill, two decodes, done");
}

#[test]
fn a_prompt_over_the_budget_is_prefilled_in_chunks_while_others_decode() {
    let mut engine = engine(400_000);
    engine.submit(job(1, 1, 16, 100), Micros(0)).expect("fits");
    let mut events = Vec::new();
    engine.advance(Micros(9_000), &mut events);
    engine.submit(job(2, 2, 5_000, 1), Micros(9_000)).expect("fits");
    events.extend(run(&mut engine));
    let before = events
        .iter()
        .take_while(|event| !matches!(event, EngineEvent::FirstToken { id: SeqId(2), .. }))
        .filter(|event| matches!(event, EngineEvent::Token { id: SeqId(1), .. }))
        .count();
    assert_eq!(before, 4, "one step was under way, then 2047 + 2047 + 906 tokens: three chunks, each with a decode");
}

#[test]
fn a_cached_prefix_shortens_the_prefill_and_is_reported() {
    let mut engine = engine(400_000);
    engine.submit(job(1, 1, 10_000, 1), Micros(0)).expect("fits");
    let (cold, cached) = done_at(&run(&mut engine), 1);
    assert_eq!(cached, Tokens(0), "an empty cache has nothing");
    let start = Micros(1_000_000_000);
    engine.submit(job(2, 1, 10_000, 1), start).expect("fits");
    let (warm, cached) = done_at(&run(&mut engine), 2);
    assert_eq!(cached, Tokens(9_984), "all full blocks but the last: one token must be computed afresh");
    assert!((warm - start).0 * 10 < cold.0, "a hit is much faster: {warm:?} against {cold:?}");
    assert_eq!(engine.stats().hit_tokens, 9_984, "the metric counts tokens");
    assert_eq!(engine.stats().queried_tokens, 20_000, "each prompt is looked up once");
}

#[test]
fn a_block_can_be_hit_only_once_it_is_computed() {
    let mut engine = engine(400_000);
    engine.submit(job(1, 1, 1_600, 1), Micros(0)).expect("fits");
    engine.submit(job(2, 1, 1_600, 1), Micros(0)).expect("fits");
    let events = run(&mut engine);
    assert_eq!(done_at(&events, 2).1, Tokens(0), "both were admitted in the same step, before anything was computed");
    engine.submit(job(3, 1, 1_600, 1), Micros(1_000_000)).expect("fits");
    assert_eq!(done_at(&run(&mut engine), 3).1, Tokens(1_584), "now it can be hit");
}

#[test]
fn the_least_recently_used_prompt_is_forgotten_when_room_is_needed() {
    let mut engine = engine(3_200);
    for (id, seed) in [(1, 1), (2, 2), (3, 3)] {
        engine.submit(job(id, seed, 1_600, 0), Micros(id * 1_000_000)).expect("fits");
        run(&mut engine);
    }
    engine.submit(job(4, 2, 1_600, 0), Micros(10_000_000)).expect("fits");
    assert_eq!(done_at(&run(&mut engine), 4).1, Tokens(1_584), "the second prompt is still there");
    engine.submit(job(5, 1, 1_600, 0), Micros(11_000_000)).expect("fits");
    assert_eq!(done_at(&run(&mut engine), 5).1, Tokens(0), "the first one made room for the third");
}

#[test]
fn a_cancelled_sequence_frees_its_blocks_at_once_and_says_nothing_more() {
    let mut engine = engine(4_000);
    engine.submit(job(1, 1, 3_000, 500), Micros(0)).expect("fits");
    engine.submit(job(2, 2, 3_000, 1), Micros(0)).expect("fits");
    let mut events = Vec::new();
    engine.advance(Micros(300_000), &mut events);
    assert_eq!((engine.stats().running, engine.stats().waiting), (1, 1), "the second does not fit beside the first");
    assert!(engine.cancel(SeqId(1)), "it runs");
    assert_eq!(engine.stats().used_blocks, 0, "its blocks are free");
    assert!(!engine.cancel(SeqId(1)), "a second cancel finds nothing");
    let events = run(&mut engine);
    assert!(events.iter().all(|event| !matches!(event, EngineEvent::Token { id: SeqId(1), .. })), "it is silent");
    done_at(&events, 2);
}

#[test]
fn a_waiting_sequence_can_be_cancelled() {
    let mut engine = engine(4_000);
    engine.submit(job(1, 1, 100, 1), Micros(0)).expect("fits");
    assert!(engine.cancel(SeqId(1)), "it waits");
    assert_eq!((run(&mut engine), engine.next_event_at()), (vec![], None), "nothing is left to do");
}

#[test]
fn the_newest_sequence_is_preempted_when_the_cache_is_full_and_still_finishes() {
    let mut engine = engine(1_600);
    engine.submit(job(1, 1, 700, 300), Micros(0)).expect("fits");
    engine.submit(job(2, 2, 700, 300), Micros(0)).expect("fits");
    let events = run(&mut engine);
    assert!(events.iter().any(|event| matches!(event, EngineEvent::Preempted { id: SeqId(2), .. })), "the newest goes");
    assert!(
        !events.iter().any(|event| matches!(event, EngineEvent::Preempted { id: SeqId(1), .. })),
        "the oldest stays"
    );
    assert!(done_at(&events, 1).0 < done_at(&events, 2).0, "the oldest is done first");
    let firsts = events.iter().filter(|event| matches!(event, EngineEvent::FirstToken { .. })).count();
    assert_eq!(firsts, 2, "a preempted sequence does not start over for its reader");
}

#[test]
fn arrivals_join_the_next_step_not_the_one_under_way() {
    let mut engine = engine(400_000);
    engine.submit(job(1, 1, 2_000, 1), Micros(0)).expect("fits");
    engine.submit(job(2, 2, 16, 1), Micros(10)).expect("fits");
    let events = run(&mut engine);
    assert!(first_at(&events, 2) > first_at(&events, 1) + Micros(7_700), "it waited for a whole step");
}

#[test]
fn slots_bound_what_runs() {
    let profile = Profile::named("8b-h100").expect("a known profile");
    let mut engine = Engine::new(EngineLimits { slots: 2, ..EngineLimits::of(profile) });
    for id in 0..5 {
        engine.submit(job(id, id + 1, 16, 10), Micros(0)).expect("fits");
    }
    let mut events = Vec::new();
    engine.advance(Micros(0), &mut events);
    assert_eq!((engine.stats().running, engine.stats().waiting), (2, 3), "two slots");
}

#[test]
fn what_can_never_fit_is_refused() {
    let mut engine = engine(1_600);
    let refused = engine.submit(job(1, 1, 1_600, 1), Micros(0));
    assert_eq!(refused, Err(TooLarge { asked: Tokens(1_601), capacity: Tokens(1_600) }), "one token too many");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Work conservation and determinism under random load, KV pressure and cancellation.
    #[test]
    fn everything_submitted_is_done_with_the_tokens_asked_for_or_cancelled_and_the_cache_is_free_at_the_end(
        jobs in prop::collection::vec((0_u64..4, 1_u64..900, 0_u64..200, 0_u64..50_000, prop::bool::weighted(0.2)), 1..40)
    ) {
        let play = || {
            let mut engine = engine(1_600);
            let (mut now, mut events) = (Micros(0), Vec::new());
            for (id, (seed, input, output, gap, cancel)) in (0_u64..).zip(&jobs) {
                now += Micros(*gap);
                engine.advance(now, &mut events);
                engine.submit(job(id, *seed, *input, *output), now).expect("fits");
                if *cancel {
                    engine.cancel(SeqId(id / 2));
                }
            }
            engine.advance(Micros(u64::MAX / 2), &mut events);
            (events, engine.stats())
        };
        let (events, stats) = play();
        prop_assert_eq!(&events, &play().0, "equal inputs give equal events");
        let mut tokens: HashMap<u64, u64> = HashMap::new();
        let mut ended = HashMap::new();
        let mut last = Micros(0);
        for event in &events {
            let (EngineEvent::FirstToken { id, at, .. } | EngineEvent::Token { id, at }
                | EngineEvent::Preempted { id, at } | EngineEvent::Done { id, at, .. }) = event;
            prop_assert!(*at >= last, "time never goes back");
            last = *at;
            prop_assert!(!ended.contains_key(&id.0), "nothing happens after the end");
            match event {
                EngineEvent::FirstToken { .. } | EngineEvent::Token { .. } => *tokens.entry(id.0).or_default() += 1,
                EngineEvent::Done { .. } => { ended.insert(id.0, ()); }
                EngineEvent::Preempted { .. } => {}
            }
        }
        let cancelled: Vec<u64> = (0_u64..).zip(&jobs).filter(|(_, job)| job.4).map(|(id, _)| id / 2).collect();
        for (id, (_, _, output, _, _)) in (0_u64..).zip(&jobs) {
            if ended.contains_key(&id) {
                prop_assert_eq!(tokens.get(&id).copied().unwrap_or(0), *output, "tokens emitted = tokens asked");
            } else {
                prop_assert!(cancelled.contains(&id), "sequence {} neither ended nor was cancelled", id);
            }
        }
        prop_assert_eq!((stats.running, stats.waiting, stats.used_blocks), (0, 0, 0), "everything is given back");
    }
}
