//! `/v1/messages` as Anthropic defines it and vLLM serves it.

use super::ask::{Answer, Finish};
use super::sse::{Piece, Scribe, Sse, push_escaped};
use crate::domain::units::Tokens;
use serde_json::{Value, json};
use std::fmt::Write;

fn stop_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::Tool => "tool_use",
    }
}

/// Counts in this dialect: `input_tokens` leaves the cached ones out.
fn usage(answer: &Answer, output: u64, cached: Tokens) -> Value {
    json!({"input_tokens": (answer.input - cached).0, "cache_creation_input_tokens": 0,
           "cache_read_input_tokens": cached.0, "output_tokens": output})
}

/// Writes the events of a message.
#[derive(Debug)]
pub(super) struct Message {
    usage: bool,
    cached: Tokens,
    sent: u64,
}

impl Message {
    /// `usage`: false leaves every `usage` member out that may be absent, and zeroes the one of `message_start`.
    pub(super) fn new(usage: bool) -> Self {
        Self { usage, cached: Tokens(0), sent: 0 }
    }
}

fn event(sse: &mut Sse, name: &'static str, data: &Value) {
    // Writing to a String cannot fail.
    sse.event(Some(name), |out| {
        let _ = write!(out, "{data}");
    });
}

impl Scribe for Message {
    fn preamble(&mut self, answer: &Answer, cached: Tokens, sse: &mut Sse) {
        self.cached = cached;
        let mut message = head(answer);
        // The API always has `usage` here, and clients insist on it.
        message["usage"] =
            if self.usage { usage(answer, 0, cached) } else { json!({"input_tokens": 0, "output_tokens": 0}) };
        event(sse, "message_start", &json!({"type": "message_start", "message": message}));
        let block = match &answer.tool {
            None => json!({"type": "text", "text": ""}),
            Some(name) => json!({"type": "tool_use", "id": tool_id(answer), "name": name, "input": {}}),
        };
        let start = json!({"type": "content_block_start", "index": 0, "content_block": block});
        event(sse, "content_block_start", &start);
        event(sse, "ping", &json!({"type": "ping"}));
    }

    fn token(&mut self, answer: &Answer, piece: Piece, sse: &mut Sse) {
        self.sent = piece.index + 1;
        let text = answer.piece(0, piece.index);
        sse.event(Some("content_block_delta"), |out| {
            out.push_str(r#"{"type":"content_block_delta","index":0,"delta":"#);
            out.push_str(match answer.tool {
                None => r#"{"type":"text_delta","text":""#,
                Some(_) => r#"{"type":"input_json_delta","partial_json":""#,
            });
            push_escaped(out, text);
            out.push_str("\"}}");
        });
    }

    fn closing(&mut self, answer: &Answer, sse: &mut Sse) {
        event(sse, "content_block_stop", &json!({"type": "content_block_stop", "index": 0}));
        let delta = json!({"stop_reason": stop_reason(answer.finish), "stop_sequence": null});
        let mut data = json!({"type": "message_delta", "delta": delta});
        data["usage"] = if self.usage { usage(answer, self.sent, self.cached) } else { json!({"output_tokens": 0}) };
        event(sse, "message_delta", &data);
    }

    fn done(&mut self, _answer: &Answer, sse: &mut Sse) {
        event(sse, "message_stop", &json!({"type": "message_stop"}));
    }

    fn error(&mut self, answer: &Answer, sse: &mut Sse) {
        event(sse, "error", &error("overloaded_error", "Overloaded (simulated).", &answer.id));
    }
}

fn tool_id(answer: &Answer) -> String {
    format!("toolu_{}", answer.id)
}

fn head(answer: &Answer) -> Value {
    json!({"id": format!("msg_{}", answer.id), "type": "message", "role": "assistant", "model": answer.model,
           "content": [], "stop_reason": null, "stop_sequence": null})
}

/// The whole answer of a request that does not stream.
pub(super) fn whole(answer: &Answer, cached: Tokens, with_usage: bool) -> Value {
    let mut message = head(answer);
    message["content"] = match &answer.tool {
        None => json!([{"type": "text", "text": answer.text(0)}]),
        Some(name) => {
            // Cut arguments are no JSON; the API then has an empty object.
            let input: Value = serde_json::from_str(&answer.text(0)).unwrap_or_else(|_| json!({}));
            json!([{"type": "tool_use", "id": tool_id(answer), "name": name, "input": input}])
        }
    };
    message["stop_reason"] = Value::from(stop_reason(answer.finish));
    if with_usage {
        message["usage"] = usage(answer, answer.output.0, cached);
    }
    message
}

/// An error in this dialect.
pub(super) fn error(kind: &str, message: &str, request_id: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": format!("req_{request_id}")})
}
