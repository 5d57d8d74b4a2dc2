"""What this machine can run, and why not: read off the machine, nothing is guessed."""

import importlib.metadata
import importlib.util
import os
import platform

_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "pillow", "av", "decord", "lmdeploy")
_OPTIONAL = {"decord": "clips are read with PyAV alone", "lmdeploy": "--backend lmdeploy is not available"}


def report() -> str:
    """Lines for the operator: versions, memory, devices with what each can do."""
    return "\n".join([*_machine(), *_libraries(), *_devices()])


def _machine() -> list[str]:
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return [
        f"python        {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"processors    {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}",
        f"memory        {memory_gib:.1f} GiB",
    ]


def _libraries() -> list[str]:
    lines = []
    for name in _LIBRARIES:
        try:
            lines.append(f"{name:<13} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{name:<13} missing: {_OPTIONAL.get(name, 'workers cannot start')}")
    return lines


def _devices() -> list[str]:
    if importlib.util.find_spec("torch") is None:
        return ["devices       none: torch is missing"]
    import torch

    lines = [f"cpu           yes, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = f"torch is built for CUDA {built}, no usable GPU is found" if built else "torch is built without CUDA"
        return [*lines, f"cuda          no: {reason}"]
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        bfloat16 = "bfloat16" if device.major >= 8 else "no bfloat16 (needs compute capability 8.0)"
        lines.append(
            f"cuda:{index:<8} {device.name}, {device.total_memory / 2**30:.0f} GiB, "
            f"capability {device.major}.{device.minor}, {bfloat16}"
        )
    return lines
