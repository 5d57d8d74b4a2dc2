"""PVC-InternVL2's request rules: prompts of the golden cases, spans that share an encoding, what is refused."""

import numpy as np
import pytest

from schemas.errors import RequestError
from schemas.jobs import MediaOptions
from tests.workers.models.goldens import LEAN, Case, cases, find_case
from tests.workers.models.pvc import PVC, family, media, prompt, request
from workers.media.types import PreparedMedia, VideoOptions
from workers.prompts.messages import ChatMessage, Image, Text, Video
from workers.tokenizers.load import load_tokenizer

ALL = [pytest.param(case, id=case.name) for case in cases([PVC])]
PICTURE = PreparedMedia(np.zeros((3, 112, 112, 3), np.uint8), (3,), b"picture", 1, 1)
CLIP = PreparedMedia(np.zeros((2, 112, 112, 3), np.uint8), (1, 1), b"clip", 1, 1)


@pytest.mark.parametrize("case", ALL)
def test_prompt_ids_equal_the_recorded_ones(case: Case):
    family().check_options(request(case))
    built = prompt(case)
    assert built.token_ids == case.raw["input_ids"]
    repeats = 1 if case.raw["options"]["data_flag"] == 3 else 4
    assert [span.num_tiles for span in built.spans] == [n * repeats for n in case.raw["num_patches_list"]]


@pytest.mark.parametrize("case", ALL)
def test_texts_equal_the_recorded_ones(case: Case):
    tokenizer = load_tokenizer(LEAN / PVC / "checkpoint")
    assert tokenizer.decode(case.greedy_ids, skip_special_tokens=True).strip() == case.raw["greedy_text"]


def test_answers_end_at_the_templates_own_token_only():
    assert family().stop_token_ids == {1204}


def test_the_frames_of_a_clip_are_rows_of_one_encoding():
    case = find_case(PVC, "video_8")
    inputs = prompt(case).inputs
    assert len(inputs) == 8 and len({own.digest for own in inputs}) == 1
    assert [own.offset for own in inputs] == [4 * frame for frame in range(8)]
    assert {own.num_encoded for own in inputs} == {32}
    assert all(own.data.is_clip and own.data.pixels is media(case)[0].tiles for own in inputs)


def test_pictures_are_encodings_of_their_own():
    built = prompt(find_case(PVC, "multi_image"))
    assert [(own.offset, own.num_encoded) for own in built.inputs] == [(0, 16), (0, 48)]
    assert len({own.digest for own in built.inputs}) == 2


def test_the_same_pixels_are_another_encoding_in_a_clip():
    """They have other neighbours there."""
    message = [ChatMessage("user", (Image(0),))], [ChatMessage("user", (Video(0),))]
    same = PreparedMedia(CLIP.tiles[:1], (1,), b"same", 1, 1)
    picture, clip = (family().build_prompt(m, [same], MediaOptions(), True).inputs[0] for m in message)
    assert picture.digest != clip.digest
    assert (picture.num_encoded, clip.num_encoded) == (16, 4)


def test_combined_pictures_share_one_place():
    messages = [ChatMessage("user", (Image(0), Text("and "), Image(1)))]
    built = family().build_prompt(messages, [PICTURE, PICTURE], MediaOptions(family={"image_join": "combined"}), True)
    first, second = built.spans
    assert first.length == second.length == 48 and second.start == first.start + 48


def test_a_clip_has_as_many_frames_as_the_model_card_takes():
    assert family().video_options(MediaOptions()) == VideoOptions(112, 64)
    assert family().video_options(MediaOptions(fps=2.0)) == VideoOptions(112, 128, 2.0)
    assert family().video_options(MediaOptions(num_frames=16, start_s=1.0)).num_frames == 16
    with pytest.raises(RequestError, match="allows 1 to 128"):
        family().video_options(MediaOptions(num_frames=129))


@pytest.mark.parametrize("parts", [(Image(0), Video(1)), (Video(0), Video(1))])
def test_a_clip_beside_other_media_is_refused(parts):
    with pytest.raises(RequestError, match="a single clip in a conversation"):
        family().build_prompt([ChatMessage("user", parts)], [CLIP, CLIP], MediaOptions(), True)


@pytest.mark.parametrize(("part", "medium", "flag"), [(Image(0), PICTURE, 3), (Video(0), CLIP, 1), (Video(0), CLIP, 2)])
def test_a_data_flag_that_the_media_contradict_is_refused(part, medium, flag):
    asked = MediaOptions(family={"data_flag": flag})
    family().check_options(asked)
    with pytest.raises(RequestError, match="data_flag"):
        family().build_prompt([ChatMessage("user", (part,))], [medium], asked, True)


@pytest.mark.parametrize("options", [{"data_flag": 4}, {"data_flag": "3"}, {"hd_num": 6}, {"image_join": "both"}])
def test_an_option_without_meaning_is_refused(options):
    with pytest.raises(RequestError):
        family().check_options(MediaOptions(family=options))
