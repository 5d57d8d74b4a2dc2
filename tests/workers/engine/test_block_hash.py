import itertools
from collections.abc import Callable

import pytest

from workers.engine.block_hash import extend_block_hashes, root_hash
from workers.engine.sequence import MediaInput, Sequence

BLOCK = 4


def hashes(
    token_ids: list[int],
    media: tuple[MediaInput, ...] = (),
    salt: bytes = b"",
    rope_regime: Callable[[int], int] | None = None,
    num_prompt_tokens: int | None = None,
) -> list[bytes]:
    seq = Sequence(
        "a", token_ids, num_prompt_tokens or len(token_ids), 1000, media, cache_salt=salt, rope_regime=rope_regime
    )
    extend_block_hashes(seq, BLOCK, len(token_ids) // BLOCK)
    return seq.block_hashes


def dynamic(limit: int) -> Callable[[int], int]:
    """A rope whose base changes with every length beyond the limit."""
    return lambda length: length if length > limit else 0


def test_equal_prefixes_have_equal_hashes_up_to_the_first_difference() -> None:
    ours, theirs = hashes(list(range(16))), hashes([*range(9), 99, *range(10, 16)])
    assert ours[:2] == theirs[:2]
    assert ours[2] != theirs[2] and ours[3] != theirs[3]  # the last block has equal tokens behind another parent


def test_extension_gives_the_same_hashes_as_one_go() -> None:
    seq = Sequence("a", list(range(6)), 6, 100)
    extend_block_hashes(seq, BLOCK, 1)
    seq.token_ids.extend(range(6, 12))
    extend_block_hashes(seq, BLOCK, 3)
    extend_block_hashes(seq, BLOCK, 2)
    assert seq.block_hashes == hashes(list(range(12)))


def test_two_pictures_behind_equal_placeholders_never_collide() -> None:
    tokens = [1, 2, *[9] * 6, 3, 4, 5, 6]
    cat, dog = (hashes(tokens, (MediaInput(2, 6, key),)) for key in (b"cat", b"dog"))
    assert not set(cat) & set(dog)
    assert hashes(tokens)[0] not in (cat[0], dog[0])


def test_media_count_only_in_the_blocks_that_they_overlap_and_those_after() -> None:
    tokens = [1, 2, 3, 4, 9, 9, 9, 9, 5, 6, 7, 8]
    cat, dog = (hashes(tokens, (MediaInput(4, 4, key),)) for key in (b"cat", b"dog"))
    assert [ours == theirs for ours, theirs in zip(cat, dog, strict=True)] == [True, False, False]


def test_rows_of_a_picture_are_told_apart_by_offset() -> None:
    tokens = [9] * 8
    assert hashes(tokens, (MediaInput(0, 7, b"cat"),))[0] != hashes(tokens, (MediaInput(1, 7, b"cat"),))[0]


def test_rows_of_a_shared_encoding_are_told_apart() -> None:
    first, second = (hashes([9] * 4, (MediaInput(0, 4, b"film", offset=n, num_encoded=8),)) for n in (0, 4))
    assert first != second


def test_where_one_key_ends_and_the_next_begins_is_part_of_the_hash() -> None:
    tokens = [9] * 4
    spans = [((0, 2, b"ab"), (2, 2, b"c")), ((0, 2, b"a"), (2, 2, b"bc")), ((0, 1, b"ab"), (1, 3, b"c"))]
    found = [hashes(tokens, tuple(MediaInput(*span) for span in pair))[0] for pair in spans]
    assert len(set(found)) == 3


def test_tenants_share_nothing() -> None:
    ours, theirs = hashes(list(range(12)), salt=b"a"), hashes(list(range(12)), salt=b"b")
    assert not set(ours) & set(theirs)
    assert root_hash(b"") != root_hash(b"\0")


def test_negative_and_large_token_ids_are_told_apart() -> None:
    found = [hashes([value, 0, 0, 0])[0] for value in (-1, 0, 1, 2**32, 2**32 + 1)]
    assert len(set(found)) == 5


def test_plain_rope_shares_across_prompt_lengths() -> None:
    short, long = hashes(list(range(8)), rope_regime=dynamic(16)), hashes(list(range(16)), rope_regime=dynamic(16))
    assert short == long[:2] == hashes(list(range(8)))


def test_prompts_longer_than_the_rope_limit_share_only_at_equal_length() -> None:
    lengths = [16, 20, 24]
    found = [hashes(list(range(length)), rope_regime=dynamic(16)) for length in lengths]
    for ours, theirs in itertools.combinations(found, 2):
        assert not set(ours) & set(theirs)
    assert found[1] == hashes(list(range(20)), rope_regime=dynamic(16))


def test_outputs_past_the_rope_limit_are_not_shared_with_a_prompt_of_that_length() -> None:
    grown = hashes(list(range(24)), rope_regime=dynamic(16), num_prompt_tokens=12)
    prompt = hashes(list(range(24)), rope_regime=dynamic(16))
    plain = hashes(list(range(24)))
    assert grown[:4] == plain[:4] and grown[4:] != plain[4:]
    assert not set(grown) & set(prompt)


def test_longer_prompts_in_one_regime_are_not_shared_across_lengths() -> None:
    found = [hashes(list(range(length)), rope_regime=lambda length: int(length > 16)) for length in (20, 24)]
    assert not set(found[0]) & set(found[1])


@pytest.mark.parametrize("limit", [13, 15])
def test_block_across_the_rope_limit_is_not_plain(limit: int) -> None:
    grown = hashes(list(range(16)), rope_regime=dynamic(limit), num_prompt_tokens=12)
    assert [ours == plain for ours, plain in zip(grown, hashes(list(range(16))), strict=True)] == [True] * 3 + [False]
