"""The engine's steps under grammars, on a real tiny model: batches, ends, limits, takeovers."""

import json

import jsonschema
import pytest
import torch

from schemas.errors import RequestError
from tests.e2e.goldens import LEAN
from tests.workers.grammar.compiled import compiled, eos_ids, text_of, tokenizer
from workers.backends.open import build_engine
from workers.backends.sizing import EngineLimits
from workers.engine.bad_words import BadWords
from workers.engine.engine import Engine, SequenceFailed, TokenOutput
from workers.engine.sampling import Sampling
from workers.engine.sequence import Sequence
from workers.grammar.library import CompiledGrammar
from workers.models.base import VisionLanguageModel
from workers.weights.load import load_model

FAMILY = "internvl2_5-qwen2"
STOPS = eos_ids(FAMILY)
LIMITS = EngineLimits(
    max_model_len=512,
    num_blocks=80,
    block_size=16,
    max_num_seqs=8,
    max_num_batched_tokens=64,
    max_encode_tokens=64,
    encoder_cache_bytes=1 << 20,
)
SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "box": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 99},
            "minItems": 2,
            "maxItems": 2,
        },
        "label": {"type": "string", "maxLength": 6},
    },
    "required": ["colour", "box", "label"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model(LEAN / FAMILY / "checkpoint", torch.device("cpu"))


@pytest.fixture(scope="module")
def grammar() -> CompiledGrammar:
    return compiled("json_schema", SCHEMA, FAMILY)


def engine_of(model: VisionLanguageModel) -> Engine:
    return build_engine(model, LIMITS, enable_prefix_cache=True)


def sequence(
    name: str, grammar: CompiledGrammar | None, emitted: tuple[int, ...] = (), most: int = 200, **how: object
) -> Sequence:
    sampling = Sampling(**{"seed": 5, "temperature": 1.0, "stop_token_ids": STOPS, **how})
    return Sequence(
        request_id=name,
        token_ids=[7, 8, 9, *emitted],
        num_prompt_tokens=3,
        max_total_tokens=3 + most,
        sampling=sampling,
        grammar=grammar.start(not sampling.stop_token_ids, emitted) if grammar else None,
    )


def run(engine: Engine, *sequences: Sequence) -> dict[str, tuple[list[int], str | None]]:
    """Token ids and finish reason by name; an error's message as the reason."""
    for seq in sequences:
        engine.add(seq)
    found: dict[str, tuple[list[int], str | None]] = {seq.request_id: ([], None) for seq in sequences}
    while engine.scheduler.has_work:
        for output in engine.step():
            ids, reason = found[output.request_id]
            if isinstance(output, TokenOutput):
                found[output.request_id] = ([*ids, output.token_id], output.finish_reason)
            else:
                found[output.request_id] = (ids, str(output.error))
        engine.block_manager.check()
    return found


def text(ids: list[int]) -> str:
    return text_of([token_id for token_id in ids if token_id not in STOPS], FAMILY)


def test_constrained_answers_in_a_mixed_batch_are_valid_and_the_others_untouched(
    model: VisionLanguageModel, grammar: CompiledGrammar
) -> None:
    free = [sequence(f"free{at}", None, seed=at, most=40) for at in range(3)]
    alone = {seq.request_id: run(engine_of(model), seq)[seq.request_id] for seq in free}
    mixed = [sequence(f"free{at}", None, seed=at, most=40) for at in range(3)]
    bound = [sequence(f"bound{at}", grammar, seed=at) for at in range(4)]
    found = run(engine_of(model), bound[0], mixed[0], bound[1], mixed[1], mixed[2], bound[2], bound[3])
    assert {name: found[name] for name in alone} == alone
    for seq in bound:
        ids, reason = found[seq.request_id]
        assert reason == "stop"
        jsonschema.validate(json.loads(text(ids)), SCHEMA)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_that_is_taken_over_goes_on_as_undisturbed(
    model: VisionLanguageModel, grammar: CompiledGrammar, temperature: float
) -> None:
    whole, reason = run(engine_of(model), sequence("whole", grammar, temperature=temperature))["whole"]
    assert reason == "stop"
    for count in (1, len(whole) // 2, len(whole) - 1):
        emitted = tuple(whole[:count])
        resumed = run(engine_of(model), sequence("resumed", grammar, emitted, temperature=temperature))["resumed"]
        assert ([*emitted, *resumed[0]], resumed[1]) == (whole, "stop")


def test_an_answer_that_runs_into_its_limit_says_so(model: VisionLanguageModel, grammar: CompiledGrammar) -> None:
    ids, reason = run(engine_of(model), sequence("short", grammar, most=4))["short"]
    assert (len(ids), reason) == (4, "length")


def test_an_answer_that_is_whole_at_its_limit_has_stopped(model: VisionLanguageModel, grammar: CompiledGrammar) -> None:
    whole, _ = run(engine_of(model), sequence("whole", grammar))["whole"]
    assert run(engine_of(model), sequence("exact", grammar, most=len(whole)))["exact"] == (whole, "stop")


@pytest.mark.parametrize(
    "how", [{"min_tokens": 100}, {"stop_token_ids": frozenset()}], ids=["min_tokens", "ignore_eos"]
)
def test_a_whole_answer_ends_although_it_should_go_on(
    model: VisionLanguageModel, grammar: CompiledGrammar, how: dict
) -> None:
    ids, reason = run(engine_of(model), sequence("on", grammar, **how))["on"]
    assert reason == "stop"
    jsonschema.validate(json.loads(text(ids)), SCHEMA)


def test_min_tokens_keep_an_answer_going_that_could_end(model: VisionLanguageModel) -> None:
    letters = compiled("regex", "[a-z]+", FAMILY)
    for seed in range(4):
        ids, _ = run(engine_of(model), sequence("long", letters, min_tokens=12, most=20, seed=seed))["long"]
        assert len(ids) >= 12 and STOPS.isdisjoint(ids[:12])


def test_bias_and_penalties_choose_among_what_is_allowed(model: VisionLanguageModel) -> None:
    choices = compiled("choice", ["a", "b", "c"], FAMILY)
    forbidden = tokenizer(FAMILY).token_id("z")
    for letter in "abc":
        wanted = tokenizer(FAMILY).token_id(letter)
        found = run(engine_of(model), sequence("one", choices, logit_bias={wanted: 90.0, forbidden: 100.0}))["one"]
        assert text(found[0]) == letter


def test_bad_words_are_kept_out_where_the_grammar_leaves_another_choice(model: VisionLanguageModel) -> None:
    ids = [tokenizer(FAMILY).token_id(letter) for letter in "ab"]
    first, pair = BadWords([(ids[0],)]), BadWords([(ids[0], ids[1])])
    for seed in range(4):
        for words, choices, expected in (
            (first, ["a", "b"], "b"),
            (first, ["a"], "a"),
            (pair, ["a-", "a-b"], None),
        ):
            how = {"seed": seed, "bad_words": words}
            found = run(engine_of(model), sequence("one", compiled("choice", choices, FAMILY), **how))["one"]
            assert found[1] == "stop"
            assert text(found[0]) == expected or expected is None and text(found[0]) in choices


def test_a_grammar_that_becomes_too_complex_fails_its_answer_alone(
    model: VisionLanguageModel, grammar: CompiledGrammar
) -> None:
    hard = compiled("lark", 'start: "a" b{100000}\nb: "x"', FAMILY)
    engine = engine_of(model)
    engine.add(sequence("hard", hard))
    engine.add(sequence("sound", grammar))
    outputs = []
    while engine.scheduler.has_work:
        outputs += engine.step()
    failed = [output for output in outputs if isinstance(output, SequenceFailed)]
    assert [failure.request_id for failure in failed] == ["hard"]
    assert isinstance(failed[0].error, RequestError) and failed[0].error.param == "guided"
    assert next(o for o in outputs if isinstance(o, TokenOutput) and o.finish_reason).request_id == "sound"
    assert engine.block_manager.usage == 0


def test_aborting_a_constrained_answer_frees_its_pages(model: VisionLanguageModel, grammar: CompiledGrammar) -> None:
    engine = engine_of(model)
    engine.add(sequence("gone", grammar))
    for _ in range(3):
        engine.step()
    engine.abort("gone")
    assert engine.block_manager.usage == 0
    assert run(engine, sequence("next", grammar))["next"][1] == "stop"
