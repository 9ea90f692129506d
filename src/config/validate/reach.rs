//! Routes that no request can reach, because an earlier one takes everything that they match.
//! Says so only where it is certain: regular expressions and globs are compared as texts.

use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::snapshot::{Action, Match, PathMatch, Route, Snapshot};
use crate::domain::surface::Surface;

/// Paths of the surfaces on which the model decides too.
const LLM_PATHS: &[&str] =
    &["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/messages"];

/// Warns of every unreachable route.
pub fn check(root: &Item<'_>, snapshot: &Snapshot) {
    let items = root.fields_unchecked().item("routes").list();
    for (index, (later, item)) in snapshot.routes.iter().zip(&items).enumerate() {
        let earlier = snapshot.routes[..index].iter().zip(&items).find(|(earlier, _)| covers(earlier, later, snapshot));
        if let Some((earlier, first)) = earlier {
            let spot = item.findings.spot(first.node.place);
            let message =
                format!("route `{}` is never reached: `{}` at {spot} takes all that it matches", later.id, earlier.id);
            item.error(Code::Unreachable, message, Some("move it before that route".into()));
        }
    }
}

fn covers(earlier: &Route, later: &Route, snapshot: &Snapshot) -> bool {
    let (one, other) = (&earlier.matcher, &later.matcher);
    (earlier.when.is_none() || earlier.when == later.when)
        && (one.listener.is_none() || one.listener == other.listener)
        && host_covers(one.host.as_deref(), other.host.as_deref())
        && path_covers(&one.path, &other.path)
        && (one.methods.is_empty()
            || !other.methods.is_empty() && other.methods.iter().all(|m| one.methods.contains(m)))
        && model_covers(earlier, later, snapshot)
}

fn host_covers(one: Option<&str>, other: Option<&str>) -> bool {
    match (one, other) {
        (None, _) => true,
        (Some(one), Some(other)) => one == other || one.strip_prefix('*').is_some_and(|tail| other.ends_with(tail)),
        (Some(_), None) => false,
    }
}

fn path_covers(one: &PathMatch, other: &PathMatch) -> bool {
    match (one, other) {
        (PathMatch::Any, _) => true,
        (PathMatch::Prefix(prefix), PathMatch::Any) => prefix == "/",
        (PathMatch::Prefix(prefix), PathMatch::Exact(path) | PathMatch::Prefix(path)) => under(prefix, path),
        (PathMatch::Prefix(prefix), PathMatch::Regex(_)) => prefix == "/",
        (PathMatch::Exact(one), PathMatch::Exact(other)) => one == other,
        (PathMatch::Regex(one), PathMatch::Exact(path)) => one.is_match(path),
        (PathMatch::Regex(one), PathMatch::Regex(other)) => one.as_str() == other.as_str(),
        _ => false,
    }
}

/// True if a path starts with a prefix at a `/`.
fn under(prefix: &str, path: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|tail| tail.is_empty() || tail.starts_with('/'))
}

/// On the paths of models the model decides too: a route without `model` serves what its pools serve, which
/// is not known here, so it covers only routes to the same pools.
fn model_covers(earlier: &Route, later: &Route, snapshot: &Snapshot) -> bool {
    if let Some(set) = &earlier.matcher.models {
        let known = &earlier.matcher.model_patterns;
        let every = |pattern: &String| known.contains(pattern) || (plain(pattern) && set.is_match(pattern));
        return later.matcher.models.is_some() && later.matcher.model_patterns.iter().all(every);
    }
    if !meets_models(&later.matcher) {
        return true;
    }
    match (&earlier.action, &later.action) {
        (Action::Respond { .. }, _) => true,
        (Action::Pools(first), Action::Pools(second)) => {
            let same = second.iter().all(|target| first.iter().any(|other| other.pool == target.pool));
            same && (later.matcher.models.is_none() || first.iter().all(|target| lists_nothing(snapshot, target.pool)))
        }
        (Action::Pools(_), Action::Respond { .. }) => false,
    }
}

fn lists_nothing(snapshot: &Snapshot, pool: usize) -> bool {
    snapshot.pools.get(pool).is_some_and(|pool| pool.models.is_empty())
}

fn plain(pattern: &str) -> bool {
    !pattern.contains(['*', '?', '[', '{', '\\'])
}

fn meets_models(matcher: &Match) -> bool {
    if !matcher.methods.is_empty() && !matcher.methods.iter().any(|method| method == "POST") {
        return false;
    }
    match &matcher.path {
        PathMatch::Exact(path) => Surface::of("POST", path).is_llm(),
        PathMatch::Prefix(prefix) => LLM_PATHS.iter().any(|path| under(prefix, path)),
        PathMatch::Any | PathMatch::Regex(_) => true,
    }
}
