"""How the C library keeps memory."""

import ctypes

M_MMAP_THRESHOLD = -3


def give_back_buffers(size_bytes: int) -> None:
    """Have buffers of at least this size taken from the system one by one, which gets them back when they are freed.

    glibc does so for large ones at first, but raises the bound to the largest that it saw freed (up to 32 MiB); bodies
    and messages of many megabytes then leave holes that stay. Where the C library is another one, nothing happens.
    """
    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, size_bytes)
    except (AttributeError, OSError):
        return
