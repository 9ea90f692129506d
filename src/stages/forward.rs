//! Stage 7: what goes upstream? The head and the body of one attempt: cleaned of what the client may not say,
//! with the members spliced in that metering and isolation need, and our credential last. It sends nothing.

use crate::config::snapshot::{Authenticator, Backend, Credential};
use crate::domain::call::Call;
use crate::domain::principal::AuthMethod;
use crate::domain::surface::Surface;
use crate::exchange::Exchange;
use crate::logic::access::credentials::without_key;
use crate::logic::usage::stream_meter::Strip;
use crate::logic::wire::identity;
use crate::logic::wire::splice::{Edits, splice};
use crate::logic::wire::strict::{hop_by_hop, nominated, same_name, spoofed};
use base64::Engine as _;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

/// What a service may be sent and is no credential: without these a backend could not read its request.
const DESCRIBES: [&str; 7] =
    ["accept", "accept-encoding", "accept-language", "content-encoding", "content-type", "origin", "user-agent"];

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
    exchange.state().sent = true;
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

/// The path as the backend sees it.
fn path(exchange: &Exchange, backend: &Backend) -> String {
    format!("{}{}", backend.prefix, exchange.facts.path)
}

/// Path and query, without the key that a query may carry where keys may be in queries.
fn target(exchange: &Exchange, backend: &Backend) -> String {
    let (facts, path) = (&exchange.facts, path(exchange, backend));
    let Some(query) = &facts.query else { return path };
    if !Surface::takes_key_in_query(&facts.path) || is_open(exchange) {
        return format!("{path}?{query}");
    }
    without_key(query).map_or(path.clone(), |query| format!("{path}?{query}"))
}

/// True where nobody was asked who they are: what looks like a credential is then between client and backend.
fn is_open(exchange: &Exchange) -> bool {
    exchange.route.auth.is_empty() && exchange.principal.method == AuthMethod::Anonymous
}

/// The fields that pass, then ours. A field that `Connection` names is the hop's own, whatever it is called.
fn head(exchange: &Exchange, backend: &Backend, inbound: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let connection: Vec<&str> =
        inbound.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(inbound.len() + 11);
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
    identify(&mut headers, exchange, backend);
    present(&mut headers, exchange);
    headers
}

/// Tells a trusted backend who calls.
fn identify(headers: &mut Vec<(HeaderName, HeaderValue)>, exchange: &Exchange, backend: &Backend) {
    let Some(wanted) = &exchange.pool.config.identity else { return };
    let mut told = identity::headers(&exchange.principal);
    if let Some(key) = &wanted.sign {
        let facts = &exchange.facts;
        let now = exchange.runtime.services.clock.wall();
        let path = path(exchange, backend);
        let bound = identity::Bound { now, request_id: facts.request_id, method: &facts.method, path: &path };
        let signature = identity::signature(&key.0, &told, &bound);
        told.extend(signature.map(|value| (identity::SIGNATURE, value)));
    }
    for (name, value) in told {
        add(headers, HeaderName::from_static(name), &value);
    }
}

/// Our own credential, behind everything else, so that nothing can stand in its place.
fn present(headers: &mut Vec<(HeaderName, HeaderValue)>, exchange: &Exchange) {
    let (name, value) = match &exchange.pool.config.credential {
        None => return,
        Some(Credential::Bearer(secret)) => (Ok(header::AUTHORIZATION), [b"Bearer ", &secret.0[..]].concat()),
        Some(Credential::Header(name, secret)) => (HeaderName::from_bytes(name.as_bytes()), secret.0.to_vec()),
    };
    let value = zeroize::Zeroizing::new(value);
    match (name, HeaderValue::from_bytes(&value)) {
        (Ok(name), Ok(mut value)) => {
            value.set_sensitive(true);
            headers.push((name, value));
        }
        _ => tracing::error!(pool = %exchange.pool.id(), "this pool's credential is no header; it is not sent"),
    }
}

/// What the client may not say upstream: its credential, what claims to come from a gateway, and the header of our own
/// credential. Plain HTTP keeps its cookies unless an external service was shown them as a credential, and where nobody
/// asked for it its `Authorization`, which is then between the client and the backend.
fn withheld(exchange: &Exchange, name: &str) -> bool {
    let ours = match &exchange.pool.config.credential {
        None => false,
        Some(Credential::Bearer(_)) => same_name(name, header::AUTHORIZATION.as_str()),
        Some(Credential::Header(own, _)) => same_name(name, own),
    };
    let plain = exchange.call.is_none();
    let own_business = plain && (name == "cookie" || (name == "authorization" && is_open(exchange)));
    ours || shown_to_a_service(exchange, name) || (!own_business && (spoofed(name) || carries_keys(exchange, name)))
}

/// True for headers that an external service of this route is shown as credentials, and for those in which it answers
/// who calls: the client's own would look like that answer.
fn shown_to_a_service(exchange: &Exchange, name: &str) -> bool {
    let asked = |authenticator: &String| {
        exchange.principal.method == AuthMethod::ExtAuthz || exchange.route.auth.contains(authenticator)
    };
    exchange.runtime.snapshot.auth.iter().any(|(authenticator, settings)| match settings {
        Authenticator::ExtAuthz(settings) if asked(authenticator) => {
            let sent = settings.send.iter().any(|own| same_name(name, own)) && !DESCRIBES.contains(&name);
            let answers = [&settings.tenant, &settings.team, &settings.user, &settings.roles];
            sent || answers.iter().any(|own| same_name(name, own))
        }
        _ => false,
    })
}

/// True for headers in which some authenticator looks for Weir's keys, whatever the operator has called them.
fn carries_keys(exchange: &Exchange, name: &str) -> bool {
    exchange.runtime.snapshot.auth.values().any(|authenticator| match authenticator {
        Authenticator::ApiKey(settings) => settings.headers.iter().any(|own| same_name(name, own)),
        _ => false,
    })
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
    mac.update(exchange.principal.profile.tenant.as_str().as_bytes());
    Some(base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes()))
}
