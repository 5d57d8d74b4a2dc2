"""`python -m benchmarks.null_daemon COMMAND ...`: `glimpsed` with workers of benchmarks.null_worker."""

import sys

from server.cli import main

if __name__ == "__main__":
    sys.exit(main(worker_module="benchmarks.null_worker"))
