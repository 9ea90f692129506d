//! Tenants, teams, users and plans that come and go. Decides that nothing is deleted that something else stands on: a
//! plan that is missing would be no limit, and a tenant that is missing would leave keys behind.

use super::super::audit::Line;
use super::super::error::{MAX_STORED_ROWS, MAX_TENANT_MEMBERS, StoreError};
use super::super::rows::{MAX_PAGE, MemberKind, MemberSpec, StoredMember, StoredPlan, StoredTenant, TenantSpec};
use super::super::{follow, keys, plans, tenancy};
use super::Change;

impl Change<'_> {
    /// Makes a tenant, or makes it what `spec` says. Nothing is written where it is so already.
    ///
    /// # Errors
    /// [`StoreError`]; a conflict where there is no room for another one.
    pub fn put_tenant(&mut self, tenant: &str, spec: &TenantSpec) -> Result<StoredTenant, StoreError> {
        let before = tenancy::tenant(self.sql, tenant)?;
        if let Some(same) = before.as_ref().filter(|before| before.spec == *spec) {
            return Ok(same.clone());
        }
        if before.is_none() {
            self.room()?;
        }
        let after = StoredTenant {
            tenant: tenant.to_owned(),
            spec: spec.clone(),
            created_at: before.as_ref().map_or(self.now, |before| before.created_at),
            deleted: false,
            epoch: self.epoch,
        };
        tenancy::write_tenant(self.sql, &after)?;
        let (was, is) = (before.as_ref().map(tenancy::tenant_view), Some(tenancy::tenant_view(&after)));
        self.write_down(&Line { action: "tenant.put", target: tenant, tenant: Some(tenant), before: was, after: is })?;
        Ok(after)
    }

    /// Deletes a tenant with its teams, users, plans and budgets, each with a line of its own in the log.
    ///
    /// # Errors
    /// Not found; a conflict while it has keys that were not revoked.
    pub fn delete_tenant(&mut self, tenant: &str) -> Result<(), StoreError> {
        let found = tenancy::tenant(self.sql, tenant)?;
        let found = found.ok_or_else(|| StoreError::NotFound { what: "tenant", id: tenant.to_owned() })?;
        self.without_keys("tenant", None, "tenant_id", tenant)?;
        self.each_of(tenant, "id", "teams", |this, id| this.delete_member(MemberKind::Team, tenant, id))?;
        self.each_of(tenant, "id", "users", |this, id| this.delete_member(MemberKind::User, tenant, id))?;
        tenancy::write_tenant(self.sql, &StoredTenant { deleted: true, epoch: self.epoch, ..found.clone() })?;
        // Only now: the tenant itself may have had the plan.
        self.each_of(tenant, "plan", "plans", Self::delete_plan)?;
        self.each_of(tenant, "budget_id", "budgets", Self::delete_budget)?;
        let was = Some(tenancy::tenant_view(&found));
        self.write_down(&Line {
            action: "tenant.delete",
            target: tenant,
            tenant: Some(tenant),
            before: was,
            after: None,
        })
    }

    /// Deletes what a tenant has in `table`, until there is nothing left.
    fn each_of(
        &mut self,
        tenant: &str,
        id: &str,
        table: &str,
        delete: impl Fn(&mut Self, &str) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let statement = format!("SELECT {id} FROM {table} WHERE tenant_id = $1 AND deleted = 0 LIMIT $2");
        loop {
            let mut ids = Vec::new();
            self.sql.query_each(&statement, &[tenant.into(), i64::from(MAX_PAGE).into()], &mut |row| {
                ids.extend(row.owned(0).unwrap_or_default());
                Ok(())
            })?;
            if ids.is_empty() {
                return Ok(());
            }
            ids.iter().try_for_each(|id| delete(self, id))?;
        }
    }

    /// Makes a team or user, or makes it what `spec` says. Nothing is written where it is so already.
    ///
    /// # Errors
    /// [`StoreError`]; a conflict where there is no room for another one.
    pub fn put_member(
        &mut self,
        kind: MemberKind,
        tenant: &str,
        id: &str,
        spec: &MemberSpec,
    ) -> Result<StoredMember, StoreError> {
        let before = tenancy::member(self.sql, kind, tenant, id)?;
        if let Some(same) = before.as_ref().filter(|before| before.spec == *spec) {
            return Ok(same.clone());
        }
        if before.is_none() {
            self.room_for_member(tenant)?;
        }
        let after = StoredMember {
            tenant: tenant.to_owned(),
            id: id.to_owned(),
            spec: spec.clone(),
            created_at: before.as_ref().map_or(self.now, |before| before.created_at),
            deleted: false,
            epoch: self.epoch,
        };
        tenancy::write_member(self.sql, kind, &after)?;
        self.write_down(&Line {
            action: &format!("{}.put", kind.name()),
            target: &format!("{tenant}/{id}"),
            tenant: Some(tenant),
            before: before.as_ref().map(tenancy::member_view),
            after: Some(tenancy::member_view(&after)),
        })?;
        Ok(after)
    }

    /// Deletes a team or user.
    ///
    /// # Errors
    /// Not found; a conflict while it has keys that were not revoked.
    pub fn delete_member(&mut self, kind: MemberKind, tenant: &str, id: &str) -> Result<(), StoreError> {
        let before = tenancy::member(self.sql, kind, tenant, id)?;
        let before = before.ok_or_else(|| StoreError::NotFound { what: kind.name(), id: id.to_owned() })?;
        let column = match kind {
            MemberKind::Team => "team_id",
            MemberKind::User => "user_id",
        };
        self.without_keys(kind.name(), Some(tenant), column, id)?;
        tenancy::write_member(self.sql, kind, &StoredMember { deleted: true, epoch: self.epoch, ..before.clone() })?;
        self.write_down(&Line {
            action: &format!("{}.delete", kind.name()),
            target: &format!("{tenant}/{id}"),
            tenant: Some(tenant),
            before: Some(tenancy::member_view(&before)),
            after: None,
        })
    }

    /// Makes a plan, or makes its document what is given. Nothing is written where it is so already.
    ///
    /// # Errors
    /// A conflict where the name is another owner's.
    pub fn put_plan(&mut self, plan: &str, tenant: Option<&str>, document: &str) -> Result<StoredPlan, StoreError> {
        let before = plans::one(self.sql, plan)?;
        if before.as_ref().is_some_and(|before| before.tenant.as_deref() != tenant) {
            return Err(StoreError::Conflict(format!("the name of the plan `{plan}` is taken")));
        }
        if let Some(same) = before.as_ref().filter(|before| before.document == document) {
            return Ok(same.clone());
        }
        if before.is_none() {
            self.room()?;
        }
        let after = StoredPlan {
            plan: plan.to_owned(),
            tenant: tenant.map(str::to_owned),
            document: document.to_owned(),
            created_at: before.as_ref().map_or(self.now, |before| before.created_at),
            deleted: false,
            epoch: self.epoch,
        };
        plans::write(self.sql, &after)?;
        let (was, is) = (before.as_ref().map(plans::view), Some(plans::view(&after)));
        self.write_down(&Line { action: "plan.put", target: plan, tenant, before: was, after: is })?;
        Ok(after)
    }

    /// Deletes a plan.
    ///
    /// # Errors
    /// Not found; a conflict while a tenant, team, user or key that was not revoked has it.
    pub fn delete_plan(&mut self, plan: &str) -> Result<(), StoreError> {
        let before = plans::one(self.sql, plan)?;
        let before = before.ok_or_else(|| StoreError::NotFound { what: "plan", id: plan.to_owned() })?;
        self.without_keys("plan", None, "plan", plan)?;
        for table in ["tenants", "teams", "users"] {
            let statement = format!("SELECT count(*) FROM {table} WHERE plan = $1 AND deleted = 0");
            let count = self.sql.query_one(&statement, &[plan.into()], |row| row.need_int(0))?.unwrap_or_default();
            in_use("plan", plan, count, table)?;
        }
        plans::write(self.sql, &StoredPlan { deleted: true, epoch: self.epoch, ..before.clone() })?;
        let owner = before.tenant.as_deref();
        let was = Some(plans::view(&before));
        self.write_down(&Line { action: "plan.delete", target: plan, tenant: owner, before: was, after: None })
    }

    /// What is deleted counts as long as followers have to be told of it: it is in what they read.
    fn room_for_member(&mut self, tenant: &str) -> Result<(), StoreError> {
        if tenancy::count_members(self.sql, tenant)? >= MAX_TENANT_MEMBERS {
            tenancy::forget_deleted(self.sql, tenant, self.epoch - follow::KEPT_MARKS)?;
            if tenancy::count_members(self.sql, tenant)? >= MAX_TENANT_MEMBERS {
                let what = format!("teams and users of the tenant `{tenant}`, lately deleted ones included");
                return Err(StoreError::Full { what, most: MAX_TENANT_MEMBERS });
            }
        }
        self.room()
    }

    pub(super) fn room(&mut self) -> Result<(), StoreError> {
        if tenancy::count_rows(self.sql)? < MAX_STORED_ROWS {
            return Ok(());
        }
        let what = "tenants, teams, users, plans and budgets in the store, lately deleted ones included".to_owned();
        Err(StoreError::Full { what, most: MAX_STORED_ROWS })
    }

    fn without_keys(&mut self, what: &str, tenant: Option<&str>, column: &str, value: &str) -> Result<(), StoreError> {
        let count = keys::living(self.sql, tenant, column, value)?;
        in_use(what, value, count, "keys that were not revoked")
    }
}

fn in_use(what: &str, id: &str, count: i64, by: &str) -> Result<(), StoreError> {
    if count == 0 {
        return Ok(());
    }
    Err(StoreError::Conflict(format!("the {what} `{id}` is in use by {count} {by}")))
}
