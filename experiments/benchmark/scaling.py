"""What devices send each other in a training step of stage (i), as compiled, beside the least that data parallelism needs.

A process of its own, because the number of fake devices is settled before jax starts:
python -m experiments.benchmark.scaling {"preset": ..., "devices": [...], ...}; JSON to stdout. Nothing is run.

Bytes are those that one device sends when the collective is done in the way that sends least, on D devices: of n bytes an
all-reduce sends 2 n (D - 1) / D, an all-gather of n bytes in all, a reduce-scatter of n bytes on each and an all-to-all of n
bytes on each send n (D - 1) / D, a collective-permute n. What stands in a loop counts as often as the loop runs.

The least is, for N trained parameters, b rows in the global batch and embeddings of d numbers, all float32 (4 bytes):
    gradients   each parameter's, all-reduced once: 2 (4 N) (D - 1) / D
    embeddings  every pair of encoders is contrasted, so of E encoders E - 1 must show each of their rows to every device once, and
                get back its gradient, summed over the devices, once: 2 (E - 1) (4 b d) (D - 1) / D
"""

import argparse
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from clamp_jax import runtime
from experiments.benchmark import collectives

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    runtime.setup("cpu", cpu_devices=max(asked["devices"]), mjx=False)
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax

from clamp_jax import metrics, parallel, steps
from clamp_jax.networks import Networks
from clamp_jax.structs import Batch
from experiments import training
from experiments.benchmark.case import Case
from experiments.benchmark.rows import make_config, make_rows

ROOT = Path(__file__).parents[2]
BAR = 1.1  # bytes sent over the least
FLOAT_BYTES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is compiled."""
    parser.add_argument("--preset", default="debug", help="of clamp_jax/models/presets.py")
    parser.add_argument("--rows", type=int, default=5, help="of each device; a batch as large as a layer is wide would hide a matrix")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8], help="how many fake ones")
    parser.add_argument("--accumulate", type=int, default=1, help="parts in which a device does its rows")
    parser.add_argument("--pair-loss", choices=parallel.PAIR_LOSSES, default="ring")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of `table`. ValueError for arguments out of range."""
    if min(args.rows, args.accumulate, *args.devices) < 1:
        raise ValueError("give 1 or more rows, parts and devices")
    if args.rows % args.accumulate:
        raise ValueError(f"{args.rows} rows on a device do not divide into {args.accumulate} parts; choose another --accumulate")
    asked = {name: getattr(args, name) for name in ("preset", "rows", "devices", "accumulate", "pair_loss")}
    command = [sys.executable, "-m", "experiments.benchmark.scaling", json.dumps(asked)]
    environ = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # another number of fake devices may stand there
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    print(done.stderr, end="", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(preset: str, rows: int, devices: list[int], accumulate: int, pair_loss: str) -> dict[str, Any]:
    """Bytes that a device sends, beside the least, on each number of devices."""
    config = make_config(preset)
    spec = training.make_spec(config, "pretrain")._replace(accumulate=accumulate)
    found = []
    for count in devices:
        batch = make_rows(config, spec.networks, Case(preset, rows * count))
        found.append(sends(spec, batch, count, pair_loss))
        tell(found[-1])
    worst = max((one["over_least"] for one in found if one["devices"] > 1), default=None)
    about = {"preset": preset, "rows_per_device": rows, "accumulate": accumulate, "pair_loss": pair_loss}
    return about | {"scaling": found, "worst": worst, "bar": BAR, "holds": worst is None or worst <= BAR}


def sends(spec: steps.Spec, batch: Batch, devices: int, pair_loss: str = "ring", compiler_options: Any = training.QUICK) -> dict[str, Any]:
    """What a device sends in a step on so many devices, the least, and whether one holds the whole matrix of pairs."""
    on, shapes, rows = parallel.mesh(jax.devices()[:devices]), training.state_shapes(spec, batch), len(batch.keys)
    mapped = parallel.map_step(functools.partial(steps.pretrain_step, spec), on, pair_loss=pair_loss, compiler_options=compiler_options)
    text = mapped.lower(shapes, batch).compile().as_text()
    sent = collectives.sent_bytes(text, devices)
    trained = metrics.parameter_count({name: shapes.params[name] for name in spec.trained})
    fewest = least(spec.networks, trained, rows, devices)
    matrices = collectives.square_matrices(text, rows)
    told = {"devices": devices, "batch": rows, "sent_bytes": sum(sent.values()), "by_kind": sent, "least_bytes": sum(fewest.values())}
    ratio = sum(sent.values()) / sum(fewest.values()) if devices > 1 else None
    return told | {"least": fewest, "over_least": ratio, "matrices_of_all_pairs": matrices}


def least(networks: Networks, trained: int, rows: int, devices: int) -> dict[str, float]:
    """Bytes that a device must send in a step, as this file's head defines it; `trained` parameters, rows in the global batch."""
    share = (devices - 1) / devices
    encoders = 0 if networks.clamp is None else len({name for pair in networks.clamp.config.pairs for name in pair.split("_")})
    travelling = 2 * max(encoders - 1, 0) * FLOAT_BYTES * rows * networks.embedding
    return {"gradients": 2 * FLOAT_BYTES * trained * share, "embeddings": travelling * share}


def tell(one: dict[str, Any]) -> None:
    """A line on standard error, so that a long run can be followed."""
    ratio = "" if one["over_least"] is None else f", {one['over_least']:.3f} of the least"
    matrices = ", ".join(one["matrices_of_all_pairs"]) or "none"
    line = f"{one['devices']} devices, batch {one['batch']}: each sends {one['sent_bytes'] / 1e6:.4g} MB{ratio}"
    print(f"{line}; matrices of all pairs: {matrices}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(json.dumps(table(**asked)))
    except ValueError as error:
        raise SystemExit(str(error)) from error
