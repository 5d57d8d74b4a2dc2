"""One request with an `Idempotency-Key`, answered by whichever gateway is at it: to a Recording, an application.

Where it is this gateway, each piece of the answer is written down before anybody is given it, with the events of the
job that made it. An answer whose gateway is gone, or has left it because its client did, goes on here: the request is
read again, its job gets the events of before and goes on behind them, and what was given is made again and not given.
"""

import asyncio
import logging
from collections.abc import MutableMapping, Sequence
from contextlib import suppress

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from schemas.errors import ErrorCode, RequestError, Unavailable
from schemas.events import Event
from server import event_ids
from server.errors import error_response
from server.event_ids import is_event_stream, numbered
from server.idempotency_recording import REPLAYED
from server.recorder import RETRY_S, Recorder
from server.trail import Identity, Trail
from server.transport.answers import MAX_ANSWER_BYTES, AnswerLost, Holder, SharedAnswers

HEADER = "idempotency-key"
PATIENCE_S = 20.0
"""How long an answer waits for what is shared to be reached again; then it is made without."""
_LEFT_FOR = frozenset({str(ErrorCode.CANCELLED), str(ErrorCode.UNAVAILABLE)})
"""Failures of a stream that another gateway, or this one later, may not have."""

log = logging.getLogger(__name__)


class Piece(msgspec.Struct, array_like=True, omit_defaults=True):
    """A part of an answer that has status 200, and what made it. The first one has the headers and whose it is."""

    body: bytes
    events: list[Event]
    headers: list[tuple[bytes, bytes]] = []
    identity: Identity | None = None


_decoder = msgspec.msgpack.Decoder(Piece)


def reused() -> RequestError:
    """The key stands for another request."""
    message = "This idempotency key was used for a request with another body; take a new one."
    return RequestError(ErrorCode.IDEMPOTENCY_KEY_REUSED, message, HEADER)


def forgotten() -> RequestError:
    """There is nothing to go on with."""
    message = "The stream is not kept any more; send the request without 'Last-Event-ID' and with a new key."
    return RequestError(ErrorCode.NOT_FOUND, message, event_ids.HEADER)


class SharedRequest:
    """app: what answers here. name, fingerprint: of the request. trails: where the ledger looks for those of jobs.
    is_continued: whether its client has a part of the answer already, so that no other would do."""

    def __init__(
        self,
        answers: SharedAnswers,
        app: ASGIApp,
        name: str,
        fingerprint: bytes,
        trails: MutableMapping[str, Trail],
        *,
        is_continued: bool,
    ) -> None:
        self._answers = answers
        self._app = app
        self._name = name
        self._fingerprint = fingerprint
        self._trails = trails
        self._is_continued = is_continued
        self._is_broken = False
        self._writer: _Writer | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises AnswerLost, and what the application raises."""
        given = _Given(send)
        try:
            token = await self._claim(given)
        except Unavailable as error:
            if given.has_begun or self._is_continued:
                raise
            log.warning("an answer is not shared: %s", error)
            await self._app(scope, receive, send)
            return
        except RequestError as error:
            await error_response(error)(scope, receive, send)
            return
        if token is not None:
            await self._answer(scope, receive, given, token)

    async def close(self, failure: str | None, *, is_success: bool) -> None:
        """The answer is over. What is worth keeping stays, and what may be gone on with. failure: why it ended."""
        if self._writer is None:
            return
        is_left = not self._is_broken and (failure is None or failure in _LEFT_FOR)
        with suppress(Unavailable):
            await self._writer.close(is_success=is_success, is_left=is_left)

    async def _claim(self, given: "_Given") -> bytes | None:
        """Give what others make of it until that is whole, or until it is ours: then its token. Raises RequestError,
        and AnswerLost for one that cannot be gone on with."""
        while True:
            claim = await self._patiently_claim(given)
            if claim is not None:
                return claim
            try:
                async for piece in self._answers.read(self._name, given.num_pieces):
                    await given.piece(_decoder.decode(piece))
            except (AnswerLost, Unavailable):
                continue
            await given.end()
            return None

    async def _patiently_claim(self, given: "_Given") -> bytes | None:
        waited_s = 0.0
        while True:
            try:
                claim = await self._answers.claim(self._name, self._fingerprint)
                break
            except Unavailable:
                waited_s += RETRY_S
                if not given.has_begun or waited_s > PATIENCE_S:
                    raise
                await asyncio.sleep(RETRY_S)
        if claim.holder is Holder.ANOTHER_REQUEST:
            raise AnswerLost if given.has_begun else reused()
        return claim.token if claim.holder is Holder.US else None

    async def _answer(self, scope: Scope, receive: Receive, given: "_Given", token: bytes) -> None:
        pieces = [_decoder.decode(piece) for piece in await self._answers.recorded(self._name)]
        if not pieces and (given.has_begun or self._is_continued):
            await self._answers.drop(self._name, token)
            if given.has_begun:
                raise AnswerLost
            await error_response(forgotten())(scope, receive, given.send)
            return
        events = [event for piece in pieces for event in piece.events]
        trail = Trail(self._trails, pieces[0].identity if pieces else None, events)
        self._writer = _Writer(self._answers, self._name, token, trail, pieces, given)
        scope["state"]["trail"] = trail
        try:
            await self._app(scope, receive, self._writer.send)
        except Exception:
            self._is_broken = True
            raise


class _Given:
    """What the clients here were given of an answer."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.has_begun = False
        self.num_pieces = 0
        self.size_bytes = 0

    async def start(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """The answer begins, unless it has."""
        if not self.has_begun:
            self.has_begun = True
            await self.send({"type": "http.response.start", "status": 200, "headers": list(headers)})

    async def piece(self, piece: Piece) -> None:
        """The next piece that another gateway has written down."""
        await self.start([*piece.headers, REPLAYED])
        self.num_pieces += 1
        self.size_bytes += len(piece.body)
        await self.send({"type": "http.response.body", "body": piece.body, "more_body": True})

    async def end(self) -> None:
        """There are no more."""
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


class _Writer:
    """Hears the application, writes down what is new, and gives what was not given. pieces: what is written down."""

    def __init__(
        self,
        answers: SharedAnswers,
        name: str,
        token: bytes,
        trail: Trail,
        pieces: Sequence[Piece],
        given: _Given,
    ) -> None:
        known = [piece.body for piece in pieces]
        self._recorder = Recorder(answers, name, token, known, PATIENCE_S)
        self._trail = trail
        self._left_bytes = MAX_ANSWER_BYTES - sum(map(len, known))
        self._given = given
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_stream = self._is_given_up = self._is_refused = False
        self._position = 0

    async def send(self, message: Message) -> None:
        """The `send` that the application is given. Raises AnswerLost where it cannot go on as it was begun."""
        if message["type"] == "http.response.start":
            self._is_refused = message["status"] != 200
            self._is_stream = is_event_stream(message)
            self._headers = list(message["headers"])
            if not self._is_refused:
                await self._given.start(self._headers)
            elif self._given.has_begun:
                raise AnswerLost
            else:
                await self._given.send(message)
        elif self._is_refused:
            await self._given.send(message)
        else:
            await self._send_piece(message)

    async def _send_piece(self, message: Message) -> None:
        piece = message.get("body", b"")
        lasting = numbered(piece) if self._is_stream else piece
        start = self._position
        self._position += len(lasting)
        await self._write(self._recorder.news(lasting))
        if start < self._given.size_bytes:
            message = {**message, "body": lasting[self._given.size_bytes - start :]}
        await self._given.send(message)

    async def _write(self, body: bytes) -> None:
        events = self._trail.take()
        if self._is_given_up or not (body or events):
            return
        is_first = not self._recorder.num_pieces
        piece = Piece(body, events, self._headers, self._trail.identity) if is_first else Piece(body, events)
        data = msgspec.msgpack.encode(piece)
        self._left_bytes -= len(data)
        self._is_given_up = self._left_bytes < 0 or not await self._recorder.write(data)

    async def close(self, *, is_success: bool, is_left: bool) -> None:
        """Nothing more comes. is_left: whether anybody may go on with what is not whole."""
        if is_success and not self._is_given_up:
            await self._recorder.end()
        elif self._recorder.num_pieces and not self._is_given_up and (is_left or self._is_refused):
            await self._recorder.leave()
        else:
            await self._recorder.drop()
