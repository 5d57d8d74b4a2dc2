"""A response of the background as server-sent events, to a client that may come when it likes and leave again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from schemas.errors import GlimpsedError
from server.body_writer import BodyWriter
from server.chat_frames import KEEP_ALIVE
from server.streaming import HEADERS, Patience


class FrameStream(Response):
    """Frames as they come. Nothing ends them but their own end; a client that leaves ends nothing."""

    def __init__(self, frames: AsyncIterator[bytes], patience: Patience) -> None:
        super().__init__()
        self._frames = frames
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve."""
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                # A client that does not read is not told, and one whose frames are lost sees the connection break.
                with suppress(OSError, TimeoutError, GlimpsedError):
                    writing.result()
        finally:
            writing.cancel()
            leaving.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        async with BodyWriter(send, self._patience.stall_s) as body:
            following = asyncio.ensure_future(anext(self._frames, None))
            try:
                while True:
                    await asyncio.wait({following}, timeout=self._patience.keep_alive_s)
                    if not following.done():
                        await body.write(KEEP_ALIVE)
                    elif (frames := following.result()) is None:
                        break
                    else:
                        await body.write(frames)
                        following = asyncio.ensure_future(anext(self._frames, None))
            finally:
                following.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
