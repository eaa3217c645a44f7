"""Block on Mat: put the red block onto the green mat (ours)."""

import jax
import jax.numpy as jnp
import mujoco
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int, Key

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.sim.objects.blocks import BLOCK_HALF, MAT_HALF, add_block, add_mat
from clamp_jax.sim.tasks.base import HOME_QPOS, Task
from clamp_jax.sim.tasks.blocks import places, within
from clamp_jax.sim.tasks.placing import standing, still

MAT_QPOS, BLOCK_QPOS, BLOCK_QVEL = 16, 18, 18
LYING_M = 0.005  # no higher than this over where it rests on the table


def build(spec: mujoco.MjSpec) -> None:
    """Mat and block; qpos after the robot: the mat's x and y, 7 of the block."""
    add_mat(spec)
    add_block(spec, "red")


def reset(key: Key[Array, ""]) -> tuple[Float[Array, " q"], Int[Array, ""]]:
    """Both anywhere on the table, apart; qpos (25,) and variant 0."""
    where, turn = jax.random.split(key)
    mat, block = places(where, 2, 0.14)
    yaw = jax.random.uniform(turn, minval=-jnp.pi, maxval=jnp.pi)
    return jnp.concatenate([jnp.asarray(HOME_QPOS), mat, standing(block, BLOCK_HALF, yaw)]), jnp.int32(0)


def success(qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""]) -> Bool[Array, ""]:
    """The block's middle is over the mat, it lies on the table and does not move."""
    del variant
    block = jnp.asarray(qpos)[BLOCK_QPOS : BLOCK_QPOS + 3]
    lies = block[2] < TABLE_TOP_Z + BLOCK_HALF + LYING_M
    return lies & within(block[:2], jnp.asarray(qpos)[MAT_QPOS:BLOCK_QPOS], MAT_HALF) & still(qvel, BLOCK_QVEL)


BLOCK_ON_MAT = Task(
    name="block_on_mat",
    objects=(("red block", "red_block"), ("green mat", "mat")),
    instructions=("put the red block on the green mat",),
    horizon_s=30.0,
    build=build,
    reset=reset,
    success=success,
)
