//! The stages behind made-up authenticators, stores and clocks.

mod authenticate;
mod check;
mod forward;
mod limits;
mod office;
