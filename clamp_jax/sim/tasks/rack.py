"""A dish on a drying rack. Reset and success are the public simulator's."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int, Key

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.geometry.transforms import compose, invert, pose, transform
from clamp_jax.sim.distance import TOUCHING_M, Gap, between_segments
from clamp_jax.sim.objects.dishes import DISHES, RING_RADIUS, add_dish, rings
from clamp_jax.sim.objects.rack import HALF, add_rack, bars
from clamp_jax.sim.robot import CONTAINER
from clamp_jax.sim.tasks.base import AT_REST, HOME_QPOS, Task
from clamp_jax.sim.tasks.placing import first_apart, free_pose, standing, still

RACK_QPOS, DISH_QPOS, RACK_QVEL, DISH_QVEL = 16, 19, 16, 19
RACK_LOW, RACK_HIGH = np.float32([-0.1, 0.18, np.radians(-93.6)]), np.float32([0.1, 0.25, np.radians(-86.4)])  # x, y (m), yaw
DISH_LOW, DISH_HIGH = np.float32([0.0, -0.2, -np.pi]), np.float32([0.25, 0.0, np.pi])
RAISED_M = 0.02  # the dish's frame stands at least so high over the rack's


def build(spec: mujoco.MjSpec, *, dish: str) -> None:
    """Rack and dish; qpos after the robot: the rack's x, y and yaw, then 7 of the dish."""
    add_rack(spec)
    add_dish(spec, dish, meets=CONTAINER, ringed=True)


def reset(key: Key[Array, ""], *, dish: str) -> tuple[Float[Array, " q"], Int[Array, ""]]:
    """The rack at the back, the dish before it on the right; qpos (26,) and variant 0."""
    return first_apart(_draw, functools.partial(_apart, radius=DISHES[dish].rim), key), jnp.int32(0)


def _draw(key: Key[Array, ""]) -> Float[Array, " q"]:
    numbers = jax.random.uniform(key, (6,))
    rack, dish = (
        jnp.asarray(low) + part * jnp.asarray(high - low)
        for low, high, part in ((RACK_LOW, RACK_HIGH, numbers[:3]), (DISH_LOW, DISH_HIGH, numbers[3:]))
    )
    return jnp.concatenate([jnp.asarray(HOME_QPOS), rack, standing(dish[:2], 0.0, dish[2])])


def _apart(qpos: Float[Array, " q"], *, radius: float) -> Bool[Array, ""]:
    """Whether the dish stands clear of the rack's outline."""
    local = transform(invert(rack_pose(qpos)), qpos[DISH_QPOS : DISH_QPOS + 3])
    outside = jnp.maximum(jnp.abs(local[:2]) - jnp.array(HALF, qpos.dtype), 0.0)
    return jnp.sqrt(jnp.sum(outside * outside)) > radius


def rack_pose(qpos: Float[ArrayLike, " q"]) -> Float[Array, "4 4"]:
    """world_from_rack."""
    x, y, yaw = jnp.asarray(qpos)[RACK_QPOS:DISH_QPOS]
    zero = jnp.zeros_like(yaw)
    return pose(jnp.stack([x, y, zero + TABLE_TOP_Z]), jnp.stack([jnp.cos(yaw / 2), zero, zero, jnp.sin(yaw / 2)]))


def rack_to_dish(rack_from_dish: Float[ArrayLike, "4 4"], *, dish: str) -> Float[Array, ""]:
    """Metres between the rack's bars and tines and the dish's edges."""
    edges = transform(rack_from_dish, jnp.asarray(rings(DISHES[dish]), jnp.float32))
    ends, radii = (jnp.asarray(part, jnp.float32) for part in bars())
    gaps = jax.vmap(jax.vmap(between_segments, in_axes=(None, 0)), in_axes=(0, None))(edges, ends)
    return jnp.min(gaps - radii[None]) - RING_RADIUS


def success(qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""], *, gap: Gap) -> Bool[Array, ""]:
    """The dish touches the rack, stands at least 2 cm over its origin, and neither moves."""
    del variant
    qpos, qvel = jnp.asarray(qpos), jnp.asarray(qvel)
    raised = qpos[DISH_QPOS + 2] - TABLE_TOP_Z >= RAISED_M
    rest = still(qvel, DISH_QVEL) & jnp.all(jnp.abs(qvel[RACK_QVEL : RACK_QVEL + 2]) < AT_REST)
    return raised & rest & (gap(compose(invert(rack_pose(qpos)), free_pose(qpos, DISH_QPOS))) < TOUCHING_M)


def task(dish: str) -> Task:
    """The task of a small plate or a small bowl."""
    spoken = dish.removeprefix("small_")
    return Task(
        name=f"{spoken}_on_rack",
        objects=((spoken, dish), ("rack", "rack")),
        instructions=(f"put the {spoken} on the rack",),
        horizon_s=30.0,
        build=functools.partial(build, dish=dish),
        reset=functools.partial(reset, dish=dish),
        success=functools.partial(success, gap=functools.partial(rack_to_dish, dish=dish)),
        things=("rack", dish),
        pair=("rack", dish),
        contact_slots=24,
    )
