"""The official `anthropic` library against a running quickstart: what works, and which exception each refusal becomes."""

import anthropic
import pytest
from quickstart import wait_until

HELLO = [{"role": "user", "content": "Say hello to the weir, please."}]
TIMEOUT_S = 30


def client_of(weir, key=None):
    return anthropic.Anthropic(base_url=weir.url, api_key=key or weir.key, max_retries=0, timeout=TIMEOUT_S)


@pytest.fixture
def client(weir):
    with client_of(weir) as client:
        yield client


def message(client, weir, **more):
    more.setdefault("model", weir.model)
    return client.messages.create(messages=HELLO, max_tokens=24, **more)


def kind_of(error):
    """The `type` inside the error body, which must have the dialect's shape."""
    body = error.body
    assert body["type"] == "error" and isinstance(body["error"]["message"], str), body
    return body["error"]["type"]


def test_a_message_is_answered_and_metered(client, weir):
    raw = client.messages.with_raw_response.create(model=weir.model, messages=HELLO, max_tokens=24)
    answer = raw.parse()
    assert answer.content[0].text and answer.stop_reason in ("end_turn", "max_tokens"), answer
    row = weir.row(raw.headers["x-request-id"])
    assert (row["surface"], row["status"]) == ("anthropic.messages", "completed"), row
    used = answer.usage
    total = used.input_tokens + (used.cache_read_input_tokens or 0) + (used.cache_creation_input_tokens or 0)
    assert (row["input_total"], row["output_total"]) == (total, used.output_tokens), "cached input is input"


def test_a_stream_of_text_ends_with_its_usage(client, weir):
    with client.messages.stream(model=weir.model, messages=HELLO, max_tokens=24) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
        request_id = stream.response.headers["x-request-id"]
    assert text and text == final.content[0].text, "the pieces make the whole"
    row = weir.row(request_id)
    assert row["stream"] == 1 and row["output_total"] == final.usage.output_tokens, row


def test_a_wrong_key_is_an_authentication_error(weir):
    with client_of(weir, "sk-weir-nonsense") as client, pytest.raises(anthropic.AuthenticationError) as caught:
        message(client, weir)
    assert kind_of(caught.value) == "authentication_error"


def test_an_unknown_model_is_not_found(client, weir):
    with pytest.raises(anthropic.NotFoundError) as caught:
        message(client, weir, model="no-such-model")
    assert kind_of(caught.value) == "not_found_error"


def test_a_spent_limit_is_a_rate_limit_error(weir):
    key = weir.new_key("--plan", "tiny", "--name", "tiny for messages")
    with client_of(weir, key) as client, pytest.raises(anthropic.RateLimitError) as caught:
        for _ in range(3):
            message(client, weir)
    assert kind_of(caught.value) == "rate_limit_error"
    assert int(caught.value.response.headers["retry-after"]) >= 1, "when to come back"


def test_engines_that_all_fail_are_an_internal_server_error(client, weir):
    with pytest.raises(anthropic.InternalServerError) as caught:
        message(client, weir, extra_headers={"x-sim-fault": "error=503"})
    assert caught.value.status_code == 502 and kind_of(caught.value) == "api_error"


def test_no_healthy_engine_is_overloaded(ill):
    def refused():
        with client_of(ill) as client:
            try:
                message(client, ill)
            except anthropic.InternalServerError as error:
                return error
        return None

    error = wait_until("the health checks notice", refused, 15)
    assert isinstance(error, anthropic.OverloadedError), f"the class for 529: {error!r}"
    assert error.status_code == 529 and kind_of(error) == "overloaded_error", "our 503 in this dialect"


@pytest.mark.parametrize("kind", ["reset_after=3", "eof_after=3", "error_event_after=3"])
def test_a_break_in_the_middle_raises_after_what_was_delivered(client, weir, kind):
    seen = []
    with pytest.raises(anthropic.APIStatusError) as caught:
        for event in message(client, weir, stream=True, extra_headers={"x-sim-fault": kind}):
            seen.append(event.type)
    assert "content_block_delta" in seen and "message_stop" not in seen, f"the text before the break: {seen}"
    assert kind_of(caught.value) in ("api_error", "overloaded_error"), caught.value.body
