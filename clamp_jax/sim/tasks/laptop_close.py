"""Laptop Close: close the lid of the laptop. Reset and success are the public simulator's."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int, Key

from clamp_jax.sim.objects.laptop import OPEN_RAD, add_laptop
from clamp_jax.sim.tasks.base import AT_REST, HOME_QPOS, Task

POSITION_M, YAW_RAD = 0.15, jnp.pi / 4  # the laptop's middle on the table, +-, and its turn, +-
CLOSED_RAD = -0.01  # closed beyond it
LAPTOP_QPOS, LAPTOP_QVEL, HINGE = 16, 16, 19


def reset(key: Key[Array, ""]) -> tuple[Float[Array, " q"], Int[Array, ""]]:
    """An open laptop at x, y in +-0.15 m, yaw in +-45 degrees; qpos (20,) and variant 0."""
    place = jax.random.uniform(key, (3,), minval=-1.0) * jnp.array([POSITION_M, POSITION_M, YAW_RAD])
    return jnp.concatenate([jnp.asarray(HOME_QPOS), place, jnp.array([OPEN_RAD])]), jnp.int32(0)


def success(qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""]) -> Bool[Array, ""]:
    """The lid is closed and the laptop does not move."""
    del variant
    rest = jnp.all(jnp.abs(jnp.asarray(qvel)[LAPTOP_QVEL : LAPTOP_QVEL + 2]) < AT_REST)
    return (jnp.asarray(qpos)[HINGE] > CLOSED_RAD) & rest


LAPTOP_CLOSE = Task(
    name="laptop_close",
    objects=(("laptop", "laptop"), ("lid", "lid")),
    instructions=("close the laptop",),
    horizon_s=20.0,
    build=add_laptop,
    reset=reset,
    success=success,
)
