//! The lines of a request: which rules hold for it, at which level, and which of them count it. Decides nothing about
//! amounts, and looks nothing up but in the directory that it is given.

use super::plan::{AskLine, LimitRule, Plan};
use crate::domain::ids::{PlanId, PoolId};
use crate::domain::limit::{Dimension, Priority, Scope};
use crate::domain::principal::Principal;
use crate::domain::units::Tokens;
use crate::logic::access::directory::{Directory, Member, Tenant};
use crate::logic::access::expression::Variables;
use jiff::tz::TimeZone;
use std::sync::Arc;

/// Lines of one request at most: so many rules are weighed, and so many figures told, in one step.
pub const MAX_LINES: usize = 256;

/// Whose rules hold.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// Who there is.
    pub directory: &'a Directory,
    /// Who calls.
    pub principal: &'a Principal,
    /// What everybody shares: `limits.global` and `limits.models`.
    pub shared: &'a Plan,
    /// The pool that serves the request, with its limits; `None`: it is not known, or none does.
    pub pool: Option<(&'a PoolId, &'a Plan)>,
}

/// A rule at a level.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Where it counts.
    pub scope: Scope,
    /// What it says.
    pub rule: &'a Arc<LimitRule>,
}

/// Everything that holds for a caller.
#[derive(Debug)]
pub struct InForce<'a> {
    /// The rules, widest level first: global, pool, tenant, team, user, key.
    pub candidates: Vec<Candidate<'a>>,
    /// The smallest `max_tokens_per_request`.
    pub max_tokens_per_request: Option<Tokens>,
    /// The highest priority of the caller's own plans.
    pub priority: Priority,
    /// Where the tenant's days and months begin.
    pub zone: TimeZone,
}

/// Why nobody can say which rules hold. It is the installation's fault and not the caller's: without an answer they would
/// have no limit at all, so they are refused until it is put right.
#[derive(Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Unclear {
    /// A plan is named and does not exist.
    #[error("the plan `{plan}` of this {level} does not exist")]
    MissingPlan {
        /// Its name.
        plan: PlanId,
        /// Who is said to have it: `tenant`, `key`, …
        level: &'static str,
    },
    /// More than [`MAX_LINES`] rules count one request.
    #[error("{0} limits count one request, and at most {MAX_LINES} can")]
    TooMany(usize),
}

/// What kind of request it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Errand {
    /// It goes upstream: every rule counts it.
    Upstream,
    /// Weir answers it: it is one request of its caller and costs nothing that others share.
    Question,
    /// Weir answers it out of what it has at hand: nothing counts it.
    Answer,
}

/// What a rule may ask of a request.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The model that the caller named.
    pub model: Option<&'a str>,
    /// What conditions may look at; `None`: nothing is known, and every condition counts.
    pub variables: Option<&'a Variables>,
    /// What kind it is.
    pub errand: Errand,
}

/// Why a rule does not count a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skipped {
    /// It names other models.
    Model,
    /// Its `when` does not hold.
    Condition,
    /// Weir answers it, and the rule is not about requests of the caller, or it counts for nothing.
    Question,
}

impl Skipped {
    /// The reason, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "it names other models",
            Self::Condition => "its condition does not hold",
            Self::Question => "Weir answers this itself",
        }
    }
}

impl Candidate<'_> {
    /// Whether this rule counts a request. A condition that cannot be evaluated counts: a limit that nobody can read
    /// must not be none.
    ///
    /// # Errors
    /// Why it does not.
    pub fn counts(&self, asked: &Asked<'_>) -> Result<(), Skipped> {
        let rule = self.rule;
        let own_request = rule.dimension == Dimension::Requests && !self.scope.is_shared();
        let counts = match asked.errand {
            Errand::Upstream => true,
            Errand::Question => own_request,
            Errand::Answer => false,
        };
        if !counts {
            return Err(Skipped::Question);
        }
        let names = |model| rule.model.as_ref().is_none_or(|pattern| pattern.matches(model));
        if !asked.model.map_or(rule.model.is_none(), names) {
            return Err(Skipped::Model);
        }
        let Some((when, variables)) = rule.when.as_ref().zip(asked.variables) else { return Ok(()) };
        if when.truth(variables).unwrap_or(true) { Ok(()) } else { Err(Skipped::Condition) }
    }
}

impl InForce<'_> {
    /// True where some rule has a condition, so that its variables are worth making.
    #[must_use]
    pub fn is_conditional(&self) -> bool {
        self.candidates.iter().any(|candidate| candidate.rule.when.is_some())
    }

    /// The rules that count a request.
    ///
    /// # Errors
    /// [`Unclear::TooMany`].
    pub fn lines(&self, asked: &Asked<'_>) -> Result<Vec<AskLine>, Unclear> {
        let counted = self.candidates.iter().filter(|candidate| candidate.counts(asked).is_ok());
        let lines: Vec<AskLine> = counted
            .map(|candidate| AskLine { scope: candidate.scope.clone(), rule: Arc::clone(candidate.rule) })
            .collect();
        if lines.len() > MAX_LINES { Err(Unclear::TooMany(lines.len())) } else { Ok(lines) }
    }
}

/// Everything that holds for a caller, widest level first: a request must fit all of it. The tenant's plan counts all its
/// callers together, the team's and the user's theirs, the key's that key alone; budgets stand beside the plan of their
/// level.
///
/// # Errors
/// [`Unclear::MissingPlan`].
pub fn in_force<'a>(asker: &Asker<'a>) -> Result<InForce<'a>, Unclear> {
    let mut found = Gathered { directory: asker.directory, plans: Vec::with_capacity(4), candidates: Vec::new() };
    found.rules(&Scope::Global, &asker.shared.rules);
    if let Some((pool, limits)) = asker.pool {
        found.rules(&Scope::Pool(pool.clone()), &limits.rules);
    }
    let profile = &asker.principal.profile;
    let tenant = asker.directory.tenants.get(&profile.tenant);
    if let Some(tenant) = tenant {
        found.of_tenant(asker.principal, tenant)?;
    }
    if profile.plan.is_some() {
        found.plan(profile.plan.as_ref(), &own_scope(asker.principal))?;
    }
    if let Some((tenant, key)) = tenant.zip(asker.principal.key.as_ref())
        && let Some(budgets) = tenant.key_budgets.get(key)
    {
        found.rules(&Scope::Key(key.clone()), budgets);
    }
    let own = || found.plans.iter().map(|(_, plan)| *plan);
    let all = own().chain([asker.shared]).chain(asker.pool.map(|(_, plan)| plan));
    Ok(InForce {
        max_tokens_per_request: all.filter_map(|plan| plan.max_tokens_per_request).min(),
        priority: own().map(|plan| plan.priority).max().unwrap_or_default(),
        zone: tenant.map_or(TimeZone::UTC, |tenant| tenant.zone.clone()),
        candidates: found.candidates,
    })
}

/// What was gathered so far.
struct Gathered<'a> {
    directory: &'a Directory,
    plans: Vec<(Scope, &'a Plan)>,
    candidates: Vec<Candidate<'a>>,
}

impl<'a> Gathered<'a> {
    fn rules(&mut self, scope: &Scope, rules: &'a [Arc<LimitRule>]) {
        self.candidates.extend(rules.iter().map(|rule| Candidate { scope: scope.clone(), rule }));
    }

    fn plan(&mut self, id: Option<&PlanId>, scope: &Scope) -> Result<(), Unclear> {
        let Some(id) = id else { return Ok(()) };
        let missing = || Unclear::MissingPlan { plan: id.clone(), level: scope.name() };
        let plan: &'a Plan = self.directory.plans.get(id).ok_or_else(missing)?;
        // The same plan twice at one level would count each request twice.
        if !self.plans.iter().any(|(at, other)| at == scope && std::ptr::eq(*other, plan)) {
            self.plans.push((scope.clone(), plan));
            self.rules(scope, &plan.rules);
        }
        Ok(())
    }

    fn member(&mut self, scope: &Scope, member: &'a Member) -> Result<(), Unclear> {
        self.plan(member.plan.as_ref(), scope)?;
        self.rules(scope, &member.budgets);
        Ok(())
    }

    fn of_tenant(&mut self, principal: &Principal, tenant: &'a Tenant) -> Result<(), Unclear> {
        let profile = &principal.profile;
        let name = &profile.tenant;
        let scope = Scope::Tenant(name.clone());
        self.plan(tenant.plan.as_ref(), &scope)?;
        self.rules(&scope, &tenant.budgets);
        if let Some((team, member)) = profile.team.as_ref().and_then(|team| tenant.teams.get_key_value(team)) {
            self.member(&Scope::Team(name.clone(), team.clone()), member)?;
        }
        if let Some((user, member)) = profile.user.as_ref().and_then(|user| tenant.users.get_key_value(user)) {
            self.member(&Scope::User(name.clone(), user.clone()), member)?;
        }
        Ok(())
    }
}

/// Where a plan on the credential itself counts: the key alone; without a key the narrowest level that has a name.
fn own_scope(principal: &Principal) -> Scope {
    let profile = &principal.profile;
    let tenant = || profile.tenant.clone();
    match (&principal.key, &profile.user, &profile.team) {
        (Some(key), _, _) => Scope::Key(key.clone()),
        (None, Some(user), _) => Scope::User(tenant(), user.clone()),
        (None, None, Some(team)) => Scope::Team(tenant(), team.clone()),
        (None, None, None) => Scope::Tenant(tenant()),
    }
}

#[cfg(test)]
mod tests;
