//! Money: what tokens cost. Whole nano-dollars, rounded up once per request. Which prices hold for whom is the price
//! book's matter.

use super::tokens::TokenCounts;
use super::units::{NanoUsd, Tokens};

/// Prices of one model, in nano-dollars per million tokens: 2.50 USD per million is 2_500_000_000.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TokenPrices {
    /// Input that no cache had.
    pub input: u64,
    /// Input read from a prefix cache.
    pub cache_read: u64,
    /// Input written to a cache at a price of its own.
    pub cache_write: u64,
    /// Output, reasoning included.
    pub output: u64,
}

const PER: u128 = 1_000_000;

impl TokenPrices {
    /// What counts cost, rounded up to a nano-dollar. Counts that are not known cost nothing.
    #[must_use]
    pub fn cost(&self, counts: &TokenCounts) -> NanoUsd {
        let of = |tokens: Option<Tokens>| tokens.map_or(0, |tokens| tokens.0);
        let (read, write) = (of(counts.input_cache_read), of(counts.input_cache_write));
        let plain = of(counts.input_total).saturating_sub(read).saturating_sub(write);
        let parts = [(plain, self.input), (read, self.cache_read), (write, self.cache_write)];
        let output = (of(counts.output_total), self.output);
        let sum: u128 = parts.iter().chain([&output]).map(|(n, price)| u128::from(*n) * u128::from(*price)).sum();
        NanoUsd(i64::try_from(sum.div_ceil(PER)).unwrap_or(i64::MAX))
    }

    /// What input and output of these lengths cost without a cache.
    #[must_use]
    pub fn estimate(&self, input: Tokens, output: Tokens) -> NanoUsd {
        self.cost(&TokenCounts { input_total: Some(input), output_total: Some(output), ..TokenCounts::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_price_and_the_sum_is_rounded_up_once() {
        let prices = TokenPrices { input: 1_000_000, cache_read: 100_000, cache_write: 0, output: 3 };
        let counts = TokenCounts {
            input_total: Some(Tokens(10)),
            input_cache_read: Some(Tokens(4)),
            output_total: Some(Tokens(1)),
            ..TokenCounts::default()
        };
        assert_eq!(prices.cost(&counts), NanoUsd(7), "6 + 0.4 + 0.000003, rounded up once");
        assert_eq!(prices.cost(&TokenCounts::default()), NanoUsd(0), "what is not known costs nothing");
    }
}
