"""The thread in which a vision tower runs beside the steps of the decoder, where a core is left for it."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

NICENESS = 10
"""Who reads an answer notices a late token sooner than who still waits for the first one."""


def open_tower_thread(device: torch.device) -> ThreadPoolExecutor | None:
    """None where all cores compute the steps already: threads that meet at every product must not be held up by
    another. Nor for an accelerator, which works off one queue."""
    if device.type != "cpu" or torch.get_num_threads() >= len(os.sched_getaffinity(0)):
        return None
    return ThreadPoolExecutor(1, "tower", initializer=_step_back)


def _step_back() -> None:
    torch.set_num_threads(1)
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
