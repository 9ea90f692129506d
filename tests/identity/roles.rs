//! Who may what: scopes of roles, restrictions of keys, rules by attributes, and plans at every level. A rule that
//! denies is named in the log and never to the client.

use super::fleet::{CHAT, accepted};
use super::stack::{Recipe, Weir, beside};
use crate::backend::Backends;
use crate::cases::eventually;
use crate::client::{Answer, Ask, Wire};
use serde_json::Value;
use std::time::Duration;

const MORE: &str = r#"
roles:
  developer: { models: ["llama-*"], scopes: [inference, "models:list"] }
  lister: { scopes: ["models:list"] }
authorization:
  - { name: no-batch-team, when: "auth.team == 'batch'", effect: deny }
  - { name: no-long-answers, when: "request.max_tokens != null && request.max_tokens > 100", effect: deny }
  - { name: named-in-acme, when: "auth.tenant != 'acme' || auth.user != null", effect: require }
  - { name: cannot-be-told, when: "auth.tenant == 'globex' && auth.claims.level > 3", effect: deny }
tenants:
  acme: {}
  globex: {}
  initech: { teams: { batch: {}, web: {} } }
"#;

async fn stand(routes: &str) -> (Weir, Backends) {
    let backends = Backends::start(1).await;
    let recipe = Recipe {
        models: ", llama-3".to_owned(),
        routes: routes.to_owned(),
        rest: MORE.to_owned(),
        ..Recipe::to(backends.addresses[0])
    };
    (Weir::start(&recipe), backends)
}

/// A key, without waiting for the proxy to take it: the first request asks the store if need be.
fn key(proxy: &Weir, flags: &[&str]) -> String {
    proxy.create(flags).text
}

fn assert_forbidden(answer: &Answer, what: &str) {
    let told = (answer.status, answer.code());
    assert_eq!(told, (403, "insufficient_permissions".to_owned()), "{what}: {}", answer.text());
    answer.assert_error(403, "permission_error", "insufficient_permissions", None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_role_opens_what_its_scopes_say_and_nothing_else() {
    let _machine = beside().await;
    let (proxy, backends) = stand("").await;
    let list = |key: &str| Ask::new("GET", "/v1/models", key);
    let lister = key(&proxy, &["--tenant", "initech", "--role", "lister"]);
    assert_eq!(list(&lister).send(proxy.address).await.status, 200, "models:list lists");
    assert_forbidden(&Ask::chat(&lister, CHAT).send(proxy.address).await, "and does not call");
    let developer = key(&proxy, &["--tenant", "initech", "--role", "developer"]);
    let call = |key: &str, model: &str| Ask::chat(key, CHAT.replace("\"m\"", &format!("\"{model}\"")));
    assert_eq!(call(&developer, "llama-3").send(proxy.address).await.status, 200, "a model of the role");
    let refused = call(&developer, "m").send(proxy.address).await;
    refused.assert_error(404, "invalid_request_error", "model_not_found", Some("model"));
    let both = key(&proxy, &["--tenant", "initech", "--role", "developer", "--role", "member"]);
    assert_eq!(call(&both, "m").send(proxy.address).await.status, 200, "two roles allow what either allows");
    let nothing = key(&proxy, &["--tenant", "initech"]);
    assert_eq!(call(&nothing, "m").send(proxy.address).await.status, 200, "no role is a member");
    assert_eq!(backends.total(), 3, "what was refused did not reach the backend");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_is_good_only_where_and_from_where_it_says() {
    let _machine = beside().await;
    let (proxy, backends) = stand("").await;
    let endpoint = key(&proxy, &["--tenant", "initech", "--endpoint", "/v1/models", "--endpoint", "/v1/embed*"]);
    assert_eq!(Ask::new("GET", "/v1/models", &endpoint).send(proxy.address).await.status, 200, "its endpoint");
    for path in ["/v1/chat/completions", "/v1//models/../chat/completions", "/v1/models/../chat/completions"] {
        let answer = Ask::new("POST", path, &endpoint).field("content-type", "application/json").body(CHAT);
        let answer = answer.send(proxy.address).await;
        assert!(matches!(answer.status, 400 | 403 | 404), "{path}: {} {}", answer.status, answer.text());
    }
    assert_forbidden(&Ask::chat(&endpoint, CHAT).send(proxy.address).await, "another endpoint");
    let far = key(&proxy, &["--tenant", "initech", "--address", "10.0.0.0/8", "--address", "2001:db8::/32"]);
    assert_forbidden(&Ask::chat(&far, CHAT).send(proxy.address).await, "from another address");
    let spoofed = Ask::chat(&far, CHAT).field("x-forwarded-for", "10.1.2.3").field("x-real-ip", "10.1.2.3");
    assert_forbidden(&spoofed.send(proxy.address).await, "an address that the client made up");
    let near = key(&proxy, &["--tenant", "initech", "--address", "127.0.0.0/8"]);
    assert_eq!(Ask::chat(&near, CHAT).send(proxy.address).await.status, 200, "from its address");
    let model = key(&proxy, &["--tenant", "initech", "--models", "llama-*"]);
    let refused = Ask::chat(&model, CHAT).send(proxy.address).await;
    refused.assert_error(404, "invalid_request_error", "model_not_found", Some("model"));
    assert_eq!(backends.total(), 1, "what was refused did not reach the backend");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rule_that_denies_is_named_in_the_log_and_never_to_the_client() {
    let _machine = beside().await;
    let (proxy, backends) = stand("").await;
    let long = CHAT.replacen('{', "{\"max_tokens\":101,", 1);
    let fits = CHAT.replacen('{', "{\"max_tokens\":100,", 1);
    let rows: [(&str, &[&str], &str, Option<&str>); 7] = [
        ("a team", &["--tenant", "initech", "--team", "batch"], CHAT, Some("no-batch-team")),
        ("another team", &["--tenant", "initech", "--team", "web"], CHAT, None),
        ("a long answer", &["--tenant", "initech"], &long, Some("no-long-answers")),
        ("one that fits", &["--tenant", "initech"], &fits, None),
        ("nobody by name", &["--tenant", "acme"], CHAT, Some("named-in-acme")),
        ("somebody", &["--tenant", "acme", "--user", "ann"], CHAT, None),
        ("a condition that fails", &["--tenant", "globex"], CHAT, Some("cannot-be-told")),
    ];
    let mut allowed = 0;
    for (what, flags, body, rule) in rows {
        let answer = Ask::chat(&key(&proxy, flags), body).send(proxy.address).await;
        let Some(rule) = rule else {
            assert_eq!(answer.status, 200, "{what}: {}", answer.text());
            allowed += 1;
            continue;
        };
        assert_forbidden(&answer, what);
        let told = format!("{}{}", answer.head, answer.text());
        assert!(!told.contains(rule), "{what}: the rule is not named to the client: {told}");
        let id = answer.request_id();
        let line = || {
            let log = proxy.log();
            log.lines().find(|line| line.contains(&id) && line.starts_with('{')).map(str::to_owned)
        };
        assert!(eventually(|| line().is_some()).await, "{what}: a log line of {id}");
        let line: Value = serde_json::from_str(&line().expect("it is there")).expect("a JSON line");
        let named = line.to_string().contains(&format!("\"rule\":\"{rule}\""));
        assert!(named, "{what}: the log names the rule {rule}: {line}");
    }
    assert_eq!(backends.total(), allowed, "what was refused did not reach the backend");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_route_is_chosen_by_who_calls() {
    let _machine = beside().await;
    let route = |name: &str, when: &str| {
        format!(
            "- {{ name: {name}, match: {{ path: /who, when: \"{when}\" }}, respond: {{ status: 200, body: {name} }} }}\n"
        )
    };
    let routes = [
        route("broken", "auth.claims.level > 1"),
        route("ann", "auth.user == 'ann'"),
        route("rest", "auth.tenant == 'initech'"),
    ];
    let (proxy, _backends) = stand(&routes.concat()).await;
    for (flags, wanted) in [(vec!["--user", "ann"], "ann"), (vec!["--user", "bob"], "rest"), (vec![], "rest")] {
        let flags = [vec!["--tenant", "initech"], flags].concat();
        let answer = Ask::new("GET", "/who", &key(&proxy, &flags)).send(proxy.address).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, wanted), "{flags:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_narrowest_and_the_widest_plan_both_hold() {
    let _machine = beside().await;
    let backends = Backends::start(1).await;
    // Burst and rate such that nothing comes back while the test runs.
    let plan = |count: u32| format!("{{ limits: {{ requests: {{ limit: 1/h, burst: {count} }} }} }}");
    let rest = format!(
        "plans:\n  wide: {}\n  middle: {}\n  narrow: {}\n  single: {}\ntenants:\n  acme:\n    plan: wide\n    \
         teams: {{ core: {{ plan: middle }} }}\n    users: {{ ann: {{ plan: narrow }} }}\n",
        plan(5),
        plan(4),
        plan(2),
        plan(1)
    );
    let proxy = Weir::start(&Recipe { rest, ..Recipe::to(backends.addresses[0]) });
    let ann = key(&proxy, &["--tenant", "acme", "--team", "core", "--user", "ann"]);
    let ann_again = key(&proxy, &["--tenant", "acme", "--team", "core", "--user", "ann"]);
    let bob = key(&proxy, &["--tenant", "acme", "--team", "core", "--user", "bob"]);
    let alone = key(&proxy, &["--tenant", "acme", "--plan", "single"]);
    for key in [&ann, &bob, &alone] {
        let taken = Ask::new("GET", "/v1/models", key).send(proxy.address).await;
        assert_eq!(taken.status, 200, "the key is known: {}", taken.text());
    }
    let steps = [
        ("ann", &ann, None),
        ("ann by another key", &ann_again, None),
        ("ann is through with hers", &ann, Some("user")),
        ("by either key", &ann_again, Some("user")),
        ("bob has none of his own", &bob, None),
        ("bob again", &bob, None),
        ("the team is through", &bob, Some("team")),
        ("a key beside the team", &alone, None),
        ("with a plan of its own", &alone, Some("key|tenant")),
    ];
    for (what, key, scope) in steps {
        let answer = Ask::chat(key, CHAT).send(proxy.address).await;
        match scope {
            None => assert_eq!(answer.status, 200, "{what}: {}", answer.text()),
            Some(scopes) => {
                assert_eq!((answer.status, answer.code().as_str()), (429, "rate_limit_exceeded"), "{what}");
                let scope = answer.header("x-limit-scope");
                assert!(scopes.split('|').any(|one| one == scope), "{what}: {scopes}, not {scope:?}");
                assert!(!answer.header("retry-after").is_empty(), "{what}: when to come again");
            }
        }
    }
    let nobody = key_of_nobody(&proxy);
    assert!(accepted(proxy.address, &nobody, Duration::from_secs(5)).await.is_some(), "another tenant is not touched");
}

fn key_of_nobody(proxy: &Weir) -> String {
    key(proxy, &["--tenant", "default"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_body_is_not_read_of_who_may_not_come_in_whatever_it_says() {
    let _machine = beside().await;
    let (proxy, backends) = stand("").await;
    let batch = key(&proxy, &["--tenant", "initech", "--team", "batch"]);
    let whole = Ask::chat(&batch, CHAT).bytes();
    let end = whole.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
    let mut wire = Wire::open(proxy.address).await;
    wire.send(&whole[..end]).await;
    assert_forbidden(&wire.answer().await, "the head alone");
    assert_eq!(backends.total(), 0, "nothing reached the backend");
}
