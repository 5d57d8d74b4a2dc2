"""What every answer carries, and how requests end that no route answers."""

import logging

import pytest

from schemas.errors import ErrorCode
from server.errors import ANSWERS
from server.middleware import MAX_HEADERS, MAX_URL_BYTES
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import CHAT, ask, client_of, running


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("TRACE", "/livez", 405, "method_not_allowed"),
        ("CONNECT", "/livez", 405, "method_not_allowed"),
        ("POST", CHAT, 400, "invalid_request"),
        ("GET", "/" + "x" * MAX_URL_BYTES, 414, "uri_too_long"),
        ("GET", "/livez?" + "x" * MAX_URL_BYTES, 414, "uri_too_long"),
    ],
)
async def test_every_error_has_openais_form_and_a_request_id(method: str, path: str, status: int, code: str) -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        answer = await client.request(method, path)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert answer.headers["x-request-id"].startswith("req_")
    assert int(answer.headers["openai-processing-ms"]) >= 0


async def test_a_flood_of_headers_is_refused() -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        many = [(f"h{number}", "x") for number in range(MAX_HEADERS)]
        assert (await client.get("/livez", headers=many)).status_code == 431
        assert (await client.get("/livez", headers={"h": "x" * 70_000})).status_code == 431


async def test_the_clients_own_request_id_is_echoed_as_a_label_and_nothing_else() -> None:
    async with client_of(MemoryQueue(tell("x"))) as client:
        answer = await client.get("/livez", headers={"x-request-id": "my-id"})
        assert answer.headers["x-client-request-id"] == "my-id"
        assert answer.headers["x-request-id"] != "my-id"
        for hostile in ("a b", "x" * 200, "é".encode(), "<script>"):
            answer = await client.get("/livez", headers={"x-request-id": hostile})
            assert "x-client-request-id" not in answer.headers


async def test_a_fault_that_nobody_foresaw_is_a_plain_500(caplog: pytest.LogCaptureFixture) -> None:
    class BrokenQueue(MemoryQueue):
        async def submit(self, job: object, *, front: bool = False) -> None:
            raise RuntimeError("secret detail at 0x7f00deadbeef")

    async with client_of(BrokenQueue(tell("x"))) as client:
        for stream in (False, True):
            answer = await client.post(CHAT, json=ask(stream=stream))
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
            assert "secret" not in answer.text
            assert answer.headers["x-request-id"]
    assert "secret detail" in caplog.text


async def test_the_log_has_a_line_a_request_without_its_content(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "server")
    async with client_of(MemoryQueue(tell("x")), api_keys=["sk-canary"]) as client:
        headers = {"authorization": "Bearer sk-canary"}
        await client.post(CHAT, json=ask("canary prompt"), headers=headers)
        await client.get("/evil%0d%0apath?canary=1", headers=headers)
        await client.get("/v1/models", headers={"authorization": "Bearer canary"})
    lines = [record.getMessage() for record in caplog.records if record.name == "server.middleware"]
    assert len(lines) == 2
    assert f"'{CHAT}' 200" in lines[0]
    assert r"'/evil\r\npath' 404" in lines[1]
    assert "canary" not in caplog.text


async def test_websockets_are_refused() -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    async with running(MemoryQueue(tell("x"))) as app:
        await app({"type": "websocket", "path": "/", "headers": [], "query_string": b""}, None, send)  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close"}]


def test_no_code_is_answered_with_422_and_only_our_own_faults_with_500() -> None:
    assert 422 not in {status for status, _ in ANSWERS.values()}
    assert {code for code, (status, _) in ANSWERS.items() if status == 500} == {
        ErrorCode.ENGINE_ERROR,
        ErrorCode.INTERNAL_ERROR,
    }
