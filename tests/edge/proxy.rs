//! Starts a real `weir serve` on free ports in a folder of its own, and ends it by its process id.

use super::backend::Backends;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything in these tests may take before it counts as hanging.
pub const DEADLINE: Duration = Duration::from_secs(25);
/// A port that was free a moment ago may be taken when it is bound.
const START_TRIES: usize = 3;

/// One pool of a configuration.
pub struct Pool<'a> {
    pub name: &'a str,
    /// The one model that it serves.
    pub model: &'a str,
    pub backends: &'a [SocketAddr],
    /// Further YAML of the pool: one line of `key: value`.
    pub yaml: &'a [&'a str],
}

/// What differs between the tests' configurations.
#[derive(Default)]
pub struct Setup<'a> {
    pub pools: Vec<Pool<'a>>,
    /// Items of `routes` before the one that takes everything to the pools.
    pub routes: &'a [&'a str],
    /// What the route to the pools takes; empty: every path.
    pub prefix: &'a str,
    /// Further top-level lines.
    pub rest: &'a [&'a str],
    /// Further lines of `server`.
    pub server: &'a [&'a str],
    /// `limits` of the listener, as a YAML map.
    pub limits: &'a str,
    /// Further lines of the listener.
    pub listener: &'a [&'a str],
    /// Further lines of `auth`, beside `keys`.
    pub auth: &'a [&'a str],
    /// Keys besides `test`: name and flags of `weir keys create`.
    pub keys: &'a [(&'a str, &'a str)],
}

impl<'a> Setup<'a> {
    /// One pool `p` with model `m` behind all backends.
    pub fn of(backends: &'a Backends) -> Self {
        let pool = Pool { name: "p", model: "m", backends: &backends.addresses, yaml: &[] };
        Self { pools: vec![pool], ..Self::default() }
    }

    fn yaml(&self, address: SocketAddr, admin: SocketAddr, state: &str) -> String {
        let lines =
            |indent: &str, lines: &[&str]| lines.iter().map(|line| format!("{indent}{line}\n")).collect::<String>();
        let limits = if self.limits.is_empty() { "{}" } else { self.limits };
        let prefix = if self.prefix.is_empty() { "/" } else { self.prefix };
        let mut pools = String::new();
        let mut targets = Vec::new();
        for pool in &self.pools {
            let urls: Vec<String> =
                pool.backends.iter().map(|backend| format!("{{ url: \"http://{backend}\" }}")).collect();
            let own = lines("    ", pool.yaml);
            let health = if own.contains("health:") { "" } else { "    health: none\n" };
            // No retry may be missed because other cases retry at the same time.
            let retry = if own.contains("retry:") { "" } else { "    retry: { budget: 100% }\n" };
            pools.push_str(&format!(
                "  {}:\n    engine: vllm\n    policy: round_robin\n    models: [{}]\n    backends: [{}]\n{health}{retry}{own}",
                pool.name,
                pool.model,
                urls.join(", ")
            ));
            targets.push(format!("{{ pool: {} }}", pool.name));
        }
        format!(
            "version: 1\nserver:\n  workers: 2\n  state_dir: {state}\n  admin: {{ bind: \"{admin}\" }}\n{}\
             listeners:\n  http:\n    bind: [\"{address}\"]\n    limits: {limits}\n{}\
             pools:\n{pools}routes:\n{}  - {{ name: all, match: {{ path: {{ prefix: {prefix} }} }}, to: [{}] }}\n\
             auth:\n  keys: {{ api_key: {{}} }}\n{}{}",
            lines("  ", self.server),
            lines("    ", self.listener),
            lines("  - ", self.routes),
            targets.join(", "),
            lines("  ", self.auth),
            lines("", self.rest),
        )
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Two such ports; one after the other could be the same one.
fn free_pair() -> (SocketAddr, SocketAddr) {
    let listen = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (one, other) = (listen(), listen());
    let address = |listener: &TcpListener| listener.local_addr().expect("its address");
    (address(&one), address(&other))
}

/// A running proxy.
pub struct Proxy {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    /// The key called `test`.
    pub key: String,
    keys: HashMap<String, String>,
    child: Child,
    folder: TempDir,
}

impl Proxy {
    /// Starts one and waits until it is ready.
    pub fn start(setup: &Setup<'_>) -> Self {
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::try_start(setup) {
                Ok(proxy) => return proxy,
                Err(why) => assert!(tries < START_TRIES && why.contains("cannot listen"), "weir serve: {why}"),
            }
        }
    }

    fn try_start(setup: &Setup<'_>) -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let (address, admin) = free_pair();
        let state = folder.path().join("state");
        let yaml = setup.yaml(address, admin, &state.to_string_lossy());
        std::fs::write(folder.path().join("weir.yaml"), yaml).expect("the configuration");
        let config = folder.path().join("weir.yaml").to_string_lossy().into_owned();
        let mut keys = HashMap::new();
        for (name, flags) in setup.keys.iter().chain(&[("test", "")]) {
            let mut args = vec!["keys", "create", "-c", &config, "--name", name];
            args.extend(flags.split_whitespace());
            if setup.auth.iter().any(|line| line.contains("api_key")) {
                args.extend(["--auth", "keys"]);
            }
            keys.insert((*name).to_owned(), weir(&args).trim().to_owned());
        }
        let child = serve(&folder);
        let mut proxy = Self { address, admin, key: keys["test"].clone(), keys, child, folder };
        proxy.wait_ready().map(|()| proxy)
    }

    /// Starts it again after its end, on what it left behind.
    pub fn restart(&mut self) {
        self.child = serve(&self.folder);
        self.wait_ready().unwrap_or_else(|why| panic!("weir serve: {why}"));
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if self.admin("/ready").starts_with("HTTP/1.1 200") {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().expect("the child's state") {
                return Err(format!("ended with {status}: {}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("not ready in time: {}", self.log()))
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("weir.yaml")
    }

    /// A file of the state directory.
    pub fn state(&self, name: &str) -> PathBuf {
        self.folder.path().join("state").join(name)
    }

    /// A key of the setup.
    pub fn key_of(&self, name: &str) -> &str {
        &self.keys[name]
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("serve.log")).unwrap_or_default()
    }

    /// The answer of the admin listener to a GET, head and all; empty if there is none.
    pub fn admin(&self, path: &str) -> String {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&self.admin, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().unwrap_or_default()
    }

    /// Sends a signal by name (`TERM`, `HUP`).
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Waits for its end; `None` if it does not come within `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait_exit(&mut self.child, limit)
    }

    /// True while the process lives.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().expect("the child's state").is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- weir serve said:\n{}", self.log());
        }
    }
}

fn serve(folder: &TempDir) -> Child {
    let path = folder.path().join("serve.log");
    let log = std::fs::OpenOptions::new().create(true).append(true).open(path).expect("a log file");
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["serve", "-c", &folder.path().join("weir.yaml").to_string_lossy()])
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .expect("weir serve")
}

/// Sends a signal by name to a child of ours.
pub fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(status.expect("kill").success(), "kill -{name}");
}

/// Waits for the end of a child of ours; `None` if it does not come within `limit`.
pub fn wait_exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + limit;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().expect("the child's state") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Runs a `weir` command to its end and returns what it printed.
pub fn weir(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_weir")).args(args).output().expect("weir runs");
    assert!(output.status.success(), "weir {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}
