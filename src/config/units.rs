//! Units as the configuration writes them: `5s`, `20MiB`, `2M/min`, `80%`. Parses and prints; knows no keys.

mod money;

pub use money::{MAX_USD, Spend, Usd};

use crate::domain::limit::Window;
use std::str::FromStr;
use std::time::Duration;

/// The largest limit of a plan: far beyond any engine, and small enough for exact integer arithmetic.
pub const MAX_COUNT: u64 = 1_000_000_000_000;

/// A span of time: `500ms`, `5s`, `10m`, `1h30m`, `2d`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span(pub Duration);

/// A size in bytes: `512B`, `64KiB`, `20MiB`, `8GiB`, `1TiB`, or decimal `kB`, `MB`, `GB`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(pub u64);

/// A plain number with an optional suffix: `32768`, `40k`, `2M`, `1G`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count(pub u64);

/// A number per window: `600/min`, `2M/min`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// In which window.
    pub window: Window,
}

/// A part of a whole: `20%` or `0.2`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share(pub f64);

/// Whole percents from 1 to 100: `80%`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Percent(pub u8);

fn split(text: &str) -> (&str, &str) {
    let at = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(at)
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a duration; write it with a unit: `500ms`, `5s`, `10m`, `1h`".to_owned();
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let (digits, tail) = split(rest);
            let count: u64 = digits.parse().map_err(|_| wrong())?;
            let end = tail.find(|letter: char| letter.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, next) = tail.split_at(end);
            let micros: u64 = match unit {
                "us" => 1,
                "ms" => 1_000,
                "s" => 1_000_000,
                "m" | "min" => 60_000_000,
                "h" => 3_600_000_000,
                "d" => 86_400_000_000,
                _ => return Err(wrong()),
            };
            let piece = count.checked_mul(micros).ok_or("too long a duration")?;
            total = total.checked_add(Duration::from_micros(piece)).ok_or("too long a duration")?;
            rest = next;
        }
        Ok(Self(total))
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a size; write it with a unit: `512B`, `64KiB`, `20MiB`, `1GiB`".to_owned();
        let (digits, unit) = split(text.trim());
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        let bytes: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "kB" | "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        count.checked_mul(bytes).filter(|size| i64::try_from(*size).is_ok()).map(Self).ok_or("too large a size".into())
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a whole number; write `600`, `40k` or `2M`".to_owned();
        let (digits, suffix) = split(text.trim());
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        let factor: u64 = match suffix {
            "" => 1,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        let product = count.checked_mul(factor).filter(|product| *product <= MAX_COUNT);
        product.map(Self).ok_or(format!("at most {MAX_COUNT}"))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a rate; write a number per s, min, h, day or month: `600/min`, `2M/min`".to_owned();
        let (count, window) = text.trim().split_once('/').ok_or_else(wrong)?;
        let count = count.trim().parse::<Count>().map_err(|_| wrong())?.0;
        let window = match window.trim() {
            "s" => Window::Second,
            "min" => Window::Minute,
            "h" => Window::Hour,
            "day" => Window::Day,
            "month" => Window::Month,
            _ => return Err(wrong()),
        };
        Ok(Self { count, window })
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not a share; write `20%` or a number from 0 to 1".to_owned();
        let text = text.trim();
        let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
        let part = number.trim().parse::<f64>().map_err(|_| wrong())? / whole;
        if (0.0..=1.0).contains(&part) { Ok(Self(part)) } else { Err(wrong()) }
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse().ok());
        let part = number.filter(|part| (1..=100).contains(part));
        part.map(Self).ok_or_else(|| "not a share; write whole percents from `1%` to `100%`".to_owned())
    }
}

impl std::fmt::Display for Percent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = self.0.as_micros();
        for (size, unit) in [(3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms")] {
            if micros.is_multiple_of(size) && micros > 0 {
                return write!(f, "{}{unit}", micros / size);
            }
        }
        if micros == 0 { f.write_str("0s") } else { write!(f, "{micros}us") }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0.is_multiple_of(1 << shift) && self.0 > 0 {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.count, window_name(self.window))
    }
}

/// The name of a window behind the `/` of a rate.
#[must_use]
pub fn window_name(window: Window) -> &'static str {
    match window {
        Window::Second => "s",
        Window::Minute => "min",
        Window::Hour => "h",
        Window::Day => "day",
        Window::Month => "month",
        Window::Ever => "prepaid",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_without_a_unit_is_no_duration_and_no_size() {
        assert!("5".parse::<Span>().is_err(), "seconds are not guessed");
        assert!("".parse::<Span>().is_err(), "nothing is not zero");
        assert!("5".parse::<Size>().is_err(), "bytes are not guessed");
        assert!("5x".parse::<Span>().is_err(), "x is no unit");
        assert!("-1s".parse::<Span>().is_err(), "time does not run back");
    }

    #[test]
    fn suffixes_multiply() {
        assert_eq!("1h30m".parse(), Ok(Span(Duration::from_secs(5400))), "pieces add up");
        assert_eq!("20MiB".parse(), Ok(Size(20 << 20)), "binary sizes");
        assert_eq!("2M/min".parse(), Ok(Rate { count: 2_000_000, window: Window::Minute }), "rates");
        assert_eq!("20%".parse(), Ok(Share(0.2)), "percent");
        assert!("120%".parse::<Share>().is_err(), "a share is at most the whole");
        assert_eq!("80%".parse(), Ok(Percent(80)), "whole percents");
        for text in ["0%", "101%", "80", "0.8", "8.5%", "%"] {
            assert!(text.parse::<Percent>().is_err(), "`{text}` is no whole percent");
        }
        assert!("600/fortnight".parse::<Rate>().is_err(), "closed set of windows");
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(micros in 0_u64..1 << 50, bytes in 0_u64..1 << 62) {
            let span = Span(Duration::from_micros(micros));
            prop_assert_eq!(span.to_string().parse(), Ok(span), "durations");
            let size = Size(bytes);
            prop_assert_eq!(size.to_string().parse(), Ok(size), "sizes");
        }

        #[test]
        fn no_text_makes_a_unit_panic(text in "\\PC{0,12}") {
            let _ = (text.parse::<Span>(), text.parse::<Size>(), text.parse::<Rate>(), text.parse::<Share>());
        }
    }
}
