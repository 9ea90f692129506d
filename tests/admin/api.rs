//! A proxy with tenants, roles and keys, and calls to its admin API. Every answer is held against the document.

use super::proxy::{self, Pool, Proxy, Setup};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use weir::admin::operation::Operation;
use weir::admin::operations::{DOCUMENT, OPERATIONS};
use weir::admin::schema;

const REST: &[&str] = &[
    "plans: { gold: { limits: { requests: [{ limit: 600/min, burst: 10 }], concurrency: 4 } } }",
    "tenants: { acme: { plan: gold, models: [\"llama-*\"], teams: { core: { models: [\"llama-3*\"] } } }, globex: { time_zone: Europe/Berlin } }",
    "roles: { issuer: { scopes: [\"keys:write\"] }, reader: { scopes: [\"usage:read\"], tenants: all } }",
];
const KEYS: &[(&str, &str)] = &[
    ("operator", "--role operator"),
    ("acme", "--tenant acme --role tenant-admin"),
    ("globex", "--tenant globex --role tenant-admin"),
    ("issuer", "--tenant acme --role issuer"),
    ("member", "--tenant acme"),
];

/// A running proxy with the keys `operator`, `acme` and `globex` (administrators), `issuer` and `member` (of acme).
pub struct Api {
    pub proxy: Proxy,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub json: Value,
}

impl Reply {
    /// The code of an error.
    pub fn code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or_default()
    }

    /// Which part of the request was at fault.
    pub fn param(&self) -> &str {
        self.json["error"]["param"].as_str().unwrap_or_default()
    }
}

impl Api {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further authenticators beside `keys`.
    pub fn start_with(auth: &[&str]) -> Self {
        // Nobody calls a model here.
        let backends = [proxy::free_port()];
        let pool = Pool { name: "p", model: "llama-3", backends: &backends, yaml: &[] };
        let setup = Setup { pools: vec![pool], rest: REST, auth, keys: KEYS, ..Setup::default() };
        Self { proxy: Proxy::start(&setup) }
    }

    /// A call under `/admin/v1` with the key `who` (empty: none), held against the document.
    pub fn call(&self, who: &str, method: &str, path: &str, body: Option<&Value>) -> Reply {
        self.call_with(who, (method, path), body.map(Value::to_string).as_deref(), &[])
    }

    /// A call whose body is a text, with further headers.
    pub fn call_with(
        &self,
        who: &str,
        (method, path): (&str, &str),
        body: Option<&str>,
        headers: &[(&str, &str)],
    ) -> Reply {
        let key = if who.is_empty() { "" } else { self.proxy.key_of(who) };
        let reply = speak(self.proxy.admin, key, (method, &format!("/admin/v1{path}")), body, headers);
        hold(method, path, &reply);
        reply
    }

    /// A call that must do.
    pub fn good(&self, who: &str, method: &str, path: &str, body: Option<&Value>) -> Value {
        let reply = self.call(who, method, path, body);
        assert!(reply.status < 300, "{method} {path} as {who}: {} {}", reply.status, reply.json);
        reply.json
    }

    /// The status of a call.
    pub fn status(&self, who: &str, method: &str, path: &str, body: Option<&Value>) -> u16 {
        self.call(who, method, path, body).status
    }

    /// Waits until the proxy knows a new key.
    pub fn waits_for(&self, key: &str) {
        let end = Instant::now() + proxy::DEADLINE;
        while self.public(key, "/v1/me").status != 200 {
            assert!(Instant::now() < end, "a new key is never known");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A GET on the public listener with a whole key.
    pub fn public(&self, key: &str, path: &str) -> Reply {
        speak(self.proxy.address, key, ("GET", path), None, &[])
    }
}

/// One request on a connection of its own.
pub fn speak(
    to: SocketAddr,
    key: &str,
    (method, path): (&str, &str),
    body: Option<&str>,
    headers: &[(&str, &str)],
) -> Reply {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).expect("connects");
    stream.set_read_timeout(Some(proxy::DEADLINE)).expect("a deadline");
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n");
    if !key.is_empty() {
        head.push_str(&format!("authorization: Bearer {key}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(body) = body {
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            head.push_str("content-type: application/json\r\n");
        }
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    write!(stream, "{head}\r\n{}", body.unwrap_or_default()).expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    // Names of fields are told apart by nobody.
    let head = head.to_lowercase();
    assert!(head.contains("x-request-id: "), "every answer has its id: {head}");
    let json = if body.is_empty() { Value::Null } else { serde_json::from_str(body).expect(body) };
    Reply { status, head, json }
}

/// The operation of a method and path.
pub fn operation(method: &str, path: &str) -> Option<&'static Operation> {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |template: &str| {
        let (template, path): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
        let same = |(part, segment): (&&str, &&str)| part.starts_with('{') || part == segment;
        template.len() == path.len() && template.iter().zip(&path).all(same)
    };
    // A fixed path stands for itself.
    let fixed = OPERATIONS.iter().find(|one| one.method == method && one.path == path);
    fixed.or_else(|| OPERATIONS.iter().find(|one| one.method == method && fits(one.path)))
}

/// Holds an answer against what the document says of its status.
fn hold(method: &str, path: &str, reply: &Reply) {
    let Some(operation) = operation(method, path) else { return };
    let told = &DOCUMENT.whole["paths"][operation.path][method.to_lowercase()]["responses"];
    let told = &told[reply.status.to_string()]["content"]["application/json"]["schema"];
    assert!(!told.is_null(), "{method} {path}: {} is not in the document", reply.status);
    assert!(reply.head.contains("content-type: application/json"), "{method} {path}: {}", reply.head);
    if let Err(breach) = schema::check(&DOCUMENT.definitions, told, &reply.json) {
        panic!("{method} {path} {}: {breach:?} in {}", reply.status, reply.json);
    }
}
