//! Usage rows as limits count them, out of the writer's SQLite file. Decides the questions, which rows of an account they
//! mean, and how many are asked at once. A row counts from its commit on; what is still in the spool does not yet.
//!
//! A question that takes too long is asked again in slices, so that a tenant with many rows is slow to rebuild, and not
//! impossible. Charges are held equal to these sums by a test: a request counts 1 in the period of `ts_admitted`, tokens and money
//! count in the period of `ts_end`.

mod slices;

use super::ledgers::{AccountRows, RowTotal, UsageRows};
use crate::domain::limit::{Dimension, Scope};
use crate::io::usage_query::{UsageQueryError, UsageReader};
use async_trait::async_trait;
use rusqlite::types::{FromSql, Value as Sql};
use slices::{Slice, Unanswered};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Questions that run at once; the others wait their turn. Each may keep a core busy for as long as a question may take.
pub const QUESTIONS_AT_ONCE: usize = 2;
/// Longest time between a request's head and its end that is reckoned with, where rows are found by `ts_received`.
const LONGEST_REQUEST_MS: i64 = 24 * 3_600_000;
/// Most tokens (nano-dollars: a thousand times that) that one row counts for, as in `usage_query`: one absurd count of an
/// upstream must not make every sum over it overflow.
const ROW_MAX: i64 = 1_000_000_000_000;
/// Most lines of [`UsageRows::recent`]: a day by second.
const RECENT_MAX: usize = 86_400;

/// The rows in a file. Questions run in threads of their own.
#[derive(Clone, Debug)]
pub struct SqliteRows {
    reader: UsageReader,
    turns: Arc<Semaphore>,
}

impl SqliteRows {
    /// Reads the writer's file; opens nothing yet. No file means no rows.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { reader: UsageReader::new(path), turns: Arc::new(Semaphore::new(QUESTIONS_AT_ONCE)) }
    }

    /// Asks in a blocking thread, when it is this question's turn.
    async fn ask<T, F>(&self, question: F) -> Result<T, Unanswered>
    where
        T: Send + 'static,
        F: FnOnce(&UsageReader) -> Result<T, UsageQueryError> + Send + 'static,
    {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|closed| Unanswered::Failed(closed.to_string()))?;
        let reader = self.reader.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let answer = question(&reader);
            drop(turn);
            answer
        });
        match asked.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(UsageQueryError::TooLong)) => Err(Unanswered::TooLong),
            Ok(Err(error)) => Err(Unanswered::Failed(error.to_string())),
            Err(ended) => Err(Unanswered::Failed(format!("the question to the usage rows ended early: {ended}"))),
        }
    }

    /// Sums by the question's group and, where the account names some, by model; then without the models.
    async fn sums<K>(
        &self,
        account: &AccountRows,
        (question, by): (&Question, &str),
    ) -> Result<BTreeMap<K, u64>, String>
    where
        K: FromSql + Ord + Send + 'static,
    {
        let lines = slices::ask_in_slices(
            |slice| {
                let (sql, values) = question.grouped(by, slice);
                self.ask(move |reader| reader.ask(&sql, values, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))))
            },
            || {
                let (sql, values) = question.bounds();
                self.ask(move |reader| reader.ask(&sql, values, |row| Ok((row.get(0)?, row.get(1)?))))
            },
        );
        let lines: Vec<(K, Option<String>, i64)> = lines.await.map_err(|why| why.to_string())?;
        let mut sums = BTreeMap::new();
        for (group, model, sum) in lines {
            if counts(account, model.as_deref()) {
                let total: &mut u64 = sums.entry(group).or_default();
                *total = total.saturating_add(u64::try_from(sum).unwrap_or(0));
            }
        }
        Ok(sums)
    }
}

#[async_trait]
impl UsageRows for SqliteRows {
    async fn totals(&self, account: &AccountRows, from_ms: i64) -> Result<Vec<RowTotal>, String> {
        let Some(question) = Question::of(account, from_ms) else { return Ok(Vec::new()) };
        let sums: BTreeMap<String, u64> = self.sums(account, (&question, "proxy_id")).await?;
        Ok(sums.into_iter().map(|(proxy, total)| RowTotal { proxy_id: Arc::from(proxy), total }).collect())
    }

    async fn recent(&self, account: &AccountRows, from_ms: i64) -> Result<Vec<(i64, u64)>, String> {
        let Some(question) = Question::of(account, from_ms) else { return Ok(Vec::new()) };
        let by_second = format!("{} / 1000000", question.time);
        let sums: BTreeMap<i64, u64> = self.sums(account, (&question, &by_second)).await?;
        let skipped = sums.len().saturating_sub(RECENT_MAX);
        Ok(sums.into_iter().skip(skipped).map(|(second, sum)| (second.saturating_mul(1_000), sum)).collect())
    }
}

/// True for rows of a model that the account counts. A rule that names models counts no row without one.
fn counts(account: &AccountRows, model: Option<&str>) -> bool {
    account.model.as_ref().is_none_or(|pattern| model.is_some_and(|model| pattern.matches(model)))
}

/// The rows of an account, in SQL.
struct Question {
    conditions: Vec<String>,
    values: Vec<Sql>,
    /// What a row counts for.
    amount: String,
    /// When it counts.
    time: &'static str,
    /// The last column of the index that finds the rows: a question that takes too long is asked in slices of it.
    along: &'static str,
    /// The model, where the account asks for it.
    model: &'static str,
}

impl Question {
    /// `None` for concurrency, which no row tells of.
    fn of(account: &AccountRows, from_ms: i64) -> Option<Self> {
        let (amount, time) = amount(account.dimension)?;
        let model = if account.model.is_some() { "model_requested" } else { "NULL" };
        let by_end = matches!(account.scope, Scope::Tenant(_) | Scope::Team(..));
        let along = if by_end { "ts_end" } else { "ts_received" };
        let mut asked = Self { conditions: Vec::new(), values: Vec::new(), amount, time, along, model };
        let tenant = account.tenant.as_ref().or(match &account.scope {
            Scope::User(tenant, _) | Scope::Team(tenant, _) | Scope::Tenant(tenant) => Some(tenant),
            Scope::Key(_) | Scope::Pool(_) | Scope::Global => None,
        });
        if let Some(tenant) = tenant {
            asked.equal("tenant_id", tenant.as_str());
        }
        match &account.scope {
            Scope::Key(key) => asked.equal("key_id", key.as_str()),
            Scope::User(_, user) => asked.equal("user_id", user.as_str()),
            Scope::Team(_, team) => asked.equal("team_id", team.as_str()),
            Scope::Pool(pool) => asked.equal("pool", pool.as_str()),
            Scope::Tenant(_) | Scope::Global => {}
        }
        asked.conditions.push("ts_admitted IS NOT NULL".to_owned());
        // What was admitted then ended later, so the bound on the end holds for all and lets an index do the search.
        asked.at_least("ts_end", from_ms);
        if time != "ts_end" {
            asked.at_least(time, from_ms);
        }
        if !by_end {
            asked.at_least("ts_received", from_ms.saturating_sub(LONGEST_REQUEST_MS));
        }
        Some(asked)
    }

    fn equal(&mut self, column: &str, value: &str) {
        self.conditions.push(format!("{column} = ?"));
        self.values.push(Sql::Text(value.to_owned()));
    }

    fn at_least(&mut self, column: &str, ms: i64) {
        self.conditions.push(format!("{column} >= ?"));
        self.values.push(Sql::Integer(ms.saturating_mul(1_000)));
    }

    fn filter(&self) -> String {
        self.conditions.join(" AND ")
    }

    /// Sums by something, of all rows or of a slice.
    fn grouped(&self, by: &str, slice: Option<Slice>) -> (String, Vec<Sql>) {
        let Self { amount, model, along, .. } = self;
        let (mut filter, mut values) = (self.filter(), self.values.clone());
        if let Some(Slice { from, to }) = slice {
            filter.push_str(&format!(" AND {along} >= ? AND {along} < ?"));
            values.extend([Sql::Integer(from), Sql::Integer(to)]);
        }
        (format!("SELECT {by}, {model}, sum({amount}) FROM usage_records WHERE {filter} GROUP BY 1, 2"), values)
    }

    /// Between which figures slices lie. Two looks into the index, which a minimum and a maximum at once are not.
    fn bounds(&self) -> (String, Vec<Sql>) {
        let (filter, along) = (self.filter(), self.along);
        let end =
            |order: &str| format!("SELECT {along} FROM usage_records WHERE {filter} ORDER BY {along} {order} LIMIT 1");
        let values = self.values.iter().chain(&self.values).cloned().collect();
        (format!("SELECT a.{along}, b.{along} FROM ({}) a, ({}) b", end("ASC"), end("DESC")), values)
    }
}

/// What one row counts for, and the column that says when.
fn amount(dimension: Dimension) -> Option<(String, &'static str)> {
    let input = format!("min(coalesce(input_total, 0), {ROW_MAX})");
    let output = format!("min(coalesce(output_total, delivered_output, 0), {ROW_MAX})");
    Some(match dimension {
        Dimension::Requests => ("1".to_owned(), "ts_admitted"),
        Dimension::Tokens => (format!("{input} + {output}"), "ts_end"),
        Dimension::InputTokens => (input, "ts_end"),
        Dimension::OutputTokens => (output, "ts_end"),
        Dimension::Spend => (format!("min(max(coalesce(billable_cost_nano_usd, 0), 0), {ROW_MAX}000)"), "ts_end"),
        Dimension::Concurrency => return None,
    })
}

#[cfg(test)]
mod tests;
