//! What can be looked up in a store, page by page. Decides where a page ends; whether the caller may see it is theirs.

use super::error::StoreError;
use super::rows::{
    AuditEntry, AuditFilter, BrokenRow, KeyFilter, Listing, MAX_PAGE, MemberKind, Page, StoredBudget, StoredKey,
    StoredMember, StoredPlan, StoredTenant,
};
use super::sql::Sql;
use super::{audit, budgets, keys, plans, tenancy};
use crate::domain::ids::KeyId;

/// Looks things up: outside a change, or inside as they are after its operations so far.
pub struct Reader<'a> {
    pub(super) sql: &'a mut Sql,
}

impl Reader<'_> {
    /// One key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn key(&mut self, key_id: &KeyId) -> Result<Option<StoredKey>, StoreError> {
        keys::one(self.sql, key_id.as_str())
    }

    /// Keys, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keys(&mut self, filter: &KeyFilter, page: &Page) -> Result<Listing<StoredKey>, StoreError> {
        let (after, limit) = bounds(page);
        let found = keys::page(self.sql, filter, after, limit + 1)?;
        Ok(listing(found, limit, |key| key.key_id.as_str().to_owned()))
    }

    /// One tenant.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tenant(&mut self, tenant: &str) -> Result<Option<StoredTenant>, StoreError> {
        tenancy::tenant(self.sql, tenant)
    }

    /// Tenants, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tenants(&mut self, page: &Page) -> Result<Listing<StoredTenant>, StoreError> {
        let (after, limit) = bounds(page);
        let found = tenancy::tenants(self.sql, after, limit + 1)?;
        Ok(listing(found, limit, |tenant| tenant.tenant.clone()))
    }

    /// One team or user.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn member(&mut self, kind: MemberKind, tenant: &str, id: &str) -> Result<Option<StoredMember>, StoreError> {
        tenancy::member(self.sql, kind, tenant, id)
    }

    /// Teams or users of a tenant, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn members(
        &mut self,
        kind: MemberKind,
        tenant: &str,
        page: &Page,
    ) -> Result<Listing<StoredMember>, StoreError> {
        let (after, limit) = bounds(page);
        let found = tenancy::members(self.sql, kind, tenant, after, limit + 1)?;
        Ok(listing(found, limit, |member| member.id.clone()))
    }

    /// One plan.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn plan(&mut self, plan: &str) -> Result<Option<StoredPlan>, StoreError> {
        plans::one(self.sql, plan)
    }

    /// Plans, by name. With a tenant: its own and those of the installation.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn plans(&mut self, tenant: Option<&str>, page: &Page) -> Result<Listing<StoredPlan>, StoreError> {
        let (after, limit) = bounds(page);
        let found = plans::page(self.sql, tenant, after, limit + 1)?;
        Ok(listing(found, limit, |plan| plan.plan.clone()))
    }

    /// One budget.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn budget(&mut self, id: &str) -> Result<Option<StoredBudget>, StoreError> {
        budgets::one(self.sql, id)
    }

    /// Budgets, by id; with a tenant: its own.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn budgets(&mut self, tenant: Option<&str>, page: &Page) -> Result<Listing<StoredBudget>, StoreError> {
        let (after, limit) = bounds(page);
        let found = budgets::page(self.sql, tenant, after, limit + 1)?;
        Ok(listing(found, limit, |budget| budget.id.clone()))
    }

    /// The log of changes, newest first.
    ///
    /// # Errors
    /// Refused where the page begins at no line's number.
    pub fn audit(&mut self, filter: &AuditFilter, page: &Page) -> Result<Listing<AuditEntry>, StoreError> {
        let (_, limit) = bounds(page);
        let before = match page.after.as_deref() {
            None => i64::MAX,
            Some(text) => {
                text.parse().map_err(|_| StoreError::Refused("a page of the audit log begins at a number".into()))?
            }
        };
        let found = audit::page(self.sql, filter, before, limit + 1)?;
        Ok(listing(found, limit, |entry| entry.id.to_string()))
    }
}

fn bounds(page: &Page) -> (&str, u32) {
    (page.after.as_deref().unwrap_or_default(), page.limit.clamp(1, MAX_PAGE))
}

/// One row more than was asked for was read, where there is one: then there is a further page.
fn listing<T>(mut found: Vec<Result<T, BrokenRow>>, limit: u32, id: impl Fn(&T) -> String) -> Listing<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > limit;
    found.truncate(limit);
    let last = found.last().filter(|_| more);
    let next = last.map(|read| read.as_ref().map_or_else(|broken| broken.id.clone(), &id));
    let mut page = Listing { rows: Vec::with_capacity(found.len()), broken: Vec::new(), next };
    for read in found {
        match read {
            Ok(row) => page.rows.push(row),
            Err(broken) => page.broken.push(broken),
        }
    }
    page
}
