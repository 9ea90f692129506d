//! Changes the few members of a request body that forwarding may change, by cutting bytes. Everything else stays
//! as the client wrote it; the document is never written anew.

use super::json;
use super::scan::StreamOptions;
use crate::domain::call::{Call, Span};
use crate::domain::surface::Surface;
use bytes::{Bytes, BytesMut};
use serde_json::value::RawValue;

/// What to change.
#[derive(Clone, Copy, Debug, Default)]
pub struct Edits<'a> {
    /// Name the model so.
    pub model: Option<&'a str>,
    /// Ask for the usage event at the end of a stream, whatever the client said.
    pub include_usage: bool,
    /// Ask for running usage on every event.
    pub continuous_usage: bool,
    /// Set `cache_salt` to this.
    pub cache_salt: Option<&'a str>,
    /// Take the client's `cache_salt` out (where none is set).
    pub strip_cache_salt: bool,
}

/// One cut: the range goes, the text comes.
type Cut = (Span, String);

/// The body to send. The very same bytes if nothing changes. Stream options are added to streamed chat and text
/// completions only: elsewhere upstreams refuse them.
#[must_use]
pub fn splice(call: &Call, edits: &Edits<'_>) -> Bytes {
    let mut cuts: Vec<Cut> = Vec::new();
    if let Some(model) = edits.model.filter(|model| *model != call.model) {
        cuts.push((call.cuts.model.clone(), quoted(model)));
    }
    cut_cache_salt(call, edits, &mut cuts);
    if call.stream && matches!(call.surface, Surface::OpenAiChat | Surface::OpenAiCompletions) {
        cut_stream_options(call, edits, &mut cuts);
    }
    if cuts.is_empty() {
        return call.body.clone();
    }
    // Insertions (empty ranges) come before a cut that starts at the same place.
    cuts.sort_by_key(|(span, _)| (span.start, span.end));
    apply(&call.body, &cuts)
}

fn apply(body: &[u8], cuts: &[Cut]) -> Bytes {
    let added: usize = cuts.iter().map(|(_, text)| text.len()).sum();
    let mut out = BytesMut::with_capacity(body.len() + added);
    let mut at = 0;
    for (span, text) in cuts {
        out.extend_from_slice(&body[at..span.start]);
        out.extend_from_slice(text.as_bytes());
        at = span.end;
    }
    out.extend_from_slice(&body[at..]);
    out.freeze()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A new first member. There is always another one behind it: `model`.
fn insert(call: &Call, member: &str) -> Cut {
    let comma = if call.cuts.empty { "" } else { "," };
    (call.cuts.open..call.cuts.open, format!("{member}{comma}"))
}

fn cut_cache_salt(call: &Call, edits: &Edits<'_>, cuts: &mut Vec<Cut>) {
    match (edits.cache_salt, &call.cuts.cache_salt) {
        (Some(salt), Some(span)) => cuts.push((span.clone(), quoted(salt))),
        (Some(salt), None) => cuts.push(insert(call, &format!("\"cache_salt\":{}", quoted(salt)))),
        (None, Some(span)) if edits.strip_cache_salt => {
            // The span came out of a parsed object, so the member is always found; `null` is the next best.
            let cut = json::member_range(&call.body, span.clone()).map(|range| (range, String::new()));
            cuts.push(cut.unwrap_or_else(|| (span.clone(), "null".to_owned())));
        }
        (None, _) => {}
    }
}

fn cut_stream_options(call: &Call, edits: &Edits<'_>, cuts: &mut Vec<Cut>) {
    let wanted = [(edits.include_usage, "include_usage"), (edits.continuous_usage, "continuous_usage_stats")];
    if wanted.iter().all(|(asked, _)| !asked) {
        return;
    }
    let fresh: Vec<String> =
        wanted.iter().filter(|(asked, _)| *asked).map(|(_, name)| format!("\"{name}\":true")).collect();
    let Some(span) = call.cuts.stream_options.clone() else {
        return cuts.push(insert(call, &format!("\"stream_options\":{{{}}}", fresh.join(","))));
    };
    let raw = serde_json::from_slice::<&RawValue>(&call.body[span.clone()]).ok();
    let Some(options) = raw.filter(|raw| raw.get() != "null").and_then(|raw| StreamOptions::read(raw).ok()) else {
        return cuts.push((span, format!("{{{}}}", fresh.join(","))));
    };
    let mut missing = Vec::new();
    for ((asked, name), (value, place)) in wanted
        .into_iter()
        .zip([(options.include_usage, options.include_span), (options.continuous_usage, options.continuous_span)])
    {
        match place {
            _ if !asked || value == Some(true) => {}
            Some(place) => cuts.push((span.start + place.start..span.start + place.end, "true".to_owned())),
            None => missing.push(format!("\"{name}\":true")),
        }
    }
    if !missing.is_empty() {
        let comma = if options.empty { "" } else { "," };
        cuts.push((span.start + 1..span.start + 1, format!("{}{comma}", missing.join(","))));
    }
}

#[cfg(test)]
mod tests {
    use super::super::scan::scan;
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn chat(body: &str) -> Call {
        scan(Surface::OpenAiChat, Bytes::copy_from_slice(body.as_bytes())).unwrap()
    }

    fn text(body: &str, edits: &Edits<'_>) -> String {
        String::from_utf8(splice(&chat(body), edits).to_vec()).unwrap()
    }

    const USAGE: Edits<'_> =
        Edits { model: None, include_usage: true, continuous_usage: false, cache_salt: None, strip_cache_salt: false };

    #[test]
    fn nothing_to_change_is_the_very_same_bytes() {
        let call = chat(r#"{"messages":[],"model":"m","stream":true,"stream_options":{"include_usage":true}}"#);
        let out = splice(&call, &Edits { model: Some("m"), ..USAGE });
        assert_eq!(out.as_ptr(), call.body.as_ptr(), "no copy");
    }

    #[test]
    fn stream_options_are_merged_and_false_is_overridden() {
        let body = r#"{"model":"m","messages":[],"stream":true,"stream_options": {"x":1,"include_usage" : false}}"#;
        assert_eq!(text(body, &USAGE), body.replace("false", "true"), "the client's other members stay");
        let empty = r#"{"model":"m","messages":[],"stream":true,"stream_options":{}}"#;
        assert_eq!(text(empty, &USAGE), empty.replace("{}", r#"{"include_usage":true}"#), "an empty object");
        let null = r#"{"model":"m","messages":[],"stream":true,"stream_options":null}"#;
        assert_eq!(text(null, &USAGE), null.replace("null", r#"{"include_usage":true}"#), "null");
        let absent = r#"{"model":"m","messages":[],"stream":true}"#;
        let wanted = r#"{"stream_options":{"include_usage":true},"model":"m","messages":[],"stream":true}"#;
        assert_eq!(text(absent, &USAGE), wanted, "absent");
    }

    #[test]
    fn a_call_without_streaming_gets_no_stream_options() {
        let body = r#"{"model":"m","messages":[]}"#;
        assert_eq!(text(body, &USAGE), body, "upstreams refuse stream_options without stream");
    }

    proptest! {
        /// Splice equals the edit made on the parsed document.
        #[test]
        fn a_splice_is_the_edited_document(
            order in Just(vec![0, 1, 2, 3, 4, 5]).prop_shuffle(),
            have in proptest::collection::vec(any::<bool>(), 3),
            space in prop_oneof![Just(""), Just(" "), Just("\n\t")],
            options in prop_oneof![
                Just("null"), Just("{}"), Just(r#"{"include_usage":false}"#), Just(r#"{ "a":[1] ,"include_usage":null}"#),
                Just(r#"{"continuous_usage_stats":true,"z":{}}"#), Just(r#"{"include_usag\u0065":true}"#),
            ],
            flags in proptest::collection::vec(any::<bool>(), 5),
            salt in ".{0,8}",
        ) {
            let salted = format!("{{\"s\":{}}}", serde_json::to_string(&salt).unwrap());
            let members = [
                Some(("model", r#""m\u00e9""#)), Some(("messages", r#"[{"content":"a\"cache_salt\":1"}]"#)),
                Some(("stream", "true")), have[0].then_some(("stream_options", options)),
                have[1].then_some(("cache_sal\\u0074", salted.as_str())), have[2].then_some(("x", "[{}]")),
            ];
            let parts: Vec<String> = order.iter().filter_map(|i| members[*i])
                .map(|(key, value)| format!("{space}\"{key}\"{space}:{space}{value}{space}")).collect();
            let body = format!("{space}{{{}}}{space}", parts.join(","));
            let edits = Edits {
                model: flags[0].then_some("n\"w"), include_usage: flags[1], continuous_usage: flags[2],
                cache_salt: flags[3].then_some(salt.as_str()), strip_cache_salt: flags[4],
            };
            let mut want: Value = serde_json::from_str(&body).unwrap();
            if flags[0] { want["model"] = json!("n\"w"); }
            if flags[1] || flags[2] {
                if !want["stream_options"].is_object() { want["stream_options"] = json!({}); }
                if flags[1] { want["stream_options"]["include_usage"] = json!(true); }
                if flags[2] { want["stream_options"]["continuous_usage_stats"] = json!(true); }
            }
            if flags[3] { want["cache_salt"] = json!(salt); }
            else if flags[4] { want.as_object_mut().unwrap().remove("cache_salt"); }
            let out = splice(&chat(&body), &edits);
            let got: Value = serde_json::from_slice(&out).map_err(|e| TestCaseError::fail(format!("{e}: {out:?}")))?;
            prop_assert_eq!(got, want, "from {}", body);
        }
    }
}
