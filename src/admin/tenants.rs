//! Tenants over HTTP. Decides what may be written of one; who may, is the table's, and what a tenant means is `check`'s
//! and `debit`'s.

use super::call::{Answer, Call};
use super::changes::{change, check_models, merge, not_configured, page, plan_exists, readable};
use super::form::{LABEL, NAME, ZONE, written};
use super::problem::Problem;
use crate::domain::ids::TenantId;
use crate::io::store::Store;
use crate::io::store::rows::{StoredTenant, TenantSpec};
use crate::logic::access::directory::{Origin, Tenant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where something is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WrittenIn {
    /// In the configuration: it wins over the store, and cannot be changed here.
    Config,
    /// In the store.
    Store,
}

impl From<Origin> for WrittenIn {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Config => Self::Config,
            Origin::Store => Self::Store,
        }
    }
}

/// A tenant.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Tenant")]
pub struct TenantView {
    /// Its name in keys, limits and records.
    tenant_id: String,
    /// A name for people.
    name: Option<String>,
    /// The plan that counts all its callers together; null: no limits.
    plan: Option<String>,
    /// Models that it may use; null: all.
    models: Option<Vec<String>>,
    /// True: its callers are refused like unknown ones.
    disabled: bool,
    /// Where its days and months begin; null: UTC.
    time_zone: Option<String>,
    /// Where it is written down.
    origin: WrittenIn,
    /// When it was made; null for one that is configured.
    #[schemars(extend("format" = "date-time"))]
    created_at: Option<String>,
}

/// A page of tenants.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "TenantPage")]
pub struct TenantPage {
    tenants: Vec<TenantView>,
    /// Where the next page begins; null: this was the last.
    next_cursor: Option<String>,
}

/// What a tenant is to be. What is left out is null.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TenantSpec")]
pub struct TenantBody {
    /// A name for people.
    #[serde(default)]
    #[schemars(regex(pattern = LABEL))]
    name: Option<String>,
    /// The plan that counts all its callers together.
    #[serde(default)]
    #[schemars(regex(pattern = NAME))]
    plan: Option<String>,
    /// Models that it may use.
    #[serde(default)]
    #[schemars(length(max = 64))]
    models: Option<Vec<String>>,
    /// True: its callers are refused like unknown ones.
    #[serde(default)]
    disabled: bool,
    /// An IANA name of a time zone, such as `Europe/Berlin`.
    #[serde(default)]
    #[schemars(regex(pattern = ZONE))]
    time_zone: Option<String>,
}

/// A good answer without content worth telling.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Deleted {
    /// True.
    pub deleted: bool,
}

/// `GET /tenants`
pub fn list(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let page = page(call)?;
    if let Some(own) = call.bound() {
        // One tenant is all that there is to see.
        let own: Vec<TenantView> = find(call, store, own)?.into_iter().collect();
        return Answer::page("tenants", &own, None);
    }
    let (rows, next) = readable(store.read()?.tenants(&page)?);
    let configured = call.runtime.snapshot.tenants.iter();
    let configured = configured.map(|(id, tenant)| (id.as_str().to_owned(), of_config(id.as_str(), tenant)));
    let stored = rows.into_iter().map(|row| (row.tenant.clone(), of_store(row)));
    let (tenants, next) = merge(configured, stored, next.as_deref(), &page);
    Answer::page("tenants", &tenants, next.map(|next| call.list().after(&[&next])))
}

/// `GET /tenants/{tenant}`
pub fn get(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let id = call.part("tenant");
    call.within(id, "tenant")?;
    let found = find(call, store, id)?.ok_or(Problem::NotFound("tenant"))?;
    Answer::of(200, &found)
}

/// `PUT /tenants/{tenant}`
pub fn put(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let id = call.part("tenant");
    not_configured(call, is_configured(call, id), "tenant", id)?;
    let body: TenantBody = call.body()?;
    check_models(body.models.as_deref())?;
    if let Some(zone) = &body.time_zone
        && crate::config::zone(zone).is_none()
    {
        return Err(Problem::member("/time_zone", "This is no time zone. Write an IANA name, such as Europe/Berlin."));
    }
    let TenantBody { name, plan, models, disabled, time_zone } = body;
    let spec = TenantSpec { name, plan, models, disabled, time_zone };
    let made = change(call, store, |change| {
        plan_exists(call, &mut change.read(), id, spec.plan.as_deref())?;
        Ok(change.put_tenant(id, &spec)?)
    })?;
    Answer::of(200, &of_store(made))
}

/// `DELETE /tenants/{tenant}`
pub fn delete(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let id = call.part("tenant");
    not_configured(call, is_configured(call, id), "tenant", id)?;
    change(call, store, |change| Ok(change.delete_tenant(id)?))?;
    Answer::of(200, &Deleted { deleted: true })
}

fn is_configured(call: &Call, id: &str) -> bool {
    call.runtime.snapshot.tenants.contains_key(&TenantId::new(id))
}

fn find(call: &Call, store: &mut Store, id: &str) -> Result<Option<TenantView>, Problem> {
    if let Some(tenant) = call.runtime.snapshot.tenants.get(&TenantId::new(id)) {
        return Ok(Some(of_config(id, tenant)));
    }
    Ok(store.read()?.tenant(id)?.map(of_store))
}

fn of_config(id: &str, tenant: &Tenant) -> TenantView {
    TenantView {
        tenant_id: id.to_owned(),
        name: None,
        plan: tenant.plan.as_ref().map(|plan| plan.as_str().to_owned()),
        models: tenant.models.as_ref().map(|_| tenant.model_patterns.clone()),
        disabled: tenant.disabled,
        time_zone: tenant.zone.iana_name().filter(|zone| *zone != "UTC").map(str::to_owned),
        origin: WrittenIn::Config,
        created_at: None,
    }
}

fn of_store(row: StoredTenant) -> TenantView {
    let TenantSpec { name, plan, models, disabled, time_zone } = row.spec;
    TenantView {
        tenant_id: row.tenant,
        name,
        plan,
        models,
        disabled,
        time_zone,
        origin: WrittenIn::Store,
        created_at: Some(written(row.created_at)),
    }
}
