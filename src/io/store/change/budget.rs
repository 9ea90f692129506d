//! Budgets that come and go. Decides what a budget must be.

use super::super::audit::Line;
use super::super::budgets;
use super::super::error::StoreError;
use super::super::rows::{BudgetLevel, BudgetSpec, StoredBudget};
use super::Change;

impl Change<'_> {
    /// Makes a budget, or makes it what `spec` says. Nothing is written where it is so already.
    ///
    /// # Errors
    /// Refused where the amount is negative or the subject does not fit to the level; a conflict where the id is
    /// another tenant's.
    pub fn put_budget(&mut self, id: &str, spec: &BudgetSpec) -> Result<StoredBudget, StoreError> {
        if spec.amount.0 < 0 {
            return Err(StoreError::Refused("the amount of a budget is at least 0".to_owned()));
        }
        if (spec.level == BudgetLevel::Tenant) != spec.subject.is_none() {
            return Err(StoreError::Refused("a budget below the tenant's names its team, user or key".to_owned()));
        }
        let before = budgets::one(self.sql, id)?;
        if before.as_ref().is_some_and(|before| before.spec.tenant != spec.tenant) {
            return Err(StoreError::Conflict(format!("the budget id `{id}` is taken")));
        }
        if let Some(same) = before.as_ref().filter(|before| before.spec == *spec) {
            return Ok(same.clone());
        }
        let after = StoredBudget {
            id: id.to_owned(),
            spec: spec.clone(),
            created_at: before.as_ref().map_or(self.now, |before| before.created_at),
            epoch: self.epoch,
        };
        budgets::write(self.sql, &after)?;
        let (was, is) = (before.as_ref().map(budgets::view), Some(budgets::view(&after)));
        let tenant = Some(spec.tenant.as_str());
        self.write_down(&Line { action: "budget.put", target: id, tenant, before: was, after: is })?;
        Ok(after)
    }

    /// Deletes a budget.
    ///
    /// # Errors
    /// Not found.
    pub fn delete_budget(&mut self, id: &str) -> Result<(), StoreError> {
        let before = budgets::one(self.sql, id)?;
        let before = before.ok_or_else(|| StoreError::NotFound { what: "budget", id: id.to_owned() })?;
        self.sql.execute("DELETE FROM budgets WHERE budget_id = $1", &[id.into()])?;
        let (was, tenant) = (Some(budgets::view(&before)), Some(before.spec.tenant.as_str()));
        self.write_down(&Line { action: "budget.delete", target: id, tenant, before: was, after: None })
    }
}
