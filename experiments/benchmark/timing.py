"""How long a piece of work takes, told with its spread."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax


def repeat(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Milliseconds of work(): the first call with its compilation, then minimum, median and maximum of `repeats` calls."""
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; give 1 or more")
    first, times = _timed(work), [_timed(work) for _ in range(repeats)]
    return {"first_ms": first, **spread("ms", times), "repeats": repeats}


def spread(unit: str, values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum, as min_<unit>, median_<unit> and max_<unit>."""
    return {f"min_{unit}": min(values), f"median_{unit}": statistics.median(values), f"max_{unit}": max(values)}


def _timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(work())
    return 1e3 * (time.perf_counter() - begin)
