//! Our no. Every answer that Weir itself gives in place of the upstream's, with its stable code (semantics.md §1).

use super::limit::Denial;
use super::units::Micros;

/// Why a request gets an error from Weir. Becomes HTTP in `edge/respond.rs` and nowhere else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No, malformed, unknown or revoked key: one answer for all.
    InvalidApiKey,
    /// The key's time is over.
    ApiKeyExpired,
    /// The key is switched off.
    ApiKeyDisabled,
    /// A token of an identity provider that does not hold: one answer for every reason.
    InvalidToken,
    /// A role, a scope, a rule or a restriction of the key forbids it.
    InsufficientPermissions {
        /// Which one, for the log; never told to the caller.
        rule: std::sync::Arc<str>,
    },
    /// Two different credentials in one request.
    AmbiguousCredentials,
    /// Unknown model, or one that the caller may not use.
    ModelNotFound {
        /// As the caller wrote it, at most 128 characters.
        model: String,
    },
    /// The body is not JSON, or not an object.
    InvalidJson {
        /// What is wrong, without any of the body's content.
        detail: String,
    },
    /// A member that is needed is absent.
    MissingParameter {
        /// Its name.
        param: &'static str,
    },
    /// A member has the wrong type.
    InvalidParameter {
        /// Its name.
        param: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A deciding member is there twice.
    DuplicateParameter {
        /// Its name.
        param: &'static str,
    },
    /// The request head breaks HTTP.
    MalformedRequest {
        /// 400, 405, 431, 501 or 505.
        status: u16,
        /// What is wrong.
        detail: &'static str,
    },
    /// No route matches path, host and method.
    RouteNotFound,
    /// A body of unknown length where the length is needed.
    LengthRequired,
    /// The body is over the listener's limit.
    RequestTooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The body did not arrive in time.
    RequestTimeout,
    /// A limit said no.
    Limited(Denial),
    /// The request can never fit its limits.
    TokensExceedLimit {
        /// What it asks for.
        asked: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A queue or a table is full.
    Overloaded {
        /// When to try again.
        retry_after: Micros,
    },
    /// Every backend of the pool is out.
    NoHealthyUpstream {
        /// When to try again.
        retry_after: Micros,
    },
    /// Connecting or answering failed after all retries.
    UpstreamError,
    /// The upstream refused our own credential.
    UpstreamAuthError,
    /// No first token, or no end, in time.
    UpstreamTimeout,
    /// A store or the spool that we need is not there.
    DependencyUnavailable {
        /// Which, for the log; never told to the caller.
        what: &'static str,
        /// When to try again.
        retry_after: Micros,
    },
    /// The proxy is going down and its time is up.
    ShuttingDown,
    /// The client went away; nobody hears the answer.
    ClientClosed,
    /// Our own fault.
    Internal,
}

impl Refusal {
    /// HTTP status in the OpenAI dialect.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::InvalidApiKey | Self::InvalidToken | Self::ApiKeyExpired | Self::ApiKeyDisabled => 401,
            Self::InsufficientPermissions { .. } => 403,
            Self::AmbiguousCredentials
            | Self::InvalidJson { .. }
            | Self::MissingParameter { .. }
            | Self::InvalidParameter { .. }
            | Self::DuplicateParameter { .. }
            | Self::TokensExceedLimit { .. } => 400,
            Self::ModelNotFound { .. } | Self::RouteNotFound => 404,
            Self::MalformedRequest { status, .. } => *status,
            Self::LengthRequired => 411,
            Self::RequestTooLarge { .. } => 413,
            Self::RequestTimeout => 408,
            Self::Limited(_) => 429,
            Self::Overloaded { .. }
            | Self::NoHealthyUpstream { .. }
            | Self::DependencyUnavailable { .. }
            | Self::ShuttingDown => 503,
            Self::UpstreamError | Self::UpstreamAuthError => 502,
            Self::UpstreamTimeout => 504,
            Self::ClientClosed => 499,
            Self::Internal => 500,
        }
    }

    /// The stable machine-readable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        use super::limit::Dimension;
        match self {
            Self::InvalidApiKey => "invalid_api_key",
            Self::ApiKeyExpired => "api_key_expired",
            Self::ApiKeyDisabled => "api_key_disabled",
            Self::InvalidToken => "invalid_token",
            Self::InsufficientPermissions { .. } => "insufficient_permissions",
            Self::AmbiguousCredentials => "ambiguous_credentials",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::InvalidJson { .. } => "invalid_json",
            Self::MissingParameter { .. } => "missing_required_parameter",
            Self::InvalidParameter { .. } => "invalid_parameter",
            Self::DuplicateParameter { .. } => "duplicate_parameter",
            Self::MalformedRequest { .. } => "malformed_request",
            Self::RouteNotFound => "route_not_found",
            Self::LengthRequired => "length_required",
            Self::RequestTooLarge { .. } => "request_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::Limited(denial) if denial.dimension == Dimension::Concurrency => "concurrency_limit_exceeded",
            Self::Limited(denial) if denial.dimension == Dimension::Spend => "insufficient_quota",
            Self::Limited(_) => "rate_limit_exceeded",
            Self::TokensExceedLimit { .. } => "tokens_exceed_limit",
            Self::Overloaded { .. } => "overloaded",
            Self::NoHealthyUpstream { .. } => "no_healthy_upstream",
            Self::UpstreamError => "upstream_error",
            Self::UpstreamAuthError => "upstream_auth_error",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::DependencyUnavailable { .. } => "dependency_unavailable",
            Self::ShuttingDown => "overloaded",
            Self::ClientClosed => "client_closed_request",
            Self::Internal => "internal_error",
        }
    }

    /// The member of the request that is at fault, for `error.param`.
    #[must_use]
    pub fn param(&self) -> Option<&'static str> {
        match self {
            Self::MissingParameter { param }
            | Self::InvalidParameter { param, .. }
            | Self::DuplicateParameter { param } => Some(param),
            Self::ModelNotFound { .. } => Some("model"),
            _ => None,
        }
    }

    /// How long the caller should wait, where waiting helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<Micros> {
        match self {
            Self::Limited(denial) => denial.retry_after,
            Self::Overloaded { retry_after }
            | Self::NoHealthyUpstream { retry_after }
            | Self::DependencyUnavailable { retry_after, .. } => Some(*retry_after),
            Self::ShuttingDown => Some(Micros(1_000_000)),
            _ => None,
        }
    }

    /// True where the connection cannot be used again: its framing is in doubt or its body was not read.
    #[must_use]
    pub fn closes(&self) -> bool {
        matches!(
            self,
            Self::MalformedRequest { .. }
                | Self::LengthRequired
                | Self::RequestTooLarge { .. }
                | Self::RequestTimeout
                | Self::ClientClosed
                | Self::ShuttingDown
        )
    }
}
