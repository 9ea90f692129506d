//! May they: scopes, restrictions, model lists, rules, and routes with a condition.

use super::office::{Doorman, Office, caller, headers, open_to, snapshot};
use crate::config::snapshot::Snapshot;
use crate::domain::call::Call;
use crate::domain::ids::RoleId;
use crate::domain::principal::{AuthMethod, Principal, Profile};
use crate::domain::refusal::Refusal;
use crate::domain::surface::Surface;
use crate::logic::access::directory::{Directory, Member, Tenant};
use crate::logic::access::expression::Expression;
use crate::logic::access::rule::{Effect, NAMES, Rule};
use crate::logic::access::scopes::{Reach, Role, Scope, Scopes};
use crate::ports::Rejection;
use crate::stages::accept::{self, Facts};
use crate::stages::authenticate::Caller;
use crate::stages::{body, check};
use bytes::Bytes;
use std::sync::Arc;

const KEYS: &str = "auth: { keys: { api_key: {} } }";

fn office_of(snapshot: Snapshot, directory: Directory) -> Office {
    Office::with_directory(snapshot, vec![("keys", Doorman::rejects(Rejection::Invalid))], directory)
}

fn office() -> Office {
    office_of(snapshot(&open_to("[keys]"), KEYS), Directory::default())
}

fn with(profile: Profile) -> Principal {
    Principal::of(Arc::new(profile), AuthMethod::ApiKey)
}

fn roles(names: &[&str]) -> Option<Arc<[RoleId]>> {
    Some(names.iter().map(|name| RoleId::new(name)).collect())
}

fn default() -> Profile {
    Profile::of("default".into())
}

/// The name of what denied a request, for the log.
fn denied<T>(outcome: Result<T, Refusal>) -> Option<String> {
    match outcome {
        Err(Refusal::InsufficientPermissions { rule }) => Some(rule.to_string()),
        _ => None,
    }
}

#[test]
fn every_surface_needs_its_scope() {
    let office = office();
    let scope_on = |method: &str, path: &str, caller: &Principal| {
        let (facts, _) = office.accept(method, path, &headers(&[]));
        denied(check::head(&office.runtime, caller, &facts))
    };
    let (member, admin, nobody) = (
        with(default()),
        with(Profile { roles: roles(&["tenant-admin"]), ..default() }),
        with(Profile { roles: roles(&["gone"]), ..default() }),
    );
    for (method, path, scope) in [
        ("POST", "/v1/chat/completions", "scope inference"),
        ("POST", "/upload", "scope inference"),
        ("GET", "/v1/models", "scope models:list"),
        ("GET", "/v1/models/m", "scope models:list"),
        ("GET", "/v1/me/usage", "scope usage:read"),
    ] {
        assert_eq!(scope_on(method, path, &member), None, "a member may {path}");
        assert_eq!(scope_on(method, path, &nobody).as_deref(), Some(scope), "an unknown role may not {path}");
        assert_eq!(scope_on(method, path, &Principal::anonymous()), None, "an open route asks for no scope");
    }
    assert_eq!(scope_on("POST", "/v1/messages", &admin).as_deref(), Some("scope inference"), "admins call no models");
    assert_eq!(scope_on("GET", "/v1/models", &admin), None, "but see which there are");
    assert_eq!(scope_on("GET", "/v1/me", &nobody), None, "everyone may ask who they are");
}

#[test]
fn a_key_works_only_where_it_may() {
    let list = |patterns: &[&str]| Some(patterns.iter().map(ToString::to_string).collect());
    let key = with(Profile {
        endpoints: list(&["/v1/chat/*", "/v1/embeddings"]),
        addresses: Some(Arc::new(["10.0.0.0/8".parse().expect("a network")])),
        ..default()
    });
    let check = |path: &str, client: &str| {
        let client = client.parse().expect("an address");
        denied(check::restrictions(&key, path, client))
    };
    assert_eq!(check("/v1/chat/completions", "10.1.2.3"), None, "the path and the network");
    assert_eq!(check("/v1/embeddings", "::ffff:10.1.2.3"), None, "the same address in IPv6 clothes");
    for path in ["/v1/completions", "/v1/embeddings/x", "/v1/chat"] {
        assert_eq!(check(path, "10.1.2.3").as_deref(), Some("endpoints of the key"), "{path}");
    }
    assert_eq!(check("/v1/embeddings", "11.1.2.3").as_deref(), Some("addresses of the key"), "another network");
    let none = with(Profile { endpoints: list(&[]), ..default() });
    let client = "10.1.2.3".parse().expect("an address");
    assert!(check::restrictions(&none, "/", client).is_err(), "an empty list is not an absent one");
}

#[test]
fn a_model_must_be_allowed_at_every_level_and_else_looks_unknown() {
    let list = |pattern: &str| -> Option<Arc<[String]>> { Some(Arc::new([pattern.to_owned()])) };
    let member = |pattern: &str| Member { models: list(pattern), ..Member::default() };
    let mut acme = Tenant::default();
    acme.teams.insert("core".into(), member("?"));
    acme.users.insert("ann".into(), member("m"));
    let mut directory = Directory::default();
    directory.tenants.insert("acme".into(), Arc::new(acme));
    let mut snapshot = snapshot(&open_to("[keys]"), KEYS);
    let role = Role { scopes: Scopes::of(&[Scope::Inference]), models: list("m*"), reach: Reach::Own };
    snapshot.roles.insert("llm".into(), role);
    let office = office_of(snapshot, directory);
    let may = |profile: Profile, model: &str| check::model(&office.runtime, &with(profile), model).is_ok();
    let acme = || Profile::of("acme".into());
    let team = || Profile { team: Some("core".into()), ..acme() };
    assert!(may(acme(), "mm") && !may(team(), "mm") && may(team(), "n"), "the team's list");
    let ann = || Profile { user: Some("ann".into()), ..team() };
    assert!(may(ann(), "m") && !may(ann(), "n"), "the user's list");
    let role = || Profile { roles: roles(&["llm"]), ..acme() };
    assert!(may(role(), "mm") && !may(role(), "n"), "the roles' list");
    let key = || Profile { models: list("n"), ..acme() };
    assert!(may(key(), "n") && !may(key(), "m"), "the key's list");
    let refusal = check::model(&office.runtime, &with(ann()), "n").err();
    assert_eq!(refusal, Some(body::unknown_model("n")), "as if it did not exist");
    let listed = check::models(&office.runtime, &with(ann()), "/v1/models").expect("a list");
    assert!(listed.contains("\"m\"") && !listed.contains("\"n\""), "the catalogue shows no more: {listed}");
}

fn rule(name: &str, when: &str) -> Rule {
    let when = Expression::compile(when, &NAMES).expect("an expression");
    Rule { name: Arc::from(name), when, effect: Effect::Deny }
}

fn call(model: &str) -> Call {
    let text = format!("{{\"model\":\"{model}\",\"messages\":[]}}");
    body::understand(Surface::OpenAiChat, Bytes::from(text)).expect("a call")
}

/// Which rule denies a caller who asks for a model.
fn ruled(office: &Office, principal: &Principal, model: &str) -> Option<String> {
    let (mut facts, accepted) = office.accept("POST", "/v1/chat/completions", &headers(&[]));
    facts.host = Some(accept::host_name("API:1"));
    let caller = Caller { principal: principal.clone(), candidates: accepted.candidates };
    let variables = check::conditions(&office.runtime, &caller, &facts, Some(&call(model)));
    denied(check::rules(&office.runtime, principal, variables.as_ref()))
}

#[test]
fn rules_that_need_no_body_are_applied_before_it() {
    let mut snapshot = snapshot(&open_to("[keys]"), KEYS);
    snapshot.authorization = vec![rule("late", "request.model == null"), rule("early", "request.host == 'api'")];
    let office = office_of(snapshot, Directory::default());
    let (facts, accepted) = office.accept("POST", "/v1/chat/completions", &headers(&[]));
    let early = |principal: Principal, host: &str| {
        let caller = Caller { principal, candidates: accepted.candidates.clone() };
        let facts = Facts { host: Some(host.to_owned()), ..facts.clone() };
        denied(check::head_rules(&office.runtime, &caller, &facts))
    };
    assert_eq!(early(with(default()), "api").as_deref(), Some("early"), "known from the head");
    assert_eq!(early(with(default()), "other"), None, "what needs the body waits for it");
    assert_eq!(early(Principal::anonymous(), "api"), None, "open routes are open");
}

#[test]
fn a_rule_that_denies_or_breaks_is_named() {
    let mut snapshot = snapshot(&open_to("[keys]"), KEYS);
    snapshot.authorization = vec![
        rule("no-n", "request.model == 'n' && request.host == 'api'"),
        rule("broken", "request.model == 'x' && auth.claims.level > 1"),
    ];
    let office = office_of(snapshot, Directory::default());
    let key = with(default());
    assert_eq!(ruled(&office, &key, "m"), None, "no rule speaks of it");
    assert_eq!(ruled(&office, &key, "n").as_deref(), Some("no-n"), "denied");
    assert_eq!(ruled(&office, &key, "x").as_deref(), Some("broken"), "what cannot be evaluated denies");
    assert_eq!(ruled(&office, &Principal::anonymous(), "n"), None, "open routes are open");
}

#[test]
fn a_condition_sees_the_narrowest_plan() {
    let mut acme = Tenant { plan: Some("wide".into()), ..Tenant::default() };
    acme.users.insert("ann".into(), Member { plan: Some("tiny".into()), ..Member::default() });
    let mut directory = Directory::default();
    directory.tenants.insert("acme".into(), Arc::new(acme));
    let mut snapshot = snapshot(&open_to("[keys]"), KEYS);
    snapshot.authorization = ["wide", "tiny", "own"].map(|plan| rule(plan, &format!("auth.plan == '{plan}'"))).to_vec();
    let office = office_of(snapshot, directory);
    let acme = || Profile::of("acme".into());
    let ann = || Profile { user: Some("ann".into()), ..acme() };
    for (profile, plan) in [(acme(), "wide"), (ann(), "tiny"), (Profile { plan: Some("own".into()), ..ann() }, "own")] {
        assert_eq!(ruled(&office, &with(profile), "m").as_deref(), Some(plan), "the one that is named");
    }
}

#[test]
fn a_route_whose_condition_does_not_hold_is_no_route() {
    for (when, kept) in [("auth.tenant == 'acme'", 1), ("auth.tenant == 'other'", 0), ("auth.claims.x == 1", 0)] {
        let mut snapshot = snapshot(&open_to("[keys]"), KEYS);
        let route = Arc::get_mut(&mut snapshot.routes[0]).expect("nobody else has it");
        route.when = Some(Expression::compile(when, &NAMES).expect("an expression"));
        let office = office_of(snapshot, Directory::default());
        let (facts, accepted) = office.accept("GET", "/x", &headers(&[]));
        let principal = caller("acme", AuthMethod::ApiKey);
        let mut caller = Caller { principal, candidates: accepted.candidates };
        let variables = check::conditions(&office.runtime, &caller, &facts, None);
        body::keep_matching(&mut caller, variables.as_ref());
        assert_eq!(caller.candidates.len(), kept, "{when}");
        body::keep_matching(&mut caller, None);
        assert!(caller.candidates.is_empty(), "without anything to look at no condition holds");
    }
}

#[test]
fn without_conditions_nothing_is_made_for_them() {
    let office = office();
    let (facts, accepted) = office.accept("GET", "/x", &headers(&[]));
    let caller = Caller { principal: with(default()), candidates: accepted.candidates };
    assert_eq!(check::conditions(&office.runtime, &caller, &facts, None), None, "no cost where none is set");
}
