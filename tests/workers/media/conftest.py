"""Media on disk, and a local origin that the guard takes for a public host."""

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workers.media.origin import Canary, Origin
from workers.media.sandbox import Sandbox

_GOLDENS = Path(__file__).parents[2] / "goldens"


@pytest.fixture(scope="session")
def preprocess() -> dict[str, Any]:
    """What the reference code computes: grids, sha256 of tiles, frame indices."""
    return json.loads((_GOLDENS / "preprocess-internvl" / "preprocess.json").read_text())


@pytest.fixture(scope="session")
def read_media() -> Callable[[str], bytes]:
    """The bytes of `media/NAME`; skips where the file is not part of the project and GLIMPSED_GOLDENS is not given."""

    def read(name: str) -> bytes:
        for folder in (_GOLDENS, Path(os.environ.get("GLIMPSED_GOLDENS", _GOLDENS))):
            if (folder / name).is_file():
                return (folder / name).read_bytes()
        pytest.skip(f"{name} is not in this checkout")

    return read


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as running:
        yield running


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    async with Canary() as listening:
        yield listening


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    running = Sandbox(num_processes=1)
    await running.start()
    yield running
    await running.close()
