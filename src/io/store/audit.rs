//! The log of changes: append-only, by triggers in the database. Decides how a line is written and read; what is worth
//! a line is `change`'s.

use super::error::StoreError;
use super::rows::{Actor, AuditEntry, AuditFilter, BrokenRow};
use super::sql::{Columns, Fault, Sql, Value};
use crate::domain::units::WallMicros;
use serde_json::Value as Json;

/// Where the lines of one change are added.
pub(super) struct Log<'a> {
    actor: &'a Actor,
    at: WallMicros,
    /// Number of the last line. Changes happen one after another, so nobody else takes the next.
    last: i64,
}

impl<'a> Log<'a> {
    pub(super) fn open(sql: &mut Sql, actor: &'a Actor, at: WallMicros) -> Result<Self, StoreError> {
        let last = sql.query_one("SELECT coalesce(max(id), 0) FROM audit_log", &[], |row| row.need_int(0))?;
        Ok(Self { actor, at, last: last.unwrap_or_default() })
    }

    /// Adds a line.
    pub(super) fn add(&mut self, sql: &mut Sql, line: &Line<'_>) -> Result<(), StoreError> {
        self.last += 1;
        let text = |json: &Option<Json>| json.as_ref().map(Json::to_string);
        let (before, after) = (text(&line.before), text(&line.after));
        sql.execute(
            "INSERT INTO audit_log (id, at, actor_kind, actor_id, actor_tenant, request_id, action, target, tenant_id,
             state_before, state_after) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            &[
                self.last.into(),
                self.at.0.into(),
                (&self.actor.kind).into(),
                (&self.actor.id).into(),
                self.actor.tenant.as_ref().into(),
                self.actor.request_id.as_ref().into(),
                line.action.into(),
                line.target.into(),
                line.tenant.into(),
                before.as_ref().into(),
                after.as_ref().into(),
            ],
        )?;
        Ok(())
    }
}

/// What was done.
pub(super) struct Line<'a> {
    pub(super) action: &'a str,
    pub(super) target: &'a str,
    pub(super) tenant: Option<&'a str>,
    pub(super) before: Option<Json>,
    pub(super) after: Option<Json>,
}

/// Lines older than `before`, newest first.
pub(super) fn page(
    sql: &mut Sql,
    filter: &AuditFilter,
    before: i64,
    limit: u32,
) -> Result<Vec<Result<AuditEntry, BrokenRow>>, StoreError> {
    let mut values: Vec<Value<'_>> = vec![before.into(), i64::from(limit).into()];
    let mut wanted = "id < $1".to_owned();
    for (column, value) in [("tenant_id", &filter.tenant), ("target", &filter.target)] {
        if let Some(value) = value {
            values.push(value.into());
            wanted.push_str(&format!(" AND {column} = ${}", values.len()));
        }
    }
    let statement = format!(
        "SELECT id, at, actor_kind, actor_id, actor_tenant, request_id, action, target, tenant_id, state_before,
         state_after FROM audit_log WHERE {wanted} ORDER BY id DESC LIMIT $2"
    );
    sql.all(&statement, &values, |row| {
        let id = row.int(0).ok().flatten().unwrap_or_default().to_string();
        entry(row).map_err(|fault| BrokenRow { what: "audit", id, fault })
    })
}

fn entry(row: &dyn Columns) -> Result<AuditEntry, Fault> {
    Ok(AuditEntry {
        id: row.need_int(0)?,
        at: WallMicros(row.need_int(1)?),
        actor: Actor {
            kind: row.need_text(2)?,
            id: row.need_text(3)?,
            tenant: row.owned(4)?,
            request_id: row.owned(5)?,
        },
        action: row.need_text(6)?,
        target: row.need_text(7)?,
        tenant: row.owned(8)?,
        before: json(row, 9)?,
        after: json(row, 10)?,
    })
}

fn json(row: &dyn Columns, at: usize) -> Result<Option<Json>, Fault> {
    row.text(at)?.map(serde_json::from_str).transpose().map_err(|_| format!("column {at} is not JSON"))
}
