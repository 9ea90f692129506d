//! What a provider's answer about a token means (RFC 7662 §2.2). Decides on the bytes and the time alone.

use crate::domain::units::WallMicros;
use serde_json::{Map, Value};
use std::time::Duration;

/// How long a no is kept: a token that becomes good must not wait long, and a storm of bad ones must not be passed on.
pub const NO_FOR: Duration = Duration::from_secs(5);

/// What the provider said.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// The token holds until then; these are its claims.
    Active(Map<String, Value>, WallMicros),
    /// It does not; why, for the log.
    Inactive(&'static str),
}

/// The answer is none: the provider is broken, which says nothing of the token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the answer is not a JSON object")]
pub struct NoAnswer;

/// Reads an answer. `ttl` bounds how long it is believed; `audiences`: of these the token must be for one, where there
/// are any.
///
/// # Errors
/// [`NoAnswer`].
pub fn read(body: &[u8], audiences: &[String], ttl: Duration, now: WallMicros) -> Result<Answer, NoAnswer> {
    let Ok(Value::Object(claims)) = serde_json::from_slice(body) else { return Err(NoAnswer) };
    Ok(match judge(&claims, audiences, now) {
        Ok(exp) => {
            let until = after(now, ttl);
            Answer::Active(claims, exp.map_or(until, |exp| until.min(exp)))
        }
        Err(why) => Answer::Inactive(why),
    })
}

/// So much later.
#[must_use]
pub fn after(now: WallMicros, span: Duration) -> WallMicros {
    now + WallMicros(i64::try_from(span.as_micros()).unwrap_or(i64::MAX))
}

/// When the token ends, if it says so; or why it does not hold.
fn judge(
    claims: &Map<String, Value>,
    audiences: &[String],
    now: WallMicros,
) -> Result<Option<WallMicros>, &'static str> {
    if claims.get("active") != Some(&Value::Bool(true)) {
        return Err("not active");
    }
    let exp = time(claims, "exp")?;
    if exp.is_some_and(|exp| exp <= now) {
        return Err("expired");
    }
    if time(claims, "nbf")?.is_some_and(|nbf| nbf > now) {
        return Err("not valid yet");
    }
    if !claims.get("iss").is_none_or(Value::is_string) {
        return Err("iss is no text");
    }
    if !audiences.is_empty() && !claims.get("aud").is_some_and(|aud| names_one(aud, audiences)) {
        return Err("for another audience");
    }
    Ok(exp)
}

/// A time claim: a number of seconds. Anything else under its name is no token that we understand.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<WallMicros>, &'static str> {
    const MICROS: i64 = 1_000_000;
    let Some(value) = claims.get(name) else { return Ok(None) };
    // Some providers write fractions; what is left of a second is not given away.
    let whole = value.as_i64().or_else(|| value.as_f64().filter(|it| it.is_finite()).map(|it| it.floor() as i64));
    let seconds = whole.ok_or("a time claim is no number")?;
    Ok(Some(WallMicros(seconds.saturating_mul(MICROS))))
}

/// `aud` is a text or a list of texts.
fn names_one(aud: &Value, audiences: &[String]) -> bool {
    let ours = |value: &Value| value.as_str().is_some_and(|name| audiences.iter().any(|own| own == name));
    match aud {
        Value::Array(names) => names.iter().any(ours),
        one => ours(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: WallMicros = WallMicros(1_000_000_000_000);
    const NOW_SECONDS: i64 = 1_000_000;
    const TTL: Duration = Duration::from_secs(30);

    fn of(answer: &Value) -> Answer {
        read(answer.to_string().as_bytes(), &["api".to_owned()], TTL, NOW).expect("an answer")
    }

    /// `Err`: why not; `Ok`: seconds from now for which it is believed.
    fn believed(answer: &Value) -> Result<i64, &'static str> {
        match of(answer) {
            Answer::Active(_, until) => Ok((until.0 - NOW.0) / 1_000_000),
            Answer::Inactive(why) => Err(why),
        }
    }

    #[test]
    fn only_active_true_is_active() {
        for active in [json!(false), json!("true"), json!(1), json!(null), json!([true])] {
            assert_eq!(believed(&json!({ "active": active, "aud": "api" })), Err("not active"), "{active}");
        }
        assert_eq!(believed(&json!({ "aud": "api" })), Err("not active"), "nothing said");
        assert_eq!(believed(&json!({ "active": true, "aud": "api" })), Ok(30), "true");
    }

    #[test]
    fn an_answer_is_believed_for_its_time_but_not_past_the_end_of_the_token() {
        let with = |exp: Value| believed(&json!({ "active": true, "aud": "api", "exp": exp }));
        assert_eq!(with(json!(NOW_SECONDS + 10)), Ok(10), "the token ends first");
        assert_eq!(with(json!(NOW_SECONDS + 90)), Ok(30), "the time of the answer ends first");
        assert_eq!(with(json!(NOW_SECONDS)), Err("expired"), "at its end");
        assert_eq!(with(json!(NOW_SECONDS - 1)), Err("expired"), "after it");
        assert_eq!(with(json!(i64::MAX)), Ok(30), "a far end");
    }

    #[test]
    fn a_time_claim_that_is_no_number_is_refused() {
        for claim in ["exp", "nbf"] {
            for value in [json!("9999999999"), json!(null), json!(true), json!([1])] {
                let mut answer = json!({ "active": true, "aud": "api" });
                answer[claim] = value.clone();
                assert_eq!(believed(&answer), Err("a time claim is no number"), "{claim} {value}");
            }
        }
    }

    #[test]
    fn a_token_is_not_good_before_its_time() {
        let with = |nbf: i64| believed(&json!({ "active": true, "aud": "api", "nbf": nbf }));
        assert_eq!(with(NOW_SECONDS + 1), Err("not valid yet"));
        assert_eq!(with(NOW_SECONDS), Ok(30));
    }

    #[test]
    fn the_audience_is_ours_or_holds_ours_where_one_is_asked_for() {
        let with = |aud: Value| believed(&json!({ "active": true, "aud": aud }));
        assert_eq!(with(json!("api")), Ok(30), "a text");
        assert_eq!(with(json!(["x", "api"])), Ok(30), "a list");
        for aud in [json!("api2"), json!(["x"]), json!([]), json!(null), json!({ "api": 1 }), json!([["api"]])] {
            assert_eq!(with(aud.clone()), Err("for another audience"), "{aud}");
        }
        assert_eq!(believed(&json!({ "active": true })), Err("for another audience"), "none");
        let open = read(br#"{"active":true}"#, &[], TTL, NOW);
        assert!(matches!(open, Ok(Answer::Active(..))), "none is asked for");
    }

    #[test]
    fn what_is_no_object_is_no_answer() {
        for body in [&b""[..], b"true", b"[]", b"{", b"<html>", b"\"active\""] {
            assert_eq!(read(body, &[], TTL, NOW), Err(NoAnswer), "{}", String::from_utf8_lossy(body));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _either = read(&body, &[], TTL, NOW);
        }

        #[test]
        fn nothing_is_believed_longer_than_the_answer_or_the_token(exp in any::<i64>()) {
            if let Ok(seconds) = believed(&json!({ "active": true, "aud": "api", "exp": exp })) {
                prop_assert!(seconds > 0 && seconds <= 30);
                prop_assert!(exp.saturating_sub(NOW_SECONDS) >= seconds);
            }
        }
    }
}
