"""`python -m tests.fakes.scripted_worker MODEL ...`: the real worker process round the scripted handler.

MODEL scripts its start: `cannot-load`, `crash`, `hang`; anything else becomes ready, `slow` with 20 ms a token.
"""

import asyncio
import sys

from tests.fakes.scripted_backend import ScriptedHandler
from workers.__main__ import main
from workers.handlers.base import ModelLoadError
from workers.settings import WorkerSettings


async def open_scripted(settings: WorkerSettings) -> ScriptedHandler:
    if settings.model == "cannot-load":
        raise ModelLoadError("cannot load 'cannot-load': there is no config.json")
    if settings.model == "crash":
        sys.exit(1)
    if settings.model == "hang":
        await asyncio.Event().wait()
    return ScriptedHandler(settings.name, token_s=0.02 if settings.model == "slow" else 0.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], open_scripted))
