"""The memory of a server: taken before the first request, counted while it serves. glibc's malloc; elsewhere nothing is known of it."""

import ctypes
import functools
from collections.abc import Callable

RESERVE = 32 << 20  # bytes of each heap: some eight requests of four 224 x 224 RGB-D cameras, in each of the shapes they pass through
_BLOCK = 16 << 20  # below the size from which malloc asks the system for memory of its own (runtime.MALLOC)


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    ]


def reserve(size: int = RESERVE) -> None:
    """Fill the heap of the calling thread with so many bytes, and free them: malloc keeps them, so that no request waits for pages.

    A process that may keep what it has freed (runtime.MALLOC) grows until its busiest moment has been; with this it begins there.
    """
    blocks = [b"\1" * min(_BLOCK, size - start) for start in range(0, size, _BLOCK)]  # written to, since only then they are there
    del blocks


def in_use() -> int:
    """Bytes that malloc has given out and not got back, over all heaps; 0 where there is no such count (before glibc 2.33)."""
    count = _mallinfo2()
    if count is None:
        return 0
    found = count()
    return found.uordblks + found.hblkhd


@functools.cache
def _mallinfo2() -> Callable[[], _Mallinfo2] | None:
    count = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if count is not None:
        count.restype = _Mallinfo2
    return count
