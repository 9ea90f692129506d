//! The usage database's tables. Decides their form and its version; what fills them is `row` and `database`.
//!
//! - `usage_records`: one row per admitted request, never updated; columns as in semantics.md §5.
//! - `usage_rollup_day`: sums per UTC day of `ts_received`, tenant, key and model (the routed one, else the requested
//!   one). Unknown is `''`. A sum counts null as 0; `*_known` counts the rows that had the figure, so that a reader
//!   can tell "nothing" from "not said". Equal to the sums over `usage_records` at every commit.
//! - `usage_dead_letter`: payloads that are no row (an unknown version, a constraint), with the reason.
//! - `spool_position`: how far each segment has been read.

/// `PRAGMA user_version` of this form.
pub const VERSION: i64 = 1;

/// Columns of `usage_records` in table order, each with its SQL type; the names are those of the record's fields.
pub const COLUMNS: [(&str, &str); 55] = [
    ("schema_version", "INTEGER NOT NULL"),
    ("request_id", "TEXT NOT NULL PRIMARY KEY"),
    ("client_request_id", "TEXT"),
    ("trace_id", "TEXT"),
    ("proxy_id", "TEXT NOT NULL"),
    ("seq", "INTEGER NOT NULL"),
    ("config_version", "TEXT"),
    ("ts_received", "INTEGER NOT NULL"),
    ("ts_admitted", "INTEGER"),
    ("ts_first_byte", "INTEGER"),
    ("ts_first_token", "INTEGER"),
    ("ts_end", "INTEGER NOT NULL"),
    ("queue_ms", "INTEGER"),
    ("overhead_us", "INTEGER"),
    ("tenant_id", "TEXT"),
    ("team_id", "TEXT"),
    ("user_id", "TEXT"),
    ("end_user", "TEXT"),
    ("key_id", "TEXT"),
    ("secret_gen", "INTEGER"),
    ("auth_method", "TEXT"),
    ("tags", "TEXT"),
    ("surface", "TEXT NOT NULL"),
    ("stream", "INTEGER NOT NULL"),
    ("route_id", "TEXT"),
    ("model_requested", "TEXT"),
    ("model_routed", "TEXT"),
    ("model_reported", "TEXT"),
    ("provider", "TEXT"),
    ("pool", "TEXT"),
    ("backend_id", "TEXT"),
    ("prefix_blocks_matched", "INTEGER"),
    ("prefix_blocks_total", "INTEGER"),
    ("status", "TEXT NOT NULL"),
    ("http_status", "INTEGER"),
    ("error_code", "TEXT"),
    ("finish_reason", "TEXT"),
    ("bytes_in", "INTEGER NOT NULL"),
    ("bytes_out", "INTEGER NOT NULL"),
    ("sse_events", "INTEGER NOT NULL"),
    ("terminal_event_seen", "INTEGER NOT NULL"),
    ("input_total", "INTEGER"),
    ("input_cache_read", "INTEGER"),
    ("input_cache_write", "INTEGER"),
    ("output_total", "INTEGER"),
    ("output_reasoning", "INTEGER"),
    ("delivered_output", "INTEGER"),
    ("usage_source", "TEXT NOT NULL"),
    ("usage_confidence", "TEXT NOT NULL"),
    ("raw_usage", "TEXT"),
    ("metered_cost_nano_usd", "INTEGER"),
    ("billable_cost_nano_usd", "INTEGER"),
    ("price_version", "TEXT"),
    ("billing_policy", "TEXT"),
    ("attempts", "TEXT NOT NULL"),
];

/// Figures of `usage_rollup_day`, all summed.
pub const SUMS: [&str; 12] = [
    "requests",
    "completed",
    "input_total",
    "input_known",
    "input_cache_read",
    "output_total",
    "output_known",
    "delivered_output",
    "bytes_in",
    "bytes_out",
    "metered_cost_nano_usd",
    "billable_cost_nano_usd",
];

/// The statements that make the tables. `STRICT`: a value of the wrong type is refused, not converted.
#[must_use]
pub fn create() -> String {
    let columns: Vec<String> = COLUMNS.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    let sums: Vec<String> = SUMS.iter().map(|name| format!("{name} INTEGER NOT NULL")).collect();
    format!(
        "CREATE TABLE IF NOT EXISTS usage_records ({}) STRICT;
         CREATE INDEX IF NOT EXISTS usage_records_by_time ON usage_records (ts_received);
         CREATE INDEX IF NOT EXISTS usage_records_by_key ON usage_records (tenant_id, key_id, ts_received)
           WHERE key_id IS NOT NULL;
         CREATE INDEX IF NOT EXISTS usage_records_by_user ON usage_records (tenant_id, user_id, ts_received)
           WHERE user_id IS NOT NULL;
         CREATE INDEX IF NOT EXISTS usage_records_by_tenant ON usage_records (tenant_id, ts_end);
         CREATE TABLE IF NOT EXISTS usage_rollup_day (day TEXT NOT NULL, tenant_id TEXT NOT NULL, key_id TEXT NOT NULL,
           model TEXT NOT NULL, {}, PRIMARY KEY (day, tenant_id, key_id, model)) STRICT;
         CREATE TABLE IF NOT EXISTS usage_dead_letter (segment TEXT NOT NULL, frame_offset INTEGER NOT NULL,
           reason TEXT NOT NULL, payload BLOB NOT NULL, seen_at INTEGER NOT NULL,
           PRIMARY KEY (segment, frame_offset)) STRICT;
         CREATE TABLE IF NOT EXISTS spool_position (segment TEXT NOT NULL PRIMARY KEY, read_to INTEGER NOT NULL) STRICT;
         PRAGMA user_version = {VERSION};",
        columns.join(", "),
        sums.join(", ")
    )
}

/// Inserts one record; does nothing where the request has a row.
#[must_use]
pub fn insert() -> String {
    let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let marks = vec!["?"; COLUMNS.len()].join(", ");
    format!("INSERT INTO usage_records ({}) VALUES ({marks}) ON CONFLICT (request_id) DO NOTHING", names.join(", "))
}

/// Adds to a day's sums. A sum stays at the largest integer rather than become a float, which `STRICT` would refuse:
/// one absurd count of an upstream must not stop the batch.
#[must_use]
pub fn roll_up() -> String {
    let marks = vec!["?"; SUMS.len()].join(", ");
    let sums: Vec<String> =
        SUMS.iter().map(|name| format!("{name} = min({name} + excluded.{name}, {})", i64::MAX)).collect();
    format!(
        "INSERT INTO usage_rollup_day (day, tenant_id, key_id, model, {})
         VALUES (coalesce(date(? * 86400, 'unixepoch'), ''), ?, ?, ?, {marks})
         ON CONFLICT (day, tenant_id, key_id, model) DO UPDATE SET {}",
        SUMS.join(", "),
        sums.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::RequestId;
    use crate::domain::record::UsageRecord;

    #[test]
    fn the_columns_are_the_records_fields() {
        let record = UsageRecord::new(RequestId(uuid::Uuid::now_v7()), "p", 1, "http");
        let json = serde_json::to_string(&record).expect("json");
        let fields: std::collections::BTreeSet<String> =
            serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&json)
                .expect("an object")
                .into_iter()
                .map(|(name, _)| name)
                .collect();
        let columns = COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(fields, columns, "a new field of the record needs its column");
    }
}
