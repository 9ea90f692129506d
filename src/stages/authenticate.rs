//! Stage 2: who is it? The credential of the head → `Principal`, and the routes that this principal may take.
//! Decides nothing about models or limits.

use super::accept::Accepted;
use crate::config::snapshot::{Authenticator, Route};
use crate::domain::fault::RETRY_SOON;
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::logic::access::credentials::credentials;
use crate::ports::KeyRejection;
use crate::runtime::Runtime;
use http::HeaderMap;
use std::sync::Arc;

/// A caller with the routes that are open to them.
pub struct Caller {
    /// Who calls.
    pub principal: Principal,
    /// Routes that match the head and accept this principal; never empty.
    pub candidates: Vec<Arc<Route>>,
}

/// Finds out who calls. Where every candidate is open, a credential is not even looked at; where one is given,
/// it must be right.
///
/// # Errors
/// The refusals of semantics.md §1 for credentials.
pub fn authenticate(runtime: &Runtime, accepted: &Accepted, headers: &HeaderMap) -> Result<Caller, Refusal> {
    let open = |route: &Arc<Route>| route.auth.is_empty();
    if accepted.candidates.iter().all(open) {
        return Ok(Caller { principal: Principal::anonymous(), candidates: accepted.candidates.clone() });
    }
    let mut names: Vec<&String> = accepted.candidates.iter().flat_map(|route| &route.auth).collect();
    names.sort_unstable();
    names.dedup();
    match identify(runtime, &names, headers)? {
        Some((authenticator, principal)) => {
            let candidates: Vec<_> = accepted
                .candidates
                .iter()
                .filter(|route| open(route) || route.auth.contains(authenticator))
                .cloned()
                .collect();
            Ok(Caller { principal, candidates })
        }
        None => {
            let candidates: Vec<_> = accepted.candidates.iter().filter(|route| open(route)).cloned().collect();
            if candidates.is_empty() {
                return Err(Refusal::InvalidApiKey);
            }
            Ok(Caller { principal: Principal::anonymous(), candidates })
        }
    }
}

/// Tries the authenticators in name order; the first that knows the credential wins. `None`: no credential.
fn identify<'a>(
    runtime: &Runtime,
    names: &[&'a String],
    headers: &HeaderMap,
) -> Result<Option<(&'a String, Principal)>, Refusal> {
    let now = runtime.services.clock.wall();
    let mut rejection = None;
    for name in names {
        let Some(Authenticator::ApiKey(settings)) = runtime.snapshot.auth.get(*name) else { continue };
        let Some(presented) = credentials(headers, &settings.headers)? else { continue };
        let Some(store) = runtime.services.keys.get(*name) else { return Err(Refusal::Internal) };
        match store.authenticate(presented.bytes(), now) {
            Ok(principal) => return Ok(Some((name, principal))),
            Err(why) => rejection = Some(worse(rejection, why)),
        }
    }
    match rejection {
        None => Ok(None),
        Some(KeyRejection::Invalid) => Err(Refusal::InvalidApiKey),
        Some(KeyRejection::Expired) => Err(Refusal::ApiKeyExpired),
        Some(KeyRejection::Disabled) => Err(Refusal::ApiKeyDisabled),
        Some(KeyRejection::StoreDown) => {
            Err(Refusal::DependencyUnavailable { what: "key store", retry_after: RETRY_SOON })
        }
    }
}

/// Of two rejections the one that says more: a store that is down must not look like a wrong key.
fn worse(before: Option<KeyRejection>, now: KeyRejection) -> KeyRejection {
    match (before, now) {
        (Some(KeyRejection::StoreDown), _) | (_, KeyRejection::StoreDown) => KeyRejection::StoreDown,
        (Some(known), KeyRejection::Invalid) => known,
        (_, now) => now,
    }
}
