"""The gateway's SQLite file: one connection in one thread, and the tables that files and batches are kept in.

All work is done in that thread, in the order in which it was asked for, each piece in a transaction of its own: it is
committed, to the disk, before its caller goes on, or it has not happened.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from schemas.errors import ErrorCode, RequestError, Unavailable

Result = TypeVar("Result")

FILE_NAME = "glimpsed.sqlite3"
SCHEMA_VERSION = 1
MAX_JOURNAL_BYTES = 64 * 1024 * 1024
SCHEMA = (
    """CREATE TABLE files (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, filename TEXT NOT NULL, purpose TEXT NOT NULL,
        size_bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER
    ) WITHOUT ROWID""",
    "CREATE INDEX files_by_tenant ON files (tenant, id)",
    """CREATE TABLE batches (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, endpoint TEXT NOT NULL, input_file_id TEXT NOT NULL,
        completion_window TEXT NOT NULL, metadata TEXT, output_lifetime_s INTEGER, status TEXT NOT NULL,
        model TEXT, errors TEXT, output_file_id TEXT, error_file_id TEXT,
        created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, in_progress_at INTEGER, finalizing_at INTEGER,
        completed_at INTEGER, failed_at INTEGER, expired_at INTEGER, cancelling_at INTEGER, cancelled_at INTEGER,
        num_lines INTEGER NOT NULL DEFAULT 0, num_completed INTEGER NOT NULL DEFAULT 0,
        num_failed INTEGER NOT NULL DEFAULT 0, input_tokens INTEGER NOT NULL DEFAULT 0,
        cached_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID""",
    "CREATE INDEX batches_by_tenant ON batches (tenant, id)",
    # Answers may be long, which a table without row ids keeps badly.
    """CREATE TABLE lines (
        batch_id TEXT NOT NULL, number INTEGER NOT NULL, custom_id TEXT NOT NULL,
        start INTEGER NOT NULL, size_bytes INTEGER NOT NULL, outcome TEXT, answer BLOB,
        PRIMARY KEY (batch_id, number)
    )""",
    "CREATE INDEX lines_unanswered ON lines (batch_id, number) WHERE outcome IS NULL",
)


class Database:
    """`folder`: where it is kept; None: this server keeps nothing, and says so to whoever asks."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")
        self._connection: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is anything to ask."""
        return self._connection is not None

    async def open(self) -> None:
        """Open the file, made if need be. Raises OSError when it cannot be used, or is of another version."""
        if self.folder is not None:
            loop = asyncio.get_running_loop()
            self._connection = await loop.run_in_executor(self._thread, _connect, self.folder / FILE_NAME)

    async def call(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """What `work` returns, once its transaction is on the disk; where it raises, nothing has changed.

        Raises RequestError where nothing is kept, Unavailable when the disk fails.
        """
        connection = self._connection
        if connection is None:
            raise RequestError(ErrorCode.INVALID_REQUEST, "This server keeps no files and no batches.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, _transact, connection, work)
        except sqlite3.OperationalError as error:
            raise Unavailable("The server's storage failed.", retry_after_s=10.0) from error

    async def close(self) -> None:
        """Finish what was asked for and close the file."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, connection.close)
        self._thread.shutdown(wait=False)


def check_database(folder: Path) -> None:
    """Raises OSError when the folder's database cannot be used."""
    _connect(folder / FILE_NAME).close()


def _transact(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], Result]) -> Result:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        # SQLite may have rolled back by itself, for example when the disk is full.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return result


def _connect(path: Path) -> sqlite3.Connection:
    # Its side files get the same mode.
    path.touch(mode=0o600)
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {MAX_JOURNAL_BYTES}")
            _transact(connection, _prepare)
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        raise OSError(f"cannot use '{path}': {error}") from error
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif version != SCHEMA_VERSION:
        raise OSError(f"the data folder is of version {version}; this server reads version {SCHEMA_VERSION}")
