//! Opaque OAuth 2 tokens (RFC 7662): the provider is asked what a token stands for, once for all who present it, and its
//! answer is believed for a while. Decides whom to ask and how long to believe; what an answer means is `answer`.

mod answer;
mod flights;

use super::cache::{self, TokenHash};
use super::complaints::Complaints;
use super::own_key;
use crate::config::snapshot::IntrospectionAuth;
use crate::domain::principal::{AuthMethod, Principal, Profile};
use crate::domain::units::WallMicros;
use crate::io::fetch::{Fetch, FetchError, Limits};
use crate::logic::access::claims::{self, Statement};
use crate::logic::access::expression::Variables;
use crate::ports::{AuthRequest, Authenticate, Rejection, Verdict};
use answer::{Answer, after};
use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flights::{Flights, Full};
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderMap, HeaderValue};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::{Map, Value};
use std::sync::Arc;
use url::form_urlencoded;
use zeroize::Zeroizing;

/// Questions under way at most, over all tokens: a provider that is slow must not collect our requests.
const AT_ONCE: usize = 64;
/// Bytes of an answer at most.
const MAX_ANSWER: usize = 64 * 1024;
/// Bytes of a token at most; as for signed ones.
const MAX_TOKEN: usize = 8 * 1024;
/// Noes that are kept. They have a cache of their own, so that a storm of bad tokens drives out no good one.
const MAX_NOES: usize = 10_000;
/// What counts as one entry of the configured number: a larger answer counts as several, so that memory is bounded.
const ENTRY_BYTES: usize = 1024;

/// A token that holds.
#[derive(Clone)]
struct Held {
    principal: Principal,
    until: WallMicros,
    weight: u64,
}

#[derive(Clone)]
struct ByWeight;

impl Weighter<TokenHash, Held> for ByWeight {
    fn weight(&self, _: &TokenHash, held: &Held) -> u64 {
        held.weight
    }
}

/// What came of a question.
#[derive(Clone)]
enum Outcome {
    Known(Principal),
    Refused,
    Unavailable,
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Known(principal) => Self::Known(principal),
            Outcome::Refused => Self::Rejected(Rejection::BadToken),
            Outcome::Unavailable => Self::Rejected(Rejection::Unavailable("introspection")),
        }
    }
}

/// One `auth.NAME.introspection`.
pub struct Introspection {
    provider: Arc<Provider>,
    flights: Flights<TokenHash, Outcome>,
}

/// The provider, and what it has said.
struct Provider {
    name: String,
    settings: IntrospectionAuth,
    /// Our name and secret there.
    basic: HeaderValue,
    fetch: Fetch,
    held: Cache<TokenHash, Held, ByWeight>,
    /// Tokens that do not hold, and until when that is believed.
    refused: Cache<TokenHash, WallMicros>,
    failures: Complaints,
    refusals: Complaints,
}

impl Introspection {
    /// Asks the configured provider through `fetch`.
    #[must_use]
    pub fn new(name: &str, settings: IntrospectionAuth, fetch: Fetch) -> Self {
        let entries = settings.entries.max(1);
        let provider = Provider {
            name: name.to_owned(),
            basic: basic(&settings.client_id, &settings.client_secret.0),
            held: Cache::with_weighter(entries, entries as u64, ByWeight),
            refused: Cache::new(MAX_NOES),
            settings,
            fetch,
            failures: Complaints::default(),
            refusals: Complaints::default(),
        };
        Self { provider: Arc::new(provider), flights: Flights::new(AT_ONCE) }
    }
}

/// `Basic …` with both parts encoded as in a form (RFC 6749 §2.3.1): a colon in the name would else end it.
fn basic(client_id: &str, secret: &[u8]) -> HeaderValue {
    let encoded = |part: &[u8]| form_urlencoded::byte_serialize(part).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", encoded(client_id.as_bytes()), encoded(secret)));
    let text = Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes())));
    // Base 64 is always a header value.
    let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

/// A bearer token (RFC 6750 §2.1); nothing else is sent to anybody.
fn is_token(credential: &[u8]) -> bool {
    let end = credential.iter().rposition(|byte| *byte != b'=').map_or(0, |at| at + 1);
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
    end > 0 && credential.len() <= MAX_TOKEN && credential.get(..end).is_some_and(|body| body.iter().all(letter))
}

#[async_trait]
impl Authenticate for Introspection {
    fn look(&self, request: &AuthRequest<'_>) -> Verdict {
        match request.credential {
            None => Verdict::NotMine,
            Some(credential) if own_key::resembles(credential) => Verdict::NotMine,
            Some(credential) if !is_token(credential) => Verdict::Rejected(Rejection::BadToken),
            Some(credential) => {
                let hash = cache::hash(credential);
                self.provider.remembered(&hash, request.now).map_or(Verdict::Ask, Verdict::from)
            }
        }
    }

    async fn ask(&self, request: &AuthRequest<'_>) -> Verdict {
        let Some(credential) = request.credential.filter(|credential| is_token(credential)) else {
            return Verdict::NotMine;
        };
        let (hash, now) = (cache::hash(credential), request.now);
        let question = || {
            let provider = Arc::clone(&self.provider);
            let form = form(credential);
            async move { provider.question(hash, form, now).await }
        };
        match self.flights.join(hash, question).await {
            Ok(outcome) => outcome.into(),
            Err(Full) => self.provider.unavailable(now, "too many questions are under way").into(),
        }
    }
}

/// The body of a question (RFC 7662 §2.1).
fn form(token: &[u8]) -> String {
    let encoded: String = form_urlencoded::byte_serialize(token).collect();
    format!("token={encoded}&token_type_hint=access_token")
}

impl Provider {
    /// What is known without asking.
    fn remembered(&self, hash: &TokenHash, now: WallMicros) -> Option<Outcome> {
        if let Some(held) = self.held.get(hash).filter(|held| held.until > now) {
            return Some(Outcome::Known(held.principal));
        }
        self.refused.get(hash).filter(|until| *until > now).map(|_| Outcome::Refused)
    }

    /// Asks, and keeps what was said.
    async fn question(&self, hash: TokenHash, form: String, now: WallMicros) -> Outcome {
        // Another asker's question may have ended between our look and now.
        if let Some(outcome) = self.remembered(&hash, now) {
            return outcome;
        }
        let body = match self.fetch(form).await {
            Ok(body) => body,
            Err(why) => return self.unavailable(now, &why),
        };
        let settings = &self.settings;
        match answer::read(&body, &settings.audiences, settings.ttl, now) {
            Err(error) => self.unavailable(now, &error.to_string()),
            Ok(Answer::Inactive(why)) => self.refuse(hash, now, why),
            Ok(Answer::Active(claims, until)) => match self.profile(claims) {
                Ok(profile) => {
                    let principal = Principal::of(Arc::new(profile), AuthMethod::Introspection);
                    let weight = body.len().div_ceil(ENTRY_BYTES).max(1) as u64;
                    self.held.insert(hash, Held { principal: principal.clone(), until, weight });
                    Outcome::Known(principal)
                }
                Err(why) => self.refuse(hash, now, &why),
            },
        }
    }

    /// The body of a 200.
    async fn fetch(&self, form: String) -> Result<Vec<u8>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, self.basic.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let limits = Limits { timeout: self.settings.timeout, bytes: MAX_ANSWER };
        let asked = self.fetch.post_form(&self.settings.url, headers, form, limits).await;
        match asked.map_err(|error: FetchError| error.to_string())? {
            answer if answer.status == 200 => Ok(answer.body),
            // 401 is about our own name and secret, not about the token.
            answer => Err(format!("status {}; look at client_id and client_secret", answer.status)),
        }
    }

    fn profile(&self, claims: Map<String, Value>) -> Result<Profile, String> {
        let claims = Arc::new(Value::Object(claims));
        let variables = Variables::new().with("claims", Arc::clone(&claims));
        let subject = claims.get("sub").and_then(Value::as_str);
        let statement = Statement { variables: &variables, subject, claims: Some(&claims) };
        claims::profile(&self.settings.mapping, statement).map_err(|error| error.to_string())
    }

    fn refuse(&self, hash: TokenHash, now: WallMicros, why: &str) -> Outcome {
        self.refused.insert(hash, after(now, answer::NO_FOR.min(self.settings.ttl)));
        if self.refusals.due(now) {
            tracing::info!(authenticator = self.name, why, "A token was refused.");
        }
        Outcome::Refused
    }

    fn unavailable(&self, now: WallMicros, why: &str) -> Outcome {
        if self.failures.due(now) {
            tracing::warn!(
                authenticator = self.name,
                why,
                "The introspection endpoint gives no answer; tokens that are not known are refused."
            );
        }
        Outcome::Unavailable
    }
}

#[cfg(test)]
mod tests;
