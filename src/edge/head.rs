//! Sees every raw HTTP/1 head before Pingora's parser (pingora.md §14.3): one deadline for the whole head, one size
//! limit, and the strict rules of `logic/wire/strict`. HTTP/2 goes to Pingora's stock path untouched. TLS begins here
//! and not in Pingora, so that one bound and one deadline hold for a connection from its first byte on.

use super::proxy::Proxy;
use super::tls::Tls;
use super::upstream::UpstreamConnector;
use crate::config::snapshot::Listener;
use crate::domain::ids::RequestId;
use crate::domain::refusal::Refusal;
use crate::domain::surface::Dialect;
use crate::logic::wire::{error_body, strict};
use crate::ports::Observer;
use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::{HttpProxy, ProcessCustomSession};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The connection preface of HTTP/2 with prior knowledge (RFC 9113 §3.4), as far as it looks like a head.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
/// Read this much at a time.
const READ_STEP: usize = 1024;
/// How long a refusal of a head may take to be written.
const WRITE_PATIENCE: Duration = Duration::from_secs(2);

type Served = HttpProxy<Proxy, UpstreamConnector>;

/// Lets an HTTP/2 connection back into Pingora's stock path.
struct Http2 {
    served: Arc<Served>,
    options: HttpServerOptions,
    /// A request has come.
    used: AtomicBool,
}

#[async_trait]
impl HttpServerApp for Http2 {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.used.store(true, Ordering::Relaxed);
        self.served.process_new_http(session, shutdown).await
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// What came of reading a head.
enum Read {
    /// Head, and perhaps the beginning of a body.
    Head(BytesMut),
    /// Nobody there any more, or the idle time is over.
    Closed,
    /// Not a head that we take.
    Refused(Refusal),
}

/// What a listener's connections pass before their first head.
pub struct Door {
    /// Its settings.
    pub listener: Arc<Listener>,
    /// Its side of TLS; `None`: plain text.
    pub tls: Option<Arc<Tls>>,
    /// One permit for each open connection of the process.
    pub connections: Arc<Semaphore>,
    /// One for each that shakes hands: clients that never finish must not take the place of those that did.
    pub handshakes: Arc<Semaphore>,
    /// Counts them.
    pub observer: Arc<dyn Observer>,
}

/// The hook for one listener.
pub fn hook(door: Door) -> ProcessCustomSession<Proxy, UpstreamConnector> {
    let door = Arc::new(door);
    Arc::new(move |served: Arc<Served>, stream: Stream, shutdown: &ShutdownWatch| {
        let (door, shutdown) = (Arc::clone(&door), shutdown.clone());
        Box::pin(async move {
            // Over the limit the connection is closed unread: an answer would cost what the limit is there to save.
            let Ok(permit) = Arc::clone(&door.connections).try_acquire_owned() else {
                door.observer.connections("refused", 1);
                return None;
            };
            // A task of its own, so that Pingora's accept task ends here: its state (14 KiB, most of it for a TLS
            // handshake) would otherwise live as long as the connection. The drain waits for what is
            // open by `OpenRequests`, not by tasks.
            tokio::spawn(async move {
                door.observer.connections("open", 1);
                // Boxed: the state of a handshake is large, and this future lives as long as the connection.
                if let Some(stream) = Box::pin(enter(&door, stream)).await {
                    converse(served, stream, shutdown, &door.listener).await;
                }
                door.observer.connections("open", -1);
                drop(permit);
            });
            None
        })
    })
}

/// What HTTP is spoken on: behind TLS, where the listener has it. `None`: closed.
async fn enter(door: &Door, stream: Stream) -> Option<Stream> {
    let Some(tls) = &door.tls else { return Some(stream) };
    let Ok(_shaking) = door.handshakes.try_acquire() else {
        door.observer.connections("refused", 1);
        return None;
    };
    tls.accept(stream).await
}

/// Speaks the protocol that the handshake chose, or that the first bytes show.
async fn converse(served: Arc<Served>, stream: Stream, shutdown: ShutdownWatch, listener: &Listener) {
    if stream.selected_alpn_proto() == Some(ALPN::H2) {
        return Box::pin(http2((served, listener.idle_timeout), stream, &shutdown)).await;
    }
    connection(served, stream, shutdown, listener).await;
}

/// The keep-alive loop of one connection.
async fn connection(served: Arc<Served>, mut stream: Stream, mut shutdown: ShutdownWatch, listener: &Listener) {
    let mut settings: Option<HttpPersistentSettings> = None;
    loop {
        let head = match read_head(&mut stream, &mut shutdown, listener).await {
            Read::Head(head) => head,
            Read::Closed => return,
            Read::Refused(refusal) => return Box::pin(refuse(&mut stream, &refusal)).await,
        };
        if settings.is_none() && head.starts_with(H2_PREFACE) {
            let Some(stream) = rewound(stream, &head) else { return };
            // Boxed: its state is large, and this future lives as long as the connection.
            return Box::pin(http2((served, listener.idle_timeout), stream, &shutdown)).await;
        }
        let mut session = ServerSession::new_http1(stream);
        match settings.take() {
            Some(kept) => kept.apply_to_session(&mut session),
            None => session.set_keepalive(Some(listener.idle_timeout.as_secs().max(1))),
        }
        if *shutdown.borrow() {
            session.set_keepalive(None);
        }
        session.set_pipelined_prefix(head);
        let Some(reused) = served.process_new_http(session, &shutdown).await else { return };
        (stream, settings) = reused.consume();
    }
}

/// Plain text with the bytes that were read put back. Behind TLS HTTP/2 is agreed on in the handshake, or not spoken.
fn rewound(stream: Stream, read: &[u8]) -> Option<Stream> {
    let mut stream = stream.into_any().downcast::<L4Stream>().ok()?;
    stream.rewind(read);
    Some(stream)
}

/// HTTP/2: Pingora takes over. A connection on which no request comes for the idle time is closed, whether or not its
/// preface ever came to an end; of later idleness Pingora takes care.
async fn http2((served, idle): (Arc<Served>, Duration), stream: Stream, shutdown: &ShutdownWatch) {
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    options.h2_idle_timeout = Some(idle);
    let app = Arc::new(Http2 { served, options, used: AtomicBool::new(false) });
    let unused = async {
        tokio::time::sleep(idle).await;
        if app.used.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = app.process_new(stream, shutdown) => {}
        () = unused => {}
    }
}

/// Reads one head: idle time until its first byte, then one deadline for all of it.
async fn read_head(stream: &mut Stream, shutdown: &mut ShutdownWatch, listener: &Listener) -> Read {
    let mut buffer = BytesMut::with_capacity(READ_STEP);
    tokio::select! {
        read = stream.read_buf(&mut buffer) => {
            if !matches!(read, Ok(count) if count > 0) {
                return Read::Closed;
            }
        }
        () = tokio::time::sleep(listener.idle_timeout) => return Read::Closed,
        _ = shutdown.wait_for(|down| *down) => return Read::Closed,
    }
    let deadline = Instant::now() + listener.header_timeout;
    let mut seen = 0;
    loop {
        if let Some(end) = end_of_head(&buffer, seen) {
            return judge(buffer, end, listener.header_bytes);
        }
        if buffer.len() > listener.header_bytes {
            return Read::Refused(too_large());
        }
        if let Some(refusal) = hopeless(&buffer) {
            return Read::Refused(refusal);
        }
        seen = buffer.len().saturating_sub(3);
        buffer.reserve(READ_STEP);
        match tokio::time::timeout_at(deadline, stream.read_buf(&mut buffer)).await {
            Ok(Ok(count)) if count > 0 => {}
            Err(_) => return Read::Refused(Refusal::RequestTimeout),
            _ => return Read::Closed,
        }
    }
}

fn end_of_head(buffer: &[u8], from: usize) -> Option<usize> {
    memchr::memmem::find(&buffer[from..], b"\r\n\r\n").map(|at| from + at + 4)
}

/// A head whose lines end in bare LF never shows CRLFCRLF; it is refused when its end is seen, not at the deadline.
fn hopeless(buffer: &[u8]) -> Option<Refusal> {
    memchr::memmem::find(buffer, b"\n\n")
        .map(|_| Refusal::MalformedRequest { status: 400, detail: "lines of a head end in CRLF" })
}

fn too_large() -> Refusal {
    Refusal::MalformedRequest { status: 431, detail: "the head is too large" }
}

fn judge(buffer: BytesMut, end: usize, limit: usize) -> Read {
    if end > limit {
        return Read::Refused(too_large());
    }
    if buffer.starts_with(H2_PREFACE) {
        return Read::Head(buffer);
    }
    match strict::check_head(&buffer[..end]) {
        Ok(()) => Read::Head(buffer),
        Err(refusal) => Read::Refused(refusal),
    }
}

/// Answers a head that never became a request, and closes. Its dialect is not known: the target is in doubt too.
async fn refuse(stream: &mut Stream, refusal: &Refusal) {
    let id = RequestId(uuid::Uuid::now_v7()).to_string();
    let reply = error_body::render(refusal, Dialect::OpenAi, &id);
    let status = http::StatusCode::from_u16(reply.status).unwrap_or(http::StatusCode::BAD_REQUEST);
    let reason = status.canonical_reason().unwrap_or("Error");
    let mut text = format!("HTTP/1.1 {} {reason}\r\nx-request-id: {id}\r\nconnection: close\r\n", status.as_u16());
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("content-length: {}\r\n\r\n", reply.body.len()));
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&reply.body);
    tracing::info!(request_id = %id, status = reply.status, why = ?refusal, "A malformed request head was refused.");
    let write = async {
        stream.write_all(&bytes).await?;
        stream.flush().await
    };
    // A client that does not take its refusal has nothing more to lose, here and in the closing.
    let _ = tokio::time::timeout(WRITE_PATIENCE, write).await;
    let _ = AsyncWriteExt::shutdown(stream).await;
}
