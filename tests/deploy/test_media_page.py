"""docs/media.md against the limits and lists in the code."""

from server.settings import ServeSettings
from tests.deploy.project import code_names, flags_of, read, tables
from workers.backends.sizing import Asked, size_engine
from workers.media import fetch, image, sandbox, transforms
from workers.media.clip_rules import bad_format
from workers.media.image import open_image
from workers.media.types import MediaKind
from workers.media.url_cache import MAX_FRESH_S
from workers.settings import WorkerSettings

PAGE = read("docs/media.md")
TEXT = " ".join(PAGE.split())


def test_containers_are_those_that_refusals_name() -> None:
    rows = {row[0]: row[1:] for row in tables(PAGE, "## What is read")}
    pictures, clips = (set(cell.split(", ")) for cell in rows["containers"])
    assert pictures == _named(image._bad_format().message)
    assert clips == _named(bad_format().message.replace("animated ", ""))
    assert callable(open_image)


def test_numbers_are_those_of_the_code() -> None:
    limits = fetch.LIMITS[MediaKind.IMAGE]
    settings = ServeSettings()
    worker = WorkerSettings(model="demo")
    embeddings = {is_cuda: size_engine(Asked(), is_cuda, 1 << 30, 1, 1, False) for is_cuda in (False, True)}
    for sentence in (
        f"`--limit-images` pictures ({settings.limit_images})",
        f"`--limit-videos` clips ({settings.limit_videos})",
        f"At most {transforms.MAX_FRAMES} frames",
        f"{image.MAX_ASPECT}:1 at most",
        f"at least {limits.bytes_per_s >> 10} KiB/s after {_WORDS[int(limits.grace_s)]} seconds",
        f"has {_WORDS[fetch.MAX_REDIRECTS]} redirects at most",
        f"{_WORDS[fetch.MAX_CONNECTIONS_PER_HOST]} connections go to one host".capitalize(),
        f"at most `--media-cache-memory` a worker ({worker.media_cache_memory >> 20} MiB)",
        f"at most `--embedding-cache-memory` ({embeddings[False].encoder_cache_bytes >> 20} MiB on a CPU, "
        f"{embeddings[True].encoder_cache_bytes >> 30} GiB on a GPU)",
        f"until it is replaced after {sandbox.Sandbox()._items_per_process} items",
        f"{sandbox.LIMITS[MediaKind.VIDEO].cpu_s} seconds of CPU time with each",
    ):
        assert sentence in TEXT, sentence
    assert MAX_FRESH_S == 24 * 3600 and "(a day at most)" in TEXT


def test_flags_are_those_of_serve() -> None:
    named = {flag for row in tables(PAGE, "## Flags") for flag in code_names(row[0])}
    assert named and named <= flags_of("serve")


_WORDS = {3: "three", 8: "eight"}


def _named(refusal: str) -> set[str]:
    """The formats in "... send A, B or C."."""
    return set(refusal.partition("send ")[2].rstrip(".").replace(" or ", ", ").split(", "))
