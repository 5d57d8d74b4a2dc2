"""The database's file and thread, and the folder that it is in."""

import logging
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from server.files.database import FILE_NAME, Database, check_database
from server.files.folder import data_folder
from server.files.ids import new_id
from server.files.store import FileLimits, FileRecord, FileStore, insert
from tests.fakes.clock import Clock

ADD = "INSERT INTO files VALUES (?, '', 'a', 'batch', 1, 1, NULL)"


def count(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM files").fetchone()[0])


async def test_what_was_committed_is_there_again_and_what_failed_is_not(tmp_path: Path) -> None:
    database = Database(tmp_path)
    await database.open()
    await database.call(lambda db: db.execute(ADD, ("one",)).rowcount)

    def fail(db: sqlite3.Connection) -> None:
        db.execute(ADD, ("two",))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.call(fail)
    assert await database.call(count) == 1
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    await database.close()
    again = Database(tmp_path)
    await again.open()
    assert await again.call(count) == 1
    await again.close()


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, b""])
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    if content:
        with pytest.raises(OSError, match=FILE_NAME):
            check_database(tmp_path)
    else:
        check_database(tmp_path)


def test_a_database_of_another_version_is_left_alone(tmp_path: Path) -> None:
    check_database(tmp_path)
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OSError, match="version 99"):
        check_database(tmp_path)


def test_a_folder_is_one_servers_alone_until_it_ends(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    with data_folder(folder, tmp_path / "usual") as held:
        assert held == folder and os.stat(folder).st_mode & 0o777 == 0o700
        with pytest.raises(OSError, match="in use by another server"), data_folder(folder, tmp_path):
            pass
    with data_folder(folder, tmp_path / "usual") as held:
        assert held == folder
    assert not (tmp_path / "usual").exists()


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from server.files.folder import data_folder\n"
        "with data_folder(Path(sys.argv[1]), Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parents[3], check=False)
    assert killed.returncode == -9
    with data_folder(tmp_path, tmp_path) as held:
        assert held == tmp_path


def test_the_usual_folder_gives_way_to_a_temporary_one_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with data_folder(None, tmp_path / "usual") as first, caplog.at_level(logging.WARNING):
        assert first == tmp_path / "usual" and not caplog.records
        with data_folder(None, tmp_path / "usual") as second:
            assert second != first and second.is_dir()
            assert "--data-dir" in caplog.text
    assert not second.exists()
    (tmp_path / "file").write_bytes(b"")
    with data_folder(None, tmp_path / "file") as third:
        assert third.is_dir()
    with pytest.raises(OSError, match="file"), data_folder(tmp_path / "file", tmp_path / "usual"):
        pass


def test_ids_sort_by_time_and_are_not_to_be_guessed() -> None:
    ids = [new_id("file-", time_s) for time_s in (1.0, 1.5, 2.0, 1_700_000_000.0, 4_000_000_000.0)]
    assert ids == sorted(ids)
    same = {new_id("file-", 5.0) for _ in range(1000)}
    assert len(same) == 1000 and {len(one) for one in same} == {45}


async def test_files_whose_time_is_over_are_gone_and_their_bytes_with_them(tmp_path: Path) -> None:
    clock, database = Clock(1000.0), Database(tmp_path)
    await database.open()
    files = FileStore(database, FileLimits(), clock)
    await files.open()
    records = []
    for lifetime_s in (3600, None):
        async with files.upload("me") as draft:
            await draft.write(b"x")
            await draft.finish()
            records.append(files.record(draft, "me", "a", "batch", lifetime_s))
            await files.keep(draft, records[-1])
    clock.advance(3599)
    await files.purge()
    assert await files.get(records[0].id, "me") == records[0]
    clock.advance(1)
    with pytest.raises(Exception, match="no such file"):
        await files.get(records[0].id, "me")
    await files.purge()
    assert [path.name for path in (tmp_path / "files").iterdir()] == [records[1].id]
    await database.close()


async def test_bytes_without_a_record_and_drafts_that_were_not_kept_are_removed(tmp_path: Path) -> None:
    database = Database(tmp_path)
    await database.open()
    files = FileStore(database, FileLimits(), Clock())
    await files.open()
    async with files.draft() as draft:
        await draft.write(b"x")
        assert draft.path.exists()
    assert not draft.path.exists()
    kept = FileRecord("file-kept", "", "a", "batch", 1, 1, None)
    await database.call(lambda db: insert(db, kept))
    for name in ("file-kept", "file-left"):
        (tmp_path / "files" / name).write_bytes(b"x")
    await files.open()
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["file-kept"]
    await database.close()
