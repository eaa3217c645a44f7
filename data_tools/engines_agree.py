"""Whether the engines agree: the same commands from the same states, native MuJoCo beside MJX or Warp.

    python -m data_tools.engines_agree --tasks all --episodes 100 --batch 50 --engine mjx --json runs/agree.json

Experts' episodes are replayed open loop in both. Told of each task: in how many episodes success is the same, and how far
apart the things' positions are over the first control steps, until a finger touches one of them: from then on a grasp is a
matter of rounding. The JSON is written after each task, and a run that was stopped goes on from it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup(mjx=True)

import jax
import mujoco
import numpy as np

from clamp_jax.metrics import wilson
from clamp_jax.sim import engines, experts, scene, tasks
from clamp_jax.sim.engines.base import Trace
from data_tools import generate
from data_tools.task_rates import expert
from experiments.stages import write_json

COMPARED = 100  # control steps over which positions are compared
ROOT = Path(__file__).parents[1]


class Replay(NamedTuple):
    """An expert's episode to be replayed."""

    seed: int
    qpos: np.ndarray  # (q,)
    variant: int
    actions: np.ndarray  # (t, 14) rad, gripper 0..1


def plans(name: str, count: int) -> list[Replay]:
    """The first `count` seeds' episodes for which the expert has a plan; ValueError where half of the seeds have none."""
    task, built = tasks.get(name), scene.build(name)
    reset, found = jax.jit(task.reset), []
    for seed in range(2 * count):
        qpos, variant = (np.asarray(value) for value in reset(jax.random.key(seed)))
        try:
            found.append(Replay(seed, qpos, int(variant), expert(task, built, qpos, int(variant), seed)))
        except (experts.PlanError, experts.IKError):
            continue
        if len(found) == count:
            return found
    raise ValueError(f"the expert of {name!r} has {len(found)} plans on {2 * count} seeds; {count} were asked for")


def batches(episodes: Sequence[Replay], size: int) -> Iterator[list[Replay]]:
    """Groups of at most `size`, of like lengths, so that little is padded."""
    ordered = sorted(episodes, key=lambda episode: len(episode.actions))
    for begin in range(0, len(ordered), size):
        yield ordered[begin : begin + size]


def replay(engine: Any, group: Sequence[Replay], size: int) -> Trace:
    """The group's traces, numpy. Each episode holds its last command to the longest's end; the batch is filled up to `size`
    with the first episode again, so that an engine compiles for one size."""
    filled = [*group, *[group[0]] * (size - len(group))]
    longest = max(len(episode.actions) for episode in group)
    actions = [np.concatenate([one.actions, np.repeat(one.actions[-1:], longest - len(one.actions), axis=0)]) for one in filled]
    start = engine.start(np.stack([one.qpos for one in filled]), np.array([one.variant for one in filled]))
    _, trace = engine.run(start, np.stack(actions))
    return Trace(*(np.asarray(field)[: len(group)] for field in trace))


def things(model: mujoco.MjModel) -> np.ndarray:
    """Which bodies are the task's things (n,) bool: neither the world nor of an arm."""
    names = [model.body(i).name for i in range(model.nbody)]
    return np.array([i > 0 and not name.startswith(("left/", "right/")) for i, name in enumerate(names)])


def first_touch(model: mujoco.MjModel, qpos: np.ndarray) -> int:
    """The first of the states (t, q) in which an arm touches a thing; t where none does."""
    data, thing = mujoco.MjData(model), things(model)
    for tick, row in enumerate(qpos):
        data.qpos[:] = row
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_collision(model, data)
        bodies = model.geom_bodyid[data.contact.geom]
        if np.any((bodies > 0).all(axis=1) & (thing[bodies].sum(axis=1) == 1)):
            return tick
    return len(qpos)


def apart_m(model: mujoco.MjModel, ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest distance between positions of one thing in two runs of states (t, q), m; 0 of no states."""
    chosen = things(model)
    gaps = [np.linalg.norm(_positions(model, a) - _positions(model, b), axis=1)[chosen].max() for a, b in zip(ours, theirs, strict=True)]
    return float(max(gaps, default=0.0))


def _positions(model: mujoco.MjModel, qpos: np.ndarray) -> np.ndarray:
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    return data.xpos


def compared(model: mujoco.MjModel, group: Sequence[Replay], native: Trace, other: Trace) -> list[dict[str, Any]]:
    """Of each episode: seed, success in both engines, control steps compared, and how far things are apart, m."""
    rows = []
    for i, episode in enumerate(group):
        until = first_touch(model, native.qpos[i, :COMPARED])
        gap = apart_m(model, native.qpos[i, :until], other.qpos[i, :until])
        success = {"native": bool(native.success[i].any()), "other": bool(other.success[i].any())}
        rows.append({"seed": episode.seed, **success, "control_steps": until, "apart_m": gap})
    return rows


def measure(name: str, engine: str, episodes: int, batch: int) -> dict[str, Any]:
    """The figures of a task; what differs is told by seed."""
    begin, built, task = time.monotonic(), scene.build(name), tasks.get(name)
    found, rows, size = plans(name, episodes), [], min(batch, episodes)
    native, other = engines.make("native", built, task), engines.make(engine, built, task)
    for group in batches(found, size):
        rows += compared(built.model, group, replay(native, group, size), replay(other, group, size))
        print(f"{name}: {len(rows)} of {episodes} episodes, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return summary(rows) | {"last_seed": found[-1].seed, "seconds": round(time.monotonic() - begin)}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the episodes of a task."""
    same = sum(row["native"] == row["other"] for row in rows)
    low, high = wilson(same, len(rows))
    return {
        "episodes": len(rows),
        "same_success": same,
        "low": low,
        "high": high,
        "native_successes": sum(row["native"] for row in rows),
        "other_successes": sum(row["other"] for row in rows),
        "apart_m": max(row["apart_m"] for row in rows),
        "apart_median_m": float(np.median([row["apart_m"] for row in rows])),
        "fewest_control_steps": min(row["control_steps"] for row in rows),
        "differ": [{key: row[key] for key in ("seed", "native", "other")} for row in rows if row["native"] != row["other"]],
    }


def told(name: str, entry: dict[str, Any]) -> str:
    """A line for a reader."""
    if "failed" in entry:
        return f"{name}: {entry['failed']}"
    share = f"same success {entry['same_success']}/{entry['episodes']} [{entry['low']:.3f}, {entry['high']:.3f}]"
    return f"{name}: {share}, native {entry['native_successes']}, other {entry['other_successes']}, apart {1e3 * entry['apart_m']:.2f} mm"


def begun(path: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """What an earlier run has left at path; ValueError where that was another run or is no JSON."""
    if path is None or not path.exists():
        return settings | {"tasks": {}}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); give another --json") from error
    if not isinstance(found, dict) or {key: found.get(key) for key in settings} != settings or "tasks" not in found:
        raise ValueError(f"{path} was made with other settings than {settings}; give another --json")
    return found


def apart_process(name: str, settings: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """measure() in a process of its own, ended after a limit: MJX on a CPU may hang."""
    command = [sys.executable, "-m", "data_tools.engines_agree", "--one", name]
    for key, value in settings.items():
        command += [f"--{key}", str(value)]
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit_s:g} s"}
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": f"ended with {done.returncode}"}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m data_tools.engines_agree", description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", default="all", help=f"sets ({', '.join(generate.SETS)}) or names, by commas")
    parser.add_argument("--episodes", type=int, default=100, help="of each task")
    parser.add_argument("--batch", type=int, default=50, help="episodes that are stepped at once")
    parser.add_argument("--engine", choices=("mjx", "warp"), default="mjx", help="beside native")
    parser.add_argument("--limit-s", type=float, default=7200, help="of each task")
    parser.add_argument("--json", type=Path, help="where the figures go; taken up again where it exists")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a task, measured in this process
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Each task in turn."""
    args = parse(argv)
    settings = {"engine": args.engine, "episodes": args.episodes, "batch": args.batch}
    try:
        if min(args.episodes, args.batch) < 1 or args.limit_s <= 0:
            raise ValueError("give 1 or more episodes and a batch of 1 or more, and a limit over 0 s")
        if args.one:
            print(json.dumps(measure(args.one, **settings)))
            return 0
        names, found = generate.named(args.tasks), begun(args.json, settings)
    except (ValueError, ImportError, engines.base.OverflowedError) as error:
        print(f"engines_agree: {error}", file=sys.stderr)
        return 1
    for name in names:
        if "failed" in found["tasks"].get(name, {"failed": "not yet"}):
            found["tasks"][name] = apart_process(name, settings, args.limit_s)
            if args.json:
                write_json(args.json, found)
        print(told(name, found["tasks"][name]), flush=True)
    return int(any("failed" in found["tasks"][name] for name in names))


if __name__ == "__main__":
    raise SystemExit(main())
