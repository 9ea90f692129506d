//! After the commit point: events out as they come, comments into silence, and one terminal error event where the
//! upstream breaks off. There is no further attempt.

use super::commit::{Arrived, aborted, overdue};
use super::session::Upstream;
use super::{broken, fault_of};
use crate::domain::fault::Fault;
use crate::exchange::Exchange;
use crate::stages::meter;
use crate::stages::settle::{self, Ending};
use bytes::Bytes;
use pingora_core::Result;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// An SSE comment: keeps idle middle-boxes from closing a stream.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";
/// How long the upstream may take to end its body after the terminal event, for its connection to be kept.
const TAIL_PATIENCE: Duration = Duration::from_millis(200);

/// What ended a wait.
enum Woken {
    Upstream(Result<Arrived>),
    Timer,
    Abort(Fault),
}

impl Upstream {
    /// The next bytes for the client; `None` at the end.
    pub(super) async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        if let Some(piece) = self.ready.pop_front() {
            return Ok(Some(piece));
        }
        if self.ended {
            return Ok(None);
        }
        let exchange = self.exchange()?;
        if self.concluded {
            Box::pin(self.read_tail()).await;
            return Ok(None);
        }
        if self.events { self.next_events(&exchange).await } else { self.next_of_document(&exchange).await }
    }

    async fn next_events(&mut self, exchange: &Exchange) -> Result<Option<Bytes>> {
        loop {
            let out = match self.wake(exchange).await {
                Woken::Abort(fault) => self.interrupt(exchange, fault).await,
                Woken::Timer => match self.on_timer(exchange) {
                    Tick::Nothing => continue,
                    Tick::KeepAlive => return Ok(Some(Bytes::from_static(KEEP_ALIVE))),
                    Tick::Over(fault) => self.interrupt(exchange, fault).await,
                },
                Woken::Upstream(Err(error)) => self.interrupt(exchange, fault_of(&error)).await,
                Woken::Upstream(Ok(Arrived::Head)) => match self.late_head(exchange) {
                    None => continue,
                    Some(fault) => self.interrupt(exchange, fault).await,
                },
                Woken::Upstream(Ok(Arrived::End)) => self.end_of_stream(exchange).await,
                Woken::Upstream(Ok(Arrived::Piece(piece))) => match self.events_out(exchange, piece).await {
                    None => continue,
                    Some(out) => out,
                },
            };
            self.clock.sent = Instant::now();
            return Ok(Some(out));
        }
    }

    /// Waits for the upstream, the timer or the abort. The timer is armed once and re-armed only when it fires.
    async fn wake(&mut self, exchange: &Exchange) -> Woken {
        let due = self.next_tick(exchange);
        let mut timer = self.timer.take().unwrap_or_else(|| Box::pin(sleep_until(due)));
        let Some(mut abort) = self.abort.take() else { return Woken::Abort(Fault::Shutdown) };
        if let Some(fault) = overdue(&mut abort, exchange.principal.key.as_ref()) {
            return Woken::Abort(fault);
        }
        let woken = tokio::select! {
            biased;
            arrived = self.step() => Woken::Upstream(arrived),
            () = timer.as_mut() => Woken::Timer,
            fault = aborted(&mut abort, exchange.principal.key.as_ref()) => Woken::Abort(fault),
        };
        self.timer = Some(timer);
        self.abort = Some(abort);
        woken
    }

    /// When silence next means something.
    fn next_tick(&self, exchange: &Exchange) -> Instant {
        let limits = exchange.pool.config.timeouts;
        let comment = self.clock.sent + limits.keep_alive;
        comment.min(self.silence_limit(exchange)).min(self.clock.total)
    }

    /// Until when the upstream must say something: its first output, or its next byte.
    fn silence_limit(&self, exchange: &Exchange) -> Instant {
        if exchange.state().first_token.is_none() {
            return self.clock.first_byte;
        }
        self.clock.heard + exchange.pool.config.timeouts.between_bytes
    }

    fn on_timer(&mut self, exchange: &Exchange) -> Tick {
        let now = Instant::now();
        let tick = if now >= self.clock.total {
            Tick::Over(Fault::Total)
        } else if now >= self.silence_limit(exchange) {
            Tick::Over(if exchange.state().first_token.is_none() { Fault::FirstByte } else { Fault::Idle })
        } else if now >= self.clock.sent + exchange.pool.config.timeouts.keep_alive {
            self.clock.sent = now;
            Tick::KeepAlive
        } else {
            Tick::Nothing
        };
        let due = self.next_tick(exchange);
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(due);
        }
        tick
    }

    /// The upstream's head came after the client had been shown one of ours.
    fn late_head(&mut self, exchange: &Exchange) -> Option<Fault> {
        self.clock.heard = Instant::now();
        let head = self.stock.response_header()?;
        let status = head.status.as_u16();
        let events = head.headers.get("content-type").is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
        if !(200..300).contains(&status) {
            exchange.state().upstream_status = Some(status);
            return Some(Fault::Status(status));
        }
        meter::begin(exchange, status, events);
        (!events).then_some(Fault::Malformed)
    }

    /// Whole events of a piece, ready to go; `None` if there are none yet.
    async fn events_out(&mut self, exchange: &Exchange, piece: Bytes) -> Option<Bytes> {
        self.clock.heard = Instant::now();
        let step = meter::piece(exchange, piece);
        if step.error {
            let last = self.interrupt(exchange, Fault::ErrorEvent).await;
            if step.out.is_empty() {
                return Some(last);
            }
            self.ready.push_back(last);
            return Some(step.out);
        }
        if step.terminal {
            self.conclude(exchange, step.out).await;
            return self.ready.pop_front();
        }
        if step.out.is_empty() {
            return None;
        }
        meter::delivered(exchange, step.out.len());
        if let Some(fault) = meter::account(exchange) {
            let last = self.interrupt(exchange, fault).await;
            self.ready.push_back(last);
        }
        Some(step.out)
    }

    /// The upstream's body ended. Without its terminal event that is an interruption, however clean it looks: the
    /// clients' libraries take a bare end for success.
    async fn end_of_stream(&mut self, exchange: &Exchange) -> Bytes {
        let step = meter::finish(exchange);
        self.clean = true;
        if step.terminal {
            self.conclude(exchange, step.out).await;
            self.ended = true;
            return self.ready.pop_front().unwrap_or_default();
        }
        if !step.out.is_empty() {
            meter::delivered(exchange, step.out.len());
            let last = self.interrupt(exchange, Fault::Eof).await;
            self.ready.push_back(last);
            return step.out;
        }
        self.interrupt(exchange, Fault::Eof).await
    }

    /// The bytes with the terminal event: they leave once the usage record is written.
    pub(super) async fn conclude(&mut self, exchange: &Exchange, out: Bytes) {
        let out = meter::last_words(exchange, out);
        meter::delivered(exchange, out.len());
        settle(exchange, Ending::Completed).await;
        self.ready.push_back(out);
        self.concluded = true;
    }

    /// The terminal error event; an incomplete tail of the upstream's is dropped.
    async fn interrupt(&mut self, exchange: &Exchange, fault: Fault) -> Bytes {
        let event = meter::interruption(exchange, fault);
        meter::delivered(exchange, event.len());
        settle(exchange, Ending::FailedAfter(fault)).await;
        self.ended = true;
        event
    }

    /// Behind the terminal event only the end of the body is awaited, and not for long.
    async fn read_tail(&mut self) {
        self.ended = true;
        if self.clean {
            return;
        }
        let end = async {
            loop {
                match self.step().await {
                    Ok(Arrived::End) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        self.clean = timeout(TAIL_PATIENCE, end).await.unwrap_or(false);
    }

    /// The next piece of a JSON answer. The last one waits for the record: with a known length the client is done
    /// as soon as it has it.
    async fn next_of_document(&mut self, exchange: &Exchange) -> Result<Option<Bytes>> {
        loop {
            match self.wake_document(exchange).await? {
                Arrived::Head => {}
                Arrived::Piece(piece) => {
                    self.clock.heard = Instant::now();
                    meter::document(exchange, &piece);
                    if let Some(before) = self.last_piece.replace(piece) {
                        meter::delivered(exchange, before.len());
                        return Ok(Some(before));
                    }
                }
                Arrived::End => {
                    self.clean = true;
                    self.ended = true;
                    let last = self.last_piece.take();
                    meter::delivered(exchange, last.as_ref().map_or(0, Bytes::len));
                    settle(exchange, Ending::Completed).await;
                    return Ok(last);
                }
            }
        }
    }

    async fn wake_document(&mut self, exchange: &Exchange) -> Result<Arrived> {
        let deadline = (self.clock.heard + exchange.pool.config.timeouts.between_bytes).min(self.clock.total);
        let fault = if deadline == self.clock.total { Fault::Total } else { Fault::Idle };
        self.guarded(deadline).await.unwrap_or_else(|| broken(fault))
    }
}

/// Settles and waits until the record is written. Boxed where it waits: a record is large, and the future that would
/// hold it lives as long as the stream.
async fn settle(exchange: &Exchange, ending: Ending) {
    let receipt = settle::settle(exchange, &ending);
    Box::pin(settle::written(receipt)).await;
}

/// What a fired timer means.
enum Tick {
    Nothing,
    KeepAlive,
    Over(Fault),
}
