//! What a decision on limits costs where nobody else is asked: `cargo bench --bench limits`.
//!
//! Six rules over tenant, team and key, once counted alone and once out of leases of a ledger that is not called
//! meanwhile. The bound is 2 µs for the decision (`reserve`); `settle` is told beside it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir::domain::limit::{Dimension, Priority, QuotaUse, Scope, Window};
use weir::domain::money::TokenPrices;
use weir::domain::units::{Micros, NanoUsd, Tokens, WallMicros};
use weir::io::quota::ledgers::{Group, LedgerFault, Ledgers};
use weir::io::quota::nudge::Nudge;
use weir::io::quota::watch::Unwatched;
use weir::io::quota::{Quota, Settings};
use weir::logic::quota::ledger::{Call, Correction, Ledger, Reply};
use weir::logic::quota::period::Moment;
use weir::logic::quota::plan::{AskLine, LimitRule, QuotaAsk};
use weir::ports::{Clock, QuotaStore, Reservation};

/// 2026-11-21T21:20:00Z.
const WALL: WallMicros = WallMicros(1_795_296_000_000_000);
const NOW: Moment = Moment { mono: Micros(1_000_000), wall: WALL };

struct Still;

impl Clock for Still {
    fn wall(&self) -> WallMicros {
        NOW.wall
    }
    fn mono(&self) -> Micros {
        NOW.mono
    }
}

/// A ledger that answers at once.
#[derive(Default)]
struct Near(Mutex<Ledger>);

#[async_trait::async_trait]
impl Ledgers for Near {
    async fn state(&self, _: &Group, call: &Call<'_>) -> Result<Vec<Reply>, LedgerFault> {
        Ok(self.0.lock().state(call, WALL.0 / 1_000))
    }
    async fn correct(&self, _: &Group, corrections: &[Correction]) -> Result<Vec<i64>, LedgerFault> {
        Ok(self.0.lock().correct(corrections, WALL.0 / 1_000))
    }
    async fn beat(&self, _: &str, _: Duration) -> Result<u64, LedgerFault> {
        Ok(1)
    }
    async fn claim(&self, _: &Group, _: &str, _: &str, _: Duration) -> Result<bool, LedgerFault> {
        Ok(true)
    }
    fn is_up(&self) -> bool {
        true
    }
}

fn settings() -> Settings {
    Settings {
        replica: "r".into(),
        hold_ttl: Duration::from_secs(60),
        clock: Arc::new(Still),
        rows: None,
        watch: Arc::new(Unwatched),
        nudge: Nudge::default(),
        spend: None,
    }
}

fn ask() -> QuotaAsk {
    let tenant = || Scope::Tenant("acme".into());
    let team = || Scope::Team("acme".into(), "research".into());
    let key = || Scope::Key("AbCdEfGhIjKl".into());
    let line = |scope, name, dimension, window| AskLine {
        scope,
        rule: Arc::new(LimitRule::new(name, dimension, 1_000_000_000_000, window)),
    };
    QuotaAsk {
        tenant: "acme".into(),
        zone: TimeZone::UTC,
        lines: vec![
            line(tenant(), "gold.requests", Dimension::Requests, Window::Minute),
            line(tenant(), "gold.tokens", Dimension::Tokens, Window::Minute),
            line(tenant(), "gold.concurrency", Dimension::Concurrency, Window::Minute),
            line(team(), "team.budget", Dimension::Spend, Window::Month),
            line(key(), "free.requests", Dimension::Requests, Window::Day),
            line(key(), "free.tokens", Dimension::Tokens, Window::Day),
        ],
        max_tokens_per_request: None,
        priority: Priority::Normal,
        model: "llama".into(),
        input_estimate: Some(Tokens(1_000)),
        max_output: Some(Tokens(500)),
        prices: Some(TokenPrices { input: 1_000_000, output: 2_000_000, ..TokenPrices::default() }),
    }
}

fn used() -> QuotaUse {
    QuotaUse { input: Tokens(1_000), output: Tokens(64), cost: NanoUsd(1_128), complete: false }
}

/// An engine whose leases are there.
fn leased() -> Arc<Quota> {
    let quota = Quota::leased(Arc::new(Near::default()), settings());
    let warm = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for _ in 0..100 {
        warm.block_on(quota.reserve(ask(), NOW.mono, NOW.wall)).map_err(drop).unwrap().settle(used(), NOW.mono);
    }
    quota
}

/// One of the two, timed apart.
fn timed(quota: &Quota, count: u64, settling: bool) -> Duration {
    let ask = ask();
    let mut spent = Duration::ZERO;
    let mut done = 0;
    while done < count {
        let begun = Instant::now();
        let open = black_box(quota.reserve_now(&ask, NOW));
        let reserved = begun.elapsed();
        let Ok(open) = open else {
            // The leases are used up: more are asked for outside of the measurement.
            let _ = quota.reserve(ask.clone(), NOW.mono, NOW.wall).now_or_never();
            continue;
        };
        done += 1;
        let begun = Instant::now();
        open.settle(used(), NOW.mono);
        spent += if settling { begun.elapsed() } else { reserved };
    }
    spent
}

fn limits(criterion: &mut Criterion) {
    for (name, quota) in [("alone", Quota::process(settings())), ("leased", leased())] {
        criterion.bench_function(&format!("six rules, {name}: reserve"), |bench| {
            bench.iter_custom(|count| timed(&quota, count, false));
        });
        criterion.bench_function(&format!("six rules, {name}: settle"), |bench| {
            bench.iter_custom(|count| timed(&quota, count, true));
        });
    }
}

criterion_group!(benches, limits);
criterion_main!(benches);
