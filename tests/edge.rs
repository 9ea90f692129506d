//! The edge as a client and a backend see it: a real `weir serve` between raw sockets. One module per law; the
//! parts that several share are in `proxy`, `backend`, `client`, `cases` and `usage`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on fails

mod edge {
    pub mod access;
    pub mod backend;
    pub mod cases;
    pub mod client;
    pub mod desync;
    pub mod errors;
    pub mod framing;
    pub mod heads;
    pub mod identity;
    pub mod life;
    pub mod limits;
    pub mod plain;
    pub mod proxy;
    pub mod say;
    pub mod streams;
    pub mod tls;
    pub mod usage;
}
