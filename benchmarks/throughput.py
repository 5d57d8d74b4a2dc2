"""How much batching gains: tokens per second with 16 clients over 1, a different picture in every request.

    python -m benchmarks.throughput [--requests 48] [--tokens 64]

The demo model, and a dummy InternVL of about 88 M parameters; one-tile pictures; the answers of the two runs must be
equal. A client's pictures are those of its request's number, so both runs send the same requests.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from benchmarks.daemon import serve
from benchmarks.make_checkpoint import write_checkpoint
from benchmarks.report import write_report
from server.loadgen import Load, Report, run_load

CLIENTS = 16


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--requests", type=int, default=48)
    args.add_argument("--tokens", type=int, default=64)
    asked = args.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), 768, 10, 384, 8, 224, tiles=1)
        dummy = [f"dummy-88m={folder}", "--load-format", "dummy"]
        for name, arguments in (("glimpsed-demo", []), ("dummy-88m", dummy)):
            one, many, is_equal = measure(name, [*arguments, "--no-prefix-cache"], asked.requests, asked.tokens)
            rows += [
                (name, 1, one.tokens_per_s, one.ttft_p50_s, one.itl_p50_s * 1e3, "", ""),
                (
                    name,
                    CLIENTS,
                    many.tokens_per_s,
                    many.ttft_p50_s,
                    many.itl_p50_s * 1e3,
                    many.tokens_per_s / one.tokens_per_s,
                    "yes" if is_equal else "NO",
                ),
            ]
    header = ["model", "clients", "tok/s", "TTFT p50 s", "ITL p50 ms", "gain", "answers equal"]
    write_report("throughput", "Batching", "Clients, gateway and worker share the cores.", header, rows)


def measure(name: str, arguments: list[str], num_requests: int, num_tokens: int) -> tuple[Report, Report, bool]:
    """The same requests one after another and 16 at a time."""
    with serve(arguments) as daemon:

        def load(clients: int, requests: int) -> Load:
            extra = {"ignore_eos": True}
            return Load(daemon.base_url, name, clients, requests, num_tokens, [(320, 240)], extra=extra)

        asyncio.run(run_load(load(CLIENTS, CLIENTS)))
        one, sequential = asyncio.run(run_load(load(1, num_requests)))
        many, concurrent = asyncio.run(run_load(load(CLIENTS, num_requests)))
    is_equal = [answer.text for answer in sequential] == [answer.text for answer in concurrent]
    return one, many, is_equal and one.errors == many.errors == 0


if __name__ == "__main__":
    main()
