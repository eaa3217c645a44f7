"""A thing on the right goes into a container on the left, from one arm to the other. Reset and success are the public simulator's."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int, Key

from clamp_jax.sim.objects.dishes import add_banana, add_dish, add_pen
from clamp_jax.sim.tasks import dining
from clamp_jax.sim.tasks.base import HOME_QPOS, Task
from clamp_jax.sim.tasks.placing import free_pose, standing, still

CONTAINER_QPOS, THING_QPOS, CONTAINER_QVEL, THING_QVEL = 16, 23, 16, 22
# Of the thing, then of the container: x, y (m), yaw. Ours: the container's y and both yaws, which are not published.
LOW = np.float32([(0.12, -0.1, -np.pi), (-0.18, -0.1, -np.pi)])
HIGH = np.float32([(0.18, 0.1, np.pi), (-0.12, 0.1, np.pi)])
_ADD = {"banana": add_banana, "pen": add_pen}
CONTAINERS = {"banana": "bowl", "pen": "cup"}
_BOXES = {"banana": dining.IN_BOWL, "pen": dining.IN_CUP}


def build(spec: mujoco.MjSpec, *, thing: str) -> None:
    """Container and thing; qpos after the robot: 7 of each."""
    add_dish(spec, CONTAINERS[thing])
    _ADD[thing](spec)


def reset(key: Key[Array, ""], *, thing: str) -> tuple[Float[Array, " q"], Int[Array, ""]]:
    """The thing on the right, its container on the left; qpos (30,) and variant 0."""
    one, two = jnp.asarray(LOW) + jax.random.uniform(key, (2, 3)) * jnp.asarray(HIGH - LOW)
    things = standing(two[:2], 0.0, two[2]), standing(one[:2], dining.HEIGHTS[thing], one[2])
    return jnp.concatenate([jnp.asarray(HOME_QPOS), *things]), jnp.int32(0)


def success(qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""], *, thing: str) -> Bool[Array, ""]:
    """The thing is in the container's boxes, and neither moves."""
    del variant
    container, held = (free_pose(qpos, start) for start in (CONTAINER_QPOS, THING_QPOS))
    inside = dining.in_boxes(container, held, dining.HALVES[thing], _BOXES[thing])
    return inside & still(qvel, CONTAINER_QVEL, THING_QVEL)


def task(thing: str) -> Task:
    """The task of a banana and a bowl or of a pen and a cup."""
    container = CONTAINERS[thing]
    return Task(
        name=f"hand_over_{thing}",
        objects=((thing, thing), (container, container)),
        instructions=(f"hand over the {thing} and put it in the {container}",),
        horizon_s=30.0,
        build=functools.partial(build, thing=thing),
        reset=functools.partial(reset, thing=thing),
        success=functools.partial(success, thing=thing),
        things=(container, thing),
        contact_slots=24,
    )
