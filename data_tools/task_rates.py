"""How often each task is done: by its expert, by holding still, by random actions, and by an expert whose fingers have no force.

    python -m data_tools.task_rates --tasks all --seeds 200 --json runs/tasks.json

What holds still or thrashes about should never succeed, nor should limp fingers where a task needs a grasp.
"""

import argparse
import copy
import functools
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from clamp_jax import runtime

if __name__ == "__main__":
    runtime.setup("cpu", mjx=False)

import jax
import numpy as np

from clamp_jax.geometry import aloha
from clamp_jax.metrics import wilson
from clamp_jax.sim import experts, randomise, scene, tasks
from clamp_jax.sim.engines import native
from clamp_jax.structs import CONTROL_HZ
from data_tools import generate
from experiments import geometry, stages

NO_GRASP = ("drawer_close", "laptop_close", "push_crate")  # done by pushing: limp fingers may do them too
RUN_ON = 25  # ticks of holding still after an expert's last command
HOLD_S = 5.0
HOLD = np.tile(aloha.HOME_COMMAND, 2)


def expert(task: tasks.Task, built: scene.Scene, qpos0: np.ndarray, variant: int, seed: int) -> np.ndarray:
    """The expert's commands (t, 14); raises PlanError or IKError where it has none."""
    actions = experts.plan(task, built, qpos0, variant, seed)
    return np.concatenate([actions, np.repeat(actions[-1:], RUN_ON, axis=0)])


def hold_still(task: tasks.Task, built: scene.Scene, qpos0: np.ndarray, variant: int, seed: int) -> np.ndarray:
    """The home command for HOLD_S; after that all is at rest."""
    del task, built, qpos0, variant, seed
    return np.tile(HOLD, (round(HOLD_S * CONTROL_HZ), 1)).astype(np.float32)


def random_actions(task: tasks.Task, built: scene.Scene, qpos0: np.ndarray, variant: int, seed: int) -> np.ndarray:
    """Uniform over the working range, a new command each tick of a whole episode."""
    del built, qpos0, variant
    rng = np.random.default_rng(seed)
    return rng.uniform(*aloha.WORKING_RANGE.T, (round(task.horizon_s * CONTROL_HZ), 14)).astype(np.float32)


BEHAVIOURS: dict[str, Callable[..., np.ndarray]] = {
    "expert": expert,
    "hold_still": hold_still,
    "random": random_actions,
    "limp": expert,
}


def attempt(name: str, behaviour: str, seed: int, variety: randomise.Variety = generate.NOMINAL) -> bool:
    """Whether a task is done from the reset of a seed, in the physics that variety and seed make; no plan is no success."""
    task = tasks.get(name, variety.geometry)
    qpos0, variant = (np.asarray(value) for value in _reset(task)(jax.random.key(seed)))
    try:
        actions = BEHAVIOURS[behaviour](task, scene.build(name, variety.geometry), qpos0, int(variant), seed)
    except (experts.PlanError, experts.IKError):
        return False
    built, qpos0 = randomise.candidate(name, qpos0, variety, seed)
    engine = _engine(name, variety.geometry).in_scene(without_grip(built) if behaviour == "limp" else built)
    _, trace = engine.run(engine.start(qpos0[None], variant[None]), actions[None])
    return bool(trace.success.any())


@functools.cache
def _reset(task: tasks.Task) -> Callable:
    return jax.jit(task.reset)


@functools.cache
def _engine(name: str, kind: str) -> native.Engine:
    return native.Engine(scene.build(name, kind), tasks.get(name, kind), threads=1)


def without_grip(built: scene.Scene) -> scene.Scene:
    """A scene whose grippers have no force."""
    model = copy.deepcopy(built.model)
    for side in aloha.SIDES:
        gripper = model.actuator(f"{side}/gripper").id
        model.actuator_gainprm[gripper], model.actuator_biasprm[gripper] = 0.0, 0.0
    return built._replace(model=model)


def rates(name: str, behaviours: dict[str, int], pool: ProcessPoolExecutor, variety: randomise.Variety) -> dict[str, Any]:
    """Successes of behaviours on so many seeds each, 0 and up: {behaviour: {successes, trials, low, high}}."""
    found = {}
    for behaviour, trials in behaviours.items():
        if trials and not (behaviour == "limp" and name in NO_GRASP):
            done = sum(pool.map(functools.partial(attempt, name, behaviour, variety=variety), range(trials), chunksize=4))
            low, high = wilson(done, trials)
            found[behaviour] = {"successes": done, "trials": trials, "low": low, "high": high}
    return found


def told(behaviour: str, entry: dict[str, Any]) -> str:
    """One figure for a reader."""
    return f"{behaviour} {entry['successes']}/{entry['trials']} [{entry['low']:.3f}, {entry['high']:.3f}]"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", default="all", help=f"sets ({', '.join(generate.SETS)}) or names, by commas")
    parser.add_argument("--seeds", type=int, default=200, help="resets of a task")
    parser.add_argument("--limp-seeds", type=int, default=50, help="of them with limp fingers; 0 for none")
    parser.add_argument("--behaviours", nargs="+", choices=tuple(BEHAVIOURS), default=tuple(BEHAVIOURS), help="which to count")
    parser.add_argument("--physics", choices=tuple(randomise.PHYSICS), default="nominal", help="random: as data are generated")
    geometry.add_arguments(parser)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="where the numbers go")
    args = parser.parse_args()
    if args.seeds < 1 or args.limp_seeds < 0 or args.workers < 1:
        parser.error("give 1 or more seeds and workers, and 0 or more limp seeds")
    try:
        geometry.choose_assets(args.assets)
        names, variety = generate.named(args.tasks, args.geometry), randomise.variety(args.physics, geometry=args.geometry)
    except (ValueError, OSError) as error:
        sys.exit(f"task_rates: {error}")
    counts = {behaviour: args.limp_seeds if behaviour == "limp" else args.seeds for behaviour in args.behaviours}
    found = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, mp_context=context, initializer=generate.begin_worker) as pool:
        for name in names:
            found[name] = rates(name, counts, pool, variety)
            print(f"{name}: {', '.join(told(*each) for each in found[name].items())}", flush=True)
            if args.json:  # after each task: it is a long run
                stages.write_json(args.json, found)


if __name__ == "__main__":
    main()
