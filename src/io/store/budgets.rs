//! Budgets to rows and back. Decides how they are written down; what has been spent is counted elsewhere.

use super::error::StoreError;
use super::rows::{BrokenRow, BudgetLevel, BudgetPeriod, BudgetSpec, OnExceed, StoredBudget};
use super::sql::{Columns, Fault, Sql, Value};
use super::tenancy;
use crate::domain::units::{NanoUsd, WallMicros};

const SELECT: &str =
    "SELECT budget_id, tenant_id, level, subject, amount_nano_usd, period, on_exceed, alert_at, strict,
    stop_streams, created_at, deleted, epoch FROM budgets";

impl BudgetLevel {
    /// Every one with its word.
    pub const ALL: [(&'static str, Self); 4] =
        [("tenant", Self::Tenant), ("team", Self::Team), ("user", Self::User), ("key", Self::Key)];

    /// The word.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }
}

impl BudgetPeriod {
    /// Every one with its word.
    pub const ALL: [(&'static str, Self); 3] = [("day", Self::Day), ("month", Self::Month), ("prepaid", Self::Prepaid)];

    /// The word.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }
}

impl OnExceed {
    /// Every one with its word.
    pub const ALL: [(&'static str, Self); 2] = [("reject", Self::Reject), ("warn", Self::Warn)];

    /// The word.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }
}

/// Every budget, or those that were changed, deleted ones too where they were.
pub(super) fn changed(
    sql: &mut Sql,
    since: Option<i64>,
    each: &mut dyn FnMut(Result<StoredBudget, BrokenRow>),
) -> Result<(), StoreError> {
    let (wanted, values) = tenancy::wanted(since);
    sql.query_each(&format!("{SELECT} WHERE {wanted} ORDER BY budget_id"), &values, &mut |row| {
        // Whose it is must be known: without it there would be nobody to refuse.
        each(read(row).map_err(|broken| {
            let tenant = row.need_text(1).unwrap_or_default();
            BrokenRow { id: format!("{tenant}/{}", broken.id), ..broken }
        }));
        Ok(())
    })
}

pub(super) fn one(sql: &mut Sql, id: &str) -> Result<Option<StoredBudget>, StoreError> {
    sql.one(&format!("{SELECT} WHERE budget_id = $1 AND deleted = 0"), &[id.into()], read)
}

/// How many budgets a tenant has, deleted ones that are still told of too.
pub(super) fn count(sql: &mut Sql, tenant: &str) -> Result<usize, StoreError> {
    let count = "SELECT count(*) FROM budgets WHERE tenant_id = $1";
    Ok(tenancy::number(sql.query_one(count, &[tenant.into()], |row| row.need_int(0))?))
}

/// How many other budgets than `id` count where `spec` does.
pub(super) fn beside(sql: &mut Sql, id: &str, spec: &BudgetSpec) -> Result<usize, StoreError> {
    let mut values: Vec<Value<'_>> = vec![(&spec.tenant).into(), id.into(), spec.level.name().into()];
    values.extend(spec.subject.as_ref().map(Value::from));
    let subject = if spec.subject.is_some() { "= $4" } else { "IS NULL" };
    let count = format!(
        "SELECT count(*) FROM budgets
         WHERE tenant_id = $1 AND deleted = 0 AND budget_id <> $2 AND level = $3 AND subject {subject}"
    );
    Ok(tenancy::number(sql.query_one(&count, &values, |row| row.need_int(0))?))
}

/// Takes the deleted budgets of a tenant away that no follower has to be told of: `epoch` and before.
pub(super) fn forget_deleted(sql: &mut Sql, tenant: &str, epoch: i64) -> Result<(), StoreError> {
    let statement = "DELETE FROM budgets WHERE tenant_id = $1 AND deleted = 1 AND epoch <= $2";
    sql.execute(statement, &[tenant.into(), epoch.into()])?;
    Ok(())
}

pub(super) fn page(
    sql: &mut Sql,
    tenant: Option<&str>,
    after: &str,
    limit: u32,
) -> Result<Vec<Result<StoredBudget, BrokenRow>>, StoreError> {
    let mut values: Vec<Value<'_>> = vec![after.into(), i64::from(limit).into()];
    let mut wanted = "budget_id > $1 AND deleted = 0".to_owned();
    if let Some(tenant) = tenant {
        values.push(tenant.into());
        wanted.push_str(" AND tenant_id = $3");
    }
    sql.all(&format!("{SELECT} WHERE {wanted} ORDER BY budget_id LIMIT $2"), &values, read)
}

/// Writes all of a budget, whether it is there or not.
pub(super) fn write(sql: &mut Sql, budget: &StoredBudget) -> Result<(), StoreError> {
    let spec = &budget.spec;
    let alert_at = serde_json::Value::from(spec.alert_at.clone()).to_string();
    sql.execute(
        "INSERT INTO budgets (budget_id, tenant_id, level, subject, amount_nano_usd, period, on_exceed, alert_at, strict,
         stop_streams, created_at, deleted, epoch) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT (budget_id) DO UPDATE SET tenant_id = excluded.tenant_id, level = excluded.level,
         subject = excluded.subject, amount_nano_usd = excluded.amount_nano_usd, period = excluded.period,
         on_exceed = excluded.on_exceed, alert_at = excluded.alert_at, strict = excluded.strict,
         stop_streams = excluded.stop_streams, created_at = excluded.created_at, deleted = excluded.deleted,
         epoch = excluded.epoch",
        &[
            (&budget.id).into(),
            (&spec.tenant).into(),
            spec.level.name().into(),
            spec.subject.as_ref().into(),
            spec.amount.0.into(),
            spec.period.name().into(),
            spec.on_exceed.name().into(),
            (&alert_at).into(),
            spec.strict.into(),
            spec.stop_streams.into(),
            budget.created_at.0.into(),
            budget.deleted.into(),
            budget.epoch.into(),
        ],
    )?;
    Ok(())
}

fn read(row: &dyn Columns) -> Result<StoredBudget, BrokenRow> {
    let whole = || -> Result<StoredBudget, Fault> {
        Ok(StoredBudget {
            id: row.need_text(0)?,
            spec: BudgetSpec {
                tenant: row.need_text(1)?,
                level: word(row.text(2)?, &BudgetLevel::ALL).ok_or("its level is unknown")?,
                subject: row.owned(3)?,
                amount: NanoUsd(row.need_int(4)?),
                period: word(row.text(5)?, &BudgetPeriod::ALL).ok_or("its period is unknown")?,
                on_exceed: word(row.text(6)?, &OnExceed::ALL).ok_or("what happens beyond it is unknown")?,
                alert_at: alert_at(&row.need_text(7)?)?,
                strict: row.flag(8)?,
                stop_streams: row.flag(9)?,
            },
            created_at: WallMicros(row.need_int(10)?),
            deleted: row.flag(11)?,
            epoch: row.need_int(12)?,
        })
    };
    whole().map_err(|fault| BrokenRow { what: "budget", id: row.need_text(0).unwrap_or_default(), fault })
}

fn alert_at(text: &str) -> Result<Vec<u8>, Fault> {
    serde_json::from_str(text).map_err(|_| "alert_at is not a list of percents".to_owned())
}

fn word<T: Copy>(name: Option<&str>, all: &[(&str, T)]) -> Option<T> {
    all.iter().find(|(one, _)| Some(*one) == name).map(|(_, value)| *value)
}

/// What the audit log keeps of a budget.
pub(super) fn view(budget: &StoredBudget) -> serde_json::Value {
    let spec = &budget.spec;
    serde_json::json!({
        "id": budget.id, "tenant_id": spec.tenant, "level": spec.level.name(), "subject": spec.subject,
        "amount_nano_usd": spec.amount, "period": spec.period.name(), "on_exceed": spec.on_exceed.name(),
        "alert_at": spec.alert_at, "strict": spec.strict, "stop_streams": spec.stop_streams,
        "created_at": budget.created_at,
    })
}
