//! A server connection that can misbehave below HTTP: end in a TCP reset, put an interim head before the answer.

use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What a request handler asks of the connection under it.
#[derive(Default, Debug)]
pub(super) struct Wire {
    reset: AtomicBool,
    has_preface: AtomicBool,
    preface: Mutex<&'static [u8]>,
}

impl Wire {
    /// The connection will end with RST instead of FIN.
    pub(super) fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Release);
    }

    /// These bytes go out before the next ones.
    pub(super) fn put_before_answer(&self, interim_status: u16) {
        *self.preface.lock() = match interim_status {
            100 => b"HTTP/1.1 100 Continue\r\n\r\n",
            _ => b"HTTP/1.1 103 Early Hints\r\nlink: </weir>; rel=preconnect\r\n\r\n",
        };
        self.has_preface.store(true, Ordering::Release);
    }
}

/// A TCP stream under the orders of its [`Wire`].
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    wire: Arc<Wire>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, wire: Arc<Wire>) -> Self {
        Self { stream, wire }
    }

    fn poll_preface(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.wire.has_preface.load(Ordering::Acquire) {
            let rest = *self.wire.preface.lock();
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            *self.wire.preface.lock() = &rest[n..];
            if n == rest.len() {
                self.wire.has_preface.store(false, Ordering::Release);
            } else if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A failure means that the connection is gone already, which is what was wanted.
        if self.wire.reset.load(Ordering::Acquire)
            && let Err(error) = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
        {
            tracing::debug!(%error, "the connection to reset was already closed");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_preface(cx))?;
        Pin::new(&mut this.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_preface(cx))?;
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A FIN before the reset would make it a clean end for a reader that stops there.
        if this.wire.reset.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
