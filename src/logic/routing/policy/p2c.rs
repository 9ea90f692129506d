//! Two different backends at random, in proportion to their weights; the one with less load for its weight.

use super::{Field, Pick, mix};

/// Picks, or `None` if nobody may be chosen.
#[must_use]
pub fn pick(field: &Field<'_>, chance: u64) -> Option<Pick> {
    let first = draw(field, mix(chance), None)?;
    let second = draw(field, mix(chance ^ 1 << 63), Some(first)).unwrap_or(first);
    let better = field.load_with_one_more(second) < field.load_with_one_more(first);
    Some(Pick { backend: if better { second } else { first }, reason: "queue" })
}

/// One backend by weight, other than `but`.
fn draw(field: &Field<'_>, chance: u64, but: Option<usize>) -> Option<usize> {
    let rest = || field.candidates(0).filter(move |backend| Some(*backend) != but);
    let total: u64 = rest().map(|backend| u64::from(field.weights[backend])).sum();
    let mut ticket = chance.checked_rem(total)?;
    for backend in rest() {
        let weight = u64::from(field.weights[backend]);
        if ticket < weight {
            return Some(backend);
        }
        ticket -= weight;
    }
    None
}
