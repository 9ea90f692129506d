//! Plans over HTTP. Decides how a configured plan reads as JSON, and that only who reaches all tenants writes plans: a
//! tenant must not choose its own limits.

use super::call::{Answer, Call};
use super::changes::{change, merge, not_configured, page, readable, tenant_exists};
use super::form::{NAME, written};
use super::problem::Problem;
use super::tenants::{Deleted, WrittenIn};
use crate::config;
use crate::config::section::plans;
use crate::domain::ids::PlanId;
use crate::domain::limit::OnStoreError;
use crate::io::store::Store;
use crate::io::store::rows::StoredPlan;
use crate::logic::quota::plan::Plan;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A plan.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Plan")]
pub struct PlanView {
    /// Its name.
    plan: String,
    /// The tenant that alone may use it; null: every tenant may.
    tenant_id: Option<String>,
    /// Its limits, in the shape of `plans.NAME.limits` of the configuration.
    limits: Map<String, Value>,
    /// Its budget, in the shape of `plans.NAME.budget` of the configuration; null: none.
    budget: Option<Value>,
    /// Whether its callers may use what shared limits keep in reserve.
    priority: PlanPriority,
    /// Its limits of single models, in the shape of `plans.NAME.models` of the configuration.
    models: Map<String, Value>,
    /// Where it is written down.
    origin: WrittenIn,
    /// When it was made; null for one that is configured.
    #[schemars(extend("format" = "date-time"))]
    created_at: Option<String>,
}

/// A page of plans.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PlanPage {
    plans: Vec<PlanView>,
    /// Where the next page begins; null: this was the last.
    next_cursor: Option<String>,
}

/// Whose requests may use what shared limits keep in reserve.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PlanPriority {
    /// Leaves twice the reserve to others.
    Low,
    /// Leaves the reserve to others.
    #[default]
    Normal,
    /// May use all.
    High,
}

/// What a plan is to be. What is left out is null.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PlanSpec")]
pub struct PlanBody {
    /// The tenant that alone may use it; null: every tenant may.
    #[serde(default, skip_serializing)]
    #[schemars(regex(pattern = NAME))]
    tenant_id: Option<String>,
    /// Its limits, in the shape of `plans.NAME.limits` of the configuration: `{"requests": "600/min"}`.
    #[serde(default)]
    limits: Map<String, Value>,
    /// Its budget, in the shape of `plans.NAME.budget` of the configuration: `"5000/month"`, an object, or a list of
    /// them. Amounts with a fraction are texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    budget: Option<Value>,
    /// Whether its callers may use what shared limits keep in reserve.
    #[serde(default)]
    priority: PlanPriority,
    /// Its limits of single models, in the shape of `plans.NAME.models` of the configuration:
    /// `{"gpt-4*": {"requests": "60/min"}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    models: Option<Map<String, Value>>,
}

/// `GET /plans`
pub fn list(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let page = page(call)?;
    let (rows, next) = readable(store.read()?.plans(call.bound(), &page)?);
    let fallback = call.runtime.snapshot.limits.on_store_error();
    let configured = call.runtime.snapshot.plans.iter();
    let configured =
        configured.map(|(name, plan)| (name.as_str().to_owned(), of_config(name.as_str(), plan, fallback)));
    let stored = rows.into_iter().map(|row| (row.plan.clone(), of_store(row)));
    let (plans, next) = merge(configured, stored, next.as_deref(), &page);
    Answer::page("plans", &plans, next.map(|next| call.list().after(&[&next])))
}

/// `GET /plans/{plan}`
pub fn get(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let name = call.part("plan");
    if let Some(plan) = call.runtime.snapshot.plans.get(&PlanId::new(name)) {
        let fallback = call.runtime.snapshot.limits.on_store_error();
        return Answer::of(200, &of_config(name, plan, fallback));
    }
    let found = store.read()?.plan(name)?.ok_or(Problem::NotFound("plan"))?;
    if let Some(owner) = &found.tenant {
        call.within(owner, "plan")?;
    }
    Answer::of(200, &of_store(found))
}

/// `PUT /plans/{plan}`
pub fn put(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let name = call.part("plan");
    not_configured(call, is_configured(call, name), "plan", name)?;
    let body: PlanBody = call.body()?;
    if let Some(word) = plans::taken(name) {
        let what = format!("`{word}` begins the names of other limits. Choose another name.");
        return Err(Problem::parameter("plan", what));
    }
    let fallback = call.runtime.snapshot.limits.on_store_error();
    let document = serde_json::to_string(&body).map_err(|_| Problem::member("", "This is no plan."))?;
    config::plan_from_json(name, &document, fallback)
        .map_err(|why| Problem::member(pointer(&why), format!("This is no plan: {why}")))?;
    let tenant = body.tenant_id.as_deref();
    let made = change(call, store, |change| {
        if let Some(tenant) = tenant {
            let absent = Problem::member("/tenant_id", "There is no tenant of this name.");
            tenant_exists(call, &mut change.read(), tenant, absent)?;
        }
        Ok(change.put_plan(name, tenant, &document)?)
    })?;
    Answer::of(200, &of_store(made))
}

/// `DELETE /plans/{plan}`
pub fn delete(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let name = call.part("plan");
    not_configured(call, is_configured(call, name), "plan", name)?;
    change(call, store, |change| Ok(change.delete_plan(name)?))?;
    Answer::of(200, &Deleted { deleted: true })
}

fn is_configured(call: &Call, name: &str) -> bool {
    call.runtime.snapshot.plans.contains_key(&PlanId::new(name))
}

fn of_store(row: StoredPlan) -> PlanView {
    // One that cannot be read is shown without limits here and refuses its callers there.
    let document: PlanBody = serde_json::from_str(&row.document).unwrap_or_default();
    PlanView {
        plan: row.plan,
        tenant_id: row.tenant,
        limits: document.limits,
        budget: document.budget,
        priority: document.priority,
        models: document.models.unwrap_or_default(),
        origin: WrittenIn::Store,
        created_at: Some(written(row.created_at)),
    }
}

fn of_config(name: &str, plan: &Plan, fallback: OnStoreError) -> PlanView {
    let shown: PlanBody = serde_json::from_value(config::plan_to_json(plan, fallback)).unwrap_or_default();
    PlanView {
        plan: name.to_owned(),
        tenant_id: None,
        limits: shown.limits,
        budget: shown.budget,
        priority: shown.priority,
        models: shown.models.unwrap_or_default(),
        origin: WrittenIn::Config,
        created_at: None,
    }
}

/// The member that the first of some faults is about: each begins with its path.
fn pointer(faults: &str) -> &'static str {
    let members = ["/budget", "/priority", "/models"];
    members.into_iter().find(|member| faults.starts_with(&member[1..])).unwrap_or("/limits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_configured_plan_reads_as_what_would_make_it() {
        let text = r#"{"limits":{"requests":[{"limit":"600/min","burst":10,"mode":"shadow","when":"auth.user != null"}],
            "tokens":[{"limit":"5/day","strict":true},{"limit":"7/s","on_store_error":"open"}],
            "concurrency":[{"limit":30,"reserve":"10%"}],"max_tokens_per_request":9},"priority":"high",
            "budget":[{"usd":"0.50/day","on_exceed":"warn","alert_at":["80%"]},{"usd":7,"on_store_error":"closed"}],
            "models":{"gpt-4*":{"output_tokens":"5/s"}}}"#;
        for fallback in [OnStoreError::Local, OnStoreError::Open, OnStoreError::Closed] {
            let plan = config::plan_from_json("p", text, fallback).expect("a plan");
            let view = of_config("p", &plan, fallback);
            let body = PlanBody {
                tenant_id: None,
                limits: view.limits,
                budget: view.budget,
                priority: view.priority,
                models: Some(view.models),
            };
            let again = serde_json::to_string(&body).expect("JSON");
            let again = config::plan_from_json("p", &again, fallback).expect("again a plan");
            assert_eq!(again, plan, "what is shown would make the same plan");
        }
    }

    #[test]
    fn a_plan_of_an_older_version_reads_and_what_it_lacks_is_as_it_was() {
        let old: PlanBody = serde_json::from_str(r#"{"limits":{"requests":"5/s"}}"#).expect("a plan");
        assert_eq!((old.budget, old.priority, old.models), (None, PlanPriority::Normal, None), "nothing but limits");
        let kept = PlanBody { limits: old.limits, ..PlanBody::default() };
        let kept = serde_json::to_value(kept).expect("JSON");
        assert_eq!(kept, json!({"limits": {"requests": "5/s"}, "priority": "normal"}), "what is null is not stored");
    }

    #[test]
    fn a_fault_is_told_at_its_member() {
        for (text, member) in [
            (r#"{"limits":{"requests":"5"}}"#, "/limits"),
            (r#"{"budget":"5/min"}"#, "/budget"),
            (r#"{"budget":[5,{"usd":1,"alert_at":"0.8"}]}"#, "/budget"),
            (r#"{"priority":"urgent"}"#, "/priority"),
            (r#"{"models":{"a":{"requests":"5"}}}"#, "/models"),
        ] {
            let faults = config::plan_from_json("p", text, OnStoreError::Local).expect_err("a fault");
            assert_eq!(pointer(&faults), member, "{faults}");
        }
    }
}
