//! Laws of alerts, with receivers on this machine and a limit store in memory.

use super::*;
use crate::config::snapshot::Secret;
use crate::domain::limit::{Dimension, Window};
use crate::io::clock::SystemClock;
use crate::io::fetch::tests::service::{Asked, Service, nowhere, reply};
use crate::io::metrics::Metrics;
use crate::io::quota::ledgers::{Group, LedgerFault};
use crate::logic::quota::ledger::{Call, Correction, Reply as LedgerReply};
use crate::logic::quota::plan::LimitRule;
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SECRET: &[u8] = b"shared secret";
/// Short times: a claim outlives several tries.
const PACE: Pace = Pace {
    first: Duration::from_millis(10),
    most: Duration::from_millis(40),
    give_up: Duration::from_secs(20),
    claim: Duration::from_millis(400),
    patience: Duration::from_millis(100),
};
/// Longer than anything takes here.
const SOON: Duration = Duration::from_secs(10);

/// Who holds which name until when.
type Held = HashMap<(Group, String), (String, Instant)>;

/// What replicas share.
#[derive(Default)]
struct Shared {
    held: Mutex<Held>,
    down: AtomicBool,
}

impl Shared {
    fn take(&self, key: (Group, String), by: &str, until: Instant, own: bool) -> Result<bool, LedgerFault> {
        if self.down.load(Ordering::SeqCst) {
            return Err(LedgerFault::Open);
        }
        let mut held = self.held.lock();
        let holder = held.get(&key).filter(|(_, until)| *until > Instant::now()).map(|(holder, _)| holder.clone());
        let may = if own { holder.as_deref() == Some(by) } else { holder.is_none() };
        if may {
            held.insert(key, (by.to_owned(), until));
        }
        Ok(may)
    }
}

#[async_trait]
impl Ledgers for Shared {
    async fn state(&self, _: &Group, _: &Call<'_>) -> Result<Vec<LedgerReply>, LedgerFault> {
        Ok(Vec::new())
    }
    async fn correct(&self, _: &Group, _: &[Correction]) -> Result<Vec<i64>, LedgerFault> {
        Ok(Vec::new())
    }
    async fn beat(&self, _: &str, _: Duration) -> Result<u64, LedgerFault> {
        Ok(1)
    }
    async fn claim(&self, group: &Group, name: &str, by: &str, ttl: Duration) -> Result<bool, LedgerFault> {
        self.take((group.clone(), name.to_owned()), by, Instant::now() + ttl, false)
    }
    async fn renew(&self, group: &Group, name: &str, by: &str, ttl: Duration) -> Result<bool, LedgerFault> {
        self.take((group.clone(), name.to_owned()), by, Instant::now() + ttl, true)
    }
    fn is_up(&self) -> bool {
        !self.down.load(Ordering::SeqCst)
    }
}

/// A replica, and how its deliveries went.
struct Replica {
    alerts: Arc<Alerts>,
    counts: Counts,
}

impl Replica {
    fn start(name: &str, url: &Url, ledgers: Option<&Arc<Shared>>, pace: Pace) -> Self {
        let counts = Metrics::new(1).expect("unique names").alerts();
        let around = Surroundings {
            fetch: Fetch::new().expect("a client"),
            clock: Arc::new(SystemClock::new()),
            ledgers: ledgers.map(|ledgers| Arc::clone(ledgers) as Arc<dyn Ledgers>),
            replica: Arc::from(name),
            counts: counts.clone(),
            runtime: Handle::current(),
        };
        let secret = |bytes: &[u8]| Secret(Arc::new(zeroize::Zeroizing::new(bytes.to_vec())));
        let hook =
            AlertHook { url: secret(url.as_str().as_bytes()), secret: secret(SECRET), timeout: Duration::from_secs(5) };
        Self { alerts: Alerts::start_paced(&hook, around, pace).expect("a URL"), counts }
    }

    fn sees(&self, rule: &Arc<LimitRule>, committed: u64, period: i64) {
        let (tenant, scope) = (TenantId::new("acme"), Scope::Tenant("acme".into()));
        self.alerts.seen(&Spending { tenant: Some(&tenant), scope: &scope, rule, committed, period });
    }
}

/// This month, or so.
fn period() -> i64 {
    SystemClock::new().wall().0 / 1_000
}

fn budget(name: &str, alert_at: &[u8]) -> Arc<LimitRule> {
    let rule = LimitRule::new(name, Dimension::Spend, 1_000, Window::Month);
    Arc::new(LimitRule { alert_at: Arc::from(alert_at), ..rule })
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn id(asked: &Asked) -> String {
    asked.header("x-weir-event-id").expect("an id").to_owned()
}

/// The shares told of, in the order in which they came.
fn told(asked: &[Asked]) -> Vec<u64> {
    let event = |asked: &Asked| serde_json::from_str::<serde_json::Value>(&asked.body).expect("JSON");
    asked.iter().filter_map(|asked| event(asked)["threshold_percent"].as_u64()).collect()
}

/// A receiver that says no to the first two tries of each event, and what it has accepted.
async fn reluctant() -> (Service, Arc<Mutex<Vec<String>>>) {
    let accepted = Arc::new(Mutex::new(Vec::new()));
    let (tries, list) = (Arc::new(Mutex::new(BTreeMap::<String, u32>::new())), Arc::clone(&accepted));
    let service = Service::start(move |asked| {
        let tries = {
            let mut tries = tries.lock();
            let tries = tries.entry(id(&asked)).or_default();
            *tries += 1;
            *tries
        };
        if tries > 2 {
            list.lock().push(id(&asked));
        }
        async move { reply(if tries > 2 { 204 } else { 503 }, "nobody reads this") }
    })
    .await;
    (service, accepted)
}

#[tokio::test]
async fn two_replicas_deliver_each_share_once_signed_however_often_it_takes() {
    let (service, accepted) = reluctant().await;
    let shared = Arc::new(Shared::default());
    let replicas = ["a", "b"].map(|name| Replica::start(name, &service.url, Some(&shared), PACE));
    let (rule, period) = (budget("budget.b", &[50]), period());
    for committed in [499, 500, 700, 1_000, 1_001] {
        for replica in &replicas {
            replica.sees(&rule, committed, period);
        }
    }
    until("both shares are accepted", || accepted.lock().len() >= 2).await;
    // Longer than the first claims, and than who looks after them waits.
    tokio::time::sleep(PACE.claim * 3).await;
    let accepted = accepted.lock().clone();
    assert_eq!(accepted.len(), 2, "one event for each share, once: {accepted:?}");
    assert_eq!(accepted.iter().collect::<BTreeSet<_>>().len(), 2, "two events");
    let delivered: u64 = replicas.iter().map(|replica| replica.counts.delivered.get()).sum();
    let failed: u64 = replicas.iter().map(|replica| replica.counts.failed.get()).sum();
    assert_eq!((delivered, failed), (2, 4), "two tries of each were refused");
    for asked in service.asked() {
        let timestamp = asked.header("x-weir-timestamp").expect("a time");
        let wanted = signature::signature(SECRET, timestamp, asked.body.as_bytes());
        assert_eq!(asked.header("x-weir-signature"), wanted.as_deref(), "time and body are signed");
        let event: serde_json::Value = serde_json::from_str(&asked.body).expect("JSON");
        assert_eq!(event["id"].as_str(), Some(&*id(&asked)), "one id in head and body");
        assert_eq!((&*asked.method, asked.header("content-type")), ("POST", Some("application/json")), "as JSON");
    }
}

#[tokio::test]
async fn what_a_replica_leaves_behind_another_one_delivers_with_the_same_id() {
    let first = Arc::new(AtomicBool::new(true));
    let service = Service::start(move |_| {
        let hangs = first.swap(false, Ordering::SeqCst);
        async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            reply(200, "")
        }
    })
    .await;
    let shared = Arc::new(Shared::default());
    let (dies, lives) = (
        Replica::start("dies", &service.url, Some(&shared), PACE),
        Replica::start("lives", &service.url, Some(&shared), PACE),
    );
    let (rule, period) = (budget("budget.b", &[]), period());
    dies.sees(&rule, 1_000, period);
    until("it has begun", || service.asked().len() == 1).await;
    lives.sees(&rule, 1_000, period);
    tokio::time::sleep(PACE.claim / 4).await;
    assert_eq!(service.asked().len(), 1, "the other one waits");
    drop(dies);
    until("the other one delivers", || lives.counts.delivered.get() == 1).await;
    let ids: BTreeSet<String> = service.asked().iter().map(id).collect();
    assert_eq!((service.asked().len(), ids.len()), (2, 1), "tried twice, with one id");
}

#[tokio::test]
async fn a_limit_store_that_is_away_holds_no_alert_back_for_long() {
    let service = Service::saying(200, "").await;
    let shared = Arc::new(Shared::default());
    shared.down.store(true, Ordering::SeqCst);
    let replica = Replica::start("a", &service.url, Some(&shared), PACE);
    let began = Instant::now();
    replica.sees(&budget("budget.b", &[]), 1_000, period());
    until("it is delivered", || replica.counts.delivered.get() == 1).await;
    assert!(began.elapsed() >= PACE.patience, "not before the store had its time: {:?}", began.elapsed());
    shared.down.store(false, Ordering::SeqCst);
    until("the others know when it is back", || !shared.held.lock().is_empty()).await;
    let until = shared.held.lock().values().next().expect("a name").1;
    assert!(until > Instant::now() + Duration::from_secs(86_400), "to the end of the period");
}

#[tokio::test]
async fn a_share_is_told_once_a_period_and_anew_for_another_amount() {
    let service = Service::saying(200, "").await;
    let replica = Replica::start("a", &service.url, None, PACE);
    let (rule, now) = (budget("budget.b", &[80]), period());
    let more = Arc::new(LimitRule { limit: 1_200, ..(*rule).clone() });
    let mut count = 0;
    for (rule, committed, period, wanted, why) in [
        (&rule, 799, now, vec![], "nothing is crossed"),
        (&rule, 900, now, vec![80], "a share"),
        (&rule, 950, now, vec![], "which is told once"),
        (&rule, 700, now, vec![], "also when a correction takes it back"),
        (&rule, 1_000, now, vec![100], "then the whole"),
        (&more, 1_000, now, vec![80], "more is there, and most of it spent"),
        (&more, 1_200, now - 1, vec![], "a word from the past"),
        (&more, 1_200, now + 1, vec![80, 100], "another period"),
    ] {
        replica.sees(rule, committed, period);
        count += wanted.len() as u64;
        until(why, || replica.counts.delivered.get() >= count).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut last = told(&service.asked()).split_off(service.asked().len().saturating_sub(wanted.len()));
        last.sort_unstable();
        assert_eq!((replica.counts.delivered.get(), last), (count, wanted), "{why}");
    }
}

#[tokio::test]
async fn what_nobody_takes_is_given_up_and_counted() {
    let pace = Pace { give_up: Duration::from_millis(200), ..PACE };
    let replica = Replica::start("a", &nowhere(), None, pace);
    replica.sees(&budget("budget.b", &[]), 1_000, period());
    until("it is given up", || replica.counts.dropped.get() == 1).await;
    assert!(replica.counts.failed.get() >= 3, "after some tries");
    assert_eq!(replica.alerts.courier.queue.next_due(), None, "nothing waits any more");
}

#[tokio::test]
async fn too_many_alerts_leave_the_newest_and_are_counted() {
    let pace = Pace { first: Duration::from_secs(60), ..PACE };
    let replica = Replica::start("a", &nowhere(), None, pace);
    for number in 0..queue::MOST + 10 {
        replica.sees(&budget(&format!("budget.{number}"), &[]), 1_000, period());
    }
    // Some may be under way, and come back when their try has failed.
    until("ten are given up", || replica.counts.dropped.get() == 10).await;
}

#[tokio::test]
async fn a_webhook_that_is_no_url_is_told_without_it() {
    let secret = |bytes: &[u8]| Secret(Arc::new(zeroize::Zeroizing::new(bytes.to_vec())));
    let around = Surroundings {
        fetch: Fetch::new().expect("a client"),
        clock: Arc::new(SystemClock::new()),
        ledgers: None,
        replica: Arc::from("a"),
        counts: Metrics::new(1).expect("unique names").alerts(),
        runtime: Handle::current(),
    };
    let hook = AlertHook { url: secret(b"planted"), secret: secret(SECRET), timeout: Duration::from_secs(1) };
    let error = Alerts::start(&hook, around).err().expect("no URL");
    assert!(!format!("{error} {error:?}").contains("planted"), "{error}");
}
