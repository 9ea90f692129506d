//! [`Observer`]: hands what stages tell to the metrics and the access log. Decides nothing.

use crate::domain::ids::{BackendId, PoolId};
use crate::domain::units::Micros;
use crate::io::access_log::AccessLog;
use crate::io::metrics::{Blocks, Metrics};
use crate::ports::{Ended, Observer};
use std::sync::Arc;

/// Metrics, and the access log where one is configured.
#[derive(Clone, Debug)]
pub struct Telemetry {
    metrics: Arc<Metrics>,
    log: Option<Arc<AccessLog>>,
}

impl Telemetry {
    /// Ties the two together.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, log: Option<Arc<AccessLog>>) -> Self {
        Self { metrics, log }
    }
}

impl Observer for Telemetry {
    fn ended(&self, ended: &Ended) {
        self.metrics.ended(ended);
        if let Some(log) = &self.log {
            log.write(ended);
        }
    }

    fn picked(&self, pool: &PoolId, policy: &'static str, reason: &'static str, matched: u64, total: u64) {
        self.metrics.picked(pool, policy, reason, Blocks { matched, total });
    }

    fn inflight(&self, pool: &PoolId, delta: i64) {
        self.metrics.inflight(pool, delta);
    }

    fn backend(&self, pool: &PoolId, backend: &BackendId, inflight: u64, healthy: bool) {
        self.metrics.set_backend(pool, backend, inflight, healthy);
    }

    fn connections(&self, state: &'static str, delta: i64) {
        self.metrics.connections("downstream", state, delta);
    }

    fn deprecated_key(&self) {
        self.metrics.deprecated_key();
    }

    fn overhead(&self, phase: &'static str, spent: Micros) {
        self.metrics.overhead(phase, spent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::RequestId;
    use crate::domain::record::UsageRecord;
    use std::time::Duration;

    #[test]
    fn a_request_that_ended_is_counted_once_and_logged_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let metrics = Metrics::new(1).expect("names are unique");
        let log = Arc::new(AccessLog::start(&path, 1.0, metrics.log_dropped()).expect("opens"));
        let observer = Telemetry::new(Arc::clone(&metrics), Some(Arc::clone(&log)));
        let mut record = UsageRecord::new(RequestId(uuid::Uuid::now_v7()), "proxy", 1, "http");
        record.http_status = Some(204);
        observer.ended(&Ended {
            record,
            method: "GET".into(),
            path: "/healthz".into(),
            client: "127.0.0.1".into(),
            ttft: None,
            duration: Micros(10),
            reason: None,
            rule: None,
            admitted: true,
        });
        assert!(log.flush(Duration::from_secs(20)), "the log's thread answers");
        let counted = r#"weir_requests_total{code_class="2xx",method="GET",pool="none",route="none"} 1"#;
        assert!(metrics.render().contains(counted), "counted");
        let lines = std::fs::read_to_string(&path).expect("the log is there");
        assert_eq!(lines.lines().count(), 1, "one line: {lines}");
    }
}
