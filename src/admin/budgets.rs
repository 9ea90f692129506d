//! Budgets over HTTP. Decides who writes which: a tenant's own budget is its operator's, those below are its
//! administrator's. What a budget refuses is `logic::quota`'s.

use super::call::{Answer, Call};
use super::changes::{change, page, readable, tenant_exists};
use super::form::{KEY_ID, LABEL, NAME, written};
use super::pattern;
use super::problem::Problem;
use super::tenants::Deleted;
use crate::domain::ids::KeyId;
use crate::domain::units::NanoUsd;
use crate::io::store::Store;
use crate::io::store::read::Reader;
use crate::io::store::rows::{BudgetLevel, BudgetPeriod, BudgetSpec, OnExceed, StoredBudget};
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

/// What happens when it is spent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "BudgetOnExceed")]
pub enum Exceed {
    /// Its callers are refused: 429 `insufficient_quota`.
    #[default]
    Reject,
    /// Nobody is refused; alerts are sent all the same.
    Warn,
}

/// A budget: money that may be spent over a period. Callers are refused when it is spent.
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
    /// What happens when it is spent.
    on_exceed: Exceed,
    /// Shares of it, in percent, at which an alert is sent; one at 100 is always sent.
    alert_at: Vec<u8>,
    /// Each request reserves what it costs at most, not what it will probably cost.
    strict: bool,
    /// Running streams are ended when it is spent.
    stop_streams: bool,
    /// True: proxies count by it within a second.
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
    /// How much, in 10^-9 US dollars; at most 9 million dollars.
    #[schemars(range(min = 0, max = 9_000_000_000_000_000_i64))]
    amount_nano_usd: i64,
    /// Over what.
    period: Period,
    /// What happens when it is spent.
    #[serde(default)]
    on_exceed: Exceed,
    /// Shares of it, in percent, at which an alert is sent; one at 100 is always sent.
    #[serde(default)]
    #[schemars(length(max = 16), inner(range(min = 1, max = 100)))]
    alert_at: Vec<u8>,
    /// Each request reserves what it costs at most, not what it will probably cost.
    #[serde(default)]
    strict: bool,
    /// Running streams are ended when it is spent; not with `"on_exceed": "warn"`.
    #[serde(default)]
    stop_streams: bool,
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
    let tenant = body.tenant_id.clone().unwrap_or_else(|| call.tenant().as_str().to_owned());
    let absent = || Problem::member("/tenant_id", "There is no tenant of this name.");
    call.within(&tenant, "tenant").map_err(|_| absent())?;
    if (body.level == Level::Tenant) != body.subject.is_none() {
        let what = "Below the tenant's level the subject names the team, user or key; at it there is none.";
        return Err(Problem::member("/subject", what));
    }
    may_write(call, body.level)?;
    let spec = spec(tenant, body);
    let id = call.part("budget");
    let made = change(call, store, |change| {
        tenant_exists(call, &mut change.read(), &spec.tenant, absent())?;
        if let Some(before) = change.read().budget(id)?.filter(|before| before.spec.tenant == spec.tenant) {
            may_write(call, before.spec.level.into())?;
        }
        key_exists(&mut change.read(), &spec)?;
        Ok(change.put_budget(id, &spec)?)
    })?;
    Answer::of(200, &view(made))
}

fn spec(tenant: String, mut body: BudgetBody) -> BudgetSpec {
    body.alert_at.sort_unstable();
    body.alert_at.dedup();
    BudgetSpec {
        tenant,
        level: body.level.into(),
        subject: body.subject,
        amount: NanoUsd(body.amount_nano_usd),
        period: body.period.into(),
        on_exceed: body.on_exceed.into(),
        alert_at: body.alert_at,
        strict: body.strict,
        stop_streams: body.stop_streams,
    }
}

/// Teams and users may be named before they come; a key's id is drawn when it is made, so another one is a mistake.
fn key_exists(reader: &mut Reader<'_>, spec: &BudgetSpec) -> Result<(), Problem> {
    let Some(id) = spec.subject.as_deref().filter(|_| spec.level == BudgetLevel::Key) else { return Ok(()) };
    let found = if pattern::fits(KEY_ID, id) { reader.key(&KeyId::new(id))? } else { None };
    if found.is_some_and(|key| key.tenant == spec.tenant) {
        return Ok(());
    }
    Err(Problem::member("/subject", "The tenant has no key of this id."))
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
        on_exceed: row.spec.on_exceed.into(),
        alert_at: row.spec.alert_at,
        strict: row.spec.strict,
        stop_streams: row.spec.stop_streams,
        enforced: true,
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

impl From<Exceed> for OnExceed {
    fn from(exceed: Exceed) -> Self {
        match exceed {
            Exceed::Reject => Self::Reject,
            Exceed::Warn => Self::Warn,
        }
    }
}

impl From<OnExceed> for Exceed {
    fn from(exceed: OnExceed) -> Self {
        match exceed {
            OnExceed::Reject => Self::Reject,
            OnExceed::Warn => Self::Warn,
        }
    }
}
