//! A record as a row of `usage_records`, in the order of `schema::COLUMNS`. Decides how each kind of value stands in
//! SQLite and which record is no row.

use super::schema::COLUMNS;
use crate::domain::record::UsageRecord;
use crate::domain::units::{Tokens, WallMicros};
use rusqlite::types::Value;

/// A record that cannot be a row.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// A count that SQLite's 64 signed bits do not hold.
    #[error("{0} is over 2^63")]
    TooLarge(&'static str),
    /// The attempts could not be written as JSON.
    #[error("attempts: {0}")]
    Json(#[from] serde_json::Error),
}

/// The values of a row.
///
/// # Errors
/// [`Unfit`]
pub fn values(record: UsageRecord) -> Result<Vec<Value>, Unfit> {
    let mut row = Row { values: Vec::with_capacity(COLUMNS.len()), too_large: None };
    let attempts = serde_json::to_string(&record.attempts)?;
    identity(&mut row, &record);
    who(&mut row, &record);
    what(&mut row, &record);
    ending(&mut row, &record);
    tokens(&mut row, &record);
    row.text(record.raw_usage);
    row.values.push(record.metered_cost_nano_usd.map_or(Value::Null, Value::Integer));
    row.values.push(record.billable_cost_nano_usd.map_or(Value::Null, Value::Integer));
    row.text(record.price_version);
    row.text(record.billing_policy);
    row.text(Some(attempts));
    match row.too_large {
        Some(column) => Err(Unfit::TooLarge(column)),
        None => Ok(row.values),
    }
}

struct Row {
    values: Vec<Value>,
    too_large: Option<&'static str>,
}

impl Row {
    fn text(&mut self, text: Option<String>) {
        self.values.push(text.map_or(Value::Null, Value::Text));
    }

    fn copy(&mut self, text: Option<&String>) {
        self.text(text.cloned());
    }

    fn count(&mut self, count: Option<u64>) {
        let value = match count.map(i64::try_from) {
            None => Value::Null,
            Some(Ok(count)) => Value::Integer(count),
            Some(Err(_)) => {
                self.too_large = self.too_large.or(COLUMNS.get(self.values.len()).map(|(name, _)| *name));
                Value::Null
            }
        };
        self.values.push(value);
    }

    fn tokens(&mut self, tokens: Option<Tokens>) {
        self.count(tokens.map(|tokens| tokens.0));
    }

    fn time(&mut self, time: Option<WallMicros>) {
        self.values.push(time.map_or(Value::Null, |time| Value::Integer(time.0)));
    }

    fn flag(&mut self, flag: bool) {
        self.values.push(Value::Integer(flag.into()));
    }
}

fn identity(row: &mut Row, record: &UsageRecord) {
    row.count(Some(record.schema_version.into()));
    row.text(Some(record.request_id.to_string()));
    row.copy(record.client_request_id.as_ref());
    row.copy(record.trace_id.as_ref());
    row.text(Some(record.proxy_id.clone()));
    row.count(Some(record.seq));
    row.copy(record.config_version.as_ref());
    row.time(Some(record.ts_received));
    row.time(record.ts_admitted);
    row.time(record.ts_first_byte);
    row.time(record.ts_first_token);
    row.time(Some(record.ts_end));
    row.count(record.queue_ms);
    row.count(record.overhead_us);
}

fn who(row: &mut Row, record: &UsageRecord) {
    row.copy(record.tenant_id.as_ref());
    row.copy(record.team_id.as_ref());
    row.copy(record.user_id.as_ref());
    row.copy(record.end_user.as_ref());
    row.copy(record.key_id.as_ref());
    row.count(record.secret_gen.map(u64::from));
    row.copy(record.auth_method.as_ref());
    row.copy(record.tags.as_ref());
}

fn what(row: &mut Row, record: &UsageRecord) {
    row.text(Some(record.surface.clone()));
    row.flag(record.stream);
    row.copy(record.route_id.as_ref());
    row.copy(record.model_requested.as_ref());
    row.copy(record.model_routed.as_ref());
    row.copy(record.model_reported.as_ref());
    row.copy(record.provider.as_ref());
    row.copy(record.pool.as_ref());
    row.copy(record.backend_id.as_ref());
    row.count(record.prefix_blocks_matched);
    row.count(record.prefix_blocks_total);
}

fn ending(row: &mut Row, record: &UsageRecord) {
    row.text(Some(record.status.name().to_owned()));
    row.count(record.http_status.map(u64::from));
    row.copy(record.error_code.as_ref());
    row.copy(record.finish_reason.as_ref());
    row.count(Some(record.bytes_in));
    row.count(Some(record.bytes_out));
    row.count(Some(record.sse_events));
    row.flag(record.terminal_event_seen);
}

fn tokens(row: &mut Row, record: &UsageRecord) {
    row.tokens(record.input_total);
    row.tokens(record.input_cache_read);
    row.tokens(record.input_cache_write);
    row.tokens(record.output_total);
    row.tokens(record.output_reasoning);
    row.tokens(record.delivered_output);
    row.text(Some(record.usage_source.clone()));
    row.text(Some(record.usage_confidence.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::RequestId;

    fn record() -> UsageRecord {
        UsageRecord::new(RequestId(uuid::Uuid::now_v7()), "p", 1, "http")
    }

    fn at(values: &[Value], name: &str) -> Value {
        let place = COLUMNS.iter().position(|(column, _)| *column == name).expect("a column");
        values[place].clone()
    }

    #[test]
    fn every_value_stands_at_its_column() {
        let mut record = record();
        record.seq = 7;
        record.trace_id = Some("t".to_owned());
        record.output_total = Some(Tokens(0));
        record.terminal_event_seen = true;
        record.billing_policy = Some("fair_v1".to_owned());
        let values = values(record).expect("a row");
        assert_eq!(values.len(), COLUMNS.len(), "one value per column");
        assert_eq!(at(&values, "seq"), Value::Integer(7), "seq");
        assert_eq!(at(&values, "trace_id"), Value::Text("t".to_owned()), "trace_id");
        assert_eq!(at(&values, "output_total"), Value::Integer(0), "an explicit zero is kept");
        assert_eq!(at(&values, "input_total"), Value::Null, "and what was not said is null");
        assert_eq!(at(&values, "terminal_event_seen"), Value::Integer(1), "flags are 0 or 1");
        assert_eq!(at(&values, "billing_policy"), Value::Text("fair_v1".to_owned()), "billing_policy");
        assert_eq!(at(&values, "attempts"), Value::Text("[]".to_owned()), "attempts are JSON");
    }

    #[test]
    fn a_count_that_sqlite_cannot_hold_names_its_column() {
        let mut record = record();
        record.output_total = Some(Tokens(u64::MAX));
        let unfit = values(record).expect_err("no row");
        assert_eq!(unfit.to_string(), "output_total is over 2^63", "the reason is for the dead letter");
    }
}
