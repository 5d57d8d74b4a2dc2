"""`python -m benchmarks.chaos.fake_daemon COMMAND ...`: `glimpsed` whose workers run the fake engine."""

import sys

from server.cli import main

if __name__ == "__main__":
    sys.exit(main(worker_module="benchmarks.chaos.fake_engine"))
