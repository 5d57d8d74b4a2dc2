"""Which beginnings a job has, and which worker is chosen for them."""

import random
from string import ascii_letters

import msgspec
import pytest

from schemas.jobs import ChatJob, CompletionJob, ImagePart, MediaOptions, Message, Part, TextPart, Tool, ToolCall
from schemas.sampling import SamplingParams
from server.transport.affinity import MAX_BEGINNINGS, PIECE_CHARS, Affinity, AffinityCounts, beginnings

LONG = "word " * 100
IMAGE = ImagePart(url="https://example.com/a.png", param="messages.0.content.0")


def message(role: str, *parts: str | Part) -> Message:
    return Message(role=role, parts=tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def talk(*messages: Message, **fields: object) -> ChatJob:
    job = ChatJob(job_id="a", model="tiny", messages=messages, sampling=SamplingParams(seed=0))
    return msgspec.structs.replace(job, **fields)


def prompt(text: str | tuple[int, ...]) -> CompletionJob:
    return CompletionJob(job_id="a", model="tiny", prompt=text, sampling=SamplingParams(seed=0))


FIRST = talk(message("user", LONG))
SECOND = talk(message("user", LONG), message("assistant", "an answer"), message("user", "and then?"))


def test_the_next_turn_has_the_beginnings_of_the_one_before() -> None:
    assert beginnings(SECOND)[: len(beginnings(FIRST))] == beginnings(FIRST)
    assert len(beginnings(FIRST)) == 1 and len(beginnings(SECOND)) == 3


def test_what_is_no_part_of_the_prompt_changes_no_beginning() -> None:
    elsewhere = msgspec.structs.replace(IMAGE, param="messages.7.content.3")
    one = talk(message("user", IMAGE, "what is it?"))
    other = talk(message("user", elsewhere, "what is it?"), job_id="b", epoch=1, priority=3, timeout_s=1.0)
    assert beginnings(one) == beginnings(other)


@pytest.mark.parametrize(
    "other",
    [
        talk(message("user", LONG + "!")),
        talk(message("assistant", LONG)),
        talk(message("user", LONG), tenant="alice"),
        talk(message("user", LONG), cache_salt="salt"),
        talk(message("user", LONG), model="other"),
        talk(message("user", LONG), media=MediaOptions(max_dynamic_patch=1)),
        talk(message("user", LONG), tools=(Tool("look", "up"),)),
        talk(message("system", "Be brief."), message("user", LONG)),
        talk(message("user", "word ", LONG[5:])),
        talk(message("user", IMAGE, LONG)),
    ],
)
def test_whatever_the_prompt_depends_on_changes_all_beginnings(other: ChatJob) -> None:
    assert beginnings(other) and not set(beginnings(FIRST)) & set(beginnings(other))


def test_calls_are_part_of_a_beginning_without_their_ids() -> None:
    def called(call_id: str, arguments: str) -> ChatJob:
        turn = Message(role="assistant", parts=(), tool_calls=(ToolCall(call_id, "look", arguments),))
        return talk(message("user", LONG), turn)

    assert beginnings(called("1", "{}")) == beginnings(called("2", "{}")) != beginnings(called("1", '{"a":1}'))


def test_a_picture_is_worth_finding_again_and_a_short_text_or_what_the_system_says_is_not() -> None:
    assert len(beginnings(talk(message("user", IMAGE)))) == 1
    assert beginnings(talk(message("user", "hi"))) == ()
    assert beginnings(talk(message("system", LONG), message("user", "hi"))) == ()


def test_of_a_picture_in_the_body_a_sample_is_looked_at() -> None:
    def shown(url: str) -> tuple[bytes, ...]:
        return beginnings(talk(message("user", ImagePart(url=url, param="p"))))

    url = "data:image/png;base64," + "".join(random.Random(0).choices(ascii_letters, k=100_000))
    assert shown(url) == shown(str(url)) and len(shown(url)) == 1
    assert len({shown(url), shown(url + "A"), shown(url.replace("B", "C")), shown(url[:5000])}) == 4


def test_a_picture_with_another_question_shares_the_beginning_up_to_the_picture() -> None:
    one, other = (beginnings(talk(message("user", IMAGE, text))) for text in ("what?", "where?"))
    assert one[0] == other[0] and one[1] != other[1]


def test_a_bare_prompt_shares_its_whole_pieces() -> None:
    text = "x" * (2 * PIECE_CHARS)
    assert beginnings(prompt(text + "yes"))[:2] == beginnings(prompt(text + "no"))[:2] == beginnings(prompt(text))
    ids = tuple(range(PIECE_CHARS))
    assert beginnings(prompt((*ids, 7)))[:4] == beginnings(prompt(ids))
    assert beginnings(prompt("short")) == ()


def test_a_job_of_endless_parts_has_a_bounded_number_of_beginnings_its_longest() -> None:
    long = talk(message("user", *[LONG] * 1000))
    assert len(beginnings(long)) == MAX_BEGINNINGS
    assert beginnings(long)[-1] != beginnings(talk(message("user", *[LONG] * 999)))[-1]


IDLE = {"w1": 0.0, "w2": 0.0}


@pytest.fixture
def affinity() -> Affinity:
    affinity = Affinity(margin=0.25)
    affinity.saw(beginnings(FIRST), "w2")
    return affinity


def test_a_conversation_goes_where_it_was(affinity: Affinity) -> None:
    assert affinity.choose(beginnings(SECOND), IDLE) == "w2"
    assert affinity.choose(beginnings(talk(message("user", LONG, "another"))), IDLE) == "w2"
    assert affinity.choose(beginnings(talk(message("user", "x" + LONG))), IDLE) is None


def test_the_longest_beginning_decides(affinity: Affinity) -> None:
    affinity.saw(beginnings(SECOND), "w1")
    affinity.saw(beginnings(FIRST), "w2")
    assert affinity.choose(beginnings(SECOND), IDLE) == "w1"
    assert affinity.choose(beginnings(FIRST), IDLE) == "w2"


def test_a_worker_that_is_much_busier_is_not_chosen(affinity: Affinity) -> None:
    assert affinity.choose(beginnings(SECOND), {"w1": 0.25, "w2": 0.5}) == "w2"
    assert affinity.choose(beginnings(SECOND), {"w1": 0.2, "w2": 0.5}) is None


def test_a_worker_that_is_gone_is_not_chosen(affinity: Affinity) -> None:
    assert affinity.choose(beginnings(SECOND), {"w1": 0.0, "w3": 0.0}) is None


def test_where_the_last_one_is_gone_the_one_that_has_less_is_chosen(affinity: Affinity) -> None:
    affinity.saw(beginnings(SECOND)[1:], "w3")
    assert affinity.choose(beginnings(SECOND), IDLE) == "w2"


def test_hits_and_misses_count_jobs_whose_beginning_was_known(affinity: Affinity) -> None:
    assert affinity.counts == AffinityCounts(0, 0)
    affinity.saw(beginnings(SECOND), "w2")
    affinity.saw(beginnings(SECOND), "w1")
    affinity.saw((), "w1")
    assert affinity.counts == AffinityCounts(hits=1, misses=1)


def test_what_was_not_seen_for_longest_is_forgotten() -> None:
    affinity = Affinity(margin=0.25, max_digests=2)
    for digest in (b"a", b"b", b"a", b"c"):
        affinity.saw((digest,), "w1")
    assert [affinity.last_with((digest,), IDLE) for digest in (b"a", b"b", b"c")] == ["w1", None, "w1"]
