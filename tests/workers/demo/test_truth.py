"""The training material: the same for the same seed, and true."""

import random
import re
from itertools import pairwise

import numpy as np
import pytest

from workers.demo import facts
from workers.demo.clips import ask_clip, sample_clip
from workers.demo.dense import dense_targets
from workers.demo.dialogue import talk
from workers.demo.draw import draw_scene
from workers.demo.lettering import ALPHABET, FONTS, load_font
from workers.demo.pairs import ask_pair, sample_pair
from workers.demo.questions import ask, ask_count, ask_read, ask_total, ask_where
from workers.demo.scenes import COLOURS, KINDS, overlaps, sample_crowded, sample_scene

GRID = 12


@pytest.fixture(autouse=True)
def _fonts() -> None:
    try:
        load_font(FONTS[0])
    except OSError:
        pytest.skip("the DejaVu fonts are not installed")


def test_a_seed_decides_scene_and_pixels() -> None:
    for seed in range(20):
        assert sample_scene(seed) == sample_scene(seed)
        assert np.array_equal(draw_scene(sample_scene(seed), 48), draw_scene(sample_scene(seed), 48))
    assert sample_scene(1) != sample_scene(2)


def test_a_seed_decides_the_questions() -> None:
    def lesson(seed: int) -> list[object]:
        rng = random.Random(seed)
        scene = sample_scene(seed)
        return [ask(rng, scene), talk(rng, scene, 3), ask_pair(rng, sample_pair(rng)), ask_clip(rng, sample_clip(rng))]

    assert [lesson(i) for i in range(10)] == [lesson(i) for i in range(10)]


def test_shapes_are_inside_apart_and_visible() -> None:
    for seed in range(200):
        shapes = sample_scene(seed).shapes
        assert len(shapes) <= 5
        for i, shape in enumerate(shapes):
            assert shape.rx < shape.x < 1 - shape.rx and shape.ry < shape.y < 1 - shape.ry
            assert not any(overlaps(shape, other) for other in shapes[:i])


def test_the_named_colour_is_what_is_painted() -> None:
    for seed in range(100):
        scene = sample_scene(seed, text_share=0.0)
        if scene.finish.noise or scene.finish.jpeg:
            continue
        pixels = draw_scene(scene, 120)
        for shape in scene.shapes:
            middle = pixels[int(shape.y * 120), int(shape.x * 120)].astype(int)
            assert np.abs(middle - np.array(shape.rgb)).max() < 40, (seed, shape)


def test_count_answers_match_a_recount() -> None:
    rng = random.Random(0)
    for seed in range(150):
        scene = sample_scene(seed)
        for turn in (ask_total(rng, scene, False), ask_count(rng, scene, False)):
            said = re.match(r"There (?:is|are) (no|\d) (.+?)s?\.$", turn.answer)
            assert said, turn
            words = said[2].split()
            kinds = [w for w in words if w in KINDS] or KINDS
            colours = [w for w in words if w in COLOURS] or COLOURS
            number = sum(s.kind in kinds and s.colour in colours for s in scene.shapes)
            assert number == (0 if said[1] == "no" else int(said[1])), (turn, scene.shapes)


def test_where_answers_match_the_coordinates() -> None:
    rng = random.Random(0)
    asked = 0
    for seed in range(200):
        scene = sample_scene(seed, 0.0)
        if not (turn := ask_where(rng, scene, False)):
            continue
        thing, place = re.match(r"The (.+) is (.+)\.$", turn.answer).groups()
        named = [s for s in scene.shapes if thing in (s.kind, s.name)]
        assert len(named) == 1, "the question must be about one shape only"
        assert ("left" in place) == (named[0].x < 1 / 3) and ("right" in place) == (named[0].x > 2 / 3)
        assert ("top" in place) == (named[0].y < 1 / 3) and ("bottom" in place) == (named[0].y > 2 / 3)
        asked += 1
    assert asked > 50


def test_relations_are_mirror_images() -> None:
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    for seed in range(60):
        shapes = sample_scene(seed, 0.0).shapes
        for a in shapes:
            for b in shapes:
                if a is not b:
                    for side, other in opposite.items():
                        assert facts.stands(a, side, b) == facts.stands(b, other, a)
                        assert not (facts.stands(a, side, b) and facts.stands(a, other, b))


def test_reading_answers_quote_the_printed_string() -> None:
    rng = random.Random(0)
    for seed in range(100):
        scene = sample_scene(seed, text_share=1.0)
        assert f'"{scene.lettering.string}"' in ask_read(rng, scene, False).answer


def test_letters_are_where_the_labels_say() -> None:
    for seed in range(40):
        text = sample_scene(seed, text_share=1.0).lettering
        edges = text.edges()
        assert len(edges) == len(text.string) + 1 and edges == sorted(edges)
        assert edges[0] == pytest.approx(text.x - text.width / 2) and edges[-1] == pytest.approx(
            text.x + text.width / 2
        )


def test_the_dense_labels_spell_the_word() -> None:
    spelt = 0
    for seed in range(80):
        scene = sample_scene(seed, text_share=1.0)
        edges = scene.lettering.edges()
        if min(b - a for a, b in pairwise(edges)) < 1 / GRID:
            continue
        targets = dense_targets(scene, GRID)
        by_patch = dict(zip(targets["order"], targets["letter"], strict=True))
        by_token = {
            int(turn) * 2 - 1 + parity: letter
            for turns, letters in zip(targets["turn"], targets["spelling"], strict=True)
            for parity, (turn, letter) in enumerate(zip(turns, letters, strict=True))
            if turn
        }
        for labels in (by_patch, by_token):
            assert "".join(ALPHABET[labels[i + 1] - 1] for i in range(len(edges) - 1)) == scene.lettering.string
        spelt += 1
    assert spelt > 30


def test_a_moving_shape_moves_the_way_the_answer_says() -> None:
    rng = random.Random(0)
    for _ in range(100):
        clip = sample_clip(rng)
        first, last = clip.frames[0].shapes[0], clip.frames[-1].shapes[0]
        dx, dy = last.x - first.x, last.y - first.y
        truth = {"to the left": dx < -0.2, "to the right": dx > 0.2, "up": dy < -0.2, "down": dy > 0.2}
        assert [way for way, so in truth.items() if so] == ([clip.way] if clip.way else [])
        assert (first.colour, last.colour) == clip.colours


def test_changes_between_two_pictures_are_real() -> None:
    rng = random.Random(0)
    for _ in range(150):
        first, second, change = sample_pair(rng)
        if change:
            assert (first.shapes == second.shapes) == (change == "Nothing changed.")


def test_crowded_pictures_carry_many_letters() -> None:
    letters = [sum(len(word.string) for word in sample_crowded(seed).crowd) for seed in range(50)]
    assert sum(letters) / len(letters) > 7
