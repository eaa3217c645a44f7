"""Tasks: what stands on the table, how it is reset, when it is done. Pure functions, the same for every engine.

PAPER are the six on which the paper judges a policy; NEAR, to pre-train on, share their scenes and none of their goals; FAR, to
pre-train on as well, share neither.
"""

import dataclasses
import difflib
import functools
from pathlib import Path

from clamp_jax.sim.aloha_sim import assets
from clamp_jax.sim.tasks.banana_in_bowl import BANANA_IN_BOWL
from clamp_jax.sim.tasks.base import HOME_QPOS, Task
from clamp_jax.sim.tasks.block_on_mat import BLOCK_ON_MAT
from clamp_jax.sim.tasks.bowl_on_rack import BOWL_ON_RACK
from clamp_jax.sim.tasks.can_opener_in_caddy import CAN_OPENER_IN_CADDY
from clamp_jax.sim.tasks.drawer_close import DRAWER_CLOSE
from clamp_jax.sim.tasks.drawer_open import DRAWER_OPEN
from clamp_jax.sim.tasks.hand_over_banana import HAND_OVER_BANANA
from clamp_jax.sim.tasks.hand_over_pen import HAND_OVER_PEN
from clamp_jax.sim.tasks.laptop_close import LAPTOP_CLOSE
from clamp_jax.sim.tasks.magnifier_in_caddy import MAGNIFIER_IN_CADDY
from clamp_jax.sim.tasks.marker_remove_lid import MARKER_REMOVE_LID
from clamp_jax.sim.tasks.mug_on_plate import MUG_ON_PLATE
from clamp_jax.sim.tasks.pen_in_container import PEN_IN_CONTAINER
from clamp_jax.sim.tasks.plate_on_rack import PLATE_ON_RACK
from clamp_jax.sim.tasks.push_crate import PUSH_CRATE
from clamp_jax.sim.tasks.scissors_in_caddy import SCISSORS_IN_CADDY
from clamp_jax.sim.tasks.screwdriver_in_caddy import SCREWDRIVER_IN_CADDY
from clamp_jax.sim.tasks.stack_blocks import STACK_BLOCKS

__all__ = ["FAR", "GEOMETRIES", "HOME_QPOS", "NEAR", "PAPER", "TASKS", "Task", "get"]

# What things are made of: our boxes, capsules, spheres and cylinders, or the public simulator's meshes.
GEOMETRIES = ("primitive", "aloha_sim")

_PAPER = (CAN_OPENER_IN_CADDY, SCREWDRIVER_IN_CADDY, PEN_IN_CONTAINER, MUG_ON_PLATE, PLATE_ON_RACK, DRAWER_OPEN)
_NEAR = (MAGNIFIER_IN_CADDY, SCISSORS_IN_CADDY, BANANA_IN_BOWL, BOWL_ON_RACK, DRAWER_CLOSE)
_FAR = (BLOCK_ON_MAT, STACK_BLOCKS, PUSH_CRATE, HAND_OVER_BANANA, HAND_OVER_PEN, LAPTOP_CLOSE, MARKER_REMOVE_LID)
PAPER, NEAR, FAR = (tuple(task.name for task in group) for group in (_PAPER, _NEAR, _FAR))
TASKS: dict[str, Task] = {task.name: task for task in _PAPER + _NEAR + _FAR}


def get(name: str, geometry: str = "primitive") -> Task:
    """The task of that name, in one of GEOMETRIES; ValueError with the nearest name for an unknown one.

    aloha_sim: FileNotFoundError where its models are not named (sim/aloha_sim/assets.py).
    """
    if geometry not in GEOMETRIES:
        raise ValueError(f"geometry is {geometry!r}; expected one of {', '.join(GEOMETRIES)}")
    if name in TASKS:
        return TASKS[name] if geometry == "primitive" else _real(TASKS[name], assets.find())
    near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.0)
    raise ValueError(f"no task is called {name!r}; did you mean {near[0]!r}? There are {', '.join(sorted(TASKS))}")


@functools.cache
def _real(task: Task, folder: Path) -> Task:
    """A task with the public simulator's things; reset and success are the same but for the shapes whose distance is asked for."""
    from clamp_jax.sim.aloha_sim import build, field  # they read meshes: nothing that others wait for

    if not task.things:
        raise ValueError(f"task {task.name!r} has no models in the public simulator; it is there with geometry 'primitive' alone")
    success = functools.partial(task.success, gap=field.gap(folder, *task.pair)) if task.pair else task.success
    return dataclasses.replace(task, build=functools.partial(build.add_objects, folder=folder, names=task.things), success=success)
