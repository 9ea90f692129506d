//! Finds out that the shared ledger was away, or has lost what it knew: a name that was put there for a day is gone. It
//! decides only that; a false alarm costs one comparison.

use crate::io::quota::accounts::Books;
use crate::io::quota::ledgers::{Group, Ledgers};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often names are looked for.
const EVERY: Duration = Duration::from_secs(5);
/// For how long a name is put there.
const TTL: Duration = Duration::from_secs(86_400);
/// Groups that are looked at each time, in turn: in a cluster each may live on another node.
const GROUPS_AT_ONCE: usize = 8;

/// The names that were put there.
#[derive(Debug)]
pub struct Canary {
    name: String,
    replica: Arc<str>,
    known: HashSet<Group>,
    /// Of those, the ones of which a question was not answered: the name may have been put there anew by it.
    doubtful: HashSet<Group>,
    turn: usize,
    /// It has been up before, and is not any more.
    away: bool,
    has_been_up: bool,
    next: Option<Instant>,
}

impl Canary {
    /// No name is there yet.
    pub fn new(replica: &Arc<str>) -> Self {
        let name = format!("seen.{replica}");
        Self {
            name,
            replica: Arc::clone(replica),
            known: HashSet::new(),
            doubtful: HashSet::new(),
            turn: 0,
            away: false,
            has_been_up: false,
            next: None,
        }
    }

    /// True if the ledger is back, or a name is gone.
    pub async fn finds_loss(&mut self, ledgers: &dyn Ledgers, books: &dyn Books) -> bool {
        let up = ledgers.is_up();
        self.has_been_up |= up;
        let was_away = std::mem::replace(&mut self.away, self.has_been_up && !up);
        let is_back = up && was_away;
        let due = self.next.is_none_or(|next| next <= Instant::now());
        if !up || !due {
            return is_back;
        }
        self.next = Some(Instant::now() + EVERY);
        let mut there = HashSet::new();
        let mut gone = false;
        for group in self.groups(books) {
            let Ok(new) = ledgers.claim(&group, &self.name, &self.replica, TTL).await else {
                self.doubtful.insert(group);
                continue;
            };
            let doubtful = self.doubtful.remove(&group);
            gone |= (new || doubtful) && self.known.contains(&group);
            there.insert(group);
        }
        if gone {
            // The others' names are probably gone too; that is the same loss.
            self.known.clear();
            self.doubtful.clear();
        }
        self.known.extend(there);
        gone || is_back
    }

    /// Some of the groups that are in use.
    fn groups(&mut self, books: &dyn Books) -> Vec<Group> {
        let mut groups = books.groups();
        groups.sort_unstable_by(|one, other| key(one).cmp(key(other)));
        groups.dedup();
        self.known.retain(|group| groups.binary_search_by(|known| key(known).cmp(key(group))).is_ok());
        self.doubtful.retain(|group| self.known.contains(group));
        let count = groups.len();
        if count > 0 {
            groups.rotate_left(self.turn % count);
            self.turn = (self.turn + GROUPS_AT_ONCE) % count;
        }
        groups.truncate(GROUPS_AT_ONCE);
        groups
    }
}

fn key(group: &Group) -> &str {
    match group {
        Group::Tenant(tenant) => tenant.as_str(),
        Group::Shared => "",
    }
}
