"""Time the parts that decide how fast this runs.

    python -m experiments.benchmark step --preset demo --batch 32 --json out.json
    python -m experiments.benchmark sensors --size 64 --batch 32 --json out.json
    python -m experiments.benchmark render --json out.json
    python -m experiments.benchmark loss --batch 4096 --devices 8 --json out.json
    python -m experiments.benchmark sim --task can_opener_in_caddy --json out.json
    python -m experiments.benchmark sim --device gpu --json out.json
    python -m experiments.benchmark model --json out.json
    python -m experiments.benchmark model --presets B/16 --dtype bfloat16 --batch 64 --ratio-to-stored --profile runs/trace
    python -m experiments.benchmark model --fit --json out.json
    python -m experiments.benchmark input --json out.json
    python -m experiments.benchmark scaling --json out.json
    python -m experiments.benchmark serve --artifact demo=runs/demo/artifact --json out.json
    python -m experiments.benchmark control --seconds 600 --json out.json
    python -m experiments.benchmark artifact --preset paper --batches 1 --json out.json
    python -m experiments.benchmark bus --seconds 60 --json out.json
    python -m experiments.benchmark model --agree-steps 200 --data runs/data/drawer_open --batch 16 --json out.json

`model` is what the networks cost: of each preset parameters, FLOPs a sample by XLA's count and by hand, memory by the compiler, and
time of sensing and rendering, of the forward pass and of a training step of stage (i), on made-up records. --fit says what batch fits
which memory, --agree-steps how far bfloat16's losses go from float32's. Figures of a CPU's compiler are not an accelerator's.

`input` is what feeding costs: samples/s of state and of image records by the number of threads, decoding included, beside a plain
reader; the forms in which images may be kept; and the share of its time that a training loop waits for data.

Every figure is told with minimum, median and maximum of its repeats, the compilation apart.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup(mjx=False)

import jax

from experiments import report, stages
from experiments.benchmark import bus, exporting, feeding, model, pairs, realtime, render, scaling, serving, sim, step


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark", description="Speed, each figure with its spread.")
    parts = parser.add_subparsers(dest="what", required=True)
    one = parts.add_parser("step", help="a step of stage (i) of the CLAMP variant, on all devices there are")
    one.add_argument("--preset", default="demo", help="of experiments/configs/pretrain.py")
    two = parts.add_parser("sensors", help="RGB-D of the four cameras of a batch of scenes")
    two.add_argument("--size", type=int, default=64, help="pixels of a camera's side")
    for part in (one, two):
        part.add_argument("--batch", type=int, default=32)
        part.add_argument("--repeats", type=int, default=10)
    render.add_arguments(parts.add_parser("render", help="splatting beside its peers, and the ray caster beside MuJoCo's renderer"))
    pairs.add_arguments(parts.add_parser("loss", help="the sigmoid loss round the ring beside the plain one: memory and time"))
    sim.add_arguments(parts.add_parser("sim", help="engines, cameras and the making of demonstrations"))
    model.add_arguments(parts.add_parser("model", help="parameters, FLOPs, memory and time of the networks"))
    feeding.add_arguments(parts.add_parser("input", help="samples/s of records, decoding included, and how long training waits for them"))
    scaling.add_arguments(parts.add_parser("scaling", help="what devices send each other in a step, beside the least; nothing is run"))
    serving.add_arguments(parts.add_parser("serve", help="latency of the policy server by clients, and its ratio to a plain loop"))
    realtime.add_arguments(parts.add_parser("control", help="the control loop at 50 Hz beside its server: missed deadlines and jitter"))
    exporting.add_arguments(parts.add_parser("artifact", help="an artifact's files, time and memory to write, load and call, by preset"))
    bus.add_arguments(parts.add_parser("bus", help="commands to and readings from both arms at 50 Hz over emulated buses"))
    for part in parts.choices.values():
        part.add_argument("--json", type=Path, help="where the figures go")
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of one part."""
    if args.what == "step":
        return step.time_step(args.preset, args.batch, args.repeats)
    if args.what == "sensors":
        return step.time_sensors(args.size, args.batch, args.repeats)
    parts = {"render": render, "loss": pairs, "sim": sim, "model": model, "input": feeding, "scaling": scaling}
    parts |= {"serve": serving, "control": realtime, "artifact": exporting, "bus": bus}
    return parts[args.what].measure(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    args = parse(argv)
    try:
        found = measure(args)
    except (ValueError, OSError, render.BenchmarkError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    found = {"what": args.what} | found | {"device": str(jax.devices()[0]), "devices": jax.device_count(), "versions": report.versions()}
    print(json.dumps(found, indent=1))
    if args.json:
        stages.write_json(args.json, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
