"""The two upstream paths beside each other: model calls through Weir's own connector, everything else through Pingora's
stock one; and what a failure leaves behind on the client's connection and in the record."""

import http.client
import http.server
import json
import socket
import subprocess
import threading
import urllib.parse
import urllib.request

import pytest

from quickstart import Quickstart, wait_until, weir_bin

CHAT = "/v1/chat/completions"


def body(weir, **more):
    return json.dumps({"model": weir.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, **more})


def ask(weir, method, path, headers=(), content=None, timeout=10):
    """One exchange on a connection of its own: the connection, the answer, its body."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(weir.url).netloc, timeout=timeout)
    connection.request(method, path, content, {"authorization": f"Bearer {weir.key}", **dict(headers)})
    answer = connection.getresponse()
    return connection, answer, answer.read()


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """One engine, so that every request meets the connections that the one before left."""
    running = Quickstart(tmp_path_factory.mktemp("single") / "state", engines=1)
    yield running
    assert running.stop() == 0, f"TERM ends a quickstart with status 0:\n{running.log.read_text()}"


def test_a_model_call_after_plain_http_to_the_same_engine_is_still_metered(single):
    _, plain, _ = ask(single, "GET", "/v1/no-such-surface")
    assert plain.status == 404, "plain HTTP leaves an idle connection to the engine behind"
    _, answer, _ = ask(single, "POST", CHAT, content=body(single))
    assert answer.status == 200, "the call's body is sent and its answer comes"
    row = single.row(answer.headers["x-request-id"])
    assert row["usage_source"] == "upstream_final" and row["output_total"] > 0, "it went through the meter"


def test_a_retry_forgets_what_the_failed_attempt_had_ready(weir):
    def row(headers):
        _, answer, text = ask(weir, "POST", CHAT, headers, body(weir, stream=True))
        assert answer.status == 200 and text.endswith(b"data: [DONE]\n\n"), text
        return weir.row(answer.headers["x-request-id"]), len(text)

    struck, length = row({"x-sim-fault": "reset_after=0; once=forgets"})
    attempts = json.loads(struck["attempts"])
    assert [attempt["outcome"] for attempt in attempts] == ["reset", "ok"], attempts
    assert struck["bytes_out"] == length, "only what the client was sent counts"
    assert struck["ts_first_byte"] >= attempts[1]["started"], "the first byte is one that the client saw"


def test_a_client_is_told_that_a_failed_call_ends_its_connection(weir):
    _, answer, _ = ask(weir, "POST", CHAT, {"x-sim-fault": "error=400"}, body(weir))
    assert answer.status == 400
    assert answer.headers["connection"] == "close", "Pingora closes it: a second request would be lost"


def test_every_answer_to_a_known_caller_shows_how_the_limits_stand(weir):
    names = {f"x-ratelimit-{figure}-{of}" for figure in ("limit", "remaining", "reset") for of in ("requests", "tokens")}

    def shown(method, path, content=None, key=None):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        _, answer, _ = ask(weir, method, path, headers, content)
        return answer.status, {name.lower() for name in answer.headers if name.lower().startswith("x-ratelimit-")}

    assert shown("GET", "/v1/models") == (200, names), "an answer of Weir's own"
    assert shown("POST", CHAT, "{") == (400, names), "a body that is no JSON"
    assert shown("POST", CHAT, body(weir, model="nobody-s")) == (404, names), "a model that nobody serves"
    assert shown("POST", CHAT, body(weir), "wrong") == (401, set()), "none to a caller who is not known"


def test_a_chunked_upload_over_the_limit_is_refused_on_the_plain_path(tmp_path):
    class Sink(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(1 << 30)

        def log_message(self, *_):
            pass

    sink = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=sink.serve_forever, daemon=True).start()
    running = Serve(tmp_path, sink.server_port, limit="1MiB")
    try:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        pieces = (b"x" * 65536 for _ in range(24))
        connection.request("POST", "/files", pieces, {"transfer-encoding": "chunked"}, encode_chunked=True)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 413, text
        assert json.loads(text)["error"]["code"] == "request_too_large", text
    finally:
        running.stop()
        sink.shutdown()


def test_a_route_that_answers_itself_keeps_to_its_models(tmp_path):
    gone = '{ match: { path: /v1/chat/completions, model: [old] }, respond: { status: 410, body: "gone" } }, '
    running = Serve(tmp_path, free_port(), first_route=gone)
    try:

        def status(model):
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
            connection.request("POST", CHAT, json.dumps({"model": model, "messages": []}))
            return connection.getresponse().status

        assert status("old") == 410, "the model that the route names"
        assert status("new") == 502, "another model takes the next route, whose backend is not there"
    finally:
        running.stop()


class Serve:
    """`weir serve` alone, open to everyone, in front of one backend."""

    def __init__(self, folder, backend, limit="20MiB", first_route=""):
        self.port, admin = free_port(), free_port()
        config = folder / "weir.yaml"
        config.write_text(
            f"""version: 1
server: {{ state_dir: "{folder}/state", admin: {{ bind: "127.0.0.1:{admin}" }} }}
listeners: {{ http: {{ bind: ["127.0.0.1:{self.port}"], limits: {{ body_bytes: {limit} }} }} }}
pools: {{ p: {{ engine: vllm, health: none, backends: [{{ url: "http://127.0.0.1:{backend}" }}] }} }}
routes: [{first_route}{{ match: {{ path: {{ prefix: / }} }}, to: [{{ pool: p }}] }}]
"""
        )
        command = [weir_bin(), "serve", "-c", str(config)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)

        def ready():
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=2).status == 200
            except OSError:
                return False

        wait_until("weir serve is ready", ready, 20)

    def stop(self):
        self.process.terminate()
        assert self.process.wait(20) == 0, "TERM ends the proxy with status 0"


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def test_the_short_form_of_check_takes_its_format(tmp_path):
    config = tmp_path / "weir.yaml"
    config.write_text("version: 1\nservr: {}\n")
    command = [weir_bin(), "-t", "-c", str(config), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["ok"] is False, "one JSON document on standard output"
