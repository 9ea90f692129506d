"""Runs every command of the documents, as listed in commands.txt (tests/shape.rs holds list and documents together).

A line is `WHO: COMMAND`. `run`: here, in a shell, in a copy of the repository (by links) whose `var` is that of the
running quickstart, and it must succeed. `quickstart`: started on free ports, must become ready and end by TERM.
`suite`: the command is what runs this suite or a part of it; `.ci/run` shows it. `bench`: takes minutes and an idle
machine; the benches are compiled by clippy. `setup`: needs root or a service manager, so nobody runs it here.
"""

import os
import pathlib
import re
import signal
import subprocess

import pytest
from quickstart import READY_WITHIN_S, ROOT, STOP_WITHIN_S, wait_until, weir_bin

WHO = ("run", "quickstart", "suite", "bench", "setup")


def listed():
    lines = pathlib.Path(__file__).with_name("commands.txt").read_text().splitlines()
    return [tuple(line.split(": ", 1)) for line in lines if line and not line.startswith("#")]


def commands(who):
    return [command for kind, command in listed() if kind == who]


def environment(weir):
    """With `weir` on the path, and the names of quickstart.env as `. var/quickstart.env` in the same shell gives them."""
    path = f"{pathlib.Path(weir_bin()).parent}:{os.environ['PATH']}"
    return {**os.environ, **weir.env, "PATH": path}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, weir):
    """The repository as the reader has it: links to what is in it, `var` of the running quickstart, a fresh `out`."""
    folder = tmp_path_factory.mktemp("checkout")
    for entry in ROOT.iterdir():
        if entry.name not in (".git", "var", "out", "target"):
            (folder / entry.name).symlink_to(entry)
    (folder / "var").symlink_to(weir.state_dir)
    return folder


def test_every_line_says_who_runs_it():
    assert listed() and {kind for kind, _ in listed()} <= set(WHO), "only known words before the colon"


@pytest.mark.parametrize("command", commands("run"))
def test_a_documented_command_does_what_it_says(weir, checkout, command):
    shell = ["bash", "-e", "-o", "pipefail", "-c", command]
    done = subprocess.run(
        shell, cwd=checkout, env=environment(weir), capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("command", commands("quickstart"))
def test_a_documented_start_becomes_ready_and_ends_by_term(tmp_path, weir, command):
    state = tmp_path / "state"
    flags = f"--port 0 --admin-port 0 --state-dir {state}"
    # The suite's own profile, so that nothing is compiled twice.
    command = f'{command} PROFILE=dev ARGS="{flags}"' if command.startswith("make ") else f"{command} {flags}"
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=ROOT, env=environment(weir), stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        # `make quickstart` builds first; nothing is left to compile here.
        wait_until(command, lambda: (state / "quickstart.env").exists(), READY_WITHIN_S + 60)
    finally:
        # A session of its own: TERM reaches make and what it runs, and nothing else.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def configurations():
    """Whole configurations in the documents: YAML blocks that begin with `version:`."""
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    blocks = [block for path in documents for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.S | re.M)]
    return [block for block in blocks if block.startswith("version:")]


def test_the_readme_shows_a_configuration():
    assert configurations(), "the next test has something to check"


@pytest.mark.parametrize("text", configurations())
def test_a_documented_configuration_is_accepted(tmp_path, text):
    path = tmp_path / "weir.yaml"
    path.write_text(text)
    command = [weir_bin(), "check", "-c", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
