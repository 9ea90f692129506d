//! The simulated engines over real sockets: each API's shapes, and each fault as a client sees it.

// Helpers of tests are tests too, but clippy allows these only inside `#[test]` functions.
#![allow(clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};
use std::io::ErrorKind;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir::domain::units::Tokens;
use weir::sim::engine::EngineLimits;
use weir::sim::profile::PROFILES;
use weir::sim::{EngineSettings, Running, Server};

fn engine(speed: f64) -> Running {
    let settings = EngineSettings { model: "sim-8b".into(), limits: EngineLimits::of(PROFILES[0]), speed };
    Server::start(settings, "127.0.0.1:0".parse().expect("an address")).expect("starts")
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum End {
    Eof,
    Reset,
}

/// An answer as bytes, and how its connection ended.
struct Raw {
    bytes: Vec<u8>,
    end: End,
}

impl Raw {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    fn status(&self) -> u16 {
        self.text().split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    fn head(&self) -> String {
        self.text().split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase()
    }

    /// The body without chunked framing, and whether the framing was complete.
    fn body(&self) -> (String, bool) {
        let at = self.bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
        let mut rest = &self.bytes[at..];
        if !self.head().contains("transfer-encoding: chunked") {
            return (String::from_utf8_lossy(rest).into_owned(), true);
        }
        let mut body = Vec::new();
        while let Some(line) = rest.windows(2).position(|two| two == b"\r\n") {
            let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..line]), 16).expect("a chunk size");
            rest = &rest[line + 2..];
            if size == 0 {
                return (String::from_utf8_lossy(&body).into_owned(), true);
            }
            body.extend_from_slice(&rest[..size.min(rest.len())]);
            rest = rest.get(size + 2..).unwrap_or_default();
        }
        (String::from_utf8_lossy(&body).into_owned(), false)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body().0).expect("a JSON body")
    }

    /// Names and data of the events.
    fn events(&self) -> Vec<(String, String)> {
        let body = self.body().0.replace("\r\n", "\n");
        let field = |event: &str, name: &str| {
            event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
        };
        body.split_terminator("\n\n").map(|event| (field(event, "event: "), field(event, "data: "))).collect()
    }

    fn data(&self) -> Vec<Value> {
        self.events().iter().filter_map(|(_, data)| serde_json::from_str(data).ok()).collect()
    }
}

async fn send(engine: &Running, method: &str, path: &str, headers: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(engine.addr).await.expect("connects");
    let n = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-length: {n}\r\n{headers}\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("writes");
    stream
}

async fn read(mut stream: TcpStream) -> Raw {
    let mut bytes = Vec::new();
    let outcome = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    let end = match outcome.expect("the answer ends in time") {
        Ok(_) => End::Eof,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => End::Reset,
        Err(error) => panic!("unexpected end: {error}"),
    };
    Raw { bytes, end }
}

async fn get(engine: &Running, path: &str) -> Raw {
    read(send(engine, "GET", path, "", "").await).await
}

async fn post(engine: &Running, path: &str, headers: &str, body: &Value) -> Raw {
    read(send(engine, "POST", path, headers, &body.to_string()).await).await
}

fn chat(extra: &Value) -> Value {
    let mut body = json!({"model": "sim-8b", "messages": [{"role": "user", "content": "Tell me of weirs."}]});
    for (name, value) in extra.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

const CHAT: &str = "/v1/chat/completions";
const INSTANT: f64 = 1e6;

async fn struck(engine: &Running, fault: &str) -> Raw {
    let body = chat(&json!({"stream": true, "max_tokens": 8, "stream_options": {"include_usage": true}}));
    post(engine, CHAT, &format!("x-sim-fault: {fault}\r\n"), &body).await
}

fn deltas(raw: &Raw) -> usize {
    raw.data().iter().filter(|d| d["choices"][0]["delta"].is_object()).count().saturating_sub(1)
}

#[tokio::test]
async fn a_chat_stream_has_a_role_chunk_then_a_delta_per_token_then_usage_then_done() {
    let engine = engine(INSTANT);
    let body = chat(&json!({"stream": true, "max_tokens": 8, "stream_options": {"include_usage": true}}));
    let raw = post(&engine, CHAT, "", &body).await;
    let (events, data) = (raw.events(), raw.data());
    assert_eq!(data[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}), "the role comes first");
    assert_eq!(deltas(&raw), 8, "one delta per token");
    assert_eq!(data[8]["choices"][0]["finish_reason"], "length", "max_tokens cut it");
    let usage = &data[9];
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(8)), "usage chunk");
    assert_eq!(events.last().map(|e| e.1.as_str()), Some("[DONE]"), "the end mark");
    assert!(data[..9].iter().all(|d| d.get("usage").is_none()), "usage only at the end");
}

#[tokio::test]
async fn a_stream_says_the_same_as_the_whole_answer() {
    let engine = engine(INSTANT);
    let whole = post(&engine, CHAT, "", &chat(&json!({}))).await.json();
    let stream = post(&engine, CHAT, "", &chat(&json!({"stream": true}))).await;
    let said: String =
        stream.data().iter().filter_map(|d| d["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect();
    assert_eq!(whole["choices"][0]["message"]["content"], said, "the same words");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop", "the model ended it");
    assert_eq!(whole["usage"]["completion_tokens"], deltas(&stream), "the same count");
}

#[tokio::test]
async fn continuous_usage_counts_up_on_every_chunk() {
    let engine = engine(INSTANT);
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let raw =
        post(&engine, CHAT, "", &chat(&json!({"stream": true, "max_tokens": 3, "stream_options": options}))).await;
    let counts: Vec<u64> = raw.data().iter().filter_map(|d| d["usage"]["completion_tokens"].as_u64()).collect();
    assert_eq!(counts, [0, 1, 2, 3, 3], "role chunk, three tokens, usage chunk");
}

#[tokio::test]
async fn a_repeated_prompt_is_cached_and_a_salt_keeps_caches_apart() {
    let engine = engine(INSTANT);
    let ask =
        |salt: &str| json!({"model": "sim-8b", "max_tokens": 1, "cache_salt": salt, "prompt": "weir ".repeat(200)});
    let cached = |raw: Raw| raw.json()["usage"]["prompt_tokens_details"]["cached_tokens"].clone();
    let cold = cached(post(&engine, "/v1/completions", "", &ask("a")).await);
    let warm = cached(post(&engine, "/v1/completions", "", &ask("a")).await);
    let other = cached(post(&engine, "/v1/completions", "", &ask("b")).await);
    assert_eq!((cold, warm, other), (json!(0), json!(240), json!(0)), "250 tokens are 15 full blocks of 16");
    let metrics = get(&engine, "/metrics").await.text();
    assert!(metrics.contains(r#"vllm:prefix_cache_hits_total{engine="0",model_name="sim-8b"} 240"#), "{metrics}");
}

#[tokio::test]
async fn n_gives_so_many_choices_each_with_its_own_end() {
    let engine = engine(INSTANT);
    let raw = post(&engine, CHAT, "", &chat(&json!({"n": 3, "stream": true, "max_tokens": 4}))).await;
    let ends: Vec<u64> = raw
        .data()
        .iter()
        .filter(|d| d["choices"][0]["finish_reason"].is_string())
        .filter_map(|d| d["choices"][0]["index"].as_u64())
        .collect();
    assert_eq!(ends, [0, 1, 2], "three ends");
    let whole = post(&engine, CHAT, "", &chat(&json!({"n": 3, "max_tokens": 4}))).await.json();
    assert_eq!(whole["usage"]["completion_tokens"], 12, "usage counts all choices");
}

#[tokio::test]
async fn a_forced_tool_call_streams_arguments_that_are_json() {
    let engine = engine(INSTANT);
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]);
    let raw = post(&engine, CHAT, "", &chat(&json!({"stream": true, "tools": tools, "tool_choice": "required"}))).await;
    let calls: Vec<Value> = raw.data().iter().map(|d| d["choices"][0]["delta"]["tool_calls"][0].clone()).collect();
    let arguments: String = calls.iter().filter_map(|c| c["function"]["arguments"].as_str()).collect();
    assert_eq!(calls[1]["function"]["name"], "look", "the name comes with the first piece");
    assert!(serde_json::from_str::<Value>(&arguments).is_ok(), "arguments: {arguments}");
}

#[tokio::test]
async fn messages_have_anthropics_events_in_order_and_cumulative_usage() {
    let engine = engine(INSTANT);
    let ask =
        json!({"model": "sim-8b", "max_tokens": 5, "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let raw = post(&engine, "/v1/messages", "", &ask).await;
    let names: Vec<String> = raw.events().into_iter().map(|e| e.0).collect();
    let delta = "content_block_delta";
    let want = ["message_start", "content_block_start", "ping", delta, delta, delta, delta, delta];
    assert_eq!(names[..8], want, "preamble and five deltas");
    assert_eq!(names[8..], ["content_block_stop", "message_delta", "message_stop"], "the end");
    let data = raw.data();
    assert_eq!(data[9]["usage"]["output_tokens"], 5, "cumulative usage");
    assert_eq!(data[9]["delta"]["stop_reason"], "max_tokens", "why it ended");
    assert!(data[0]["message"]["usage"]["input_tokens"].as_u64() > Some(0), "input at the start");
}

#[tokio::test]
async fn responses_end_with_usage_in_the_final_event() {
    let engine = engine(INSTANT);
    let raw = post(&engine, "/v1/responses", "", &json!({"model": "sim-8b", "input": "hi", "stream": true})).await;
    let names: Vec<String> = raw.events().into_iter().map(|e| e.0).collect();
    assert_eq!(names[..2], ["response.created", "response.in_progress"], "no output yet");
    assert_eq!(names.last().map(String::as_str), Some("response.completed"), "the terminal event");
    let data = raw.data();
    let sequence: Vec<u64> = data.iter().filter_map(|d| d["sequence_number"].as_u64()).collect();
    assert_eq!(sequence, (0..data.len() as u64).collect::<Vec<_>>(), "numbered without gaps");
    let tokens = names.iter().filter(|name| *name == "response.output_text.delta").count();
    assert_eq!(data[data.len() - 1]["response"]["usage"]["output_tokens"], tokens, "usage");
}

#[tokio::test]
async fn embeddings_answer_each_input_and_count_no_output() {
    let engine = engine(INSTANT);
    let body = post(&engine, "/v1/embeddings", "", &json!({"model": "sim-8b", "input": ["a", "b"]})).await.json();
    assert_eq!(body["data"].as_array().map(Vec::len), Some(2), "two rows");
    assert_eq!(
        body["usage"],
        json!({"prompt_tokens": 2, "total_tokens": 2, "completion_tokens": 0,
        "prompt_tokens_details": null}),
        "usage"
    );
}

#[tokio::test]
async fn an_unknown_model_is_404_in_the_dialect_of_the_path() {
    let engine = engine(INSTANT);
    let raw = post(&engine, CHAT, "", &chat(&json!({"model": "gpt-9"}))).await;
    assert_eq!((raw.status(), &raw.json()["error"]["type"]), (404, &json!("NotFoundError")), "OpenAI");
    let ask = json!({"model": "gpt-9", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
    let raw = post(&engine, "/v1/messages", "", &ask).await;
    assert_eq!((raw.status(), &raw.json()["error"]["type"]), (404, &json!("not_found_error")), "Anthropic");
}

#[tokio::test]
async fn the_orca_header_comes_when_asked_for() {
    let engine = engine(INSTANT);
    let raw = post(&engine, CHAT, "endpoint-load-metrics-format: TEXT\r\n", &chat(&json!({}))).await;
    assert!(raw.head().contains("endpoint-load-metrics: text named_metrics.kv_cache_usage_perc="), "{}", raw.head());
    assert!(!post(&engine, CHAT, "", &chat(&json!({}))).await.head().contains("endpoint-load"), "not unasked");
}

#[tokio::test]
async fn the_models_speed_is_kept_in_real_time() {
    let engine = engine(10.0);
    let begun = Instant::now();
    post(&engine, CHAT, "", &chat(&json!({"max_tokens": 500, "ignore_eos": true}))).await;
    let took = begun.elapsed().as_secs_f64();
    assert!((0.38..0.8).contains(&took), "500 steps of 7.7 ms at ten times the speed, took {took} s");
}

#[tokio::test]
async fn faults_before_the_answer_look_as_described() {
    let engine = engine(INSTANT);
    let raw = struck(&engine, "error=429").await;
    assert_eq!((raw.status(), raw.head().contains("retry-after: 1")), (429, true), "429 with Retry-After");
    let raw = struck(&engine, "reset").await;
    assert_eq!((raw.end, raw.bytes.len()), (End::Reset, 0), "RST, no byte");
    let raw = struck(&engine, "eof").await;
    assert_eq!((raw.end, raw.bytes.len()), (End::Eof, 0), "FIN, no byte");
    let begun = Instant::now();
    assert_eq!(struck(&engine, "stall=200").await.status(), 200, "late, but well");
    assert!(begun.elapsed() >= Duration::from_millis(200), "stalled");
    let text = struck(&engine, "info").await.text();
    assert!(text.starts_with("HTTP/1.1 103 ") && text.contains("\r\n\r\nHTTP/1.1 200 "), "103, then 200: {text}");
    assert!(struck(&engine, "early_100").await.text().starts_with("HTTP/1.1 100 "), "100, then 200");
    assert_eq!(struck(&engine, "explode").await.status(), 400, "unknown kinds are refused");
}

#[tokio::test]
async fn faults_within_a_stream_strike_after_so_many_events() {
    let engine = engine(INSTANT);
    for after in [0, 3] {
        let raw = struck(&engine, &format!("reset_after={after}")).await;
        assert_eq!((raw.end, deltas(&raw), raw.body().1), (End::Reset, after, false), "reset after {after}");
        let raw = struck(&engine, &format!("eof_after={after}")).await;
        assert_eq!((raw.end, deltas(&raw), raw.body().1), (End::Eof, after, true), "clean end after {after}");
        assert!(!raw.text().contains("[DONE]"), "no end mark");
        let raw = struck(&engine, &format!("cut_after={after}")).await;
        assert_eq!((raw.end, deltas(&raw), raw.body().1), (End::Eof, after, false), "cut after {after}");
        assert!(!raw.body().0.ends_with("\n\n"), "in the middle of an event");
        let raw = struck(&engine, &format!("error_event_after={after}")).await;
        assert_eq!(deltas(&raw), after, "events before the error");
        assert!(raw.data().last().is_some_and(|d| d["error"]["message"].is_string()), "an error event at the end");
    }
    let raw = struck(&engine, "error_event").await;
    assert_eq!((raw.status(), raw.events().len()), (200, 1), "nothing but the error");
}

#[tokio::test]
async fn a_stalled_stream_is_silent_until_the_client_goes_and_then_counts_as_aborted() {
    let engine = engine(INSTANT);
    let body = chat(&json!({"stream": true}));
    let mut stream = send(&engine, "POST", CHAT, "x-sim-fault: stall_after=2\r\n", &body.to_string()).await;
    let mut bytes = Vec::new();
    let silent = tokio::time::timeout(Duration::from_millis(300), stream.read_to_end(&mut bytes)).await;
    assert!(silent.is_err(), "the stream stays open");
    assert_eq!(deltas(&Raw { bytes, end: End::Eof }), 2, "two events came");
    drop(stream);
    assert!(aborted(&engine, 1).await, "the abort is counted");
}

async fn aborted(engine: &Running, wanted: u64) -> bool {
    for _ in 0..100 {
        if get(engine, "/sim/requests").await.json()["aborted"] == wanted {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot() {
    let engine = engine(1.0);
    let body = chat(&json!({"stream": true, "max_tokens": 10_000, "ignore_eos": true}));
    let stream = send(&engine, "POST", CHAT, "", &body.to_string()).await;
    let running = r#"vllm:num_requests_running{engine="0",model_name="sim-8b"} "#;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(get(&engine, "/metrics").await.text().contains(&format!("{running}1")), "it runs");
    drop(stream);
    assert!(aborted(&engine, 1).await, "the abort is counted");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(get(&engine, "/metrics").await.text().contains(&format!("{running}0")), "its slot is free");
}

#[tokio::test]
async fn faults_of_form_change_bytes_but_not_events() {
    let engine = engine(INSTANT);
    let plain = struck(&engine, "").await;
    let text = |raw: &Raw| -> Vec<Value> { raw.data().iter().map(|d| d["choices"].clone()).collect() };
    let cut = struck(&engine, "chunk=7").await;
    assert_eq!(text(&cut), text(&plain), "pieces");
    let body = cut.text();
    assert!(body.matches("\r\n7\r\n").count() > 50, "chunks of seven bytes");
    let sized = struck(&engine, "content_length").await;
    assert_eq!((text(&sized), sized.head().contains("content-length: ")), (text(&plain), true), "Content-Length");
    let crlf = struck(&engine, "crlf").await;
    assert_eq!(text(&crlf), text(&plain), "line ends");
    assert!(crlf.body().0.contains("\r\n\r\ndata: "), "CR LF");
    assert!(!struck(&engine, "no_usage").await.text().contains("usage"), "no usage");
    assert!(!struck(&engine, "no_done").await.text().contains("[DONE]"), "no end mark");
    let begun = Instant::now();
    assert_eq!(deltas(&struck(&engine, "delay=20").await), 8, "all events");
    assert!(begun.elapsed() >= Duration::from_millis(160), "each with its pause");
}

#[tokio::test]
async fn a_json_answer_breaks_in_the_middle_of_its_body() {
    let engine = engine(INSTANT);
    for (fault, end) in [("reset_after=0", End::Reset), ("cut_after=0", End::Eof)] {
        let raw = post(&engine, CHAT, &format!("x-sim-fault: {fault}\r\n"), &chat(&json!({}))).await;
        assert_eq!((raw.status(), raw.end), (200, end), "{fault}");
        assert!(serde_json::from_str::<Value>(&raw.body().0).is_err(), "{fault}: half a body");
    }
}

#[tokio::test]
async fn once_strikes_one_request_over_all_engines() {
    let (one, two) = (engine(INSTANT), engine(INSTANT));
    assert_eq!(struck(&one, "error=503; once=sim-test").await.status(), 503, "the first");
    assert_eq!(struck(&two, "error=503; once=sim-test").await.status(), 200, "not the second, elsewhere");
}

#[tokio::test]
async fn an_engines_fault_strikes_so_many_times_and_can_be_cleared() {
    let engine = engine(INSTANT);
    assert_eq!(post(&engine, "/sim/faults", "", &json!({"fault": "error=500", "times": 1})).await.status(), 200, "set");
    assert_eq!(post(&engine, CHAT, "", &chat(&json!({}))).await.status(), 500, "once");
    assert_eq!(post(&engine, CHAT, "", &chat(&json!({}))).await.status(), 200, "not twice");
    post(&engine, "/sim/faults", "", &json!({"fault": "unhealthy"})).await;
    assert_eq!(get(&engine, "/health").await.status(), 503, "unhealthy");
    post(&engine, "/sim/faults", "", &json!({"fault": null})).await;
    assert_eq!(get(&engine, "/health").await.status(), 200, "cleared");
    assert_eq!(post(&engine, "/sim/faults", "", &json!({"fault": "explode"})).await.status(), 400, "unknown");
}

#[tokio::test]
async fn the_journal_shows_what_came() {
    let engine = engine(INSTANT);
    post(&engine, CHAT, "authorization: Bearer upstream\r\n", &chat(&json!({"user": "u1"}))).await;
    let pages = get(&engine, "/sim/requests").await.json();
    assert_eq!(pages["paths"][CHAT], 1, "counted");
    let headers = pages["last"]["headers"].as_array().expect("headers");
    assert!(headers.contains(&json!(["authorization", "Bearer upstream"])), "with its headers");
    assert!(pages["last"]["body"].as_str().is_some_and(|body| body.contains("\"u1\"")), "and its body");
}

#[tokio::test]
async fn a_stopped_engine_refuses_connections_and_can_come_back_on_its_port() {
    let first = engine(INSTANT);
    let addr = first.addr;
    first.stop().await;
    assert!(TcpStream::connect(addr).await.is_err(), "nobody listens");
    let settings = EngineSettings { model: "sim-8b".into(), limits: EngineLimits::of(PROFILES[0]), speed: INSTANT };
    let again = Server::start(settings, addr).expect("the port is free again");
    assert_eq!(get(&again, "/health").await.status(), 200, "it is back");
}

#[tokio::test]
async fn four_hundred_streams_are_open_at_once_and_all_end_whole() {
    let limits = EngineLimits {
        slots: 2_500,
        step_tokens: 8_192,
        kv_tokens: Tokens(1_600_000),
        ..EngineLimits::of(PROFILES[0])
    };
    let settings = EngineSettings { model: "sim-8b".into(), limits, speed: 10.0 };
    let engine = Server::start(settings, "127.0.0.1:0".parse().expect("an address")).expect("starts");
    let body = chat(&json!({"stream": true, "max_tokens": 20, "ignore_eos": true})).to_string();
    let mut streams = Vec::new();
    for _ in 0..400 {
        streams.push(send(&engine, "POST", CHAT, "", &body).await);
    }
    for stream in streams {
        let raw = read(stream).await;
        assert_eq!((deltas(&raw), raw.events().last().map(|e| e.1.clone())), (20, Some("[DONE]".into())), "whole");
    }
}
