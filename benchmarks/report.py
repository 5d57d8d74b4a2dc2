"""Results as Markdown files in benchmarks/results: what was measured, on what, by which command."""

import datetime
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def write_report(name: str, title: str, notes: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write benchmarks/results/NAME.md and print it."""
    lines = [
        f"# {title}",
        "",
        f"`{_command()}`",
        "",
        f"{datetime.date.today()}, {_machine()}.",
        "",
        notes.strip(),
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows),
        "",
    ]
    text = "\n".join(lines)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def _command() -> str:
    """As it was called, but for where things lie on the machine that measured."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = f"-m {spec.name.removesuffix('.__main__')}" if spec is not None else Path(sys.argv[0]).name
    return " ".join(["python", name, *(Path(arg).name if arg.startswith("/") else arg for arg in sys.argv[1:])])


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}, {packages}"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
