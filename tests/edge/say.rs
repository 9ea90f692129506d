//! What the scripted backends say: heads, chunks and the events of a vLLM stream.

use super::backend::{Act, Script};
use std::time::Duration;

/// A chat completion that vLLM could have sent.
pub const OK: &str = r#"{"id":"c1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#;
/// The role-only event that vLLM begins with: no output yet.
pub const ROLE: &str = "data: {\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
/// The usage event.
pub const USAGE: &str = "data: {\"id\":\"c1\",\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\"total_tokens\":9}}\n\n";
/// The terminal event.
pub const DONE: &str = "data: [DONE]\n\n";
/// An error event inside a 200.
pub const ERROR: &str =
    "data: {\"error\":{\"message\":\"CUDA out of memory\",\"type\":\"server_error\",\"code\":500}}\n\n";
/// A 4xx body that is in OpenAI's dialect already.
pub const VALID_4XX: &str = r#"{"error":{"message":"context too long","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#;

/// A JSON answer with Content-Length.
pub fn json(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

/// The head of a chunked event stream.
pub fn sse_head() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()
}

/// One chunk.
pub fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

/// The last chunk.
pub fn last_chunk() -> Vec<u8> {
    b"0\r\n\r\n".to_vec()
}

/// An event with output.
pub fn delta(text: &str) -> String {
    format!(
        "data: {{\"id\":\"c1\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
    )
}

/// The events of a good stream, as the engine sends them.
pub fn events() -> Vec<String> {
    vec![ROLE.to_owned(), delta("He"), delta("llo"), USAGE.to_owned(), DONE.to_owned()]
}

/// What a client that did not ask for usage sees of a good stream.
pub fn shown() -> String {
    [ROLE, &delta("He"), &delta("llo"), DONE].concat()
}

/// Says the head of a stream, then these events, one chunk each, and leaves the body open.
pub fn open_stream(events: &[&str]) -> Script {
    let mut acts = vec![Act::Say(sse_head())];
    acts.extend(events.iter().map(|event| Act::Say(chunk(event))));
    acts
}

/// A whole good stream of two deltas.
pub fn good_stream() -> Script {
    let events = events();
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    let mut acts = open_stream(&events);
    acts.push(Act::Say(last_chunk()));
    acts
}

/// A JSON answer.
pub fn answer(status: u16, body: &str) -> Script {
    vec![Act::Say(json(status, body))]
}

/// A good JSON answer.
pub fn good() -> Script {
    answer(200, OK)
}

/// A wait.
pub fn pause(millis: u64) -> Act {
    Act::Pause(Duration::from_millis(millis))
}
