"""What our HTTP protocol refuses and bounds, over raw sockets. Its timers have tests of their own."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import uvloop

from schemas.events import Event
from schemas.jobs import ChatJob
from server.app import GatewayLimits
from server.http_crowd import OTHER_FILES, RESERVE, Crowd, fit_to_open_files
from server.http_protocol import MAX_PIPELINED, HttpPatience
from server.middleware import MAX_HEADERS, MAX_URL_BYTES
from server.serving import listen
from server.streaming import Patience
from tests.fakes.memory_queue import MemoryQueue, Teller, tell
from tests.server.serving import ask, listening
from tests.server.test_sockets import connected, post, whole

GET = b"GET /livez HTTP/1.1\r\nHost: gateway\r\n"
LAST = b"Connection: close\r\n\r\n"

Address = tuple[str, int]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

REFUSED = [
    (GET + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n", (431, "headers_too_large")),
    (GET + b"y" * 1_000_000, (431, "headers_too_large")),
    (GET + b"x: y\r\n" * 5000 + b"\r\n", (431, "headers_too_large")),
    (GET + b"x: y\r\n" * MAX_HEADERS + b"\r\n", (431, "headers_too_large")),
    (b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", (414, "uri_too_long")),
    (b"GET /" + b"x" * MAX_URL_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n", (414, "uri_too_long")),
    (b"GET /livez?" + b"x" * 1_000_000, (414, "uri_too_long")),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (400, "invalid_request")),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, "invalid_request")),
    (b"GET /livez\r\n\r\n", (400, "invalid_request")),
    (b"GET /livez HTTP/1.1\r\n\r\n", (400, "invalid_request")),
    (GET + b"Host: other\r\n\r\n", (400, "invalid_request")),
    (GET + b"bad header\r\n\r\n", (400, "invalid_request")),
    (GET + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", (400, "invalid_request")),
    (GET + b"Content-Length: -5\r\n\r\n", (400, "invalid_request")),
    (b"CONNECT other:443 HTTP/1.1\r\nHost: other\r\n\r\n", (400, "invalid_request")),
    (post(b"FFFFFFFFFFFFFFFFF\r\nx", "Transfer-Encoding: chunked"), (400, "invalid_request")),
    (post(b"zz\r\nx", "Transfer-Encoding: chunked"), (400, "invalid_request")),
]


@asynccontextmanager
async def gateway(
    patience: HttpPatience | None = None, crowd: Crowd | None = None
) -> AsyncIterator[tuple[Address, MemoryQueue]]:
    queue = MemoryQueue(tell("a cat"))
    async with listening(queue, crowd, patience) as address:
        yield address, queue


async def answer_to(address: Address, *pieces: bytes) -> bytes:
    """All that the server says until it closes the connection."""
    async with connected(address) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        return await reader.read()


def error_of(answer: bytes) -> tuple[int, str]:
    """Status and code of an answer; fails unless it is in the form that all errors have."""
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert b"\r\nx-request-id: req_" in head and b"\r\nconnection: close" in head
    return int(head.split()[1]), error["code"]


async def be_refused() -> None:
    async with gateway() as (address, queue):
        for request, expected in REFUSED:
            assert error_of(await answer_to(address, request)) == expected, request[:80]
            assert (await answer_to(address, GET + LAST)).startswith(b"HTTP/1.1 200"), "others are served all the same"
    assert not queue.submitted


async def be_refused_in_mid_body() -> None:
    async with gateway() as (address, _), connected(address) as (reader, writer):
        writer.write(post(b"x" * 1_000_000, f"Content-Length: {200 * 1024 * 1024}"))
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 413") and answer.endswith(b"}}")


async def ask_for_other_protocols() -> None:
    async with gateway() as (address, _):
        for protocol in (b"h2c", b"websocket"):
            upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\n\r\n" % protocol
            answer = await answer_to(address, GET + upgrade, b"\x00" * 100)
            assert answer.startswith(b"HTTP/1.1 200") and b"\r\nconnection: close" in answer


async def not_read() -> None:
    crowd = Crowd(10, 10)
    limits = GatewayLimits(patience=Patience(stall_s=0.05))
    for stream in (False, True):
        async with listening(MemoryQueue(flood), crowd, HttpPatience(stall_s=0.05), limits=limits) as address:
            async with connected(address) as (_, writer):
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(whole(ask(stream=stream)))
                while not crowd.total:
                    await asyncio.sleep(0)
                while crowd.total:
                    await asyncio.sleep(0.01)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize(
    "scene", [be_refused, be_refused_in_mid_body, ask_for_other_protocols, not_read], ids=lambda scene: scene.__name__
)
def test_both_event_loops_bear_hostile_clients(scene: Callable[[], object], loop: LoopFactory) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scene())  # type: ignore[arg-type]


async def flood(job: ChatJob) -> AsyncGenerator[Event, None]:
    teller = Teller(job)
    yield teller.accepted()
    words = ["x" * 100_000] * 100
    for place in range(len(words)):
        yield teller.word(words, place)
        await asyncio.sleep(0)
    yield teller.finished()


async def test_a_head_within_the_bounds_is_served() -> None:
    headers = b"".join(b"h%d: %s\r\n" % (number, b"y" * 500) for number in range(90))
    async with gateway() as (address, _):
        assert (await answer_to(address, GET + headers + LAST)).startswith(b"HTTP/1.1 200")


async def test_a_flood_of_headers_is_refused_before_it_is_over() -> None:
    async with gateway() as (address, _), connected(address) as (reader, writer):
        writer.write(GET + b"x: ")
        for _ in range(64):
            writer.write(b"y" * 1_000_000)
        assert (await reader.readline()).startswith(b"HTTP/1.1 431")
        assert writer.transport.get_write_buffer_size() > 0


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on() -> None:
    body = json.dumps(ask()).encode()
    async with gateway() as (address, _), connected(address) as (reader, writer):
        writer.write(post(b"", f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_fifty_requests_at_once_are_answered_in_order_and_one_at_a_time() -> None:
    running = most = 0

    async def script(job: ChatJob) -> AsyncGenerator[Event, None]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        async for event in tell(job.messages[0].parts[0].text)(job):  # type: ignore[union-attr]
            yield event
        running -= 1

    async with listening(MemoryQueue(script)) as address, connected(address) as (reader, writer):
        writer.write(b"".join(whole(ask(f"number-{number}.")) for number in range(50)))
        for number in range(50):
            await reader.readuntil(f'"number-{number}."'.encode())
    assert most == 1


async def test_too_many_requests_at_once_end_the_connection_after_those_before() -> None:
    async with gateway() as (address, queue):
        answer = await answer_to(address, whole(ask()) * (MAX_PIPELINED * 3))
    assert answer.count(b"HTTP/1.1 200") == MAX_PIPELINED + 1 == len(queue.submitted)


async def test_a_broken_request_behind_a_good_one_does_not_disturb_its_answer() -> None:
    async with gateway() as (address, queue):
        answer = await answer_to(address, whole(ask(stream=True)) + b"\x00\x01\x02 broken\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200") and answer.count(b"HTTP/1.1") == 1
    assert b"data: [DONE]" in answer
    assert not queue.cancelled


async def test_beyond_the_bound_all_but_the_probes_get_503_until_somebody_leaves() -> None:
    crowd = Crowd(2, 1000)
    async with gateway(crowd=crowd) as (address, queue), AsyncExitStack() as others:
        writers = [(await others.enter_async_context(connected(address)))[1] for _ in range(2)]
        refused = await answer_to(address, whole(ask()))
        assert error_of(refused) == (503, "service_unavailable")
        assert b"\r\nretry-after: 1\r\n" in refused
        assert (await answer_to(address, GET + LAST)).startswith(b"HTTP/1.1 200")
        writers[0].transport.abort()
        while crowd.total > 1:
            await asyncio.sleep(0)
        async with connected(address) as (reader, writer):
            writer.write(whole(ask()))
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    assert len(queue.submitted) == 1


def test_connections_are_counted_in_all_and_for_each_address() -> None:
    crowd = Crowd(3, 2)
    for _ in range(2):
        crowd.enter("a")
        assert not crowd.is_full("a")
    crowd.enter("a")
    assert crowd.is_full("a") and not crowd.is_overfull("a")
    crowd.leave("a")
    crowd.enter("b")
    assert not crowd.is_full("b") and crowd.total == 3
    for _ in range(RESERVE):
        crowd.enter("b")
    assert crowd.is_full("b") and not crowd.is_overfull("b")
    crowd.enter("b")
    assert crowd.is_overfull("b")
    for _ in range(RESERVE + 2):
        crowd.leave("b")
    crowd.leave("a")
    crowd.leave("a")
    assert crowd.total == 0 and not crowd._per_peer


def test_no_more_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [1024, 2048]
    monkeypatch.setattr("resource.getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr("resource.setrlimit", lambda _, new: limits.__setitem__(slice(None), new))
    assert fit_to_open_files(100) == 100
    assert limits[0] == 1024, "enough as it was"
    assert fit_to_open_files(10_000) == 2048 - RESERVE - OTHER_FILES
    assert limits == [2048, 2048]


def test_accepted_connections_have_the_kernels_bounds() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 128 * 1024
