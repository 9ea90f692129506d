//! JSON Web Tokens: whether one has the form, the header, the claims and the signature that its issuer's policy asks
//! for. Pure: keys and time are passed in. What the claims mean is decided in `claims`, the HTTP answer elsewhere: it
//! is the same for every reason.

mod algorithm;
mod key_set;

pub use algorithm::JwtAlgorithm;
pub use key_set::{KeySet, KeySetError, MAX_DOCUMENT, MAX_KEYS};

use crate::domain::units::WallMicros;
use crate::logic::wire::unambiguous;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use std::time::Duration;

/// Bytes of a token at most.
pub const MAX_TOKEN: usize = 8 << 10;
/// Bytes of a `kid` at most. It is the key of a map, and nothing else.
pub const MAX_KID: usize = 256;
/// Arrays and objects within each other in a token or key set.
const MAX_DEPTH: usize = 16;
/// The last second of the year 9999: a later `exp` is a mistake.
const LAST_SECOND: i64 = 253_402_300_799;

/// What an issuer's tokens must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// `iss`, letter by letter.
    pub issuer: String,
    /// `aud` must name one of these.
    pub audiences: Vec<String>,
    /// `alg` must be one of these.
    pub algorithms: Vec<JwtAlgorithm>,
    /// Tolerance on `exp` and `nbf`.
    pub leeway: Duration,
}

/// Why a token is refused. For the log; callers hear `invalid_token`, whatever the reason.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadToken {
    /// Longer than [`MAX_TOKEN`].
    #[error("longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// Not three parts of base64url without padding.
    #[error("not three parts of base64url")]
    Form,
    /// A part that is not a JSON object with each member once.
    #[error("the {part}: {why}")]
    Json {
        /// `header` or `claims`.
        part: &'static str,
        /// Why not.
        why: String,
    },
    /// A member of the header that must not be there, or not so.
    #[error("the header's `{0}`")]
    Header(&'static str),
    /// A claim that is absent or of the wrong type.
    #[error("the claim `{0}` is absent or of the wrong type")]
    Claim(&'static str),
    /// `iss` is another issuer.
    #[error("another issuer")]
    ForeignIssuer,
    /// `aud` names none of the audiences.
    #[error("another audience")]
    Audience,
    /// `exp` is over.
    #[error("expired")]
    Expired,
    /// `nbf` is not reached.
    #[error("not valid yet")]
    NotYet,
    /// `kid` is not in the key set.
    #[error("unknown key")]
    UnknownKey,
    /// There is no `kid`, and not exactly one key that it could be.
    #[error("no `kid`, and not exactly one key for the algorithm")]
    NoKid,
    /// The key is not for the algorithm.
    #[error("the key is not for the algorithm")]
    KeyMismatch,
    /// The signature does not hold.
    #[error("the signature does not hold")]
    Signature,
}

/// A token whose form, header, claims and times are right, and whose signature nobody has looked at.
#[derive(Debug)]
pub struct Unverified<'t> {
    message: &'t [u8],
    signature: &'t str,
    algorithm: JwtAlgorithm,
    kid: Option<String>,
    claims: Claims,
}

/// What a token says that holds.
#[derive(Clone, PartialEq, Debug)]
pub struct Claims {
    /// All of it.
    pub members: Map<String, Value>,
    /// `sub`; never empty.
    pub subject: String,
    /// It holds before this: `exp` with the leeway.
    pub until: WallMicros,
    /// It holds from this on: `nbf` with the leeway.
    pub from: WallMicros,
}

/// True for what may be a token of this kind, and is refused if it is none: opaque tokens and Weir's keys have no two
/// dots.
#[must_use]
pub fn looks_like_one(credential: &[u8]) -> bool {
    memchr::memchr_iter(b'.', credential).nth(1).is_some()
}

/// Reads a token up to the signature.
///
/// # Errors
/// [`BadToken`].
pub fn read<'t>(token: &'t [u8], policy: &Policy, now: WallMicros) -> Result<Unverified<'t>, BadToken> {
    if token.len() > MAX_TOKEN {
        return Err(BadToken::TooLong);
    }
    let token = std::str::from_utf8(token).map_err(|_| BadToken::Form)?;
    let (message, signature) = token.rsplit_once('.').ok_or(BadToken::Form)?;
    let (header, payload) = message.split_once('.').ok_or(BadToken::Form)?;
    let (header, payload) = (part(header)?, part(payload)?);
    part(signature)?;
    let header = object(&header).map_err(|why| BadToken::Json { part: "header", why })?;
    let members = object(&payload).map_err(|why| BadToken::Json { part: "claims", why })?;
    if member(&members, "iss")? != policy.issuer {
        return Err(BadToken::ForeignIssuer);
    }
    let (algorithm, kid) = heading(&header, policy)?;
    let claims = claims(members, policy, now)?;
    Ok(Unverified { message: message.as_bytes(), signature, algorithm, kid, claims })
}

impl Unverified<'_> {
    /// Checks the signature with the issuer's keys.
    ///
    /// # Errors
    /// [`BadToken::UnknownKey`] where a newer key set might hold the key; else the token is no good.
    pub fn verify(self, keys: &KeySet) -> Result<Claims, BadToken> {
        keys.verify(self.kid.as_deref(), self.algorithm, self.message, self.signature)?;
        Ok(self.claims)
    }
}

/// The engine refuses padding, letters of the other alphabet, and bits behind the end, so a token has one spelling.
fn part(text: &str) -> Result<Vec<u8>, BadToken> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadToken::Form)?;
    if bytes.is_empty() { Err(BadToken::Form) } else { Ok(bytes) }
}

/// The algorithm is one of the policy's or the token is refused; a key that the token itself brings is never used.
fn heading(header: &Map<String, Value>, policy: &Policy) -> Result<(JwtAlgorithm, Option<String>), BadToken> {
    const FORBIDDEN: [&str; 7] = ["crit", "jku", "jwk", "x5u", "x5c", "b64", "zip"];
    if let Some(name) = FORBIDDEN.into_iter().find(|name| header.contains_key(*name)) {
        return Err(BadToken::Header(name));
    }
    let algorithm = header
        .get("alg")
        .and_then(Value::as_str)
        .and_then(JwtAlgorithm::named)
        .filter(|algorithm| policy.algorithms.contains(algorithm))
        .ok_or(BadToken::Header("alg"))?;
    // RFC 9068 §4 has the third one as another spelling of the second.
    let is_type = |name: &str| ["JWT", "at+jwt", "application/at+jwt"].iter().any(|one| name.eq_ignore_ascii_case(one));
    if header.get("typ").is_some_and(|name| !name.as_str().is_some_and(is_type)) {
        return Err(BadToken::Header("typ"));
    }
    match header.get("kid") {
        None => Ok((algorithm, None)),
        Some(Value::String(kid)) if kid.len() <= MAX_KID => Ok((algorithm, Some(kid.clone()))),
        Some(_) => Err(BadToken::Header("kid")),
    }
}

fn claims(members: Map<String, Value>, policy: &Policy, now: WallMicros) -> Result<Claims, BadToken> {
    let leeway = WallMicros(i64::try_from(policy.leeway.as_micros()).unwrap_or(i64::MAX));
    let subject = member(&members, "sub")?.to_owned();
    if !names_one(members.get("aud"), &policy.audiences)? {
        return Err(BadToken::Audience);
    }
    let until = time(&members, "exp")?.ok_or(BadToken::Claim("exp"))? + leeway;
    let from = time(&members, "nbf")?.map_or(WallMicros(i64::MIN), |from| from - leeway);
    time(&members, "iat")?;
    if now >= until {
        return Err(BadToken::Expired);
    }
    if now < from {
        return Err(BadToken::NotYet);
    }
    Ok(Claims { members, subject, until, from })
}

fn member<'m>(members: &'m Map<String, Value>, name: &'static str) -> Result<&'m str, BadToken> {
    let text = members.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.ok_or(BadToken::Claim(name))
}

/// `aud` is a text or a list of texts (RFC 7519 §4.1.3).
fn names_one(audience: Option<&Value>, audiences: &[String]) -> Result<bool, BadToken> {
    let wrong = BadToken::Claim("aud");
    match audience {
        Some(Value::String(one)) => Ok(audiences.contains(one)),
        Some(Value::Array(list)) => {
            let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            Ok(texts.ok_or(wrong)?.iter().any(|text| audiences.iter().any(|one| one == text)))
        }
        _ => Err(wrong),
    }
}

/// Seconds since 1970 as a number, possibly with a fraction; `None` where the claim is absent.
fn time(members: &Map<String, Value>, name: &'static str) -> Result<Option<WallMicros>, BadToken> {
    let Some(value) = members.get(name) else { return Ok(None) };
    let Value::Number(number) = value else { return Err(BadToken::Claim(name)) };
    let micros = match (number.as_i64(), number.as_f64()) {
        (Some(seconds), _) if (0..=LAST_SECOND).contains(&seconds) => seconds * 1_000_000,
        #[expect(clippy::cast_possible_truncation, reason = "within the range of the guard, far below 2^63")]
        (None, Some(seconds)) if (0.0..=253_402_300_799.0).contains(&seconds) => (seconds * 1e6) as i64,
        _ => return Err(BadToken::Claim(name)),
    };
    Ok(Some(WallMicros(micros)))
}

/// One object that means one thing only, and nothing behind it.
fn object(text: &[u8]) -> Result<Map<String, Value>, String> {
    match unambiguous::read(text, MAX_DEPTH) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err("not an object".to_owned()),
        Err(why) => Err(why.to_string()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
