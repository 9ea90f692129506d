//! Stage 1: head → the routes that it could mean. Decides strictness of the target, declared size, and which
//! routes match by listener, host, path and method; the model decides among them later (stage 3).

use crate::config::snapshot::{Listener, Match, PathMatch, Route};
use crate::domain::ids::{RequestId, RouteId};
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::domain::surface::{Dialect, Surface};
use crate::domain::units::{Micros, WallMicros};
use crate::logic::wire::strict;
use crate::ports::Birth;
use crate::runtime::Runtime;
use http::HeaderMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Longest client request id and trace id that are kept.
const MAX_FOREIGN_ID: usize = 128;

/// A request head, whatever protocol it came by.
pub struct Head<'a> {
    /// `POST`
    pub method: &'a str,
    /// The path, undecoded.
    pub path: &'a str,
    /// What follows `?`.
    pub query: Option<&'a str>,
    /// `Host` or `:authority`, with its port.
    pub host: Option<&'a str>,
    /// All fields.
    pub headers: &'a HeaderMap,
    /// Who is connected.
    pub peer: IpAddr,
}

/// What is known of every request, admitted or not.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Ours; the value of `x-request-id`.
    pub request_id: RequestId,
    /// When the head was read, on the wall.
    pub received_wall: WallMicros,
    /// The same on the monotonic clock.
    pub received: Micros,
    /// `POST`
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// What follows `?`.
    pub query: Option<String>,
    /// `Host` or `:authority`, without port and lower case.
    pub host: Option<String>,
    /// The caller's address, seen through trusted proxies.
    pub client: IpAddr,
    /// The client's own `x-request-id`.
    pub client_request_id: Option<String>,
    /// From `traceparent`.
    pub trace_id: Option<String>,
    /// Which API.
    pub surface: Surface,
    /// How errors are told.
    pub dialect: Dialect,
    /// `x-weir-timing: 1`
    pub timing: bool,
    /// `x-weir-explain: 1` from a caller who may.
    pub explain: bool,
    /// The caller is within `telemetry.debug_from`.
    pub debug: bool,
}

impl Facts {
    /// What a slot is told of a request; route, model and body are the caller's to add.
    #[must_use]
    pub fn birth(&self, runtime: &Runtime, principal: &Principal) -> Birth {
        Birth {
            request_id: self.request_id,
            received: self.received_wall,
            admitted: runtime.services.clock.wall(),
            tenant: principal.profile.tenant.clone(),
            team: principal.profile.team.as_ref().map(ToString::to_string),
            user: principal.profile.user.as_ref().map(ToString::to_string),
            key: principal.key.clone(),
            secret_gen: principal.secret_gen,
            auth_method: principal.method.name(),
            surface: self.surface,
            stream: false,
            route: RouteId::new(""),
            model: String::new(),
            bytes_in: 0,
            config_version: Arc::clone(&runtime.snapshot.version),
        }
    }
}

/// A head that some route could serve.
pub struct Accepted {
    /// Routes that match by all but the model, in file order; never empty.
    pub candidates: Vec<Arc<Route>>,
    /// `Content-Length`, if there is one.
    pub length: Option<u64>,
}

/// The facts of a head. Never refuses, so that every answer has its request id and dialect.
#[must_use]
pub fn facts(head: &Head<'_>, runtime: &Runtime, listener: &Listener, id: RequestId) -> Facts {
    let client = client_address(head, listener);
    let debug = runtime.snapshot.telemetry.debug_from.iter().any(|net| net.contains(&client));
    let flag = |name: &str| head.headers.get(name).is_some_and(|value| value.as_bytes() == b"1");
    Facts {
        request_id: id,
        received_wall: runtime.services.clock.wall(),
        received: runtime.services.clock.mono(),
        method: head.method.to_owned(),
        path: head.path.to_owned(),
        query: head.query.map(str::to_owned),
        host: head.host.map(host_name),
        client,
        client_request_id: text(head.headers, "x-request-id"),
        trace_id: trace_id(head.headers),
        surface: Surface::of(head.method, head.path),
        dialect: Surface::dialect_of(head.path),
        timing: flag("x-weir-timing"),
        explain: debug && flag("x-weir-explain"),
        debug,
    }
}

/// Finds the routes that a head could mean.
///
/// # Errors
/// `MalformedRequest`, `RequestTooLarge`, `RouteNotFound`.
pub fn accept(head: &Head<'_>, runtime: &Runtime, listener: &Listener) -> Result<Accepted, Refusal> {
    strict::check_target(head.path)?;
    let length = declared_length(head.headers)?;
    if length.is_some_and(|length| length > listener.body_bytes) {
        return Err(Refusal::RequestTooLarge { limit: listener.body_bytes });
    }
    let host = head.host.map(host_name);
    let candidates: Vec<_> = runtime
        .snapshot
        .routes
        .iter()
        .filter(|route| mismatch(&route.matcher, head, host.as_deref(), &listener.name).is_none())
        .cloned()
        .collect();
    if candidates.is_empty() {
        return Err(Refusal::RouteNotFound);
    }
    Ok(Accepted { candidates, length })
}

/// `Content-Length` as one plain number. HTTP/1 heads have passed the strict check; this one covers HTTP/2.
fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let malformed = Refusal::MalformedRequest { status: 400, detail: "content-length is not one plain number" };
    let mut values = headers.get_all("content-length").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(malformed);
    }
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed);
    }
    value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or(malformed)
}

/// The first of a route's conditions, the model apart, that does not hold; `None`: all hold. `host` is lower case and
/// has no port.
#[must_use]
pub fn mismatch(matcher: &Match, head: &Head<'_>, host: Option<&str>, listener: &str) -> Option<&'static str> {
    if matcher.listener.as_deref().is_some_and(|name| name != listener) {
        return Some("listener");
    }
    if matcher.host.as_deref().is_some_and(|wanted| !host.is_some_and(|host| host_matches(wanted, host))) {
        return Some("host");
    }
    if !path_matches(&matcher.path, head.path) {
        return Some("path");
    }
    let any_method = matcher.methods.is_empty();
    (!any_method && !matcher.methods.iter().any(|method| method == head.method)).then_some("method")
}

fn path_matches(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Any => true,
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => {
            let stem = prefix.strip_suffix('/').unwrap_or(prefix);
            path.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(regex) => regex.is_match(path),
    }
}

fn host_matches(wanted: &str, host: &str) -> bool {
    match wanted.strip_prefix("*.") {
        Some(parent) => host.strip_suffix(parent).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => wanted == host,
    }
}

/// The host without its port, lower case.
#[must_use]
pub fn host_name(host: &str) -> String {
    let name = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    name.to_ascii_lowercase()
}

/// The caller's address: the rightmost entry of `x-forwarded-for` that is not itself a trusted proxy, where the
/// peer is one; else the peer.
fn client_address(head: &Head<'_>, listener: &Listener) -> IpAddr {
    let trusted = |address: &IpAddr| listener.trusted_proxies.iter().any(|net| net.contains(address));
    if !trusted(&head.peer) {
        return head.peer;
    }
    let mut client = head.peer;
    let hops: Vec<&str> = head
        .headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .collect();
    for hop in hops.iter().rev() {
        let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
        client = address;
        if !trusted(&address) {
            break;
        }
    }
    client
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty() && value.len() <= MAX_FOREIGN_ID).then(|| value.to_owned())
}

/// The trace id of a W3C `traceparent`: 32 hex digits, not all zero.
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let id = value.get(3..35)?;
    let known = value.as_bytes().get(2) == Some(&b'-') && value.as_bytes().get(35) == Some(&b'-');
    let hex = id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (known && hex && id.bytes().any(|b| b != b'0')).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_a_slash() {
        let prefix = PathMatch::Prefix("/v1/".into());
        assert!(path_matches(&prefix, "/v1/models"), "below the prefix");
        assert!(path_matches(&prefix, "/v1"), "the prefix itself");
        assert!(!path_matches(&prefix, "/v10/models"), "another segment that only starts alike");
        assert!(path_matches(&PathMatch::Prefix("/".into()), "/anything"), "the root matches everything");
    }

    #[test]
    fn a_star_host_needs_a_label() {
        assert!(host_matches("*.example.com", "api.example.com"), "one label before the parent");
        assert!(!host_matches("*.example.com", "example.com"), "the parent itself is not below it");
        assert!(!host_matches("*.example.com", "badexample.com"), "a suffix within a label is no match");
    }

    #[test]
    fn a_host_loses_its_port_and_its_case() {
        assert_eq!(host_name("API.example.com:8080"), "api.example.com", "port and case");
        assert_eq!(host_name("[::1]:8080"), "[::1]", "an IPv6 literal keeps its colons");
        assert_eq!(host_name("[::1]"), "[::1]", "an IPv6 literal without a port");
    }

    #[test]
    fn a_trace_id_of_zeros_is_none() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01".parse().unwrap());
        assert_eq!(trace_id(&headers), None, "all zero is invalid (W3C trace context)");
        headers.insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap());
        assert_eq!(trace_id(&headers).as_deref(), Some("0af7651916cd43dd8448eb211c80319c"), "a valid one is kept");
    }

    #[test]
    fn a_length_is_one_plain_number() {
        let length = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("content-length", value.parse().unwrap());
            }
            declared_length(&headers)
        };
        assert_eq!(length(&[]), Ok(None), "absent");
        assert_eq!(length(&["12"]), Ok(Some(12)), "plain");
        for odd in [&["3", "3"][..], &["3, 3"], &["+3"], &["0x3"], &[""], &["99999999999999999999"]] {
            assert!(length(odd).is_err(), "{odd:?} must be refused");
        }
    }
}
