//! Laws of requests, accounts and the ledger together: made-up stories of replicas that reserve, settle, state, lose
//! answers and die. The laws of a replica that counts alone come first.

mod alone;
mod stories;
