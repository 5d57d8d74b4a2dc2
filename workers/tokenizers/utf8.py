"""UTF-8 bytes that arrive in pieces, to text."""

REPLACEMENT = "\ufffd"


class Utf8Stream:
    """Keeps an unfinished character back until it is whole or known to be broken."""

    def __init__(self, replaces_each_byte: bool) -> None:
        self._replaces_each_byte = replaces_each_byte
        self._pending = b""

    def push(self, data: bytes) -> str:
        """Add bytes; returns the characters that they complete."""
        if not self._pending and data.isascii():
            return data.decode("ascii")
        rest, text = self._pending + data, []
        self._pending = b""
        while rest:
            try:
                text.append(rest.decode())
                break
            except UnicodeDecodeError as error:
                text.append(rest[: error.start].decode())
                if error.end == len(rest) and error.reason == "unexpected end of data":
                    self._pending = rest[error.start :]
                    break
                text.append(self._replacement(error.end - error.start))
                rest = rest[error.end :]
        return "".join(text)

    def flush(self) -> str:
        """Replacement characters for what was never completed."""
        text = self._replacement(len(self._pending)) if self._pending else ""
        self._pending = b""
        return text

    def _replacement(self, num_bytes: int) -> str:
        return REPLACEMENT * (num_bytes if self._replaces_each_byte else 1)
