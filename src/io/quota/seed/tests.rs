use super::*;
use crate::domain::limit::{Dimension, Scope};
use crate::io::quota::ledgers::AccountRows;
use async_trait::async_trait;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows that say what a test wants, slowly.
#[derive(Default)]
struct Slow {
    asked: AtomicUsize,
    totals: Vec<RowTotal>,
    recent: Vec<(i64, u64)>,
    fails: bool,
}

impl Slow {
    async fn say<T>(&self, answer: T) -> Result<T, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
        if self.fails { Err("no rows today".to_owned()) } else { Ok(answer) }
    }
}

#[async_trait]
impl UsageRows for Slow {
    async fn totals(&self, _: &AccountRows, _: i64) -> Result<Vec<RowTotal>, String> {
        self.say(self.totals.clone()).await
    }

    async fn recent(&self, _: &AccountRows, from_ms: i64) -> Result<Vec<(i64, u64)>, String> {
        self.say(self.recent.iter().copied().filter(|(at, _)| *at >= from_ms).collect()).await
    }
}

fn open(name: &str, kind: Kind) -> OpenAccount {
    OpenAccount {
        group: Group::Tenant("acme".into()),
        account: name.into(),
        rows: AccountRows {
            tenant: Some("acme".into()),
            scope: Scope::Tenant("acme".into()),
            dimension: Dimension::Tokens,
            model: None,
        },
        kind,
        capacity: 60,
        period: 7,
        committed: 0,
        total: 0,
    }
}

fn month() -> OpenAccount {
    open("tenant|p.tokens", Kind::Calendar { starts: [0, 7, 100, 200] })
}

fn total(proxy: &str, total: u64) -> RowTotal {
    RowTotal { proxy_id: proxy.into(), total }
}

#[tokio::test]
async fn without_rows_everything_begins_at_nothing() {
    let seeder = Seeder::new(None, Nudge::default());
    assert_eq!(seeder.seed(&month(), 9).await, Ok(Seed::default()), "nobody knows better");
}

#[tokio::test(start_paused = true)]
async fn a_calendar_begins_with_each_process_part_and_is_looked_at_again() {
    let rows = Arc::new(Slow { totals: vec![total("b", 5), total("a", 3), total("c", 0)], ..Slow::default() });
    let nudge = Nudge::default();
    let seeder = Seeder::new(Some(rows), nudge.clone());
    let seed = seeder.seed(&month(), 9).await.expect("rows answer");
    let told: Vec<_> = seed.parts.iter().map(|one| (&*one.replica, one.total, one.period)).collect();
    assert_eq!((seed.level, told), (0, vec![("a", 3, 7), ("b", 5, 7)]), "the parts, of this period");
    let doubts = nudge.heard().await;
    assert!(doubts.accounts.contains(&(month().group, month().account)), "rows may have been on their way: {doubts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_bucket_begins_where_its_rows_have_left_it() {
    let rows = Arc::new(Slow { recent: vec![(0, 50), (290_000, 20)], ..Slow::default() });
    let seeder = Seeder::new(Some(rows), Nudge::default());
    let minute = open("tenant|p.rate", Kind::Bucket { limit: 60, window_ms: 60_000 });
    let seed = seeder.seed(&minute, 300_000).await;
    assert_eq!(seed, Ok(Seed { level: 10, parts: vec![] }), "20 less what drains in ten seconds");
    let places = seeder.seed(&open("tenant|p.concurrency", Kind::Slots), 300_000).await;
    assert_eq!(places, Ok(Seed::default()), "places are not in rows");
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_at_once_share_one_answer_and_later_ones_its_memory() {
    let rows = Arc::new(Slow { totals: vec![total("a", 3)], ..Slow::default() });
    let seeder = Arc::new(Seeder::new(Some(rows.clone()), Nudge::default()));
    let (one, two) = (month(), month());
    let (first, second) = tokio::join!(seeder.seed(&one, 9), seeder.seed(&two, 9));
    assert_eq!(first, second, "one answer");
    assert_eq!(rows.asked.load(Ordering::SeqCst), 1, "asked once");
    tokio::time::advance(KEPT - Duration::from_millis(1)).await;
    assert!(seeder.seed(&one, 9).await.is_ok(), "remembered");
    assert_eq!(rows.asked.load(Ordering::SeqCst), 1, "not asked again");
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(seeder.seed(&one, 9).await.is_ok(), "asked anew");
    assert_eq!(rows.asked.load(Ordering::SeqCst), 2, "rows change");
    let other_month = OpenAccount { period: 100, ..month() };
    assert!(seeder.seed(&other_month, 109).await.is_ok(), "another period");
    assert_eq!(rows.asked.load(Ordering::SeqCst), 3, "is another question");
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_does_not_take_the_answer_from_others() {
    let rows = Arc::new(Slow { totals: vec![total("a", 3)], ..Slow::default() });
    let seeder = Arc::new(Seeder::new(Some(rows.clone()), Nudge::default()));
    let (patient, account) = (Arc::clone(&seeder), month());
    let waits = tokio::spawn(async move { patient.seed(&account, 9).await });
    let gave_up = tokio::time::timeout(Duration::from_millis(20), seeder.seed(&month(), 9)).await;
    assert!(gave_up.is_err(), "a request does not wait for that long");
    assert_eq!(waits.await.expect("ends").map(|seed| seed.parts.len()), Ok(1), "the other one has its answer");
}

#[tokio::test(start_paused = true)]
async fn rows_that_fail_are_left_alone_for_a_moment() {
    let rows = Arc::new(Slow { fails: true, ..Slow::default() });
    let seeder = Seeder::new(Some(rows.clone()), Nudge::default());
    for _ in 0..3 {
        assert_eq!(seeder.seed(&month(), 9).await, Err("no rows today".to_owned()), "nobody knows");
    }
    assert_eq!(rows.asked.load(Ordering::SeqCst), 1, "asked once");
    tokio::time::advance(FAILED_FOR).await;
    assert!(seeder.seed(&month(), 9).await.is_err(), "asked again");
    assert_eq!(rows.asked.load(Ordering::SeqCst), 2, "after a moment");
}

#[tokio::test(start_paused = true)]
async fn answers_are_bounded() {
    let rows = Arc::new(Slow::default());
    let seeder = Seeder::new(Some(rows), Nudge::default());
    for n in 0..ANSWERS_MAX + 10 {
        seeder.answer((Group::Shared, Arc::from(n.to_string()), None));
    }
    assert_eq!(seeder.answers.lock().len(), ANSWERS_MAX, "what is still to come is kept, up to the bound");
}
