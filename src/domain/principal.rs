//! Who calls, and for whom.

use super::ids::{KeyId, PlanId, RoleId, TeamId, TenantId, UserId};
use super::units::WallMicros;
use ipnet::IpNet;
use std::sync::Arc;

/// How a caller proved who they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthMethod {
    /// An API key of Weir's own.
    ApiKey,
    /// A signed token of an identity provider.
    Jwt,
    /// An opaque OAuth 2 token that its provider vouched for (RFC 7662).
    Introspection,
    /// A client certificate.
    ClientCert,
    /// An external authorisation service.
    ExtAuthz,
    /// The route asks for nobody.
    Anonymous,
}

impl AuthMethod {
    /// The name in the usage record, and of the authenticator in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Jwt => "jwt",
            Self::Introspection => "introspection",
            Self::ClientCert => "client_cert",
            Self::ExtAuthz => "ext_authz",
            Self::Anonymous => "none",
        }
    }
}

/// What many credentials share: whom they speak for and what they are restricted to. Never changed once made.
#[derive(Clone, PartialEq, Debug)]
pub struct Profile {
    /// Who pays.
    pub tenant: TenantId,
    /// The team, if there is one.
    pub team: Option<TeamId>,
    /// The user, if there is one.
    pub user: Option<UserId>,
    /// Roles by name. `None`: the credential says nothing of roles, so the role `member` holds. An empty list allows
    /// nothing.
    pub roles: Option<Arc<[RoleId]>>,
    /// Model patterns that the credential is restricted to; `None`: all that roles, team and tenant allow.
    pub models: Option<Arc<[String]>>,
    /// Path patterns (`*` is any run of letters) that the credential is restricted to; `None`: all.
    pub endpoints: Option<Arc<[String]>>,
    /// Client networks that the credential may be used from; `None`: all.
    pub addresses: Option<Arc<[IpNet]>>,
    /// A plan on the credential itself: it counts that key alone.
    pub plan: Option<PlanId>,
    /// What the identity provider said, for rules; `None` for keys.
    pub claims: Option<Arc<serde_json::Value>>,
}

impl Profile {
    /// A profile of a tenant, with nothing else known and no restriction.
    #[must_use]
    pub fn of(tenant: TenantId) -> Self {
        Self {
            tenant,
            team: None,
            user: None,
            roles: None,
            models: None,
            endpoints: None,
            addresses: None,
            plan: None,
            claims: None,
        }
    }
}

/// The caller, as far as it is known. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Principal {
    /// For whom, and what for.
    pub profile: Arc<Profile>,
    /// The key; null where the credential is none of ours.
    pub key: Option<KeyId>,
    /// Generation of the secret that was used; 0 where there is no key.
    pub secret_gen: u32,
    /// How they proved it.
    pub method: AuthMethod,
    /// The secret has been replaced and ends then (`x-key-deprecated-until`).
    pub deprecated_until: Option<WallMicros>,
    /// The credential ends then; `None`: never, or it is not known.
    pub expires_at: Option<WallMicros>,
}

impl Principal {
    /// A caller that is known by something else than a key.
    #[must_use]
    pub fn of(profile: Arc<Profile>, method: AuthMethod) -> Self {
        Self { profile, key: None, secret_gen: 0, method, deprecated_until: None, expires_at: None }
    }

    /// The caller of a route with `auth: none`: tenant `default`.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::of(Arc::new(Profile::of(TenantId::new("default"))), AuthMethod::Anonymous)
    }
}
