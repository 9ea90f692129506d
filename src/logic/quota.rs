//! Decides whether a request fits its limits, what it reserves, and what is committed when it ends
//! (semantics.md §2 and §3). Values in, values out: time comes with each call, locks and maps of tenants are
//! `io/quota.rs`'s business, and HTTP statuses are the refusal's.
//!
//! | module | decides |
//! | --- | --- |
//! | [`bucket`] | rates per second, minute and hour: an evenly refilled bucket |
//! | [`calendar`] | counters per day and month, UTC |
//! | [`rule`] | one rule's figures: committed, held, available, when it fits; concurrency is a rule with holds only |
//! | [`estimate`] | how much output a request will probably have |
//! | [`decide`] | all rules of a request together, all or none |
//! | [`book`] | a tenant's rules, holds and estimates: reserve, settle, release, expire |
//! | [`headers`] | how the figures are told to callers |
//!
//! A request is counted when it is admitted and stays counted. Its tokens are held until it ends; then the hold
//! goes and what was really used is committed (nothing, after a refund or when it was dropped unsettled).

pub mod book;
pub mod bucket;
pub mod calendar;
pub mod decide;
pub mod estimate;
pub mod headers;
pub mod rule;
