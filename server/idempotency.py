"""`Idempotency-Key`: a request that is sent again gets the answer of the first, or joins it while it still runs.

Answers are kept in memory, for a time and within a bound. What failed is not kept: it is tried anew. A request whose
client leaves goes on while another one that joined it listens. Where several gateways serve one queue, they share what
they answer: a request that is sent again to another one gets what the first has made or is making of it, and where the
first is gone, or its client, the answer goes on from there. A client that says which event of a stream it has seen last
gets those behind it.
"""

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from schemas.errors import ErrorCode, GlimpsedError, RequestError
from server.admission import Admission
from server.errors import error_response
from server.event_ids import EventIds, last_event_id, sending_after
from server.idempotency_recording import Recording
from server.idempotency_sharing import HEADER, SharedRequest, forgotten, reused
from server.json_body import read_body
from server.limits.middleware import GENERATING_PATHS
from server.trail import Trail
from server.transport.answers import MAX_ANSWER_BYTES, SharedAnswers, name_of

MAX_ANSWERS = 4096
MAX_BYTES = 64 * 1024 * 1024
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

Name = tuple[str, str]
"""Tenant and key."""


@dataclass(slots=True)
class _Entry:
    fingerprint: bytes
    recording: Recording
    kept_at_s: float = 0.0


class IdempotentAnswers:
    """Running and kept answers by tenant and key.

    window_s: for how long an answer is kept; 0: not at all, so that only what runs can be joined. max_bytes: of kept
    bodies together; the oldest go first. clock: seconds, monotonic.
    """

    def __init__(
        self,
        window_s: float,
        clock: Callable[[], float],
        max_answers: int = MAX_ANSWERS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._window_s = window_s
        self._clock = clock
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._running: dict[Name, _Entry] = {}
        self._kept: OrderedDict[Name, _Entry] = OrderedDict()
        self.size_bytes = 0
        """Of all bodies that are kept."""

    def __len__(self) -> int:
        return len(self._running) + len(self._kept)

    def find(self, name: Name, fingerprint: bytes) -> Recording | None:
        """The answer to this request, if there is one or will be. Raises RequestError where the key stands for another
        request."""
        self._forget_old()
        entry = self._running.get(name) or self._kept.get(name)
        if entry is None or not entry.recording.is_joinable:
            return None
        if entry.fingerprint != fingerprint:
            raise reused()
        return entry.recording

    def begin(self, name: Name, fingerprint: bytes, recording: Recording) -> None:
        """An answer is being made."""
        self._running[name] = _Entry(fingerprint, recording)

    def end(self, name: Name, recording: Recording) -> None:
        """It is over, and kept if it is worth it."""
        entry = self._running.get(name)
        if entry is None or entry.recording is not recording:
            return  # Abandoned, and the key has begun anew.
        del self._running[name]
        if recording.is_success:
            self._drop(name)
            entry.kept_at_s = self._clock()
            self._kept[name] = entry
            self.size_bytes += recording.size_bytes
            self._forget_old()

    def _forget_old(self) -> None:
        now_s = self._clock()
        while self._kept:
            name, entry = next(iter(self._kept.items()))
            is_crowded = len(self._kept) > self._max_answers or self.size_bytes > self._max_bytes
            if not is_crowded and now_s - entry.kept_at_s < self._window_s:
                return
            self._drop(name)

    def _drop(self, name: Name) -> None:
        entry = self._kept.pop(name, None)
        if entry is not None:
            self.size_bytes -= entry.recording.size_bytes


class IdempotencyMiddleware:
    """Behind authentication, which sets the tenant.

    max_body_bytes: of a request. stall_s: how long a client may not read before it is dropped. shared: answers that
    other gateways know as well, and the trails of their jobs, for the ledger.
    """

    def __init__(
        self,
        app: ASGIApp,
        answers: IdempotentAnswers,
        admission: Admission,
        max_body_bytes: int,
        stall_s: float,
        shared: tuple[SharedAnswers, MutableMapping[str, Trail]] | None,
    ) -> None:
        self._app = app
        self._numbering = EventIds(app)
        self._answers = answers
        self._admission = admission
        self._max_body_bytes = max_body_bytes
        self._stall_s = stall_s
        self._shared = shared
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_generating = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in GENERATING_PATHS
        request = Request(scope, receive) if is_generating else None
        if request is None or HEADER not in request.headers:
            await self._app(scope, receive, send)
            return
        try:
            last_id = last_event_id(request)
            recording, is_replay = await self._recording(request, is_continued=last_id is not None)
        except GlimpsedError as refusal:
            await error_response(refusal)(scope, receive, send)
            return
        heard = send if last_id is None else sending_after(send, last_id)
        await recording.play(receive, heard, is_replay=is_replay)

    async def _recording(self, request: Request, *, is_continued: bool) -> tuple[Recording, bool]:
        """The answer to a request, and whether it is another's; begun if it is not. is_continued: whether its client
        has a part of it. Raises GlimpsedError."""
        key = request.headers[HEADER]
        if not _KEY.fullmatch(key):
            message = "The header 'Idempotency-Key' should be 1 to 255 visible ASCII characters."
            raise RequestError(ErrorCode.INVALID_VALUE, message, HEADER)
        with self._admission.body() as held:
            body = bytes(await read_body(request, self._max_body_bytes, held.charge))
        name = (request.state.tenant, key)
        fingerprint = _fingerprint(request, body)
        recording = self._answers.find(name, fingerprint)
        if recording is not None:
            return recording, True
        shared: SharedRequest | None = None
        if self._shared is not None:
            answers, trails = self._shared
            shared = SharedRequest(
                answers, self._numbering, name_of(*name), fingerprint, trails, is_continued=is_continued
            )
        elif is_continued:
            raise forgotten()
        recording = Recording(MAX_ANSWER_BYTES, self._stall_s)
        self._answers.begin(name, fingerprint, recording)
        task = asyncio.create_task(self._record(name, shared, recording, request.scope, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return recording, False

    async def _record(
        self, name: Name, shared: SharedRequest | None, recording: Recording, scope: Scope, body: bytes
    ) -> None:
        try:
            await recording.record(shared or self._numbering, scope, body)
        finally:
            self._answers.end(name, recording)
            if shared is not None:
                await shared.close(scope["state"].get("failure"), is_success=recording.is_success)


def _fingerprint(request: Request, body: bytes) -> bytes:
    digest = hashlib.sha256(f"{request.scope['path']}?{request.scope['query_string']!r}\n".encode())
    digest.update(body)
    return digest.digest()
