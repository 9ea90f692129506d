//! How limits are told to callers (semantics.md §2): the one place that owns `x-ratelimit-*`, `retry-after*` and
//! `x-limit-*`. Does not decide who may see them (nobody on 401).

use crate::domain::limit::{Denial, Dimension, Standing};
use crate::domain::units::Micros;

/// A header line; names are lower case.
pub type Header = (&'static str, String);

/// `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`.
#[must_use]
pub fn standing_headers(standings: &[Standing]) -> Vec<Header> {
    let mut headers = Vec::with_capacity(3 * standings.len());
    for standing in standings {
        let (limit, remaining, reset) = match standing.dimension {
            Dimension::Requests => {
                ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
            }
            Dimension::Tokens => {
                ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")
            }
            Dimension::Concurrency => continue,
        };
        headers.push((limit, standing.limit.to_string()));
        headers.push((remaining, standing.remaining.to_string()));
        headers.push((reset, duration(standing.reset)));
    }
    headers
}

/// `retry-after` (whole seconds, rounded up, at least 1) and `retry-after-ms` (rounded up), for 429 and 503.
#[must_use]
pub fn retry_headers(wait: Micros) -> Vec<Header> {
    vec![
        ("retry-after", wait.0.div_ceil(1_000_000).max(1).to_string()),
        ("retry-after-ms", wait.0.div_ceil(1_000).max(1).to_string()),
    ]
}

/// What a 429 adds: when to come back (unless never), and which rule at which scope said no. The figures of
/// `denial.standings` go through [`standing_headers`] like those of any other answer.
#[must_use]
pub fn denial_headers(denial: &Denial) -> Vec<Header> {
    let mut headers = denial.retry_after.map(retry_headers).unwrap_or_default();
    headers.push(("x-limit-rule", denial.rule.to_string()));
    headers.push(("x-limit-scope", denial.scope.to_owned()));
    headers
}

/// `12ms`, `1s`, `6m0s`, `1h0m0s`: milliseconds below a second, seconds from there on, rounded up so that nobody
/// comes too early.
#[must_use]
pub fn duration(span: Micros) -> String {
    let millis = span.0.div_ceil(1_000);
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1_000 {
        return format!("{millis}ms");
    }
    let secs = span.0.div_ceil(1_000_000);
    match (secs / 3_600, secs / 60 % 60, secs % 60) {
        (0, 0, secs) => format!("{secs}s"),
        (0, mins, secs) => format!("{mins}m{secs}s"),
        (hours, mins, secs) => format!("{hours}h{mins}m{secs}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_the_openai_clients_expect() {
        for (micros, text) in [
            (0, "0s"),
            (1, "1ms"),
            (12_000, "12ms"),
            (999_001, "1s"),
            (1_000_001, "2s"),
            (360_000_000, "6m0s"),
            (3_600_000_000, "1h0m0s"),
            (93_784_000_000, "26h3m4s"),
        ] {
            assert_eq!(duration(Micros(micros)), text, "{micros} us");
        }
    }

    #[test]
    fn a_dimension_without_a_rule_has_no_headers() {
        let standing = Standing { dimension: Dimension::Tokens, limit: 100, remaining: 36, reset: Micros(38_400_000) };
        let headers = standing_headers(&[standing]);
        let expected = [
            ("x-ratelimit-limit-tokens", "100".to_owned()),
            ("x-ratelimit-remaining-tokens", "36".to_owned()),
            ("x-ratelimit-reset-tokens", "39s".to_owned()),
        ];
        assert_eq!(headers, expected, "three lines for tokens, none for requests");
    }

    #[test]
    fn retry_after_is_whole_seconds_rounded_up_and_at_least_one() {
        assert_eq!(retry_headers(Micros(0))[0].1, "1", "never zero");
        assert_eq!(retry_headers(Micros(1_000_001))[0].1, "2", "rounded up");
        assert_eq!(retry_headers(Micros(1_000_001))[1].1, "1001", "milliseconds rounded up");
    }

    #[test]
    fn a_denial_names_its_rule_and_scope_and_a_hopeless_one_no_time() {
        let denial = |retry_after| Denial {
            dimension: Dimension::Requests,
            rule: "free.requests".into(),
            scope: "tenant",
            retry_after,
            standings: vec![],
        };
        let told: Vec<_> = denial_headers(&denial(Some(Micros(3_000_000)))).into_iter().map(|h| h.0).collect();
        assert_eq!(told, ["retry-after", "retry-after-ms", "x-limit-rule", "x-limit-scope"], "when, which, where");
        let told: Vec<_> = denial_headers(&denial(None)).into_iter().map(|h| h.0).collect();
        assert_eq!(told, ["x-limit-rule", "x-limit-scope"], "no time to wait for");
    }
}
