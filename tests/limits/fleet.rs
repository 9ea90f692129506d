//! The fleet that the laws are shown on: replicas of the proxy, each with a state folder, a spool and a writer of its
//! own, on one key store, one usage database, one simulated engine and one limit store.

use crate::proxy::{DEADLINE, free_port, signal, wait_exit};
use crate::servers::Redis;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use weir::sim::engine::EngineLimits;
use weir::sim::profile::PROFILES;
use weir::sim::{EngineSettings, Running, Server};

/// Replicas share their keys, so they share the pepper.
const PEPPER: &str = "7d1f0c8e5b2a49c6a3e8f7b1d4c2a695";
/// A port that was free a moment ago may be taken when it is bound.
const START_TRIES: usize = 3;
/// The model that the engine serves.
pub const MODEL: &str = "sim-8b";
/// An engine that answers as fast as it can be computed.
pub const INSTANT: f64 = 1_000.0;

/// Fleets so far.
static FLEETS: AtomicU32 = AtomicU32::new(0);

/// Every law here loads the machine: one at a time.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// Waits until the machine is free of other laws.
pub async fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().await
}

/// Where the replicas count together.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// `limits.backend.redis`, a YAML map; empty: each replica counts alone.
    yaml: String,
    env: Vec<(String, String)>,
}

impl Store {
    /// Each replica counts alone.
    pub fn none() -> Self {
        Self::default()
    }

    /// With all the time for an answer that the configuration allows: for laws of a store that answers, on machines that
    /// do something else besides.
    pub fn patient(mut self) -> Self {
        if !self.yaml.is_empty() {
            self.yaml.push_str(", timeout: 20ms");
        }
        self
    }

    /// One Redis.
    pub fn single(redis: &Redis) -> Self {
        Self::at(&redis.url())
    }

    /// One Redis behind this URL: its own, or that of something in between.
    pub fn at(url: &str) -> Self {
        Self { yaml: "url: { env: REDIS_0 }".to_owned(), env: vec![("REDIS_0".to_owned(), url.to_owned())] }
    }

    /// A cluster, by some of its nodes.
    pub fn cluster(urls: &[String]) -> Self {
        let (names, env) = named(urls);
        Self { yaml: format!("cluster: [{names}]"), env }
    }

    /// Sentinels that know the master of this name.
    pub fn sentinel(urls: &[String], master: &str) -> Self {
        let (names, env) = named(urls);
        Self { yaml: format!("sentinel: {{ master: {master}, sentinels: [{names}] }}"), env }
    }
}

fn named(urls: &[String]) -> (String, Vec<(String, String)>) {
    let env: Vec<_> = urls.iter().enumerate().map(|(at, url)| (format!("REDIS_{at}"), url.clone())).collect();
    let names = env.iter().map(|(name, _)| format!("{{ env: {name} }}")).collect::<Vec<_>>().join(", ");
    (names, env)
}

/// What differs between the laws' fleets.
pub struct Recipe {
    /// Proxies.
    pub replicas: usize,
    pub store: Store,
    /// Tenants, each with a plan of its own: name, the plan as YAML in one line, and further entries of the tenant.
    pub tenants: Vec<(String, String, String)>,
    /// Further entries of `limits`, one a line.
    pub limits: Vec<String>,
    /// The price file's `models`, as YAML in one line; empty: no prices.
    pub prices: String,
    /// Virtual seconds per second of the engine.
    pub speed: f64,
}

impl Recipe {
    /// Four proxies on a store, and an engine that answers at once.
    pub fn on(store: Store) -> Self {
        Self { replicas: 4, store, tenants: Vec::new(), limits: Vec::new(), prices: String::new(), speed: INSTANT }
    }

    /// With a tenant of this plan, such as `{ limits: { requests: 40/s } }`.
    pub fn tenant(self, name: &str, plan: &str) -> Self {
        self.tenant_with(name, plan, "")
    }

    /// The same with further entries of the tenant, such as `time_zone: Asia/Tokyo`.
    pub fn tenant_with(mut self, name: &str, plan: &str, more: &str) -> Self {
        self.tenants.push((name.to_owned(), plan.to_owned(), more.to_owned()));
        self
    }

    /// With an entry of `limits`, such as `hold_ttl: 3s`.
    pub fn limits(mut self, entry: &str) -> Self {
        self.limits.push(entry.to_owned());
        self
    }

    /// With an engine that is this many times faster than the real one.
    pub fn speed(mut self, speed: f64) -> Self {
        self.speed = speed;
        self
    }

    /// With prices, such as `sim-8b: { input: 0.1, output: 1 }`.
    pub fn prices(mut self, models: &str) -> Self {
        self.prices = models.to_owned();
        self
    }

    fn yaml(&self, place: &Place<'_>) -> String {
        let shared = place.shared.display();
        let state = place.folder.join("state");
        let plans: String = self.tenants.iter().map(|(name, plan, _)| format!("  {name}: {plan}\n")).collect();
        let tenant = |(name, _, more): &(String, String, String)| format!("  {name}: {{ plan: {name}, {more} }}\n");
        let tenants: String = self.tenants.iter().map(tenant).collect();
        let mut limits: String = self.limits.iter().map(|entry| format!("  {entry}\n")).collect();
        if !self.store.yaml.is_empty() {
            limits.push_str(&format!("  backend: {{ redis: {{ {}, prefix: {} }} }}\n", self.store.yaml, place.prefix));
        }
        let limits = if limits.is_empty() { String::new() } else { format!("limits:\n{limits}") };
        let prices = if self.prices.is_empty() { "" } else { &format!("  prices: {shared}/prices.yaml\n") };
        format!(
            "version: 1\n\
             server:\n  workers: 2\n  state_dir: {state}\n  drain_timeout: 5s\n  admin: {{ bind: \"{admin}\" }}\n\
             listeners:\n  http:\n    bind: [\"{address}\"]\n\
             pools:\n  p:\n    engine: vllm\n    policy: round_robin\n    models: [{MODEL}]\n    health: none\n    timeouts: {{ between_bytes: 5m, first_byte: 5m }}\n    \
             backends: [{{ url: \"{engine}\" }}]\n\
             routes:\n  - {{ name: all, match: {{ path: {{ prefix: / }} }}, to: [{{ pool: p }}] }}\n\
             auth:\n  keys: {{ api_key: {{ pepper: {{ env: PEPPER }} }} }}\n\
             plans:\n{plans}tenants:\n{tenants}\
             store: {{ sqlite: {shared}/weir.db }}\n{limits}\
             usage:\n  writer: {{ sqlite: {shared}/usage.db }}\n{prices}\
             telemetry:\n  access_log: none\n",
            state = state.display(),
            admin = place.admin,
            address = place.address,
            engine = place.engine,
        )
    }
}

/// Where a replica stands.
struct Place<'a> {
    shared: &'a Path,
    folder: &'a Path,
    address: SocketAddr,
    admin: SocketAddr,
    engine: &'a str,
    prefix: &'a str,
}

/// One proxy and the writer beside it.
pub struct Replica {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    folder: PathBuf,
    env: Vec<(String, String)>,
    proxy: Option<Child>,
    writer: Option<Child>,
}

impl Replica {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(words).arg("-c").arg(self.folder.join("weir.yaml")).current_dir(&self.folder);
        command.envs(self.env.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }

    fn spawn(&self, words: &[&str]) -> Child {
        let path = self.folder.join(format!("{}.log", words[0]));
        let log = fs::OpenOptions::new().create(true).append(true).open(path).expect("a log file");
        let mut command = self.command(words);
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        command.spawn().unwrap_or_else(|error| panic!("weir {words:?}: {error}"))
    }

    /// What the proxy logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("serve.log")).unwrap_or_default()
    }

    /// Ends the proxy by kill -9; its writer lives on.
    pub fn kill(&mut self) {
        end(&mut self.proxy, None);
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if self.admin("/ready").starts_with("HTTP/1.1 200") {
                return Ok(());
            }
            let child = self.proxy.as_mut().expect("a process that was started");
            if let Some(status) = child.try_wait().expect("the child's state") {
                return Err(format!("ended with {status}: {}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("not ready in time: {}", self.log()))
    }

    /// The admin listener's answer to a GET, head and all; empty if there is none.
    pub fn admin(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let ask = || -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect_timeout(&self.admin, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().unwrap_or_default()
    }

    /// The sum of a metric over all of its labels that contain all of these words.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.admin("/metrics");
        let of_name = text.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with('{') || rest.starts_with(' ')
        });
        let meant = of_name.filter(|line| labels.iter().all(|label| line.contains(label)));
        meant.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        end(&mut self.proxy, None);
        end(&mut self.writer, None);
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("--- weir serve on {} said (the end of it):", self.address);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Ends a process: by a signal and patience, or at once.
fn end(child: &mut Option<Child>, patience: Option<Duration>) {
    let Some(mut child) = child.take() else { return };
    if let Some(patience) = patience {
        signal(&child, "TERM");
        if wait_exit(&mut child, patience).is_some() {
            return;
        }
    }
    // It may have ended already; then there is nothing to kill.
    let _ = child.kill();
    let _ = child.wait();
}

/// All of it; ends with its drop.
pub struct Fleet {
    pub replicas: Vec<Replica>,
    pub engine: Running,
    keys: Vec<(String, String)>,
    /// Of its keys in the store: a law that is run again finds nothing of the last run there.
    prefix: String,
    shared: TempDir,
}

impl Fleet {
    /// Starts everything and waits until each replica is ready.
    pub async fn start(recipe: &Recipe) -> Self {
        let settings =
            EngineSettings { model: MODEL.into(), limits: EngineLimits::of(PROFILES[0]), speed: recipe.speed };
        let engine = Server::start(settings, SocketAddr::from(([127, 0, 0, 1], 0))).expect("an engine");
        let shared = tempfile::Builder::new().prefix("weir-limits-").tempdir().expect("a folder");
        let prices = format!("version: proof\nmodels: {{ {} }}\n", recipe.prices);
        fs::write(shared.path().join("prices.yaml"), prices).expect("the price file");
        let mut env = recipe.store.env.clone();
        env.push(("PEPPER".to_owned(), PEPPER.to_owned()));
        let prefix = format!("weir{}", FLEETS.fetch_add(1, Ordering::Relaxed));
        let mut fleet = Self { replicas: Vec::new(), engine, keys: Vec::new(), prefix, shared };
        for number in 0..recipe.replicas {
            let folder = fleet.shared.path().join(format!("replica-{number}"));
            fs::create_dir(&folder).expect("a folder");
            let (address, admin) = (free_port(), free_port());
            fleet.replicas.push(Replica { address, admin, folder, env: env.clone(), proxy: None, writer: None });
            fleet.write(recipe, number);
        }
        for (tenant, _, _) in &recipe.tenants {
            let key = fleet.create_key(&["--name", tenant, "--tenant", tenant]);
            fleet.keys.push((tenant.clone(), key));
        }
        // All at once, then each until it is ready.
        for replica in &mut fleet.replicas {
            replica.proxy = Some(replica.spawn(&["serve"]));
        }
        for number in 0..recipe.replicas {
            fleet.bring_up(recipe, number);
        }
        fleet
    }

    fn write(&self, recipe: &Recipe, number: usize) {
        let Replica { address, admin, folder, .. } = &self.replicas[number];
        let engine = self.engine.url();
        let (shared, engine, prefix) = (self.shared.path(), engine.as_str(), self.prefix.as_str());
        let place = Place { shared, folder, address: *address, admin: *admin, engine, prefix };
        fs::write(folder.join("weir.yaml"), recipe.yaml(&place)).expect("the configuration");
    }

    /// Waits for a proxy that was started, on other ports if its own are taken; then starts its writer.
    fn bring_up(&mut self, recipe: &Recipe, number: usize) {
        for tries in 1.. {
            let replica = &mut self.replicas[number];
            let Err(why) = replica.wait_ready() else { break };
            assert!(tries < START_TRIES && why.contains("cannot listen"), "weir serve: {why}");
            end(&mut replica.proxy, None);
            (replica.address, replica.admin) = (free_port(), free_port());
            self.write(recipe, number);
            let replica = &mut self.replicas[number];
            replica.proxy = Some(replica.spawn(&["serve"]));
        }
        let replica = &mut self.replicas[number];
        replica.writer = Some(replica.spawn(&["writer"]));
    }

    /// Makes a key by the command line.
    pub fn create_key(&self, flags: &[&str]) -> String {
        let output = self.replicas[0].command(&[&["keys", "create"], flags].concat()).output().expect("weir runs");
        assert!(output.status.success(), "weir keys create: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// The key of a tenant.
    pub fn key(&self, tenant: &str) -> &str {
        let found = self.keys.iter().find(|(name, _)| name == tenant);
        found.map(|(_, key)| key.as_str()).unwrap_or_else(|| panic!("no tenant {tenant}"))
    }

    /// Where all replicas listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.replicas.iter().map(|replica| replica.address).collect()
    }

    /// The usage database of all replicas.
    pub fn usage_db(&self) -> PathBuf {
        self.shared.path().join("usage.db")
    }

    /// Decisions that were made without the store so far: on a machine that is too busy it does not answer in time, and
    /// what holds while it answers need not hold then.
    pub fn decided_alone(&self) -> f64 {
        let of = |result: &str| self.metric("weir_limit_decisions_total", &[result]);
        of("\"fallback\"") + of("\"store_down\"")
    }

    /// The sum of a metric over all replicas that run.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.replicas.iter().filter(|replica| replica.proxy.is_some()).map(|one| one.metric(name, labels)).sum()
    }
}
