//! What a frame carries: a version byte and the record as JSON. Decides how a record that is too long is cut down.
//!
//! JSON, not a binary form: 1.5 µs to write (`benches/usage.rs`), readable with any tool, and a field may be added
//! without a new version.

use super::frame::MAX_PAYLOAD;
use crate::domain::record::UsageRecord;

/// First byte of a payload: JSON of [`UsageRecord`].
pub const VERSION_JSON: u8 = 1;
/// What a text field is cut to when a record would not fit a frame.
pub const TEXT_BYTES: usize = 512;
/// What verbatim JSON may have then; longer JSON is left out, for half of it is none.
pub const JSON_BYTES: usize = 4 << 10;
/// How many attempts stay then.
pub const ATTEMPTS: usize = 32;

/// Why a payload is no record.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// No byte at all.
    #[error("the payload is empty")]
    Empty,
    /// Written by a newer version.
    #[error("payload version {0} is not known")]
    Version(u8),
    /// Not JSON of a record.
    #[error("not a usage record: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes a record; always within [`MAX_PAYLOAD`], because only callers' texts are of free length.
///
/// # Errors
/// Never in practice; serde_json's signature asks for it.
pub fn encode(mut record: UsageRecord) -> Result<Vec<u8>, PayloadError> {
    let payload = write(&record)?;
    if payload.len() <= MAX_PAYLOAD {
        return Ok(payload);
    }
    shorten(&mut record);
    write(&record)
}

fn write(record: &UsageRecord) -> Result<Vec<u8>, PayloadError> {
    let mut payload = Vec::with_capacity(2048);
    payload.push(VERSION_JSON);
    serde_json::to_writer(&mut payload, record)?;
    Ok(payload)
}

/// Reads a record.
///
/// # Errors
/// [`PayloadError`]
pub fn decode(payload: &[u8]) -> Result<UsageRecord, PayloadError> {
    match payload.split_first() {
        None => Err(PayloadError::Empty),
        Some((&VERSION_JSON, json)) => Ok(serde_json::from_slice(json)?),
        Some((&version, _)) => Err(PayloadError::Version(version)),
    }
}

fn shorten(record: &mut UsageRecord) {
    for text in [
        &mut record.client_request_id,
        &mut record.trace_id,
        &mut record.config_version,
        &mut record.tenant_id,
        &mut record.team_id,
        &mut record.user_id,
        &mut record.end_user,
        &mut record.key_id,
        &mut record.route_id,
        &mut record.model_requested,
        &mut record.model_routed,
        &mut record.model_reported,
        &mut record.provider,
        &mut record.pool,
        &mut record.backend_id,
        &mut record.error_code,
        &mut record.finish_reason,
        &mut record.price_version,
        &mut record.billing_policy,
    ]
    .into_iter()
    .flatten()
    {
        text.truncate(text.floor_char_boundary(TEXT_BYTES));
    }
    for json in [&mut record.tags, &mut record.raw_usage] {
        *json = json.take().filter(|json| json.len() <= JSON_BYTES);
    }
    record.attempts.truncate(ATTEMPTS);
    for attempt in &mut record.attempts {
        attempt.backend_id.truncate(attempt.backend_id.floor_char_boundary(TEXT_BYTES / 4));
        attempt.outcome.truncate(attempt.outcome.floor_char_boundary(TEXT_BYTES / 4));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::RequestId;

    fn record() -> UsageRecord {
        UsageRecord::new(RequestId(uuid::Uuid::now_v7()), "p", 7, "openai.chat")
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        let mut record = record();
        record.model_requested = Some("é\u{0}\n".to_owned());
        record.input_total = Some(crate::domain::units::Tokens(0));
        let back = decode(&encode(record.clone()).expect("written")).expect("read");
        assert_eq!(back, record, "every field, an explicit zero and odd letters included");
    }

    #[test]
    fn a_record_with_a_giant_name_still_fits_a_frame() {
        let mut giant = record();
        // \u{1} is six bytes in JSON: the worst that a letter can do.
        giant.model_requested = Some("\u{1}".repeat(1 << 20));
        giant.end_user = Some("é".repeat(1 << 20));
        giant.raw_usage = Some("x".repeat(1 << 20));
        let payload = encode(giant).expect("written");
        assert!(payload.len() <= MAX_PAYLOAD, "{} bytes are too many for a frame", payload.len());
        let back = decode(&payload).expect("read");
        assert_eq!(back.seq, 7, "identity is whole");
        assert_eq!(back.raw_usage, None, "half a JSON document is none");
    }

    #[test]
    fn an_unknown_version_is_told_and_not_guessed() {
        assert!(matches!(decode(&[9, b'{', b'}']), Err(PayloadError::Version(9))), "version 9 is not ours");
        assert!(matches!(decode(&[]), Err(PayloadError::Empty)), "nothing is no record");
    }
}
