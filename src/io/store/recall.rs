//! Answers kept for requests with an `Idempotency-Key`. Decides when the same key means the same request, and how long
//! an answer is kept.

use super::error::StoreError;
use super::sql::Sql;
use crate::domain::units::WallMicros;
use serde_json::Value as Json;
use std::time::Duration;

/// How long an answer is kept.
pub const KEPT: Duration = Duration::from_secs(24 * 3_600);

/// Which request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Idempotency<'a> {
    /// Whose: two callers may draw the same key.
    pub scope: &'a str,
    /// What the caller named it.
    pub key: &'a str,
    /// Stands for all of the request: method, path, body.
    pub fingerprint: &'a str,
}

pub(super) fn remember(
    sql: &mut Sql,
    what: &Idempotency<'_>,
    answer: &Json,
    now: WallMicros,
) -> Result<(), StoreError> {
    sql.execute("DELETE FROM idempotency WHERE created_at <= $1", &[oldest(now).into()])?;
    if recall(sql, what, now)?.is_some() {
        return Err(StoreError::Conflict("this Idempotency-Key has an answer already".to_owned()));
    }
    let answer = answer.to_string();
    sql.execute(
        "INSERT INTO idempotency (scope, idempotency_key, fingerprint, answer, created_at) VALUES ($1, $2, $3, $4, $5)",
        &[what.scope.into(), what.key.into(), what.fingerprint.into(), (&answer).into(), now.0.into()],
    )?;
    Ok(())
}

pub(super) fn recall(sql: &mut Sql, what: &Idempotency<'_>, now: WallMicros) -> Result<Option<Json>, StoreError> {
    let found = sql.query_one(
        "SELECT fingerprint, answer FROM idempotency WHERE scope = $1 AND idempotency_key = $2 AND created_at > $3",
        &[what.scope.into(), what.key.into(), oldest(now).into()],
        |row| Ok((row.need_text(0)?, row.need_text(1)?)),
    )?;
    let Some((fingerprint, answer)) = found else { return Ok(None) };
    if fingerprint != what.fingerprint {
        return Err(StoreError::Conflict("this Idempotency-Key was used for another request".to_owned()));
    }
    let answer = serde_json::from_str(&answer);
    answer.map(Some).map_err(|_| StoreError::Damaged("an answer that was kept cannot be read".to_owned()))
}

fn oldest(now: WallMicros) -> i64 {
    now.0.saturating_sub(i64::try_from(KEPT.as_micros()).unwrap_or(i64::MAX))
}
