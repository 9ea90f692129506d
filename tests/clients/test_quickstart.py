"""`weir quickstart` itself: what it writes, and that nothing that it starts outlives it."""

import pathlib
import json
import re
import signal
import socket
import subprocess
import urllib.request

import pytest
from quickstart import Quickstart, is_alive, wait_until, weir_bin

ENDS_WITHIN_S = 25


def test_the_env_file_has_the_names_and_forms_of_the_contract(weir):
    forms = {
        "WEIR_BASE_URL": r"http://127\.0\.0\.1:\d+",
        "WEIR_ADMIN_URL": r"http://127\.0\.0\.1:\d+",
        "WEIR_API_KEY": r"sk-weir-[0-9A-Za-z]{12}-[0-9A-Za-z]{49}",
        "WEIR_MODEL": r"\S+",
        "WEIR_USAGE_DB": r"/.*\.db",
        "WEIR_CONFIG": r"/.*\.yaml",
        "WEIR_ENGINES": r"http://127\.0\.0\.1:\d+(,http://127\.0\.0\.1:\d+){3}",
    }
    assert sorted(weir.env) == sorted(forms), "exactly these names"
    for name, form in forms.items():
        assert re.fullmatch(form, weir.env[name]), f"{name}={weir.env[name]}"


def test_the_configuration_that_runs_is_good_for_every_command(weir):
    found = json.loads(weir.weir("check", "--format", "json"))
    assert found["ok"] and not found["errors"], found


def test_it_says_which_ports_it_chose_and_prints_a_curl_line_that_works(weir):
    told = weir.log.read_text()
    assert weir.url in told and weir.env["WEIR_ADMIN_URL"] in told, told
    command = re.search(r"curl -N .*?\n\n", told, re.S)
    assert command, told
    done = subprocess.run(command[0], shell=True, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("data: [DONE]"), done.stdout[-300:]


def test_every_engine_of_the_list_answers(weir):
    for engine in weir.env["WEIR_ENGINES"].split(","):
        assert urllib.request.urlopen(engine + "/health", timeout=5).status == 200, engine


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_of_it_with_status_0(tmp_path, end):
    running = Quickstart(tmp_path / "state", engines=1)
    pids = [running.child_pid(name) for name in ("serve", "writer")]
    assert all(map(is_alive, pids)), "the children run"
    running.process.send_signal(end)
    assert running.process.wait(ENDS_WITHIN_S) == 0, running.log.read_text()
    assert not any(map(is_alive, pids)), "no child outlives it"


def test_killed_it_takes_its_children_along(tmp_path):
    running = Quickstart(tmp_path / "state", engines=1)
    pids = [running.child_pid(name) for name in ("serve", "writer")]
    running.process.kill()
    running.process.wait()
    wait_until("the children end", lambda: not any(map(is_alive, pids)), ENDS_WITHIN_S)


@pytest.mark.parametrize("child", ["serve", "writer"])
def test_a_child_that_dies_is_reported_and_ends_the_rest(tmp_path, child):
    running = Quickstart(tmp_path / "state", engines=1)
    pids = {name: running.child_pid(name) for name in ("serve", "writer")}
    subprocess.run(["kill", "-KILL", str(pids[child])], check=True, timeout=5)
    assert running.process.wait(ENDS_WITHIN_S) == 1, "a failure"
    assert f"`weir {child}` ended" in running.log.read_text(), "it says who died"
    assert not any(map(is_alive, pids.values())), "and ends the other one"


def test_a_taken_port_is_told_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [weir_bin(), "quickstart", "--port", port, "--admin-port", "0", "--state-dir", str(tmp_path / "s")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and f"--port {port} cannot be used" in done.stderr, done.stderr
    assert not pathlib.Path(tmp_path / "s" / "quickstart.yaml").exists(), "nothing was started or written"


def test_a_second_run_keeps_the_key_and_the_usage(tmp_path):
    first = Quickstart(tmp_path / "state", engines=1)
    key = first.key
    assert first.stop() == 0, first.log.read_text()
    second = Quickstart(tmp_path / "state", engines=1)
    try:
        assert second.key == key, "a key that still works is kept"
    finally:
        assert second.stop() == 0, second.log.read_text()


def test_a_second_quickstart_leaves_the_first_one_alone(weir):
    names = ["quickstart.env", "quickstart.yaml", "serve.pid", "writer.pid"]
    before = {name: (weir.state_dir / name).read_text() for name in names}
    command = [weir_bin(), "quickstart", "--port", "0", "--admin-port", "0", "--state-dir", str(weir.state_dir)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    assert second.returncode == 1 and "another quickstart runs there" in second.stderr, second.stderr
    assert {name: (weir.state_dir / name).read_text() for name in names} == before, "nothing of the first is touched"
