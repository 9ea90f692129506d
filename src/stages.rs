//! L3: the request's way. Nine files; `ls` prints them in the order in which a request meets them.
//!
//! | | stage | question |
//! | --- | --- | --- |
//! | 1 | [`accept`] | which route could this head mean? |
//! | 2 | [`authenticate`] | who is it? |
//! | 3 | [`body`] | what do they ask? |
//! | 4 | [`check`] | may they? |
//! | 5 | [`debit`] | can they afford it? |
//! | 6 | [`dispatch`] | which backend? |
//! | 7 | [`forward`] | what goes upstream? |
//! | 8 | [`meter`] | what came back? |
//! | 9 | [`settle`] | what is owed? |
//!
//! Each takes what the one before gave and returns the next, or a `Refusal`. None names Pingora.

pub mod accept;
pub mod authenticate;
pub mod body;
pub mod check;
pub mod debit;
pub mod dispatch;
pub mod forward;
pub mod meter;
pub mod settle;

#[cfg(test)]
mod tests;
