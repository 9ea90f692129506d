//! What an account begins with where the ledger does not know it ([`Reply::fresh`](crate::logic::quota::ledger::Reply)).
//! Decides that from usage rows: a calendar's past process by process, a bucket's level by playing its last minutes
//! again. Rules with a condition (`when`) cannot be told from rows; they begin at 0, as everything does without rows.

use super::accounts::OpenAccount;
use super::ledgers::{Group, RowTotal, UsageRows};
use super::nudge::Nudge;
use crate::logic::quota::drain::Rate;
use crate::logic::quota::drift::{self, Look};
use crate::logic::quota::ledger::{Correction, Kind};
use crate::logic::quota::replay::level_after;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// For how long an answer of the rows is used again: replicas of accounts ask at once after a ledger was lost.
pub const KEPT: Duration = Duration::from_secs(5);
/// For how long rows that could not be asked are left alone.
pub const FAILED_FOR: Duration = Duration::from_secs(1);
/// Answers that are kept; with more accounts than that at once, the rows are asked again for some of them.
const ANSWERS_MAX: usize = 4_096;
/// Longest past of a bucket that is played again: one that takes longer to drain begins lower than it was.
const REPLAY_MAX_MS: u64 = 86_400_000;

/// What an account begins with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seed {
    /// For the statement's `seed`: a bucket's level; 0 for a calendar, whose past is in `parts`.
    pub level: u64,
    /// What each process has committed in the calendar's period: to be told to the ledger in one `correct`, before the
    /// statement, so that nothing is granted out of a counter that is too low. The parts of processes that live are
    /// included: each takes its own back with its next statement.
    pub parts: Vec<Correction>,
}

/// Asks the rows what accounts begin with; each account's rows once at a time.
pub struct Seeder {
    rows: Option<Arc<dyn UsageRows>>,
    nudge: Nudge,
    answers: Mutex<HashMap<Question, Arc<Answer>>>,
}

/// Account and period; a bucket has none.
type Question = (Group, Arc<str>, Option<i64>);

/// What the rows said, or will say when they are asked.
#[derive(Default)]
struct Answer(OnceCell<(Instant, Result<Said, String>)>);

#[derive(Clone)]
enum Said {
    Totals(Arc<[RowTotal]>),
    Recent(Arc<[(i64, u64)]>),
}

impl Answer {
    /// True while it is still to come, or young enough.
    fn holds(&self) -> bool {
        self.0.get().is_none_or(|(at, said)| at.elapsed() < if said.is_ok() { KEPT } else { FAILED_FOR })
    }
}

impl Seeder {
    /// Without rows everything begins at 0. Each seed of a calendar `nudge`s the reconciler: rows that were on their way
    /// are corrected soon after.
    #[must_use]
    pub fn new(rows: Option<Arc<dyn UsageRows>>, nudge: Nudge) -> Self {
        Self { rows, nudge, answers: Mutex::default() }
    }

    /// What an account begins with at an instant (ms since 1970). Takes as long as the rows take to answer.
    ///
    /// # Errors
    /// In words: the rows could not be asked. What happens then is the rule's `on_store_error`.
    pub async fn seed(&self, account: &OpenAccount, now_ms: i64) -> Result<Seed, String> {
        let Some(rows) = &self.rows else { return Ok(Seed::default()) };
        let rate = match account.kind {
            Kind::Slots => return Ok(Seed::default()),
            Kind::Bucket { limit, window_ms } => Some(Rate::new(limit, window_ms)),
            Kind::Calendar { .. } => None,
        };
        let question = (account.group.clone(), account.account.clone(), rate.is_none().then_some(account.period));
        let answer = self.answer(question);
        let asked = answer.0.get_or_init(|| async {
            let said = match rate {
                Some(rate) => {
                    let past = rate.time_bound(account.capacity).min(REPLAY_MAX_MS);
                    let from = now_ms.saturating_sub_unsigned(past);
                    rows.recent(&account.rows, from).await.map(|uses| Said::Recent(uses.into()))
                }
                None => rows.totals(&account.rows, account.period).await.map(|sums| Said::Totals(sums.into())),
            };
            (Instant::now(), said)
        });
        match (asked.await.1.clone()?, rate) {
            (Said::Recent(uses), Some(rate)) => Ok(Seed { level: level_after(&uses, rate, now_ms), parts: Vec::new() }),
            (Said::Totals(totals), _) => {
                self.nudge.about(&account.group, &account.account);
                Ok(Seed { level: 0, parts: parts(account, &totals) })
            }
            (Said::Recent(_), None) => Ok(Seed::default()),
        }
    }

    fn answer(&self, question: Question) -> Arc<Answer> {
        let mut answers = self.answers.lock();
        if let Some(known) = answers.get(&question).filter(|known| known.holds()) {
            return Arc::clone(known);
        }
        if answers.len() >= ANSWERS_MAX {
            answers.retain(|_, answer| answer.holds());
        }
        let answer = Arc::new(Answer::default());
        if answers.len() < ANSWERS_MAX {
            answers.insert(question, Arc::clone(&answer));
        }
        answer
    }
}

fn parts(account: &OpenAccount, totals: &[RowTotal]) -> Vec<Correction> {
    let look = look(account.period, totals);
    let starts = match account.kind {
        Kind::Calendar { starts } => Some(starts),
        Kind::Bucket { .. } | Kind::Slots => None,
    };
    let told = drift::parts(&look).into_iter().map(|part| part.correction(&account.account, account.period));
    told.map(|correction| Correction { starts, ..correction }).collect()
}

/// What rows say, as the comparison wants it.
pub(super) fn look(period: i64, totals: &[RowTotal]) -> Look {
    let mut parts: Vec<_> = totals.iter().map(|sum| (Arc::clone(&sum.proxy_id), sum.total)).collect();
    parts.sort_unstable();
    Look { period, parts }
}

#[cfg(test)]
mod tests;
