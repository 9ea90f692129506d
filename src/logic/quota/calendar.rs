//! Counters that restart with the calendar day or month, in UTC. Does not know limits.

use crate::domain::units::{Micros, WallMicros};

const DAY_MICROS: i64 = 86_400_000_000;

/// Which calendar unit a counter follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Period {
    /// Midnight to midnight.
    Day,
    /// First of the month to first of the month.
    Month,
}

impl Period {
    /// The number of the period that an instant is in: days since 1970, or months since year 0.
    #[must_use]
    pub fn number(self, wall: WallMicros) -> i64 {
        let day = wall.0.div_euclid(DAY_MICROS);
        match self {
            Self::Day => day,
            Self::Month => month_of(day),
        }
    }

    /// Time from an instant to the end of its period.
    #[must_use]
    pub fn left(self, wall: WallMicros) -> Micros {
        let next = self.number(wall) + 1;
        let end_day = match self {
            Self::Day => next,
            Self::Month => first_day_of(next),
        };
        let end = end_day.saturating_mul(DAY_MICROS);
        Micros(u64::try_from(end.saturating_sub(wall.0)).unwrap_or(0))
    }
}

/// A counter of one period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calendar {
    period: Period,
    number: i64,
    used: u64,
}

impl Calendar {
    /// An unused counter.
    #[must_use]
    pub fn new(period: Period, wall: WallMicros) -> Self {
        Self { period, number: period.number(wall), used: 0 }
    }

    /// Restarts when the period has changed. One step back is a clock being corrected around midnight and keeps
    /// the count; a longer one means that the clock had been wrong, and restarts too.
    pub fn advance(&mut self, wall: WallMicros) {
        let number = self.period.number(wall);
        if number > self.number || number < self.number - 1 {
            self.number = number;
            self.used = 0;
        }
    }

    /// The unit that this counter follows.
    #[must_use]
    pub fn period(&self) -> Period {
        self.period
    }

    /// Units committed in the current period.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Commits units.
    pub fn charge(&mut self, amount: u64) {
        self.used = self.used.saturating_add(amount);
    }
}

/// Month number (year * 12 + month - 1) of a day since 1970; after Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`.
fn month_of(day: i64) -> i64 {
    let z = day + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let from_march = (5 * doy + 2) / 153;
    (era * 400 + yoe) * 12 + from_march + 2
}

/// First day (since 1970) of a month number; `days_from_civil` of the same source.
fn first_day_of(month: i64) -> i64 {
    let shifted = month - 2;
    let year = shifted.div_euclid(12);
    let from_march = shifted.rem_euclid(12);
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let doy = (153 * from_march + 2) / 5;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(text: &str) -> WallMicros {
        WallMicros(text.parse::<jiff::Timestamp>().expect("a timestamp").as_microsecond())
    }

    #[test]
    fn a_month_ends_where_the_calendar_says() {
        for (at, end) in [
            ("2026-11-21T15:00:00Z", "2026-12-01T00:00:00Z"),
            ("2026-12-31T23:59:59.999999Z", "2027-01-01T00:00:00Z"),
            ("2028-02-29T12:00:00Z", "2028-03-01T00:00:00Z"),
            ("1970-01-01T00:00:00Z", "1970-02-01T00:00:00Z"),
        ] {
            let left = Period::Month.left(wall(at));
            assert_eq!(wall(at).0 + left.0 as i64, wall(end).0, "month of {at}");
        }
    }

    #[test]
    fn every_day_of_40_years_is_in_the_month_that_jiff_names() {
        for day in 0..40 * 366 {
            let at = WallMicros(day * DAY_MICROS + 1);
            let date = jiff::Timestamp::from_microsecond(at.0).expect("in range").to_zoned(jiff::tz::TimeZone::UTC);
            let expected = i64::from(date.year()) * 12 + i64::from(date.month()) - 1;
            assert_eq!(Period::Month.number(at), expected, "day {day}");
        }
    }

    #[test]
    fn a_counter_restarts_at_midnight_and_not_before() {
        let mut counter = Calendar::new(Period::Day, wall("2026-11-21T00:00:00Z"));
        counter.charge(7);
        counter.advance(wall("2026-11-21T23:59:59.999999Z"));
        assert_eq!(counter.used(), 7, "still the same day");
        counter.advance(wall("2026-11-22T00:00:00Z"));
        assert_eq!(counter.used(), 0, "a new day starts at zero");
    }

    #[test]
    fn a_clock_corrected_back_over_midnight_gives_no_second_day() {
        let mut counter = Calendar::new(Period::Day, wall("2026-11-22T00:00:01Z"));
        counter.charge(7);
        counter.advance(wall("2026-11-21T23:59:59Z"));
        counter.advance(wall("2026-11-22T00:00:02Z"));
        assert_eq!(counter.used(), 7, "the day is counted once");
        counter.advance(wall("2026-11-01T00:00:00Z"));
        assert_eq!(counter.used(), 0, "a clock that had been weeks ahead does not lock the counter");
    }
}
