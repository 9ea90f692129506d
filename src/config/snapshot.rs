//! The compiled configuration: what a request pins for its whole life. Immutable; swapped as one `Arc`.
//!
//! Everything here is checked: names resolve, patterns compile, units are parsed. Building one is the work of
//! the rest of `config/`.

mod access;

pub use crate::logic::access::directory::Tenant;
pub use access::{
    ApiKeyAuth, Authenticator, ClaimMapping, ClientCertAuth, ExtAuthzAuth, IntrospectionAuth, JwtAlgorithm, JwtAuth,
    JwtKeys, PepperSource, Push, Secret, Store, StoreTarget,
};

use crate::domain::ids::{BackendId, PlanId, PoolId, RouteId, TenantId};
use crate::domain::limit::OnStoreError;
use crate::logic::access::rule::Rule;
use crate::logic::access::scopes::Roles;
use crate::logic::money::price_book::PriceBook;
use crate::logic::quota::plan::Plan;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// One configuration, compiled.
#[derive(Debug)]
pub struct Snapshot {
    /// First 12 hex letters of the SHA-256 of the effective configuration text.
    pub version: Arc<str>,
    /// The file it came from.
    pub file: PathBuf,
    /// Process-wide settings.
    pub server: Server,
    /// Sockets, in name order.
    pub listeners: Vec<Arc<Listener>>,
    /// Pools, in name order; `RouteTarget::pool` indexes this.
    pub pools: Vec<Arc<Pool>>,
    /// Routes, in file order: the first match wins.
    pub routes: Vec<Arc<Route>>,
    /// Authenticators by name. Empty: every route is open.
    pub auth: BTreeMap<String, Authenticator>,
    /// Plans by name.
    pub plans: BTreeMap<PlanId, Arc<Plan>>,
    /// Tenants by name; `default` is always there.
    pub tenants: BTreeMap<TenantId, Tenant>,
    /// Where keys, and tenants that are not configured, live.
    pub store: Store,
    /// Roles by name, the built-in ones included.
    pub roles: Roles,
    /// Rules that every authenticated request must pass, in file order.
    pub authorization: Vec<Rule>,
    /// Limits' own settings.
    pub limits: Limits,
    /// Usage settings.
    pub usage: Usage,
    /// Telemetry settings.
    pub telemetry: Telemetry,
    /// What models cost.
    pub prices: Arc<PriceBook>,
}

/// `server:`
#[derive(Clone, Debug)]
pub struct Server {
    /// Worker threads of the proxy.
    pub workers: usize,
    /// Slots, spool, databases, pepper.
    pub state_dir: PathBuf,
    /// Open client connections at most.
    pub max_connections: usize,
    /// How long TERM waits for running streams.
    pub drain_timeout: Duration,
    /// How long TERM goes on accepting, so that balancers see `/ready` fail first.
    pub drain_delay: Duration,
    /// The admin listener.
    pub admin: SocketAddr,
    /// Authenticators that the admin API accepts; empty: those that take API keys.
    pub admin_auth: Vec<String>,
}

/// `listeners.NAME`
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Its sockets.
    pub bind: Vec<SocketAddr>,
    /// Whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Head size limit in bytes.
    pub header_bytes: usize,
    /// Body size limit in bytes.
    pub body_bytes: u64,
    /// From the first byte of a head to its last.
    pub header_timeout: Duration,
    /// Between two requests of one connection.
    pub idle_timeout: Duration,
    /// TLS; `None`: plain text.
    pub tls: Option<ListenerTls>,
}

/// `listeners.NAME.tls`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerTls {
    /// PEM files: certificate chain and private key, each.
    pub certificates: Vec<(PathBuf, PathBuf)>,
    /// Refuse TLS 1.2.
    pub only_tls13: bool,
    /// PEM file of the authorities whose client certificates are accepted; `None`: none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Refuse connections without a client certificate (else other credentials may do).
    pub client_required: bool,
}

/// Which engine or provider a pool's backends are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// vLLM
    Vllm,
    /// SGLang
    Sglang,
    /// TensorRT-LLM
    Trtllm,
    /// NVIDIA Dynamo
    Dynamo,
    /// OpenAI or a compatible provider
    OpenAi,
    /// Anthropic
    Anthropic,
}

impl Engine {
    /// The name in the configuration and in `provider` of the usage record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Trtllm => "trtllm",
            Self::Dynamo => "dynamo",
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }

    /// True for engines that run on the operator's own GPUs, false for providers.
    #[must_use]
    pub fn self_hosted(self) -> bool {
        !matches!(self, Self::OpenAi | Self::Anthropic)
    }

    /// True where `stream_options.continuous_usage_stats` is understood.
    #[must_use]
    pub fn continuous_usage(self) -> bool {
        matches!(self, Self::Vllm | Self::Sglang | Self::Dynamo)
    }

    /// True where a top-level `cache_salt` is understood.
    #[must_use]
    pub fn cache_salt(self) -> bool {
        matches!(self, Self::Vllm | Self::Sglang)
    }

    /// True where `/v1/messages` is spoken.
    #[must_use]
    pub fn speaks_anthropic(self) -> bool {
        matches!(self, Self::Vllm | Self::Sglang | Self::Anthropic)
    }
}

/// `pools.NAME`
#[derive(Clone, Debug)]
pub struct Pool {
    /// What all requests to this pool together may use.
    pub limits: Arc<Plan>,
    /// Its name.
    pub id: PoolId,
    /// What its backends are.
    pub engine: Engine,
    /// How a backend is chosen.
    pub policy: Policy,
    /// The replicas, in file order.
    pub backends: Vec<Backend>,
    /// Models that the pool says it serves; empty: ask the backends.
    pub models: Vec<String>,
    /// Health probe; `None`: off.
    pub health: Option<Health>,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Retries before the commit point.
    pub retry: Retry,
    /// Idle upstream connections.
    pub keepalive: Keepalive,
    /// Most requests in flight in the pool (0: no bound of its own).
    pub max_inflight: usize,
    /// Set `cache_salt` per tenant, and keep tenants apart in the prefix index.
    pub isolate_tenants: bool,
    /// Our credential upstream, set last.
    pub credential: Option<Credential>,
    /// Tell the backends who calls.
    pub identity: Option<ForwardIdentity>,
    /// What to do upstream when the client leaves: true = cancel.
    pub cancel_on_disconnect: bool,
}

/// `pools.NAME.credentials`
#[derive(Clone, Debug)]
pub enum Credential {
    /// `Authorization: Bearer …`
    Bearer(Secret),
    /// A header of another name, lower case.
    Header(String, Secret),
}

/// `pools.NAME.identity`: `x-weir-tenant`, `x-weir-team`, `x-weir-user` and `x-weir-key` to trusted backends.
#[derive(Clone, Debug)]
pub struct ForwardIdentity {
    /// The key of `x-weir-signature` (HMAC-SHA-256); `None`: plain.
    pub sign: Option<Secret>,
}

/// One replica.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its name everywhere.
    pub id: BackendId,
    /// `http` or `https`.
    pub tls: bool,
    /// Host of the URL, for `Host` and SNI.
    pub host: String,
    /// Port of the URL.
    pub port: u16,
    /// Path prefix of the URL, without a trailing slash.
    pub prefix: String,
    /// Relative share; 1 by default.
    pub weight: u32,
    /// Resolved at load; only addresses reach Pingora's peers.
    pub addr: SocketAddr,
}

/// `pools.NAME.policy`
#[derive(Clone, PartialEq, Debug)]
pub enum Policy {
    /// Predicted time with cache and queue (routing-policy.md).
    KvAware(CostConstants),
    /// Fewest in flight.
    LeastRequests,
    /// Two at random, the better one.
    P2c,
    /// In turn.
    RoundRobin,
    /// Ketama ring on the prompt's first block or the session.
    ConsistentHash,
}

impl Policy {
    /// The name in the configuration and in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::KvAware(_) => "kv_aware",
            Self::LeastRequests => "least_requests",
            Self::P2c => "p2c",
            Self::RoundRobin => "round_robin",
            Self::ConsistentHash => "consistent_hash",
        }
    }
}

pub use crate::domain::cost::CostConstants;

/// `pools.NAME.health`
#[derive(Clone, Debug)]
pub struct Health {
    /// What is asked with GET.
    pub path: String,
    /// How often.
    pub every: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers until a sick backend is well.
    pub rise: usize,
    /// Bad answers until a well backend is sick.
    pub fall: usize,
}

/// `pools.NAME.timeouts`
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TCP (and TLS) connect.
    pub connect: Duration,
    /// From dispatch to the commit point.
    pub first_byte: Duration,
    /// Between two bytes of a stream.
    pub between_bytes: Duration,
    /// From the head to the end.
    pub total: Duration,
    /// After this much silence before the commit point, 200 and keep-alive comments are sent.
    pub commit_grace: Duration,
    /// Between keep-alive comments.
    pub keep_alive: Duration,
}

/// What may be retried.
#[derive(Clone, Debug)]
pub struct Retry {
    /// Causes that are retried.
    pub on: Vec<RetryOn>,
    /// Further attempts at most.
    pub max: u32,
    /// Share of in-flight requests that may be retries (0.2), at least 3.
    pub budget: f64,
}

/// A cause of a retry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetryOn {
    /// Could not connect.
    Connect,
    /// Connection reset before output.
    Reset,
    /// Ended before output.
    Eof,
    /// No first token in time.
    FirstByte,
    /// This very status.
    Status(u16),
    /// Any 5xx.
    Any5xx,
}

impl Retry {
    /// True if an upstream status is one to retry.
    #[must_use]
    pub fn on_status(&self, status: u16) -> bool {
        self.on.iter().any(|cause| match cause {
            RetryOn::Status(code) => *code == status,
            RetryOn::Any5xx => (500..600).contains(&status),
            _ => false,
        })
    }
}

/// `pools.NAME.keepalive`
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// Idle connections kept.
    pub idle: usize,
    /// For how long.
    pub timeout: Duration,
}

/// `routes[]`
#[derive(Debug)]
pub struct Route {
    /// Its name, or `route-N`.
    pub id: RouteId,
    /// Conditions.
    pub matcher: Match,
    /// Names of authenticators; empty: open to everyone.
    pub auth: Vec<String>,
    /// `match.when`: a condition over `auth`, `request` and `now`; `None`: none.
    pub when: Option<crate::logic::access::expression::Expression>,
    /// Where to.
    pub action: Action,
    /// Model name to use upstream.
    pub rewrite_model: Option<String>,
    /// Write usage records for plain HTTP too.
    pub meter: bool,
}

/// What a route does.
#[derive(Debug)]
pub enum Action {
    /// Forward to one of these by weight.
    Pools(Vec<RouteTarget>),
    /// Answer with this.
    Respond {
        /// HTTP status.
        status: u16,
        /// The body, sent as `text/plain`.
        body: String,
    },
}

/// A pool with its share.
#[derive(Clone, Copy, Debug)]
pub struct RouteTarget {
    /// Index into `Snapshot::pools`.
    pub pool: usize,
    /// Relative share.
    pub weight: u32,
}

/// `routes[].match`
#[derive(Debug, Default)]
pub struct Match {
    /// Only on this listener.
    pub listener: Option<String>,
    /// Host without port, lower case; `*.example.com` is a suffix.
    pub host: Option<String>,
    /// The path.
    pub path: PathMatch,
    /// Methods; empty: all.
    pub methods: Vec<String>,
    /// Model names or globs; `None`: whatever the pools serve.
    pub models: Option<globset::GlobSet>,
    /// The same as they were written, for `weir dump` and `/v1/models`.
    pub model_patterns: Vec<String>,
}

/// `routes[].match.path`
#[derive(Debug, Default)]
pub enum PathMatch {
    /// Every path.
    #[default]
    Any,
    /// This path.
    Exact(String),
    /// Paths that start so, at a `/`.
    Prefix(String),
    /// Paths that match.
    Regex(regex::Regex),
}

/// `limits:`
#[derive(Clone, Debug)]
pub struct Limits {
    /// Send `x-ratelimit-*`.
    pub headers: bool,
    /// Life of a hold that is no longer refreshed.
    pub hold_ttl: Duration,
    /// The ledger that replicas share; `None`: each process counts alone.
    pub backend: Option<LimitBackend>,
    /// Rules that count everybody's requests together, by model or all of them: `limits.global`, `limits.models`.
    pub shared: Arc<Plan>,
    /// How often counters are compared with usage rows.
    pub reconcile: Duration,
    /// Who is told of budgets that are nearly or wholly spent.
    pub alerts: Option<AlertHook>,
}

impl Limits {
    /// What rules do without the shared ledger that do not say so themselves.
    #[must_use]
    pub fn on_store_error(&self) -> OnStoreError {
        self.backend.as_ref().map_or_else(OnStoreError::default, |backend| backend.on_store_error)
    }
}

/// `limits.backend.redis`
#[derive(Clone, Debug)]
pub struct LimitBackend {
    /// Where Redis is.
    pub servers: RedisServers,
    /// How long one command may take, at most 20 ms.
    pub timeout: Duration,
    /// What rules do without it that do not say so themselves.
    pub on_store_error: OnStoreError,
    /// What every key begins with: `weir`.
    pub prefix: Arc<str>,
}

/// Where Redis is. URLs (`redis://`, `rediss://`, with user and password) are secrets.
#[derive(Clone, Debug)]
pub enum RedisServers {
    /// One server.
    Single(Secret),
    /// Some nodes of a cluster; the others are found.
    Cluster(Vec<Secret>),
    /// Sentinels, which know the master of this name.
    Sentinel {
        /// The sentinels.
        sentinels: Vec<Secret>,
        /// The master's name.
        master: String,
    },
}

/// `limits.alerts`
#[derive(Clone, Debug)]
pub struct AlertHook {
    /// Where alerts are posted.
    pub url: Secret,
    /// Key of the HMAC-SHA-256 signature.
    pub secret: Secret,
    /// How long one delivery may take.
    pub timeout: Duration,
}

/// `usage:`
#[derive(Clone, Debug)]
pub struct Usage {
    /// Add `stream_options.include_usage` upstream.
    pub inject_stream_usage: bool,
    /// Write `rejected` records too.
    pub record_rejected: bool,
    /// Spool settings.
    pub spool: Spool,
    /// The slot tables' folder.
    pub slots_dir: PathBuf,
    /// Slots of the table: requests that may be open at once.
    pub slots: u32,
    /// The SQLite file that the writer fills.
    pub sqlite: PathBuf,
    /// The file of prices; what is in it is [`Snapshot::prices`].
    pub prices: Option<PathBuf>,
}

/// `usage.spool`
#[derive(Clone, Debug)]
pub struct Spool {
    /// Its folder.
    pub dir: PathBuf,
    /// Whether a record waits for the disk.
    pub durability: Durability,
    /// Group commit interval.
    pub fsync: Duration,
    /// Its size limit.
    pub max_bytes: u64,
}

/// `usage.spool.durability`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Survives the process: written before the last byte leaves.
    Process,
    /// Survives the host: on disk before the last byte leaves.
    Power,
}

/// `telemetry:`
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// Access log file; `None`: off. `/dev/stdout` is standard output.
    pub access_log: Option<PathBuf>,
    /// Share of requests that are logged (errors always are).
    pub sample: f64,
    /// Who may ask for explanations.
    pub debug_from: Vec<IpNet>,
    /// Tenant names shown in metrics before the rest becomes `other`.
    pub tenant_labels: usize,
}
