//! Streams: before the commit point a failure is another backend's chance and the client sees nothing of it; after
//! it, one terminal error event. Every admitted request leaves exactly one usage row (pingora.md §14.1, §14.2, §14.6).

mod faults;
mod gone;
mod options;
mod silence;

use super::backend::{Backends, Script};
use super::client::{Answer, Ask, Framing};
use super::proxy::{Pool, Proxy, Setup};
use super::{say, usage};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// First output within this, in the pool `hasty`.
const HASTE: Duration = Duration::from_millis(700);
/// Silence before and between comments in the pool `chatty`.
const CHATTER: Duration = Duration::from_millis(300);

/// A proxy with four pools of different patience over the same backends, and what its usage rows must say.
#[derive(Clone)]
struct Stage {
    proxy: Arc<Proxy>,
    backends: Backends,
    expected: Arc<Mutex<Vec<(String, String, Expect)>>>,
}

/// What the row of a case must say.
#[derive(Clone, Debug)]
struct Expect {
    status: &'static str,
    tries: usize,
    /// Input and output tokens, where they are known exactly.
    tokens: Option<(i64, i64)>,
}

impl Stage {
    async fn open() -> Self {
        let backends = Backends::start(3).await;
        let all = &backends.addresses;
        let hasty = format!("timeouts: {{ first_byte: {}ms }}", HASTE.as_millis());
        let chatter = CHATTER.as_millis();
        let chatty = format!(
            "timeouts: {{ commit_grace: {chatter}ms, keep_alive: {chatter}ms, first_byte: 3s, between_bytes: 1200ms }}"
        );
        let proxy = Proxy::start(&Setup {
            pools: vec![
                Pool { name: "p", model: "m", backends: all, yaml: &[] },
                Pool { name: "hasty", model: "hasty", backends: all, yaml: &[&hasty] },
                Pool { name: "chatty", model: "chatty", backends: all, yaml: &[&chatty] },
                Pool { name: "brief", model: "brief", backends: all, yaml: &["timeouts: { total: 1s }"] },
            ],
            ..Setup::default()
        });
        Self { proxy: Arc::new(proxy), backends, expected: Arc::default() }
    }

    /// A chat stream in a pool.
    fn ask(&self, model: &str, case: &str) -> Ask {
        Ask::chat(&self.proxy.key, chat(model)).case(case)
    }

    /// Notes what the row of a case must say; the id is the one that the backend was told.
    fn expect(&self, case: &str, expect: Expect) {
        let seen = self.backends.seen(case);
        let id = seen.first().map(|seen| seen.header("x-request-id")).unwrap_or_default();
        self.expected.lock().expect("whole").push((case.to_owned(), id, expect));
    }

    /// Holds the usage table to all that was expected.
    fn settle(&self) {
        let expected = self.expected.lock().expect("whole").clone();
        let rows = usage::rows(&self.proxy, expected.len());
        for (case, id, expect) in expected {
            let row = rows.get(&id).unwrap_or_else(|| panic!("{case} has no row"));
            assert_eq!(row.status, expect.status, "{case}: how it ended: {row:?}");
            assert!(row.status != "completed" || row.error_code.is_none(), "{case}: completed is no error: {row:?}");
            assert_eq!(row.attempts.len(), expect.tries, "{case}: attempts: {row:?}");
            if let Some((input, output)) = expect.tokens {
                let told = (row.input_total, row.output_total, row.usage_source.as_str());
                assert_eq!(told, (Some(input), Some(output), "upstream_final"), "{case}: tokens: {row:?}");
            }
        }
    }
}

/// A streaming chat body.
fn chat(model: &str) -> String {
    format!(r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"Hello"}}]}}"#)
}

/// Splits a broken stream in what came before its one error event and the event's JSON.
fn interruption(answer: &Answer) -> (String, serde_json::Value) {
    let text = answer.text();
    assert_eq!(answer.status, 200, "it had begun: {text}");
    assert!(answer.complete, "the body ends cleanly: {text}");
    assert!(!text.contains("[DONE]"), "an interrupted stream is not done: {text}");
    let at = text.rfind("data: {\"error\"").unwrap_or_else(|| panic!("an error event at the end: {text}"));
    let event = text[at..].strip_prefix("data: ").and_then(|event| event.strip_suffix("\n\n"));
    let event =
        serde_json::from_str(event.unwrap_or_default()).unwrap_or_else(|error| panic!("{error}: {}", &text[at..]));
    assert_eq!(text.matches("\"error\"").count(), 1, "one error event: {text}");
    (text[..at].to_owned(), event)
}

/// One row of the table of pingora.md §14.1.
struct Row {
    case: String,
    model: &'static str,
    framing: Framing,
    attempts: Vec<Script>,
    /// What the client must see, byte for byte.
    want: String,
    tries: usize,
}

impl Row {
    /// The first attempt fails so, the second is good.
    fn failing(case: &str, first: Script) -> Self {
        let attempts = vec![first, say::good_stream()];
        Self { case: case.to_owned(), model: "m", framing: Framing::Length, attempts, want: say::shown(), tries: 2 }
    }

    /// The first attempt is shown.
    fn showing(case: &str, first: Script, want: String) -> Self {
        Self { case: case.to_owned(), model: "m", framing: Framing::Length, attempts: vec![first], want, tries: 1 }
    }

    fn model(self, model: &'static str) -> Self {
        Self { model, ..self }
    }

    fn h2(self) -> Self {
        Self { case: format!("{} over h2", self.case), framing: Framing::H2Length, ..self }
    }

    async fn run(self, stage: Stage) {
        stage.backends.script(&self.case, self.attempts);
        let answer = stage.ask(self.model, &self.case).framing(self.framing).send(stage.proxy.address).await;
        assert_eq!(answer.status, 200, "a stream: {} {}", answer.head, answer.text());
        assert_eq!(answer.text(), self.want, "what the client sees");
        assert!(answer.complete, "the body ends cleanly");
        assert!(answer.header("content-type").starts_with("text/event-stream"), "its type: {}", answer.head);
        assert_eq!(answer.header("content-length"), "", "a stream's length is not known: {}", answer.head);
        let seen = stage.backends.seen(&self.case);
        assert_eq!(answer.request_id(), seen[0].header("x-request-id"), "one id on both sides");
        assert_eq!(seen.len(), self.tries, "attempts");
        stage.expect(&self.case, Expect { status: "completed", tries: self.tries, tokens: Some((7, 2)) });
    }
}
