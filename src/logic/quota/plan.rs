//! Plans: limits that hold together, and which of them a request must fit. Decides nothing about amounts.

use crate::domain::ids::TenantId;
use crate::domain::limit::{Dimension, Mode, OnStoreError, Priority, Scope, Window};
use crate::domain::money::TokenPrices;
use crate::domain::units::Tokens;
use crate::logic::access::expression::Expression;
use globset::GlobMatcher;
use jiff::tz::TimeZone;
use std::sync::Arc;

/// One limit.
#[derive(Clone, PartialEq, Debug)]
pub struct LimitRule {
    /// Shown as `x-limit-rule`: `PLAN.requests`, `PLAN.tokens.2`, `PLAN.budget`, `PLAN.models.PATTERN.requests`,
    /// `limits.global.requests`, `pools.NAME.tokens`, or `budget.ID` for one of the store.
    pub name: Arc<str>,
    /// What it counts.
    pub dimension: Dimension,
    /// How much per window; for concurrency how many at once; for spend nano-dollars.
    pub limit: u64,
    /// The window; meaningless for concurrency.
    pub window: Window,
    /// Where prepaid credit (`Window::Ever`) begins to count, in milliseconds since 1970; 0: all that was ever spent. A
    /// later beginning is another count. Meaningless for other windows.
    pub since: i64,
    /// Bucket size; `limit` unless the configuration says otherwise, and where there is no bucket.
    pub burst: u64,
    /// Reserve the whole `max_tokens` instead of an estimate, and never clamp.
    pub strict: bool,
    /// Refuse or only count.
    pub mode: Mode,
    /// What it does without the shared store.
    pub on_store_error: OnStoreError,
    /// Units that only plans of high priority may use.
    pub reserve: u64,
    /// The models that it counts; `None`: all.
    pub model: Option<ModelPattern>,
    /// The requests that it counts; `None`: all. One that cannot be evaluated counts.
    pub when: Option<Expression>,
    /// Shares of the limit, in percent, at which somebody is told.
    pub alert_at: Arc<[u8]>,
    /// Running streams are ended when it is used up.
    pub stop_streams: bool,
}

impl LimitRule {
    /// An enforced rule with no extras.
    #[must_use]
    pub fn new(name: &str, dimension: Dimension, limit: u64, window: Window) -> Self {
        Self {
            name: Arc::from(name),
            dimension,
            limit,
            window,
            since: 0,
            burst: limit,
            strict: false,
            mode: Mode::Enforce,
            on_store_error: OnStoreError::Local,
            reserve: 0,
            model: None,
            when: None,
            alert_at: Arc::from([]),
            stop_streams: false,
        }
    }

    /// The word in `x-limit-scope` for this rule at a scope.
    #[must_use]
    pub fn scope_name(&self, scope: &Scope) -> &'static str {
        if self.model.is_some() { "model" } else { scope.name() }
    }
}

/// A glob over model names, as written in the configuration.
#[derive(Clone)]
pub struct ModelPattern(pub GlobMatcher);

impl ModelPattern {
    /// True for a model that it names.
    #[must_use]
    pub fn matches(&self, model: &str) -> bool {
        self.0.is_match(model)
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.glob().glob()
    }
}

impl std::fmt::Debug for ModelPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

impl PartialEq for ModelPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

/// A plan: limits that hold together.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// Every limit, budgets included.
    pub rules: Vec<Arc<LimitRule>>,
    /// The largest `input + output` that one request may ask for.
    pub max_tokens_per_request: Option<Tokens>,
    /// Whether its requests may use what shared limits keep in reserve.
    pub priority: Priority,
}

/// One rule of a request, and where it counts.
#[derive(Clone, Debug)]
pub struct AskLine {
    /// Where.
    pub scope: Scope,
    /// What.
    pub rule: Arc<LimitRule>,
}

/// What one request wants from the quota: every rule of every scope is decided together.
#[derive(Clone, Debug)]
pub struct QuotaAsk {
    /// The tenant.
    pub tenant: TenantId,
    /// Where the tenant's days and months begin.
    pub zone: TimeZone,
    /// The rules that count this request (model and condition hold), widest scope first.
    pub lines: Vec<AskLine>,
    /// The smallest `max_tokens_per_request` of the caller's plans.
    pub max_tokens_per_request: Option<Tokens>,
    /// The highest priority of the caller's plans.
    pub priority: Priority,
    /// Names the (tenant, model) output estimate.
    pub model: Arc<str>,
    /// Prompt bytes divided by four, unless a tokenizer says better; `None` for plain HTTP (only requests and
    /// concurrency count).
    pub input_estimate: Option<Tokens>,
    /// The caller's cap on output times the number of answers.
    pub max_output: Option<Tokens>,
    /// What the model costs; `None`: no price is known, money rules count 0.
    pub prices: Option<TokenPrices>,
}
