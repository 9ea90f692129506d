"""`curl` against a running quickstart: what is on the wire, byte for byte where it matters."""

import json
import re
import socket
import subprocess

import pytest

CHAT = "/v1/chat/completions"


def curl(weir, path, *flags, key="", body=None):
    """Status, headers (lower-case names) and body of one exchange."""
    command = ["curl", "--silent", "--show-error", "--max-time", "30", "--no-buffer", "--include", weir.url + path]
    if key is not None:
        command += ["--header", f"authorization: Bearer {key or weir.key}"]
    if body is not None:
        command += ["--header", "content-type: application/json", "--data-binary", "@-"]
    done = subprocess.run([*command, *flags], input=body or "", capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, f"curl ended with {done.returncode}: {done.stderr}"
    head, _, rest = done.stdout.replace("\r\n", "\n").partition("\n\n")
    while head.split()[1] == "100":
        head, _, rest = rest.partition("\n\n")
    lines = head.split("\n")
    headers = dict(line.lower().split(": ", 1) if ": " in line else (line.rstrip(":"), "") for line in lines[1:])
    return int(lines[0].split()[1]), headers, rest


def chat_body(weir, **more):
    return json.dumps({"model": weir.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16, **more})


def error_of(body):
    """The four members that an OpenAI error always has."""
    error = json.loads(body)["error"]
    assert sorted(error) == ["code", "message", "param", "type"], error
    return error


def test_a_stream_is_events_and_ends_with_done(weir):
    status, headers, body = curl(weir, CHAT, body=chat_body(weir, stream=True))
    assert status == 200 and headers["content-type"].startswith("text/event-stream"), headers
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", headers["x-request-id"])
    events = [line for line in body.split("\n") if line.startswith("data: ")]
    assert events[-1] == "data: [DONE]" and len(events) > 3, events[-2:]


def test_the_timing_comment_follows_the_last_event(weir):
    _, _, body = curl(weir, CHAT, "--header", "x-weir-timing: 1", body=chat_body(weir, stream=True))
    after = body.partition("data: [DONE]")[2].strip()
    names = "ttft_ms tpot_ms queue_ms overhead_us backend in out cached".split()
    assert after.startswith(": weir ") and [p.split("=")[0] for p in after[7:].split(";")] == names, after
    figures = dict(part.split("=") for part in after[7:].split(";"))
    assert figures["backend"].startswith("engine-") and int(figures["out"]) > 0 and float(figures["ttft_ms"]) > 0


def test_a_caller_on_loopback_sees_how_the_backend_was_chosen(weir):
    _, headers, _ = curl(weir, CHAT, "--header", "x-weir-explain: 1", body=chat_body(weir))
    assert "engine-0" in json.dumps(json.loads(headers["x-weir-explain"])), "the candidates are named"
    assert len(headers["x-weir-explain"]) <= 4096, "within its bound"


def test_limits_are_told_on_success(weir):
    _, headers, _ = curl(weir, CHAT, body=chat_body(weir))
    for name in ("limit", "remaining", "reset"):
        assert f"x-ratelimit-{name}-requests" in headers and f"x-ratelimit-{name}-tokens" in headers, name
    assert int(headers["x-ratelimit-remaining-requests"]) < int(headers["x-ratelimit-limit-requests"])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ("{", 400, "invalid_json"),
        ('{"messages":[]}', 400, "missing_required_parameter"),
        ('{"model":"a","model":"b","messages":[]}', 400, "duplicate_parameter"),
        ('{"model":"nobody-serves-this","messages":[]}', 404, "model_not_found"),
    ],
)
def test_a_bad_body_is_refused_in_four_members(weir, body, status, code):
    got, headers, answer = curl(weir, CHAT, body=body)
    assert (got, error_of(answer)["code"]) == (status, code), answer
    assert headers["x-request-id"] and headers["content-type"].startswith("application/json"), headers


def test_no_key_is_401_and_says_how(weir):
    status, headers, body = curl(weir, CHAT, key=None, body=chat_body(weir))
    assert (status, error_of(body)["code"]) == (401, "invalid_api_key"), body
    assert headers["www-authenticate"].startswith("bearer"), headers


def test_two_different_credentials_are_ambiguous(weir):
    status, _, body = curl(weir, CHAT, "--header", "x-api-key: sk-weir-other", body=chat_body(weir))
    assert (status, error_of(body)["code"]) == (400, "ambiguous_credentials"), body


def test_a_path_without_a_route_is_404(weir):
    status, _, body = curl(weir, "/elsewhere")
    assert (status, error_of(body)["code"]) == (404, "route_not_found"), body


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_000, 5_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "expect"])
def test_a_prompt_of_any_size_in_any_framing_is_answered(weir, size, framing):
    flags = {"length": [], "chunked": ["-H", "transfer-encoding: chunked"], "expect": ["-H", "expect: 100-continue"]}
    body = chat_body(weir, messages=[{"role": "user", "content": "x" * size}], max_tokens=1)
    status, _, answer = curl(weir, CHAT, *flags[framing], body=body)
    # A prompt over the engine's context is the engine's own no, passed on; it still went all the way.
    assert status == 200 or (size == 5_000_000 and status == 400), answer[:300]


def test_a_half_sent_body_gets_its_end_and_never_hangs(weir):
    host, port = weir.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {weir.key}\r\ncontent-length: 100\r\n\r\n{{"
        client.sendall(head.encode())
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(65536)
    assert answer == b"" or answer.split()[1] in (b"400", b"408"), answer[:200]


def test_the_admin_listener_is_ready_and_tells_metrics(weir):
    for path, expected in (("/ready", ""), ("/live", ""), ("/metrics", "weir_")):
        url = weir.env["WEIR_ADMIN_URL"] + path
        done = subprocess.run(["curl", "-sf", "--max-time", "10", url], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0 and expected in done.stdout, f"{path}: {done.stdout[:200]}"
