//! Plans over HTTP. Decides how a configured plan reads as JSON, and that only who reaches all tenants writes plans: a
//! tenant must not choose its own limits.

use super::call::{Answer, Call};
use super::changes::{change, merge, not_configured, page, readable, tenant_exists};
use super::form::{NAME, written};
use super::problem::Problem;
use super::tenants::{Deleted, WrittenIn};
use crate::config;
use crate::domain::ids::PlanId;
use crate::domain::limit::{Dimension, LimitRule, Mode, Plan, Window};
use crate::io::store::Store;
use crate::io::store::rows::StoredPlan;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

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

/// What a plan is to be.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PlanSpec")]
pub struct PlanBody {
    /// The tenant that alone may use it; null: every tenant may.
    #[serde(default, skip_serializing)]
    #[schemars(regex(pattern = NAME))]
    tenant_id: Option<String>,
    /// Its limits, in the shape of `plans.NAME.limits` of the configuration: `{"requests": "600/min"}`.
    limits: Map<String, Value>,
}

/// `GET /plans`
pub fn list(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let page = page(call)?;
    let (rows, next) = readable(store.read()?.plans(call.bound(), &page)?);
    let configured = call.runtime.snapshot.plans.iter();
    let configured = configured.map(|(name, plan)| (name.as_str().to_owned(), of_config(name.as_str(), plan)));
    let stored = rows.into_iter().map(|row| (row.plan.clone(), of_store(row)));
    let (plans, next) = merge(configured, stored, next.as_deref(), &page);
    Answer::page("plans", &plans, next.map(|next| call.list().after(&[&next])))
}

/// `GET /plans/{plan}`
pub fn get(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let name = call.part("plan");
    if let Some(plan) = call.runtime.snapshot.plans.get(&PlanId::new(name)) {
        return Answer::of(200, &of_config(name, plan));
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
    let document = json!({ "limits": body.limits }).to_string();
    config::plan_from_json(name, &document)
        .map_err(|why| Problem::member("/limits", format!("These are no limits: {why}")))?;
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
    let document: Option<PlanBody> = serde_json::from_str(&row.document).ok();
    PlanView {
        plan: row.plan,
        tenant_id: row.tenant,
        limits: document.map(|document| document.limits).unwrap_or_default(),
        origin: WrittenIn::Store,
        created_at: Some(written(row.created_at)),
    }
}

fn of_config(name: &str, plan: &Plan) -> PlanView {
    let mut limits = Map::new();
    let dimensions =
        [("requests", Dimension::Requests), ("tokens", Dimension::Tokens), ("concurrency", Dimension::Concurrency)];
    for (word, dimension) in dimensions {
        let rules: Vec<Value> = plan.rules.iter().filter(|rule| rule.dimension == dimension).map(shown).collect();
        if !rules.is_empty() {
            limits.insert(word.to_owned(), Value::Array(rules));
        }
    }
    if let Some(most) = plan.max_tokens_per_request {
        limits.insert("max_tokens_per_request".to_owned(), most.0.into());
    }
    PlanView { plan: name.to_owned(), tenant_id: None, limits, origin: WrittenIn::Config, created_at: None }
}

/// A limit as the configuration writes it.
fn shown(rule: &LimitRule) -> Value {
    let window = match rule.window {
        Window::Second => "s",
        Window::Minute => "min",
        Window::Hour => "h",
        Window::Day => "day",
        Window::Month => "month",
    };
    let limit = match rule.dimension {
        Dimension::Concurrency => json!(rule.limit),
        _ => json!(format!("{}/{window}", rule.limit)),
    };
    let mut shown = json!({ "limit": limit });
    if let Value::Object(shown) = &mut shown {
        if rule.burst != rule.limit {
            shown.insert("burst".to_owned(), rule.burst.into());
        }
        if rule.strict {
            shown.insert("strict".to_owned(), true.into());
        }
        if rule.mode == Mode::Shadow {
            shown.insert("mode".to_owned(), "shadow".into());
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_plan_reads_as_what_would_make_it() {
        let text = r#"{"limits":{"requests":[{"limit":"600/min","burst":10,"mode":"shadow"}],
            "tokens":[{"limit":"5/day","strict":true},{"limit":"7/s"}],"concurrency":[{"limit":3}],
            "max_tokens_per_request":9}}"#;
        let plan = config::plan_from_json("p", text).expect("a plan");
        let view = of_config("p", &plan);
        let again = config::plan_from_json("p", &json!({ "limits": view.limits }).to_string()).expect("again a plan");
        assert_eq!(again, plan, "what is shown would make the same plan");
    }
}
