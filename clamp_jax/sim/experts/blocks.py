"""A block carried onto a mat or onto another block."""

import numpy as np

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.sim.experts import carry, ik
from clamp_jax.sim.objects.blocks import BLOCK_HALF
from clamp_jax.sim.scene import Scene

_BELOW = 0.010  # m, of the fingertips under the block's middle
_DROP = 0.002  # m


def commands(scene: Scene, qpos0: np.ndarray, block: int, place: ik.Numbers, height: float, rng: np.random.Generator) -> np.ndarray:
    """Commands that bring the block whose qpos begins at `block` to x, y (m), its lower side `height` over the table."""
    grasps = []
    for tilt in np.radians((0.0, 25.0, 45.0)):
        for yaw in carry.turns(4):
            across, along = (np.array([np.cos(yaw + turn), np.sin(yaw + turn), 0.0]) for turn in (0.0, np.pi / 2))
            direction = np.cos(tilt) * carry.DOWN + np.sin(tilt) * along
            grasps.append(carry.grasp((0.0, 0.0, -_BELOW), direction, across, BLOCK_HALF))
    goals = [carry.upright((*place, TABLE_TOP_Z + height + BLOCK_HALF + _DROP), yaw) for yaw in carry.turns(12)]
    between = [carry.upright((*rng.uniform((-0.03, -0.03), 0.03), TABLE_TOP_Z + BLOCK_HALF + _DROP), yaw) for yaw in carry.turns(8)]
    thing, style = carry.free_pose(qpos0, block), carry.Style.draw(rng, lift=0.10)
    return carry.commands(scene, qpos0, thing, carry.pairs(grasps, goals), style, relay=carry.pairs(grasps, between))
