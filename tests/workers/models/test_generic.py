"""Models of transformers' own classes through our engine, held to the library's `generate` on the same requests.

Pictures are prepared by the library's processors on both sides. Its video processors need torchvision, so clips are
prepared here by their formulas, on frames of a size that needs no scaling.
"""

import asyncio
import hashlib
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image as Pictures
from transformers import AutoModelForImageTextToText, PreTrainedModel

from schemas.jobs import ChatJob, ImagePart, Message, TextPart, VideoPart
from schemas.sampling import SamplingParams
from tests.fakes import library_checkpoints
from workers.backends.open import build_engine
from workers.backends.sizing import EngineLimits
from workers.engine.engine import Engine, TokenOutput
from workers.engine.sampling import Sampling
from workers.engine.sequence import Sequence
from workers.families.generic import GenericFamily
from workers.families.registry import open_family
from workers.handlers.prepare import Prepared, Preparer
from workers.media.types import PreparedMedia
from workers.models.config import read_config
from workers.models.generic import GenericModel
from workers.tokenizers.base import Tokenizer
from workers.tokenizers.load import load_tokenizer
from workers.weights.load import load_model

KINDS = ("internvl", "llava_onevision", "qwen2_vl", "qwen2_5_vl")
NUM_NEW = 8
SIZES = {"wide": (60, 33), "tall": (29, 75)}
NUM_FRAMES, SECONDS_BETWEEN = 3, 0.5
FRAME_SIDE = library_checkpoints.SIDE
REQUESTS: dict[str, tuple[str, ...]] = {
    "text": ("Tell me of the sea.",),
    "one": ("wide", "What is in this picture?"),
    "two": ("Compare", "wide", "with", "tall", "please."),
    "again": ("wide", "What is in this picture, and where?"),
    "long": ("tall", "word " * 60),
    "clip": ("Before it,", "CLIP", "what moves?"),
    "both": ("CLIP", "like", "wide", "?"),
}


@dataclass
class Served:
    """One checkpoint opened as a worker opens it, and what the library generates from it."""

    model: GenericModel
    library: PreTrainedModel
    family: GenericFamily
    tokenizer: Tokenizer
    answers: dict[str, tuple[list[int], torch.Tensor]] = field(default_factory=dict)

    def expected(self, name: str) -> tuple[list[int], torch.Tensor]:
        """Greedy ids and the log probabilities [NUM_NEW, V] behind them, by a second copy of the library's model."""
        if name not in self.answers:
            self.answers[name] = _generate(self, name)
        return self.answers[name]


class Media:
    """Stands in for the pipeline: pictures by name."""

    async def image(self, url, options, param, tenant=""):
        return PreparedMedia(picture(url)[None], (1,), hashlib.sha256(url.encode()).digest(), *SIZES[url])

    async def video(self, url, options, param, tenant=""):
        times = tuple(SECONDS_BETWEEN * index for index in range(NUM_FRAMES))
        return PreparedMedia(clip(), (1,) * NUM_FRAMES, b"clip", FRAME_SIDE, FRAME_SIDE, times)


@cache
def clip() -> np.ndarray:
    """uint8 [T, S, S, 3]."""
    return np.random.default_rng(5).integers(0, 255, (NUM_FRAMES, FRAME_SIDE, FRAME_SIDE, 3), dtype=np.uint8)


@cache
def picture(name: str) -> np.ndarray:
    """uint8 [H, W, 3]: smooth enough that a resize keeps what tells pictures apart."""
    width, height = SIZES[name]
    seed = int.from_bytes(name.encode()[:4])
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Pictures.fromarray(coarse).resize((width, height), Pictures.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Served]:
    torch.set_num_threads(1)
    served = {}
    for kind in KINDS:
        folder = getattr(library_checkpoints, f"make_{kind}")(tmp_path_factory.mktemp(kind))
        model = load_model(folder, torch.device("cpu"))
        library = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        library.generation_config.eos_token_id = None
        tokenizer = load_tokenizer(folder)
        family = open_family(read_config(folder), tokenizer, model)
        served[kind] = Served(model, library, family, tokenizer)
    return served


def _generate(served: Served, name: str) -> tuple[list[int], torch.Tensor]:
    inputs = _library_inputs(served, REQUESTS[name])
    result = served.library.generate(
        **inputs, max_new_tokens=NUM_NEW, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    ids = result.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    return ids, torch.cat(result.logits).log_softmax(-1)


def _library_inputs(served: Served, parts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """By the library's own processor; clips, and what of their placeholders it would write, by hand."""
    kinds = {"CLIP": "video", **dict.fromkeys(SIZES, "image")}
    content = [{"type": kinds[part]} if part in kinds else {"type": "text", "text": part} for part in parts]
    processor = served.family.processor
    text = processor.apply_template([{"role": "user", "content": content}], add_generation_prompt=True)
    pictures = [Pictures.fromarray(picture(part)) for part in parts if part in SIZES]
    if "CLIP" not in parts:
        return processor.reference_inputs(text, pictures)
    clip_text, clip_inputs = library_clip(processor.model_type)
    video_token, image_token = (processor.media_tokens[kind] for kind in ("video", "image"))
    pieces = processor.images(pictures)
    before, after = text.split(video_token)
    for piece in pieces:
        after = after.replace(image_token, piece.text.replace(image_token, "\0"), 1)
    text = before + clip_text + after.replace("\0", image_token)
    inputs = {"input_ids": processor.tokenizer(text, return_tensors="pt")["input_ids"], **clip_inputs}
    for piece in pieces:
        for key, value in piece.inputs.items():
            if key != "num_patches":
                inputs[key] = torch.cat([inputs[key], value]) if key in inputs else value
    if processor.model_type.startswith("qwen"):
        image_id, video_id = (processor.tokenizer.convert_tokens_to_ids(t) for t in (image_token, video_token))
        ids = inputs["input_ids"]
        inputs["mm_token_type_ids"] = (ids == image_id).int() + 2 * (ids == video_id).int()
    return inputs


def library_clip(model_type: str) -> tuple[str, dict[str, torch.Tensor]]:
    """What stands for the clip in a prompt, and what the model is given."""
    mean, std = (torch.tensor(library_checkpoints.PIXELS[key]) for key in ("image_mean", "image_std"))
    frames = ((torch.from_numpy(clip()) / 255 - mean) / std).permute(0, 3, 1, 2)
    if model_type == "internvl":
        lines = (f"Frame{number}: <img>{'<IMG_CONTEXT>' * 4}</img>" for number in range(1, NUM_FRAMES + 1))
        return "\n".join(lines), {"pixel_values": frames}
    if model_type == "llava_onevision":
        return "<video>" * (NUM_FRAMES * 4 + 1), {"pixel_values_videos": frames[None]}
    filled = torch.cat([frames, frames[-1:]])
    patches = filled.reshape(1, 2, 2, 3, 2, 2, 7, 2, 2, 7).permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(32, -1)
    inputs = {"pixel_values_videos": patches, "video_grid_thw": torch.tensor([[2, 4, 4]])}
    if model_type == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([2 * SECONDS_BETWEEN])
    return "<|video_pad|>" * 8, inputs


def part_of(text: str, param: str) -> ImagePart | VideoPart | TextPart:
    if text in SIZES:
        return ImagePart(text, param)
    return VideoPart("clip", param) if text == "CLIP" else TextPart(text)


def prepare(served: Served, name: str) -> Prepared:
    parts = tuple(part_of(text, f"messages.0.content.{index}") for index, text in enumerate(REQUESTS[name]))
    job = ChatJob(job_id=name, model="m", messages=(Message("user", parts),), sampling=SamplingParams(seed=0))
    return asyncio.run(Preparer(served.family, served.tokenizer, Media(), 4096, 64).prepare(job))


def engine(served: Served, **changes: object) -> Engine:
    limits: dict[str, object] = {
        "max_model_len": 512,
        "num_blocks": 200,
        "block_size": 8,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 512,
        "max_encode_tokens": 256,
        "encoder_cache_bytes": 1 << 20,
    }
    enable_prefix_cache = bool(changes.pop("enable_prefix_cache", True))
    return build_engine(served.model, EngineLimits(**{**limits, **changes}), enable_prefix_cache)


def run(core: Engine, served: Served, names: tuple[str, ...]) -> tuple[dict[str, Sequence], list[str]]:
    """Answer the requests together and hold each to the library; returns the sequences and who was preempted."""
    sequences: dict[str, Sequence] = {}
    outputs: dict[str, list[TokenOutput]] = {name: [] for name in names}
    preempted: list[str] = []
    schedule = core.scheduler.schedule

    def recording(alone=None):
        plan = schedule(alone)
        preempted.extend(plan.preempted)
        return plan

    core.scheduler.schedule = recording
    for name in names:
        prepared = prepare(served, name)
        sequences[name] = Sequence(
            request_id=name,
            token_ids=list(prepared.token_ids),
            num_prompt_tokens=len(prepared.token_ids),
            max_total_tokens=len(prepared.token_ids) + NUM_NEW,
            media=prepared.media,
            rope_regime=served.model.rope_regime,
            grid_positions=prepared.grid_positions,
            sampling=Sampling(temperature=0.0, num_logprobs=0),
        )
        core.add(sequences[name])
    while core.scheduler.has_work:
        for output in core.step():
            outputs[output.request_id].append(output)
    core.scheduler.schedule = schedule
    for name in names:
        ids, logprobs = served.expected(name)
        assert sequences[name].output_ids == ids
        chosen = torch.tensor([output.logprobs.chosen for output in outputs[name]])
        torch.testing.assert_close(chosen, logprobs[torch.arange(NUM_NEW), torch.tensor(ids)], atol=1e-3, rtol=0)
    return sequences, preempted


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["text", "one", "two", "long", "clip", "both"])
def test_a_request_alone_gives_what_the_library_generates(checkpoints, kind: str, name: str) -> None:
    run(engine(checkpoints[kind]), checkpoints[kind], (name,))


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_change_the_answer(checkpoints, kind: str) -> None:
    first, second = (checkpoints[kind].expected(name) for name in ("one", "long"))
    assert float((first[1][0] - second[1][0]).abs().max()) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_batch_in_chunks_gives_the_same(checkpoints, kind: str) -> None:
    core = engine(checkpoints[kind], max_num_batched_tokens=13, enable_prefix_cache=False)
    run(core, checkpoints[kind], ("two", "text", "clip", "long", "one"))


@pytest.mark.parametrize("kind", KINDS)
def test_preempted_sequences_start_over_and_give_the_same(checkpoints, kind: str) -> None:
    served, names = checkpoints[kind], ("one", "two", "long", "text")
    lengths = [len(prepare(served, name).token_ids) for name in names]
    num_blocks = sum(-(-length // 4) for length in lengths) + 4
    core = engine(served, num_blocks=num_blocks, block_size=4, enable_prefix_cache=False)
    _, preempted = run(core, served, names)
    assert preempted


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_question_on_a_picture_finds_its_prefix(checkpoints, kind: str) -> None:
    core = engine(checkpoints[kind], block_size=4)
    run(core, checkpoints[kind], ("one",))
    sequences, _ = run(core, checkpoints[kind], ("again", "two"))
    assert sequences["again"].num_cached_tokens >= sequences["again"].media[0].end - 4


def test_the_dynamic_rope_is_reached_and_makes_no_shared_prefix(checkpoints) -> None:
    served = checkpoints["internvl"]
    core = engine(served, block_size=4)
    run(core, served, ("long",))
    assert served.model.rope_regime(len(prepare(served, "long").token_ids)) > 0
    sequences, _ = run(core, served, ("long",))
    assert sequences["long"].num_cached_tokens > 0
