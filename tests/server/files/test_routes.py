"""/v1/files by OpenAI's own client and by hand, over a gateway that plays no jobs at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import openai
import pytest

from server.app import GatewayLimits
from server.files.store import FileLimits
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.batches.rig import jsonl, line, sdk
from tests.server.serving import client_of

KEYS = ("sk-first", "sk-second")
INPUT = jsonl([line("one")])


@asynccontextmanager
async def http(folder: Path | None, **limits: int) -> AsyncIterator[httpx.AsyncClient]:
    queue = MemoryQueue(tell("x"))
    async with client_of(queue, data_dir=folder, limits=GatewayLimits(files=FileLimits(**limits))) as client:
        yield client


def form(content: bytes = INPUT, filename: str = "a.jsonl", **fields: str) -> dict[str, object]:
    """What httpx makes a form of."""
    return {"files": {"file": (filename, content)}, "data": {"purpose": "batch", **fields}}


async def test_a_file_is_kept_told_of_given_back_and_forgotten(tmp_path: Path) -> None:
    async with sdk(MemoryQueue(tell("x")), tmp_path) as client:
        file = await client.files.create(file=("märchen.jsonl", INPUT), purpose="batch")
        assert (file.object, file.purpose, file.status, file.bytes) == ("file", "batch", "processed", len(INPUT))
        assert file.filename == "märchen.jsonl" and file.id.startswith("file-") and len(file.id) == 45
        assert file.expires_at == file.created_at + 30 * 24 * 3600
        assert await client.files.retrieve(file.id) == file
        assert (await client.files.content(file.id)).content == INPUT
        assert [one async for one in client.files.list()] == [file]
        deleted = await client.files.delete(file.id)
        assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
        for ask in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                await ask(file.id)
        assert [one async for one in client.files.list()] == []
    assert list((tmp_path / "files").iterdir()) == []


async def test_a_file_survives_the_servers_end(tmp_path: Path) -> None:
    async with sdk(MemoryQueue(tell("x")), tmp_path) as client:
        file = await client.files.create(file=("a.jsonl", INPUT), purpose="batch")
    async with sdk(MemoryQueue(tell("x")), tmp_path) as client:
        assert await client.files.retrieve(file.id) == file
        assert (await client.files.content(file.id)).content == INPUT


async def test_a_file_may_say_when_it_is_to_vanish(tmp_path: Path) -> None:
    async with sdk(MemoryQueue(tell("x")), tmp_path) as client:
        expiry: openai.types.file_create_params.ExpiresAfter = {"anchor": "created_at", "seconds": 3600}
        file = await client.files.create(file=("a.jsonl", INPUT), purpose="batch", expires_after=expiry)
        assert file.expires_at == file.created_at + 3600
        for wrong in ({**expiry, "seconds": 60}, {"seconds": 3600}, {**expiry, "anchor": "last_active_at"}):
            with pytest.raises(openai.BadRequestError) as refusal:
                await client.files.create(file=("a.jsonl", INPUT), purpose="batch", expires_after=wrong)  # type: ignore[arg-type]
            assert str(refusal.value.param).startswith("expires_after")


@pytest.mark.parametrize("purpose", ["vision", "user_data", "assistants", "fine-tune", "batch_output", "", "x" * 300])
async def test_purposes_without_a_use_here_are_refused(tmp_path: Path, purpose: str) -> None:
    async with http(tmp_path) as client:
        reply = await client.post("/v1/files", **form(purpose=purpose))  # type: ignore[arg-type]
    assert reply.status_code == 400
    assert list((tmp_path / "files").iterdir()) == []


async def test_lists_come_in_pages_in_both_orders(tmp_path: Path) -> None:
    async with sdk(MemoryQueue(tell("x")), tmp_path) as client:
        made = [(await client.files.create(file=(f"{n}", b"{}"), purpose="batch")).id for n in range(5)]
        made.sort()
        assert [file.id async for file in client.files.list(limit=2)] == made[::-1]
        assert [file.id async for file in client.files.list(limit=2, order="asc")] == made
        page = await client.files.list(limit=2, after=made[3])
        assert [file.id for file in page.data] == [made[2], made[1]] and page.has_more
        assert [file.id async for file in client.files.list(purpose="batch", limit=5)] == made[::-1]
        assert [file.id async for file in client.files.list(purpose="batch_output")] == []
        # A list that is emptied while it is read still comes to its end.
        async for file in client.files.list(limit=2):
            await client.files.delete(file.id)
        assert [file.id async for file in client.files.list()] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=ten", "limit"),
        ("limit=-1", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=1&limit=2", "limit"),
        ("order=up", "order"),
        ("after=", "after"),
        ("after=" + "x" * 200, "after"),
        ("before=file-1", "before"),
    ],
)
async def test_bad_queries_are_refused_by_name(tmp_path: Path, query: str, param: str) -> None:
    async with http(tmp_path) as client:
        reply = await client.get(f"/v1/files?{query}")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_a_key_sees_its_own_files_only(tmp_path: Path) -> None:
    async with client_of(MemoryQueue(tell("x")), api_keys=KEYS, data_dir=tmp_path) as client:
        first, second = ({"authorization": f"Bearer {key}"} for key in KEYS)
        path = "/v1/files/" + (await client.post("/v1/files", headers=first, **form())).json()["id"]  # type: ignore[arg-type]
        for method, where in (("GET", path), ("GET", path + "/content"), ("DELETE", path)):
            assert (await client.request(method, where, headers=second)).status_code == 404
        assert (await client.get("/v1/files", headers=second)).json()["data"] == []
        assert (await client.get(path + "/content", headers=first)).content == INPUT


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd", "..", ".", "C:\\x", "x" * 5000, "a\x07b\u202e", ""]
)
async def test_names_are_labels_and_never_paths(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    async with http(tmp_path / "data") as client:
        reply = await client.post("/v1/files", **form(filename=name))  # type: ignore[arg-type]
        kept = [path.name for path in (tmp_path / "data" / "files").iterdir()]
    if reply.status_code == 200:
        assert kept == [reply.json()["id"]]
        assert len(reply.json()["filename"]) <= 255 and reply.json()["filename"].isprintable()
    else:
        assert reply.status_code == 400 and kept == []
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


@pytest.mark.parametrize("path", ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "file-0", "file-%00", "x" * 300, "*"])
async def test_made_up_ids_lead_nowhere(tmp_path: Path, path: str) -> None:
    async with http(tmp_path) as client:
        for suffix in ("", "/content"):
            reply = await client.get(f"/v1/files/{path}{suffix}")
            assert reply.status_code == 404 or "data" in reply.json()


async def test_a_browser_does_not_take_a_file_for_a_page(tmp_path: Path) -> None:
    async with http(tmp_path) as client:
        file = (await client.post("/v1/files", **form(b"<script>", "a.html"))).json()  # type: ignore[arg-type]
        reply = await client.get(f"/v1/files/{file['id']}/content")
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"].startswith("attachment")
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_a_file_over_the_limit_is_refused_by_its_declared_and_by_its_real_size(tmp_path: Path) -> None:
    async with http(tmp_path, max_file_bytes=100_000) as client:
        assert (await client.post("/v1/files", **form(b"x" * 100_000))).status_code == 200  # type: ignore[arg-type]
        for size in (100_001, 10_000_000):
            reply = await client.post("/v1/files", **form(b"x" * size))  # type: ignore[arg-type]
            assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")
    assert len(list((tmp_path / "files").iterdir())) == 1


async def test_a_keys_files_have_room_together(tmp_path: Path) -> None:
    async with http(tmp_path, max_tenant_bytes=1000, max_tenant_files=3) as client:
        first = (await client.post("/v1/files", **form(b"x" * 600))).json()["id"]  # type: ignore[arg-type]
        reply = await client.post("/v1/files", **form(b"x" * 401))  # type: ignore[arg-type]
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden")
        for size in (400, 0):
            assert (await client.post("/v1/files", **form(b"x" * size))).status_code == 200  # type: ignore[arg-type]
        assert (await client.post("/v1/files", **form(b""))).status_code == 403  # type: ignore[arg-type]
        await client.delete(f"/v1/files/{first}")
        assert (await client.post("/v1/files", **form(b"x" * 600))).status_code == 200  # type: ignore[arg-type]


async def test_a_server_without_a_folder_says_that_it_keeps_nothing() -> None:
    async with http(None) as client:
        replies = [
            await client.post("/v1/files", **form()),  # type: ignore[arg-type]
            await client.get("/v1/files"),
            await client.get("/v1/files/file-1/content"),
            await client.get("/v1/batches"),
        ]
    assert [reply.status_code for reply in replies] == [400] * 4
    assert {reply.json()["error"]["message"] for reply in replies} == {"This server keeps no files and no batches."}


async def test_a_disk_that_fails_is_a_503_and_the_server_goes_on(tmp_path: Path) -> None:
    async with http(tmp_path) as client:
        (tmp_path / "files").rmdir()
        reply = await client.post("/v1/files", **form())  # type: ignore[arg-type]
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "10")
        assert str(tmp_path) not in reply.text
        assert (await client.get("/livez")).status_code == 200
        (tmp_path / "files").mkdir()
        assert (await client.post("/v1/files", **form())).status_code == 200  # type: ignore[arg-type]
