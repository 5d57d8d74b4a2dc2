"""A second question about the same 12-tile picture: no vision tower, the shared prefix from the cache.

python -m benchmarks.second_turn [--conversations 6]
"""

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

import httpx

from benchmarks.daemon import Daemon, serve
from benchmarks.make_checkpoint import write_checkpoint
from benchmarks.report import write_report
from server.loadgen import ask, chat_body, picture_url

TOKENS = 16


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--conversations", type=int, default=6)
    asked = args.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), 768, 10, 384, 8, 224, tiles=12)
        with serve([f"dummy-88m={folder}", "--load-format", "dummy"]) as daemon:
            asyncio.run(converse(daemon, 999))
            talks = [asyncio.run(converse(daemon, number)) for number in range(asked.conversations)]
    first = statistics.median(talk["first_s"] for talk in talks)
    second = statistics.median(talk["second_s"] for talk in talks)
    rows = [
        ("TTFT of the first turn, median s", first),
        ("TTFT of the second turn, median s", second),
        ("second over first", second / first),
        ("prompt tokens, second turn", talks[0]["prompt_tokens"]),
        ("of these from the cache", talks[0]["cached_tokens"]),
        ("items that the tower ran for, first turns", sum(talk["first_encoded"] for talk in talks)),
        ("items that the tower ran for, second turns", sum(talk["second_encoded"] for talk in talks)),
    ]
    notes = "Dummy InternVL of 88 M parameters, 640 x 480 pictures (12 tiles and a thumbnail), one client."
    write_report("second_turn", "A second turn on the same picture", notes, ["figure", "value"], rows)


async def converse(daemon: Daemon, number: int) -> dict[str, Any]:
    """Two turns about one picture."""
    content = [
        {"type": "image_url", "image_url": {"url": picture_url((640, 480), number)}},
        {"type": "text", "text": f"Conversation {number}: what is this?"},
    ]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    async with httpx.AsyncClient(base_url=daemon.base_url, timeout=300) as client:
        before = daemon.metric("glimpsed_worker_engine_encoded_items_total")
        first = await ask(client, chat_body(messages, "dummy-88m", TOKENS, {"ignore_eos": True}))
        daemon.wait_until_idle()
        between = daemon.metric("glimpsed_worker_engine_encoded_items_total")
        messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And what else?"}]
        second = await ask(client, chat_body(messages, "dummy-88m", TOKENS, {"ignore_eos": True}))
        daemon.wait_until_idle()
        after = daemon.metric("glimpsed_worker_engine_encoded_items_total")
    return {
        "first_s": first.ttft_s,
        "second_s": second.ttft_s,
        "prompt_tokens": second.prompt_tokens,
        "cached_tokens": second.cached_tokens,
        "first_encoded": between - before,
        "second_encoded": after - between,
    }


if __name__ == "__main__":
    main()
