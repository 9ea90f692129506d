//! Stage 7: what goes upstream? The head and the body of one attempt: cleaned of what the client may not say,
//! with the members spliced in that metering and isolation need, and our credential last. It sends nothing.

use crate::config::snapshot::Backend;
use crate::domain::call::Call;
use crate::domain::surface::Surface;
use crate::exchange::Exchange;
use crate::logic::usage::stream_meter::Strip;
use crate::logic::wire::splice::{Edits, splice};
use crate::logic::wire::strict::{hop_by_hop, nominated, spoofed};
use base64::Engine as _;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

/// One request to one backend.
pub struct Outbound {
    /// Path and query, the backend's prefix included.
    pub target: String,
    /// Every field, in order.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The whole body; `None` where it is streamed (plain HTTP).
    pub body: Option<Bytes>,
}

/// The request for a model call to one backend.
#[must_use]
pub fn call(exchange: &Exchange, call: &Call, backend: &Backend, inbound: &HeaderMap) -> Outbound {
    let body = body(exchange, call);
    let mut headers = head(exchange, backend, inbound);
    headers.push((header::CONTENT_LENGTH, HeaderValue::from(body.len())));
    Outbound { target: target(exchange, backend), headers, body: Some(body) }
}

/// The head of plain HTTP to one backend; the body follows as it comes.
#[must_use]
pub fn http(exchange: &Exchange, backend: &Backend, inbound: &HeaderMap) -> Outbound {
    let mut headers = head(exchange, backend, inbound);
    if let Some(length) = inbound.get(header::CONTENT_LENGTH) {
        headers.push((header::CONTENT_LENGTH, length.clone()));
    }
    Outbound { target: target(exchange, backend), headers, body: None }
}

fn target(exchange: &Exchange, backend: &Backend) -> String {
    let facts = &exchange.facts;
    match &facts.query {
        Some(query) => format!("{}{}?{query}", backend.prefix, facts.path),
        None => format!("{}{}", backend.prefix, facts.path),
    }
}

/// The fields that pass, then ours. A field that `Connection` names is the hop's own, whatever it is called.
fn head(exchange: &Exchange, backend: &Backend, inbound: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let connection: Vec<&str> =
        inbound.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(inbound.len() + 6);
    for (name, value) in inbound {
        let text = name.as_str();
        let ours = matches!(text, "host" | "content-length");
        // A compressed answer cannot be metered; plain HTTP is not.
        let ours = ours || (text == "accept-encoding" && exchange.call.is_some());
        let hops = hop_by_hop(text) || connection.iter().any(|value| nominated(value, text));
        if ours || hops || withheld(exchange, text) {
            continue;
        }
        headers.push((name.clone(), value.clone()));
    }
    add(&mut headers, header::HOST, &host(backend));
    add(&mut headers, HeaderName::from_static("x-request-id"), &exchange.facts.request_id.to_string());
    add(&mut headers, HeaderName::from_static("x-forwarded-for"), &exchange.facts.client.to_string());
    if let Some(secret) = &exchange.pool.config.bearer {
        let mut value = b"Bearer ".to_vec();
        value.extend_from_slice(&secret.0);
        if let Ok(mut value) = HeaderValue::from_bytes(&value) {
            value.set_sensitive(true);
            headers.push((header::AUTHORIZATION, value));
        }
    }
    headers
}

/// What the client may not say upstream. Plain HTTP keeps its cookies, and on an open route its `Authorization`,
/// which is then between the client and the backend.
fn withheld(exchange: &Exchange, name: &str) -> bool {
    let plain = exchange.call.is_none();
    let own_business = name == "cookie" || (name == "authorization" && exchange.route.auth.is_empty());
    spoofed(name) && !(plain && own_business)
}

fn add(headers: &mut Vec<(HeaderName, HeaderValue)>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.push((name, value));
    }
}

fn host(backend: &Backend) -> String {
    let usual = if backend.tls { 443 } else { 80 };
    if backend.port == usual { backend.host.clone() } else { format!("{}:{}", backend.host, backend.port) }
}

/// The caller's body with our edits; the very same bytes where there are none.
fn body(exchange: &Exchange, call: &Call) -> Bytes {
    let injects = injects_usage(exchange, call);
    let salt = cache_salt(exchange, call);
    splice(
        call,
        &Edits {
            model: (exchange.model_routed != call.model).then_some(exchange.model_routed.as_str()),
            include_usage: injects,
            continuous_usage: injects && injects_running(exchange, call),
            strip_cache_salt: salt.is_none(),
            cache_salt: salt.as_deref(),
        },
    )
}

/// True where `include_usage` is ours to ask for.
fn injects_usage(exchange: &Exchange, call: &Call) -> bool {
    call.stream
        && exchange.runtime.snapshot.usage.inject_stream_usage
        && matches!(call.surface, Surface::OpenAiChat | Surface::OpenAiCompletions)
}

/// True where a running count is asked for too: an exact figure at any cut. Not where the client asked for usage
/// itself: its stream then passes byte-identical.
fn injects_running(exchange: &Exchange, call: &Call) -> bool {
    exchange.pool.config.engine.continuous_usage() && !call.include_usage && !call.continuous_usage
}

/// What the meter has to take out again.
#[must_use]
pub fn strip(exchange: &Exchange) -> Strip {
    let Some(call) = &exchange.call else { return Strip { usage_event: false, running_usage: false } };
    let injects = injects_usage(exchange, call);
    Strip { usage_event: injects && !call.include_usage, running_usage: injects && injects_running(exchange, call) }
}

/// The tenant's salt for engines that know `cache_salt` (base64 of HMAC-SHA-256): never the client's own, which
/// would let one tenant time another's prompts (reliability.md, KV isolation).
fn cache_salt(exchange: &Exchange, call: &Call) -> Option<String> {
    let pool = &exchange.pool.config;
    if !pool.isolate_tenants || !pool.engine.cache_salt() || call.surface == Surface::OpenAiEmbeddings {
        return None;
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(&exchange.runtime.services.salt_key.0).ok()?;
    mac.update(b"weir cache_salt\0");
    mac.update(exchange.principal.tenant.as_str().as_bytes());
    Some(base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes()))
}
