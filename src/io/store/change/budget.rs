//! Budgets that come and go. Decides what a budget must be, and how many a tenant has, in all and at one place.

use super::super::audit::Line;
use super::super::error::{MAX_PLACE_BUDGETS, MAX_TENANT_BUDGETS, StoreError};
use super::super::rows::{BudgetLevel, BudgetSpec, MAX_ALERTS, MAX_BUDGET, StoredBudget};
use super::super::{budgets, follow};
use super::Change;

impl Change<'_> {
    /// Makes a budget, or makes it what `spec` says. Nothing is written where it is so already.
    ///
    /// # Errors
    /// Refused where the amount is negative or too large, a percent is none, or the subject does not fit to the level; a
    /// conflict where the id is another tenant's, or there is no room for another one.
    pub fn put_budget(&mut self, id: &str, spec: &BudgetSpec) -> Result<StoredBudget, StoreError> {
        if !(0..=MAX_BUDGET.0).contains(&spec.amount.0) {
            return Err(StoreError::Refused(format!("the amount of a budget is 0 to {} nano-dollars", MAX_BUDGET.0)));
        }
        if spec.alert_at.len() > MAX_ALERTS || spec.alert_at.iter().any(|percent| !(1..=100).contains(percent)) {
            return Err(StoreError::Refused(format!(
                "a budget has at most {MAX_ALERTS} thresholds, of 1 to 100 percent"
            )));
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
        if before.is_none() {
            self.room_for_budget(&spec.tenant)?;
        }
        let place = |spec: &BudgetSpec| (spec.level, spec.subject.clone());
        if before.as_ref().is_none_or(|before| place(&before.spec) != place(spec)) {
            self.room_at_place(id, spec)?;
        }
        let after = StoredBudget {
            id: id.to_owned(),
            spec: spec.clone(),
            created_at: before.as_ref().map_or(self.now, |before| before.created_at),
            deleted: false,
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
        budgets::write(self.sql, &StoredBudget { deleted: true, epoch: self.epoch, ..before.clone() })?;
        let (was, tenant) = (Some(budgets::view(&before)), Some(before.spec.tenant.as_str()));
        self.write_down(&Line { action: "budget.delete", target: id, tenant, before: was, after: None })
    }

    /// All of them hold for each request of that place, and a request can be held against so many only.
    fn room_at_place(&mut self, id: &str, spec: &BudgetSpec) -> Result<(), StoreError> {
        if budgets::beside(self.sql, id, spec)? < MAX_PLACE_BUDGETS {
            return Ok(());
        }
        let level = spec.level.name();
        let place = spec.subject.as_ref().map_or_else(String::new, |subject| format!("{level} `{subject}` of the "));
        let what = format!("budgets of the {place}tenant `{}`", spec.tenant);
        Err(StoreError::Full { what, most: MAX_PLACE_BUDGETS })
    }

    /// What is deleted counts as long as followers have to be told of it.
    fn room_for_budget(&mut self, tenant: &str) -> Result<(), StoreError> {
        if budgets::count(self.sql, tenant)? >= MAX_TENANT_BUDGETS {
            budgets::forget_deleted(self.sql, tenant, self.epoch - follow::KEPT_MARKS)?;
            if budgets::count(self.sql, tenant)? >= MAX_TENANT_BUDGETS {
                let what = format!("budgets of the tenant `{tenant}`, lately deleted ones included");
                return Err(StoreError::Full { what, most: MAX_TENANT_BUDGETS });
            }
        }
        self.room()
    }
}
