"""Keys and their limits on a daemon as a process: the file, its reload by signal, and what a broken one does."""

import asyncio
import os
import signal
from pathlib import Path

from tests.e2e.scripted import PATIENCE_S, run_command, running

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
CHAT = "/v1/chat/completions"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_a_hang_up_has_the_key_file_read_again_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-old requests-per-minute=2\n")
    async with running("tiny", "--api-key-file", str(file), "--data-dir", str(tmp_path / "data")) as daemon:
        answers = [await daemon.client.post(CHAT, json=BODY, headers=bearer("sk-old")) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
        assert answers[2].headers["retry-after"]

        for text in ("sk-new concurrency=none\n", "sk-new\n"):
            new = tmp_path / "new"
            new.write_text(text)
            os.replace(new, file)
            daemon.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE_S):
            while (await daemon.client.get("/v1/models", headers=bearer("sk-new"))).status_code != 200:
                await asyncio.sleep(0.02)
        assert (await daemon.client.get("/v1/models", headers=bearer("sk-old"))).status_code == 401
        daemon.process.terminate()
        assert await daemon.exit_code() == 0


async def test_a_key_file_that_cannot_be_used_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# no key\n")
    for command in ("serve", "gateway"):
        arguments = ("--port", "0", "--api-key-file", str(file), "--data-dir", str(tmp_path / "data"))
        code, _, error = await run_command(command, *arguments)
        assert code == 2
        assert error == f"glimpsed {command}: --api-key-file: '{file}': there is no key in it\n"
