"""Many requests of every kind, a part of which leave early: is every page free again, is memory flat?

    python -m benchmarks.soak [--requests 1000] [--clients 16]

Demo model; random lengths, pictures of random sizes (a quarter of them seen before), text, bad pictures; one in four
clients leaves in the middle of its stream. Memory is the worker's and the gateway's resident size after each tenth.
"""

import argparse
import asyncio
import random
import statistics
from typing import Any

import httpx

from benchmarks.daemon import Daemon, serve
from benchmarks.report import write_report
from server.loadgen import chat_body, picture_url

MODEL = "glimpsed-demo"
MIB = 1 << 20


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--requests", type=int, default=1000)
    args.add_argument("--clients", type=int, default=16)
    asked = args.parse_args()
    rows: list[list[Any]] = []
    with serve([]) as daemon:
        for tenth in range(10):
            numbers = range(tenth * asked.requests // 10, (tenth + 1) * asked.requests // 10)
            outcomes = asyncio.run(run(daemon, list(numbers), asked.clients))
            daemon.wait_until_idle()
            rows.append(observe(daemon, numbers.stop, outcomes))
    growth = statistics.mean(row[-2] for row in rows[-3:]) - statistics.mean(row[-2] for row in rows[2:5])
    notes = (
        f"The worker's mean resident size of the last three tenths is {growth:+.1f} MiB beside that of tenths 3 to 5."
    )
    header = [
        "requests",
        "finished",
        "left early",
        "refused as bad",
        "failed",
        "kv usage",
        "fds",
        "worker MiB",
        "gateway MiB",
    ]
    write_report("soak", "Soak: requests of all kinds, with early leavers", notes, header, rows)


async def run(daemon: Daemon, numbers: list[int], num_clients: int) -> dict[str, int]:
    """Send the requests of these numbers; how each ended."""
    outcomes = dict.fromkeys(("finished", "left", "refused", "failed"), 0)
    left = iter(numbers)
    async with httpx.AsyncClient(base_url=daemon.base_url, timeout=120) as client:

        async def one_client() -> None:
            for number in left:
                outcomes[await send(client, number)] += 1

        await asyncio.gather(*(one_client() for _ in range(num_clients)))
    return outcomes


async def send(client: httpx.AsyncClient, number: int) -> str:
    """One request of a random kind; the number is its seed."""
    rng = random.Random(number)
    content: list[dict[str, object]] = [{"type": "text", "text": "What do you see? " * rng.randint(1, 20)}]
    is_bad = rng.random() < 0.05
    for _ in range(rng.choice([0, 1, 1, 2])):
        seen = rng.randrange(max(1, number // 4)) if rng.random() < 0.25 else number
        url = picture_url((rng.randint(16, 500), rng.randint(16, 500)), seen)
        content.append({"type": "image_url", "image_url": {"url": url[:200] + "AAAA" if is_bad else url}})
    is_bad = is_bad and len(content) > 1
    body = chat_body([{"role": "user", "content": content}], MODEL, rng.randint(1, 60), {"ignore_eos": True})
    leave_after = rng.randint(1, 20) if rng.random() < 0.25 else None
    async with client.stream(
        "POST", "/chat/completions", content=body, headers={"content-type": "application/json"}
    ) as reply:
        if reply.status_code != 200:
            return "refused" if is_bad and reply.status_code == 400 else "failed"
        seen_chunks, is_done = 0, False
        async for line in reply.aiter_lines():
            seen_chunks += line.startswith("data: {")
            is_done = is_done or line == "data: [DONE]"
            if leave_after is not None and seen_chunks > leave_after:
                return "left"
    return "finished" if is_done else "failed"


def observe(daemon: Daemon, num_requests: int, outcomes: dict[str, int]) -> list[Any]:
    """A row of the table, taken while the daemon is idle."""
    [worker] = daemon.workers()
    usage = sum(float(str(entry["kv_usage"])) for entry in daemon.admin())
    return [
        num_requests,
        *outcomes.values(),
        usage,
        worker.num_fds() + daemon.gateway.num_fds(),
        worker.memory_info().rss / MIB,
        daemon.gateway.memory_info().rss / MIB,
    ]


if __name__ == "__main__":
    main()
