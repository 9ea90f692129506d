//! A request as authenticators see it, and the service that they ask.

pub use crate::io::fetch::tests::service::{Asked, Reply, Service, nowhere, reply};

use crate::domain::units::WallMicros;
use crate::ports::AuthRequest;
use http::HeaderMap;
use std::net::{IpAddr, Ipv4Addr};

/// A request with a credential and headers.
pub fn request<'a>(credential: Option<&'a str>, headers: &'a HeaderMap, now: WallMicros) -> AuthRequest<'a> {
    AuthRequest {
        credential: credential.map(str::as_bytes),
        certificate: None,
        method: "POST",
        target: "/v1/chat/completions?a=b",
        host: Some("api.example"),
        headers,
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        now,
    }
}
