//! New secrets for a key that stays the same. Decides which generations live on: two at most, and none of a revoked key.

use super::super::error::StoreError;
use super::super::keys;
use super::super::rows::{MAX_GRACE, Rotation, StoredKey, StoredSecret};
use super::Change;
use crate::domain::ids::KeyId;
use crate::domain::units::WallMicros;

impl Change<'_> {
    /// Gives a key a new secret. The one before it stays good for the grace.
    ///
    /// # Errors
    /// Not found; refused where the grace is too long; a conflict where the key was revoked, or where two secrets are
    /// good already and the rotation is not forced.
    pub fn rotate_key(&mut self, key_id: &KeyId, rotation: &Rotation) -> Result<StoredKey, StoreError> {
        if rotation.grace > MAX_GRACE {
            return Err(StoreError::Refused("the grace of a rotation is at most 30 days".to_owned()));
        }
        let before = self.living(key_id)?;
        if before.previous(self.now).is_some() && !rotation.forced {
            return Err(StoreError::Conflict(format!(
                "two secrets of the key {key_id} are good already: end the grace of the older one, or force it"
            )));
        }
        let newest = before.generation();
        let next = newest.checked_add(1).ok_or_else(|| StoreError::Refused("no generation is left".to_owned()))?;
        keys::forget_before(self.sql, key_id, newest)?;
        if rotation.grace.is_zero() {
            keys::forget_before(self.sql, key_id, next)?;
        } else {
            let grace = WallMicros(i64::try_from(rotation.grace.as_micros()).unwrap_or(i64::MAX));
            keys::end_at(self.sql, key_id, newest, self.now + grace)?;
        }
        let hash = rotation.hash.clone();
        let secret = StoredSecret { generation: next, hash, created_at: self.now, valid_until: None };
        keys::insert_secret(self.sql, key_id, &secret)?;
        keys::write(self.sql, &before, self.epoch)?;
        self.logged("key.rotate", key_id, &before)
    }

    /// Ends the secret before the newest now. Where there is none nothing changes.
    ///
    /// # Errors
    /// Not found; a conflict where the key was revoked.
    pub fn end_grace(&mut self, key_id: &KeyId) -> Result<StoredKey, StoreError> {
        let before = self.living(key_id)?;
        if before.previous(self.now).is_none() {
            return Ok(before);
        }
        keys::forget_before(self.sql, key_id, before.generation())?;
        keys::write(self.sql, &before, self.epoch)?;
        self.logged("key.end_grace", key_id, &before)
    }
}
