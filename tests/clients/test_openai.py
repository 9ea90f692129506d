"""The official `openai` library against a running quickstart: what works, and which exception each refusal becomes."""

import openai
import pytest
from quickstart import wait_until

HELLO = [{"role": "user", "content": "Say hello to the weir, please."}]
TIMEOUT_S = 30


def client_of(weir, key=None):
    return openai.OpenAI(base_url=weir.url + "/v1", api_key=key or weir.key, max_retries=0, timeout=TIMEOUT_S)


@pytest.fixture
def client(weir):
    with client_of(weir) as client:
        yield client


def chat(client, weir, **more):
    more.setdefault("max_tokens", 24)
    more.setdefault("model", weir.model)
    return client.chat.completions.create(messages=HELLO, **more)


def fault(text):
    return {"x-sim-fault": text}


def test_chat_answers_and_its_usage_becomes_one_exact_row(client, weir):
    raw = client.chat.completions.with_raw_response.create(model=weir.model, messages=HELLO, max_tokens=24)
    answer = raw.parse()
    assert answer.choices[0].message.content, "there is text"
    row = weir.row(raw.headers["x-request-id"])
    assert row["status"] == "completed" and row["surface"] == "openai.chat" and row["stream"] == 0, row
    assert row["input_total"] == answer.usage.prompt_tokens, "the row has the client's input count"
    assert row["output_total"] == answer.usage.completion_tokens, "the row has the client's output count"
    assert row["usage_source"] == "upstream_final" and row["usage_confidence"] == "exact", row
    assert row["tenant_id"] == "default" and weir.key.split("-")[2] == row["key_id"], "the key's owner pays"


def test_a_stream_without_include_usage_shows_none_but_is_metered(client, weir):
    raw = client.chat.completions.with_raw_response.create(model=weir.model, messages=HELLO, max_tokens=24, stream=True)
    chunks = list(raw.parse())
    assert all(chunk.choices for chunk in chunks), "the usage event that Weir asked for is stripped again"
    assert not any(chunk.usage for chunk in chunks), "no usage member that the client did not ask for"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks), "there is text"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length"), "the end is told"
    row = weir.row(raw.headers["x-request-id"])
    assert row["status"] == "completed" and row["stream"] == 1 and row["terminal_event_seen"] == 1, row
    assert row["usage_source"] == "upstream_final" and row["output_total"] > 0 and row["input_total"] > 0, row


def test_a_stream_with_include_usage_ends_in_the_counts_of_its_row(client, weir):
    raw = client.chat.completions.with_raw_response.create(
        model=weir.model, messages=HELLO, max_tokens=24, stream=True, stream_options={"include_usage": True}
    )
    last = list(raw.parse())[-1]
    assert last.choices == [] and last.usage, "the last event holds the usage"
    row = weir.row(raw.headers["x-request-id"])
    counts = (row["input_total"], row["output_total"])
    assert counts == (last.usage.prompt_tokens, last.usage.completion_tokens), "row and client agree"


def test_an_explicit_false_does_not_switch_metering_off(client, weir):
    raw = client.chat.completions.with_raw_response.create(
        model=weir.model, messages=HELLO, max_tokens=24, stream=True, stream_options={"include_usage": False}
    )
    assert not any(chunk.usage for chunk in raw.parse()), "the client said no"
    assert weir.row(raw.headers["x-request-id"])["usage_source"] == "upstream_final", "and is metered all the same"


def test_a_prompt_sent_twice_is_read_from_the_cache(client, weir):
    long = [{"role": "user", "content": "A weir holds back the river, and lets it flow in measure. " * 120}]
    answers = [client.chat.completions.create(model=weir.model, messages=long, max_tokens=4) for _ in range(2)]
    cached = [answer.usage.prompt_tokens_details.cached_tokens for answer in answers]
    assert cached[1] > answers[1].usage.prompt_tokens / 2, f"the second goes where the first left its blocks: {cached}"


@pytest.mark.parametrize("stream", [False, True])
def test_text_completions(client, weir, stream):
    answer = client.completions.create(model=weir.model, prompt="The weir", max_tokens=16, stream=stream)
    texts = [chunk.choices[0].text for chunk in answer] if stream else [answer.choices[0].text]
    assert "".join(texts), "there is text"


def test_embeddings_are_metered(client, weir):
    raw = client.embeddings.with_raw_response.create(model=weir.model, input="The weir", encoding_format="float")
    answer = raw.parse()
    assert len(answer.data) == 1 and answer.data[0].embedding, "one vector for one input"
    row = weir.row(raw.headers["x-request-id"])
    assert (row["surface"], row["input_total"]) == ("openai.embeddings", answer.usage.prompt_tokens), row


def test_responses(client, weir):
    raw = client.responses.with_raw_response.create(model=weir.model, input="Hello", max_output_tokens=24)
    answer = raw.parse()
    assert answer.status in ("completed", "incomplete") and answer.output_text, "there is text"
    row = weir.row(raw.headers["x-request-id"])
    counts = (row["surface"], row["input_total"], row["output_total"])
    assert counts == ("openai.responses", answer.usage.input_tokens, answer.usage.output_tokens), row


def test_responses_streamed(client, weir):
    events = list(client.responses.create(model=weir.model, input="Hello", max_output_tokens=24, stream=True))
    assert any(event.type == "response.output_text.delta" for event in events), "text arrives in pieces"
    assert events[-1].type in ("response.completed", "response.incomplete"), "the end is told"


def test_models_lists_what_the_caller_may_use(client, weir):
    assert [model.id for model in client.models.list()] == [weir.model], "the engines' model and no other"


def test_one_model_is_shown_by_name_and_no_engine_is_asked(client, weir):
    assert client.models.retrieve(weir.model).id == weir.model, "the caller may use it"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found", caught.value.body


@pytest.mark.parametrize("key", ["sk-weir-nonsense", "not a key at all", "sk-weir-000000000000-" + "0" * 49])
def test_a_wrong_key_is_an_authentication_error(weir, key):
    with client_of(weir, key) as client, pytest.raises(openai.AuthenticationError) as caught:
        chat(client, weir)
    assert caught.value.code == "invalid_api_key", "one answer for malformed and unknown"
    assert "x-ratelimit-limit-requests" not in caught.value.response.headers, "no limits for strangers"


def test_a_revoked_key_is_an_authentication_error(weir):
    key = weir.new_key("--name", "to be revoked")
    weir.weir("keys", "revoke", key.split("-")[2])

    def refused():
        with client_of(weir, key) as client:
            try:
                chat(client, weir)
            except openai.AuthenticationError as error:
                return error
        return None

    assert wait_until("revocation is seen", refused, 6).code == "invalid_api_key", "like a key that never was"


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client, weir, stream):
    with pytest.raises(openai.NotFoundError) as caught:
        chat(client, weir, model="no-such-model", stream=stream)
    assert caught.value.code == "model_not_found", caught.value.body


def test_a_missing_model_is_a_bad_request_that_names_it(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body={"messages": HELLO}, cast_to=object)
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "model"), caught.value.body


def test_a_spent_limit_is_a_rate_limit_error_with_its_headers(weir, tiny_key):
    with client_of(weir, tiny_key) as client:
        with pytest.raises(openai.RateLimitError) as caught:
            for _ in range(3):
                chat(client, weir, max_tokens=2)
    error = caught.value
    assert (error.type, error.code) == ("requests", "rate_limit_exceeded"), error.body
    headers = error.response.headers
    assert int(headers["retry-after"]) >= 1 and int(headers["retry-after-ms"]) >= 1, "when to come back"
    assert headers["x-limit-scope"] == "key" and headers["x-limit-rule"], "which limit it was"
    assert headers["x-ratelimit-limit-requests"] == "2", "the most constrained rule is shown"


def test_engines_that_all_fail_are_an_internal_server_error(client, weir):
    with pytest.raises(openai.InternalServerError) as caught:
        chat(client, weir, extra_headers=fault("error=503"))
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_error"), caught.value.body


def test_no_healthy_engine_is_503(ill):
    def refused():
        with client_of(ill) as client:
            try:
                chat(client, ill)
            except openai.InternalServerError as error:
                return error
        return None

    error = wait_until("the health checks notice", refused, 15)
    assert (error.status_code, error.code) == (503, "no_healthy_upstream"), error.body
    assert int(error.response.headers["retry-after"]) >= 1, "when to come back"


@pytest.mark.parametrize(
    ("kind", "stream"),
    # An error event exists in a stream only.
    [(kind, stream) for kind in ("error=500", "reset", "eof") for stream in (False, True)] + [("error_event", True)],
)
def test_one_failed_attempt_before_the_output_is_not_seen(client, weir, kind, stream, request):
    once = f"{kind}; once={request.node.name}"
    answer = chat(client, weir, stream=stream, extra_headers=fault(once))
    text = "".join(c.choices[0].delta.content or "" for c in answer) if stream else answer.choices[0].message.content
    assert text, "another engine answered"


@pytest.mark.parametrize("kind", ["reset_after=3", "eof_after=3", "cut_after=3", "error_event_after=3"])
def test_a_break_in_the_middle_raises_after_what_was_delivered(client, weir, kind):
    raw = client.chat.completions.with_raw_response.create(
        model=weir.model, messages=HELLO, max_tokens=24, stream=True, extra_headers=fault(kind)
    )
    seen = []
    with pytest.raises(openai.APIError) as caught:
        for chunk in raw.parse():
            seen.append(chunk)
    assert seen, "what came before the break was delivered"
    assert not isinstance(caught.value, openai.APIConnectionError), "an error event and a clean end, not a bare cut"
    if not kind.startswith("error_event"):  # an engine's own error event may keep its own words
        assert caught.value.code == "upstream_stream_interrupted", caught.value.body
    row = weir.row(raw.headers["x-request-id"])
    assert row["status"] == "upstream_error_mid" and row["delivered_output"] > 0, row


def test_a_client_that_leaves_gets_a_row_with_what_it_got(weir):
    with client_of(weir) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=weir.model, messages=HELLO, max_tokens=400, stream=True, extra_headers=fault("delay=50")
        )
        stream = raw.parse()
        for _ in range(5):
            next(stream)
        stream.close()
    row = weir.row(raw.headers["x-request-id"])
    assert row["status"] == "client_disconnect", row
    assert 0 < row["delivered_output"] < 400, "metered up to where it left"


def test_a_stream_in_odd_pieces_is_the_same_stream(client, weir):
    def text(**more):
        return "".join(chunk.choices[0].delta.content or "" for chunk in chat(client, weir, stream=True, **more))

    assert text(extra_headers=fault("chunk=7")) == text(), "events split anywhere, inside letters too"
