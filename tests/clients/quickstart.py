"""Starts and ends `weir quickstart` for the tests. Every wait is bounded; what was started is ended by its pid."""

import json
import os
import pathlib
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
READY_WITHIN_S = 45
STOP_WITHIN_S = 40
# design.md: with `weir writer` running, a record is a row within 2 s.
ROW_WITHIN_S = 2.0


def weir_bin():
    named = os.environ.get("WEIR_BIN")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = pathlib.Path(named) if named else target / "debug" / "weir"
    if not path.exists():
        raise RuntimeError(f"{path} is not there: build it, or name another one in WEIR_BIN")
    return str(path)


def wait_until(what, probe, within_s, every_s=0.05):
    """The first true value of `probe`, or a failure that says what was waited for."""
    deadline = time.monotonic() + within_s
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not within {within_s} s")
        time.sleep(every_s)


def is_alive(pid):
    """Whether the process runs: a zombie that nobody has reaped yet does not."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


class Quickstart:
    """One running quickstart with free ports and a state directory of its own."""

    def __init__(self, state_dir, engines=4, extra=()):
        self.state_dir = pathlib.Path(state_dir)
        self.log = self.state_dir.parent / f"{self.state_dir.name}.quickstart.log"
        command = [weir_bin(), "quickstart", "--port", "0", "--admin-port", "0"]
        command += ["--engines", str(engines), "--state-dir", str(self.state_dir), *extra]
        # A state directory that is used again has the file of the run before until this one takes it away.
        self.earlier = self._stamp()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)
        try:
            wait_until("quickstart.env", self._is_up, READY_WITHIN_S)
        except BaseException:
            self.stop()
            raise
        lines = (self.state_dir / "quickstart.env").read_text().splitlines()
        self.env = dict(line.split("=", 1) for line in lines)

    def _is_up(self):
        if self.process.poll() is not None:
            raise AssertionError(f"quickstart ended with {self.process.returncode}:\n{self.log.read_text()}")
        return self._stamp() not in (None, self.earlier)

    def _stamp(self):
        try:
            found = (self.state_dir / "quickstart.env").stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def stop(self):
        """TERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"quickstart did not end within {STOP_WITHIN_S} s of TERM") from None
        return self.process.returncode

    @property
    def url(self):
        return self.env["WEIR_BASE_URL"]

    @property
    def key(self):
        return self.env["WEIR_API_KEY"]

    @property
    def model(self):
        return self.env["WEIR_MODEL"]

    def child_pid(self, name):
        return int((self.state_dir / f"{name}.pid").read_text())

    def weir(self, *args):
        """Runs a `weir` command on this quickstart's configuration; its standard output."""
        command = [weir_bin(), *args, "-c", self.env["WEIR_CONFIG"]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def new_key(self, *flags):
        """A key that the running proxy already knows (semantics.md 4: within 5 s)."""
        key = json.loads(self.weir("keys", "create", "--json", *flags))["key"]

        def known():
            request = urllib.request.Request(self.url + "/v1/models", headers={"authorization": f"Bearer {key}"})
            try:
                return urllib.request.urlopen(request, timeout=5).status == 200
            except urllib.error.HTTPError as error:
                # 429: known, and its plan is already spent by this very question.
                assert error.code in (401, 429), f"401 until a fresh key is known, then 200 or 429, not {error.code}"
                return error.code == 429

        wait_until("the proxy knows the new key", known, 6)
        return key

    def fault(self, text):
        """Sets one fault on every engine; None takes it away."""
        for engine in self.env["WEIR_ENGINES"].split(","):
            body = json.dumps({"fault": text}).encode()
            headers = {"content-type": "application/json"}
            request = urllib.request.Request(engine + "/sim/faults", data=body, headers=headers, method="POST")
            urllib.request.urlopen(request, timeout=5).read()

    def rows(self, request_id):
        """Usage rows of one request; none while the database is not there yet."""
        try:
            base = sqlite3.connect(f"file:{self.env['WEIR_USAGE_DB']}?mode=ro", uri=True, timeout=5)
        except sqlite3.OperationalError:
            return []
        try:
            base.row_factory = sqlite3.Row
            query = "SELECT * FROM usage_records WHERE request_id = ?"
            return [dict(row) for row in base.execute(query, (request_id,))]
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
        finally:
            base.close()

    def row(self, request_id):
        """The one usage row of a request, once it is there."""
        found = wait_until(f"a usage row for {request_id}", lambda: self.rows(request_id), ROW_WITHIN_S)
        assert len(found) == 1, f"one row per request, not {len(found)}"
        return found[0]
