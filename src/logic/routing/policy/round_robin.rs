//! In turn, smoothly by weight: each round everyone gains its weight, the richest is chosen and pays for all.

use super::{Field, Pick};

/// The credits of a pool's backends.
#[derive(Debug)]
pub struct Turns {
    credits: Vec<i64>,
}

impl Turns {
    /// Nobody has had a turn.
    #[must_use]
    pub fn new(backends: usize) -> Self {
        Self { credits: vec![0; backends] }
    }

    /// Picks and moves on, or `None` if nobody may be chosen.
    pub fn pick(&mut self, field: &Field<'_>, chance: u64) -> Option<Pick> {
        let mut richest: Option<usize> = None;
        let mut total = 0;
        for backend in field.candidates(chance) {
            let weight = i64::from(field.weights[backend]);
            total += weight;
            self.credits[backend] += weight;
            if richest.is_none_or(|best| self.credits[backend] > self.credits[best]) {
                richest = Some(backend);
            }
        }
        let backend = richest?;
        self.credits[backend] -= total;
        Some(Pick { backend, reason: "queue" })
    }
}
