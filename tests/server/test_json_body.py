"""Bodies that are too large, too slow, too deep, too many or not JSON."""

import asyncio

import pytest
from starlette.requests import Request

from schemas.errors import ErrorCode, GlimpsedError
from server.json_body import LARGE_BYTES, MAX_DEPTH, MAX_VALUES, WINDOW_BYTES, decode_json, read_json
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import CHAT, client_of

MIB = 1024 * 1024


def take(size_bytes: int) -> None:
    assert 0 <= size_bytes <= MIB


def request(*pieces: bytes, headers: dict[str, str] | None = None, stalls: bool = False) -> Request:
    """A request whose body comes in pieces and then ends, or stalls."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    if stalls:
        messages.pop()

    async def receive() -> dict[str, object]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    all_headers = {"content-type": "application/json"} | (headers or {})
    raw = [(name.encode(), value.encode()) for name, value in all_headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


def test_values_are_counted_wherever_they_stand_between_pictures() -> None:
    picture = b'"' + b"QUJD" * (WINDOW_BYTES // 2) + b'"'
    few = b",".join([picture, b"[1]", picture, b"{}", picture])
    assert len(decode_json(b"[" + few + b"]")) == 5
    with pytest.raises(GlimpsedError, match="values"):
        decode_json(b"[" + few + b",1" * MAX_VALUES + b"]")


async def test_others_get_a_turn_between_a_large_body_and_what_follows() -> None:
    turns: list[str] = []
    body = b'["' + b"A" * LARGE_BYTES + b'"]'
    asyncio.get_running_loop().call_soon(turns.append, "another's")
    await read_json(request(body), MIB, take)
    assert turns == ["another's"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff\xfe"}',
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b"{'a':1}",
        b'{"a":1}{"b":2}',
        b'{"a":01}',
        b'{"a":1,}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
        b"{" + b",".join(b'"k%d":1' % number for number in range(300_000)) + b"}",
        b"[" + b"[]," * MAX_VALUES + b"[]]",
        b"[" + b'"",' * MAX_VALUES + b'""]',
        b"," * MAX_VALUES + b'["' + b'\\"' * MIB,
        b'["' + b'",' * MIB,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_not_modest_strict_json_is_refused_without_being_repeated(body: bytes) -> None:
    with pytest.raises(GlimpsedError) as refusal:
        decode_json(body)
    assert refusal.value.code is ErrorCode.INVALID_JSON
    assert len(refusal.value.message) < 100


def test_the_deepest_body_allowed_is_read() -> None:
    assert decode_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


def test_text_full_of_separators_counts_as_one_value() -> None:
    text = ',[{"' * MAX_VALUES
    assert decode_json(b'{"a":"' + text.replace('"', '\\"').encode() + b'"}') == {"a": text}


def test_of_duplicate_keys_the_last_wins() -> None:
    assert decode_json(b'{"a":1,"a":2,"__proto__":3}') == {"a": 2, "__proto__": 3}


def test_a_nul_in_text_is_kept() -> None:
    assert decode_json(b'{"a":"x\\u0000y"}') == {"a": "x\0y"}


async def test_pieces_are_joined() -> None:
    assert await read_json(request(b'{"a"', b":1", b"}"), MIB, take) == {"a": 1}


async def test_a_declared_size_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(GlimpsedError) as refusal:
        await read_json(request(headers={"content-length": str(MIB + 1)}, stalls=True), MIB, take)
    assert refusal.value.code is ErrorCode.REQUEST_TOO_LARGE


async def test_an_undeclared_size_above_the_limit_is_refused_when_it_is_reached() -> None:
    with pytest.raises(GlimpsedError) as refusal:
        await read_json(request(*[b"x" * 1024] * 1025, stalls=True), MIB, take)
    assert refusal.value.code is ErrorCode.REQUEST_TOO_LARGE


async def test_a_body_that_stalls_is_given_up() -> None:
    with pytest.raises(GlimpsedError) as refusal:
        await read_json(request(b'{"a":', stalls=True), MIB, take, idle_s=0.01)
    assert refusal.value.code is ErrorCode.REQUEST_TIMEOUT


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 400),
        ({"content-type": ""}, 400),
        ({"content-type": "application/x-www-form-urlencoded"}, 400),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 400),
    ],
)
async def test_headers_of_the_body(headers: dict[str, str], status: int) -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        answer = await client.post(CHAT, content=b"{}", headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b"1"])
async def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        answer = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_type")
