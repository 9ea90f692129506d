//! Who may come in: the form of keys, which credential of a request counts, whether a secret fits, which models a
//! caller may use. Decides on values alone: looking a key up is `io::keys`, the HTTP answer is `edge/`.

pub mod api_key;
pub mod certificate;
pub mod claims;
pub mod credentials;
pub mod digest;
pub mod directory;
pub mod expression;
pub mod jwt;
pub mod models;
pub mod rule;
pub mod scopes;
