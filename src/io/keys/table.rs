//! One snapshot of the keys, never changed after it is made. Decides how the next one comes out of what the store
//! says: a key that was once seen revoked stays revoked, and what has not changed is shared.

use super::entry::{Entry, NEVER, Proof, Secret, Standing};
use super::shard::{Hash, MAX_STUBS, Shard};
use crate::domain::principal::{Principal, Profile};
use crate::domain::units::WallMicros;
use crate::io::store::error::MAX_KEYS;
use crate::logic::access::api_key::IdBytes;
use crate::logic::access::digest::{self, DIGEST_LEN, Digest, Pepper};
use crate::ports::Rejection;
use rustc_hash::FxHashSet;
use std::sync::Arc;

/// Parts of a snapshot: a change copies one of them, about a thousand keys of a million. A power of two.
const SHARDS: usize = 1024;

/// A snapshot.
pub(super) struct Table {
    shards: Box<[Arc<Shard>]>,
    /// Stands in for an id in an empty shard.
    stranger: Entry,
    seed: u64,
    keys: usize,
    plain: usize,
}

/// Who compares: an authenticator's pepper and its number in [`super::entry::Kind::Peppered`].
pub(super) struct Asker {
    pub pepper: Pepper,
    pub number: u8,
}

/// What a presented key came to.
pub(super) struct Answer {
    /// Its HMAC: names it in the cache of refusals.
    pub digest: Digest,
    pub verdict: Result<Principal, Rejection>,
}

/// There are more keys than a proxy may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooMany;

impl Table {
    /// No keys. The seed is drawn once per process.
    pub(super) fn empty(seed: u64) -> Self {
        let stranger = Entry {
            id: Default::default(),
            // Even a digest that fitted would open nothing.
            standing: Standing::Cut,
            newest: Secret::NOTHING,
            older: None,
            expires_at: NEVER,
            profile: Arc::new(Profile::of("default".into())),
        };
        let shards = (0..SHARDS).map(|_| Arc::default()).collect();
        Self { shards, stranger, seed, keys: 0, plain: 0 }
    }

    /// How many keys there are.
    pub(super) fn keys(&self) -> usize {
        self.keys
    }

    /// How many keys have a secret under a pepper that nobody has.
    pub(super) fn foreign(&self) -> usize {
        self.shards.iter().map(|shard| shard.foreign()).sum()
    }

    /// True if any key is kept as its plain SHA-256: those may be of any form.
    pub(super) fn has_plain(&self) -> bool {
        self.plain > 0
    }

    /// Whom a key belongs to, by the id in it or, where there is none in it, by that of its hash.
    pub(super) fn authenticate(&self, asker: &Asker, id: &IdBytes, presented: &[u8], now: WallMicros) -> Answer {
        let proof = Proof {
            pepper: asker.number,
            peppered: asker.pepper.digest(presented),
            // For every id alike, or the time would tell which keys were imported.
            plain: if self.plain > 0 { digest::plain(presented) } else { Digest([0; DIGEST_LEN]) },
        };
        let hash = Hash::of(id, self.seed);
        let found = self.shards.get(hash.shard(SHARDS)).and_then(|shard| shard.find(id, hash));
        let (entry, known) = found.map_or((&self.stranger, false), |found| (found.entry, found.known));
        Answer { verdict: entry.judge(known, &proof, now), digest: proof.peppered }
    }

    /// The snapshot in which these keys are revoked, whether they are known or not.
    pub(super) fn revoke(&self, ids: impl Iterator<Item = IdBytes>) -> Result<Turn, TooMany> {
        let mut draft = Draft::new(self);
        for id in ids {
            let hash = Hash::of(&id, self.seed);
            let known = self.shards.get(hash.shard(SHARDS)).and_then(|shard| shard.get(&id, hash));
            if known.is_none_or(|entry| !entry.standing.is_revoked()) {
                let entry = known.unwrap_or(&self.stranger).stub();
                draft.put(Entry { id, standing: Standing::Revoked, ..entry })?;
            }
        }
        draft.turn(self, Rest::Stays, &mut || ())
    }

    /// Lets go of a snapshot that nobody uses, one part after the other, with `breathe` between them.
    pub(super) fn dissolve(self, breathe: &mut dyn FnMut()) {
        for shard in self.shards {
            drop(shard);
            breathe();
        }
    }

    fn of(shards: Box<[Arc<Shard>]>, old: &Self) -> Result<Self, TooMany> {
        let keys = shards.iter().map(|shard| shard.entries().len()).sum();
        // A key that the store has no longer takes no other key's place.
        let stubs = shards.iter().map(|shard| shard.stubs()).sum();
        if !fit(keys, stubs) {
            return Err(TooMany);
        }
        let plain = shards.iter().map(|shard| shard.plain()).sum();
        Ok(Self { shards, stranger: old.stranger.clone(), seed: old.seed, keys, plain })
    }
}

/// True where a snapshot may hold so many entries, of which so many are stubs.
fn fit(entries: usize, stubs: usize) -> bool {
    stubs <= MAX_STUBS && entries.saturating_sub(stubs) <= MAX_KEYS
}

/// What the store said, on its way into the next snapshot.
pub(super) struct Draft {
    entries: Box<[Vec<Entry>]>,
    gone: Box<[Vec<IdBytes>]>,
    seed: u64,
    count: usize,
}

/// The next snapshot.
pub(super) struct Turn {
    pub table: Table,
    /// Keys whose open streams must end, and did not have to before.
    pub cut: Vec<IdBytes>,
    /// Keys that the store no longer says to be revoked. They stay so.
    pub defended: Vec<IdBytes>,
}

impl Draft {
    /// Nothing said yet; of the same seed as the table that it will follow.
    pub(super) fn new(old: &Table) -> Self {
        let (entries, gone) = ((0..SHARDS).map(|_| Vec::new()), (0..SHARDS).map(|_| Vec::new()));
        Self { entries: entries.collect(), gone: gone.collect(), seed: old.seed, count: 0 }
    }

    /// A key as it is now; said once for each key.
    pub(super) fn put(&mut self, entry: Entry) -> Result<(), TooMany> {
        self.count += 1;
        if self.count > MAX_KEYS {
            return Err(TooMany);
        }
        let at = Hash::of(&entry.id, self.seed).shard(SHARDS);
        if let Some(part) = self.entries.get_mut(at) {
            part.push(entry);
        }
        Ok(())
    }

    /// A key that is no more.
    pub(super) fn forget(&mut self, id: IdBytes) {
        if let Some(part) = self.gone.get_mut(Hash::of(&id, self.seed).shard(SHARDS)) {
            part.push(id);
        }
    }

    /// The next snapshot, with `breathe` between its parts.
    pub(super) fn turn(self, old: &Table, rest: Rest, breathe: &mut dyn FnMut()) -> Result<Turn, TooMany> {
        let mut seen = Seen::default();
        let parts = old.shards.iter().zip(self.entries).zip(self.gone);
        let shards = parts.map(|((before, entries), gone)| {
            if rest == Rest::Stays && entries.is_empty() && gone.is_empty() {
                return Arc::clone(before);
            }
            breathe();
            let step = Step { before, rest, seed: old.seed };
            Arc::new(Shard::new(step.merge(entries, gone, &mut seen), old.seed))
        });
        let table = Table::of(shards.collect(), old)?;
        Ok(Turn { table, cut: seen.cut, defended: seen.defended })
    }
}

/// What becomes of keys of which nothing was said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    /// The store has said what changed.
    Stays,
    /// The store has said all there is.
    Gone,
}

#[derive(Default)]
struct Seen {
    cut: Vec<IdBytes>,
    defended: Vec<IdBytes>,
}

/// One part of the step from a snapshot to the next.
struct Step<'o> {
    before: &'o Shard,
    rest: Rest,
    seed: u64,
}

impl Step<'_> {
    /// What is in the part now.
    fn merge(&self, mut entries: Vec<Entry>, gone: Vec<IdBytes>, seen: &mut Seen) -> Vec<Entry> {
        for entry in &mut entries {
            self.defend(entry, seen);
        }
        let said: FxHashSet<IdBytes> = entries.iter().map(|entry| entry.id).collect();
        let gone: FxHashSet<IdBytes> = gone.into_iter().collect();
        for entry in self.before.entries().iter().filter(|entry| !said.contains(&entry.id)) {
            if self.rest == Rest::Stays && !gone.contains(&entry.id) {
                entries.push(entry.clone());
            } else if entry.standing.is_revoked() {
                // What is left is enough to know it again, should the store bring it back.
                entries.push(entry.stub());
            }
        }
        entries
    }

    /// Once revoked, a key's standing only gets worse.
    fn defend(&self, entry: &mut Entry, seen: &mut Seen) {
        let was = self.before.get(&entry.id, Hash::of(&entry.id, self.seed));
        let was = was.map_or(Standing::Active, |was| was.standing);
        if was.is_revoked() && entry.standing < was {
            if !entry.standing.is_revoked() {
                seen.defended.push(entry.id);
            }
            entry.standing = was;
        }
        if entry.standing == Standing::Cut && was != Standing::Cut {
            seen.cut.push(entry.id);
        }
    }
}

#[cfg(test)]
mod tests;
