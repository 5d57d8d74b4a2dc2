"""What InternVideo2-Chat lets a request ask for, and what it makes of conversations that the goldens do not have."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from schemas.errors import RequestError
from schemas.jobs import MediaOptions
from tests.workers.models.goldens import LEAN, read_json
from workers.families.base import Family
from workers.families.registry import open_family
from workers.media.types import ImageViewsOptions, PreparedMedia, VideoOptions, VideoViewsOptions, ViewCut
from workers.models.base import ModelError
from workers.prompts.messages import ChatMessage, Image, Text, Video
from workers.tokenizers.load import load_tokenizer

CHAT, HD = "internvideo2-chat", "internvideo2-chat-hd"
SIZES = SimpleNamespace(image_size=224, tokens_per_tile=96)


def family(name: str = HD, folder: Path | None = None, **options: str) -> Family:
    checkpoint = LEAN / HD / "checkpoint"
    config, tokenizer = read_json(HD, "checkpoint/config.json"), load_tokenizer(checkpoint)
    return open_family(config, tokenizer, SIZES, folder or checkpoint, name, options)


def is_hd(rules: Family) -> bool:
    return rules.image_options(MediaOptions(), "auto").cut.is_hd


def ask(**options: Any) -> MediaOptions:
    return MediaOptions(family=options)


def medium(num_views: int = 3, seconds: tuple[float, ...] = ()) -> PreparedMedia:
    views = np.zeros((num_views, 1, 1, 1, 3), np.float32)
    return PreparedMedia(views, (num_views,), b"d", 1, 1, seconds)


@pytest.mark.parametrize(
    ("name", "folder", "options", "expected"),
    [
        ("InternVideo2_chat_8B_HD", "x/y", {}, True),
        ("OpenGVLab/InternVideo2-Chat-8B-HD-F16", "x/y", {}, True),
        ("video", "InternVideo2-Chat-8B-HD", {}, True),
        ("video", "internvideo2-chat-hd/checkpoint", {}, True),
        ("InternVideo2-Chat-8B", "x/y", {}, False),
        ("shdow", "x/hdd", {}, False),
        ("InternVideo2-Chat-8B", "x/y", {"hd": "true"}, True),
        ("InternVideo2-Chat-8B-HD", "x/y", {"hd": "false"}, False),
    ],
)
def test_hd_goes_by_the_operators_word_then_by_names(
    tmp_path: Path, name: str, folder: str, options: dict[str, str], expected: bool
):
    assert is_hd(family(name, tmp_path / folder, **options)) is expected


@pytest.mark.parametrize(("options", "message"), [({"hd": "yes"}, "true or false"), ({"speed": "9"}, "speed")])
def test_a_wrong_model_option_is_refused(options: dict[str, str], message: str):
    with pytest.raises(ModelError, match=message):
        family(**options)


@pytest.mark.parametrize(
    ("asked", "image", "video"),
    [
        ({}, ViewCut(224, True, 6), ViewCut(224, True, 6, columns=2, rows=1)),
        ({"hd_num": 4}, ViewCut(224, True, 4), ViewCut(224, True, 4, columns=2, rows=1)),
        ({"fix_ratio": None}, ViewCut(224, True, 6), ViewCut(224, True, 6)),
        ({"fix_ratio": (3, 1)}, *[ViewCut(224, True, 6, columns=3, rows=1)] * 2),
        ({"padding": True, "hd_num": 9}, *[ViewCut(224, True, 9, is_padded=True)] * 2),
    ],
)
def test_the_cut_follows_the_request(asked: dict[str, Any], image: ViewCut, video: ViewCut):
    assert family().image_options(ask(**asked), "auto") == ImageViewsOptions(image)
    assert family().video_options(ask(**asked)) == VideoViewsOptions(video, VideoOptions(224, 8))


def test_low_detail_is_one_square_and_the_whole():
    assert family().image_options(MediaOptions(), "low").cut == ViewCut(224, True, 1)


def test_a_request_may_ask_for_fewer_squares_by_the_common_name():
    assert family().image_options(MediaOptions(max_dynamic_patch=2), "auto").cut == ViewCut(224, True, 2)
    with pytest.raises(RequestError, match="allows 1 to 12"):
        family().image_options(MediaOptions(max_dynamic_patch=13), "auto")


def test_without_hd_there_is_one_view():
    assert family(CHAT, hd="false").image_options(MediaOptions(), "auto").cut == ViewCut(224)


def test_frames_are_as_many_as_asked_for_within_the_limit():
    assert family().video_options(MediaOptions(num_frames=16)).frames == VideoOptions(224, 16)
    assert family().video_options(MediaOptions(fps=2.0)).frames == VideoOptions(224, 64, 2.0)
    with pytest.raises(RequestError, match="allows 1 to 64"):
        family().video_options(MediaOptions(num_frames=65))


@pytest.mark.parametrize(
    "options",
    [
        {"hd_num": 0},
        {"hd_num": 13},
        {"hd_num": True},
        {"hd_num": None},
        {"padding": 1},
        {"fix_ratio": (2, 0)},
        {"fix_ratio": (4, 4)},
        {"fix_ratio": (2,)},
        {"fix_ratio": "2x1"},
        {"instruction": 5},
        {"use_frame_msg": "yes"},
        {"image_join": "both"},
        {"sharpen": True},
    ],
)
def test_options_without_meaning_are_refused(options: dict[str, Any]):
    with pytest.raises(RequestError) as caught:
        family().check_options(ask(**options))
    assert caught.value.param == f"mm_processor_kwargs.{next(iter(options))}"


@pytest.mark.parametrize("name", ["hd_num", "padding", "fix_ratio"])
def test_hd_options_are_unknown_without_hd(name: str):
    with pytest.raises(RequestError, match=f"no option '{name}'"):
        family(hd="false").check_options(ask(**{name: None}))


def test_an_instruction_needs_the_vocabulary_in_hd_only(tmp_path: Path):
    with pytest.raises(RequestError, match=r"vocab\.txt"):
        family(folder=tmp_path).check_options(ask(instruction="look"))
    family(folder=tmp_path, hd="false").check_options(ask(instruction="look"))


def test_an_instruction_goes_to_the_views_and_names_them():
    question = [ChatMessage("user", (Image(0), Text("What?")))]
    plain = family().build_prompt(question, [medium()], ask(), True)
    told = family().build_prompt(question, [medium()], ask(instruction="look at the image"), True)
    assert {view.data.text_ids for view in plain.inputs} == {()}
    assert {view.data.text_ids for view in told.inputs} == {(2, 98, 99, 90, 92, 3)}
    digests = [view.digest for built in (plain, told) for view in built.inputs]
    assert len(set(digests)) == 6
    without_hd = family(hd="false").build_prompt(question, [medium(1)], ask(instruction="look at the image"), True)
    assert without_hd.inputs[0].data.text_ids == ()


def test_more_than_one_medium_is_refused():
    question = [ChatMessage("user", (Image(0), Video(1), Text("What?")))]
    with pytest.raises(RequestError, match="one picture or clip"):
        family().build_prompt(question, [medium(), medium()], ask(), True)


def test_the_medium_comes_first_whichever_turn_carried_it():
    first = [ChatMessage("user", (Image(0), Text("A"))), ChatMessage("assistant", (Text("B"),))]
    later = [ChatMessage("user", (Text("A"),)), ChatMessage("assistant", (Text("B"),))]
    ends = [ChatMessage("user", (Text("C"),)), ChatMessage("user", (Text("C"), Image(0)))]
    prompts = [
        family().build_prompt([*m, e], [medium()], ask(), True) for m, e in zip((first, later), ends, strict=True)
    ]
    assert prompts[0].token_ids == prompts[1].token_ids


def test_an_answer_has_one_token_at_least():
    assert family().min_tokens == 1 and family().stop_token_ids == {2}
