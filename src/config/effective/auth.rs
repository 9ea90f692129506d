//! `auth` of the effective text: what each authenticator asks for. Secrets are references here, never values.

use super::{at, map, reference, texts};
use crate::config::snapshot::{
    ApiKeyAuth, Authenticator, ClaimMapping, ClientCertAuth, ExtAuthzAuth, IntrospectionAuth, JwtAuth, JwtKeys,
    PepperSource,
};
use crate::config::tree::Node;
use crate::config::units::Span;
use crate::logic::access::expression::Expression;
use serde_yaml::Value;
use std::time::Duration;

/// `auth.NAME`
#[must_use]
pub fn authenticator(name: &str, authenticator: &Authenticator, root: &Node) -> Value {
    let secret = |kind: &str, key: &str| reference(at(root, &["auth", name, kind, key]));
    match authenticator {
        Authenticator::ApiKey(auth) => map([("api_key", api_key(auth, secret("api_key", "pepper")))]),
        Authenticator::Jwt(auth) => map([("jwt", jwt(auth, secret("jwt", "secret")))]),
        Authenticator::Introspection(auth) => {
            map([("introspection", introspection(auth, secret("introspection", "client_secret")))])
        }
        Authenticator::ClientCert(auth) => map([("client_cert", client_cert(auth))]),
        Authenticator::ExtAuthz(auth) => map([("ext_authz", ext_authz(auth))]),
    }
}

fn api_key(auth: &ApiKeyAuth, pepper: Value) -> Value {
    map([
        ("headers", texts(&auth.headers)),
        ("tag", auth.tag.as_str().into()),
        ("pepper", if matches!(auth.pepper, PepperSource::Value(_)) { pepper } else { Value::Null }),
        ("max_stale", span(auth.max_stale)),
    ])
}

fn jwt(auth: &JwtAuth, secret: Value) -> Value {
    let (jwks, secret) = match &auth.keys {
        JwtKeys::Jwks { url, refresh } => {
            let url = url.as_ref().map_or(Value::Null, |url| url.as_str().into());
            (map([("url", url), ("refresh", span(*refresh))]), Value::Null)
        }
        JwtKeys::Secret(_) => (Value::Null, secret),
    };
    let own = map([
        ("issuer", auth.issuer.as_str().into()),
        ("audiences", texts(&auth.audiences)),
        ("jwks", jwks),
        ("secret", secret),
        ("algorithms", texts(auth.algorithms.iter().map(|one| one.name()))),
        ("leeway", span(auth.leeway)),
    ]);
    with_mapping(own, &auth.mapping)
}

fn introspection(auth: &IntrospectionAuth, secret: Value) -> Value {
    let own = map([
        ("url", auth.url.as_str().into()),
        ("client_id", auth.client_id.as_str().into()),
        ("client_secret", secret),
        ("timeout", span(auth.timeout)),
        ("ttl", span(auth.ttl)),
        ("entries", auth.entries.into()),
        ("audiences", texts(&auth.audiences)),
    ]);
    with_mapping(own, &auth.mapping)
}

fn client_cert(auth: &ClientCertAuth) -> Value {
    with_mapping(map([("trust_domains", texts(&auth.trust_domains))]), &auth.mapping)
}

fn ext_authz(auth: &ExtAuthzAuth) -> Value {
    map([
        ("url", auth.url.as_str().into()),
        ("timeout", span(auth.timeout)),
        ("send", texts(&auth.send)),
        ("tenant", auth.tenant.as_str().into()),
        ("team", auth.team.as_str().into()),
        ("user", auth.user.as_str().into()),
        ("roles", auth.roles.as_str().into()),
        ("operators", flag(auth.operators)),
    ])
}

/// The settings of an authenticator with its mapping behind them.
fn with_mapping(own: Value, mapping: &ClaimMapping) -> Value {
    let ClaimMapping { tenant, team, user, roles, plan, operators } = mapping;
    let word = |one: &Option<Expression>| one.as_ref().map_or(Value::Null, |one| one.text().into());
    let mapped = map([
        ("tenant", word(tenant)),
        ("team", word(team)),
        ("user", word(user)),
        ("roles", word(roles)),
        ("plan", word(plan)),
        ("operators", flag(*operators)),
    ]);
    match (own, mapped) {
        (Value::Mapping(mut own), Value::Mapping(mapped)) => {
            own.extend(mapped);
            Value::Mapping(own)
        }
        (own, _) => own,
    }
}

/// What is off unless it is written.
fn flag(on: bool) -> Value {
    if on { true.into() } else { Value::Null }
}

fn span(duration: Duration) -> Value {
    Span(duration).to_string().into()
}
