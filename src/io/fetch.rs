//! The one HTTP client towards other services, such as identity providers and who is told of alerts: bounded in time and
//! size, TLS verified, no redirects, no proxy from the environment. Addresses come from the configuration only; what an
//! answer means is decided by those who ask.

use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderValue};
use std::error::Error;
use std::time::Duration;
use url::{Host, Url};

/// Idle connections kept to one service: they answer many requests a second, and are asked few.
const IDLE_CONNECTIONS: usize = 8;
/// How long an idle connection is kept; many servers close theirs after 60 s or more.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take to be made, within the time of the whole request.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What one request may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the start to the last byte of the answer.
    pub timeout: Duration,
    /// Bytes of the answer's body.
    pub bytes: usize,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 200, 401, …; a redirect is an answer like any other.
    pub status: u16,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Vec<u8>,
}

/// Why there is no answer. Names no address and no credential.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FetchError {
    /// The client could not be made: most often the system has no root certificates.
    #[error("no HTTP client: {0}; install the system's CA certificates or set SSL_CERT_FILE")]
    Client(String),
    /// Neither https nor this machine.
    #[error("a service is asked over https only, except on loopback")]
    Insecure,
    /// It took longer than [`Limits::timeout`].
    #[error("no answer in time")]
    Timeout,
    /// Nobody listens, or TLS failed.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The answer is larger than [`Limits::bytes`].
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The connection broke, or the answer is no HTTP.
    #[error("the exchange failed: {0}")]
    Broken(String),
}

/// The client; cheap to clone. Its calls need a tokio runtime around them.
#[derive(Clone, Debug)]
pub struct Fetch {
    client: reqwest::Client,
}

impl Fetch {
    /// A client with the system's root certificates.
    ///
    /// # Errors
    /// [`FetchError::Client`].
    pub fn new() -> Result<Self, FetchError> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
            .map_err(|error| FetchError::Client(cause(&error)))?;
        Ok(Self { client })
    }

    /// Asks with GET.
    ///
    /// # Errors
    /// [`FetchError`], unless there is a whole answer.
    pub async fn get(&self, url: &Url, headers: HeaderMap, limits: Limits) -> Result<Answer, FetchError> {
        exchange(self.client.get(url.clone()).headers(headers), limits).await
    }

    /// Sends a form (`application/x-www-form-urlencoded`, encoded already) with POST.
    ///
    /// # Errors
    /// [`FetchError`], unless there is a whole answer.
    pub async fn post_form(
        &self,
        url: &Url,
        headers: HeaderMap,
        form: String,
        limits: Limits,
    ) -> Result<Answer, FetchError> {
        const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
        exchange(self.client.post(url.clone()).headers(headers).header(CONTENT_TYPE, FORM).body(form), limits).await
    }

    /// Sends a body with POST, and gives the status of the answer, whose body nobody reads.
    ///
    /// # Errors
    /// [`FetchError`], unless there is an answer within `timeout`.
    pub async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<u16, FetchError> {
        let request = self.client.post(url.clone()).headers(headers).body(body).timeout(timeout);
        request.send().await.map(|answer| answer.status().as_u16()).map_err(|error| failed(&error))
    }
}

/// True for https, and for http to this machine.
///
/// # Errors
/// [`FetchError::Insecure`] for everything else.
pub fn require_protected(url: &Url) -> Result<(), FetchError> {
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" if url.host().is_some() => Ok(()),
        "http" if loopback => Ok(()),
        _ => Err(FetchError::Insecure),
    }
}

async fn exchange(request: reqwest::RequestBuilder, limits: Limits) -> Result<Answer, FetchError> {
    let mut answer = request.timeout(limits.timeout).send().await.map_err(|error| failed(&error))?;
    let announced = answer.content_length().unwrap_or(0);
    if announced > u64::try_from(limits.bytes).unwrap_or(u64::MAX) {
        return Err(FetchError::TooLarge(limits.bytes));
    }
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(|error| failed(&error))? {
        if body.len() + piece.len() > limits.bytes {
            return Err(FetchError::TooLarge(limits.bytes));
        }
        body.extend_from_slice(&piece);
    }
    Ok(Answer { status: answer.status().as_u16(), headers: std::mem::take(answer.headers_mut()), body })
}

fn failed(error: &reqwest::Error) -> FetchError {
    if error.is_timeout() {
        FetchError::Timeout
    } else if error.is_connect() {
        FetchError::Connect(cause(error))
    } else {
        FetchError::Broken(cause(error))
    }
}

/// The innermost reason. The outer words of the library hold the address, and with it what its query may hold.
fn cause(error: &reqwest::Error) -> String {
    let mut at: &dyn Error = error;
    while let Some(inner) = at.source() {
        at = inner;
    }
    if std::ptr::addr_eq(std::ptr::from_ref(at), std::ptr::from_ref(error)) {
        return "the client gives no reason".to_owned();
    }
    at.to_string()
}

#[cfg(test)]
pub(in crate::io) mod tests;
