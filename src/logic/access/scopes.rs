//! What a role allows: scopes, models, and whose tenant. Decides the union over a caller's roles; which scope a path
//! needs is decided where the path is known.

use crate::domain::ids::RoleId;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// One permission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Call models, and plain HTTP behind authentication.
    Inference,
    /// `GET /v1/models`.
    ModelsList,
    /// Usage of the own key, team or tenant.
    UsageRead,
    /// Make, change and end keys.
    KeysWrite,
    /// Everything in the admin API, the audit log included.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 5] = [Self::Inference, Self::ModelsList, Self::UsageRead, Self::KeysWrite, Self::Admin];

    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::ModelsList => "models:list",
            Self::UsageRead => "usage:read",
            Self::KeysWrite => "keys:write",
            Self::Admin => "admin",
        }
    }
}

/// A set of scopes. `admin` holds `usage:read` and `keys:write` within it, and neither of the callers' own.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// No scope.
    pub const NONE: Self = Self(0);

    /// The set of some scopes.
    #[must_use]
    pub fn of(scopes: &[Scope]) -> Self {
        Self(scopes.iter().fold(0, |bits, scope| bits | (1 << *scope as u8)))
    }

    /// True if the set allows what `scope` names.
    #[must_use]
    pub fn allow(self, scope: Scope) -> bool {
        let admin = matches!(scope, Scope::UsageRead | Scope::KeysWrite) && self.has(Scope::Admin);
        admin || self.has(scope)
    }

    /// Both sets together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// True if everything that `other` allows is allowed by this set.
    #[must_use]
    pub fn cover(self, other: Self) -> bool {
        Scope::ALL.iter().all(|scope| !other.allow(*scope) || self.allow(*scope))
    }

    /// The scopes of the set, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }

    fn has(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }
}

impl std::fmt::Debug for Scopes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(Scope::name)).finish()
    }
}

/// Whose tenant a role reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reach {
    /// The caller's own.
    #[default]
    Own,
    /// Every tenant: operators of the installation.
    All,
}

/// `roles.NAME`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    /// What it allows.
    pub scopes: Scopes,
    /// Model patterns as on keys (`*`, `?`); `None`: all.
    pub models: Option<Arc<[String]>>,
    /// Whose tenant it reaches.
    pub reach: Reach,
}

/// Roles by name.
pub type Roles = BTreeMap<RoleId, Role>;

/// The role of a caller whose credential says nothing of roles.
pub const MEMBER: &str = "member";
/// The role that administers its own tenant.
pub const TENANT_ADMIN: &str = "tenant-admin";
/// The role that administers the installation.
pub const OPERATOR: &str = "operator";

/// The roles that exist without being named; a configured role of the same name replaces one.
#[must_use]
pub fn built_in() -> Roles {
    let role = |scopes: &[Scope], reach| Role { scopes: Scopes::of(scopes), models: None, reach };
    BTreeMap::from([
        (RoleId::new(MEMBER), role(&[Scope::Inference, Scope::ModelsList, Scope::UsageRead], Reach::Own)),
        (RoleId::new(TENANT_ADMIN), role(&[Scope::ModelsList, Scope::Admin], Reach::Own)),
        (RoleId::new(OPERATOR), role(&[Scope::ModelsList, Scope::Admin], Reach::All)),
    ])
}

/// What most callers have: resolved for each request, so made once.
static MEMBER_ALONE: LazyLock<[RoleId; 1]> = LazyLock::new(|| [RoleId::new(MEMBER)]);

/// What a caller's roles come to. A scope reaches as far as the roles that give it: two roles together allow no more
/// than each of them by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant<'r> {
    /// What is allowed in the caller's own tenant: the scopes of all roles.
    pub scopes: Scopes,
    /// What is allowed in every tenant: the scopes of the roles that reach all.
    pub everywhere: Scopes,
    /// The model lists of the roles that restrict; a caller may use what any role allows. `None`: all. Of roles with
    /// `inference`; where there are none, of those with `models:list`.
    pub models: Option<Vec<&'r Arc<[String]>>>,
}

impl Grant<'_> {
    /// Whose tenant `scope` is good for, where it is allowed at all.
    #[must_use]
    pub fn reach(&self, scope: Scope) -> Reach {
        if self.everywhere.allow(scope) { Reach::All } else { Reach::Own }
    }
}

/// Resolves role names. Unknown names allow nothing; no names at all mean [`MEMBER`].
#[must_use]
pub fn grant<'r>(roles: &'r Roles, names: Option<&[RoleId]>) -> Grant<'r> {
    let held = || names.unwrap_or(MEMBER_ALONE.as_slice()).iter().filter_map(|name| roles.get(name));
    let scopes = held().fold(Scopes::NONE, |scopes, role| scopes.with(role.scopes));
    let everywhere = held().filter(|role| role.reach == Reach::All);
    let everywhere = everywhere.fold(Scopes::NONE, |scopes, role| scopes.with(role.scopes));
    let counted = if scopes.allow(Scope::Inference) { Scope::Inference } else { Scope::ModelsList };
    // One role without a list gives `None`: it lifts the lists of the others.
    let models = held().filter(|role| role.scopes.allow(counted)).map(|role| role.models.as_ref()).collect();
    Grant { scopes, everywhere, models }
}

/// Takes the roles that reach all tenants off a list; `None`: there was none of them.
#[must_use]
pub fn without_reach(roles: &Roles, names: Option<&[RoleId]>) -> Option<Arc<[RoleId]>> {
    let names = names.unwrap_or(MEMBER_ALONE.as_slice());
    let within = |name: &&RoleId| roles.get(*name).is_none_or(|role| role.reach == Reach::Own);
    (!names.iter().all(|name| within(&name))).then(|| names.iter().filter(within).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<RoleId> {
        names.iter().map(|name| RoleId::new(name)).collect()
    }

    #[test]
    fn a_caller_without_roles_is_a_member_and_one_with_unknown_roles_is_nobody() {
        let roles = built_in();
        assert!(grant(&roles, None).scopes.allow(Scope::Inference), "nothing said: member");
        assert_eq!(grant(&roles, Some(&named(&["gone"]))).scopes, Scopes::NONE, "an unknown role allows nothing");
        assert_eq!(grant(&roles, Some(&[])).scopes, Scopes::NONE, "an empty list is not an absent one");
    }

    #[test]
    fn an_administrator_writes_keys_and_does_not_call_models() {
        let admin = Scopes::of(&[Scope::Admin]);
        assert!(admin.allow(Scope::KeysWrite) && admin.allow(Scope::UsageRead), "parts of administering");
        assert!(!admin.allow(Scope::Inference), "not a part of it");
        assert!(!Scopes::of(&[Scope::KeysWrite]).cover(admin), "a part does not cover the whole");
        assert!(admin.cover(Scopes::of(&[Scope::KeysWrite])), "the whole covers a part");
    }

    #[test]
    fn one_role_without_a_model_list_lifts_the_lists_of_the_others() {
        let mut roles = built_in();
        let list: Arc<[String]> = Arc::new(["llama-*".to_owned()]);
        let role = Role { scopes: Scopes::of(&[Scope::Inference]), models: Some(list), reach: Reach::Own };
        roles.insert(RoleId::new("llama"), role);
        assert_eq!(grant(&roles, Some(&named(&["llama"]))).models.map(|lists| lists.len()), Some(1), "restricted");
        assert_eq!(grant(&roles, Some(&named(&["llama", "member"]))).models, None, "member may use all");
        let both = grant(&roles, Some(&named(&["llama", "tenant-admin"]))).models;
        assert_eq!(both.map(|lists| lists.len()), Some(1), "a role that calls no models lifts nothing");
        let admin = grant(&roles, Some(&named(&["tenant-admin"]))).models;
        assert_eq!(admin, None, "who calls nothing sees what they may list");
    }

    #[test]
    fn a_list_on_a_role_that_calls_no_models_adds_none() {
        let mut roles = built_in();
        let role = |scopes: &[Scope], pattern: &str| {
            let list: Arc<[String]> = Arc::new([pattern.to_owned()]);
            Role { scopes: Scopes::of(scopes), models: Some(list), reach: Reach::Own }
        };
        roles.insert(RoleId::new("llama"), role(&[Scope::Inference], "llama-*"));
        roles.insert(RoleId::new("viewer"), role(&[Scope::ModelsList, Scope::UsageRead], "*"));
        let lists = grant(&roles, Some(&named(&["llama", "viewer"]))).models.expect("restricted");
        assert_eq!(lists.iter().map(|list| list.join(",")).collect::<Vec<_>>(), ["llama-*"], "the caller's alone");
    }

    #[test]
    fn roles_together_reach_no_further_than_each_by_itself() {
        let mut roles = built_in();
        let role = Role { scopes: Scopes::of(&[Scope::UsageRead]), models: None, reach: Reach::All };
        roles.insert(RoleId::new("viewer"), role);
        let both = grant(&roles, Some(&named(&["tenant-admin", "viewer"])));
        assert_eq!(both.reach(Scope::Admin), Reach::Own, "administers the own tenant");
        assert_eq!(both.reach(Scope::UsageRead), Reach::All, "reads all");
        assert!(both.scopes.allow(Scope::Admin) && !both.everywhere.allow(Scope::Admin), "no operator");
        assert_eq!(grant(&roles, Some(&named(&["operator"]))).reach(Scope::KeysWrite), Reach::All, "this one is");
    }

    #[test]
    fn roles_that_reach_all_can_be_taken_off() {
        let roles = built_in();
        assert_eq!(without_reach(&roles, None), None, "a member reaches nobody else");
        assert_eq!(without_reach(&roles, Some(&named(&["tenant-admin", "gone"]))), None, "nor do these");
        let left = without_reach(&roles, Some(&named(&["operator", "member"]))).expect("one is taken off");
        assert_eq!(left.as_ref(), named(&["member"]), "the other stays");
    }
}
