"""Where logging is set up, for every process: one line a record on stderr, as text or as JSON."""

import json
import logging
import sys
import time

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F)}
del _CONTROL[ord("\n")], _CONTROL[ord("\t")]


class _TextFormatter(logging.Formatter):
    """Time, level, process, logger, message. Control characters, which could forge lines or colours, are escaped;
    a message stays on one line, only a traceback takes more."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {process} %(name)s: %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).translate(_CONTROL).replace("\n", "\\n")


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logging(level: str, format_name: str, process: str) -> None:
    """Send all records from `level` on to stderr. `process` names this one in every line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(process) if format_name == "json" else _TextFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("asyncio", "httpx", "httpcore", "urllib3", "filelock", "multipart", "uvicorn"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
