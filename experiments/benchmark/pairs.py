"""The sigmoid loss with its gradient, plain and round the ring: memory and time side by side, on fake devices or on real ones.

A process of its own, because the number of fake devices is settled before jax starts:
python -m experiments.benchmark.pairs {"batch": ..., "devices": [...], ...}; JSON to stdout.

Both forms are measured as a training step has them: sharded by jit, with the top-1 figure, with a mask of false negatives and
without one. Their losses and gradients are compared before anything is timed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from clamp_jax import runtime

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    fake = asked["device"] == "cpu"
    runtime.setup("cpu" if fake else None, cpu_devices=max(asked["devices"]) if fake else None, mjx=False)
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what compiling costs is one of the figures

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clamp_jax import losses, parallel
from experiments.benchmark.timing import spread
from experiments.benchmark.turns import turn

ROOT = Path(__file__).parents[2]
FORMS = ("plain", "ring")
CLOSE = 1e-4  # of the gradient's norm: forms that differ by more do not do the same work


class Made(NamedTuple):
    """A form, compiled."""

    call: Callable[[], Any]  # gives ((loss, top-1), gradients of x, y, log_scale, bias)
    temporary_bytes: int  # of each device
    compile_ms: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument("--batch", type=int, default=4096, help="rows of the global batch")
    parser.add_argument("--embedding", type=int, default=512, help="size of an embedding")
    parser.add_argument("--devices", type=int, nargs="+", help="default: 1 2 4 8; with --device gpu all there are")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="cpu: fake devices; gpu: any accelerator")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of `cells`, told at once. ValueError for arguments out of range, and with the reason where they cannot be had."""
    devices = args.devices or ([1, 2, 4, 8] if args.device == "cpu" else [])
    if min(args.batch, args.embedding, args.repeats, *devices) < 1:
        raise ValueError("give 1 or more rows, numbers in an embedding, devices and repeats")
    uneven = [count for count in devices if args.batch % count]
    if uneven:
        raise ValueError(f"a batch of {args.batch} does not divide by {uneven[0]} devices; choose another --batch or --devices")
    asked = {name: getattr(args, name) for name in ("batch", "embedding", "repeats", "device")} | {"devices": devices}
    environ = dict(os.environ)
    if args.device == "gpu" and environ.get("JAX_PLATFORMS") == "cpu":  # --device asks for more than the environment allows
        del environ["JAX_PLATFORMS"]
    command = [sys.executable, "-m", "experiments.benchmark.pairs", json.dumps(asked)]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    print(done.stderr, end="", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def cells(batch: int, embedding: int, devices: list[int], repeats: int, device: str) -> dict[str, Any]:
    """Memory and times on each number of devices (none: on all there are), without a mask and with one."""
    there = jax.devices()
    if device == "gpu" and there[0].platform == "cpu":
        raise ValueError("--device gpu found no accelerator; install the [cuda] or [tpu] extra on a machine that has one")
    counts = devices or [len(there)]
    if max(counts) > len(there):
        reason = f"{max(counts)} devices are asked for and {len(there)} are there"
        raise ValueError(f"{reason}; give fewer to --devices, or take {runtime.DEVICES_FLAG} out of XLA_FLAGS")
    rows = make_rows(batch, embedding)
    found = [cell(parallel.mesh(there[:count]), rows, masked, repeats) for count in counts for masked in (False, True)]
    return {"batch": batch, "embedding": embedding, "platform": there[0].platform, "kind": there[0].device_kind, "losses": found}


def make_rows(batch: int, embedding: int) -> tuple[jax.Array, ...]:
    """x, y near it, log_scale, bias and ids, of which one in eight is another row's, by trajectory or by prompt."""
    x, noise = jax.random.normal(jax.random.key(0), (2, batch, embedding))
    index = np.arange(batch)
    trajectory, prompt = np.where(index % 8 == 1, index - 1, index), np.where(index % 8 == 3, index - 1, index)
    ids = losses.row_ids(trajectory.astype(np.int32), prompt.astype(np.int32)[:, None])
    return x, x + noise, jnp.float32(np.log(10)), jnp.float32(losses.prior_bias(batch)), ids


def cell(on: Mesh, rows: tuple[jax.Array, ...], masked: bool, repeats: int) -> dict[str, Any]:
    """Both forms over a mesh; ValueError when they differ."""
    compiled = {form: compile_form(on, form, rows, masked) for form in FORMS}
    different = max(differences(*(made.call() for made in compiled.values())))
    if different > CLOSE:
        raise ValueError(f"gradients of the two forms differ by {different:.1e} of their norm on {on.size} devices; expected {CLOSE}")
    times = {form: [] for form in FORMS}
    for _ in range(repeats):
        for form, made in compiled.items():
            times[form].append(turn(made.call))
    found: dict[str, Any] = {"devices": on.size, "masked": masked, "gradients_differ_by": different}
    for form, made in compiled.items():
        found[form] = {"temporary_mib": made.temporary_bytes / 2**20, "compile_ms": made.compile_ms, **spread("ms", times[form])}
    found["ring_over_plain_memory"] = compiled["ring"].temporary_bytes / max(compiled["plain"].temporary_bytes, 1)
    found["ring_over_plain"] = spread("ratio", [ring / plain for plain, ring in zip(times["plain"], times["ring"], strict=True)])
    tell(found)
    return found


def compile_form(on: Mesh, form: str, rows: tuple[jax.Array, ...], masked: bool) -> Made:
    """One form over a mesh, sharded by jit."""
    split, whole = (NamedSharding(on, PartitionSpec(*names)) for names in ((parallel.AXIS,), ()))
    pair, shardings = parallel.on_mesh(on, form).pair, (split, split, whole, whole, split)
    placed = [jax.device_put(array, sharding) for array, sharding in zip(rows, shardings, strict=True)]
    both = jax.value_and_grad(lambda *arguments: pair(*arguments[:4], arguments[4] if masked else None), (0, 1, 2, 3), has_aux=True)
    begin = time.perf_counter()
    made = jax.jit(both, in_shardings=shardings, out_shardings=((whole, whole), shardings[:4])).lower(*placed).compile()
    compile_ms = 1e3 * (time.perf_counter() - begin)
    return Made(lambda: jax.block_until_ready(made(*placed)), made.memory_analysis().temp_size_in_bytes, compile_ms)


def differences(one: Any, two: Any) -> list[float]:
    """Of the losses and the gradients ((loss, top-1), (x, y, log_scale, bias)), each over its norm."""
    pairs = zip((one[0][0], *one[1]), (two[0][0], *two[1]), strict=True)
    return [float(np.linalg.norm(np.subtract(a, b)) / max(np.linalg.norm(a), 1e-12)) for a, b in pairs]


def tell(found: dict[str, Any]) -> None:
    """A line on standard error, so that a long run can be followed."""
    memory = " and ".join(f"{form} {found[form]['temporary_mib']:.1f} MiB" for form in FORMS)
    mask = "with" if found["masked"] else "without"
    ratio = found["ring_over_plain"]["median_ratio"]
    print(f"{found['devices']} devices, {mask} a mask: {memory}; time of the ring over plain {ratio:.2f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(json.dumps(cells(**asked)))
    except ValueError as error:
        raise SystemExit(str(error)) from error
