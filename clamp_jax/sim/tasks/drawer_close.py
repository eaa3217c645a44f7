"""Drawer Close: push the open bottom drawer of the jewelry box shut. Ours: Drawer Open the other way round."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int, Key

from clamp_jax.sim.objects.jewelry_box import DRAWER_TRAVEL, add_jewelry_box
from clamp_jax.sim.tasks.base import Task
from clamp_jax.sim.tasks.drawer_open import BOTTOM, box_at_rest, place_box

OPEN_M = (0.07, DRAWER_TRAVEL)  # how far the bottom drawer is open at the start
CLOSED_M = 0.01  # it is closed below this


def reset(key: Key[Array, ""]) -> tuple[Float[Array, " q"], Int[Array, ""]]:
    """The box of Drawer Open with its bottom drawer open by 0.07 to 0.1 m; qpos (26,) and variant 0."""
    box, drawer = jax.random.split(key)
    opening = jax.random.uniform(drawer, minval=OPEN_M[0], maxval=OPEN_M[1])
    return place_box(box, jnp.zeros(3).at[BOTTOM].set(opening)), jnp.int32(0)


def success(qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""]) -> Bool[Array, ""]:
    """The bottom drawer is closed to less than 0.01 m and the box does not move."""
    del variant
    return (jnp.asarray(qpos)[BOTTOM] < CLOSED_M) & box_at_rest(qvel)


DRAWER_CLOSE = Task(
    name="drawer_close",
    objects=(("jewelry box", "jewelry_box"), ("bottom drawer", "bottom_drawer")),
    instructions=("close the bottom drawer of the jewelry box",),
    horizon_s=20.0,
    build=add_jewelry_box,
    reset=reset,
    success=success,
    things=("jewelry_box",),
)
