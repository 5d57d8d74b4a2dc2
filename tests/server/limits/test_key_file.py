"""The key file: its lines, its reloads, its failures."""

import logging
import os
from pathlib import Path

import httpx
import pytest

from schemas.flags import ConfigError
from server.auth import ApiKeys, tenant_of
from server.limits.key_file import KeyFile, digest_of, parse_keys
from server.limits.key_limits import KeyLimits
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import CHAT, ask, running

DEFAULTS = KeyLimits(requests_per_minute=7)


def write(path: Path, text: str) -> None:
    """Replace the file as tools do that do it well: no reader sees half of it."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def opens(keys: ApiKeys, key: str) -> bool:
    return keys.find(key.encode()) is not None


def test_a_line_is_a_key_with_what_it_may_take() -> None:
    text = "# keys\n\n  sk-one\nsk-two name=alice tokens-per-minute=100 concurrency=4 min-priority=-3\n"
    one, two = parse_keys(text, DEFAULTS)
    assert (one.digest, one.name, one.limits) == (digest_of(b"sk-one"), "", DEFAULTS)
    assert (two.digest, two.name) == (digest_of(b"sk-two"), "alice")
    assert two.limits == KeyLimits(requests_per_minute=7, tokens_per_minute=100, max_concurrency=4, min_priority=-3)


@pytest.mark.parametrize(
    "line",
    [
        "sk-canary name=",
        "sk-canary name=a/b",
        "sk-canary speed=3",
        "sk-canary concurrency=0",
        "sk-canary requests-per-minute=many",
        "sk-canary tokens-per-minute=1.5",
        "sk-canary alice",
        "sk-canary\nsk-canary",
    ],
)
def test_a_bad_line_is_named_by_its_number_and_not_repeated(line: str) -> None:
    with pytest.raises(ValueError, match=r"^line \d: ") as refusal:
        parse_keys(line, DEFAULTS)
    assert "canary" not in str(refusal.value)


def test_a_file_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(ConfigError, match="No such file"):
        ApiKeys(file=KeyFile(path))
    for content, reason in ((b"", "no key"), (b"# only words\n", "no key"), (b"\xff\xfe", "not UTF-8")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=reason) as refusal:
            ApiKeys(file=KeyFile(path))
        assert str(refusal.value).startswith("--api-key-file: ") and "\n" not in str(refusal.value)


def test_keys_come_and_go_with_the_file_and_fixed_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("sk-one\nsk-two\n")
    keys = ApiKeys(["sk-fixed"], KeyFile(path))
    keys.reload_if_changed()
    assert [opens(keys, key) for key in ("sk-fixed", "sk-one", "sk-two", "sk-new")] == [True, True, True, False]
    write(path, "sk-two name=alice concurrency=1\nsk-new\n")
    keys.reload_if_changed()
    assert [opens(keys, key) for key in ("sk-fixed", "sk-one", "sk-two", "sk-new")] == [True, False, True, True]
    entry = keys.find(b"sk-two")
    assert entry is not None
    assert keys.limits(tenant_of(entry)).max_concurrency == 1


def test_a_file_of_the_same_size_and_time_but_another_inode_is_another(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("sk-one\n")
    file = KeyFile(path)
    file.read()
    assert not file.has_changed()
    status = path.stat()
    write(path, "sk-two\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.has_changed()


def test_a_broken_file_changes_nothing_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys"
    path.write_text("sk-one\n")
    keys = ApiKeys(file=KeyFile(path))
    caplog.set_level(logging.INFO, "server")
    write(path, "sk-canary speed=3\n")
    for _ in range(3):
        keys.reload_if_changed()
    assert opens(keys, "sk-one") and not opens(keys, "sk-canary")
    assert len(caplog.records) == 1
    assert "line 1" in caplog.text and "canary" not in caplog.text
    path.unlink()
    keys.reload_if_changed()
    keys.reload_if_changed()
    assert opens(keys, "sk-one") and len(caplog.records) == 2
    write(path, "sk-three\n")
    keys.reload_if_changed()
    assert opens(keys, "sk-three") and not opens(keys, "sk-one")


async def test_a_request_of_a_key_that_was_taken_away_is_refused_and_a_named_one_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text("sk-one name=alice\n")
    caplog.set_level(logging.INFO, "server")
    async with running(MemoryQueue(tell("x")), key_file=path) as app:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            header = {"authorization": "Bearer sk-one"}
            assert (await client.post(CHAT, json=ask(), headers=header)).status_code == 200
            write(path, "sk-two\n")
            app.state.keys.reload()
            assert (await client.post(CHAT, json=ask(), headers=header)).status_code == 401
    assert "alice" in caplog.text and "sk-one" not in caplog.text


async def test_a_keys_own_concurrency_and_priority_hold(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("sk-one min-priority=5\n")
    queue = MemoryQueue(tell("x"))
    async with running(queue, key_file=path) as app:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
            header = {"authorization": "Bearer sk-one"}
            await client.post(CHAT, json=ask(priority=-1), headers=header)
    assert [job.priority for job in queue.submitted] == [5]
