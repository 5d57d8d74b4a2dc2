"""`glimpsed bench` against a gateway that really listens."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import pytest

from server.bench import load_of, reasons
from server.cli import main
from server.loadgen import Answer
from server.settings import BenchSettings
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import listening


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with listening(MemoryQueue(tell("a cat sat on the mat"))) as (host, port):
        yield f"http://{host}:{port}/v1"


async def bench(*arguments: str) -> int:
    return await asyncio.to_thread(main, ["bench", *arguments])


async def test_the_table_names_what_was_measured(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await bench("--base-url", url, "--requests", "4", "--concurrency", "2") == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    table = {name.strip(): value.strip() for name, value in lines.items()}
    assert [table[name] for name in ("model", "concurrency", "requests", "errors")] == ["demo", "2", "4", "0"]
    assert table["prompt tokens, mean"] == "7.0"
    for name in ("time to first token, ms", "between tokens, ms", "whole answer, ms"):
        assert table[name].startswith("p50 ") and " p99 " in table[name]
    assert float(table["tokens/s"].replace(",", "")) > 0


async def test_json_has_the_same_figures_and_null_for_what_was_not_measured(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await bench("--base-url", url, "--model", "demo", "--requests", "2", "--no-stream", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["requests"], figures["errors"], figures["ttft_p50_s"], figures["itl_p99_s"]) == (2, 0, None, None)
    assert figures["total_p50_s"] > 0 and figures["requests_per_s"] > 0


async def test_when_nothing_succeeds_the_reasons_are_told_and_the_command_fails(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await bench("--base-url", url, "--model", "gone", "--requests", "3", "--json") == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["errors"] == 3
    assert printed.err.startswith("glimpsed bench: 3 failed: 404 ")


def test_a_server_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--base-url", "http://127.0.0.1:9/v1"]) == 1
    assert "cannot reach http://127.0.0.1:9/v1" in capsys.readouterr().err


async def test_a_refused_key_ends_the_command_before_the_load(capsys: pytest.CaptureFixture[str]) -> None:
    async with listening(MemoryQueue(tell("x")), api_keys=["sk-test"]) as (host, port):
        base_url = f"http://{host}:{port}/v1"
        assert await bench("--base-url", base_url, "--api-key", "sk-wrong") == 1
        assert "API key" in capsys.readouterr().err
        assert await bench("--base-url", base_url, "--api-key", "sk-test", "--requests", "1") == 0


@pytest.mark.parametrize("size", ["640", "0x4", "640x480x3", "-1x2", "axb"])
def test_a_size_that_is_none_is_refused_by_its_flag(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", f"--image-size={size}"]) == 2
    assert capsys.readouterr().err == f"glimpsed bench: --image-size: '{size}' is not WIDTHxHEIGHT, as in 640x480\n"


async def test_pictures_without_pillow_are_refused_by_name(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert await bench("--base-url", url, "--image-size", "32x32") == 2
    assert "--image-size: pictures need Pillow" in capsys.readouterr().err


def test_settings_become_a_load() -> None:
    settings = BenchSettings(image_size=("640x480", "32x16"), no_stream=True, ignore_eos=True, api_key=("a", "b"))
    load = load_of(settings, "demo")
    assert load.picture_sizes == [(640, 480), (32, 16)]
    assert (load.is_streamed, load.extra, load.api_key) == (False, {"ignore_eos": True}, "a")


def test_the_commonest_reasons_come_first() -> None:
    errors = ["b", "a", None, "a", "c", "d"]
    answers = [Answer("", 0, 0, 0.0, (), 0.0, error) for error in errors]
    assert reasons(answers) == ["2 failed: a", "1 failed: b", "1 failed: c"]
