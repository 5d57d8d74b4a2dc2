"""What is still held at rest is found as a leak, and what was given back in time is none."""

import contextlib

import pytest

from benchmarks.chaos.history import Kind
from benchmarks.chaos.rest import leaks, leaks_at_rest, least, of_redis
from schemas import redis_names as names
from tests.fakes.redis_server import BINARY, redis_server

BEFORE = {"share of pages": 0.0, "files open in the gateway": 20}


def test_whatever_has_grown_is_a_leak() -> None:
    assert leaks(BEFORE, BEFORE) == []
    assert leaks(BEFORE, {"share of pages": 0.0, "files open in the gateway": 18}) == []
    [leak] = leaks(BEFORE, {"share of pages": 0.01, "files open in the gateway": 20})
    assert leak.kind is Kind.LEAK and leak.what == "share of pages: 0 before, 0.01 after"
    assert len(leaks(BEFORE, {"share of pages": 0.01, "files open in the gateway": 21})) == 2


def test_a_figure_that_was_not_there_before_counts_from_nothing() -> None:
    assert [leak.what for leak in leaks({}, {"mailboxes": 1})] == ["mailboxes: 0 before, 1 after"]


def test_rest_is_waited_for() -> None:
    later = iter([BEFORE | {"share of pages": 0.5}, BEFORE])
    assert leaks_at_rest(BEFORE, lambda: next(later), poll_s=0.0) == []


def test_what_does_not_come_to_rest_in_time_is_a_leak() -> None:
    [leak] = leaks_at_rest(BEFORE, lambda: BEFORE | {"share of pages": 0.5}, patience_s=0.0)
    assert leak.kind is Kind.LEAK


def test_the_start_is_taken_at_its_least_busy() -> None:
    looks = iter([{"threads": 3, "files": 21}, {"threads": 4, "files": 20}])
    assert least(lambda: next(looks), num_looks=2, poll_s=0.0) == {"threads": 3, "files": 20}


@pytest.mark.redis
@pytest.mark.skipif(not BINARY, reason="there is no redis-server and no valkey-server here")
def test_what_lies_in_the_own_line_of_a_worker_that_is_gone_is_seen() -> None:
    with redis_server() as server, contextlib.closing(server.client()) as client:
        line = names.own_line("cell", "dead")
        client.xgroup_create(line, names.GROUP, "0", mkstream=True)
        client.pexpire(line, 60_000)
        empty = of_redis(client, ["cell"])
        assert set(empty.values()) == {0}
        client.xadd(line, {b"job": b"read"})
        client.xreadgroup(names.GROUP, names.CONSUMER, {line: ">"})
        client.xadd(line, {b"job": b"unread"})
        client.persist(line)
        found = {leak.what.split(":")[0] for leak in leaks(empty, of_redis(client, ["cell"]))}
    assert found == {"pointers read and not followed", "pointers in lines", "lines that never end"}
