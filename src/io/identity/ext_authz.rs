//! External authorisation over HTTP, as nginx's `auth_request`: a service is asked about each request, and says who
//! calls. Nothing is kept of what it said; without an answer nobody comes in.

mod answer;

use super::complaints::Complaints;
use super::own_key;
use crate::config::snapshot::ExtAuthzAuth;
use crate::domain::principal::{AuthMethod, Principal};
use crate::io::fetch::{Fetch, Limits};
use crate::ports::{AuthRequest, Authenticate, Verdict};
use answer::UNAVAILABLE;
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Questions under way at most: each holds a connection, and a request that waits.
const AT_ONCE: usize = 256;
/// Bytes of an answer's body at most. It is not looked at; read to its end, its connection can be used again.
const MAX_BODY: usize = 64 * 1024;
/// What the request was, under names of our own.
const ORIGINAL: [&str; 4] = ["x-original-method", "x-original-uri", "x-original-host", "x-forwarded-for"];

/// One `auth.NAME.ext_authz`.
pub struct ExtAuthz {
    name: String,
    settings: ExtAuthzAuth,
    send: Vec<HeaderName>,
    fetch: Fetch,
    slots: Semaphore,
    failures: Complaints,
}

impl ExtAuthz {
    /// Asks the configured service through `fetch`.
    #[must_use]
    pub fn new(name: &str, settings: ExtAuthzAuth, fetch: Fetch) -> Self {
        // A client must not say what the request was.
        let ours = |header: &&String| !ORIGINAL.contains(&header.as_str());
        let send = settings.send.iter().filter(ours).filter_map(|header| HeaderName::try_from(header).ok()).collect();
        let slots = Semaphore::new(AT_ONCE);
        Self { name: name.to_owned(), settings, send, fetch, slots, failures: Complaints::default() }
    }

    /// The fields of the question.
    fn question(&self, request: &AuthRequest<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in &self.send {
            for value in request.headers.get_all(name) {
                let mut value = value.clone();
                value.set_sensitive(true);
                headers.append(name.clone(), value);
            }
        }
        let client = request.client.to_string();
        let values = [Some(request.method), Some(request.target), request.host, Some(&client)];
        for (name, value) in ORIGINAL.into_iter().zip(values) {
            // What is no header value is not sent; a strict head holds none such.
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers
    }

    fn unavailable(&self, request: &AuthRequest<'_>, why: &str) -> Verdict {
        if self.failures.due(request.now) {
            tracing::warn!(
                authenticator = self.name,
                why,
                "The external authorisation service gives no answer; requests are refused."
            );
        }
        Verdict::Rejected(UNAVAILABLE)
    }
}

#[async_trait]
impl Authenticate for ExtAuthz {
    fn look(&self, request: &AuthRequest<'_>) -> Verdict {
        let sent = self.send.iter().flat_map(|name| request.headers.get_all(name));
        let in_headers = sent.into_iter().any(|value| own_key::is_in_header(value.as_bytes()));
        if in_headers || own_key::is_in_target(request.target) {
            return Verdict::NotMine;
        }
        Verdict::Ask
    }

    async fn ask(&self, request: &AuthRequest<'_>) -> Verdict {
        let Ok(_slot) = self.slots.try_acquire() else {
            return self.unavailable(request, "too many requests wait for it");
        };
        let limits = Limits { timeout: self.settings.timeout, bytes: MAX_BODY };
        let answer = match self.fetch.get(&self.settings.url, self.question(request), limits).await {
            Ok(answer) => answer,
            Err(error) => return self.unavailable(request, &error.to_string()),
        };
        match answer::read(answer.status, &answer.headers, &self.settings) {
            Ok(profile) => Verdict::Known(Principal::of(Arc::new(profile), AuthMethod::ExtAuthz)),
            Err(UNAVAILABLE) => {
                let why = format!("status {}, or headers that are no names", answer.status);
                self.unavailable(request, &why)
            }
            Err(why) => Verdict::Rejected(why),
        }
    }
}

#[cfg(test)]
mod tests;
