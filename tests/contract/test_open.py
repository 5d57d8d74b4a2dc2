"""Which transport each side takes for a `--queue` value."""

from pathlib import Path

import pytest

from schemas.flags import ConfigError
from server.transport.open import open_queue
from server.transport.redis_streams import RedisQueue
from server.transport.zeromq import ZeroMQQueue
from workers.__main__ import open_source
from workers.transport.redis_streams import RedisSource
from workers.transport.zeromq import ZeroMQSource

LOCAL = Path("/run/user/1/queue")


@pytest.mark.parametrize(
    ("url", "address"), [("local", "ipc:///run/user/1/queue"), ("ipc:///srv/q/socket", "ipc:///srv/q/socket")]
)
def test_a_socket_on_this_host_is_zeromqs(url: str, address: str) -> None:
    queue, found = open_queue(url, LOCAL, 8)
    assert isinstance(queue, ZeroMQQueue) and found == address
    assert isinstance(open_source(address), ZeroMQSource)


@pytest.mark.parametrize("url", ["redis://queue.internal", "rediss://user:secret@queue.internal:6380/3"])
def test_redis_is_taken_by_both_sides_with_and_without_tls(url: str) -> None:
    queue, address = open_queue(url, LOCAL, 8)
    assert isinstance(queue, RedisQueue) and address == url
    assert isinstance(open_source(url), RedisSource)


@pytest.mark.parametrize("url", ["redis://user:secret@host:port/0", "amqp://user:secret@host", "ipc://", "", "redis"])
def test_what_cannot_be_is_refused_by_the_flags_name_and_without_a_password(url: str) -> None:
    for refused in (lambda: open_queue(url, LOCAL, 8), lambda: open_source(url)):
        with pytest.raises(ConfigError) as error:
            refused()
        assert "--queue" in str(error.value) and "secret" not in str(error.value)
