//! From a stored key to an entry. Decides which of its secrets can still open anything, and shares between keys what
//! they have in common, so that a thousand keys of one user hold one profile.

use super::entry::{Entry, Kind, NEVER, Older, Secret, Standing};
use crate::domain::ids::{PlanId, RoleId, TeamId, TenantId, UserId};
use crate::domain::principal::Profile;
use crate::domain::units::WallMicros;
use crate::io::store::rows::{KeyStatus, StoredKey, StoredSecret};
use crate::logic::access::api_key;
use crate::logic::access::digest::SecretHash;
use ipnet::IpNet;
use rustc_hash::FxHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Values that are remembered for sharing, of each kind. More different ones than these only share less.
const REMEMBERED: usize = 1 << 14;

/// Reads keys, one after another.
pub(super) struct Reader {
    /// Ids of the authenticators' peppers; the index is the number in [`Kind::Peppered`].
    peppers: Vec<String>,
    tenants: Recent<TenantId>,
    teams: Recent<TeamId>,
    users: Recent<UserId>,
    plans: Recent<PlanId>,
    texts: Recent<Arc<[String]>>,
    roles: Recent<Arc<[RoleId]>>,
    networks: Recent<Arc<[IpNet]>>,
    profiles: Recent<Arc<Profile>>,
}

impl Reader {
    /// Knows the peppers, of which there are at most 256.
    pub(super) fn new(peppers: Vec<String>) -> Self {
        Self {
            peppers,
            tenants: Recent::default(),
            teams: Recent::default(),
            users: Recent::default(),
            plans: Recent::default(),
            texts: Recent::default(),
            roles: Recent::default(),
            networks: Recent::default(),
            profiles: Recent::default(),
        }
    }

    /// The entry of a key; `None`: its id is none that a caller could name.
    pub(super) fn entry(&mut self, key: &StoredKey, now: WallMicros) -> Option<Entry> {
        let id = api_key::parse_id(key.key_id.as_str())?;
        let standing = match (key.status, key.terminate_streams) {
            (KeyStatus::Revoked, true) => Standing::Cut,
            (KeyStatus::Revoked, false) => Standing::Revoked,
            (KeyStatus::Disabled, _) => Standing::Disabled,
            (KeyStatus::Active, _) => Standing::Active,
        };
        let (newest, older) = self.secrets(&key.secrets, now);
        let expires_at = key.expires_at.unwrap_or(NEVER);
        Some(Entry { id, standing, newest, older, expires_at, profile: self.profile(key) })
    }

    /// The newest secret, and the one before it while it is good.
    fn secrets(&self, stored: &[StoredSecret], now: WallMicros) -> (Secret, Option<Box<Older>>) {
        let ending = |stored: &StoredSecret| {
            let until = stored.valid_until.unwrap_or(NEVER);
            (until > now).then(|| Box::new(Older { secret: self.secret(stored), until }))
        };
        match stored {
            [.., last] if last.valid_until.is_some() => (Secret::NOTHING, ending(last)),
            [.., before, last] => (self.secret(last), ending(before)),
            [last] => (self.secret(last), None),
            [] => (Secret::NOTHING, None),
        }
    }

    fn secret(&self, stored: &StoredSecret) -> Secret {
        let (kind, digest) = match &stored.hash {
            SecretHash::Plain(digest) => (Kind::Plain, *digest),
            SecretHash::Peppered { pepper_id, digest } => {
                let number = self.peppers.iter().position(|known| known == pepper_id);
                let number = number.and_then(|number| u8::try_from(number).ok());
                (number.map_or(Kind::Foreign, Kind::Peppered), *digest)
            }
        };
        Secret { kind, generation: stored.generation, digest }
    }

    fn profile(&mut self, key: &StoredKey) -> Arc<Profile> {
        let profile = Profile {
            tenant: self.tenants.name(&key.tenant, TenantId::as_str),
            team: key.team.as_deref().map(|name| self.teams.name(name, TeamId::as_str)),
            user: key.user.as_deref().map(|name| self.users.name(name, UserId::as_str)),
            roles: key.roles.as_deref().map(|names| {
                let same = |known: &Arc<[RoleId]>| known.iter().map(RoleId::as_str).eq(names);
                self.roles.share(names, same, || names.iter().map(|name| RoleId::new(name)).collect())
            }),
            models: key.models.as_deref().map(|list| self.texts.list(list)),
            endpoints: key.endpoints.as_deref().map(|list| self.texts.list(list)),
            addresses: key.addresses.as_deref().map(|list| self.networks.list(list)),
            plan: key.plan.as_deref().map(|name| self.plans.name(name, PlanId::as_str)),
            claims: None,
        };
        // The restrictions are in the comparison alone: few keys differ in nothing else.
        let names = (&profile.tenant, &profile.team, &profile.user, &profile.plan, &profile.roles, &profile.models);
        let same = |known: &Arc<Profile>| **known == profile;
        self.profiles.share(&names, same, || Arc::new(profile.clone()))
    }
}

/// Values seen lately: one place for each hash, the newest wins.
struct Recent<T>(Box<[Option<T>]>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self((0..REMEMBERED).map(|_| None).collect())
    }
}

impl<T: Clone> Recent<T> {
    fn share(&mut self, key: &(impl Hash + ?Sized), same: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> T {
        let mut hasher = FxHasher::default();
        key.hash(&mut hasher);
        let Some(place) = self.0.get_mut(hasher.finish() as usize % REMEMBERED) else { return make() };
        match place {
            Some(known) if same(known) => known.clone(),
            _ => place.insert(make()).clone(),
        }
    }

    fn name(&mut self, name: &str, text: fn(&T) -> &str) -> T
    where
        T: for<'a> From<&'a str>,
    {
        self.share(name, |known| text(known) == name, || T::from(name))
    }
}

impl<E: Clone + Hash + PartialEq> Recent<Arc<[E]>> {
    fn list(&mut self, list: &[E]) -> Arc<[E]> {
        self.share(list, |known| **known == *list, || Arc::from(list))
    }
}
