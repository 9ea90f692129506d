//! The form of an API key: `sk-<tag>-<12 id>-<43 secret><6 crc>` (semantics.md §4). Decides whether text is a key
//! and makes keys out of random bytes; does not know whether a key exists, and draws no randomness itself.

use super::digest::Digest;
use crate::domain::ids::KeyId;
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of a presented credential that are looked at; anything longer is no key.
pub const MAX_KEY_BYTES: usize = 128;
/// Bytes of another system's key at least: shorter ones could be guessed.
pub const MIN_FOREIGN_BYTES: usize = 16;
/// Letters of a key id.
pub const ID_LEN: usize = 12;
/// Letters of a secret: 43 × log2(62) = 256.03 bit.
pub const SECRET_LEN: usize = 43;
/// Letters of the checksum: 62^6 > 2^32.
pub const CRC_LEN: usize = 6;
/// Letters of a tag at most.
pub const MAX_TAG_LEN: usize = 16;
/// Random bytes that [`generate`] wants. 55 letters are needed and 31 of 32 bytes are used, so that 128 bytes run
/// out less often than once in 10^60 keys.
pub const RANDOM_BYTES: usize = 128;

const PREFIX: &[u8] = b"sk-";
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The largest multiple of 62 that a byte holds; bytes from here on would favour the first letters.
const UNBIASED_BELOW: u8 = 248;

/// A key id as the bytes that maps are keyed by.
pub type IdBytes = [u8; ID_LEN];

/// Text that has the form of a key. Holds no secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParsedKey<'a> {
    /// Second part.
    pub tag: &'a str,
    /// Third part: names the key, is no secret.
    pub id: IdBytes,
}

/// The text is not a key. One answer for every reason, so that none is told to the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an API key")]
pub struct Malformed;

/// Why no key was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GenerateError {
    /// The tag is not 1–16 letters or digits.
    #[error("a tag is 1 to {MAX_TAG_LEN} letters or digits")]
    BadTag,
    /// Too few of the random bytes could be used.
    #[error("too few random bytes")]
    RandomExhausted,
}

/// A new key with its plaintext, which is shown once and stored nowhere.
pub struct FreshKey {
    /// Its public part.
    pub id: KeyId,
    /// The whole key; wiped when dropped.
    pub text: Zeroizing<String>,
}

impl fmt::Debug for FreshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FreshKey").field("id", &self.id).field("text", &"***").finish()
    }
}

/// Reads a presented credential. Any tag of 1–16 letters or digits will do: the tag is for people and scanners.
///
/// # Errors
/// [`Malformed`] for anything that no key can be, a wrong checksum included.
pub fn parse(presented: &[u8]) -> Result<ParsedKey<'_>, Malformed> {
    if presented.len() > MAX_KEY_BYTES {
        return Err(Malformed);
    }
    let (body, crc) = split_tail(presented, CRC_LEN)?;
    let (head, secret) = split_tail(body, SECRET_LEN)?;
    let (head, id) = split_tail(head.strip_suffix(b"-").ok_or(Malformed)?, ID_LEN)?;
    let tag = head.strip_suffix(b"-").and_then(|head| head.strip_prefix(PREFIX)).ok_or(Malformed)?;
    if !is_tag(tag) || !is_base62(id) || !is_base62(secret) || crc != crc_letters(body) {
        return Err(Malformed);
    }
    Ok(ParsedKey {
        tag: std::str::from_utf8(tag).map_err(|_| Malformed)?,
        id: IdBytes::try_from(id).map_err(|_| Malformed)?,
    })
}

/// Reads a bare key id, as an operator or a store names it.
#[must_use]
pub fn parse_id(text: &str) -> Option<IdBytes> {
    let id = IdBytes::try_from(text.as_bytes()).ok()?;
    is_base62(&id).then_some(id)
}

/// True for what may be the key of another system, as it is imported by its hash: [`MIN_FOREIGN_BYTES`] to
/// [`MAX_KEY_BYTES`] bytes of visible ASCII. Three parts with dots between them are a token and no key.
#[must_use]
pub fn may_be_foreign(presented: &[u8]) -> bool {
    (MIN_FOREIGN_BYTES..=MAX_KEY_BYTES).contains(&presented.len())
        && presented.iter().all(u8::is_ascii_graphic)
        && presented.iter().filter(|byte| **byte == b'.').count() != 2
}

/// The id of a key that does not carry one: the first 16 bytes of its SHA-256 as a number, most significant byte first,
/// modulo 62^12, as twelve digits of base 62 (`0-9A-Za-z`).
#[must_use]
pub fn id_of_hash(sha256: &Digest) -> IdBytes {
    let mut rest = sha256.0.iter().take(16).fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    let mut id = IdBytes::default();
    for slot in id.iter_mut().rev() {
        *slot = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    id
}

/// An id as the rest of the program knows it. Ids are letters and digits: [`parse_id`], [`parse`] and [`id_of_hash`]
/// make no other.
#[must_use]
pub fn key_id(id: &IdBytes) -> KeyId {
    KeyId::new(std::str::from_utf8(id).unwrap_or_default())
}

/// Makes a key. `random` are [`RANDOM_BYTES`] bytes of the operating system's generator; letters are drawn by
/// rejection, so each is equally likely.
///
/// # Errors
/// [`GenerateError`].
pub fn generate(tag: &str, random: &[u8]) -> Result<FreshKey, GenerateError> {
    if !is_tag(tag.as_bytes()) {
        return Err(GenerateError::BadTag);
    }
    let mut letters = random.iter().filter(|byte| **byte < UNBIASED_BELOW).map(|byte| letter(u32::from(*byte)));
    let id: String = letters.by_ref().take(ID_LEN).collect();
    whole(tag, &id, letters)
}

/// Makes a new secret for a key that keeps its id: a rotation. `random` as for [`generate`].
///
/// # Errors
/// [`GenerateError`].
pub fn renew(tag: &str, id: &KeyId, random: &[u8]) -> Result<FreshKey, GenerateError> {
    if !is_tag(tag.as_bytes()) {
        return Err(GenerateError::BadTag);
    }
    let letters = random.iter().filter(|byte| **byte < UNBIASED_BELOW).map(|byte| letter(u32::from(*byte)));
    whole(tag, id.as_str(), letters)
}

fn whole(tag: &str, id: &str, letters: impl Iterator<Item = char>) -> Result<FreshKey, GenerateError> {
    // Grown once, to its full size: a reallocation would leave a copy of the secret behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_KEY_BYTES));
    text.push_str("sk-");
    text.push_str(tag);
    text.push('-');
    text.push_str(id);
    text.push('-');
    let before = text.len();
    text.extend(letters.take(SECRET_LEN));
    if text.len() - before < SECRET_LEN {
        return Err(GenerateError::RandomExhausted);
    }
    let crc = crc_letters(text.as_bytes());
    text.extend(crc.into_iter().map(char::from));
    Ok(FreshKey { id: KeyId::new(id), text })
}

fn split_tail(text: &[u8], tail: usize) -> Result<(&[u8], &[u8]), Malformed> {
    let at = text.len().checked_sub(tail).ok_or(Malformed)?;
    Ok(text.split_at(at))
}

fn is_base62(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_alphanumeric)
}

fn is_tag(tag: &[u8]) -> bool {
    (1..=MAX_TAG_LEN).contains(&tag.len()) && is_base62(tag)
}

fn letter(number: u32) -> char {
    char::from(ALPHABET[(number % 62) as usize])
}

/// CRC-32 (zlib) in base 62, most significant digit first.
fn crc_letters(body: &[u8]) -> [u8; CRC_LEN] {
    let mut rest = crc32fast::hash(body);
    let mut letters = [b'0'; CRC_LEN];
    for slot in letters.iter_mut().rev() {
        *slot = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Made with Python: `zlib.crc32(body)` in base 62, digits 0-9A-Za-z, padded to six.
    const GOLDEN: &str = "sk-weir-0123456789AB-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ4VtYad";

    #[test]
    fn a_key_made_by_another_implementation_is_read() {
        let key = parse(GOLDEN.as_bytes()).expect("the golden key must parse");
        assert_eq!(key.tag, "weir", "the tag is the second part");
        assert_eq!(&key.id, b"0123456789AB", "the id is the third part");
    }

    #[test]
    fn a_renewed_key_keeps_its_id_and_nothing_else() {
        let id = KeyId::new("0123456789AB");
        let text = |random: u8| renew("weir", &id, &[random; RANDOM_BYTES]).expect("a key").text;
        let (one, other) = (text(1), text(2));
        assert_eq!(parse(one.as_bytes()).map(|key| key.id), Ok(*b"0123456789AB"), "a key, with this id");
        assert_ne!(one, other, "another secret");
        assert_eq!(renew("", &id, &[1; RANDOM_BYTES]).err(), Some(GenerateError::BadTag), "and a tag");
        assert!(renew("weir", &id, &[1; 42]).is_err(), "and all of a secret");
    }

    #[test]
    fn a_checksum_of_few_digits_is_padded_with_zeros_in_front() {
        assert_eq!(&crc_letters(b""), b"000000", "CRC-32 of nothing is 0");
    }

    #[test]
    fn bytes_that_would_favour_some_letters_are_skipped() {
        let mut random = vec![UNBIASED_BELOW; 60];
        random.extend_from_slice(&[61; 55]);
        let key = generate("weir", &random).expect("55 usable bytes are enough");
        assert_eq!(key.id.as_str(), "zzzzzzzzzzzz", "only bytes below 248 become letters");
        assert_eq!(
            generate("weir", &random[..114]).err(),
            Some(GenerateError::RandomExhausted),
            "54 usable bytes are one too few"
        );
    }

    #[test]
    fn tags_are_one_to_sixteen_letters_or_digits() {
        for tag in ["", "seventeenletters1", "a-b", "ä"] {
            assert_eq!(generate(tag, &[7; RANDOM_BYTES]).err(), Some(GenerateError::BadTag), "tag {tag:?}");
        }
        let long = generate("sixteenletters16", &[7; RANDOM_BYTES]).expect("sixteen letters are allowed");
        assert_eq!(parse(long.text.as_bytes()).map(|key| key.tag), Ok("sixteenletters16"), "and read back");
    }

    #[test]
    fn anything_longer_than_the_bound_is_no_key() {
        let long = format!("{GOLDEN}{}", "0".repeat(MAX_KEY_BYTES));
        assert_eq!(parse(long.as_bytes()), Err(Malformed), "129 bytes and more are not looked at");
    }

    /// Made with Python: `int.from_bytes(hashlib.sha256(key).digest()[:16], "big") % 62**12` in base 62.
    #[test]
    fn the_id_of_another_systems_key_is_that_of_another_implementation() {
        let id = id_of_hash(&super::super::digest::plain(b"sk-4Hs8_kQz-1aBcDeFgHiJkLm"));
        assert_eq!(key_id(&id).as_str(), "mGSRYZVR0p9V", "whoever has the hash can tell the id");
        assert_eq!(parse_id("mGSRYZVR0p9V"), Some(id), "which is one like any other");
        assert_eq!(&id_of_hash(&Digest([0; 32])), b"000000000000", "padded with zeros in front");
    }

    #[test]
    fn tokens_and_what_is_too_short_too_long_or_not_visible_are_no_keys_of_other_systems() {
        let long = "x".repeat(MAX_KEY_BYTES);
        for (text, may) in [
            ("sk-4Hs8_kQz-1aBcDeFgHiJkLm", true),
            ("0123456789abcdef", true),
            ("0123456789abcde", false),
            (&long, true),
            (&format!("{long}x"), false),
            ("eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl", false),
            ("a.key.with.more.dots.than.a.token", true),
            ("a key with a blank in it", false),
            ("kein-sichtbares-äscii", false),
        ] {
            assert_eq!(may_be_foreign(text.as_bytes()), may, "{text}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = generate("weir", &[7; RANDOM_BYTES]).expect("a key");
        let secret = &key.text[21..64];
        assert!(!format!("{key:?}").contains(secret), "Debug must not print the secret");
    }

    proptest! {
        #[test]
        fn what_is_generated_is_read_back(tag in "[0-9A-Za-z]{1,16}", random in any::<[u8; RANDOM_BYTES]>()) {
            let fresh = generate(&tag, &random);
            prop_assume!(fresh.is_ok());
            let fresh = fresh.expect("checked");
            let read = parse(fresh.text.as_bytes());
            prop_assert!(read.is_ok(), "a generated key must parse");
            let read = read.expect("checked");
            prop_assert_eq!(read.tag, tag.as_str(), "same tag");
            prop_assert_eq!(&read.id[..], fresh.id.as_str().as_bytes(), "same id");
        }

        #[test]
        fn any_single_changed_letter_is_rejected(
            random in any::<[u8; RANDOM_BYTES]>(),
            place in any::<prop::sample::Index>(),
            other in any::<u8>(),
        ) {
            let fresh = generate("weir", &random);
            prop_assume!(fresh.is_ok());
            let mut bytes = fresh.expect("checked").text.as_bytes().to_vec();
            let place = place.index(bytes.len());
            prop_assume!(bytes[place] != other);
            bytes[place] = other;
            prop_assert_eq!(parse(&bytes), Err(Malformed), "byte {} changed to {}", place, other);
        }

        #[test]
        fn parsing_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _either = parse(&bytes);
        }
    }
}
