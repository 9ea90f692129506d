//! What goes upstream, and what a request owes that ends early.

use super::office::{
    Doorman, NOON, Office, caller, ext_authz, headers, open_to, snapshot, tenant, with_authenticators,
};
use crate::config::snapshot::{Authenticator, Credential, ForwardIdentity, Pool, Secret, Snapshot};
use crate::domain::fault::Fault;
use crate::domain::ids::KeyId;
use crate::domain::principal::{AuthMethod, Principal, Profile};
use crate::domain::record::Status;
use crate::domain::refusal::Refusal;
use crate::domain::surface::Surface;
use crate::domain::units::Micros;
use crate::exchange::{Claim, Exchange};
use crate::logic::access::directory::Directory;
use crate::logic::wire::identity::{self, Bound};
use crate::ports::Rejection;
use crate::stages::settle::{self, Ending, settle};
use crate::stages::{body, debit, forward, meter};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

const KEYS: &str = "auth: { keys: { api_key: { headers: [authorization, x-my-key] } } }";

fn secret(text: &str) -> Secret {
    Secret(Arc::new(zeroize::Zeroizing::new(text.as_bytes().to_vec())))
}

fn with_pool(mut snapshot: Snapshot, change: impl FnOnce(&mut Pool)) -> Snapshot {
    change(Arc::get_mut(&mut snapshot.pools[0]).expect("nobody else has it"));
    snapshot
}

fn office(snapshot: Snapshot) -> Office {
    let mut directory = Directory::default();
    directory.tenants.insert("acme".into(), tenant());
    Office::with_directory(snapshot, vec![("keys", Doorman::rejects(Rejection::Invalid))], directory)
}

fn ann() -> Principal {
    let profile = Profile { user: Some("ann".into()), ..Profile::of("acme".into()) };
    Principal { key: Some(KeyId::new("0123456789AB")), ..Principal::of(Arc::new(profile), AuthMethod::ApiKey) }
}

/// An admitted request: a model call on LLM paths, plain HTTP elsewhere.
pub async fn admitted(office: &Office, target: &str, principal: Principal) -> Arc<Exchange> {
    tried(office, target, principal).await.unwrap_or_else(|refusal| panic!("{refusal:?}"))
}

/// The same, where it may be refused.
pub async fn tried(office: &Office, target: &str, principal: Principal) -> Result<Arc<Exchange>, Refusal> {
    let (facts, accepted) = office.accept("POST", target, &headers(&[]));
    let text = Bytes::from_static(br#"{"model":"m","messages":[]}"#);
    let call = facts.surface.is_llm().then(|| body::understand(Surface::OpenAiChat, text).expect("a call"));
    let claim = Claim {
        facts,
        principal,
        route: Arc::clone(&accepted.candidates[0]),
        pool: Arc::clone(&office.runtime.pools[0]),
        call,
        share: None,
        spent: Micros(0),
    };
    debit::debit(&office.runtime, claim).await
}

/// What goes upstream of some headers: the target, and all fields by name.
async fn sent(office: &Office, target: &str, who: Principal, lines: &[(&str, &str)]) -> (String, Fields) {
    let exchange = admitted(office, target, who).await;
    let backend = &exchange.pool.config.backends[0];
    let inbound = headers(lines);
    let outbound = match &exchange.call {
        Some(call) => forward::call(&exchange, call, backend, &inbound),
        None => forward::http(&exchange, backend, &inbound),
    };
    let mut fields = Fields::new();
    for (name, value) in &outbound.headers {
        fields.entry(name.to_string()).or_default().push(value.to_str().expect("text").to_owned());
    }
    (outbound.target, fields)
}

type Fields = BTreeMap<String, Vec<String>>;

#[tokio::test]
async fn a_clients_credential_never_reaches_the_backend() {
    let office = office(snapshot(&open_to("[keys]"), KEYS));
    let lines =
        [("authorization", "Bearer k"), ("x-my-key", "k"), ("x_my_key", "k"), ("x-api-key", "k"), ("x-app", "stays")];
    for target in ["/v1/chat/completions", "/upload"] {
        let (_, fields) = sent(&office, target, ann(), &lines).await;
        assert!(fields.values().flatten().all(|value| !value.contains('k')), "{target}: {fields:?}");
        assert_eq!(fields.get("x-app").map(Vec::len), Some(1), "other headers pass");
    }
}

#[tokio::test]
async fn what_an_external_service_is_shown_stays_here() {
    let sends = |names: &[&str]| match ext_authz() {
        Authenticator::ExtAuthz(mut settings) => {
            settings.send = names.iter().map(ToString::to_string).collect();
            Authenticator::ExtAuthz(settings)
        }
        other => other,
    };
    let with = |names: &[&str], auth: &str| {
        office(with_authenticators(snapshot(&open_to(auth), KEYS), vec![("gate", sends(names))]))
    };
    let lines = [
        ("x-session", "s"),
        ("x_session", "s"),
        ("cookie", "s"),
        ("x-auth-tenant", "s"),
        ("x_auth_roles", "s"),
        ("content-type", "text/plain"),
        ("x-app", "stays"),
    ];
    let asked = with(&["x-session", "cookie", "content-type"], "[keys]");
    for target in ["/v1/chat/completions", "/upload"] {
        let (_, fields) = sent(&asked, target, caller("acme", AuthMethod::ExtAuthz), &lines).await;
        assert!(fields.values().flatten().all(|value| value != "s"), "{target}: {fields:?}");
        assert!(fields.contains_key("x-app") && fields.contains_key("content-type"), "others pass: {fields:?}");
    }
    let (_, fields) = sent(&asked, "/upload", ann(), &lines).await;
    assert!(!fields.contains_key("x-session"), "whoever knew the caller on this route: {fields:?}");
    let (_, fields) = sent(&with(&["x-session"], "[keys]"), "/upload", ann(), &lines).await;
    assert!(fields.contains_key("cookie"), "a cookie that no service is shown is the backend's: {fields:?}");
    let (_, fields) = sent(&with(&["x-session"], "none"), "/upload", Principal::anonymous(), &lines).await;
    assert!(fields.contains_key("x-session"), "where the service is not asked it is no credential: {fields:?}");
}

#[tokio::test]
async fn where_nobody_asks_authorization_is_between_client_and_backend() {
    let office = office(snapshot(&open_to("none"), KEYS));
    let lines = [("authorization", "Bearer theirs"), ("x-my-key", "k")];
    let (_, fields) = sent(&office, "/upload", Principal::anonymous(), &lines).await;
    assert_eq!(fields.get("authorization").map(|all| all[0].as_str()), Some("Bearer theirs"), "not ours to take");
    assert!(!fields.contains_key("x-my-key"), "a header of Weir's own keys is");
    let (_, fields) = sent(&office, "/upload", ann(), &lines).await;
    assert!(!fields.contains_key("authorization"), "a caller whom we know by it has shown it to us");
}

#[tokio::test]
async fn our_credential_is_the_only_one_of_its_name() {
    for (credential, name, value) in [
        (Credential::Bearer(secret("ours")), "authorization", "Bearer ours"),
        (Credential::Header("x-key".into(), secret("ours")), "x-key", "ours"),
    ] {
        let office = office(with_pool(snapshot(&open_to("none"), ""), |pool| pool.credential = Some(credential)));
        let lines = [("authorization", "Bearer theirs"), ("x-key", "theirs"), ("x_key", "theirs")];
        let (_, fields) = sent(&office, "/upload", Principal::anonymous(), &lines).await;
        assert_eq!(fields.get(name), Some(&vec![value.to_owned()]), "{name}");
        assert!(!fields.contains_key("x_key") || name != "x-key", "nor under a spelling that means the same");
    }
}

#[tokio::test]
async fn a_backend_is_told_who_calls_only_when_asked_for_and_only_by_us() {
    let forged = [("x-weir-tenant", "forged"), ("x_weir_user", "forged"), ("x-weir-signature", "forged")];
    let silent = office(snapshot(&open_to("[keys]"), KEYS));
    let (_, fields) = sent(&silent, "/v1/chat/completions", ann(), &forged).await;
    assert!(fields.keys().all(|name| !name.contains("weir")), "nobody asked: {fields:?}");
    let told = ForwardIdentity { sign: Some(secret("key")) };
    let signing = office(with_pool(snapshot(&open_to("[keys]"), KEYS), |pool| pool.identity = Some(told)));
    let (_, fields) = sent(&signing, "/v1/chat/completions", ann(), &forged).await;
    let request_id = crate::domain::ids::RequestId(uuid::Uuid::nil());
    // The path as the backend sees it: behind the prefix of its URL.
    let bound = Bound { now: NOON, request_id, method: "POST", path: "/base/v1/chat/completions" };
    let signature = identity::signature(b"key", &identity::headers(&ann()), &bound).expect("signed");
    for (name, value) in [
        ("x-weir-tenant", "acme"),
        ("x-weir-user", "ann"),
        ("x-weir-key", "0123456789AB"),
        ("x-weir-signature", signature.as_str()),
    ] {
        assert_eq!(fields.get(name), Some(&vec![value.to_owned()]), "{name}");
    }
    assert!(!fields.contains_key("x_weir_user") && !fields.contains_key("x-weir-team"), "and no more: {fields:?}");
}

#[tokio::test]
async fn a_key_in_a_query_stays_here() {
    let office = office(snapshot(&open_to("[keys]"), KEYS));
    let (target, _) = sent(&office, "/v1beta/models/m?alt=sse&key=k", ann(), &[]).await;
    assert_eq!(target, "/base/v1beta/models/m?alt=sse", "without the key");
    let (target, _) = sent(&office, "/v1beta/models/m?key=k", ann(), &[]).await;
    assert_eq!(target, "/base/v1beta/models/m", "nothing is left of the query");
    let (target, _) = sent(&office, "/search?key=word", ann(), &[]).await;
    assert_eq!(target, "/base/search?key=word", "elsewhere `key` is no credential");
}

#[tokio::test]
async fn a_revoked_keys_stream_is_our_no_and_its_record_says_what_was_delivered() {
    let office = office(snapshot(&open_to("[keys]"), KEYS));
    let exchange = admitted(&office, "/v1/chat/completions", ann()).await;
    meter::begin(&exchange, 200, true);
    let event = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n";
    let step = meter::piece(&exchange, Bytes::from_static(event));
    meter::delivered(&exchange, step.out.len());
    let last = meter::interruption(&exchange, Fault::Revoked);
    assert!(last.windows(11).any(|part| part == b"key_revoked"), "the last event says why");
    let _receipt = settle(&exchange, &Ending::FailedAfter(Fault::Revoked));
    let records = office.ledger.records.lock();
    let record = records.first().expect("one record");
    assert_eq!(record.status, Status::Rejected, "our own no, not the upstream's failure");
    assert_eq!(record.error_code.as_deref(), Some("key_revoked"), "with its code");
    assert!(record.delivered_output.is_some_and(|tokens| tokens.0 > 0), "what was delivered: {record:?}");
}

#[tokio::test]
async fn a_plan_that_does_not_exist_is_our_fault_and_lets_nobody_in() {
    let office = office(snapshot(&open_to("[keys]"), KEYS));
    let (facts, accepted) = office.accept("POST", "/upload", &headers(&[]));
    let profile = Profile { plan: Some("gone".into()), ..caller("acme", AuthMethod::Jwt).profile.as_ref().clone() };
    let claim = Claim {
        facts,
        principal: Principal::of(Arc::new(profile), AuthMethod::Jwt),
        route: Arc::clone(&accepted.candidates[0]),
        pool: Arc::clone(&office.runtime.pools[0]),
        call: None,
        share: None,
        spent: Micros(0),
    };
    let refusal = debit::debit(&office.runtime, claim).await.err().expect("refused");
    assert_eq!((refusal.status(), refusal.code()), (503, "dependency_unavailable"), "never without a limit");
}

#[test]
fn an_answer_of_our_own_names_its_caller() {
    let office = office(snapshot(&open_to("[keys]"), KEYS));
    let (facts, _) = office.accept("GET", "/v1/models", &headers(&[]));
    settle::answered(&office.runtime, &facts, &ann(), (200, 7));
    let ended = office.ears.ended.lock().pop().expect("one line");
    let record = &ended.record;
    let who = (record.tenant_id.as_deref(), record.user_id.as_deref(), record.key_id.as_deref());
    assert_eq!(who, (Some("acme"), Some("ann"), Some("0123456789AB")), "who asked");
    assert_eq!((record.auth_method.as_deref(), record.bytes_out), (Some("api_key"), 7), "how, and how much they got");
}
