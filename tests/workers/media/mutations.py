"""Damaged media, the same for the same number: bytes flipped, cut out, doubled, overwritten, files cut short."""

import random
from collections.abc import Callable, Sequence

from tests.workers.media.clips import animation, clip
from tests.workers.media.test_image import FORMATS, encode, noise

_TELLING = (b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x00\x00\x01")


def pictures() -> list[bytes]:
    """One of each format, and the odd ones."""
    some = [encode(noise(40, 30), image_format) for image_format in FORMATS]
    some += [encode(noise(40, 30), "JPEG", progressive=True), encode(noise(40, 30, 4), "WEBP", lossless=True)]
    some += [encode(noise(40, 30).convert("P"), "PNG", transparency=3), encode(noise(40, 30).convert("CMYK"), "TIFF")]
    return [*some, animation("WEBP", 3), animation("GIF", 3)]


def clips() -> list[bytes]:
    """One of each container, by several codecs."""
    kinds = [("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4"), ("matroska", "libx264"), ("mp4", "mpeg4")]
    return [clip(10, container=container, codec=codec) for container, codec in kinds] + [animation("WEBP", 8)]


def mutated(seeds: Sequence[bytes], number: int) -> bytes:
    """The number-th damaged file: one to four mutations of a seed, more often near its head, where structure is."""
    chance = random.Random(number)
    content = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 4)):
        if len(content) > 8:
            reach = len(content) if chance.random() < 0.5 else min(len(content), 256)
            chance.choice(_MUTATIONS)(content, chance.randrange(reach), chance)
    return bytes(content)


def _flip(content: bytearray, at: int, chance: random.Random) -> None:
    content[at] ^= 1 << chance.randrange(8)


def _overwrite(content: bytearray, at: int, chance: random.Random) -> None:
    content[at : at + 4] = chance.choice(_TELLING)


def _cut_out(content: bytearray, at: int, chance: random.Random) -> None:
    del content[at : at + chance.randint(1, 64)]


def _double(content: bytearray, at: int, chance: random.Random) -> None:
    content[at:at] = content[at : at + chance.randint(1, 64)]


def _scramble(content: bytearray, at: int, chance: random.Random) -> None:
    length = chance.randint(1, 16)
    content[at : at + length] = chance.randbytes(length)


def _truncate(content: bytearray, at: int, chance: random.Random) -> None:
    del content[max(8, at) :]


_MUTATIONS: tuple[Callable[[bytearray, int, random.Random], None], ...] = (
    _flip, _flip, _overwrite, _cut_out, _double, _scramble, _truncate,
)  # fmt: skip
