//! What `GET /metrics` and the ORCA header say, under vLLM's names.

use crate::domain::units::Micros;
use crate::sim::engine::{EngineLimits, EngineStats};
use parking_lot::Mutex;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of the first-token histogram in seconds, as in vLLM.
const BUCKETS: [f64; 16] = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Figures of one engine; written by its task, read by anyone.
#[derive(Debug, Default)]
pub(super) struct Meters {
    stats: Mutex<EngineStats>,
    /// First tokens per bucket; the last one is +Inf. Virtual time.
    first_tokens: [AtomicU64; BUCKETS.len() + 1],
    first_token_us: AtomicU64,
}

impl Meters {
    pub(super) fn gauge(&self, stats: &EngineStats) {
        *self.stats.lock() = *stats;
    }

    pub(super) fn first_token(&self, after: Micros) {
        let bucket = BUCKETS.iter().position(|bound| after.secs() <= *bound).unwrap_or(BUCKETS.len());
        self.first_tokens[bucket].fetch_add(1, Ordering::Relaxed);
        self.first_token_us.fetch_add(after.0, Ordering::Relaxed);
    }

    /// The figures of the last turn.
    pub(super) fn stats(&self) -> EngineStats {
        *self.stats.lock()
    }

    /// The value of `endpoint-load-metrics`; `None` for a format that vLLM does not know.
    pub(super) fn orca(&self, format: &str) -> Option<String> {
        let stats = self.stats();
        let (usage, waiting) = (kv_usage(&stats), stats.waiting);
        match format {
            "TEXT" | "text" => Some(format!(
                "TEXT named_metrics.kv_cache_usage_perc={usage:.6}, named_metrics.num_requests_waiting={waiting}"
            )),
            "JSON" | "json" => Some(format!(
                r#"JSON {{"named_metrics": {{"kv_cache_usage_perc": {usage:.6}, "num_requests_waiting": {waiting}}}}}"#
            )),
            _ => None,
        }
    }

    /// The Prometheus text.
    pub(super) fn exposition(&self, model: &str, limits: &EngineLimits) -> String {
        let stats = self.stats();
        let labels = format!(r#"engine="0",model_name="{model}""#);
        let mut out = String::with_capacity(4_096);
        let mut line = |name: &str, kind: &str, value: &dyn std::fmt::Display| {
            // Writing to a String cannot fail.
            let _ = write!(out, "# TYPE vllm:{name} {kind}\nvllm:{name}{{{labels}}} {value}\n");
        };
        line("num_requests_running", "gauge", &stats.running);
        line("num_requests_waiting", "gauge", &stats.waiting);
        line("kv_cache_usage_perc", "gauge", &kv_usage(&stats));
        line("prefix_cache_queries_total", "counter", &stats.queried_tokens);
        line("prefix_cache_hits_total", "counter", &stats.hit_tokens);
        line("prompt_tokens_total", "counter", &stats.prompt_tokens);
        line("generation_tokens_total", "counter", &stats.generated_tokens);
        line("num_preemptions_total", "counter", &stats.preemptions);
        let (block, blocks) = (limits.block_tokens, limits.blocks());
        let _ = write!(
            out,
            "# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{{block_size=\"{block}\",engine=\"0\",\
             num_gpu_blocks=\"{blocks}\"}} 1.0\n# TYPE vllm:time_to_first_token_seconds histogram\n"
        );
        let mut count = 0;
        for (bucket, hits) in self.first_tokens.iter().enumerate() {
            count += hits.load(Ordering::Relaxed);
            let bound = BUCKETS.get(bucket).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let _ = writeln!(out, "vllm:time_to_first_token_seconds_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let sum = Micros(self.first_token_us.load(Ordering::Relaxed)).secs();
        let _ = write!(
            out,
            "vllm:time_to_first_token_seconds_sum{{{labels}}} {sum}\n\
             vllm:time_to_first_token_seconds_count{{{labels}}} {count}\n"
        );
        out
    }
}

fn kv_usage(stats: &EngineStats) -> f64 {
    stats.used_blocks as f64 / stats.total_blocks.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_histogram_is_cumulative() {
        let meters = Meters::default();
        meters.first_token(Micros(3_000));
        meters.first_token(Micros(60_000_000));
        let profile = crate::sim::profile::PROFILES[0];
        let text = meters.exposition("m", &EngineLimits::of(profile));
        assert!(text.contains(r#"le="0.001"} 0"#), "nothing under 1 ms");
        assert!(text.contains(r#"le="10"} 1"#), "one within 10 s");
        assert!(text.contains(r#"le="+Inf"} 2"#), "both in the end");
        assert!(text.contains(r#"num_gpu_blocks="25000""#), "400k tokens in blocks of 16");
    }

    #[test]
    fn the_orca_header_has_vllms_two_forms() {
        let meters = Meters::default();
        meters.gauge(&EngineStats { waiting: 3, used_blocks: 1, total_blocks: 4, ..EngineStats::default() });
        let text = "TEXT named_metrics.kv_cache_usage_perc=0.250000, named_metrics.num_requests_waiting=3";
        assert_eq!(meters.orca("TEXT").as_deref(), Some(text), "text");
        let json = r#"JSON {"named_metrics": {"kv_cache_usage_perc": 0.250000, "num_requests_waiting": 3}}"#;
        assert_eq!(meters.orca("JSON").as_deref(), Some(json), "JSON");
        assert_eq!(meters.orca("BIN"), None, "vLLM has no binary form");
    }
}
