use super::*;
use crate::config::snapshot::{ClaimMapping, Secret};
use crate::io::identity::tests::{Service, nowhere, reply, request};
use crate::logic::access::api_key;
use crate::logic::access::expression::Expression;
use futures_util::FutureExt;
use futures_util::future::join_all;
use std::time::Duration;
use tokio::sync::Notify;
use url::Url;

const SECOND: i64 = 1_000_000;
const NOW: WallMicros = WallMicros(1_000_000 * SECOND);
const ACTIVE: &str = r#"{"active":true,"sub":"ann","org":"acme"}"#;

fn later(seconds: i64) -> WallMicros {
    WallMicros(NOW.0 + seconds * SECOND)
}

fn settings(url: &Url) -> IntrospectionAuth {
    let org = Expression::compile("claims.org", &["claims"]).expect("an expression");
    IntrospectionAuth {
        url: url.clone(),
        client_id: "we:ir".into(),
        client_secret: Secret(Arc::new(Zeroizing::new(b"p+w".to_vec()))),
        timeout: Duration::from_secs(10),
        ttl: Duration::from_secs(30),
        entries: 100,
        audiences: Vec::new(),
        mapping: ClaimMapping { tenant: Some(org), ..ClaimMapping::default() },
    }
}

fn at(url: &Url) -> Introspection {
    Introspection::new("opaque", settings(url), Fetch::new().expect("a client"))
}

/// As the stage does: looks, and asks where it must.
async fn verdict(authenticator: &Introspection, token: &str, now: WallMicros) -> Verdict {
    let headers = HeaderMap::new();
    let request = request(Some(token), &headers, now);
    match authenticator.look(&request) {
        Verdict::Ask => authenticator.ask(&request).await,
        verdict => verdict,
    }
}

/// `tenant/user`, or the rejection.
async fn who(authenticator: &Introspection, token: &str, now: WallMicros) -> Result<String, Rejection> {
    match verdict(authenticator, token, now).await {
        Verdict::Known(principal) => {
            assert_eq!(principal.method, AuthMethod::Introspection, "method");
            let user = principal.profile.user.as_ref().map_or("", |user| user.as_str());
            Ok(format!("{}/{user}", principal.profile.tenant))
        }
        Verdict::Rejected(why) => Err(why),
        other => panic!("no verdict: {other:?}"),
    }
}

const DOWN: Result<String, Rejection> = Err(Rejection::Unavailable("introspection"));

fn known() -> Result<String, Rejection> {
    Ok("acme/ann".to_owned())
}

#[tokio::test]
async fn the_question_is_the_form_of_rfc_7662_with_our_name_and_secret() {
    let provider = Service::saying(200, ACTIVE).await;
    assert_eq!(who(&at(&provider.url), "a+b/c==", NOW).await, known());
    let asked = provider.asked().pop().expect("a question");
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/check"));
    assert_eq!(asked.body, "token=a%2Bb%2Fc%3D%3D&token_type_hint=access_token", "the token, encoded");
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(asked.header("accept"), Some("application/json"));
    // base64("we%3Air:p%2Bw")
    assert_eq!(asked.header("authorization"), Some("Basic d2UlM0FpcjpwJTJCdw=="), "both parts encoded");
}

#[tokio::test]
async fn an_answer_is_asked_for_once_and_believed_until_its_end() {
    let provider = Service::saying(200, ACTIVE).await;
    let authenticator = at(&provider.url);
    for seconds in [0, 1, 29] {
        assert_eq!(who(&authenticator, "t", later(seconds)).await, known(), "after {seconds} s");
    }
    assert_eq!(provider.asked().len(), 1, "within 30 s");
    assert_eq!(who(&authenticator, "t", later(30)).await, known(), "asked again");
    assert_eq!(provider.asked().len(), 2, "after 30 s");
}

#[tokio::test]
async fn an_answer_is_not_believed_past_the_end_of_the_token() {
    let provider = Service::saying(200, r#"{"active":true,"sub":"ann","org":"acme","exp":1000010}"#).await;
    let authenticator = at(&provider.url);
    assert_eq!(who(&authenticator, "t", NOW).await, known());
    assert_eq!(who(&authenticator, "t", later(9)).await, known(), "until its end");
    assert_eq!(who(&authenticator, "t", later(10)).await, Err(Rejection::BadToken), "at its end");
}

#[tokio::test]
async fn a_no_is_kept_for_five_seconds_and_not_longer() {
    let provider = Service::saying(200, r#"{"active":false}"#).await;
    let authenticator = at(&provider.url);
    for seconds in [0, 1, 4] {
        assert_eq!(who(&authenticator, "t", later(seconds)).await, Err(Rejection::BadToken));
    }
    assert_eq!(provider.asked().len(), 1, "a storm of one bad token is not passed on");
    assert_eq!(who(&authenticator, "t", later(5)).await, Err(Rejection::BadToken));
    assert_eq!(provider.asked().len(), 2, "a token that became good works soon");
}

#[tokio::test]
async fn each_token_has_its_own_answer() {
    let provider = Service::start(|asked| async move {
        let user = if asked.body.contains("token=one&") { "one" } else { "two" };
        reply(200, &format!(r#"{{"active":true,"sub":"{user}","org":"acme"}}"#))
    })
    .await;
    let authenticator = at(&provider.url);
    for token in ["one", "two", "one", "two"] {
        assert_eq!(who(&authenticator, token, NOW).await, Ok(format!("acme/{token}")));
    }
}

#[tokio::test]
async fn a_provider_that_is_down_makes_new_tokens_unavailable_and_leaves_known_ones() {
    let provider = Service::saying(200, ACTIVE).await;
    let authenticator = at(&provider.url);
    assert_eq!(who(&authenticator, "t", NOW).await, known());
    drop(provider);
    // The service's task is gone; connections that it still has may answer, so a new authenticator asks as well.
    assert_eq!(who(&authenticator, "t", later(29)).await, known(), "until the answer's end");
    assert_eq!(who(&at(&nowhere()), "u", NOW).await, DOWN, "never 401");
}

#[tokio::test]
async fn an_answer_that_is_none_says_nothing_of_the_token() {
    for (status, body) in
        [(500, ACTIVE), (401, "{}"), (302, ACTIVE), (204, ""), (201, ACTIVE), (200, "<html>"), (200, "[]")]
    {
        let provider = Service::saying(status, body).await;
        assert_eq!(who(&at(&provider.url), "t", NOW).await, DOWN, "{status} {body}");
    }
    let large = format!(r#"{{"active":true,"sub":"ann","org":"acme","x":"{}"}}"#, "x".repeat(MAX_ANSWER));
    let provider = Service::start(move |_| std::future::ready(reply(200, &large))).await;
    assert_eq!(who(&at(&provider.url), "t", NOW).await, DOWN, "too large");
    let silent = Service::start(|_| std::future::pending()).await;
    let mut settings = settings(&silent.url);
    settings.timeout = Duration::from_millis(30);
    let authenticator = Introspection::new("opaque", settings, Fetch::new().expect("a client"));
    assert_eq!(who(&authenticator, "t", NOW).await, DOWN, "too slow");
}

#[tokio::test]
async fn a_mapping_that_finds_no_tenant_refuses() {
    let provider = Service::saying(200, r#"{"active":true,"sub":"ann"}"#).await;
    assert_eq!(who(&at(&provider.url), "t", NOW).await, Err(Rejection::BadToken));
}

#[tokio::test]
async fn askers_of_one_token_share_one_question() {
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let provider = Service::start(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.notified().await;
            reply(200, ACTIVE)
        }
    })
    .await;
    let authenticator = at(&provider.url);
    let askers = join_all((0..20).map(|_| who(&authenticator, "t", NOW)));
    let open = async {
        while provider.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        opened.notify_one();
    };
    let (answers, ()) = tokio::join!(askers, open);
    assert!(answers.iter().all(|answer| *answer == known()), "all hear it: {answers:?}");
    assert_eq!(provider.asked().len(), 1, "one question");
}

#[tokio::test]
async fn over_the_bound_tokens_are_unavailable_at_once() {
    let provider = Service::start(|_| std::future::pending()).await;
    let authenticator = at(&provider.url);
    let tokens: Vec<String> = (0..AT_ONCE).map(|token| format!("t{token}")).collect();
    let mut waiting: Vec<_> = tokens.iter().map(|token| Box::pin(who(&authenticator, token, NOW))).collect();
    for asker in &mut waiting {
        assert!(asker.as_mut().now_or_never().is_none(), "it waits");
    }
    assert_eq!(who(&authenticator, "one-more", NOW).await, DOWN);
}

#[tokio::test]
async fn weirs_own_keys_and_what_is_no_token_are_shown_to_nobody() {
    let provider = Service::saying(200, ACTIVE).await;
    let authenticator = at(&provider.url);
    let key = api_key::generate("weir", &[7; api_key::RANDOM_BYTES]).expect("a key").text;
    for own in [key.as_str(), &key[..key.len() - 1]] {
        assert!(matches!(verdict(&authenticator, own, NOW).await, Verdict::NotMine), "a key, right or wrong");
    }
    let long = "x".repeat(MAX_TOKEN + 1);
    for token in ["a b", "a\"b", "=", "a=b", "a{b", &long] {
        assert_eq!(who(&authenticator, token, NOW).await, Err(Rejection::BadToken), "{:.20}", token);
    }
    let headers = HeaderMap::new();
    assert!(matches!(authenticator.look(&request(None, &headers, NOW)), Verdict::NotMine), "no credential");
    assert!(provider.asked().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn answers_are_kept_within_the_bound() {
    let provider = Service::saying(200, ACTIVE).await;
    let authenticator = at(&provider.url);
    for token in 0..300 {
        assert_eq!(who(&authenticator, &format!("t{token}"), NOW).await, known());
    }
    assert!(authenticator.provider.held.weight() <= 100, "{} of 100", authenticator.provider.held.weight());
}

#[test]
fn secrets_are_not_in_what_is_printed() {
    let shown = format!("{:?} {:?}", settings(&nowhere()), basic("weir", b"secret"));
    assert!(!shown.contains("p+w") && !shown.contains("c2VjcmV0"), "{shown}");
}
