"""The memory of a process that trains and saves for long: it does not grow."""

import statistics
from pathlib import Path
from typing import Any

from experiments.torture import run

MOST = 0.01  # of growth
WARM_UP = 0.1  # of the steps, before the memory is looked at; a tenth of the rest, at both ends, is averaged


def torture(folder: Path, *, steps: int = 2_000, saves: int = 200) -> dict[str, Any]:
    """Train a run of `debug` in this process for the steps with as many saves, and a warm-up before; plain values.

    The growth is that of the resident memory, from the median of the first tenth of the steps to that of the last.
    """
    warm_up = round(steps * WARM_UP)
    plan = run.Plan(folder, steps + warm_up, steps // saves, "policy_pretrained")
    run.prepare(plan)
    sizes: list[int] = []
    run.train(plan, folder / "run", tell=lambda progress: sizes.append(resident_bytes()))
    kept, tenth = sizes[warm_up:], steps // 10
    first, last = (statistics.median(part) for part in (kept[:tenth], kept[-tenth:]))
    growth = last / first - 1
    every = max(1, steps // 20)
    return {
        "steps": steps,
        "saves": saves,
        "first_mb": first / 1e6,
        "last_mb": last / 1e6,
        "growth": growth,
        "mb": [round(size / 1e6, 1) for size in sizes[::every]],
        "good": growth < MOST,
    }


def resident_bytes() -> int:
    """Resident memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmRSS; this needs Linux")
