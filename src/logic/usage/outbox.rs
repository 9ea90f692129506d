//! Puts together what goes on of a piece of a stream. Decides nothing about what that is.

use bytes::{Bytes, BytesMut};
use std::ops::Range;

/// Collects what is kept of a piece; copies nothing while that is one run.
pub(super) struct Outbox<'a> {
    piece: &'a Bytes,
    run: Range<usize>,
    built: BytesMut,
}

impl<'a> Outbox<'a> {
    /// Nothing is kept yet.
    pub(super) fn new(piece: &'a Bytes) -> Self {
        Self { piece, run: 0..0, built: BytesMut::new() }
    }

    /// The piece.
    pub(super) fn piece(&self) -> &'a [u8] {
        self.piece
    }

    /// Keeps a part of the piece; parts come in order.
    pub(super) fn keep(&mut self, part: Range<usize>) {
        if self.run.is_empty() {
            self.run = part;
        } else if part.start == self.run.end {
            self.run.end = part.end;
        } else {
            self.flush();
            self.run = part;
        }
    }

    /// Puts in bytes that are not of the piece.
    pub(super) fn emit(&mut self, bytes: &[u8]) {
        self.flush();
        self.built.extend_from_slice(bytes);
    }

    fn flush(&mut self) {
        self.built.extend_from_slice(&self.piece[std::mem::take(&mut self.run)]);
    }

    /// All that was kept: the piece itself where nothing else came in.
    pub(super) fn done(mut self) -> Bytes {
        if self.built.is_empty() {
            return self.piece.slice(self.run);
        }
        self.flush();
        self.built.freeze()
    }
}
