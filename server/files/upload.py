"""POST /v1/files: a form with one file, written to the disk as it comes, in constant memory.

The file's name is a label and never a path. Fields may stand before or after the file.
"""

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from schemas.errors import ErrorCode, RequestError
from schemas.openai.files import DAY_S, UploadFields, number_in
from schemas.openai.strict import printable, validate
from server.files.draft import Draft
from server.files.store import FileRecord, FileStore, too_large

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

DEFAULT_LIFETIME_S = 30 * DAY_S
MAX_FIELD_BYTES = 256
MAX_FIELDS = 8
MAX_FORM_BYTES = 64 * 1024
"""What the form may have around its file."""
MAX_FILENAME_CHARS = 255
_EXPIRY = re.compile(r"expires_after\[(anchor|seconds)\]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


async def receive_upload(
    request: Request, chunks: AsyncIterator[bytes], files: FileStore, tenant: str, max_file_bytes: int
) -> FileRecord:
    """Keep the file of a request, whose body comes as `chunks`.

    Raises RequestError (400, 403, 413, 415), what `chunks` raises, Unavailable when the disk fails.
    """
    form = UploadForm(_boundary(request, max_file_bytes))
    async with files.upload(tenant) as draft:
        await _read(form, chunks, draft)
        wanted = form.fields()
        await draft.finish()
        lifetime_s = DEFAULT_LIFETIME_S if wanted.expires_after is None else wanted.expires_after.seconds
        record = files.record(draft, tenant, form.filename(), wanted.purpose, lifetime_s)
        await files.keep(draft, record)
    return record


class UploadForm:
    """A multipart form, taken apart as it comes; `file_bytes` holds what came of the file since it was last emptied."""

    def __init__(self, boundary: bytes) -> None:
        self.file_bytes = bytearray()
        self.num_other_bytes = 0
        self.is_complete = False
        self._filename: str | None = None
        self._fields: dict[str, bytearray] = {}
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._target: bytearray | None = None
        self._parser = MultipartParser(boundary, self._callbacks(), max_header_count=8, max_header_size=4096)

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body. Raises RequestError."""
        before = len(self.file_bytes)
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise _invalid("it is not a multipart form") from None
        self.num_other_bytes += len(chunk) - (len(self.file_bytes) - before)
        if self.num_other_bytes > MAX_FORM_BYTES:
            raise _invalid(f"there are more than {MAX_FORM_BYTES} bytes beside the file")

    def fields(self) -> UploadFields:
        """What the form says beside the file. Raises RequestError."""
        values: dict[str, object] = {}
        expiry: dict[str, object] = {}
        for name, value in self._fields.items():
            text = value.decode("utf-8", "replace")
            if part := _EXPIRY.fullmatch(name):
                expiry[part[1]] = number_in(text) if part[1] == "seconds" else text
            else:
                values[name] = text
        return validate(UploadFields, values | ({"expires_after": expiry} if expiry else {}))

    def filename(self) -> str:
        """The file's name, fit to be shown. Raises RequestError when there was no file, or no end."""
        if not self.is_complete:
            raise _invalid("it ends too early")
        if self._filename is None:
            raise RequestError(ErrorCode.MISSING_PARAMETER, "Missing required parameter: 'file'.", "file")
        return _CONTROL.sub("", self._filename)[:MAX_FILENAME_CHARS]

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin_part,
            "on_header_begin": self._begin_header,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_data,
            "on_part_data": self._take_data,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._disposition = b""
        self._target = None

    def _begin_header(self) -> None:
        self._header = (bytearray(), bytearray())

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)

    def _begin_data(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if not name:
            raise _invalid("one of its parts has no name")
        if name in self._fields or (name == "file" and self._filename is not None):
            raise RequestError(ErrorCode.INVALID_VALUE, f"'{printable(name)}' is given twice.", printable(name))
        if len(self._fields) >= MAX_FIELDS:
            raise _invalid(f"it has more than {MAX_FIELDS} fields")
        if name == "file" and b"filename" in options:
            self._filename = options[b"filename"].decode("utf-8", "replace")
            self._target = self.file_bytes
        else:
            self._target = self._fields[name] = bytearray()

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        assert self._target is not None
        self._target += data[start:end]
        if self._target is not self.file_bytes and len(self._target) > MAX_FIELD_BYTES:
            raise _invalid(f"a field has more than {MAX_FIELD_BYTES} bytes")

    def _end(self) -> None:
        self.is_complete = True


async def _read(form: UploadForm, chunks: AsyncIterator[bytes], draft: Draft) -> None:
    async for chunk in chunks:
        form.feed(chunk)
        if form.file_bytes:
            await draft.write(bytes(form.file_bytes))
            form.file_bytes.clear()


def _boundary(request: Request, max_file_bytes: int) -> bytes:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "Request bodies cannot be compressed.")
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:
        message = "The content type should be 'multipart/form-data', with a boundary of 1 to 70 characters."
        raise RequestError(ErrorCode.INVALID_REQUEST, message)
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or int(length[:20]) > max_file_bytes + MAX_FORM_BYTES:
        raise too_large(max_file_bytes)
    return boundary


def _invalid(reason: str) -> RequestError:
    return RequestError(ErrorCode.INVALID_REQUEST, f"The form could not be read: {reason}.")
