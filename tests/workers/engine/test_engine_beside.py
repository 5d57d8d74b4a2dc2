"""The engine with prompts beside its steps, on a real tiny model: the same tokens; faults end only whom they must."""

import math

import pytest
import torch

from tests.e2e.goldens import LEAN
from tests.workers.engine.test_engine import LIMITS, SOUND, run
from workers.backends.open import build_engine
from workers.engine.companion import CompanionTurns
from workers.engine.engine import Engine, TokenOutput
from workers.engine.plan import Chunk, StepPlan
from workers.engine.sampling import Sampling
from workers.engine.sequence import MediaInput, Sequence
from workers.models.base import VisionLanguageModel
from workers.weights.load import load_model


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model(LEAN / "internvl2_5-qwen2" / "checkpoint", torch.device("cpu"))


@pytest.fixture(params=[0, 10**6], ids=["thread", "turns"])  # a core is left, or none, on any machine
def with_companion(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    monkeypatch.setattr(CompanionTurns, "most_share", math.inf)
    monkeypatch.setattr(CompanionTurns, "prefill_tokens", 64)


def sequence(name: str, num_tokens: int, new_tokens: int, num_pictures: int = 0) -> Sequence:
    media = tuple(MediaInput(10 + 40 * n, 4, f"{name}{n}".encode(), SOUND + n) for n in range(num_pictures))
    token_ids = [(7 * position + len(name)) % 90 + 3 for position in range(num_tokens)]
    return Sequence(name, token_ids, num_tokens, num_tokens + new_tokens, media, sampling=Sampling(temperature=0.0))


def test_prompts_beside_the_steps_change_no_token(model: VisionLanguageModel, with_companion: None) -> None:
    def fill(engine: Engine) -> list[int]:
        engine.add(sequence("text", 20, 60))
        first = [output.token_id for output in engine.step() if isinstance(output, TokenOutput)]
        engine.add(sequence("long", 130, 6))
        engine.add(sequence("pictures", 100, 6, num_pictures=2))
        return first

    plain = build_engine(model, LIMITS, enable_prefix_cache=False)
    plain._companion, plain.scheduler._beside_share = None, 0.0
    fill(plain)
    expected, _ = run(plain)

    engine = build_engine(model, LIMITS, enable_prefix_cache=False)
    chunks: list[Chunk] = []
    prefill = engine._runner.prefill
    engine._runner.prefill = lambda chunk: (chunks.append(chunk), prefill(chunk))[1]  # type: ignore[method-assign]
    fill(engine)
    tokens, failed = run(engine)
    assert tokens == expected and not failed
    assert {chunk.seq.request_id for chunk in chunks} == {"long", "pictures"}
    assert engine.counters.prefill_tokens == plain.counters.prefill_tokens == 250
    assert engine.block_manager.usage == 0 and not engine.is_busy_beside


def test_a_prompt_that_cannot_be_computed_ends_alone(model: VisionLanguageModel, with_companion: None) -> None:
    plain = build_engine(model, LIMITS, enable_prefix_cache=False)
    plain.add(sequence("text", 20, 30))
    expected, _ = run(plain)

    engine = build_engine(model, LIMITS, enable_prefix_cache=False)
    engine._runner.prefill = lambda chunk: [][0]  # type: ignore[method-assign]
    engine.add(sequence("text", 20, 30))
    engine.step()
    engine.add(sequence("bad", 100, 6))
    tokens, failed = run(engine)
    assert tokens["text"] == expected["text"][1:] and "IndexError" in failed["bad"]
    assert engine.block_manager.usage == 0


def test_a_fault_of_the_device_beside_the_steps_comes_through(model: VisionLanguageModel, with_companion: None) -> None:
    def fail(chunk: Chunk) -> None:
        raise MemoryError

    engine = build_engine(model, LIMITS, enable_prefix_cache=False)
    engine._runner.prefill = fail  # type: ignore[method-assign]
    engine.add(sequence("text", 20, 30))
    engine.step()
    engine.add(sequence("long", 100, 6))
    with pytest.raises(MemoryError):
        run(engine)


def test_who_leaves_while_its_prompt_is_computed_leaves_nothing(
    model: VisionLanguageModel, with_companion: None
) -> None:
    engine = build_engine(model, LIMITS, enable_prefix_cache=False)
    engine.add(sequence("text", 20, 30))
    engine.step()
    engine.add(sequence("gone", 100, 6))
    engine.step()
    assert engine.scheduler.is_prefilling_beside("gone")
    engine.abort("gone")
    assert not engine.is_busy_beside
    tokens, failed = run(engine)
    assert set(tokens) == {"text"} and not failed
    assert engine.block_manager.usage == 0


def test_embeddings_that_make_room_are_let_go_though_no_step_computes(
    model: VisionLanguageModel, with_companion: None
) -> None:
    """Where all that is planned is pictures beside the steps, because who decoded lost its pages to their prompt."""
    engine = build_engine(model, LIMITS, enable_prefix_cache=False)
    engine._runner.keep({b"old": torch.zeros(4, model.hidden_size)})
    item = sequence("new", 100, 2, num_pictures=1).media[0]
    plan = StepPlan((), encode_beside=(item,), drop_embeddings=(b"old",))
    engine.scheduler.schedule = lambda alone=None: plan  # type: ignore[method-assign]
    assert engine.step() == []
    assert len(engine._runner._embeddings[item.key]) == 4
    with pytest.raises(KeyError):
        engine._runner._embeddings[b"old"]
