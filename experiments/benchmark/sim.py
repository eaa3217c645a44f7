"""Simulation: steps/s of the engines, what the cameras cost, and how fast demonstrations are made.

Every figure comes from a process of its own, which is ended after a limit: MJX on a CPU can be slow to compile, and may hang.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from clamp_jax.sim import engines, tasks

ROOT = Path(__file__).parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument("--task", default="can_opener_in_caddy")
    parser.add_argument("--engines", nargs="*", default=list(engines.BACKENDS), choices=engines.BACKENDS)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=20, help="candidates whose making is timed; 0 for none")
    parser.add_argument("--limit-s", type=float, default=400, help="of each figure")
    parser.add_argument("--skip-cameras", action="store_true", help="leave MuJoCo's renderer out, which needs OpenGL")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures; one that fails or takes too long is told as its reason. ValueError for an unknown task or numbers out of range."""
    tasks.get(args.task)
    if args.repeats < 1 or min(args.batch) < 1 or args.episodes < 0 or args.limit_s <= 0:
        raise ValueError("give 1 or more repeats and environments, 0 or more episodes, and a limit over 0 s")
    found: dict[str, Any] = {"task": args.task}
    if not args.skip_cameras:
        found["cameras"] = run("cameras", args.task, args.repeats, limit_s=args.limit_s)
        tell("cameras", found["cameras"], "mujoco_over_ours")
    if args.episodes:
        found["episodes"] = run("episodes", args.task, args.episodes, limit_s=args.limit_s)
        tell("episodes", found["episodes"], "per_core_hour")
    found["engines"] = []
    for name in args.engines:
        for batch in args.batch:
            entry = run("engine", args.task, name, batch, args.repeats, limit_s=args.limit_s)
            found["engines"].append({"backend": name, "batch": batch} | entry)
            tell(f"{name} x {batch}", entry, "median_steps_per_s")
    return found


def run(*part: Any, limit_s: float) -> dict[str, Any]:
    """One part of simulating.py: its figures, or {"failed": why}."""
    command = [sys.executable, "-m", "experiments.benchmark.simulating", *map(str, part)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit_s:g} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no reason given"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def tell(what: str, found: dict[str, Any], figure: str) -> None:
    """A line on standard error, so that a long run can be followed."""
    value = found.get("failed") or found[figure]
    print(f"{what}: {value if isinstance(value, str | dict) else round(value)}", file=sys.stderr, flush=True)
