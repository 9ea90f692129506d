//! Delivers alerts: claims one among the replicas, posts it, and says that it is done. Decides by what it is told
//! which of these comes next; the times are `pace`'s.

use super::pace::{Pace, kept, left};
use super::queue::{Queue, Step, Waiting};
use super::signature::signature;
use crate::io::fetch::{Fetch, FetchError};
use crate::io::quota::ledgers::{Group, LedgerFault, Ledgers};
use crate::ports::Clock;
use http::{HeaderMap, HeaderValue};
use prometheus::IntCounter;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;
use zeroize::Zeroizing;

/// Deliveries at once: a receiver that is slow holds up no others for long.
const AT_ONCE: usize = 4;
/// How long nothing is due that is not waited for: a far end of a sleep.
const IDLE: Duration = Duration::from_secs(3_600);

/// `weir_alerts_total`, by result.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Accepted by the receiver.
    pub delivered: IntCounter,
    /// Tries that were not accepted.
    pub failed: IntCounter,
    /// Given up.
    pub dropped: IntCounter,
}

/// Whom alerts are sent to. `Debug` shows none of it: the address may hold a password.
pub(super) struct Receiver {
    pub url: Url,
    pub secret: Arc<Zeroizing<Vec<u8>>>,
    pub timeout: Duration,
}

/// What delivers.
pub(super) struct Courier {
    pub queue: Arc<Queue>,
    pub receiver: Receiver,
    pub fetch: Fetch,
    pub clock: Arc<dyn Clock>,
    /// Where replicas agree; `None`: there is one.
    pub ledgers: Option<Arc<dyn Ledgers>>,
    /// This replica's id.
    pub replica: Arc<str>,
    pub counts: Counts,
    pub pace: Pace,
}

/// Why a try came to nothing; names no address.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Fetch(#[from] FetchError),
    #[error("the answer was {0}")]
    Status(u16),
    #[error("it could not be signed")]
    Unsigned,
}

/// Delivers until it is dropped.
pub(super) async fn run(courier: Arc<Courier>) {
    let mut running = JoinSet::new();
    loop {
        while running.len() < AT_ONCE {
            let Some(due) = courier.queue.take_due(Instant::now()) else { break };
            let courier = Arc::clone(&courier);
            running.spawn(async move { courier.step(due).await });
        }
        let next = courier.queue.next_due().unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            () = courier.queue.changed() => {}
            Some(done) = running.join_next() => {
                if let Ok(Some(again)) = done {
                    courier.put(again);
                }
            }
            () = tokio::time::sleep_until(next), if running.len() < AT_ONCE => {}
        }
    }
}

impl Courier {
    /// Puts an alert into the queue; says so if another one had to go for it.
    pub fn put(&self, waiting: Waiting) {
        let Some(gone) = self.queue.put(waiting).filter(|gone| gone.step == Step::Deliver) else { return };
        self.give_up(&gone, "too many alerts wait");
    }

    /// Does what is next; gives the alert back where it is not done.
    async fn step(&self, waiting: Waiting) -> Option<Waiting> {
        let old = waiting.since.elapsed() >= self.pace.give_up;
        match waiting.step {
            Step::Deliver | Step::Watch => match self.claim(&waiting, self.pace.claim).await {
                Ok(true) if old => {
                    self.give_up(&waiting, "nobody took it for a day");
                    None
                }
                Ok(true) => self.post(waiting).await,
                // Whoever has it delivers it, or has done so.
                Ok(false) => (!old && !self.is_over(&waiting)).then(|| self.watch(waiting)),
                Err(_) if old => {
                    self.give_up(&waiting, "the limit store did not say for a day whose it is");
                    None
                }
                Err(_) if waiting.since.elapsed() < self.pace.patience => Some(self.again(waiting)),
                // Told twice, with one id, is better than not at all.
                Err(_) => self.post(waiting).await,
            },
            Step::Confirm => self.confirm(waiting).await,
        }
    }

    /// Takes an alert, or keeps one that is this replica's already.
    async fn claim(&self, waiting: &Waiting, ttl: Duration) -> Result<bool, LedgerFault> {
        let Some(ledgers) = &self.ledgers else { return Ok(true) };
        let group = waiting.alert.tenant.clone().map_or(Group::Shared, Group::Tenant);
        let (name, by) = (format!("alert:{}", waiting.alert.id()), &*self.replica);
        if ledgers.claim(&group, &name, by, ttl).await? {
            return Ok(true);
        }
        ledgers.renew(&group, &name, by, ttl).await
    }

    async fn post(&self, waiting: Waiting) -> Option<Waiting> {
        match self.try_post(&waiting).await {
            Ok(()) => {
                self.counts.delivered.inc();
                self.confirm(Waiting { step: Step::Confirm, tries: 0, ..waiting }).await
            }
            Err(error) => {
                self.counts.failed.inc();
                if waiting.tries == 0 {
                    tracing::warn!(alert = %waiting.alert.id(), %error, "An alert was not accepted; it is tried again.");
                }
                Some(self.again(Waiting { step: Step::Deliver, ..waiting }))
            }
        }
    }

    async fn try_post(&self, waiting: &Waiting) -> Result<(), Failed> {
        let body = waiting.alert.event().to_string().into_bytes();
        let headers = self.headers(&waiting.alert.id(), &body).ok_or(Failed::Unsigned)?;
        let receiver = &self.receiver;
        let status = self.fetch.post(&receiver.url, headers, body, receiver.timeout).await?;
        if (200..300).contains(&status) { Ok(()) } else { Err(Failed::Status(status)) }
    }

    fn headers(&self, id: &str, body: &[u8]) -> Option<HeaderMap> {
        let timestamp = (self.clock.wall().0 / 1_000_000).to_string();
        let signature = signature(&self.receiver.secret, &timestamp, body)?;
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in
            [("x-weir-event-id", id), ("x-weir-timestamp", &timestamp), ("x-weir-signature", &signature)]
        {
            headers.insert(name, HeaderValue::from_str(value).ok()?);
        }
        Some(headers)
    }

    /// Lets the other replicas know that it was delivered: the claim is kept to the end of the period.
    async fn confirm(&self, waiting: Waiting) -> Option<Waiting> {
        let alert = &waiting.alert;
        let kept = kept(alert.window, alert.period, self.clock.wall().0 / 1_000);
        let done = self.claim(&waiting, kept).await.is_ok();
        let old = waiting.since.elapsed() >= self.pace.give_up;
        (!done && !old).then(|| self.again(waiting))
    }

    /// True when the period is over: then nobody remembers any more who has delivered it.
    fn is_over(&self, waiting: &Waiting) -> bool {
        let alert = &waiting.alert;
        left(alert.window, alert.period, self.clock.wall().0 / 1_000).is_some_and(|left| left.is_zero())
    }

    fn again(&self, waiting: Waiting) -> Waiting {
        let tries = waiting.tries.saturating_add(1);
        Waiting { tries, due: Instant::now() + self.pace.wait(tries, fastrand::f64()), ..waiting }
    }

    fn watch(&self, waiting: Waiting) -> Waiting {
        let tries = if waiting.step == Step::Watch { waiting.tries.saturating_add(1) } else { 1 };
        let due = Instant::now() + self.pace.look_again(tries, fastrand::f64());
        Waiting { step: Step::Watch, tries, due, ..waiting }
    }

    fn give_up(&self, waiting: &Waiting, why: &'static str) {
        self.counts.dropped.inc();
        let alert = &waiting.alert;
        tracing::error!(
            alert = %alert.id(), tenant = ?alert.tenant, rule = %alert.rule, percent = alert.percent, why,
            "An alert is given up."
        );
    }
}
