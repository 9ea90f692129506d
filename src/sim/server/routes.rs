//! From a request to its response: routes, errors, and the faults that strike before or instead of the answer.

use super::anthropic::{self, Message};
use super::ask::{Answer, Ask, BadAsk, embedding_inputs};
use super::driver::{Call, Desk, Work};
use super::faults::{Break, FAULT_HEADER, Faults, Opening, Standing};
use super::flow::{Broken, FlowSeed, Watch};
use super::journal::Journal;
use super::metrics::Meters;
use super::openai::{self, Chunks, Form};
use super::responses;
use super::socket::Wire;
use super::sse::Scribe;
use super::text;
use crate::domain::surface::{Dialect, Surface};
use crate::domain::units::Tokens;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes of a request body.
const MAX_BODY: usize = 64 * 1024 * 1024;

pub(super) type Body = UnsyncBoxBody<Bytes, Broken>;

/// What all connections of one engine share.
pub(super) struct Site {
    pub(super) name: String,
    pub(super) model: String,
    pub(super) started: i64,
    pub(super) desk: Desk,
    pub(super) meters: Arc<Meters>,
    pub(super) journal: Arc<Journal>,
    pub(super) standing: Standing,
}

/// Answers one request. An error closes the connection without a byte.
pub(super) async fn serve(
    site: Arc<Site>,
    wire: Arc<Wire>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Broken> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return Ok(refusal(StatusCode::PAYLOAD_TOO_LARGE, path, "The body is too large or broke off.", None));
    };
    let body = body.to_bytes();
    let mut response = match (head.method.as_str(), path) {
        ("GET", "/health") => plain(if site.standing.unhealthy() { 503 } else { 200 }, "text/plain", ""),
        ("GET", "/metrics") => {
            let text = site.meters.exposition(&site.model, site.desk.limits());
            plain(200, "text/plain; version=0.0.4; charset=utf-8", text)
        }
        ("GET", "/v1/models") => {
            let limits = site.desk.limits();
            let context = limits.blocks() * limits.block_tokens;
            document(StatusCode::OK, &openai::models(&site.model, site.started, context))
        }
        ("GET", "/sim/requests") => document(StatusCode::OK, &site.journal.read()),
        ("POST", "/sim/faults") => set_faults(&site, path, &body),
        ("POST", "/v1/messages/count_tokens") => count_tokens(&body),
        (method, path) => {
            site.journal.came(method, path, &head.headers, &body);
            let surface = Surface::of(method, path);
            if !surface.is_llm() {
                refusal(StatusCode::NOT_FOUND, path, "Not Found", None)
            } else {
                model_call(&site, &wire, surface, (path, &head.headers), &body).await?
            }
        }
    };
    let orca = head.headers.get("endpoint-load-metrics-format").and_then(|format| format.to_str().ok());
    if let Some(value) = orca.and_then(|format| site.meters.orca(format))
        && let Ok(value) = HeaderValue::try_from(value)
    {
        response.headers_mut().insert("endpoint-load-metrics", value);
    }
    if let Ok(name) = HeaderValue::try_from(&site.name) {
        response.headers_mut().insert("x-sim-engine", name);
    }
    Ok(response)
}

async fn model_call(
    site: &Site,
    wire: &Arc<Wire>,
    surface: Surface,
    (path, headers): (&str, &HeaderMap),
    body: &Bytes,
) -> Result<Response<Body>, Broken> {
    let wanted = headers.get(FAULT_HEADER).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let faults = match site.standing.of_request(wanted.as_deref()) {
        Ok(faults) => faults,
        Err(error) => return Ok(refusal(StatusCode::BAD_REQUEST, path, &error.to_string(), Some(FAULT_HEADER))),
    };
    if faults != Faults::default() {
        site.journal.struck();
    }
    let mut watch = Watch::new(Arc::clone(&site.journal));
    if let Some(stall) = faults.stall {
        tokio::time::sleep(stall).await;
    }
    if let Some(status) = faults.interim {
        wire.put_before_answer(status);
    }
    match faults.opening {
        Some(Opening::Reset) => {
            wire.reset_on_close();
            watch.over();
            return Err(Broken);
        }
        Some(Opening::Eof) => {
            watch.over();
            return Err(Broken);
        }
        Some(Opening::Status(status)) => {
            watch.over();
            return Ok(refusal(status_of(status), path, "Simulated failure.", None));
        }
        Some(Opening::ErrorEvent) | None => {}
    }
    let answer = answered(site, wire, surface, body, &faults).await;
    match answer {
        Ok(Reply::Stream(seed)) => Ok(streamed(*seed, watch).await),
        Ok(Reply::Whole(value)) => {
            watch.over();
            Ok(match faults.breaks {
                Some((kind, _)) if kind != Break::Error => broken_document(&value, kind, wire),
                _ => document(StatusCode::OK, &value),
            })
        }
        Err((status, bad)) => {
            watch.over();
            Ok(refusal(status, path, &bad.message, bad.param))
        }
    }
}

enum Reply {
    Whole(Value),
    Stream(Box<FlowSeed>),
}

type Refused = (StatusCode, BadAsk);

fn bad_request(bad: BadAsk) -> Refused {
    (StatusCode::BAD_REQUEST, bad)
}

fn unavailable() -> Refused {
    (StatusCode::INTERNAL_SERVER_ERROR, BadAsk { message: "The engine is shutting down.".into(), param: None })
}

/// Runs the request through the engine.
async fn answered(
    site: &Site,
    wire: &Arc<Wire>,
    surface: Surface,
    body: &[u8],
    faults: &Faults,
) -> Result<Reply, Refused> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| bad_request(BadAsk { message: format!("JSON decode error: {error}"), param: None }))?;
    let ask = Ask::read(surface, &body).map_err(bad_request)?;
    if let Some(model) = ask.model.as_deref().filter(|model| *model != site.model) {
        let message = format!("The model `{model}` does not exist.");
        return Err((StatusCode::NOT_FOUND, BadAsk { message, param: Some("model") }));
    }
    if surface == Surface::OpenAiEmbeddings {
        return embedded(site, &ask, &body).await;
    }
    let answer = ask.plan(&site.model, unix_now(), site.desk.limits()).map_err(bad_request)?;
    let namespace = format!("{}\0{}", site.model, ask.salt);
    let call = submit(site, &ask.prompt, &namespace, (answer.input, answer.output, answer.choices)).await?;
    if ask.stream {
        let scribe = scribe(surface, &answer, !faults.no_usage);
        let seed = FlowSeed { call, answer, scribe, faults: faults.clone(), wire: Arc::clone(wire) };
        return Ok(Reply::Stream(Box::new(seed)));
    }
    call.line.all().await;
    if call.line.refused() {
        return Err(unavailable());
    }
    let (cached, usage) = (call.line.cached(), !faults.no_usage);
    Ok(Reply::Whole(match surface {
        Surface::AnthropicMessages => anthropic::whole(&answer, cached, usage),
        Surface::OpenAiResponses => responses::whole(&answer, cached, usage),
        Surface::OpenAiCompletions => openai::whole(Form::Text, &answer, cached, usage),
        _ => openai::whole(Form::Chat, &answer, cached, usage),
    }))
}

fn scribe(surface: Surface, answer: &Answer, usage: bool) -> Box<dyn Scribe> {
    match surface {
        Surface::AnthropicMessages => Box::new(Message::new(usage)),
        Surface::OpenAiResponses => Box::new(responses::Response::new(usage)),
        Surface::OpenAiCompletions => Box::new(Chunks::new(Form::Text, answer, usage)),
        _ => Box::new(Chunks::new(Form::Chat, answer, usage)),
    }
}

async fn submit(
    site: &Site,
    prompt: &str,
    namespace: &str,
    (input, output, choices): (Tokens, Tokens, usize),
) -> Result<Call, Refused> {
    let chain = text::chain(prompt, namespace, site.desk.limits().block_tokens);
    site.desk.submit(Work { chain, input, output, choices }).await.map_err(|_| unavailable())
}

async fn embedded(site: &Site, ask: &Ask, body: &Value) -> Result<Reply, Refused> {
    let inputs = embedding_inputs(body).map_err(bad_request)?;
    let prompt = inputs.concat();
    let tokens = text::count(&prompt);
    if !site.desk.limits().fits(tokens, Tokens(0)) {
        let message = format!("The input of {} tokens is longer than the maximum model length.", tokens.0);
        return Err(bad_request(BadAsk { message, param: Some("input") }));
    }
    let namespace = format!("{}\0{}", site.model, ask.salt);
    let call = submit(site, &prompt, &namespace, (tokens, Tokens(0), 1)).await?;
    call.line.all().await;
    let id = uuid::Uuid::now_v7().simple().to_string();
    Ok(Reply::Whole(openai::embeddings(&id, unix_now(), &site.model, &inputs, body)))
}

async fn streamed(seed: FlowSeed, watch: Watch) -> Response<Body> {
    let whole = seed.faults.content_length;
    let mut frames = Box::pin(seed.begin(watch));
    let mut response = if whole {
        let mut body = Vec::new();
        let mut broken = false;
        while let Some(frame) = frames.next().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(bytes)) => body.extend_from_slice(&bytes),
                Ok(Err(_)) => {}
                Err(Broken) => broken = true,
            }
        }
        // A broken stream promises more than it sends.
        let promised = body.len() + usize::from(broken);
        let end = broken.then_some(Err(Broken));
        let parts = futures_util::stream::iter([Ok(Frame::data(Bytes::from(body)))].into_iter().chain(end));
        let mut response = Response::new(StreamBody::new(parts).boxed_unsync());
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(promised));
        response
    } else {
        Response::new(StreamBody::new(frames).boxed_unsync())
    };
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A JSON answer that ends in the middle of its body.
fn broken_document(value: &Value, kind: Break, wire: &Arc<Wire>) -> Response<Body> {
    let text = Bytes::from(value.to_string());
    let (half, wire) = (text.slice(..text.len() / 2), Arc::clone(wire));
    let end = futures_util::stream::once(async move {
        match kind {
            Break::Stall => std::future::pending().await,
            Break::Reset => wire.reset_on_close(),
            Break::Eof | Break::Cut | Break::Error => {}
        }
        // Pending once: hyper writes the first half out before it sees the error.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        Err(Broken)
    });
    let parts = futures_util::stream::iter([Ok(Frame::data(half))]).chain(end);
    let mut response = Response::new(StreamBody::new(parts).boxed_unsync());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn set_faults(site: &Site, path: &str, body: &[u8]) -> Response<Body> {
    let bad = |message: &str| refusal(StatusCode::BAD_REQUEST, path, message, Some("fault"));
    let Ok(order) = serde_json::from_slice::<Value>(body) else { return bad("the body must be a JSON object") };
    let faults = match &order["fault"] {
        Value::Null => None,
        Value::String(text) => match Faults::parse(text) {
            Ok(faults) => Some(faults),
            Err(error) => return bad(&error.to_string()),
        },
        _ => return bad("`fault` must be a string or null"),
    };
    let set = faults.is_some();
    site.standing.set(faults, order["times"].as_u64());
    document(StatusCode::OK, &json!({"set": set}))
}

fn count_tokens(body: &[u8]) -> Response<Body> {
    let asked = serde_json::from_slice(body)
        .map_err(|error| error.to_string())
        .and_then(|body| Ask::read(Surface::AnthropicMessages, &body).map_err(|bad| bad.message));
    match asked {
        Ok(ask) => document(StatusCode::OK, &json!({"input_tokens": text::count(&ask.prompt).0})),
        Err(message) => refusal(StatusCode::BAD_REQUEST, "/v1/messages", &message, None),
    }
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// An error in the dialect of the path: vLLM's own names in OpenAI's envelope, or Anthropic's.
fn refusal(status: StatusCode, path: &str, message: &str, param: Option<&str>) -> Response<Body> {
    let body = match Surface::dialect_of(path) {
        Dialect::Anthropic => {
            let kind = match status.as_u16() {
                400 => "invalid_request_error",
                401 => "authentication_error",
                403 => "permission_error",
                404 => "not_found_error",
                413 => "request_too_large",
                429 => "rate_limit_error",
                504 => "timeout_error",
                503 | 529 => "overloaded_error",
                _ => "api_error",
            };
            anthropic::error(kind, message, &uuid::Uuid::now_v7().simple().to_string())
        }
        Dialect::OpenAi => {
            let kind = match status.as_u16() {
                400 => "BadRequestError",
                401 => "AuthenticationError",
                404 => "NotFoundError",
                429 => "RateLimitError",
                503 => "ServiceUnavailableError",
                _ => "InternalServerError",
            };
            json!({"error": {"message": message, "type": kind, "param": param, "code": status.as_u16()}})
        }
    };
    let mut response = document(status, &body);
    if matches!(status.as_u16(), 429 | 503) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

fn document(status: StatusCode, value: &Value) -> Response<Body> {
    plain(status.as_u16(), "application/json", value.to_string())
}

fn plain(status: u16, kind: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status_of(status);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Seconds since 1970.
pub(super) fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
