"""Push Crate: push a crate that is too wide to grasp onto the green mat (ours)."""

import jax.numpy as jnp
import mujoco
from jax import Array
from jaxtyping import ArrayLike, Bool, Float, Int, Key

from clamp_jax.sim.objects.blocks import add_crate, add_mat
from clamp_jax.sim.tasks.base import AT_REST, HOME_QPOS, Task
from clamp_jax.sim.tasks.blocks import places, within

MAT_QPOS, CRATE_QPOS, CRATE_QVEL = 16, 18, 18
OFF_M = 0.03  # the crate's middle is so near to the mat's


def build(spec: mujoco.MjSpec) -> None:
    """Mat and crate; qpos after the robot: x and y of each."""
    add_mat(spec)
    add_crate(spec)


def reset(key: Key[Array, ""]) -> tuple[Float[Array, " q"], Int[Array, ""]]:
    """The crate anywhere on the table, the mat 10 to 25 cm away; qpos (20,) and variant 0."""
    crate, mat = places(key, 2, 0.10, 0.25)
    return jnp.concatenate([jnp.asarray(HOME_QPOS), mat, crate]), jnp.int32(0)


def success(qpos: Float[ArrayLike, " q"], qvel: Float[ArrayLike, " v"], variant: Int[ArrayLike, ""]) -> Bool[Array, ""]:
    """The crate's middle is over the mat's, within 3 cm along x and y, and it does not move."""
    del variant
    qpos, qvel = jnp.asarray(qpos), jnp.asarray(qvel)
    rest = jnp.all(jnp.abs(qvel[CRATE_QVEL : CRATE_QVEL + 2]) < AT_REST)
    return within(qpos[CRATE_QPOS : CRATE_QPOS + 2], qpos[MAT_QPOS:CRATE_QPOS], OFF_M) & rest


PUSH_CRATE = Task(
    name="push_crate",
    objects=(("crate", "crate"), ("green mat", "mat")),
    instructions=("push the crate onto the green mat",),
    horizon_s=20.0,
    build=build,
    reset=reset,
    success=success,
)
