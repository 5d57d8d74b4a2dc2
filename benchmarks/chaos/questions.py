"""What is asked: seeded questions whose right answers are known, by computation or from a run without faults."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.chaos.clients import Question, ask, clients
from benchmarks.chaos.fake_engine import right_answer
from benchmarks.chaos.history import Answer
from server.loadgen import picture_url

DEMO = "glimpsed-demo"
DEMO_POOL = 24
MIN_TOKENS, MAX_TOKENS = 10, 60
LEAVING = 0.2
"""The share of clients that leave in the middle."""


@dataclass(frozen=True, slots=True)
class Known:
    """A question and its right answer."""

    question: Question
    answer: Answer

    def leaving_after(self, num_tokens: int) -> "Known":
        """The same from a client that leaves."""
        return replace(self, question=replace(self.question, leaves_after=num_tokens))


Source = Callable[[random.Random, str, int], Known]
"""A question for a model; the last argument is how many times longer than usual its answer is to be."""


def ask_fake(rng: random.Random, model: str, factor: int) -> Known:
    """A new question for the fake engine."""
    prompt = f"{rng.getrandbits(64):x} " * rng.randint(1, 12)
    seed, num_tokens, num_choices = (
        rng.getrandbits(31),
        rng.randint(MIN_TOKENS, MAX_TOKENS) * factor,
        rng.choice((1, 1, 1, 2)),
    )
    question = Question(model, prompt, seed, num_tokens, num_choices)
    return Known(question, right_answer(prompt, seed, num_tokens, num_choices))


def maybe_leaving(rng: random.Random, known: Known) -> Known:
    """Some clients leave."""
    if rng.random() >= LEAVING:
        return known
    return known.leaving_after(rng.randrange(known.answer.completion_tokens))


async def demo_questions(url: str, seed: int, factor: int = 1) -> list[Known]:
    """Questions for the demo model, with pictures, penalties, stop strings and two choices, answered undisturbed."""
    rng = random.Random(f"demo {seed} {factor}")
    known = []
    async with clients(url) as client:
        for number in range(DEMO_POOL):
            question = _demo_question(rng, number, factor)
            asked = ask(client, question)
            await asked.task
            known.append(Known(question, asked.history.answer()))
    return known


def _demo_question(rng: random.Random, number: int, factor: int) -> Question:
    content: list[dict[str, Any]] = [{"type": "text", "text": f"Question {number}: tell me what you see, at length."}]
    if number % 2:
        url = picture_url((rng.randint(64, 300), rng.randint(64, 300)), rng.getrandbits(16))
        content.append({"type": "image_url", "image_url": {"url": url}})
    extra = (
        ("ignore_eos", True),
        ("temperature", number % 3 / 2),
        ("frequency_penalty", 0.5 if number % 4 == 0 else 0),
        ("stop", ["zzzz-not-there"]),
    )
    return Question(DEMO, content, number, rng.randint(80, 200) * factor, rng.choice((1, 1, 2)), extra)


def ask_from(pools: dict[int, list[Known]]) -> Source:
    """Questions of a pool, by factor."""
    return lambda rng, model, factor: rng.choice(pools[factor])
