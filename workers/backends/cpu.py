"""How a worker on a CPU uses its process: memory that large temporaries come from, how many threads compute, how often
garbage is looked for."""

import ctypes
import gc
import logging
import sys

import torch

log = logging.getLogger(__name__)

SWITCH_INTERVAL_S = 0.0005
YOUNG_OBJECTS = 10_000
"""After so many new ones that stay, garbage is looked for."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SMALL_MODEL_BYTES = 64 << 20
"""Below this, splitting a product between threads costs more than it saves, and the other cores are better used by the
gateway and the decode processes: the demo model answers a single client 1.5 times as fast with one thread."""


def keep_freed_memory() -> None:
    """Have glibc reuse large freed blocks instead of returning them to the system.

    Every activation of a prefill is larger than the default limit of 128 KiB; each would be mapped, faulted in page by
    page and unmapped again: 1.3 ms instead of 0.14 ms for a norm over 512 x 768 floats. No effect on other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def share_interpreter() -> None:
    """Have threads hand the interpreter on ten times as soon as they do by default.

    The steps' thread gives it up at every operation, some hundreds a step, and while another thread runs Python it gets
    it back after 5 ms each time: a few milliseconds of preparing a prompt would hold up everybody's next token.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def settle_objects() -> None:
    """Take what is there by now for good: the libraries' 230,000 objects, through which every full collection would
    look. All streams would wait for that, 60 ms at a time."""
    gc.collect()
    gc.freeze()
    # The rest is mostly tokens on their way, which are not garbage, however often one looks.
    gc.set_threshold(YOUNG_OBJECTS)


def set_threads(weight_bytes: int) -> None:
    """One thread for a small model, all cores (torch's default, or OMP_NUM_THREADS) for others."""
    if weight_bytes < _SMALL_MODEL_BYTES:
        torch.set_num_threads(1)
    log.info("computing with %d threads", torch.get_num_threads())
