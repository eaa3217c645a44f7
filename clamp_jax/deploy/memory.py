"""The memory of a process that must answer in time: taken before the first request, counted, never searched as a whole.

Heaps are glibc's; with another malloc nothing is reserved for long, and nothing is known of what is in use.
"""

import contextlib
import ctypes
import functools
import gc
from collections.abc import Callable, Iterator

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


@contextlib.contextmanager
def steady() -> Iterator[None]:
    """While it is open, Python's garbage collector leaves alone what there is now.

    Ours, measured: where jax is imported, a full collection stops all threads for 110 ms, five control periods.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
