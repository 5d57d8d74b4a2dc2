"""Forms that are large, broken or hostile."""

import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.requests import Request

from schemas.errors import ErrorCode, GlimpsedError
from server.files.database import Database
from server.files.store import FileLimits, FileRecord, FileStore
from server.files.upload import MAX_FORM_BYTES, receive_upload
from tests.fakes.clock import Clock

MIB = 1024 * 1024
LIMIT = 128 * MIB
PURPOSE = b'--XX\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
FILE = b'--XX\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
END = b"\r\n--XX--\r\n"


def field(name: str, value: bytes) -> bytes:
    return b'--XX\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)


async def receive(
    folder: Path, *chunks: bytes, content_type: str = "multipart/form-data; boundary=XX", **headers: str
) -> tuple[FileRecord, bytes]:
    """The record and the bytes of what was kept."""
    return await receive_stream(folder, _each(chunks), content_type, **headers)


async def receive_stream(
    folder: Path, chunks: AsyncIterator[bytes], content_type: str = "multipart/form-data; boundary=XX", **headers: str
) -> tuple[FileRecord, bytes]:
    raw = [(name.encode(), value.encode()) for name, value in {"content-type": content_type, **headers}.items()]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": raw})
    database = Database(folder)
    await database.open()
    try:
        files = FileStore(database, FileLimits(), Clock())
        await files.open()
        record = await receive_upload(request, chunks, files, "", LIMIT)
        size = files.path(record.id).stat().st_size
        return record, files.path(record.id).read_bytes() if size < MIB else b""
    finally:
        await database.close()


async def _each(chunks: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def refusal(folder: Path, *chunks: bytes, **options: str) -> GlimpsedError:
    with pytest.raises(GlimpsedError) as caught:
        await receive(folder, *chunks, **options)
    assert list((folder / "files").iterdir()) == []
    return caught.value


async def test_fields_may_stand_before_or_behind_the_file(tmp_path: Path) -> None:
    before, content = await receive(tmp_path, PURPOSE + FILE + b"hello" + END)
    behind, other = await receive(tmp_path, FILE + b"hello\r\n" + PURPOSE + END[2:])
    assert content == other == b"hello"
    assert before.purpose == behind.purpose == "batch" and before.size_bytes == behind.size_bytes == 5


async def test_the_form_may_come_in_pieces_of_any_size(tmp_path: Path) -> None:
    body = PURPOSE + FILE + b"a\r\n--X\r\n--XY\r\n\x00\xff" + END
    record, content = await receive(tmp_path, *(body[at : at + 1] for at in range(len(body))))
    assert content == b"a\r\n--X\r\n--XY\r\n\x00\xff"
    assert record.size_bytes == len(content)


async def test_a_large_file_never_is_in_memory(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield PURPOSE + FILE
        for _ in range(48 * 16):
            yield b"x" * (64 * 1024)
        yield END

    tracemalloc.start()
    try:
        record, _ = await receive_stream(tmp_path, chunks())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert record.size_bytes == 48 * MIB
    assert peak_bytes < 6 * MIB


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (PURPOSE + END[2:], "file"),
        (FILE + b"x" + END, "purpose"),
        (PURPOSE + field("file", b"no file name") + END[2:], "file"),
        (PURPOSE + PURPOSE + FILE + b"x" + END, "purpose"),
        (PURPOSE + FILE + b"x\r\n" + FILE + b"y" + END, "file"),
        (PURPOSE + field("colour", b"red") + FILE + b"x" + END, "colour"),
        (PURPOSE + field("purpose[]", b"red") + FILE + b"x" + END, "purpose[]"),
        (field("purpose", b"x" * 300) + FILE + b"x" + END, None),
        (b"".join(field(f"f{n}", b"") for n in range(9)) + PURPOSE + FILE + b"x" + END, None),
        (PURPOSE + FILE + b"half", None),
        (PURPOSE + FILE, None),
        (b"", None),
        (b"{}", None),
        (b"--YY\r\n\r\n" + END, None),
        (b"--XX\r\n" + b"a: b\r\n" * 20 + b"\r\n" + END, None),
        (b"--XX\r\nx: " + b"y" * 10_000 + b"\r\n\r\n" + END, None),
        (b"--XX\r\n\r\nno header" + END, None),
        (PURPOSE + FILE + b"x" + END + b"z" * (2 * MAX_FORM_BYTES), None),
        (b"z" * (2 * MAX_FORM_BYTES) + b"\r\n" + PURPOSE + FILE + b"x" + END, None),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else str(value),
)
async def test_broken_forms_leave_nothing_behind(tmp_path: Path, body: bytes, param: str | None) -> None:
    error = await refusal(tmp_path, body)
    assert error.code not in (ErrorCode.INTERNAL_ERROR, ErrorCode.UNAVAILABLE)
    assert error.param == param or param is None


@pytest.mark.parametrize(
    "content_type",
    [
        "", "application/json", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=XX",
        "multipart/form-data; boundary=" + "x" * 71,
    ],
)  # fmt: skip
async def test_other_content_types_are_refused(tmp_path: Path, content_type: str) -> None:
    error = await refusal(tmp_path, PURPOSE + FILE + b"x" + END, content_type=content_type)
    assert error.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"content-length": str(LIMIT + MAX_FORM_BYTES + 1)}, ErrorCode.REQUEST_TOO_LARGE),
        ({"content-length": "-5"}, ErrorCode.REQUEST_TOO_LARGE),
        ({"content-length": "9" * 400}, ErrorCode.REQUEST_TOO_LARGE),
        ({"content-encoding": "gzip"}, ErrorCode.UNSUPPORTED_MEDIA_TYPE),
    ],
)
async def test_headers_are_judged_before_the_body(tmp_path: Path, headers: dict[str, str], code: ErrorCode) -> None:
    assert (await refusal(tmp_path, b"never read", **headers)).code is code


async def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield PURPOSE + FILE + b"x" * (3 * MIB)
        raise GlimpsedError(ErrorCode.CANCELLED, "The client left before the end of its body.")

    with pytest.raises(GlimpsedError):
        await receive_stream(tmp_path, chunks())
    assert list((tmp_path / "files").iterdir()) == []
