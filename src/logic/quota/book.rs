//! A tenant's quota: the rules of the tenant and of its keys, the holds of its open requests, its output
//! estimates. One book is changed by one caller at a time; `io/quota.rs` sees to that.
//!
//! A claim is what an admitted request owes: settle it or release it, once. The caller keeps that "once"; a claim
//! whose hold has expired meanwhile still commits what was used.

use super::decide::{Line, Need, Refused, check_size, decide, standings};
use super::estimate::Estimates;
use super::rule::{Moment, RuleState};
use crate::domain::limit::{Dimension, LimitRule, Plan, QuotaAsk, QuotaUse, Scope, Standing};
use crate::domain::units::{Micros, WallMicros};
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Scopes of a tenant above which unused ones are dropped. Ones in use are never dropped (that would hand out a
/// fresh quota), so the true bound is this plus the keys that are in use.
pub const SCOPES_SOFT_MAX: usize = 1_024;

/// What one admitted request holds, in the order of its plans' rules.
#[derive(Debug)]
pub struct Claim {
    id: u64,
    plans: Vec<(Scope, Arc<Plan>)>,
    model: Arc<str>,
    held: Vec<u64>,
    /// Wall clock minus monotonic clock at admission: settling is told monotonic time only.
    wall_offset: i64,
}

impl Claim {
    /// An instant of the monotonic clock on both clocks, as they stood to each other at admission.
    #[must_use]
    pub fn moment(&self, mono: Micros) -> Moment {
        let mono_signed = i64::try_from(mono.0).unwrap_or(i64::MAX);
        Moment { mono, wall: WallMicros(self.wall_offset.saturating_add(mono_signed)) }
    }

    /// Every rule with its scope and what is held under it.
    fn parts(&self) -> impl Iterator<Item = (&Scope, &LimitRule, u64)> {
        let rules = self.plans.iter().flat_map(|(scope, plan)| plan.rules.iter().map(move |rule| (scope, rule)));
        rules.zip(&self.held).map(|((scope, rule), held)| (scope, rule, *held))
    }
}

/// An admission.
#[derive(Debug)]
#[must_use = "a claim must be settled or released"]
pub struct Grant {
    /// What the request owes.
    pub claim: Arc<Claim>,
    /// The figures after this reservation.
    pub standings: Vec<Standing>,
    /// Shadow rules that would have refused.
    pub shadowed: u32,
}

#[derive(Debug)]
struct Hold {
    claim: Arc<Claim>,
    expires: Micros,
}

type Scopes = FxHashMap<Scope, Vec<(Arc<str>, RuleState)>>;

/// The quota of one tenant.
#[derive(Debug, Default)]
pub struct TenantBook {
    scopes: Scopes,
    holds: FxHashMap<u64, Hold>,
    due: BTreeSet<(Micros, u64)>,
    last_id: u64,
    estimates: Estimates,
    /// Number of scopes at which unused ones are looked for again.
    evict_at: usize,
}

impl TenantBook {
    /// Decides a request and, if it fits, takes what it needs: requests are counted at once, tokens and
    /// concurrency are held until [`Self::settle`] or [`Self::release`], or for `ttl` if nobody refreshes them.
    ///
    /// # Errors
    /// [`Refused`]; then nothing was taken.
    pub fn reserve(&mut self, ask: &QuotaAsk, ttl: Micros, at: Moment) -> Result<Grant, Refused> {
        let need = Need::of(ask, self.estimates.output(&ask.model));
        check_size(ask.plans.iter().map(|(_, plan)| &**plan), &need)?;
        for (scope, plan) in &ask.plans {
            self.follow(scope, plan, at);
        }
        let shares = decide(&self.lines(&ask.plans), &need, at)?;
        self.last_id += 1;
        let mono = i64::try_from(at.mono.0).unwrap_or(i64::MAX);
        let claim = Arc::new(Claim {
            id: self.last_id,
            plans: ask.plans.clone(),
            model: Arc::clone(&ask.model),
            held: shares.amounts,
            wall_offset: at.wall.0.saturating_sub(mono),
        });
        for (scope, rule, amount) in claim.parts() {
            let Some(state) = state_of(&mut self.scopes, scope, &rule.name) else { continue };
            match rule.dimension {
                Dimension::Requests => state.commit(rule, amount),
                Dimension::Tokens | Dimension::Concurrency => state.hold(amount),
            }
        }
        let standings = standings(&self.lines(&ask.plans), at);
        self.keep(&claim, at.mono + ttl);
        Ok(Grant { claim, standings, shadowed: shares.shadowed })
    }

    /// The figures of plans as they stand; nothing is taken.
    #[must_use]
    pub fn standings(&mut self, plans: &[(Scope, Arc<Plan>)], at: Moment) -> Vec<Standing> {
        for (scope, plan) in plans {
            self.follow(scope, plan, at);
        }
        standings(&self.lines(plans), at)
    }

    /// Ends a claim: its hold goes, what was used is committed. Without a count the hold is committed as it
    /// stands; a refund commits no tokens.
    pub fn settle(&mut self, claim: &Claim, used: QuotaUse, now: Micros) {
        self.unhold(claim);
        if let Some(output) = used.output {
            self.estimates.observe(&claim.model, output.0);
        }
        if used.refund {
            return;
        }
        let at = claim.moment(now);
        for (scope, rule, held) in claim.parts() {
            if rule.dimension != Dimension::Tokens {
                continue;
            }
            let states = self.scopes.entry(scope.clone()).or_default();
            let state = state_in(states, &rule.name, || RuleState::new(rule, at));
            // Not `follow`: the claim's rule may be older than a reload that others have followed already.
            state.advance(at);
            state.commit(rule, used.tokens.map_or(held, |tokens| tokens.0));
        }
    }

    /// Ends a claim that nobody settled: tokens and concurrency go back, the request stays counted.
    pub fn release(&mut self, claim: &Claim) {
        self.unhold(claim);
    }

    /// Prolongs a claim's hold. False: it had expired; what it held may be taken by others now.
    pub fn refresh(&mut self, claim: &Claim, expires: Micros) -> bool {
        let Some(hold) = self.holds.get_mut(&claim.id) else { return false };
        self.due.remove(&(hold.expires, claim.id));
        hold.expires = expires;
        self.due.insert((expires, claim.id));
        true
    }

    /// Ends holds that were not refreshed in time, and prolongs by `ttl` those whose owner is alive.
    pub fn expire(&mut self, now: Micros, ttl: Micros, alive: impl Fn(&Arc<Claim>) -> bool) {
        while let Some((expires, id)) = self.due.first().copied().filter(|(expires, _)| *expires <= now) {
            let Some(hold) = self.holds.get(&id) else {
                self.due.remove(&(expires, id));
                continue;
            };
            let lives = ttl.0 > 0 && alive(&hold.claim);
            let claim = Arc::clone(&hold.claim);
            if lives {
                self.refresh(&claim, now + ttl);
            } else {
                self.unhold(&claim);
            }
        }
    }

    /// Drops unused rules and scopes. True if nothing is left that another request could miss: no hold and
    /// nothing committed. (Estimates are not missed: they are learnt anew.)
    pub fn sweep(&mut self, at: Moment) -> bool {
        self.scopes.retain(|_, states| {
            states.iter_mut().for_each(|(_, state)| state.advance(at));
            states.retain(|(_, state)| !state.is_full());
            !states.is_empty()
        });
        self.scopes.is_empty() && self.holds.is_empty()
    }

    /// Units held by open requests under a rule.
    #[must_use]
    pub fn held(&self, scope: &Scope, rule: &str) -> u64 {
        let states = self.scopes.get(scope).map(Vec::as_slice).unwrap_or_default();
        states.iter().find(|(name, _)| &**name == rule).map_or(0, |(_, state)| state.held())
    }

    /// Open claims.
    #[must_use]
    pub fn open(&self) -> usize {
        self.holds.len()
    }

    fn follow(&mut self, scope: &Scope, plan: &Plan, at: Moment) {
        if !self.scopes.contains_key(scope) && self.scopes.len() >= self.evict_at.max(SCOPES_SOFT_MAX) {
            self.sweep(at);
            // Doubling keeps the search for unused scopes cheap per request even if all are in use.
            self.evict_at = 2 * self.scopes.len();
        }
        let states = self.scopes.entry(scope.clone()).or_default();
        for rule in &plan.rules {
            state_in(states, &rule.name, || RuleState::new(rule, at)).follow(rule, at);
        }
    }

    fn lines<'a>(&'a self, plans: &'a [(Scope, Arc<Plan>)]) -> Vec<Line<'a>> {
        let mut lines = Vec::with_capacity(plans.iter().map(|(_, plan)| plan.rules.len()).sum());
        for (scope, plan) in plans {
            let states = self.scopes.get(scope).map(Vec::as_slice).unwrap_or_default();
            for rule in &plan.rules {
                if let Some((_, state)) = states.iter().find(|(name, _)| *name == rule.name) {
                    lines.push(Line { scope, rule, state });
                }
            }
        }
        lines
    }

    fn keep(&mut self, claim: &Arc<Claim>, expires: Micros) {
        self.due.insert((expires, claim.id));
        self.holds.insert(claim.id, Hold { claim: Arc::clone(claim), expires });
    }

    fn unhold(&mut self, claim: &Claim) {
        let Some(hold) = self.holds.remove(&claim.id) else { return };
        self.due.remove(&(hold.expires, claim.id));
        for (scope, rule, held) in claim.parts() {
            if rule.dimension == Dimension::Requests {
                continue;
            }
            if let Some(state) = state_of(&mut self.scopes, scope, &rule.name) {
                state.release(held);
            }
        }
    }
}

fn state_of<'a>(scopes: &'a mut Scopes, scope: &Scope, rule: &str) -> Option<&'a mut RuleState> {
    let states = scopes.get_mut(scope)?;
    states.iter_mut().find(|(name, _)| &**name == rule).map(|(_, state)| state)
}

fn state_in<'a>(
    states: &'a mut Vec<(Arc<str>, RuleState)>,
    rule: &Arc<str>,
    new: impl FnOnce() -> RuleState,
) -> &'a mut RuleState {
    let place = states.iter().position(|(name, _)| name == rule).unwrap_or_else(|| {
        states.push((Arc::clone(rule), new()));
        states.len() - 1
    });
    &mut states[place].1
}

#[cfg(test)]
mod tests;
