//! What accounts begin with that nobody knows, and what others may see of the books: between the desks on one side, the
//! usage rows and the reconciler on the other. Decides nothing; `seed` and `reconcile` do.

use super::Quota;
use super::accounts::{Books, OpenAccount};
use super::desk::{Desk, Hall};
use super::ledgers::{AccountRows, Group, LedgerFault};
use super::seed::{Seed, Seeder};
use crate::domain::limit::Dimension;
use crate::logic::quota::lease::Lease;
use crate::logic::quota::ledger::{Correction, Kind};
use crate::logic::quota::period::{Now, bucket_ms, capacity};
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Questions to the rows at once, from here.
const AT_ONCE: usize = 4;
/// Between two tries of one that was not answered.
const AGAIN: Duration = Duration::from_secs(1);

/// An account to be seeded, and where.
type Errand = (Arc<Desk>, Arc<str>);

/// Asks the rows for all accounts whose beginning nobody knows: some at once, and as each is answered the next.
pub async fn seed_all(hall: Arc<Hall>) {
    let seeder = Seeder::new(hall.rows.clone(), hall.nudge.clone());
    let (mut waiting, mut failed) = (VecDeque::new(), Vec::new());
    let mut asked = FuturesUnordered::new();
    let mut again = Instant::now();
    loop {
        waiting.extend(hall.errands.seeds.lock().drain(..));
        let free = AT_ONCE.saturating_sub(asked.len()).min(waiting.len());
        asked.extend(waiting.drain(..free).map(|errand| seed(&hall, &seeder, errand)));
        tokio::select! {
            () = hall.errands.seeding.notified() => {}
            Some(answer) = asked.next() => if let Err(failure) = answer {
                if failed.is_empty() {
                    again = Instant::now() + AGAIN;
                }
                failed.push(failure);
            },
            () = tokio::time::sleep_until(again), if !failed.is_empty() => {
                let error = failed.first().map(|(_, error)| error.as_str()).unwrap_or_default();
                tracing::warn!(accounts = failed.len(), %error, "It is not known what limits begin with; asked again.");
                waiting.extend(failed.drain(..).map(|(errand, _)| errand));
            }
        }
    }
}

/// One errand; gives it back, and why, if it did not work.
async fn seed(hall: &Hall, seeder: &Seeder, (desk, account): Errand) -> Result<(), (Errand, String)> {
    let open = {
        let mut book = desk.book.lock();
        let now = book.now(hall.moment());
        book.named(&account).map(|lease| (open(&desk.group, lease, &now), lease.rule.when.is_none()))
    };
    let Some((open, rows_tell)) = open else { return Ok(()) };
    let seed = if rows_tell {
        seeder.seed(&open, hall.moment().wall.0.div_euclid(1_000)).await
    } else {
        // No row tells whether a condition held.
        Ok(Seed::default())
    };
    let seed = match seed {
        Ok(seed) => seed,
        Err(error) => return Err(((desk, account), error)),
    };
    if let Err(fault) = correct(hall, &desk.group, &seed.parts).await {
        return Err(((desk, account), fault.to_string()));
    }
    let mut book = desk.book.lock();
    if hall.ledgers.is_some() {
        let now = book.now(hall.moment());
        let is_bucket = matches!(open.kind, Kind::Bucket { .. });
        book.seed(&account, seed.level, is_bucket && rows_tell && hall.rows.is_some(), &now);
        drop(book);
        desk.enlist();
    } else {
        book.begun(&account);
        let spent = book.take_spent();
        drop(book);
        desk.tell_spent(&spent);
    }
    Ok(())
}

async fn correct(hall: &Hall, group: &Group, corrections: &[Correction]) -> Result<Vec<i64>, LedgerFault> {
    if corrections.is_empty() {
        return Ok(Vec::new());
    }
    let told = match &hall.ledgers {
        Some(ledgers) => Some(ledgers.correct(group, corrections).await?),
        None => None,
    };
    let Some(desk) = hall.known(group) else { return Ok(told.unwrap_or_else(|| vec![0; corrections.len()])) };
    let mut book = desk.book.lock();
    let now = book.now(hall.moment());
    let mut apply = |correction: &Correction| {
        let is_own = correction.replica == hall.replica;
        let lease = book.named(&correction.account).filter(|_| is_own || hall.ledgers.is_none())?;
        lease.advance(&now);
        let (replica, total) = (&correction.replica, correction.total);
        let is_it = lease.period() == correction.period;
        is_it.then(|| if is_own { lease.own(total) } else { lease.correct(replica, total) })
    };
    let mut changes = told.unwrap_or_else(|| vec![0; corrections.len()]);
    for (correction, change) in corrections.iter().zip(&mut changes) {
        *change = apply(correction).unwrap_or(*change);
    }
    Ok(changes)
}

fn open(group: &Group, lease: &mut Lease, now: &Now) -> OpenAccount {
    lease.advance(now);
    let tenant = match group {
        Group::Tenant(tenant) => Some(tenant.clone()),
        Group::Shared => None,
    };
    let rule = &lease.rule;
    let rows = AccountRows { tenant, scope: lease.scope.clone(), dimension: rule.dimension, model: rule.model.clone() };
    OpenAccount {
        group: group.clone(),
        account: Arc::clone(&lease.account),
        rows,
        kind: lease.kind(now),
        capacity: capacity(rule),
        period: lease.period(),
        committed: lease.committed(),
        total: lease.total(),
    }
}

#[async_trait]
impl Books for Quota {
    fn calendars(&self) -> Vec<OpenAccount> {
        let at = self.hall.moment();
        let mut all = Vec::new();
        for desk in self.hall.all() {
            let mut book = desk.book.lock();
            let now = book.now(at);
            let calendars = book.leases().filter(|lease| {
                let rule = &lease.rule;
                rule.dimension != Dimension::Concurrency && bucket_ms(rule.window).is_none() && rule.when.is_none()
            });
            all.extend(calendars.map(|lease| open(&desk.group, lease, &now)));
        }
        all
    }

    fn groups(&self) -> Vec<Group> {
        self.hall.groups()
    }

    async fn correct(&self, group: &Group, corrections: &[Correction]) -> Result<Vec<i64>, LedgerFault> {
        correct(&self.hall, group, corrections).await
    }

    fn restate(&self) {
        self.hall.errands.lost.store(true, Ordering::Release);
    }
}
