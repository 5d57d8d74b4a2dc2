"""The folder in which one gateway keeps its files and batches, and the lock that makes it one gateway's alone."""

import fcntl
import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

LOCK_NAME = "lock"


@contextmanager
def data_folder(wanted: Path | None, usual: Path) -> Iterator[Path]:
    """`wanted`, made if need be, and locked while inside. Raises OSError when it cannot be had.

    None: `usual`, or where that cannot be had (read-only, or another gateway's) a temporary folder, with a warning.
    """
    with ExitStack() as held:
        folder = wanted or usual
        try:
            held.enter_context(_locked(folder))
        except OSError as error:
            if wanted is not None:
                raise
            log.warning("files and batches will be gone when this server ends (%s); --data-dir keeps them", error)
            folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="glimpsed-data-")))
        yield folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / LOCK_NAME).open("wb") as lock:
        try:
            # The kernel gives it back when the process ends, however it does.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"the data folder '{folder}' is in use by another server") from None
        yield
