"""The shipped checkpoint: layout, size, and true answers on scenes that training never saw."""

import json
import random

import pytest
import torch
from safetensors import safe_open

from workers.demo.answer import answers
from workers.demo.evaluate import OPENING
from workers.demo.export import CHECKPOINT, load
from workers.demo.lettering import EM, EM_HEIGHT, PILLOWS_OWN, Lettering, load_font
from workers.demo.samples import IMAGE, SYSTEM, Writer
from workers.demo.scenes import RGB, Background, Finish, Scene, Shape

FILES = {
    "config.json", "generation_config.json", "model.safetensors", "vocab.json", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "tokenizer_config.json",
}  # fmt: skip
WHITE = Background("white", (255, 255, 255), (255, 255, 255))


def _scene(*shapes: tuple[str, str, float, float]) -> Scene:
    drawn = tuple(Shape(k, c, x, y, 0.12, 0.12, RGB[c][0]) for c, k, x, y in shapes)
    return Scene(drawn, None, WHITE, Finish(), 1.0, 0)


def _lettered(text: str) -> Scene:
    """Black on white, in the font that Pillow brings."""
    ratio = load_font(PILLOWS_OWN).getlength(text) / EM
    em = min(0.3, 0.9 / ratio)
    word = Lettering(text, PILLOWS_OWN, 0.5, 0.5, ratio * em, em * EM_HEIGHT, "black", (0, 0, 0))
    return Scene((), word, WHITE, Finish(), 1.0, 0)


@pytest.fixture(scope="module")
def loaded():
    torch.set_num_threads(1)
    model, dims = load(CHECKPOINT)
    return model, dims, Writer(CHECKPOINT, dims.tokens)


def _ask(loaded, scenes: list[Scene], questions: list[str], images: str = IMAGE) -> list[str]:
    model, dims, writer = loaded
    prompts = [f"{OPENING}{images}{q}<|im_end|>\n<|im_start|>assistant\n" for q in questions]
    return answers(model, dims, writer, scenes, prompts)


def test_the_folder_holds_the_released_layout_within_eight_megabytes() -> None:
    assert {p.name for p in CHECKPOINT.iterdir()} == FILES
    assert sum(p.stat().st_size for p in CHECKPOINT.iterdir()) < 8_000_000
    config = json.loads((CHECKPOINT / "config.json").read_text())
    assert config["architectures"] == ["InternVLChatModel"] and config["template"] == "internvl2_5"
    assert config["llm_config"]["architectures"] == ["Qwen2ForCausalLM"] and config["system_message"] == SYSTEM
    with safe_open(CHECKPOINT / "model.safetensors", "pt") as tensors:
        names = set(tensors.keys())
        assert {tensors.get_slice(n).get_dtype() for n in names} == {"BF16"}
    assert {"language_model.lm_head.weight", "mlp1.3.weight", "vision_model.encoder.layers.0.ls1"} <= names
    assert all(n.split(".")[0] in {"vision_model", "mlp1", "language_model"} for n in names)


def test_the_answers_are_greedy_by_default() -> None:
    generation = json.loads((CHECKPOINT / "generation_config.json").read_text())
    assert generation["temperature"] == 0.0 and generation["do_sample"] is False


def test_it_names_shape_and_colour(loaded) -> None:
    said = _ask(loaded, [_scene(("red", "circle", 0.5, 0.5))], ["What shape is this?", "What colour is the circle?"])
    assert said == ["It is a circle.", "The circle is red."]


def test_it_counts_and_finds(loaded) -> None:
    scene = _scene(("red", "circle", 0.2, 0.2), ("blue", "square", 0.8, 0.2), ("green", "star", 0.5, 0.8))
    questions = ["How many shapes are there?", "Is there a blue square?", "Is there a yellow square?"]
    count, there, missing = _ask(loaded, [scene], questions)
    assert count == "There are 3 shapes."
    assert there == "Yes, there is a blue square." and missing == "No, there is no yellow square."
    for x, y, place in ((0.2, 0.2, "at the top left"), (0.5, 0.8, "at the bottom"), (0.8, 0.5, "on the right")):
        assert _ask(loaded, [_scene(("green", "star", x, y))], ["Where is the star?"]) == [f"The star is {place}."]


def test_it_tells_the_places_of_several_shapes_apart(loaded) -> None:
    scene = _scene(("red", "circle", 0.2, 0.2), ("blue", "square", 0.8, 0.2), ("green", "star", 0.5, 0.85))
    asked = {"circle": "at the top left", "square": "at the top right", "star": "at the bottom"}
    said = _ask(loaded, [scene], [f"Where is the {kind}?" for kind in asked])
    assert said == [f"The {kind} is {place}." for kind, place in asked.items()]


def test_it_reads(loaded) -> None:
    for text in ("HELLO", "2048", "stop"):
        said = _ask(loaded, [_lettered(text)], ["What does it say?"])
        assert said == [f'It says "{text}".']


@pytest.mark.parametrize(
    ("dx", "dy", "way"), [(1, 0, "to the right"), (-1, 0, "to the left"), (0, -1, "up"), (0, 1, "down")]
)
def test_it_sees_motion(loaded, dx: int, dy: int, way: str) -> None:
    steps = [(i - 3.5) * 0.09 for i in range(8)]
    frames = [_scene(("blue", "square", 0.5 + dx * step, 0.5 + dy * step)) for step in steps]
    images = "".join(f"Frame{i}: {IMAGE}" for i in range(1, 9))
    assert _ask(loaded, frames, ["Which way does the square move?"], images) == [f"The square moves {way}."]


def test_it_compares_two_pictures(loaded) -> None:
    one = _scene(("red", "circle", 0.3, 0.5))
    two = _scene(("red", "circle", 0.2, 0.3), ("blue", "star", 0.7, 0.7))
    assert _ask(loaded, [one, two], ["Which picture has more shapes?"], IMAGE * 2) == [
        "The second picture has more shapes."
    ]


def test_it_knows_itself_and_its_limits(loaded) -> None:
    scene = _scene(("red", "circle", 0.5, 0.5))
    assert "glimpsed-demo" in _ask(loaded, [], ["Who are you?"], "")[0]
    assert all("I do not know" in a for a in _ask(loaded, [scene], ["What animal is this?", "Write a poem."]))


def test_the_language_model_is_qwen2(loaded) -> None:
    transformers = pytest.importorskip("transformers")
    model, _, writer = loaded
    from workers.demo.text import Sight

    config = json.loads((CHECKPOINT / "config.json").read_text())["llm_config"]
    keep = {k: v for k, v in config.items() if k not in ("torch_dtype", "architectures")}
    theirs = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**keep)).eval()
    weights = {
        k.removeprefix("language_model."): v for k, v in model.state_dict().items() if k.startswith("language_model.")
    }
    assert not theirs.load_state_dict(weights, strict=False).missing_keys
    rng = random.Random(0)
    ids = torch.tensor([[rng.randrange(writer.tokenizer.get_vocab_size() - 31) for _ in range(40)]])
    sight = Sight.of(torch.zeros_like(ids), 40, 0, torch.float32)
    with torch.no_grad():
        mine = model.language_model.lm_head(model.hidden(ids, torch.zeros(0, 192), torch.arange(40)[None], sight))
        assert torch.allclose(mine, theirs(ids).logits, atol=1e-3)
