//! What a replica says is used of a limit, beside what the usage rows say.

use super::fleet::{Fleet, MODEL};
use crate::client::{Answer, Ask};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks: a counter is stated once a second.
const LOOK: Duration = Duration::from_millis(300);

/// What is used of a tenant's limits on requests and on tokens, by two accounts, with the request that asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// What the headers say; `None` where there is no such limit.
    pub told: [Option<u64>; 2],
    /// What the rows say.
    pub rows: [u64; 2],
}

impl Counted {
    /// Both say the same.
    pub fn agree(self) -> bool {
        self.told.iter().zip(self.rows).all(|(told, rows)| told.is_none_or(|told| told == rows))
    }
}

/// `limit - remaining` of a dimension.
fn used(answer: &Answer, dimension: &str) -> Option<u64> {
    let figure = |kind: &str| answer.header(&format!("x-ratelimit-{kind}-{dimension}")).parse::<u64>().ok();
    Some(figure("limit")? - figure("remaining")?)
}

/// A token in, a token out: the engine counts the prompt's two letters, the proxy the quotes too, and for both they are one
/// token. So it uses exactly what it reserves.
fn probe(fleet: &Fleet, tenant: &str) -> Ask {
    let body = json!({"model": MODEL, "prompt": "Te", "max_tokens": 1}).to_string();
    let ask = Ask::new("POST", "/v1/completions", fleet.key(tenant));
    ask.field("content-type", "application/json").body(body)
}

/// Asks a replica by a request, and the rows once they have it. Nothing else may run for this tenant.
pub async fn counted(fleet: &Fleet, replica: usize, tenant: &str) -> Counted {
    let before = fleet.rows_now(tenant).len();
    let answer = probe(fleet, tenant).send(fleet.addresses()[replica]).await;
    let admitted = usize::from(answer.status == 200);
    let rows = fleet.rows(tenant, before + admitted).await;
    let tokens = rows.iter().map(|row| row.tokens).sum();
    Counted { told: [used(&answer, "requests"), used(&answer, "tokens")], rows: [rows.len() as u64, tokens] }
}

/// Asks a replica until both accounts agree; how long that took. Fails once `limit` has passed.
pub async fn agree<F>(limit: Duration, mut ask: impl FnMut() -> F) -> Duration
where
    F: Future<Output = Counted>,
{
    let started = Instant::now();
    loop {
        let counted = ask().await;
        assert_ne!(counted.told, [None; 2], "the headers name a limit");
        if counted.agree() {
            return started.elapsed();
        }
        assert!(started.elapsed() < limit, "the counter differs from the usage rows after {limit:?}: {counted:?}");
        tokio::time::sleep(LOOK).await;
    }
}
