//! What the proofs run: a real `weir serve` with a configuration of its own, the commands on its store, and its rows.

use crate::proxy::{DEADLINE, free_port, signal, wait_exit};
use rusqlite::{Connection, OpenFlags, types::Value as SqlValue};
use serde_json::{Map, Value, json};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A port that was free a moment ago may be taken when it is bound.
const START_TRIES: usize = 3;
/// A pepper for everyone: replicas of one store share it.
pub const PEPPER: &str = "7d1f0c8e5b2a49c6a3e8f7b1d4c2a695";

/// Who loads the machine has it alone; the others share it.
static MACHINE: RwLock<()> = RwLock::const_new(());

/// For a test that measures under load.
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().await
}

/// For every other test.
pub async fn beside() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().await
}

/// What differs between the proofs' configurations. Each text is a block of YAML, without indentation of its own.
#[derive(Clone, Default)]
pub struct Recipe {
    /// Lines of `server`.
    pub server: String,
    /// Lines of the listener `http`.
    pub listener: String,
    /// The one backend of pool `p`, which serves model `m`; none: there are no pools.
    pub backend: Option<SocketAddr>,
    /// Models of pool `p` besides `m`, with a comma before each.
    pub models: String,
    /// Lines of pool `p`.
    pub pool: String,
    /// Routes before `light` (`/light`, answered by the proxy itself) and `all` (everything to pool `p`).
    pub routes: String,
    /// Entries of `auth`; none: `keys: { api_key: {} }` with the pepper of all.
    pub auth: String,
    /// Further top-level sections.
    pub rest: String,
    /// Environment of the proxy and of the commands.
    pub env: Vec<(String, String)>,
}

impl Recipe {
    /// Everything to one backend.
    pub fn to(backend: SocketAddr) -> Self {
        Self { backend: Some(backend), ..Self::default() }
    }

    fn yaml(&self, address: SocketAddr, admin: SocketAddr, folder: &Path) -> String {
        let block = |indent: &str, text: &str| text.lines().map(|line| format!("{indent}{line}\n")).collect::<String>();
        let folder = folder.display();
        let pool = self.backend.map_or_else(String::new, |backend| {
            format!(
                "pools:\n  p:\n    engine: vllm\n    policy: round_robin\n    models: [m{}]\n    health: none\n    \
                 backends: [{{ url: \"http://{backend}\" }}]\n{}",
                self.models,
                block("    ", &self.pool)
            )
        });
        let all = if self.backend.is_some() {
            "  - { name: all, match: { path: { prefix: / } }, to: [{ pool: p }] }\n"
        } else {
            ""
        };
        let auth = if self.auth.is_empty() { "keys: { api_key: { pepper: { env: PEPPER } } }" } else { &self.auth };
        let light = "  - { name: light, match: { path: /light }, respond: { status: 200, body: \"ok\\n\" } }\n";
        format!(
            "version: 1\nserver:\n  workers: 2\n  state_dir: {folder}/state\n  admin: {{ bind: \"{admin}\" }}\n{}\
             listeners:\n  http:\n    bind: [\"{address}\"]\n{}{pool}routes:\n{}{light}{all}auth:\n{}{}",
            block("  ", &self.server),
            block("    ", &self.listener),
            block("  ", &self.routes),
            block("  ", auth),
            self.rest.replace("@folder@", &folder.to_string()),
        )
    }
}

/// A key that was made or rotated.
#[derive(Clone, Debug)]
pub struct Key {
    pub text: String,
    pub id: String,
}

/// A proxy: its folder always, its process while it runs.
pub struct Weir {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    recipe: Recipe,
    child: Option<Child>,
    folder: TempDir,
    user: Option<User>,
}

/// Whom the proxy runs as where it is not us: an id, and a program that they may reach.
struct User {
    id: u32,
    program: PathBuf,
}

/// The user without rights.
const NOBODY: u32 = 65_534;

impl Weir {
    /// Writes its files. The commands work from then on.
    pub fn prepare(recipe: &Recipe) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut recipe = recipe.clone();
        if !recipe.env.iter().any(|(name, _)| name == "PEPPER") {
            recipe.env.push(("PEPPER".to_owned(), PEPPER.to_owned()));
        }
        let mut weir = Self { address: free_port(), admin: free_port(), recipe, child: None, folder, user: None };
        weir.write();
        weir
    }

    /// Prepares one, starts it and waits until it is ready.
    pub fn start(recipe: &Recipe) -> Self {
        let mut weir = Self::prepare(recipe);
        weir.run();
        weir
    }

    /// Starts one that has no rights of root, whoever runs the tests, and waits until it is ready.
    pub fn start_without_rights(recipe: &Recipe) -> Self {
        let mut weir = Self::prepare(recipe);
        if owner(Path::new("/proc/self/environ")) == 0 {
            let program = weir.path("weir");
            fs::copy(env!("CARGO_BIN_EXE_weir"), &program).expect("a copy of the program");
            for path in [weir.folder().to_owned(), weir.config()] {
                chown(path, Some(NOBODY), None).expect("root gives files away");
            }
            weir.user = Some(User { id: NOBODY, program });
        }
        weir.run();
        weir
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a process that was started").id()
    }

    fn write(&mut self) {
        let yaml = self.recipe.yaml(self.address, self.admin, self.folder.path());
        fs::write(self.config(), yaml).expect("the configuration");
    }

    /// Starts the process and waits until it is ready.
    pub fn run(&mut self) {
        for tries in 1.. {
            self.spawn();
            match self.wait(200) {
                Ok(()) => return,
                Err(why) => {
                    assert!(tries < START_TRIES && why.contains("cannot listen"), "weir serve: {why}");
                    (self.address, self.admin) = (free_port(), free_port());
                    self.write();
                }
            }
        }
    }

    /// Starts the process and does not wait.
    pub fn spawn(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("serve.log")).expect("a log file");
        let mut command = self.command(&["serve"]);
        if let Some(user) = &self.user {
            command = self.command_of(&user.program, &["serve"]);
            command.uid(user.id).gid(user.id);
        }
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.child = Some(command.spawn().expect("weir serve"));
    }

    /// Waits until `/ready` says this status.
    pub fn wait(&mut self, status: u16) -> Result<(), String> {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if self.ready() == status {
                return Ok(());
            }
            let child = self.child.as_mut().expect("a process that was started");
            if let Some(status) = child.try_wait().expect("the child's state") {
                return Err(format!("ended with {status}: {}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("/ready is never {status}, but {}: {}", self.ready(), self.log()))
    }

    /// Status of `/ready`; 0: no answer.
    pub fn ready(&self) -> u16 {
        get(self.admin, "/ready").get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends the process as an operator does, and checks that it obeys.
    pub fn end(&mut self) {
        let mut child = self.child.take().expect("a process that was started");
        signal(&child, "TERM");
        if wait_exit(&mut child, DEADLINE).is_none() {
            let _ = child.kill();
            panic!("TERM did not end the proxy: {}", self.log());
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config(&self) -> PathBuf {
        self.path("weir.yaml")
    }

    /// What the process logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }

    /// A `weir` command on this configuration, in this folder.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_weir")), args)
    }

    fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).arg("-c").arg(self.config()).current_dir(self.folder.path()).stdin(Stdio::null());
        command.envs(self.recipe.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end, well or not.
    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("weir runs")
    }

    /// Runs `weir keys …` to a good end; returns its JSON.
    pub fn keys(&self, args: &[&str]) -> Value {
        let output = self.output(&[&["keys"], args, &["--json"]].concat());
        assert!(output.status.success(), "weir keys {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    }

    /// Makes a key.
    pub fn create(&self, flags: &[&str]) -> Key {
        made(&self.keys(&[&["create"], flags].concat()))
    }

    /// Gives a key a new secret.
    pub fn rotate(&self, key: &Key, grace: &str) -> (Key, Value) {
        let value = self.keys(&["rotate", &key.id, "--grace", grace]);
        (made(&value), value)
    }

    /// Runs the writer over the spool until `count` rows are there; returns all rows, each as JSON by column.
    pub fn usage(&self, count: usize) -> Vec<Map<String, Value>> {
        let mut command = self.command(&["writer"]);
        let mut writer = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("weir writer");
        let until = Instant::now() + DEADLINE;
        while self.rows().len() < count && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(&writer, "TERM");
        if wait_exit(&mut writer, DEADLINE).is_none() {
            let _ = writer.kill();
            panic!("the writer did not end");
        }
        let rows = self.rows();
        assert_eq!(rows.len(), count, "one row per admitted request, no more, no less: {rows:#?}");
        rows
    }

    /// The rows that the writer has written so far.
    fn rows(&self) -> Vec<Map<String, Value>> {
        let path = self.path("state/usage.db");
        let read = || -> rusqlite::Result<Vec<Map<String, Value>>> {
            let database = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            database.busy_timeout(DEADLINE)?;
            let mut query = database.prepare("SELECT * FROM usage_records ORDER BY ts_received, request_id")?;
            let names: Vec<String> = query.column_names().map(str::to_owned).collect();
            let rows = query.query_map([], |row| {
                let cell = |(at, name): (usize, &String)| Ok((name.clone(), as_json(row.get(at)?)));
                names.iter().enumerate().map(cell).collect::<rusqlite::Result<Map<String, Value>>>()
            })?;
            rows.collect()
        };
        // No file and no table yet are no rows yet.
        read().unwrap_or_default()
    }
}

/// Whose a file is.
pub fn owner(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).uid()
}

impl Drop for Weir {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4_000);
            let from = (from..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
            eprintln!("--- weir serve on {} said (the end of it):\n{}", self.address, &log[from..]);
        }
    }
}

fn as_json(value: SqlValue) -> Value {
    match value {
        SqlValue::Null => Value::Null,
        SqlValue::Integer(number) => json!(number),
        SqlValue::Real(number) => json!(number),
        SqlValue::Text(text) => json!(text),
        SqlValue::Blob(bytes) => json!(String::from_utf8_lossy(&bytes)),
    }
}

fn made(value: &Value) -> Key {
    let text = |name: &str| value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}")).to_owned();
    Key { text: text("key"), id: text("key_id") }
}

/// The whole answer to a GET, head and all; empty if there is none.
pub fn get(address: SocketAddr, path: &str) -> String {
    use std::io::{Read, Write};
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_default()
}
