//! An identity provider for tests: discovery, a key set with real key rotation, signed tokens, opaque tokens
//! (RFC 7662) and a check service for external authorisation. Counts what it is asked, and can be slow, broken or gone.
//!
//! Tokens are put together by hand and signed by aws-lc-rs, so that any token can be made, the forged ones included,
//! and nothing of what verifies them is used to make them.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKey, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};

/// How long a provider that was stopped may take to get its port back.
const REBIND: Duration = Duration::from_secs(5);
/// Larger than any key set that a client should read.
const HUGE: usize = 1 << 20;

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_secs()).expect("a clock of this age")
}

/// base64url without padding, as tokens have it.
pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Pair {
    Rsa(RsaKey),
    Ec(EcdsaKeyPair),
}

/// A key that the provider signs with.
pub struct SigningKey {
    pub kid: String,
    pair: Pair,
}

impl SigningKey {
    /// RSA of 2048 bits, for RS256.
    pub fn rsa(kid: &str) -> Arc<Self> {
        let pair = Pair::Rsa(RsaKey::generate(KeySize::Rsa2048).expect("an RSA key"));
        Arc::new(Self { kid: kid.to_owned(), pair })
    }

    /// P-256, for ES256.
    pub fn ec(kid: &str) -> Arc<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key");
        Arc::new(Self { kid: kid.to_owned(), pair: Pair::Ec(pair) })
    }

    /// The algorithm's name in a token's header.
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(_) => "ES256",
        }
    }

    /// The public half as a member of a key set.
    pub fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                let n = base64url(public.modulus().big_endian_without_leading_zero());
                let e = base64url(public.exponent().big_endian_without_leading_zero());
                json!({"kty": "RSA", "kid": self.kid, "use": "sig", "alg": "RS256", "n": n, "e": e})
            }
            Pair::Ec(pair) => {
                // 0x04, x, y.
                let point = pair.public_key().as_ref();
                let (x, y) = (base64url(&point[1..33]), base64url(&point[33..65]));
                json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "alg": "ES256", "x": x, "y": y})
            }
        }
    }

    /// The public half as DER bytes: what a forger would use as an HMAC secret.
    pub fn public_der(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    /// A token of exactly these texts.
    pub fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", base64url(header), base64url(claims));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).expect("a signature");
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, signed.as_bytes()).expect("a signature").as_ref().to_vec(),
        };
        format!("{signed}.{}", base64url(signature))
    }

    /// The header of an honest token.
    pub fn header(&self) -> String {
        json!({"alg": self.algorithm(), "typ": "JWT", "kid": self.kid}).to_string()
    }

    /// An honest token.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&self.header(), &claims.to_string())
    }
}

/// A token signed with HMAC-SHA-256.
pub fn sign_hmac(header: &str, claims: &str, secret: &[u8]) -> String {
    let signed = format!("{}.{}", base64url(header), base64url(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", base64url(tag.as_ref()))
}

/// How the provider answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mood {
    Good,
    /// Late by this much.
    Slow(Duration),
    /// 500 to everything.
    Broken,
    /// A key set of a mebibyte.
    Huge,
}

/// How often each of its endpoints was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    pub discovery: usize,
    pub key_set: usize,
    pub introspection: usize,
    pub check: usize,
}

struct State {
    keys: Vec<Arc<SigningKey>>,
    mood: Mood,
    asked: Asked,
    /// What introspection says of a token; others are not active.
    opaque: HashMap<String, Value>,
    /// Status and headers of a check, by the `authorization` that was sent; others get 401.
    checks: HashMap<String, (u16, Vec<(String, String)>)>,
    /// Heads of the requests for a check.
    check_heads: Vec<HashMap<String, String>>,
}

struct Shared {
    issuer: String,
    client: String,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the provider's state is whole")
    }
}

/// A running provider.
pub struct Provider {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Provider {
    /// Starts one on a free port, with these keys. Introspection wants client `weir` with this secret.
    pub async fn start(keys: Vec<Arc<SigningKey>>, client_secret: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let state = State {
            keys,
            mood: Mood::Good,
            asked: Asked::default(),
            opaque: HashMap::new(),
            checks: HashMap::new(),
            check_heads: Vec::new(),
        };
        // RFC 6749 §2.3.1: form-encoded, then Basic.
        let secret: String = url::form_urlencoded::byte_serialize(client_secret.as_bytes()).collect();
        let client = format!("Basic {}", STANDARD.encode(format!("weir:{secret}")));
        let shared = Arc::new(Shared { issuer: format!("http://{address}/"), client, state: Mutex::new(state) });
        let accepting = Some(tokio::spawn(accept(listener, Arc::clone(&shared))));
        Self { address, shared, accepting }
    }

    /// The `iss` of its tokens.
    pub fn issuer(&self) -> &str {
        &self.shared.issuer
    }

    /// A URL of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Claims of a good token for audience `llm-api`, good for five minutes, with these on top.
    pub fn claims(&self, more: &Value) -> Value {
        let mut claims = json!({
            "iss": self.issuer(), "aud": "llm-api", "sub": "ann", "iat": now(), "nbf": now(), "exp": now() + 300,
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims
    }

    /// Puts a key into the set.
    pub fn add(&self, key: &Arc<SigningKey>) {
        self.shared.state().keys.push(Arc::clone(key));
    }

    /// Takes a key out of the set.
    pub fn remove(&self, kid: &str) {
        let mut state = self.shared.state();
        let before = state.keys.len();
        state.keys.retain(|key| key.kid != kid);
        assert_eq!(state.keys.len() + 1, before, "there is one key {kid}");
    }

    pub fn mood(&self, mood: Mood) {
        self.shared.state().mood = mood;
    }

    pub fn asked(&self) -> Asked {
        self.shared.state().asked
    }

    /// What introspection will say of a token.
    pub fn opaque(&self, token: &str, answer: Value) {
        self.shared.state().opaque.insert(token.to_owned(), answer);
    }

    /// What a check will say to an `authorization` header.
    pub fn check(&self, authorization: &str, status: u16, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.shared.state().checks.insert(authorization.to_owned(), (status, headers));
    }

    /// The heads of all checks so far.
    pub fn check_heads(&self) -> Vec<HashMap<String, String>> {
        self.shared.state().check_heads.clone()
    }

    /// Closes the port and every connection.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // Aborted on purpose: that it says so is no news.
            let _ = accepting.await;
        }
    }

    /// Opens the same port again.
    pub async fn start_again(&mut self) {
        let until = tokio::time::Instant::now() + REBIND;
        loop {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.set_reuseaddr(true).expect("its option");
            match socket.bind(self.address).and_then(|()| socket.listen(1024)) {
                Ok(listener) => {
                    self.accepting = Some(tokio::spawn(accept(listener, Arc::clone(&self.shared))));
                    return;
                }
                Err(error) => assert!(tokio::time::Instant::now() < until, "{}: {error}", self.address),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            // A client that goes away is none of the provider's business.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mood = shared.state().mood;
    if let Mood::Slow(span) = mood {
        tokio::time::sleep(span).await;
    }
    let path = request.uri().path().to_owned();
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let authorization = header("authorization");
    if path == "/check" {
        let head = request.headers().iter();
        let head = head.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        return Ok(shared.checked(mood, &authorization, head.collect()));
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let answer = match path.as_str() {
        "/.well-known/openid-configuration" => shared.discovery(mood),
        "/keys" => shared.key_set(mood),
        "/introspect" => shared.introspected(mood, &authorization, &body),
        _ => reply(404, &json!({"error": "no such path"})),
    };
    Ok(answer)
}

impl Shared {
    fn discovery(&self, mood: Mood) -> Response<Full<Bytes>> {
        self.state().asked.discovery += 1;
        match mood {
            Mood::Broken => reply(500, &json!({"error": "broken"})),
            _ => reply(200, &json!({"issuer": self.issuer, "jwks_uri": format!("{}keys", self.issuer)})),
        }
    }

    fn key_set(&self, mood: Mood) -> Response<Full<Bytes>> {
        let mut state = self.state();
        state.asked.key_set += 1;
        let keys: Vec<Value> = state.keys.iter().map(|key| key.jwk()).collect();
        match mood {
            Mood::Broken => reply(500, &json!({"error": "broken"})),
            Mood::Huge => reply(200, &json!({"keys": keys, "padding": "x".repeat(HUGE)})),
            _ => reply(200, &json!({"keys": keys})),
        }
    }

    fn introspected(&self, mood: Mood, authorization: &str, body: &[u8]) -> Response<Full<Bytes>> {
        let mut state = self.state();
        state.asked.introspection += 1;
        if mood == Mood::Broken {
            return reply(500, &json!({"error": "broken"}));
        }
        if authorization != self.client {
            return reply(401, &json!({"error": "invalid_client"}));
        }
        let form = url::form_urlencoded::parse(body);
        let token = form.into_iter().find(|(name, _)| name == "token").map(|(_, value)| value.into_owned());
        let known = token.and_then(|token| state.opaque.get(&token).cloned());
        reply(200, &known.unwrap_or_else(|| json!({"active": false})))
    }

    fn checked(&self, mood: Mood, authorization: &str, head: HashMap<String, String>) -> Response<Full<Bytes>> {
        let mut state = self.state();
        state.asked.check += 1;
        state.check_heads.push(head);
        if mood == Mood::Broken {
            return reply(500, &json!({"error": "broken"}));
        }
        let (status, headers) = state.checks.get(authorization).cloned().unwrap_or((401, Vec::new()));
        let mut builder = Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        builder.body(Full::new(Bytes::new())).expect("an answer")
    }
}

fn reply(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let builder = Response::builder().status(status).header("content-type", "application/json");
    builder.body(Full::new(Bytes::from(body.to_string()))).expect("an answer")
}
