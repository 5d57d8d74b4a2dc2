"""Thousands of requests generated from /openapi.json: is any answer a 5xx, or not what the document says?

    python -m benchmarks.conformance [--examples 210] [--seed 1] [--processes 2] [--url URL --model NAME]

By default they go to gateways that listen in these processes, before a fake worker that answers hello; with --url to a
server that runs. Ends with an error at the first answer that is wrong, and with that request as a curl command.
"""

import argparse
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from schemathesis.core.failures import FailureGroup

from benchmarks.report import write_report
from server.openapi_routes import OPERATIONS
from tests.server.conformance import FAKE_MODEL, Sent, fake_gateway, gateway_at, reachable, send_generated


def main() -> None:
    """Send, count, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=210, help="of each kind for each operation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--url", help="such as http://127.0.0.1:8000")
    parser.add_argument("--model", default=FAKE_MODEL)
    options = parser.parse_args()
    rows: list[list[object]] = []
    paths = list(dict.fromkeys(operation.path for operation in OPERATIONS))
    with ProcessPoolExecutor(options.processes, get_context("fork")) as pool:
        for sents in pool.map(partial(send_to_path, options=options), paths):
            for sent in sents:
                counts = [sum(n for status, n in sent.statuses.items() if status // 100 == kind) for kind in (2, 4, 5)]
                rows.append([f"`{sent.operation}`", "yes" if sent.is_valid else "no", sum(counts), *counts, 0])
                print(*rows[-1], flush=True)
    rows.append(["together", "", *(sum(int(str(row[at])) for row in rows) for at in range(2, 7))])
    worker = "a running server" if options.url else "gateways that listen, before a fake worker"
    write_report(
        "conformance" if options.url is None else "conformance_served",
        "Generated requests",
        f"By schemathesis from the document of `/openapi.json`, sent to {worker}. Valid: the requests keep to the "
        "document, though what they ask for may not fit together. Breaches: answers whose status, type, headers or "
        "body the document does not know, and invalid requests that were accepted.",
        ["operation", "valid", "requests", "2xx", "4xx", "5xx", "breaches"],
        rows,
    )


def send_to_path(path: str, options: argparse.Namespace) -> list[Sent]:
    """What became of the requests to one path. Raises RuntimeError with the first answer that is wrong."""
    with ExitStack() as stack:
        if options.url is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            gateway = stack.enter_context(fake_gateway(folder))
        else:
            gateway = stack.enter_context(gateway_at(options.url))
        document = reachable(gateway.send("GET", "/openapi.json").json(), gateway, options.model)
        document["paths"] = {path: document["paths"][path]}
        try:
            return list(send_generated(document, gateway, options.examples, options.seed))
        except FailureGroup as failures:
            # Not all that it holds find their way to another process.
            raise RuntimeError(str(failures)) from None


if __name__ == "__main__":
    main()
