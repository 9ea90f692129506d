//! Usage over HTTP: records, and sums of them. Decides whose a caller sees, and the form of both; the questions are
//! `io::usage_query`'s.

use super::call::{Answer, Call, cut};
use super::problem::Problem;
use crate::io::usage_query::{COLUMNS, Filter, GROUPS, Kind, Line, SUMS, UsageQueryError, UsageReader};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// By what sums may be.
pub const BY: &[&str] = &["tenant", "team", "user", "key", "model", "day"];

/// One usage record; the columns are those of `usage_records`.
#[derive(Debug, Serialize)]
pub struct UsageRecordView(Line);

impl JsonSchema for UsageRecordView {
    fn schema_name() -> Cow<'static, str> {
        "UsageRecord".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let column = |(name, kind): &(&str, Kind)| {
            let schema = match kind {
                Kind::Text => json!({"type": "string"}),
                Kind::MaybeText => json!({"type": ["string", "null"]}),
                Kind::Whole => json!({"type": "integer"}),
                Kind::MaybeWhole => json!({"type": ["integer", "null"]}),
                Kind::Flag => json!({"type": "boolean"}),
            };
            ((*name).to_owned(), schema)
        };
        object(
            "One request. Times (`ts_…`) are microseconds since 1970 UTC; a count that is not known is null, not 0.",
            COLUMNS.iter().map(column).collect(),
            &COLUMNS.map(|(name, _)| name),
        )
    }
}

/// One line of sums: the groups that were asked for, and the figures.
#[derive(Debug, Serialize)]
pub struct UsageSum(Line);

impl JsonSchema for UsageSum {
    fn schema_name() -> Cow<'static, str> {
        "UsageSum".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let group = |(name, _): &(&str, &str)| ((*name).to_owned(), json!({"type": ["string", "null"]}));
        let sum = |(name, _): &(&str, &str)| ((*name).to_owned(), json!({"type": "integer"}));
        object(
            "Sums over requests. A group that is not known is null; a count that is not known counts as 0.",
            GROUPS.iter().map(group).chain(SUMS.iter().map(sum)).collect(),
            &SUMS.map(|(name, _)| name),
        )
    }
}

fn object(about: &str, properties: Map<String, Value>, required: &[&str]) -> Schema {
    let schema = json!({
        "type": "object", "description": about, "additionalProperties": false,
        "properties": properties, "required": required,
    });
    Schema::try_from(schema).unwrap_or_default()
}

/// A page of records, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RecordPage {
    records: Vec<UsageRecordView>,
    /// Where the next page begins; null: this was the last.
    next_cursor: Option<String>,
}

/// A page of sums, in the order of their groups.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SumPage {
    usage: Vec<UsageSum>,
    /// Where the next page begins; null: this was the last.
    next_cursor: Option<String>,
}

impl From<UsageQueryError> for Problem {
    fn from(error: UsageQueryError) -> Self {
        tracing::warn!(%error, "a question about usage had no answer");
        Self::unavailable("usage database")
    }
}

/// `GET /usage/records`
pub fn records(call: &Call, usage: &UsageReader) -> Result<Answer, Problem> {
    let limit = call.query.limit();
    let after = call.after(1)?.and_then(|keys| keys.into_iter().next());
    let mut lines = usage.records(&filter(call)?, after.as_deref(), limit + 1)?;
    let more = cut(&mut lines, limit);
    let last = lines.last().and_then(|line| line.get("request_id")).and_then(Value::as_str).filter(|_| more);
    let next = last.map(|last| call.list().after(&[last]));
    Answer::page("records", &lines, next)
}

/// `GET /usage/summary`
pub fn summary(call: &Call, usage: &UsageReader) -> Result<Answer, Problem> {
    let by: Vec<&str> = call.query.text("by").map(|by| by.split(',').collect()).unwrap_or_default();
    let limit = call.query.limit();
    let after = call.after(by.len())?;
    let mut lines = usage.sums(&filter(call)?, &by, after.as_deref(), limit + 1)?;
    let more = cut(&mut lines, limit);
    let group = |line: &Line, name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let last = lines.last().filter(|_| more).map(|line| by.iter().map(|name| group(line, name)).collect::<Vec<_>>());
    let next = last.map(|keys| call.list().after(&keys.iter().map(String::as_str).collect::<Vec<_>>()));
    Answer::page("usage", &lines, next)
}

fn filter(call: &Call) -> Result<Filter, Problem> {
    let text = |name: &str| call.query.text(name).map(str::to_owned);
    Ok(Filter {
        tenant: call.tenant_filter()?,
        team: text("team"),
        user: text("user"),
        key: text("key"),
        model: text("model"),
        from: call.query.time("from"),
        to: call.query.time("to"),
    })
}
