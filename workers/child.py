"""How a worker starts a Python process of its own code: with nothing of its own environment, secrets least of all."""

import sys
from pathlib import Path

ENVIRONMENT = {
    "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    "PYTHONDONTWRITEBYTECODE": "1",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""All that a child is given."""


def command(module: str, *arguments: str) -> list[str]:
    """What runs a module of ours, without the user's site-packages."""
    return [sys.executable, "-s", "-m", module, *arguments]
