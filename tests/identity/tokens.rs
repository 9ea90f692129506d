//! Tokens of an identity provider: found by discovery, rotated, with the provider down, under a storm of unknown key
//! ids, and forged in every known way.

use super::fleet::CHAT;
use super::stack::{Recipe, Weir, alone, beside};
use crate::backend::Backends;
use crate::cases::eventually;
use crate::client::{Answer, Ask, Wire};
use crate::oidc::{Mood, Provider, SigningKey, base64url, now, sign_hmac};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests of the storm.
const STORM: usize = 10_000;
/// Connections that they come over.
const STORM_CONNECTIONS: usize = 16;
/// Key set fetches that a storm may cause.
const FETCHES: usize = 2;

/// A proxy that takes tokens of a provider, with these `jwks` settings; empty: discovery with the defaults.
fn recipe(backends: &Backends, provider: &Provider, jwks: &str) -> Recipe {
    Recipe {
        auth: format!(
            "corp: {{ jwt: {{ issuer: \"{}\", audiences: [llm-api], algorithms: [RS256, ES256],{jwks} tenant: claims.org, \
             team: claims.team, user: claims.sub, roles: \"has(claims.groups) ? claims.groups : ['member']\" }} }}",
            provider.issuer()
        ),
        rest: "tenants: { acme: {}, globex: {} }\n".to_owned(),
        ..Recipe::to(backends.addresses[0])
    }
}

async fn asked(proxy: &Weir, token: &str) -> Answer {
    Ask::new("GET", "/light", token).send(proxy.address).await
}

/// Asks with a token until the answer has this status.
async fn turns(proxy: &Weir, token: &str, status: u16, limit: Duration) -> bool {
    super::fleet::until(proxy.address, token, status, limit).await.is_some()
}

fn assert_bad(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_token"), "{what}: {}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_is_taken_by_discovery_and_its_claims_reach_the_usage_row() {
    let _machine = beside().await;
    let backends = Backends::start(1).await;
    let (rsa, ec) = (SigningKey::rsa("r1"), SigningKey::ec("e1"));
    let provider = Provider::start(vec![Arc::clone(&rsa), Arc::clone(&ec)], "").await;
    let proxy = Weir::start(&recipe(&backends, &provider, ""));
    for (key, user) in [(&rsa, "ann"), (&ec, "bob")] {
        let token = key.token(&provider.claims(&json!({"org": "acme", "team": "core", "sub": user})));
        assert!(turns(&proxy, &token, 200, Duration::from_secs(5)).await, "{}: {}", key.kid, proxy.log());
        let answer = Ask::chat(&token, CHAT).case(user).send(proxy.address).await;
        assert_eq!(answer.status, 200, "a model call: {}", answer.text());
        let seen = backends.seen(user);
        assert_eq!(seen.len(), 1, "it went to the backend");
        assert!(!seen[0].head.contains(&token), "the token does not: {}", seen[0].head);
    }
    assert!(provider.asked().discovery >= 1, "found by discovery: {:?}", provider.asked());
    let rows = proxy.usage(2);
    for (row, user) in rows.iter().zip(["ann", "bob"]) {
        let who = [&row["tenant_id"], &row["team_id"], &row["user_id"], &row["auth_method"], &row["key_id"]];
        assert_eq!(who, [&json!("acme"), &json!("core"), &json!(user), &json!("jwt"), &Value::Null], "who: {row:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_key_is_taken_at_once_and_a_removed_one_is_refused_after_the_refresh() {
    let _machine = beside().await;
    let backends = Backends::start(1).await;
    let (first, second) = (SigningKey::rsa("k1"), SigningKey::rsa("k2"));
    let provider = Provider::start(vec![Arc::clone(&first)], "").await;
    let jwks = format!(" jwks: {{ url: \"{}\", refresh: 2s }},", provider.url("/keys"));
    let proxy = Weir::start(&recipe(&backends, &provider, &jwks));
    let claims = provider.claims(&json!({"org": "acme"}));
    let (old, new) = (first.token(&claims), second.token(&claims));
    assert!(turns(&proxy, &old, 200, Duration::from_secs(5)).await, "the first key: {}", proxy.log());
    assert_bad(&asked(&proxy, &new).await, "a key that is not published yet");
    provider.add(&second);
    assert!(turns(&proxy, &new, 200, Duration::from_secs(5)).await, "a published key is found");
    assert_eq!(asked(&proxy, &old).await.status, 200, "both are good while both are published");
    provider.remove("k1");
    assert!(turns(&proxy, &old, 401, Duration::from_secs(5)).await, "a removed key is refused, cached tokens too");
    assert_bad(&asked(&proxy, &old).await, "a removed key");
    let uncached = first.token(&provider.claims(&json!({"org": "acme", "sub": "eve"})));
    assert_bad(&asked(&proxy, &uncached).await, "a removed key, a token not seen before");
    assert_eq!(asked(&proxy, &new).await.status, 200, "the new key is good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn known_keys_go_on_while_the_provider_is_down_or_talks_nonsense() {
    let _machine = beside().await;
    let backends = Backends::start(1).await;
    let key = SigningKey::ec("k1");
    let mut provider = Provider::start(vec![Arc::clone(&key)], "").await;
    let jwks = format!(" jwks: {{ url: \"{}\", refresh: 1s }},", provider.url("/keys"));
    let proxy = Weir::start(&recipe(&backends, &provider, &jwks));
    let token = |user: &str| key.token(&provider.claims(&json!({"org": "acme", "sub": user})));
    let tokens: Vec<String> = (0..5).map(|number| token(&format!("user-{number}"))).collect();
    assert!(turns(&proxy, &tokens[0], 200, Duration::from_secs(5)).await, "first of all it works: {}", proxy.log());
    for (mood, fresh) in [(Mood::Broken, 1), (Mood::Huge, 2), (Mood::Slow(Duration::from_secs(8)), 3)] {
        provider.mood(mood);
        let before = provider.asked().key_set;
        // A slow one is counted only when it answers.
        let refreshed =
            mood == Mood::Slow(Duration::from_secs(8)) || eventually(|| provider.asked().key_set > before).await;
        assert!(refreshed, "{mood:?}: a refresh came");
        tokio::time::sleep(Duration::from_millis(300)).await;
        for (what, token) in [("a cached token", &tokens[0]), ("a new token", &tokens[fresh])] {
            let answer = asked(&proxy, token).await;
            assert_eq!(answer.status, 200, "{mood:?}, {what}: {}", answer.text());
            assert!(answer.whole < Duration::from_secs(2), "{mood:?}, {what}: waited {:?}", answer.whole);
        }
    }
    provider.mood(Mood::Good);
    let last = tokens[4].clone();
    provider.stop().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for (what, token) in [("a cached token", &tokens[0]), ("a new token", &last)] {
        let answer = asked(&proxy, token).await;
        assert_eq!(answer.status, 200, "down, {what}: {}", answer.text());
    }
    let second = SigningKey::ec("k2");
    provider.add(&second);
    provider.start_again().await;
    let token = second.token(&provider.claims(&json!({"org": "acme"})));
    assert!(turns(&proxy, &token, 200, Duration::from_secs(10)).await, "back by itself: {}", proxy.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_provider_that_was_never_reached_is_unavailable_and_not_unauthorised() {
    let _machine = beside().await;
    let backends = Backends::start(1).await;
    let key = SigningKey::ec("k1");
    let mut provider = Provider::start(vec![Arc::clone(&key)], "").await;
    let proxy = {
        let recipe =
            recipe(&backends, &provider, &format!(" jwks: {{ url: \"{}\", refresh: 1s }},", provider.url("/keys")));
        provider.stop().await;
        Weir::start(&recipe)
    };
    let token = key.token(&provider.claims(&json!({"org": "acme"})));
    let answer = asked(&proxy, &token).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "dependency_unavailable"), "{}", answer.text());
    provider.start_again().await;
    assert!(turns(&proxy, &token, 200, Duration::from_secs(10)).await, "back by itself: {}", proxy.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_unknown_key_ids_cost_two_fetches_and_no_good_token() {
    let _machine = alone().await;
    let backends = Backends::start(1).await;
    let key = SigningKey::ec("k1");
    let provider = Provider::start(vec![Arc::clone(&key)], "").await;
    let jwks = format!(" jwks: {{ url: \"{}\", refresh: 10m }},", provider.url("/keys"));
    let proxy = Weir::start(&recipe(&backends, &provider, &jwks));
    let good = key.token(&provider.claims(&json!({"org": "acme"})));
    assert!(turns(&proxy, &good, 200, Duration::from_secs(5)).await, "first of all it works: {}", proxy.log());
    let before = provider.asked().key_set;
    let claims = provider.claims(&json!({"org": "acme"})).to_string();
    let stranger = SigningKey::ec("another");
    let mut storm = tokio::task::JoinSet::new();
    let started = Instant::now();
    for connection in 0..STORM_CONNECTIONS {
        let (address, claims, stranger) = (proxy.address, claims.clone(), Arc::clone(&stranger));
        storm.spawn(async move {
            let mut wire = Wire::open(address).await;
            for number in 0..STORM / STORM_CONNECTIONS {
                let header = json!({"alg": "ES256", "kid": format!("{connection}-{number}-{}", fastrand::u64(..))});
                let token = stranger.sign(&header.to_string(), &claims);
                wire.send(&Ask::new("GET", "/light", &token).bytes()).await;
                let mut answer = wire.answer().await;
                if answer.status == 0 {
                    wire = Wire::open(address).await;
                    wire.send(&Ask::new("GET", "/light", &token).bytes()).await;
                    answer = wire.answer().await;
                }
                assert_bad(&answer, "an unknown key id");
            }
        });
    }
    let (mut slowest, mut count) = (Duration::ZERO, 0_u32);
    while !storm.is_empty() {
        tokio::select! {
            done = storm.join_next() => done.into_iter().for_each(|done| done.expect("every stranger is refused")),
            () = tokio::time::sleep(Duration::from_millis(10)) => {
                // A token seen before and one that was not.
                let fresh = key.token(&provider.claims(&json!({"org": "acme", "sub": format!("user-{count}")})));
                for token in [&good, &fresh] {
                    let answer = asked(&proxy, token).await;
                    assert_eq!(answer.status, 200, "a good token in the storm: {}", answer.text());
                    slowest = slowest.max(answer.whole);
                    count += 1;
                }
            }
        }
    }
    let fetches = provider.asked().key_set - before;
    println!(
        "{STORM} unknown key ids in {:?}: {fetches} fetches; {count} good tokens, the slowest {slowest:?}",
        started.elapsed()
    );
    assert!(fetches <= FETCHES, "{fetches} fetches for {STORM} unknown key ids");
    assert!(count > 10, "good tokens were tried during the storm");
}

/// Who forges tokens: with everything that is public, and with the provider's own pen where the words are what is wrong.
struct Forger<'a> {
    provider: &'a Provider,
    rsa: &'a SigningKey,
    ec: &'a SigningKey,
    /// Another key under the id of the provider's.
    eve: Arc<SigningKey>,
    /// Claims of a good token.
    good: Value,
}

/// What is wrong with a token, and the token.
type Forged = (&'static str, String);

impl Forger<'_> {
    fn claims(&self) -> String {
        self.good.to_string()
    }

    /// Signed by the provider, with other claims.
    fn claiming(&self, more: &Value) -> String {
        let mut claims = self.good.clone();
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        self.rsa.token(&claims)
    }

    /// Signed by the provider, without a claim.
    fn without(&self, name: &str) -> String {
        let mut claims = self.good.clone();
        claims.as_object_mut().expect("an object").remove(name);
        self.rsa.token(&claims)
    }

    /// Signed by the provider, with other members in the header.
    fn heading(&self, more: &Value) -> String {
        let mut header = json!({"alg": "RS256", "typ": "JWT", "kid": self.rsa.kid});
        for (name, value) in more.as_object().into_iter().flatten() {
            header[name] = value.clone();
        }
        self.rsa.sign(&header.to_string(), &self.claims())
    }

    fn of_algorithm(&self) -> Vec<Forged> {
        let honest = self.rsa.token(&self.good);
        let (signed, signature) = honest.rsplit_once('.').expect("three parts");
        let header = |alg: &str| json!({"alg": alg, "typ": "JWT", "kid": self.rsa.kid}).to_string();
        let unsigned = |alg: &str| format!("{}.{}.", base64url(header(alg)), base64url(self.claims()));
        let symmetric = |secret: &[u8]| sign_hmac(&header("HS256"), &self.claims(), secret);
        let public = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, self.rsa.public_der());
        let pem = format!("-----BEGIN RSA PUBLIC KEY-----\n{public}\n-----END RSA PUBLIC KEY-----\n");
        let es_on_rsa = json!({"alg": "ES256", "kid": self.rsa.kid}).to_string();
        vec![
            ("alg none", unsigned("none")),
            ("alg None", unsigned("None")),
            ("alg NONE with a signature", format!("{}{signature}", unsigned("NONE"))),
            ("no alg", self.rsa.sign(&json!({"kid": self.rsa.kid}).to_string(), &self.claims())),
            ("alg as a list", self.heading(&json!({"alg": ["RS256"]}))),
            ("RS256 to HS256 with the public key as DER", symmetric(&self.rsa.public_der())),
            ("RS256 to HS256 with the public key as PEM", symmetric(pem.as_bytes())),
            ("RS256 to HS256 with the modulus", symmetric(self.rsa.jwk()["n"].as_str().unwrap_or_default().as_bytes())),
            ("HS256 with an empty secret", symmetric(b"")),
            ("RS512, which is not allowed", self.heading(&json!({"alg": "RS512"}))),
            ("ES256 on the RSA key's id", self.ec.sign(&es_on_rsa, &self.claims())),
            ("RS256 on the EC key's id", self.heading(&json!({"kid": self.ec.kid}))),
            ("another key with the same id", self.eve.token(&self.good)),
            ("no signature", format!("{signed}.")),
            ("a signature cut short", format!("{signed}.{}", &signature[..signature.len() - 4])),
            ("no base64", format!("{signed}.!!!!")),
            ("padded base64", format!("{signed}.{signature}==")),
            ("four parts", format!("{honest}.x")),
        ]
    }

    fn of_header(&self) -> Vec<Forged> {
        let embedded = json!({"alg": "RS256", "jwk": self.eve.jwk()}).to_string();
        let before =
            |member: &str| self.rsa.sign(&self.rsa.header().replacen('{', &format!("{{{member},"), 1), &self.claims());
        vec![
            ("alg twice", before("\"alg\":\"none\"")),
            ("kid twice", before("\"kid\":\"x\"")),
            ("jku", self.heading(&json!({"jku": self.provider.url("/keys")}))),
            ("x5u", self.heading(&json!({"x5u": self.provider.url("/keys")}))),
            ("x5c", self.heading(&json!({"x5c": ["MIIB"]}))),
            ("an embedded jwk", self.eve.sign(&embedded, &self.claims())),
            ("crit", self.heading(&json!({"crit": ["exp"]}))),
            ("kid of a path", self.heading(&json!({"kid": "../../../../etc/passwd"}))),
            ("kid of SQL", self.heading(&json!({"kid": "k' UNION SELECT 'x"}))),
            ("kid of a URL", self.heading(&json!({"kid": self.provider.url("/keys")}))),
            ("kid with a NUL", self.heading(&json!({"kid": "r1\u{0}"}))),
            ("kid as a number", self.heading(&json!({"kid": 1}))),
            ("a kid of 6 kB", self.heading(&json!({"kid": "k".repeat(6_000)}))),
        ]
    }

    fn of_claims(&self) -> Vec<Forged> {
        let first = |member: String| {
            self.rsa.sign(&self.rsa.header(), &self.claims().replacen('{', &format!("{{{member},"), 1))
        };
        let verbatim = |claims: &str| self.rsa.sign(&self.rsa.header(), claims);
        let issuer = self.provider.issuer();
        vec![
            ("exp as text", self.claiming(&json!({"exp": (now() + 300).to_string()}))),
            ("exp as a list", self.claiming(&json!({"exp": [now() + 300]}))),
            ("exp null", self.claiming(&json!({"exp": null}))),
            ("nbf as text", self.claiming(&json!({"nbf": "0"}))),
            ("iat as text", self.claiming(&json!({"iat": "0"}))),
            ("no exp", self.without("exp")),
            ("no iss", self.without("iss")),
            ("no aud", self.without("aud")),
            ("no sub", self.without("sub")),
            ("expired", self.claiming(&json!({"exp": now() - 120}))),
            ("not yet valid", self.claiming(&json!({"nbf": now() + 120}))),
            ("wrong aud", self.claiming(&json!({"aud": "other-api"}))),
            ("aud with more behind it", self.claiming(&json!({"aud": "llm-api-admin"}))),
            ("aud an empty list", self.claiming(&json!({"aud": []}))),
            ("wrong iss", self.claiming(&json!({"iss": "http://evil.example/"}))),
            ("iss without its slash", self.claiming(&json!({"iss": issuer.trim_end_matches('/')}))),
            ("iss in a list", self.claiming(&json!({"iss": [issuer]}))),
            ("exp twice", first("\"exp\":9999999999".to_owned())),
            ("org twice", first("\"org\":\"globex\"".to_owned())),
            ("org twice, escaped", first("\"\\u006frg\":\"globex\"".to_owned())),
            ("oversize", self.claiming(&json!({"padding": "x".repeat(9_000)}))),
            ("claims that are no JSON", verbatim("hello")),
            ("claims that are a list", verbatim("[]")),
            ("claims and more", verbatim(&format!("{}{{}}", self.claims()))),
            ("nested without end", verbatim(&format!("{}{}", "[".repeat(2_000), "]".repeat(2_000)))),
            ("no tenant", self.without("org")),
            ("a tenant that is a number", self.claiming(&json!({"org": 1}))),
            ("a tenant of odd letters", self.claiming(&json!({"org": "a/../b\r\nx: y"}))),
            ("a tenant that is not there", self.claiming(&json!({"org": "initech"}))),
        ]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_forged_token_is_refused_with_the_same_answer() {
    let _machine = beside().await;
    let backends = Backends::start(1).await;
    let (rsa, ec) = (SigningKey::rsa("r1"), SigningKey::ec("e1"));
    let provider = Provider::start(vec![Arc::clone(&rsa), Arc::clone(&ec)], "").await;
    let jwks = format!(" jwks: {{ url: \"{}\", refresh: 10m }},", provider.url("/keys"));
    let proxy = Weir::start(&recipe(&backends, &provider, &jwks));
    let good = rsa.token(&provider.claims(&json!({"org": "acme"})));
    assert!(turns(&proxy, &good, 200, Duration::from_secs(5)).await, "an honest token is good: {}", proxy.log());
    let mut bodies = std::collections::BTreeMap::<String, Vec<&str>>::new();
    let mut wrong = Vec::new();
    let claims = provider.claims(&json!({"org": "acme"}));
    let forger = Forger { provider: &provider, rsa: &rsa, ec: &ec, eve: SigningKey::rsa("r1"), good: claims };
    for (what, token) in [forger.of_algorithm(), forger.of_header(), forger.of_claims()].concat() {
        let answer = Ask::chat(&token, CHAT).send(proxy.address).await;
        if (answer.status, answer.code().as_str()) != (401, "invalid_token") {
            wrong.push(format!("{what}: {} {}", answer.status, answer.text()));
            continue;
        }
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, "Bearer", "{what}: a 401 names its scheme and tells no more");
        bodies.entry(answer.text()).or_default().push(what);
    }
    assert!(wrong.is_empty(), "not refused as a bad token:\n  {}", wrong.join("\n  "));
    assert_eq!(bodies.len(), 1, "one answer for all: {bodies:#?}");
    // Without three parts it is no token, but some other credential that nobody knows.
    let (two_parts, _) = good.rsplit_once('.').expect("three parts");
    let answer = Ask::chat(two_parts, CHAT).send(proxy.address).await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_api_key"), "two parts: {}", answer.text());
    assert_eq!(backends.total(), 0, "nothing reached the backend");
    assert_eq!(asked(&proxy, &good).await.status, 200, "an honest token is good after all that");
}

#[test]
fn the_providers_tokens_are_good_by_somebody_elses_judgement() {
    for key in [SigningKey::rsa("r1"), SigningKey::ec("e1")] {
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.jwk()).expect("a key of a set");
        let decoding = jsonwebtoken::DecodingKey::from_jwk(&jwk).expect("a public key");
        let mut rules = jsonwebtoken::Validation::new(key.algorithm().parse().expect("an algorithm"));
        rules.set_audience(&["llm-api"]);
        let token = key.token(&json!({"aud": "llm-api", "sub": "ann", "exp": now() + 60}));
        let good = jsonwebtoken::decode::<Value>(&token, &decoding, &rules).expect("a good token");
        assert_eq!((good.claims["sub"].as_str(), good.header.kid.as_deref()), (Some("ann"), Some(key.kid.as_str())));
        let forged = format!("{}AAAA", &token[..token.len() - 4]);
        assert!(jsonwebtoken::decode::<Value>(&forged, &decoding, &rules).is_err(), "a changed signature is none");
    }
}
