//! Table of values: what a store holds, as its callers see it. Decides no more than a key's standing; how values are
//! written down is `keys`, `tenancy`, `plans` and `audit`.

use crate::domain::ids::KeyId;
use crate::domain::units::{NanoUsd, WallMicros};
use crate::logic::access::digest::SecretHash;
use ipnet::IpNet;
use std::time::Duration;

/// Which state of which store: nothing changes in a store without a new stamp.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The store, by a random name that it was given when it was made.
    pub store: String,
    /// Changes so far.
    pub epoch: i64,
    /// Drawn anew by each change: tells apart two histories that count alike (a backup was put back, and changed).
    pub mark: i64,
}

/// One thing that a follower of the store is told.
#[derive(Clone, Debug)]
pub enum Row {
    /// Forget everything: what follows is all there is. Comes first or not at all.
    Reset,
    /// A key, new or changed. Keys are never deleted.
    Key(StoredKey),
    /// A tenant, new, changed or deleted.
    Tenant(StoredTenant),
    /// A team, new, changed or deleted.
    Team(StoredMember),
    /// A user, new, changed or deleted.
    User(StoredMember),
    /// A plan, new, changed or deleted.
    Plan(StoredPlan),
    /// A budget, new, changed or deleted.
    Budget(StoredBudget),
    /// A row that cannot be read: what it was about is refused, the others are not.
    Broken(BrokenRow),
}

/// A row that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BrokenRow {
    /// `key`, `tenant`, `team`, `user`, `plan`, `budget`, `audit`.
    pub what: &'static str,
    /// Which one; of a team or user `TENANT/ID`, and of a budget where a follower is told.
    pub id: String,
    /// What is wrong with it; never its content.
    pub fault: String,
}

/// What an operator has decided about a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyStatus {
    /// Good, as long as it has not expired.
    Active,
    /// Switched off for now.
    Disabled,
    /// Ended for good.
    Revoked,
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Its id.
    pub key_id: KeyId,
    /// What is kept of its secret.
    pub hash: SecretHash,
    /// Who pays.
    pub tenant: String,
    /// Its team.
    pub team: Option<String>,
    /// Its user.
    pub user: Option<String>,
    /// Its name, for people.
    pub name: Option<String>,
    /// Model patterns; `None`: all that the tenant may use.
    pub models: Option<Vec<String>>,
    /// Path patterns; `None`: all.
    pub endpoints: Option<Vec<String>>,
    /// Client networks; `None`: all.
    pub addresses: Option<Vec<IpNet>>,
    /// A plan of its own.
    pub plan: Option<String>,
    /// Its roles; `None`: nothing is said of roles.
    pub roles: Option<Vec<String>>,
    /// When it ends; `None`: never.
    pub expires_at: Option<WallMicros>,
}

impl NewKey {
    /// A key with no name, restriction or end.
    #[must_use]
    pub fn of(key_id: KeyId, hash: SecretHash, tenant: &str) -> Self {
        Self {
            key_id,
            hash,
            tenant: tenant.to_owned(),
            team: None,
            user: None,
            name: None,
            models: None,
            endpoints: None,
            addresses: None,
            plan: None,
            roles: None,
            expires_at: None,
        }
    }
}

/// What is to change on a key; `None` leaves as it is, `Some(None)` takes away.
#[derive(Clone, Debug, Default)]
pub struct KeyEdit {
    /// Its team.
    pub team: Option<Option<String>>,
    /// Its user.
    pub user: Option<Option<String>>,
    /// Its name.
    pub name: Option<Option<String>>,
    /// Model patterns.
    pub models: Option<Option<Vec<String>>>,
    /// Path patterns.
    pub endpoints: Option<Option<Vec<String>>>,
    /// Client networks.
    pub addresses: Option<Option<Vec<IpNet>>>,
    /// Its plan.
    pub plan: Option<Option<String>>,
    /// Its roles.
    pub roles: Option<Option<Vec<String>>>,
    /// When it ends.
    pub expires_at: Option<Option<WallMicros>>,
    /// Switched off, or on again.
    pub disabled: Option<bool>,
}

/// A new secret for a key.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// What is kept of the new secret.
    pub hash: SecretHash,
    /// How long the secret before it stays good; zero: it ends at once. At most [`MAX_GRACE`].
    pub grace: Duration,
    /// Where two secrets are good already: end the older of them, in place of a conflict.
    pub forced: bool,
}

/// Grace of a rotation where nothing is said (semantics.md §4).
pub const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 3_600);
/// Grace of a rotation at most (semantics.md §4).
pub const MAX_GRACE: Duration = Duration::from_secs(30 * 86_400);

/// What a revocation does to streams that are open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Streams {
    /// They run to their end.
    Finish,
    /// They are cut.
    Terminate,
}

/// One secret of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredSecret {
    /// Counts from 1.
    pub generation: u32,
    /// What is kept of it.
    pub hash: SecretHash,
    /// When it was made.
    pub created_at: WallMicros,
    /// It was replaced, and ends then; `None` on the newest.
    pub valid_until: Option<WallMicros>,
}

/// A key as it is in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredKey {
    /// Its id.
    pub key_id: KeyId,
    /// Who pays.
    pub tenant: String,
    /// Its team.
    pub team: Option<String>,
    /// Its user.
    pub user: Option<String>,
    /// Its name, for people.
    pub name: Option<String>,
    /// Model patterns; `None`: all that the tenant may use.
    pub models: Option<Vec<String>>,
    /// Path patterns; `None`: all.
    pub endpoints: Option<Vec<String>>,
    /// Client networks; `None`: all.
    pub addresses: Option<Vec<IpNet>>,
    /// A plan of its own.
    pub plan: Option<String>,
    /// Its roles; `None`: nothing is said of roles.
    pub roles: Option<Vec<String>>,
    /// What an operator has decided.
    pub status: KeyStatus,
    /// Its open streams are to be cut; only on a revoked key.
    pub terminate_streams: bool,
    /// When it was made.
    pub created_at: WallMicros,
    /// From when on it is no longer good.
    pub expires_at: Option<WallMicros>,
    /// When it was revoked.
    pub revoked_at: Option<WallMicros>,
    /// The change that wrote it last.
    pub epoch: i64,
    /// Its secrets, oldest first; at least one. Those whose time is over may still be here.
    pub secrets: Vec<StoredSecret>,
}

impl StoredKey {
    /// `active`, `disabled`, `expired` or `revoked`; the strongest of those that hold.
    #[must_use]
    pub fn standing(&self, now: WallMicros) -> &'static str {
        match self.status {
            KeyStatus::Revoked => "revoked",
            KeyStatus::Disabled => "disabled",
            KeyStatus::Active if self.expires_at.is_some_and(|end| end <= now) => "expired",
            KeyStatus::Active => "active",
        }
    }

    /// Generation of the newest secret.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.secrets.last().map_or(0, |secret| secret.generation)
    }

    /// The secret before the newest, while it is still good.
    #[must_use]
    pub fn previous(&self, now: WallMicros) -> Option<&StoredSecret> {
        self.secrets.iter().rev().nth(1).filter(|secret| secret.valid_until.is_some_and(|end| end > now))
    }
}

/// What a tenant is to be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TenantSpec {
    /// A name for people.
    pub name: Option<String>,
    /// Its plan.
    pub plan: Option<String>,
    /// Model patterns; `None`: all.
    pub models: Option<Vec<String>>,
    /// Its callers are refused.
    pub disabled: bool,
    /// Name of the time zone in which its days and months begin; `None`: UTC.
    pub time_zone: Option<String>,
}

/// A tenant as it is in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredTenant {
    /// Its id.
    pub tenant: String,
    /// What it is.
    pub spec: TenantSpec,
    /// When it was made.
    pub created_at: WallMicros,
    /// It is no more; only followers are told of such a row.
    pub deleted: bool,
    /// The change that wrote it last.
    pub epoch: i64,
}

/// Teams and users are alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemberKind {
    /// A team of a tenant.
    Team,
    /// A person or service of a tenant.
    User,
}

/// What a team or user is to be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberSpec {
    /// A name for people.
    pub name: Option<String>,
    /// Its plan.
    pub plan: Option<String>,
    /// Model patterns; `None`: all that the tenant may use.
    pub models: Option<Vec<String>>,
}

/// A team or user as it is in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredMember {
    /// Whose.
    pub tenant: String,
    /// Its id within the tenant.
    pub id: String,
    /// What it is.
    pub spec: MemberSpec,
    /// When it was made.
    pub created_at: WallMicros,
    /// It is no more; only followers are told of such a row.
    pub deleted: bool,
    /// The change that wrote it last.
    pub epoch: i64,
}

/// A plan as it is in the store. Names are of the whole installation, whoever owns the plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredPlan {
    /// Its name.
    pub plan: String,
    /// The tenant that owns it and alone may use it; `None`: it is of the installation.
    pub tenant: Option<String>,
    /// JSON of the shape that it has in YAML: `{"limits": {…}}`.
    pub document: String,
    /// When it was made.
    pub created_at: WallMicros,
    /// It is no more; only followers are told of such a row.
    pub deleted: bool,
    /// The change that wrote it last.
    pub epoch: i64,
}

/// Whose money a budget counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BudgetLevel {
    /// All of the tenant.
    Tenant,
    /// One team.
    Team,
    /// One user.
    User,
    /// One key.
    Key,
}

/// Over what a budget counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BudgetPeriod {
    /// A day of the tenant's time zone.
    Day,
    /// A month of the tenant's time zone.
    Month,
    /// For good: it was paid before, and does not come back.
    Prepaid,
}

/// The largest budget: what is counted in nano-dollars stays below 2^53, with room for what is spent beyond it.
pub const MAX_BUDGET: NanoUsd = NanoUsd(9_000_000_000_000_000);
/// Thresholds of one budget at most.
pub const MAX_ALERTS: usize = 16;

/// What happens when a budget is spent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnExceed {
    /// Its callers are refused.
    #[default]
    Reject,
    /// They are not; who is told of budgets is told of this one.
    Warn,
}

/// What a budget is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BudgetSpec {
    /// Who pays.
    pub tenant: String,
    /// Whose money is counted.
    pub level: BudgetLevel,
    /// Which team, user or key; `None` at the level of the tenant.
    pub subject: Option<String>,
    /// How much, ≥ 0.
    pub amount: NanoUsd,
    /// Over what.
    pub period: BudgetPeriod,
    /// What happens when it is spent.
    pub on_exceed: OnExceed,
    /// Shares of it, in percent, at which somebody is told; ascending.
    pub alert_at: Vec<u8>,
    /// Each request reserves what it costs at most, not what it will probably cost.
    pub strict: bool,
    /// Running streams are ended when it is spent.
    pub stop_streams: bool,
}

impl BudgetSpec {
    /// A budget of a whole tenant with nothing else set.
    #[must_use]
    pub fn of(tenant: &str, amount: NanoUsd, period: BudgetPeriod) -> Self {
        Self {
            tenant: tenant.to_owned(),
            level: BudgetLevel::Tenant,
            subject: None,
            amount,
            period,
            on_exceed: OnExceed::Reject,
            alert_at: Vec::new(),
            strict: false,
            stop_streams: false,
        }
    }
}

/// A budget as it is in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredBudget {
    /// Its id.
    pub id: String,
    /// What it is.
    pub spec: BudgetSpec,
    /// When it was made.
    pub created_at: WallMicros,
    /// It is no more; only followers are told of such a row.
    pub deleted: bool,
    /// The change that wrote it last.
    pub epoch: i64,
}

/// Who changes the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    /// How they proved who they are: a name of `AuthMethod`, or `cli`.
    pub kind: String,
    /// Key id, user, or the account that ran the command.
    pub id: String,
    /// Their tenant; `None` on the command line.
    pub tenant: Option<String>,
    /// The request that asked for it.
    pub request_id: Option<String>,
}

/// One line of the audit log: one thing that was changed.
#[derive(Clone, PartialEq, Debug)]
pub struct AuditEntry {
    /// Counts from 1, without gaps.
    pub id: i64,
    /// When.
    pub at: WallMicros,
    /// Who.
    pub actor: Actor,
    /// What was done: `key.create`, `key.rotate`, `tenant.put`, `tenant.delete`, ….
    pub action: String,
    /// To what: a key id, a tenant, `TENANT/TEAM`, ….
    pub target: String,
    /// The tenant that it belongs to; `None`: the installation.
    pub tenant: Option<String>,
    /// How it was; `None`: it was not.
    pub before: Option<serde_json::Value>,
    /// How it is; `None`: it is no more.
    pub after: Option<serde_json::Value>,
}

/// Rows of a page at most.
pub const MAX_PAGE: u32 = 1_000;

/// Which part of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The [`Listing::next`] of the page before; `None`: from the beginning.
    pub after: Option<String>,
    /// Rows at most; 1 to [`MAX_PAGE`], what is beyond is taken for the bound.
    pub limit: u32,
}

/// A page of a list.
#[derive(Clone, PartialEq, Debug)]
pub struct Listing<T> {
    /// What is on it, by id.
    pub rows: Vec<T>,
    /// Rows of this page that cannot be read.
    pub broken: Vec<BrokenRow>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<String>,
}

/// Which keys; `None` is any.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyFilter {
    /// Whose.
    pub tenant: Option<String>,
    /// Of which team.
    pub team: Option<String>,
    /// Of which user.
    pub user: Option<String>,
}

/// Which lines of the audit log; `None` is any.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuditFilter {
    /// What belongs to this tenant.
    pub tenant: Option<String>,
    /// What was done to this.
    pub target: Option<String>,
}
