//! Plans to rows and back. Decides how they are written down; what their document means is the configuration's.

use super::error::StoreError;
use super::rows::{BrokenRow, StoredPlan};
use super::sql::{Columns, Fault, Sql, Value};
use super::tenancy;
use crate::domain::units::WallMicros;

const SELECT: &str = "SELECT plan, tenant_id, document, created_at, deleted, epoch FROM plans";

/// Every plan, or those that were changed, deleted ones too where they were.
pub(super) fn changed(
    sql: &mut Sql,
    since: Option<i64>,
    each: &mut dyn FnMut(Result<StoredPlan, BrokenRow>),
) -> Result<(), StoreError> {
    let (wanted, values) = tenancy::wanted(since);
    sql.query_each(&format!("{SELECT} WHERE {wanted} ORDER BY plan"), &values, &mut |row| {
        each(read(row));
        Ok(())
    })
}

pub(super) fn one(sql: &mut Sql, plan: &str) -> Result<Option<StoredPlan>, StoreError> {
    sql.one(&format!("{SELECT} WHERE plan = $1 AND deleted = 0"), &[plan.into()], read)
}

pub(super) fn page(
    sql: &mut Sql,
    tenant: Option<&str>,
    after: &str,
    limit: u32,
) -> Result<Vec<Result<StoredPlan, BrokenRow>>, StoreError> {
    let mut values: Vec<Value<'_>> = vec![after.into(), i64::from(limit).into()];
    let mut wanted = "plan > $1 AND deleted = 0".to_owned();
    if let Some(tenant) = tenant {
        values.push(tenant.into());
        wanted.push_str(" AND (tenant_id IS NULL OR tenant_id = $3)");
    }
    sql.all(&format!("{SELECT} WHERE {wanted} ORDER BY plan LIMIT $2"), &values, read)
}

/// Writes all of a plan, whether it is there or not.
pub(super) fn write(sql: &mut Sql, plan: &StoredPlan) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO plans (plan, tenant_id, document, created_at, deleted, epoch) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (plan) DO UPDATE SET tenant_id = excluded.tenant_id, document = excluded.document,
         created_at = excluded.created_at, deleted = excluded.deleted, epoch = excluded.epoch",
        &[
            (&plan.plan).into(),
            plan.tenant.as_ref().into(),
            (&plan.document).into(),
            plan.created_at.0.into(),
            plan.deleted.into(),
            plan.epoch.into(),
        ],
    )?;
    Ok(())
}

fn read(row: &dyn Columns) -> Result<StoredPlan, BrokenRow> {
    let whole = || -> Result<StoredPlan, Fault> {
        Ok(StoredPlan {
            plan: row.need_text(0)?,
            tenant: row.owned(1)?,
            document: row.need_text(2)?,
            created_at: WallMicros(row.need_int(3)?),
            deleted: row.flag(4)?,
            epoch: row.need_int(5)?,
        })
    };
    whole().map_err(|fault| BrokenRow { what: "plan", id: row.need_text(0).unwrap_or_default(), fault })
}

/// What the audit log keeps of a plan.
pub(super) fn view(plan: &StoredPlan) -> serde_json::Value {
    let document: serde_json::Value = serde_json::from_str(&plan.document).unwrap_or_else(|_| (*plan.document).into());
    serde_json::json!({
        "plan": plan.plan, "tenant_id": plan.tenant, "document": document, "created_at": plan.created_at,
    })
}
