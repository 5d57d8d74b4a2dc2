"""SharedAnswers in Redis: for each name who is at it, and a stream of its pieces; for each tenant which names it has.

A gateway counts as gone once its mailbox is (see schemas.redis_names). Reading does not wait inside Redis, as that
would keep a connection from the queue.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from schemas import redis_names as names
from schemas.errors import Unavailable
from schemas.redis_link import FAILURES, leave_if_cancelled
from server.transport.answers import MAX_ANSWERS, RESUME_WINDOW_S, AnswerLost, Claim, Holder

KEEP = """
-- Renews an answer and puts it last on its shelf. KEYS: the answer, its pieces, the shelf.
local function keep(name, now, ttl)
  redis.call('ZADD', KEYS[3], now, name)
  for i = 1, 3 do
    redis.call('PEXPIRE', KEYS[i], ttl)
  end
end
"""

CLAIM = (
    KEEP
    + """
-- ARGV: name, now, ms to live; token of one that may be replaced, or nothing; new token, gateway, fingerprint; most on
-- a shelf, the beginnings of the other names' keys. Returns whether it is ours.
local token = redis.call('HGET', KEYS[1], 'token')
if token and token ~= ARGV[4] then
  return 0
end
if not token then
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'made', ARGV[5], 'fingerprint', ARGV[7])
end
redis.call('HSET', KEYS[1], 'token', ARGV[5], 'gateway', ARGV[6])
keep(ARGV[1], ARGV[2], ARGV[3])
while redis.call('ZCARD', KEYS[3]) > tonumber(ARGV[8]) do
  local oldest = redis.call('ZPOPMIN', KEYS[3])[1]
  redis.call('DEL', ARGV[9] .. oldest, ARGV[10] .. oldest)
end
return 1
"""
)

WRITE = (
    KEEP
    + """
-- ARGV: name, now, ms to live; token, how many pieces there are, whether this is the end, pieces. Returns whether it is
-- ours and has lost none.
local count = redis.call('XLEN', KEYS[2])
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[4] or count < tonumber(ARGV[5]) then
  return 0
end
if count == tonumber(ARGV[5]) then
  for i = 7, #ARGV do
    redis.call('XADD', KEYS[2], '*', 'piece', ARGV[i])
  end
end
if ARGV[6] == '1' then
  redis.call('HSET', KEYS[1], 'ended', '1')
end
keep(ARGV[1], ARGV[2], ARGV[3])
return 1
"""
)

LEAVE = """
-- KEYS: the answer. ARGV: token.
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'gateway', '')
end
"""

DROP = """
-- KEYS: the answer, its pieces, the shelf. ARGV: token, name.
if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then
  redis.call('DEL', KEYS[1], KEYS[2])
  redis.call('ZREM', KEYS[3], ARGV[2])
end
"""

PIECE = b"piece"
POLL_S = 0.05
ENTRIES_PER_READ = 256
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class _Head:
    """Who is at an answer. made: tells it from a later one of the same name."""

    made: bytes
    token: bytes
    gateway_id: str
    fingerprint: bytes
    has_ended: bool


class RedisAnswers:
    """See SharedAnswers. gateway_id: whose mailbox says that this gateway lives. window_s: how long an answer lies
    there behind its end or its last piece."""

    def __init__(self, client: Redis, gateway_id: str, window_s: float = RESUME_WINDOW_S) -> None:
        self._client = client
        self._gateway_id = gateway_id
        self._kept_ms = max(1, int(1000 * window_s))
        self._is_closed = False
        self._claim = client.register_script(CLAIM)
        self._write = client.register_script(WRITE)
        self._leave = client.register_script(LEAVE)
        self._drop = client.register_script(DROP)

    def close(self) -> None:
        """The client is about to be closed: nothing may open a connection again."""
        self._is_closed = True

    async def claim(self, name: str, fingerprint: bytes, *, is_forced: bool = False) -> Claim:
        """See SharedAnswers. What this gateway itself has begun and not ended counts as given up: it asks only where it
        does not know of a better one."""
        self._check_open()
        for _ in range(ATTEMPTS):
            head, _ = await self._look(name, b"+")
            if head is not None:
                if head.fingerprint != fingerprint:
                    return Claim(Holder.ANOTHER_REQUEST)
                is_held = not is_forced and head.gateway_id != self._gateway_id and await self._lives(head.gateway_id)
                if head.has_ended or is_held:
                    return Claim(Holder.OTHERS)
            token = secrets.token_hex(16).encode()
            stale = head.token if head is not None else b""
            args = [*self._kept(name), stale, token, self._gateway_id, fingerprint, MAX_ANSWERS]
            prefixes = [names.answer(""), names.answer_pieces("")]
            if await _ask(self._claim(keys=_keys(name), args=[*args, *prefixes])):
                return Claim(Holder.US, token)
        raise Unavailable("Several gateways answer this request at once.")

    async def write(self, name: str, token: bytes, at: int, pieces: Sequence[bytes], *, is_last: bool) -> bool:
        """See SharedAnswers."""
        self._check_open()
        args = [*self._kept(name), token, at, int(is_last), *pieces]
        return bool(await _ask(self._write(keys=_keys(name), args=args)))

    async def leave(self, name: str, token: bytes) -> None:
        """See SharedAnswers."""
        self._check_open()
        await _ask(self._leave(keys=[names.answer(name)], args=[token]))

    async def drop(self, name: str, token: bytes) -> None:
        """See SharedAnswers."""
        self._check_open()
        await _ask(self._drop(keys=_keys(name), args=[token, name]))

    async def forget(self, name: str) -> None:
        """See SharedAnswers."""
        self._check_open()
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.delete(names.answer(name), names.answer_pieces(name))
            pipe.zrem(names.shelf_of(name), name)
            await _ask(pipe.execute())

    async def recorded(self, name: str) -> list[bytes]:
        """See SharedAnswers."""
        self._check_open()
        entries: Any = await _ask(self._client.xrange(names.answer_pieces(name)))
        return [fields[PIECE] for _, fields in entries]

    async def read(self, name: str, start: int = 0) -> AsyncIterator[bytes]:
        """See SharedAnswers."""
        made: bytes | None = None
        last, num_seen, is_lost = b"-", 0, False
        while True:
            self._check_open()
            head, entries = await self._look(name, last)
            if head is None or made not in (None, head.made):
                raise AnswerLost
            made = head.made
            for entry, fields in entries:
                num_seen += 1
                if num_seen > start:
                    yield fields[PIECE]
                last = b"(" + entry
            if entries:
                is_lost = False
                continue
            if head.has_ended:
                return
            if is_lost:
                raise AnswerLost
            # Once more: what it wrote before it went is there.
            is_lost = not await self._lives(head.gateway_id)
            if not is_lost:
                await asyncio.sleep(POLL_S)

    def _check_open(self) -> None:
        if self._is_closed:
            raise Unavailable("The server is about to leave.")

    def _kept(self, name: str) -> list[bytes | str | int]:
        """What KEEP is given. Of the time nothing but the order counts."""
        return [name, int(1000 * time.time()), self._kept_ms]

    async def _lives(self, gateway_id: str) -> bool:
        if gateway_id in ("", self._gateway_id):
            return gateway_id != ""
        return bool(await _ask(self._client.exists(names.gateway_mailbox(gateway_id))))

    async def _look(self, name: str, start: bytes) -> tuple[_Head | None, list[Any]]:
        """Who is at an answer, and its entries from here on, of one moment."""
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.hmget(names.answer(name), "made", "token", "gateway", "fingerprint", "ended")
            pipe.xrange(names.answer_pieces(name), min=start, count=ENTRIES_PER_READ)
            (made, token, gateway, fingerprint, ended), entries = await _ask(pipe.execute())
        if token is None:
            return None, []
        return _Head(made, token, gateway.decode("ascii", "replace"), fingerprint, ended is not None), entries


def _keys(name: str) -> list[str]:
    return [names.answer(name), names.answer_pieces(name), names.shelf_of(name)]


async def _ask(call: Awaitable[Any]) -> Any:
    try:
        answer = await call
    except FAILURES as error:
        raise Unavailable("What the gateways share cannot be reached.") from error
    leave_if_cancelled()
    return answer
