//! Every malformed credential gets its exact refusal, and nobody learns from a refusal which keys there are: unknown,
//! revoked, wrong and outlived secrets are told the same bytes.

use super::fleet::{CHAT, accepted, light, until};
use super::stack::{Key, Recipe, Weir, beside};
use crate::backend::Backends;
use crate::client::{Answer, Ask, Framing};
use std::collections::BTreeMap;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key's text with its check sum made anew.
fn summed(body: &str) -> String {
    let mut crc = crc32fast::hash(body.as_bytes());
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(crc % 62) as usize];
        crc /= 62;
    }
    format!("{body}{}", String::from_utf8_lossy(&digits))
}

/// The key with one letter changed: `back` letters before the check sum; with a check sum that is right again.
fn changed(key: &str, back: usize) -> String {
    let mut body = key.as_bytes()[..key.len() - 6].to_vec();
    let at = body.len() - 1 - back;
    body[at] = if body[at] == b'a' { b'b' } else { b'a' };
    summed(std::str::from_utf8(&body).expect("letters"))
}

/// A key that exists, with another secret.
fn wrong_secret(key: &str) -> String {
    changed(key, 0)
}

/// The same secret under an id that nobody has.
fn unknown_id(key: &str) -> String {
    // The last letter of the id stands before `-` and the 43 letters of the secret.
    changed(key, 44)
}

/// An answer without what differs between any two: its id and date.
fn bare(answer: &Answer) -> String {
    let own = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !matches!(name.as_str(), "x-request-id" | "date")
    };
    format!("{}\n\n{}", answer.head.lines().filter(own).collect::<Vec<_>>().join("\n"), answer.text())
}

async fn stand() -> (Weir, Backends) {
    let backends = Backends::start(1).await;
    (Weir::start(&Recipe::to(backends.addresses[0])), backends)
}

async fn key(proxy: &Weir, flags: &[&str]) -> Key {
    let key = proxy.create(flags);
    assert!(accepted(proxy.address, &key.text, SOON).await.is_some(), "a new key is taken");
    key
}

/// What a credential must be told: status and code.
type Told = (u16, &'static str);
const INVALID: Told = (401, "invalid_api_key");
const AMBIGUOUS: Told = (400, "ambiguous_credentials");

/// A header of a request.
type Field = (&'static str, String);
/// What is wrong, the headers that show it, and what they must be told.
type Row = (&'static str, Vec<Field>, Told);

fn bearer(what: &'static str, credential: impl std::fmt::Display) -> Row {
    (what, vec![("authorization", format!("Bearer {credential}"))], INVALID)
}

/// One `authorization` header that is no good key.
fn malformed(key: &str, other: &str) -> Vec<Row> {
    let verbatim = |what, value: String| (what, vec![("authorization", value)], INVALID);
    let body = &key[..key.len() - 6];
    vec![
        ("none", vec![], INVALID),
        verbatim("empty", String::new()),
        verbatim("a scheme alone", "Bearer".to_owned()),
        verbatim("a scheme and a blank", "Bearer ".to_owned()),
        verbatim("another scheme", format!("Basic {key}")),
        verbatim("no scheme", key.to_owned()),
        verbatim("a tab for the blank", format!("Bearer\t{key}")),
        bearer("two schemes", format!("Bearer {key}")),
        bearer("bad check sum", format!("{body}000000")),
        bearer("no check sum", body),
        bearer("one letter more", format!("{key}a")),
        bearer("one letter less", &key[..key.len() - 1]),
        bearer("in capitals", key.to_uppercase()),
        bearer("in quotes", format!("\"{key}\"")),
        bearer("another tag", summed(&body.replacen("sk-weir-", "sk-test-", 1))),
        bearer("another form", summed(&body.replacen("sk-weir-", "sk-weir_", 1))),
        bearer("not ASCII", format!("{key}é")),
        bearer("129 bytes", "k".repeat(129)),
        bearer("16 kB", "k".repeat(16_000)),
        bearer("a JWT where none is taken", "eyJhbGciOiJub25lIn0.e30."),
        bearer("unknown id", unknown_id(key)),
        bearer("wrong secret", wrong_secret(key)),
        bearer("S71 a list", format!("{key}, Bearer {other}")),
        bearer("S71 a list of one key", format!("{key}, Bearer {key}")),
        bearer("S71 a list of bare keys", format!("{key},{other}")),
        ("a list in x-api-key", vec![("x-api-key", format!("{key}, {other}"))], INVALID),
    ]
}

/// Two credentials in one request.
fn doubled(key: &str, other: &str) -> Vec<Row> {
    let with = |name: &'static str, key: &str| match name {
        "authorization" => (name, format!("Bearer {key}")),
        _ => (name, key.to_owned()),
    };
    let two = |what, first, second, other: &str| (what, vec![with(first, key), with(second, other)], AMBIGUOUS);
    vec![
        two("S70 twice, differing", "authorization", "authorization", other),
        two("S72 of two keys", "authorization", "x-api-key", other),
        two("S72 the other way", "x-api-key", "authorization", other),
        two("api-key and x-api-key", "api-key", "x-api-key", other),
        two("x-goog-api-key and x-api-key", "x-goog-api-key", "x-api-key", other),
        two("a good and an unknown one", "authorization", "x-api-key", &unknown_id(key)),
        (
            "a good one and another scheme",
            vec![with("x-api-key", key), ("authorization", "Basic x".to_owned())],
            INVALID,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_malformed_credential_gets_its_exact_refusal() {
    let _machine = beside().await;
    let (proxy, backends) = stand().await;
    let (key, other) = (key(&proxy, &[]).await.text, key(&proxy, &["--name", "other"]).await.text);
    let mut wrong = Vec::new();
    for (what, fields, (status, code)) in malformed(&key, &other).into_iter().chain(doubled(&key, &other)) {
        for framing in [Framing::Length, Framing::H2Length] {
            let ask = Ask::chat("", CHAT).framing(framing);
            let ask = fields.iter().fold(ask, |ask, (name, value)| ask.field(name, value));
            let answer = ask.send(proxy.address).await;
            if (answer.status, answer.code().as_str()) != (status, code) {
                wrong.push(format!("{what}, {framing:?}: {} {}", answer.status, answer.text()));
                continue;
            }
            answer.assert_error(status, "invalid_request_error", code, None);
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge, if status == 401 { "Bearer" } else { "" }, "{what}: the challenge");
            assert!(!answer.head.to_ascii_lowercase().contains("x-ratelimit"), "{what}: no limits on a refusal of who");
            assert!(!answer.text().contains(&key[9..20]), "{what}: nothing of the key is said back");
        }
    }
    assert!(wrong.is_empty(), "wrong refusals:\n  {}", wrong.join("\n  "));
    assert_eq!(backends.total(), 0, "nothing reached the backend");
    // The same key twice is one key, and each header takes it.
    for name in ["x-api-key", "api-key", "x-goog-api-key"] {
        let answer = Ask::chat(&key, CHAT).field(name, &key).send(proxy.address).await;
        assert_eq!(answer.status, 200, "the same key in {name} too: {}", answer.text());
        let answer = Ask::chat("", CHAT).field(name, &key).send(proxy.address).await;
        assert_eq!(answer.status, 200, "the key in {name} alone: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn unknown_revoked_wrong_and_outlived_secrets_are_told_the_same_bytes() {
    let _machine = beside().await;
    let (proxy, _backends) = stand().await;
    let (good, revoked, rotated) = (key(&proxy, &[]).await, key(&proxy, &[]).await, key(&proxy, &[]).await);
    let (expired, disabled) = (key(&proxy, &["--expires", "3s"]).await, key(&proxy, &[]).await);
    proxy.keys(&["revoke", &revoked.id]);
    proxy.keys(&["disable", &disabled.id]);
    let (new, _) = proxy.rotate(&rotated, "0s");
    for (what, key) in [("revoked", &revoked), ("rotated", &rotated), ("disabled", &disabled), ("expired", &expired)] {
        assert!(until(proxy.address, &key.text, 401, Duration::from_secs(8)).await.is_some(), "{what}: refused");
    }
    let rows = [
        ("unknown id", unknown_id(&good.text)),
        ("wrong secret", wrong_secret(&good.text)),
        ("revoked", revoked.text.clone()),
        ("revoked, wrong secret", wrong_secret(&revoked.text)),
        ("outlived secret", rotated.text.clone()),
        ("expired, wrong secret", wrong_secret(&expired.text)),
        ("disabled, wrong secret", wrong_secret(&disabled.text)),
        ("junk", "sk-weir-junk".to_owned()),
    ];
    for ask in [Ask::new("GET", "/light", ""), Ask::new("GET", "/v1/models", ""), Ask::chat("", CHAT)] {
        let mut answers = BTreeMap::<String, Vec<&str>>::new();
        for (what, key) in &rows {
            let answer = ask.clone().field("authorization", &format!("Bearer {key}")).send(proxy.address).await;
            answers.entry(bare(&answer)).or_default().push(what);
        }
        assert_eq!(answers.len(), 1, "one answer for all of them: {answers:#?}");
    }
    // Who has the secret is told what is the matter.
    for (key, code) in [(&expired, "api_key_expired"), (&disabled, "api_key_disabled")] {
        let answer = light(proxy.address, &key.text).await;
        answer.assert_error(401, "invalid_request_error", code, None);
    }
    assert_eq!(light(proxy.address, &new.text).await.status, 200, "the rotated key's new secret is good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_that_was_tried_before_it_was_made_works_within_two_seconds() {
    let _machine = beside().await;
    let (proxy, _backends) = stand().await;
    // A key that does not exist yet: its hash is imported later.
    let model = key(&proxy, &[]).await.text;
    let text = unknown_id(&wrong_secret(&model));
    for _ in 0..3 {
        assert_eq!(light(proxy.address, &text).await.status, 401, "nobody has it yet");
    }
    let digest = {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(text.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let id = text.split('-').nth(2).expect("its id").to_owned();
    let hash = format!("sha256:{digest}");
    let shown = proxy.keys(&["import", "--hash", &hash, "--key-id", &id]);
    let shown = shown["keys"].get(0).cloned().unwrap_or(shown);
    assert_eq!(shown["key_id"], id.as_str(), "the id that was given: {shown}");
    assert!(accepted(proxy.address, &text, Duration::from_secs(2)).await.is_some(), "it works once it is there");
}
