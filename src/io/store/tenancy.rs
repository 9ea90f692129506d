//! Tenants, teams and users to rows and back. Decides how they are written down; a row that cannot be read is reported.

use super::error::StoreError;
use super::rows::{BrokenRow, MemberKind, MemberSpec, Row, StoredMember, StoredTenant, TenantSpec};
use super::sql::{Columns, Fault, Sql, Value};
use crate::domain::units::WallMicros;

const TENANT: &str =
    "SELECT tenant_id, name, plan, models, disabled, time_zone, created_at, deleted, epoch FROM tenants";

impl MemberKind {
    /// The word for one of them.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Team => "team",
            Self::User => "user",
        }
    }

    fn select(self) -> String {
        format!("SELECT tenant_id, id, name, plan, models, created_at, deleted, epoch FROM {}", self.table())
    }

    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Team => "teams",
            Self::User => "users",
        }
    }
}

/// Every tenant, team and user, or those that were changed, deleted ones too where they were.
pub(super) fn changed(sql: &mut Sql, since: Option<i64>, each: &mut dyn FnMut(Row)) -> Result<(), StoreError> {
    let (wanted, values) = wanted(since);
    sql.query_each(&format!("{TENANT} WHERE {wanted} ORDER BY tenant_id"), &values, &mut |row| {
        each(read_tenant(row).map_or_else(Row::Broken, Row::Tenant));
        Ok(())
    })?;
    for kind in [MemberKind::Team, MemberKind::User] {
        let statement = format!("{} WHERE {wanted} ORDER BY tenant_id, id", kind.select());
        sql.query_each(&statement, &values, &mut |row| {
            each(match (read_member(row, kind), kind) {
                (Ok(member), MemberKind::Team) => Row::Team(member),
                (Ok(member), MemberKind::User) => Row::User(member),
                (Err(broken), _) => Row::Broken(broken),
            });
            Ok(())
        })?;
    }
    Ok(())
}

/// Who reads everything has nothing that could be deleted.
pub(super) fn wanted(since: Option<i64>) -> (&'static str, Vec<Value<'static>>) {
    since.map_or(("deleted = 0", Vec::new()), |epoch| ("epoch > $1", vec![epoch.into()]))
}

/// How many teams and users a tenant has, deleted ones that are still told of too.
pub(super) fn count_members(sql: &mut Sql, tenant: &str) -> Result<usize, StoreError> {
    let statement = "SELECT (SELECT count(*) FROM teams WHERE tenant_id = $1)
        + (SELECT count(*) FROM users WHERE tenant_id = $1)";
    Ok(number(sql.query_one(statement, &[tenant.into()], |row| row.need_int(0))?))
}

/// How many tenants, teams, users, plans and budgets there are, deleted ones that are still told of too.
pub(super) fn count_rows(sql: &mut Sql) -> Result<usize, StoreError> {
    let statement = "SELECT (SELECT count(*) FROM tenants) + (SELECT count(*) FROM teams)
        + (SELECT count(*) FROM users) + (SELECT count(*) FROM plans) + (SELECT count(*) FROM budgets)";
    Ok(number(sql.query_one(statement, &[], |row| row.need_int(0))?))
}

/// Takes the deleted teams and users of a tenant away that no follower has to be told of: `epoch` and before.
pub(super) fn forget_deleted(sql: &mut Sql, tenant: &str, epoch: i64) -> Result<(), StoreError> {
    for kind in [MemberKind::Team, MemberKind::User] {
        let table = kind.table();
        let statement = format!("DELETE FROM {table} WHERE tenant_id = $1 AND deleted = 1 AND epoch <= $2");
        sql.execute(&statement, &[tenant.into(), epoch.into()])?;
    }
    Ok(())
}

pub(super) fn number(count: Option<i64>) -> usize {
    usize::try_from(count.unwrap_or_default()).unwrap_or(usize::MAX)
}

pub(super) fn tenant(sql: &mut Sql, tenant: &str) -> Result<Option<StoredTenant>, StoreError> {
    sql.one(&format!("{TENANT} WHERE tenant_id = $1 AND deleted = 0"), &[tenant.into()], read_tenant)
}

pub(super) fn tenants(
    sql: &mut Sql,
    after: &str,
    limit: u32,
) -> Result<Vec<Result<StoredTenant, BrokenRow>>, StoreError> {
    let statement = format!("{TENANT} WHERE tenant_id > $1 AND deleted = 0 ORDER BY tenant_id LIMIT $2");
    sql.all(&statement, &[after.into(), i64::from(limit).into()], read_tenant)
}

pub(super) fn member(
    sql: &mut Sql,
    kind: MemberKind,
    tenant: &str,
    id: &str,
) -> Result<Option<StoredMember>, StoreError> {
    let statement = format!("{} WHERE tenant_id = $1 AND id = $2 AND deleted = 0", kind.select());
    sql.one(&statement, &[tenant.into(), id.into()], |row| read_member(row, kind))
}

pub(super) fn members(
    sql: &mut Sql,
    kind: MemberKind,
    tenant: &str,
    after: &str,
    limit: u32,
) -> Result<Vec<Result<StoredMember, BrokenRow>>, StoreError> {
    let statement = format!("{} WHERE tenant_id = $1 AND id > $2 AND deleted = 0 ORDER BY id LIMIT $3", kind.select());
    sql.all(&statement, &[tenant.into(), after.into(), i64::from(limit).into()], |row| {
        // The page is of one tenant: what cannot be read is named within it.
        let unread = |broken: BrokenRow| BrokenRow { id: row.need_text(1).unwrap_or_default(), ..broken };
        read_member(row, kind).map_err(unread)
    })
}

/// Writes all of a tenant, whether it is there or not.
pub(super) fn write_tenant(sql: &mut Sql, tenant: &StoredTenant) -> Result<(), StoreError> {
    let models = list(&tenant.spec.models);
    sql.execute(
        "INSERT INTO tenants (tenant_id, name, plan, models, disabled, time_zone, created_at, deleted, epoch)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (tenant_id) DO UPDATE SET name = excluded.name, plan = excluded.plan, models = excluded.models,
         disabled = excluded.disabled, time_zone = excluded.time_zone, created_at = excluded.created_at,
         deleted = excluded.deleted, epoch = excluded.epoch",
        &[
            (&tenant.tenant).into(),
            tenant.spec.name.as_ref().into(),
            tenant.spec.plan.as_ref().into(),
            models.as_ref().into(),
            tenant.spec.disabled.into(),
            tenant.spec.time_zone.as_ref().into(),
            tenant.created_at.0.into(),
            tenant.deleted.into(),
            tenant.epoch.into(),
        ],
    )?;
    Ok(())
}

/// Writes all of a team or user, whether it is there or not.
pub(super) fn write_member(sql: &mut Sql, kind: MemberKind, member: &StoredMember) -> Result<(), StoreError> {
    let models = list(&member.spec.models);
    let statement = format!(
        "INSERT INTO {} (tenant_id, id, name, plan, models, created_at, deleted, epoch)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (tenant_id, id) DO UPDATE SET name = excluded.name, plan = excluded.plan,
         models = excluded.models, created_at = excluded.created_at, deleted = excluded.deleted,
         epoch = excluded.epoch",
        kind.table()
    );
    sql.execute(
        &statement,
        &[
            (&member.tenant).into(),
            (&member.id).into(),
            member.spec.name.as_ref().into(),
            member.spec.plan.as_ref().into(),
            models.as_ref().into(),
            member.created_at.0.into(),
            member.deleted.into(),
            member.epoch.into(),
        ],
    )?;
    Ok(())
}

fn read_tenant(row: &dyn Columns) -> Result<StoredTenant, BrokenRow> {
    let read = || -> Result<StoredTenant, Fault> {
        Ok(StoredTenant {
            tenant: row.need_text(0)?,
            spec: TenantSpec {
                name: row.owned(1)?,
                plan: row.owned(2)?,
                models: models(row, 3)?,
                disabled: row.flag(4)?,
                time_zone: row.owned(5)?,
            },
            created_at: WallMicros(row.need_int(6)?),
            deleted: row.flag(7)?,
            epoch: row.need_int(8)?,
        })
    };
    read().map_err(|fault| BrokenRow { what: "tenant", id: row.need_text(0).unwrap_or_default(), fault })
}

fn read_member(row: &dyn Columns, kind: MemberKind) -> Result<StoredMember, BrokenRow> {
    let read = || -> Result<StoredMember, Fault> {
        Ok(StoredMember {
            tenant: row.need_text(0)?,
            id: row.need_text(1)?,
            spec: MemberSpec { name: row.owned(2)?, plan: row.owned(3)?, models: models(row, 4)? },
            created_at: WallMicros(row.need_int(5)?),
            deleted: row.flag(6)?,
            epoch: row.need_int(7)?,
        })
    };
    let id = || format!("{}/{}", row.need_text(0).unwrap_or_default(), row.need_text(1).unwrap_or_default());
    read().map_err(|fault| BrokenRow { what: kind.name(), id: id(), fault })
}

fn models(row: &dyn Columns, at: usize) -> Result<Option<Vec<String>>, Fault> {
    let list = row.text(at)?.map(serde_json::from_str).transpose();
    list.map_err(|_| "models is not a list of names".to_owned())
}

fn list(items: &Option<Vec<String>>) -> Option<String> {
    items.as_ref().map(|items| serde_json::Value::from(items.clone()).to_string())
}

/// What the audit log keeps of a tenant.
pub(super) fn tenant_view(tenant: &StoredTenant) -> serde_json::Value {
    let spec = &tenant.spec;
    serde_json::json!({
        "tenant_id": tenant.tenant, "name": spec.name, "plan": spec.plan, "models": spec.models,
        "disabled": spec.disabled, "time_zone": spec.time_zone, "created_at": tenant.created_at,
    })
}

/// What the audit log keeps of a team or user.
pub(super) fn member_view(member: &StoredMember) -> serde_json::Value {
    let spec = &member.spec;
    serde_json::json!({
        "tenant_id": member.tenant, "id": member.id, "name": spec.name, "plan": spec.plan, "models": spec.models,
        "created_at": member.created_at,
    })
}
