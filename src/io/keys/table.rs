//! One snapshot of the keys, never changed after it is made. Decides what a presented key deserves, with the same
//! work for an id that does not exist as for a secret that is wrong.

use crate::domain::ids::{PlanId, TeamId, TenantId, UserId};
use crate::domain::principal::{AuthMethod, Principal};
use crate::domain::units::WallMicros;
use crate::io::store::rows::{KeyStatus, StoredKey, StoredSecret};
use crate::logic::access::api_key::{self, IdBytes, ParsedKey};
use crate::logic::access::digest::{self, DIGEST_LEN, Digest, Pepper, SecretHash};
use crate::ports::KeyRejection;
use rustc_hash::FxHashMap;

/// A snapshot.
pub(super) struct Table {
    entries: FxHashMap<IdBytes, Entry>,
    /// Stands in for every id that does not exist.
    stranger: Entry,
    foreign: usize,
}

struct Entry {
    /// `secret_gen` is set to that of the secret that was used.
    principal: Principal,
    /// The newest secret, in the entry itself: one look at cold memory less. `None`: none that can be checked.
    newest: Option<Secret>,
    /// Those before it.
    older: Vec<Secret>,
    status: KeyStatus,
    expires_at: Option<WallMicros>,
}

struct Secret {
    generation: u32,
    kind: Kind,
    digest: Digest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Peppered,
    Plain,
}

impl Default for Table {
    /// No keys.
    fn default() -> Self {
        let dummy = Secret { generation: 0, kind: Kind::Peppered, digest: Digest([0; DIGEST_LEN]) };
        let stranger = Entry {
            principal: Principal::anonymous(),
            newest: Some(dummy),
            older: Vec::new(),
            // Even a digest of all zeros would open nothing.
            status: KeyStatus::Revoked,
            expires_at: None,
        };
        Self { entries: FxHashMap::default(), stranger, foreign: 0 }
    }
}

impl Table {
    /// Makes a snapshot. Secrets under another pepper cannot be checked and are left out; [`Table::foreign`] counts
    /// them.
    pub(super) fn new(keys: Vec<StoredKey>, pepper: &Pepper) -> Self {
        let mut table = Self::default();
        table.entries.reserve(keys.len());
        let mut names = Names::default();
        for key in keys {
            let Some(id) = api_key::parse_id(key.key_id.as_str()) else { continue };
            let all = key.secrets.len();
            let entry = Entry::new(key, pepper, &mut names);
            table.foreign += all - entry.secrets().count();
            table.entries.insert(id, entry);
        }
        table
    }

    /// How many secrets are under another pepper.
    pub(super) fn foreign(&self) -> usize {
        self.foreign
    }

    /// Whom a key belongs to.
    pub(super) fn authenticate(
        &self,
        pepper: &Pepper,
        key: &ParsedKey<'_>,
        presented: &[u8],
        now: WallMicros,
    ) -> Result<Principal, KeyRejection> {
        let entry = self.entries.get(&key.id).unwrap_or(&self.stranger);
        let generation = entry.proved_by(presented, &pepper.digest(presented)).ok_or(KeyRejection::Invalid)?;
        // Only who has the secret learns more than "invalid".
        match entry.status {
            KeyStatus::Revoked => return Err(KeyRejection::Invalid),
            KeyStatus::Disabled => return Err(KeyRejection::Disabled),
            KeyStatus::Active => {}
        }
        if entry.expires_at.is_some_and(|end| end <= now) {
            return Err(KeyRejection::Expired);
        }
        Ok(Principal { secret_gen: generation, ..entry.principal.clone() })
    }
}

/// Names that keys share are held once: 100 000 keys of one tenant have one tenant's name in the cache.
#[derive(Default)]
struct Names {
    tenants: FxHashMap<String, TenantId>,
    teams: FxHashMap<String, TeamId>,
    users: FxHashMap<String, UserId>,
    plans: FxHashMap<String, PlanId>,
}

fn shared<T: Clone + for<'a> From<&'a str>>(held: &mut FxHashMap<String, T>, name: String) -> T {
    held.entry(name).or_insert_with_key(|name| T::from(name.as_str())).clone()
}

impl Entry {
    fn new(key: StoredKey, pepper: &Pepper, names: &mut Names) -> Self {
        let mut older: Vec<Secret> = key.secrets.into_iter().filter_map(|secret| Secret::new(secret, pepper)).collect();
        Self {
            newest: older.pop(),
            older,
            principal: Principal {
                tenant: shared(&mut names.tenants, key.tenant),
                team: key.team.map(|name| shared(&mut names.teams, name)),
                user: key.user.map(|name| shared(&mut names.users, name)),
                key: Some(key.key_id),
                secret_gen: 0,
                method: AuthMethod::ApiKey,
                models: key.models.map(Into::into),
                plan: key.plan.map(|name| shared(&mut names.plans, name)),
            },
            status: key.status,
            expires_at: key.expires_at,
        }
    }

    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.older.iter().chain(&self.newest)
    }

    /// Generation of the secret that fits. Looks at all of them, so that which one fits takes no time to tell.
    fn proved_by(&self, presented: &[u8], peppered: &Digest) -> Option<u32> {
        self.secrets().fold(None, |found, secret| {
            let fits = match secret.kind {
                Kind::Peppered => secret.digest == *peppered,
                Kind::Plain => secret.digest == digest::plain(presented),
            };
            if fits { Some(secret.generation) } else { found }
        })
    }
}

impl Secret {
    /// `None`: it is under another pepper.
    fn new(stored: StoredSecret, pepper: &Pepper) -> Option<Self> {
        let (kind, digest) = match stored.hash {
            SecretHash::Peppered { pepper_id, digest } if pepper_id == pepper.id() => (Kind::Peppered, digest),
            SecretHash::Peppered { .. } => return None,
            SecretHash::Plain(digest) => (Kind::Plain, digest),
        };
        Some(Self { generation: stored.generation, kind, digest })
    }
}
