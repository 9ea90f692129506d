//! Why a request was refused: the figures of all its limits, as they stood then. Decides whose refusals a caller sees;
//! what is remembered is `logic::quota::denials`'.

use super::call::{Answer, Call};
use super::form::written;
use super::problem::Problem;
use crate::domain::ids::RequestId;
use crate::domain::limit::{Dimension, Figure, Mode};
use crate::logic::quota::denials::{Denied, MAX_DENIALS};
use schemars::JsonSchema;
use serde::Serialize;

/// Why a request got 429.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Denial")]
pub struct DenialView {
    /// The request: its `x-request-id`.
    request_id: String,
    /// When it was refused.
    refused_at: String,
    /// Its tenant.
    tenant_id: String,
    /// The key that it came by; null: none of Weir's own.
    key_id: Option<String>,
    /// The model that it named; null: none.
    model: Option<String>,
    /// The route that it would have taken; null: Weir answers such requests itself.
    route_id: Option<String>,
    /// Time until it would have been admitted; null: waiting does not help.
    retry_after_ms: Option<u64>,
    /// The rule that refused it: of several the one that will refuse it longest.
    #[serde(flatten)]
    rule: FigureView,
    /// Every limit that counted it, as it stood then.
    figures: Vec<FigureView>,
}

/// How one limit stood.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "LimitFigure")]
pub struct FigureView {
    /// Its name, as in `x-limit-rule`.
    rule: String,
    /// Where it counts, as in `x-limit-scope`: `key`, `user`, `team`, `tenant`, `model`, `pool` or `global`.
    scope: &'static str,
    /// What it counts: `requests`, `tokens`, `input_tokens`, `output_tokens`, `concurrency`, or `spend` in nano-dollars.
    dimension: &'static str,
    /// `enforce`: it refuses; `shadow`: it only counts.
    mode: &'static str,
    /// How much it allows; null: not known.
    limit: Option<u64>,
    /// What was left of it; null: not known.
    remaining: Option<u64>,
    /// What the request needed at least; null: not known.
    needed: Option<u64>,
    /// Time until that would have been there; null: never, or not known.
    wait_ms: Option<u64>,
    /// True: the store that replicas share was away, and `remaining` is what this replica alone might have given.
    without_store: bool,
}

impl From<&Figure> for FigureView {
    fn from(figure: &Figure) -> Self {
        Self {
            rule: figure.rule.to_string(),
            scope: figure.scope,
            dimension: figure.dimension.name(),
            mode: mode(figure.mode),
            limit: Some(figure.limit),
            remaining: Some(figure.remaining),
            needed: Some(figure.needed),
            wait_ms: figure.wait.map(|wait| wait.0.div_ceil(1_000)),
            without_store: figure.without_store,
        }
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Shadow => "shadow",
    }
}

/// `GET /limits/{request_id}`. Another tenant's is not there, in the same words as one that nobody knows.
pub fn get(call: &Call) -> Result<Answer, Problem> {
    let unknown = || {
        Problem::Unknown(format!(
            "This replica does not know why. It remembers its own last {MAX_DENIALS} refusals by limits: ask the one \
             that refused the request."
        ))
    };
    let id = uuid::Uuid::parse_str(call.part("request_id")).map_err(|_| unknown())?;
    let found = call.runtime.services.denials.lock().find(RequestId(id)).ok_or_else(unknown)?;
    call.within(found.tenant.as_str(), "refusal").map_err(|_| unknown())?;
    Answer::of(200, &view(&found))
}

fn view(denied: &Denied) -> DenialView {
    let denial = &denied.denial;
    let text = |name: &dyn ToString| name.to_string();
    DenialView {
        request_id: denied.request_id.to_string(),
        refused_at: written(denied.at),
        tenant_id: denied.tenant.to_string(),
        key_id: denied.key.as_ref().map(|key| text(key)),
        model: denied.model.clone(),
        route_id: denied.route.as_ref().map(|route| text(route)),
        retry_after_ms: denial.retry_after.map(|wait| wait.0.div_ceil(1_000)),
        rule: named(denied),
        figures: denial.figures.iter().map(FigureView::from).collect(),
    }
}

/// The figure of the rule that said no. One that no figure tells is named all the same.
fn named(denied: &Denied) -> FigureView {
    let denial = &denied.denial;
    let is = |figure: &&Figure| {
        figure.rule == denial.rule && figure.scope == denial.scope && figure.dimension == denial.dimension
    };
    let found = denial.figures.iter().find(is).map(FigureView::from);
    found.unwrap_or_else(|| FigureView {
        rule: denial.rule.to_string(),
        scope: denial.scope,
        dimension: Dimension::name(denial.dimension),
        mode: mode(Mode::Enforce),
        limit: None,
        remaining: None,
        needed: None,
        wait_ms: denial.retry_after.map(|wait| wait.0.div_ceil(1_000)),
        without_store: false,
    })
}
