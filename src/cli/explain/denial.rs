//! Asks a running proxy why it refused a request, and puts the answer into sentences. Decides where the admin listener is;
//! who may ask is decided there.

use crate::config::snapshot::Snapshot;
use crate::io::fetch::{Answer, Fetch, Limits, require_protected};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use url::{Host, Url};

/// Where the bearer for the admin API is.
pub const KEY_VARIABLE: &str = "WEIR_ADMIN_KEY";
/// How long the proxy may take, and how much it may say.
const LIMITS: Limits = Limits { timeout: Duration::from_secs(5), bytes: 1 << 20 };
/// A route to an address is the same for every port but 0.
const ANY_PORT: u16 = 9;

/// Asks the admin listener of a configuration, or the one at `base`.
///
/// # Errors
/// What to tell the operator.
pub fn ask(request: uuid::Uuid, base: Option<&Url>, snapshot: &Snapshot) -> Result<Value, String> {
    let base = match base {
        Some(base) => base.clone(),
        None => own(snapshot.server.admin)?,
    };
    require_private(&base)?;
    let url = base.join(&format!("/admin/v1/limits/{request}")).map_err(|error| format!("{base}: {error}"))?;
    let key = std::env::var(KEY_VARIABLE).map_err(|_| {
        format!("set {KEY_VARIABLE} to a key that may use the admin API (`weir keys create --role operator`)")
    })?;
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
        .map_err(|_| format!("{KEY_VARIABLE} is no header value"))?;
    bearer.set_sensitive(true);
    let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let fetch = Fetch::new().map_err(|error| error.to_string())?;
    let answer = runtime.block_on(fetch.get(&url, headers, LIMITS)).map_err(|error| format!("{url}: {error}"))?;
    read(&answer)
}

/// The key goes out by TLS, or does not leave this machine.
fn require_private(base: &Url) -> Result<(), String> {
    let host = match base.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        _ => None,
    };
    if base.scheme() == "http" && host.is_some_and(is_here) {
        return Ok(());
    }
    require_protected(base).map_err(|_| format!("{base} is asked over https only, except on this machine itself"))
}

/// True for an address of this very machine: towards one of its own, and no other, the system takes the same address to
/// send from. Nothing is sent.
fn is_here(address: IpAddr) -> bool {
    let any = SocketAddr::new(unspecified(address), 0);
    let own = UdpSocket::bind(any).and_then(|socket| {
        socket.connect((address, ANY_PORT))?;
        socket.local_addr()
    });
    own.is_ok_and(|own| own.ip() == address)
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// The admin listener of this machine; the wildcard address is reached on loopback.
fn own(mut address: SocketAddr) -> Result<Url, String> {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}/").parse().map_err(|error| format!("{address}: {error}"))
}

fn read(answer: &Answer) -> Result<Value, String> {
    let document: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status == 200 {
        return Ok(document);
    }
    let message = document["error"]["message"].as_str().unwrap_or("no reason given");
    Err(format!("the proxy answers {}: {message}", answer.status))
}

/// The answer for people: a sentence for the refusal, and one for each rule.
#[must_use]
pub fn words(told: &Value) -> String {
    let text = |name: &str| told[name].as_str().unwrap_or("-").to_owned();
    let mut out =
        format!("request {} of tenant {} was refused at {}", text("request_id"), text("tenant_id"), text("refused_at"));
    for (name, what) in [("key_id", "key"), ("model", "model"), ("route_id", "route")] {
        if let Some(value) = told[name].as_str() {
            out.push_str(&format!(", {what} {value}"));
        }
    }
    out.push_str(&format!("\nby {}\n", figure(told)));
    out.push_str(&match told["retry_after_ms"].as_u64() {
        Some(wait) => format!("it would have been admitted {} later\n", seconds(wait)),
        None => "waiting does not help\n".to_owned(),
    });
    let figures = told["figures"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !figures.is_empty() {
        out.push_str("all limits that counted it, as they stood then:\n");
    }
    for line in figures {
        out.push_str(&format!("  {}\n", figure(line)));
    }
    out
}

fn figure(line: &Value) -> String {
    let text = |name: &str| line[name].as_str().unwrap_or("-");
    let mut out = format!("rule {} (of the {}, {})", text("rule"), text("scope"), text("dimension"));
    if let (Some(limit), Some(left), Some(needed)) =
        (line["limit"].as_u64(), line["remaining"].as_u64(), line["needed"].as_u64())
    {
        let verdict = match line["wait_ms"].as_u64() {
            Some(0) => ": enough".to_owned(),
            Some(wait) => format!(": too few, enough in {}", seconds(wait)),
            None => ": too few, and never enough".to_owned(),
        };
        out.push_str(&format!(": {left} of {limit} left, {needed} needed{verdict}"));
    }
    if line["without_store"] == true {
        out.push_str(" (Redis or the usage rows did not answer: this replica's own part)");
    }
    if text("mode") == "shadow" {
        out.push_str(" (shadow: it refuses nothing)");
    }
    out
}

fn seconds(millis: u64) -> String {
    if millis < 1_000 { format!("{millis} ms") } else { format!("{} s", millis.div_ceil(1_000)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_rule_gets_a_sentence_that_says_what_was_missing() {
        let line = |rule: &str, left: u64, wait: Option<u64>, mode: &str| {
            json!({"rule": rule, "scope": "tenant", "dimension": "requests", "mode": mode, "limit": 10,
                   "remaining": left, "needed": 1, "wait_ms": wait})
        };
        let mut alone = line("gold.day", 3, Some(1_000), "enforce");
        alone["without_store"] = true.into();
        let mut told = line("gold.requests", 0, Some(1_500), "enforce");
        told["request_id"] = "r".into();
        told["retry_after_ms"] = 1_500.into();
        told["figures"] =
            json!([told.clone(), line("gold.spend", 0, None, "shadow"), line("wide", 3, Some(0), "enforce"), alone]);
        let text = words(&told);
        for part in [
            "by rule gold.requests (of the tenant, requests): 0 of 10 left, 1 needed: too few, enough in 2 s\n",
            "admitted 2 s later",
            "rule gold.spend (of the tenant, requests): 0 of 10 left, 1 needed: too few, and never enough (shadow",
            "rule wide (of the tenant, requests): 3 of 10 left, 1 needed: enough\n",
            "rule gold.day (of the tenant, requests): 3 of 10 left, 1 needed: too few, enough in 1 s (Redis or",
        ] {
            assert!(text.contains(part), "`{part}` in:\n{text}");
        }
    }

    #[test]
    fn the_wildcard_address_is_reached_on_this_machine() {
        for (bind, url) in [
            ("0.0.0.0:9901", "http://127.0.0.1:9901/"),
            ("[::]:9901", "http://[::1]:9901/"),
            ("10.0.0.1:9901", "http://10.0.0.1:9901/"),
        ] {
            let told = own(bind.parse().expect("an address")).map(String::from);
            assert_eq!(told.as_deref(), Ok(url), "{bind}");
        }
    }

    #[test]
    fn the_key_leaves_this_machine_by_tls_alone() {
        let private = |url: &str| require_private(&url.parse().expect("a URL"));
        for url in ["http://127.0.0.1:9901/", "http://[::1]:9901/", "http://localhost:1/", "https://gate.example.com/"]
        {
            assert_eq!(private(url), Ok(()), "{url}");
        }
        // 192.0.2.0/24 and 2001:db8::/32 are nobody's.
        for url in
            ["http://192.0.2.1:9901/", "http://[2001:db8::1]:9901/", "http://gate.example.com/", "ftp://127.0.0.1/"]
        {
            let told = private(url).expect_err("not this machine");
            assert!(told.contains("over https only"), "{url}: {told}");
        }
    }

    #[test]
    fn a_listener_at_an_address_of_this_machine_is_asked_as_on_loopback() {
        assert!(is_here(Ipv4Addr::LOCALHOST.into()), "loopback is here");
        assert!(!is_here(Ipv4Addr::new(192, 0, 2, 1).into()), "nobody's address is not");
        let away = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
            socket.connect("192.0.2.1:9")?;
            socket.local_addr()
        });
        // A machine without a network has no such address.
        let Ok(own) = away else { return };
        let listener = std::net::TcpListener::bind((own.ip(), 0)).expect("an address of this machine");
        let bind = listener.local_addr().expect("bound");
        drop(listener);
        let text = format!(
            "version: 1\nlisteners: {{ http: {{ bind: [\"127.0.0.1:1\"] }} }}\nserver: {{ admin: {{ bind: \"{bind}\" }} }}\n\
             routes: [{{ match: {{ path: {{ prefix: / }} }}, respond: {{ status: 200, body: x }} }}]\n"
        );
        let loaded = crate::config::load_text("weir.yaml", &text, std::path::Path::new(""))
            .unwrap_or_else(|report| panic!("{report}"));
        let told = ask(uuid::Uuid::nil(), None, &loaded.snapshot).expect_err("nobody listens, or there is no key");
        assert!(!told.contains("over https only"), "{bind}: {told}");
    }
}
