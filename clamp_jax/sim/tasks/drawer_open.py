"""Drawer Open: pull the bottom drawer of a jewelry box open. Reset and success are the public simulator's."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int, Key

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.sim.objects.jewelry_box import add_jewelry_box
from clamp_jax.sim.tasks.base import AT_REST, HOME_QPOS, Task

POSITION_M, YAW_RAD = 0.15, jnp.pi / 4  # the box's middle on the table, +-, and its turn, +-
OPEN_M = 0.05  # the bottom drawer is open beyond it
BOX_QPOS, BOX_QVEL, BOTTOM = 16, 16, -1  # first entries of the box in qpos and qvel; the bottom drawer's slide is the last


def place_box(key: Key[Array, ""], slides: Float[ArrayLike, "3"]) -> Float[Array, " q"]:
    """qpos of a home robot and a box anywhere in the reset's range, with its slides (top, middle, bottom) in m."""
    x, y, yaw = jax.random.uniform(key, (3,), minval=-1.0) * jnp.array([POSITION_M, POSITION_M, YAW_RAD])
    box = jnp.stack([x, y, jnp.float32(TABLE_TOP_Z), jnp.cos(yaw / 2), jnp.float32(0), jnp.float32(0), jnp.sin(yaw / 2)])
    return jnp.concatenate([jnp.asarray(HOME_QPOS), box, jnp.asarray(slides, jnp.float32)])


def box_at_rest(qvel: Float[ArrayLike, " v"]) -> Bool[Array, ""]:
    """Whether every component of the box's linear velocity is under 1 mm/s."""
    return jnp.all(jnp.abs(jnp.asarray(qvel)[BOX_QVEL : BOX_QVEL + 3]) < AT_REST)


def reset(key: Key[Array, ""]) -> tuple[Float[Array, " q"], Int[Array, ""]]:
    """A closed box at x, y in +-0.15 m, yaw in +-45 degrees; qpos (26,) and variant 0."""
    return place_box(key, jnp.zeros(3)), jnp.int32(0)


def success(qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""]) -> Bool[Array, ""]:
    """The bottom drawer is open by more than 0.05 m and the box does not move."""
    del variant
    return (jnp.asarray(qpos)[BOTTOM] > OPEN_M) & box_at_rest(qvel)


DRAWER_OPEN = Task(
    name="drawer_open",
    objects=(("jewelry box", "jewelry_box"), ("bottom drawer", "bottom_drawer")),
    instructions=("open the bottom drawer of the jewelry box",),
    horizon_s=20.0,
    build=add_jewelry_box,
    reset=reset,
    success=success,
    things=("jewelry_box",),
)
