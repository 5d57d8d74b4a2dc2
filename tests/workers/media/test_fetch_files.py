"""`file:` URLs."""

import os
from pathlib import Path

from schemas.errors import ErrorCode
from tests.workers.media.fetching import fails, fetch
from tests.workers.media.origin import SMALL_LIMITS, Origin
from workers.media.guard import MediaPolicy
from workers.media.types import MediaKind

LIMIT_BYTES = SMALL_LIMITS[MediaKind.IMAGE].size_bytes


async def test_files_are_read_under_the_permitted_folder_only(origin: Origin, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.png").write_bytes(b"content")
    (root / "large.png").write_bytes(b"x" * (LIMIT_BYTES + 1))
    (root / "empty.png").write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    policy = MediaPolicy(file_root=root)
    assert await fetch(origin, f"file://{root}/a.png", policy) == b"content"
    for name, code in (
        ("link.png", ErrorCode.INVALID_IMAGE_URL),
        ("missing.png", ErrorCode.INVALID_IMAGE_URL),
        ("../secret.png", ErrorCode.INVALID_IMAGE_URL),
        ("", ErrorCode.INVALID_IMAGE_URL),
        ("large.png", ErrorCode.IMAGE_FILE_TOO_LARGE),
        ("empty.png", ErrorCode.EMPTY_IMAGE_FILE),
    ):
        assert await fails(origin, f"file://{root}/{name}", policy) == code
    assert await fails(origin, f"file://{root}/a.png") == ErrorCode.INVALID_IMAGE_URL


async def test_a_pipe_under_the_permitted_folder_blocks_nothing(origin: Origin, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    policy = MediaPolicy(file_root=tmp_path)
    assert await fails(origin, f"file://{tmp_path}/pipe", policy) == ErrorCode.INVALID_IMAGE_URL
