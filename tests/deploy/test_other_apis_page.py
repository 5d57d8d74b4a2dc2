"""docs/api.md against what the Responses API and Anthropic's Messages API take."""

import re

import pytest

from schemas.anthropic import messages
from schemas.anthropic.messages import CountTokensRequest, MessagesRequest
from schemas.openai import responses
from schemas.openai.responses import ResponsesRequest
from server.errors import ANSWERS, ANTHROPIC_ANSWERS, BAD_REQUEST
from server.responses.store import StoreLimits
from tests.deploy.project import code_names, read
from tests.deploy.test_api_page import section

PAGE = read("docs/api.md")


def parameters(heading: str) -> set[str]:
    """The names in the first table of a section."""
    rows = section(heading).partition("|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
    return {name for row in rows for name in code_names(row.split("|")[1])}


@pytest.mark.parametrize(
    ("heading", "fields", "passed_on", "refused"),
    [
        ("## Responses", ResponsesRequest.model_fields, responses.PASSED_ON, responses.UNSUPPORTED),
        ("## Anthropic's messages", MessagesRequest.model_fields, messages.PASSED_ON, messages.UNSUPPORTED),
    ],
)
def test_parameters_are_those_that_are_read(
    heading: str, fields: dict[str, object], passed_on: frozenset[str], refused: dict[str, object]
) -> None:
    assert parameters(heading) - {"truncation"} == fields.keys() | passed_on
    text = section(heading).partition("Refused by name unless they ask for nothing:")[2].partition(".\n")[0]
    assert set(code_names(text)) == set(refused)


def test_a_counts_parameters_are_those_that_are_read() -> None:
    text = section("## Responses").partition("A count of input tokens takes")[2].partition(".\n")[0]
    assert set(code_names(text)) == responses.COUNTED
    text = section("## Anthropic's messages").partition("A count takes")[2].partition(". ")[0]
    assert set(code_names(text)) == CountTokensRequest.model_fields.keys() | messages.COUNTED


def test_types_and_statuses_of_errors_are_anthropics() -> None:
    text = section("## Anthropic's messages").partition("Their\ntypes:")[2]
    listed = {(int(status), kind) for kind, status in re.findall(r"`(\w+)` \((\d+)\)", text.partition("where")[0])}
    told = {ANTHROPIC_ANSWERS.get(code) or answer for code, answer in ANSWERS.items()} | {BAD_REQUEST}
    assert listed == {(status, kind) for status, kind in told if status in {status for status, _ in listed}}
    assert {kind for _, kind in told} == {kind for _, kind in listed}


def test_what_is_kept_is_what_is_said() -> None:
    limits = StoreLimits()
    kept = (
        f"the last {limits.max_responses} of each key, {limits.max_bytes >> 20} MiB of them "
        f"(or room for two of the largest bodies), {limits.all_bytes >> 20} MiB of all keys, "
        f"{limits.max_age_s / 3600:g} hours after their last use"
    )
    assert kept in " ".join(section("## Responses").split())
