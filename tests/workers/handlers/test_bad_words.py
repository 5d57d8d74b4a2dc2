"""Bad words as tokens: every family's tokenizer, at the start and inside of a text, and over a whole job."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from schemas.errors import ErrorCode, RequestError
from schemas.events import Delta, Event
from schemas.jobs import CompletionJob, EmittedChoice
from schemas.sampling import SamplingParams
from tests.e2e.goldens import LEAN
from tests.workers.tokenizers.checkpoints import NAMES, tokenizer
from workers.engine.bad_words import BadWords
from workers.handlers.bad_words import bad_words_of
from workers.handlers.base import JobHandler
from workers.handlers.open import open_handler
from workers.settings import WorkerSettings
from workers.tokenizers.base import Tokenizer

FAMILY = "internvl2_5-qwen2"


def found_in(words: BadWords, token_ids: list[int]) -> bool:
    """Whether one of the tokens would have been forbidden behind those before it."""
    return any(token_ids[at] in words.banned_ids(token_ids[:at], 0) for at in range(len(token_ids)))


def words_of(words: list[str], with_tokenizer: Tokenizer) -> BadWords:
    return bad_words_of(words, with_tokenizer, with_tokenizer.vocab_size, frozenset())


def ids_of(text: str, with_tokenizer: Tokenizer) -> list[int]:
    return [one for one in with_tokenizer.encode(text, parse_special=False) if one != with_tokenizer.bos_token_id]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("word", ["cat", "Schr\u00f6dinger", "\u4e09\u56db", "two words", " spaced", "!!"])
@pytest.mark.parametrize("before", ["", " ", "a ", "A line.\n"])
def test_a_word_is_found_at_the_start_and_inside_of_a_text_with_and_without_a_space(name: str, word: str, before: str):
    words = words_of([word, "unlikely"], tokenizer(name))
    assert found_in(words, ids_of(before + word.strip(), tokenizer(name)))
    assert not found_in(words, ids_of("One, two; three.", tokenizer(name)))


def test_names_of_control_tokens_are_text():
    words = words_of(["<|im_end|>"], tokenizer(FAMILY))
    assert tokenizer(FAMILY).token_id("<|im_end|>") not in words.last_ids


def test_tokens_that_the_model_does_not_have_are_passed_over():
    ids = ids_of("cat", tokenizer(FAMILY))
    assert bad_words_of(["cat"], tokenizer(FAMILY), max(ids), frozenset()).last_ids.isdisjoint(ids[-1:])


def test_words_that_leave_nothing_to_choose_are_refused():
    class TwoTokens:
        def encode(self, text: str, *, parse_special: bool) -> list[int]:
            return [0] * len(text)

    with pytest.raises(RequestError) as caught:
        bad_words_of(["a"], TwoTokens(), 2, frozenset({1}))
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, "bad_words")


@pytest.fixture
async def handler() -> AsyncIterator[JobHandler]:
    settings = WorkerSettings(model=str(LEAN / FAMILY / "checkpoint"), device="cpu", num_kv_blocks=100)
    opened = await open_handler(settings)
    yield opened
    await opened.close()


async def answers(handler: JobHandler, job: CompletionJob) -> dict[int, list[int]]:
    """The token ids of each choice."""
    events: list[Event] = []
    await handler.run(job, events.append)
    ids: dict[int, list[int]] = {}
    for event in events:
        if isinstance(event, Delta):
            ids[event.index] = [*ids.get(event.index, []), *event.token_ids]
    return ids


async def test_choices_keep_clear_of_the_words_also_when_they_are_taken_over(handler: JobHandler) -> None:
    words = tuple(chr(code) for code in range(ord("a"), ord("z") + 1))
    sampling = SamplingParams(seed=4, temperature=1.0, max_tokens=60, ignore_eos=True)
    job = CompletionJob(job_id="j", model="m", prompt="One", sampling=sampling, n=2)
    forbidden = words_of(list(words), tokenizer(FAMILY))
    assert all(found_in(forbidden, ids) for ids in (await answers(handler, job)).values())

    careful = msgspec.structs.replace(job, sampling=msgspec.structs.replace(sampling, bad_words=words))
    whole = await answers(handler, careful)
    assert len(whole) == 2 and whole[0] != whole[1]
    assert not any(found_in(forbidden, ids) for ids in whole.values())

    emitted = (EmittedChoice(0, tuple(whole[0][:25])), EmittedChoice(1, tuple(whole[1][:1])))
    resumed = await answers(handler, msgspec.structs.replace(careful, epoch=1, emitted=emitted))
    assert resumed == {0: whole[0][25:], 1: whole[1][1:]}
