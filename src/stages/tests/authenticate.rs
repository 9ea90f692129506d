//! Who calls: which authenticator is shown what, and whose no is told.

use super::office::{
    Doorman, Office, caller, certificates, ext_authz, headers, jwt, open_to, snapshot, with_authenticators,
};
use crate::config::snapshot::Authenticator;
use crate::domain::principal::{AuthMethod, Principal, Profile};
use crate::domain::refusal::Refusal;
use crate::domain::units::WallMicros;
use crate::logic::access::directory::{Directory, Tenant};
use crate::ports::{Rejection, Verdict};
use crate::stages::authenticate::{Arrival, authenticate, principal};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const KEYS: &str = "auth: { keys: { api_key: { headers: [x-my-key] } } }";

/// Who a request is, or why nobody.
async fn who(office: &Office, target: &str, lines: &[(&str, &str)]) -> Result<Principal, Refusal> {
    let headers = headers(lines);
    let (_, accepted) = office.accept("POST", target, &headers);
    authenticate(&office.runtime, &accepted, &arrival(target, &headers)).await.map(|caller| caller.principal)
}

fn arrival<'a>(target: &'a str, headers: &'a http::HeaderMap) -> Arrival<'a> {
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Arrival { method: "POST", target, host: Some("api"), headers, client, certificate: None }
}

/// An office with keys in `x-my-key` and tokens in `authorization`.
fn keys_and_tokens(keys: Arc<Doorman>, tokens: Arc<Doorman>) -> Office {
    let snapshot = with_authenticators(snapshot(&open_to("[keys]"), KEYS), vec![("tokens", jwt())]);
    Office::open(snapshot, vec![("keys", keys), ("tokens", tokens)])
}

fn knows(method: AuthMethod) -> Arc<Doorman> {
    Doorman::says(move |request| match request.credential {
        Some(_) => Verdict::Known(caller("default", method)),
        None => Verdict::NotMine,
    })
}

#[tokio::test]
async fn each_authenticator_sees_only_its_own_headers() {
    let (keys, tokens) = (Doorman::rejects(Rejection::Invalid), Doorman::rejects(Rejection::BadToken));
    let office = keys_and_tokens(Arc::clone(&keys), Arc::clone(&tokens));
    let lines = [("authorization", "Bearer t"), ("x-other", "o")];
    assert_eq!(who(&office, "/v1/x", &lines).await.err(), Some(Refusal::InvalidToken), "the token's refusal");
    assert_eq!(*keys.shown.lock(), [None], "keys are not looked for in `authorization` here");
    assert_eq!(*tokens.shown.lock(), [Some("t".to_owned())], "tokens are");
}

#[tokio::test]
async fn two_credentials_of_different_authenticators_are_ambiguous() {
    let office = keys_and_tokens(knows(AuthMethod::ApiKey), knows(AuthMethod::Jwt));
    let lines = [("authorization", "Bearer t"), ("x-my-key", "k")];
    assert_eq!(who(&office, "/v1/x", &lines).await.err(), Some(Refusal::AmbiguousCredentials), "both would be known");
    let same = [("authorization", "Bearer k"), ("x-my-key", "k")];
    assert!(who(&office, "/v1/x", &same).await.is_ok(), "the same one twice is one");
}

#[tokio::test]
async fn the_one_that_knows_wins_over_every_rejection() {
    for why in [Rejection::Unavailable("x"), Rejection::Forbidden, Rejection::Expired, Rejection::Invalid] {
        let office = keys_and_tokens(Doorman::says(move |_| Verdict::Rejected(why)), knows(AuthMethod::Jwt));
        let found = who(&office, "/v1/x", &[("authorization", "Bearer t")]).await;
        assert_eq!(found.map(|caller| caller.method), Ok(AuthMethod::Jwt), "{why:?} of another does not matter");
    }
}

#[tokio::test]
async fn of_two_rejections_the_stronger_one_is_told() {
    let order = [
        (Rejection::Unavailable("x"), "dependency_unavailable"),
        (Rejection::Forbidden, "insufficient_permissions"),
        (Rejection::Expired, "api_key_expired"),
        (Rejection::BadToken, "invalid_token"),
        (Rejection::Invalid, "invalid_api_key"),
    ];
    for (index, (stronger, code)) in order.iter().enumerate() {
        for (weaker, _) in &order[index..] {
            for (first, second) in [(*stronger, *weaker), (*weaker, *stronger)] {
                let says = |why| Doorman::says(move |_| Verdict::Rejected(why));
                let refusal = who(&keys_and_tokens(says(first), says(second)), "/v1/x", &[]).await;
                assert_eq!(refusal.err().map(|refusal| refusal.code()), Some(*code), "{first:?} and {second:?}");
            }
        }
    }
}

#[tokio::test]
async fn nobody_is_asked_where_somebody_knows_by_heart() {
    let asked = Doorman::asked(|_| Verdict::Rejected(Rejection::Unavailable("must not be asked")));
    let office = keys_and_tokens(asked, knows(AuthMethod::Jwt));
    assert!(who(&office, "/v1/x", &[("authorization", "Bearer t")]).await.is_ok(), "known without asking");
    let asked = Doorman::asked(|_| Verdict::Known(caller("default", AuthMethod::ApiKey)));
    let office = keys_and_tokens(asked, Doorman::rejects(Rejection::BadToken));
    assert!(who(&office, "/v1/x", &[("x-my-key", "k")]).await.is_ok(), "and asked where nobody does");
}

#[tokio::test]
async fn a_tenant_that_is_off_or_gone_is_an_unknown_caller() {
    for (method, wanted) in [(AuthMethod::ApiKey, Refusal::InvalidApiKey), (AuthMethod::Jwt, Refusal::InvalidToken)] {
        for there in [false, true] {
            let mut directory = Directory::default();
            if there {
                directory.tenants.insert("acme".into(), Arc::new(Tenant { disabled: true, ..Tenant::default() }));
            }
            let door = Doorman::says(move |_| Verdict::Known(caller("acme", method)));
            let office = Office::with_directory(snapshot(&open_to("[keys]"), KEYS), vec![("keys", door)], directory);
            let found = who(&office, "/v1/x", &[("x-my-key", "k")]).await;
            assert_eq!(found.err(), Some(wanted.clone()), "{method:?}, tenant there: {there}");
        }
    }
}

#[tokio::test]
async fn an_identity_provider_makes_no_operator_unless_it_may() {
    let named = |method| {
        Doorman::says(move |request| match request.credential {
            Some(_) => {
                let known = caller("default", method);
                let roles = Some(Arc::from(["member".into(), "operator".into()]));
                let profile = Profile { roles, ..known.profile.as_ref().clone() };
                Verdict::Known(Principal { profile: Arc::new(profile), ..known })
            }
            None => Verdict::NotMine,
        })
    };
    let roles_of = async |operators, line| {
        let mut tokens = jwt();
        if let Authenticator::Jwt(settings) = &mut tokens {
            settings.mapping.operators = operators;
        }
        let snapshot = with_authenticators(snapshot(&open_to("[keys]"), KEYS), vec![("tokens", tokens)]);
        let doors = vec![("keys", named(AuthMethod::ApiKey)), ("tokens", named(AuthMethod::Jwt))];
        let found = who(&Office::open(snapshot, doors), "/v1/x", &[line]).await.expect("known");
        let roles = found.profile.roles.as_deref().unwrap_or_default();
        roles.iter().map(|role| role.as_str().to_owned()).collect::<Vec<_>>()
    };
    let (token, key) = (("authorization", "Bearer t"), ("x-my-key", "k"));
    assert_eq!(roles_of(false, token).await, ["member"], "a token names the role in vain");
    assert_eq!(roles_of(true, token).await, ["member", "operator"], "unless it is configured");
    assert_eq!(roles_of(false, key).await, ["member", "operator"], "a key has what is on it");
}

#[tokio::test]
async fn a_key_may_be_in_the_query_of_geminis_paths_alone() {
    let door = knows(AuthMethod::ApiKey);
    let rest = "auth: { keys: { api_key: {} } }";
    let office = Office::open(snapshot(&open_to("[keys]"), rest), vec![("keys", Arc::clone(&door))]);
    assert!(who(&office, "/v1beta/models/m:generateContent?alt=sse&key=k1", &[]).await.is_ok(), "Gemini's way");
    assert_eq!(door.shown.lock().last(), Some(&Some("k1".to_owned())), "the key itself");
    assert_eq!(who(&office, "/v1/x?key=k1", &[]).await.err(), Some(Refusal::InvalidApiKey), "nowhere else");
    let two = who(&office, "/v1beta/models/m?key=k1", &[("x-api-key", "k2")]).await;
    assert_eq!(two.err(), Some(Refusal::AmbiguousCredentials), "a query and a header that differ");
    let custom = Office::open(snapshot(&open_to("[keys]"), KEYS), vec![("keys", knows(AuthMethod::ApiKey))]);
    let off = who(&custom, "/v1beta/models/m?key=k1", &[]).await;
    assert_eq!(off.err(), Some(Refusal::InvalidApiKey), "not where Google's header is switched off");
}

#[tokio::test]
async fn what_is_no_credential_of_ours_is_left_to_who_looks_at_more() {
    let rest = "auth: { keys: { api_key: {} } }";
    let gate = Doorman::asked(|_| Verdict::Known(caller("default", AuthMethod::ExtAuthz)));
    let both = with_authenticators(snapshot(&open_to("[keys]"), rest), vec![("gate", ext_authz())]);
    let office = Office::open(both, vec![("keys", knows(AuthMethod::ApiKey)), ("gate", gate)]);
    let basic = ("authorization", "Basic azE6");
    let found = who(&office, "/v1/x", &[basic]).await.map(|caller| caller.method);
    assert_eq!(found, Ok(AuthMethod::ExtAuthz), "the service decides on Basic");
    let second = who(&office, "/v1/x", &[basic, ("x-api-key", "k")]).await;
    assert_eq!(second.err(), Some(Refusal::InvalidApiKey), "but not beside a key");
}

#[tokio::test]
async fn a_certificate_needs_no_header() {
    let door = Doorman::says(|request| match request.certificate {
        Some(_) => Verdict::Known(caller("default", AuthMethod::ClientCert)),
        None => Verdict::NotMine,
    });
    let both = with_authenticators(snapshot(&open_to("[keys]"), KEYS), vec![("mesh", certificates())]);
    let office = Office::open(both, vec![("keys", knows(AuthMethod::ApiKey)), ("mesh", door)]);
    let headers = headers(&[]);
    let names = vec!["keys".to_owned(), "mesh".to_owned()];
    let certificate = crate::ports::ClientCertificate::default();
    let with = Arrival { certificate: Some(&certificate), ..arrival("/v1/x", &headers) };
    let found = principal(&office.runtime, &names, &with).await.map(|(by, caller)| (by, caller.method));
    assert_eq!(found, Ok(("mesh".to_owned(), AuthMethod::ClientCert)), "known by its certificate");
    let without = principal(&office.runtime, &names, &arrival("/v1/x", &headers)).await;
    assert_eq!(without.err(), Some(Refusal::InvalidApiKey), "no credential at all");
}

/// Asks two authenticators that look at the same headers, once under each order of their names.
async fn in_both_orders(
    other: &Authenticator,
    doors: impl Fn() -> (Arc<Doorman>, Arc<Doorman>),
    arrival: &Arrival<'_>,
) -> Vec<Result<AuthMethod, Refusal>> {
    let mut found = Vec::new();
    for (keys, second) in [("a", "b"), ("b", "a")] {
        let routes = open_to(&format!("[{keys}]"));
        let config = format!("auth: {{ {keys}: {{ api_key: {{ headers: [authorization, x-my-key] }} }} }}");
        let both = with_authenticators(snapshot(&routes, &config), vec![(second, other.clone())]);
        let (one, two) = doors();
        let office = Office::open(both, vec![(keys, one), (second, two)]);
        let (_, accepted) = office.accept("POST", "/v1/x", arrival.headers);
        found.push(authenticate(&office.runtime, &accepted, arrival).await.map(|caller| caller.principal.method));
    }
    found
}

fn known(method: AuthMethod) -> Verdict {
    Verdict::Known(caller("default", method))
}

fn a_key() -> String {
    let random = [7; crate::logic::access::api_key::RANDOM_BYTES];
    crate::logic::access::api_key::generate("weir", &random).expect("a key").text.to_string()
}

#[tokio::test]
async fn a_certificate_saves_no_credential_that_is_presented() {
    let certificate = crate::ports::ClientCertificate::default();
    for credential in [a_key(), "junk".to_owned(), "a, b".to_owned()] {
        let headers = headers(&[("x-my-key", &credential)]);
        let with = Arrival { certificate: Some(&certificate), ..arrival("/v1/x", &headers) };
        let doors = || (Doorman::rejects(Rejection::Invalid), Doorman::says(|_| known(AuthMethod::ClientCert)));
        let found = in_both_orders(&certificates(), doors, &with).await;
        assert_eq!(found, [Err(Refusal::InvalidApiKey), Err(Refusal::InvalidApiKey)], "{credential}: refused");
        if credential != "a, b" {
            let doors = || (knows(AuthMethod::ApiKey), Doorman::says(|_| known(AuthMethod::ClientCert)));
            let found = in_both_orders(&certificates(), doors, &with).await;
            assert_eq!(found, [Ok(AuthMethod::ApiKey), Ok(AuthMethod::ApiKey)], "{credential}: another's");
        }
    }
}

#[tokio::test]
async fn nobody_else_judges_a_key_of_ours() {
    let key = a_key();
    let headers = headers(&[("authorization", &format!("Bearer {key}")), ("cookie", "s=1")]);
    let shown = arrival("/v1/x", &headers);
    for (why, refusal) in [
        (Rejection::Invalid, Refusal::InvalidApiKey),
        (Rejection::Expired, Refusal::ApiKeyExpired),
        (Rejection::Disabled, Refusal::ApiKeyDisabled),
    ] {
        for other in [ext_authz(), jwt()] {
            let doors = || {
                let keys = Doorman::asked(move |_| Verdict::Rejected(why));
                (keys, Doorman::says(|_| known(AuthMethod::ExtAuthz)))
            };
            let found = in_both_orders(&other, doors, &shown).await;
            assert_eq!(found, [Err(refusal.clone()), Err(refusal.clone())], "{why:?} is the last word");
        }
    }
}

#[tokio::test]
async fn a_key_that_ended_stays_ended_whatever_its_form() {
    let headers = headers(&[("authorization", "Bearer sk-of-another-gateway"), ("cookie", "s=1")]);
    for (why, refusal) in [(Rejection::Expired, Refusal::ApiKeyExpired), (Rejection::Disabled, Refusal::ApiKeyDisabled)]
    {
        let doors = || (Doorman::rejects(why), Doorman::says(|_| known(AuthMethod::Introspection)));
        let found = in_both_orders(&ext_authz(), doors, &arrival("/v1/x", &headers)).await;
        assert_eq!(found, [Err(refusal.clone()), Err(refusal)], "{why:?}");
    }
}

#[tokio::test]
async fn a_service_saves_no_credential_that_it_is_not_shown() {
    let doors = || {
        let gate = Doorman::asked(|_| known(AuthMethod::ExtAuthz));
        (Doorman::rejects(Rejection::Invalid), gate)
    };
    let hidden = headers(&[("x-my-key", "junk"), ("cookie", "s=1")]);
    let found = in_both_orders(&ext_authz(), doors, &arrival("/v1/x", &hidden)).await;
    assert_eq!(found, [Err(Refusal::InvalidApiKey), Err(Refusal::InvalidApiKey)], "`x-my-key` is not sent to it");
    let shown = headers(&[("authorization", "Bearer session"), ("cookie", "s=1")]);
    let found = in_both_orders(&ext_authz(), doors, &arrival("/v1/x", &shown)).await;
    assert_eq!(found, [Ok(AuthMethod::ExtAuthz), Ok(AuthMethod::ExtAuthz)], "`authorization` is");
    let alone = headers(&[("cookie", "s=1")]);
    let found = in_both_orders(&ext_authz(), doors, &arrival("/v1/x", &alone)).await;
    assert_eq!(found, [Ok(AuthMethod::ExtAuthz), Ok(AuthMethod::ExtAuthz)], "and a cookie alone is enough");
}

#[tokio::test]
async fn a_credential_that_nobody_takes_is_not_none() {
    let routes = "  - { name: asks, auth: [keys], match: { path: { prefix: /v1/ } }, to: [{ pool: p }] }\n  \
                  - { name: open, auth: none, match: { path: { prefix: / } }, to: [{ pool: p }] }";
    let both = with_authenticators(snapshot(routes, KEYS), vec![("tokens", jwt())]);
    let tokens = Doorman::says(|_| Verdict::NotMine);
    let office = Office::open(both, vec![("keys", knows(AuthMethod::ApiKey)), ("tokens", tokens)]);
    let bearer = format!("Bearer {}", a_key());
    let found = who(&office, "/v1/x", &[("authorization", &bearer)]).await;
    assert_eq!(found.err(), Some(Refusal::InvalidApiKey), "a key where `authorization` is for tokens");
    let found = who(&office, "/v1/x", &[]).await.map(|caller| caller.method);
    assert_eq!(found, Ok(AuthMethod::Anonymous), "no credential leads to the open route");
}

#[tokio::test]
async fn a_call_on_a_replaced_secret_is_counted() {
    let door = Doorman::says(|_| {
        let until = Some(WallMicros(1));
        Verdict::Known(Principal { deprecated_until: until, ..caller("default", AuthMethod::ApiKey) })
    });
    let office = Office::open(snapshot(&open_to("[keys]"), KEYS), vec![("keys", door)]);
    assert!(who(&office, "/v1/x", &[("x-my-key", "k")]).await.is_ok(), "it still works");
    assert_eq!(office.ears.deprecated.load(Ordering::Relaxed), 1, "and somebody must hear of it");
}
