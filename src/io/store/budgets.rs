//! Budgets to rows and back. Decides how they are written down; what has been spent is counted elsewhere.

use super::error::StoreError;
use super::rows::{BrokenRow, BudgetLevel, BudgetPeriod, BudgetSpec, StoredBudget};
use super::sql::{Columns, Fault, Sql, Value};
use crate::domain::units::{NanoUsd, WallMicros};

const SELECT: &str =
    "SELECT budget_id, tenant_id, level, subject, amount_nano_usd, period, created_at, epoch FROM budgets";

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

pub(super) fn one(sql: &mut Sql, id: &str) -> Result<Option<StoredBudget>, StoreError> {
    sql.one(&format!("{SELECT} WHERE budget_id = $1"), &[id.into()], read)
}

pub(super) fn page(
    sql: &mut Sql,
    tenant: Option<&str>,
    after: &str,
    limit: u32,
) -> Result<Vec<Result<StoredBudget, BrokenRow>>, StoreError> {
    let mut values: Vec<Value<'_>> = vec![after.into(), i64::from(limit).into()];
    let mut wanted = "budget_id > $1".to_owned();
    if let Some(tenant) = tenant {
        values.push(tenant.into());
        wanted.push_str(" AND tenant_id = $3");
    }
    sql.all(&format!("{SELECT} WHERE {wanted} ORDER BY budget_id LIMIT $2"), &values, read)
}

/// Writes all of a budget, whether it is there or not.
pub(super) fn write(sql: &mut Sql, budget: &StoredBudget) -> Result<(), StoreError> {
    let spec = &budget.spec;
    sql.execute(
        "INSERT INTO budgets (budget_id, tenant_id, level, subject, amount_nano_usd, period, created_at, epoch)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (budget_id) DO UPDATE SET tenant_id = excluded.tenant_id, level = excluded.level,
         subject = excluded.subject, amount_nano_usd = excluded.amount_nano_usd, period = excluded.period,
         created_at = excluded.created_at, epoch = excluded.epoch",
        &[
            (&budget.id).into(),
            (&spec.tenant).into(),
            spec.level.name().into(),
            spec.subject.as_ref().into(),
            spec.amount.0.into(),
            spec.period.name().into(),
            budget.created_at.0.into(),
            budget.epoch.into(),
        ],
    )?;
    Ok(())
}

fn read(row: &dyn Columns) -> Result<StoredBudget, BrokenRow> {
    let whole = || -> Result<StoredBudget, Fault> {
        let level = word(row.text(2)?, &BudgetLevel::ALL).ok_or("its level is unknown")?;
        let period = word(row.text(5)?, &BudgetPeriod::ALL).ok_or("its period is unknown")?;
        Ok(StoredBudget {
            id: row.need_text(0)?,
            spec: BudgetSpec {
                tenant: row.need_text(1)?,
                level,
                subject: row.owned(3)?,
                amount: NanoUsd(row.need_int(4)?),
                period,
            },
            created_at: WallMicros(row.need_int(6)?),
            epoch: row.need_int(7)?,
        })
    };
    whole().map_err(|fault| BrokenRow { what: "budget", id: row.need_text(0).unwrap_or_default(), fault })
}

fn word<T: Copy>(name: Option<&str>, all: &[(&str, T)]) -> Option<T> {
    all.iter().find(|(one, _)| Some(*one) == name).map(|(_, value)| *value)
}

/// What the audit log keeps of a budget.
pub(super) fn view(budget: &StoredBudget) -> serde_json::Value {
    let spec = &budget.spec;
    serde_json::json!({
        "id": budget.id, "tenant_id": spec.tenant, "level": spec.level.name(), "subject": spec.subject,
        "amount_nano_usd": spec.amount, "period": spec.period.name(), "created_at": budget.created_at,
    })
}
