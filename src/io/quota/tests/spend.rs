//! Who watches money is told how budgets stand, once enough of them is spent.

use super::shelf::{Hands, Shelf};
use crate::domain::ids::TenantId;
use crate::domain::limit::{Dimension, Priority, QuotaUse, Scope, Window};
use crate::domain::money::TokenPrices;
use crate::domain::units::{NanoUsd, Tokens};
use crate::io::quota::nudge::Nudge;
use crate::io::quota::watch::Unwatched;
use crate::io::quota::{Quota, Settings};
use crate::logic::quota::plan::{AskLine, LimitRule, QuotaAsk};
use crate::ports::{Clock, QuotaStore, SpendWatch, Spending};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// What was told: whose, what is committed, and since when.
#[derive(Default)]
struct Told(Mutex<Vec<(String, u64, i64)>>);

impl SpendWatch for Told {
    fn seen(&self, spending: &Spending<'_>) {
        assert_eq!(spending.scope, &Scope::Tenant("acme".into()), "where it counts");
        assert_eq!(&*spending.rule.name, "budget.b", "only budgets are watched");
        let tenant = spending.tenant.map_or_else(String::new, |tenant| TenantId::as_str(tenant).to_owned());
        self.0.lock().push((tenant, spending.committed, spending.period));
    }
}

fn settings(clock: &Arc<Hands>, told: &Arc<Told>, replica: &str) -> Settings {
    Settings {
        replica: replica.into(),
        hold_ttl: Duration::from_secs(60),
        clock: clock.clone(),
        rows: None,
        watch: Arc::new(Unwatched),
        spend: Some(told.clone()),
        nudge: Nudge::default(),
    }
}

/// A request counted by a budget of 1,000 nano-dollars and a limit on requests.
fn ask(window: Window, since: i64) -> QuotaAsk {
    let budget = LimitRule::new("budget.b", Dimension::Spend, 1_000, window);
    let budget = LimitRule { alert_at: Arc::from([50]), since, ..budget };
    let requests = LimitRule::new("p.requests", Dimension::Requests, 2, Window::Day);
    let line = |rule| AskLine { scope: Scope::Tenant("acme".into()), rule: Arc::new(rule) };
    QuotaAsk {
        tenant: "acme".into(),
        zone: jiff::tz::TimeZone::UTC,
        lines: vec![line(budget), line(requests)],
        max_tokens_per_request: None,
        priority: Priority::Normal,
        prices: Some(TokenPrices { input: 1_000_000, output: 1_000_000, ..TokenPrices::default() }),
        model: "m".into(),
        input_estimate: Some(Tokens(1)),
        max_output: Some(Tokens(0)),
    }
}

async fn spend(quota: &Quota, clock: &Hands, ask: &QuotaAsk, amount: i64) {
    let open = quota.reserve(ask.clone(), clock.mono(), clock.wall()).await.expect("let in");
    open.settle(QuotaUse { cost: NanoUsd(amount), ..QuotaUse::default() }, clock.mono());
}

#[tokio::test(start_paused = true)]
async fn a_process_alone_tells_when_a_request_ends() {
    let (clock, told) = (Hands::new(), Arc::new(Told::default()));
    let quota = Quota::process(settings(&clock, &told, "r"));
    let ask = ask(Window::Ever, 7_000);
    spend(&quota, &clock, &ask, 499).await;
    assert_eq!(told.0.lock().len(), 0, "nobody wants to know of less than half");
    spend(&quota, &clock, &ask, 101).await;
    assert_eq!(*told.0.lock(), [("acme".to_owned(), 600, 7_000)], "at once, with the credit's own beginning");
}

#[tokio::test(start_paused = true)]
async fn replicas_tell_what_all_of_them_have_spent() {
    let (clock, told) = (Hands::new(), [(); 2].map(|()| Arc::new(Told::default())));
    let shelf = Shelf::new(&clock);
    let replicas: Vec<_> = ["a", "b"]
        .iter()
        .zip(&told)
        .map(|(name, told)| {
            let quota = Quota::leased(shelf.clone(), settings(&clock, told, name));
            let running = quota.spawn(&tokio::runtime::Handle::current());
            (quota, running)
        })
        .collect();
    sleep(Duration::from_millis(250)).await;
    let ask = ask(Window::Month, 0);
    for ((quota, _running), amount) in replicas.iter().zip([300, 400]) {
        spend(quota, &clock, &ask, amount).await;
        sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(told[0].0.lock().len(), 0, "the first one has seen less than half");
    let second = told[1].0.lock();
    let (whose, committed, period) = second.last().expect("the second one has seen more");
    assert_eq!((&**whose, *committed), ("acme", 700), "both together");
    assert!(*period > 0 && *period <= clock.wall().0 / 1_000, "in the month that began at {period}");
}

#[tokio::test(start_paused = true)]
async fn credit_that_is_put_anew_counts_anew_also_where_replicas_share_it() {
    let (clock, told) = (Hands::new(), Arc::new(Told::default()));
    let shelf = Shelf::new(&clock);
    let quota = Quota::leased(shelf.clone(), settings(&clock, &told, "a"));
    let _running = quota.spawn(&tokio::runtime::Handle::current());
    sleep(Duration::from_millis(250)).await;
    let (old, new) = (ask(Window::Ever, 1_000), ask(Window::Ever, 2_000));
    spend(&quota, &clock, &old, 900).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(told.0.lock().last().map(|told| (told.1, told.2)), Some((900, 1_000)), "the first credit");
    spend(&quota, &clock, &new, 600).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(told.0.lock().last().map(|told| (told.1, told.2)), Some((600, 2_000)), "the second one");
}
