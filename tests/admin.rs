//! The admin API and self-service as operators and callers see them: a real `weir serve` with a real store. One module
//! per subject; `api` starts the proxy, speaks to it, and holds every answer against the OpenAPI document.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on fails

mod admin {
    pub mod api;
    #[allow(dead_code, reason = "shared with tests/edge.rs, which uses the rest")]
    #[path = "../edge/backend.rs"]
    pub mod backend;
    pub mod changes;
    pub mod document;
    pub mod lists;
    pub mod own;
    #[allow(dead_code, reason = "shared with tests/edge.rs, which uses the rest")]
    #[path = "../edge/proxy.rs"]
    pub mod proxy;
    #[allow(dead_code, reason = "shared with tests/edge.rs, which uses the rest")]
    #[path = "../edge/say.rs"]
    pub mod say;
    pub mod tenancy;
}
