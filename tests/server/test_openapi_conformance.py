"""Generated requests: no answer is a 5xx or breaks the OpenAPI document, and what it forbids is refused."""

from collections import Counter
from pathlib import Path

import pytest

from server.openapi import openapi_document
from tests.server.conformance import FAKE_MODEL, fake_gateway, reachable, send_generated

NUM_EXAMPLES = 6
"""Of each kind for each operation; thousands by `make conformance`."""


@pytest.mark.timeout(300)
def test_generated_requests_get_answers_of_the_document(tmp_path: Path) -> None:
    statuses: Counter[int] = Counter()
    with fake_gateway(tmp_path) as gateway:
        document = reachable(openapi_document("test"), gateway, FAKE_MODEL)
        for sent in send_generated(document, gateway, NUM_EXAMPLES):
            statuses += sent.statuses
    assert statuses.total() > 200
    assert statuses[200] > 60 and statuses[400] > 60 and statuses[404] > 0
