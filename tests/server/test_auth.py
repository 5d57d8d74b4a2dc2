"""Who is let in."""

import base64

import pytest
from starlette.datastructures import Headers

from server.app import create_app
from server.auth import OPEN_PATHS, ApiKeys, presented_key, tenant_of
from server.limits.key_limits import KeyLimits
from tests.fakes.memory_queue import MemoryQueue, tell
from tests.server.serving import CHAT, ask, client_of

KEYS = ("sk-first", "sk-sécond")


def basic(key: str) -> bytes:
    return b"Basic " + base64.b64encode(f"me:{key}".encode())


def found(keys: ApiKeys, path: str = "/v1/models", **headers: bytes) -> str | None:
    """The tenant that a request's headers stand for."""
    raw = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    entry = keys.find(presented_key(Headers(raw=raw), path))
    return tenant_of(entry) if entry is not None else None


def test_each_key_has_a_tenant_of_its_own_that_does_not_show_the_key() -> None:
    keys = ApiKeys(KEYS)
    tenants = [found(keys, authorization=f"Bearer {key}".encode()) for key in KEYS]
    assert len(set(tenants)) == 2
    assert all(tenant and len(tenant) == 16 and "sk" not in tenant for tenant in tenants)
    assert (
        found(keys, authorization=b"bearer   sk-first")
        == found(keys, authorization=basic("sk-first"))
        == found(keys, "/v1/messages", x_api_key=b"sk-first")
        == tenants[0]
    )


def test_nothing_that_is_kept_holds_a_key() -> None:
    assert not any(key.encode() in entry.digest for entry in ApiKeys(KEYS)._entries for key in KEYS)
    assert "sk-first" not in repr(ApiKeys(KEYS)._entries)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/messagesx", "/"])
def test_anthropics_header_counts_on_its_own_paths_alone(path: str) -> None:
    keys = ApiKeys(KEYS)
    assert found(keys, path, x_api_key=b"sk-first") is None
    for own in ("/v1/messages", "/v1/messages/count_tokens"):
        assert found(keys, own, x_api_key=b"sk-first") is not None
        assert found(keys, own, x_api_key=b"sk-first", authorization=b"Bearer wrong") is None


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer sk", "Bearer sk-first2", "sk-first", "Token sk-first", "Basic ###", "Basic c2s="],
)
def test_anything_else_is_nobody(authorization: str) -> None:
    assert found(ApiKeys(KEYS), authorization=authorization.encode()) is None


def test_without_keys_everybody_is_one_tenant() -> None:
    assert ApiKeys().is_open() and not ApiKeys(KEYS).is_open()
    assert ApiKeys(limits=KeyLimits(max_concurrency=3)).limits("") == KeyLimits(max_concurrency=3)


async def test_every_route_but_the_probes_needs_a_key_and_so_does_what_is_no_route() -> None:
    queue = MemoryQueue(tell("x"))
    paths = set(create_app(queue).openapi()["paths"])
    assert OPEN_PATHS <= paths
    async with client_of(queue, api_keys=KEYS) as client:
        for path in paths | {"/nowhere", "//health", "/health/", "/health/../metrics", "/v1/models/livez"}:
            for key in ({}, {"authorization": "Bearer wrong"}):
                answer = await client.get(path, headers=key)
                assert answer.status_code == (200 if path in OPEN_PATHS else 401), path
                if answer.status_code == 401:
                    assert answer.json()["error"]["type"] == "authentication_error"
                    assert answer.headers["x-request-id"]
                    assert answer.headers["www-authenticate"]


@pytest.mark.parametrize("host", ["a/health?x=", "a/health#", "a/?", "a b"])
async def test_the_host_header_opens_nothing(host: str) -> None:
    async with client_of(MemoryQueue(tell("x")), api_keys=KEYS) as client:
        assert (await client.get("/v1/models", headers={"host": host})).status_code == 401


async def test_the_tenant_of_a_job_is_that_of_its_key() -> None:
    queue = MemoryQueue(tell("x"))
    async with client_of(queue, api_keys=KEYS) as client:
        for key in KEYS:
            header = {"authorization": f"Bearer {key}".encode()}
            assert (await client.post(CHAT, json=ask(), headers=header)).status_code == 200
    assert len({job.tenant for job in queue.submitted}) == 2
