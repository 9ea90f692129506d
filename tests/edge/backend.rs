//! Scripted backends: raw sockets, so that they can break HTTP in every way a test needs. They record what they are
//! sent. What to say is found by the request's `x-case` header, so that many cases can run beside each other.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a backend does with one request.
#[derive(Clone, Debug)]
pub enum Act {
    /// First act only: do not read the body.
    BodyUnread,
    /// Write this.
    Say(Vec<u8>),
    /// Wait.
    Pause(Duration),
    /// Wait, and read nothing.
    Stall(Duration),
    /// Wait for the other side to close, for as long as it takes.
    Hold,
    /// Close with a reset.
    Reset,
    /// Close.
    Close,
}

/// One attempt's acts.
pub type Script = Vec<Act>;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
    /// Which backend.
    pub backend: usize,
    /// Which connection, over all backends.
    pub connection: usize,
}

impl Seen {
    /// The one value of a header; empty if it is absent, panics if it is there twice.
    pub fn header(&self, name: &str) -> String {
        let all = self.headers(name);
        assert!(all.len() < 2, "{name} is there {} times: {}", all.len(), self.head);
        all.into_iter().next().unwrap_or_default()
    }

    /// All values of a header.
    pub fn headers(&self, name: &str) -> Vec<String> {
        let field = |line: &str| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        self.head.lines().skip(1).filter_map(field).collect()
    }
}

#[derive(Default)]
struct Journal {
    seen: Vec<(String, Seen)>,
    scripts: HashMap<String, VecDeque<Script>>,
    /// When a connection was seen closed by the other side, by the case that it served.
    gone: Vec<(String, Instant)>,
}

#[derive(Default)]
struct Shared {
    journal: Mutex<Journal>,
    connections: AtomicUsize,
    bytes: AtomicUsize,
}

impl Shared {
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().expect("the journal is whole")
    }
}

/// Several backends with one journal.
#[derive(Clone)]
pub struct Backends {
    pub addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
}

impl Backends {
    pub async fn start(count: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let mut addresses = Vec::new();
        for backend in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            addresses.push(listener.local_addr().expect("its address"));
            tokio::spawn(accept(listener, backend, Arc::clone(&shared)));
        }
        Self { addresses, shared }
    }

    /// What the attempts of a case get, in order. Attempts beyond them, and requests of no case, get a good answer.
    pub fn script(&self, case: &str, attempts: Vec<Script>) {
        let before = self.shared.journal().scripts.insert(case.to_owned(), attempts.into());
        assert!(before.is_none(), "two cases are called {case}");
    }

    /// Every request of a case so far.
    pub fn seen(&self, case: &str) -> Vec<Seen> {
        self.shared.journal().seen.iter().filter(|(name, _)| name == case).map(|(_, seen)| seen.clone()).collect()
    }

    /// Requests of all cases so far.
    pub fn total(&self) -> usize {
        self.shared.journal().seen.len()
    }

    /// `x-request-id` of every request so far.
    pub fn request_ids(&self) -> Vec<String> {
        self.shared.journal().seen.iter().map(|(_, seen)| seen.header("x-request-id")).collect()
    }

    /// Bytes that ever came in.
    pub fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// When the other side was seen to close a connection of this case.
    pub fn gone(&self, case: &str) -> Option<Instant> {
        self.shared.journal().gone.iter().find(|(name, _)| name == case).map(|(_, at)| *at)
    }
}

async fn accept(listener: TcpListener, backend: usize, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
        // Small writes must leave one by one, as engines send their events.
        stream.set_nodelay(true).expect("no delay");
        let wire = Wire { stream, buffer: Vec::new(), shared: Arc::clone(&shared), backend, connection };
        tokio::spawn(wire.serve());
    }
}

struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
    backend: usize,
    connection: usize,
}

impl Wire {
    async fn serve(mut self) {
        while let Some(head) = self.head().await {
            let mut seen = Seen { head, body: Vec::new(), backend: self.backend, connection: self.connection };
            let case = seen.header("x-case");
            let script = self.shared.journal().scripts.get_mut(&case).and_then(VecDeque::pop_front);
            let script = script.unwrap_or_else(|| vec![Act::Say(super::say::json(200, super::say::OK))]);
            if !matches!(script.first(), Some(Act::BodyUnread)) {
                match self.body(&seen.head.to_ascii_lowercase()).await {
                    Some(body) => seen.body = body,
                    None => return self.note_gone(&case),
                }
            }
            self.shared.journal().seen.push((case.clone(), seen));
            if !self.perform(script).await {
                return self.note_gone(&case);
            }
        }
    }

    fn note_gone(&self, case: &str) {
        self.shared.journal().gone.push((case.to_owned(), Instant::now()));
    }

    /// False once the connection is over.
    async fn perform(&mut self, script: Script) -> bool {
        for act in script {
            match act {
                Act::BodyUnread => {}
                Act::Say(bytes) => {
                    if self.stream.write_all(&bytes).await.is_err() {
                        return false;
                    }
                }
                Act::Pause(span) => {
                    if tokio::time::timeout(span, self.until_gone()).await.is_ok() {
                        return false;
                    }
                }
                Act::Stall(span) => tokio::time::sleep(span).await,
                Act::Hold => {
                    self.until_gone().await;
                    return false;
                }
                Act::Reset => {
                    // What was said before must not be taken back by the reset.
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    // Deprecated because a lingering close blocks; with a span of zero it is a reset and does not.
                    #[allow(deprecated)]
                    self.stream.set_linger(Some(Duration::ZERO)).expect("a zero linger");
                    return false;
                }
                Act::Close => return false,
            }
        }
        true
    }

    async fn until_gone(&mut self) {
        while self.more().await.is_some() {}
    }

    async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            self.more().await?;
        }
    }

    /// A body by Content-Length or chunks; `None` if the connection ends before it does.
    async fn body(&mut self, head: &str) -> Option<Vec<u8>> {
        if head.contains("transfer-encoding: chunked") {
            return self.chunks().await;
        }
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
        while self.buffer.len() < length {
            self.more().await?;
        }
        Some(self.buffer.drain(..length).collect())
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                    break at;
                }
                self.more().await?;
            };
            let size = usize::from_str_radix(std::str::from_utf8(&self.buffer[..line]).ok()?.trim(), 16).ok()?;
            while self.buffer.len() < line + 2 + size + 2 {
                self.more().await?;
            }
            body.extend_from_slice(&self.buffer[line + 2..line + 2 + size]);
            self.buffer.drain(..line + 2 + size + 2);
            if size == 0 {
                return Some(body);
            }
        }
    }

    /// Reads on; `None` at the end of the connection.
    async fn more(&mut self) -> Option<()> {
        self.buffer.reserve(64 << 10);
        let count = self.stream.read_buf(&mut self.buffer).await.ok()?;
        self.shared.bytes.fetch_add(count, Ordering::SeqCst);
        (count > 0).then_some(())
    }
}
