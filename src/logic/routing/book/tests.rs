use super::*;
use crate::domain::cost::CostConstants;
use crate::logic::routing::policy::mix;
use proptest::prelude::*;

const DONE: Ending = Ending::Done { input: None, output: None, cached_tokens: None };

fn chain(document: u64, blocks: u64) -> Vec<u64> {
    (1..=blocks).map(|depth| mix(document << 32 | depth)).collect()
}

fn book(policy: PolicyKind, backends: usize) -> Book {
    let facts: Vec<_> =
        (0..backends as u64).map(|identity| BackendFacts { weight: 1, kv_tokens: 0, identity }).collect();
    Book::new(&policy, &facts)
}

fn kv_aware(backends: usize) -> Book {
    book(PolicyKind::KvAware(CostConstants { index_budget: 8 << 20, ..CostConstants::default() }), backends)
}

fn ask(chain: &[u64]) -> Ask<'_> {
    Ask { chain, input_tokens: Tokens(chain.len() as u64 * BLOCK_TOKENS), affinity: None }
}

fn choose(book: &mut Book, chain: &[u64], now: u64) -> Booking {
    let all = Eligible::all(book.weights.len());
    book.choose(&ask(chain), &all, Micros(now), mix(now)).expect("somebody is eligible")
}

#[test]
fn a_repeated_prefix_returns_until_its_queue_costs_more_than_the_miss() {
    let mut book = kv_aware(4);
    let document = chain(1, 100);
    let first = choose(&mut book, &document, 0);
    let home = first.backend;
    book.release(first, DONE, Micros(1));
    for now in 2..30 {
        let again = choose(&mut book, &document, now);
        assert_eq!((again.backend, again.matched_blocks, again.reason), (home, 100, "prefix_hit"), "round {now}");
        book.release(again, DONE, Micros(now));
    }
    // Cold prompts cannot be steered, so pile work on the home itself.
    let mut only_home = Eligible::none(4);
    only_home.insert(home);
    let cold = chain(2, 400);
    let giant = book.choose(&ask(&cold), &only_home, Micros(30), 0).expect("home is eligible");
    let spilled = choose(&mut book, &document, 31);
    assert_ne!(spilled.backend, home, "a queue of 25,600 tokens costs more than a miss of 6,400");
    book.release(giant, DONE, Micros(32));
    book.release(spilled, DONE, Micros(32));
}

#[test]
fn simultaneous_cold_requests_spread() {
    let mut book = kv_aware(8);
    let bookings: Vec<_> = (0..8).map(|document| choose(&mut book, &chain(document, 100), 0)).collect();
    for backend in 0..8 {
        assert_eq!(book.inflight(backend), 1, "one each, without waiting for any news");
    }
    bookings.into_iter().for_each(|booking| book.release(booking, DONE, Micros(1)));
}

#[test]
fn simultaneous_requests_for_a_new_document_see_the_first_ones_speculation() {
    let mut book = kv_aware(8);
    let document = chain(1, 100);
    let first = choose(&mut book, &document, 0);
    let second = choose(&mut book, &document, 0);
    assert_eq!(second.matched_blocks, 100, "the first has no output yet, and still counts");
    assert_eq!(second.backend, first.backend, "waiting behind it costs less than computing it twice");
    book.release(first, DONE, Micros(1));
    book.release(second, DONE, Micros(1));
}

#[test]
fn a_failed_attempts_speculative_blocks_are_gone() {
    let mut book = kv_aware(2);
    let document = chain(1, 50);
    for ending in [Ending::Failed, Ending::Aborted] {
        let attempt = choose(&mut book, &document, 0);
        book.release(attempt, ending, Micros(1));
        assert_eq!(book.totals().index_blocks, 0, "{ending:?} before output leaves nothing");
    }
    let mut attempt = choose(&mut book, &document, 2);
    book.first_output(&mut attempt, Micros(3));
    book.release(attempt, Ending::Aborted, Micros(4));
    assert_eq!(book.totals().index_blocks, 50, "after the first output they are in the cache");
}

#[test]
fn the_engines_own_count_cuts_a_chain_that_was_predicted_too_deep() {
    let mut book = kv_aware(1);
    let document = chain(1, 100);
    let first = choose(&mut book, &document, 0);
    book.release(first, DONE, Micros(1));
    let told = |cached| Ending::Done { input: Some(Tokens(5_000)), output: None, cached_tokens: Some(Tokens(cached)) };
    let second = choose(&mut book, &document, 2);
    book.release(second, told(1_000), Micros(3));
    let third = choose(&mut book, &document, 4);
    assert_eq!(third.matched_blocks, 20, "a fifth of the prompt was cached, whatever a token is in bytes");
    let shrunk = book.index.as_ref().expect("kv_aware").capacity(0);
    assert!(shrunk < 6_250, "the mirror believes in less: {shrunk}");
    book.release(third, told(4_900), Micros(5));
    let fourth = choose(&mut book, &document, 6);
    assert_eq!(fourth.matched_blocks, 100, "more than predicted: all of it is there");
    assert!(book.index.as_ref().expect("kv_aware").capacity(0) > shrunk, "and the mirror grows back");
    book.release(fourth, DONE, Micros(7));
}

#[test]
fn a_block_still_being_computed_cannot_be_contradicted() {
    let mut book = kv_aware(1);
    let document = chain(1, 100);
    let first = choose(&mut book, &document, 0);
    let second = choose(&mut book, &document, 0);
    let cold = Ending::Done { input: Some(Tokens(5_000)), output: None, cached_tokens: Some(Tokens(0)) };
    book.release(first, cold, Micros(1));
    book.release(second, cold, Micros(2));
    let third = choose(&mut book, &document, 3);
    assert_eq!(third.matched_blocks, 100, "both computed it at once; now it is there");
    book.release(third, DONE, Micros(4));
}

#[test]
fn weights_share_cold_load_in_proportion() {
    let facts = [1, 3].map(|weight| BackendFacts { weight, kv_tokens: 0, identity: u64::from(weight) });
    let policy = PolicyKind::KvAware(CostConstants { index_budget: 8 << 20, ..CostConstants::default() });
    let mut book = Book::new(&policy, &facts);
    let bookings: Vec<_> = (0..80).map(|document| choose(&mut book, &chain(document, 20), 0)).collect();
    let heavy = book.inflight(1);
    assert!((52..=68).contains(&heavy), "about sixty of eighty: {heavy}");
    bookings.into_iter().for_each(|booking| book.release(booking, DONE, Micros(1)));
}

#[test]
fn idle_equals_are_chosen_at_random() {
    let mut counts = [0; 8];
    for now in 0..800 {
        let mut book = kv_aware(8);
        let booking = choose(&mut book, &chain(1, 4), now);
        counts[booking.backend] += 1;
        book.release(booking, DONE, Micros(now));
    }
    assert!(counts.iter().all(|count| (60..=140).contains(count)), "about a hundred each: {counts:?}");
}

#[test]
fn the_explanation_names_the_choice() {
    let mut book = kv_aware(4);
    let running: Vec<_> = (0..7).map(|document| choose(&mut book, &chain(document, 60), document)).collect();
    let document = chain(3, 90);
    let scores = book.explain(&ask(&document), &Eligible::all(4), Micros(9));
    let best = scores.iter().min_by(|one, other| one.total.total_cmp(&other.total)).expect("four candidates");
    let booking = choose(&mut book, &document, 9);
    assert_eq!((best.backend, best.matched_blocks), (booking.backend, booking.matched_blocks), "the least total wins");
    assert!((best.total - best.terms.sum()).abs() < 1e-12, "the total is the sum of its terms");
    let json = serde_json::to_value(best).expect("serialisable");
    assert!(json["terms"]["queue"].is_number(), "terms are named: {json}");
    running.into_iter().chain([booking]).for_each(|booking| book.release(booking, DONE, Micros(10)));
}

#[test]
fn nobody_is_booked_where_nobody_is_eligible() {
    let mut book = kv_aware(2);
    assert!(book.choose(&ask(&chain(1, 4)), &Eligible::none(2), Micros(0), 0).is_none(), "no backend");
    assert_eq!(book.totals().inflight, 0, "nothing was charged");
}

/// Hit rate of a policy where sixteen groups share prompts of 100 blocks, over four engines whose caches hold five.
fn hit_rate(policy: PolicyKind) -> f64 {
    let facts = [0, 1, 2, 3].map(|identity| BackendFacts { weight: 1, kv_tokens: 0, identity });
    let mut book = Book::new(&policy, &facts);
    let mut engines = Index::new(&[550; 4], 4 << 20).expect("fits");
    let mut running = std::collections::VecDeque::new();
    let (mut hits, mut total) = (0, 0);
    for at in 0..2_000_u64 {
        let now = Micros(at * 200_000);
        let mut prompt = chain(mix(at) % 16, 100);
        prompt.extend(chain(1_000 + at, 5));
        let booking = choose(&mut book, &prompt, now.0);
        let mut depths = [0; 4];
        engines.depths(&prompt, &Eligible::all(4), &mut depths);
        hits += u64::from(depths[booking.backend]);
        total += prompt.len() as u64;
        let pins = engines.pin(booking.backend, &prompt);
        engines.unpin(booking.backend, pins, Fate::Keep, now);
        running.push_back(booking);
        if running.len() > 4 {
            let mut ended = running.pop_front().expect("five are running");
            book.first_output(&mut ended, now);
            book.release(ended, DONE, now);
        }
    }
    hits as f64 / total as f64
}

#[test]
fn kv_aware_hits_more_than_round_robin_on_shared_prefixes() {
    let constants = CostConstants { kv_tokens: 550.0 * 64.0, index_budget: 8 << 20, ..CostConstants::default() };
    let (ours, turns) = (hit_rate(PolicyKind::KvAware(constants)), hit_rate(PolicyKind::RoundRobin));
    assert!(ours > 0.75 && ours > turns + 0.3, "kv_aware {ours:.2}, round_robin {turns:.2}");
}

proptest! {
    #[test]
    fn what_was_booked_is_released_and_nothing_else(
        policy in 0_usize..5,
        steps in prop::collection::vec((0_u8..6, 0_usize..50, 0_u64..6, 1_u64..40), 1..120),
    ) {
        let kinds = [
            PolicyKind::KvAware(CostConstants { kv_tokens: 3_000.0, index_budget: 1 << 20, ..CostConstants::default() }),
            PolicyKind::LeastRequests,
            PolicyKind::P2c,
            PolicyKind::RoundRobin,
            PolicyKind::ConsistentHash,
        ];
        let mut book = book(kinds[policy].clone(), 5);
        let mut open: Vec<(Booking, u64)> = Vec::new();
        let mut now = 0;
        for (step, which, document, blocks) in steps {
            now += 1_000;
            match step {
                0..=2 => open.push((choose(&mut book, &chain(document, blocks), now), blocks * BLOCK_TOKENS)),
                3 if !open.is_empty() => {
                    let at = which % open.len();
                    book.first_output(&mut open[at].0, Micros(now));
                }
                4 if !open.is_empty() => {
                    let (booking, _) = open.swap_remove(which % open.len());
                    let cached = Some(Tokens(document * 100));
                    let endings = [DONE, Ending::Failed, Ending::Aborted,
                        Ending::Done { input: None, output: Some(Tokens(blocks)), cached_tokens: cached }];
                    book.release(booking, endings[which % 4], Micros(now));
                }
                5 if which < 3 => book.clear(which),
                _ => {}
            }
            let totals = book.totals();
            prop_assert_eq!(totals.inflight, open.len() as u64, "booked = released + outstanding");
            prop_assert_eq!(totals.context_tokens, open.iter().map(|(_, input)| input).sum::<u64>(), "tokens too");
        }
        for (booking, _) in open {
            book.release(booking, DONE, Micros(now));
        }
        let Totals { inflight, queued_tokens, context_tokens, active_blocks, .. } = book.totals();
        prop_assert_eq!((inflight, queued_tokens, context_tokens, active_blocks), (0, 0, 0, 0), "exactly zero");
        for backend in 0..5 {
            prop_assert_eq!(book.ledger.load(backend, Micros(now)).queue, 0.0, "not even a rounding error");
        }
    }
}
