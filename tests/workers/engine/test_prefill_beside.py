"""Prompts that are computed beside the steps of those who decode: which, when, and whose pages they are meanwhile."""

import pytest

from tests.fakes.digest_runner import undisturbed_outputs
from tests.fakes.prompts import chunks_of, picture, prompt
from tests.fakes.scheduling_rig import Rig
from workers.engine.sequence import Sequence, Status


def decoding(rig: Rig, max_new_tokens: int = 60) -> Sequence:
    """A sequence that decodes."""
    seq = rig.add(prompt("text", 6, max_new_tokens))
    rig.step()
    return seq


def test_decoding_goes_on_alone_while_a_prompt_is_computed_beside_it() -> None:
    rig = Rig(encode_steps=3, beside_tokens=40)
    text = decoding(rig)
    seq = rig.add(prompt("long", 60, seed=1))
    expected = [undisturbed_outputs(seq) for seq in (text, seq)]
    plan = rig.step()
    assert plan.prefill_beside is not None and plan.prefill_beside.end == 40
    assert chunks_of(plan) == [("text", 6, 1, True)]
    for _ in range(3):
        assert chunks_of(rig.step()) == [("text", text.num_tokens - 2, 1, True)]
    # What is left is so little that a step takes it in.
    assert chunks_of(rig.step())[1] == ("long", 40, 20, True)
    rig.run()
    assert [text.output_ids, seq.output_ids] == expected


def test_the_token_behind_which_the_next_is_sampled_is_left_to_the_steps() -> None:
    rig = Rig(encode_steps=1, beside_tokens=64)
    decoding(rig)
    seq = rig.add(prompt("long", 50, seed=1))
    assert (plan := rig.step()).prefill_beside is not None and plan.prefill_beside.length == 49
    rig.step()
    assert chunks_of(rig.step())[1] == ("long", 49, 1, True)
    assert seq.num_output_tokens == 1


def test_short_prompts_and_those_whose_tokens_are_scored_go_with_the_steps() -> None:
    rig = Rig(encode_steps=1, beside_tokens=64)
    decoding(rig)
    rig.add(prompt("short", 32, seed=1))
    scored = rig.add(prompt("scored", 60, seed=2))
    scored.num_prompt_logprobs = 0
    plans = [rig.step() for _ in range(4)]
    assert all(plan.prefill_beside is None for plan in plans)


def test_nothing_is_beside_the_steps_of_nobody() -> None:
    rig = Rig(encode_steps=1, beside_tokens=64)
    rig.add(prompt("alone", 60))
    plan = rig.step()
    assert plan.prefill_beside is None and chunks_of(plan) == [("alone", 0, 60, True)]


def test_pictures_and_prompts_take_turns_however_long_somebody_decodes() -> None:
    rig = Rig(encode_steps=1, beside_tokens=16, max_encode_tokens=16, num_blocks=128)
    text = decoding(rig, 200)
    media = tuple(picture(40 + 10 * number, 8, str(number).encode()) for number in range(6))
    seq = rig.add(prompt("pictures", 140, media=media, seed=1))
    expected = undisturbed_outputs(seq)
    num_steps = 0
    while not seq.is_finished:
        rig.step()
        num_steps += 1
    assert seq.output_ids == expected and not text.is_finished
    assert len(rig.runner.encoded) == 6 and num_steps < 40


def test_two_prompts_are_not_beside_the_steps_at_once() -> None:
    rig = Rig(encode_steps=2, beside_tokens=64)
    text = decoding(rig)
    seqs = [rig.add(prompt(name, 60, seed=seed)) for seed, name in enumerate(("first", "second"), start=1)]
    expected = [undisturbed_outputs(seq) for seq in (text, *seqs)]
    plan = rig.step()
    assert plan.prefill_beside is not None and plan.prefill_beside.seq is seqs[0]
    assert {chunk.seq for chunk in plan.chunks} == {text, seqs[1]}
    rig.run()
    assert [seq.output_ids for seq in (text, *seqs)] == expected


def test_who_needs_the_pages_of_what_is_under_way_waits_for_it() -> None:
    rig = Rig(num_blocks=20, encode_steps=30, beside_tokens=64)
    text = decoding(rig, 40)
    seq = rig.add(prompt("long", 62, seed=1))  # leaves two pages, for eight tokens
    expected = [undisturbed_outputs(seq) for seq in (text, seq)]
    plans = [rig.step() for _ in range(12)]
    assert plans[0].prefill_beside is not None
    waits = [plan for plan in plans if not plan.chunks]
    assert len(waits) == 1 and waits[0].preempted == ()
    rig.run()
    assert [text.output_ids, seq.output_ids] == expected


def test_who_comes_first_does_not_take_the_pages_of_what_is_under_way() -> None:
    rig = Rig(num_blocks=20, encode_steps=3, beside_tokens=64)
    decoding(rig, 20)
    rig.add(prompt("long", 60, priority=1, seed=1))
    rig.step()
    urgent = rig.add(prompt("urgent", 30, priority=0, seed=2))
    expected = undisturbed_outputs(urgent)
    assert rig.step().preempted == () and urgent.status is Status.WAITING
    rig.run()
    assert urgent.output_ids == expected and rig.num_preemptions > 0


def test_a_sequence_does_not_end_before_its_chunk() -> None:
    rig = Rig(encode_steps=5, beside_tokens=64)
    decoding(rig)
    seq = rig.add(prompt("gone", 60, seed=1))
    rig.step()
    assert rig.scheduler.is_prefilling_beside("gone") and not rig.scheduler.is_prefilling_beside("text")
    with pytest.raises(ValueError, match="cannot finish gone"):
        rig.scheduler.abort("gone")
    rig.abort("gone")
    assert seq.status is Status.FINISHED_ABORTED and not seq.block_table


def test_a_chunk_that_could_not_be_computed_counts_for_nothing() -> None:
    rig = Rig(encode_steps=5, beside_tokens=64)
    decoding(rig)
    seq = rig.add(prompt("again", 60, media=(picture(50, 4, b"cat"),), seed=1))
    expected = undisturbed_outputs(seq)
    rig.step()
    assert rig.prefilling is not None
    rig.prefilling = None
    assert rig.scheduler.discard_prefilled() is seq and seq.num_computed_tokens == 0
    with pytest.raises(ValueError, match="nothing is computed"):
        rig.scheduler.prefilled_beside()
    rig.run()
    assert seq.output_ids == expected
