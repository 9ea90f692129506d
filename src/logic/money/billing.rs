//! What of a request is billed (semantics.md §5, "Billing by cause"): from how it ended and what was counted to what it
//! cost and what its payer owes. Which prices hold is the price book's matter.

use crate::domain::money::TokenPrices;
use crate::domain::record::{Status, UsageRecord};
use crate::domain::tokens::TokenCounts;
use crate::domain::units::{NanoUsd, Tokens};

/// The policy that is written to `billing_policy`.
pub const FAIR_V1: &str = "fair_v1";

/// Why a request ended, as far as the bill depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Refused, or failed before the first output.
    Nothing,
    /// The whole answer went out.
    Completed,
    /// The client left before the first output: the prompt was worked on for them.
    LeftBefore,
    /// The client left after it.
    LeftAfter,
    /// We ended it on the payer's account: their budget was used up, or their key revoked. They have what was generated.
    CutOff,
    /// It broke off after the first output, by the upstream's fault or by ours.
    BrokenOff,
}

impl Cause {
    /// The cause that a record tells.
    #[must_use]
    pub fn of(record: &UsageRecord) -> Self {
        let began = record.ts_first_token.is_some();
        match record.status {
            Status::Completed => Self::Completed,
            Status::ClientDisconnect if began => Self::LeftAfter,
            Status::ClientDisconnect => Self::LeftBefore,
            _ if !began => Self::Nothing,
            Status::Rejected => Self::CutOff,
            Status::UpstreamErrorPre | Status::UpstreamErrorMid | Status::Timeout | Status::Plugin | Status::Crash => {
                Self::BrokenOff
            }
        }
    }
}

/// The counts that `fair_v1` bills. `delivered` stands in for output that nobody counted.
#[must_use]
pub fn billed(cause: Cause, counts: &TokenCounts, delivered: Option<Tokens>) -> TokenCounts {
    let input = TokenCounts { output_total: None, output_reasoning: None, ..*counts };
    match cause {
        Cause::Completed => *counts,
        Cause::LeftAfter | Cause::CutOff => TokenCounts { output_total: counts.output_total.or(delivered), ..*counts },
        Cause::LeftBefore => input,
        Cause::Nothing | Cause::BrokenOff => TokenCounts::default(),
    }
}

/// Writes the money of a record whose counts and ending are known. Where no price is known, all of it stays null.
pub fn price(record: &mut UsageRecord, prices: Option<TokenPrices>, version: &str) {
    let Some(prices) = prices else { return };
    let counts = record.counts();
    let billable = prices.cost(&billed(Cause::of(record), &counts, record.delivered_output));
    let NanoUsd(metered) = prices.cost(&counts);
    record.metered_cost_nano_usd = Some(metered);
    record.billable_cost_nano_usd = Some(billable.0);
    record.price_version = Some(version.to_owned());
    record.billing_policy = Some(FAIR_V1.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::RequestId;
    use crate::domain::units::WallMicros;

    /// One dollar a million of input, ten of output: 1,000 and 10,000 nano-dollars a token.
    const PRICES: TokenPrices =
        TokenPrices { input: 1_000_000_000, cache_read: 100_000_000, cache_write: 0, output: 10_000_000_000 };

    /// A record of 4 tokens of input and some of output; 3 were delivered.
    fn record(status: Status, began: bool, output: Option<u64>) -> UsageRecord {
        let mut record = UsageRecord::new(RequestId(uuid::Uuid::nil()), "p", 1, "openai.chat");
        record.status = status;
        record.ts_first_token = began.then_some(WallMicros(1));
        record.input_total = Some(Tokens(4));
        record.output_total = output.map(Tokens);
        record.delivered_output = Some(Tokens(3));
        record
    }

    fn money(mut record: UsageRecord) -> (Option<i64>, Option<i64>) {
        price(&mut record, Some(PRICES), "v1");
        (record.metered_cost_nano_usd, record.billable_cost_nano_usd)
    }

    #[test]
    fn the_table_of_causes_holds() {
        for (status, began, output, billable) in [
            (Status::Completed, true, Some(5), 54_000),
            (Status::ClientDisconnect, false, None, 4_000),
            (Status::ClientDisconnect, true, Some(5), 54_000),
            (Status::ClientDisconnect, true, None, 34_000),
            (Status::Rejected, false, None, 0),
            (Status::Rejected, true, Some(5), 54_000),
            (Status::UpstreamErrorPre, false, None, 0),
            (Status::UpstreamErrorMid, true, Some(5), 0),
            (Status::Timeout, false, None, 0),
            (Status::Timeout, true, Some(5), 0),
            (Status::Crash, true, Some(5), 0),
        ] {
            let told = money(record(status, began, output)).1;
            assert_eq!(told, Some(billable), "{status:?}, output begun: {began}, counted: {output:?}");
        }
    }

    #[test]
    fn what_was_metered_is_the_truth_whoever_pays() {
        let told = money(record(Status::UpstreamErrorMid, true, Some(5)));
        assert_eq!(told, (Some(54_000), Some(0)), "it cost what it cost");
    }

    #[test]
    fn where_no_price_is_known_nothing_is_said_of_money() {
        let mut unpriced = record(Status::Completed, true, Some(5));
        price(&mut unpriced, None, "v1");
        assert_eq!(unpriced, record(Status::Completed, true, Some(5)), "all null, not zero");
        let mut priced = unpriced;
        price(&mut priced, Some(PRICES), "v1");
        let told = (priced.price_version.as_deref(), priced.billing_policy.as_deref());
        assert_eq!(told, (Some("v1"), Some("fair_v1")), "by which prices and which policy");
    }
}
