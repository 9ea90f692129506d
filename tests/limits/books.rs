//! What was really used: the usage rows that the writers wrote, and how much of them falls into any span of time.

use super::fleet::Fleet;
use super::load::Shot;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// How long rows may take from a request's end into the table: a pass of the writer, or of its search for dead proxies.
const WRITTEN_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// The part of a usage row that limits are about.
#[derive(Clone, Debug)]
pub struct Row {
    /// Microseconds since 1970.
    pub admitted: i64,
    pub ended: i64,
    /// What a limit on tokens counts.
    pub tokens: u64,
    pub output: u64,
    /// What a budget counts, in nano-dollars.
    pub cost: u64,
}

const QUERY: &str = "SELECT ts_admitted, ts_end,
    coalesce(input_total, 0) + coalesce(output_total, delivered_output, 0),
    coalesce(output_total, delivered_output, 0), coalesce(billable_cost_nano_usd, 0)
    FROM usage_records WHERE tenant_id = ?1 AND ts_admitted IS NOT NULL ORDER BY ts_admitted";

fn read(database: &Path, tenant: &str) -> rusqlite::Result<Vec<Row>> {
    let database = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    database.busy_timeout(WRITTEN_WITHIN)?;
    let mut query = database.prepare(QUERY)?;
    let rows = query.query_map([tenant], |row| {
        let units = |at: usize| row.get::<_, i64>(at).map(|units| u64::try_from(units).expect("no negative use"));
        Ok(Row { admitted: row.get(0)?, ended: row.get(1)?, tokens: units(2)?, output: units(3)?, cost: units(4)? })
    })?;
    rows.collect()
}

impl Fleet {
    /// A tenant's rows as they are now, in the order of admission.
    pub fn rows_now(&self, tenant: &str) -> Vec<Row> {
        // No file and no table yet are no rows yet.
        read(&self.usage_db(), tenant).unwrap_or_default()
    }

    /// A tenant's rows once as many are there as requests were admitted; more is as wrong as fewer.
    pub async fn rows(&self, tenant: &str, admitted: usize) -> Vec<Row> {
        let until = Instant::now() + WRITTEN_WITHIN;
        while self.rows_now(tenant).len() < admitted && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
        let rows = self.rows_now(tenant);
        assert_eq!(rows.len(), admitted, "{tenant}: a row for each request that was admitted, and no other");
        rows
    }
}

/// Something that was used between two instants: microseconds on any clock.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    pub from: i64,
    pub to: i64,
    pub units: u64,
}

/// A limit that was to hold.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    pub per_second: f64,
    pub burst: f64,
}

impl Allowed {
    /// Units within a span.
    pub fn within(self, seconds: f64) -> f64 {
        self.per_second * seconds + self.burst
    }
}

/// Each admitted request as one unit, used at some instant between its sending and its answer.
pub fn requests(shots: &[Shot]) -> Vec<Use> {
    let Some(start) = shots.iter().map(|shot| shot.sent).min() else { return Vec::new() };
    let micros = |at: Instant| i64::try_from((at - start).as_micros()).expect("a short test");
    let admitted = shots.iter().filter(|shot| shot.admitted());
    admitted.map(|shot| Use { from: micros(shot.sent), to: micros(shot.ended), units: 1 }).collect()
}

/// The most that was used in any span of time, as a ratio to what the limit allows in it. What may have been used outside
/// of a span does not count for it.
pub fn worst_ratio(uses: &[Use], allowed: Allowed) -> f64 {
    let mut by_end = uses.to_vec();
    by_end.sort_by_key(|one| one.to);
    let mut worst = 0.0_f64;
    for first in uses {
        let mut sum = 0;
        for one in by_end.iter().filter(|one| one.from >= first.from) {
            sum += one.units;
            let seconds = seconds(one.to - first.from);
            worst = worst.max(sum as f64 / allowed.within(seconds));
        }
    }
    worst
}

/// Microseconds in seconds.
pub fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}

#[test]
fn a_limit_that_held_is_told_from_one_that_did_not() {
    let each = |gap: i64, count: i64| -> Vec<Use> {
        (0..count).map(|at| Use { from: at * gap, to: at * gap, units: 1 }).collect()
    };
    let allowed = Allowed { per_second: 10.0, burst: 5.0 };
    assert!(worst_ratio(&each(100_000, 100), allowed) <= 1.0, "10 per second are allowed");
    assert!(worst_ratio(&each(50_000, 100), allowed) > 1.5, "20 per second for 5 seconds are not");
    assert!(worst_ratio(&each(0, 6), allowed) > 1.19, "6 at once are one too many");
}
