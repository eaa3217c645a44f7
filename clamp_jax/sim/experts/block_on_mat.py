"""Block on Mat: grasp it, set it down on the mat."""

import numpy as np

from clamp_jax.sim.experts import blocks
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks.block_on_mat import BLOCK_QPOS, MAT_QPOS


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm, nor both in turn, reach."""
    del variant
    place = qpos0[MAT_QPOS : MAT_QPOS + 2] + rng.uniform(-0.02, 0.02, 2)
    return blocks.commands(scene, qpos0, BLOCK_QPOS, place, 0.0, rng)
