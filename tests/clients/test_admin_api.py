"""schemathesis over the admin API's own OpenAPI document: whatever is sent, no 5xx, and no answer that the document
does not tell of. A real `weir serve` with a real store; an operator's key, so that most calls get past the door."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from quickstart import wait_until, weir_bin

HERE = pathlib.Path(__file__).resolve().parent
READY_WITHIN_S = 30
# schemathesis' own budget, and the time after which it is taken to hang.
RUN_S = 75
HANGS_S = 240
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
CONFIG = """version: 1
server: {{ workers: 2, state_dir: "{state}", admin: {{ bind: "127.0.0.1:{admin}" }} }}
listeners: {{ http: {{ bind: ["127.0.0.1:{port}"] }} }}
pools: {{ p: {{ engine: vllm, policy: round_robin, models: [m], health: none, backends: [{{ url: "http://127.0.0.1:9" }}] }} }}
routes: [{{ name: all, to: [{{ pool: p }}] }}]
auth: {{ keys: {{ api_key: {{}} }} }}
plans: {{ gold: {{ limits: {{ requests: 600/min }} }} }}
tenants: {{ acme: {{ plan: gold, teams: {{ core: {{}} }} }} }}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(folder, text):
    """A proxy with this configuration: its admin URL, its configuration and its log."""
    admin = free_port()
    config, log = folder / "weir.yaml", folder / "serve.log"
    config.write_text(text.format(state=folder / "state", admin=admin, port=free_port()))
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [weir_bin(), "serve", "-c", str(config)], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    url = f"http://127.0.0.1:{admin}"

    def ready():
        assert process.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(url + "/ready", timeout=2).status == 200
        except (urllib.error.URLError, OSError):
            return False

    try:
        wait_until("the proxy is ready", ready, READY_WITHIN_S)
        yield url, config, log
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def served(tmp_path):
    """A proxy's admin URL, an operator's key that it knows, and its log."""
    with serving(tmp_path, CONFIG) as (url, config, log):
        create = [weir_bin(), "keys", "create", "-c", str(config), "--role", "operator", "--json"]
        key = json.loads(subprocess.run(create, capture_output=True, text=True, timeout=30, check=True).stdout)

        def known():
            try:
                return call(url, key["key"], "GET", "/roles")
            except urllib.error.HTTPError as error:
                assert error.code == 401, error
                return None

        # semantics.md 4: a change is seen within 5 s.
        wait_until("the proxy knows the operator", known, 6)
        yield url, key, log


def call(url, key, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/admin/v1{path}", data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_whatever_is_sent_the_api_answers_as_its_document_says(served, tmp_path):
    url, key, log = served
    for path in ("/tenants/t1", "/tenants/t1/teams/a", "/tenants/t1/users/b"):
        call(url, key["key"], "PUT", path, {})
    call(url, key["key"], "POST", "/keys", {"tenant_id": "t1"})
    report = tmp_path / "report.ndjson"
    command = [
        str(pathlib.Path(sys.executable).with_name("st")), "run", f"{url}/admin/v1/openapi.json",
        "--header", f"Authorization: Bearer {key['key']}", "--checks", CHECKS, "--mode", "all",
        "--generation-with-security-parameters", "false", "--max-time", str(RUN_S), "--max-examples", "30",
        "--workers", "1", "--seed", "1", "--generation-database", "none", "--continue-on-failure",
        "--warnings", "off", "--no-color", "--report", "ndjson", "--report-ndjson-path", str(report),
    ]  # fmt: skip
    env = os.environ | {
        "SCHEMATHESIS_HOOKS": "admin_api_hooks",
        "PYTHONPATH": str(HERE),
        "WEIR_TEST_KEY_ID": key["key_id"],
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S, cwd=tmp_path, env=env)
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}\n{log.read_text()[-2000:]}"
    # It did call, and with a key that held to the end.
    text = report.read_text()
    good = text.count('"status_code":200') + text.count('"status_code":201')
    assert good > 100, f"only {good} calls did something: {done.stdout[-3000:]}"
    assert call(url, key["key"], "GET", "/keys?limit=1")["keys"], "the key still holds"


def test_without_authenticators_the_api_says_what_to_do(tmp_path):
    text = "".join(line for line in CONFIG.splitlines(True) if not line.startswith("auth:"))
    with serving(tmp_path, text) as (url, _, _):
        with pytest.raises(urllib.error.HTTPError) as told:
            call(url, "anything", "GET", "/keys")
        body = json.load(told.value)
    assert told.value.code == 403, body
    assert "auth:" in body["error"]["message"] and "--role operator" in body["error"]["message"], body
