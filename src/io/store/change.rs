//! What can be changed in a store. Decides which changes fit to what is there; whether the caller may make them, and
//! whether the names on them exist in the configuration, is the caller's.

mod budget;
mod rotation;
mod tenancy;

use super::audit::{Line, Log};
use super::error::{MAX_KEYS, MAX_TENANT_KEYS, StoreError};
use super::read::Reader;
pub use super::recall::Idempotency;
use super::rows::{Actor, KeyEdit, KeyStatus, NewKey, StoredKey, Streams};
use super::sql::Sql;
use super::{follow, keys, recall};
use crate::domain::ids::KeyId;
use crate::domain::units::WallMicros;

/// A change that is under way: its operations see what those before them have done.
pub struct Change<'a> {
    sql: &'a mut Sql,
    log: Log<'a>,
    now: WallMicros,
    /// The number of this change; every row that it touches carries it.
    epoch: i64,
    /// Something was written.
    wrote: bool,
    /// Keys that the store holds, once that was asked.
    have: Option<usize>,
    /// The tenant that a key was made for last, and how many it has.
    of_tenant: Option<(String, usize)>,
    /// Keys that were made.
    made: usize,
}

/// Counts the change, which makes the next one wait for this, and does it. Also says whether anything was written.
pub(super) fn run<T>(
    sql: &mut Sql,
    actor: &Actor,
    now: WallMicros,
    work: impl FnOnce(&mut Change<'_>) -> Result<T, StoreError>,
) -> (Result<T, StoreError>, bool) {
    let mut change = match begin(sql, actor, now) {
        Ok(change) => change,
        Err(error) => return (Err(error), false),
    };
    let done = work(&mut change).and_then(|value| change.end().map(|()| value));
    let wrote = change.wrote;
    (done, wrote)
}

fn begin<'a>(sql: &'a mut Sql, actor: &'a Actor, now: WallMicros) -> Result<Change<'a>, StoreError> {
    let epoch = follow::count(sql)?;
    let log = Log::open(sql, actor, now)?;
    Ok(Change { sql, log, now, epoch, wrote: false, have: None, of_tenant: None, made: 0 })
}

impl Change<'_> {
    /// Looks things up, as they are after the operations so far.
    #[must_use]
    pub fn read(&mut self) -> Reader<'_> {
        Reader { sql: self.sql }
    }

    /// Makes a key.
    ///
    /// # Errors
    /// A conflict where the id exists, or the tenant or the store is full.
    pub fn create_key(&mut self, key: &NewKey) -> Result<StoredKey, StoreError> {
        let have = match self.have {
            Some(have) => have,
            None => keys::count(self.sql)?,
        };
        self.have = Some(have + 1);
        if have >= MAX_KEYS {
            return Err(StoreError::TooManyKeys);
        }
        self.room_for_key(&key.tenant)?;
        let made = keys::insert(self.sql, key, self.now, self.epoch)?;
        let made = made.ok_or_else(|| StoreError::Conflict(format!("the key {} exists already", key.key_id)))?;
        self.made += 1;
        let (target, tenant) = (made.key_id.as_str(), Some(made.tenant.as_str()));
        let after = Some(keys::view(&made));
        self.write_down(&Line { action: "key.create", target, tenant, before: None, after })?;
        Ok(made)
    }

    /// Changes what is written on a key.
    ///
    /// # Errors
    /// Not found; a conflict where it was revoked.
    pub fn update_key(&mut self, key_id: &KeyId, edit: &KeyEdit) -> Result<StoredKey, StoreError> {
        let before = self.living(key_id)?;
        let mut after = before.clone();
        edit.apply(&mut after);
        if after == before {
            return Ok(before);
        }
        keys::write(self.sql, &after, self.epoch)?;
        self.logged("key.update", key_id, &before)
    }

    /// Ends a key for good, with all its generations. Revoking it again changes nothing, but that its streams may be
    /// asked to be cut too.
    ///
    /// # Errors
    /// Not found.
    pub fn revoke_key(&mut self, key_id: &KeyId, streams: Streams) -> Result<StoredKey, StoreError> {
        let before = self.existing(key_id)?;
        let cut = before.terminate_streams || streams == Streams::Terminate;
        if before.status == KeyStatus::Revoked && before.terminate_streams == cut {
            return Ok(before);
        }
        let after = StoredKey {
            status: KeyStatus::Revoked,
            terminate_streams: cut,
            revoked_at: before.revoked_at.or(Some(self.now)),
            ..before.clone()
        };
        keys::write(self.sql, &after, self.epoch)?;
        self.logged("key.revoke", key_id, &before)
    }

    /// Keeps the answer to a request, so that the same request gets it again for [`recall::KEPT`]. The answer must hold
    /// no plaintext of a key.
    ///
    /// # Errors
    /// A conflict where another answer is kept.
    pub fn remember(&mut self, what: &Idempotency<'_>, answer: &serde_json::Value) -> Result<(), StoreError> {
        self.wrote = true;
        recall::remember(self.sql, what, answer, self.now)
    }

    /// The answer that was given to the same request.
    ///
    /// # Errors
    /// A conflict where the same key came with another request.
    pub fn recall(&mut self, what: &Idempotency<'_>) -> Result<Option<serde_json::Value>, StoreError> {
        recall::recall(self.sql, what, self.now)
    }

    /// What is done once for all operations together.
    fn end(&mut self) -> Result<(), StoreError> {
        if self.made > 0 {
            keys::add_to_count(self.sql, self.made)?;
        }
        if self.wrote { follow::notify(self.sql, self.epoch) } else { Ok(()) }
    }

    /// Counts one more key of a tenant, once per change: an import makes many.
    fn room_for_key(&mut self, tenant: &str) -> Result<(), StoreError> {
        let have = match self.of_tenant.take() {
            Some((known, have)) if known == tenant => have,
            _ => keys::count_of(self.sql, tenant)?,
        };
        if have >= MAX_TENANT_KEYS {
            let what = format!("keys of the tenant `{tenant}`, revoked ones included");
            return Err(StoreError::Full { what, most: MAX_TENANT_KEYS });
        }
        self.of_tenant = Some((tenant.to_owned(), have + 1));
        Ok(())
    }

    fn existing(&mut self, key_id: &KeyId) -> Result<StoredKey, StoreError> {
        keys::one(self.sql, key_id.as_str())?
            .ok_or_else(|| StoreError::NotFound { what: "key", id: key_id.as_str().to_owned() })
    }

    /// A key that was not revoked: what was, is never changed again.
    fn living(&mut self, key_id: &KeyId) -> Result<StoredKey, StoreError> {
        let key = self.existing(key_id)?;
        if key.status == KeyStatus::Revoked {
            return Err(StoreError::Conflict(format!("the key {key_id} was revoked, for good: make a new one")));
        }
        Ok(key)
    }

    /// Writes down what was done, and gives what is there now.
    fn logged(&mut self, action: &str, key_id: &KeyId, before: &StoredKey) -> Result<StoredKey, StoreError> {
        let after = self.existing(key_id)?;
        let (was, is) = (Some(keys::view(before)), Some(keys::view(&after)));
        let (target, tenant) = (key_id.as_str(), Some(after.tenant.as_str()));
        self.write_down(&Line { action, target, tenant, before: was, after: is })?;
        Ok(after)
    }

    fn write_down(&mut self, line: &Line<'_>) -> Result<(), StoreError> {
        self.wrote = true;
        self.log.add(self.sql, line)
    }
}

impl KeyEdit {
    fn apply(&self, key: &mut StoredKey) {
        set(&mut key.team, &self.team);
        set(&mut key.user, &self.user);
        set(&mut key.name, &self.name);
        set(&mut key.models, &self.models);
        set(&mut key.endpoints, &self.endpoints);
        set(&mut key.addresses, &self.addresses);
        set(&mut key.plan, &self.plan);
        set(&mut key.roles, &self.roles);
        set(&mut key.expires_at, &self.expires_at);
        if let Some(disabled) = self.disabled {
            key.status = if disabled { KeyStatus::Disabled } else { KeyStatus::Active };
        }
    }
}

fn set<T: Clone>(place: &mut T, edit: &Option<T>) {
    if let Some(value) = edit {
        place.clone_from(value);
    }
}
