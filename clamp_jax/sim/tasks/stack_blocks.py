"""Stack Blocks: put the red block onto the blue one (ours)."""

import jax
import jax.numpy as jnp
import mujoco
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int, Key

from clamp_jax.sim.objects.blocks import BLOCK_HALF, add_block
from clamp_jax.sim.tasks.base import HOME_QPOS, Task
from clamp_jax.sim.tasks.blocks import places, within
from clamp_jax.sim.tasks.placing import standing, still

RED_QPOS, BLUE_QPOS, RED_QVEL, BLUE_QVEL = 16, 23, 16, 22
OFF_M, STEP_M = 0.0225, 0.004  # the red one's middle over the blue one, and its height within so much of one block's


def build(spec: mujoco.MjSpec) -> None:
    """Two blocks; qpos after the robot: 7 of the red one, 7 of the blue one."""
    add_block(spec, "red")
    add_block(spec, "blue")


def reset(key: Key[Array, ""]) -> tuple[Float[Array, " q"], Int[Array, ""]]:
    """Both anywhere on the table, apart, any yaw; qpos (30,) and variant 0."""
    where, turn = jax.random.split(key)
    red, blue = places(where, 2, 0.14)
    yaws = jax.random.uniform(turn, (2,), minval=-jnp.pi, maxval=jnp.pi)
    blocks = standing(red, BLOCK_HALF, yaws[0]), standing(blue, BLOCK_HALF, yaws[1])
    return jnp.concatenate([jnp.asarray(HOME_QPOS), *blocks]), jnp.int32(0)


def success(qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""]) -> Bool[Array, ""]:
    """The red block stands on the blue one, and neither moves."""
    del variant
    red, blue = (jnp.asarray(qpos)[start : start + 3] for start in (RED_QPOS, BLUE_QPOS))
    on_top = within(red[:2], blue[:2], OFF_M) & (jnp.abs(red[2] - blue[2] - 2 * BLOCK_HALF) < STEP_M)
    return on_top & still(qvel, RED_QVEL, BLUE_QVEL)


STACK_BLOCKS = Task(
    name="stack_blocks",
    objects=(("red block", "red_block"), ("blue block", "blue_block")),
    instructions=("put the red block on the blue block",),
    horizon_s=30.0,
    build=build,
    reset=reset,
    success=success,
    contact_slots=24,
)
