//! Which dialect of events a streamed answer speaks.

use crate::domain::surface::Surface;

/// Whose events these are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamKind {
    /// OpenAI chat completions.
    Chat,
    /// OpenAI text completions.
    Completions,
    /// OpenAI Responses.
    Responses,
    /// Anthropic Messages.
    Anthropic,
}

impl StreamKind {
    /// The kind of stream that a surface answers with, if it has one.
    #[must_use]
    pub fn of(surface: Surface) -> Option<Self> {
        match surface {
            Surface::OpenAiChat => Some(Self::Chat),
            Surface::OpenAiCompletions => Some(Self::Completions),
            Surface::OpenAiResponses => Some(Self::Responses),
            Surface::AnthropicMessages => Some(Self::Anthropic),
            Surface::OpenAiEmbeddings | Surface::Models | Surface::Me | Surface::Http => None,
        }
    }
}
