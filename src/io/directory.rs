//! Who there is: the configuration's tenants and plans, and those of the store, with the store's budgets. Decides that
//! the configuration wins over namesakes in the store, and that what cannot be read in the store is refused rather than
//! unlimited.

mod budgets;

use crate::config;
use crate::config::snapshot::Snapshot;
use crate::domain::ids::{PlanId, TeamId, TenantId, UserId};
use crate::domain::limit::OnStoreError;
use crate::io::store::rows::{BrokenRow, MemberSpec, Row, StoredBudget, StoredMember, StoredPlan, StoredTenant};
use crate::logic::access::directory::{Directory, Member, Origin, Tenant};
use crate::logic::quota::plan::Plan;
use budgets::Budgets;
use globset::GlobSet;
use jiff::tz::TimeZone;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Tenants, teams, users, plans and budgets of one store at most: all of them are in memory, at about a kilobyte each.
pub const MAX_ROWS: usize = 500_000;

/// What the configuration says.
#[derive(Clone, Debug, Default)]
pub struct Configured {
    /// Where it is written down, for the log.
    pub file: String,
    /// Tenants by name.
    pub tenants: BTreeMap<TenantId, Tenant>,
    /// Plans by name.
    pub plans: BTreeMap<PlanId, Arc<Plan>>,
    /// What stored rules do without the shared ledger that do not say so themselves.
    pub on_store_error: OnStoreError,
}

impl Configured {
    /// The tenants and plans of a configuration.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            file: snapshot.file.display().to_string(),
            tenants: snapshot.tenants.clone(),
            plans: snapshot.plans.clone(),
            on_store_error: snapshot.limits.on_store_error(),
        }
    }
}

/// What an operator should know of the merged directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// The configuration has something of the same name.
    Shadowed {
        /// `tenant`, `team`, `user` or `plan`.
        what: &'static str,
        /// Its name; of a team or user `TENANT/ID`.
        name: String,
        /// The configuration.
        file: String,
    },
    /// It cannot be used.
    Broken {
        /// `tenant`, `team`, `user`, `plan` or `budget`.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wrong with it.
        fault: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shadowed { what, name, file } => {
                write!(f, "{what} `{name}` is configured in {file}: the store's is not used")
            }
            Self::Broken { what, name, fault } => {
                write!(f, "{what} `{name}` of the store cannot be used, who depends on it is refused: {fault}")
            }
        }
    }
}

/// A store with more than [`MAX_ROWS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the store holds more than {MAX_ROWS} tenants, teams, users, plans and budgets")]
pub struct TooManyRows;

/// A tenant of the store as it is known so far.
#[derive(Clone, Default)]
struct Held {
    /// The tenant itself, without members; `None`: only its members are known, or it cannot be read.
    tenant: Option<Tenant>,
    teams: BTreeMap<TeamId, Member>,
    users: BTreeMap<UserId, Member>,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.tenant.is_none() && self.teams.is_empty() && self.users.is_empty()
    }
}

/// A plan of the store.
#[derive(Clone)]
struct HeldPlan {
    /// The tenant that alone may use it.
    owner: Option<String>,
    /// `None`: it cannot be read.
    plan: Option<Arc<Plan>>,
}

/// The configuration merged with what the store has said so far.
pub struct Merger {
    configured: Configured,
    held: BTreeMap<TenantId, Held>,
    plans: BTreeMap<PlanId, HeldPlan>,
    budgets: Budgets,
    /// Tenants as they are in the directory; only those of which something changed are made anew.
    tenants: FxHashMap<TenantId, Arc<Tenant>>,
    /// What was said already; bounded, as only names of the configuration are in it.
    said: FxHashSet<(&'static str, String)>,
}

impl Merger {
    /// The configuration alone.
    #[must_use]
    pub fn new(configured: Configured) -> Self {
        let tenants = configured.tenants.iter().map(|(name, tenant)| (name.clone(), Arc::new(tenant.clone())));
        Self {
            held: BTreeMap::new(),
            plans: BTreeMap::new(),
            budgets: Budgets::default(),
            tenants: tenants.collect(),
            said: FxHashSet::default(),
            configured,
        }
    }

    /// Everyone, as they are now.
    #[must_use]
    pub fn directory(&self) -> Directory {
        let configured = self.configured.plans.iter().map(|(name, plan)| (name.clone(), Arc::clone(plan)));
        let stored = self.plans.iter().filter_map(|(name, held)| Some((name.clone(), Arc::clone(held.plan.as_ref()?))));
        // Later ones replace earlier ones: the configuration wins.
        Directory { tenants: self.tenants.clone(), plans: stored.chain(configured).collect() }
    }

    /// Takes in what a look at the store has found, and says what an operator should know. Keys are not looked at.
    ///
    /// # Errors
    /// [`TooManyRows`]; then only rows from [`Row::Reset`] on make sense of this again.
    pub fn apply(&mut self, rows: &[Row]) -> Result<Vec<Notice>, TooManyRows> {
        let mut news = News::default();
        for row in rows {
            match row {
                Row::Reset => {
                    news.dirty.extend(self.held.keys().cloned());
                    self.held.clear();
                    self.plans.clear();
                    news.dirty.extend(self.budgets.clear());
                }
                Row::Key(_) => {}
                Row::Tenant(row) => self.tenant(row, &mut news),
                Row::Team(row) => self.team(row, &mut news),
                Row::User(row) => self.user(row, &mut news),
                Row::Plan(row) => self.plan(row, &mut news),
                Row::Budget(row) => self.budget(row, &mut news),
                Row::Broken(row) => self.broken(row, &mut news),
            }
        }
        let members: usize = self.held.values().map(|held| 1 + held.teams.len() + held.users.len()).sum();
        if members + self.plans.len() + self.budgets.len() > MAX_ROWS {
            return Err(TooManyRows);
        }
        if news.owners_changed {
            news.dirty.extend(self.held.keys().cloned());
        }
        for name in &news.dirty {
            self.renew(name);
        }
        Ok(news.notices)
    }

    fn tenant(&mut self, row: &StoredTenant, news: &mut News) {
        let name = TenantId::new(&row.tenant);
        news.dirty.insert(name.clone());
        let shadowed = self.configured.tenants.contains_key(&name);
        let tenant = if row.deleted || self.shadow(shadowed, "tenant", &row.tenant, news) {
            None
        } else {
            compiled(row).map_err(|fault| news.broken("tenant", &row.tenant, fault)).ok()
        };
        self.held.entry(name).or_default().tenant = tenant;
    }

    fn team(&mut self, row: &StoredMember, news: &mut News) {
        let (tenant, team) = (TenantId::new(&row.tenant), TeamId::new(&row.id));
        let shadowed = self.configured.tenants.get(&tenant).is_some_and(|known| known.teams.contains_key(&team));
        let teams = &mut self.held.entry(tenant.clone()).or_default().teams;
        news.dirty.insert(tenant);
        if row.deleted {
            teams.remove(&team);
        } else {
            teams.insert(team, member(&row.spec));
            self.shadow(shadowed, "team", &format!("{}/{}", row.tenant, row.id), news);
        }
    }

    fn user(&mut self, row: &StoredMember, news: &mut News) {
        let (tenant, user) = (TenantId::new(&row.tenant), UserId::new(&row.id));
        let shadowed = self.configured.tenants.get(&tenant).is_some_and(|known| known.users.contains_key(&user));
        let users = &mut self.held.entry(tenant.clone()).or_default().users;
        news.dirty.insert(tenant);
        if row.deleted {
            users.remove(&user);
        } else {
            users.insert(user, member(&row.spec));
            self.shadow(shadowed, "user", &format!("{}/{}", row.tenant, row.id), news);
        }
    }

    fn plan(&mut self, row: &StoredPlan, news: &mut News) {
        let name = PlanId::new(&row.plan);
        let before = self.plans.remove(&name);
        news.owners_changed |= row.tenant.is_some() || before.is_some_and(|held| held.owner.is_some());
        let shadowed = self.configured.plans.contains_key(&name);
        if row.deleted || self.shadow(shadowed, "plan", &row.plan, news) {
            return;
        }
        let plan = config::plan_from_json(&row.plan, &row.document, self.configured.on_store_error);
        let plan = plan.map_err(|fault| news.broken("plan", &row.plan, fault)).ok().map(Arc::new);
        self.plans.insert(name, HeldPlan { owner: row.tenant.clone(), plan });
    }

    fn budget(&mut self, row: &StoredBudget, news: &mut News) {
        let tenant = TenantId::new(&row.spec.tenant);
        if row.deleted {
            news.dirty.extend(self.budgets.remove(&row.id));
            return;
        }
        let placed = budgets::compiled(row, self.configured.on_store_error);
        let placed = placed.map_err(|fault| news.broken("budget", &row.id, fault)).ok();
        news.dirty.extend(self.budgets.set(&tenant, &row.id, placed));
        news.dirty.insert(tenant);
    }

    fn broken(&mut self, row: &BrokenRow, news: &mut News) {
        let member_of = row.id.split_once('/');
        match (row.what, member_of) {
            ("tenant", _) => {
                let name = TenantId::new(&row.id);
                self.held.entry(name.clone()).or_default().tenant = None;
                news.dirty.insert(name);
            }
            ("team", Some((tenant, team))) => {
                self.held.entry(tenant.into()).or_default().teams.insert(team.into(), refused());
                news.dirty.insert(tenant.into());
            }
            ("user", Some((tenant, user))) => {
                self.held.entry(tenant.into()).or_default().users.insert(user.into(), refused());
                news.dirty.insert(tenant.into());
            }
            ("plan", _) => {
                self.plans.insert(PlanId::new(&row.id), HeldPlan { owner: None, plan: None });
            }
            ("budget", Some((tenant, id))) => {
                news.dirty.extend(self.budgets.set(&tenant.into(), id, None));
                news.dirty.insert(tenant.into());
            }
            // Keys are the key table's.
            _ => return,
        }
        news.broken(row.what, &row.id, row.fault.clone());
    }

    /// Says once of a name that the configuration has it too.
    fn shadow(&mut self, shadowed: bool, what: &'static str, name: &str, news: &mut News) -> bool {
        if shadowed && self.said.insert((what, name.to_owned())) {
            let file = self.configured.file.clone();
            news.notices.push(Notice::Shadowed { what, name: name.to_owned(), file });
        }
        shadowed
    }

    /// Makes a tenant of the directory anew.
    fn renew(&mut self, name: &TenantId) {
        let configured = self.configured.tenants.get(name);
        let held = self.held.get(name).cloned().unwrap_or_default();
        if self.held.contains_key(name) && held.is_empty() {
            self.held.remove(name);
        }
        let Some(mut tenant) = configured.cloned().or(held.tenant) else {
            self.tenants.remove(name);
            return;
        };
        if tenant.origin == Origin::Store {
            tenant.plan = tenant.plan.map(|plan| self.own_plan(name, plan));
        }
        for (team, member) in held.teams {
            let member = Member { plan: member.plan.map(|plan| self.own_plan(name, plan)), ..member };
            tenant.teams.entry(team).or_insert(member);
        }
        for (user, member) in held.users {
            let member = Member { plan: member.plan.map(|plan| self.own_plan(name, plan)), ..member };
            tenant.users.entry(user).or_insert(member);
        }
        self.budgets.place(name, &mut tenant);
        self.tenants.insert(name.clone(), Arc::new(tenant));
    }

    /// A plan that a tenant may name. Another tenant's is turned into one that does not exist, whose callers are
    /// refused: it could change under them.
    fn own_plan(&self, tenant: &TenantId, plan: PlanId) -> PlanId {
        let owner = self.plans.get(&plan).and_then(|held| held.owner.as_deref());
        if owner.is_some_and(|owner| owner != tenant.as_str()) {
            return PlanId::new(&format!("{plan} (of another tenant)"));
        }
        plan
    }
}

/// What one look has brought.
#[derive(Default)]
struct News {
    notices: Vec<Notice>,
    /// Tenants of which something changed.
    dirty: BTreeSet<TenantId>,
    /// A plan got, had or lost an owner, so that any tenant may have lost or got its plan.
    owners_changed: bool,
}

impl News {
    fn broken(&mut self, what: &'static str, name: &str, fault: String) {
        self.notices.push(Notice::Broken { what, name: name.to_owned(), fault });
    }
}

fn compiled(row: &StoredTenant) -> Result<Tenant, String> {
    let models = match row.spec.models.as_deref() {
        None => None,
        // No pattern matches nothing.
        Some([]) => Some(GlobSet::empty()),
        Some(patterns) => Some(config::tenant_models(patterns)?),
    };
    let zone = row.spec.time_zone.as_deref().map_or(Ok(TimeZone::UTC), TimeZone::get);
    Ok(Tenant {
        zone: zone.map_err(|_| "its time_zone is none that is known".to_owned())?,
        plan: row.spec.plan.as_deref().map(PlanId::new),
        models,
        model_patterns: row.spec.models.clone().unwrap_or_default(),
        disabled: row.spec.disabled,
        origin: Origin::Store,
        ..Tenant::default()
    })
}

fn member(spec: &MemberSpec) -> Member {
    Member {
        plan: spec.plan.as_deref().map(PlanId::new),
        models: spec.models.clone().map(Into::into),
        origin: Origin::Store,
        ..Member::default()
    }
}

/// Stands in for a team or user that cannot be read: no model, and a plan that does not exist. Without it its callers
/// would have neither list nor limits.
fn refused() -> Member {
    Member {
        plan: Some(PlanId::new("(cannot be read)")),
        models: Some(Arc::from([])),
        origin: Origin::Store,
        ..Member::default()
    }
}

#[cfg(test)]
mod tests;
