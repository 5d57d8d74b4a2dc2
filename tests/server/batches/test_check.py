"""Input files that are wrong, huge or hostile."""

import io
import json
from pathlib import Path

import pytest

from schemas.openai.batches import BatchError
from server.batches.check import MAX_ERRORS, SLICE_BYTES, InputCheck, InputLimits
from tests.server.batches.rig import CHAT, jsonl, line

LIMITS = InputLimits(max_lines=50_000, max_line_bytes=32 * 1024 * 1024)


def checked(content: bytes, limits: InputLimits = LIMITS) -> InputCheck:
    check = InputCheck(io.BytesIO(content), CHAT, limits)
    while check.read_slice():
        pass
    return check


def faults(content: bytes, limits: InputLimits = LIMITS) -> list[tuple[int | None, str, str | None]]:
    return [(error.line, error.code, error.param) for error in checked(content, limits).errors]


def test_lines_are_found_again_by_where_they_stand() -> None:
    content = b"\r\n".join(json.dumps(line(f"id-{n}", "é" * n)).encode() for n in range(3)) + b"\n\n  \n"
    content += json.dumps(line("last")).encode()
    check = checked(content)
    assert (check.errors, check.model) == ([], "demo")
    found = [json.loads(content[one.start : one.start + one.size_bytes]) for one in check.lines]
    assert [one["custom_id"] for one in found] == ["id-0", "id-1", "id-2", "last"]
    assert [one.number for one in check.lines] == [1, 2, 3, 6]


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"\xff\xfe{}", "invalid_json_line", None),
        (b'{"custom_id": "\xe9"}', "invalid_json_line", None),
        (b"\xef\xbb\xbf" + jsonl([line("a")]).strip(), "invalid_json_line", None),
        (b"\x00", "invalid_json_line", None),
        (b'{"custom_id": "a\x00b"}', "invalid_json_line", None),
        (jsonl([line("a", temperature=float("nan"))]).strip(), "invalid_json_line", None),
        (b"[" * 100_000, "invalid_json_line", None),
        (b"[]", "invalid_type", None),
        (b'"text"', "invalid_type", None),
        (jsonl([{**line("a"), "custom_id": None}]).strip(), "invalid_type", "custom_id"),
        (jsonl([{**line("a"), "custom_id": ""}]).strip(), "invalid_value", "custom_id"),
        (jsonl([{**line("a"), "custom_id": 7}]).strip(), "invalid_type", "custom_id"),
        (jsonl([line("a" * 513)]).strip(), "invalid_value", "custom_id"),
        (b'{"method": "POST", "url": "/v1/chat/completions", "body": {}}', "missing_required_parameter", "custom_id"),
        (jsonl([{**line("a"), "method": "GET"}]).strip(), "invalid_value", "method"),
        (jsonl([{**line("a"), "colour": "red"}]).strip(), "unknown_parameter", "colour"),
        (jsonl([{**line("a"), "body": []}]).strip(), "invalid_type", "body"),
        (jsonl([line("a", url="/v1/completions")]).strip(), "url_mismatch", "url"),
        (jsonl([line("a", url="http://127.0.0.1/v1/chat/completions")]).strip(), "url_mismatch", "url"),
        (jsonl([line("a", model="")]).strip(), "missing_required_parameter", "body.model"),
        (jsonl([line("a", model=["demo"])]).strip(), "missing_required_parameter", "body.model"),
        (jsonl([line("a", stream=True)]).strip(), "invalid_value", "body.stream"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_line_that_is_no_request_is_named(content: bytes, code: str, param: str | None) -> None:
    whole = jsonl([line("first")]) + content + b"\n" + jsonl([line("last")])
    check = checked(whole)
    assert [(error.line, error.code, error.param) for error in check.errors] == [(2, code, param)]
    assert [one.custom_id for one in check.lines] == ["first", "last"]


def test_a_custom_id_is_one_lines_alone() -> None:
    assert faults(jsonl([line("a"), line("b"), line("a"), line("a")])) == [
        (3, "duplicate_custom_id", "custom_id"),
        (4, "duplicate_custom_id", "custom_id"),
    ]
    (error,) = checked(jsonl([line("secret"), line("secret")])).errors
    assert "line 1" in error.message and "secret" not in error.message


def test_a_batch_has_one_model() -> None:
    assert faults(jsonl([line("a"), line("b", model="other"), line("c")])) == [(2, "model_mismatch", "body.model")]


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n  \n"])
def test_a_file_without_lines_is_refused(content: bytes) -> None:
    assert faults(content) == [(None, "empty_file", None)]


def test_fifty_thousand_lines_are_fine_and_one_more_is_not() -> None:
    one = jsonl([line("#")])
    content = b"".join(one.replace(b'"#"', b'"%d"' % n) for n in range(50_000))
    check = checked(content)
    assert (len(check.lines), check.errors) == (50_000, [])
    assert faults(content + one)[-1] == (50_001, "too_many_tasks", None)


def test_a_flood_of_empty_lines_ends_at_the_same_number() -> None:
    check = checked(b"\n" * 60_000)
    assert check.errors == [BatchError(code="too_many_tasks", message=check.errors[0].message, line=50_001)]


@pytest.mark.parametrize("excess", [0, 1, 5, 10 * SLICE_BYTES])
def test_a_huge_line_is_passed_over_unread(excess: int) -> None:
    limits = InputLimits(max_lines=10, max_line_bytes=4096)
    padded = json.dumps(line("big")).encode()
    padded += b" " * (4096 - len(padded) + excess)
    content = jsonl([line("a")]) + padded + b"\n" + jsonl([line("b")])
    check = checked(content, limits)
    assert [one.custom_id for one in check.lines] == (["a", "b"] if excess else ["a", "big", "b"])
    assert [(error.line, error.code) for error in check.errors] == ([(2, "request_too_large")] if excess else [])


def test_faults_are_listed_up_to_a_number() -> None:
    check = checked(b"{\n" * 1000)
    assert [error.line for error in check.errors] == list(range(1, MAX_ERRORS + 1))


def test_a_large_file_is_read_in_slices(tmp_path: Path) -> None:
    content = jsonl(line(f"id-{n}", "x" * 1000) for n in range(3000))
    path = tmp_path / "input"
    path.write_bytes(content)
    with path.open("rb") as file:
        check = InputCheck(file, CHAT, LIMITS)
        num_slices = 1
        while check.read_slice():
            num_slices += 1
    assert len(check.lines) == 3000
    assert num_slices == len(content) // SLICE_BYTES + 1
