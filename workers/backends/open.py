"""Puts an engine together for a loaded model."""

import os
from pathlib import Path

import torch

from workers.attention.paged_sdpa import PagedSDPA
from workers.backends.native import NativeBackend
from workers.backends.sizing import EngineLimits
from workers.engine.block_manager import BlockManager
from workers.engine.companion import open_companion
from workers.engine.encoder_cache import EncoderCache
from workers.engine.engine import Engine
from workers.engine.prefill_pace import PrefillPace
from workers.engine.runner import Runner
from workers.engine.scheduler import Scheduler
from workers.models.base import VisionLanguageModel


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def free_bytes(device: torch.device) -> int:
    """What a model's K/V pool may count on: free memory of a GPU; for a CPU half of the machine's or container's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        # "max" stands for no limit.
        if path.is_file() and (text := path.read_text(encoding="ascii").strip()).isdigit():
            limits.append(int(text))
    return min(limits) // 2


def open_backend(model: VisionLanguageModel, limits: EngineLimits, enable_prefix_cache: bool) -> NativeBackend:
    """The backend of a model, not yet started. Call it inside the event loop that will use it."""
    return NativeBackend(build_engine(model, limits, enable_prefix_cache))


def build_engine(model: VisionLanguageModel, limits: EngineLimits, enable_prefix_cache: bool) -> Engine:
    """The engine with its K/V pool."""
    lower = model.kv_spec.lower
    unfolding = lower.unfolding if lower else None
    # A lower stack that unfolds treats generated tokens unlike those of a prompt.
    block_manager = BlockManager(
        limits.num_blocks, limits.block_size, enable_prefix_cache, shares_outputs=unfolding is None
    )
    encoder_cache = EncoderCache(limits.encoder_cache_bytes, model.hidden_size * model.dtype.itemsize)
    companion = open_companion(model.device)
    scheduler = Scheduler(
        block_manager,
        encoder_cache,
        limits.max_num_seqs,
        limits.max_num_batched_tokens,
        limits.max_encode_tokens,
        media_unit=unfolding.token_grid if unfolding else 1,
        beside_share=0.0 if companion is None else companion.most_share,
        beside_tokens=0 if companion is None else companion.prefill_tokens,
        pace=None if limits.prefill_per_decode is None else PrefillPace(limits.prefill_per_decode),
    )
    attention = PagedSDPA(model.kv_spec, limits.num_blocks, limits.block_size, model.dtype, model.device)
    runner = Runner(model, attention, _lower_attention(model, limits))
    return Engine(scheduler, block_manager, runner, companion)


def _lower_attention(model: VisionLanguageModel, limits: EngineLimits) -> PagedSDPA | None:
    """The pool of the stack under the backbone: the same pages, with as many slots as it needs in each."""
    spec = model.kv_spec.lower
    if spec is None:
        return None
    return PagedSDPA(spec, limits.num_blocks, limits.block_size * spec.slots_per_token, model.dtype, model.device)
