//! What usage costs a request: `cargo bench --bench usage`.
#![allow(clippy::expect_used, clippy::panic, clippy::too_many_lines)] // a bench that cannot set up has nothing to measure

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weir::config::snapshot::{Durability, Spool, Usage};
use weir::domain::ids::{KeyId, RequestId, RouteId, TenantId};
use weir::domain::record::{Attempt, UsageRecord};
use weir::domain::surface::Surface;
use weir::domain::units::{Micros, Tokens, WallMicros};
use weir::io::spool::payload;
use weir::io::usage_log::UsageLog;
use weir::ports::{Birth, Clock, Progress, UsageLog as _};
use weir::writer::Writer;

struct System;

impl Clock for System {
    fn wall(&self) -> WallMicros {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallMicros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
    fn mono(&self) -> Micros {
        Micros(0)
    }
}

fn settings(dir: &Path, durability: Durability) -> Usage {
    Usage {
        inject_stream_usage: true,
        record_rejected: false,
        spool: Spool { dir: dir.join("spool"), durability, fsync: Duration::from_millis(100), max_bytes: 8 << 30 },
        slots_dir: dir.join("slots"),
        slots: 4_096,
        sqlite: dir.join("usage.db"),
        prices: None,
    }
}

fn birth() -> Birth {
    Birth {
        request_id: RequestId(uuid::Uuid::now_v7()),
        received: WallMicros(1),
        admitted: WallMicros(2),
        tenant: TenantId::new("acme"),
        team: Some("blue".to_owned()),
        user: Some("ann".to_owned()),
        key: Some(KeyId::new("a1B2c3D4e5F6")),
        secret_gen: 1,
        auth_method: "api_key",
        surface: Surface::OpenAiChat,
        stream: true,
        route: RouteId::new("chat"),
        model: "llama-3.1-8b".to_owned(),
        bytes_in: 4_096,
        config_version: "0123456789ab".into(),
    }
}

/// A record as a finished stream has it.
fn record(birth: &Birth) -> UsageRecord {
    let mut record = UsageRecord::new(birth.request_id, "", 0, birth.surface.name());
    record.tenant_id = Some("acme".to_owned());
    record.key_id = Some("a1B2c3D4e5F6".to_owned());
    record.model_requested = Some(birth.model.clone());
    record.model_reported = Some(birth.model.clone());
    record.pool = Some("gpu".to_owned());
    record.backend_id = Some("gpu-3".to_owned());
    record.input_total = Some(Tokens(1_024));
    record.output_total = Some(Tokens(256));
    record.raw_usage = Some(r#"{"prompt_tokens":1024,"completion_tokens":256,"total_tokens":1280}"#.to_owned());
    record.attempts = vec![Attempt {
        n: 1,
        backend_id: "gpu-3".to_owned(),
        outcome: "ok".to_owned(),
        http_status: Some(200),
        started: WallMicros(3),
        ended: WallMicros(9),
    }];
    record
}

fn open(dir: &Path, durability: Durability) -> Arc<UsageLog> {
    UsageLog::open(&settings(dir, durability), Arc::new(System)).expect("the usage log opens")
}

fn proxy_side(c: &mut Criterion) {
    let sample = record(&birth());
    c.bench_function("payload/encode", |b| {
        b.iter_batched(|| sample.clone(), |record| black_box(payload::encode(record)), BatchSize::SmallInput);
    });
    let dir = tempfile::tempdir().expect("temp dir");
    let log = open(dir.path(), Durability::Process);
    let ticket = log.admit(&birth()).expect("admitted");
    c.bench_function("slots/progress", |b| {
        b.iter(|| log.progress(&ticket, black_box(&Progress { delivered: 7, ..Progress::default() })));
    });
    c.bench_function("usage/admit+append+ack, process", |b| {
        b.iter_batched(birth, |birth| finish(&log, &birth).blocking_recv(), BatchSize::SmallInput);
    });
    c.bench_function("usage/64 admit+append, then 64 acks, process", |b| {
        b.iter(|| {
            let told: Vec<_> = (0..64).map(|_| finish(&log, &birth())).collect();
            told.into_iter().for_each(|told| drop(black_box(told.blocking_recv())));
        });
    });
    let dir = tempfile::tempdir().expect("temp dir");
    let log = open(dir.path(), Durability::Power);
    c.bench_function("usage/admit+append+ack, power", |b| {
        b.iter_batched(birth, |birth| finish(&log, &birth).blocking_recv(), BatchSize::SmallInput);
    });
}

fn finish(log: &UsageLog, birth: &Birth) -> tokio::sync::oneshot::Receiver<Result<(), weir::ports::AppendError>> {
    let ticket = log.admit(birth).expect("admitted");
    log.append(ticket, record(birth))
}

fn writer_side(c: &mut Criterion) {
    let mut group = c.benchmark_group("writer");
    group.throughput(Throughput::Elements(2_000)).sample_size(10);
    group.bench_function("2000 records to rows", |b| {
        b.iter_batched(
            || {
                let dir = tempfile::tempdir().expect("temp dir");
                let log = open(dir.path(), Durability::Process);
                let told: Vec<_> = (0..2_000).map(|_| finish(&log, &birth())).collect();
                told.into_iter().for_each(|told| drop(told.blocking_recv()));
                log.close().expect("closed");
                let writer = Writer::open(&settings(dir.path(), Durability::Process)).expect("writer");
                (dir, writer)
            },
            |(_dir, mut writer)| writer.pass().expect("passed"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, proxy_side, writer_side);
criterion_main!(benches);
