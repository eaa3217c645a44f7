"""Where the fingers' contact capsules are, from qpos alone: for success conditions that ask what a gripper touches."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float

from clamp_jax.geometry import aloha
from clamp_jax.geometry.kinematics import gripper_poses, joints_from_qpos
from clamp_jax.geometry.transforms import pose, transform
from clamp_jax.sim.robot import FINGER_RADIUS, FINGER_SPAN, FINGERTIPS_MEET


def finger_segments(qpos: Float[ArrayLike, " q"]) -> Float[Array, "4 2 3"]:
    """Ends (m, in the world) of the centre lines of the left arm's left and right finger, then the right arm's; they have
    robot.FINGER_RADIUS. To .1 mm. qpos: of a scene, robot first; ours alone, the public simulator's fingers are meshes.
    """
    qpos = jnp.asarray(qpos)
    bases = jnp.stack([pose(np.float32(pos), np.float32(quat)) for pos, quat in (aloha.BASES[side] for side in aloha.SIDES)])
    return jax.vmap(transform)(gripper_poses(joints_from_qpos(qpos), bases), _in_gripper(qpos)).reshape(4, 2, 3)


def _in_gripper(qpos: Array) -> Float[Array, "2 4 3"]:
    """The same ends in each arm's gripper_link, finger after finger; the right finger is on the side of y."""
    off = qpos[:16].reshape(2, 8)[:, 6:] - FINGERTIPS_MEET + FINGER_RADIUS
    y = jnp.repeat(off * jnp.array([[-1.0, 1.0]], off.dtype), 2, axis=1)
    x = jnp.tile(jnp.array(FINGER_SPAN, off.dtype), (2, 2))
    return jnp.stack([x, y, jnp.zeros_like(x)], axis=-1)
