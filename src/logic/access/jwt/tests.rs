pub(crate) mod issuer;

use super::*;
use issuer::{Signer, encoded, published};
use proptest::prelude::*;
use serde_json::json;
use std::sync::LazyLock;

const ISSUER: &str = "https://login.example.com/";
/// 2026-11-21T12:00:00Z
const NOW: i64 = 1_795_262_400;

static RSA: LazyLock<Signer> = LazyLock::new(|| Signer::rsa("rsa-1"));
static EC: LazyLock<Signer> = LazyLock::new(|| Signer::ec("ec-1"));
static ED: LazyLock<Signer> = LazyLock::new(|| Signer::ed("ed-1"));
static KEYS: LazyLock<KeySet> = LazyLock::new(|| KeySet::parse(&published(&[&RSA, &EC, &ED])).expect("a key set"));

fn policy() -> Policy {
    Policy {
        issuer: ISSUER.to_owned(),
        audiences: vec!["llm-api".to_owned(), "other".to_owned()],
        algorithms: vec![JwtAlgorithm::RS256, JwtAlgorithm::ES256, JwtAlgorithm::EdDSA],
        leeway: Duration::from_secs(60),
    }
}

fn good() -> Value {
    json!({"iss": ISSUER, "aud": "llm-api", "sub": "ann", "exp": NOW + 300, "nbf": NOW - 5, "iat": NOW - 5, "org": "acme"})
}

/// The usual claims with one of them set, or gone.
fn with(name: &str, value: Option<Value>) -> Value {
    let mut claims = good();
    let members = claims.as_object_mut().expect("an object");
    match value {
        Some(value) => members.insert(name.to_owned(), value),
        None => members.remove(name),
    };
    claims
}

fn judged(token: &str) -> Result<Claims, BadToken> {
    judged_at(token, NOW)
}

fn judged_at(token: &str, seconds: i64) -> Result<Claims, BadToken> {
    read(token.as_bytes(), &policy(), WallMicros(seconds * 1_000_000))?.verify(&KEYS)
}

fn header(members: Value) -> String {
    let mut header = json!({"alg": "RS256", "kid": "rsa-1"});
    for (name, value) in members.as_object().expect("an object") {
        header[name] = value.clone();
    }
    RSA.signed(&header.to_string(), &good().to_string())
}

#[test]
fn a_good_token_of_each_kind_holds() {
    for signer in [&RSA, &EC, &ED] {
        let claims = judged(&signer.token(&good())).expect("a good token");
        assert_eq!(claims.subject, "ann", "sub");
        assert_eq!(claims.members.get("org"), Some(&json!("acme")), "other claims");
        assert_eq!(claims.until, WallMicros((NOW + 360) * 1_000_000), "exp and the leeway");
        assert_eq!(claims.from, WallMicros((NOW - 65) * 1_000_000), "nbf and the leeway");
    }
    assert!(judged(&header(json!({"typ": "at+jwt", "x5t": "abc", "cty": "JWT"}))).is_ok(), "harmless members");
    assert!(judged(&header(json!({"typ": "application/at+JWT"}))).is_ok(), "an access token's type in full");
    assert!(judged(&RSA.token(&with("aud", Some(json!(["x", "other"]))))).is_ok(), "a list of audiences");
    assert!(judged(&RSA.token(&with("exp", Some(json!(NOW as f64 + 0.5))))).is_ok(), "a fraction of a second");
    assert!(judged(&RSA.token(&with("nbf", None))).is_ok(), "nbf is not needed");
}

#[test]
fn a_token_without_a_signature_is_none() {
    let claims = encoded(good().to_string());
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let head = encoded(json!({"alg": alg, "kid": "rsa-1"}).to_string());
        assert_eq!(judged(&format!("{head}.{claims}.")), Err(BadToken::Form), "{alg}: no third part");
        assert_eq!(judged(&format!("{head}.{claims}.AAAA")), Err(BadToken::Header("alg")), "{alg}: a made-up one");
    }
    assert_eq!(judged(&RSA.signed(r#"{"kid":"rsa-1"}"#, &good().to_string())), Err(BadToken::Header("alg")), "no alg");
    for alg in [json!(null), json!(1), json!(["RS256"]), json!({"RS256": 1})] {
        assert_eq!(judged(&header(json!({ "alg": alg }))), Err(BadToken::Header("alg")), "{alg}");
    }
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    let head = encoded(json!({"alg": "HS256", "kid": "rsa-1"}).to_string());
    let message = format!("{head}.{}", encoded(good().to_string()));
    let secret = jsonwebtoken::EncodingKey::from_secret(&RSA.public());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &secret, jsonwebtoken::Algorithm::HS256);
    let token = format!("{message}.{}", signature.expect("a signature"));
    assert_eq!(judged(&token), Err(BadToken::Header("alg")), "the issuer does not use HS256");
    let confused = Policy { algorithms: vec![JwtAlgorithm::RS256, JwtAlgorithm::HS256], ..policy() };
    let read = read(token.as_bytes(), &confused, WallMicros(NOW * 1_000_000)).expect("pinned by mistake");
    assert_eq!(read.verify(&KEYS), Err(BadToken::KeyMismatch), "and even then the key is of another kind");
}

#[test]
fn a_shared_secret_is_for_hmac_alone() {
    let secret = b"0123456789abcdef0123456789abcdef";
    let keys = KeySet::secret(secret);
    let shared = Policy { algorithms: vec![JwtAlgorithm::HS256], ..policy() };
    let message = format!("{}.{}", encoded(r#"{"alg":"HS256"}"#), encoded(good().to_string()));
    let sign = |secret: &[u8]| {
        let key = jsonwebtoken::EncodingKey::from_secret(secret);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256);
        format!("{message}.{}", signature.expect("a signature"))
    };
    let judge = |token: &str| read(token.as_bytes(), &shared, WallMicros(NOW * 1_000_000))?.verify(&keys);
    assert!(judge(&sign(secret)).is_ok(), "the secret");
    assert_eq!(judge(&sign(b"another secret, of which nobody knows")).err(), Some(BadToken::Signature), "another");
    let rsa = RSA.token(&good());
    assert_eq!(read_ok(&rsa).verify(&keys), Err(BadToken::KeyMismatch), "no RSA with a secret");
    assert!(!format!("{keys:?}").contains("0123"), "a secret is not printed");
}

fn read_ok(token: &str) -> Unverified<'_> {
    read(token.as_bytes(), &policy(), WallMicros(NOW * 1_000_000)).expect("the form is right")
}

#[test]
fn the_signature_covers_everything_and_is_of_the_keys_kind() {
    let token = RSA.token(&good());
    let (message, _) = token.rsplit_once('.').expect("three parts");
    let other = Signer::rsa("rsa-1");
    assert_eq!(judged(&other.token(&good())), Err(BadToken::Signature), "another key of that name");
    let (head, _) = message.split_once('.').expect("two parts");
    let (_, signature) = token.rsplit_once('.').expect("three parts");
    let forged = format!("{head}.{}.{signature}", encoded(with("sub", Some(json!("root"))).to_string()));
    assert_eq!(judged(&forged), Err(BadToken::Signature), "other claims");
    let ec_on_rsa = EC.signed(r#"{"alg":"ES256","kid":"rsa-1"}"#, &good().to_string());
    assert_eq!(judged(&ec_on_rsa), Err(BadToken::KeyMismatch), "an ES256 signature for an RSA key");
    let rsa_on_ec = RSA.signed(r#"{"alg":"RS256","kid":"ec-1"}"#, &good().to_string());
    assert_eq!(judged(&rsa_on_ec), Err(BadToken::KeyMismatch), "the other way round");
    let relabelled = EC.signed(r#"{"alg":"RS256","kid":"rsa-1"}"#, &good().to_string());
    assert_eq!(judged(&relabelled), Err(BadToken::Signature), "one that says it is RS256");
    let zero =
        format!("{}.{}.{}", encoded(r#"{"alg":"ES256","kid":"ec-1"}"#), encoded(good().to_string()), encoded([0; 64]));
    assert_eq!(judged(&zero), Err(BadToken::Signature), "the signature of zeros (CVE-2022-21449)");
}

#[test]
fn times_are_numbers_and_exp_is_needed() {
    for name in ["exp", "nbf", "iat"] {
        for value in [json!((NOW + 300).to_string()), json!(null), json!([NOW]), json!(-1), json!(1e300), json!(true)] {
            assert_eq!(
                judged(&RSA.token(&with(name, Some(value.clone())))),
                Err(BadToken::Claim(name)),
                "{name}: {value}"
            );
        }
    }
    assert_eq!(judged(&RSA.token(&with("exp", None))), Err(BadToken::Claim("exp")), "no exp");
    assert_eq!(judged(&RSA.token(&with("exp", Some(json!(u64::MAX))))), Err(BadToken::Claim("exp")), "past year 9999");
}

#[test]
fn the_leeway_is_a_minute_and_no_more() {
    let token = RSA.token(&good());
    assert!(judged_at(&token, NOW + 359).is_ok(), "59 s after exp");
    assert_eq!(judged_at(&token, NOW + 360), Err(BadToken::Expired), "60 s after exp");
    assert!(judged_at(&token, NOW - 65).is_ok(), "60 s before nbf");
    assert_eq!(judged_at(&token, NOW - 66), Err(BadToken::NotYet), "61 s before nbf");
}

#[test]
fn issuer_audience_and_subject_are_exact() {
    for issuer in ["https://login.example.com", "https://LOGIN.example.com/", "https://login.example.com/ ", "x"] {
        assert_eq!(judged(&RSA.token(&with("iss", Some(json!(issuer))))), Err(BadToken::ForeignIssuer), "{issuer}");
    }
    for audience in [json!("llm"), json!("llm-api2"), json!("LLM-API"), json!([]), json!(["x"]), json!("")] {
        assert_eq!(judged(&RSA.token(&with("aud", Some(audience.clone())))), Err(BadToken::Audience), "{audience}");
    }
    for audience in [json!(null), json!({"llm-api": 1}), json!(["llm-api", 1]), json!(1)] {
        assert_eq!(judged(&RSA.token(&with("aud", Some(audience.clone())))), Err(BadToken::Claim("aud")), "{audience}");
    }
    for name in ["iss", "aud", "sub"] {
        assert_eq!(judged(&RSA.token(&with(name, None))), Err(BadToken::Claim(name)), "no {name}");
    }
    for value in [json!(""), json!(7), json!(null), json!(["ann"])] {
        assert_eq!(judged(&RSA.token(&with("sub", Some(value.clone())))), Err(BadToken::Claim("sub")), "sub {value}");
        assert_eq!(judged(&RSA.token(&with("iss", Some(value.clone())))), Err(BadToken::Claim("iss")), "iss {value}");
    }
}

#[test]
fn a_member_that_is_there_twice_is_refused() {
    let usual = good().to_string();
    for twice in [
        r#"{"alg":"RS256","kid":"rsa-1","alg":"none"}"#,
        r#"{"alg":"none","kid":"rsa-1","alg":"RS256"}"#,
        r#"{"alg":"RS256","kid":"rsa-1","\u006bid":"ec-1"}"#,
    ] {
        let refused = judged(&RSA.signed(twice, &usual));
        assert!(matches!(refused, Err(BadToken::Json { part: "header", .. })), "{twice}: {refused:?}");
    }
    let open = usual.trim_end_matches('}');
    for twice in [r#""sub":"root""#, r#""exp":9999999999"#, r#""org":"victim""#, r#""deep":{"a":1,"a":2}"#] {
        let refused = judged(&RSA.signed(r#"{"alg":"RS256","kid":"rsa-1"}"#, &format!("{open},{twice}}}")));
        assert!(matches!(refused, Err(BadToken::Json { part: "claims", .. })), "{twice}: {refused:?}");
    }
}

#[test]
fn a_token_does_not_bring_its_own_key_or_rules() {
    let evil = Signer::rsa("evil");
    for (name, value) in [
        ("jku", json!("https://evil.example/jwks.json")),
        ("x5u", json!("https://evil.example/cert.pem")),
        ("x5c", json!(["MIIB"])),
        ("jwk", evil.jwk()),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
    ] {
        let mut head = json!({"alg": "RS256", "kid": "evil"});
        head[name] = value;
        assert_eq!(judged(&evil.signed(&head.to_string(), &good().to_string())), Err(BadToken::Header(name)), "{name}");
    }
    for kind in [json!("JWE"), json!(""), json!(1), json!(null), json!("application/jwt")] {
        assert_eq!(judged(&header(json!({ "typ": kind }))), Err(BadToken::Header("typ")), "{kind}");
    }
}

#[test]
fn a_kid_is_the_key_of_a_map() {
    for kid in [
        "../../etc/passwd",
        "/dev/null",
        "' OR 1=1 --",
        "rsa-1'; DROP TABLE keys; --",
        "https://evil.example/key",
        "rsa-1\u{0}",
        "RSA-1",
        " rsa-1",
        "",
        "|id",
        "${jndi:ldap://x}",
    ] {
        assert_eq!(judged(&header(json!({ "kid": kid }))), Err(BadToken::UnknownKey), "{kid:?}");
    }
    let long = "k".repeat(MAX_KID + 1);
    for kid in [json!(long), json!(1), json!(null), json!(["rsa-1"]), json!({"a": 1})] {
        assert_eq!(judged(&header(json!({ "kid": kid }))), Err(BadToken::Header("kid")), "{kid}");
    }
}

#[test]
fn without_a_kid_there_must_be_one_key_that_it_can_be() {
    let nameless =
        |signer: &Signer| signer.signed(&json!({"alg": signer.algorithm()}).to_string(), &good().to_string());
    assert!(judged(&nameless(&RSA)).is_ok(), "one RSA key");
    let second = Signer::rsa("rsa-2");
    let two = KeySet::parse(&published(&[&RSA, &second])).expect("a key set");
    assert_eq!(read_ok(&nameless(&RSA)).verify(&two), Err(BadToken::NoKid), "two");
    assert_eq!(read_ok(&nameless(&EC)).verify(&two), Err(BadToken::NoKid), "none");
}

#[test]
fn form_is_three_parts_of_base64url_and_nothing_else() {
    let token = RSA.token(&good());
    let (message, signature) = token.rsplit_once('.').expect("three parts");
    let (head, payload) = message.split_once('.').expect("two parts");
    for wrong in [
        format!("{token}="),
        format!("{head}=.{payload}.{signature}"),
        format!("{token}."),
        format!(".{token}"),
        format!("{token}.x"),
        format!("{token} "),
        format!("{token}\n"),
        format!("{head}..{signature}"),
        format!("{head}.{payload}."),
        format!("{head}.{payload}"),
        format!("{head}.{payload}.{signature}!"),
        format!("{head}.{payload}+.{signature}"),
        format!("{head}.{payload}.{}", "é".repeat(8)),
        "..".to_owned(),
        "a.b.c".to_owned(),
    ] {
        assert_eq!(judged(&wrong), Err(BadToken::Form), "{wrong}");
    }
    let spelled = format!("{}.{payload}.{signature}", respelled(head));
    assert_eq!(judged(&spelled), Err(BadToken::Form), "bits behind the end: a second spelling of the same bytes");
    for trailing in ["{}", " x", "\u{0}", ","] {
        let refused = judged(&RSA.signed(r#"{"alg":"RS256","kid":"rsa-1"}"#, &format!("{}{trailing}", good())));
        assert!(matches!(refused, Err(BadToken::Json { part: "claims", .. })), "{trailing:?}: {refused:?}");
    }
    for payload in ["[]", "\"text\"", "1", "null", "{'a':1}"] {
        let refused = judged(&RSA.signed(r#"{"alg":"RS256","kid":"rsa-1"}"#, payload));
        assert!(matches!(refused, Err(BadToken::Json { part: "claims", .. })), "{payload}: {refused:?}");
    }
}

/// A text that lenient decoders read as the same bytes; the header has a length that leaves bits over.
fn respelled(head: &str) -> String {
    let padded = format!("{{\"alg\":\"RS256\",\"kid\":\"rsa-1\"{}}}", " ".repeat(head.len() % 2));
    let texts = (0..3).map(|blanks| encoded(format!("{padded}{}", " ".repeat(blanks))));
    let text = texts.into_iter().find(|text| text.len() % 4 != 0).expect("a length with bits over");
    let last = text.chars().last().expect("a letter");
    let next = char::from(last as u8 + 1);
    format!("{}{next}", &text[..text.len() - 1])
}

#[test]
fn a_token_has_a_bound() {
    let blown = |filler: usize| RSA.token(&with("x", Some(json!("x".repeat(filler)))));
    assert!(judged(&blown(5000)).is_ok(), "a large one");
    let large = blown(7000);
    assert!(large.len() > MAX_TOKEN, "the test's token is over the bound: {}", large.len());
    assert_eq!(judged(&large), Err(BadToken::TooLong), "a larger one");
}

#[test]
fn what_has_no_two_dots_is_for_others() {
    for other in ["sk-weir-abc", "opaque", "a.b", ""] {
        assert!(!looks_like_one(other.as_bytes()), "{other}");
    }
    for token in ["a.b.c", "..", "a.b.c.d.e"] {
        assert!(looks_like_one(token.as_bytes()), "{token}");
    }
}

#[test]
fn keys_that_cannot_be_trusted_are_left_out() {
    let usual = RSA.jwk();
    let one = |change: &[(&str, Value)]| {
        let mut key = usual.clone();
        for (name, value) in change {
            key[*name] = value.clone();
        }
        KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).map(|set| set.len())
    };
    assert_eq!(one(&[]), Ok(1), "as it is");
    assert_eq!(one(&[("alg", json!("RS256")), ("key_ops", json!(["verify"]))]), Ok(1), "for this");
    for (name, value) in [
        ("use", json!("enc")),
        ("use", json!(1)),
        ("key_ops", json!(["encrypt"])),
        ("key_ops", json!("verify")),
        ("alg", json!("RSA-OAEP")),
        ("alg", json!("none")),
        ("kty", json!("oct")),
        ("kty", json!(null)),
        ("d", json!("AAAA")),
        ("n", json!(encoded([0xff; 255]))),
        ("n", json!(encoded([0x7f; 256]))),
        ("n", json!(encoded([0xff; 1025]))),
        ("n", json!("?")),
        ("e", json!(encoded([1]))),
        ("e", json!(encoded([2]))),
        ("e", json!(encoded([0xff; 9]))),
        ("kid", json!(1)),
        ("kid", json!("k".repeat(MAX_KID + 1))),
    ] {
        assert_eq!(one(&[(name, value.clone())]), Err(KeySetError::Empty), "{name}: {value}");
    }
    let oct = json!({"keys": [{"kty": "oct", "k": encoded([7; 32]), "kid": "s"}]});
    assert_eq!(KeySet::parse(oct.to_string().as_bytes()), Err(KeySetError::Empty), "a published secret is none");
    let short = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": encoded([1; 31]), "y": encoded([1; 32])}]});
    assert_eq!(KeySet::parse(short.to_string().as_bytes()), Err(KeySetError::Empty), "half a point");
}

#[test]
fn a_key_is_used_for_the_algorithm_that_it_names() {
    let mut key = RSA.jwk();
    key["alg"] = json!("PS256");
    let set = KeySet::parse(json!({ "keys": [key] }).to_string().as_bytes()).expect("a key set");
    assert_eq!(read_ok(&RSA.token(&good())).verify(&set), Err(BadToken::KeyMismatch), "RS256 with a key for PS256");
}

#[test]
fn a_key_set_has_bounds() {
    let many: Vec<Value> = (0..=MAX_KEYS).map(|_| EC.jwk()).collect();
    assert_eq!(KeySet::parse(json!({ "keys": many }).to_string().as_bytes()), Err(KeySetError::TooMany), "101 keys");
    assert_eq!(KeySet::parse(&vec![b' '; MAX_DOCUMENT + 1]), Err(KeySetError::TooLarge), "too large");
    for text in ["{}", r#"{"keys":{}}"#, r#"{"keys":null}"#] {
        assert_eq!(KeySet::parse(text.as_bytes()), Err(KeySetError::NoKeys), "{text}");
    }
    for text in ["", "<html>", r#"{"keys":[],"keys":[]}"#, "[]"] {
        assert!(matches!(KeySet::parse(text.as_bytes()), Err(KeySetError::Json(_))), "{text}");
    }
    for text in [r#"{"keys":[]}"#, r#"{"keys":[1,null,"x"]}"#, r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#] {
        assert_eq!(KeySet::parse(text.as_bytes()), Err(KeySetError::Empty), "no key can be used: {text}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(token in prop::collection::vec(any::<u8>(), 0..300), dots in prop::collection::vec(0usize..300, 0..4)) {
        let mut token = token;
        for dot in dots {
            if let Some(byte) = token.get_mut(dot) {
                *byte = b'.';
            }
        }
        let judged = read(&token, &policy(), WallMicros(NOW * 1_000_000)).map(|read| read.verify(&KEYS));
        prop_assert!(!matches!(judged, Ok(Ok(_))), "nobody signed {token:?}");
        let _ = KeySet::parse(&token);
    }

    #[test]
    fn no_parts_make_it_panic(head in ".{0,60}", payload in ".{0,60}", signature in prop::collection::vec(any::<u8>(), 1..90)) {
        let token = format!("{}.{}.{}", encoded(&head), encoded(&payload), encoded(&signature));
        let judged = read(token.as_bytes(), &policy(), WallMicros(NOW * 1_000_000)).map(|read| read.verify(&KEYS));
        prop_assert!(!matches!(judged, Ok(Ok(_))), "nobody signed {token}");
    }

    #[test]
    fn no_change_of_a_letter_leaves_a_token_good(at in 0usize..500, letter in "[A-Za-z0-9_.-]") {
        static TOKEN: LazyLock<String> = LazyLock::new(|| EC.token(&good()));
        let at = at % TOKEN.len();
        let changed = format!("{}{letter}{}", &TOKEN[..at], &TOKEN[at + 1..]);
        prop_assert_eq!(judged(&changed).is_ok(), changed == *TOKEN, "{}", changed);
    }

    #[test]
    fn no_claims_make_it_panic(exp in any::<f64>(), nbf in any::<i64>(), aud in prop::collection::vec(".{0,9}", 0..4)) {
        let claims = json!({"iss": ISSUER, "sub": "x", "aud": aud, "exp": exp, "nbf": nbf});
        let _ = judged(&EC.token(&claims));
    }
}
