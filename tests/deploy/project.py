"""What the tests of deployment files and pages compare with: files of the project, Markdown tables, the real CLI."""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from server.cli import main
from server.settings import BenchSettings, ChatSettings, ServeSettings
from workers.settings import WorkerSettings, parse_command_line

ROOT = Path(__file__).parents[2]
USER_ID = 65532
PAGES = sorted([ROOT / "README.md", ROOT / "deploy/README.md", *(ROOT / "docs").glob("*.md")])

_FLAG = re.compile(r"^  (?:-\w, )?(--[a-z][a-z-]*)", re.MULTILINE)
_COMMAND = re.compile(r"^    (\w+) ", re.MULTILINE)
_HELP = {"--help", "--version"}


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def read_yaml(path: str) -> Any:
    """The one document of a YAML file."""
    return yaml.safe_load(read(path))


def commands() -> set[str]:
    """The subcommands of `glimpsed`."""
    return set(_COMMAND.findall(_printed(lambda: main(["--help"]))))


def flags_of(command: str) -> set[str]:
    """The flags that a command's own help names, less --help."""
    if command == "worker":
        return set(_FLAG.findall(_printed(lambda: parse_command_line(["--help"])))) - _HELP
    return set(_FLAG.findall(_printed(lambda: main([command, "--help"])))) - _HELP


def assert_is_command(argv: list[str]) -> None:
    """Fails unless `glimpsed ARGV` names a command and flags that there are."""
    assert argv[0] in commands(), argv
    unknown = {word.partition("=")[0] for word in argv if word.startswith("--")} - flags_of(argv[0])
    assert not unknown, f"glimpsed {argv[0]} has no {unknown}"


def setting_names() -> set[str]:
    """Names of all settings of gateway, workers and clients."""
    return {name for cls in (ServeSettings, WorkerSettings, ChatSettings, BenchSettings) for name in cls.model_fields}


def assert_are_settings(variables: Iterator[str] | list[str]) -> None:
    """Fails unless each GLIMPSED_ variable among these is read by somebody."""
    ours = {name.removeprefix("GLIMPSED_").lower() for name in variables if name.startswith("GLIMPSED_")}
    assert ours <= setting_names(), ours - setting_names()


def tables(markdown: str, heading: str) -> list[list[str]]:
    """The rows, as cells, of all tables between this heading and the next of its level or above; no header rows."""
    level = heading.partition(" ")[0]
    section = markdown.split(f"\n{heading}\n")[1]
    section = re.split(rf"^#{{1,{len(level)}}} ", section, maxsplit=1, flags=re.MULTILINE)[0]
    lines = section.splitlines()
    is_head = {i for i, line in enumerate(lines) if i + 1 < len(lines) and lines[i + 1].startswith("|---")}
    rows = [
        line for i, line in enumerate(lines) if line.startswith("|") and i not in is_head and not line.startswith("|--")
    ]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def code_names(cell: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def blocks(markdown: str, language: str) -> list[str]:
    """The fenced code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE)


def _printed(call: Any) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        call()
    return printed.getvalue()
