//! Counting: what an upstream's answer says about tokens, read while it streams by. Prices nothing.

pub mod charge;
pub mod counts;
mod event_form;
pub mod events;
pub mod json_meter;
mod outbox;
pub mod stream_meter;
pub mod tally;
