//! L0: the words of the business. No async, no I/O, no clock.

pub mod call;
pub mod cost;
pub mod fault;
pub mod ids;
pub mod limit;
pub mod money;
pub mod principal;
pub mod record;
pub mod refusal;
pub mod surface;
pub mod tokens;
pub mod units;
