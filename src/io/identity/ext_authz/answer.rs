//! What an external service's answer means: its status decides, its headers say who calls.

use crate::config::snapshot::ExtAuthzAuth;
use crate::domain::ids::{RoleId, TeamId, TenantId, UserId};
use crate::domain::principal::Profile;
use crate::logic::access::claims::is_name;
use crate::ports::Rejection;
use http::HeaderMap;
use std::sync::Arc;

/// Without an answer nobody comes in, and nobody is told that their credential is wrong.
pub const UNAVAILABLE: Rejection = Rejection::Unavailable("ext_authz");
/// Roles of one answer at most.
pub const MAX_ROLES: usize = 64;
/// Whose requests are those of an answer that names no tenant.
const NO_TENANT: &str = "default";

/// Reads an answer.
///
/// # Errors
/// The rejection that it means. An answer that cannot be understood is none: unavailable.
pub fn read(status: u16, headers: &HeaderMap, settings: &ExtAuthzAuth) -> Result<Profile, Rejection> {
    match status {
        200..=299 => profile(headers, settings).ok_or(UNAVAILABLE),
        401 => Err(Rejection::BadToken),
        403 => Err(Rejection::Forbidden),
        _ => Err(UNAVAILABLE),
    }
}

/// Who calls; `None` where a header is there and cannot be understood.
fn profile(headers: &HeaderMap, settings: &ExtAuthzAuth) -> Option<Profile> {
    let tenant = named(headers, &settings.tenant)?.unwrap_or(NO_TENANT);
    let mut profile = Profile::of(TenantId::new(tenant));
    profile.team = named(headers, &settings.team)?.map(TeamId::new);
    profile.user = named(headers, &settings.user)?.map(UserId::new);
    profile.roles = roles(headers, &settings.roles)?;
    Some(profile)
}

/// The one name in a header, if the header is there.
fn named<'h>(headers: &'h HeaderMap, header: &str) -> Option<Option<&'h str>> {
    let mut values = headers.get_all(header).iter();
    let Some(value) = values.next() else { return Some(None) };
    let name = value.to_str().ok().map(str::trim).filter(|name| is_name(name))?;
    // Two values are no name: which of them is meant?
    values.next().is_none().then_some(Some(name))
}

/// Roles of all headers of that name. There and empty: no role, which allows nothing.
fn roles(headers: &HeaderMap, header: &str) -> Option<Option<Arc<[RoleId]>>> {
    if !headers.contains_key(header) {
        return Some(None);
    }
    let mut found = Vec::new();
    for value in headers.get_all(header) {
        for name in value.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            if !is_name(name) || found.len() == MAX_ROLES {
                return None;
            }
            found.push(RoleId::new(name));
        }
    }
    Some(Some(found.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use std::time::Duration;

    fn settings() -> ExtAuthzAuth {
        ExtAuthzAuth {
            url: url::Url::parse("http://127.0.0.1/").expect("a URL"),
            timeout: Duration::from_secs(1),
            send: Vec::new(),
            tenant: "x-auth-tenant".into(),
            team: "x-auth-team".into(),
            user: "x-auth-user".into(),
            roles: "x-auth-roles".into(),
            operators: false,
        }
    }

    fn of(status: u16, lines: &[(&str, &str)]) -> Result<Profile, Rejection> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        read(status, &headers, &settings())
    }

    #[test]
    fn any_2xx_allows_and_its_headers_say_who_it_is() {
        let lines =
            [("x-auth-tenant", "acme"), ("x-auth-team", "core"), ("X-Auth-User", " ann "), ("x-auth-roles", "a, b")];
        let mut wanted = Profile::of(TenantId::new("acme"));
        wanted.team = Some(TeamId::new("core"));
        wanted.user = Some(UserId::new("ann"));
        wanted.roles = Some([RoleId::new("a"), RoleId::new("b")].into());
        for status in [200, 204, 299] {
            assert_eq!(of(status, &lines), Ok(wanted.clone()), "{status}");
        }
        assert_eq!(of(200, &[]), Ok(Profile::of(TenantId::new("default"))), "nothing said");
    }

    #[test]
    fn a_401_is_a_bad_credential_a_403_a_no_and_all_else_says_nothing() {
        assert_eq!(of(401, &[]), Err(Rejection::BadToken));
        assert_eq!(of(403, &[]), Err(Rejection::Forbidden));
        for status in [100, 199, 300, 302, 400, 404, 407, 429, 500, 503] {
            assert_eq!(of(status, &[("x-auth-tenant", "acme")]), Err(UNAVAILABLE), "{status}");
        }
    }

    #[test]
    fn a_header_that_is_not_one_name_lets_nobody_in() {
        let long = "x".repeat(1000);
        for value in ["", " ", "a\tb", "\u{e4}", &long] {
            for header in ["x-auth-tenant", "x-auth-team", "x-auth-user"] {
                assert_eq!(of(200, &[(header, value)]), Err(UNAVAILABLE), "{header}: {value:?}");
            }
        }
        let twice = [("x-auth-tenant", "acme"), ("x-auth-tenant", "other")];
        assert_eq!(of(200, &twice), Err(UNAVAILABLE), "two tenants");
    }

    #[test]
    fn roles_come_from_all_their_headers_and_an_empty_one_gives_none() {
        let roles = |lines: &[(&str, &str)]| of(200, lines).map(|profile| profile.roles.map(|roles| roles.len()));
        assert_eq!(roles(&[]), Ok(None), "nothing said");
        assert_eq!(roles(&[("x-auth-roles", "")]), Ok(Some(0)), "none, so nothing is allowed");
        assert_eq!(roles(&[("x-auth-roles", "a,,b ,"), ("x-auth-roles", "c")]), Ok(Some(3)), "several");
        assert_eq!(roles(&[("x-auth-roles", "a,b\tc")]), Err(UNAVAILABLE), "one that is no name");
        let many = vec!["r"; MAX_ROLES + 1].join(",");
        assert_eq!(roles(&[("x-auth-roles", &many)]), Err(UNAVAILABLE), "too many");
    }
}
