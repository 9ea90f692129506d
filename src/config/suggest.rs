//! "Did you mean": the nearest of the possible words. Pure.

/// How alike two words must be (Jaro-Winkler) before one is offered for the other.
const ALIKE: f64 = 0.78;

/// The nearest word, if one is near.
#[must_use]
pub fn nearest<'a>(word: &str, among: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase();
    among
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&lower, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A hint: the nearest word, else the list of all.
#[must_use]
pub fn hint(word: &str, among: &[&str]) -> Option<String> {
    if let Some(near) = nearest(word, among.iter().copied()) {
        return Some(format!("did you mean `{near}`?"));
    }
    if among.is_empty() {
        return None;
    }
    Some(format!("possible here: {}", among.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_word_and_nonsense_finds_none() {
        let words = ["kv_aware", "least_requests", "p2c"];
        assert_eq!(nearest("kv_awre", words), Some("kv_aware"), "one letter is missing");
        assert_eq!(nearest("zzz", words), None, "nothing is near");
        assert_eq!(hint("zzz", &words).as_deref(), Some("possible here: kv_aware, least_requests, p2c"), "all words");
    }
}
