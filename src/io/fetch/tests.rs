//! Laws of the client, against a service on this machine.

pub mod service;

use super::*;
use service::{Service, nowhere, reply};

const LIMITS: Limits = Limits { timeout: Duration::from_secs(10), bytes: 1000 };

fn url(text: &str) -> Url {
    Url::parse(text).expect("a URL")
}

#[test]
fn providers_are_asked_over_https_or_on_this_machine() {
    for good in ["https://login.example.com/x", "http://127.0.0.1:9/", "http://localhost/", "http://[::1]:80/"] {
        assert_eq!(require_protected(&url(good)), Ok(()), "{good}");
    }
    for bad in [
        "http://login.example.com/",
        "http://127.0.0.1.example.com/",
        "http://localhost.example.com/",
        "http://169.254.169.254/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "data:,x",
    ] {
        assert_eq!(require_protected(&url(bad)), Err(FetchError::Insecure), "{bad}");
    }
    let told = FetchError::Insecure.to_string();
    assert!(!told.contains("identity"), "webhooks are asked by it too, and admin listeners: {told}");
}

#[tokio::test]
async fn answers_have_a_bound_and_redirects_are_not_followed() {
    let fetch = Fetch::new().expect("a client");
    let service = Service::start(|asked| async move {
        match asked.target.as_str() {
            "/moved" => {
                let mut moved = reply(302, "");
                moved.headers_mut().insert("location", HeaderValue::from_static("/there"));
                moved
            }
            "/full" => reply(200, &"x".repeat(1000)),
            _ => reply(200, &"x".repeat(1001)),
        }
    })
    .await;
    let at = |path: &str| service.url.join(path).expect("a URL");
    let get = async |path: &str| fetch.get(&at(path), HeaderMap::new(), LIMITS).await;
    assert_eq!(get("/full").await.map(|answer| answer.body.len()), Ok(1000), "as much as allowed");
    assert_eq!(get("/over").await.err(), Some(FetchError::TooLarge(1000)), "a byte more");
    assert_eq!(get("/moved").await.map(|answer| answer.status), Ok(302), "a redirect is an answer");
    let asked = service.asked();
    assert!(asked.iter().all(|asked| asked.target != "/there"), "nobody went there");
    assert_eq!(
        asked.first().and_then(|asked| asked.header("user-agent")),
        Some(concat!("weir/", env!("CARGO_PKG_VERSION"))),
        "who asks"
    );
}

#[tokio::test]
async fn errors_do_not_repeat_the_address() {
    let fetch = Fetch::new().expect("a client");
    let mut there = nowhere();
    there.set_query(Some("secret=hush"));
    let error = fetch.get(&there, HeaderMap::new(), LIMITS).await.expect_err("nobody listens");
    assert!(matches!(error, FetchError::Connect(_)), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up() {
    let service = Service::start(|_| std::future::pending()).await;
    let limits = Limits { timeout: Duration::from_millis(50), ..LIMITS };
    let answer = Fetch::new().expect("a client").get(&service.url, HeaderMap::new(), limits).await;
    assert_eq!(answer.err(), Some(FetchError::Timeout), "in time");
}
