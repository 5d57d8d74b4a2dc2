"""A Redis that asks who is there: TLS with an authority of its own, and a user who may do no more than is needed."""

import asyncio
import contextlib
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from schemas import redis_names as names
from schemas.errors import Unavailable
from server.limits.bucket import Drawn
from server.limits.redis_buckets import RedisBuckets
from server.transport.redis_streams import RedisQueue
from tests.contract.hosts import TOKENS, Hosts, answered, hosts_of, until
from tests.fakes.messages import chat_job
from tests.fakes.redis_server import RedisServer, redis_server
from tests.fakes.scripted_backend import answer

pytestmark = [
    pytest.mark.redis,
    pytest.mark.timeout(60),
    # A handshake that is broken off leaves its socket to the garbage collector, in Python 3.11.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl here"),
]
DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"
USER = "glimpsed"


def certificate(folder: Path, subject: str) -> dict[str, object]:
    """The options of a server with a certificate of its own making."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=queue"
    command += f" -addext subjectAltName={subject} -keyout {key} -out {certificate}"
    subprocess.run(command.split(), check=True, capture_output=True)
    files = {"tls-cert-file": certificate, "tls-key-file": key, "tls-ca-cert-file": certificate}
    return {**files, "tls-auth-clients": "no"}


@pytest.fixture
def guarded(binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A server with TLS, for its own host's name."""
    options = certificate(tmp_path, "IP:127.0.0.1")
    with redis_server(binary, options, query=f"?ssl_ca_certs={options['tls-ca-cert-file']}") as server:
        yield server


@pytest.fixture
def url(guarded: RedisServer) -> str:
    """The server's URL for a user with the rights that the documentation names, and no other user's."""
    rules = re.findall(r"ACL SETUSER glimpsed ([^`]+)", DOCS.read_text(encoding="utf-8"))
    assert len(rules) == 1
    with contextlib.closing(guarded.client()) as admin:
        admin.execute_command("ACL", "SETUSER", USER, *rules[0].replace("PASSWORD", "secret").split())
    return guarded.url.replace("rediss://", f"rediss://{USER}:secret@")


@pytest.fixture
async def hosts(guarded: RedisServer, url: str) -> AsyncIterator[Hosts]:
    async with hosts_of(guarded) as hosts:
        yield hosts


async def test_the_documented_rights_are_enough_over_tls(hosts: Hosts, guarded: RedisServer, url: str) -> None:
    gateway = await hosts.gateway(url)
    worker = await hosts.worker("w", max_jobs=2, url=url)
    await gateway.knows("w")
    leaving, waiting = gateway.ask("wait and leave"), gateway.ask("wait and stay")
    await until(lambda: len(worker.handler.running) == 2)
    in_line = gateway.ask("leave the line")
    await until(lambda: gateway.queue.depth("demo") == 1)
    for request in (in_line, leaving):
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    await until(lambda: len(worker.handler.running) == 1 and gateway.queue.depth("demo") == 0)
    dying = worker.life
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    heir = await hosts.worker("heir", url=url)
    await until(lambda: bool(heir.handler.running))
    heir.handler.gate.set()
    assert await answered(waiting) == answer("wait and stay", 7, TOKENS)
    other = await hosts.gateway(url)
    await other.knows("heir")
    for asked in (gateway, other):
        assert await answered(asked.ask("once", **{"Idempotency-Key": "key"})) == answer("once", 7, TOKENS)
    buckets = RedisBuckets(url)
    for level in (6.0, 2.0):
        assert await buckets.draw({"requests:key": Drawn(4, 10, 6)}) == [pytest.approx(level, abs=2)]
    await buckets.close()
    with contextlib.closing(guarded.client()) as admin:
        assert [entry for entry in admin.acl_log() if entry["username"] == USER] == []


@pytest.mark.parametrize(
    "command",
    ["FLUSHALL", "KEYS *", "CONFIG GET dir", "CLIENT LIST", "CLIENT KILL TYPE normal", "GET other", "ACL LIST"],
)
async def test_the_documented_rights_are_no_more_than_that(url: str, command: str) -> None:
    with contextlib.closing(Redis.from_url(url, protocol=2)) as user, pytest.raises(NoPermissionError):
        user.execute_command(*command.split())
    with contextlib.closing(Redis.from_url(url, protocol=2)) as user:
        assert user.smembers(names.GATEWAYS) == set()


@pytest.mark.parametrize(
    "change",
    [
        lambda url: url.replace("secret", "wrong"),
        lambda url: url.partition("?")[0],
        lambda url: url.partition("?")[0].replace("s:", ":"),
    ],
    ids=["wrong password", "unknown authority", "no TLS"],
)
async def test_no_job_goes_to_a_server_that_cannot_be_trusted_or_does_not_trust(
    url: str, change: Callable[[str], str]
) -> None:
    assert await is_refused(change(url))


async def test_a_certificate_for_another_host_is_refused(binary: str, tmp_path: Path) -> None:
    options = certificate(tmp_path, "DNS:other.example")
    query = f"?ssl_ca_certs={options['tls-ca-cert-file']}"
    with redis_server(binary, options, f"{query}&ssl_check_hostname=false") as server:
        assert await is_refused(server.url.partition("?")[0] + query)


async def is_refused(url: str) -> bool:
    """Whether a gateway says that it has no queue, and takes no job."""
    queue = RedisQueue(url, max_queue=8)
    await queue.start()
    try:
        await queue.submit(chat_job("a"))
    except Unavailable:
        return True
    finally:
        await queue.close()
    return False
