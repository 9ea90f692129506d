//! One key as a proxy holds it: 80 bytes, and what it shares with others. Decides what a presented secret deserves;
//! how a key is found is `keys::shard`'s.

use crate::domain::principal::{AuthMethod, Principal, Profile};
use crate::domain::units::WallMicros;
use crate::logic::access::api_key::{IdBytes, key_id};
use crate::logic::access::digest::{DIGEST_LEN, Digest};
use crate::ports::Rejection;
use std::sync::Arc;

/// The end of what has none.
pub(super) const NEVER: WallMicros = WallMicros(i64::MAX);

/// A key.
#[derive(Clone)]
pub(super) struct Entry {
    pub id: IdBytes,
    pub standing: Standing,
    /// The newest secret.
    pub newest: Secret,
    /// The one before it, while it is good. Few keys have one.
    pub older: Option<Box<Older>>,
    /// From then on the key is over.
    pub expires_at: WallMicros,
    /// Whom it speaks for; shared by all keys that say the same.
    pub profile: Arc<Profile>,
}

/// What an operator has decided about a key. Ordered: a standing may only be followed by a greater one once it is
/// [`Standing::Revoked`] or more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Standing {
    /// Good, as long as it has not expired.
    Active,
    /// Switched off for now.
    Disabled,
    /// Ended for good.
    Revoked,
    /// Ended for good, and its open streams with it.
    Cut,
}

/// A secret's digest.
#[derive(Clone, Copy)]
pub(super) struct Secret {
    pub kind: Kind,
    /// Counts from 1.
    pub generation: u32,
    pub digest: Digest,
}

/// A secret that has been replaced.
#[derive(Clone)]
pub(super) struct Older {
    pub secret: Secret,
    /// From then on it is no secret of this key.
    pub until: WallMicros,
}

/// How a digest was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// There is none.
    Nothing,
    /// Under a pepper that no authenticator has; it cannot be checked.
    Foreign,
    /// SHA-256 of the whole key.
    Plain,
    /// HMAC under the pepper of this number.
    Peppered(u8),
}

/// What a caller has shown.
pub(super) struct Proof {
    /// Number of the pepper.
    pub pepper: u8,
    /// HMAC under it.
    pub peppered: Digest,
    /// SHA-256, where any key needs it.
    pub plain: Digest,
}

impl Secret {
    /// Fits nothing.
    pub(super) const NOTHING: Self = Self { kind: Kind::Nothing, generation: 0, digest: Digest([0; DIGEST_LEN]) };

    /// The digests are compared whatever the kind is, so that the kind takes no time to tell.
    fn fits(&self, proof: &Proof) -> bool {
        let (shown, may) = match self.kind {
            Kind::Plain => (&proof.plain, true),
            Kind::Peppered(number) => (&proof.peppered, number == proof.pepper),
            Kind::Nothing | Kind::Foreign => (&proof.peppered, false),
        };
        (self.digest == *shown) & may
    }
}

impl Standing {
    /// True from revocation on.
    pub(super) fn is_revoked(self) -> bool {
        self >= Self::Revoked
    }
}

impl Entry {
    /// True if one of its secrets is of this kind.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.newest.kind == kind || self.older.as_ref().is_some_and(|older| older.secret.kind == kind)
    }

    /// All that is left of a key that was revoked and is in the store no longer.
    pub(super) fn stub(&self) -> Self {
        Self { newest: Secret::NOTHING, older: None, expires_at: NEVER, ..self.clone() }
    }

    /// True of a key that was revoked and of which nothing else is kept.
    pub(super) fn is_stub(&self) -> bool {
        self.standing.is_revoked() && self.newest.kind == Kind::Nothing
    }

    /// Whom the key belongs to. `known`: the entry was found under the id that was asked for; if not, the same work
    /// is done for nothing.
    pub(super) fn judge(&self, known: bool, proof: &Proof, now: WallMicros) -> Result<Principal, Rejection> {
        const NONE: Older = Older { secret: Secret::NOTHING, until: NEVER };
        let older = self.older.as_deref().unwrap_or(&NONE);
        let (by_newest, by_older) = (self.newest.fits(proof), older.secret.fits(proof));
        let proved = by_newest | (by_older & (now < older.until));
        // Only who has a secret that is still good learns more than "invalid".
        if !(proved & known) || self.standing.is_revoked() {
            return Err(Rejection::Invalid);
        }
        if self.standing == Standing::Disabled {
            return Err(Rejection::Disabled);
        }
        if self.expires_at <= now {
            return Err(Rejection::Expired);
        }
        let secret = if by_newest { &self.newest } else { &older.secret };
        Ok(Principal {
            // Made when it is needed: a million of them would be 48 MB.
            key: Some(key_id(&self.id)),
            secret_gen: secret.generation,
            deprecated_until: (!by_newest && older.until != NEVER).then_some(older.until),
            expires_at: (self.expires_at != NEVER).then_some(self.expires_at),
            ..Principal::of(Arc::clone(&self.profile), AuthMethod::ApiKey)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_takes_eighty_bytes() {
        assert_eq!(size_of::<Entry>(), 80, "a million of them must fit into 300 MB with their profiles");
    }
}
