//! Limits: what a plan allows, and the quota figures that callers are told.

use super::ids::{KeyId, TeamId, TenantId, UserId};
use super::units::{Micros, Tokens};
use std::sync::Arc;

/// What a limit counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dimension {
    /// Requests per window.
    Requests,
    /// Input plus output tokens per window.
    Tokens,
    /// Requests open at once.
    Concurrency,
}

/// Over which span a limit counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Window {
    /// Token bucket, refilled evenly.
    Second,
    /// Token bucket, refilled evenly.
    Minute,
    /// Token bucket, refilled evenly.
    Hour,
    /// Counter that restarts with the calendar day (UTC).
    Day,
    /// Counter that restarts with the calendar month (UTC).
    Month,
}

/// Whether a limit refuses or only says that it would have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mode {
    /// Refuses.
    #[default]
    Enforce,
    /// Counts, and never refuses.
    Shadow,
}

/// One limit of a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitRule {
    /// Shown as `x-limit-rule`: `PLAN.requests`, `PLAN.tokens`, `PLAN.concurrency` (`.2` … for further ones of a list).
    pub name: Arc<str>,
    /// What it counts.
    pub dimension: Dimension,
    /// How much per window; for concurrency how many at once.
    pub limit: u64,
    /// The window; meaningless for concurrency.
    pub window: Window,
    /// Bucket size; `limit` unless the configuration says otherwise.
    pub burst: u64,
    /// Reserve the whole `max_tokens` instead of an estimate.
    pub strict: bool,
    /// Refuse or only count.
    pub mode: Mode,
}

/// A plan: limits that hold together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Every limit.
    pub rules: Vec<LimitRule>,
    /// The largest `input + output` that one request may ask for.
    pub max_tokens_per_request: Option<Tokens>,
}

/// At which level a limit counts: `x-limit-scope`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Scope {
    /// One key alone.
    Key(KeyId),
    /// All keys of a user together, within its tenant.
    User(TenantId, UserId),
    /// All keys of a team together, within its tenant.
    Team(TenantId, TeamId),
    /// All keys of a tenant together.
    Tenant(TenantId),
}

impl Scope {
    /// The word in `x-limit-scope`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::User(..) => "user",
            Self::Team(..) => "team",
            Self::Tenant(_) => "tenant",
        }
    }
}

/// What one request wants from the quota: every rule of every scope is decided together.
#[derive(Clone, Debug)]
pub struct QuotaAsk {
    /// The tenant, which also names the shard that holds all of the request's scopes.
    pub tenant: TenantId,
    /// The plans in force with the scope at which each counts; at most four (tenant, team, user, key).
    pub plans: Vec<(Scope, Arc<Plan>)>,
    /// Names the (tenant, model) output estimate.
    pub model: Arc<str>,
    /// Prompt bytes divided by four, unless a tokenizer says better; `None` for plain HTTP (no tokens are reserved).
    pub input_estimate: Option<Tokens>,
    /// The caller's cap on output times the number of answers.
    pub max_output: Option<Tokens>,
}

/// One line of the rate-limit headers: the most constrained rule of a dimension.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Requests or tokens.
    pub dimension: Dimension,
    /// The rule's limit.
    pub limit: u64,
    /// What is left after this request's reservation.
    pub remaining: u64,
    /// Time until the dimension is full again.
    pub reset: Micros,
}

/// A quota refusal: which rule said no, and when this very request would fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denial {
    /// Which dimension.
    pub dimension: Dimension,
    /// Rule name.
    pub rule: Arc<str>,
    /// `key`, `user`, `team` or `tenant`.
    pub scope: &'static str,
    /// Time until the request would be admitted; `None`: it can never fit.
    pub retry_after: Option<Micros>,
    /// The headers as they stand; a refusal burns nothing.
    pub standings: Vec<Standing>,
}

/// What a request really used, for the settlement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QuotaUse {
    /// Input plus output; `None`: unknown, the hold is committed as it stands.
    pub tokens: Option<Tokens>,
    /// Output alone, for the estimate of the next ones.
    pub output: Option<Tokens>,
    /// Nothing was sent upstream, or nothing came back: give everything back but the request itself.
    pub refund: bool,
}
