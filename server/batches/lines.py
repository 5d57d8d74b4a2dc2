"""The lines of a batch, answered: each by a request from within, when there is room for it, and taken into the records.

Nothing of a line is kept in memory while it waits. A line that was not answered, for whatever reason, is simply still
to be answered.
"""

import asyncio
from functools import partial
from pathlib import Path

import msgspec

from server.batches import records
from server.batches.inner import Answer, InnerClient
from server.batches.metrics import PUT_BACK, BatchMetrics
from server.batches.output import output_line, tokens_of
from server.batches.records import BatchRecord, LineRecord, Outcome, Tokens
from server.batches.seats import Seat, Seats
from server.files.database import Database
from server.files.store import FileStore

MAX_ATTEMPTS = 3
"""As OpenAI's clients have it: two retries."""
LINES_AT_ONCE = 64


class _Line(msgspec.Struct):
    """A line, of which only the body is wanted, as it was written."""

    body: msgspec.Raw


_decode = msgspec.json.Decoder(_Line).decode


class LineRunner:
    """Answers lines. retry_s: the pause after a failure that may pass, at first."""

    def __init__(
        self,
        database: Database,
        files: FileStore,
        client: InnerClient,
        seats: Seats,
        metrics: BatchMetrics,
        retry_s: float,
    ) -> None:
        self._database = database
        self._files = files
        self._client = client
        self._seats = seats
        self._metrics = metrics
        self._retry_s = retry_s

    async def run(self, batch: BatchRecord) -> None:
        """Answer every line that has no answer yet. Raises ExceptionGroup when the storage fails."""
        assert batch.model is not None
        after = 0
        async with asyncio.TaskGroup() as group:
            while lines := await self._unanswered(batch.id, after):
                for line in lines:
                    seat = self._seats.seat(batch.model, line.size_bytes)
                    await seat.take()
                    task = group.create_task(self._run_line(batch, line, seat))
                    # Not in the task itself, which may be cancelled before it begins.
                    task.add_done_callback(partial(_leave, seat))
                after = lines[-1].number

    async def _run_line(self, batch: BatchRecord, line: LineRecord, seat: Seat) -> None:
        answer = await self._answer(batch, line, seat)
        outcome = Outcome.COMPLETED if answer.status == 200 else Outcome.FAILED
        commit = partial(
            records.answer,
            batch_id=batch.id,
            number=line.number,
            outcome=outcome,
            output=output_line(line.custom_id, answer),
            tokens=tokens_of(answer) if outcome is Outcome.COMPLETED else Tokens(),
        )
        if await self._database.call(commit):
            self._metrics.ended(outcome)

    async def _answer(self, batch: BatchRecord, line: LineRecord, seat: Seat) -> Answer:
        num_attempts = 0
        path = self._files.path(batch.input_file_id)
        while True:
            body = await asyncio.to_thread(_read_body, path, line)
            with self._metrics.running.track_inprogress():
                answer = await self._client.post(batch.endpoint, batch.tenant, body)
            if answer.is_put_back:
                self._metrics.ended(PUT_BACK)
                seat.leave()
                await asyncio.sleep(self._retry_s)
                await seat.take()
                continue
            num_attempts += 1
            if num_attempts == MAX_ATTEMPTS or not answer.should_retry:
                return answer
            await asyncio.sleep(self._retry_s * 2 ** (num_attempts - 1))

    async def _unanswered(self, batch_id: str, after: int) -> list[LineRecord]:
        read = partial(records.unanswered, batch_id=batch_id, after=after, limit=LINES_AT_ONCE)
        return await self._database.call(read)


def _read_body(path: Path, line: LineRecord) -> bytes:
    with path.open("rb") as file:
        file.seek(line.start)
        return bytes(_decode(file.read(line.size_bytes)).body)


def _leave(seat: Seat, _: "asyncio.Task[None]") -> None:
    seat.leave()
