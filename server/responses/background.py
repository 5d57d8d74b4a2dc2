"""Responses of the background: made whether anybody listens or not, and had by any gateway that shares the answers.

A response is written down as it is made: its job, its events, and the frames that they become. Whoever asks for one
whose gateway is gone has it go on where it is asked: the job is submitted behind its events, see server/trail.py.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress

import msgspec

from schemas.errors import ErrorCode, GlimpsedError, RequestError, Unavailable
from schemas.events import Event, Finished
from schemas.jobs import ChatJob
from schemas.openai.response_answers import Response
from schemas.wire import decode_for_worker, encode
from server.errors import internal_error
from server.event_ids import after
from server.inflight import Inflight
from server.recorder import RETRY_S, Recorder
from server.responses.frames import ResponseWriter
from server.submit import new_job_id
from server.trail import Trail
from server.transport.answers import MAX_ANSWER_BYTES, AnswerLost, Holder, SharedAnswers, name_of

PATIENCE_S = 600.0
"""How long a response waits for what is shared to be reached again."""
MAX_STREAM_BYTES = 16 * 1024 * 1024
"""Of a response's events."""
CLOSE_S = 1.0
_FINGERPRINT = b"response"
Keep = Callable[[Response], None]

log = logging.getLogger(__name__)


class Piece(msgspec.Struct, array_like=True, omit_defaults=True):
    """A part of a response. response: as it is now, as JSON, where its state is a new one. job: in the first piece."""

    frames: bytes
    events: list[Event] = []
    response: bytes = b""
    job: bytes = b""


_decoder = msgspec.msgpack.Decoder(Piece)
_encode = msgspec.msgpack.Encoder().encode


class BackgroundResponses:
    """trails: where the ledger looks for those of jobs. is_leaving: whether this gateway is about to go, so that what
    fails here may not fail elsewhere."""

    def __init__(
        self,
        answers: SharedAnswers,
        inflight: Inflight,
        trails: MutableMapping[str, Trail],
        is_leaving: Callable[[], bool],
    ) -> None:
        self._answers = answers
        self._inflight = inflight
        self._trails = trails
        self._is_leaving = is_leaving
        self._runs: dict[str, asyncio.Task[None]] = {}

    async def begin(self, job: ChatJob, first: Response, keep: Keep, held: ExitStack) -> None:
        """Have a response made. first: as it is now. keep: is given it at its end, if it is this gateway that ended it;
        then what is held is given back. Raises RequestError for one that is too large, and Unavailable."""
        data = encode(job)
        if len(data) > MAX_ANSWER_BYTES:
            message = f"A request of the background may have {MAX_ANSWER_BYTES} bytes; send it without 'background'."
            raise RequestError(ErrorCode.INVALID_VALUE, message, "background")
        name = _name(job.tenant, first.id)
        claim = await self._answers.claim(name, _FINGERPRINT)
        recorder = Recorder(self._answers, name, claim.token, (), PATIENCE_S)
        run = _Run(recorder, first, Trail(self._trails), job, keep)
        if not await run.announce(data):
            raise Unavailable("What the gateways share cannot be reached.")
        self._start(name, run, held.pop_all())

    async def find(self, tenant: str, response_id: str) -> bytes | None:
        """A response as it is now, as JSON; None if it is none of the background, or not kept any more."""
        name = _name(tenant, response_id)
        pieces = await self._pieces(name)
        if pieces and not await self._is_in_hand(name):
            return None
        return next((piece.response for piece in reversed(pieces) if piece.response), None)

    async def frames(self, tenant: str, response_id: str, last_number: int) -> AsyncIterator[bytes]:
        """A response's events behind this one, as they come. Raises RequestError where there is none."""
        name = _name(tenant, response_id)
        num_pieces = 0
        while True:
            try:
                async for data in self._answers.read(name, num_pieces):
                    num_pieces += 1
                    if frames := after(_decoder.decode(data).frames, last_number):
                        yield frames
                return
            except AnswerLost:
                if not await self._is_in_hand(name):
                    raise unknown() from None
                await asyncio.sleep(RETRY_S)

    async def cancel(self, tenant: str, response_id: str) -> bytes | None:
        """Stop a response, wherever it is made, and return it as it is then; one that has ended stays as it is. None if
        there is none."""
        name = _name(tenant, response_id)
        if not await self._pieces(name):
            return None
        claim = await self._answers.claim(name, _FINGERPRINT, is_forced=True)
        if claim.holder is Holder.US:
            await self._stop(name)
            pieces = await self._pieces(name)
            if not pieces:
                await self._answers.drop(name, claim.token)
                return None
            run = self._run(name, claim.token, pieces)
            await run.cancel([event for piece in pieces for event in piece.events])
        return await self.find(tenant, response_id)

    async def forget(self, tenant: str, response_id: str) -> bool:
        """Stop and forget a response; whether there was one."""
        name = _name(tenant, response_id)
        if not await self._pieces(name):
            return False
        await self._answers.forget(name)
        await self._stop(name)
        return True

    async def close(self) -> None:
        """Leave what is made here to others, as the ledger is closed; not for long where they cannot be told."""
        tasks = list(self._runs.values())
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pieces(self, name: str) -> list[Piece]:
        return [_decoder.decode(data) for data in await self._answers.recorded(name)]

    async def _is_in_hand(self, name: str) -> bool:
        """Whether somebody is at a response, or it has ended; it goes on here where its gateway is gone."""
        if name in self._runs:
            return True
        if not await self._pieces(name):
            return False
        claim = await self._answers.claim(name, _FINGERPRINT)
        if claim.holder is Holder.US:
            pieces = await self._pieces(name)
            if not pieces:
                await self._answers.drop(name, claim.token)
                return False
            self._start(name, self._run(name, claim.token, pieces), nullcontext())
        return True

    def _run(self, name: str, token: bytes, pieces: Sequence[Piece]) -> "_Run":
        """A response that another gateway began."""
        job = decode_for_worker(pieces[0].job)
        assert isinstance(job, ChatJob)
        first = msgspec.json.decode(pieces[0].response, type=Response)
        trail = Trail(self._trails, events=[event for piece in pieces for event in piece.events])
        recorder = Recorder(self._answers, name, token, [piece.frames for piece in pieces], PATIENCE_S)
        return _Run(recorder, first, trail, job, _keep_nothing)

    def _start(self, name: str, run: "_Run", held: AbstractContextManager[object]) -> None:
        async def make() -> None:
            with held:
                await run.make(self._inflight, self._is_leaving)

        if (overtaken := self._runs.get(name)) is not None:
            overtaken.cancel()
        task = asyncio.create_task(make())
        self._runs[name] = task
        task.add_done_callback(lambda done: self._runs.pop(name) if self._runs.get(name) is done else None)

    async def _stop(self, name: str) -> None:
        if (task := self._runs.get(name)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class _Run:
    """One response, while this gateway makes it."""

    def __init__(self, recorder: Recorder, first: Response, trail: Trail, job: ChatJob, keep: Keep) -> None:
        self._recorder = recorder
        # What a response is at its end counts once it is written down, and may not be.
        self._writer = ResponseWriter(job, first, _keep_nothing)
        self._trail = trail
        self._job = job
        self._keep = keep
        self._num_frames = 0
        self._status = ""

    async def announce(self, job: bytes) -> bool:
        """Write down that the response is there. Returns whether that was done."""
        frames = self._numbered(list(self._writer.queued()))
        return await self._recorder.write(_encode(Piece(self._recorder.news(frames), [], self._state(), job)))

    async def make(self, inflight: Inflight, is_leaving: Callable[[], bool]) -> None:
        """Make it, to its end, or until it is another's."""
        # Under an id of its own: workers may know that of another gateway's.
        job = self._trail.own(msgspec.structs.replace(self._job, job_id=new_job_id()))
        try:
            self._begin_again()
            async with inflight.open(job) as stream:
                events: list[Event] = []
                while not (events and isinstance(events[-1], Finished)):
                    if self._recorder.size_bytes > MAX_STREAM_BYTES:
                        raise RequestError(ErrorCode.INVALID_VALUE, "The response is too long for the background.")
                    events = await stream.take()
                    frames = [frame for event in events for frame in self._writer.frames(event)]
                    if not await self._write(frames, is_last=isinstance(events[-1], Finished)):
                        return
        except GlimpsedError as error:
            if is_leaving():
                with suppress(Unavailable):
                    await self._recorder.leave()
            else:
                await self._write([self._writer.failure(error)], is_last=True)
        except Exception:
            # Else it would run for ever, for all that anybody could see.
            log.exception("response %s cannot be made", self._writer.response.id)
            self._writer.failure(internal_error())
            await self._recorder.write(_encode(Piece(b"", [], self._state())), is_last=True)

    async def cancel(self, events: Sequence[Event]) -> None:
        """End it behind these events, with which it is written down."""
        with suppress(AnswerLost):
            self._begin_again()
            for event in events:
                self._recorder.news(self._numbered(list(self._writer.frames(event))))
        self._writer.cancel()
        await self._recorder.write(_encode(Piece(b"", [], self._state())), is_last=True)

    def _begin_again(self) -> None:
        """What `announce` writes, for one that another gateway began. Raises AnswerLost."""
        if not self._num_frames:
            self._recorder.news(self._numbered(list(self._writer.queued())))
            self._state()

    async def _write(self, frames: list[bytes], *, is_last: bool) -> bool:
        news = self._recorder.news(self._numbered(frames))
        events, state = self._trail.take(), self._state()
        if not (news or events or is_last):
            return True
        is_written = await self._recorder.write(_encode(Piece(news, events, state)), is_last=is_last)
        if is_written and is_last:
            self._keep(self._writer.response)
        return is_written

    def _numbered(self, frames: Sequence[bytes]) -> bytes:
        """Frames with their sequence numbers as ids."""
        first, self._num_frames = self._num_frames, self._num_frames + len(frames)
        return b"".join(b"id: %d\n%b" % (number, frame) for number, frame in enumerate(frames, first))

    def _state(self) -> bytes:
        """The response as JSON, if its status is another than when this was last called."""
        if self._writer.response.status == self._status:
            return b""
        self._status = self._writer.response.status
        return msgspec.json.encode(self._writer.response)


def _name(tenant: str, response_id: str) -> str:
    """Never that of an idempotency key, which has no line break."""
    return name_of(tenant, f"response\n{response_id}")


def _keep_nothing(_: Response) -> None:
    pass


def unknown() -> RequestError:
    """There is no such response."""
    return RequestError(ErrorCode.NOT_FOUND, "The response does not exist, or is not kept any more.")
