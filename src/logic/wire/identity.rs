//! Who calls, as it is told to trusted backends (docs/identity-headers.md). Decides names, spelling and signature of
//! the headers; to whom they are sent is the pool's configuration.

use crate::domain::ids::RequestId;
use crate::domain::principal::Principal;
use crate::domain::units::WallMicros;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt::Write as _;

/// A header line; names are lower case.
pub type Header = (&'static str, String);

/// The header of the signature.
pub const SIGNATURE: &str = "x-weir-signature";

/// What a signature binds a caller to: one request, at one time.
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// Now.
    pub now: WallMicros,
    /// The value of `x-request-id`.
    pub request_id: RequestId,
    /// `POST`
    pub method: &'a str,
    /// The path as the backend sees it, without its query.
    pub path: &'a str,
}

/// `x-weir-tenant`, `x-weir-team`, `x-weir-user` and `x-weir-key`; what is not known is not sent.
#[must_use]
pub fn headers(principal: &Principal) -> Vec<Header> {
    let profile = &principal.profile;
    let team = profile.team.as_ref().map(|team| ("x-weir-team", spelt(team.as_str())));
    let user = profile.user.as_ref().map(|user| ("x-weir-user", spelt(user.as_str())));
    let key = principal.key.as_ref().map(|key| ("x-weir-key", spelt(key.as_str())));
    let tenant = ("x-weir-tenant", spelt(profile.tenant.as_str()));
    std::iter::once(tenant).chain([team, user, key].into_iter().flatten()).collect()
}

/// The value of [`SIGNATURE`] over [`headers`]: `t=UNIX,v1=HEX`. `None`: HMAC takes no such key, which no key is.
#[must_use]
pub fn signature(key: &[u8], headers: &[Header], bound: &Bound<'_>) -> Option<String> {
    let of = |name: &str| headers.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value.as_str());
    let seconds = bound.now.0.div_euclid(1_000_000);
    let text = format!(
        "{seconds}\n{}\n{}\n{}\n{}\n{}\n{}\n{}",
        bound.request_id,
        of("x-weir-tenant"),
        of("x-weir-team"),
        of("x-weir-user"),
        of("x-weir-key"),
        bound.method,
        bound.path,
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(text.as_bytes());
    let mut value = format!("t={seconds},v1=");
    for byte in mac.finalize().into_bytes() {
        let _infallible = write!(value, "{byte:02x}");
    }
    Some(value)
}

/// A name as a header's value: visible ASCII as it is, every other byte, and `%`, as `%XX`. So every name can be sent,
/// none has a line end, and no two are spelt alike.
fn spelt(name: &str) -> String {
    let mut value = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            value.push(char::from(byte));
        } else {
            let _infallible = write!(value, "%{byte:02X}");
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::KeyId;
    use crate::domain::principal::{AuthMethod, Profile};
    use std::sync::Arc;

    fn caller(user: &str) -> Principal {
        let profile = Profile { user: Some(user.into()), ..Profile::of("acme".into()) };
        Principal { key: Some(KeyId::new("0123456789AB")), ..Principal::of(Arc::new(profile), AuthMethod::ApiKey) }
    }

    fn bound() -> Bound<'static> {
        let request_id = RequestId(uuid::Uuid::from_u128(0x0198_f0a0_0000_7000_8000_0000_0000_0001));
        Bound { now: WallMicros(1_795_176_000_500_000), request_id, method: "POST", path: "/v1/chat/completions" }
    }

    #[test]
    fn what_is_not_known_is_not_sent() {
        let told = headers(&caller("ann"));
        let wanted = [("x-weir-tenant", "acme"), ("x-weir-user", "ann"), ("x-weir-key", "0123456789AB")];
        assert_eq!(told, wanted.map(|(name, value)| (name, value.to_owned())), "no team, no header of it");
    }

    #[test]
    fn every_name_can_be_told_and_none_ends_a_line() {
        assert_eq!(spelt("ann@example.com"), "ann@example.com", "plain names stay as they are");
        assert_eq!(spelt("é\r\nx-weir-tenant: b%"), "%C3%A9%0D%0Ax-weir-tenant:%20b%25", "the rest is escaped");
    }

    #[test]
    fn a_signature_is_over_everything_that_it_says() {
        let sign = |caller: &Principal, bound: &Bound<'_>, key: &[u8]| signature(key, &headers(caller), bound);
        let good = sign(&caller("ann"), &bound(), b"k");
        let other_id = RequestId(uuid::Uuid::from_u128(7));
        for (what, other) in [
            ("key", sign(&caller("ann"), &bound(), b"j")),
            ("user", sign(&caller("bob"), &bound(), b"k")),
            ("path", sign(&caller("ann"), &Bound { path: "/v1/completions", ..bound() }, b"k")),
            ("method", sign(&caller("ann"), &Bound { method: "GET", ..bound() }, b"k")),
            ("request", sign(&caller("ann"), &Bound { request_id: other_id, ..bound() }, b"k")),
            ("time", sign(&caller("ann"), &Bound { now: WallMicros(0), ..bound() }, b"k")),
        ] {
            assert_ne!(good, other, "another {what} is another signature");
        }
    }

    #[test]
    fn a_name_cannot_move_from_one_header_to_the_next() {
        let team = |team: Option<&str>, user: Option<&str>| {
            let profile =
                Profile { team: team.map(Into::into), user: user.map(Into::into), ..Profile::of("acme".into()) };
            signature(b"k", &headers(&Principal::of(Arc::new(profile), AuthMethod::Jwt)), &bound())
        };
        assert_ne!(team(Some("ann"), None), team(None, Some("ann")), "an absent one keeps its line");
    }

    #[test]
    fn the_documents_example_is_what_is_sent() {
        let page = include_str!("../../../docs/identity-headers.md");
        let told = headers(&caller("ann"));
        let signed = signature(b"0123456789abcdef0123456789abcdef", &told, &bound()).expect("a key of any length");
        for (name, value) in told.iter().map(|(name, value)| (*name, value.as_str())).chain([(SIGNATURE, &*signed)]) {
            assert!(page.contains(&format!("{name}: {value}\n")), "docs/identity-headers.md shows `{name}: {value}`");
        }
    }
}
