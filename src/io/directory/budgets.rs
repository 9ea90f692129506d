//! Budgets of the store as rules. Decides at which of a tenant's places a budget counts, and that one that cannot be
//! read refuses all of its tenant: nobody knows whom it would have held back.

use crate::domain::ids::{KeyId, PlanId, TeamId, TenantId, UserId};
use crate::domain::limit::{Dimension, Mode, OnStoreError, Window};
use crate::io::store::rows::{BudgetLevel, BudgetPeriod, MAX_BUDGET, OnExceed, StoredBudget};
use crate::logic::access::directory::{Member, Origin, Tenant};
use crate::logic::quota::plan::LimitRule;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a budget counts.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    Tenant,
    Team(TeamId),
    User(UserId),
    Key(KeyId),
}

/// A budget of the store.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    place: Place,
    rule: Arc<LimitRule>,
}

/// What is known of a budget; `None`: it cannot be read.
type HeldBudget = Option<Placed>;

/// The budgets of the store, by tenant and id.
#[derive(Default)]
pub(super) struct Budgets {
    by_tenant: BTreeMap<TenantId, BTreeMap<String, HeldBudget>>,
    /// Whose each of them is: an id that was deleted may come back as another tenant's.
    owners: FxHashMap<String, TenantId>,
}

impl Budgets {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// Forgets all of them; whose they were.
    pub(super) fn clear(&mut self) -> Vec<TenantId> {
        self.owners.clear();
        std::mem::take(&mut self.by_tenant).into_keys().collect()
    }

    /// Takes in a budget, or what is left of a broken one; whose it was before, if it was another's.
    pub(super) fn set(&mut self, tenant: &TenantId, id: &str, budget: HeldBudget) -> Option<TenantId> {
        let before = self.remove(id);
        self.by_tenant.entry(tenant.clone()).or_default().insert(id.to_owned(), budget);
        self.owners.insert(id.to_owned(), tenant.clone());
        before
    }

    /// Forgets a budget; whose it was.
    pub(super) fn remove(&mut self, id: &str) -> Option<TenantId> {
        let owner = self.owners.remove(id)?;
        if let Some(budgets) = self.by_tenant.get_mut(&owner) {
            budgets.remove(id);
            if budgets.is_empty() {
                self.by_tenant.remove(&owner);
            }
        }
        Some(owner)
    }

    /// Puts a tenant's budgets where they count. A team or user that is nowhere defined is from here on: it has this
    /// budget and nothing else.
    pub(super) fn place(&self, name: &TenantId, tenant: &mut Tenant) {
        for (id, held) in self.by_tenant.get(name).into_iter().flatten() {
            let Some(Placed { place, rule }) = held else {
                // As with a plan that cannot be read: one that does not exist, whose callers are refused.
                tenant.plan = Some(PlanId::new(&format!("(budget {id} cannot be read)")));
                continue;
            };
            let rule = Arc::clone(rule);
            match place {
                Place::Tenant => tenant.budgets.push(rule),
                Place::Team(team) => tenant.teams.entry(team.clone()).or_insert_with(unlisted).budgets.push(rule),
                Place::User(user) => tenant.users.entry(user.clone()).or_insert_with(unlisted).budgets.push(rule),
                Place::Key(key) => tenant.key_budgets.entry(key.clone()).or_default().push(rule),
            }
        }
    }
}

fn unlisted() -> Member {
    Member { origin: Origin::Store, ..Member::default() }
}

/// A budget as a rule.
///
/// # Errors
/// In words: it has no subject, where its level needs one.
pub(super) fn compiled(row: &StoredBudget, on_store_error: OnStoreError) -> Result<Placed, String> {
    let subject = || row.spec.subject.as_deref().ok_or("a budget below the tenant's needs a subject");
    let place = match row.spec.level {
        BudgetLevel::Tenant => Place::Tenant,
        BudgetLevel::Team => Place::Team(TeamId::new(subject()?)),
        BudgetLevel::User => Place::User(UserId::new(subject()?)),
        BudgetLevel::Key => Place::Key(KeyId::new(subject()?)),
    };
    Ok(Placed { place, rule: Arc::new(rule(row, on_store_error)) })
}

fn rule(row: &StoredBudget, on_store_error: OnStoreError) -> LimitRule {
    let spec = &row.spec;
    let window = match spec.period {
        BudgetPeriod::Day => Window::Day,
        BudgetPeriod::Month => Window::Month,
        BudgetPeriod::Prepaid => Window::Ever,
    };
    let mut alert_at = spec.alert_at.clone();
    alert_at.sort_unstable();
    alert_at.dedup();
    // What an older version took may be larger than what can be counted.
    let amount = u64::try_from(spec.amount.0.clamp(0, MAX_BUDGET.0)).unwrap_or(0);
    LimitRule {
        mode: match spec.on_exceed {
            OnExceed::Reject => Mode::Enforce,
            OnExceed::Warn => Mode::Shadow,
        },
        strict: spec.strict,
        stop_streams: spec.stop_streams,
        alert_at: Arc::from(alert_at),
        on_store_error,
        // What was spent before there was any credit is none of its business.
        since: if window == Window::Ever { row.created_at.0 / 1_000 } else { 0 },
        ..LimitRule::new(&format!("budget.{}", row.id), Dimension::Spend, amount, window)
    }
}
