//! Secrets are planted wherever there can be some, good and bad requests are made at debug level, and everything that
//! the system says or stores is searched for them: logs, metrics, dumps, admin answers, usage rows, spool, copy, store.

use super::fleet::{accepted, light};
use super::stack::{Key, Recipe, Weir, beside, get, owner};
use crate::backend::{Act, Backends};
use crate::client::{Ask, Framing};
use crate::oidc::{Mood, Provider, SigningKey, base64url, sign_hmac};
use crate::say;
use crate::servers::Postgres;
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Planted in settings.
const PEPPER: &str = "planted-pepper-0c4a11d2b7e94f60";
const PASSWORD: &str = "planted-database-password-51f2";
const CLIENT: &str = "planted-client-secret-93bd";
const SYMMETRIC: &str = "planted-symmetric-secret-2f8e7d6c5b4a3928";
const POOL: &str = "planted-pool-credential-77aa";
const SIGNING: &str = "planted-signing-key-5d5e6f70819a2b3c4d5e";
/// Planted in requests and answers.
const COOKIE: &str = "planted-cookie-41c9";
const QUERY: &str = "planted-query-key-8812";
const OPAQUE: &str = "planted-opaque-token-d00d";
const PROMPT: &str = "planted prompt about a merger";
const ANSWER: &str = "planted answer of the engine";
const UPSTREAM_ERROR: &str = "planted words of a broken engine";

/// What is searched for, by name.
struct Planted(Vec<(String, Vec<u8>)>);

impl Planted {
    /// All that is known before anything runs.
    fn constants() -> Self {
        let mut planted = Self(Vec::new());
        for (name, value) in [
            ("pepper", PEPPER),
            ("password", PASSWORD),
            ("client secret", CLIENT),
            ("symmetric secret", SYMMETRIC),
            ("pool credential", POOL),
            ("signing key", SIGNING),
            ("cookie", COOKIE),
            ("query key", QUERY),
            ("opaque token", OPAQUE),
            ("prompt", PROMPT),
            ("answer", ANSWER),
            ("upstream error", UPSTREAM_ERROR),
        ] {
            planted.add(name, value);
        }
        planted
    }

    fn add(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.as_bytes().to_vec()));
        // The way a careless header dump or a basic credential would show it.
        self.0.push((format!("{name}, as base64"), base64url(value).trim_end_matches('=').as_bytes()[..16].to_vec()));
        let hex: String = value.bytes().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        self.0.push((format!("{name}, as hex"), hex.into_bytes()));
    }

    /// The secret part of a key: its id is no secret.
    fn key(&mut self, name: &str, key: &str) {
        let secret = key.rsplit('-').next().expect("parts");
        self.add(name, secret);
    }

    /// The part of a token that makes it good.
    fn token(&mut self, name: &str, token: &str) {
        let (signed, signature) = token.rsplit_once('.').expect("parts");
        self.add(&format!("signature of {name}"), signature);
        self.add(&format!("claims of {name}"), signed.rsplit_once('.').expect("parts").1);
    }

    /// What of it a text holds.
    fn found(&self, place: &str, text: &[u8]) -> Vec<String> {
        let hit = |(name, value): &(String, Vec<u8>)| {
            let at = memchr::memmem::find(text, value)?;
            let (from, to) = (at.saturating_sub(120), (at + value.len() + 40).min(text.len()));
            Some(format!("{name} in {place}: …{}…", String::from_utf8_lossy(&text[from..to])))
        };
        self.0.iter().filter_map(hit).collect()
    }
}

fn recipe(backends: &Backends, provider: &Provider, postgres: &Postgres) -> Recipe {
    let url = postgres.url();
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (user, host) = rest.split_once('@').expect("a user");
    let user = user.split(':').next().expect("a name");
    let issuer = provider.issuer();
    let auth = format!(
        "keys: {{ api_key: {{ pepper: {{ env: PEPPER }} }} }}\n\
         corp: {{ jwt: {{ issuer: \"{issuer}\", audiences: [llm-api], algorithms: [RS256, ES256], \
         jwks: {{ url: \"{}\", refresh: 1s }}, tenant: claims.org }} }}\n\
         symmetric: {{ jwt: {{ issuer: internal, audiences: [llm-api], algorithms: [HS256], \
         secret: {{ env: SYMMETRIC }}, tenant: claims.org }} }}\n\
         opaque: {{ introspection: {{ url: \"{}\", client_id: weir, client_secret: {{ env: CLIENT }}, tenant: claims.org }} }}\n\
         gate: {{ ext_authz: {{ url: \"{}\", timeout: 500ms, send: [authorization, cookie], tenant: x-auth-tenant }} }}",
        provider.url("/keys"),
        provider.url("/introspect"),
        provider.url("/check"),
    );
    let pairs = [
        ("PEPPER", PEPPER.to_owned()),
        ("DATABASE_URL", format!("{scheme}://{user}:{PASSWORD}@{host}")),
        ("SYMMETRIC", SYMMETRIC.to_owned()),
        ("CLIENT", CLIENT.to_owned()),
        ("POOL", POOL.to_owned()),
        ("SIGNING", SIGNING.to_owned()),
        ("RUST_LOG", "debug".to_owned()),
        ("RUST_BACKTRACE", "1".to_owned()),
    ];
    Recipe {
        auth,
        pool: "credentials: { bearer: { env: POOL } }\nidentity: { signed: { key: { env: SIGNING } } }\n".to_owned(),
        routes: "- { name: files, match: { path: { prefix: /files/ } }, meter: true, to: [{ pool: p }] }\n\
                 - { name: gated, auth: [gate], match: { path: /gated }, respond: { status: 200, body: ok } }\n\
                 - { name: gone, match: { path: /gone }, respond: { status: 200, body: ok } }\n"
            .to_owned(),
        rest: "store: { postgres: { url: { env: DATABASE_URL } }, push: notify, poll: 1s, replica: \"@folder@/replica.db\" }\n\
               usage: { record_rejected: true }\ntenants: { acme: {} }\n"
            .to_owned(),
        env: pairs.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        ..Recipe::to(backends.addresses[0])
    }
}

/// A chat completion that tells a secret.
fn call(credential: &str, stream: bool) -> Ask {
    let body = json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": PROMPT}]});
    Ask::chat(credential, body.to_string()).field("cookie", &format!("session={COOKIE}"))
}

/// Every credential that is good, over every way in.
async fn let_in(proxy: &Weir, backends: &Backends, good: &[String]) {
    for (number, token) in good.iter().enumerate() {
        for (stream, framing) in [(false, Framing::Length), (true, Framing::Length), (false, Framing::H2Length)] {
            let case = format!("good {number} {stream} {framing:?}");
            let stream_of = [say::ROLE.to_owned(), say::delta(ANSWER), say::USAGE.to_owned(), say::DONE.to_owned()];
            let events: Vec<&str> = stream_of.iter().map(String::as_str).collect();
            let mut script = say::open_stream(&events);
            script.push(Act::Say(say::last_chunk()));
            if !stream {
                script = say::answer(200, &say::OK.replace("Hi", ANSWER));
            }
            backends.script(&case, vec![script]);
            let answer = call(token, stream).framing(framing).case(&case).send(proxy.address).await;
            assert_eq!(answer.status, 200, "credential {number}: {} {}", answer.head, answer.text());
            assert!(answer.text().contains(ANSWER), "the answer came through");
        }
        file(token).send(proxy.address).await;
    }
}

/// A plain request with secrets in its query and cookie.
fn file(credential: &str) -> Ask {
    let ask = Ask::new("GET", &format!("/files/a?key={QUERY}&access_token={QUERY}"), credential);
    ask.field("cookie", &format!("session={COOKIE}"))
}

/// The engine breaks, in every way that has words.
async fn break_engine(proxy: &Weir, backends: &Backends, token: &str) {
    let broken =
        format!(r#"{{"error":{{"message":"{UPSTREAM_ERROR} {PROMPT}","type":"x","param":null,"code":null}}}}"#);
    let in_stream = [say::ROLE, &say::delta(ANSWER), &format!("data: {broken}\n\n")];
    let mut cut = say::open_stream(&in_stream);
    cut.push(Act::Close);
    let error = |status| vec![say::answer(status, &broken); 4];
    let nonsense =
        vec![vec![Act::Say(format!("HTTP/1.1 200 OK\r\n{UPSTREAM_ERROR}\r\n\r\n").into_bytes()), Act::Close]; 4];
    for (case, stream, script) in [
        ("broken 500", false, error(500)),
        ("broken 401", false, error(401)),
        ("broken 400", false, error(400)),
        ("broken stream", true, vec![cut]),
        ("nonsense", false, nonsense.clone()),
    ] {
        backends.script(case, script);
        call(token, stream).case(case).send(proxy.address).await;
    }
    for (case, script) in
        [("broken file", error(500)), ("nonsense file", nonsense), ("cut file", vec![vec![Act::Reset]; 4])]
    {
        backends.script(case, script);
        file(token).case(case).send(proxy.address).await;
    }
}

/// Requests that are broken, and credentials that are bad, in every place that could be said back.
async fn refuse(proxy: &Weir, token: &str, bad: &[String]) {
    for body in
        [format!("{{\"model\":\"m\",\"messages\":\"{PROMPT}"), format!("{{\"model\":\"{PROMPT}\",\"messages\":[]}}")]
    {
        Ask::chat(token, body).send(proxy.address).await;
    }
    for credential in bad {
        for framing in [Framing::Length, Framing::H2Length] {
            let answer = call(credential, false).framing(framing).send(proxy.address).await;
            assert!(matches!(answer.status, 400 | 401 | 503), "a bad credential: {} {}", answer.status, answer.text());
        }
        for name in ["x-api-key", "api-key", "x-goog-api-key"] {
            Ask::chat("", "{}").field(name, credential).send(proxy.address).await;
            call(token, false).field(name, credential).send(proxy.address).await;
        }
        let path = format!("/v1beta/models/m:generateContent?key={credential}");
        Ask::new("POST", &path, "").body("{}").send(proxy.address).await;
        Ask::new("GET", "/gated", credential).field("cookie", &format!("session={COOKIE}")).send(proxy.address).await;
    }
    let path = format!("/v1beta/models/m:generateContent?key={QUERY}");
    Ask::new("POST", &path, "").body("{}").send(proxy.address).await;
    Ask::new("GET", &format!("/nowhere?access_token={QUERY}"), "").send(proxy.address).await;
    // A head that the strict parser refuses.
    let mut wire = crate::client::Wire::open(proxy.address).await;
    wire.send(format!("GET / HTTP/1.1\r\nhost: a\r\nauthorization : Bearer {OPAQUE}\r\n\r\n").as_bytes()).await;
    wire.answer().await;
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_planted_secret_is_in_anything_that_is_said_or_stored() {
    let _machine = beside().await;
    let backends = Backends::start(1).await;
    let (rsa, eve) = (SigningKey::rsa("r1"), SigningKey::rsa("r1"));
    let mut provider = Provider::start(vec![Arc::clone(&rsa)], CLIENT).await;
    let mut postgres = Postgres::start();
    let mut proxy = Weir::start(&recipe(&backends, &provider, &postgres));
    let (key, old) = (proxy.create(&["--tenant", "acme"]), proxy.create(&["--tenant", "acme"]));
    let operator = proxy.create(&["--role", "operator"]);
    let (new, _) = proxy.rotate(&old, "1h");
    let gone = proxy.create(&["--tenant", "acme"]);
    proxy.keys(&["revoke", &gone.id]);
    let token = rsa.token(&provider.claims(&json!({"org": "acme"})));
    let forged = eve.token(&provider.claims(&json!({"org": "acme"})));
    let inner = provider.claims(&json!({"org": "acme", "iss": "internal"})).to_string();
    let symmetric = sign_hmac(r#"{"alg":"HS256"}"#, &inner, SYMMETRIC.as_bytes());
    provider.opaque(
        OPAQUE,
        json!({"active": true, "org": "acme", "sub": "ann", "aud": "llm-api", "exp": crate::oidc::now() + 300}),
    );
    let mut planted = Planted::constants();
    let keys =
        [("key", &key), ("rotated key", &new), ("old key", &old), ("revoked key", &gone), ("operator", &operator)];
    for (name, key) in keys {
        planted.key(name, &key.text);
    }
    for (name, token) in [("token", &token), ("forged token", &forged), ("symmetric token", &symmetric)] {
        planted.token(name, token);
    }
    for good in [&key.text, &token] {
        assert!(accepted(proxy.address, good, Duration::from_secs(5)).await.is_some(), "taken: {}", proxy.log());
    }
    let good = [&key.text, &old.text, &new.text, &token, &symmetric, &OPAQUE.to_owned()].map(Clone::clone);
    let junk = format!("{}x", key.text);
    let bad = [&gone.text, &forged, &junk, &format!("{OPAQUE}-unknown"), &format!("{symmetric}AAAA")].map(Clone::clone);
    let_in(&proxy, &backends, &good).await;
    break_engine(&proxy, &backends, &key.text).await;
    refuse(&proxy, &key.text, &bad).await;
    admin(&proxy, &operator, &planted).await;
    // The stores fail, and say so.
    provider.mood(Mood::Broken);
    light(proxy.address, &format!("{OPAQUE}-other")).await;
    provider.stop().await;
    postgres.stop();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    for credential in good.iter().chain(&bad) {
        call(credential, false).send(proxy.address).await;
    }
    let failed = proxy.output(&["keys", "list"]);
    assert!(!failed.status.success(), "the store is down");
    postgres.start_again();
    search(&mut proxy, &planted, &failed.stderr).await;
}

/// Asks the admin listener for everything and searches what it says.
async fn admin(proxy: &Weir, operator: &Key, planted: &Planted) {
    let mut found = Vec::new();
    for path in ["/metrics", "/config", "/config/status", "/pools", "/routes", "/stats", "/top"] {
        found.extend(planted.found(path, get(proxy.admin, path).as_bytes()));
    }
    let api = [
        "keys",
        "tenants",
        "plans",
        "audit",
        "roles",
        "usage/records",
        "usage/summary",
        "budgets",
        "keys/nobody",
        "openapi.json",
    ];
    for path in api.map(|path| format!("/admin/v1/{path}")).into_iter().chain(["/tenants/acme".to_owned()]) {
        let answer = Ask::new("GET", &path, &operator.text).send(proxy.admin).await;
        found.extend(planted.found(&path, format!("{}{}", answer.head, answer.text()).as_bytes()));
    }
    assert!(found.is_empty(), "{} leaks by the admin listener:\n  {}", found.len(), found.join("\n  "));
}

/// Searches every file; returns their names and sizes.
fn leaks(folder: &Path, planted: &Planted, found: &mut Vec<String>) -> Vec<(String, usize)> {
    // Megabytes for dozens of words: grep is quick, this code is not optimised. What it finds is shown by the latter.
    let mut words = tempfile::NamedTempFile::new().expect("a file");
    for (_, value) in &planted.0 {
        words.write_all(&[value, b"\n".as_slice()].concat()).expect("a line");
    }
    let mut names = Vec::new();
    for path in files(folder) {
        let grep = Command::new("grep").args(["-qaF", "-f"]).args([words.path(), &path]).status().expect("grep");
        let text = std::fs::read(&path).expect("a readable file");
        let name = path.strip_prefix(folder).expect("below it").display().to_string();
        match grep.code() {
            Some(0) => found.extend(planted.found(&name, &text)),
            Some(1) => {}
            other => panic!("grep {name}: {other:?}"),
        }
        names.push((name, text.len()));
    }
    names
}

/// Searches the commands' outputs, the log and every file.
async fn search(proxy: &mut Weir, planted: &Planted, failed: &[u8]) {
    let mut found = planted.found("weir keys list without a store", failed);
    for args in [vec!["dump"], vec!["check"], vec!["check", "--format", "json"], vec!["keys", "list", "--json"]] {
        let output = proxy.output(&args);
        found.extend(planted.found(&format!("weir {args:?}"), &[output.stdout, output.stderr].concat()));
    }
    let mut command = proxy.command(&["writer"]);
    let writer = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
    let mut writer = writer.expect("weir writer");
    tokio::time::sleep(Duration::from_secs(2)).await;
    crate::proxy::signal(&writer, "TERM");
    let ended = crate::proxy::wait_exit(&mut writer, crate::proxy::DEADLINE).is_some();
    assert!(ended, "the writer ends");
    let mut names = Vec::new();
    // Some files live as long as the process, some are complete only after it.
    names.extend(leaks(proxy.folder(), planted, &mut found));
    proxy.end();
    names.extend(leaks(proxy.folder(), planted, &mut found));
    let has = |part: &str| names.iter().any(|(name, length)| name.contains(part) && *length > 0);
    for part in ["serve.log", "spool", "replica.db", "usage.db", "slots"] {
        assert!(has(part), "{part} was searched: {names:?}");
    }
    let debug = proxy.log().lines().filter(|line| line.contains("\"level\":\"DEBUG\"")).count();
    assert!(debug > 10, "the log is at debug level: {debug} lines of it");
    assert!(found.is_empty(), "{} leaks:\n  {}", found.len(), found.join("\n  "));
}

/// What Linux lets only root and the process itself see belongs to root, whoever runs the process.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_of_the_same_user_cannot_look_into_the_process() {
    let _machine = beside().await;
    let proxy = Weir::start_without_rights(&Recipe::default());
    let process = PathBuf::from(format!("/proc/{}", proxy.pid()));
    assert_ne!(owner(&process), 0, "the process itself has no rights of root");
    for secret in ["environ", "mem", "maps"] {
        assert_eq!(owner(&process.join(secret)), 0, "/proc/PID/{secret}");
    }
}
