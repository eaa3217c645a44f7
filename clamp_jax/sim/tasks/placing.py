"""Where things stand at a reset: the public simulator's six regions, and what free bodies have in qpos and qvel."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Key

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.geometry.transforms import pose
from clamp_jax.sim.tasks.base import AT_REST

ROWS_Y = np.array([(0.10, 0.20), (-0.25, -0.10)], np.float32)  # m, ranges of the two rows
COLUMNS_X = np.array([(-0.30, -0.22), (-0.03, 0.03), (0.22, 0.30)], np.float32)  # m
NUMBERS = 19  # uniform numbers that `six_places` takes
DRAWS = 16


def six_places(numbers: Float[Array, "19"]) -> Float[Array, "6 2"]:
    """x, y of six things: the first three in one row, the others in the other, each row shuffled over the columns."""
    rows = jnp.where(numbers[18] < 0.5, jnp.asarray(ROWS_Y), jnp.asarray(ROWS_Y[::-1]))
    drawn = numbers[:18].reshape(2, 3, 3)
    return jnp.concatenate([_row(drawn[0], rows[0]), _row(drawn[1], rows[1])])


def _row(drawn: Float[Array, "3 3"], y: Float[Array, "2"]) -> Float[Array, "3 2"]:
    columns = jnp.asarray(COLUMNS_X)[jnp.argsort(drawn[0])]
    x = columns[:, 0] + drawn[1] * (columns[:, 1] - columns[:, 0])
    return jnp.stack([x, y[0] + drawn[2] * (y[1] - y[0])], 1)


def standing(place: Float[Array, "2"], height_m: float, yaw: Float[ArrayLike, ""]) -> Float[Array, "7"]:
    """qpos of a free body at x, y on the table whose frame is `height_m` over it, turned about z."""
    z, zero = jnp.float32(TABLE_TOP_Z + height_m), jnp.float32(0)
    return jnp.stack([place[0], place[1], z, jnp.cos(yaw / 2), zero, zero, jnp.sin(yaw / 2)])


def first_apart(draw: Callable[[Key[Array, ""]], Array], apart: Callable[[Array], Array], key: Key[Array, ""]) -> Float[Array, "*q"]:
    """Ours: the first of DRAWS draws in which no two things stand in one another; the first of all if there is none."""
    draws = jax.vmap(draw)(jax.random.split(key, DRAWS))
    return draws[jnp.argmax(jax.vmap(apart)(draws))]


def free_pose(qpos: Float[ArrayLike, " q"], start: int) -> Float[Array, "4 4"]:
    """world_from_body of a free body whose qpos begins at `start`."""
    qpos = jnp.asarray(qpos)
    return pose(qpos[start : start + 3], qpos[start + 3 : start + 7])


def still(qvel: Float[ArrayLike, " v"], *starts: int) -> Bool[Array, ""]:
    """Whether every component of the linear velocity of the free bodies whose qvel begin at `starts` is under 1 mm/s."""
    columns = np.concatenate([np.arange(start, start + 3) for start in starts])
    return jnp.all(jnp.abs(jnp.asarray(qvel)[columns]) < AT_REST)
