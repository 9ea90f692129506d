//! What a request asks of the limits, and what they, the bill and the log are told when it ends.

use super::forward::{admitted, tried};
use super::office::{Doorman, Office, Till, caller, headers, open_to, snapshot};
use crate::config::snapshot::Snapshot;
use crate::domain::fault::Fault;
use crate::domain::ids::RequestId;
use crate::domain::limit::{Denial, Dimension, Priority, QuotaUse, Window};
use crate::domain::money::TokenPrices;
use crate::domain::principal::{AuthMethod, Principal, Profile};
use crate::domain::record::{Status, UsageRecord};
use crate::domain::refusal::Refusal;
use crate::domain::units::{Micros, NanoUsd, Tokens};
use crate::exchange::Exchange;
use crate::logic::access::directory::{Directory, Tenant};
use crate::logic::access::expression::Expression;
use crate::logic::access::rule::NAMES;
use crate::logic::money::price_book::PriceBook;
use crate::logic::quota::lines::Unclear;
use crate::logic::quota::plan::{LimitRule, ModelPattern, Plan, QuotaAsk};
use crate::logic::usage::charge;
use crate::ports::{AdmitError, Rejection, ReserveError};
use crate::stages::settle::{self, Ending, settle};
use crate::stages::{debit, forward, meter};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const KEYS: &str = "auth: { keys: { api_key: {} } }";
const CHAT: &str = "/v1/chat/completions";
/// One nano-dollar a token of input, ten of output.
const PRICES: TokenPrices = TokenPrices { input: 1_000_000, cache_read: 0, cache_write: 0, output: 10_000_000 };

fn pattern(glob: &str) -> ModelPattern {
    ModelPattern(globset::Glob::new(glob).expect("a glob").compile_matcher())
}

fn priced(mut snapshot: Snapshot) -> Snapshot {
    snapshot.prices = Arc::new(PriceBook { version: "v7".into(), entries: vec![(pattern("m"), PRICES)] });
    snapshot
}

/// An office whose tenant `acme` has these rules in its plan.
fn office_of(snapshot: Snapshot, rules: Vec<LimitRule>, till: &Arc<Till>) -> Office {
    let acme =
        Tenant { plan: Some("gold".into()), zone: jiff::tz::TimeZone::fixed(jiff::tz::offset(3)), ..Tenant::default() };
    let rules = rules.into_iter().map(Arc::new).collect();
    let plan = Plan { rules, priority: Priority::High, max_tokens_per_request: Some(Tokens(99)) };
    let mut directory = Directory::default();
    directory.tenants.insert("acme".into(), Arc::new(acme));
    directory.plans.insert("gold".into(), Arc::new(plan));
    Office::with_till(snapshot, vec![("keys", Doorman::rejects(Rejection::Invalid))], directory, Arc::clone(till))
}

fn office(till: &Arc<Till>) -> Office {
    office_of(priced(snapshot(&open_to("[keys]"), KEYS)), vec![rule("gold.requests")], till)
}

fn rule(name: &str) -> LimitRule {
    LimitRule::new(name, Dimension::Requests, 10, Window::Minute)
}

async fn call(office: &Office) -> Arc<Exchange> {
    admitted(office, CHAT, caller("acme", AuthMethod::ApiKey)).await
}

/// The same, sent to its backend.
async fn sent(office: &Office) -> Arc<Exchange> {
    let exchange = call(office).await;
    let call = exchange.call.as_ref().expect("a call");
    let _outbound = forward::call(&exchange, call, &exchange.pool.config.backends[0], &headers(&[]));
    exchange
}

/// Lets the backend of a running stream say something; what it says is delivered.
fn say(exchange: &Exchange, text: &'static str) {
    let step = meter::piece(exchange, Bytes::from_static(text.as_bytes()));
    meter::delivered(exchange, step.out.len());
}

const WORD: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
const USAGE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\n";

/// How a stream of these events ends: its record, and what the limits were told.
async fn ended(events: &[&'static str], ending: Ending) -> (UsageRecord, QuotaUse) {
    let till = Arc::new(Till::default());
    let office = office(&till);
    let exchange = sent(&office).await;
    if !events.is_empty() {
        meter::begin(&exchange, 200, true);
    }
    events.iter().for_each(|event| say(&exchange, event));
    let _receipt = settle(&exchange, &ending);
    let record = office.ledger.records.lock().pop().expect("one record");
    let told = till.told.settled.lock().pop().expect("settled");
    (record, told)
}

fn rules_of(ask: &QuotaAsk) -> Vec<String> {
    ask.lines.iter().map(|line| format!("{} {}", line.scope.name(), line.rule.name)).collect()
}

#[tokio::test]
async fn a_call_asks_for_every_rule_that_counts_it_with_its_prices_and_its_tenants_zone() {
    let mut snapshot = priced(snapshot(&open_to("[keys]"), KEYS));
    let plan = |name: &str| Arc::new(Plan { rules: vec![Arc::new(rule(name))], ..Plan::default() });
    snapshot.limits.shared = plan("limits.global.requests");
    Arc::get_mut(&mut snapshot.pools[0]).expect("nobody else has it").limits = plan("pools.p.requests");
    let when = |text: &str| Some(Expression::compile(text, &NAMES).expect("an expression"));
    let rules = vec![
        rule("gold.requests"),
        LimitRule { model: Some(pattern("n")), ..rule("other model") },
        LimitRule { when: when("request.host == 'api' && request.model == 'm'"), ..rule("this host") },
        LimitRule { when: when("auth.tenant != 'acme'"), ..rule("other tenant") },
    ];
    let till = Arc::new(Till::default());
    let office = office_of(snapshot, rules, &till);
    let _exchange = call(&office).await;
    let ask = till.asks.lock().pop().expect("asked");
    let wanted = ["global limits.global.requests", "pool pools.p.requests", "tenant gold.requests", "tenant this host"];
    assert_eq!(rules_of(&ask), wanted, "widest first, and none that is about something else");
    assert_eq!(ask.prices, Some(PRICES), "what the model costs");
    assert_eq!((ask.priority, ask.max_tokens_per_request), (Priority::High, Some(Tokens(99))), "the plan's");
    assert_eq!(ask.zone, jiff::tz::TimeZone::fixed(jiff::tz::offset(3)), "where its days begin");
}

#[tokio::test]
async fn a_question_asks_for_the_callers_own_requests_alone() {
    let mut snapshot = snapshot(&open_to("[keys]"), KEYS);
    snapshot.limits.shared = Arc::new(Plan { rules: vec![Arc::new(rule("global"))], ..Plan::default() });
    let slots = LimitRule { dimension: Dimension::Concurrency, ..rule("gold.concurrency") };
    let till = Arc::new(Till::default());
    let office = office_of(snapshot, vec![rule("gold.requests"), slots], &till);
    let (facts, _) = office.accept("GET", "/v1/models", &headers(&[]));
    let acme = caller("acme", AuthMethod::ApiKey);
    debit::question(&office.runtime, &acme, &facts).await.expect("admitted");
    assert_eq!(rules_of(&till.asks.lock()[0]), ["tenant gold.requests"], "one request of its own");
    assert_eq!(*till.told.settled.lock(), [QuotaUse::default()], "and it is over at once");
}

#[tokio::test]
async fn limits_are_told_what_the_row_says_however_it_ends() {
    for (events, ending) in [
        (&[USAGE][..], Ending::Completed),
        (&[WORD, WORD], Ending::Completed),
        (&[WORD, WORD], Ending::ClientGone),
        (&[], Ending::ClientGone),
        (&[USAGE], Ending::FailedAfter(Fault::Reset)),
        (&[WORD], Ending::FailedAfter(Fault::Idle)),
        (&[WORD], Ending::FailedAfter(Fault::BudgetExceeded)),
        (&[], Ending::FailedBefore(Fault::Reset)),
        (&[USAGE], Ending::FailedBefore(Fault::Reset)),
        (&[], Ending::PassedOn(400)),
        (&[], Ending::Refused(Refusal::Overloaded { retry_after: Micros(1) })),
        (&[WORD], Ending::Dropped),
        (&[], Ending::Dropped),
    ] {
        let (record, told) = ended(events, ending.clone()).await;
        assert_eq!(told, charge::charged(&record), "{ending:?} after {} events", events.len());
    }
}

#[tokio::test]
async fn input_that_nobody_counted_is_estimated_where_it_was_worked_on() {
    // The prompt of `admitted` is `[]`: two bytes, one token.
    for (events, ending, input, output) in [
        (&[WORD, WORD][..], Ending::Completed, Some(1), Some(2)),
        (&[USAGE], Ending::Completed, Some(7), Some(5)),
        (&[], Ending::ClientGone, Some(1), None),
        (&[WORD], Ending::FailedAfter(Fault::Reset), Some(1), Some(1)),
        (&[], Ending::FailedAfter(Fault::FirstByte), None, None),
        (&[], Ending::FailedBefore(Fault::Reset), None, None),
        (&[], Ending::PassedOn(400), None, None),
        (&[], Ending::Dropped, None, None),
    ] {
        let (record, _) = ended(events, ending.clone()).await;
        let told = (record.input_total.map(|tokens| tokens.0), record.output_total.map(|tokens| tokens.0));
        assert_eq!(told, (input, output), "{ending:?} after {} events", events.len());
    }
    let till = Arc::new(Till::default());
    let office = office(&till);
    let _receipt = settle(&call(&office).await.clone(), &Ending::ClientGone);
    let record = office.ledger.records.lock().pop().expect("one record");
    assert_eq!(record.input_total, None, "a request that was never sent cost nobody anything");
}

#[tokio::test]
async fn who_pays_depends_on_the_cause_and_the_row_says_by_which_prices() {
    for (events, ending, metered, billable) in [
        (&[USAGE][..], Ending::Completed, 57, 57),
        (&[], Ending::ClientGone, 1, 1),
        (&[WORD, WORD], Ending::ClientGone, 21, 21),
        (&[USAGE], Ending::FailedAfter(Fault::Reset), 57, 0),
        (&[USAGE], Ending::FailedAfter(Fault::Total), 57, 0),
        (&[USAGE], Ending::FailedAfter(Fault::BudgetExceeded), 57, 57),
        (&[], Ending::FailedBefore(Fault::Connect), 0, 0),
        (&[WORD], Ending::Dropped, 11, 0),
    ] {
        let (record, told) = ended(events, ending.clone()).await;
        let money = (record.metered_cost_nano_usd, record.billable_cost_nano_usd);
        assert_eq!(money, (Some(metered), Some(billable)), "{ending:?} after {} events", events.len());
        assert_eq!(told.cost, NanoUsd(billable), "{ending:?}: budgets count what is billed");
        let by = (record.price_version.as_deref(), record.billing_policy.as_deref());
        assert_eq!(by, (Some("v7"), Some("fair_v1")), "{ending:?}");
    }
}

#[tokio::test]
async fn a_running_stream_tells_the_limits_each_five_seconds_what_it_has_used() {
    let till = Arc::new(Till::default());
    let office = office(&till);
    let exchange = sent(&office).await;
    meter::begin(&exchange, 200, true);
    for second in 0..12 {
        office.clock.0.store(second * 1_000_000, Ordering::Relaxed);
        say(&exchange, WORD);
        assert_eq!(meter::account(&exchange), None, "no rule ends it");
    }
    let told: Vec<_> =
        till.told.progress.lock().iter().map(|used| (used.input.0, used.output.0, used.cost.0)).collect();
    assert_eq!(told, [(1, 6, 61), (1, 11, 111)], "at five and ten seconds, an event a token, at the model's price");
}

#[tokio::test]
async fn a_stream_that_a_budget_ends_is_our_no_and_names_the_rule_in_the_log() {
    let till = Arc::new(Till::default());
    *till.told.spent.lock() = Some("gold.budget".into());
    let office = office(&till);
    let exchange = sent(&office).await;
    meter::begin(&exchange, 200, true);
    office.clock.0.store(meter::ACCOUNT_EVERY.0, Ordering::Relaxed);
    say(&exchange, WORD);
    assert_eq!(meter::account(&exchange), Some(Fault::BudgetExceeded), "the limits say that it must end");
    let last = meter::interruption(&exchange, Fault::BudgetExceeded);
    assert!(String::from_utf8_lossy(&last).contains("\"code\":\"insufficient_quota\""), "the caller is told why");
    let _receipt = settle(&exchange, &Ending::FailedAfter(Fault::BudgetExceeded));
    let record = office.ledger.records.lock().pop().expect("one record");
    let how = (record.status, record.http_status, record.error_code.as_deref());
    assert_eq!(how, (Status::Rejected, Some(200), Some("insufficient_quota")), "our own no, in the output");
    let line = office.ears.ended.lock().pop().expect("one line");
    assert_eq!((line.reason, line.rule.as_deref()), (Some("budget"), Some("gold.budget")), "for operators");
}

#[tokio::test]
async fn a_full_pool_asks_nothing_of_the_limits() {
    let mut snapshot = snapshot(&open_to("[keys]"), KEYS);
    Arc::get_mut(&mut snapshot.pools[0]).expect("nobody else has it").max_inflight = 1;
    let till = Arc::new(Till::default());
    let office = office_of(snapshot, vec![rule("gold.requests")], &till);
    let inside = call(&office).await;
    let refused = tried(&office, CHAT, caller("acme", AuthMethod::ApiKey)).await.err().expect("the pool is full");
    assert_eq!(refused.code(), "overloaded", "whose fault it is");
    assert_eq!(till.asks.lock().len(), 1, "only the request that is inside");
    let _receipt = settle(&inside, &Ending::ClientGone);
    drop(inside);
    *till.refuses.lock() = Some(ReserveError::StoreDown);
    let refused = tried(&office, CHAT, caller("acme", AuthMethod::ApiKey)).await.err().expect("the limits refuse");
    assert_eq!(refused.code(), "dependency_unavailable", "the place was free again");
    assert_eq!(office.runtime.pools[0].inflight(), 0, "who is refused by the limits has left the pool");
}

#[tokio::test]
async fn a_request_without_a_place_for_its_record_was_never_counted() {
    for (full, code) in [(AdmitError::TableFull, "overloaded"), (AdmitError::SpoolFull, "dependency_unavailable")] {
        let till = Arc::new(Till::default());
        let office = office(&till);
        *office.ledger.refuses.lock() = Some(full);
        let refused = tried(&office, CHAT, caller("acme", AuthMethod::ApiKey)).await.err().expect("no place");
        assert_eq!(refused.code(), code, "{full:?}");
        let told = (till.told.cancelled.load(Ordering::Relaxed), till.told.settled.lock().len());
        assert_eq!(told, (1, 0), "{full:?}: taken back, and not merely ended");
        assert_eq!(office.runtime.pools[0].inflight(), 0, "{full:?}: nor is it in the pool");
    }
}

#[tokio::test]
async fn why_a_request_was_refused_is_remembered_and_logged() {
    let denial = Denial {
        dimension: Dimension::Spend,
        rule: "gold.budget".into(),
        scope: "tenant",
        retry_after: None,
        standings: vec![],
        figures: vec![],
    };
    let till = Arc::new(Till::default());
    *till.refuses.lock() = Some(ReserveError::Denied(denial.clone()));
    let office = office(&till);
    let (facts, _) = office.accept("GET", "/v1/models", &headers(&[]));
    let acme = caller("acme", AuthMethod::ApiKey);
    let refusal = debit::question(&office.runtime, &acme, &facts).await.expect_err("refused");
    let found = office.runtime.services.denials.lock().find(RequestId(uuid::Uuid::nil())).expect("remembered");
    assert_eq!((found.tenant.as_str(), &found.denial), ("acme", &denial), "whose, and why");
    settle::refused(&office.runtime, &facts, Some(&acme), &refusal);
    let line = office.ears.ended.lock().pop().expect("one line");
    assert_eq!((line.reason, line.rule.as_deref()), (Some("budget"), Some("gold.budget")), "for operators");
}

#[tokio::test]
async fn a_plan_that_is_missing_is_complained_of_once_for_many_requests() {
    let office = office(&Arc::default());
    let profile = Profile { plan: Some("gone".into()), ..Profile::of("acme".into()) };
    let acme = Principal::of(Arc::new(profile), AuthMethod::Jwt);
    let (facts, _) = office.accept("GET", "/v1/me/usage", &headers(&[]));
    for _ in 0..3 {
        let refusal = debit::question(&office.runtime, &acme, &facts).await.expect_err("nobody knows its limits");
        assert_eq!(refusal.code(), "dependency_unavailable", "the installation's fault");
    }
    let missing = Unclear::MissingPlan { plan: "gone".into(), level: "tenant" };
    let mut complaints = office.runtime.services.complaints.lock();
    assert!(!complaints.is_news(&"acme".into(), &missing, Micros(0)), "it has been said");
    assert!(complaints.is_news(&"globex".into(), &missing, Micros(0)), "of nobody else");
}

#[tokio::test]
async fn a_limit_store_that_is_down_is_no_fault_of_the_caller() {
    let till = Arc::new(Till::default());
    *till.refuses.lock() = Some(ReserveError::StoreDown);
    let office = office(&till);
    let (facts, _) = office.accept("GET", "/v1/models", &headers(&[]));
    let refusal = debit::question(&office.runtime, &caller("acme", AuthMethod::ApiKey), &facts).await.err();
    let refusal = refusal.expect("refused");
    assert_eq!((refusal.status(), refusal.code()), (503, "dependency_unavailable"), "never 429");
    assert!(refusal.retry_after().is_some(), "and they may come back");
}
