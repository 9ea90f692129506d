//! What a caller asks of a model, read from the request body once.

use super::surface::Surface;
use super::units::Tokens;
use bytes::Bytes;
use std::ops::Range;

/// Byte ranges of a JSON body.
pub type Span = Range<usize>;

/// One model call. The body stays as it came; the spans say where to cut when it is forwarded.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which API.
    pub surface: Surface,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The value of `model`, unescaped.
    pub model: String,
    /// `stream: true`.
    pub stream: bool,
    /// `max_tokens`, `max_completion_tokens` or `max_output_tokens`: the cap on output, if the caller gave one.
    pub max_tokens: Option<Tokens>,
    /// How many answers are asked for (`n`, at least 1).
    pub choices: u32,
    /// The client asked for `stream_options.include_usage`.
    pub include_usage: bool,
    /// The client asked for `stream_options.continuous_usage_stats`.
    pub continuous_usage: bool,
    /// `user` (OpenAI) or `metadata.user_id` (Anthropic), at most 256 bytes.
    pub end_user: Option<String>,
    /// Bytes that make the prompt: the sum of `prompt` below.
    pub prompt_bytes: u64,
    /// The parts of the body that make the prompt, in the order in which chat templates render them:
    /// tools, system or instructions, then messages, prompt or input.
    pub prompt: Vec<Span>,
    /// Where the members are that forwarding may change.
    pub cuts: Cuts,
}

/// Where forwarding cuts the body. Every span is within the body.
#[derive(Clone, Debug, Default)]
pub struct Cuts {
    /// The value of `model`, quotes included.
    pub model: Span,
    /// The value of `stream_options`, when it is there.
    pub stream_options: Option<Span>,
    /// The value of `cache_salt`, when it is there.
    pub cache_salt: Option<Span>,
    /// The offset just behind the `{` that opens the document: where a member may be inserted.
    pub open: usize,
    /// True if the document has no member at all (then an inserted member takes no comma).
    pub empty: bool,
}
