//! The backend with the fewest requests in flight for its weight; among equals a random one.

use super::{Field, Pick};

/// Picks, or `None` if nobody may be chosen.
#[must_use]
pub fn pick(field: &Field<'_>, chance: u64) -> Option<Pick> {
    let backend = field
        .candidates(chance)
        .min_by(|one, other| field.load_with_one_more(*one).total_cmp(&field.load_with_one_more(*other)))?;
    Some(Pick { backend, reason: "queue" })
}
