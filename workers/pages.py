"""Memory for what stays: outside the heap, where it would lie between what comes and goes.

The holes that it leaves there fit nothing that comes later, and the heap grows by as much as was let go.
"""

import mmap

MIN_BYTES = 16 << 10
"""Less would waste too much of its last page, and might be more than the 65,530 mappings that a process may have."""


def own_pages(size_bytes: int) -> mmap.mmap:
    """Whole pages that the system has back as soon as nobody refers to them."""
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
