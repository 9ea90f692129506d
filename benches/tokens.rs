//! What a token costs on the request path: `cargo bench --bench tokens`. Target: at most 2 µs for a token that was
//! verified before; a new one costs its signature.

// The issuer is made for tests, where a broken tree may end them.
#![allow(clippy::expect_used, clippy::panic, dead_code)]

#[path = "../src/logic/access/jwt/tests/issuer.rs"]
mod issuer;

use criterion::{Criterion, criterion_group, criterion_main};
use issuer::{Signer, encoded, published};
use serde_json::{Value, json};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use weir::config::snapshot::{ClaimMapping, JwtAlgorithm, JwtAuth, JwtKeys, Secret};
use weir::domain::units::WallMicros;
use weir::io::clock::SystemClock;
use weir::io::fetch::Fetch;
use weir::io::identity::Surroundings;
use weir::io::identity::jwt::JwtAuthenticator;
use weir::logic::access::expression::Expression;
use weir::logic::access::jwt::{self, KeySet, Policy};
use weir::ports::{AuthRequest, Authenticate, Verdict};

const ISSUER: &str = "https://login.example.com/";
const NOW: i64 = 1_795_262_400;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// As large as the tokens of the usual providers: with an RS256 signature about 1,100 letters.
fn claims(subject: usize) -> Value {
    json!({
        "iss": ISSUER, "aud": ["llm-api", "account"], "sub": format!("6d6c1a10-7f0c-4a3d-9d0e-{subject:012}"),
        "exp": NOW + 300, "iat": NOW, "nbf": NOW, "jti": "0f9ec4a8-4f6a-4d43-8a2b-2f1b7d1c9a77", "typ": "Bearer",
        "azp": "cli", "session_state": "5f6f8f0e-1f4e-4f0e-9a53-7e2f8b8d5a11", "scope": "openid profile email",
        "email": "ann@example.com", "name": "Ann Example", "org": "acme", "groups": ["developers", "llm-users", "staff"],
    })
}

fn policy() -> Policy {
    Policy {
        issuer: ISSUER.to_owned(),
        audiences: vec!["llm-api".to_owned()],
        algorithms: vec![JwtAlgorithm::RS256, JwtAlgorithm::ES256],
        leeway: Duration::from_secs(60),
    }
}

/// The way of a known token does not depend on its algorithm; a shared secret spares the bench an issuer over HTTP.
fn authenticator(runtime: &tokio::runtime::Runtime) -> JwtAuthenticator {
    let expression = |text| Expression::compile(text, &["claims"]).ok();
    let settings = JwtAuth {
        issuer: ISSUER.to_owned(),
        audiences: vec!["llm-api".to_owned()],
        keys: JwtKeys::Secret(Secret(Arc::new(SECRET.to_vec().into()))),
        algorithms: vec![JwtAlgorithm::HS256],
        leeway: Duration::from_secs(60),
        mapping: ClaimMapping {
            tenant: expression("claims.org"),
            roles: expression("claims.groups"),
            ..ClaimMapping::default()
        },
    };
    let around = Surroundings {
        fetch: Fetch::new().expect("a client"),
        clock: Arc::new(SystemClock::new()),
        runtime: runtime.handle().clone(),
    };
    JwtAuthenticator::start("bench", &settings, &around)
}

fn shared(subject: usize) -> String {
    let padded = json!({"alg": "HS256", "kid": "k".repeat(200)}).to_string();
    let message = format!("{}.{}", encoded(padded), encoded(claims(subject).to_string()));
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256);
    format!("{message}.{}", signature.expect("a signature"))
}

fn look(authenticator: &JwtAuthenticator, token: &str, headers: &http::HeaderMap) -> Verdict {
    authenticator.look(&AuthRequest {
        credential: Some(token.as_bytes()),
        certificate: None,
        method: "POST",
        target: "/v1/chat/completions",
        host: Some("api.example.com"),
        headers,
        client: IpAddr::V4(Ipv4Addr::LOCALHOST),
        now: WallMicros(NOW * 1_000_000),
    })
}

fn known(criterion: &mut Criterion) {
    const TOKENS: usize = 10_000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let authenticator = authenticator(&runtime);
    let headers = http::HeaderMap::new();
    let tokens: Vec<String> = (0..TOKENS).map(shared).collect();
    for token in &tokens {
        assert!(matches!(look(&authenticator, token, &headers), Verdict::Known(_)), "a good token");
    }
    let mut at = 0;
    criterion.bench_function("a known token of 1,100 letters, 10,000 in turn", |bench| {
        bench.iter(|| {
            at = (at + 7919) % TOKENS;
            look(&authenticator, black_box(&tokens[at]), &headers)
        });
    });
    let fresh = self::authenticator(&runtime);
    let mut next = TOKENS;
    criterion.bench_function("a new HS256 token, mapping included", |bench| {
        bench.iter_batched(
            || {
                next += 1;
                shared(next)
            },
            |token| look(&fresh, &token, &headers),
            criterion::BatchSize::SmallInput,
        );
    });
}

fn new(criterion: &mut Criterion) {
    let policy = policy();
    for signer in [Signer::rsa("a"), Signer::ec("a")] {
        let keys = KeySet::parse(&published(&[&signer])).expect("a key set");
        let token = signer.token(&claims(1));
        criterion.bench_function(&format!("a new {} token of {} letters", signer.algorithm(), token.len()), |bench| {
            bench.iter(|| {
                let read = jwt::read(black_box(token.as_bytes()), &policy, WallMicros(NOW * 1_000_000));
                read.and_then(|read| read.verify(&keys)).expect("a good token")
            });
        });
    }
}

criterion_group!(benches, known, new);
criterion_main!(benches);
