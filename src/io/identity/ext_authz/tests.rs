use super::*;
use crate::domain::units::WallMicros;
use crate::io::identity::tests::{Reply, Service, nowhere, reply, request};
use crate::logic::access::api_key;
use crate::ports::Rejection;
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::Full;
use std::time::Duration;
use url::Url;

const NOW: WallMicros = WallMicros(1);

fn settings(url: &Url) -> ExtAuthzAuth {
    ExtAuthzAuth {
        url: url.clone(),
        timeout: Duration::from_secs(10),
        send: vec!["authorization".into(), "cookie".into()],
        tenant: "x-auth-tenant".into(),
        team: "x-auth-team".into(),
        user: "x-auth-user".into(),
        roles: "x-auth-roles".into(),
        operators: false,
    }
}

fn at(url: &Url) -> ExtAuthz {
    ExtAuthz::new("gate", settings(url), Fetch::new().expect("a client"))
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let value = |value: &str| HeaderValue::from_str(value).expect("a value");
    lines.iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect()
}

async fn verdict(authenticator: &ExtAuthz, headers: &HeaderMap) -> Verdict {
    let request = request(None, headers, NOW);
    match authenticator.look(&request) {
        Verdict::Ask => authenticator.ask(&request).await,
        verdict => verdict,
    }
}

async fn rejection(authenticator: &ExtAuthz) -> Rejection {
    match verdict(authenticator, &HeaderMap::new()).await {
        Verdict::Rejected(why) => why,
        other => panic!("not rejected: {other:?}"),
    }
}

fn acme() -> Reply {
    let reply = http::Response::builder().status(200).header("x-auth-tenant", "acme").header("x-auth-user", "ann");
    reply.body(Full::new(Bytes::new())).expect("a reply")
}

#[tokio::test]
async fn the_service_sees_what_the_request_was_and_only_the_headers_it_is_sent() {
    let service = Service::start(|_| async { acme() }).await;
    let sent = headers(&[
        ("authorization", "Bearer t"),
        ("cookie", "a=1"),
        ("x-other", "secret"),
        ("x-original-method", "GET"),
        ("x-forwarded-for", "203.0.113.1"),
    ]);
    let mut settings = settings(&service.url);
    settings.send.extend(["x-original-method".into(), "x-forwarded-for".into()]);
    let authenticator = ExtAuthz::new("gate", settings, Fetch::new().expect("a client"));
    let Verdict::Known(principal) = verdict(&authenticator, &sent).await else { panic!("nobody is known") };
    assert_eq!(principal.method, AuthMethod::ExtAuthz);
    assert_eq!(principal.profile.tenant.as_str(), "acme");
    assert_eq!(principal.profile.user.as_ref().map(|user| user.as_str()), Some("ann"));
    let asked = service.asked().pop().expect("a question");
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/check"));
    for (name, value) in [
        ("authorization", Some("Bearer t")),
        ("cookie", Some("a=1")),
        ("x-other", None),
        ("x-original-method", Some("POST")),
        ("x-original-uri", Some("/v1/chat/completions?a=b")),
        ("x-original-host", Some("api.example")),
        ("x-forwarded-for", Some("192.0.2.7")),
    ] {
        assert_eq!(asked.header(name), value, "{name}");
        assert!(asked.headers.get_all(name).iter().count() <= 1, "{name} once");
    }
}

#[tokio::test]
async fn its_status_decides() {
    for (status, wanted) in [
        (401, Rejection::BadToken),
        (403, Rejection::Forbidden),
        (302, UNAVAILABLE),
        (404, UNAVAILABLE),
        (500, UNAVAILABLE),
    ] {
        let service = Service::saying(status, "no").await;
        assert_eq!(rejection(&at(&service.url)).await, wanted, "{status}");
    }
}

#[tokio::test]
async fn without_an_answer_nobody_comes_in() {
    assert_eq!(rejection(&at(&nowhere())).await, UNAVAILABLE, "nobody listens");
    let silent = Service::start(|_| std::future::pending()).await;
    let quick = ExtAuthzAuth { timeout: Duration::from_millis(30), ..settings(&silent.url) };
    let authenticator = ExtAuthz::new("gate", quick, Fetch::new().expect("a client"));
    assert_eq!(rejection(&authenticator).await, UNAVAILABLE, "too slow");
    let large = "x".repeat(MAX_BODY + 1);
    let service = Service::start(move |_| std::future::ready(reply(200, &large))).await;
    assert_eq!(rejection(&at(&service.url)).await, UNAVAILABLE, "too large");
}

#[tokio::test]
async fn every_request_is_asked_about_anew() {
    let service = Service::start(|_| async { acme() }).await;
    let authenticator = at(&service.url);
    for _ in 0..3 {
        assert!(matches!(verdict(&authenticator, &HeaderMap::new()).await, Verdict::Known(_)));
    }
    assert_eq!(service.asked().len(), 3, "nothing is kept");
}

#[tokio::test]
async fn weirs_own_keys_are_shown_to_nobody() {
    let service = Service::start(|_| async { acme() }).await;
    let key = api_key::generate("weir", &[7; api_key::RANDOM_BYTES]).expect("a key").text;
    let sent = headers(&[("authorization", &format!("Bearer {}", key.as_str()))]);
    assert!(matches!(verdict(&at(&service.url), &sent).await, Verdict::NotMine), "the key speaks for itself");
    assert!(service.asked().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn over_the_bound_requests_are_unavailable_at_once_and_places_come_back() {
    let service = Service::start(|_| std::future::pending()).await;
    let authenticator = at(&service.url);
    let none = HeaderMap::new();
    let mut waiting: Vec<_> = (0..AT_ONCE).map(|_| Box::pin(verdict(&authenticator, &none))).collect();
    for asker in &mut waiting {
        assert!(asker.as_mut().now_or_never().is_none(), "it waits");
    }
    assert_eq!(rejection(&authenticator).await, UNAVAILABLE, "one more");
    drop(waiting);
    assert_eq!(authenticator.slots.available_permits(), AT_ONCE, "their places are free again");
}
