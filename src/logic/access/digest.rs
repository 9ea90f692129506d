//! What is kept of a secret: HMAC-SHA-256 under the pepper, or a plain SHA-256 that was imported. Decides whether two
//! digests are equal, in constant time; does not know where the pepper is or which key is meant.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// Bytes of a digest.
pub const DIGEST_LEN: usize = 32;
/// Hex letters of a pepper id.
const PEPPER_ID_LEN: usize = 8;

/// 32 bytes that stand for a secret. Comparing takes the same time wherever they differ; `Debug` prints `***`.
#[derive(Clone, Copy)]
pub struct Digest(pub [u8; DIGEST_LEN]);

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How a store keeps a secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretHash {
    /// HMAC-SHA-256(pepper, whole key).
    Peppered {
        /// Which pepper: its [`Pepper::id`].
        pepper_id: String,
        /// The HMAC.
        digest: Digest,
    },
    /// SHA-256 of the whole key, imported from another system.
    Plain(Digest),
}

/// The pepper is empty, so digests under it would be no secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the pepper is empty")]
pub struct EmptyPepper;

/// The secret that digests depend on, ready for use: both key blocks of the HMAC are hashed once, here.
#[derive(Clone)]
pub struct Pepper {
    id: String,
    mac: Hmac<Sha256>,
}

impl Pepper {
    /// Prepares a pepper.
    ///
    /// # Errors
    /// [`EmptyPepper`].
    pub fn new(secret: &[u8]) -> Result<Self, EmptyPepper> {
        if secret.is_empty() {
            return Err(EmptyPepper);
        }
        let mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|_| EmptyPepper)?;
        let mut id = hex(&plain(secret));
        id.truncate(PEPPER_ID_LEN);
        Ok(Self { id, mac })
    }

    /// The first 8 hex letters of its SHA-256: tells peppers apart and says nothing about them.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// HMAC-SHA-256(pepper, whole key).
    #[must_use]
    pub fn digest(&self, key: &[u8]) -> Digest {
        Digest(self.mac.clone().chain_update(key).finalize().into_bytes().into())
    }

    /// What a store should keep of a new key.
    #[must_use]
    pub fn hash(&self, key: &[u8]) -> SecretHash {
        SecretHash::Peppered { pepper_id: self.id.clone(), digest: self.digest(key) }
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pepper").field("id", &self.id).field("mac", &"***").finish()
    }
}

/// SHA-256 of the whole key.
#[must_use]
pub fn plain(key: &[u8]) -> Digest {
    Digest(Sha256::digest(key).into())
}

/// A digest in lower-case hex.
#[must_use]
pub fn hex(digest: &Digest) -> String {
    use fmt::Write;
    digest.0.iter().fold(String::with_capacity(2 * DIGEST_LEN), |mut text, byte| {
        // Writing into a String cannot fail.
        let _done = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"sk-weir-0123456789AB-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ4VtYad";

    /// Values from Python: `hmac.new(b"pepper", key, "sha256")`, `hashlib.sha256`.
    #[test]
    fn digests_are_those_of_another_implementation() {
        let pepper = Pepper::new(b"pepper").expect("not empty");
        assert_eq!(pepper.id(), "8cbbcf29", "pepper id");
        assert_eq!(
            hex(&pepper.digest(KEY)),
            "b2ffcfc2cadf405ccf4c329a0a802f28759929d2604d2207c1dd2545bc152125",
            "HMAC-SHA-256"
        );
        assert_eq!(hex(&plain(KEY)), "2c789a25c4d46fe473a1020cbd5cfb450b723823211aaa9e25fabf013e2b8af9", "SHA-256");
    }

    #[test]
    fn a_different_pepper_gives_a_different_digest() {
        let (one, other) = (Pepper::new(b"one").expect("pepper"), Pepper::new(b"other").expect("pepper"));
        assert_ne!(one.digest(KEY), other.digest(KEY), "the pepper must matter");
    }

    #[test]
    fn digests_that_differ_in_the_last_byte_are_not_equal() {
        let mut other = plain(KEY);
        other.0[DIGEST_LEN - 1] ^= 1;
        assert_ne!(plain(KEY), other, "every byte must count");
    }

    #[test]
    fn an_empty_pepper_is_refused() {
        assert_eq!(Pepper::new(b"").err(), Some(EmptyPepper), "no pepper, no secret");
    }

    #[test]
    fn debug_shows_neither_pepper_nor_digest() {
        let pepper = Pepper::new(b"pepper").expect("not empty");
        let text = format!("{pepper:?} {:?}", pepper.hash(KEY));
        assert!(text.contains("***"), "Debug says that something is hidden: {text}");
        assert!(!text.contains(&hex(&pepper.digest(KEY))[..12]), "no digest in {text}");
    }
}
