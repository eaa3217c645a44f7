"""The parts of the sim benchmark, each run in a process of its own: python -m experiments.benchmark.simulating PART ...; JSON to stdout.

engine TASK BACKEND BATCH REPEATS   control steps of a batch of environments whose arms swing about
cameras TASK REPEATS                one environment and its four cameras of 224 x 224, ours beside MuJoCo's renderer
episodes TASK COUNT                 demonstrations made on one core
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from clamp_jax import runtime
from data_tools.render_cell import choose_gl

if __name__ == "__main__":
    runtime.setup("cpu" if sys.argv[1] != "engine" else None, mjx="mjx" in sys.argv)
    if sys.argv[1] == "cameras":
        choose_gl()

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from clamp_jax import observe
from clamp_jax.geometry import kinematics
from clamp_jax.geometry.aloha import HOME_COMMAND
from clamp_jax.sim import engines, rollout, scene, tasks
from clamp_jax.sim.robot import control
from clamp_jax.structs import CAMERAS, HISTORY
from data_tools import generate
from experiments.benchmark.timing import spread
from experiments.benchmark.turns import turn
from experiments.evaluate import padded_scene

SIZE = 224  # pixels of a camera's side
TICKS = 25  # control steps of a measured call


def swing(batch: int, ticks: int) -> np.ndarray:
    """Actions (b, t, 14) that move both arms about home without touching anything."""
    size = np.random.default_rng(0).uniform(-0.3, 0.3, (batch, 1, 14))
    phase = np.sin(np.linspace(0, np.pi, ticks))[None, :, None]
    return (np.concatenate([HOME_COMMAND, HOME_COMMAND]) + size * phase).astype(np.float32)


def engine(task: str, backend: str, batch: int, repeats: int) -> dict[str, Any]:
    """Control steps/s of a backend at a batch size, and the seconds that its first step took with its compilation."""
    made = engines.make(backend, scene.build(task), tasks.get(task))
    start = rollout.initial_states(tasks.get(task), batch, 0)
    physics, actions = made.start(start.qpos, start.variant), swing(batch, TICKS)
    first = _seconds(lambda: made.run(physics, actions[:, :1]))
    made.run(physics, actions)
    rates = [batch * TICKS / _seconds(lambda: made.run(physics, actions)) for _ in range(repeats)]
    found = {"task": task, "backend": backend, "batch": batch, "first_s": first, **spread("steps_per_s", rates)}
    memory = jax.devices()[0].memory_stats() if backend == "mjx" else None
    return found | {"substeps": scene.build(task).substeps, "device_bytes": (memory or {}).get("peak_bytes_in_use")}


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def cameras(task: str, repeats: int) -> dict[str, Any]:
    """Milliseconds of a control step, of its four RGB-D images and of both, ours and MuJoCo's, in turns."""
    calls = our_calls(task) | mujoco_calls(task)
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(turn(call))
    ratio = [theirs / mine for theirs, mine in zip(times["mujoco_both"], times["our_both"], strict=True)]
    return {name: spread("ms", values) for name, values in times.items()} | {"mujoco_over_ours": spread("ratio", ratio)}


def our_calls(task: str) -> dict[str, Callable[[], Any]]:
    """Native stepping and our sensors."""
    built, start = scene.build(task), rollout.initial_states(tasks.get(task), 1, 0)
    made, (state, capacity) = engines.make("native", built, tasks.get(task)), padded_scene(built)
    config = observe.clean(SIZE)._replace(capacity=capacity)
    sense = rollout.make_sense(state, kinematics.aloha_calibration(SIZE, SIZE), config)
    past, mask = jnp.zeros((1, HISTORY, 14)), jnp.zeros((1, HISTORY), bool)
    keys, physics, action = jax.random.split(jax.random.key(0), 1), made.start(start.qpos, start.variant), swing(1, 3)[:, 1:2]

    def see(qpos: np.ndarray) -> Any:
        return jax.block_until_ready(sense(jnp.asarray(qpos, jnp.float32)[:, None], past, mask, keys, keys))

    return {
        "our_step": lambda: made.run(physics, action),
        "our_cameras": lambda: see(start.qpos),
        "our_both": lambda: see(made.run(physics, action)[1].qpos[:, 0]),
    }


def mujoco_calls(task: str) -> dict[str, Callable[[], Any]]:
    """mujoco.mj_step and mujoco.Renderer."""
    built = scene.build(task)
    model, data = built.model, mujoco.MjData(built.model)
    data.qpos[:] = rollout.initial_states(tasks.get(task), 1, 0).qpos[0]
    data.ctrl[:] = control(swing(1, 3)[0, 1])
    renderer = mujoco.Renderer(model, SIZE, SIZE)

    def see() -> None:
        for name in CAMERAS:
            renderer.disable_depth_rendering()
            renderer.update_scene(data, camera=name)
            renderer.render()
            renderer.enable_depth_rendering()
            renderer.render()

    def both() -> None:
        mujoco.mj_step(model, data, nstep=built.substeps)
        see()

    return {"mujoco_step": lambda: mujoco.mj_step(model, data, nstep=built.substeps), "mujoco_cameras": see, "mujoco_both": both}


def episodes(task: str, count: int) -> dict[str, Any]:
    """Successful demonstrations an hour on one core, of `count` candidates after one that compiles."""
    generate.attempt_episode(task, 0)
    begin = time.perf_counter()
    kept = sum(generate.attempt_episode(task, seed).episode is not None for seed in range(1, count + 1))
    return {"task": task, "candidates": count, "kept": kept, "per_core_hour": kept / (time.perf_counter() - begin) * 3600}


def main() -> None:
    """One part, named by the command line."""
    part, task, *rest = sys.argv[1:]
    if part == "engine":
        found = engine(task, rest[0], int(rest[1]), int(rest[2]))
    else:
        found = {"cameras": cameras, "episodes": episodes}[part](task, int(rest[0]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
