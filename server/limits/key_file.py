"""The file of `--api-key-file`: a key a line, alone or with a name and limits of its own.

    # comments and empty lines are skipped
    sk-one
    sk-two name=alice requests-per-minute=60 tokens-per-minute=100000 concurrency=4 min-priority=10

Nothing of a key gets into an error.
"""

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from schemas.flags import ConfigError
from server.limits.key_limits import UNLIMITED, KeyLimits

MAX_FILE_BYTES = 8 << 20
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_INTEGER = re.compile(r"-?[0-9]{1,9}")
_OPTIONS = {
    "requests-per-minute": "requests_per_minute",
    "tokens-per-minute": "tokens_per_minute",
    "concurrency": "max_concurrency",
    "min-priority": "min_priority",
}


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key as it is kept: its digest, a name for the log, and what it may take."""

    digest: bytes
    name: str
    limits: KeyLimits


class KeyFile:
    """A key file that may change. defaults: limits where a line has none of its own."""

    def __init__(self, path: Path, defaults: KeyLimits = UNLIMITED) -> None:
        self._path = path
        self._defaults = defaults
        self._seen: tuple[int, int, int] | None = None

    def has_changed(self) -> bool:
        """Whether the file is another than was read last, by its inode, time and size."""
        return self._state() != self._seen

    def read(self) -> list[KeyEntry]:
        """Its keys. Raises ConfigError, in one line, for a file that cannot be used; one without keys is none."""
        # Noted first: what is written while it is read is read once more.
        self._seen = self._state()
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            text = content.decode()
        except OSError as error:
            raise ConfigError(f"--api-key-file: cannot read '{self._path}': {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"--api-key-file: '{self._path}' is not UTF-8") from None
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError(f"--api-key-file: '{self._path}' is larger than {MAX_FILE_BYTES} bytes")
        try:
            return parse_keys(text, self._defaults)
        except ValueError as error:
            raise ConfigError(f"--api-key-file: '{self._path}': {error}") from None

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


def parse_keys(text: str, defaults: KeyLimits) -> list[KeyEntry]:
    """The keys of a file's text. Raises ValueError, which names the line and nothing of it."""
    entries: dict[bytes, KeyEntry] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        entry = _entry(f"line {number}", words, defaults)
        if entry.digest in entries:
            raise ValueError(f"line {number}: the key stands there twice")
        entries[entry.digest] = entry
    if not entries:
        raise ValueError("there is no key in it")
    return list(entries.values())


def digest_of(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key).digest()


def _entry(line: str, words: list[str], defaults: KeyLimits) -> KeyEntry:
    key, *options = words
    name, values = "", dict[str, int]()
    for option in options:
        word, _, value = option.partition("=")
        if word == "name" and _NAME.fullmatch(value):
            name = value
        elif word not in _OPTIONS or not _INTEGER.fullmatch(value):
            raise ValueError(f"{line}: after the key there should be name=NAME or {'=N, '.join(_OPTIONS)}=N")
        elif word != "min-priority" and int(value) < 1:
            raise ValueError(f"{line}: '{word}' should be at least 1")
        else:
            values[_OPTIONS[word]] = int(value)
    return KeyEntry(digest_of(key.encode()), name, replace(defaults, **values))
