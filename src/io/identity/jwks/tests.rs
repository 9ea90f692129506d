use super::*;
use crate::domain::units::Micros;
use crate::io::identity::tests::{Asked, Reply, Service, nowhere, reply};
use crate::logic::access::jwt::tests::issuer::{Signer, published};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// How long a test waits for what must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);
const NOW: WallMicros = WallMicros(1_795_262_400_000_000);

/// A clock that a test sets; the wall stands still.
#[derive(Default)]
pub(crate) struct Hand(AtomicU64);

impl Hand {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_micros()).expect("a span"), Ordering::Relaxed);
    }
}

impl Clock for Hand {
    fn wall(&self) -> WallMicros {
        NOW
    }
    fn mono(&self) -> Micros {
        Micros(self.0.load(Ordering::Relaxed))
    }
}

/// An issuer over HTTP whose answers a test changes. Its key set is at `/keys`, its discovery document where it belongs.
pub(crate) struct Idp {
    service: Service,
    answers: Arc<Mutex<Answers>>,
}

#[derive(Clone, Default)]
struct Answers {
    keys: (u16, String),
    discovery: String,
    hang: bool,
}

impl Idp {
    pub(crate) async fn start(signers: &[&Signer]) -> Self {
        let answers = Arc::new(Mutex::new(Answers::default()));
        let given = Arc::clone(&answers);
        let service = Service::start(move |asked| answer(asked, given.lock().clone())).await;
        let idp = Self { service, answers };
        idp.publish(signers);
        idp.discovery(&idp.issuer(), &idp.at("/keys"));
        idp
    }

    pub(crate) fn publish(&self, signers: &[&Signer]) {
        self.say(200, &String::from_utf8(published(signers)).expect("JSON"));
    }

    pub(crate) fn say(&self, status: u16, body: &str) {
        self.answers.lock().keys = (status, body.to_owned());
    }

    pub(crate) fn hang(&self) {
        self.answers.lock().hang = true;
    }

    fn discovery(&self, issuer: &str, keys: &str) {
        let document = serde_json::json!({"issuer": issuer, "jwks_uri": keys, "scopes_supported": ["openid"]});
        self.answers.lock().discovery = document.to_string();
    }

    pub(crate) fn issuer(&self) -> String {
        self.at("/realm/")
    }

    pub(crate) fn keys(&self) -> Url {
        Url::parse(&self.at("/keys")).expect("a URL")
    }

    fn at(&self, path: &str) -> String {
        self.service.url.join(path).expect("a URL").to_string()
    }

    /// How often the key set was fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.service.asked().iter().filter(|asked| asked.target == "/keys").count()
    }
}

async fn answer(asked: Asked, answers: Answers) -> Reply {
    if answers.hang {
        std::future::pending::<()>().await;
    }
    match asked.target.as_str() {
        "/keys" => reply(answers.keys.0, &answers.keys.1),
        "/realm/.well-known/openid-configuration" if answers.discovery.is_empty() => reply(503, ""),
        "/realm/.well-known/openid-configuration" => reply(200, &answers.discovery),
        _ => reply(404, ""),
    }
}

/// Waits until something is so, and fails when it does not happen.
pub(crate) async fn until(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn source(issuer: &str, url: Option<Url>, refresh: Duration, clock: &Arc<Hand>) -> KeySource {
    let place = Place { issuer: issuer.to_owned(), url, refresh };
    let clock: Arc<dyn Clock> = Arc::<Hand>::clone(clock);
    KeySource::start(place, Fetch::new().expect("a client"), clock, &Handle::current())
}

fn keys(source: &KeySource) -> Option<usize> {
    source.current(NOW).map(|loaded| loaded.keys.len())
}

#[tokio::test]
async fn keys_come_from_the_address_that_is_configured_or_discovered() {
    let signer = Signer::ec("a");
    let idp = Idp::start(&[&signer]).await;
    let clock = Arc::new(Hand::default());
    for url in [Some(idp.keys()), None] {
        let source = source(&idp.issuer(), url.clone(), HOUR, &clock);
        until("the first fetch", || keys(&source).is_some()).await;
        assert_eq!(keys(&source), Some(1), "{url:?}");
    }
}

#[tokio::test]
async fn a_discovery_document_that_is_not_the_issuers_is_not_believed() {
    let signer = Signer::ec("a");
    let idp = Idp::start(&[&signer]).await;
    let clock = Arc::new(Hand::default());
    let own = idp.keys().to_string();
    for (issuer, keys_at) in [
        ("https://evil.example/", own.as_str()),
        (idp.issuer().trim_end_matches('/'), own.as_str()),
        (idp.issuer().as_str(), "http://keys.example/"),
        (idp.issuer().as_str(), "file:///etc/passwd"),
        (idp.issuer().as_str(), "/keys"),
    ] {
        idp.discovery(issuer, keys_at);
        let source = source(&idp.issuer(), None, HOUR, &clock);
        let ended = source.shared.ended.subscribe();
        until("the fetch", || *ended.borrow() > 0).await;
        assert_eq!(keys(&source), None, "{issuer} {keys_at}");
    }
    assert_eq!(idp.fetches(), 0, "no key set was asked for");
}

#[tokio::test]
async fn keys_are_fetched_where_they_were_while_discovery_is_down() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let idp = Idp::start(&[&old]).await;
    let source = source(&idp.issuer(), None, Duration::from_millis(20), &Arc::new(Hand::default()));
    until("the first fetch", || keys(&source) == Some(1)).await;
    idp.answers.lock().discovery.clear();
    idp.publish(&[&old, &new]);
    until("the new key", || keys(&source) == Some(2)).await;
    idp.discovery("https://evil.example/", idp.keys().as_str());
    idp.publish(&[&old]);
    let fetches = idp.fetches();
    let ended = source.shared.ended.subscribe();
    let before = *ended.borrow();
    until("another look at a document that is now another's", || *ended.borrow() > before + 2).await;
    assert!(idp.fetches() <= fetches + 1, "whoever is told of another issuer asks no more");
}

#[tokio::test]
async fn an_answer_that_is_none_leaves_the_keys_as_they_are() {
    let signer = Signer::ec("a");
    let idp = Idp::start(&[&signer]).await;
    let clock = Arc::new(Hand::default());
    let source = source("issuer", Some(idp.keys()), HOUR, &clock);
    until("the first fetch", || keys(&source).is_some()).await;
    let large = format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(256 << 10));
    let wrong = [
        (500, "{\"keys\":[]}"),
        (302, ""),
        (200, "<html>"),
        (200, "{}"),
        (200, "{\"keys\":[]}"),
        (200, "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}"),
        (200, large.as_str()),
    ];
    for (status, body) in wrong {
        idp.say(status, body);
        clock.advance(Duration::from_secs(31));
        let before = *source.shared.ended.borrow();
        source.newer().await;
        until("a fetch that is made", || *source.shared.ended.borrow() > before).await;
        assert_eq!(keys(&source), Some(1), "{status} {}", body.len());
    }
}

#[tokio::test]
async fn keys_are_fetched_again_by_themselves() {
    let (old, new) = (Signer::ec("old"), Signer::ec("new"));
    let idp = Idp::start(&[&old]).await;
    let clock = Arc::new(Hand::default());
    let source = source("issuer", Some(idp.keys()), Duration::from_millis(20), &clock);
    until("the first fetch", || keys(&source) == Some(1)).await;
    let generation = source.current(NOW).expect("keys").generation;
    until("some refreshes", || idp.fetches() > 3).await;
    assert_eq!(source.current(NOW).expect("keys").generation, generation, "the same keys are no new generation");
    idp.publish(&[&old, &new]);
    until("the new key", || keys(&source) == Some(2)).await;
    assert_eq!(source.current(NOW).expect("keys").generation, generation + 1, "other keys are one");
    drop(source);
    let after = idp.fetches();
    until("a fetch that was on its way", || idp.fetches() <= after + 1).await;
}

#[tokio::test]
async fn keys_are_good_for_a_day_without_their_issuer() {
    let signer = Signer::ec("a");
    let idp = Idp::start(&[&signer]).await;
    let source = source("issuer", Some(idp.keys()), HOUR, &Arc::new(Hand::default()));
    until("the first fetch", || keys(&source).is_some()).await;
    let day = WallMicros(24 * 3600 * 1_000_000);
    assert!(source.current(NOW + day).is_some(), "a day");
    assert!(source.current(NOW + day + WallMicros(1)).is_none(), "and no longer");
    assert!(source.current(NOW - day).is_some(), "a clock that is set back does not lose them");
}

#[tokio::test]
async fn nobody_waits_for_an_issuer_for_long() {
    let clock = Arc::new(Hand::default());
    let gone = source("issuer", Some(nowhere()), HOUR, &clock);
    tokio::time::timeout(DEADLINE, gone.newer()).await.expect("an issuer that is not there");
    let idp = Idp::start(&[]).await;
    idp.hang();
    let slow = source("issuer", Some(idp.keys()), HOUR, &clock);
    let all = futures_util::future::join_all((0..2 * MAX_WAITING).map(|_| slow.newer()));
    tokio::time::timeout(DEADLINE, all).await.expect("an issuer that does not answer");
    assert_eq!(keys(&slow), None, "and there are no keys");
}

#[test]
fn pauses_scatter_and_failures_are_retried_soon() {
    let refresh = Duration::from_secs(600);
    assert_eq!(pause(refresh, 0, 0.0), Duration::from_secs(540), "a tenth less");
    assert!(pause(refresh, 0, 1.0) <= Duration::from_secs(660), "a tenth more");
    let middle = |failures| pause(refresh, failures, 0.5).as_millis();
    assert_eq!((middle(1), middle(2), middle(5), middle(1000)), (1000, 2000, 16_000, 30_000), "doubled, up to 30 s");
    assert_eq!(pause(Duration::from_secs(1), 9, 0.5), Duration::from_secs(1), "never rarer than in good times");
}
