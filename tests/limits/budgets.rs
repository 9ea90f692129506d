//! Budgets that are set while proxies run, prepaid credit, and who is told of what is spent.

use super::fleet::{Fleet, MODEL, Recipe, Store, alone};
use crate::client::{Answer, Ask};
use crate::servers::Redis;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

/// Nano-dollars per request: 100 output tokens at 10 USD a million.
const COST: u64 = 1_000_000;
/// A change of the store is seen within this (semantics.md §4: 1 s by push, 5 s by poll; these proxies poll each 500 ms).
const SEEN: Duration = Duration::from_secs(1);
/// What a busy machine may add to a time that is promised.
const BUSY: Duration = Duration::from_secs(2);
/// Times that a purchase is tried that was answered 503.
const REPEATS: usize = 10;
/// Longer than anything takes here.
const DEADLINE: Duration = Duration::from_secs(20);
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Two proxies with a tenant `buyer`, and a caller who may write budgets.
struct Shop {
    fleet: Fleet,
    operator: String,
}

impl Shop {
    async fn open(recipe: Recipe) -> Self {
        let recipe = Recipe { replicas: 2, ..recipe };
        let recipe = recipe.tenant("buyer", "{ limits: {} }").prices("sim-8b: { input: 0, output: 10 }");
        let fleet = Fleet::start(&recipe).await;
        let operator = fleet.create_key(&["--name", "operator", "--role", "operator"]);
        let shop = Self { fleet, operator };
        shop.until("the operator is known", DEADLINE, async |shop: &Self| {
            shop.admin("GET", "/budgets", Value::Null).await.status == 200
        })
        .await;
        shop
    }

    async fn admin(&self, method: &str, path: &str, body: Value) -> Answer {
        let ask =
            Ask::new(method, &format!("/admin/v1{path}"), &self.operator).field("content-type", "application/json");
        let ask = if body.is_null() { ask } else { ask.body(body.to_string()) };
        ask.send(self.fleet.replicas[0].admin).await
    }

    /// Why a request was refused, in the proxies' own words.
    async fn why(&self, answer: &Answer) -> String {
        if answer.status == 200 {
            return String::new();
        }
        let mut said = answer.text();
        for replica in &self.fleet.replicas {
            let path = format!("/admin/v1/limits/{}", answer.request_id());
            said.push_str(&Ask::new("GET", &path, &self.operator).send(replica.admin).await.text());
        }
        said
    }

    /// Puts a budget by which each purchase reserves what it costs, so that purchases can be counted.
    async fn put(&self, budget: &str, amount: u64, period: &str, alert_at: &[u8]) {
        let body = json!({"tenant_id": "buyer", "level": "tenant", "amount_nano_usd": amount, "period": period,
            "alert_at": alert_at, "strict": true});
        let answer = self.admin("PUT", &format!("/budgets/{budget}"), body).await;
        assert_eq!(answer.status, 200, "a budget that can be: {}", answer.text());
    }

    /// Buys from one of the proxies. A busy machine may keep a limit store from answering in time: then it is tried
    /// again, as the answer asks for.
    async fn buy(&self, replica: usize) -> Answer {
        for _ in 1..REPEATS {
            let answer = self.buy_once(replica).await;
            if answer.status != 503 {
                return answer;
            }
            sleep(Duration::from_millis(200)).await;
        }
        self.buy_once(replica).await
    }

    async fn buy_once(&self, replica: usize) -> Answer {
        let body = json!({"model": MODEL, "prompt": "Buy", "max_tokens": 100, "ignore_eos": true}).to_string();
        let ask = Ask::new("POST", "/v1/completions", self.fleet.key("buyer"));
        ask.field("content-type", "application/json").body(body).send(self.fleet.addresses()[replica]).await
    }

    /// Waits until something holds; how long that took.
    async fn until(&self, what: &str, limit: Duration, holds: impl AsyncFn(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        while !holds(self).await {
            assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
            sleep(Duration::from_millis(50)).await;
        }
        begun.elapsed()
    }

    /// Waits until all proxies answer with this status.
    async fn all_say(&self, status: u16, what: &str) {
        self.until(what, SEEN + BUSY, async |shop: &Self| {
            shop.buy(0).await.status == status && shop.buy(1).await.status == status
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_set_by_the_api_refuses_on_all_proxies_within_a_second_until_it_is_raised() {
    let _machine = alone().await;
    let redis = tokio::task::block_in_place(Redis::start);
    let shop = Shop::open(Recipe::on(Store::single(&redis))).await;
    for replica in 0..2 {
        assert_eq!(shop.buy(replica).await.status, 200, "without a budget everybody buys");
    }
    // What was spent before there was a budget counts: the rows have it.
    shop.fleet.rows("buyer", 2).await;
    shop.put("cap", 2 * COST, "month", &[]).await;
    shop.all_say(429, "both refuse").await;
    let refused = shop.buy(1).await;
    refused.assert_error(429, "insufficient_quota", "insufficient_quota", None);
    let told = ["x-limit-rule", "x-limit-scope", "x-should-retry"].map(|name| refused.header(name));
    assert_eq!(told, ["budget.cap", "tenant", "false"], "which budget it was");
    let wait: u64 = refused.header("retry-after").parse().expect("seconds to the end of the month");
    assert!((1..=31 * 86_400).contains(&wait), "a month ends within {wait} s");
    shop.put("cap", 1_000 * COST, "month", &[]).await;
    shop.all_say(200, "both sell again").await;
    shop.put("cap", 0, "month", &[]).await;
    shop.all_say(429, "nothing may be spent").await;
    let gone = shop.admin("DELETE", "/budgets/cap", Value::Null).await;
    assert_eq!(gone.status, 200, "deleted: {}", gone.text());
    shop.all_say(200, "and without it everybody buys").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prepaid_credit_counts_from_when_it_was_put_and_is_topped_up_by_a_larger_amount() {
    let _machine = alone().await;
    let redis = tokio::task::block_in_place(Redis::start);
    let shop = Shop::open(Recipe::on(Store::single(&redis))).await;
    for replica in 0..2 {
        assert_eq!(shop.buy(replica).await.status, 200, "before there was any credit");
    }
    shop.fleet.rows("buyer", 2).await;
    shop.put("credit", 2 * COST, "prepaid", &[]).await;
    sleep(SEEN + BUSY).await;
    for number in 0..2 {
        assert_eq!(shop.buy(number).await.status, 200, "purchase {number} of the credit's two");
    }
    // Until the other replica has told that its purchase is paid, it might still be given back.
    let told = async |shop: &Shop| shop.buy(0).await.header("retry-after").is_empty();
    shop.until("what the other replica has sold is told", SEEN + BUSY, told).await;
    let refused = shop.buy(0).await;
    refused.assert_error(429, "insufficient_quota", "insufficient_quota", None);
    assert_eq!(refused.header("retry-after"), "", "credit does not come back by itself");
    shop.put("credit", 3 * COST, "prepaid", &[]).await;
    shop.until("the top-up is seen", SEEN + BUSY, async |shop: &Shop| shop.buy(1).await.status == 200).await;
    assert_eq!(shop.buy(0).await.status, 429, "one purchase was paid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_once_of_each_share_that_two_proxies_have_spent() {
    let _machine = alone().await;
    let redis = tokio::task::block_in_place(Redis::start);
    let hook = Hook::open().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a secret's file");
        format!("{{ file: {} }}", path.display())
    };
    let (url, secret) = (file("url", &hook.url), file("secret", SECRET));
    let entry = format!("alerts: {{ webhook: {{ url: {url}, secret: {secret} }} }}");
    let shop = Shop::open(Recipe::on(Store::single(&redis)).limits(&entry)).await;
    shop.put("cap", 4 * COST, "day", &[50]).await;
    sleep(SEEN + BUSY).await;
    for number in 0..4 {
        let answer = shop.buy(number % 2).await;
        let why = shop.why(&answer).await;
        assert_eq!(answer.status, 200, "purchase {number} of four: {why}");
    }
    shop.until("both shares are told of", DEADLINE, async |_: &Shop| hook.events().len() >= 2).await;
    assert_eq!(shop.buy(0).await.status, 429, "all is spent");
    // Counters are told each second, and failed deliveries are tried again soon.
    sleep(Duration::from_secs(4)).await;
    let events = hook.events();
    let ids: BTreeSet<&str> = events.iter().filter_map(|event| event["id"].as_str()).collect();
    assert_eq!((events.len(), ids.len()), (2, 2), "each once: {events:?}");
    let mut told: Vec<_> = events.iter().map(|event| (event["threshold_percent"].as_u64(), &event["type"])).collect();
    told.sort_by_key(|(percent, _)| *percent);
    let (half, whole) = (json!("budget.threshold"), json!("budget.exceeded"));
    assert_eq!(told, [(Some(50), &half), (Some(100), &whole)], "half of it and all of it");
    assert_eq!(shop.fleet.metric("weir_alerts_total", &["delivered"]), 2.0, "and that is counted");
    for event in events {
        let about = [&event["tenant_id"], &event["scope"], &event["rule"], &event["limit_nano_usd"]];
        assert_eq!(about, [&json!("buyer"), &json!("tenant"), &json!("budget.cap"), &json!(4 * COST)], "{event}");
    }
}

/// A webhook that takes what is signed by the right hand.
struct Hook {
    url: String,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/alerts", listener.local_addr().expect("an address"));
        let events = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&events);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let list = Arc::clone(&list);
                tokio::spawn(async move { serve(stream, &list).await });
            }
        });
        Self { url, events }
    }

    fn events(&self) -> Vec<Value> {
        self.events.lock().expect("no panic").clone()
    }
}

/// One request per connection is all that a webhook needs.
async fn serve(mut stream: TcpStream, events: &Mutex<Vec<Value>>) {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.unwrap_or(0);
        if count == 0 {
            return;
        }
        bytes.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let wanted: usize = field(head, "content-length").parse().expect("a length");
        if body.len() >= wanted {
            break (head.to_owned(), body.to_owned());
        }
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("a key");
    mac.update(format!("{}.{body}", field(&head, "x-weir-timestamp")).as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let signed = field(&head, "x-weir-signature") == format!("v1={hex}");
    if signed {
        events.lock().expect("no panic").push(serde_json::from_str(&body).expect("JSON"));
    }
    let status = if signed { "204 No Content" } else { "401 Unauthorized" };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    // Who has gone meanwhile tries again.
    let _ = stream.write_all(answer.as_bytes()).await;
}

fn field(head: &str, name: &str) -> String {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}
