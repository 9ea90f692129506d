//! Limits in words: what is counted, over what, for whom, and the quota figures that callers are told. How limits are
//! written down and which apply is `logic/quota/plan`'s.

use super::ids::{KeyId, PoolId, TeamId, TenantId, UserId};
use super::units::{Micros, NanoUsd, Tokens};
use std::sync::Arc;

/// What a limit counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Dimension {
    /// Requests per window.
    Requests,
    /// Input plus output tokens per window.
    Tokens,
    /// Input tokens per window.
    InputTokens,
    /// Output tokens per window.
    OutputTokens,
    /// Requests open at once.
    Concurrency,
    /// Billable money per window, in nano-dollars.
    Spend,
}

impl Dimension {
    /// Every dimension, in the order of the configuration's keys.
    pub const ALL: [Self; 6] =
        [Self::Requests, Self::Tokens, Self::InputTokens, Self::OutputTokens, Self::Concurrency, Self::Spend];

    /// The key under `limits:`; `spend` for money.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
            Self::Concurrency => "concurrency",
            Self::Spend => "spend",
        }
    }

    /// True for the three that count tokens.
    #[must_use]
    pub fn is_tokens(self) -> bool {
        matches!(self, Self::Tokens | Self::InputTokens | Self::OutputTokens)
    }

    /// True where an amount is held while the request runs and the true one is committed when it ends.
    #[must_use]
    pub fn is_settled(self) -> bool {
        self.is_tokens() || self == Self::Spend
    }
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
    /// Counter that restarts with the calendar day of the tenant's time zone.
    Day,
    /// Counter that restarts with the calendar month of the tenant's time zone.
    Month,
    /// Counter that never restarts: prepaid credit.
    Ever,
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

/// What a limit does while the store that replicas share is not there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum OnStoreError {
    /// Each replica admits its share, `limit / replicas x 1.2`.
    #[default]
    Local,
    /// Refuses nothing.
    Open,
    /// Refuses with 503.
    Closed,
}

/// Whose requests may use what a shared limit keeps in reserve.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Priority {
    /// Leaves twice the reserve to others.
    Low,
    /// Leaves the reserve to others.
    #[default]
    Normal,
    /// May use all.
    High,
}

/// At which level a limit counts.
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
    /// All that goes to one pool, whoever sent it.
    Pool(PoolId),
    /// All requests of the installation.
    Global,
}

impl Scope {
    /// The word in `x-limit-scope`; a rule that names models says `model` instead.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::User(..) => "user",
            Self::Team(..) => "team",
            Self::Tenant(_) => "tenant",
            Self::Pool(_) => "pool",
            Self::Global => "global",
        }
    }

    /// True where tenants share the count.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Pool(_) | Self::Global)
    }
}

/// One line of the rate-limit headers: the most constrained rule of a dimension.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Never concurrency or spend.
    pub dimension: Dimension,
    /// The rule's limit.
    pub limit: u64,
    /// What is left after this request's reservation.
    pub remaining: u64,
    /// Time until the dimension is full again.
    pub reset: Micros,
}

/// How one rule stood when a request was refused: the answer to "why was this 429".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Figure {
    /// Rule name.
    pub rule: Arc<str>,
    /// Where it counts: `tenant`, `key`, …, `model`.
    pub scope: &'static str,
    /// What it counts.
    pub dimension: Dimension,
    /// Refuses, or only watches.
    pub mode: Mode,
    /// Its limit.
    pub limit: u64,
    /// What was left.
    pub remaining: u64,
    /// What the request needed at least.
    pub needed: u64,
    /// Time until that would fit; `None`: never.
    pub wait: Option<Micros>,
    /// The store that replicas share was not there: what was left is what this replica alone might have given.
    pub without_store: bool,
}

/// A quota refusal: which rule said no, and when this very request would fit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denial {
    /// Which dimension.
    pub dimension: Dimension,
    /// Rule name.
    pub rule: Arc<str>,
    /// `key`, `user`, `team`, `tenant`, `model`, `pool` or `global`.
    pub scope: &'static str,
    /// Time until the request would be admitted; `None`: it can never fit.
    pub retry_after: Option<Micros>,
    /// The headers as they stand; a refusal burns nothing.
    pub standings: Vec<Standing>,
    /// Every rule of the request, in the order in which they were weighed.
    pub figures: Vec<Figure>,
}

/// What a request has used: so far, or in all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QuotaUse {
    /// Input tokens.
    pub input: Tokens,
    /// Output tokens.
    pub output: Tokens,
    /// What it costs whom it is billed to; 0 where no price is known.
    pub cost: NanoUsd,
    /// The output is the whole of an answer: the estimate of the next ones learns from it.
    pub complete: bool,
}

impl QuotaUse {
    /// The amount that a rule of this dimension counts when the request is settled; 0 for requests and concurrency,
    /// which are counted when it is admitted.
    #[must_use]
    pub fn amount(&self, dimension: Dimension) -> u64 {
        match dimension {
            Dimension::Requests | Dimension::Concurrency => 0,
            Dimension::Tokens => self.input.0.saturating_add(self.output.0),
            Dimension::InputTokens => self.input.0,
            Dimension::OutputTokens => self.output.0,
            Dimension::Spend => u64::try_from(self.cost.0).unwrap_or(0),
        }
    }
}
