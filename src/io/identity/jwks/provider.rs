//! One issuer over HTTP: its discovery document and its key set, each bounded and checked. Decides which address the
//! keys are fetched from.

use crate::io::fetch::{Answer, Fetch, FetchError, Limits, require_protected};
use crate::logic::access::jwt::{KeySet, KeySetError, MAX_DOCUMENT};
use http::HeaderMap;
use http::header::{ACCEPT, HeaderValue};
use std::time::Duration;
use url::Url;

/// How long each of the two answers may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a discovery document; real ones have three to five thousand.
const MAX_DISCOVERY: usize = 64 << 10;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProviderError {
    /// No answer.
    #[error("{what}: {error}")]
    Fetch {
        /// `discovery document` or `key set`.
        what: &'static str,
        /// Why.
        error: FetchError,
    },
    /// An answer that is not 200.
    #[error("{what}: status {status} instead of 200")]
    Status {
        /// `discovery document` or `key set`.
        what: &'static str,
        /// The status.
        status: u16,
    },
    /// The issuer is no address that a discovery document can be at.
    #[error("discovery needs an issuer that is an https URL without query; name `jwks.url`")]
    Issuer,
    /// The discovery document cannot be read.
    #[error("the discovery document has no `issuer` and `jwks_uri`, each once")]
    Discovery,
    /// The discovery document is another issuer's.
    #[error("the discovery document is of another issuer")]
    ForeignDiscovery,
    /// The key set's address may not be fetched from.
    #[error("`jwks_uri` is no https URL")]
    KeysUrl,
    /// The key set is none.
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

#[derive(serde::Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// The client's side of one issuer.
pub(super) struct Provider {
    issuer: String,
    configured: Option<Url>,
    discovered: Option<Url>,
    fetch: Fetch,
}

impl Provider {
    pub(super) fn new(issuer: String, configured: Option<Url>, fetch: Fetch) -> Self {
        Self { issuer, configured, discovered: None, fetch }
    }

    /// `iss`
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Fetches the keys; `discover`: also looks where they are, if the configuration does not say so.
    pub(super) async fn keys(&mut self, discover: bool) -> Result<KeySet, ProviderError> {
        let url = self.address(discover).await?;
        let answer = self.get("key set", &url, MAX_DOCUMENT).await?;
        Ok(KeySet::parse(&answer.body)?)
    }

    async fn address(&mut self, discover: bool) -> Result<Url, ProviderError> {
        if let Some(url) = &self.configured {
            return Ok(url.clone());
        }
        match &self.discovered {
            Some(url) if !discover => return Ok(url.clone()),
            _ => {}
        }
        let found = match (self.discover().await, &self.discovered) {
            (Err(ProviderError::Fetch { .. } | ProviderError::Status { .. }), Some(before)) => {
                // The keys need not be where the document is: they are asked for where they were last.
                tracing::warn!(issuer = self.issuer, "The discovery document could not be fetched again.");
                before.clone()
            }
            (found, _) => found?,
        };
        self.discovered = Some(found.clone());
        Ok(found)
    }

    async fn discover(&self) -> Result<Url, ProviderError> {
        let issuer = Url::parse(&self.issuer).map_err(|_| ProviderError::Issuer)?;
        if issuer.query().is_some() || issuer.fragment().is_some() {
            return Err(ProviderError::Issuer);
        }
        let text = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let url = Url::parse(&text).map_err(|_| ProviderError::Issuer)?;
        let answer = self.get("discovery document", &url, MAX_DISCOVERY).await?;
        let found: Discovery = serde_json::from_slice(&answer.body).map_err(|_| ProviderError::Discovery)?;
        if found.issuer != self.issuer {
            return Err(ProviderError::ForeignDiscovery);
        }
        let keys = Url::parse(&found.jwks_uri).map_err(|_| ProviderError::KeysUrl)?;
        // A remote issuer has no business on this machine's loopback.
        let allowed = require_protected(&keys).is_ok() && (keys.scheme() == "https" || issuer.scheme() == "http");
        if allowed { Ok(keys) } else { Err(ProviderError::KeysUrl) }
    }

    async fn get(&self, what: &'static str, url: &Url, bytes: usize) -> Result<Answer, ProviderError> {
        require_protected(url).map_err(|error| ProviderError::Fetch { what, error })?;
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        let answer = self.fetch.get(url, headers, Limits { timeout: TIMEOUT, bytes }).await;
        let answer = answer.map_err(|error| ProviderError::Fetch { what, error })?;
        match answer.status {
            200 => Ok(answer),
            status => Err(ProviderError::Status { what, status }),
        }
    }
}
