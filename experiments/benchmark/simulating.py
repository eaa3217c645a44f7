"""The parts of the sim benchmark, each run in a process of its own: python -m experiments.benchmark.simulating PART ...; JSON to stdout.

device                              what jax runs on
engine WORLD BACKEND BATCH REPEATS SENSORS   control steps of a batch of environments whose arms swing about; SENSORS 1: cameras too
cameras WORLD REPEATS               one environment and its four cameras of 224 x 224, ours beside MuJoCo's renderer
episodes WORLD COUNT                demonstrations made on one core

WORLD is a task and a geometry, e.g. drawer_open primitive.
"""

import functools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from clamp_jax import runtime
from data_tools.render_cell import choose_gl

if __name__ == "__main__":
    jitted = "mjx" in sys.argv or "warp" in sys.argv
    runtime.setup(None if jitted or sys.argv[1] == "device" else "cpu", mjx=jitted)
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what compiling costs is one of the figures
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
TICKS = 25  # control steps of a measured call, fewer where they take longer than CALL_S
CALL_S = 3.0
DRAWN = 16  # different initial states; a larger batch has each several times


def swing(batch: int, ticks: int) -> np.ndarray:
    """Actions (b, t, 14) that move both arms about home without touching anything."""
    size = np.random.default_rng(0).uniform(-0.3, 0.3, (batch, 1, 14))
    phase = np.sin(np.linspace(0, np.pi, TICKS))[None, :ticks, None]
    return (np.concatenate([HOME_COMMAND, HOME_COMMAND]) + size * phase).astype(np.float32)


class World(NamedTuple):
    """Which task, and what it is made of."""

    name: str
    geometry: str

    @property
    def task(self) -> tasks.Task:
        return tasks.get(*self)

    @property
    def scene(self) -> scene.Scene:
        return scene.build(*self)


def engine(world: World, backend: str, batch: int, repeats: int, sensors: bool) -> dict[str, Any]:
    """Control steps/s of a backend at a batch size, alone and with four cameras, compile seconds and the most memory held.

    compile_s: a first control step beyond what the next one takes. host_bytes: of the whole process, libraries and compiler
    included, before the cameras are made; device_bytes: of an accelerator, None without one.
    """
    built, (qpos, variant) = world.scene, first_states(world, batch)
    made = engines.make(backend, built, world.task)
    physics, actions = made.start(qpos, variant), swing(batch, TICKS)
    first, again = (_seconds(lambda: made.run(physics, actions[:, :1])) for _ in range(2))
    ticks = max(1, min(TICKS, int(CALL_S / again)))
    calls = {"steps": lambda: made.run(physics, actions[:, :ticks])}
    calls["steps"]()
    found = {"task": world.name, "backend": backend, "batch": batch, "compile_s": first - again, "ticks": ticks, **_memory()}
    if sensors:
        see = our_cameras(built, batch)
        calls |= {"cameras": lambda: see(qpos), "both": lambda: see(made.run(physics, actions[:, :1])[1].qpos[:, 0])}
        see(qpos)
    return found | _rates(calls, batch, ticks, repeats)


def _rates(calls: dict[str, Callable[[], Any]], batch: int, ticks: int, repeats: int) -> dict[str, float]:
    """Calls in turns, as rates; the cameras' as milliseconds of one environment's four."""
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(_seconds(call))
    found = spread("steps_per_s", [batch * ticks / each for each in times["steps"]])
    if "both" in times:
        found |= spread("cameras_ms", [1e3 * each / batch for each in times["cameras"]])
        found |= spread("with_cameras_per_s", [batch / each for each in times["both"]])
    return found


def _memory() -> dict[str, int | None]:
    stats = jax.devices()[0].memory_stats() or {}
    return {"host_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "device_bytes": stats.get("peak_bytes_in_use")}


def first_states(world: World, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Resets (b, q) and variants (b,); drawing thousands one by one would take minutes."""
    drawn = jax.jit(jax.vmap(world.task.reset))(jax.random.split(jax.random.key(0), DRAWN))
    rows = np.arange(batch) % DRAWN
    return np.asarray(drawn[0])[rows], np.asarray(drawn[1])[rows]


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def cameras(world: World, repeats: int) -> dict[str, Any]:
    """Milliseconds of a control step, of its four RGB-D images and of both, ours and MuJoCo's, in turns."""
    calls = our_calls(world) | mujoco_calls(world)
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(turn(call))
    ratio = [theirs / mine for theirs, mine in zip(times["mujoco_both"], times["our_both"], strict=True)]
    return {name: spread("ms", values) for name, values in times.items()} | {"mujoco_over_ours": spread("ratio", ratio)}


def our_cameras(built: scene.Scene, batch: int) -> Callable[[Any], Any]:
    """qpos (b, q) -> observations with four RGB-D images of SIZE x SIZE, waited for."""
    state, capacity = padded_scene(built)
    sense = rollout.make_sense(state, kinematics.aloha_calibration(SIZE, SIZE), observe.clean(SIZE)._replace(capacity=capacity))
    past, mask = jnp.zeros((batch, HISTORY, 14)), jnp.zeros((batch, HISTORY), bool)
    keys = jax.random.split(jax.random.key(0), batch)
    return lambda qpos: jax.block_until_ready(sense(jnp.asarray(qpos, jnp.float32)[:, None], past, mask, keys, keys))


def our_calls(world: World) -> dict[str, Callable[[], Any]]:
    """Native stepping and our sensors."""
    built, (qpos, variant) = world.scene, first_states(world, 1)
    made, see = engines.make("native", built, world.task), our_cameras(built, 1)
    physics, action = made.start(qpos, variant), swing(1, TICKS)[:, TICKS // 2 :][:, :1]
    return {
        "our_step": lambda: made.run(physics, action),
        "our_cameras": lambda: see(qpos),
        "our_both": lambda: see(made.run(physics, action)[1].qpos[:, 0]),
    }


def mujoco_calls(world: World) -> dict[str, Callable[[], Any]]:
    """mujoco.mj_step and mujoco.Renderer."""
    built = world.scene
    model, data = built.model, mujoco.MjData(built.model)
    data.qpos[:] = first_states(world, 1)[0][0]
    data.ctrl[:] = control(swing(1, TICKS)[0, TICKS // 2])
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


def episodes(world: World, count: int) -> dict[str, Any]:
    """Successful demonstrations an hour on one core, of `count` candidates after one that compiles."""
    attempt = functools.partial(generate.attempt_episode, world.name, variety=generate.NOMINAL._replace(geometry=world.geometry))
    attempt(0)
    begin = time.perf_counter()
    kept = sum(attempt(seed).episode is not None for seed in range(1, count + 1))
    return {"task": world.name, "candidates": count, "kept": kept, "per_core_hour": kept / (time.perf_counter() - begin) * 3600}


def device() -> dict[str, Any]:
    """The kind of device that an engine gets."""
    return {"platform": jax.default_backend(), "kind": jax.devices()[0].device_kind}


def main() -> None:
    """One part, named by the command line."""
    part, *rest = sys.argv[1:]
    if part == "device":
        found = device()
    elif part == "engine":
        name, kind, backend, *numbers = rest
        found = engine(World(name, kind), backend, *map(int, numbers))
    else:
        name, kind, number = rest
        found = {"cameras": cameras, "episodes": episodes}[part](World(name, kind), int(number))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
