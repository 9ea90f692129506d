//! How a law is judged: what is wrong counts, unless the machine was too busy to tell. Then the run is repeated, so often
//! at most.

use super::fleet::Fleet;

/// Runs of a law on a busy machine.
const TRIES: usize = 3;

/// What one run showed.
#[derive(Default)]
pub struct Verdict {
    wrong: Vec<String>,
    /// Why it may not count.
    busy: Option<String>,
}

impl Verdict {
    /// Something that must be so.
    pub fn hold(&mut self, so: bool, otherwise: impl FnOnce() -> String) {
        if !so {
            self.wrong.push(otherwise());
        }
    }

    /// The machine was too busy, as these words say.
    pub fn busy(&mut self, how: String) {
        self.busy = Some(how);
    }

    /// For a law of a store that answers in time: some decisions may have been made without it.
    pub fn of(mut self, fleet: &Fleet) -> Self {
        let alone = fleet.decided_alone();
        if alone > 0.0 {
            self.busy(format!("{alone} decisions without the store"));
        }
        self
    }
}

/// Runs a law until it holds, or until it does not hold on a machine that had the time for it.
pub async fn judged<F: Future<Output = Verdict>>(law: &str, mut run: impl FnMut() -> F) {
    for tries in 1.. {
        let Verdict { wrong, busy } = run().await;
        if wrong.is_empty() {
            return;
        }
        let wrong = wrong.join("\n  ");
        let Some(busy) = busy else { panic!("{law}:\n  {wrong}") };
        assert!(tries < TRIES, "{law}, too busy a machine ({busy}):\n  {wrong}");
        eprintln!("{law}: once more ({busy}):\n  {wrong}");
    }
}
