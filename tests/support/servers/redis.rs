//! One Redis server. Decides how it is started; what is asked of it by `redis-cli` is the tests' matter.

use super::process::{DEADLINE, LOOK, Server, free_port, signal};
use std::process::Command;
use std::time::Instant;

/// What a Redis logs when it can be used.
pub const READY: &str = "Ready to accept connections";

/// A Redis server.
pub struct Redis {
    server: Server,
    arguments: Vec<String>,
    /// A cluster's nodes speak to each other on a port of their own; 0: it is in no cluster.
    bus_port: u16,
    password: Option<String>,
    tls: bool,
}

impl Redis {
    /// Starts one, without a password and without files.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with further arguments, as on its command line: `&["--maxmemory", "2mb", "--appendonly", "yes"]`.
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut this = Self::prepared(arguments);
        this.start_again();
        this
    }

    /// One that is not started yet.
    pub fn prepared(arguments: &[&str]) -> Self {
        let password = arguments.windows(2).find(|pair| pair[0] == "--requirepass").map(|pair| pair[1].to_owned());
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { server: Server::new("redis-server", READY), arguments, bus_port: 0, password, tls: false }
    }

    /// A node of a cluster.
    pub fn start_node(arguments: &[&str]) -> Self {
        let mut this = Self::prepared(arguments);
        this.bus_port = free_port();
        this.start_again();
        this
    }

    /// One that speaks TLS only: a certificate and its key, in PEM. `redis-cli` is not told how.
    pub fn start_with_tls(certificate: &str, key: &str) -> Self {
        let mut this = Self::prepared(&[]);
        this.tls = true;
        let (cert_file, key_file) = (this.path("tls.pem"), this.path("tls.key"));
        std::fs::write(&cert_file, certificate).expect("written");
        std::fs::write(&key_file, key).expect("written");
        let files = ["--tls-cert-file", &cert_file, "--tls-key-file", &key_file, "--tls-ca-cert-file", &cert_file];
        this.arguments = files.iter().chain(&["--tls-auth-clients", "no"]).map(|&word| word.to_owned()).collect();
        this.start_again();
        this
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let login = self.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://{login}127.0.0.1:{}/0", self.server.port)
    }

    /// The server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// The port of its cluster's bus.
    pub fn bus_port(&self) -> u16 {
        self.bus_port
    }

    /// A file in its folder.
    pub fn path(&self, file: &str) -> String {
        self.server.path(file)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Ends the server at once; where it keeps data on disk, they are whole.
    pub fn stop(&mut self) {
        self.server.end(signal::INT);
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        self.server.end(signal::KILL);
    }

    /// Starts it on the same port: empty, unless its arguments make it keep data.
    pub fn start_again(&mut self) {
        let (dir, bus_port) = (self.server.path(""), self.bus_port.to_string());
        let (arguments, tls) = (&self.arguments, self.tls);
        self.server.start(|port| {
            let mut command = Command::new("redis-server");
            let port = port.to_string();
            let listen = if tls { ["--port", "0", "--tls-port", &port] } else { ["--tls-port", "0", "--port", &port] };
            command.args(listen).args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            command.args(["--dir", &dir, "--daemonize", "no"]);
            if bus_port != "0" {
                command.args(["--cluster-enabled", "yes", "--cluster-port", &bus_port]);
            }
            // The last word on a setting counts.
            command.args(arguments);
            command
        });
    }

    /// The same with other arguments.
    pub fn start_again_with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self.start_again();
    }

    /// Freezes the server: connections stay, answers do not come.
    pub fn pause(&self) {
        self.server.signal_all(signal::STOP);
    }

    /// Ends [`Redis::pause`].
    pub fn resume(&self) {
        self.server.signal_all(signal::CONT);
    }

    /// Forgets all keys, and the scripts.
    pub fn empty(&self) {
        self.cli(&["FLUSHALL"]);
        self.cli(&["SCRIPT", "FLUSH"]);
    }

    /// What a command answers, by `redis-cli`, without its last line end. Fails where the server refuses.
    pub fn cli(&self, command: &[&str]) -> String {
        let said = self.try_cli(command);
        let refusals = ["ERR ", "MOVED ", "ASK ", "CLUSTERDOWN ", "NOAUTH ", "WRONGPASS ", "READONLY ", "(error)"];
        assert!(!refusals.iter().any(|word| said.starts_with(word)), "redis-cli {command:?}: {said}");
        said
    }

    /// What it answers, refusals too.
    pub fn try_cli(&self, command: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-h", "127.0.0.1", "-p", &self.server.port.to_string()]);
        if let Some(password) = &self.password {
            cli.env("REDISCLI_AUTH", password);
        }
        let out = cli.args(command).output().expect("redis-cli can be run: scripts/setup-tests installs it");
        let said = if out.stdout.is_empty() { out.stderr } else { out.stdout };
        String::from_utf8_lossy(&said).trim_end().to_owned()
    }

    /// Waits until a command's answer is as wanted.
    pub fn wait_until(&self, command: &[&str], wanted: impl Fn(&str) -> bool) {
        let end = Instant::now() + DEADLINE;
        loop {
            let said = self.try_cli(command);
            if wanted(&said) {
                return;
            }
            assert!(Instant::now() < end, "{command:?} still says: {said}");
            std::thread::sleep(LOOK);
        }
    }
}
