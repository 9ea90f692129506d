//! The figures that a law reached, one line each beside its bound: what `make limits` shows.

/// Says a figure and the bounds that it was held to.
pub fn figure(law: &str, what: &str, value: f64, bounds: &str) {
    println!("limits | {law:<34} | {what:<46} | {value:>9.4} | {bounds}");
}

/// Counts answers by status and code: what was said, in one line.
pub fn answers(shots: &[super::load::Shot]) -> String {
    let mut counts = std::collections::BTreeMap::new();
    for shot in shots {
        *counts.entry((shot.status, shot.code.as_str())).or_insert(0) += 1;
    }
    let told = counts.iter().map(|((status, code), count)| format!("{count} x {status} {code}").trim().to_owned());
    told.collect::<Vec<_>>().join(", ")
}

/// The value below which this share of all lies; 0 of none.
pub fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 - 1.0) * share).round();
    values.get(at.max(0.0) as usize).copied().unwrap_or(0.0)
}
