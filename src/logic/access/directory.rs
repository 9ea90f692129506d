//! Who there is: tenants with their teams and users, and the plans that any of them may have. One immutable value,
//! swapped whole; made of the configuration and the store, where the configuration wins.

use crate::domain::ids::{KeyId, PlanId, TeamId, TenantId, UserId};
use crate::logic::quota::plan::{LimitRule, Plan};
use globset::GlobSet;
use jiff::tz::TimeZone;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a tenant or plan is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Origin {
    /// In the configuration; it wins over a namesake in the store, which then cannot be changed through the API.
    #[default]
    Config,
    /// In the store.
    Store,
}

impl Origin {
    /// The word in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Store => "store",
        }
    }
}

/// `tenants.NAME`, or a tenant of the store.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Its plan: it counts all its callers together. `None`: no limits.
    pub plan: Option<PlanId>,
    /// Models it may use; `None`: all.
    pub models: Option<GlobSet>,
    /// The same as they were written.
    pub model_patterns: Vec<String>,
    /// Switched off: its callers are refused like unknown ones.
    pub disabled: bool,
    /// Its teams.
    pub teams: BTreeMap<TeamId, Member>,
    /// Its users.
    pub users: BTreeMap<UserId, Member>,
    /// Where its days and months begin.
    pub zone: TimeZone,
    /// Its own budgets, beside those of its plan: they count all its callers together.
    pub budgets: Vec<Arc<LimitRule>>,
    /// Budgets of single keys.
    pub key_budgets: FxHashMap<KeyId, Vec<Arc<LimitRule>>>,
    /// Where it is written down.
    pub origin: Origin,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            plan: None,
            models: None,
            model_patterns: Vec::new(),
            disabled: false,
            teams: BTreeMap::new(),
            users: BTreeMap::new(),
            zone: TimeZone::UTC,
            budgets: Vec::new(),
            key_budgets: FxHashMap::default(),
            origin: Origin::default(),
        }
    }
}

/// A team or a user of a tenant.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Member {
    /// Its plan: it counts the team's or user's callers together.
    pub plan: Option<PlanId>,
    /// Model patterns as on keys; `None`: all that the tenant may use.
    pub models: Option<Arc<[String]>>,
    /// Its own budgets, beside those of its plan.
    pub budgets: Vec<Arc<LimitRule>>,
    /// Where it is written down.
    pub origin: Origin,
}

/// Everyone.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// Tenants by name; `default` is always there.
    pub tenants: FxHashMap<TenantId, Arc<Tenant>>,
    /// Plans by name.
    pub plans: FxHashMap<PlanId, Arc<Plan>>,
}
