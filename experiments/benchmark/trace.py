"""Which kinds of operation a trace of jax's profiler says took longest."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import jax

OPERATION = "hlo_op"  # the statistic that events of XLA's operations carry
HOLDERS = ("while", "call", "conditional")  # their time is that of the operations that they hold, which are told as well


def largest_shares(folder: Path, count: int) -> list[dict[str, Any]]:
    """The `count` kinds with the most time, and their shares of that of all operations, on all devices together.

    A kind is an operation's name without its number, e.g. "dot" of "dot.12".
    """
    times = operation_times(folder)
    whole = sum(times.values())
    return [{"kind": kind, "share": spent / whole} for kind, spent in times.most_common(count)]


def operation_times(folder: Path) -> Counter:
    """Nanoseconds by kind; ValueError for a folder that holds no trace of operations."""
    times: Counter = Counter()
    for path in sorted(Path(folder).glob("plugins/profile/*/*.xplane.pb")):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    kind = re.sub(r"[.\d]+$", "", event.name)
                    if kind not in HOLDERS and any(name == OPERATION for name, _ in event.stats):
                        times[kind] += event.duration_ns
    if not times:
        raise ValueError(f"{folder} holds no trace of XLA's operations")
    return times
