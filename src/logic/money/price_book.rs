//! The price book: which prices hold for a model. Decides by the first entry whose pattern names the model.

use crate::domain::money::TokenPrices;
use crate::logic::quota::plan::ModelPattern;
use std::sync::Arc;

/// Prices by model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PriceBook {
    /// Written to `price_version`; empty where there are no prices.
    pub version: Arc<str>,
    /// In file order: the first pattern that names a model holds.
    pub entries: Vec<(ModelPattern, TokenPrices)>,
}

impl PriceBook {
    /// The prices of a model (as the caller named it), if any are known.
    #[must_use]
    pub fn prices(&self, model: &str) -> Option<TokenPrices> {
        self.entries.iter().find(|(pattern, _)| pattern.matches(model)).map(|(_, prices)| *prices)
    }
}
