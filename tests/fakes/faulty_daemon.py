"""`python -m tests.fakes.faulty_daemon COMMAND ...`: `glimpsed` with workers of tests.fakes.faulty_worker."""

import sys

from server.cli import main

if __name__ == "__main__":
    sys.exit(main(worker_module="tests.fakes.faulty_worker"))
