"""How soon the daemon is ready, and what an idle gateway weighs.

    python -m benchmarks.startup [--times 3]

From an installed environment: `glimpsed serve` with the demo model until /readyz says 200.
"""

import argparse
import statistics

from benchmarks.daemon import serve
from benchmarks.report import write_report

MIB = 1 << 20


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--times", type=int, default=3)
    asked = args.parse_args()
    ready, gateway, worker = [], [], []
    for _ in range(asked.times):
        with serve([]) as daemon:
            ready.append(daemon.ready_s)
            gateway.append(daemon.gateway.memory_info().rss / MIB)
            worker.append(sum(process.memory_info().rss for process in daemon.workers()) / MIB)
    rows = [
        ("ready after, median s", statistics.median(ready)),
        ("ready after, longest s", max(ready)),
        ("gateway resident, MiB", max(gateway)),
        ("worker resident, MiB", max(worker)),
    ]
    write_report("startup", "Start-up and idle weight", "", ["figure", "value"], rows)


if __name__ == "__main__":
    main()
