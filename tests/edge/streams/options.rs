//! What a caller may ask for besides: usage in the stream, timing, an explanation of the choice.

use super::super::client::Ask;
use super::super::say::{self, DONE, ROLE, USAGE, delta};
use super::{Expect, Stage, chat};

/// The usage event is Weir's own wish unless the client asked for it too; then the stream passes as it came.
async fn usage_event(stage: &Stage) {
    let body = |options: &str| {
        format!(r#"{{"model":"m","stream":true,{options}"messages":[{{"role":"user","content":"x"}}]}}"#)
    };
    for (case, options, asked) in [
        ("usage unasked", "", false),
        ("usage refused", r#""stream_options":{"include_usage":false,"x":1},"#, false),
        ("usage asked", r#""stream_options":{"include_usage":true},"#, true),
    ] {
        stage.backends.script(case, vec![say::good_stream()]);
        let answer = Ask::chat(&stage.proxy.key, body(options)).case(case).send(stage.proxy.address).await;
        let want = if asked { say::events().concat() } else { say::shown() };
        assert_eq!(answer.text(), want, "{case}: what the client sees");
        let sent: serde_json::Value =
            serde_json::from_slice(&stage.backends.seen(case)[0].body).expect("JSON upstream");
        assert_eq!(sent["stream_options"]["include_usage"], true, "{case}: metering is not the client's to switch off");
        if options.contains("\"x\"") {
            assert_eq!(sent["stream_options"]["x"], 1, "{case}: the other options stay");
        }
        stage.expect(case, Expect { status: "completed", tries: 1, tokens: Some((7, 2)) });
    }
}

/// A running count, as vLLM adds it to every event when Weir asks for it, is taken out again.
async fn running_count(stage: &Stage) {
    let counted = |event: &str, output: u32| {
        let usage = format!(
            ",\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":{output},\"total_tokens\":{}}}}}\n\n",
            7 + output
        );
        event.replace("}\n\n", &usage)
    };
    let events =
        [counted(ROLE, 0), counted(&delta("He"), 1), counted(&delta("llo"), 2), USAGE.to_owned(), DONE.to_owned()];
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    let script = [say::open_stream(&events), vec![super::super::backend::Act::Say(say::last_chunk())]].concat();
    stage.backends.script("running", vec![script]);
    let answer = stage.ask("m", "running").send(stage.proxy.address).await;
    assert_eq!(answer.text(), say::shown(), "the running count is Weir's own");
    stage.expect("running", Expect { status: "completed", tries: 1, tokens: Some((7, 2)) });
}

/// `x-weir-timing: 1`: a header, and a comment behind the last event.
async fn timing(stage: &Stage) {
    stage.backends.script("timing", vec![say::good_stream()]);
    let answer = stage.ask("m", "timing").field("x-weir-timing", "1").send(stage.proxy.address).await;
    let text = answer.text();
    let comment = text.strip_prefix(&say::shown()).unwrap_or_else(|| panic!("behind the last event: {text}"));
    let fields = comment.strip_prefix(": weir ").and_then(|rest| rest.strip_suffix("\n\n"));
    let fields: Vec<_> = fields.unwrap_or_default().split(';').filter_map(|field| field.split_once('=')).collect();
    let value = |name: &str| fields.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    assert_eq!((value("in"), value("out")), (Some("7"), Some("2")), "the counts: {comment:?}");
    assert!(value("ttft_ms").is_some_and(|ms| ms.parse::<f64>().is_ok_and(|ms| ms > 0.0)), "a number: {comment:?}");
    assert!(value("backend").is_some_and(|name| name.starts_with("p-")), "loopback may see the backend: {comment:?}");
    assert!(!answer.header("server-timing").is_empty(), "and the header: {}", answer.head);
    stage.expect("timing", Expect { status: "completed", tries: 1, tokens: Some((7, 2)) });
}

/// `x-weir-explain: 1` from loopback: the candidates as JSON.
async fn explain(stage: &Stage) {
    stage.backends.script("explain", vec![say::good_stream()]);
    let answer = stage.ask("m", "explain").field("x-weir-explain", "1").send(stage.proxy.address).await;
    let header = answer.header("x-weir-explain");
    assert!(header.len() <= 4096, "at most 4 KiB: {}", header.len());
    let value: serde_json::Value = serde_json::from_str(&header).unwrap_or_else(|error| panic!("{error}: {header:?}"));
    assert_eq!(value["candidates"].as_array().map(Vec::len), Some(3), "every backend with its score: {value}");
    stage.expect("explain", Expect { status: "completed", tries: 1, tokens: Some((7, 2)) });
}

/// What only the hop or only Weir may say never reaches the backend; what is the caller's does.
async fn fields(stage: &Stage) {
    stage.backends.script("fields", vec![say::good_stream()]);
    let ask =
        stage.ask("m", "fields").field("x-request-id", "mine").field("x-tenant-id", "evil").field("cookie", "a=b");
    let ask =
        ask.field("accept-encoding", "gzip").field("x-forwarded-for", "9.9.9.9").field("x-api-key", &stage.proxy.key);
    let answer =
        ask.field("x-custom", "kept").field("connection", "x-hop").field("x-hop", "1").send(stage.proxy.address).await;
    assert_eq!(answer.status, 200, "the same key twice is one: {}", answer.text());
    let seen = &stage.backends.seen("fields")[0];
    for gone in ["authorization", "x-api-key", "x-tenant-id", "accept-encoding", "x-hop", "x-weir-timing"] {
        assert_eq!(seen.headers(gone), Vec::<String>::new(), "{gone} stays here: {}", seen.head);
    }
    assert_eq!(seen.header("x-custom"), "kept", "the caller's own passes: {}", seen.head);
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1", "the address that Weir saw: {}", seen.head);
    assert_eq!(seen.header("x-request-id"), answer.request_id(), "Weir's id, not the client's");
    stage.expect("fields", Expect { status: "completed", tries: 1, tokens: Some((7, 2)) });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_gets_what_it_asked_for_and_nothing_else() {
    let stage = Stage::open().await;
    usage_event(&stage).await;
    running_count(&stage).await;
    timing(&stage).await;
    explain(&stage).await;
    fields(&stage).await;
    let good = Ask::chat(&stage.proxy.key, chat("m")).send(stage.proxy.address).await;
    assert_eq!(good.status, 200, "no case, a JSON answer to a stream: passed on: {}", good.text());
    let id = good.request_id();
    let plain = Expect { status: "completed", tries: 1, tokens: Some((7, 2)) };
    stage.expected.lock().expect("whole").push(("no case".to_owned(), id, plain));
    stage.settle();
}
