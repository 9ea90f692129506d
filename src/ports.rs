//! L2: the traits that stages need. `io/` implements them, `cli/` wires them, tests fake them.

use crate::domain::ids::{BackendId, KeyId, PoolId, RequestId, RouteId, TenantId};
use crate::domain::limit::{Denial, QuotaUse, Scope, Standing};
use crate::domain::principal::Principal;
use crate::domain::record::UsageRecord;
use crate::domain::surface::Surface;
use crate::domain::units::{Micros, WallMicros};
use crate::logic::quota::plan::{LimitRule, QuotaAsk};
use async_trait::async_trait;
use std::sync::Arc;

pub use crate::logic::access::certificate::ClientCertificate;

/// The two clocks.
pub trait Clock: Send + Sync {
    /// Microseconds since 1970 UTC.
    fn wall(&self) -> WallMicros;
    /// Microseconds since some fixed point of this process; never goes back.
    fn mono(&self) -> Micros;
}

/// Why a credential was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rejection {
    /// A key that is malformed, unknown or revoked: indistinguishable on purpose.
    Invalid,
    /// A key whose time is over.
    Expired,
    /// A key that is switched off.
    Disabled,
    /// A token, certificate or session that does not hold, whatever the reason.
    BadToken,
    /// Who they are is known, and they may not (an external service said 403).
    Forbidden,
    /// What would know is down, and what it said last is too old. Named for the log.
    Unavailable(&'static str),
}

/// What an authenticator may look at.
pub struct AuthRequest<'a> {
    /// The one credential in this authenticator's headers, if any.
    pub credential: Option<&'a [u8]>,
    /// The client's certificate, already verified by the listener.
    pub certificate: Option<&'a ClientCertificate>,
    /// `POST`
    pub method: &'a str,
    /// Path and query as they came.
    pub target: &'a str,
    /// The `Host`.
    pub host: Option<&'a str>,
    /// All request fields.
    pub headers: &'a http::HeaderMap,
    /// The caller's address, seen through trusted proxies.
    pub client: std::net::IpAddr,
    /// Now, on the wall.
    pub now: WallMicros,
}

/// What an authenticator made of a request.
#[derive(Debug)]
pub enum Verdict {
    /// There is no credential of its kind.
    NotMine,
    /// That is who it is.
    Known(Principal),
    /// There is one, and it is not good.
    Rejected(Rejection),
    /// Somebody has to be asked: call [`Authenticate::ask`].
    Ask,
}

/// Finds out who calls.
#[async_trait]
pub trait Authenticate: Send + Sync {
    /// Decides from memory; never waits. Work for keys is the same for unknown ids and wrong secrets.
    fn look(&self, request: &AuthRequest<'_>) -> Verdict;

    /// Decides with the help of others, in bounded time; called only after [`Verdict::Ask`], which it never returns.
    async fn ask(&self, request: &AuthRequest<'_>) -> Verdict;
}

/// A reservation that was granted. Owes exactly one `settle` or `cancel`; dropping it without releases the hold
/// (the implementation's guard does that).
pub trait Reservation: Send + Sync {
    /// The figures for the rate-limit headers, taken after this reservation.
    fn standings(&self) -> &[Standing];
    /// Counts what a running request has used so far, instead of its hold where that is more. Cheap, and never waits.
    /// Gives the name of a rule that is used up and ends running streams, if there is one.
    fn progress(&self, used: QuotaUse, now: Micros) -> Option<Arc<str>>;
    /// Commits what was really used in all and ends the hold. Nothing used gives everything back but the request
    /// itself. Further calls do nothing.
    fn settle(&self, used: QuotaUse, now: Micros);
    /// Takes everything back, the request too: it was refused for another reason. Does nothing once settled.
    fn cancel(&self, now: Micros);
}

/// Why a reservation was not granted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReserveError {
    /// A rule said no.
    Denied(Denial),
    /// The request can never fit: `(asked, allowed)` tokens.
    NeverFits(u64, u64),
    /// The store failed and the policy says closed.
    StoreDown,
}

/// Decides limits: all rules of a request in one step, all or none.
#[async_trait]
pub trait QuotaStore: Send + Sync {
    /// Reserves for one request.
    ///
    /// # Errors
    /// [`ReserveError`]; then nothing was burnt.
    async fn reserve(&self, ask: QuotaAsk, now: Micros, wall: WallMicros)
    -> Result<Box<dyn Reservation>, ReserveError>;

    /// How the rules of a request stand, for the headers of an answer that reserved nothing. Takes nothing.
    fn standings(&self, ask: &QuotaAsk, now: Micros, wall: WallMicros) -> Vec<Standing>;
}

/// How a rule of money stands, as its ledger has just said.
#[derive(Clone, Copy, Debug)]
pub struct Spending<'a> {
    /// The tenant that pays; `None` where tenants share the count.
    pub tenant: Option<&'a TenantId>,
    /// Where it counts.
    pub scope: &'a Scope,
    /// The rule; its dimension is [`Dimension::Spend`](crate::domain::limit::Dimension::Spend).
    pub rule: &'a Arc<LimitRule>,
    /// What is committed in the period, all replicas together, in nano-dollars.
    pub committed: u64,
    /// Where the period begins, in milliseconds since 1970; 0 for credit that counts all.
    pub period: i64,
}

/// Is told how money is spent: each time that what is committed to a rule of money has changed.
pub trait SpendWatch: Send + Sync {
    /// Cheap, and never waits. Repeats and steps back are harmless.
    fn seen(&self, spending: &Spending<'_>);
}

/// What is known of a request when it is admitted: the identity of a crash record.
#[derive(Clone, Debug)]
pub struct Birth {
    /// The request.
    pub request_id: RequestId,
    /// When its head was read.
    pub received: WallMicros,
    /// When it was admitted.
    pub admitted: WallMicros,
    /// Who pays.
    pub tenant: TenantId,
    /// Team, user and key, as far as known.
    pub team: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// The key.
    pub key: Option<KeyId>,
    /// Generation of the key's secret.
    pub secret_gen: u32,
    /// `api_key` or `none`.
    pub auth_method: &'static str,
    /// Which API.
    pub surface: Surface,
    /// `stream: true`.
    pub stream: bool,
    /// The route.
    pub route: RouteId,
    /// The model that the caller named.
    pub model: String,
    /// Request body bytes.
    pub bytes_in: u64,
    /// Version of the configuration that the request runs under.
    pub config_version: Arc<str>,
}

/// How far an open request has come. Plain numbers; written with plain stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Input tokens + 1 as the upstream says; 0: not said.
    pub input_plus_one: u64,
    /// Output tokens + 1 as the upstream says; 0: not said.
    pub output_plus_one: u64,
    /// Output tokens (or content events, where no count is known) handed to the client.
    pub delivered: u64,
    /// Bytes of the answer handed to the client.
    pub bytes_out: u64,
    /// SSE events handed to the client.
    pub sse_events: u64,
    /// When the first output was seen; 0: not yet.
    pub first_token: i64,
}

/// One in-flight request's place in the slot table. Dropping it without `append` leaves the slot to recovery.
#[derive(Debug)]
pub struct Ticket {
    /// Index into the table.
    pub slot: u32,
    /// Gap-free number of this record within the process.
    pub seq: u64,
}

/// Why no ticket was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AdmitError {
    /// Every slot is taken.
    TableFull,
    /// The spool is at 95 %.
    SpoolFull,
}

/// Why a record was not written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk said no; the slot stays, recovery will write a crash record.
    #[error("the spool could not be written: {0}")]
    Io(String),
    /// The spool thread is gone.
    #[error("the spool is closed")]
    Closed,
}

/// The way of usage out of the proxy: slot table and spool.
pub trait UsageLog: Send + Sync {
    /// Gives an admitted request its slot.
    ///
    /// # Errors
    /// [`AdmitError`]: then the request must be refused with 503.
    fn admit(&self, birth: &Birth) -> Result<Ticket, AdmitError>;
    /// Says where the request went; called once per attempt.
    fn dispatched(&self, ticket: &Ticket, pool: &PoolId, backend: &BackendId);
    /// Says how far it has come; a few plain stores.
    fn progress(&self, ticket: &Ticket, progress: &Progress);
    /// Hands the record to the spool and frees the slot once it is written. Never blocks: the channel is as
    /// long as the slot table. The receiver resolves when the record is written (`durability: process`) or on
    /// disk (`power`); it may be dropped.
    fn append(&self, ticket: Ticket, record: UsageRecord) -> tokio::sync::oneshot::Receiver<Result<(), AppendError>>;
    /// This process's id, as in the records.
    fn proxy_id(&self) -> &str;
}

/// What is told about every request when it ends, for metrics and the access log.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The usage record, or as much of one as there is (also for refusals).
    pub record: UsageRecord,
    /// `GET`, `POST`, …
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// Caller's address without port.
    pub client: String,
    /// Time to first token.
    pub ttft: Option<Micros>,
    /// From head to end.
    pub duration: Micros,
    /// Reason out of the closed set of telemetry.md (`auth_invalid`, `rate_requests`, …).
    pub reason: Option<&'static str>,
    /// Which scope, rule or restriction denied it; for operators alone.
    pub rule: Option<Arc<str>>,
    /// True if the request had been admitted (so a usage record exists).
    pub admitted: bool,
}

/// Metrics and access log.
pub trait Observer: Send + Sync {
    /// A request ended.
    fn ended(&self, ended: &Ended);
    /// A backend was chosen.
    #[allow(clippy::too_many_arguments)] // three labels and two figures; a struct would only rename them
    fn picked(&self, pool: &PoolId, policy: &'static str, reason: &'static str, matched: u64, total: u64);
    /// A request entered (`+1`) or left (`-1`) a pool.
    fn inflight(&self, pool: &PoolId, delta: i64);
    /// How a backend stands: requests in flight, and whether its probe finds it well.
    fn backend(&self, pool: &PoolId, backend: &BackendId, inflight: u64, healthy: bool);
    /// Client connections opened (`open`, +1), closed (`open`, -1) or turned away at the limit (`refused`, +1).
    fn connections(&self, state: &'static str, delta: i64);
    /// A call was made on a secret that has been replaced and will end.
    fn deprecated_key(&self);
    /// Time spent in one of our own phases: `auth`, `limit`, `route`.
    fn overhead(&self, phase: &'static str, spent: Micros);
}
