import random
from itertools import count

import pytest

from workers.engine.block_manager import BlockManager
from workers.engine.sequence import MediaInput, Sequence

BLOCK = 4
_ids = count()


def sequence(token_ids: list[int], media: tuple[MediaInput, ...] = (), salt: bytes = b"") -> Sequence:
    return Sequence(str(next(_ids)), token_ids, len(token_ids), 1000, media, cache_salt=salt)


def compute(manager: BlockManager, seq: Sequence) -> Sequence:
    """Allocate for all tokens and let them be computed."""
    manager.allocate(seq, seq.num_tokens)
    seq.num_computed_tokens = seq.num_tokens
    manager.commit(seq)
    return seq


def test_table_covers_the_asked_positions_and_only_grows() -> None:
    manager = BlockManager(8, BLOCK)
    seq = sequence(list(range(9)))
    manager.allocate(seq, 9)
    table = list(seq.block_table)
    assert len(table) == len(set(table)) == 3
    manager.allocate(seq, 12)
    assert seq.block_table == table
    manager.allocate(seq, 13)
    assert seq.block_table[:3] == table and len(seq.block_table) == 4
    assert (manager.num_free_blocks, manager.usage) == (4, 0.5)
    manager.check([seq])


def test_refused_allocation_changes_nothing() -> None:
    manager = BlockManager(3, BLOCK)
    seq = sequence(list(range(13)))
    assert not manager.can_allocate(seq, 13) and manager.can_allocate(seq, 12)
    assert not manager.can_allocate(seq, 9, num_spare_blocks=1) and manager.can_allocate(seq, 8, num_spare_blocks=1)
    with pytest.raises(RuntimeError, match="no blocks"):
        manager.allocate(seq, 13)
    assert seq.block_table == [] and manager.num_free_blocks == 3
    manager.check([seq])


def test_prefix_is_shared_while_held_and_found_again_after() -> None:
    manager = BlockManager(8, BLOCK)
    first = compute(manager, sequence(list(range(10))))
    second = sequence([*range(8), 77, 78])
    assert manager.lookup(second) == 8
    manager.allocate(second, 10)
    assert second.block_table[:2] == first.block_table[:2] and second.block_table[2] != first.block_table[2]
    assert second.num_computed_tokens == 8 and manager.num_free_blocks == 4
    manager.check([first, second])
    manager.free(first)
    manager.free(second)
    assert manager.usage == 0 and manager.lookup(sequence(list(range(10)))) == 8
    manager.check([])


def test_at_least_one_token_stays_to_be_computed() -> None:
    manager = BlockManager(8, BLOCK)
    compute(manager, sequence(list(range(8))))
    assert manager.lookup(sequence(list(range(8)))) == 4
    assert manager.lookup(sequence(list(range(9)))) == 8
    assert manager.lookup(sequence(list(range(4)))) == 0


def test_hit_may_end_inside_a_media_span() -> None:
    manager = BlockManager(8, BLOCK)
    picture = MediaInput(2, 8, b"cat")
    compute(manager, sequence([1, 2, *[9] * 8, 3], (picture,)))
    assert manager.lookup(sequence([1, 2, *[9] * 8, 4], (picture,))) == 8
    assert manager.lookup(sequence([1, 2, *[9] * 8, 4], (MediaInput(2, 8, b"dog"),))) == 0


def test_tenants_do_not_see_each_others_blocks() -> None:
    manager = BlockManager(8, BLOCK)
    compute(manager, sequence(list(range(9)), salt=b"a"))
    assert manager.lookup(sequence(list(range(9)), salt=b"b")) == 0
    assert manager.lookup(sequence(list(range(9)), salt=b"a")) == 8


def test_blocks_not_yet_computed_are_not_found() -> None:
    manager = BlockManager(8, BLOCK)
    seq = sequence(list(range(12)))
    manager.allocate(seq, 12)
    seq.num_computed_tokens = 7
    manager.commit(seq)
    assert manager.lookup(sequence(list(range(12)))) == 4


def test_of_two_equal_blocks_the_first_committed_stays() -> None:
    manager = BlockManager(8, BLOCK)
    first, second = sequence(list(range(9))), sequence(list(range(9)))
    for seq in (first, second):
        manager.allocate(seq, 9)
    for seq in (first, second):
        seq.num_computed_tokens = 9
        manager.commit(seq)
    third = sequence(list(range(9)))
    manager.allocate(third, 9)
    assert third.block_table[:2] == first.block_table[:2]
    for seq in (second, first, third):
        manager.free(seq)
        manager.check()
    assert manager.num_free_blocks == 8 and manager.lookup(sequence(list(range(9)))) == 8


def test_end_of_a_sequence_is_reused_before_its_beginning() -> None:
    manager = BlockManager(4, BLOCK)
    manager.free(compute(manager, sequence(list(range(16)))))
    compute(manager, sequence([50] * 5))
    assert manager.lookup(sequence(list(range(17)))) == 8


def test_blank_blocks_go_first_then_the_least_recently_freed() -> None:
    manager = BlockManager(4, BLOCK)
    old, new = [1] * 5, [2] * 5  # one full block and one partial each
    manager.free(compute(manager, sequence(old)))
    manager.free(compute(manager, sequence(new)))
    compute(manager, sequence([3] * 8))
    assert (manager.lookup(sequence(old)), manager.lookup(sequence(new))) == (4, 4)
    compute(manager, sequence([4] * 4))
    assert (manager.lookup(sequence(old)), manager.lookup(sequence(new))) == (0, 4)


def test_a_hit_makes_blocks_recent_again() -> None:
    manager = BlockManager(4, BLOCK)
    manager.free(compute(manager, sequence([1] * 5)))
    manager.free(compute(manager, sequence([2] * 5)))
    manager.free(compute(manager, sequence([1] * 5)))
    compute(manager, sequence([3] * 12))
    assert (manager.lookup(sequence([1] * 5)), manager.lookup(sequence([2] * 5))) == (4, 0)


def test_cached_prefix_counts_as_free_only_once() -> None:
    manager = BlockManager(3, BLOCK)
    manager.free(compute(manager, sequence(list(range(12)))))
    seq = sequence(list(range(14)))
    assert manager.lookup(seq) == 12 and not manager.can_allocate(seq, 14)
    held = compute(manager, sequence(list(range(5))))
    assert manager.lookup(seq) == 8 and manager.can_allocate(seq, 8) and not manager.can_allocate(seq, 9)
    manager.check([held])


def test_without_prefix_cache_nothing_is_found_or_kept() -> None:
    manager = BlockManager(4, BLOCK, enable_prefix_cache=False)
    manager.free(compute(manager, sequence(list(range(9)))))
    assert manager.lookup(sequence(list(range(9)))) == 0
    manager.check([])


def test_reset_forgets_only_when_nothing_is_held() -> None:
    manager = BlockManager(4, BLOCK)
    seq = compute(manager, sequence(list(range(9))))
    assert not manager.reset_prefix_cache() and manager.lookup(sequence(list(range(9)))) == 8
    manager.free(seq)
    assert manager.reset_prefix_cache() and manager.lookup(sequence(list(range(9)))) == 0
    assert manager.num_free_blocks == 4
    manager.check([])


def test_content_computed_anew_is_found_again() -> None:
    manager = BlockManager(4, BLOCK)
    seq = compute(manager, sequence(list(range(9))))
    manager.free(seq)
    manager.reset_prefix_cache()
    compute(manager, seq)
    assert manager.lookup(sequence(list(range(9)))) == 8


def test_check_finds_a_lost_block_and_a_wrong_holder() -> None:
    manager = BlockManager(4, BLOCK)
    seq = compute(manager, sequence(list(range(5))))
    seq.block_table.pop()
    manager.check()
    with pytest.raises(AssertionError, match="holders"):
        manager.check([seq])
    manager.free(seq)
    seq.block_table.append(0)
    with pytest.raises(AssertionError, match="holders"):
        manager.check([seq])


@pytest.mark.parametrize(("num_blocks", "block_size"), [(0, 4), (4, 0), (-1, 4)])
def test_sizes_must_be_positive(num_blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BlockManager(num_blocks, block_size)


@pytest.mark.parametrize("seed", range(8))
def test_random_use_keeps_every_block_accounted_for(seed: int) -> None:
    rng = random.Random(seed)
    manager = BlockManager(12, BLOCK, enable_prefix_cache=seed % 4 > 0)
    held: list[Sequence] = []
    for _ in range(300):
        action = rng.random()
        if action < 0.4:
            seq = sequence([rng.randrange(2)] * rng.randrange(1, 12) + [rng.randrange(2) for _ in range(8)])
            num_tokens = rng.randrange(1, seq.num_tokens + 1)
            if manager.lookup(seq) < num_tokens and manager.can_allocate(seq, num_tokens):
                manager.allocate(seq, num_tokens)
                held.append(seq)
        elif held and action < 0.7:
            seq = rng.choice(held)
            seq.num_computed_tokens = min(seq.num_computed_tokens + rng.randrange(6), len(seq.block_table) * BLOCK)
            seq.num_computed_tokens = min(seq.num_computed_tokens, seq.num_tokens)
            manager.commit(seq)
        elif held:
            manager.free(held.pop(rng.randrange(len(held))))
        manager.check(held)
    for seq in held:
        manager.free(seq)
    manager.check([])
    assert manager.num_free_blocks == 12 and manager.usage == 0
