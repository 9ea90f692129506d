//! Which backend gets a request: eligible → score → pick → book, in one call under the pool's lock.
//!
//! [`book::Book`] is the door: it holds a pool's ledger, its prefix index and its policy. Nothing here reads a
//! clock, draws a number or takes a lock; the caller passes `now` and `chance` and keeps one mutex per pool.

pub mod book;
pub mod cost;
pub mod eligible;
pub mod index;
pub mod ledger;
pub mod policy;
pub mod prefix;
pub mod retry;
mod table;

pub use book::{Ask, BackendFacts, Book, Booking, Ending, Totals};
pub use cost::{Score, Terms};
pub use eligible::Eligible;
pub use policy::PolicyKind;
pub use retry::{Decision, RetryBudget, Situation, Why};
