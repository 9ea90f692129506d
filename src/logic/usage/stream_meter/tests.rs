use super::*;
use crate::domain::units::Tokens;
use proptest::prelude::*;

const NONE: Strip = Strip { usage_event: false, running_usage: false };
const BOTH: Strip = Strip { usage_event: true, running_usage: true };

/// Output, tally, and whether output, terminal and error were told, for a stream cut at these places.
fn run(kind: StreamKind, strip: Strip, stream: &[u8], cuts: &[usize]) -> (Vec<u8>, Tally, [bool; 3]) {
    let mut meter = StreamMeter::new(kind, strip);
    let (mut out, mut told, mut last) = (Vec::new(), [false; 3], 0);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).chain([stream.len()]).collect();
    ends.sort_unstable();
    let mut steps: Vec<Step> = Vec::new();
    for end in ends {
        steps.push(meter.push(Bytes::copy_from_slice(&stream[last..end])));
        last = end;
    }
    steps.push(meter.finish());
    for step in steps {
        out.extend_from_slice(&step.out);
        told = [told[0] | step.output, told[1] | step.terminal, told[2] | step.error];
    }
    (out, meter.tally().clone(), told)
}

fn text(got: &(Vec<u8>, Tally, [bool; 3])) -> &str {
    std::str::from_utf8(&got.0).unwrap()
}

const VLLM: &str = concat!(
    "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}],\"usage\":{\"prompt_tokens\":5,\"total_tokens\":5,\"completion_tokens\":0}}\n\n",
    "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hé\"},\"finish_reason\":null}],\"usage\":{\"prompt_tokens\":5,\"total_tokens\":6,\"completion_tokens\":1}}\n\n",
    ": keep-alive\n\n",
    "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" \\\"usage\\\"\"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":5,\"total_tokens\":8,\"completion_tokens\":3}}\n\n",
    "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"total_tokens\":8,\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n",
    "data: [DONE]\n\n",
);

#[test]
fn a_stream_that_needs_nothing_passes_byte_for_byte() {
    let got = run(StreamKind::Chat, NONE, VLLM.as_bytes(), &[]);
    assert_eq!(text(&got), VLLM, "byte-identical");
    assert_eq!(got.2, [true, true, false], "output and end, no error");
    let (counts, source) = got.1.settled(true);
    assert_eq!(source, UsageSource::UpstreamFinal, "the usage event is final");
    assert_eq!((counts.input_total, counts.output_total), (Some(Tokens(5)), Some(Tokens(3))), "counts");
    assert_eq!(counts.input_cache_read, Some(Tokens(4)), "cached");
    assert_eq!((got.1.sse_events, got.1.content_events, got.1.text_bytes), (6, 2, 3 + 8), "events and text");
    assert_eq!(got.1.finish_reason.as_deref(), Some("stop"), "finish reason");
    assert_eq!(got.1.model_reported.as_deref(), Some("m"), "model");
}

#[test]
fn usage_that_the_client_did_not_ask_for_is_taken_out() {
    let got = run(StreamKind::Chat, BOTH, VLLM.as_bytes(), &[]);
    assert!(!text(&got).contains("_tokens"), "no usage is left: {}", text(&got));
    let kept: Vec<&str> = VLLM.split_inclusive("\n\n").collect();
    assert!(text(&got).contains(kept[2]) && text(&got).contains(kept[3]), "the rest is byte-identical");
    assert!(text(&got).contains("\"finish_reason\":\"stop\"}]}\n\n"), "only the member is cut");
    assert_eq!(got.1.settled(true).0.output_total, Some(Tokens(3)), "and still counted");
}

#[test]
fn a_piece_that_needs_nothing_is_not_copied() {
    let mut meter = StreamMeter::new(StreamKind::Chat, BOTH);
    let piece = Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n");
    for round in 0..3 {
        assert_eq!(meter.push(piece.clone()).out.as_ptr(), piece.as_ptr(), "the very same bytes, round {round}");
    }
    assert_eq!(meter.tally().content_events, 3, "with and without a parse");
}

#[test]
fn azures_opening_event_passes_though_its_choices_are_empty() {
    let stream = "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\ndata: {\"choices\":[],\"usage\":null}\n\n";
    assert_eq!(text(&run(StreamKind::Chat, BOTH, stream.as_bytes(), &[])), stream, "no usage object, no cut");
}

#[test]
fn a_cut_stream_settles_on_the_last_running_count() {
    let events: Vec<&str> = VLLM.split_inclusive("\n\n").collect();
    let got = run(StreamKind::Chat, NONE, events[..2].concat().as_bytes(), &[]);
    let (counts, source) = got.1.settled(false);
    assert_eq!((counts.output_total, source), (Some(Tokens(1)), UsageSource::UpstreamContinuous), "lower bound");
    assert_eq!(got.1.delivered, Tokens(1), "delivered");
}

#[test]
fn without_usage_content_events_are_counted() {
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n".repeat(4);
    let tally = run(StreamKind::Chat, NONE, stream.as_bytes(), &[]).1;
    assert_eq!(tally.settled(true).1, UsageSource::ChunkCount, "the next best");
    assert_eq!(tally.settled(true).0.output_total, Some(Tokens(4)), "one each");
    assert_eq!(Tally::default().settled(true).1, UsageSource::None, "nothing at all");
}

#[test]
fn an_event_without_its_blank_line_counts_at_the_end() {
    for tail in ["", "\n", "\r"] {
        let stream = format!("data: {{\"choices\":[],\"usage\":{{\"completion_tokens\":0}}}}\n\ndata: [DONE]{tail}");
        let got = run(StreamKind::Chat, NONE, stream.as_bytes(), &[]);
        assert!(got.1.terminal_seen, "[DONE] counts with tail {tail:?}");
        assert!(text(&got).ends_with("\n\n"), "and is completed: {:?}", text(&got));
        assert_eq!(got.1.counts.output_total, Some(Tokens(0)), "an explicit zero");
    }
    let torn = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{\"del";
    assert!(!text(&run(StreamKind::Chat, NONE, torn.as_bytes(), &[])).contains("del\""), "a torn event is dropped");
}

#[test]
fn an_error_event_ends_the_output_before_it() {
    let good = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    for (kind, error) in [
        (StreamKind::Chat, "data: {\"error\":{\"message\":\"boom\",\"type\":\"T\",\"code\":500}}\n\n"),
        (StreamKind::Chat, "data: {\"object\":\"error\",\"message\":\"boom\",\"type\":\"T\"}\n\n"),
        (StreamKind::Chat, "event: error\ndata: {\"type\":\"T\",\"message\":\"boom\"}\n\n"),
        (
            StreamKind::Anthropic,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"T\",\"message\":\"boom\"}}\n\n",
        ),
        (StreamKind::Responses, "event: error\ndata: {\"type\":\"error\",\"code\":\"T\",\"message\":\"boom\"}\n\n"),
    ] {
        let got = run(kind, NONE, format!("{good}{error}{good}data: [DONE]\n\n").as_bytes(), &[]);
        assert_eq!(text(&got), good, "nothing of it and nothing after it: {error}");
        assert!(got.2[2] && !got.1.terminal_seen, "told as an error: {error}");
        let fault = got.1.error.unwrap();
        assert_eq!(fault.message, "boom", "{error}");
        assert!(fault.kind == "T" || fault.kind == "error", "{error}: {}", fault.kind);
    }
}

const CLAUDE: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude\",\"usage\":{\"input_tokens\":2,\"cache_creation_input_tokens\":10,\"cache_read_input_tokens\":100,\"output_tokens\":1}}}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"b\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\"}}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":9}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
);

#[test]
fn anthropics_counts_are_seeded_then_replaced() {
    let got = run(StreamKind::Anthropic, BOTH, CLAUDE.as_bytes(), &[]);
    assert_eq!(text(&got), CLAUDE, "nothing is taken out of this dialect");
    let (counts, source) = got.1.settled(true);
    assert_eq!((counts.input_total, counts.output_total), (Some(Tokens(112)), Some(Tokens(9))), "sum and last");
    assert_eq!((source, got.1.content_events), (UsageSource::UpstreamFinal, 3), "final");
    let cut = run(StreamKind::Anthropic, BOTH, &CLAUDE.as_bytes()[..CLAUDE.find("event: message_delta").unwrap()], &[]);
    let (counts, source) = cut.1.settled(false);
    assert_eq!((counts.output_total, source), (Some(Tokens(3)), UsageSource::UpstreamPartial), "seen so far");
}

const RESPONSES: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"g\",\"error\":null,\"usage\":null}}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"b\"}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"error\":null,\"output\":[],\"usage\":{\"input_tokens\":3,\"output_tokens\":2,\"output_tokens_details\":{\"reasoning_tokens\":1}}}}\n\n",
);

#[test]
fn responses_tell_their_usage_at_the_end() {
    let got = run(StreamKind::Responses, NONE, RESPONSES.as_bytes(), &[]);
    assert_eq!((text(&got), got.2), (RESPONSES, [true, true, false]), "passes, ends");
    let (counts, source) = got.1.settled(true);
    assert_eq!((counts.output_total, counts.output_reasoning), (Some(Tokens(2)), Some(Tokens(1))), "counts");
    assert_eq!((source, got.1.content_events), (UsageSource::UpstreamFinal, 2), "final");
}

#[test]
fn an_event_over_the_limit_passes_and_its_usage_is_still_read() {
    let padding = format!("\"output\":[{{\"text\":\"{}\"}}],\"usage\"", "x".repeat(MAX_EVENT));
    let stream = RESPONSES.replace("\"output\":[],\"usage\"", &padding);
    for cuts in [&[][..], &[400, 30_000, 66_000][..]] {
        let got = run(StreamKind::Responses, NONE, stream.as_bytes(), cuts);
        assert!(got.0 == stream.as_bytes(), "byte-identical, cut at {cuts:?}");
        assert_eq!(got.1.counts.output_total, Some(Tokens(2)), "usage, cut at {cuts:?}");
        assert!(got.1.terminal_seen && got.1.unread_events == 1, "end, cut at {cuts:?}");
    }
    let big = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n", "x".repeat(MAX_EVENT));
    let tally = run(StreamKind::Chat, NONE, big.as_bytes(), &[]).1;
    assert_eq!(tally.settled(true).1, UsageSource::BytesEstimate, "only its bytes are known");
}

#[test]
fn running_usage_is_cut_out_of_data_in_several_lines() {
    let stream = "data: {\"choices\":[{}],\ndata: \"usage\":{\"completion_tokens\":1}}\n\n";
    assert_eq!(text(&run(StreamKind::Chat, BOTH, stream.as_bytes(), &[])), "data: {\"choices\":[{}]}\n\n", "one line");
}

#[test]
fn an_event_of_the_same_form_is_metered_without_a_second_look() {
    let event = |text: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    let mut meter = StreamMeter::new(StreamKind::Chat, BOTH);
    meter.push(event("a").into());
    meter.push(event("b").into());
    let two = event("\\u00e9") + &event("four");
    assert_eq!(meter.same_again(two.as_bytes()), Some(event("\\u00e9").len()), "the form is known by now");
    let step = meter.push((event("four") + &event("x\\\"usage")).into());
    assert_eq!(step.out, event("four") + &event("x\\\"usage"), "all is passed");
    assert_eq!(meter.push(Bytes::from_static(b": note\n")).out, "", "a block is open");
    assert_eq!(meter.push(event("x").into()).out, ": note\n".to_owned() + &event("x"), "its lines stay together");
    let tally = meter.tally();
    assert_eq!(
        (tally.sse_events, tally.content_events, tally.text_bytes),
        (6, 6, 1 + 1 + 2 + 4 + 7 + 1),
        "all is counted"
    );
}

proptest! {
    // A stream in pieces of one byte goes the long way, a stream in one piece the short one wherever it can.
    #[test]
    fn the_short_way_and_the_long_way_agree(
        texts in proptest::collection::vec(prop_oneof![
            Just("a"), Just("é"), Just("\\u00e9\\n"), Just(""), Just("usage"), Just("\\\"error"), Just("\\\"usage\\\""),
            Just("\\\"finish_reason"), Just("\n"), Just("b\n\nc"), Just("\r"), Just("\""), Just("\\"), Just("content"),
        ], 1..24),
        which in 0..4_usize, ends in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
    ) {
        let (kind, head, tail) = [
            (StreamKind::Chat, "data: {\"choices\":[{\"delta\":{\"content\":\"", "\"},\"finish_reason\":null}]}"),
            (StreamKind::Completions, "data: {\"choices\":[{\"finish_reason\":null,\"text\":\"", "\"}]}"),
            (StreamKind::Responses, "event: response.output_text.delta\ndata: {\"delta\":\"", "\"}\nid: 1"),
            (StreamKind::Anthropic, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"", "\"}}"),
        ][which];
        let stream: String = texts.iter().map(|text| format!("{head}{text}{tail}\n\n")).collect();
        let stream = stream.replace('\n', ends);
        let every: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(
            run(kind, BOTH, stream.as_bytes(), &[]), run(kind, BOTH, stream.as_bytes(), &every), "{:?}", stream
        );
    }

    #[test]
    fn splits_are_invisible(
        which in 0..5_usize, ends in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")], bom in any::<bool>(),
        strip in any::<bool>(), keep in 0..4000_usize, cuts in proptest::collection::vec(0..4000_usize, 0..12),
    ) {
        let error = format!("{}data: {{\"error\":{{\"message\":\"x\"}}}}\n\n{VLLM}", &VLLM[..VLLM.find(": keep").unwrap()]);
        let (kind, stream) = [
            (StreamKind::Chat, VLLM), (StreamKind::Anthropic, CLAUDE), (StreamKind::Responses, RESPONSES),
            (StreamKind::Chat, error.as_str()), (StreamKind::Completions, VLLM),
        ][which];
        let mut stream = format!("{}{}", if bom { "\u{feff}" } else { "" }, stream.replace('\n', ends)).into_bytes();
        stream.truncate(keep.max(1));
        let strip = if strip { BOTH } else { NONE };
        let whole = run(kind, strip, &stream, &[]);
        prop_assert_eq!(&run(kind, strip, &stream, &cuts), &whole, "cut at {:?}", cuts);
        let every: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(&run(kind, strip, &stream, &every), &whole, "cut at every byte");
    }
}
