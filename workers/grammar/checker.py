"""The process that tries grammars out, seen from the worker: started on first use, ended when a grammar is too hard."""

import asyncio

import msgspec

from schemas.sampling import Grammar
from workers import child
from workers.grammar.compiling import GrammarError, TrialFailed
from workers.grammar.protocol import HEADER, Verdict, pack
from workers.grammar.vocabulary import Vocabulary

CHECK_TIMEOUT_S = 10.0
"""Wall time. A free machine ends a hard grammar by its CPU time, long before."""
_START_TIMEOUT_S = 60.0
_MODULE = "workers.grammar.check_child"


class Checker:
    """Tries one grammar at a time: a call may only begin when the one before has ended."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._process: asyncio.subprocess.Process | None = None

    async def translate(self, grammar: Grammar) -> str:
        """The grammar for the engine, after a trial. Raises GrammarError."""
        process = await self._running()
        is_whole = False
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                verdict = await _ask(process, grammar)
            is_whole = True
        except (TimeoutError, OSError, EOFError):
            raise TrialFailed("it is too complex") from None
        finally:
            if not is_whole:
                await self._end()
        if verdict.reason:
            raise GrammarError(verdict.reason)
        return verdict.translated

    async def close(self) -> None:
        """End the process, whatever it does."""
        await self._end()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is not None:
            await self._end()  # it died while it had nothing to do
        if self._process is None:
            self._process = await self._start()
        return self._process

    async def _start(self) -> asyncio.subprocess.Process:
        """A process that knows the vocabulary. Raises RuntimeError: that is this machine's fault, no grammar's."""
        process = await asyncio.create_subprocess_exec(
            *child.command(_MODULE),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            env=child.ENVIRONMENT, cwd="/",
            start_new_session=True,  # a terminal's Ctrl-C is the worker's affair: it drains first
        )  # fmt: skip
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await _ask(process, self._vocabulary)
        except (TimeoutError, OSError, EOFError) as error:
            await _kill(process)
            raise RuntimeError("the process that checks grammars does not start") from error
        except BaseException:
            await _kill(process)
            raise
        return process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await _kill(process)


async def _ask(process: asyncio.subprocess.Process, message: Vocabulary | Grammar) -> Verdict:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(pack(message))
    await process.stdin.drain()
    (size,) = HEADER.unpack(await process.stdout.readexactly(HEADER.size))
    return msgspec.msgpack.decode(await process.stdout.readexactly(size), type=Verdict)


async def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    # Not `wait` alone: the transport's pipes are only closed once what they hold has been read.
    await process.communicate()
