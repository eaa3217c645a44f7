"""Simulation: steps/s of the engines, what the cameras cost, and how fast demonstrations are made.

Every figure comes from a process of its own, which is ended after a limit: MJX on a CPU can be slow to compile, and may hang.
With --device gpu MJX and Warp run on an accelerator, in larger batches; native MuJoCo stays on the processor.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from clamp_jax.sim import engines, scene
from experiments import geometry

ROOT = Path(__file__).parents[2]
BATCHES = {"cpu": [1, 16, 64, 256], "gpu": [1, 16, 64, 256, 1024, 4096]}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument("--task", default="can_opener_in_caddy")
    geometry.add_arguments(parser)
    parser.add_argument("--engines", nargs="*", choices=engines.BACKENDS, help="default: those that are installed")
    parser.add_argument("--batch", type=int, nargs="+", help=f"default: {BATCHES['cpu']}, with --device gpu {BATCHES['gpu']}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=20, help="candidates whose making is timed; 0 for none")
    parser.add_argument("--limit-s", type=float, default=400, help="of each figure")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="of MJX and Warp; gpu: any accelerator")
    parser.add_argument("--cameras-up-to", type=int, default=256, help="batches that are also measured with cameras; 0 for none")
    parser.add_argument("--skip-cameras", action="store_true", help="leave MuJoCo's renderer out, which needs OpenGL")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures; one that fails or takes too long is told as its reason. ValueError for an unknown task or numbers out of range."""
    geometry.choose_assets(args.assets)
    world, batches = (args.task, args.geometry), args.batch or BATCHES[args.device]
    names = args.engines if args.engines is not None else installed(args.geometry)
    found: dict[str, Any] = {"scene": described(*world)}
    if args.repeats < 1 or min(batches) < 1 or min(args.episodes, args.cameras_up_to) < 0 or args.limit_s <= 0:
        raise ValueError("give 1 or more repeats and environments, 0 or more episodes and cameras, and a limit over 0 s")
    if args.device == "gpu":
        found["accelerator"] = accelerator(args.limit_s)
    print(f"scene: {found['scene']}", file=sys.stderr, flush=True)
    if not args.skip_cameras:
        found["cameras"] = run("cameras", *world, args.repeats, limit_s=args.limit_s)
        tell("cameras", found["cameras"], "mujoco_over_ours")
    if args.episodes:
        found["episodes"] = run("episodes", *world, args.episodes, limit_s=args.limit_s)
        tell("episodes", found["episodes"], "per_core_hour")
    found["engines"] = []
    for name in names:
        for batch in batches:
            part = ("engine", *world, name, batch, args.repeats, int(batch <= args.cameras_up_to))
            entry = run(*part, limit_s=args.limit_s, device="cpu" if name == "native" else args.device)
            found["engines"].append({"backend": name, "batch": batch} | entry)
            tell(f"{name} x {batch}", entry, "median_steps_per_s")
    return found


def installed(kind: str) -> list[str]:
    """The engines that can run a geometry here."""
    names = [name for name in engines.BACKENDS if name != "warp" or importlib.util.find_spec("warp")]
    return [name for name in names if name != "mjx" or kind == "primitive"]


def described(task: str, kind: str) -> dict[str, Any]:
    """What the figures are of: the scene's size."""
    built = scene.build(task, kind)
    model = built.model
    touching = int(np.sum((model.geom_contype | model.geom_conaffinity) != 0))
    sizes = {"bodies": model.nbody, "degrees_of_freedom": model.nv, "shapes": model.ngeom}
    sizes |= {"triangles": int(model.mesh_facenum[model.geom_dataid[model.geom_dataid >= 0]].sum())} if model.nmesh else {}
    return {"task": task, "geometry": kind, **sizes, "shapes_seen": int(np.sum(model.geom_group <= 2)), "shapes_that_touch": touching}


def accelerator(limit_s: float) -> dict[str, Any]:
    """Its kind; ValueError where jax finds none. Asked in a process of its own: this one must not take the device's memory."""
    found = run("device", limit_s=limit_s, device="gpu")
    if found.get("platform", "cpu") == "cpu":
        reason = f" ({found['failed']})" if "failed" in found else ""
        raise ValueError(f"--device gpu found no accelerator{reason}; install the [cuda] or [tpu] extra on a machine that has one")
    return found


def run(*part: Any, limit_s: float, device: str = "cpu") -> dict[str, Any]:
    """One part of simulating.py on a kind of device: its figures, or {"failed": why}."""
    command = [sys.executable, "-m", "experiments.benchmark.simulating", *map(str, part)]
    with tempfile.TemporaryDirectory() as folder:  # Warp's kernels are compiled afresh, as jax's programs are
        environ = os.environ | {"WARP_CACHE_PATH": folder}
        if device == "cpu":
            environ["JAX_PLATFORMS"] = "cpu"
        elif environ.get("JAX_PLATFORMS") == "cpu":  # --device asks for more than the environment allows
            del environ["JAX_PLATFORMS"]
        try:
            done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=limit_s)
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {limit_s:g} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no reason given"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def tell(what: str, found: dict[str, Any], figure: str) -> None:
    """A line on standard error, so that a long run can be followed."""
    value = found.get("failed") or found[figure]
    print(f"{what}: {value if isinstance(value, str | dict) else round(value)}", file=sys.stderr, flush=True)
