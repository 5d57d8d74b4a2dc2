"""Tokens that a lower stack sees in parts: their order, their chunks, what may be shared of them."""

import numpy as np
import pytest

from tests.fakes.prompts import picture, prompt
from tests.workers.models.engine_run import sequence
from tests.workers.models.goldens import Case, cases, context_id
from workers.engine.block_manager import BlockManager
from workers.engine.encoder_cache import EncoderCache
from workers.engine.plan import Chunk
from workers.engine.scheduler import Scheduler
from workers.engine.sequence import Sequence
from workers.engine.unfold import EMPTY, number_slots, unfold_batch
from workers.models.base import Unfolding

PAIRS = Unfolding(token_grid=2, scale=2)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases(["hovle_hd"])])
def test_slots_are_numbered_as_the_reference_lays_out_its_long_prompt(case: Case):
    long_ids, context = case.raw["hd_input_ids"], context_id("hovle_hd")
    seq = sequence(case)
    numbers = number_slots(seq, seq.num_prompt_tokens, PAIRS).reshape(-1, 4)
    assert sorted(numbers[numbers != EMPTY]) == list(range(len(long_ids)))
    for token_id, row in zip(case.raw["input_ids"], numbers, strict=True):
        assert [long_ids[number] for number in row if number != EMPTY] == [token_id] * (4 if token_id == context else 1)


def test_parts_of_a_token_are_the_patches_that_it_is_made_of():
    seq = Sequence("a", [5, 9, 9, 9, 9, 9, 9, 9, 9, 6], 10, 20, media=(picture(1, 8, b"two tiles"),))
    numbers = number_slots(seq, 10, PAIRS).reshape(-1, 4)
    #  0  1 |  2  3     A tile's patches, row by row; the prompt's first token stands before them.
    #  4  5 |  6  7
    assert (numbers[1:5] - 1).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert (numbers[5:9] - 1 - 16).tolist() == (numbers[1:5] - 1).tolist()
    assert [numbers[0, 0], numbers[9, 0]] == [0, 33]


def test_generated_tokens_stand_at_the_prompts_end_and_see_nothing_else():
    seq = Sequence("a", [5, 9, 9, 9, 9, 6, 11, 12, 13], 6, 20, media=(picture(1, 4, b"tile"),))
    seq.block_table.extend(range(5))
    whole = unfold_batch([Chunk(seq, 0, 9, True)], 2, PAIRS)
    own, generated = whole.prefills
    assert whole.positions[own.start : own.stop].tolist() == list(range(18))
    assert own.order is None
    assert whole.positions[generated.start : generated.stop].tolist() == [17, 17, 17]
    assert generated.order is not None
    assert np.count_nonzero(generated.order.keys <= 17) == 18 and len(generated.order.keys) == 6 * 4
    alone = unfold_batch([Chunk(seq, 8, 1, True)], 2, PAIRS)
    assert not alone.prefills and alone.decode_groups[0].lengths.tolist() == [24]
    assert alone.rows.tolist() == [0] and alone.slots.tolist() == [8 * 4]


@pytest.mark.parametrize("budget", [1, 3, 4, 6, 9, 64])
@pytest.mark.parametrize("prefill_chunk", [None, 2, 7])
def test_no_chunk_ends_within_a_line_and_all_of_the_prompt_is_computed(budget: int, prefill_chunk: int | None):
    blocks, encoder_cache = BlockManager(64, 4), EncoderCache(256, token_bytes=1)
    scheduler = Scheduler(blocks, encoder_cache, 1, budget, 64, prefill_chunk, media_unit=4)
    item = picture(3, 16, b"cat")
    seq = prompt("a", 22, media=(item,), max_new_tokens=1)
    scheduler.add(seq)
    ends = []
    while seq.num_computed_tokens < 22:
        plan = scheduler.schedule()
        scheduler.update(plan, {"a": 7} if plan.sampling_chunks else {})
        ends.append(plan.chunks[0].end)
    assert all((end - item.start) % 4 == 0 for end in ends if item.start < end < item.end)
    assert ends == sorted(set(ends)) and ends[-1] == 22


def test_a_media_unit_is_at_least_one():
    with pytest.raises(ValueError, match="media_unit"):
        Scheduler(BlockManager(4, 4), EncoderCache(8, 1), 1, 8, 8, media_unit=0)


def test_only_blocks_of_prompts_are_shared_where_outputs_differ():
    blocks = BlockManager(16, 2, shares_outputs=False)
    seq = Sequence("a", [1, 2, 3, 4, 5, 6, 7], 5, 20)
    blocks.allocate(seq, 7)
    seq.num_computed_tokens = 7
    blocks.commit(seq)
    blocks.free(seq)
    assert blocks.lookup(Sequence("b", [1, 2, 3, 4, 5, 6, 7, 8], 8, 20)) == 4
    assert blocks.lookup(Sequence("c", [1, 2, 3, 4, 5], 3, 20)) == 2
    blocks.check([])
