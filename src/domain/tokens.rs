//! Token counts and how far they can be trusted.

use super::units::Tokens;

/// Counts of one request or attempt. `None` is not zero: it was not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// All input, cached input included.
    pub input_total: Option<Tokens>,
    /// Input read from a prefix cache.
    pub input_cache_read: Option<Tokens>,
    /// Input written to a cache at a price of its own.
    pub input_cache_write: Option<Tokens>,
    /// All output, reasoning included.
    pub output_total: Option<Tokens>,
    /// Output spent on reasoning.
    pub output_reasoning: Option<Tokens>,
}

/// Where the counts came from (semantics.md §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsageSource {
    /// The upstream's last word, at the end of the answer.
    UpstreamFinal,
    /// A running count that the upstream sends with each event; the stream ended early.
    UpstreamContinuous,
    /// The upstream said a part (Anthropic's `message_start`), then was cut.
    UpstreamPartial,
    /// Counted by a tokenizer of ours.
    Tokenizer,
    /// Counted by content events.
    ChunkCount,
    /// Bytes of text divided by four.
    BytesEstimate,
    /// Nothing to count.
    #[default]
    None,
}

impl UsageSource {
    /// The name in the usage record.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UpstreamFinal => "upstream_final",
            Self::UpstreamContinuous => "upstream_continuous",
            Self::UpstreamPartial => "upstream_partial",
            Self::Tokenizer => "tokenizer",
            Self::ChunkCount => "chunk_count",
            Self::BytesEstimate => "bytes_estimate",
            Self::None => "none",
        }
    }

    /// `exact`, `lower_bound` or `estimate`.
    #[must_use]
    pub fn confidence(self) -> &'static str {
        match self {
            Self::UpstreamFinal => "exact",
            Self::UpstreamContinuous | Self::UpstreamPartial => "lower_bound",
            _ => "estimate",
        }
    }
}
