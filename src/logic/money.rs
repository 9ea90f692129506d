//! What a request costs and what of it is billed. Values in, values out; whole nano-dollars.

pub mod billing;
pub mod price_book;
