//! What a caller may ask about themselves on a public listener: who they are, what they may, how their limits stand,
//! what they have used. Decides that this is their own credential's and nobody else's; scopes are `check`'s.

use super::form::written;
use super::problem::Problem;
use super::query::{Kind, Parameter, Query};
use super::stores::Turns;
use crate::domain::fault::RETRY_SOON;
use crate::domain::limit::Standing;
use crate::domain::principal::{AuthMethod, Principal};
use crate::domain::refusal::Refusal;
use crate::domain::units::WallMicros;
use crate::io::usage_query::{Filter, Line, UsageReader};
use crate::logic::access::scopes::{self, MEMBER, Scope};
use crate::runtime::Runtime;
use crate::stages::accept::Facts;
use crate::stages::debit;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

/// Where callers ask about themselves.
pub const PATH: &str = "/v1/me";

const USAGE: &[Parameter] = &[
    Parameter::new("from", Kind::Time, "Received then or later."),
    Parameter::new("to", Kind::Time, "Received before then."),
    Parameter::new("by", Kind::Words(&["model", "day"]), "Sums by these."),
];
/// Lines of sums at most: by model and day, the longest time of ten models.
const MAX_LINES: u32 = 1_000;
/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;
/// How far back a question goes that does not say: what a month's bill is about.
const DEFAULT_SPAN: i64 = 31 * DAY;
/// The longest time of one question: a quarter. Whoever has the scope may ask, so one question has a bound.
const MAX_SPAN: i64 = 92 * DAY;
/// Questions of callers in the usage database at once: the reads are the writer's disk too.
const MAX_IN_FLIGHT: usize = 4;
/// Callers that have a question open at most; each may have one.
const MAX_ASKING: usize = 64;

/// Questions of callers wait for one another, and not for the admin API's.
static TURNS: LazyLock<Turns> = LazyLock::new(|| Turns::new(MAX_IN_FLIGHT));
/// Who has a question open.
static ASKING: Mutex<BTreeSet<Caller>> = Mutex::new(BTreeSet::new());

/// Tenant, key, user.
type Caller = (Option<String>, Option<String>, Option<String>);

/// The document for `GET /v1/me` and `GET /v1/me/usage`.
///
/// # Errors
/// `InvalidParameter` for a wrong query, or one whose answer is too long; `InsufficientPermissions` where there is
/// neither a key nor a user to count for; `Limited` as for any request; `Overloaded` while the caller has another
/// question open; `DependencyUnavailable` where the usage database does not answer.
pub async fn answer(runtime: &Arc<Runtime>, principal: &Principal, facts: &Facts) -> Result<String, Refusal> {
    let query = facts.query.as_deref();
    if facts.path == PATH {
        Query::read(query, &[]).map_err(refusal)?;
        return Ok(about(runtime, principal, facts).to_string());
    }
    let query = Query::read(query, USAGE).map_err(refusal)?;
    let mut filter = own(principal)?;
    let (from, to) = span(&query, runtime.services.clock.wall())?;
    (filter.from, filter.to) = (Some(from), to);
    let by: Vec<String> = query.text("by").map(|by| by.split(',').map(str::to_owned).collect()).unwrap_or_default();
    let asking = Asking::begin((filter.tenant.clone(), filter.key.clone(), filter.user.clone()))?;
    debit::question(runtime, principal, facts).await?;
    let reader = UsageReader::new(&runtime.snapshot.usage.sqlite);
    let asked = TURNS.run(move || {
        // Open until it is answered, also when nobody waits for it any more.
        let _asking = asking;
        let by: Vec<&str> = by.iter().map(String::as_str).collect();
        Ok(reader.sums(&filter, &by, None, MAX_LINES + 1)?)
    });
    whole(asked.await.map_err(refusal)?)
}

/// The document of these lines; there is one more of them where there are too many.
fn whole(lines: Vec<Line>) -> Result<String, Refusal> {
    if lines.len() as u64 > u64::from(MAX_LINES) {
        let expected = "a shorter time, or sums by fewer: the answer would have more than 1,000 lines";
        return Err(Refusal::InvalidParameter { param: "from", expected });
    }
    Ok(json!({ "usage": lines }).to_string())
}

/// From when, and to when where that was said.
fn span(query: &Query, now: WallMicros) -> Result<(WallMicros, Option<WallMicros>), Refusal> {
    let to = query.time("to");
    let end = to.unwrap_or(now);
    let from = query.time("from").unwrap_or(WallMicros(end.0.saturating_sub(DEFAULT_SPAN)));
    if end.0.saturating_sub(from.0) > MAX_SPAN {
        let expected = "at most 92 days before `to`, or before now";
        return Err(Refusal::InvalidParameter { param: "from", expected });
    }
    Ok((from, to))
}

/// A caller's open question; ends with the value.
#[derive(Debug)]
struct Asking(Caller);

impl Asking {
    fn begin(caller: Caller) -> Result<Self, Refusal> {
        let mut asking = ASKING.lock();
        if asking.len() >= MAX_ASKING || !asking.insert(caller.clone()) {
            return Err(Refusal::Overloaded { retry_after: RETRY_SOON });
        }
        Ok(Self(caller))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        ASKING.lock().remove(&self.0);
    }
}

/// The caller's own usage: the key's, else the user's.
fn own(principal: &Principal) -> Result<Filter, Refusal> {
    let profile = &principal.profile;
    let tenant = Some(profile.tenant.as_str().to_owned());
    let key = principal.key.as_ref().map(|key| key.as_str().to_owned());
    let user = profile.user.as_ref().map(|user| user.as_str().to_owned());
    match (key, user) {
        (Some(key), _) => Ok(Filter { tenant, key: Some(key), ..Filter::default() }),
        (None, Some(user)) => Ok(Filter { tenant, user: Some(user), ..Filter::default() }),
        (None, None) => Err(Refusal::InsufficientPermissions { rule: Arc::from("no key and no user") }),
    }
}

fn about(runtime: &Runtime, principal: &Principal, facts: &Facts) -> Value {
    let profile = &principal.profile;
    let grant = scopes::grant(&runtime.snapshot.roles, profile.roles.as_deref());
    let anonymous = principal.method == AuthMethod::Anonymous;
    let roles: Vec<&str> = match &profile.roles {
        Some(roles) => roles.iter().map(|role| role.as_str()).collect(),
        None if anonymous => Vec::new(),
        None => vec![MEMBER],
    };
    let scopes: Vec<&str> = if anonymous { Vec::new() } else { grant.scopes.iter().map(Scope::name).collect() };
    let networks = profile.addresses.as_ref().map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
    let limits: Vec<Value> = debit::standings(runtime, principal, facts).iter().map(limit).collect();
    json!({
        "tenant_id": profile.tenant, "team_id": profile.team, "user_id": profile.user,
        "key_id": principal.key, "auth_method": principal.method.name(),
        "secret_gen": principal.key.as_ref().map(|_| principal.secret_gen),
        "expires_at": principal.expires_at.map(written), "deprecated_until": principal.deprecated_until.map(written),
        "roles": roles, "scopes": scopes,
        "models": profile.models, "endpoints": profile.endpoints, "addresses": networks,
        "limits": limits,
    })
}

/// How the most constrained limit of a dimension stands.
fn limit(standing: &Standing) -> Value {
    json!({
        "dimension": standing.dimension.name(), "limit": standing.limit, "remaining": standing.remaining,
        "reset_ms": standing.reset.millis(),
    })
}

/// A problem in the words of the public surfaces.
fn refusal(problem: Problem) -> Refusal {
    match problem {
        Problem::Refused(refusal) => refusal,
        Problem::Invalid { param, .. } => {
            let param = param.and_then(|name| USAGE.iter().find(|known| known.name == name));
            let param = param.map_or("query", |known| known.name);
            Refusal::InvalidParameter { param, expected: "`from` and `to` as RFC 3339 times, `by` of `model`, `day`" }
        }
        _ => Refusal::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{KeyId, UserId};
    use crate::domain::principal::Profile;

    #[test]
    fn own_usage_is_the_keys_else_the_users_and_never_the_tenants() {
        let user = Profile { user: Some(UserId::new("ann")), ..Profile::of("acme".into()) };
        let mut principal = Principal::of(Arc::new(user), AuthMethod::Jwt);
        let by_user = own(&principal).expect("a user");
        assert_eq!((by_user.tenant.as_deref(), by_user.user.as_deref()), (Some("acme"), Some("ann")), "the user's");
        principal.key = Some(KeyId::new("k"));
        assert_eq!(own(&principal).expect("a key").key.as_deref(), Some("k"), "the key's");
        assert!(own(&Principal::anonymous()).is_err(), "nobody's would be everybody's");
    }

    #[test]
    fn a_question_is_about_a_month_unless_told_and_a_quarter_at_most() {
        let now = WallMicros(NOW_DAYS * DAY);
        let asked = |text: &str| span(&Query::read(Some(text), USAGE).expect(text), now);
        assert_eq!(asked(""), Ok((WallMicros((NOW_DAYS - 31) * DAY), None)), "the last month");
        let (start, end) = ("1970-01-11T00:00:00Z", "1970-04-13T00:00:00Z");
        let quarter = asked(&format!("from={start}&to={end}"));
        assert_eq!(quarter, Ok((WallMicros(10 * DAY), Some(WallMicros(102 * DAY)))), "92 days");
        let longer = asked(&format!("from=1970-01-10T23:59:59Z&to={end}"));
        assert_eq!(longer.expect_err("a second more").param(), Some("from"), "names what to change");
        assert!(asked(&format!("from={start}")).is_err(), "until now is longer still");
        assert!(asked("from=0001-01-01T00:00:00Z&to=9999-12-01T00:00:00Z").is_err(), "all there is");
    }
    const NOW_DAYS: i64 = 1_000;

    #[test]
    fn an_answer_that_does_not_fit_is_refused_and_not_cut() {
        let lines = |count: usize| vec![Line::new(); count];
        assert!(whole(lines(1_000)).is_ok(), "it fits");
        assert_eq!(whole(lines(1_001)).expect_err("it does not").status(), 400, "no silent cut");
    }

    #[test]
    fn a_caller_has_one_question_open_at_a_time() {
        let caller = |key: &str| (Some("one-at-a-time".to_owned()), Some(key.to_owned()), None);
        let first = Asking::begin(caller("a")).expect("the first");
        assert!(Asking::begin(caller("a")).is_err(), "the second waits for the first");
        assert!(Asking::begin(caller("b")).is_ok(), "another caller does not");
        drop(first);
        assert!(Asking::begin(caller("a")).is_ok(), "the next one");
    }

    #[test]
    fn a_wrong_query_names_its_parameter() {
        for (query, name) in [("from=x", "from"), ("by=tenant", "by"), ("key=a", "query")] {
            let refusal = Query::read(Some(query), USAGE).map_err(refusal).expect_err(query);
            assert_eq!(refusal.param(), Some(name), "{query}");
        }
    }
}
