//! The usage record: one per admitted request, never updated (semantics.md §5).

use super::ids::RequestId;
use super::tokens::{TokenCounts, UsageSource};
use super::units::{Tokens, WallMicros};
use serde::{Deserialize, Serialize};

/// Version of the record's form; part of every record.
pub const SCHEMA_VERSION: u32 = 1;

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The whole answer went out, or the client left after its terminal event.
    Completed,
    /// Our own no, after authentication.
    Rejected,
    /// The upstream failed, or said 4xx, before any output.
    UpstreamErrorPre,
    /// The upstream failed in the middle of the output.
    UpstreamErrorMid,
    /// The client left before the end.
    ClientDisconnect,
    /// Our own clock ended it.
    Timeout,
    /// A plugin ended it.
    Plugin,
    /// The proxy died; written by recovery.
    Crash,
}

impl Status {
    /// The name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Rejected => "rejected",
            Self::UpstreamErrorPre => "upstream_error_pre",
            Self::UpstreamErrorMid => "upstream_error_mid",
            Self::ClientDisconnect => "client_disconnect",
            Self::Timeout => "timeout",
            Self::Plugin => "plugin",
            Self::Crash => "crash",
        }
    }
}

/// One try at one backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// 1, 2, 3.
    pub n: u32,
    /// The backend's name.
    pub backend_id: String,
    /// `ok`, `connect`, `reset`, `eof`, `status`, `error_event`, `first_byte_timeout`, …
    pub outcome: String,
    /// The status that the upstream sent, if any.
    pub http_status: Option<u16>,
    /// When the backend was chosen.
    pub started: WallMicros,
    /// When the attempt ended.
    pub ended: WallMicros,
}

/// One row of `usage_records`. Fields are the table's columns; what each means is in semantics.md §5.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)] // the column names are the documentation, semantics.md §5 the reference
pub struct UsageRecord {
    pub schema_version: u32,
    pub request_id: RequestId,
    pub client_request_id: Option<String>,
    pub trace_id: Option<String>,
    pub proxy_id: String,
    pub seq: u64,
    pub config_version: Option<String>,

    pub ts_received: WallMicros,
    pub ts_admitted: Option<WallMicros>,
    pub ts_first_byte: Option<WallMicros>,
    pub ts_first_token: Option<WallMicros>,
    pub ts_end: WallMicros,
    pub queue_ms: Option<u64>,
    pub overhead_us: Option<u64>,

    pub tenant_id: Option<String>,
    pub team_id: Option<String>,
    pub user_id: Option<String>,
    pub end_user: Option<String>,
    pub key_id: Option<String>,
    pub secret_gen: Option<u32>,
    pub auth_method: Option<String>,
    /// JSON object or null.
    pub tags: Option<String>,

    pub surface: String,
    pub stream: bool,
    pub route_id: Option<String>,
    pub model_requested: Option<String>,
    pub model_routed: Option<String>,
    pub model_reported: Option<String>,
    pub provider: Option<String>,
    pub pool: Option<String>,
    pub backend_id: Option<String>,
    pub prefix_blocks_matched: Option<u64>,
    pub prefix_blocks_total: Option<u64>,

    pub status: Status,
    pub http_status: Option<u16>,
    pub error_code: Option<String>,
    pub finish_reason: Option<String>,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub sse_events: u64,
    pub terminal_event_seen: bool,

    pub input_total: Option<Tokens>,
    pub input_cache_read: Option<Tokens>,
    pub input_cache_write: Option<Tokens>,
    pub output_total: Option<Tokens>,
    pub output_reasoning: Option<Tokens>,
    pub delivered_output: Option<Tokens>,
    pub usage_source: String,
    pub usage_confidence: String,
    /// The upstream's usage object, verbatim, at most 4 KiB.
    pub raw_usage: Option<String>,

    pub metered_cost_nano_usd: Option<i64>,
    pub billable_cost_nano_usd: Option<i64>,
    pub price_version: Option<String>,
    pub billing_policy: Option<String>,

    pub attempts: Vec<Attempt>,
}

impl UsageRecord {
    /// A record with its never-null fields and nothing else.
    #[must_use]
    pub fn new(request_id: RequestId, proxy_id: &str, seq: u64, surface: &str) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            request_id,
            client_request_id: None,
            trace_id: None,
            proxy_id: proxy_id.to_owned(),
            seq,
            config_version: None,
            ts_received: WallMicros(0),
            ts_admitted: None,
            ts_first_byte: None,
            ts_first_token: None,
            ts_end: WallMicros(0),
            queue_ms: None,
            overhead_us: None,
            tenant_id: None,
            team_id: None,
            user_id: None,
            end_user: None,
            key_id: None,
            secret_gen: None,
            auth_method: None,
            tags: None,
            surface: surface.to_owned(),
            stream: false,
            route_id: None,
            model_requested: None,
            model_routed: None,
            model_reported: None,
            provider: None,
            pool: None,
            backend_id: None,
            prefix_blocks_matched: None,
            prefix_blocks_total: None,
            status: Status::Completed,
            http_status: None,
            error_code: None,
            finish_reason: None,
            bytes_in: 0,
            bytes_out: 0,
            sse_events: 0,
            terminal_event_seen: false,
            input_total: None,
            input_cache_read: None,
            input_cache_write: None,
            output_total: None,
            output_reasoning: None,
            delivered_output: None,
            usage_source: UsageSource::None.name().to_owned(),
            usage_confidence: UsageSource::None.confidence().to_owned(),
            raw_usage: None,
            metered_cost_nano_usd: None,
            billable_cost_nano_usd: None,
            price_version: None,
            billing_policy: None,
            attempts: Vec::new(),
        }
    }

    /// The counts.
    #[must_use]
    pub fn counts(&self) -> TokenCounts {
        TokenCounts {
            input_total: self.input_total,
            input_cache_read: self.input_cache_read,
            input_cache_write: self.input_cache_write,
            output_total: self.output_total,
            output_reasoning: self.output_reasoning,
        }
    }

    /// Writes the counts and where they came from.
    pub fn set_counts(&mut self, counts: TokenCounts, source: UsageSource) {
        self.input_total = counts.input_total;
        self.input_cache_read = counts.input_cache_read;
        self.input_cache_write = counts.input_cache_write;
        self.output_total = counts.output_total;
        self.output_reasoning = counts.output_reasoning;
        self.usage_source = source.name().to_owned();
        self.usage_confidence = source.confidence().to_owned();
    }
}
