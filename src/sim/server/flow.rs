//! The body of a streamed answer: turns the engine's counts into events as they come, and carries out the faults that
//! strike within a stream. What the events look like is up to the `Scribe`.

use super::ask::Answer;
use super::driver::Call;
use super::faults::{Break, Faults, Opening};
use super::journal::Journal;
use super::socket::Wire;
use super::sse::{Piece, Scribe, Sse};
use bytes::Bytes;
use futures_util::stream::{Stream, unfold};
use hyper::body::Frame;
use std::sync::Arc;
use std::time::Duration;

/// Events are gathered up to so many bytes if they are ready at the same time.
const GATHER_BYTES: usize = 16 * 1024;
/// Time for the kernel to hand over what was written before the connection is reset: RST overtakes data.
const RESET_GRACE: Duration = Duration::from_millis(5);

/// The connection is to break here.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the fault asked for breaks the connection here")]
pub(super) struct Broken;

/// Marks a request as aborted unless it came to its end.
#[derive(Debug)]
pub(super) struct Watch {
    journal: Arc<Journal>,
    over: bool,
}

impl Watch {
    pub(super) fn new(journal: Arc<Journal>) -> Self {
        Self { journal, over: false }
    }

    /// The answer is complete, or broken on purpose.
    pub(super) fn over(&mut self) {
        self.over = true;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.over {
            self.journal.aborted();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Preamble,
    Tokens,
    Closing,
    Breaking(bool),
    Over,
}

/// Everything that a stream needs until its end.
struct Flow {
    call: Call,
    answer: Answer,
    scribe: Box<dyn Scribe>,
    faults: Faults,
    wire: Arc<Wire>,
    watch: Watch,
    sse: Sse,
    phase: Phase,
    /// Content events written.
    events: u64,
    /// Of each choice, tokens written.
    written: Vec<u64>,
}

impl Flow {
    /// The body's next bytes; `None` at its end.
    async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        loop {
            match self.phase {
                Phase::Over => return None,
                Phase::Breaking(reset) => {
                    self.phase = Phase::Over;
                    // Pending once: hyper writes out what it has before it sees the error.
                    tokio::time::sleep(RESET_GRACE).await;
                    if reset {
                        self.wire.reset_on_close();
                    }
                    return Some(Err(Broken));
                }
                Phase::Preamble => self.open().await,
                Phase::Tokens => self.tokens().await,
                Phase::Closing => self.close(),
            }
            if self.sse.len() > 0 {
                return Some(Ok(Bytes::from(self.sse.take())));
            }
        }
    }

    async fn open(&mut self) {
        if self.faults.opening == Some(Opening::ErrorEvent) {
            return self.fail();
        }
        // As in vLLM: the head is out at once, the first event comes with the first token.
        self.call.line.more_than(0).await;
        self.scribe.preamble(&self.answer, self.call.line.cached(), &mut self.sse);
        self.phase = Phase::Tokens;
    }

    async fn tokens(&mut self) {
        let single = self.faults.breaks.is_some() || self.faults.delay.is_some();
        while self.sse.len() < GATHER_BYTES {
            if self.breaks_now().await {
                return;
            }
            let Some(piece) = self.ready() else {
                if self.sse.len() > 0 {
                    return;
                }
                if self.call.line.ended() {
                    self.phase = Phase::Closing;
                    return;
                }
                self.call.line.more_than(self.written.iter().sum()).await;
                continue;
            };
            if let Some(delay) = self.faults.delay {
                tokio::time::sleep(delay).await;
            }
            self.written[piece.choice] += 1;
            self.events += 1;
            self.scribe.token(&self.answer, piece, &mut self.sse);
            if single {
                return;
            }
        }
    }

    /// The next token that the engine has and the client has not: of the choice that is furthest behind.
    fn ready(&self) -> Option<Piece> {
        let behind = |choice: &usize| self.written[*choice] < self.call.line.tokens(*choice);
        let choice = (0..self.written.len()).filter(behind).min_by_key(|choice| self.written[*choice])?;
        Some(Piece { choice, index: self.written[choice] })
    }

    /// Carries out the fault that is due after the events written so far; true if one was.
    async fn breaks_now(&mut self) -> bool {
        let Some((kind, _)) = self.faults.breaks.filter(|(_, after)| *after == self.events) else { return false };
        match kind {
            Break::Reset => self.break_off(true),
            Break::Eof => {
                self.watch.over();
                self.phase = Phase::Over;
            }
            Break::Error => self.fail(),
            Break::Stall => std::future::pending().await,
            Break::Cut => {
                let Some(piece) = self.ready() else {
                    // Nothing to cut yet; without a further event the terminal ones go through.
                    if self.call.line.ended() {
                        self.phase = Phase::Closing;
                    } else {
                        self.call.line.more_than(self.written.iter().sum()).await;
                    }
                    return true;
                };
                self.scribe.token(&self.answer, piece, &mut self.sse);
                self.sse.halve();
                self.break_off(false);
            }
        }
        true
    }

    fn break_off(&mut self, reset: bool) {
        self.watch.over();
        self.phase = Phase::Breaking(reset);
    }

    fn fail(&mut self) {
        self.scribe.error(&self.answer, &mut self.sse);
        self.watch.over();
        self.phase = Phase::Over;
    }

    fn close(&mut self) {
        self.scribe.closing(&self.answer, &mut self.sse);
        if !self.faults.no_done {
            self.scribe.done(&self.answer, &mut self.sse);
        }
        self.watch.over();
        self.phase = Phase::Over;
    }
}

/// A flow that has not begun.
pub(super) struct FlowSeed {
    pub(super) call: Call,
    pub(super) answer: Answer,
    pub(super) scribe: Box<dyn Scribe>,
    pub(super) faults: Faults,
    pub(super) wire: Arc<Wire>,
}

impl FlowSeed {
    /// The body as a stream.
    pub(super) fn begin(self, watch: Watch) -> impl Stream<Item = Result<Frame<Bytes>, Broken>> + Send {
        let piece = self.faults.piece;
        let flow = Flow {
            sse: Sse::new(self.faults.crlf),
            written: vec![0; self.answer.choices],
            call: self.call,
            answer: self.answer,
            scribe: self.scribe,
            faults: self.faults,
            wire: self.wire,
            watch,
            phase: Phase::Preamble,
            events: 0,
        };
        unfold((flow, Bytes::new()), move |(mut flow, mut rest)| async move {
            if rest.is_empty() {
                match flow.next().await? {
                    Ok(bytes) => rest = bytes,
                    Err(broken) => return Some((Err(broken), (flow, rest))),
                }
            }
            if piece.is_some() {
                // Pending once makes hyper flush: each piece is a write of its own.
                tokio::task::yield_now().await;
            }
            let n = piece.unwrap_or(usize::MAX).min(rest.len());
            let bytes = rest.split_to(n);
            Some((Ok(Frame::data(bytes)), (flow, rest)))
        })
    }
}
