"""First-token latency of Mono-InternVL-2B beside Mini-InternVL-Chat-2B-V1-5, at the real dimensions.

    python -m benchmarks.mono_latency [--tiles 1,7]

Random weights in bfloat16 and our engine alone, without HTTP: what the card of Mono-InternVL compares is how long the
first token takes with and without a vision tower. 60 tokens of text around a picture of so many tiles.
"""

import argparse
import gc
import time

import numpy as np
import torch

from benchmarks.report import write_report
from workers.backends.cpu import keep_freed_memory
from workers.backends.open import build_engine, pick_device
from workers.backends.sizing import Asked, size_engine
from workers.catalogue.listing import read_families
from workers.catalogue.measure import published_config
from workers.engine.engine import Engine
from workers.engine.sampling import Sampling
from workers.engine.sequence import MediaInput, Sequence
from workers.models.base import VisionLanguageModel
from workers.models.registry import build_model
from workers.weights.sources import DummySource

WITH_TOWER, WITHOUT_TOWER = "Mini-InternVL-Chat-2B-V1-5", "Mono-InternVL-2B"
TEXT_TOKENS = 60


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--tiles", default="1,7")
    args.add_argument("--device", default="auto")
    asked = args.parse_args()
    tiles = [int(number) for number in asked.tiles.split(",")]
    keep_freed_memory()
    latencies = {}
    for name in (WITH_TOWER, WITHOUT_TOWER):
        model = build(name, pick_device(asked.device))
        latencies[name] = [first_token_s(model, count) for count in tiles]
        del model
        gc.collect()
    rows = [
        (count, TEXT_TOKENS + 256 * count, with_s, without_s, f"{1 - without_s / with_s:+.0%}")
        for count, with_s, without_s in zip(tiles, latencies[WITH_TOWER], latencies[WITHOUT_TOWER], strict=True)
    ]
    header = ["tiles", "prompt tokens", f"{WITH_TOWER}, s", f"{WITHOUT_TOWER}, s", "saved"]
    write_report("mono_latency", "First token without a vision tower", "The shorter of two runs.", header, rows)


def build(name: str, device: torch.device) -> VisionLanguageModel:
    """The checkpoint's published dimensions with random weights."""
    [family] = [family for family in read_families() if name in family.checkpoints]
    return build_model(published_config(family, name), DummySource(device, torch.bfloat16))


@torch.inference_mode()
def first_token_s(model: VisionLanguageModel, num_tiles: int) -> float:
    """Seconds from a prompt's arrival to its first token; the shorter of two runs, each on an engine of its own."""
    return min(_run(new_engine(model), model, num_tiles) for _ in range(2))


def new_engine(model: VisionLanguageModel) -> Engine:
    """An engine as the worker makes it, with nothing cached."""
    asked = Asked(max_model_len=4096, num_kv_blocks=300)
    is_cuda = model.device.type == "cuda"
    return build_engine(model, size_engine(asked, is_cuda, 1 << 30, 1, 4096, False), enable_prefix_cache=False)


def _run(engine: Engine, model: VisionLanguageModel, num_tiles: int) -> float:
    rng = np.random.default_rng(num_tiles)
    span = num_tiles * model.tokens_per_tile
    tiles = rng.integers(0, 256, (num_tiles, model.image_size, model.image_size, 3), dtype=np.uint8)
    prompt = rng.integers(1, 1000, TEXT_TOKENS + span).tolist()
    seq = Sequence(
        request_id="only",
        token_ids=prompt,
        num_prompt_tokens=len(prompt),
        max_total_tokens=len(prompt) + 1,
        media=(MediaInput(TEXT_TOKENS // 2, span, b"picture", tiles),),
        sampling=Sampling(temperature=0.0),
    )
    start = time.perf_counter()
    engine.add(seq)
    while engine.scheduler.has_work:
        engine.step()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
