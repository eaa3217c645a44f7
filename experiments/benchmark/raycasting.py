"""The ray caster beside MuJoCo's own renderer, on the same primitives, and beside the splats of the points it makes.

A process of its own, because MuJoCo takes its OpenGL when it is imported: python -m experiments.benchmark.raycasting REPEATS
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from clamp_jax import runtime
from data_tools.render_cell import choose_gl

if __name__ == "__main__":
    runtime.setup("cpu", mjx=False)
    choose_gl()

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from clamp_jax import observe
from clamp_jax.data.transforms import count_geoms
from clamp_jax.geometry import kinematics
from clamp_jax.render.raycast import raycast
from clamp_jax.sim import scene as scenes
from clamp_jax.structs import CAMERAS
from experiments.benchmark import scene, splat_jax
from experiments.benchmark.timing import repeat, spread
from experiments.benchmark.turns import turn

SIZE = 224


def measure(repeats: int) -> dict[str, Any]:
    """Four 224 x 224 RGB-D cameras of the tools scene: ours, MuJoCo's, the five splats of as many points; all in turns.

    The depths of both are compared; MuJoCo draws curved shapes as polygons, by its default of 28 slices.
    """
    ours, depth_m = our_call()
    theirs, expected = mujoco_call()
    error = np.abs(np.asarray(depth_m()) - expected())
    splats = splat_jax.make(scene.make(4 * SIZE * SIZE, 1, 0), splat_jax.FORMS[0])
    calls = {"ours": ours, "mujoco": theirs, "five_splats": splats}
    first = {name: repeat(call, 1)["first_ms"] for name, call in calls.items()}
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(turn(call))
    found = {name: {"first_ms": first[name], **spread("ms", values)} for name, values in times.items()}
    found["within_1mm"] = float((error < 1e-3).mean())
    found["mujoco_over_ours"] = spread("ratio", [a / b for a, b in zip(times["mujoco"], times["ours"], strict=True)])
    found["ours_over_five_splats"] = spread("ratio", [a / b for a, b in zip(times["ours"], times["five_splats"], strict=True)])
    found["renderer"] = "MuJoCo's OpenGL, " + gl_name()
    return found


def our_call() -> tuple[Callable, Callable]:
    """A call that casts RGB and depth of all cameras, and one that gives the depth (k, h, w) m."""
    state, _ = scene.state()
    capacity = count_geoms(scenes.build(scene.TASK).geom_types)
    calibration = kinematics.aloha_calibration(SIZE, SIZE)

    def cast(state):
        cameras = kinematics.camera_poses(calibration, kinematics.joints_from_qpos(state.qpos))
        return raycast(observe.geom_poses(state), state.geoms, cameras, height=SIZE, width=SIZE, capacity=capacity, far=observe.SIGHT_M)

    cast, state = jax.jit(cast), jax.tree.map(jnp.asarray, state)
    return lambda: jax.block_until_ready(cast(state)[:2]), lambda: cast(state)[1]


def mujoco_call() -> tuple[Callable, Callable]:
    """The same with mujoco.Renderer: a call for RGB and depth of the cameras, and one that gives the depth."""
    _, qpos = scene.state()
    model = scenes.build(scene.TASK).model
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_forward(model, data)
    renderer = mujoco.Renderer(model, SIZE, SIZE)

    def draw():
        images = []
        for name in CAMERAS:
            renderer.disable_depth_rendering()
            renderer.update_scene(data, camera=name)
            rgb = renderer.render()
            renderer.enable_depth_rendering()
            renderer.update_scene(data, camera=name)
            images.append((rgb, renderer.render()))
        return images

    def depth_m():
        depth = np.stack([image[1] for image in draw()])
        return np.where(depth < observe.SIGHT_M, depth, 0)

    return draw, depth_m


def gl_name() -> str:
    """What draws: the name that OpenGL gives itself."""
    try:
        from OpenGL import GL

        return GL.glGetString(GL.GL_RENDERER).decode()
    except Exception:  # only a name
        return "renderer unknown"


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
