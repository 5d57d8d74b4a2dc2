"""What the folders promise: import directions, inert packages, one reader of the environment a process, no pickles."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "server", "workers")
MAY_IMPORT = {"schemas": {"schemas"}, "server": {"schemas", "server"}, "workers": {"schemas", "workers"}}
SETTINGS = {"server/settings.py", "workers/settings.py"}
MAX_LINES = 350

# Inside workers: folder -> folders that it may not import. Imports point down only.
NOT_BELOW = {
    "workers/engine": {"workers.handlers", "workers.backends", "workers.media", "workers.transport"},
    "workers/grammar": {
        "workers.handlers",
        "workers.backends",
        "workers.engine",
        "workers.media",
        "workers.models",
        "workers.transport",
    },
    "workers/models": {"workers.handlers", "workers.backends", "workers.engine", "workers.media", "workers.transport"},
    "workers/attention": {"workers.handlers", "workers.backends", "workers.media"},
    "workers/media": {"workers.handlers", "workers.backends", "workers.engine", "workers.models", "workers.transport"},
    "workers/prompts": {"workers.handlers", "workers.backends", "workers.engine", "workers.transport"},
    "workers/tools": {"workers.handlers", "workers.backends", "workers.engine", "workers.transport", "workers.grammar"},
    "workers/weights": {"workers.handlers", "workers.backends", "workers.engine", "workers.transport"},
    "workers/transport": {"workers.handlers", "workers.backends", "workers.engine", "workers.models"},
}
DECIDING = [
    "workers/transport",
    "workers/media/guard.py",
    "workers/media/tiling.py",
    "workers/media/frames.py",
    "workers/engine/sequence.py",
    "workers/engine/block_hash.py",
    "workers/engine/block_manager.py",
    "workers/engine/encoder_cache.py",
    "workers/engine/scheduler.py",
]
HEAVY = {"torch", "transformers", "tokenizers", "numpy", "PIL", "av", "decord"}
FORBIDDEN = {
    r"\bimport (c?[pP]ickle|dill|cloudpickle|marshal|shelve)\b": "pickle",
    r"\bfrom (c?[pP]ickle|dill|cloudpickle|marshal|shelve) import\b": "pickle",
    r"\btorch\.load\((?!.*weights_only=True)": "torch.load",
    r"\btrust_remote_code\s*=\s*True": "trust_remote_code",
    r"(?<![\w.])(eval|exec)\(": "eval",
}
CONNECTS = re.compile(r"\b(aiohttp\.ClientSession|httpx\.|urlopen|requests\.|create_connection|open_connection)\b")
OPENS = re.compile(r"(?<![\w.])open\(|\bos\.open\(|\.(read_bytes|read_text)\(")
ENVIRONMENT = re.compile(r"\bos\.(environ|getenv)\b|\bBaseSettings\b")


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of(path: Path) -> Iterator[str]:
    """The absolute names that a file imports, at its head or in its functions."""
    nodes = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            nodes.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("package", PACKAGES)
def test_schemas_are_the_ground_and_the_two_sides_never_meet(package: str) -> None:
    wrong = [
        f"{name_of(path)} imports {name}"
        for path in sources(package)
        for name in imports_of(path)
        if name.split(".")[0] in {*PACKAGES, "tests"} - MAY_IMPORT[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", sorted(NOT_BELOW))
def test_imports_inside_workers_point_down(folder: str) -> None:
    wrong = [
        f"{name_of(path)} imports {name}"
        for path in sources(folder)
        for name in imports_of(path)
        if any(name == above or name.startswith(above + ".") for above in NOT_BELOW[folder])
    ]
    assert wrong == []


def test_packages_hold_no_code_of_their_own() -> None:
    assert [
        name_of(path) for path in sources(*PACKAGES, "tests") if path.name == "__init__.py" and path.read_text()
    ] == []
    folders = {path.parent for path in sources(*PACKAGES)}
    assert [name_of(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("place", DECIDING)
def test_what_decides_does_not_import_what_computes(place: str) -> None:
    path = ROOT / place
    wrong = [
        f"{name_of(file)} imports {name}"
        for file in ([path] if path.suffix else sources(place))
        for name in imports_of(file)
        if name.split(".")[0] in {"torch", "transformers"} or name == "workers.settings"
    ]
    assert wrong == []


def test_the_environment_is_read_in_one_file_a_process() -> None:
    readers = {name_of(path) for path in sources(*PACKAGES) if ENVIRONMENT.search(path.read_text(encoding="utf-8"))}
    assert readers <= SETTINGS


def test_nothing_runs_bytes_that_came_from_elsewhere() -> None:
    wrong = [
        f"{name_of(path)}: {what}"
        for path in sources(*PACKAGES, "benchmarks")
        for pattern, what in FORBIDDEN.items()
        if re.search(pattern, path.read_text(encoding="utf-8"))
    ]
    assert wrong == []


def test_nothing_reads_pickles() -> None:
    assert [name_of(path) for path in sources(*PACKAGES) if "torch.load(" in path.read_text(encoding="utf-8")] == []


def test_only_the_fetcher_opens_connections_in_a_worker() -> None:
    connecting = {name_of(path) for path in sources("workers") if CONNECTS.search(path.read_text(encoding="utf-8"))}
    assert connecting <= {"workers/media/fetch.py"}


def test_only_the_fetcher_opens_files_for_clients() -> None:
    opening = {name_of(path) for path in sources("workers/media") if OPENS.search(path.read_text(encoding="utf-8"))}
    # The sandbox reads its own /proc entries and /dev/null, before the first file of a client.
    assert opening <= {"workers/media/fetch.py", "workers/media/confine.py", "workers/media/decode_child.py"}


def test_files_stay_small() -> None:
    sizes = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*PACKAGES)}
    assert {name: size for name, size in sizes.items() if size > MAX_LINES} == {}


def test_a_gateway_loads_no_model_code() -> None:
    program = f"import sys, server.app, server.launch; print(sorted({HEAVY | {'workers'}!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
