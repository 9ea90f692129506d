//! Tells a webhook when budgets are nearly or wholly spent. Decides that each share of a budget is told of once in a
//! period by this process; replicas agree by claims on the limit store, and receivers tell repeats by the event's id.
//!
//! A restart forgets what was told: where no limit store remembers it, the same events come again, with the same ids.

mod deliver;
pub mod pace;
mod queue;
mod signature;
#[cfg(test)]
mod tests;

pub use deliver::Counts;

use crate::config::snapshot::AlertHook;
use crate::domain::ids::TenantId;
use crate::domain::limit::Scope;
use crate::io::fetch::Fetch;
use crate::io::quota::ledgers::Ledgers;
use crate::logic::quota::alert::{Alert, Shares, crossed};
use crate::ports::{Clock, SpendWatch, Spending};
use dashmap::DashMap;
use deliver::{Courier, Receiver};
use pace::Pace;
use queue::{Queue, Waiting};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use url::Url;

/// Budgets that are remembered as told of, at about 200 bytes each. Beyond it all are forgotten, and events that were
/// delivered already may be sent again.
const MAX_TOLD: usize = 65_536;

/// What alerts need of the process.
pub struct Surroundings {
    /// The client.
    pub fetch: Fetch,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Where replicas agree who delivers; `None`: there is one.
    pub ledgers: Option<Arc<dyn Ledgers>>,
    /// This replica's id.
    pub replica: Arc<str>,
    /// `weir_alerts_total`.
    pub counts: Counts,
    /// Where alerts are delivered: time and I/O enabled.
    pub runtime: Handle,
}

/// The webhook's address is no URL. Does not repeat it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("limits.alerts: the webhook's url is none that can be used")]
pub struct NoUrl;

/// A budget: the tenant that pays, where it counts, which rule.
type Account = (Option<TenantId>, Scope, Arc<str>);

/// What was told of a budget.
#[derive(Clone, Copy, Debug)]
struct Told {
    period: i64,
    limit: u64,
    shares: Shares,
}

/// Watches spending, and tells the webhook. Ends its deliveries when it is dropped.
pub struct Alerts {
    told: DashMap<Account, Told>,
    courier: Arc<Courier>,
    task: JoinHandle<()>,
}

impl Alerts {
    /// Starts to deliver to a webhook.
    ///
    /// # Errors
    /// [`NoUrl`].
    pub fn start(hook: &AlertHook, around: Surroundings) -> Result<Arc<Self>, NoUrl> {
        Self::start_paced(hook, around, Pace::DEFAULT)
    }

    /// The same with other times.
    ///
    /// # Errors
    /// [`NoUrl`].
    pub fn start_paced(hook: &AlertHook, around: Surroundings, pace: Pace) -> Result<Arc<Self>, NoUrl> {
        let text = std::str::from_utf8(&hook.url.0).map_err(|_| NoUrl)?;
        let url = Url::parse(text.trim()).map_err(|_| NoUrl)?;
        // Within a claim there is time for a try, however long the configuration lets it take.
        let receiver = Receiver { url, secret: Arc::clone(&hook.secret.0), timeout: hook.timeout.min(pace.claim / 2) };
        let Surroundings { fetch, clock, ledgers, replica, counts, runtime } = around;
        let queue = Arc::new(Queue::default());
        let courier = Arc::new(Courier { queue, receiver, fetch, clock, ledgers, replica, counts, pace });
        let task = runtime.spawn(deliver::run(Arc::clone(&courier)));
        Ok(Arc::new(Self { told: DashMap::new(), courier, task }))
    }

    /// The shares that were not told of yet; from here on they were.
    fn news(&self, spending: &Spending<'_>, crossed: Shares) -> Shares {
        let account = (spending.tenant.cloned(), spending.scope.clone(), Arc::clone(&spending.rule.name));
        if self.told.len() >= MAX_TOLD && !self.told.contains_key(&account) {
            self.told.clear();
        }
        let fresh = Told { period: spending.period, limit: spending.rule.limit, shares: Shares::default() };
        let mut told = self.told.entry(account).or_insert(fresh);
        if told.period > spending.period {
            // A word from the past: its period was told of while it lasted.
            return Shares::default();
        }
        if (told.period, told.limit) != (fresh.period, fresh.limit) {
            *told = fresh;
        }
        let news = crossed.without(told.shares);
        told.shares = told.shares.and(news);
        news
    }
}

impl SpendWatch for Alerts {
    fn seen(&self, spending: &Spending<'_>) {
        let rule = spending.rule;
        let crossed = crossed(&rule.alert_at, rule.limit, spending.committed);
        if crossed.is_empty() {
            return;
        }
        for percent in self.news(spending, crossed).iter() {
            let alert = Alert {
                tenant: spending.tenant.cloned(),
                scope: spending.scope.clone(),
                rule: Arc::clone(&rule.name),
                percent,
                limit: rule.limit,
                spent: spending.committed,
                window: rule.window,
                period: spending.period,
                at: self.courier.clock.wall(),
            };
            self.courier.put(Waiting::new(alert, Instant::now()));
        }
    }
}

impl Drop for Alerts {
    fn drop(&mut self) {
        self.task.abort();
    }
}
