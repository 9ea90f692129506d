//! The part of a snapshot that is about who calls: authenticators, secrets, and the store of keys and tenants.

pub use crate::logic::access::claims::ClaimMapping;
pub use crate::logic::access::jwt::JwtAlgorithm;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// `auth.NAME`
#[derive(Clone, Debug)]
pub enum Authenticator {
    /// API keys of Weir's own.
    ApiKey(ApiKeyAuth),
    /// Signed tokens of one issuer.
    Jwt(Box<JwtAuth>),
    /// Opaque OAuth 2 tokens (RFC 7662).
    Introspection(Box<IntrospectionAuth>),
    /// Client certificates of TLS listeners.
    ClientCert(Box<ClientCertAuth>),
    /// An external service that is asked for each request, as nginx's `auth_request`.
    ExtAuthz(Box<ExtAuthzAuth>),
}

impl Authenticator {
    /// True where roles that reach all tenants are taken from its credentials. Keys have the roles that an
    /// administrator put on them; what others say of roles is theirs alone, so it has to be configured.
    #[must_use]
    pub fn makes_operators(&self) -> bool {
        match self {
            Self::ApiKey(_) => true,
            Self::Jwt(settings) => settings.mapping.operators,
            Self::Introspection(settings) => settings.mapping.operators,
            Self::ClientCert(settings) => settings.mapping.operators,
            Self::ExtAuthz(settings) => settings.operators,
        }
    }
}

/// `auth.NAME.api_key`
#[derive(Clone, Debug)]
pub struct ApiKeyAuth {
    /// Request headers that may carry a key, lower case.
    pub headers: Vec<String>,
    /// Second part of new keys.
    pub tag: String,
    /// Where the pepper is.
    pub pepper: PepperSource,
    /// How old a key snapshot may be while the store is down.
    pub max_stale: Duration,
}

/// `auth.NAME.jwt`
#[derive(Clone, Debug)]
pub struct JwtAuth {
    /// The one issuer, compared letter by letter with `iss`.
    pub issuer: String,
    /// Audiences of which the token must name one; never empty.
    pub audiences: Vec<String>,
    /// Where the keys come from.
    pub keys: JwtKeys,
    /// The algorithms that the issuer uses; never empty, never mixed of shared secrets and public keys.
    pub algorithms: Vec<JwtAlgorithm>,
    /// Tolerance on `exp` and `nbf`.
    pub leeway: Duration,
    /// From claims (variable `claims`) to a principal.
    pub mapping: ClaimMapping,
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug)]
pub enum JwtKeys {
    /// A key set that is fetched.
    Jwks {
        /// Its address; `None`: as ISSUER/.well-known/openid-configuration names it.
        url: Option<Url>,
        /// How often it is fetched again.
        refresh: Duration,
    },
    /// A shared secret of at least 32 bytes.
    Secret(Secret),
}

/// `auth.NAME.introspection`
#[derive(Clone, Debug)]
pub struct IntrospectionAuth {
    /// The provider's introspection endpoint.
    pub url: Url,
    /// Our name there.
    pub client_id: String,
    /// Our secret there, sent by HTTP Basic.
    pub client_secret: Secret,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How long an answer is good for, at most until the token's `exp`.
    pub ttl: Duration,
    /// Answers kept at most.
    pub entries: usize,
    /// Audiences of which the answer must name one; empty: not looked at.
    pub audiences: Vec<String>,
    /// From the answer (variable `claims`) to a principal.
    pub mapping: ClaimMapping,
}

/// `auth.NAME.client_cert`
#[derive(Clone, Debug)]
pub struct ClientCertAuth {
    /// From the certificate (variable `cert`) to a principal.
    pub mapping: ClaimMapping,
    /// SPIFFE trust domains that are accepted; empty: any identity that the listener's `client_ca` vouches for.
    pub trust_domains: Vec<String>,
}

/// `auth.NAME.ext_authz`
#[derive(Clone, Debug)]
pub struct ExtAuthzAuth {
    /// Asked with GET; 2xx: allowed, 401 and 403: refused, all else: unavailable.
    pub url: Url,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Request headers that are passed to it, lower case.
    pub send: Vec<String>,
    /// Response header that names the tenant; without it the tenant is `default`.
    pub tenant: String,
    /// Response header that names the team.
    pub team: String,
    /// Response header that names the user.
    pub user: String,
    /// Response header that names roles, with commas.
    pub roles: String,
    /// True if roles that reach all tenants are taken from it too; else they are left out.
    pub operators: bool,
}

/// `store:`
#[derive(Clone, Debug)]
pub struct Store {
    /// Where it is.
    pub target: StoreTarget,
    /// How changes are told to other replicas.
    pub push: Push,
    /// How often the store is looked at where no push came.
    pub poll: Duration,
    /// The copy that a cold start reads while a Postgres store is down.
    pub replica: PathBuf,
}

/// Which database.
#[derive(Clone, Debug)]
pub enum StoreTarget {
    /// A file of this machine.
    Sqlite(PathBuf),
    /// A server: its URL, with user and password.
    Postgres(Secret),
}

/// `store.push`
#[derive(Clone, Debug)]
pub enum Push {
    /// Nobody is told; the poll finds out.
    None,
    /// Postgres `NOTIFY`.
    Notify,
    /// Redis pub/sub at this URL.
    Redis(Secret),
}

/// Where the HMAC pepper comes from.
#[derive(Clone, Debug)]
pub enum PepperSource {
    /// A value that was read at load (from env or a configured file).
    Value(Secret),
    /// STATE_DIR/pepper, made on first use.
    StateFile(PathBuf),
}

/// A secret. `Debug` prints `***`; it is never serialised.
#[derive(Clone)]
pub struct Secret(pub Arc<zeroize::Zeroizing<Vec<u8>>>);

impl Secret {
    /// No secret at all: stands in for one that was refused while the rest of a file is checked.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::new(zeroize::Zeroizing::new(Vec::new())))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
