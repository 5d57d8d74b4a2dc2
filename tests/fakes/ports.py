"""Ports for servers that start in a moment, in processes of their own."""

import contextlib
import itertools
import os
import socket

_PORTS = range(20_000, 32_000)
"""Below those that Linux hands out to clients and to servers that take any: until a daemon listens, a second or two and
other processes' tests go by."""
_turns = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A port of loopback where nobody listens. Other processes begin elsewhere; none gives one port out twice.

    Raises OSError when all are taken.
    """
    for turn in itertools.islice(_turns, len(_PORTS)):
        port = _PORTS[turn % len(_PORTS)]
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError(f"all ports from {_PORTS.start} to {_PORTS.stop - 1} are taken")
