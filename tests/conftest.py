"""What holds for all tests."""

import os
from collections.abc import Iterator

import pytest

FIRST = "tests/e2e/test_goldens.py"
"""Keeps all cores busy for two minutes: it begins while another process's tests wait for leases and restarts."""


def pytest_configure() -> None:
    """Processes side by side share the cores: OpenMP's threads, of which each takes one per core, would spin in each
    other's way."""
    num_processes = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if num_processes is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(num_processes))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest file first; the others stay in the order of their names."""
    items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Daemons that tests start keep their files out of the user's home."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before
