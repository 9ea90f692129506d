use super::*;
use crate::config::snapshot::{JwtAlgorithm, Secret};
use crate::io::fetch::Fetch;
use crate::io::identity::jwks::tests::{DEADLINE, Hand, Idp, until};
use crate::io::identity::tests::{nowhere, request};
use crate::logic::access::expression::Expression;
use crate::logic::access::jwt::tests::issuer::{Signer, encoded};
use crate::ports::Clock;
use http::HeaderMap;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

const NOW: WallMicros = WallMicros(1_795_262_400_000_000);

fn claims(issuer: &str, subject: &str) -> Value {
    let now = NOW.0 / 1_000_000;
    json!({"iss": issuer, "aud": "llm-api", "sub": subject, "exp": now + 300, "org": "acme", "groups": ["dev"]})
}

fn settings(issuer: &str, keys: JwtKeys, algorithms: &[JwtAlgorithm]) -> JwtAuth {
    let expression = |text| Some(Expression::compile(text, &["claims"]).expect("an expression"));
    JwtAuth {
        issuer: issuer.to_owned(),
        audiences: vec!["llm-api".to_owned()],
        keys,
        algorithms: algorithms.to_vec(),
        leeway: Duration::from_secs(60),
        mapping: ClaimMapping {
            tenant: expression("claims.org"),
            roles: expression("claims.groups"),
            ..ClaimMapping::default()
        },
    }
}

/// An authenticator for an issuer's published keys.
fn following(issuer: &str, url: Option<url::Url>, refresh: Duration, clock: &Arc<Hand>) -> JwtAuthenticator {
    let keys = JwtKeys::Jwks { url, refresh };
    let settings = settings(issuer, keys, &[JwtAlgorithm::ES256, JwtAlgorithm::RS256]);
    let clock: Arc<dyn Clock> = Arc::<Hand>::clone(clock);
    let around = Surroundings { fetch: Fetch::new().expect("a client"), clock, runtime: Handle::current() };
    JwtAuthenticator::start("corp", &settings, &around)
}

fn look(authenticator: &JwtAuthenticator, token: &str, now: WallMicros) -> Verdict {
    authenticator.look(&request(Some(token), &HeaderMap::new(), now))
}

/// The whole way: from memory, else by asking.
async fn found(authenticator: &JwtAuthenticator, token: &str) -> Verdict {
    match look(authenticator, token, NOW) {
        Verdict::Ask => authenticator.ask(&request(Some(token), &HeaderMap::new(), NOW)).await,
        verdict => verdict,
    }
}

/// The same, again while keys are on their way: a machine under load may take longer than a request waits.
async fn settled(authenticator: &JwtAuthenticator, token: &str) -> Verdict {
    let begun = Instant::now();
    loop {
        let verdict = found(authenticator, token).await;
        if user(&verdict).is_some() || begun.elapsed() > DEADLINE {
            return verdict;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn user(verdict: &Verdict) -> Option<&str> {
    match verdict {
        Verdict::Known(principal) => principal.profile.user.as_ref().map(|user| user.as_str()),
        _ => None,
    }
}

fn refused(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Rejected(Rejection::BadToken))
}

fn unavailable(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Rejected(Rejection::Unavailable("jwks")))
}

#[tokio::test]
async fn a_token_becomes_a_principal_and_stays_known_until_it_ends() {
    let signer = Signer::ec("a");
    let idp = Idp::start(&[&signer]).await;
    let authenticator = following(&idp.issuer(), None, Duration::from_secs(600), &Arc::default());
    let token = signer.token(&claims(&idp.issuer(), "ann"));
    let Verdict::Known(principal) = settled(&authenticator, &token).await else { panic!("a good token") };
    assert_eq!(principal.profile.tenant.as_str(), "acme", "the tenant of its claim");
    assert_eq!(principal.profile.roles.as_deref().map(<[_]>::len), Some(1), "the roles of its claim");
    assert_eq!((principal.method, principal.key), (AuthMethod::Jwt, None), "the method");
    let after = |seconds: i64| look(&authenticator, &token, NOW + WallMicros(seconds * 1_000_000));
    assert_eq!(user(&after(359)), Some("ann"), "from memory, up to exp and the leeway");
    assert!(refused(&after(360)), "and not after it");
    assert_eq!(idp.fetches(), 1, "one fetch of the keys");
}

#[tokio::test]
async fn tokens_are_not_mixed_up_in_memory() {
    let signer = Signer::ec("a");
    let idp = Idp::start(&[&signer]).await;
    let authenticator = following(&idp.issuer(), None, Duration::from_secs(600), &Arc::default());
    let (ann, bob) = (signer.token(&claims(&idp.issuer(), "ann")), signer.token(&claims(&idp.issuer(), "bob")));
    assert_eq!(user(&settled(&authenticator, &ann).await), Some("ann"), "one");
    assert_eq!(user(&found(&authenticator, &bob).await), Some("bob"), "another of the same key");
    let (message, _) = ann.rsplit_once('.').expect("three parts");
    let (_, signature) = bob.rsplit_once('.').expect("three parts");
    assert!(refused(&found(&authenticator, &format!("{message}.{signature}")).await), "known parts do not add up");
}

#[tokio::test]
async fn a_storm_of_unknown_keys_costs_one_fetch() {
    let signer = Signer::ec("a");
    let idp = Idp::start(&[&signer]).await;
    let authenticator = following(&idp.issuer(), Some(idp.keys()), Duration::from_secs(600), &Arc::default());
    let good = signer.token(&claims(&idp.issuer(), "ann"));
    assert_eq!(user(&settled(&authenticator, &good).await), Some("ann"), "before");
    let payload = encoded(claims(&idp.issuer(), "x").to_string());
    let made_up = |number: usize| {
        let header = encoded(json!({"alg": "ES256", "kid": format!("k{number}")}).to_string());
        format!("{header}.{payload}.{}", encoded([1; 64]))
    };
    let tokens: Vec<String> = (0..10_000).map(made_up).collect();
    // In waves, so that the fetch which one of them starts has ended for the next.
    for wave in tokens.chunks(500) {
        let all = futures_util::future::join_all(wave.iter().map(|token| found(&authenticator, token))).await;
        assert!(all.iter().all(refused), "every one is refused");
    }
    assert!(idp.fetches() <= 2, "one at the start and one for the storm: {}", idp.fetches());
    assert_eq!(user(&found(&authenticator, &good).await), Some("ann"), "after");
}

#[tokio::test]
async fn a_new_key_is_found_at_once_and_a_removed_one_ends_cached_tokens_too() {
    let (old, new) = (Signer::ec("old"), Signer::rsa("new"));
    let idp = Idp::start(&[&old]).await;
    let clock = Arc::new(Hand::default());
    let authenticator = following(&idp.issuer(), Some(idp.keys()), Duration::from_secs(3600), &clock);
    let (before, after) = (old.token(&claims(&idp.issuer(), "ann")), new.token(&claims(&idp.issuer(), "bob")));
    assert_eq!(user(&settled(&authenticator, &before).await), Some("ann"), "the old key");
    idp.publish(&[&old, &new]);
    assert_eq!(user(&settled(&authenticator, &after).await), Some("bob"), "a key that nobody had seen");
    assert_eq!(user(&found(&authenticator, &before).await), Some("ann"), "the old one is still there");
    idp.publish(&[&new]);
    clock.advance(Duration::from_secs(31));
    let unknown = Signer::ec("nobody").token(&claims(&idp.issuer(), "eve"));
    assert!(refused(&found(&authenticator, &unknown).await), "an unknown key has the set fetched again");
    until("the removed key's tokens are over, cached or not", || refused(&look(&authenticator, &before, NOW))).await;
    assert_eq!(user(&look(&authenticator, &after, NOW)), Some("bob"), "the others are not");
}

#[tokio::test]
async fn keys_outlive_their_issuers_fall_and_a_token_is_never_wrong_because_of_it() {
    let (signer, other) = (Signer::ec("a"), Signer::ec("b"));
    let idp = Idp::start(&[&signer]).await;
    let issuer = idp.issuer();
    let authenticator = following(&issuer, Some(idp.keys()), Duration::from_millis(20), &Arc::default());
    let token = signer.token(&claims(&issuer, "ann"));
    assert_eq!(user(&settled(&authenticator, &token).await), Some("ann"), "while it stands");
    let before = idp.fetches();
    idp.say(503, "");
    until("a failed refresh", || idp.fetches() > before).await;
    let fresh = signer.token(&claims(&issuer, "bob"));
    assert_eq!(user(&found(&authenticator, &fresh).await), Some("bob"), "its keys are kept");
    assert!(refused(&found(&authenticator, &other.token(&claims(&issuer, "eve"))).await), "a made-up key is no reason");
    let down = following(&issuer, Some(nowhere()), Duration::from_secs(600), &Arc::default());
    assert!(unavailable(&found(&down, &token).await), "never reached: nobody can say that the token is wrong");
    assert!(refused(&found(&down, "a.b.c").await), "what is no token needs no keys");
}

#[tokio::test]
async fn a_day_without_the_issuer_is_unavailable_and_not_unauthorised() {
    let signer = Signer::ec("a");
    let idp = Idp::start(&[&signer]).await;
    let clock = Arc::new(Hand::default());
    let authenticator = following(&idp.issuer(), Some(idp.keys()), Duration::from_secs(3600), &clock);
    let late = NOW.0 / 1_000_000 + 24 * 3600 + 5;
    let mut lasting = claims(&idp.issuer(), "ann");
    lasting["exp"] = json!(late + 300);
    let token = signer.token(&lasting);
    assert_eq!(user(&settled(&authenticator, &token).await), Some("ann"), "today");
    idp.say(503, "");
    let headers = HeaderMap::new();
    let tomorrow = request(Some(&token), &headers, WallMicros(late * 1_000_000));
    assert!(matches!(authenticator.look(&tomorrow), Verdict::Ask), "a fetch may help");
    assert!(unavailable(&authenticator.ask(&tomorrow).await), "and did not, although the token is cached");
}

#[tokio::test]
async fn what_is_no_token_is_for_others_and_another_issuers_token_is_refused() {
    let signer = Signer::ec("a");
    let idp = Idp::start(&[&signer]).await;
    let authenticator = following(&idp.issuer(), None, Duration::from_secs(600), &Arc::default());
    for other in [Some("sk-weir-aaaaaaaaaaaa-x"), Some("opaque"), None] {
        let headers = HeaderMap::new();
        let verdict = authenticator.look(&request(other, &headers, NOW));
        assert!(matches!(verdict, Verdict::NotMine), "{other:?}: {verdict:?}");
    }
    let foreign = signer.token(&claims("https://other.example/", "ann"));
    assert!(refused(&found(&authenticator, &foreign).await), "another issuer's, with a key of this one");
    let good = signer.token(&claims(&idp.issuer(), "ann"));
    assert_eq!(user(&settled(&authenticator, &good).await), Some("ann"), "its own");
    let mut nobody = claims(&idp.issuer(), "ann");
    nobody["org"] = json!(7);
    assert!(refused(&found(&authenticator, &signer.token(&nobody)).await), "a tenant that is no text");
}

#[tokio::test]
async fn a_shared_secret_needs_no_issuer() {
    let secret = b"0123456789abcdef0123456789abcdef";
    let keys = JwtKeys::Secret(Secret(Arc::new(secret.to_vec().into())));
    let settings = settings("local", keys, &[JwtAlgorithm::HS256]);
    let around = Surroundings {
        fetch: Fetch::new().expect("a client"),
        clock: Arc::new(Hand::default()),
        runtime: Handle::current(),
    };
    let authenticator = JwtAuthenticator::start("local", &settings, &around);
    let message =
        format!("{}.{}", encoded(r#"{"alg":"HS256","kid":"any"}"#), encoded(claims("local", "ann").to_string()));
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256);
    let token = format!("{message}.{}", signature.expect("a signature"));
    assert_eq!(user(&look(&authenticator, &token, NOW)), Some("ann"), "at once");
    let forged = format!("{message}.{}", encoded([0; 32]));
    assert!(refused(&look(&authenticator, &forged, NOW)), "and a wrong one is refused at once");
}
