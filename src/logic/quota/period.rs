//! Where days and months begin in a time zone: the beginnings of four periods one after the other, daylight saving
//! included. Does not decide which of them counts; the ledger's clock does.

use super::plan::LimitRule;
use crate::domain::limit::{Dimension, Scope, Window};
use crate::domain::units::{Micros, WallMicros};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// One instant on both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Monotonic, for buckets and waits.
    pub mono: Micros,
    /// Wall clock, for the calendar.
    pub wall: WallMicros,
}

/// The beginnings (ms since 1970) of the period before the present one, the present one and the two behind.
pub type Starts = [i64; 4];

/// An instant as accounts see it: the clocks, and the periods around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Monotonic.
    pub mono: Micros,
    /// The wall clock in milliseconds; the ledger's where it has told it.
    pub wall_ms: i64,
    day: Starts,
    month: Starts,
}

impl Now {
    /// Whole milliseconds of the monotonic clock.
    #[must_use]
    pub fn mono_ms(&self) -> i64 {
        i64::try_from(self.mono.0 / 1_000).unwrap_or(i64::MAX)
    }

    /// The periods of a calendar window; all 0 for one that never ends.
    #[must_use]
    pub fn starts(&self, window: Window) -> Starts {
        match window {
            Window::Day => self.day,
            Window::Month => self.month,
            _ => [0; 4],
        }
    }

    /// The periods of a rule that counts by the calendar. Prepaid credit has one, from its beginning on.
    #[must_use]
    pub fn periods(&self, rule: &LimitRule) -> Starts {
        if rule.window == Window::Ever { [rule.since; 4] } else { self.starts(rule.window) }
    }

    /// Time until a period ends; `None` if it never does.
    #[must_use]
    pub fn left(&self, window: Window, period: i64) -> Option<Micros> {
        let end = self.starts(window).into_iter().find(|start| *start > period)?;
        Some(Micros(u64::try_from(end.saturating_sub(self.wall_ms)).unwrap_or(0).saturating_mul(1_000)))
    }
}

/// The periods of one time zone, worked out once per day.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
    day: Starts,
    month: Starts,
}

impl Default for Calendar {
    fn default() -> Self {
        Self { zone: TimeZone::UTC, day: [0; 4], month: [0; 4] }
    }
}

impl Calendar {
    /// Takes over a time zone. True if it was another one.
    pub fn set_zone(&mut self, zone: &TimeZone) -> bool {
        let moved = self.zone != *zone;
        if moved {
            *self = Self { zone: zone.clone(), ..Self::default() };
        }
        moved
    }

    /// An instant with its periods. `ahead_ms`: by how much the ledger's clock is ahead of this wall clock.
    pub fn at(&mut self, moment: Moment, ahead_ms: i64) -> Now {
        let wall_ms = moment.wall.0.div_euclid(1_000).saturating_add(ahead_ms);
        if wall_ms < self.day[1] || wall_ms >= self.day[2] {
            self.day = starts(&self.zone, wall_ms, |date, by| date.checked_add(Span::new().days(by)));
            self.month =
                starts(&self.zone, wall_ms, |date, by| date.first_of_month().checked_add(Span::new().months(by)));
        }
        Now { mono: moment.mono, wall_ms, day: self.day, month: self.month }
    }
}

fn starts(zone: &TimeZone, wall_ms: i64, step: impl Fn(Date, i64) -> Result<Date, jiff::Error>) -> Starts {
    let today = Timestamp::from_millisecond(wall_ms).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(zone.clone()).date();
    let begin = |by| step(today, by).and_then(|date| date.to_zoned(zone.clone()));
    // Only a clock near the year 9999 gets the stand-in: a period that has just begun.
    [-1, 0, 1, 2].map(|by| begin(by).map_or(wall_ms, |zoned| zoned.timestamp().as_millisecond()))
}

/// The span of a window that is a bucket.
#[must_use]
pub fn bucket_ms(window: Window) -> Option<u64> {
    match window {
        Window::Second => Some(1_000),
        Window::Minute => Some(60_000),
        Window::Hour => Some(3_600_000),
        Window::Day | Window::Month | Window::Ever => None,
    }
}

/// The most that a rule can ever give to one request. A burst is a bucket's notion; calendar and concurrency know the
/// limit alone.
#[must_use]
pub fn capacity(rule: &LimitRule) -> u64 {
    match (rule.dimension, bucket_ms(rule.window)) {
        (Dimension::Concurrency, _) | (_, None) => rule.limit,
        _ => rule.burst,
    }
}

/// The id of the account of a rule at a scope, within its group: letters that a Redis key can have.
#[must_use]
pub fn account_id(scope: &Scope, rule: &str) -> String {
    let mut id = String::with_capacity(48);
    id.push_str(scope.name());
    let of = match scope {
        Scope::Key(key) => Some(key.as_str()),
        Scope::User(_, user) => Some(user.as_str()),
        Scope::Team(_, team) => Some(team.as_str()),
        Scope::Pool(pool) => Some(pool.as_str()),
        Scope::Tenant(_) | Scope::Global => None,
    };
    if let Some(of) = of {
        id.push(':');
        encode(of, &mut id);
    }
    id.push('|');
    encode(rule, &mut id);
    id
}

/// Percent-encodes all but letters, digits and a few signs.
fn encode(text: &str, onto: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"._:@-".contains(&byte) {
            onto.push(char::from(byte));
        } else {
            onto.push('%');
            onto.push(char::from(HEX[usize::from(byte >> 4)]));
            onto.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(text: &str) -> WallMicros {
        WallMicros(text.parse::<Timestamp>().expect("a timestamp").as_microsecond())
    }

    fn now(zone: &str, text: &str) -> Now {
        let mut calendar = Calendar::default();
        calendar.set_zone(&TimeZone::get(zone).expect("a zone"));
        calendar.at(Moment { mono: Micros(0), wall: wall(text) }, 0)
    }

    fn end(zone: &str, window: Window, text: &str) -> WallMicros {
        let now = now(zone, text);
        let left = now.left(window, now.starts(window)[1]).expect("it ends");
        WallMicros(now.wall_ms * 1_000 + left.0 as i64)
    }

    #[test]
    fn a_period_ends_where_the_calendar_of_the_zone_says() {
        for (zone, window, at, ends) in [
            ("UTC", Window::Month, "2026-11-21T15:00:00Z", "2026-12-01T00:00:00Z"),
            ("UTC", Window::Month, "2026-12-31T23:59:59.999Z", "2027-01-01T00:00:00Z"),
            ("UTC", Window::Month, "2028-02-29T12:00:00Z", "2028-03-01T00:00:00Z"),
            ("UTC", Window::Day, "1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z"),
            ("Asia/Tokyo", Window::Day, "2026-11-21T14:59:59Z", "2026-11-21T15:00:00Z"),
            ("Asia/Tokyo", Window::Day, "2026-11-21T15:00:00Z", "2026-11-22T15:00:00Z"),
            ("Asia/Tokyo", Window::Month, "2026-11-30T15:00:00Z", "2026-12-31T15:00:00Z"),
            ("Europe/Berlin", Window::Day, "2026-03-29T00:30:00Z", "2026-03-29T22:00:00Z"),
            ("Europe/Berlin", Window::Day, "2026-10-25T00:30:00Z", "2026-10-25T23:00:00Z"),
            ("America/Sao_Paulo", Window::Day, "2018-11-03T12:00:00Z", "2018-11-04T03:00:00Z"),
        ] {
            assert_eq!(end(zone, window, at), wall(ends), "{window:?} of {at} in {zone}");
        }
    }

    #[test]
    fn periods_follow_each_other_and_the_present_one_has_begun_for_years() {
        for zone in ["UTC", "Europe/Berlin", "Pacific/Apia", "America/Havana", "Asia/Kathmandu"] {
            let mut calendar = Calendar::default();
            calendar.set_zone(&TimeZone::get(zone).expect("a zone"));
            for hour in 0..24 * 366 * 2 {
                let at = WallMicros(wall("2011-01-01T00:00:00Z").0 + hour * 3_600_000_000);
                let now = calendar.at(Moment { mono: Micros(0), wall: at }, 0);
                for window in [Window::Day, Window::Month] {
                    let starts = now.starts(window);
                    assert!(starts[1] <= now.wall_ms && now.wall_ms < starts[2], "{zone} {at:?} {window:?} {starts:?}");
                    assert!(starts.is_sorted(), "{zone} {at:?} {window:?} {starts:?}");
                }
            }
        }
    }

    #[test]
    fn an_accounts_id_has_no_letter_that_could_end_its_part() {
        let id = account_id(&Scope::User("t".into(), "a|b {c}:é".into()), "gold.models.a/*.requests");
        assert_eq!(id, "user:a%7Cb%20%7Bc%7D:%C3%A9|gold.models.a%2F%2A.requests", "only the one bar is ours");
        assert_eq!(
            account_id(&Scope::Tenant("t".into()), "gold.requests"),
            "tenant|gold.requests",
            "the group names it"
        );
        assert_eq!(account_id(&Scope::Pool("p".into()), "x"), "pool:p|x", "pools are named");
    }
}
