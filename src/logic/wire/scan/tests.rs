use super::*;
use proptest::prelude::*;

fn chat(body: &str) -> Result<Call, Refusal> {
    scan(Surface::OpenAiChat, Bytes::copy_from_slice(body.as_bytes()))
}

fn cut<'a>(call: &'a Call, span: &Span) -> &'a str {
    std::str::from_utf8(&call.body[span.clone()]).unwrap()
}

#[test]
fn a_chat_call_is_read_in_one_pass() {
    let call = chat(
        r#" {"messages":[{"role":"user","content":"hi"}],"tools":[1],"model":"a\u002fb","stream":true,"n":2,"user":"u",
        "max_tokens":7,"max_completion_tokens":9,"stream_options":{"include_usage":true},"cache_salt":"s"}"#,
    )
    .unwrap();
    assert_eq!(call.model, "a/b", "unescaped");
    assert!(call.stream && call.include_usage && !call.continuous_usage, "flags");
    assert_eq!(call.max_tokens, Some(Tokens(9)), "the largest cap reserves enough");
    assert_eq!((call.choices, call.end_user.as_deref()), (2, Some("u")), "n and user");
    let prompt: Vec<&str> = call.prompt.iter().map(|span| cut(&call, span)).collect();
    assert_eq!(prompt, ["[1]", r#"[{"role":"user","content":"hi"}]"#], "tools before messages");
    assert_eq!(call.prompt_bytes, 3 + 32, "the sum of the parts");
    assert_eq!(cut(&call, &call.cuts.model), r#""a\u002fb""#, "quotes included");
    assert_eq!(call.cuts.open, 2, "behind the brace");
}

#[test]
fn each_surface_wants_its_own_prompt() {
    for (surface, param) in [
        (Surface::OpenAiChat, "messages"),
        (Surface::OpenAiCompletions, "prompt"),
        (Surface::OpenAiEmbeddings, "input"),
        (Surface::OpenAiResponses, "input"),
        (Surface::AnthropicMessages, "messages"),
    ] {
        let got = scan(surface, Bytes::from_static(br#"{"model":"m"}"#)).err();
        assert_eq!(got, Some(Refusal::MissingParameter { param }), "{surface:?}");
    }
    let body = br#"{"messages":[0],"system":"s","tools":[],"model":"m","metadata":{"user_id":"x"}}"#;
    let call = scan(Surface::AnthropicMessages, Bytes::from_static(body)).unwrap();
    let prompt: Vec<&str> = call.prompt.iter().map(|span| cut(&call, span)).collect();
    assert_eq!(prompt, ["[]", "\"s\"", "[0]"], "tools, system, messages");
    assert_eq!(call.end_user.as_deref(), Some("x"), "metadata.user_id");
}

#[test]
fn a_deciding_member_twice_is_refused_however_it_is_written() {
    for (body, param) in [
        (r#"{"model":"a","messages":[],"model":"b"}"#, "model"),
        (r#"{"model":"a","messages":[],"mod\u0065l":"b"}"#, "model"),
        (r#"{"model":"a","messages":[],"stream":true,"stream":true}"#, "stream"),
        (r#"{"model":"a","messages":[],"n":1,"n":null}"#, "n"),
        (
            r#"{"model":"a","messages":[],"stream_options":{"include_usage":true,"include_usag\u0065":false}}"#,
            "stream_options.include_usage",
        ),
    ] {
        assert_eq!(chat(body).err(), Some(Refusal::DuplicateParameter { param }), "{body}");
    }
    assert!(chat(r#"{"model":"a","messages":[],"x":1,"x":2}"#).is_ok(), "others decide nothing");
}

#[test]
fn wrong_types_are_named() {
    for (member, param) in [
        (r#""model":"""#, "model"),
        (r#""model":3"#, "model"),
        (r#""model":"m","stream":"yes""#, "stream"),
        (r#""model":"m","max_tokens":-1"#, "max_tokens"),
        (r#""model":"m","max_tokens":1.5"#, "max_tokens"),
        (r#""model":"m","n":0"#, "n"),
        (r#""model":"m","stream_options":[]"#, "stream_options"),
        (r#""model":"m","stream_options":{"include_usage":1}"#, "stream_options.include_usage"),
    ] {
        let got = chat(&format!("{{\"messages\":[],{member}}}")).err();
        assert!(matches!(&got, Some(Refusal::InvalidParameter { param: p, .. }) if *p == param), "{member}: {got:?}");
    }
    let nulls = r#"{"model":"m","messages":[],"stream":null,"max_tokens":null,"n":null,"stream_options":null}"#;
    let call = chat(nulls).unwrap();
    assert_eq!((call.stream, call.max_tokens, call.choices), (false, None, 1), "null is absent");
}

#[test]
fn a_refusal_never_quotes_the_body() {
    for body in ["", "[]", "\"secret\"", "{\"secret", "{\"model\":secret}", "{} secret", "nul"] {
        let Some(Refusal::InvalidJson { detail }) = chat(body).err() else { panic!("{body} must be invalid JSON") };
        assert!(!detail.contains("secret"), "{detail}");
    }
    assert_eq!(chat("{}").err(), Some(Refusal::MissingParameter { param: "model" }), "an empty object");
}

#[test]
fn depth_is_bounded() {
    let body = format!(r#"{{"model":"m","messages":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    assert!(matches!(chat(&body), Err(Refusal::InvalidJson { .. })), "200 levels");
    let endless = format!(r#"{{"x":{}"#, "[".repeat(1_000_000));
    assert!(matches!(chat(&endless), Err(Refusal::InvalidJson { .. })), "a million open brackets do no harm");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = scan(Surface::OpenAiChat, Bytes::from(bytes));
    }

    #[test]
    fn spans_are_whole_values(
        model in ".{1,8}", text in ".{0,20}", at in 0..300_usize, byte in any::<u8>(), damage in any::<bool>()
    ) {
        let doc = serde_json::json!({
            "messages": [{"content": text}], "model": model, "tools": [text], "stream_options": {"a": text}
        });
        let mut body = doc.to_string().into_bytes();
        if damage {
            let at = at % body.len();
            body[at] = byte;
        }
        if let Ok(call) = scan(Surface::OpenAiChat, Bytes::from(body)) {
            let spans = call.prompt.iter().chain([&call.cuts.model]).chain(call.cuts.stream_options.as_ref());
            for span in spans {
                let part = std::str::from_utf8(&call.body[span.clone()]);
                prop_assert!(part.is_ok(), "on character boundaries");
                let value: Result<serde_json::Value, _> = serde_json::from_str(part.unwrap_or_default());
                prop_assert!(value.is_ok(), "a span is one JSON value: {:?}", part);
            }
        }
    }
}
