//! Decides whether a request fits its limits, what it reserves, and what is committed when it ends
//! (semantics.md §2 and §3). Values in, values out: time comes with each call, locks and maps of tenants are
//! `io/quota.rs`'s business, and HTTP statuses are the refusal's.
//!
//! | module | decides |
//! | --- | --- |
//! | [`plan`] | which rules there are |
//! | [`lines`] | which rules hold for a request, and which of them count it |
//! | [`cost`] | what a request costs each rule |
//! | [`decide`] | all rules of a request together, all or none; settle, progress, release, cancel |
//! | [`book`] | a group's accounts: found, swept, stated to the ledger |
//! | [`lease`] | one account: committed, held, free |
//! | [`count`] | what is committed: a bucket's level, a period's sum |
//! | [`drain`] | how a bucket drains; the shared ledger has the same arithmetic |
//! | [`period`] | where days and months begin |
//! | [`credit`] | what a replica has of a shared account: how much to ask for, what to give back |
//! | [`share`] | what a replica may take while the ledger is away |
//! | [`ledger`] | what is committed, and out, over all replicas |
//! | [`alert`] | which thresholds of a budget somebody is told of |
//! | [`drift`] | what usage rows may correct in a counter |
//! | [`replay`] | where a bucket stands after uses that rows tell of |
//! | [`estimate`] | how much output a request will probably have |
//! | [`headers`] | how the figures are told to callers |
//! | [`denials`] | the last denials of this process, for "why was this 429" |
//! | [`complaints`] | which complaints about the installation are news |
//!
//! A request is counted when it is admitted and stays counted. Its tokens and its money are held until it ends; then
//! the hold goes and what was really used is committed (nothing, after a refund or when it was dropped unsettled).

pub mod alert;
pub mod book;
pub mod complaints;
pub mod cost;
pub mod count;
pub mod credit;
pub mod decide;
pub mod denials;
pub mod drain;
pub mod drift;
pub mod estimate;
pub mod headers;
pub mod lease;
pub mod ledger;
pub mod lines;
pub mod period;
pub mod plan;
pub mod replay;
pub mod share;

#[cfg(test)]
mod tests;
