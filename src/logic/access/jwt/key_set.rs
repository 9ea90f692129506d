//! An issuer's keys: which of a published JWK set (RFC 7517) are usable, and which one a token may be checked with.
//! Decides by type, so that a public key can never serve as a shared secret; fetching is `io::identity::jwks`.

use super::{BadToken, JwtAlgorithm, MAX_KID, object};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Bytes of a key set's document.
pub const MAX_DOCUMENT: usize = 256 << 10;
/// Keys of a document. Issuers publish two to ten.
pub const MAX_KEYS: usize = 100;
/// Bits of an RSA modulus at least.
const MIN_RSA_BITS: usize = 2048;
/// Bits of an RSA modulus at most: a larger one only makes each check slower.
const MAX_RSA_BITS: usize = 8192;

/// Why a document is no key set.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeySetError {
    /// It is larger than [`MAX_DOCUMENT`].
    #[error("a key set has at most {MAX_DOCUMENT} bytes")]
    TooLarge,
    /// It is not strict JSON.
    #[error("the key set is not JSON: {0}")]
    Json(String),
    /// It has no list `keys`.
    #[error("the key set has no list `keys`")]
    NoKeys,
    /// It has more than [`MAX_KEYS`].
    #[error("a key set has at most {MAX_KEYS} keys")]
    TooMany,
    /// None of its keys is usable: an issuer that signs has one, so this is an issuer at fault.
    #[error("no key of the key set can be used")]
    Empty,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
    Secret,
}

/// One key. `Debug` prints its kind only.
#[derive(Clone)]
struct Key {
    kind: Kind,
    /// The only algorithm that it is for, if it says so.
    algorithm: Option<JwtAlgorithm>,
    /// What makes it this key and no other; empty for a secret.
    material: Vec<u8>,
    key: DecodingKey,
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, self.algorithm, &self.material) == (other.kind, other.algorithm, &other.material)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl Key {
    fn fits(&self, algorithm: JwtAlgorithm) -> bool {
        use JwtAlgorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
        let by_kind = match self.kind {
            Kind::Rsa => matches!(algorithm, RS256 | RS384 | RS512 | PS256 | PS384 | PS512),
            Kind::P256 => algorithm == ES256,
            Kind::P384 => algorithm == ES384,
            Kind::Ed25519 => algorithm == EdDSA,
            Kind::Secret => matches!(algorithm, HS256 | HS384 | HS512),
        };
        by_kind && self.algorithm.is_none_or(|only| only == algorithm)
    }
}

/// The keys of one issuer.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct KeySet {
    /// The shared secret; it has no name, so a token's `kid` does not matter.
    secret: Option<Key>,
    named: BTreeMap<String, Vec<Key>>,
    nameless: Vec<Key>,
}

impl KeySet {
    /// A shared secret, for HS256, HS384 and HS512 alone.
    #[must_use]
    pub fn secret(secret: &[u8]) -> Self {
        let key = DecodingKey::from_secret(secret);
        Self { secret: Some(Key { kind: Kind::Secret, algorithm: None, material: Vec::new(), key }), ..Self::default() }
    }

    /// Reads a published set. Keys that are not for signatures, symmetric, too small, of an unknown kind or with private
    /// parts are left out.
    ///
    /// # Errors
    /// [`KeySetError`]; a set without usable keys is none.
    pub fn parse(document: &[u8]) -> Result<Self, KeySetError> {
        if document.len() > MAX_DOCUMENT {
            return Err(KeySetError::TooLarge);
        }
        let members = object(document).map_err(KeySetError::Json)?;
        let Some(Value::Array(keys)) = members.get("keys") else { return Err(KeySetError::NoKeys) };
        if keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let mut set = Self::default();
        for key in keys.iter().filter_map(Value::as_object) {
            set.add(key);
        }
        if set.is_empty() { Err(KeySetError::Empty) } else { Ok(set) }
    }

    /// How many keys are usable.
    #[must_use]
    pub fn len(&self) -> usize {
        self.named.values().map(Vec::len).sum::<usize>() + self.nameless.len() + usize::from(self.secret.is_some())
    }

    /// True if no key is usable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key for a token: the one that `kid` names and that is of the algorithm's kind. Without a `kid`, the only
    /// key of that kind.
    fn find(&self, kid: Option<&str>, algorithm: JwtAlgorithm) -> Result<&Key, BadToken> {
        if let Some(secret) = &self.secret {
            return if secret.fits(algorithm) { Ok(secret) } else { Err(BadToken::KeyMismatch) };
        }
        let Some(kid) = kid else {
            let mut fitting = self.named.values().flatten().chain(&self.nameless).filter(|key| key.fits(algorithm));
            return match (fitting.next(), fitting.next()) {
                (Some(key), None) => Ok(key),
                _ => Err(BadToken::NoKid),
            };
        };
        let keys = self.named.get(kid).ok_or(BadToken::UnknownKey)?;
        keys.iter().find(|key| key.fits(algorithm)).ok_or(BadToken::KeyMismatch)
    }

    /// Checks a signature over `message`.
    ///
    /// # Errors
    /// [`BadToken`]: no such key, a key of another kind, or a signature that does not hold.
    pub(super) fn verify(
        &self,
        kid: Option<&str>,
        algorithm: JwtAlgorithm,
        message: &[u8],
        signature: &str,
    ) -> Result<(), BadToken> {
        let key = self.find(kid, algorithm)?;
        match jsonwebtoken::crypto::verify(signature, message, &key.key, algorithm.primitive()) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(BadToken::Signature),
        }
    }

    /// Of two keys with one name and one kind the first counts.
    fn add(&mut self, members: &Map<String, Value>) {
        let Some(key) = usable(members) else { return };
        match members.get("kid") {
            None => self.nameless.push(key),
            Some(Value::String(kid)) if kid.len() <= MAX_KID => self.named.entry(kid.clone()).or_default().push(key),
            Some(_) => {}
        }
    }
}

fn usable(members: &Map<String, Value>) -> Option<Key> {
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let for_signatures = members.get("use").is_none_or(|purpose| purpose == "sig");
    let verifies = match members.get("key_ops") {
        None => true,
        Some(operations) => operations.as_array()?.iter().any(|operation| operation == "verify"),
    };
    // A published private part belongs to everybody.
    if !for_signatures || !verifies || members.contains_key("d") {
        return None;
    }
    let algorithm = match members.get("alg") {
        None => None,
        Some(name) => Some(JwtAlgorithm::named(name.as_str()?)?),
    };
    let (kind, material, key) = match text("kty")? {
        "RSA" => rsa(text("n")?, text("e")?)?,
        "EC" => elliptic(text("crv")?, text("x")?, text("y")?)?,
        "OKP" if text("crv")? == "Ed25519" => {
            let point = decoded(text("x")?, 32)?;
            (Kind::Ed25519, point, DecodingKey::from_ed_components(text("x")?).ok()?)
        }
        _ => return None,
    };
    Some(Key { kind, algorithm, material, key })
}

fn rsa(modulus: &str, exponent: &str) -> Option<(Kind, Vec<u8>, DecodingKey)> {
    let n = URL_SAFE_NO_PAD.decode(modulus).ok()?;
    let e = URL_SAFE_NO_PAD.decode(exponent).ok()?;
    let significant = n.iter().position(|byte| *byte != 0).and_then(|first| n.get(first..))?;
    let bits = significant.len() * 8 - significant.first()?.leading_zeros() as usize;
    // With an exponent of 1 every message is its own signature.
    let exponent =
        e.iter().try_fold(0_u64, |value, byte| value.checked_mul(256).map(|value| value + u64::from(*byte)))?;
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) || exponent < 3 || exponent % 2 == 0 {
        return None;
    }
    let key = DecodingKey::from_rsa_raw_components(significant, &e);
    Some((Kind::Rsa, [significant, &[0], &e].concat(), key))
}

fn elliptic(curve: &str, x: &str, y: &str) -> Option<(Kind, Vec<u8>, DecodingKey)> {
    let (kind, length) = match curve {
        "P-256" => (Kind::P256, 32),
        "P-384" => (Kind::P384, 48),
        _ => return None,
    };
    let material = [decoded(x, length)?, decoded(y, length)?].concat();
    Some((kind, material, DecodingKey::from_ec_components(x, y).ok()?))
}

fn decoded(text: &str, length: usize) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == length)
}
