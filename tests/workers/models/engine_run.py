"""Runs golden cases through the real engine on the CPU: scheduler, pages, runner, sampler. No queue, no text."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from tests.workers.models import internvideo2, pvc
from tests.workers.models.goldens import Case, context_id, media_tiles, model, read_json
from workers.backends.open import build_engine
from workers.backends.sizing import EngineLimits
from workers.engine.engine import Engine, TokenOutput
from workers.engine.sampling import Sampling
from workers.engine.sequence import MediaInput, Status
from workers.engine.sequence import Sequence as EngineSequence

LOGPROBS_ATOL = 2e-4
NUM_LOGPROBS = 20


@dataclass
class Finished:
    """What the engine gave for one case; `num_preempted` counts over all sequences of the run."""

    case: Case
    seq: EngineSequence
    num_known: int
    outputs: list[TokenOutput] = field(default_factory=list)

    def assert_matches(self) -> None:
        """Ids equal the reference's, log probabilities nearly so."""
        expected = self.case.logprobs()[self.num_known :].float()
        assert self.seq.output_ids == self.case.greedy_ids
        for output, row in zip(self.outputs, expected, strict=True):
            found = output.logprobs
            ids = torch.tensor([output.token_id, *found.top_ids])
            torch.testing.assert_close(torch.tensor([found.chosen, *found.top]), row[ids], atol=LOGPROBS_ATOL, rtol=0)


def engine(
    set_name: str,
    num_blocks: int = 400,
    block_size: int = 16,
    budget: int = 1024,
    max_num_seqs: int | None = None,
    prefix_cache: bool = True,
) -> Engine:
    """An engine for a set's model. budget: tokens in a step."""
    limits = EngineLimits(
        max_model_len=num_blocks * block_size,
        num_blocks=num_blocks,
        block_size=block_size,
        max_num_seqs=max_num_seqs or min(16, budget),
        max_num_batched_tokens=budget,
        max_encode_tokens=256,
        encoder_cache_bytes=1 << 20,
    )
    return build_engine(model(set_name), limits, prefix_cache)


def sequence(case: Case, num_known: int = 0, name: str = "") -> EngineSequence:
    """A case as the engine takes it, behind `num_known` tokens that were generated elsewhere."""
    return EngineSequence(
        request_id=name or case.name,
        token_ids=[*case.raw["input_ids"], *case.greedy_ids[:num_known]],
        num_prompt_tokens=len(case.raw["input_ids"]),
        max_total_tokens=len(case.raw["input_ids"]) + len(case.greedy_ids),
        media=media_inputs(case),
        rope_regime=model(case.set_name).rope_regime,
        sampling=Sampling(temperature=0.0, num_logprobs=NUM_LOGPROBS),
    )


def media_inputs(case: Case) -> tuple[MediaInput, ...]:
    """The spans of placeholders in a case's prompt, in order, with their tiles."""
    if case.set_name.startswith("internvideo2"):
        return internvideo2.media_inputs(case)
    if case.set_name == pvc.PVC:
        return pvc.media_inputs(case)
    config, options = read_json(case.set_name, "checkpoint/config.json"), case.raw["options"]
    per_tile = model(case.set_name).tokens_per_tile
    ids, start, items = case.raw["input_ids"], 0, []
    for url in case.media_urls:
        tiles = media_tiles(url, options, config).numpy()
        start = ids.index(context_id(case.set_name), start)
        key = hashlib.sha256(json.dumps([url, options]).encode()).digest()
        items.append(MediaInput(start, len(tiles) * per_tile, key, tiles))
        start = items[-1].end
    return tuple(items)


def run(core: Engine, cases: Sequence[Case], num_known: int = 0, shares: bool = True) -> list[Finished]:
    """Answer the cases together; every page must be free again in the end. shares: pages of equal prefixes."""
    results = [Finished(case, sequence(case, num_known), num_known) for case in cases]
    for result in results:
        result.seq.cache_salt = b"" if shares else result.case.name.encode()
    by_id = {result.seq.request_id: result for result in results}
    for result in results:
        core.add(result.seq)
    while core.scheduler.has_work:
        for output in core.step():
            by_id[output.request_id].outputs.append(output)
        core.block_manager.check([result.seq for result in results if result.seq.block_table])
    assert core.block_manager.usage == 0
    return results


def tight_blocks(cases: Sequence[Case], block_size: int) -> int:
    """Pages in which the cases' prompts find room together, but not all of their answers."""
    return sum(-(-len(case.raw["input_ids"]) // block_size) for case in cases) + 2 * len(cases)


def run_counting(core: Engine, cases: Sequence[Case]) -> tuple[list[Finished], int]:
    """As `run`, each sequence with pages of its own, and how often one lost them."""
    preempted: list[str] = []
    schedule = core.scheduler.schedule

    def recording(alone=None):
        plan = schedule(alone)
        preempted.extend(plan.preempted)
        return plan

    core.scheduler.schedule = recording
    results = run(core, cases, shares=False)
    assert all(result.seq.status is Status.FINISHED_LENGTH for result in results)
    return results, len(preempted)
