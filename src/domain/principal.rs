//! Who calls, and for whom.

use super::ids::{KeyId, PlanId, TeamId, TenantId, UserId};
use std::sync::Arc;

/// How a caller proved who they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthMethod {
    /// An API key of Weir's own.
    ApiKey,
    /// The route asks for nobody.
    Anonymous,
}

impl AuthMethod {
    /// The name in the usage record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Anonymous => "none",
        }
    }
}

/// The caller, as far as it is known. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Who pays.
    pub tenant: TenantId,
    /// The team, if the key has one.
    pub team: Option<TeamId>,
    /// The user, if the key has one.
    pub user: Option<UserId>,
    /// The key; null on open routes.
    pub key: Option<KeyId>,
    /// Generation of the secret that was used; 0 on open routes.
    pub secret_gen: u32,
    /// How they proved it.
    pub method: AuthMethod,
    /// Model patterns (globs) that the key is restricted to; `None`: all that the tenant may use.
    pub models: Option<Arc<[String]>>,
    /// A plan on the key: it counts that key alone.
    pub plan: Option<PlanId>,
}

impl Principal {
    /// The caller of a route with `auth: none`: tenant `default`.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            tenant: TenantId::new("default"),
            team: None,
            user: None,
            key: None,
            secret_gen: 0,
            method: AuthMethod::Anonymous,
            models: None,
            plan: None,
        }
    }
}
