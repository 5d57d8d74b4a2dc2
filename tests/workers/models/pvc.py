"""PVC-InternVL2's golden cases as the family prepares them: media through the transforms, prompt, inputs."""

from functools import cache

from schemas.jobs import MediaOptions
from tests.workers.models.goldens import Case, model, read_json, set_path
from tests.workers.models.internvideo2 import prepared
from tests.workers.prompts.test_recorded import read_messages
from workers.engine.sequence import MediaInput
from workers.families.base import Family
from workers.families.registry import open_family
from workers.media.types import PreparedMedia
from workers.prompts.placeholders import PromptIds
from workers.tokenizers.load import load_tokenizer

PVC = "pvc"


@cache
def family() -> Family:
    """The request rules of the golden checkpoint."""
    folder = set_path(PVC) / "checkpoint"
    return open_family(read_json(PVC, "checkpoint/config.json"), load_tokenizer(folder), model(PVC), folder, PVC)


def request(case: Case) -> MediaOptions:
    """A case's options as a request states them."""
    options = case.raw["options"]
    return MediaOptions(
        num_frames=options.get("num_segments"),
        max_dynamic_patch=options["max_num"],
        exif_transpose=False,
        family={"data_flag": options["data_flag"]},
    )


def media(case: Case) -> list[PreparedMedia]:
    """A case's media, cut as the family says."""
    is_clip = case.raw["options"]["data_flag"] == 3
    asked = request(case)
    options = family().video_options(asked) if is_clip else family().image_options(asked, "auto")
    return [prepared(PVC, url, options) for url in case.media_urls]


def prompt(case: Case) -> PromptIds:
    """A case's prompt as the family builds it."""
    messages, _, _ = read_messages(case.raw)
    return family().build_prompt(messages, media(case), request(case), True)


def media_inputs(case: Case) -> tuple[MediaInput, ...]:
    """What stands at a case's placeholders."""
    built = prompt(case)
    return tuple(
        MediaInput(span.start, span.length, own.digest, own.data, own.offset, own.num_encoded)
        for span, own in zip(built.spans, built.inputs, strict=True)
    )
