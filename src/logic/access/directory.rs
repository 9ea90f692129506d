//! Who there is: tenants with their teams and users, and the plans that any of them may have. One immutable value,
//! swapped whole; made of the configuration and the store, where the configuration wins.

use crate::domain::ids::{PlanId, TeamId, TenantId, UserId};
use crate::domain::limit::Plan;
use globset::GlobSet;
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
#[derive(Clone, Debug, Default)]
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
    /// Where it is written down.
    pub origin: Origin,
}

/// A team or a user of a tenant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Member {
    /// Its plan: it counts the team's or user's callers together.
    pub plan: Option<PlanId>,
    /// Model patterns as on keys; `None`: all that the tenant may use.
    pub models: Option<Arc<[String]>>,
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
