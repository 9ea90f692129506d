//! Identity in the configuration: store, authenticators, roles, rules, tenants. Each wrong value at its place, and
//! every key back from the effective text.

use super::{GOOD, findings, text};
use weir::config::Loaded;
use weir::config::snapshot::{Authenticator, JwtAlgorithm, JwtKeys, Push, StoreTarget};

/// A secret of 32 letters and a URL, in files of a folder of their own.
pub struct Secrets {
    pub folder: tempfile::TempDir,
}

impl Secrets {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("key", "hush-hush-hush-hush-hush-hush-hu\n");
        put("short", "hush");
        put("postgres", "postgres://weir:hush-pw@127.0.0.1:5432/weir\n");
        put("redis", "redis://:hush-pw@127.0.0.1:6379/0\n");
        Self { folder }
    }

    /// `{ file: … }`
    fn of(&self, name: &str) -> String {
        format!("{{ file: \"{}\" }}", self.folder.path().join(name).display())
    }

    /// Names in `<…>` become references.
    pub fn fill(&self, source: &str) -> String {
        ["key", "short", "postgres", "redis"]
            .iter()
            .fold(source.to_owned(), |text, name| text.replace(&format!("<{name}>"), &self.of(name)))
    }
}

fn with_auth(kind: &str) -> String {
    format!("{GOOD}auth: {{ a: {{ {kind} }} }}\n")
}

/// The codes of what is found, and the first message with its hint.
pub fn told(source: &str) -> (Vec<String>, String) {
    let codes = findings(source).iter().map(|found| found.split('@').next().unwrap_or_default().to_owned()).collect();
    let first = match text(source) {
        Ok(loaded) => loaded.warnings.into_iter().next(),
        Err(report) => report.errors.into_iter().next(),
    };
    (
        codes,
        first
            .map(|one| format!("{}: {} ({})", one.path, one.message, one.hint.unwrap_or_default()))
            .unwrap_or_default(),
    )
}

/// Each source must be told of once, with this code and these words.
pub fn each_is_told(cases: &[(&str, &str, &str)], source: impl Fn(&str) -> String) {
    let secrets = Secrets::new();
    let mut wrong = String::new();
    for (piece, code, words) in cases {
        let (codes, first) = told(&secrets.fill(&source(piece)));
        if codes != [*code] || !first.contains(words) {
            wrong += &format!("{piece}\n  wanted {code} `{words}`\n  found {codes:?} `{first}`\n");
        }
        assert!(!first.contains("hush"), "no secret in a message: {first}");
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn good(source: &str) -> Loaded {
    text(source).unwrap_or_else(|report| panic!("{report}\n{source}"))
}

/// The effective text of a configuration loads to the same, and says `shown`.
pub fn comes_back(source: &str, shown: &str) -> Loaded {
    let first = good(source);
    for again in [&first.effective.plain, &first.effective.annotated] {
        let second = text(again).unwrap_or_else(|report| panic!("{report}\n{again}"));
        assert_eq!(second.effective.plain, first.effective.plain, "the text is stable");
        assert_eq!(format!("{:?}", second.snapshot), format!("{:?}", first.snapshot), "and means the same:\n{again}");
    }
    assert!(first.effective.annotated.contains(shown), "`{shown}` in:\n{}", first.effective.annotated);
    assert!(!first.effective.annotated.contains("hush-"), "no secret in:\n{}", first.effective.annotated);
    assert!(!format!("{:?}", first.snapshot).contains("hush-"), "nor in Debug");
    first
}

#[test]
fn a_store_is_a_file_or_a_server_and_its_defaults_follow_from_that() {
    let secrets = Secrets::new();
    let file = good(GOOD).snapshot;
    assert!(matches!(&file.store.target, StoreTarget::Sqlite(path) if path.ends_with("weir.db")), "a file by default");
    assert!(matches!(file.store.push, Push::None) && file.store.poll.as_millis() == 500, "which nobody pushes");

    let source = format!(
        "{GOOD}store: {{ postgres: {{ url: <postgres> }} }}\nauth: {{ k: {{ api_key: {{ pepper: <key> }} }} }}\n"
    );
    let server = comes_back(&secrets.fill(&source), "url:  # *** t.yaml:8").snapshot;
    assert!(
        matches!(&server.store.target, StoreTarget::Postgres(url) if url.0.starts_with(b"postgres://")),
        "a server"
    );
    assert!(matches!(server.store.push, Push::Notify) && server.store.poll.as_secs() == 2, "which notifies");
    assert!(server.store.replica.ends_with("replica.db"), "and has a copy for a cold start");

    let source =
        format!("{GOOD}store: {{ sqlite: a.db, push: {{ redis: {{ url: <redis> }} }}, poll: 1s, replica: b.db }}\n");
    let redis = comes_back(&secrets.fill(&source), "poll: 1s  # t.yaml:8").snapshot;
    assert!(matches!(&redis.store.push, Push::Redis(url) if url.0.starts_with(b"redis://")), "a file may push too");
}

#[test]
fn a_wrong_store_is_told_at_its_place() {
    let cases = [
        ("sqlite: a.db, postgres: { url: <postgres> }", "E027", "not both"),
        ("postgres: {}", "E006", "`url` is required"),
        ("postgres: { url: postgres://weir:hush@h/weir }", "E010", "must not be written"),
        ("postgres: { url: <redis> }", "E020", "not a URL of `postgres`"),
        ("push: notify", "E027", "the store is SQLite"),
        ("push: { redis: {} }", "E006", "`url` is required"),
        ("push: { redis: { url: <postgres> } }", "E020", "not a URL of `redis`"),
        ("push: redis", "E006", "needs settings"),
        ("push: notfy", "E012", "did you mean `notify`?"),
        ("poll: 6s", "E008", "within 5s"),
        ("poll: 1ms", "E008", "10ms"),
        ("postgress: {}", "E004", "did you mean `postgres`?"),
    ];
    each_is_told(&cases, |piece| format!("{GOOD}store: {{ {piece} }}\n"));
}

#[test]
fn replicas_that_share_keys_must_share_the_pepper() {
    let cases =
        [("k: { api_key: {} }", "E006", "auth.k.api_key: `pepper` is required"), ("k: api_key", "E006", "auth.k: ")];
    each_is_told(&cases, |piece| format!("{GOOD}store: {{ postgres: {{ url: <postgres> }} }}\nauth: {{ {piece} }}\n"));
}

#[test]
fn an_issuer_comes_back_with_all_its_settings() {
    let secrets = Secrets::new();
    let source = r#"a: { jwt: { issuer: "https://login.example.com/", audiences: [llm-api, other],
      jwks: { url: "https://login.example.com/jwks.json", refresh: 5m }, algorithms: [RS256, EdDSA], leeway: 30s,
      tenant: claims.org, team: "claims.team", user: "has(claims.email) ? claims.email : claims.sub",
      roles: "claims.groups.filter(g, g.startsWith('weir-'))", plan: claims.plan } },
  b: { jwt: { issuer: b, audiences: a, secret: <key> } },
  c: { jwt: { issuer: "http://127.0.0.1:9/c", audiences: a } }"#;
    let snapshot = comes_back(&secrets.fill(&format!("{GOOD}auth: {{ {source} }}\n")), "secret:  # ***").snapshot;
    let of = |name: &str| match &snapshot.auth[name] {
        Authenticator::Jwt(jwt) => jwt.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(of("a").algorithms, [JwtAlgorithm::RS256, JwtAlgorithm::EdDSA], "as they stand");
    assert_eq!(of("a").mapping.roles.map(|one| one.text().len()), Some(46), "an expression as it was written");
    assert!(matches!(of("b").keys, JwtKeys::Secret(_)) && of("b").algorithms == [JwtAlgorithm::HS256], "shared secret");
    let discovery = matches!(of("c").keys, JwtKeys::Jwks { url: None, refresh } if refresh.as_secs() == 600);
    assert!(discovery && of("c").algorithms == [JwtAlgorithm::RS256], "no key set named: discovery");
    assert_eq!(of("c").leeway.as_secs(), 60, "leeway");
}

#[test]
fn a_wrong_issuer_is_told_at_its_place() {
    let cases = [
        ("audiences: [a]", "E006", "`issuer` is required"),
        ("issuer: \"https://i/\"", "E006", "`audiences` is required"),
        ("issuer: \"https://i/\", audiences: []", "E023", "without an audience"),
        ("issuer: i, audiences: [a]", "E020", "not a URL"),
        ("issuer: \"http://i.example/\", audiences: [a]", "E020", "without TLS"),
        ("issuer: i, audiences: [a], jwks: { url: \"http://i.example/\" }", "E020", "without TLS"),
        ("issuer: i, audiences: [a], jwks: { url: \"https://me:hush@i.example/\" }", "E020", "user or password"),
        ("issuer: \"https://i/\", audiences: [a], algorithms: [none]", "E012", "nobody signed"),
        ("issuer: \"https://i/\", audiences: [a], algorithms: [None]", "E012", "nobody signed"),
        ("issuer: \"https://i/\", audiences: [a], algorithms: [RS265]", "E012", "did you mean `RS"),
        ("issuer: \"https://i/\", audiences: [a], algorithms: [HS256]", "E027", "needs a shared `secret`"),
        ("issuer: \"https://i/\", audiences: [a], algorithms: []", "E023", "no token could be accepted"),
        ("issuer: i, audiences: [a], secret: <key>, algorithms: [HS256, RS256]", "E027", "public key"),
        ("issuer: i, audiences: [a], secret: <key>, jwks: {}", "E027", "exclude each other"),
        ("issuer: i, audiences: [a], secret: <short>", "E010", "at least 32 bytes"),
        ("issuer: i, audiences: [a], secret: hush", "E010", "must not be written"),
        ("issuer: \"https://i/\", audiences: [a], leeway: 1h", "E008", "at most 5m"),
        ("issuer: \"https://i/\", audiences: [a], jwks: { refresh: 10ms }", "E008", "from 1s"),
        ("issuer: \"https://i/\", audiences: [a], tenant: claim.org", "E029", "unknown name `claim`"),
        ("issuer: \"https://i/\", audiences: [a], tenant: acme", "E029", "\"'acme'\""),
        ("issuer: \"https://i/\", audiences: [a], roles: \"claims.(\"", "E029", "not a CEL expression"),
        ("issuer: \"https://i/\", audience: [a], audiences: [a]", "E004", "did you mean `audiences`?"),
    ];
    each_is_told(&cases, |piece| with_auth(&format!("jwt: {{ {piece} }}")));
    let twice = "a: { jwt: { issuer: \"https://i/\", audiences: [a] } }, b: { jwt: { issuer: \"https://i/\", audiences: [b] } }";
    each_is_told(&[(twice, "E017", "already read by `auth.a.jwt.issuer`")], |piece| {
        format!("{GOOD}auth: {{ {piece} }}\n")
    });
    each_is_told(&[("jwt", "E006", "needs settings")], |kind| format!("{GOOD}auth: {{ a: {kind} }}\n"));
}

#[test]
fn the_other_authenticators_come_back_with_all_their_settings() {
    let secrets = Secrets::new();
    let source = r#"opaque: { introspection: { url: "https://p.example/introspect", client_id: weir, client_secret: <key>,
      timeout: 1s, ttl: 10s, entries: 5, audiences: [a], tenant: claims.org, user: claims.sub, operators: true } },
  mesh: { client_cert: { trust_domains: [example.org], tenant: "cert.spiffe.path[0]", user: cert.subject } },
  plain: client_cert,
  gate: { ext_authz: { url: "http://127.0.0.1:9000/check", timeout: 300ms, send: [Authorization, x-mine],
      tenant: x-t, team: x-e, user: x-u, roles: x-r, operators: true } },
  bare: { ext_authz: { url: "https://gate.example" } }"#;
    let loaded = comes_back(&secrets.fill(&format!("{GOOD}auth: {{ {source} }}\n")), "client_secret:  # ***");
    let Authenticator::ExtAuthz(gate) = &loaded.snapshot.auth["gate"] else { panic!("the gate") };
    assert_eq!(gate.send, ["authorization", "x-mine"], "headers in small letters");
    let Authenticator::ExtAuthz(bare) = &loaded.snapshot.auth["bare"] else { panic!("the other gate") };
    assert_eq!((bare.tenant.as_str(), bare.roles.as_str()), ("x-auth-tenant", "x-auth-roles"), "defaults");
    let Authenticator::Introspection(opaque) = &loaded.snapshot.auth["opaque"] else { panic!("tokens") };
    assert_eq!((opaque.entries, opaque.ttl.as_secs()), (5, 10), "bounds");
    let operators = |name: &str| loaded.snapshot.auth[name].makes_operators();
    assert!(operators("opaque") && operators("gate"), "where it is configured");
    assert!(!operators("mesh") && !operators("bare"), "and nowhere else");
    let idle: Vec<_> = loaded.warnings.iter().map(|one| (one.code.id(), one.path.as_str())).collect();
    assert_eq!(idle, [("W007", "auth.mesh"), ("W007", "auth.plain")], "no listener asks for certificates");
}

#[test]
fn a_wrong_authenticator_is_told_at_its_place() {
    let opaque = "url: \"https://p/\", client_id: weir, client_secret: <key>";
    let with = |piece: &str| format!("introspection: {{ {opaque}, {piece} }}");
    let cases = [
        ("introspection: { client_id: weir, client_secret: <key> }", "E006", "`url` is required"),
        ("introspection: { url: \"https://p/\", client_secret: <key> }", "E006", "`client_id` is required"),
        ("introspection: { url: \"https://p/\", client_id: weir }", "E006", "`client_secret` is required"),
        ("introspection: { url: \"https://p/\", client_id: weir, client_secret: hush }", "E010", "must not be written"),
        ("introspection: { url: \"http://p/\", client_id: weir, client_secret: <key> }", "E020", "without TLS"),
        ("client_cert: { trust_domains: [\"spiffe://example.org\"] }", "E028", "the name alone"),
        ("client_cert: { trust_domains: [Example.org] }", "E028", "small letters"),
        ("client_cert: { tenant: claims.org }", "E029", "known here: cert"),
        ("ext_authz: {}", "E006", "`url` is required"),
        ("ext_authz: { url: \"http://10.0.0.1/\" }", "E020", "without TLS"),
        ("ext_authz: { url: \"https://g/#x\" }", "E020", "`#`"),
        ("ext_authz: { url: \"ldap://g/\" }", "E020", "not an http or https URL"),
        ("ext_authz: { url: \"https://g/\", timeout: 1m }", "E008", "at most 30s"),
        ("ext_authz: { url: \"https://g/\", send: [\"a b\"] }", "E028", "not a header name"),
        ("ext_authz: { url: \"https://g/\", send: [Content-Length] }", "E028", "belongs to the message"),
        ("ext_authz: { url: \"https://g/\", send: [cookie, host] }", "E028", "belongs to the message"),
        ("api_key: { headers: [Connection] }", "E028", "belongs to the message"),
        ("api_key: { headers: [transfer-encoding] }", "E028", "belongs to the message"),
        ("ext_authz: { url: \"https://g/\", user: \"\" }", "E028", "not a header name"),
        ("oauth: {}", "E012", "possible here: api_key, jwt"),
    ];
    each_is_told(&cases, with_auth);
    let bounds =
        [("ttl: 2h", "E008", "at most 1h"), ("entries: 1G", "E008", "at most"), ("timeout: 0s", "E008", "0 cannot")];
    each_is_told(&bounds, |piece| with_auth(&with(piece)));
}

#[test]
fn roles_rules_and_members_come_back() {
    let source = format!(
        "{}{}",
        GOOD.replace("match: { path", "match: { when: \"auth.plan == 'gold' && request.max_tokens > 10\", path"),
        r#"auth: { keys: { api_key: {} }, more: { api_key: { headers: [x-more] } } }
server: { admin: { auth: [keys] } }
roles:
  developer: { models: ["llama-*"], scopes: [inference, "models:list"] }
  platform: { scopes: [admin], tenants: all }
authorization:
  - { name: batch-at-night, when: "auth.team == 'batch' && now.getHours('Europe/Berlin') < 20", effect: deny }
  - { name: named-users, when: "auth.user != null", effect: require }
  - name: long
    effect: deny
    when: |
      auth.team == 'a team: {with} [all] # that yaml minds' || auth.team == 'one more, so that the line is a long one'
      || auth.team == "and another"
plans: { gold: {}, small: {}, tiny: {} }
tenants:
  acme:
    plan: gold
    models: ["llama-*"]
    teams: { core: { plan: small, models: ["llama-3*"] } }
    users: { "ann@example.com": { plan: tiny }, "auth0|5": {}, "CN=ann, O=x": {} }
  gone: { disabled: true }
"#
    );
    let snapshot = comes_back(&source, "tenants: all").snapshot;
    assert!(snapshot.routes[0].when.is_some(), "the route's condition");
    assert_eq!(snapshot.server.admin_auth, ["keys"], "who administers");
    assert_eq!(snapshot.roles.len(), 5, "two roles beside the built-in ones");
    assert_eq!(snapshot.authorization[1].name.as_ref(), "named-users", "rules in file order");
    let acme = &snapshot.tenants[&"acme".into()];
    assert_eq!(acme.teams[&"core".into()].models.as_deref(), Some(&["llama-3*".to_owned()][..]), "a team's models");
    assert!(acme.users.contains_key(&"ann@example.com".into()), "users are named by their provider");
    assert!(snapshot.tenants[&"gone".into()].disabled, "a tenant that is switched off");
}

#[test]
fn wrong_roles_rules_and_members_are_told_at_their_place() {
    let cases = [
        ("roles: { r: {} }", "E006", "`scopes` is required"),
        ("roles: { r: { scopes: [] } }", "E023", "allows nothing"),
        ("roles: { r: { scopes: [inferense] } }", "E012", "did you mean `inference`?"),
        ("roles: { r: { scopes: [admin], models: [] } }", "E023", "allows no model"),
        ("roles: { r: { scopes: [admin], models: [\"[a\"] } }", "E022", "model pattern"),
        ("roles: { r: { scopes: [admin], tenants: every } }", "E012", "possible here: own, all"),
        ("roles: { member: { scopes: [inference] } }", "W005", "built-in role `member`"),
        ("roles: { \"a b\": { scopes: [inference] } }", "E028", "cannot be a name"),
        ("authorization: { name: a }", "E005", "a list of rules"),
        ("authorization: [{ when: \"true\", effect: deny }]", "E006", "`name` is required"),
        ("authorization: [{ name: a, effect: deny }]", "E006", "`when` is required"),
        ("authorization: [{ name: a, when: \"true\" }]", "E006", "`effect` is required"),
        ("authorization: [{ name: a, when: \"true\", effect: denny }]", "E012", "did you mean `deny`?"),
        ("authorization: [{ name: a, when: \"user == 'x'\", effect: deny }]", "E029", "unknown name `user`"),
        ("tenants: { a: { teams: { t: { plan: gold } } } }", "E014", "unknown plan `gold`"),
        ("tenants: { a: { users: { u: { plan: gold } } } }", "E014", "tenants.a.users.u.plan"),
        ("tenants: { a: { teams: { \"a b\": {} } } }", "E028", "cannot be a name"),
        ("tenants: { a: { users: { \" b\": {} } } }", "E028", "cannot be a user"),
        ("tenants: { a: { users: { u: { models: [\"a**\"] } } } }", "E022", "write `*` once"),
        ("server: { admin: { auth: [kys] } }", "E015", "did you mean `k`?"),
        ("server: { admin: { auth: [] } }", "E023", "an empty list"),
    ];
    each_is_told(&cases, |piece| format!("{GOOD}auth: {{ k: {{ api_key: {{}} }} }}\n{piece}\n"));
    let twice = "authorization: [{ name: a, when: \"true\", effect: deny }, { name: a, when: \"true\", effect: deny }]";
    each_is_told(&[(twice, "E017", "a rule `a` is already defined at t.yaml:9")], |piece| {
        format!("{GOOD}auth: {{ k: {{ api_key: {{}} }} }}\n{piece}\n")
    });
    let idle = "authorization: [{ name: a, when: \"true\", effect: deny }]";
    each_is_told(&[(idle, "W007", "there is no `auth`")], |piece| format!("{GOOD}{piece}\n"));
    let long = "\"a_name_of_many_letters + a_name_of_many_letters + a_name_of_many_letters\\n + 1\"";
    let when = [
        (long, "E029", "a_name_of_many_letters + a_name_of_many_letters + a_name_of_…`: unknown name"),
        ("auth.plan = 1", "E029", "not a CEL expression"),
        ("claims.x", "E029", "known here: auth, request, now"),
    ];
    each_is_told(&when, |when| GOOD.replace("match: {", &format!("match: {{ when: {when},")));
}

#[test]
fn a_route_behind_one_with_a_condition_can_be_reached() {
    let second = "  - { match: { path: { prefix: / } }, to: [{ pool: vllm }] }\n";
    assert_eq!(findings(&format!("{GOOD}{second}")), ["W001@8:5"], "without a condition it cannot");
    let first = GOOD.replace("match: {", "match: { when: \"auth.plan == 'gold'\",");
    assert!(findings(&format!("{first}{second}")).is_empty(), "whoever has another plan comes to the second one");
}
