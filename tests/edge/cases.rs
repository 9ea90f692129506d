//! Runs the rows of a table beside each other, each under the deadline, and tells all that failed at once.

use super::proxy::DEADLINE;
use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Rows that run at the same time: enough to overlap their waits, few enough for two busy cores.
const AT_ONCE: usize = 12;

/// A table of cases.
pub struct Cases {
    running: JoinSet<Result<(), String>>,
    gate: Arc<Semaphore>,
}

impl Cases {
    pub fn new() -> Self {
        Self { running: JoinSet::new(), gate: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Adds a row: it fails by a panic, or by not ending within the deadline.
    pub fn add(&mut self, name: impl Into<String>, case: impl Future<Output = ()> + Send + 'static) {
        let (name, gate) = (name.into(), Arc::clone(&self.gate));
        self.running.spawn(async move {
            let _place = gate.acquire_owned().await.expect("the gate stays open");
            match tokio::spawn(tokio::time::timeout(DEADLINE, case)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(format!("{name}: hangs (no end within {DEADLINE:?})")),
                Err(died) => Err(format!("{name}: {}", said(died.into_panic().as_ref()))),
            }
        });
    }

    /// Waits for all rows; panics with every failure.
    pub async fn finish(mut self) {
        let mut failed = Vec::new();
        let mut count = 0;
        while let Some(done) = self.running.join_next().await {
            count += 1;
            failed.extend(done.expect("a row's own panic is caught above").err());
        }
        assert!(count > 0, "a table without rows proves nothing");
        assert!(failed.is_empty(), "{} of {count} cases failed:\n  {}", failed.len(), failed.join("\n  "));
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "panicked".to_owned())
}

/// Waits until something holds; false if it does not within the deadline.
pub async fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + DEADLINE;
    while Instant::now() < until {
        if holds() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}
