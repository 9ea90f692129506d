//! What limits are charged for a request: a pure function of its record, so that counters and rows say the same. Also
//! what a running stream has used so far, by the same reckoning.

use super::tally::Tally;
use crate::domain::limit::QuotaUse;
use crate::domain::record::{Status, UsageRecord};
use crate::domain::tokens::{TokenCounts, UsageSource};
use crate::domain::units::{NanoUsd, Tokens};

/// What a request is charged when it has ended. A count that is null is 0: a request that failed before any output, was
/// passed on or was refused has none.
#[must_use]
pub fn charged(record: &UsageRecord) -> QuotaUse {
    QuotaUse {
        input: record.input_total.unwrap_or_default(),
        output: record.output_total.or(record.delivered_output).unwrap_or_default(),
        cost: NanoUsd(record.billable_cost_nano_usd.unwrap_or(0)),
        complete: record.status == Status::Completed && record.output_total.is_some(),
    }
}

/// Stands an estimate in for input that nobody has counted, and says so.
pub fn stand_in(record: &mut UsageRecord, estimate: Tokens) {
    if record.input_total.is_some() {
        return;
    }
    record.input_total = Some(estimate);
    if record.usage_source == UsageSource::None.name() {
        record.usage_source = UsageSource::BytesEstimate.name().to_owned();
    }
    record.usage_confidence = UsageSource::BytesEstimate.confidence().to_owned();
}

/// The counts of a stream that runs, as its record would have them if it ended here.
#[must_use]
pub fn so_far(tally: &Tally, estimate: Tokens) -> TokenCounts {
    let (counts, _) = tally.settled(false);
    TokenCounts {
        input_total: counts.input_total.or(Some(estimate)),
        output_total: counts.output_total.or(Some(tally.delivered)),
        ..counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::RequestId;
    use crate::domain::limit::Dimension;

    fn record() -> UsageRecord {
        UsageRecord::new(RequestId(uuid::Uuid::nil()), "p", 1, "openai.chat")
    }

    #[test]
    fn what_is_charged_is_what_the_row_says() {
        assert_eq!(charged(&record()), QuotaUse::default(), "nothing counted, nothing charged");
        let mut told = record();
        told.input_total = Some(Tokens(7));
        told.delivered_output = Some(Tokens(3));
        told.billable_cost_nano_usd = Some(9);
        assert_eq!(charged(&told).amount(Dimension::Tokens), 10, "what was delivered stands in for what was counted");
        told.output_total = Some(Tokens(5));
        assert_eq!(charged(&told).amount(Dimension::Tokens), 12, "and only where nothing was");
        assert_eq!(charged(&told).amount(Dimension::Spend), 9, "the bill, not the meter");
    }

    #[test]
    fn estimates_learn_from_whole_answers_alone() {
        let mut told = record();
        told.output_total = Some(Tokens(5));
        assert!(charged(&told).complete, "a whole answer");
        told.status = Status::ClientDisconnect;
        assert!(!charged(&told).complete, "half an answer says nothing of the usual length");
    }

    #[test]
    fn an_estimate_stands_in_only_for_what_nobody_counted_and_says_so() {
        let mut said = record();
        said.set_counts(
            TokenCounts { input_total: Some(Tokens(7)), ..TokenCounts::default() },
            UsageSource::UpstreamFinal,
        );
        stand_in(&mut said, Tokens(100));
        assert_eq!(
            (said.input_total, &*said.usage_confidence),
            (Some(Tokens(7)), "exact"),
            "the upstream knows better"
        );
        for (source, told) in [(UsageSource::ChunkCount, "chunk_count"), (UsageSource::None, "bytes_estimate")] {
            let mut guessed = record();
            guessed.set_counts(TokenCounts::default(), source);
            stand_in(&mut guessed, Tokens(100));
            let seen = (guessed.input_total, &*guessed.usage_source, &*guessed.usage_confidence);
            assert_eq!(seen, (Some(Tokens(100)), told, "estimate"), "{source:?}");
        }
    }

    #[test]
    fn a_stream_that_tells_no_usage_is_reckoned_by_its_events() {
        let tally = Tally { content_events: 6, delivered: Tokens(6), text_bytes: 30, ..Tally::default() };
        let counts = so_far(&tally, Tokens(100));
        assert_eq!((counts.input_total, counts.output_total), (Some(Tokens(100)), Some(Tokens(6))), "an event a token");
        let said =
            TokenCounts { input_total: Some(Tokens(9)), output_total: Some(Tokens(4)), ..TokenCounts::default() };
        let tally = Tally { counts: said, source: UsageSource::UpstreamContinuous, ..tally };
        assert_eq!(so_far(&tally, Tokens(100)), said, "what the upstream says goes before");
    }
}
