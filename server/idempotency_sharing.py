"""One request with an `Idempotency-Key`, answered by whichever gateway is at it: to a Recording, an application.

Where it is this gateway, what it answers is written down for others as it is made. An answer that breaks off at another
gateway before its beginning was given is made here; one that breaks off later is broken off here as well, and whoever
sends the request again gets a whole one.
"""

import asyncio
import hashlib
import logging
from contextlib import suppress

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import ErrorCode, RequestError, Unavailable
from server.errors import error_response
from server.idempotency_recording import REPLAYED
from server.transport.answers import AnswerLost, Holder, SharedAnswers

HEADER = "idempotency-key"

log = logging.getLogger(__name__)


class _Start(msgspec.Struct, array_like=True):
    """The first piece of an answer; all others are parts of its body. Only answers with status 200 are shared."""

    headers: list[tuple[bytes, bytes]]


def shared_name(tenant: str, key: str) -> str:
    """What a tenant's key is called among gateways: of one length, and no client's text."""
    return hashlib.sha256(f"{tenant}\n{key}".encode()).hexdigest()


def reused() -> RequestError:
    """The key stands for another request."""
    message = "This idempotency key was used for a request with another body; take a new one."
    return RequestError(ErrorCode.IDEMPOTENCY_KEY_REUSED, message, HEADER)


class SharedRequest:
    """app: what answers here. name, fingerprint: of the request. max_bytes: of a body that is shared."""

    def __init__(self, answers: SharedAnswers, app: ASGIApp, name: str, fingerprint: bytes, max_bytes: int) -> None:
        self._answers = answers
        self._app = app
        self._name = name
        self._fingerprint = fingerprint
        self._max_bytes = max_bytes
        self._writer: _Writer | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises AnswerLost, and what the application raises."""
        while True:
            try:
                claim = await self._answers.claim(self._name, self._fingerprint)
            except Unavailable as error:
                log.warning("an answer is not shared: %s", error)
                await self._app(scope, receive, send)
                return
            if claim.holder is Holder.ANOTHER_REQUEST:
                await error_response(reused())(scope, receive, send)
                return
            if claim.holder is Holder.US:
                self._writer = _Writer(self._answers, self._name, claim.token, self._max_bytes)
                await self._app(scope, receive, self._writer.heard_by(send))
                return
            if await self._give(send):
                return

    async def close(self, *, is_success: bool) -> None:
        """The answer is over. Only one that is worth keeping stays."""
        if self._writer is not None:
            await self._writer.close(is_success=is_success)

    async def _give(self, send: Send) -> bool:
        """Give another gateway's answer; False where it was lost before it began."""
        has_begun = False
        try:
            async for piece in self._answers.read(self._name):
                if has_begun:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                else:
                    headers = [*msgspec.msgpack.decode(piece, type=_Start).headers, REPLAYED]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    has_begun = True
        except (AnswerLost, Unavailable):
            if has_begun:
                raise
            return False
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True


class _Writer:
    """Writes an answer of ours as fast as it can be, and never holds it up."""

    def __init__(self, answers: SharedAnswers, name: str, token: bytes, max_bytes: int) -> None:
        self._answers = answers
        self._name = name
        self._token = token
        self._left_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._has_news = asyncio.Event()
        self._is_given_up = self._is_over = False
        self._writing = asyncio.create_task(self._write())

    def heard_by(self, send: Send) -> Send:
        """A `send` that takes down what it sends."""

        async def send_and_add(message: Message) -> None:
            self._add(message)
            await send(message)

        return send_and_add

    async def close(self, *, is_success: bool) -> None:
        """Nothing more comes."""
        self._is_over = True
        self._has_news.set()
        await self._writing
        with suppress(Unavailable):
            if is_success and not self._is_given_up:
                await self._answers.write(self._name, self._token, (), is_last=True)
            else:
                await self._answers.drop(self._name, self._token)

    def _add(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._is_given_up = message["status"] != 200
            self._pieces.append(msgspec.msgpack.encode(_Start(list(message["headers"]))))
        elif body := message.get("body", b""):
            self._pieces.append(body)
            self._left_bytes -= len(body)
        self._is_given_up = self._is_given_up or self._left_bytes < 0
        self._has_news.set()

    async def _write(self) -> None:
        while not (self._is_given_up or (self._is_over and not self._pieces)):
            await self._has_news.wait()
            self._has_news.clear()
            pieces, self._pieces = self._pieces, []
            if not pieces or self._is_given_up:
                continue
            try:
                is_ours = await self._answers.write(self._name, self._token, pieces, is_last=False)
            except Unavailable as error:
                log.warning("an answer is not shared: %s", error)
                is_ours = False
            self._is_given_up = self._is_given_up or not is_ours
