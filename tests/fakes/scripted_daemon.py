"""`python -m tests.fakes.scripted_daemon COMMAND ...`: `glimpsed` with scripted workers."""

import sys

from server.cli import main

if __name__ == "__main__":
    sys.exit(main(worker_module="tests.fakes.scripted_worker"))
