"""Loads an artifact by its own reader in a fresh process, and times what a server's start and its calls cost.

    python -m experiments.benchmark.loading runs/artifact --batches 1 2 4 8

One JSON document on standard output. Imports nothing of ours but the loader.py that lies in the artifact.
"""

import argparse
import importlib.util
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np


def peak_gib() -> float:
    """The most memory that this process has held; Linux tells of this program alone, where rusage begins with its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 2)
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return round(int(line.split()[1]) / (1 << 20), 2)


def reader(folder: Path) -> ModuleType:
    """The module loader.py of an artifact."""
    spec = importlib.util.spec_from_file_location("loader", folder / "loader.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    begin = time.monotonic()
    call()
    return time.monotonic() - begin


def first_call(call: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a call that compiles, by the clock and of all cores together: the latter is the same beside other work."""
    before = time.process_time()
    elapsed = seconds(call)
    return {"compile_s": round(elapsed, 2), "compile_cpu_s": round(time.process_time() - before, 2)}


def batch(stored: dict, size: int, frozen: bool) -> dict:
    """`size` copies of the stored example without frozen actions, or of that with."""
    return {name: np.repeat(value[int(frozen) :][:1], size, axis=0) for name, value in stored.items()}


def measure(folder: Path, batches: list[int], repeats: int) -> dict[str, Any]:
    """Seconds to load and, for each size of batch, to compile; milliseconds of a call; memory; the stored example's difference."""
    begin = time.monotonic()
    loader = reader(folder)
    imported_s = time.monotonic() - begin
    begin = time.monotonic()
    policy = loader.load_artifact(folder)
    found = {"import_s": round(imported_s, 2), "load_s": round(time.monotonic() - begin, 2), "loaded_gib": peak_gib(), "batches": {}}
    stored, _ = loader.read_safetensors(folder / loader.EXAMPLE)
    expected = stored.pop("actions")
    for size in batches:
        free, frozen = batch(stored, size, False), batch(stored, size, True)
        entry: dict[str, Any] = first_call(lambda free=free: policy(free))
        for name, inputs in (("ms", free), ("frozen_ms", frozen)):
            times = [1e3 * seconds(lambda inputs=inputs: policy(inputs)) for _ in range(repeats)]
            entry[name] = [round(value, 1) for value in (min(times), statistics.median(times), max(times))]
        found["batches"][size] = entry
    one = {name: value[:1] for name, value in stored.items()}
    found["difference"] = float(np.abs(policy(one)["actions"][0] - expected[0]).max())
    return found | {"peak_gib": peak_gib()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Load an artifact and time it.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(json.dumps(measure(args.folder, args.batches, args.repeats)))


if __name__ == "__main__":
    main()
