//! Laws of what accounts begin with, by rows that a test writes.

use super::shelf::{Hands, Shelf};
use super::{TTL, ask, used};
use crate::domain::limit::{Dimension, Scope, Window};
use crate::io::quota::accounts::Books;
use crate::io::quota::ledgers::{AccountRows, RowTotal, UsageRows};
use crate::io::quota::nudge::Nudge;
use crate::io::quota::sync::Running;
use crate::io::quota::watch::Unwatched;
use crate::io::quota::{Quota, Settings};
use crate::logic::quota::ledger::Correction;
use crate::logic::quota::plan::{LimitRule, QuotaAsk};
use crate::ports::{Clock, QuotaStore};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Rows by process, with the time of each; those of the key `slow` take long to be counted.
#[derive(Default)]
struct Written(Mutex<Vec<(&'static str, i64, u64)>>);

#[async_trait]
impl UsageRows for Written {
    async fn totals(&self, rows: &AccountRows, from: i64) -> Result<Vec<RowTotal>, String> {
        let slow = rows.scope == Scope::Key("slow".into());
        sleep(if slow { Duration::from_secs(10) } else { Duration::from_millis(2) }).await;
        let rows = self.0.lock();
        let mut names: Vec<_> = rows.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        names.dedup();
        let sum = |name: &str| rows.iter().filter(|row| row.0 == name && row.1 >= from).map(|row| row.2).sum();
        Ok(names.into_iter().map(|name| RowTotal { proxy_id: name.into(), total: sum(name) }).collect())
    }

    async fn recent(&self, _: &AccountRows, _: i64) -> Result<Vec<(i64, u64)>, String> {
        Ok(Vec::new())
    }
}

/// Replicas with the same rows, on one ledger or each alone.
struct Begun {
    clock: Arc<Hands>,
    rows: Arc<Written>,
    replicas: Vec<(Arc<Quota>, Running)>,
}

impl Begun {
    fn with(names: &[&str], leased: bool) -> Self {
        let clock = Hands::new();
        let (shelf, rows) = (Shelf::new(&clock), Arc::new(Written::default()));
        let join = |name: &&str| {
            let settings = Settings {
                replica: (*name).into(),
                hold_ttl: TTL,
                clock: clock.clone(),
                rows: Some(rows.clone()),
                watch: Arc::new(Unwatched),
                nudge: Nudge::default(),
                spend: None,
            };
            let quota = if leased { Quota::leased(shelf.clone(), settings) } else { Quota::process(settings) };
            let running = quota.spawn(&tokio::runtime::Handle::current());
            (quota, running)
        };
        let replicas = names.iter().map(join).collect();
        Self { clock, rows, replicas }
    }

    async fn spend(&self, replica: usize, ask: &QuotaAsk, tokens: u64) {
        let (now, wall) = (self.clock.mono(), self.clock.wall());
        let open = self.replicas[replica].0.reserve(ask.clone(), now, wall).await;
        open.map_err(|error| format!("{error:?}")).expect("it fits").settle(used(tokens), self.clock.mono());
    }

    fn committed(&self, replica: usize) -> Vec<u64> {
        self.replicas[replica].0.calendars().iter().map(|one| one.committed).collect()
    }
}

fn tokens(window: Window) -> QuotaAsk {
    ask(vec![LimitRule::new("p.tokens", Dimension::Tokens, 1_000, window)], 1)
}

#[tokio::test(start_paused = true)]
async fn an_account_does_not_wait_for_the_rows_of_another() {
    let world = Begun::with(&["me"], false);
    world.rows.0.lock().push(("dead", world.clock.wall().0 / 1_000, 300));
    let mut slow = tokens(Window::Day);
    slow.lines[0].scope = Scope::Key("slow".into());
    world.spend(0, &slow, 1).await;
    sleep(Duration::from_millis(100)).await;
    world.spend(0, &tokens(Window::Day), 5).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(world.committed(0), [1, 305], "the first one's rows are still being counted");
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.committed(0), [301, 305], "and are not forgotten");
}

/// Rows of this month and of the last hours, of three processes; what the test's replicas use is in the rows at once.
async fn change(leased: bool, old: &QuotaAsk, new: &QuotaAsk) -> Vec<u64> {
    let world = Begun::with(&["me", "you"], leased);
    let now_ms = world.clock.wall().0 / 1_000;
    let hour = 3_600_000;
    // It is 21:20 in London, and the 22nd in Tokyo since 15:00.
    for (name, hours, units) in [("dead", 200, 100), ("you", 30, 50), ("me", 8, 20), ("dead", 8, 3), ("dead", 1, 4)] {
        world.rows.0.lock().push((name, now_ms - hours * hour, units));
    }
    for (replica, name, units) in [(0, "me", 7), (1, "you", 5)] {
        world.spend(replica, old, units).await;
        world.rows.0.lock().push((name, now_ms, units));
    }
    sleep(Duration::from_secs(8)).await;
    for units in [0, 1] {
        for replica in [0, 1] {
            world.spend(replica, new, units).await;
        }
        sleep(Duration::from_secs(6)).await;
    }
    if leased {
        // Each has heard of the other's last statement.
        world.spend(0, new, 0).await;
        sleep(Duration::from_secs(2)).await;
        return world.committed(0);
    }
    vec![world.committed(0)[0], world.committed(1)[0]]
}

#[tokio::test(start_paused = true)]
async fn a_budget_whose_window_or_time_zone_changes_keeps_what_the_rows_say_of_the_new_period() {
    let (day, month) = (tokens(Window::Day), tokens(Window::Month));
    let zone = jiff::tz::TimeZone::get("Asia/Tokyo").expect("a zone");
    let tokyo = QuotaAsk { zone, ..tokens(Window::Day) };
    for (what, old, new, sum) in [
        ("day to month", &day, &month, 100 + 50 + 20 + 3 + 4 + 7 + 5),
        ("month to day", &month, &day, 20 + 3 + 4 + 7 + 5),
        ("to another zone", &day, &tokyo, 4 + 7 + 5),
    ] {
        assert_eq!(change(true, old, new).await, [sum + 2], "{what}, on one ledger");
        assert_eq!(change(false, old, new).await, [sum + 1, sum + 1], "{what}, each alone");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_knows_of_less_than_its_own_rows_takes_them_over_and_of_more_keeps_it() {
    for leased in [true, false] {
        let world = Begun::with(&["me"], leased);
        world.spend(0, &tokens(Window::Day), 5).await;
        sleep(Duration::from_secs(3)).await;
        let open = world.replicas[0].0.calendars().remove(0);
        for (rows, change, sum) in [(3, 0, 5), (9, 4, 9), (9, 0, 9)] {
            let own = Correction {
                account: Arc::clone(&open.account),
                period: open.period,
                starts: None,
                replica: "me".into(),
                total: rows,
            };
            let changed = world.replicas[0].0.correct(&open.group, &[own]).await;
            assert_eq!(changed.ok(), Some(vec![change]), "{rows} by the rows");
            world.spend(0, &tokens(Window::Day), 0).await;
            sleep(Duration::from_secs(3)).await;
            assert_eq!(world.committed(0), [sum], "{rows} by the rows, leased: {leased}");
        }
    }
}
