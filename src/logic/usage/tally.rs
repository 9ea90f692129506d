//! What an answer has told so far, and how far its counts can be trusted when it ends.

use crate::domain::tokens::{TokenCounts, UsageSource};
use crate::domain::units::Tokens;

/// Bytes of a usage object that are kept verbatim; a longer one is read but not kept.
pub const MAX_RAW_USAGE: usize = 4096;
/// Bytes of a name or message that are kept.
pub const MAX_WORD: usize = 256;

/// An error that the upstream told inside of its answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UpstreamFault {
    /// Its type or code, at most [`MAX_WORD`] bytes.
    pub kind: String,
    /// Its message, at most [`MAX_WORD`] bytes. May name hosts: for the log, never for the caller.
    pub message: String,
}

impl UpstreamFault {
    /// Reads an error object: type (or code) and message. Any other value is taken as the message.
    #[must_use]
    pub fn read(raw: &str) -> Self {
        let value: serde_json::Value = serde_json::from_str(raw).unwrap_or_else(|_| raw.into());
        let text = |name: &str| match value.get(name) {
            Some(serde_json::Value::String(text)) => Some(word(text)),
            Some(serde_json::Value::Number(code)) => Some(code.to_string()),
            _ => None,
        };
        let message = text("message").or_else(|| value.as_str().map(word)).unwrap_or_default();
        Self { kind: text("type").or_else(|| text("code")).unwrap_or_default(), message }
    }
}

/// What an answer has told so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// The upstream's counts, the last word per field.
    pub counts: TokenCounts,
    /// Where `counts` came from so far.
    pub source: UsageSource,
    /// Output tokens handed on, or content events where no running count is known.
    pub delivered: Tokens,
    /// Events with data that were handed on.
    pub sse_events: u64,
    /// Events among them that hold model output.
    pub content_events: u64,
    /// Bytes of output text, unescaped.
    pub text_bytes: u64,
    /// Why the model stopped.
    pub finish_reason: Option<String>,
    /// The model's name in the answer.
    pub model_reported: Option<String>,
    /// The last usage object, verbatim; `None` if it was longer than [`MAX_RAW_USAGE`].
    pub raw_usage: Option<String>,
    /// The answer's own end was seen.
    pub terminal_seen: bool,
    /// Events that were too long to be read; their output is only known in bytes.
    pub unread_events: u64,
    /// The error that ended it.
    pub error: Option<UpstreamFault>,
}

impl Tally {
    /// The counts to record, given how the answer ended (semantics.md §5-6). A running count becomes the final one
    /// at a clean end. Without any count, content events stand for tokens, then bytes divided by four.
    #[must_use]
    pub fn settled(&self, ended_cleanly: bool) -> (TokenCounts, UsageSource) {
        match self.source {
            UsageSource::UpstreamContinuous if ended_cleanly => (self.counts, UsageSource::UpstreamFinal),
            UsageSource::UpstreamPartial => {
                // The opening count of output is a placeholder; every content event is at least one token.
                let seen = (self.content_events > 0).then_some(Tokens(self.content_events));
                let counts = TokenCounts { output_total: self.counts.output_total.max(seen), ..self.counts };
                (counts, UsageSource::UpstreamPartial)
            }
            UsageSource::None if self.content_events > 0 && self.unread_events == 0 => {
                (self.output(Tokens(self.content_events)), UsageSource::ChunkCount)
            }
            UsageSource::None if self.text_bytes > 0 => {
                (self.output(Tokens::of_bytes(self.text_bytes)), UsageSource::BytesEstimate)
            }
            source => (self.counts, source),
        }
    }

    fn output(&self, tokens: Tokens) -> TokenCounts {
        TokenCounts { output_total: Some(tokens), ..self.counts }
    }

    /// Brings `delivered` up to date.
    pub(super) fn deliver(&mut self) {
        let counted = matches!(self.source, UsageSource::UpstreamFinal | UsageSource::UpstreamContinuous);
        let known = self.counts.output_total.filter(|_| counted);
        self.delivered = known.unwrap_or(Tokens(self.content_events));
    }
}

/// At most [`MAX_WORD`] bytes of a text.
#[must_use]
pub(super) fn word(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_WORD)].to_owned()
}
