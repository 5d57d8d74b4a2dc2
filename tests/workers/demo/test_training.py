"""The training code: branches do not see each other, and a few steps reduce the loss."""

import torch

from workers.demo.export import CHECKPOINT
from workers.demo.join import Lessons, Phase, lesson_loss, pad
from workers.demo.loop import Trainer, rate
from workers.demo.model import Demo
from workers.demo.samples import IMAGE, Writer
from workers.demo.scenes import sample_scene
from workers.demo.shape import Dimensions
from workers.demo.text import Sight
from workers.demo.turn import Turn

ROWS = 3
TINY = Dimensions(
    image=24, patch=6, vision_width=32, vision_layers=1, vision_heads=2, vision_hidden=64,
    text_width=48, text_layers=3, text_heads=6, text_kv_heads=3, text_hidden=64,
)  # fmt: skip


def _tiny() -> tuple[Demo, Writer]:
    torch.manual_seed(0)
    writer = Writer(CHECKPOINT, TINY.tokens)
    return Demo(TINY, writer.tokenizer.get_vocab_size(), writer.picture[1]), writer


def test_packed_branches_equal_separate_conversations() -> None:
    model, writer = _tiny()
    turns = [Turn("a", f"Question {i}?", "Answer one." * (i + 1)) for i in range(3)]
    visual = torch.randn(TINY.tokens, TINY.text_width)

    def hidden(chosen: list[Turn]) -> list[torch.Tensor]:
        rows = pad([writer.build([], f"user {IMAGE}", [[turn] for turn in chosen])], ROWS, writer.picture[1])
        sight = Sight.of(rows["branches"], int(rows["prefix"]), ROWS, torch.float32)
        out = model.hidden(rows["ids"], visual, rows["positions"], sight)
        return [out[rows["branches"] == i] for i in range(1, len(chosen) + 1)]

    with torch.no_grad():
        together = hidden(turns)
        for turn, packed in zip(turns, together, strict=True):
            assert torch.allclose(hidden([turn])[0], packed, atol=1e-5)


def test_a_few_steps_reduce_the_loss(tmp_path) -> None:
    torch.set_num_threads(1)
    model, _ = _tiny()
    trainer = Trainer(model, tmp_path, "tiny")
    plan = (Phase(30, single=4, lettered=1, pair=1, words=1, clip=1, crowd=1, dense_weight=0.5),)
    lessons = Lessons(TINY, CHECKPOINT, plan, 0, (0, 1))
    losses = []
    for step in range(30):
        loss, _ = lesson_loss(trainer.work, lessons[step], plan[0])
        loss.backward()
        trainer.update(rate(step, 30, warmup=5))
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.75 * sum(losses[:3]) / 3


def test_training_goes_on_from_the_last_save(tmp_path) -> None:
    model, _ = _tiny()
    trainer = Trainer(model, tmp_path, "tiny")
    trainer.step_number = 7
    trainer.save()
    torch.manual_seed(1)
    again = Trainer(_tiny()[0], tmp_path, "tiny")
    assert again.resume() and again.step_number == 7
    assert all(torch.equal(a, b) for a, b in zip(trainer.work.parameters(), again.work.parameters(), strict=True))


def test_the_rate_warms_up_stays_and_falls() -> None:
    rates = [rate(step, 1000, warmup=10, decay=0.2) for step in range(1000)]
    assert rates[0] < 0.2 and rates[10] == rates[790] == 1.0 and 0 < rates[999] < 0.01


def test_branches_without_room_are_left_out() -> None:
    writer = Writer(CHECKPOINT, TINY.tokens)
    sample = writer.build([sample_scene(3)], IMAGE, [[Turn("a", "Why?", "No.")] for _ in range(50)])
    rows = pad([sample], ROWS, writer.picture[1])
    kept = int(rows["branches"].max())
    assert 10 < kept < 50
    assert int(rows["learn"].sum()) == kept * sum(sample.branches[0].learn)
