//! Budgets over HTTP: stored and shown; this version does not enforce them, and says so. Decides who writes which: a
//! tenant's own budget is its operator's, those below are its administrator's.

use super::call::{Answer, Call};
use super::changes::{change, page, readable, tenant_exists};
use super::form::{LABEL, NAME, written};
use super::problem::Problem;
use super::tenants::Deleted;
use crate::domain::units::NanoUsd;
use crate::io::store::Store;
use crate::io::store::rows::{BudgetLevel, BudgetPeriod, BudgetSpec, StoredBudget};
use crate::logic::access::scopes::Reach;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whose money is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "BudgetLevel")]
pub enum Level {
    /// All of the tenant.
    Tenant,
    /// One team.
    Team,
    /// One user.
    User,
    /// One key.
    Key,
}

/// Over what it is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "BudgetPeriod")]
pub enum Period {
    /// A day of the tenant's time zone.
    Day,
    /// A month of the tenant's time zone.
    Month,
    /// For good: it was paid before, and does not come back.
    Prepaid,
}

/// A budget. This version stores and shows it; it refuses nothing by it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Budget")]
pub struct BudgetView {
    /// Its id.
    budget_id: String,
    /// Who pays.
    tenant_id: String,
    /// Whose money is counted.
    level: Level,
    /// Which team, user or key; null at the level of the tenant.
    subject: Option<String>,
    /// How much, in 10^-9 US dollars.
    amount_nano_usd: i64,
    /// Over what.
    period: Period,
    /// False: a later version will refuse what is over it.
    enforced: bool,
    /// When it was made.
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
}

/// A page of budgets.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BudgetPage {
    budgets: Vec<BudgetView>,
    /// Where the next page begins; null: this was the last.
    next_cursor: Option<String>,
}

/// What a budget is to be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "BudgetSpec")]
pub struct BudgetBody {
    /// Who pays; left out: the caller's tenant.
    #[serde(default)]
    #[schemars(regex(pattern = NAME))]
    tenant_id: Option<String>,
    /// Whose money is counted.
    level: Level,
    /// Which team, user or key; null at the level of the tenant.
    #[serde(default)]
    #[schemars(regex(pattern = LABEL))]
    subject: Option<String>,
    /// How much, in 10^-9 US dollars.
    #[schemars(range(min = 0))]
    amount_nano_usd: i64,
    /// Over what.
    period: Period,
}

/// `GET /budgets`
pub fn list(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let tenant = call.tenant_filter()?;
    let (rows, next) = readable(store.read()?.budgets(tenant.as_deref(), &page(call)?)?);
    let budgets: Vec<BudgetView> = rows.into_iter().map(view).collect();
    Answer::page("budgets", &budgets, next.map(|next| call.list().after(&[&next])))
}

/// `GET /budgets/{budget}`
pub fn get(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let found = store.read()?.budget(call.part("budget"))?.ok_or(Problem::NotFound("budget"))?;
    call.within(&found.spec.tenant, "budget")?;
    Answer::of(200, &view(found))
}

/// `PUT /budgets/{budget}`
pub fn put(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let body: BudgetBody = call.body()?;
    let tenant = body.tenant_id.unwrap_or_else(|| call.tenant().as_str().to_owned());
    let absent = || Problem::member("/tenant_id", "There is no tenant of this name.");
    call.within(&tenant, "tenant").map_err(|_| absent())?;
    if (body.level == Level::Tenant) != body.subject.is_none() {
        let what = "Below the tenant's level the subject names the team, user or key; at it there is none.";
        return Err(Problem::member("/subject", what));
    }
    may_write(call, body.level)?;
    let spec = BudgetSpec {
        tenant,
        level: body.level.into(),
        subject: body.subject,
        amount: NanoUsd(body.amount_nano_usd),
        period: body.period.into(),
    };
    let id = call.part("budget");
    let made = change(call, store, |change| {
        tenant_exists(call, &mut change.read(), &spec.tenant, absent())?;
        if let Some(before) = change.read().budget(id)?.filter(|before| before.spec.tenant == spec.tenant) {
            may_write(call, before.spec.level.into())?;
        }
        Ok(change.put_budget(id, &spec)?)
    })?;
    Answer::of(200, &view(made))
}

/// `DELETE /budgets/{budget}`
pub fn delete(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let id = call.part("budget");
    change(call, store, |change| {
        let before = change.read().budget(id)?.ok_or(Problem::NotFound("budget"))?;
        call.within(&before.spec.tenant, "budget")?;
        may_write(call, before.spec.level.into())?;
        Ok(change.delete_budget(id)?)
    })?;
    Answer::of(200, &Deleted { deleted: true })
}

/// A tenant does not choose how much it may spend.
fn may_write(call: &Call, level: Level) -> Result<(), Problem> {
    if level == Level::Tenant && call.reach == Reach::Own {
        return Err(Problem::Forbidden("A tenant's own budget is written by who reaches all tenants.".to_owned()));
    }
    Ok(())
}

fn view(row: StoredBudget) -> BudgetView {
    BudgetView {
        budget_id: row.id,
        tenant_id: row.spec.tenant,
        level: row.spec.level.into(),
        subject: row.spec.subject,
        amount_nano_usd: row.spec.amount.0,
        period: row.spec.period.into(),
        enforced: false,
        created_at: written(row.created_at),
    }
}

impl From<Level> for BudgetLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Tenant => Self::Tenant,
            Level::Team => Self::Team,
            Level::User => Self::User,
            Level::Key => Self::Key,
        }
    }
}

impl From<BudgetLevel> for Level {
    fn from(level: BudgetLevel) -> Self {
        match level {
            BudgetLevel::Tenant => Self::Tenant,
            BudgetLevel::Team => Self::Team,
            BudgetLevel::User => Self::User,
            BudgetLevel::Key => Self::Key,
        }
    }
}

impl From<Period> for BudgetPeriod {
    fn from(period: Period) -> Self {
        match period {
            Period::Day => Self::Day,
            Period::Month => Self::Month,
            Period::Prepaid => Self::Prepaid,
        }
    }
}

impl From<BudgetPeriod> for Period {
    fn from(period: BudgetPeriod) -> Self {
        match period {
            BudgetPeriod::Day => Self::Day,
            BudgetPeriod::Month => Self::Month,
            BudgetPeriod::Prepaid => Self::Prepaid,
        }
    }
}
