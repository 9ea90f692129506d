//! Money as the configuration writes it: `5000/month`, `0.50/day`, `100`. Digits to nano-dollars and back, exactly;
//! no number here was ever a float.

use super::window_name;
use crate::domain::limit::Window;
use std::fmt;
use std::str::FromStr;

/// The largest amount in US dollars: in nano-dollars it is still below 2^53, where Redis' numbers stop being exact.
pub const MAX_USD: u64 = 9_000_000;
/// Nano-dollars of a dollar.
const NANO: u64 = 1_000_000_000;
/// Digits behind the point.
const DIGITS: usize = 9;

/// US dollars, held in nano-dollars: `5000`, `0.50`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usd(pub u64);

/// US dollars per day or month, or for good: `5000/month`, `0.50/day`, `100`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spend {
    /// How much.
    pub amount: Usd,
    /// Over what: a day, a month, or ever.
    pub window: Window,
}

impl FromStr for Usd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "not an amount; write US dollars, at most nine digits behind the point: `20`, `0.50`".to_owned();
        let text = text.trim();
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > DIGITS {
            return Err(wrong());
        }
        let fraction: u64 = format!("{fraction:0<DIGITS$}").parse().map_err(|_| wrong())?;
        let whole = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(NANO));
        let nano = whole.and_then(|whole| whole.checked_add(fraction)).filter(|nano| *nano <= MAX_USD * NANO);
        nano.map(Self).ok_or(format!("at most {MAX_USD} US dollars"))
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / NANO, self.0 % NANO);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let fraction = format!("{fraction:0DIGITS$}");
        write!(f, "{whole}.{}", fraction.trim_end_matches('0'))
    }
}

impl FromStr for Spend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (amount, window) = match text.split_once('/') {
            None => (text, Window::Ever),
            Some((amount, window)) => {
                let window = match window.trim() {
                    "day" => Window::Day,
                    "month" => Window::Month,
                    _ => {
                        return Err("money counts per day or month, or without either as prepaid credit: `20/day`, \
                                    `5000/month`, `100`"
                            .to_owned());
                    }
                };
                (amount, window)
            }
        };
        Ok(Self { amount: amount.parse()?, window })
    }
}

impl fmt::Display for Spend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.window {
            Window::Ever => self.amount.fmt(f),
            window => write!(f, "{}/{}", self.amount, window_name(window)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_amount_is_exact_to_the_last_digit_and_what_has_more_is_refused() {
        assert_eq!("0.1".parse(), Ok(Usd(100_000_000)), "a tenth, which no float is");
        assert_eq!("0.000000001".parse(), Ok(Usd(1)), "one nano-dollar");
        assert_eq!("9000000".parse(), Ok(Usd(9_000_000_000_000_000)), "the largest");
        let wrong = [
            "",
            ".",
            "5.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1,5",
            "1.2.3",
            "0.0000000001",
            "9000000.000000001",
            "5k",
            "$5",
            "5 USD",
            "99999999999999999999999",
        ];
        for text in wrong {
            assert!(text.parse::<Usd>().is_err(), "`{text}` is no amount");
        }
    }

    #[test]
    fn money_counts_per_day_or_month_or_for_good() {
        let spend = |nano, window| Ok(Spend { amount: Usd(nano), window });
        assert_eq!("0.50/day".parse(), spend(500_000_000, Window::Day), "a day");
        assert_eq!("5000/month".parse(), spend(5_000_000_000_000, Window::Month), "a month");
        assert_eq!("100".parse(), spend(100_000_000_000, Window::Ever), "prepaid");
        for text in ["5/min", "5/", "/day", "5/day/day"] {
            assert!(text.parse::<Spend>().is_err(), "`{text}` is no budget");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(nano in 0..=MAX_USD * NANO, window in 0..3_usize) {
            let window = [Window::Day, Window::Month, Window::Ever][window];
            let spend = Spend { amount: Usd(nano), window };
            prop_assert_eq!(spend.to_string().parse(), Ok(spend), "money");
        }

        #[test]
        fn no_text_makes_money_panic(text in "\\PC{0,12}") {
            let _ = text.parse::<Spend>();
        }
    }
}
