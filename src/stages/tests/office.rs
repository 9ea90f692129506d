//! A running configuration without sockets: authenticators that say what a test wants, logs that are kept.

use crate::config::snapshot::{
    Authenticator, ClaimMapping, ClientCertAuth, ExtAuthzAuth, JwtAlgorithm, JwtAuth, JwtKeys, Secret, Snapshot,
};
use crate::domain::ids::{BackendId, PoolId, RequestId};
use crate::domain::limit::{QuotaUse, Standing};
use crate::domain::principal::{AuthMethod, Principal, Profile};
use crate::domain::record::UsageRecord;
use crate::domain::units::{Micros, WallMicros};
use crate::logic::access::directory::{Directory, Tenant};
use crate::logic::quota::plan::QuotaAsk;
use crate::ports::{
    AdmitError, AppendError, AuthRequest, Authenticate, Birth, Clock, Ended, Observer, Progress, QuotaStore, Rejection,
    Reservation, ReserveError, Ticket, UsageLog, Verdict,
};
use crate::runtime::{Abort, BODIES_AT_ONCE, Budget, LivePool, Runtime, Services};
use crate::stages::accept::{self, Accepted, Facts, Head};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// 2026-11-20T12:00:00Z
pub const NOON: WallMicros = WallMicros(1_795_176_000_000_000);

/// Stands still at noon; the hands of the other clock are a test's to move.
#[derive(Default)]
pub struct Still(pub AtomicU64);

impl Clock for Still {
    fn wall(&self) -> WallMicros {
        NOON
    }
    fn mono(&self) -> Micros {
        Micros(self.0.load(Ordering::Relaxed))
    }
}

/// Limits that admit everything unless told otherwise, and remember what they were asked and told.
#[derive(Default)]
pub struct Till {
    pub asks: Mutex<Vec<QuotaAsk>>,
    /// What the next requests are refused with.
    pub refuses: Mutex<Option<ReserveError>>,
    pub told: Arc<Told>,
}

/// What reservations were told.
#[derive(Default)]
pub struct Told {
    pub progress: Mutex<Vec<QuotaUse>>,
    pub settled: Mutex<Vec<QuotaUse>>,
    /// How many were taken back.
    pub cancelled: AtomicUsize,
    /// The rule that ends running streams.
    pub spent: Mutex<Option<Arc<str>>>,
}

struct Slip(Arc<Told>);

impl Reservation for Slip {
    fn standings(&self) -> &[Standing] {
        &[]
    }
    fn progress(&self, used: QuotaUse, _now: Micros) -> Option<Arc<str>> {
        self.0.progress.lock().push(used);
        self.0.spent.lock().clone()
    }
    fn settle(&self, used: QuotaUse, _now: Micros) {
        self.0.settled.lock().push(used);
    }
    fn cancel(&self, _now: Micros) {
        self.0.cancelled.fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl QuotaStore for Till {
    async fn reserve(&self, ask: QuotaAsk, _: Micros, _: WallMicros) -> Result<Box<dyn Reservation>, ReserveError> {
        self.asks.lock().push(ask);
        match self.refuses.lock().clone() {
            Some(error) => Err(error),
            None => Ok(Box::new(Slip(Arc::clone(&self.told)))),
        }
    }
    fn standings(&self, ask: &QuotaAsk, _: Micros, _: WallMicros) -> Vec<Standing> {
        self.asks.lock().push(ask.clone());
        Vec::new()
    }
}

type Saying = Box<dyn Fn(&AuthRequest<'_>) -> Verdict + Send + Sync>;

/// An authenticator that says what it is told to say, and remembers what it was shown.
pub struct Doorman {
    look: Saying,
    ask: Saying,
    pub shown: Mutex<Vec<Option<String>>>,
}

impl Doorman {
    /// Says the same at once.
    pub fn says(look: impl Fn(&AuthRequest<'_>) -> Verdict + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { look: Box::new(look), ask: Box::new(|_| Verdict::Ask), shown: Mutex::default() })
    }

    /// Says it only when asked.
    pub fn asked(ask: impl Fn(&AuthRequest<'_>) -> Verdict + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { look: Box::new(|_| Verdict::Ask), ask: Box::new(ask), shown: Mutex::default() })
    }

    pub fn rejects(why: Rejection) -> Arc<Self> {
        Self::says(move |request| match request.credential {
            Some(_) => Verdict::Rejected(why),
            None => Verdict::NotMine,
        })
    }

    fn see(&self, request: &AuthRequest<'_>) {
        self.shown.lock().push(request.credential.map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
    }
}

#[async_trait]
impl Authenticate for Doorman {
    fn look(&self, request: &AuthRequest<'_>) -> Verdict {
        self.see(request);
        (self.look)(request)
    }
    async fn ask(&self, request: &AuthRequest<'_>) -> Verdict {
        (self.ask)(request)
    }
}

/// What was told.
#[derive(Default)]
pub struct Ears {
    pub deprecated: AtomicUsize,
    pub ended: Mutex<Vec<Ended>>,
}

impl Observer for Ears {
    fn ended(&self, ended: &Ended) {
        self.ended.lock().push(ended.clone());
    }
    fn picked(&self, _pool: &PoolId, _policy: &'static str, _reason: &'static str, _matched: u64, _total: u64) {}
    fn inflight(&self, _pool: &PoolId, _delta: i64) {}
    fn backend(&self, _pool: &PoolId, _backend: &BackendId, _inflight: u64, _healthy: bool) {}
    fn connections(&self, _state: &'static str, _delta: i64) {}
    fn deprecated_key(&self) {
        self.deprecated.fetch_add(1, Ordering::Relaxed);
    }
    fn overhead(&self, _phase: &'static str, _spent: Micros) {}
}

/// Keeps the records.
#[derive(Default)]
pub struct Ledger {
    pub records: Mutex<Vec<UsageRecord>>,
    /// What further requests are refused with.
    pub refuses: Mutex<Option<AdmitError>>,
}

impl UsageLog for Ledger {
    fn admit(&self, _birth: &Birth) -> Result<Ticket, AdmitError> {
        self.refuses.lock().map_or(Ok(Ticket { slot: 0, seq: 1 }), Err)
    }
    fn dispatched(&self, _ticket: &Ticket, _pool: &PoolId, _backend: &BackendId) {}
    fn progress(&self, _ticket: &Ticket, _progress: &Progress) {}
    fn append(&self, _ticket: Ticket, record: UsageRecord) -> oneshot::Receiver<Result<(), AppendError>> {
        self.records.lock().push(record);
        oneshot::channel().1
    }
    fn proxy_id(&self) -> &str {
        "proxy"
    }
}

/// A configuration that runs.
pub struct Office {
    pub runtime: Arc<Runtime>,
    pub ears: Arc<Ears>,
    pub ledger: Arc<Ledger>,
    pub clock: Arc<Still>,
    _abort: watch::Sender<Abort>,
}

/// Two pools' worth of configuration; `rest` are further top-level lines.
pub fn snapshot(routes: &str, rest: &str) -> Snapshot {
    let text = format!(
        "version: 1\nlisteners: {{ http: {{ bind: [\"127.0.0.1:1\"] }} }}\n\
         pools:\n  p: {{ engine: vllm, models: [m, n], backends: [{{ url: \"http://127.0.0.1:2/base\" }}] }}\n\
         routes:\n{routes}\n{rest}\n"
    );
    let loaded =
        crate::config::load_text("weir.yaml", &text, Path::new("")).unwrap_or_else(|report| panic!("{report}"));
    Arc::try_unwrap(loaded.snapshot).expect("nobody else has it yet")
}

/// One route that takes everything, for callers that one of `auth` knows.
pub fn open_to(auth: &str) -> String {
    format!("  - {{ name: all, auth: {auth}, match: {{ path: {{ prefix: / }} }}, to: [{{ pool: p }}] }}")
}

pub fn jwt() -> Authenticator {
    Authenticator::Jwt(Box::new(JwtAuth {
        issuer: "https://login.example.com/".into(),
        audiences: vec!["llm".into()],
        keys: JwtKeys::Secret(Secret(Arc::new(zeroize::Zeroizing::new(vec![7; 32])))),
        algorithms: vec![JwtAlgorithm::HS256],
        leeway: Duration::from_secs(60),
        mapping: ClaimMapping::default(),
    }))
}

pub fn certificates() -> Authenticator {
    let auth = ClientCertAuth { mapping: ClaimMapping::default(), trust_domains: Vec::new() };
    Authenticator::ClientCert(Box::new(auth))
}

pub fn ext_authz() -> Authenticator {
    let header = |name: &str| format!("x-auth-{name}");
    Authenticator::ExtAuthz(Box::new(ExtAuthzAuth {
        url: "http://127.0.0.1:9/".parse().expect("a URL"),
        timeout: Duration::from_secs(1),
        send: vec!["authorization".into(), "cookie".into()],
        tenant: header("tenant"),
        team: header("team"),
        user: header("user"),
        roles: header("roles"),
        operators: false,
    }))
}

/// Authenticators beside those of the configuration, for every route that is not open.
pub fn with_authenticators(mut snapshot: Snapshot, more: Vec<(&str, Authenticator)>) -> Snapshot {
    let names: Vec<String> = more.iter().map(|(name, _)| (*name).to_owned()).collect();
    snapshot.auth.extend(more.into_iter().map(|(name, auth)| (name.to_owned(), auth)));
    for route in &mut snapshot.routes {
        let route = Arc::get_mut(route).expect("nobody else has it yet");
        if !route.auth.is_empty() {
            route.auth.extend(names.iter().cloned());
        }
    }
    snapshot
}

impl Office {
    /// Opens with one doorman for each authenticator.
    pub fn open(snapshot: Snapshot, doors: Vec<(&str, Arc<Doorman>)>) -> Self {
        let tenants = snapshot.tenants.iter().map(|(name, tenant)| (name.clone(), Arc::new(tenant.clone())));
        let plans = snapshot.plans.iter().map(|(name, plan)| (name.clone(), Arc::clone(plan)));
        let directory = Directory { tenants: tenants.collect(), plans: plans.collect() };
        Self::with_directory(snapshot, doors, directory)
    }

    pub fn with_directory(snapshot: Snapshot, doors: Vec<(&str, Arc<Doorman>)>, directory: Directory) -> Self {
        Self::with_till(snapshot, doors, directory, Arc::default())
    }

    /// Opens with limits that say what a test wants.
    pub fn with_till(
        snapshot: Snapshot,
        doors: Vec<(&str, Arc<Doorman>)>,
        directory: Directory,
        quota: Arc<Till>,
    ) -> Self {
        let (ears, ledger) = (Arc::new(Ears::default()), Arc::new(Ledger::default()));
        let clock = Arc::new(Still::default());
        let auth: BTreeMap<String, Arc<dyn Authenticate>> =
            doors.into_iter().map(|(name, door)| (name.to_owned(), door as Arc<dyn Authenticate>)).collect();
        let (abort, aborted) = watch::channel(Abort::default());
        let runtime = Arc::new(Runtime {
            pools: snapshot.pools.iter().map(|pool| Arc::new(LivePool::new(pool))).collect(),
            services: Services {
                auth,
                directory: Arc::new(ArcSwap::from_pointee(directory)),
                quota,
                usage: ledger.clone(),
                observer: ears.clone(),
                denials: Arc::default(),
                complaints: Arc::default(),
                clock: clock.clone(),
                salt_key: Secret(Arc::new(zeroize::Zeroizing::new(vec![1; 32]))),
            },
            bodies: Budget::new(BODIES_AT_ONCE),
            draining: Arc::new(AtomicBool::new(false)),
            abort: aborted,
            snapshot: Arc::new(snapshot),
        });
        Self { runtime, ears, ledger, clock, _abort: abort }
    }

    /// A request's head as stage 1 sees it.
    pub fn accept(&self, method: &str, target: &str, headers: &HeaderMap) -> (Facts, Accepted) {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let head = Head { method, path, query, host: Some("api"), headers, peer };
        let listener = &self.runtime.snapshot.listeners[0];
        let facts = accept::facts(&head, &self.runtime, listener, RequestId(uuid::Uuid::nil()));
        (facts, accept::accept(&head, &self.runtime, listener).expect("a route matches"))
    }
}

pub fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

/// A caller of a tenant.
pub fn caller(tenant: &str, method: AuthMethod) -> Principal {
    Principal::of(Arc::new(Profile::of(tenant.into())), method)
}

/// A tenant without any setting.
pub fn tenant() -> Arc<Tenant> {
    Arc::new(Tenant::default())
}
