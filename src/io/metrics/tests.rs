use super::*;
use crate::domain::ids::RequestId;

fn ended() -> Ended {
    let mut record = UsageRecord::new(RequestId(uuid::Uuid::nil()), "proxy", 1, "openai.chat");
    record.tenant_id = Some("acme".into());
    record.route_id = Some("chat".into());
    record.pool = Some("gpu".into());
    record.provider = Some("vllm".into());
    record.model_requested = Some("llama".into());
    record.model_reported = Some("llama-3".into());
    record.http_status = Some(200);
    record.input_total = Some(Tokens(100));
    record.output_total = Some(Tokens(11));
    record.usage_source = "upstream_final".into();
    Ended {
        record,
        method: "POST".into(),
        path: "/v1/chat/completions".into(),
        client: "127.0.0.1".into(),
        ttft: Some(Micros(400_000)),
        duration: Micros(900_000),
        reason: None,
        rule: None,
        admitted: true,
    }
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "no line {line:?} in:\n{text}");
}

#[test]
fn a_model_call_is_counted_under_the_names_that_dashboards_expect() {
    let metrics = Metrics::new(10).expect("names are unique");
    metrics.ended(&ended());
    let text = metrics.render();
    let call = r#"gen_ai_operation_name="chat",gen_ai_provider_name="vllm",gen_ai_request_model="llama",gen_ai_response_model="llama-3""#;
    has(&text, r#"weir_requests_total{code_class="2xx",method="POST",pool="gpu",route="chat"} 1"#);
    has(&text, r#"weir_request_duration_seconds_count{route="chat"} 1"#);
    has(&text, r#"weir_tokens_total{model="llama",source="reported",tenant="acme",type="input"} 100"#);
    has(&text, r#"weir_tokens_total{model="llama",source="reported",tenant="acme",type="output"} 11"#);
    has(&text, &format!("gen_ai_server_request_duration_seconds_sum{{{call}}} 0.9"));
    has(&text, &format!("gen_ai_server_time_to_first_token_seconds_bucket{{{call},le=\"0.5\"}} 1"));
    has(&text, &format!("gen_ai_server_time_per_output_token_seconds_sum{{{call}}} 0.05"));
    let output = call
        .replace("gen_ai_response_model=\"llama-3\"", "gen_ai_response_model=\"llama-3\",gen_ai_token_type=\"output\"");
    has(&text, &format!("gen_ai_client_token_usage_sum{{{output}}} 11"));
    assert!(!text.contains("type=\"reasoning\""), "what was not said is not counted as zero");
}

#[test]
fn a_refused_request_brings_up_no_tenant_and_no_model() {
    let metrics = Metrics::new(10).expect("names are unique");
    let mut refused = ended();
    refused.admitted = false;
    refused.reason = Some("auth_invalid");
    refused.record.http_status = Some(401);
    refused.record.pool = None;
    metrics.ended(&refused);
    let text = metrics.render();
    has(&text, r#"weir_requests_total{code_class="4xx",method="POST",pool="none",route="chat"} 1"#);
    has(&text, r#"weir_errors_total{reason="auth_invalid",route="chat"} 1"#);
    assert!(!text.contains("llama") && !text.contains("acme"), "labels out of a refused request:\n{text}");
}

#[test]
fn tenants_beyond_the_bound_are_counted_as_other() {
    let metrics = Metrics::new(1).expect("names are unique");
    for tenant in ["first", "second", "third"] {
        let mut call = ended();
        call.record.tenant_id = Some(tenant.into());
        metrics.ended(&call);
    }
    let text = metrics.render();
    has(&text, r#"weir_tokens_total{model="llama",source="reported",tenant="first",type="input"} 100"#);
    has(&text, r#"weir_tokens_total{model="llama",source="reported",tenant="other",type="input"} 200"#);
}

#[test]
fn a_method_that_the_caller_made_up_is_other() {
    let metrics = Metrics::new(1).expect("names are unique");
    metrics.ended(&Ended { method: "BREW".into(), ..ended() });
    has(&metrics.render(), r#"weir_requests_total{code_class="2xx",method="other",pool="gpu",route="chat"} 1"#);
}

#[test]
fn gauges_show_the_last_word() {
    let metrics = Metrics::new(1).expect("names are unique");
    let pool = PoolId::new("gpu");
    metrics.set_backend(&pool, &"gpu-0".into(), 3, true);
    metrics.set_backend(&pool, &"gpu-0".into(), 2, false);
    metrics.inflight(&pool, 1);
    metrics.inflight(&pool, 1);
    metrics.inflight(&pool, -1);
    metrics.connections("downstream", "active", 5);
    metrics.spool(4_096);
    metrics.index_blocks(&pool, 77);
    let text = metrics.render();
    has(&text, r#"weir_backend_inflight{backend="gpu-0",pool="gpu"} 2"#);
    has(&text, r#"weir_backend_healthy{backend="gpu-0",pool="gpu"} 0"#);
    has(&text, r#"weir_inflight_requests{pool="gpu"} 1"#);
    has(&text, r#"weir_connections{side="downstream",state="active"} 5"#);
    has(&text, "weir_usage_spool_bytes 4096");
    has(&text, r#"weir_kv_index_blocks{pool="gpu"} 77"#);
    metrics.clear_backends();
    assert!(!metrics.render().contains("gpu-0"), "a backend that is gone is not shown");
}

#[test]
fn choices_and_phases_add_up() {
    let metrics = Metrics::new(1).expect("names are unique");
    for _ in 0..2 {
        metrics.picked(&"gpu".into(), "kv_aware", "prefix_hit", Blocks { matched: 30, total: 40 });
        metrics.overhead("auth", Micros(3));
    }
    metrics.usage_records("written", 1);
    metrics.usage_records("written", 3);
    let text = metrics.render();
    has(&text, r#"weir_lb_decisions_total{policy="kv_aware",pool="gpu",reason="prefix_hit"} 2"#);
    has(&text, r#"weir_kv_prefix_hit_blocks_total{pool="gpu"} 60"#);
    has(&text, r#"weir_kv_prefix_query_blocks_total{pool="gpu"} 80"#);
    has(&text, r#"weir_overhead_seconds_bucket{phase="auth",le="0.000005"} 2"#);
    has(&text, r#"weir_usage_records_total{result="written"} 3"#);
}

#[test]
fn a_rejected_configuration_leaves_the_old_one_in_force() {
    let metrics = Metrics::new(1).expect("names are unique");
    metrics.config_applied("aaa", WallMicros(1_000_000));
    metrics.config_applied("bbb", WallMicros(2_500_000));
    metrics.config_rejected();
    let text = metrics.render();
    has(&text, "weir_config_last_reload_success 0");
    has(&text, "weir_config_last_reload_success_timestamp_seconds 2.5");
    has(&text, r#"weir_config_reloads_total{result="applied"} 2"#);
    has(&text, r#"weir_config_reloads_total{result="rejected"} 1"#);
    has(&text, r#"weir_config_info{hash="bbb"} 1"#);
    assert!(!text.contains("aaa"), "one configuration is in force");
}

#[test]
fn the_build_names_the_pingora_that_cargo_pins() {
    let pinned = format!("pingora = {{ version = \"={PINGORA}\"");
    assert!(include_str!("../../../Cargo.toml").contains(&pinned), "Cargo.toml does not say {pinned}");
    let metrics = Metrics::new(1).expect("names are unique");
    assert!(metrics.render().contains("weir_build_info{pingora=\"0.9.1\""), "the build is shown");
}
