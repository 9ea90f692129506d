//! Clients over raw HTTP/1.1, and over HTTP/2 with prior knowledge on the same port.

use super::proxy::DEADLINE;
use bytes::Bytes;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How a body is framed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// HTTP/1.1 with Content-Length.
    Length,
    /// HTTP/1.1, chunked.
    Chunked,
    /// HTTP/2 with Content-Length.
    H2Length,
    /// HTTP/2 without.
    H2Open,
}

impl Framing {
    pub const ALL: [Self; 4] = [Self::Length, Self::Chunked, Self::H2Length, Self::H2Open];

    fn h2(self) -> bool {
        matches!(self, Self::H2Length | Self::H2Open)
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// 0: there was none.
    pub status: u16,
    /// Status line and fields; fields alone over HTTP/2.
    pub head: String,
    /// Without chunked framing.
    pub body: Vec<u8>,
    /// The body had its proper end (all of Content-Length, the last chunk, END_STREAM).
    pub complete: bool,
    /// Time from the request to the head.
    pub first: Duration,
    /// Time from the request to the end.
    pub whole: Duration,
    /// Time to `100 Continue`, if it came.
    pub continued: Option<Duration>,
}

impl Answer {
    fn none(started: Instant) -> Self {
        let whole = started.elapsed();
        let (head, body) = (String::new(), Vec::new());
        Self { status: 0, head, body, complete: false, first: whole, whole, continued: None }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The value of a header; empty if absent, panics if it is there twice.
    pub fn header(&self, name: &str) -> String {
        let field = |line: &str| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        let all: Vec<String> = self.head.lines().filter_map(field).collect();
        assert!(all.len() < 2, "{name} is there {} times: {}", all.len(), self.head);
        all.into_iter().next().unwrap_or_default()
    }

    /// `x-request-id`, which every answer has, and which is a UUIDv7.
    pub fn request_id(&self) -> String {
        let id = self.header("x-request-id");
        let version = uuid::Uuid::parse_str(&id).map(|id| id.get_version_num());
        assert_eq!(version, Ok(7), "x-request-id of {} {:?} is a UUIDv7: {id:?}", self.status, self.text());
        id
    }

    /// Holds an OpenAI error to its exact shape; returns its message.
    pub fn assert_error(&self, status: u16, kind: &str, code: &str, param: Option<&str>) -> String {
        assert_eq!(
            (self.status, self.code().as_str()),
            (status, code),
            "status and code: {} {}",
            self.head,
            self.text()
        );
        let value = self.json();
        let message = value["error"]["message"].as_str().unwrap_or_default().to_owned();
        let wanted = serde_json::json!({"error": {"message": message, "type": kind, "param": param, "code": code}});
        assert_eq!(value, wanted, "exactly the four keys of OpenAI's shape");
        assert!(!message.is_empty(), "an error says what is wrong");
        assert!(!message.contains("127.0.0.1"), "no upstream address in {message:?}");
        assert!(self.header("content-type").starts_with("application/json"), "content type: {}", self.head);
        assert!(self.complete, "the error's body is whole");
        self.request_id();
        message
    }

    /// `error.code` of an OpenAI error body; empty if it is none.
    pub fn code(&self) -> String {
        let value: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        value["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    method: String,
    path: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    framing: Framing,
    expect: bool,
}

impl Ask {
    /// A request with a key.
    pub fn new(method: &str, path: &str, key: &str) -> Self {
        let ask = Self {
            method: method.to_owned(),
            path: path.to_owned(),
            fields: Vec::new(),
            body: Vec::new(),
            framing: Framing::Length,
            expect: false,
        };
        if key.is_empty() { ask } else { ask.field("authorization", &format!("Bearer {key}")) }
    }

    /// A chat completion.
    pub fn chat(key: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", "/v1/chat/completions", key).field("content-type", "application/json").body(body)
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Names the case, for the backends' scripts.
    pub fn case(self, name: &str) -> Self {
        self.field("x-case", name)
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// With `Expect: 100-continue`.
    pub fn expecting(mut self, expect: bool) -> Self {
        self.expect = expect;
        self
    }

    /// Sends it on a new connection and reads the answer. Panics if that takes longer than the deadline.
    pub async fn send(&self, address: SocketAddr) -> Answer {
        let answer = tokio::time::timeout(DEADLINE, self.exchange(address)).await;
        answer.unwrap_or_else(|_| panic!("{} {} hangs: no answer within {DEADLINE:?}", self.method, self.path))
    }

    async fn exchange(&self, address: SocketAddr) -> Answer {
        if self.framing.h2() {
            return self.send_h2(address).await;
        }
        let mut wire = Wire::open(address).await;
        wire.send(&self.head()).await;
        if self.expect && !self.body.is_empty() && !wire.continues().await {
            return wire.answer().await;
        }
        wire.send(&self.framed()).await;
        wire.answer().await
    }

    /// Head and body as they stand on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head();
        bytes.extend_from_slice(&self.framed());
        bytes
    }

    fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: test\r\n", self.method, self.path);
        for (name, value) in &self.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match self.framing {
            Framing::Chunked => head.push_str("transfer-encoding: chunked\r\n"),
            _ if self.body.is_empty() && self.method == "GET" => {}
            _ => head.push_str(&format!("content-length: {}\r\n", self.body.len())),
        }
        if self.expect {
            head.push_str("expect: 100-continue\r\n");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    fn framed(&self) -> Vec<u8> {
        if self.framing != Framing::Chunked {
            return self.body.clone();
        }
        let mut bytes = Vec::with_capacity(self.body.len() + 64);
        for piece in self.body.chunks(50_000) {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        bytes
    }

    async fn send_h2(&self, address: SocketAddr) -> Answer {
        let started = Instant::now();
        let stream = TcpStream::connect(address).await.expect("the proxy accepts");
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
        let Ok((client, connection)) = builder.handshake::<_, Bytes>(stream).await else {
            return Answer::none(started);
        };
        let driver = tokio::spawn(connection);
        let answer = self.exchange_h2(client, started).await.unwrap_or_else(|_| Answer::none(started));
        driver.abort();
        answer
    }

    async fn exchange_h2(&self, client: h2::client::SendRequest<Bytes>, started: Instant) -> Result<Answer, h2::Error> {
        let mut client = client.ready().await?;
        let mut request =
            http::Request::builder().method(self.method.as_str()).uri(format!("http://test{}", self.path));
        for (name, value) in &self.fields {
            request = request.header(name, value);
        }
        if self.framing == Framing::H2Length {
            request = request.header("content-length", self.body.len());
        }
        if self.expect {
            request = request.header("expect", "100-continue");
        }
        let request = request.body(()).expect("a request");
        // Without a length an empty body is an empty DATA frame, with one it is the head's own end.
        let bodiless = self.body.is_empty() && (self.framing == Framing::H2Length || self.method == "GET");
        let (response, body) = client.send_request(request, bodiless)?;
        let mut upload = pin!(async {
            if !bodiless {
                // An error here is the server's early answer; the answer is what counts.
                let _ = upload(body, Bytes::from(self.body.clone())).await;
            }
        });
        let mut response = pin!(response);
        let mut uploading = true;
        let response = loop {
            tokio::select! {
                response = &mut response => break response?,
                () = &mut upload, if uploading => uploading = false,
            }
        };
        let first = started.elapsed();
        let status = response.status().as_u16();
        let fields = response.headers().iter();
        let head: String = fields.map(|(k, v)| format!("{k}: {}\r\n", String::from_utf8_lossy(v.as_bytes()))).collect();
        let (body, complete) = read_h2(response.into_body()).await;
        Ok(Answer { status, head, body, complete, first, whole: started.elapsed(), continued: None })
    }
}

async fn upload(mut out: h2::SendStream<Bytes>, mut body: Bytes) -> Result<(), h2::Error> {
    if body.is_empty() {
        return out.send_data(body, true);
    }
    while !body.is_empty() {
        out.reserve_capacity(body.len());
        let Some(granted) = poll_fn(|context| out.poll_capacity(context)).await else { return Ok(()) };
        let piece = body.split_to(granted?.min(body.len()));
        let last = body.is_empty();
        out.send_data(piece, last)?;
    }
    Ok(())
}

async fn read_h2(mut incoming: h2::RecvStream) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(piece) = incoming.data().await {
        let Ok(piece) = piece else { return (body, false) };
        body.extend_from_slice(&piece);
        if incoming.flow_control().release_capacity(piece.len()).is_err() {
            return (body, false);
        }
    }
    (body, true)
}

/// One raw HTTP/1.1 connection.
pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    started: Instant,
    continued: Option<Duration>,
}

impl Wire {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the proxy accepts");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, buffer: Vec::new(), started: Instant::now(), continued: None }
    }

    /// Sends bytes; the clock of the next answer starts here. A refusal may come before all is sent, and then the
    /// write fails: the answer is what counts.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.started = Instant::now();
        let _ = self.stream.write_all(bytes).await;
    }

    /// True if the next thing that comes is `100 Continue`.
    async fn continues(&mut self) -> bool {
        let Some(end) = self.head_end().await else { return false };
        if !self.buffer.starts_with(b"HTTP/1.1 100") {
            return false;
        }
        self.continued = Some(self.started.elapsed());
        self.buffer.drain(..end);
        true
    }

    /// Reads until the raw bytes of the coming answer contain a text; false if the connection ends, or the deadline
    /// passes, before.
    pub async fn until(&mut self, text: &str) -> bool {
        let found = async {
            while memchr::memmem::find(&self.buffer, text.as_bytes()).is_none() {
                if !self.more().await {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(DEADLINE, found).await.unwrap_or(false)
    }

    /// Reads one answer; interim ones are skipped. Panics if that takes longer than the deadline.
    pub async fn answer(&mut self) -> Answer {
        let answer = tokio::time::timeout(DEADLINE, self.next_answer()).await;
        answer.unwrap_or_else(|_| panic!("hangs: no whole answer within {DEADLINE:?}"))
    }

    async fn next_answer(&mut self) -> Answer {
        loop {
            let Some(end) = self.head_end().await else { return Answer::none(self.started) };
            let head: Vec<u8> = self.buffer.drain(..end).collect();
            let head = String::from_utf8_lossy(&head).into_owned();
            let status = head.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
            if status == 100 {
                self.continued = self.continued.or(Some(self.started.elapsed()));
                continue;
            }
            let first = self.started.elapsed();
            let (body, complete) = self.body(status, &head.to_ascii_lowercase()).await;
            let (whole, continued) = (self.started.elapsed(), self.continued.take());
            return Answer { status, head, body, complete, first, whole, continued };
        }
    }

    /// Reads to the end of the connection; returns what came. Panics if the connection stays open.
    pub async fn rest(&mut self) -> Vec<u8> {
        let end = async { while self.more().await {} };
        let ended = tokio::time::timeout(DEADLINE, end).await;
        assert!(ended.is_ok(), "the connection is still open");
        std::mem::take(&mut self.buffer)
    }

    /// Closes with a reset.
    pub fn reset(self) {
        #[allow(deprecated)] // with a span of zero nothing blocks
        self.stream.set_linger(Some(Duration::ZERO)).expect("a zero linger");
    }

    async fn head_end(&mut self) -> Option<usize> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                return Some(end + 4);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn body(&mut self, status: u16, head: &str) -> (Vec<u8>, bool) {
        if status == 204 || status == 304 {
            return (Vec::new(), true);
        }
        if head.contains("transfer-encoding: chunked") {
            return self.chunks().await;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let wanted = length.unwrap_or(usize::MAX);
        while self.buffer.len() < wanted && self.more().await {}
        let body: Vec<u8> = self.buffer.drain(..wanted.min(self.buffer.len())).collect();
        let complete = length.is_none_or(|length| body.len() == length);
        (body, complete)
    }

    async fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            while let Some(line) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let digits = String::from_utf8_lossy(&self.buffer[..line]).into_owned();
                let Ok(size) = usize::from_str_radix(digits.trim(), 16) else { return (body, false) };
                if self.buffer.len() < line + 2 + size + 2 {
                    break;
                }
                body.extend_from_slice(&self.buffer[line + 2..line + 2 + size]);
                self.buffer.drain(..line + 2 + size + 2);
                if size == 0 {
                    return (body, true);
                }
            }
            if !self.more().await {
                return (body, false);
            }
        }
    }

    /// Reads on; false at the end of the connection, clean or not.
    async fn more(&mut self) -> bool {
        self.buffer.reserve(16 << 10);
        self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) > 0
    }
}
