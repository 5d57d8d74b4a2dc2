"""Forbidden token sequences: found at the end of the answer so far, in any batch, and under a grammar if it can be."""

import pytest
import torch

from workers.engine.bad_words import BadWords
from workers.engine.sampler import Row, sample
from workers.engine.sampling import Sampling

WORDS = BadWords([(1,), (2, 3), (4, 2, 3), (5, 5, 6), (7, 2, 8)])


@pytest.mark.parametrize(
    ("answer", "banned"),
    [
        ([], {1}),
        ([2], {1, 3}),
        ([4, 2], {1, 3}),
        ([7, 2], {1, 3, 8}),
        ([7, 9, 2], {1, 3}),
        ([5], {1}),
        ([5, 5], {1, 6}),
        ([5, 5, 5], {1, 6}),
        ([5, 5, 2, 9], {1}),
    ],
)
@pytest.mark.parametrize("prompt", [[], [7, 5, 2]])
def test_the_last_token_is_forbidden_behind_the_others_and_prompts_do_not_count(answer, banned, prompt):
    assert set(WORDS.banned_ids(prompt + answer, len(prompt))) == banned


def test_all_that_may_be_forbidden_is_known_beforehand():
    assert WORDS.last_ids == {1, 3, 6, 8}


def test_an_empty_sequence_is_refused():
    with pytest.raises(ValueError, match="needs a token"):
        BadWords([(1,), ()])


def test_a_forbidden_token_is_never_chosen_and_its_logprob_stays():
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3]]))
    how = {"bad_words": BadWords([(1,)]), "logit_bias": {1: 100.0}, "num_logprobs": 1}
    choice = sample(logits, [Row(Sampling(temperature=0.0, **how), [])])[0]
    assert choice.token_id == 2
    assert choice.logprobs is not None and choice.logprobs.top_ids == (1,)
    drawn = sample(logits.expand(500, 3), [Row(Sampling(seed=i, **how), []) for i in range(500)])
    assert {one.token_id for one in drawn} == {0, 2}


def test_rows_of_a_mixed_batch_keep_to_their_own_words():
    logits = torch.zeros(200, 4)
    words = BadWords([(0, 1), (0, 2), (3,)])
    rows = [Row(Sampling(seed=i, bad_words=words if i % 2 else None), [3, i % 4 // 2], 1) for i in range(200)]
    chosen = [one.token_id for one in sample(logits, rows)]
    free = [one.token_id for one in sample(logits, [Row(Sampling(seed=i), [0]) for i in range(200)])]
    assert chosen[::2] == free[::2]
    assert set(chosen[1::4]) == {0}
    assert set(chosen[3::4]) == {0, 1, 2}


def test_stop_ids_are_forbidden_until_enough_tokens_are_out():
    sampling = Sampling(min_tokens=2, stop_token_ids=frozenset({9}), bad_words=BadWords([(1,)]))
    assert sorted(sampling.banned_ids([4, 4, 4], 2)) == [1, 9]
    assert sampling.banned_ids([4, 4, 4], 1) == [1]
