//! Stage 2: who is it? The credential of the head → `Principal`, and the routes that this principal may take.
//! Decides nothing about models or limits.

use super::accept::Accepted;
use crate::config::snapshot::{Authenticator, Route};
use crate::domain::fault::RETRY_SOON;
use crate::domain::principal::{AuthMethod, Principal, Profile};
use crate::domain::refusal::Refusal;
use crate::domain::surface::Surface;
use crate::domain::units::WallMicros;
use crate::logic::access::api_key;
use crate::logic::access::credentials::{Found, Presented};
use crate::logic::access::scopes;
use crate::ports::{AuthRequest, ClientCertificate, Rejection, Verdict};
use crate::runtime::Runtime;
use http::HeaderMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

/// Where tokens of identity providers are (RFC 6750 §2.1).
static BEARER_HEADER: LazyLock<[String; 1]> = LazyLock::new(|| ["authorization".to_owned()]);

/// A caller with the routes that are open to them.
pub struct Caller {
    /// Who calls.
    pub principal: Principal,
    /// Routes that match the head and accept this principal; never empty.
    pub candidates: Vec<Arc<Route>>,
}

/// What of a request may prove who calls.
pub struct Arrival<'a> {
    /// `POST`
    pub method: &'a str,
    /// Path and query as they came.
    pub target: &'a str,
    /// The `Host`.
    pub host: Option<&'a str>,
    /// All fields.
    pub headers: &'a HeaderMap,
    /// The caller's address, seen through trusted proxies.
    pub client: IpAddr,
    /// The certificate that the listener verified.
    pub certificate: Option<&'a ClientCertificate>,
}

impl<'a> Arrival<'a> {
    fn request(&self, credential: Option<&'a [u8]>, now: WallMicros) -> AuthRequest<'a> {
        AuthRequest {
            credential,
            certificate: self.certificate,
            method: self.method,
            target: self.target,
            host: self.host,
            headers: self.headers,
            client: self.client,
            now,
        }
    }
}

/// Finds out who calls. Where every candidate is open, a credential is not even looked at; where one is given,
/// it must be right.
///
/// # Errors
/// The refusals of semantics.md §1 for credentials.
pub async fn authenticate(runtime: &Runtime, accepted: &Accepted, arrival: &Arrival<'_>) -> Result<Caller, Refusal> {
    let open = |route: &Arc<Route>| route.auth.is_empty();
    if accepted.candidates.iter().all(open) {
        return Ok(Caller { principal: Principal::anonymous(), candidates: accepted.candidates.clone() });
    }
    let mut names: Vec<&String> = accepted.candidates.iter().flat_map(|route| &route.auth).collect();
    names.sort_unstable();
    names.dedup();
    match identify(runtime, &names, arrival).await? {
        Some((authenticator, principal)) => {
            note_deprecated(runtime, &principal);
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

/// Finds out who calls, where no route decides who may ask (the admin API): by any of the authenticators `names`. The
/// one that knows the caller is told too.
///
/// # Errors
/// The refusals of semantics.md §1 for credentials; no credential at all is `InvalidApiKey`.
pub async fn principal(
    runtime: &Runtime,
    names: &[String],
    arrival: &Arrival<'_>,
) -> Result<(String, Principal), Refusal> {
    let names: Vec<&String> = names.iter().collect();
    let Some((name, principal)) = identify(runtime, &names, arrival).await? else { return Err(Refusal::InvalidApiKey) };
    note_deprecated(runtime, &principal);
    Ok((name.clone(), principal))
}

fn note_deprecated(runtime: &Runtime, principal: &Principal) {
    if principal.deprecated_until.is_some() {
        runtime.services.observer.deprecated_key();
    }
}

/// Asks the authenticators in the order of [`rank`], those that know the answer by heart before those that have to ask
/// others; the first that knows the caller wins. `None`: no credential. A presented credential is never made good by
/// something else that came along: beside it certificates do not count, nor services that are not shown it; and a key
/// of ours is judged by those who know keys alone.
async fn identify<'n>(
    runtime: &Runtime,
    names: &[&'n String],
    arrival: &Arrival<'_>,
) -> Result<Option<(&'n String, Principal)>, Refusal> {
    let now = runtime.services.clock.wall();
    let all = unambiguous(runtime, names, arrival)?;
    let mut rejection = None;
    let mut asking = Vec::new();
    for name in judges(runtime, names, arrival, all) {
        let Some(authenticator) = runtime.services.auth.get(name) else { return Err(Refusal::Internal) };
        let own = if names.len() == 1 { all } else { found_by(runtime, name, arrival, Found::default()) };
        if own.malformed {
            rejection = Some(stronger(rejection, Rejection::Invalid, name));
            continue;
        }
        let request = arrival.request(own.presented.map(Presented::bytes), now);
        match judged(runtime, name, authenticator.look(&request)) {
            Verdict::Known(principal) => return Ok(Some((name, principal))),
            Verdict::NotMine => {}
            Verdict::Rejected(why) if is_final(why, &request) => return Err(refusal(why, name)),
            Verdict::Rejected(why) => rejection = Some(stronger(rejection, why, name)),
            Verdict::Ask => asking.push((name, authenticator, request)),
        }
    }
    for (name, authenticator, request) in asking {
        match judged(runtime, name, authenticator.ask(&request).await) {
            Verdict::Known(principal) => return Ok(Some((name, principal))),
            Verdict::NotMine => {}
            Verdict::Rejected(why) if is_final(why, &request) => return Err(refusal(why, name)),
            Verdict::Rejected(why) => rejection = Some(stronger(rejection, why, name)),
            Verdict::Ask => return Err(Refusal::Internal),
        }
    }
    match rejection {
        Some((why, name)) => Err(refusal(why, name)),
        // Nobody takes it for theirs: that is a bad credential, not none.
        None if all.presented.is_some() => Err(Refusal::InvalidApiKey),
        None => Ok(None),
    }
}

/// Who has the first word: keys, tokens, certificates, and last the services that see the whole head.
fn rank(authenticator: &Authenticator) -> u8 {
    match authenticator {
        Authenticator::ApiKey(_) => 0,
        Authenticator::Jwt(_) => 1,
        Authenticator::Introspection(_) => 2,
        Authenticator::ClientCert(_) => 3,
        Authenticator::ExtAuthz(_) => 4,
    }
}

/// Those of `names` who may judge a request that carries `all`, in their order.
fn judges<'n>(runtime: &Runtime, names: &[&'n String], arrival: &Arrival<'_>, all: Found<'_>) -> Vec<&'n String> {
    let settings = |name: &String| runtime.snapshot.auth.get(name);
    let knows_keys = |name: &&&String| matches!(settings(name), Some(Authenticator::ApiKey(_)));
    let is_key = all.presented.is_some_and(|presented| api_key::parse(presented.bytes()).is_ok());
    let keys_alone = is_key && names.iter().any(|name| knows_keys(&name));
    let presented = all.presented.is_some() || all.malformed;
    let may = |name: &&&String| match settings(name) {
        _ if keys_alone => knows_keys(name),
        Some(Authenticator::ClientCert(_)) => !presented,
        Some(Authenticator::ExtAuthz(gate)) => !presented || is_shown(runtime, names, arrival, &gate.send),
        _ => true,
    };
    let mut judges: Vec<&String> = names.iter().filter(may).copied().collect();
    judges.sort_by_key(|name| settings(name).map(rank));
    judges
}

/// True where a service that is sent the headers `send` sees every credential that the others look for.
fn is_shown(runtime: &Runtime, names: &[&String], arrival: &Arrival<'_>, send: &[String]) -> bool {
    names.iter().filter_map(|name| runtime.snapshot.auth.get(*name)).all(|authenticator| {
        let places = places(authenticator);
        let carries = |place: &&String| {
            arrival.headers.get_all(place.as_str()).iter().any(|value| !value.as_bytes().trim_ascii().is_empty())
        };
        let in_query = key_query(arrival.target, places).map(|query| Found::default().and_query(query));
        let in_query = in_query.is_some_and(|found| found.presented.is_some() || found.malformed);
        !in_query && places.iter().filter(carries).all(|place| send.contains(place))
    })
}

/// A key that has ended or is switched off is known: that nobody else takes it changes nothing.
fn is_final(why: Rejection, request: &AuthRequest<'_>) -> bool {
    request.credential.is_some() && matches!(why, Rejection::Expired | Rejection::Disabled)
}

/// What the request carries in all places where any of the authenticators looks. Something that is no credential of
/// ours (`Basic`) is left to those who look at more than keys and tokens, unless there is a second one beside it.
fn unambiguous<'a>(runtime: &Runtime, names: &[&String], arrival: &Arrival<'a>) -> Result<Found<'a>, Refusal> {
    let all = names.iter().fold(Found::default(), |found, name| found_by(runtime, name, arrival, found));
    if all.malformed && all.presented.is_none() {
        return Ok(all);
    }
    all.one().map(|_| all)
}

/// What the request carries in the places where one authenticator looks, added to what was found before.
fn found_by<'a>(runtime: &Runtime, name: &str, arrival: &Arrival<'a>, found: Found<'a>) -> Found<'a> {
    let Some(authenticator) = runtime.snapshot.auth.get(name) else { return found };
    let places = places(authenticator);
    let found = found.and_headers(arrival.headers, places);
    match key_query(arrival.target, places) {
        Some(query) => found.and_query(query),
        None => found,
    }
}

/// The headers in which an authenticator looks for the one credential.
fn places(authenticator: &Authenticator) -> &[String] {
    match authenticator {
        Authenticator::ApiKey(settings) => &settings.headers,
        Authenticator::Jwt(_) | Authenticator::Introspection(_) => BEARER_HEADER.as_slice(),
        Authenticator::ClientCert(_) | Authenticator::ExtAuthz(_) => &[],
    }
}

/// The query in which a key may be: Google's way beside its header, so only where that header counts too.
fn key_query<'a>(target: &'a str, headers: &[String]) -> Option<&'a str> {
    let (path, query) = target.split_once('?')?;
    let google = Surface::takes_key_in_query(path) && headers.iter().any(|name| name == "x-goog-api-key");
    google.then_some(query)
}

/// A caller whose tenant is switched off, or gone, is refused like one whom nobody knows. `name` is the authenticator
/// that knows the caller.
fn judged(runtime: &Runtime, name: &str, verdict: Verdict) -> Verdict {
    let Verdict::Known(principal) = verdict else { return verdict };
    let directory = runtime.services.directory.load();
    let open = directory.tenants.get(&principal.profile.tenant).is_some_and(|tenant| !tenant.disabled);
    if open {
        return Verdict::Known(within_reach(runtime, name, principal));
    }
    Verdict::Rejected(match principal.method {
        AuthMethod::ApiKey => Rejection::Invalid,
        _ => Rejection::BadToken,
    })
}

/// The caller without the roles that reach all tenants, where their authenticator may not give those: who names the
/// groups of an identity provider must not become an operator by the name of one.
fn within_reach(runtime: &Runtime, name: &str, principal: Principal) -> Principal {
    if runtime.snapshot.auth.get(name).is_some_and(Authenticator::makes_operators) {
        return principal;
    }
    let Some(roles) = scopes::without_reach(&runtime.snapshot.roles, principal.profile.roles.as_deref()) else {
        return principal;
    };
    tracing::debug!(authenticator = name, "roles that reach all tenants were left out: it has no `operators: true`");
    let profile = Profile { roles: Some(roles), ..principal.profile.as_ref().clone() };
    Principal { profile: Arc::new(profile), ..principal }
}

/// `name` is the authenticator that said no.
fn refusal(why: Rejection, name: &str) -> Refusal {
    match why {
        Rejection::Invalid => Refusal::InvalidApiKey,
        Rejection::Expired => Refusal::ApiKeyExpired,
        Rejection::Disabled => Refusal::ApiKeyDisabled,
        Rejection::BadToken => Refusal::InvalidToken,
        Rejection::Forbidden => Refusal::InsufficientPermissions { rule: Arc::from(name) },
        Rejection::Unavailable(what) => Refusal::DependencyUnavailable { what, retry_after: RETRY_SOON },
    }
}

/// Of two rejections the one that says more; of two equal ones the first. What could not be looked up must not look
/// like a wrong key, and a key that is known to have ended not like an unknown one.
fn stronger<'n>(before: Option<(Rejection, &'n str)>, why: Rejection, name: &'n str) -> (Rejection, &'n str) {
    match before {
        Some(before) if weight(before.0) >= weight(why) => before,
        _ => (why, name),
    }
}

fn weight(why: Rejection) -> u8 {
    match why {
        Rejection::Unavailable(_) => 4,
        Rejection::Forbidden => 3,
        Rejection::Expired | Rejection::Disabled => 2,
        Rejection::BadToken => 1,
        Rejection::Invalid => 0,
    }
}
