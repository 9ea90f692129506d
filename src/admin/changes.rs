//! How handlers look at the store and change it. Decides under whose name a change is audited, and what the store's no
//! means to a caller.

use super::call::Call;
use super::problem::Problem;
use crate::domain::ids::{TeamId, TenantId};
use crate::io::store::Store;
use crate::io::store::change::Change;
use crate::io::store::error::{Kind, StoreError};
use crate::io::store::read::Reader;
use crate::io::store::rows::{Actor, BrokenRow, Listing, MemberKind, Page};
use crate::logic::access::models;
use std::collections::BTreeMap;

/// Teams that are named to who misspells one: enough for an eye, and an answer stays small.
const SHOWN_TEAMS: u32 = 20;

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            Kind::NotFound => Self::NotFound(match error {
                StoreError::NotFound { what, .. } => what,
                _ => "entry",
            }),
            Kind::Conflict => Self::Conflict { code: "conflict", message: sentence(&error) },
            Kind::Refused => {
                Self::Invalid { status: 400, code: "invalid_parameter", message: sentence(&error), param: None }
            }
            Kind::Unavailable => {
                tracing::warn!(%error, "the store did not do what the admin API asked it for");
                Self::unavailable("store")
            }
        }
    }
}

/// An error's words as a sentence.
fn sentence(error: &StoreError) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    let first: String = letters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// Does one change, whole or not at all, and audits it under the caller's name.
///
/// # Errors
/// That of `work`; the store's.
pub fn change<T>(
    call: &Call,
    store: &mut Store,
    work: impl FnOnce(&mut Change<'_>) -> Result<T, Problem>,
) -> Result<T, Problem> {
    let mut problem = None;
    let done = store.change(&actor(call), call.now, |change| {
        work(change).map_err(|why| {
            problem = Some(why);
            // Takes everything back; what is told is the problem.
            StoreError::Refused("the change was given up".to_owned())
        })
    });
    done.map_err(|error| problem.unwrap_or_else(|| error.into()))
}

/// Who is in the audit log: the key, else the user, else how they proved who they are.
fn actor(call: &Call) -> Actor {
    let principal = &call.principal;
    let key = principal.key.as_ref().map(|key| key.as_str());
    let user = principal.profile.user.as_ref().map(|user| user.as_str());
    let kind = principal.method.name();
    Actor {
        kind: kind.to_owned(),
        id: key.or(user).unwrap_or(kind).to_owned(),
        tenant: Some(call.tenant().as_str().to_owned()),
        request_id: Some(call.request_id.to_string()),
    }
}

/// Refuses a tenant that is neither configured nor in the store.
///
/// # Errors
/// The given problem; the store's.
pub fn tenant_exists(call: &Call, reader: &mut Reader<'_>, tenant: &str, absent: Problem) -> Result<(), Problem> {
    let configured = call.runtime.snapshot.tenants.contains_key(&TenantId::new(tenant));
    if configured || reader.tenant(tenant)?.is_some() { Ok(()) } else { Err(absent) }
}

/// Refuses a plan that this tenant has not: neither configured, nor the installation's, nor its own.
///
/// # Errors
/// 422 at `/plan`; the store's.
pub fn plan_exists(call: &Call, reader: &mut Reader<'_>, tenant: &str, plan: Option<&str>) -> Result<(), Problem> {
    let Some(plan) = plan else { return Ok(()) };
    if call.runtime.snapshot.plans.contains_key(&crate::domain::ids::PlanId::new(plan)) {
        return Ok(());
    }
    let stored = reader.plan(plan)?.filter(|stored| stored.tenant.as_deref().is_none_or(|owner| owner == tenant));
    if stored.is_some() { Ok(()) } else { Err(Problem::member("/plan", "There is no plan of this name. See /plans.")) }
}

/// Refuses a team that this tenant has not, neither configured nor stored: a misspelt one would have no plan and no model
/// list. Users may be unknown: a key may name somebody who has no limits of their own.
///
/// # Errors
/// 422 at `/team_id` with the teams that there are; the store's.
pub fn team_exists(call: &Call, reader: &mut Reader<'_>, tenant: &str, team: Option<&str>) -> Result<(), Problem> {
    let Some(team) = team else { return Ok(()) };
    let configured = call.runtime.snapshot.tenants.get(&TenantId::new(tenant)).map(|tenant| &tenant.teams);
    if configured.is_some_and(|teams| teams.contains_key(&TeamId::new(team)))
        || reader.member(MemberKind::Team, tenant, team)?.is_some()
    {
        return Ok(());
    }
    let stored = reader.members(MemberKind::Team, tenant, &Page { after: None, limit: SHOWN_TEAMS })?;
    let more = stored.next.is_some();
    let mut names: Vec<&str> = configured.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    names.extend(stored.rows.iter().map(|row| row.id.as_str()));
    names.sort_unstable();
    names.dedup();
    let more = more || names.len() > SHOWN_TEAMS as usize;
    names.truncate(SHOWN_TEAMS as usize);
    let known = match (names.as_slice(), more) {
        ([], _) => "This tenant has no teams.".to_owned(),
        (names, true) => format!("Among those that there are: {}.", names.join(", ")),
        (names, false) => format!("Known: {}.", names.join(", ")),
    };
    Err(Problem::member("/team_id", format!("There is no team of this name. {known}")))
}

/// Refuses model patterns that would mean something else elsewhere.
///
/// # Errors
/// 422 that points to the list.
pub fn check_models(list: Option<&[String]>) -> Result<(), Problem> {
    let told = |fault| Problem::member("/models", format!("This is no list of model patterns: {fault}."));
    list.map_or(Ok(()), |list| models::check_patterns(list).map_err(told))
}

/// Refuses to change what the configuration says.
///
/// # Errors
/// 409; it names the file to who operates the installation.
pub fn not_configured(call: &Call, configured: bool, what: &str, name: &str) -> Result<(), Problem> {
    if !configured {
        return Ok(());
    }
    let place = if call.operates() { call.runtime.snapshot.file.display().to_string() } else { "a file".to_owned() };
    let message = format!("The {what} `{name}` is configured in {place}, which wins over the store. Change it there.");
    Err(Problem::Conflict { code: "configured_in_file", message })
}

/// The store's page of a list whose place is one key.
///
/// # Errors
/// 400 for a cursor of another list.
pub fn page(call: &Call) -> Result<Page, Problem> {
    let after = call.after(1)?.and_then(|keys| keys.into_iter().next());
    Ok(Page { after, limit: call.query.limit() })
}

/// The rows of a listing; those that cannot be read are said in the log and left out.
pub fn readable<T>(listing: Listing<T>) -> (Vec<T>, Option<String>) {
    for BrokenRow { what, id, fault } in &listing.broken {
        tracing::error!(what, id, fault, "a row of the store cannot be read; the admin API leaves it out");
    }
    (listing.rows, listing.next)
}

/// Puts what is configured and what is stored into one page by name; the configuration wins. `next` is the store's
/// place: what is configured beyond it is for the pages to come.
pub fn merge<T>(
    configured: impl Iterator<Item = (String, T)>,
    stored: impl Iterator<Item = (String, T)>,
    next: Option<&str>,
    page: &Page,
) -> (Vec<T>, Option<String>) {
    let mut all: BTreeMap<String, T> = stored.collect();
    let after = page.after.as_deref().unwrap_or_default();
    all.extend(configured.filter(|(name, _)| name.as_str() > after && next.is_none_or(|next| name.as_str() <= next)));
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let more = next.is_some() || all.len() > limit;
    let mut last = None;
    let mut rows = Vec::with_capacity(all.len().min(limit));
    for (name, row) in all.into_iter().take(limit) {
        rows.push(row);
        last = Some(name);
    }
    (rows, last.filter(|_| more).or_else(|| next.map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages through `configured` and `stored` as the handlers do.
    fn walk(configured: &[&str], stored: &[&str], limit: u32) -> Vec<(String, &'static str)> {
        let mut seen = Vec::new();
        let mut page = Page { after: None, limit };
        for _ in 0..50 {
            let after = page.after.clone().unwrap_or_default();
            let mut rows: Vec<&str> = stored.iter().copied().filter(|name| *name > after.as_str()).collect();
            let more = rows.len() > limit as usize;
            rows.truncate(limit as usize);
            let next = rows.last().copied().filter(|_| more);
            let with = |names: Vec<&str>, origin| {
                names.into_iter().map(move |name| (name.to_owned(), (name.to_owned(), origin))).collect::<Vec<_>>()
            };
            let (shown, next) = merge(
                with(configured.to_vec(), "config").into_iter(),
                with(rows.clone(), "store").into_iter(),
                next,
                &page,
            );
            assert!(shown.len() <= limit as usize, "the limit holds");
            seen.extend(shown);
            match next {
                Some(next) => page.after = Some(next),
                None => return seen,
            }
        }
        panic!("the pages never end");
    }

    #[test]
    fn every_name_is_on_one_page_and_the_configuration_wins() {
        let configured = ["a", "c", "e", "x", "z"];
        let stored = ["b", "c", "d", "e", "f", "g", "y"];
        for limit in 1..9 {
            let seen = walk(&configured, &stored, limit);
            let names: String = seen.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, "abcdefgxyz", "all of them in order, {limit} at a time");
            let origin = |name: &str| seen.iter().find(|(one, _)| one == name).map(|(_, origin)| *origin);
            assert_eq!((origin("c"), origin("d")), (Some("config"), Some("store")), "{limit} at a time");
        }
        assert_eq!(walk(&[], &[], 3), Vec::new(), "nothing is an end too");
    }
}
