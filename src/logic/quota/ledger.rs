//! The ledger that replicas share, as a pure model: what is committed to each account, and what each replica has out of
//! it (its leases and holds). The Lua script of `io/quota/redis` does the same arithmetic, and a test holds the two
//! together. It serves tests: a process that counts alone, and the share that a replica has while Redis is away, count by
//! `count` and `share`, out of the same `drain`.
//!
//! A replica never asks "may I?". It *states* what is so: all that it has committed so far (a running total, so that a
//! call that is repeated, or lost by a failover, heals by itself) and what it has out. Then it asks for units, which are
//! debited first and spent later: while the ledger keeps what was written, no sum of replicas can exceed a limit. A
//! replica that falls silent loses what it had out when its statement expires; what it had committed stays.
//!
//! Whole numbers below 2^53 only, since Lua has doubles; time in milliseconds of the ledger's own clock.

mod account;

use account::Account;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Statements in one call at most: a script that runs holds all others up. Callers split.
pub const MAX_STATEMENTS: usize = 64;
/// Corrections in one call at most: all that an account can remember of replicas that are gone.
pub const MAX_CORRECTIONS: usize = MAX_PAST;
/// Replicas of one account at most; of more, the one that expires first goes.
pub const MAX_REPLICAS: usize = 256;
/// Replicas that are gone and whose share of a period can still be corrected. What more of them have committed counts,
/// and stays as it is.
pub const MAX_PAST: usize = 512;
/// The longest time that a statement may be good for: a day.
pub const MAX_TTL_MS: i64 = 86_400_000;

/// How an account counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Token bucket: size `capacity`, drained by `limit` per `window_ms`.
    Bucket {
        /// Units per window.
        limit: u64,
        /// 1 s, 1 min or 1 h.
        window_ms: u64,
    },
    /// Counter of a calendar period. `starts` are the beginnings (ms since 1970) of four periods one after the other:
    /// the one before the replica's own present, the present one and the two behind. The ledger's clock decides which
    /// of them is now; a clock outside of all takes the second. Prepaid credit: all four are its beginning.
    Calendar {
        /// Beginnings of periods, ascending.
        starts: [i64; 4],
    },
    /// Places that are taken and given back; nothing is ever committed.
    Slots,
}

/// What one replica states of one account, and asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// Which account: unique within its group; no spaces or control characters.
    pub account: Arc<str>,
    /// How it counts.
    pub kind: Kind,
    /// Most units: the bucket's size, the period's limit, the number of places.
    pub capacity: u64,
    /// All that this replica has committed: since it started, or within `period` where a calendar counts.
    pub total: i64,
    /// The total that the ledger has acknowledged last; it stands in where the ledger does not remember one (buckets).
    pub acked: i64,
    /// The beginning of the period that `total` belongs to; 0 where no calendar counts.
    pub period: i64,
    /// What it has out: leases and holds, without what `total` has just committed.
    pub outstanding: u64,
    /// Units without which nothing is granted: what the smallest waiting request lacks. 0: none are needed.
    pub least: u64,
    /// Units that are needed now by all waiting requests together, at least `least`.
    pub want: u64,
    /// Units beyond `want` that would be handy; granted up to a share of what is left then, in multiples of `least`.
    pub spare: u64,
    /// Units that must stay for others (requests of a higher priority).
    pub floor: u64,
    /// What the account begins with where the ledger does not know it; `None`: ask me ([`Reply::fresh`]). For calendars it
    /// is what no replica states and no [`Correction`] says: their shares are added to it.
    pub seed: Option<u64>,
}

/// A replica's call: statements of accounts of one group, applied in one step.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The replica's id: the usage records' `proxy_id`.
    pub replica: &'a str,
    /// How long what it has out counts without another statement.
    pub ttl_ms: i64,
    /// Live replicas as last seen, at least 1: the fewer, the larger the leases.
    pub replicas: u64,
    /// The accounts.
    pub statements: &'a [Statement],
}

/// How an account stands after a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reply {
    /// Units granted; they are out from here on.
    pub granted: u64,
    /// What is committed, all replicas together: a bucket's level, a period's sum.
    pub committed: u64,
    /// Buckets: what has drained of the next unit, in units / `window_ms`.
    pub drained: u64,
    /// What other live replicas have out.
    pub others: u64,
    /// Beginning of the period that counts now; 0 where no calendar counts.
    pub period: i64,
    /// The account was not known and no seed was given: nothing was stored or granted. Of the rest only `period` and
    /// `now_ms` are said.
    pub fresh: bool,
    /// A replica's statement has expired and was dropped in this call, with what it had out or with a share of the
    /// period: its last units may not have been stated.
    pub swept: bool,
    /// The ledger's clock.
    pub now_ms: i64,
}

/// The rows' word on a replica that is gone: what it has committed within a period. A replica that states again takes its
/// share over, so that all rows of an account that is not known can be told in this way, in one call, before anything is
/// granted: the live replicas' too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Correction {
    /// Which account; a calendar's. One that is not known is made.
    pub account: Arc<str>,
    /// The period that it is about; another one that counts by now is left alone.
    pub period: i64,
    /// The calendar that `period` is of, as in [`Kind::Calendar`], where an account that counts by another one is to
    /// begin anew; `None`: it is left alone.
    pub starts: Option<[i64; 4]>,
    /// The replica. One that is live and has stated something in this period is left alone: it knows better.
    pub replica: Arc<str>,
    /// What its rows say.
    pub total: u64,
}

/// The ledger in memory.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    buckets: Accounts,
    calendars: Accounts,
    slots: Accounts,
    /// When it was asked first: what is older than that it cannot know.
    epoch: Option<i64>,
}

type Accounts = FxHashMap<Arc<str>, Account>;

impl Ledger {
    /// Applies statements in their order; a reply for each.
    pub fn state(&mut self, call: &Call<'_>, now_ms: i64) -> Vec<Reply> {
        let epoch = *self.epoch.get_or_insert(now_ms);
        let known_ms = u64::try_from(now_ms.saturating_sub(epoch)).unwrap_or(0);
        let mut apply = |statement: &Statement| {
            let known = self.account(statement, now_ms, known_ms);
            known.map_or_else(|| fresh(statement, now_ms), |account| account.apply(call, statement, now_ms))
        };
        call.statements.iter().map(&mut apply).collect()
    }

    /// The account of a statement, brought to the present; `None`: nobody knows how it stands.
    fn account(&mut self, statement: &Statement, now_ms: i64, known_ms: u64) -> Option<&mut Account> {
        let accounts = match statement.kind {
            Kind::Bucket { .. } => &mut self.buckets,
            Kind::Calendar { .. } => &mut self.calendars,
            Kind::Slots => &mut self.slots,
        };
        if !accounts.contains_key(&statement.account) {
            accounts.insert(statement.account.clone(), Account::open(statement, now_ms, known_ms)?);
        }
        accounts.get_mut(&statement.account).and_then(|account| account.advance(statement, now_ms).then_some(account))
    }

    /// Takes the rows' word on replicas that are gone. Gives, for each correction, by how much the account's sum has
    /// changed.
    pub fn correct(&mut self, corrections: &[Correction], now_ms: i64) -> Vec<i64> {
        let mut apply = |correction: &Correction| {
            let new = || Account::from_rows(correction.period);
            self.calendars.entry(correction.account.clone()).or_insert_with(new).correct(correction, now_ms)
        };
        corrections.iter().map(&mut apply).collect()
    }

    /// Drops accounts that are as good as unused: a bucket that has drained, places nobody has, a period without use or
    /// that is over.
    pub fn prune(&mut self, now_ms: i64) {
        for accounts in [&mut self.buckets, &mut self.calendars, &mut self.slots] {
            accounts.retain(|_, account| !account.is_idle(now_ms));
        }
    }

    /// Accounts that it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.len() + self.calendars.len() + self.slots.len()
    }

    /// True where it knows none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn fresh(statement: &Statement, now_ms: i64) -> Reply {
    let period = match statement.kind {
        Kind::Calendar { starts } => account::period_at(&starts, now_ms),
        Kind::Bucket { .. } | Kind::Slots => 0,
    };
    Reply { fresh: true, period, now_ms, ..Reply::default() }
}

#[cfg(test)]
mod tests;
