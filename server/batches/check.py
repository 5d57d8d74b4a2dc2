"""The check of a batch's input file: each line one request, all for one endpoint and one model.

The file is read in slices, so that a large one neither fills the memory nor keeps a thread for long. Nothing of a
line's values is repeated in an error.
"""

import asyncio
from dataclasses import dataclass
from typing import BinaryIO

from schemas.errors import RequestError
from schemas.openai.batches import BatchError, InputLine
from schemas.openai.strict import validate
from server.batches.records import BatchRecord, LineRecord
from server.files.store import FileStore
from server.fleet import Fleet
from server.json_body import decode_json

MAX_ERRORS = 100
SLICE_BYTES = 1024 * 1024
SKIP_BYTES = 1024 * 1024
WORKERS_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class InputLimits:
    """What an input file may have."""

    max_lines: int
    max_line_bytes: int


class InputCheck:
    """Reads an input file for `endpoint`; at the end `lines` and `model` are what it holds, unless there are `errors`.

    `file` is read from where it stands and is not closed.
    """

    def __init__(self, file: BinaryIO, endpoint: str, limits: InputLimits) -> None:
        self.lines: list[LineRecord] = []
        self.errors: list[BatchError] = []
        self.model = ""
        self._file = file
        self._endpoint = endpoint
        self._limits = limits
        self._number = 0
        self._numbers: dict[str, int] = {}

    def read_slice(self) -> bool:
        """Check the next lines, about a megabyte of them. False once there is nothing left to be done."""
        end = self._file.tell() + SLICE_BYTES
        while self._file.tell() < end:
            if len(self.errors) >= MAX_ERRORS or not self._read_line():
                return False
        return True

    def _read_line(self) -> bool:
        start = self._file.tell()
        line = self._file.readline(self._limits.max_line_bytes + 1)
        if not line:
            if not self.lines and not self.errors:
                self.errors.append(BatchError(code="empty_file", message="The input file has no lines."))
            return False
        self._number += 1
        if self._number > self._limits.max_lines:
            message = f"The input file has more than {self._limits.max_lines} lines."
            self.errors.append(BatchError(code="too_many_tasks", message=message, line=self._number))
            return False
        if not self._read_to_end(line):
            self._add_error("request_too_large", f"This line has more than {self._limits.max_line_bytes} bytes.")
        elif line.strip():
            self._check(line, start)
        return True

    def _read_to_end(self, line: bytes) -> bool:
        """Whether a line came whole; the rest of one that did not is skipped."""
        is_whole = line.endswith(b"\n") or len(line) <= self._limits.max_line_bytes
        while line and not line.endswith(b"\n"):
            line = self._file.readline(SKIP_BYTES)
        return is_whole

    def _check(self, line: bytes, start: int) -> None:
        try:
            value = decode_json(line)
        except RequestError:
            self._add_error("invalid_json_line", "This line is not parseable as valid JSON.")
            return
        try:
            request = validate(InputLine, value)
        except RequestError as error:
            self._add_error(str(error.code), error.message, error.param)
            return
        model = request.body.get("model")
        if request.url != self._endpoint:
            self._add_error("url_mismatch", "The URL of this request is not the endpoint of the batch.", "url")
        elif not isinstance(model, str) or not model:
            self._add_error("missing_required_parameter", "Missing required parameter: 'body.model'.", "body.model")
        elif self.model and model != self.model:
            message = "This request is for another model than those before it; a batch has one model."
            self._add_error("model_mismatch", message, "body.model")
        elif request.body.get("stream"):
            self._add_error("invalid_value", "The answers of a batch cannot be streamed.", "body.stream")
        elif (first := self._numbers.setdefault(request.custom_id, self._number)) != self._number:
            message = f"The custom_id of this request is that of line {first}; each must be unique."
            self._add_error("duplicate_custom_id", message, "custom_id")
        else:
            self.model = model
            self.lines.append(LineRecord(self._number, request.custom_id, start, len(line)))

    def _add_error(self, code: str, message: str, param: str | None = None) -> None:
        self.errors.append(BatchError(code=code, message=message, param=param, line=self._number))


class InputChecker:
    """Checks the input of whole batches."""

    def __init__(self, files: FileStore, fleet: Fleet, limits: InputLimits) -> None:
        self._files = files
        self._fleet = fleet
        self._limits = limits

    async def check(self, batch: BatchRecord) -> InputCheck:
        """The lines and the model of a batch, or its errors. Raises OSError when the file cannot be read."""
        with self._files.path(batch.input_file_id).open("rb") as file:
            check = InputCheck(file, batch.endpoint, self._limits)
            while await asyncio.to_thread(check.read_slice):
                pass
        if not check.errors:
            await self._check_model(check)
        return check

    async def _check_model(self, check: InputCheck) -> None:
        # Just after a start no worker may have told its model yet.
        while not self._fleet.models():
            await asyncio.sleep(WORKERS_POLL_S)
        try:
            self._fleet.card(check.model)
        except RequestError as error:
            line = check.lines[0].number
            check.errors.append(BatchError(code=str(error.code), message=error.message, param="body.model", line=line))
