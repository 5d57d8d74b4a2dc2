"""SharedAnswers in Redis: a stream for each name, whose first entry says whose it is and for which request.

Its gateway counts as gone once its mailbox is (see schemas.redis_names). Reading does not wait inside Redis, as that
would keep a connection from the queue.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

from redis.asyncio import Redis

from schemas import redis_names as names
from schemas.errors import Unavailable
from schemas.redis_link import FAILURES, Fields, leave_if_cancelled
from server.transport.answers import AnswerLost, Claim, Holder

CLAIM = """
-- KEYS: the answer. ARGV: first entry of one that may be replaced, or nothing; gateway, fingerprint, ms to live.
-- Returns the new first entry, or nothing where somebody else was faster.
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if first and first[1] ~= ARGV[1] then
  return false
end
redis.call('DEL', KEYS[1])
local token = redis.call('XADD', KEYS[1], '*', 'gateway', ARGV[2], 'fingerprint', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return token
"""

WRITE = """
-- KEYS: the answer. ARGV: its first entry, ms to live, whether this is the end, pieces. Returns whether it was there.
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if not first or first[1] ~= ARGV[1] then
  return 0
end
for i = 4, #ARGV do
  redis.call('XADD', KEYS[1], '*', 'piece', ARGV[i])
end
if ARGV[3] == '1' then
  redis.call('XADD', KEYS[1], '*', 'end', '')
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""

DROP = """
-- KEYS: the answer. ARGV: its first entry.
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if first and first[1] == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
"""

GATEWAY, FINGERPRINT, PIECE, END = b"gateway", b"fingerprint", b"piece", b"end"
KEPT_MS = 600_000
"""How long an answer lies there, behind its end or its last piece."""
POLL_S = 0.05
ENTRIES_PER_READ = 256
ATTEMPTS = 3

Entry = tuple[bytes, Fields]


class RedisAnswers:
    """See SharedAnswers. gateway_id: whose mailbox says that this gateway lives."""

    def __init__(self, client: Redis, gateway_id: str) -> None:
        self._client = client
        self._gateway_id = gateway_id
        self._is_closed = False
        self._claim = client.register_script(CLAIM)
        self._write = client.register_script(WRITE)
        self._drop = client.register_script(DROP)

    def close(self) -> None:
        """The client is about to be closed: nothing may open a connection again."""
        self._is_closed = True

    async def claim(self, name: str, fingerprint: bytes) -> Claim:
        """See SharedAnswers. What this gateway itself has begun and not ended counts as given up: it asks only where it
        does not know of a better one."""
        self._check_open()
        for _ in range(ATTEMPTS):
            first = await self._first(name)
            if first is not None and await self._is_held(name, first[1]):
                is_same = first[1].get(FINGERPRINT) == fingerprint
                return Claim(Holder.OTHERS if is_same else Holder.ANOTHER_REQUEST)
            stale = first[0] if first is not None else b""
            args: list[bytes | str | int] = [stale, self._gateway_id, fingerprint, KEPT_MS]
            token = await _ask(self._claim(keys=[names.answer(name)], args=args))
            if token:
                return Claim(Holder.US, token)
        raise Unavailable("Several gateways answer this request at once.")

    async def write(self, name: str, token: bytes, pieces: Sequence[bytes], *, is_last: bool) -> bool:
        """See SharedAnswers."""
        self._check_open()
        args: list[bytes | int] = [token, KEPT_MS, int(is_last), *pieces]
        return bool(await _ask(self._write(keys=[names.answer(name)], args=args)))

    async def drop(self, name: str, token: bytes) -> None:
        """See SharedAnswers."""
        self._check_open()
        await _ask(self._drop(keys=[names.answer(name)], args=[token]))

    async def read(self, name: str) -> AsyncIterator[bytes]:
        """See SharedAnswers."""
        self._check_open()
        first = await self._first(name)
        if first is None:
            raise AnswerLost
        last = first[0]
        while True:
            self._check_open()
            is_held = await self._is_held(name, first[1])
            # In this order: what its gateway wrote before it went is there.
            entries = await self._entries(name, b"(" + last)
            for entry, fields in entries:
                if END in fields:
                    return
                yield fields[PIECE]
                last = entry
            if not entries:
                now = await self._first(name)
                if not is_held or now is None or now[0] != first[0]:
                    raise AnswerLost
                await asyncio.sleep(POLL_S)

    def _check_open(self) -> None:
        if self._is_closed:
            raise Unavailable("The server is about to leave.")

    async def _is_held(self, name: str, first: Fields) -> bool:
        """Whether an answer is whole, or another gateway that lives is at it."""
        newest: Any = await _ask(self._client.xrevrange(names.answer(name), count=1))
        if newest and END in newest[0][1]:
            return True
        writer = first.get(GATEWAY, b"").decode("ascii", "replace")
        if writer == self._gateway_id:
            return False
        return bool(await _ask(self._client.exists(names.gateway_mailbox(writer))))

    async def _first(self, name: str) -> Entry | None:
        entries = await self._entries(name, b"-", 1)
        return entries[0] if entries else None

    async def _entries(self, name: str, start: bytes, count: int = ENTRIES_PER_READ) -> list[Entry]:
        found: list[Entry] = await _ask(self._client.xrange(names.answer(name), min=start, max=b"+", count=count))
        return found


async def _ask(call: Awaitable[Any]) -> Any:
    try:
        answer = await call
    except FAILURES as error:
        raise Unavailable("What the gateways share cannot be reached.") from error
    leave_if_cancelled()
    return answer
