//! `authorization:` rules and `match.when`: CEL conditions over `auth` (the caller), `request` and `now`. Decides which
//! rule denies, and what conditions may look at. What cannot be evaluated denies.

use super::expression::{EvalError, Expression, Fact, Variables};
use super::scopes::{MEMBER, Scope, Scopes};
use crate::domain::ids::PlanId;
use crate::domain::principal::Principal;
use crate::domain::units::{Tokens, WallMicros};
use std::net::IpAddr;
use std::sync::Arc;

/// The names that a condition may refer to.
pub const NAMES: [&str; 3] = ["auth", "request", "now"];

/// Members of `request` that are known before the body.
const OF_HEAD: [&str; 4] = ["address", "host", "method", "path"];

/// What a rule's condition means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Denied where the condition holds.
    Deny,
    /// Denied where the condition does not hold.
    Require,
}

/// `authorization[]`
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// Its name, for the log.
    pub name: Arc<str>,
    /// The condition.
    pub when: Expression,
    /// What it means.
    pub effect: Effect,
}

impl Rule {
    /// True where the condition may look at what only the body tells. Told from its text: a condition cannot come to
    /// the body but by writing `request`, so whatever else stands behind that word than a member of the head counts.
    #[must_use]
    pub fn reads_body(&self) -> bool {
        let of_head = |rest: &str| {
            let member = rest.trim_start().strip_prefix('.').unwrap_or_default().trim_start();
            let end = member.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            OF_HEAD.contains(&&member[..end.unwrap_or(member.len())])
        };
        !self.when.text().split("request").skip(1).all(of_head)
    }
}

/// A rule that denies.
#[derive(Clone, PartialEq, Debug)]
pub struct Denied<'r> {
    /// Which one.
    pub rule: &'r Rule,
    /// Its condition could not be evaluated.
    pub error: Option<EvalError>,
}

/// The first rule that denies; `None`: all of them let the request pass.
#[must_use]
pub fn denied<'r>(rules: impl IntoIterator<Item = &'r Rule>, variables: &Variables) -> Option<Denied<'r>> {
    rules.into_iter().find_map(|rule| match (rule.when.truth(variables), rule.effect) {
        (Ok(true), Effect::Require) | (Ok(false), Effect::Deny) => None,
        (Ok(_), _) => Some(Denied { rule, error: None }),
        (Err(error), _) => Some(Denied { rule, error: Some(error) }),
    })
}

/// True where a condition holds. One that cannot be evaluated does not.
#[must_use]
pub fn holds(when: &Expression, variables: &Variables) -> bool {
    when.truth(variables).unwrap_or(false)
}

/// What is asked for, as conditions see it; what is not known is null there.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `POST`
    pub method: &'a str,
    /// Without port, lower case.
    pub host: Option<&'a str>,
    /// Without its query.
    pub path: &'a str,
    /// The caller's address, seen through trusted proxies.
    pub address: IpAddr,
    /// The model that the body names.
    pub model: Option<&'a str>,
    /// Whether the body asks for a stream.
    pub stream: Option<bool>,
    /// The caller's cap on output.
    pub max_tokens: Option<Tokens>,
}

/// The variables of conditions. `plan` is the narrowest that the caller has.
#[must_use]
pub fn variables(
    principal: &Principal,
    scopes: Scopes,
    plan: Option<&PlanId>,
    asked: &Asked<'_>,
    now: WallMicros,
) -> Variables {
    let profile = &principal.profile;
    let texts = |names: &mut dyn Iterator<Item = &str>| Fact::Texts(names.map(Arc::from).collect());
    let roles = match &profile.roles {
        Some(roles) => texts(&mut roles.iter().map(|role| role.as_str())),
        None => texts(&mut std::iter::once(MEMBER)),
    };
    let auth = Fact::Members(vec![
        ("tenant", profile.tenant.as_str().into()),
        ("team", profile.team.as_ref().map(|team| team.as_str()).into()),
        ("user", profile.user.as_ref().map(|user| user.as_str()).into()),
        ("key", principal.key.as_ref().map(|key| key.as_str()).into()),
        ("method", principal.method.name().into()),
        ("roles", roles),
        ("scopes", texts(&mut scopes.iter().map(Scope::name))),
        ("plan", plan.map(PlanId::as_str).into()),
        ("claims", profile.claims.clone().into()),
    ]);
    let max_tokens = asked.max_tokens.map(|tokens| i64::try_from(tokens.0).unwrap_or(i64::MAX));
    let request = Fact::Members(vec![
        ("method", asked.method.into()),
        ("path", asked.path.into()),
        ("host", asked.host.into()),
        ("address", asked.address.to_string().into()),
        ("model", asked.model.into()),
        ("stream", asked.stream.into()),
        ("max_tokens", max_tokens.into()),
    ]);
    Variables::new().with("auth", auth).with("request", request).with("now", now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::RoleId;
    use crate::domain::principal::{AuthMethod, Profile};
    use serde_json::json;
    use std::net::Ipv4Addr;

    /// 2026-11-20T12:00:00Z, a Friday.
    const NOON: WallMicros = WallMicros(1_795_176_000_000_000);

    fn rule(when: &str, effect: Effect) -> Rule {
        Rule { name: Arc::from(when), when: Expression::compile(when, &NAMES).expect("an expression"), effect }
    }

    fn asked() -> Asked<'static> {
        Asked {
            method: "POST",
            host: Some("api.example.com"),
            path: "/v1/chat/completions",
            address: Ipv4Addr::LOCALHOST.into(),
            model: Some("llama"),
            stream: Some(true),
            max_tokens: Some(Tokens(100)),
        }
    }

    fn of(profile: Profile) -> Variables {
        let caller = Principal::of(Arc::new(profile), AuthMethod::Jwt);
        variables(&caller, Scopes::of(&[Scope::Inference]), Some(&PlanId::new("gold")), &asked(), NOON)
    }

    fn acme() -> Profile {
        Profile::of("acme".into())
    }

    #[test]
    fn a_condition_sees_caller_request_and_time() {
        let profile = Profile {
            team: Some("batch".into()),
            roles: Some(Arc::new([RoleId::new("dev")])),
            claims: Some(Arc::new(json!({"level": 3}))),
            ..acme()
        };
        for when in [
            "auth.tenant == 'acme' && auth.team == 'batch' && auth.user == null && auth.key == null",
            "auth.method == 'jwt' && 'dev' in auth.roles && 'inference' in auth.scopes && auth.plan == 'gold'",
            "auth.claims.level >= 3",
            "request.method == 'POST' && request.path.startsWith('/v1/') && request.host == 'api.example.com'",
            "request.address == '127.0.0.1' && request.model == 'llama' && request.stream && request.max_tokens < 101",
            "now.getHours('Europe/Berlin') == 13 && now.getDayOfWeek() == 5",
        ] {
            assert!(holds(&rule(when, Effect::Require).when, &of(profile.clone())), "{when}");
        }
        assert!(holds(&rule("'member' in auth.roles", Effect::Require).when, &of(acme())), "nothing said: member");
    }

    #[test]
    fn deny_denies_where_it_holds_and_require_where_it_does_not() {
        let named = [rule("auth.user != null", Effect::Require), rule("auth.team == 'batch'", Effect::Deny)];
        let denied_of = |profile| denied(&named, &of(profile)).map(|denied| denied.rule.name.to_string());
        let ann = || Profile { user: Some("ann".into()), ..acme() };
        assert_eq!(denied_of(ann()), None, "a named user outside of the team");
        assert_eq!(denied_of(acme()).as_deref(), Some("auth.user != null"), "nobody");
        let batch = Profile { team: Some("batch".into()), ..ann() };
        assert_eq!(denied_of(batch).as_deref(), Some("auth.team == 'batch'"), "the rule is named");
    }

    #[test]
    fn a_rule_that_may_look_at_the_body_is_known_by_its_text() {
        for when in ["true", "auth.team == 'a'", "request.path == '/x' && request . host != null", "now.getHours() > 3"]
        {
            assert!(!rule(when, Effect::Deny).reads_body(), "{when}");
        }
        for when in [
            "request.model == 'm'",
            "request.path == '/x' || request.stream",
            "request['max_tokens'] > 3",
            "has(request.model)",
            "request == {}",
            "[request].exists(each, each.stream)",
            "request // .path\n .model == 'm'",
        ] {
            assert!(rule(when, Effect::Deny).reads_body(), "{when}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_denies_whatever_its_effect() {
        for effect in [Effect::Deny, Effect::Require] {
            for when in ["auth.claims.level > 1", "auth.user.startsWith('a')", "auth.nothing"] {
                let broken = [rule(when, effect)];
                let denied = denied(&broken, &of(acme())).expect("denied");
                assert!(denied.error.is_some(), "{when} as {effect:?}");
            }
        }
        assert!(!holds(&rule("auth.claims.level > 1", Effect::Deny).when, &of(acme())), "and a route does not match");
    }
}
