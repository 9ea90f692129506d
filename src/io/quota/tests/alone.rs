//! Laws of a process that counts alone and asks the usage rows what it begins with.

use super::shelf::Hands;
use super::{TTL, ask};
use crate::domain::limit::{Dimension, QuotaUse, Window};
use crate::domain::money::TokenPrices;
use crate::domain::units::{NanoUsd, Tokens};
use crate::io::quota::ledgers::{AccountRows, RowTotal, UsageRows};
use crate::io::quota::nudge::Nudge;
use crate::io::quota::sync::Running;
use crate::io::quota::watch::Unwatched;
use crate::io::quota::{Quota, Settings, WAIT};
use crate::logic::quota::plan::{LimitRule, QuotaAsk};
use crate::ports::{Clock, QuotaStore, Reservation, ReserveError, SpendWatch, Spending};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What the process before this one has used; `None`: the rows cannot be asked.
struct Rows(Mutex<Option<u64>>);

#[async_trait]
impl UsageRows for Rows {
    async fn totals(&self, _: &AccountRows, _: i64) -> Result<Vec<RowTotal>, String> {
        sleep(Duration::from_millis(5)).await;
        let total = (*self.0.lock()).ok_or("locked")?;
        Ok(vec![RowTotal { proxy_id: "before".into(), total }])
    }

    async fn recent(&self, _: &AccountRows, _: i64) -> Result<Vec<(i64, u64)>, String> {
        Ok(Vec::new())
    }
}

/// What was said to be committed.
#[derive(Default)]
struct Told(Mutex<Vec<u64>>);

impl SpendWatch for Told {
    fn seen(&self, spending: &Spending<'_>) {
        self.0.lock().push(spending.committed);
    }
}

struct Process {
    clock: Arc<Hands>,
    rows: Arc<Rows>,
    told: Arc<Told>,
    quota: Arc<Quota>,
    _running: Running,
}

impl Process {
    fn after(used: Option<u64>) -> Self {
        let (clock, rows, told) = (Hands::new(), Arc::new(Rows(Mutex::new(used))), Arc::new(Told::default()));
        let quota = Quota::process(Settings {
            replica: "now".into(),
            hold_ttl: TTL,
            clock: clock.clone(),
            rows: Some(rows.clone()),
            watch: Arc::new(Unwatched),
            nudge: Nudge::default(),
            spend: Some(told.clone()),
        });
        let running = quota.spawn(&tokio::runtime::Handle::current());
        Self { clock, rows, told, quota, _running: running }
    }

    async fn reserve(&self, ask: &QuotaAsk) -> Result<Box<dyn Reservation>, ReserveError> {
        let begun = Instant::now();
        let answer = self.quota.reserve(ask.clone(), self.clock.mono(), self.clock.wall()).await;
        assert!(begun.elapsed() <= WAIT + Duration::from_millis(2), "nobody waits longer: {:?}", begun.elapsed());
        answer
    }

    /// Uses ten at a time until it is refused; how often that went, and the refusal.
    async fn exhaust(&self, ask: &QuotaAsk) -> (usize, ReserveError) {
        for nth in 0..2_000 {
            match self.reserve(ask).await {
                Ok(open) => open.settle(used(10), self.clock.mono()),
                Err(refused) => return (nth, refused),
            }
        }
        panic!("nothing is ever refused");
    }
}

fn used(tokens: u64) -> QuotaUse {
    QuotaUse { input: Tokens(tokens), cost: NanoUsd(tokens as i64), ..QuotaUse::default() }
}

fn ten_of(rule: LimitRule) -> QuotaAsk {
    let prices = Some(TokenPrices { input: 1_000_000, output: 1_000_000, ..TokenPrices::default() });
    QuotaAsk { prices, ..ask(vec![rule], 10) }
}

fn budget(limit: u64) -> LimitRule {
    LimitRule { alert_at: Arc::from([100]), ..LimitRule::new("budget.b", Dimension::Spend, limit, Window::Ever) }
}

#[tokio::test(start_paused = true)]
async fn what_was_spent_before_a_restart_refuses_the_first_request() {
    for rule in [budget(1_000), LimitRule::new("p.tokens", Dimension::Tokens, 1_000, Window::Day)] {
        let process = Process::after(Some(1_000));
        let first = process.reserve(&ten_of(rule)).await.err();
        assert!(matches!(first, Some(ReserveError::Denied(_))), "all 1000 are used: {first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_whose_rows_cannot_be_asked_lives_on_its_grace() {
    let process = Process::after(None);
    let ask = ten_of(budget(10_000));
    assert_eq!(process.exhaust(&ask).await, (10, ReserveError::StoreDown), "1 % of 10,000, ten at a time");
    *process.rows.0.lock() = Some(9_000);
    sleep(Duration::from_secs(4)).await;
    let (let_in, refused) = process.exhaust(&ask).await;
    assert_eq!(let_in, 90, "9,000 were spent before, 100 on grace");
    assert!(matches!(refused, ReserveError::Denied(_)), "then it is used up: {refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_budget_that_is_used_up_is_told_though_nothing_is_spent_any_more() {
    let process = Process::after(Some(1_000));
    let first = process.reserve(&ten_of(budget(1_000))).await.err();
    assert!(matches!(first, Some(ReserveError::Denied(_))), "used up before the start: {first:?}");
    assert_eq!(process.told.0.lock().first(), Some(&1_000), "the rows' word is passed on");
    let process = Process::after(Some(0));
    process.reserve(&ten_of(budget(1_000))).await.expect("it fits").settle(used(500), process.clock.mono());
    assert_eq!(process.told.0.lock().len(), 0, "a half is nothing to tell");
    let less = process.reserve(&ten_of(budget(400))).await.err();
    assert!(matches!(less, Some(ReserveError::Denied(_))), "less is allowed by now: {less:?}");
    assert_eq!(*process.told.0.lock(), [500], "and that is told");
}
