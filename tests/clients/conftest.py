"""One quickstart for all tests that leave it as they found it; tests that break things start their own."""

import pytest

from quickstart import Quickstart


@pytest.fixture(scope="session")
def weir(tmp_path_factory):
    running = Quickstart(tmp_path_factory.mktemp("weir") / "state")
    yield running
    assert running.stop() == 0, f"TERM ends a quickstart with status 0:\n{running.log.read_text()}"


@pytest.fixture(scope="session")
def tiny_key(weir):
    """A key of the plan `tiny`: two requests a minute."""
    return weir.new_key("--plan", "tiny", "--name", "tiny")


@pytest.fixture
def ill(tmp_path):
    """A quickstart whose only engine fails its health checks."""
    running = Quickstart(tmp_path / "state", engines=1)
    running.fault("unhealthy")
    yield running
    assert running.stop() == 0, f"TERM ends a quickstart with status 0:\n{running.log.read_text()}"
