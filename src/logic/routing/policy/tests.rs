use super::super::ledger::Work;
use super::round_robin::Turns;
use super::*;
use crate::domain::units::Micros;

fn shares(weights: &[u32], picks: u64, mut pick: impl FnMut(&Field<'_>, u64) -> Option<Pick>) -> Vec<f64> {
    let (eligible, ledger) = (Eligible::all(weights.len()), Ledger::new(weights.len()));
    let field = Field { eligible: &eligible, weights, ledger: &ledger };
    let mut counts = vec![0.0; weights.len()];
    for at in 0..picks {
        counts[pick(&field, mix(at)).expect("somebody is eligible").backend] += 1.0 / picks as f64;
    }
    counts
}

#[test]
fn round_robin_gives_turns_by_weight_exactly() {
    let mut turns = Turns::new(3);
    let shares = shares(&[1, 2, 5], 800, |field, chance| turns.pick(field, chance));
    for (share, expected) in shares.iter().zip([0.125, 0.25, 0.625]) {
        assert!((share - expected).abs() < 1e-3, "{shares:?}");
    }
}

#[test]
fn sessions_are_hashed_to_backends_by_weight() {
    let shares = shares(&[1, 2, 5, 0], 20_000, |field, key| consistent_hash::pick(field, &[11, 22, 33, 44], key));
    // Idle backends: the bound allows everyone one request, so only the hash decides.
    for (share, expected) in shares.iter().zip([0.125, 0.25, 0.625, 0.0]) {
        assert!((share - expected).abs() < 0.02, "{shares:?}");
    }
}

#[test]
fn ties_are_spread_over_all_equals() {
    let least = shares(&[1; 4], 4_000, least_requests::pick);
    let two = shares(&[1; 4], 4_000, p2c::pick);
    for share in least.iter().chain(&two) {
        assert!((share - 0.25).abs() < 0.04, "least {least:?}, p2c {two:?}");
    }
}

#[test]
fn least_requests_and_p2c_count_load_by_weight() {
    let mut ledger = Ledger::new(2);
    let _running = [0; 3].map(|backend| ledger.dispatch(backend, Work::default(), Micros(0)));
    let eligible = Eligible::all(2);
    let even = Field { eligible: &eligible, weights: &[1, 1], ledger: &ledger };
    let uneven = Field { eligible: &eligible, weights: &[8, 1], ledger: &ledger };
    for chance in 0..20 {
        for pick in [least_requests::pick, p2c::pick] {
            assert_eq!(pick(&even, chance).map(|pick| pick.backend), Some(1), "three against none");
            assert_eq!(pick(&uneven, chance).map(|pick| pick.backend), Some(0), "four of eight against one of one");
        }
    }
}

#[test]
fn a_lost_backend_moves_only_its_own_sessions() {
    let ledger = Ledger::new(5);
    let (all, mut fewer) = (Eligible::all(5), Eligible::all(5));
    fewer.remove(2);
    let ids = [1, 2, 3, 4, 5];
    let mut moved = 0;
    for key in 0..500 {
        let of = |eligible| consistent_hash::pick(&Field { eligible, weights: &[1; 5], ledger: &ledger }, &ids, key);
        let (before, after) = (of(&all).expect("one").backend, of(&fewer).expect("one").backend);
        assert!(before == after || before == 2, "session {key} went from {before} to {after}");
        moved += u32::from(before != after);
    }
    assert!((60..140).contains(&moved), "about a fifth moved: {moved}");
}

#[test]
fn a_busy_backend_passes_its_sessions_on() {
    let mut ledger = Ledger::new(2);
    let eligible = Eligible::all(2);
    let mut entries = Vec::new();
    let mut fallbacks = 0;
    for _ in 0..40 {
        let field = Field { eligible: &eligible, weights: &[1, 1], ledger: &ledger };
        let pick = consistent_hash::pick(&field, &[1, 2], 7).expect("one");
        fallbacks += u32::from(pick.reason == "fallback");
        entries.push(ledger.dispatch(pick.backend, Work::default(), Micros(0)));
    }
    let most = ledger.inflight(0).max(ledger.inflight(1));
    assert!((20..=26).contains(&most), "at most 1.25 of the mean of twenty: {most}");
    assert_eq!(fallbacks, 40 - most, "the rest fell back");
}

#[test]
fn nobody_eligible_is_nobody_chosen() {
    let (eligible, ledger) = (Eligible::none(2), Ledger::new(2));
    let field = Field { eligible: &eligible, weights: &[1, 1], ledger: &ledger };
    assert_eq!(least_requests::pick(&field, 1), None, "least_requests");
    assert_eq!(p2c::pick(&field, 1), None, "p2c");
    assert_eq!(consistent_hash::pick(&field, &[1, 2], 1), None, "consistent_hash");
    assert_eq!(Turns::new(2).pick(&field, 1), None, "round_robin");
}
