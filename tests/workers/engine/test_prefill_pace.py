"""How many tokens of prompts a step takes, by what steps have taken."""

from workers.engine.prefill_pace import MIN_TOKENS, MOST_SHARE, UNKNOWN_TOKENS, PrefillPace


def paced(decode_s: float, token_s: float, num_decodes: int = 4) -> PrefillPace:
    """One that has seen such steps, enough of them."""
    pace = PrefillPace(per_decode=16)
    for _ in range(50):
        pace.note(num_decodes, 0, decode_s)
        pace.note(num_decodes, 40, decode_s + 40 * token_s)
    return pace


def test_as_long_as_costs_are_unknown_each_that_decodes_waits_for_a_number_of_tokens() -> None:
    pace = PrefillPace(per_decode=16)
    assert [pace.limit(n, 0.25) for n in (1, 4, 5, 20)] == [UNKNOWN_TOKENS, UNKNOWN_TOKENS, 80, 320]
    pace.note(4, 0, 0.010)
    assert pace.limit(4, 0.25) == UNKNOWN_TOKENS
    pace.note(20, 64, 0.030)  # beside a number of which it is not known what it takes alone
    assert pace.limit(4, 0.25) == UNKNOWN_TOKENS


def test_a_step_may_take_longer_by_the_share() -> None:
    pace = paced(decode_s=0.020, token_s=0.0002)
    assert pace.limit(4, 0.25) == 25
    assert pace.limit(4, 0.5) == 50
    assert pace.limit(7, 0.5) == 50  # as many as four, nearly
    assert pace.limit(8, 0.5) == pace.limit(1, 0.5) == 50  # the nearest of which something is known


def test_never_so_few_that_a_prompt_gets_nowhere_nor_more_than_are_permitted() -> None:
    assert paced(decode_s=0.004, token_s=0.001).limit(4, 0.25) == MIN_TOKENS
    assert paced(decode_s=0.100, token_s=0.0001).limit(4, 2.0) == UNKNOWN_TOKENS
    assert paced(decode_s=0.100, token_s=0.0).limit(4, 0.25) == UNKNOWN_TOKENS


def test_costs_that_grow_are_followed() -> None:
    pace = paced(decode_s=0.020, token_s=0.0001)
    assert pace.limit(4, 0.25) == 50
    for _ in range(50):
        pace.note(4, 30, 0.020 + 30 * 0.0002)
    assert pace.limit(4, 0.25) == 25


def test_one_slow_step_changes_little() -> None:
    pace = paced(decode_s=0.020, token_s=0.0002)
    pace.note(4, 0, 0.030)
    assert pace.limit(4, 0.25) == 26


def test_time_is_shared_as_between_equals_unless_many_decode() -> None:
    pace = PrefillPace(per_decode=16)
    assert [pace.share(n, 1) for n in (1, 2, 4)] == [1.0, 0.5, 0.25]
    assert pace.share(4, 3) == 0.75
    assert [pace.share(n, 1) for n in (8, 16)] == [1.0, 4.0]
    assert pace.share(5, 20) == pace.share(5, 100) == pace.share(64, 1) == MOST_SHARE
