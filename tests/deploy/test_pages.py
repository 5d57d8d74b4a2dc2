"""README and pages: their code runs, their links lead somewhere, their commands exist."""

import asyncio
import contextlib
import io
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest

from schemas.jobs import ImagePart, TextPart, VideoPart
from tests.deploy.project import PAGES, ROOT, assert_is_command, blocks, read
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import listening
from workers.catalogue.listing import read_families
from workers.media.image import open_image
from workers.media.video import open_clip

README = read("README.md")
MODEL, ANSWER = "glimpsed-demo", "There are three shapes."
ADDRESS = "127.0.0.1:8000"
MADE_BY_RUNS = {ROOT / "docs/demo-model.md", ROOT / "benchmarks/results"}
"""Written by training and measurement; a fresh checkout may lack them."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    paths = {(page.parent / target).resolve() for target in targets}
    assert not [path for path in paths - MADE_BY_RUNS if not path.exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_shell_blocks_exist(page: Path) -> None:
    for line in "\n".join(blocks(page.read_text(encoding="utf-8"), "bash")).splitlines():
        words = shlex.split(line.split(" #")[0]) if re.match(r"(\.venv/bin/)?glimpsed ", line) else []
        if words:
            assert_is_command(words[1:])


@pytest.mark.parametrize("block", blocks(README, "python"))
def test_python_examples_compile_and_are_short(block: str) -> None:
    compile(block, "README.md", "exec")
    assert len([line for line in block.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize(("number", "part"), [(0, ImagePart), (1, VideoPart), (3, ImagePart), (4, ImagePart)])
async def test_python_examples_get_an_answer(number: int, part: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    queue = MemoryQueue(tell(ANSWER), models=(MODEL,))
    async with listening(queue) as (host, port):
        code = compile(blocks(README, "python")[number].replace(ADDRESS, f"{host}:{port}"), "README.md", "exec")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            await asyncio.to_thread(exec, code, {})
    assert printed.getvalue().strip() == ANSWER
    medium, text = queue.submitted[0].messages[0].parts
    assert isinstance(medium, part) and isinstance(text, TextPart)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_the_curl_example_gets_an_answer() -> None:
    (block,) = [block for block in blocks(README, "bash") if block.startswith("curl ")]
    queue = MemoryQueue(tell(ANSWER), models=(MODEL,))
    async with listening(queue) as (host, port):
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", block.replace(ADDRESS, f"{host}:{port}"),
            cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        printed, _ = await process.communicate()
    assert process.returncode == 0
    assert ANSWER in printed.decode()
    assert isinstance(queue.submitted[0].messages[0].parts[0], ImagePart)


def test_the_examples_media_can_be_read() -> None:
    with (ROOT / "docs/examples/shapes.png").open("rb") as picture:
        assert min(open_image(picture, exif_transpose=True).size) >= 224
    with (ROOT / "docs/examples/moving.mp4").open("rb") as clip:
        assert open_clip(clip).frame_count >= 8


def test_the_page_of_models_names_each_architecture() -> None:
    named = [family.architecture for family in read_families() if family.architecture]
    assert not [name for name in named if f"`{name}`" not in read("docs/models.md")]


def test_make_targets_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"\bmake (\w+)", README))
    assert {"serve", "test"} <= named
    assert named <= set(re.findall(r"^(\w+):", read("Makefile"), re.MULTILINE))


def test_the_license_is_the_one_that_the_package_declares() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert project["license"] == "Apache-2.0"
    text = read("LICENSE")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
