"""The engine's step on a real tiny model: a medium that cannot be encoded ends its own request and no other."""

import math
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.e2e.goldens import LEAN
from workers.attention import side_by_side
from workers.backends.open import build_engine
from workers.backends.sizing import EngineLimits
from workers.engine.companion import CompanionTurns
from workers.engine.engine import Engine, TokenOutput
from workers.engine.plan import StepPlan
from workers.engine.sampler import NonFiniteLogits
from workers.engine.sampling import Sampling
from workers.engine.sequence import MediaInput, Sequence
from workers.models.layers import run_through
from workers.weights.load import load_model

LIMITS = EngineLimits(
    max_model_len=256,
    num_blocks=40,
    block_size=16,
    max_num_seqs=8,
    max_num_batched_tokens=64,
    max_encode_tokens=64,
    encoder_cache_bytes=1 << 20,
)
BROKEN = np.zeros((1, 56, 56, 3), dtype=np.uint8)
SOUND = np.full((1, 56, 56, 3), 7, dtype=np.uint8)


class PickyModel:
    """The golden's model, whose tower refuses all-black tiles and gives too few rows for all-white ones."""

    def __init__(self) -> None:
        self._model = load_model(LEAN / "internvl2_5-qwen2" / "checkpoint", torch.device("cpu"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode_inputs(self, inputs: np.ndarray) -> torch.Tensor:
        if not inputs.any():
            raise RuntimeError("shapes cannot be multiplied")
        rows = self._model.encode_tiles(torch.from_numpy(inputs)).flatten(0, 1)
        return rows[:1] if inputs.min() == 255 else rows


class TiledModel:
    """The golden's model, whose tower refuses all-black tiles among those of a step."""

    def __init__(self) -> None:
        self._model = load_model(LEAN / "internvl2_5-qwen2" / "checkpoint", torch.device("cpu"))

    def __getattr__(self, name: str) -> Any:
        if name == "encode_inputs":
            raise AttributeError(name)
        return getattr(self._model, name)

    def encode_tiles(self, tiles: torch.Tensor) -> torch.Tensor:
        return run_through(self.encode_in_parts(tiles))

    def encode_in_parts(self, tiles: torch.Tensor) -> Generator[None, None, torch.Tensor]:
        if not tiles.flatten(1).any(dim=1).all():
            raise RuntimeError("shapes cannot be multiplied")
        return (yield from self._model.encode_in_parts(tiles))


def sequence(name: str, tiles: np.ndarray | None = None, tokens: int = 5) -> Sequence:
    prompt = [5] * 20
    media = () if tiles is None else (MediaInput(4, 4, name.encode(), tiles),)
    return Sequence(
        request_id=name,
        token_ids=prompt,
        num_prompt_tokens=20,
        max_total_tokens=20 + tokens,
        media=media,
        sampling=Sampling(temperature=0.0),
    )


def run(engine: Engine) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Step until idle: tokens by request, and the reasons of those that failed."""
    tokens: dict[str, list[int]] = {}
    failed: dict[str, str] = {}
    while engine.scheduler.has_work:
        for output in engine.step():
            if isinstance(output, TokenOutput):
                tokens.setdefault(output.request_id, []).append(output.token_id)
            else:
                failed[output.request_id] = output.reason
        engine.block_manager.check()
    return tokens, failed


@pytest.fixture(scope="module")
def model() -> PickyModel:
    return PickyModel()


def test_a_medium_that_cannot_be_encoded_fails_its_own_request_only(model: PickyModel):
    undisturbed = build_engine(model, LIMITS, enable_prefix_cache=False)
    undisturbed.add(sequence("text"))
    undisturbed.add(sequence("sound", SOUND))
    expected, _ = run(undisturbed)

    engine = build_engine(model, LIMITS, enable_prefix_cache=False)
    for seq in (
        sequence("text"),
        sequence("broken", BROKEN),
        sequence("short", SOUND * 0 + 255),
        sequence("sound", SOUND),
    ):
        engine.add(seq)
    tokens, failed = run(engine)
    assert tokens == expected
    assert set(failed) == {"broken", "short"}
    assert "1 embeddings came for 4" in failed["short"]
    assert engine.block_manager.usage == 0


@pytest.mark.parametrize("model_type", [PickyModel, TiledModel])
@pytest.mark.parametrize("num_threads", [0, 10**6], ids=["thread", "turns"])  # a core is left, or none, on any machine
def test_a_tower_beside_the_steps_changes_no_token_and_fails_only_whom_it_must(
    model_type: type[PickyModel] | type[TiledModel], num_threads: int, monkeypatch: pytest.MonkeyPatch
):
    model = model_type()
    undisturbed = build_engine(model, LIMITS, enable_prefix_cache=False)
    for seq in (sequence("text", tokens=40), sequence("sound", SOUND), sequence("late", SOUND + 1)):
        undisturbed.add(seq)
    expected, _ = run(undisturbed)

    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    monkeypatch.setattr(CompanionTurns, "most_share", math.inf)
    engine = build_engine(model, LIMITS, enable_prefix_cache=False)
    engine.add(sequence("text", tokens=40))
    first = engine.step()
    for seq in (sequence("sound", SOUND), sequence("broken", BROKEN), sequence("late", SOUND + 1)):
        engine.add(seq)
    tokens, failed = run(engine)
    tokens["text"] = [output.token_id for output in first] + tokens["text"]
    assert tokens == expected and set(failed) == {"broken"}
    assert engine.block_manager.usage == 0 and engine.counters.encoded_items > 2


class FaultyRunner:
    """Raises in place of the steps that `breaks` picks out of their plans."""

    def __init__(self, runner: Any, breaks: Callable[[StepPlan], Exception | None]) -> None:
        self._runner = runner
        self._breaks = breaks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def execute(self, plan: StepPlan) -> Any:
        error = self._breaks(plan)
        if error is not None:
            raise error
        return self._runner.execute(plan)


def faulty_engine(model: PickyModel, breaks: Callable[[StepPlan], Exception | None]) -> Engine:
    engine = build_engine(model, LIMITS, enable_prefix_cache=False)
    engine._runner = FaultyRunner(engine._runner, breaks)
    return engine


def prompts_of(plan: StepPlan) -> set[str]:
    return {chunk.seq.request_id for chunk in plan.chunks}


@pytest.mark.parametrize("at_token", [0, 2], ids=["prefill", "decode"])
def test_a_request_with_which_every_step_raises_ends_and_its_neighbours_are_exact(model: PickyModel, at_token: int):
    def breaks(plan: StepPlan) -> Exception | None:
        for chunk in plan.chunks:
            if chunk.seq.request_id == "bad" and chunk.seq.num_output_tokens == at_token:
                return IndexError("a bug")
        return None

    undisturbed = build_engine(model, LIMITS, enable_prefix_cache=False)
    engine = faulty_engine(model, breaks)
    for one in (undisturbed, engine):
        for seq in (sequence("text"), sequence("bad"), sequence("picture", SOUND)):
            one.add(seq)
    expected, _ = run(undisturbed)
    tokens, failed = run(engine)
    assert set(failed) == {"bad"} and "a bug" in failed["bad"]
    assert tokens.pop("bad", []) == expected.pop("bad")[:at_token]
    assert tokens == expected
    assert engine.block_manager.usage == 0


def test_a_step_that_raises_once_costs_nobody_a_token(model: PickyModel):
    errors = [KeyError("once")]
    undisturbed = build_engine(model, LIMITS, enable_prefix_cache=False)
    engine = faulty_engine(model, lambda plan: errors.pop() if errors and len(plan.chunks) > 1 else None)
    for one in (undisturbed, engine):
        for seq in (sequence("text"), sequence("picture", SOUND)):
            one.add(seq)
    expected, _ = run(undisturbed)
    assert run(engine) == (expected, {})
    assert not errors


def test_an_engine_with_which_everything_raises_is_given_up(model: PickyModel):
    engine = faulty_engine(model, lambda plan: ZeroDivisionError())
    for number in range(8):
        engine.add(sequence(str(number)))
    with pytest.raises(ZeroDivisionError):
        run(engine)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access"),
        torch.OutOfMemoryError("no memory"),
        MemoryError(),
    ],
)
def test_a_fault_of_the_device_comes_through_at_once(model: PickyModel, error: Exception):
    engine = faulty_engine(model, lambda plan: error)
    engine.add(sequence("text"))
    with pytest.raises(type(error)):
        engine.step()


def test_logits_that_are_no_numbers_come_through(model: PickyModel):
    engine = build_engine(model, LIMITS, enable_prefix_cache=False)
    engine.add(sequence("text"))
    engine.add(sequence("other"))
    compute = engine._runner._model.compute_logits
    broken = PickyModel()
    broken.compute_logits = lambda hidden: compute(hidden) * float("nan")
    engine._runner._model = broken
    with pytest.raises(NonFiniteLogits):
        engine.step()


def test_tiles_that_the_tower_refuses_end_their_own_request_only(model: PickyModel):
    """A tower that takes the tiles of several requests at once."""
    tiled = TiledModel()
    engine = build_engine(tiled, LIMITS, enable_prefix_cache=False)
    undisturbed = build_engine(model, LIMITS, enable_prefix_cache=False)
    for seq in (sequence("sound", SOUND), sequence("broken", BROKEN), sequence("text")):
        engine.add(seq)
    for seq in (sequence("sound", SOUND), sequence("text")):
        undisturbed.add(seq)
    expected, _ = run(undisturbed)
    tokens, failed = run(engine)
    assert set(failed) == {"broken"} and tokens == expected


@pytest.mark.parametrize("enable_prefix_cache", [False, True])
def test_a_pool_much_too_small_delays_everybody_and_changes_no_token(model: PickyModel, enable_prefix_cache: bool):
    def tokens_with(num_blocks: int) -> tuple[dict[str, list[int]], int]:
        engine = build_engine(model, replace(LIMITS, num_blocks=num_blocks), enable_prefix_cache)
        for number in range(10):
            engine.add(sequence(str(number), SOUND + number if number % 2 else None, tokens=60))
        tokens, failed = run(engine)
        assert not failed and engine.block_manager.usage == 0
        return tokens, engine.counters.preemptions

    expected, num_preemptions = tokens_with(60)
    assert num_preemptions == 0
    cramped, num_preemptions = tokens_with(7)
    assert cramped == expected and num_preemptions > 0


def test_what_is_kept_of_contexts_changes_no_token_also_where_pages_are_given_up(
    model: PickyModel, monkeypatch: pytest.MonkeyPatch
):
    def tokens_with(num_blocks: int) -> dict[str, list[int]]:
        engine = build_engine(model, replace(LIMITS, num_blocks=num_blocks), enable_prefix_cache=True)
        for number in range(10):
            engine.add(sequence(str(number), SOUND + number if number % 2 else None, tokens=60))
        return run(engine)[0]

    expected = tokens_with(60)
    monkeypatch.setattr(side_by_side, "MIN_LAYER_BYTES", 1)
    monkeypatch.setattr(side_by_side, "GROWTH_TOKENS", 16)
    assert [tokens_with(num_blocks) for num_blocks in (60, 20, 7)] == [expected] * 3


def test_counters_tell_what_was_done(model: PickyModel):
    engine = build_engine(model, LIMITS, enable_prefix_cache=True)
    for name in ("first", "second"):
        engine.add(sequence(name, tokens=5))
        run(engine)
    done = engine.counters
    assert (done.generated_tokens, done.cached_tokens, done.preemptions) == (10, 16, 0)
    assert done.prefill_tokens == 20 + 4
    engine.add(sequence("picture", SOUND))
    run(engine)
    assert (done.encoded_items, done.encoded_tokens) == (1, 4)
