//! How limits are told to callers (semantics.md §2): the one place that owns `x-ratelimit-*`, `anthropic-ratelimit-*`,
//! `retry-after*`, `x-should-retry` and `x-limit-*`. Does not decide who may see them (nobody on 401).

use crate::domain::limit::{Denial, Dimension, Standing};
use crate::domain::surface::Dialect;
use crate::domain::units::{Micros, WallMicros};
use jiff::Timestamp;

/// A header line; names are lower case.
pub type Header = (&'static str, String);

/// What `Retry-After` says of concurrency: nobody knows when a request will end.
const CONCURRENCY_RETRY: Micros = Micros(1_000_000);

/// Limit, remaining and reset of one group of limits.
type Names = [&'static str; 3];

const REQUESTS: Names = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
const TOKENS: Names = ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];

/// The same as Anthropic's clients know them, with the dimensions that each is about.
const ANTHROPIC: [(&[Dimension], Names); 4] = [
    (
        &[Dimension::Requests],
        [
            "anthropic-ratelimit-requests-limit",
            "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-requests-reset",
        ],
    ),
    (
        &[Dimension::Tokens, Dimension::InputTokens, Dimension::OutputTokens],
        [
            "anthropic-ratelimit-tokens-limit",
            "anthropic-ratelimit-tokens-remaining",
            "anthropic-ratelimit-tokens-reset",
        ],
    ),
    (
        &[Dimension::InputTokens],
        [
            "anthropic-ratelimit-input-tokens-limit",
            "anthropic-ratelimit-input-tokens-remaining",
            "anthropic-ratelimit-input-tokens-reset",
        ],
    ),
    (
        &[Dimension::OutputTokens],
        [
            "anthropic-ratelimit-output-tokens-limit",
            "anthropic-ratelimit-output-tokens-remaining",
            "anthropic-ratelimit-output-tokens-reset",
        ],
    ),
];

/// True for a header in which an upstream tells its own limits: never passed on.
#[must_use]
pub fn is_of_limits(name: &str) -> bool {
    name.starts_with("x-ratelimit-") || name.starts_with("anthropic-ratelimit-")
}

/// `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, each of the most constrained rule; to Anthropic's clients
/// beside them `anthropic-ratelimit-*`, whose resets are points in time.
#[must_use]
pub fn standing_headers(standings: &[Standing], dialect: Dialect, now: WallMicros) -> Vec<Header> {
    let mut headers = Vec::with_capacity(6);
    for (names, dimensions) in [(REQUESTS, ANTHROPIC[0].0), (TOKENS, ANTHROPIC[1].0)] {
        if let Some(standing) = tightest(standings, dimensions) {
            group(&mut headers, names, standing, duration(standing.reset));
        }
    }
    if dialect != Dialect::Anthropic {
        return headers;
    }
    for (dimensions, names) in ANTHROPIC {
        if let Some(standing) = tightest(standings, dimensions) {
            group(&mut headers, names, standing, instant(now, standing.reset));
        }
    }
    headers
}

fn group(headers: &mut Vec<Header>, [limit, remaining, reset]: Names, standing: &Standing, when: String) {
    headers.push((limit, standing.limit.to_string()));
    headers.push((remaining, standing.remaining.to_string()));
    headers.push((reset, when));
}

/// The standing with the smallest share left among those of some dimensions.
fn tightest<'s>(standings: &'s [Standing], dimensions: &[Dimension]) -> Option<&'s Standing> {
    let among = standings.iter().filter(|standing| dimensions.contains(&standing.dimension));
    among.min_by(|a, b| {
        let left = u128::from(a.remaining) * u128::from(b.limit);
        let right = u128::from(b.remaining) * u128::from(a.limit);
        left.cmp(&right).then(a.remaining.cmp(&b.remaining))
    })
}

/// A point in time, RFC 3339 in whole seconds, rounded up so that nobody comes too early.
fn instant(now: WallMicros, span: Micros) -> String {
    let at = i128::from(now.0) + i128::from(span.0);
    let seconds = i64::try_from(-(-at).div_euclid(1_000_000)).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

/// `retry-after` (whole seconds, rounded up, at least 1) and `retry-after-ms` (rounded up), for 429 and 503.
#[must_use]
pub fn retry_headers(wait: Micros) -> Vec<Header> {
    vec![
        ("retry-after", wait.0.div_ceil(1_000_000).max(1).to_string()),
        ("retry-after-ms", wait.0.div_ceil(1_000).max(1).to_string()),
    ]
}

/// What a 429 adds: when to come back (unless never), that clients should not try by themselves where only money or an
/// administrator helps, and which rule at which scope said no. The figures of `denial.standings` go through
/// [`standing_headers`] like those of any other answer.
#[must_use]
pub fn denial_headers(denial: &Denial) -> Vec<Header> {
    let wait = if denial.dimension == Dimension::Concurrency { Some(CONCURRENCY_RETRY) } else { denial.retry_after };
    let mut headers = wait.map(retry_headers).unwrap_or_default();
    // Of a budget that running requests hold, there may soon be more.
    let is_soon = wait.is_some_and(|wait| wait <= CONCURRENCY_RETRY);
    if (denial.dimension == Dimension::Spend && !is_soon) || wait.is_none() {
        headers.push(("x-should-retry", "false".to_owned()));
    }
    headers.push(("x-limit-rule", printable(&denial.rule)));
    headers.push(("x-limit-scope", denial.scope.to_owned()));
    headers
}

/// A name as a header can carry it: rules may be called by a pattern of models, in any letters.
fn printable(name: &str) -> String {
    name.chars().map(|letter| if matches!(letter, ' '..='~') { letter } else { '?' }).collect()
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

    /// 2026-11-20T12:00:00.5Z
    const NOW: WallMicros = WallMicros(1_795_176_000_500_000);

    fn standing(dimension: Dimension, limit: u64, remaining: u64) -> Standing {
        Standing { dimension, limit, remaining, reset: Micros(38_400_000) }
    }

    #[test]
    fn a_dimension_without_a_rule_has_no_headers() {
        let headers = standing_headers(&[standing(Dimension::Tokens, 100, 36)], Dialect::OpenAi, NOW);
        let expected = [
            ("x-ratelimit-limit-tokens", "100".to_owned()),
            ("x-ratelimit-remaining-tokens", "36".to_owned()),
            ("x-ratelimit-reset-tokens", "39s".to_owned()),
        ];
        assert_eq!(headers, expected, "three lines for tokens, none for requests");
    }

    #[test]
    fn of_all_rules_on_tokens_the_tightest_is_told_and_to_anthropics_clients_each() {
        let all = [
            standing(Dimension::Tokens, 100, 50),
            standing(Dimension::InputTokens, 80, 20),
            standing(Dimension::OutputTokens, 20, 19),
        ];
        let told = |dialect, name: &str| {
            let headers = standing_headers(&all, dialect, NOW);
            let found = headers.iter().filter(|(known, _)| *known == name).map(|(_, value)| value.clone());
            found.collect::<Vec<_>>().join(",")
        };
        assert_eq!(told(Dialect::OpenAi, "x-ratelimit-limit-tokens"), "80", "a quarter is less than a half, once");
        assert_eq!(told(Dialect::OpenAi, "anthropic-ratelimit-tokens-limit"), "", "not to other clients");
        for (name, value) in [
            ("x-ratelimit-remaining-tokens", "20"),
            ("anthropic-ratelimit-tokens-remaining", "20"),
            ("anthropic-ratelimit-input-tokens-limit", "80"),
            ("anthropic-ratelimit-output-tokens-remaining", "19"),
            ("anthropic-ratelimit-requests-limit", ""),
        ] {
            assert_eq!(told(Dialect::Anthropic, name), value, "{name}");
        }
        let reset = told(Dialect::Anthropic, "anthropic-ratelimit-output-tokens-reset");
        assert_eq!(reset, "2026-11-20T12:00:39Z", "a point in time, whole seconds, not before it is so");
    }

    #[test]
    fn whatever_the_upstream_says_of_its_own_limits_is_known_by_its_name() {
        let headers = standing_headers(&[standing(Dimension::Requests, 1, 1)], Dialect::Anthropic, NOW);
        assert!(headers.iter().all(|(name, _)| is_of_limits(name)), "what we send ourselves, above all");
        assert!(!is_of_limits("retry-after") && !is_of_limits("x-limit-rule"), "and nothing else");
    }

    #[test]
    fn retry_after_is_whole_seconds_rounded_up_and_at_least_one() {
        assert_eq!(retry_headers(Micros(0))[0].1, "1", "never zero");
        assert_eq!(retry_headers(Micros(1_000_001))[0].1, "2", "rounded up");
        assert_eq!(retry_headers(Micros(1_000_001))[1].1, "1001", "milliseconds rounded up");
    }

    fn told(dimension: Dimension, retry_after: Option<Micros>) -> Vec<Header> {
        denial_headers(&Denial {
            dimension,
            rule: "free.größe".into(),
            scope: "tenant",
            retry_after,
            standings: vec![],
            figures: vec![],
        })
    }

    fn names(headers: Vec<Header>) -> Vec<&'static str> {
        headers.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_denial_names_its_rule_and_scope_and_a_hopeless_one_no_time() {
        let soon = told(Dimension::Requests, Some(Micros(3_000_000)));
        assert_eq!(soon[2].1, "free.gr??e", "any rule's name fits into a header");
        assert_eq!(
            names(soon),
            ["retry-after", "retry-after-ms", "x-limit-rule", "x-limit-scope"],
            "when, which, where"
        );
        let never = names(told(Dimension::Requests, None));
        assert_eq!(never, ["x-should-retry", "x-limit-rule", "x-limit-scope"], "no time to wait for");
    }

    #[test]
    fn nobody_tries_again_by_themselves_for_money_and_everybody_soon_for_a_place() {
        let month = names(told(Dimension::Spend, Some(Micros(3_000_000))));
        assert!(month.contains(&"x-should-retry") && month.contains(&"retry-after"), "the budget's next period");
        let held = names(told(Dimension::Spend, Some(Micros(1_000_000))));
        assert!(!held.contains(&"x-should-retry"), "running requests hold the rest");
        let place = told(Dimension::Concurrency, None);
        assert_eq!((place[0].1.as_str(), place[1].1.as_str()), ("1", "1000"), "in a second, always");
    }
}
