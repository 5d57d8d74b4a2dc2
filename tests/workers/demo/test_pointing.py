"""Where training tells the pointing heads to look: the shape, the letter or the frame that the next word is about."""

import random

import numpy as np
import torch

from workers.demo.clips import ask_clip, sample_clip
from workers.demo.export import CHECKPOINT
from workers.demo.join import pad
from workers.demo.lettering import Lettering
from workers.demo.pointing import Pointer, Seen, cell_of, seen, spans
from workers.demo.questions import ask
from workers.demo.samples import IMAGE, Writer, single
from workers.demo.scenes import RGB, Background, Finish, Scene, Shape, sample_scene
from workers.demo.shape import Dimensions
from workers.demo.text import Sight
from workers.demo.turn import Turn

DIMS = Dimensions()
WHITE = Background("white", (255, 255, 255), (255, 255, 255))


def _shape(colour: str, kind: str, x: float, y: float) -> Shape:
    return Shape(kind, colour, x, y, 0.1, 0.1, RGB[colour][0])


CIRCLE, STAR = _shape("red", "circle", 0.1, 0.1), _shape("blue", "star", 0.9, 0.9)
SCENE = Scene((CIRCLE, STAR), None, WHITE, Finish(), 1.0, 0)


def _parts(answer: str, *arguments) -> list[tuple[str, str]]:
    start, parts = 0, []
    for end, look in spans(answer, *arguments):
        parts.append((answer[start:end], look.shape.kind))
        start = end
    return parts


def test_a_list_is_about_each_shape_until_it_is_named() -> None:
    answer = "I see a red circle and a blue star."
    assert _parts(answer, seen(CIRCLE, STAR)) == [("I see a red circle", "circle"), (" and a blue star.", "star")]


def test_a_sentence_is_about_its_shape_to_the_end() -> None:
    answer = "The circle is red. The star is blue."
    focus = (*seen(CIRCLE), *seen(STAR))
    assert _parts(answer, focus) == [("The circle is red.", "circle"), (" The star is blue.", "star")]


def test_the_cell_is_the_one_that_holds_the_centre() -> None:
    assert cell_of(CIRCLE, 6) == 0 and cell_of(STAR, 6) == 35
    assert list(Pointer([SCENE, SCENE], 6).at(Seen(STAR, 1))) == [71]


def test_quoted_letters_point_from_left_to_right_at_the_word() -> None:
    word = Lettering("CAT", "DejaVuSans.ttf", 0.5, 0.5, 0.9, 0.35, "black", (0, 0, 0))
    scene = Scene((), word, WHITE, Finish(), 1.0, 0)
    answer = 'It says "CAT".'
    offsets = [(i, i + 1) for i in range(len(answer))]
    told = Pointer([scene], 6).follow(answer, offsets, ())
    assert all(told[i] is None for i in (0, 8, 12))
    columns = [np.mean(told[i] % 6) for i in (9, 10, 11)]
    assert columns == sorted(columns) and columns[0] < 2 < columns[2]


def test_what_is_said_of_the_background_points_at_empty_places() -> None:
    pointer = Pointer([SCENE], 6)
    shown = "The picture shows a red circle and a blue star"
    for answer, start in (
        ("The background is white.", 0),
        (f"{shown} on a white background.", len(shown)),
        (f"{shown}.", len(shown)),
    ):
        told = pointer.follow(answer, [(i, i + 1) for i in range(len(answer))], seen(CIRCLE, STAR))
        empty = [at is not None and len(at) > 20 and not {0, 35} & set(at.tolist()) for at in told]
        assert empty == [i >= start for i in range(len(answer))]


def test_a_clip_is_held_against_its_last_frame() -> None:
    rng = random.Random(5)
    clip = sample_clip(rng, 4)
    turn = ask_clip(rng, clip)
    assert turn.about == ((Seen(clip.frames[0].shapes[0], 0),),)
    assert turn.other == Seen(clip.frames[-1].shapes[0], 3)


def test_every_shape_that_an_answer_is_about_is_in_the_picture() -> None:
    rng = random.Random(11)
    told = 0
    for seed in range(200):
        scene = sample_scene(seed, 0.2)
        turn = ask(rng, scene)
        for look in (*(s for sentence in turn.about for s in sentence), *([turn.other] if turn.other else [])):
            assert any(look.shape is shape for shape in scene.shapes)
            told += 1
    assert told > 100


def test_gaze_marks_visual_tokens_before_the_word_they_belong_to() -> None:
    writer = Writer(CHECKPOINT, DIMS.tokens)
    turn = Turn("where", "Where is the star?", "The star is at the bottom right.", seen(STAR))
    sample = writer.build([SCENE], f"user {IMAGE}", [[turn]])
    rows = pad([sample], 1, writer.picture[1])
    branch, prefix = sample.branches[0], int(rows["prefix"])
    gaze = rows["gaze"][0, 0]
    looks = gaze.any(-1).nonzero().flatten().tolist()
    first = branch.learn.index(True)
    assert looks == list(range(first - 1, first - 1 + len(branch.about)))
    place = rows["ids"][0, :prefix].tolist().index(writer.picture[1]) + cell_of(STAR, DIMS.cells)
    assert all(gaze[i].nonzero().flatten().tolist() == [place] for i in looks)
    assert not rows["gaze"][1].any()


def test_a_head_that_looks_where_it_should_loses_nothing() -> None:
    gaze = torch.zeros(2, 1, 3, 4, dtype=torch.bool)
    gaze[0, 0, 1, 2] = True
    sight = Sight.of(torch.tensor([[0, 0, 0, 0, 1, 1, 1]]), 4, 1, torch.float32, gaze)
    scores = torch.zeros(1, 2, 1, 3, 7)
    scores[0, 0, 0, 1, 2] = 50.0
    sight.judge(scores, 0, 0)
    sight.judge(scores, 1, 0)
    right, uniform = (float(miss) for miss in sight.missed)
    assert right < 1e-3 and abs(uniform - np.log(7)) < 1e-4


def test_a_sample_of_training_knows_what_most_of_its_answers_are_about() -> None:
    writer, rng = Writer(CHECKPOINT, DIMS.tokens), random.Random(2)
    samples = [single(rng, writer, surveys=2) for _ in range(40)]
    branches = [b for s in samples for b in s.branches]
    assert sum(bool(b.about) for b in branches) > 0.4 * len(branches)
