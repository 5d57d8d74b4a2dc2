"""Files of clients: their records in the database, their bytes in a folder under names of our own.

A file comes to be in two steps: its bytes are written to a draft and reach the disk under the file's id, then its
record is committed. Bytes without a record are what an end in between left behind; `open` removes them.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from schemas.errors import ErrorCode, RequestError, Unavailable
from schemas.openai.files import FileObject, FilesQuery
from server.files.database import Database
from server.files.draft import Draft, keep_all
from server.files.ids import new_id

FILES_FOLDER = "files"
_COLUMNS = "id, tenant, filename, purpose, size_bytes, created_at, expires_at"
_ENDED = "('completed', 'failed', 'expired', 'cancelled')"


@dataclass(frozen=True, slots=True)
class FileLimits:
    """max_file_bytes: of one upload. The others: what all files of a tenant together may be."""

    max_file_bytes: int = 200 * 1024 * 1024
    max_tenant_bytes: int = 10 * 1024 * 1024 * 1024
    max_tenant_files: int = 10_000


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file. Times are Unix seconds; `filename` is a mere label."""

    id: str
    tenant: str
    filename: str
    purpose: str
    size_bytes: int
    created_at: int
    expires_at: int | None

    def wire(self) -> FileObject:
        """As a client sees it."""
        return FileObject(
            id=self.id,
            bytes=self.size_bytes,
            created_at=self.created_at,
            expires_at=self.expires_at,
            filename=self.filename,
            purpose=self.purpose,
        )


class FileStore:
    """All files. clock: Unix seconds."""

    def __init__(self, database: Database, limits: FileLimits, clock: Callable[[], float]) -> None:
        self._database = database
        self._limits = limits
        self._clock = clock
        self._uploading: Counter[str] = Counter()

    async def open(self) -> None:
        """Make the folder, and remove what has no record. Raises OSError."""
        if self._database.is_open:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            kept = await self._database.call(lambda db: {row["id"] for row in db.execute("SELECT id FROM files")})
            await asyncio.to_thread(_remove_others, self._folder, kept)

    def path(self, file_id: str) -> Path:
        """Where the bytes of a file are; `file_id` is that of a record."""
        return self._folder / file_id

    @asynccontextmanager
    async def draft(self) -> AsyncIterator[Draft]:
        """A file for the server's own output, gone at the end unless it was kept. Raises Unavailable."""
        async with self._draft(lambda _: None) as draft:
            yield draft

    @asynccontextmanager
    async def upload(self, tenant: str) -> AsyncIterator[Draft]:
        """A file for what a client sends, within the tenant's limits. Raises RequestError, Unavailable."""
        held_bytes = await self._database.call(lambda db: _check_room(db, tenant, 0, self._limits))

        def charge(size_bytes: int) -> None:
            if draft.size_bytes + size_bytes > self._limits.max_file_bytes:
                raise too_large(self._limits.max_file_bytes)
            if held_bytes + self._uploading[tenant] + size_bytes > self._limits.max_tenant_bytes:
                raise _no_room(self._limits)
            self._uploading[tenant] += size_bytes

        async with self._draft(charge) as draft:
            try:
                yield draft
            finally:
                self._uploading[tenant] -= draft.size_bytes
                if self._uploading[tenant] <= 0:
                    del self._uploading[tenant]

    def record(self, draft: Draft, tenant: str, filename: str, purpose: str, lifetime_s: int | None) -> FileRecord:
        """The record of a finished draft, yet to be committed with `insert`."""
        now = int(self._clock())
        expires_at = None if lifetime_s is None else now + lifetime_s
        return FileRecord(draft.file_id, tenant, filename, purpose, draft.size_bytes, now, expires_at)

    async def keep(self, draft: Draft, record: FileRecord) -> None:
        """Commit a finished upload. Raises RequestError when others have taken the room meanwhile, Unavailable."""

        def commit(db: sqlite3.Connection) -> None:
            _check_room(db, record.tenant, record.size_bytes, self._limits)
            insert(db, record)

        await keep_all([draft], self._database.call(commit))

    async def get(self, file_id: str, tenant: str, param: str = "file_id") -> FileRecord:
        """A tenant's file. Raises RequestError, about `param`, when there is none."""
        now = int(self._clock())
        found = await self._database.call(
            lambda db: db.execute(
                f"SELECT {_COLUMNS} FROM files WHERE id = ? AND tenant = ? AND (expires_at IS NULL OR expires_at > ?)",
                (file_id, tenant, now),
            ).fetchone()
        )
        if found is None:
            raise RequestError(ErrorCode.NOT_FOUND, "There is no such file.", param)
        return FileRecord(*found)

    async def list(self, tenant: str, query: FilesQuery) -> tuple[list[FileRecord], bool]:
        """A page of a tenant's files, and whether more follow."""
        is_ascending = query.order == "asc"
        sql = (
            f"SELECT {_COLUMNS} FROM files WHERE tenant = :tenant AND (expires_at IS NULL OR expires_at > :now)"
            " AND (:purpose IS NULL OR purpose = :purpose)"
            f" AND (:after IS NULL OR id {'>' if is_ascending else '<'} :after)"
            f" ORDER BY id {'ASC' if is_ascending else 'DESC'} LIMIT :limit"
        )
        values = {
            "tenant": tenant,
            "now": int(self._clock()),
            "purpose": query.purpose,
            "after": query.after,
            "limit": query.limit + 1,
        }
        rows = await self._database.call(lambda db: db.execute(sql, values).fetchall())
        return [FileRecord(*row) for row in rows[: query.limit]], len(rows) > query.limit

    async def delete(self, file_id: str, tenant: str) -> None:
        """Forget a tenant's file. Raises RequestError when there is none, or a batch still reads it."""
        await self.get(file_id, tenant)
        await self._database.call(lambda db: _delete(db, file_id))
        await asyncio.to_thread(self.path(file_id).unlink, missing_ok=True)

    async def purge(self) -> None:
        """Forget files whose time is over, but those that a batch still reads."""
        now = int(self._clock())
        for file_id in await self._database.call(lambda db: _delete_expired(db, now)):
            await asyncio.to_thread(self.path(file_id).unlink, missing_ok=True)

    @property
    def _folder(self) -> Path:
        assert self._database.folder is not None
        return self._database.folder / FILES_FOLDER

    @asynccontextmanager
    async def _draft(self, charge: Callable[[int], None]) -> AsyncIterator[Draft]:
        file_id = new_id("file-", self._clock())
        path = self.path(file_id)
        try:
            with path.open("xb") as file:
                draft = Draft(file_id, path, file, charge)
                try:
                    yield draft
                finally:
                    if not draft.is_kept:
                        path.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable("The server's storage failed.", retry_after_s=10.0) from error


def insert(db: sqlite3.Connection, record: FileRecord) -> None:
    """Add a record, within the caller's transaction."""
    db.execute(
        f"INSERT INTO files ({_COLUMNS})"
        " VALUES (:id, :tenant, :filename, :purpose, :size_bytes, :created_at, :expires_at)",
        asdict(record),
    )


def too_large(max_bytes: int) -> RequestError:
    """A file has more than that."""
    return RequestError(ErrorCode.REQUEST_TOO_LARGE, f"A file should have at most {max_bytes} bytes.", "file")


def _check_room(db: sqlite3.Connection, tenant: str, size_bytes: int, limits: FileLimits) -> int:
    """The bytes that a tenant has. Raises RequestError when so many more, or another file, are too many."""
    sql = "SELECT count(*), coalesce(sum(size_bytes), 0) FROM files WHERE tenant = ?"
    num_files, held_bytes = db.execute(sql, (tenant,)).fetchone()
    if num_files >= limits.max_tenant_files or held_bytes + size_bytes > limits.max_tenant_bytes:
        raise _no_room(limits)
    return int(held_bytes)


def _delete(db: sqlite3.Connection, file_id: str) -> None:
    sql = f"SELECT 1 FROM batches WHERE input_file_id = ? AND status NOT IN {_ENDED}"
    if db.execute(sql, (file_id,)).fetchone():
        message = "A batch that has not ended reads this file; cancel it first."
        raise RequestError(ErrorCode.INVALID_REQUEST, message, "file_id")
    db.execute("DELETE FROM files WHERE id = ?", (file_id,))


def _delete_expired(db: sqlite3.Connection, now: int) -> list[str]:
    sql = (
        "DELETE FROM files WHERE expires_at <= ? AND id NOT IN"
        f" (SELECT input_file_id FROM batches WHERE status NOT IN {_ENDED}) RETURNING id"
    )
    return [row["id"] for row in db.execute(sql, (now,)).fetchall()]


def _remove_others(folder: Path, kept: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()


def _no_room(limits: FileLimits) -> RequestError:
    message = (
        f"At most {limits.max_tenant_files} files of {limits.max_tenant_bytes} bytes together are kept; delete some."
    )
    return RequestError(ErrorCode.FORBIDDEN, message, "file")
