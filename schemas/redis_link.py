"""A connection to Redis as both ends of the queue use it: how it is opened, repeated turns over it, a mailbox.

The client retries nothing by itself: most of what is sent here must not be sent twice unknowingly.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from schemas.flags import ConfigError
from schemas.redis_names import MAX_MAILBOX_ENTRIES

FAILURES = (RedisError, OSError)
"""What talking to Redis may raise. All of it may pass: it restarts, moves, loads its file, is out of memory."""

BLOCK_S = 0.5
SOCKET_TIMEOUT_S = 2.0
"""Silence after which a connection counts as dead; a read blocks for less."""
MAX_CONNECTIONS = 16
MIN_BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
ENTRIES_PER_READ = 256
MAILBOX_LEASES = 1.6
"""How many leases a mailbox outlives its owner. An owner that only stood still for one must not lose what lies in it:
all its jobs would begin anew."""

Fields = Mapping[bytes, bytes]

log = logging.getLogger(__name__)


def connect(url: str) -> Redis:
    """A client for redis:// or rediss://, which connects when it is first used. Raises ConfigError."""
    # Not every version checks the name in a certificate by itself.
    options = {"ssl_check_hostname": True} if urlsplit(url).scheme == "rediss" else {}
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            protocol=2,
            max_connections=MAX_CONNECTIONS,
            timeout=SOCKET_TIMEOUT_S,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,  # From 7.2 on it would tell its name, which is one more right that a user would need.
            **options,
        )
    except ValueError as error:
        # The URL itself may hold a password.
        raise ConfigError(f"--queue: not a usable Redis URL: {error}") from None
    return Redis.from_pool(pool)


def leave_if_cancelled() -> None:
    """To be called behind calls of the client: it sends through asyncio.wait_for, and that loses, in Python 3.11,
    a cancellation that comes together with its end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def backed_off(attempt: Callable[[], Awaitable[None]], on_failure: Callable[[], None]) -> None:
    """Attempt something until it succeeds, with growing pauses after failures of Redis."""
    pause_s = MIN_BACKOFF_S
    while True:
        try:
            await attempt()
            leave_if_cancelled()
            return
        except FAILURES as error:
            if pause_s == MIN_BACKOFF_S:
                log.warning("the queue's Redis does not answer: %s: %s", type(error).__name__, error)
            on_failure()
        leave_if_cancelled()
        await asyncio.sleep(pause_s)
        pause_s = min(MAX_BACKOFF_S, 2 * pause_s)


async def repeat(turn: Callable[[], Awaitable[None]], on_failure: Callable[[], None], pause_s: float = 0.0) -> None:
    """Take turn after turn, for ever."""
    while True:
        await backed_off(turn, on_failure)
        await asyncio.sleep(pause_s)


def keep_repeating(name: str, turns: Coroutine[Any, Any, None], on_end: Callable[[], None]) -> "asyncio.Task[None]":
    """A task for `repeat`. `on_end`: called if it ends by a fault of ours, so that nobody waits for it in vain."""

    def settle(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            log.error("the queue failed: %s", type(error).__name__, exc_info=error)
            on_end()

    task = asyncio.create_task(turns, name=name)
    task.add_done_callback(settle)
    return task


class Mailbox:
    """The owner's side of a stream that others write to while the owner lives.

    lease_s: its owner counts as gone MAILBOX_LEASES of these behind the last `renew`.
    """

    def __init__(self, client: Redis, key: str, lease_s: float) -> None:
        self._client = client
        self._key = key
        self._ttl_ms = max(1, int(1000 * MAILBOX_LEASES * lease_s))
        self._last_id = b"0-0"

    async def renew(self) -> bool:
        """Keep it alive and drop what was read. Returns whether it had to be made: then all that lay in it is lost."""
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.pexpire(self._key, self._ttl_ms)
            pipe.xtrim(self._key, minid=self._last_id, approximate=False)
            is_there, _ = await pipe.execute()
        if is_there:
            return False
        async with self._client.pipeline(transaction=True) as pipe:
            pipe.xadd(self._key, {b"made": b""})
            pipe.pexpire(self._key, self._ttl_ms)
            # Read from here on, and not from the last id known: a Redis with another clock may count from further back.
            self._last_id, _ = await pipe.execute()
        return True

    async def read(self, block_s: float) -> list[Fields]:
        """The next entries; none if nothing comes for so long."""
        block_ms = max(1, int(1000 * block_s))
        answer: Any = await self._client.xread({self._key: self._last_id}, count=ENTRIES_PER_READ, block=block_ms)
        entries: list[tuple[bytes, Fields]] = answer[0][1] if answer else []
        if entries:
            self._last_id = entries[-1][0]
        return [fields for _, fields in entries]


def put(pipe: Any, mailbox: str, fields: Fields) -> None:
    """Have a pipeline write to somebody's mailbox; its answer is None where the owner is gone."""
    pipe.xadd(mailbox, fields, nomkstream=True, maxlen=MAX_MAILBOX_ENTRIES, approximate=True)
