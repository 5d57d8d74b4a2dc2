"""Answers in a gateway's own memory: what makes room for what."""

import pytest

from server.transport import memory_answers
from server.transport.answers import AnswerLost, Claim, Holder, name_of
from server.transport.memory_answers import MemoryAnswers

SAME = b"this request"


async def keep(answers: MemoryAnswers, tenant: str, key: str, size_bytes: int) -> tuple[str, Claim]:
    """An answer that is not whole yet."""
    name = name_of(tenant, key)
    claim = await answers.claim(name, SAME)
    assert await answers.write(name, claim.token, 0, [bytes(size_bytes)], is_last=False)
    return name, claim


async def test_the_tenant_that_has_most_makes_room() -> None:
    answers = MemoryAnswers(lambda: 0.0, max_bytes=100)
    small, claim = await keep(answers, "small", "1", 10)
    large = [(await keep(answers, "large", str(number), 30))[0] for number in range(5)]
    assert [len(await answers.recorded(name)) for name in [small, *large]] == [1, 0, 0, 1, 1, 1]
    assert await answers.write(small, claim.token, 1, [b"more"], is_last=True)


async def test_each_tenant_has_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_answers, "MAX_ANSWERS", 2)
    answers = MemoryAnswers(lambda: 0.0)
    theirs, _ = await keep(answers, "other", "1", 1)
    own = [(await keep(answers, "own", str(number), 1))[0] for number in range(4)]
    assert [len(await answers.recorded(name)) for name in [theirs, *own]] == [1, 0, 0, 1, 1]


async def test_one_is_forgotten_a_window_behind_its_last_piece() -> None:
    now_s = 0.0
    answers = MemoryAnswers(lambda: now_s, window_s=10.0)
    name, claim = await keep(answers, "own", "1", 1)
    now_s = 9.0
    assert await answers.write(name, claim.token, 1, [b"two"], is_last=False)
    now_s = 18.0
    assert len(await answers.recorded(name)) == 2
    now_s = 19.0
    assert await answers.recorded(name) == []
    assert not await answers.write(name, claim.token, 2, [b"three"], is_last=True)


async def test_one_that_is_taken_or_forgotten_is_not_its_writers_any_more() -> None:
    answers = MemoryAnswers(lambda: 0.0)
    name, before = await keep(answers, "own", "1", 1)
    now = await answers.claim(name, SAME, is_forced=True)
    assert now.holder is Holder.US
    assert not await answers.write(name, before.token, 1, [b"late"], is_last=True)
    await answers.forget(name)
    assert not await answers.write(name, now.token, 1, [b"late"], is_last=True)
    with pytest.raises(AnswerLost):
        await anext(answers.read(name))
