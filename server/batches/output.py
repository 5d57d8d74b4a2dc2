"""The files that a batch ends with: a line for each line of the input, apart those with an answer and with an error."""

import secrets
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import msgspec

from schemas.openai.batches import LineError, LineResponse, OutputLine
from schemas.openai.files import DAY_S
from server.batches import records
from server.batches.inner import Answer
from server.batches.records import AnsweredLine, BatchRecord, Outcome, Status, Tokens
from server.files import store
from server.files.database import Database
from server.files.draft import Draft, keep_all
from server.files.store import FileRecord, FileStore

PURPOSE = "batch_output"
OUTPUT, ERROR = "output", "error"
DEFAULT_LIFETIME_S = 30 * DAY_S
LINES_AT_ONCE = 64

_encode = msgspec.json.Encoder().encode


class _Details(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    """The usage of any kind of answer; each kind has its own names for the same figures."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _Details | None = None


class _Body(msgspec.Struct):
    usage: _Usage | None = None


_decode_body = msgspec.json.Decoder(_Body).decode


def output_line(custom_id: str, answer: Answer) -> bytes:
    """A line for an answer, also for one that is an error."""
    response = LineResponse(status_code=answer.status, request_id=answer.request_id, body=msgspec.Raw(answer.body))
    return _encode(OutputLine(id=_new_line_id(), custom_id=custom_id, response=response, error=None))


def tokens_of(answer: Answer) -> Tokens:
    """What an answer cost; nothing, if it does not say."""
    try:
        usage = _decode_body(answer.body).usage or _Usage()
    except msgspec.MsgspecError:
        return Tokens()
    details = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
    return Tokens(
        usage.prompt_tokens + usage.input_tokens,
        details.cached_tokens,
        usage.completion_tokens + usage.output_tokens,
    )


class BatchFiles:
    """Writes a batch's output and error file; neither is there for a client before the batch has ended."""

    def __init__(self, database: Database, files: FileStore) -> None:
        self._database = database
        self._files = files

    async def end(self, batch: BatchRecord, target: Status, now: int) -> int:
        """Write both files, and end the batch with them in one transaction. Returns how many lines are expired.

        Lines without an answer are errors, but in a cancelled batch, which has nothing to say of them. Raises
        Unavailable, and then the batch stands where it stood.
        """
        num_expired = 0
        async with AsyncExitStack() as opened:
            drafts: dict[str, Draft] = {}
            async for line in self._lines(batch.id):
                if line.outcome is None and target is Status.CANCELLED:
                    continue
                kind = OUTPUT if line.outcome is Outcome.COMPLETED else ERROR
                if kind not in drafts:
                    drafts[kind] = await opened.enter_async_context(self._files.draft())
                num_expired += line.outcome is None
                await drafts[kind].write((line.answer or _expired(line.custom_id)) + b"\n")
            files = {kind: await self._finish(draft, batch, kind) for kind, draft in drafts.items()}
            file_ids = {kind: file.id for kind, file in files.items()}

            def commit(db: sqlite3.Connection) -> None:
                for file in files.values():
                    store.insert(db, file)
                records.end(db, batch.id, target, file_ids.get(OUTPUT), file_ids.get(ERROR), num_expired, now)

            await keep_all(drafts.values(), self._database.call(commit))
        return num_expired

    async def _lines(self, batch_id: str) -> AsyncIterator[AnsweredLine]:
        after = 0
        while True:
            read = partial(records.lines_after, batch_id=batch_id, after=after, limit=LINES_AT_ONCE)
            lines = await self._database.call(read)
            if not lines:
                return
            for line in lines:
                yield line
            after = lines[-1].number

    async def _finish(self, draft: Draft, batch: BatchRecord, kind: str) -> FileRecord:
        await draft.finish()
        lifetime_s = batch.output_lifetime_s or DEFAULT_LIFETIME_S
        return self._files.record(draft, batch.tenant, f"{batch.id}_{kind}.jsonl", PURPOSE, lifetime_s)


def _expired(custom_id: str) -> bytes:
    error = LineError(code="batch_expired", message="The batch's time was over before this request could be answered.")
    return _encode(OutputLine(id=_new_line_id(), custom_id=custom_id, response=None, error=error))


def _new_line_id() -> str:
    return f"batch_req_{secrets.token_hex(16)}"
