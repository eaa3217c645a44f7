"""Stack Blocks: grasp the red one, set it down on the blue one."""

import numpy as np

from clamp_jax.sim.experts import blocks
from clamp_jax.sim.objects.blocks import BLOCK_HALF
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks.stack_blocks import BLUE_QPOS, RED_QPOS


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm, nor both in turn, reach."""
    del variant
    place = qpos0[BLUE_QPOS : BLUE_QPOS + 2] + rng.uniform(-0.004, 0.004, 2)
    return blocks.commands(scene, qpos0, RED_QPOS, place, 2 * BLOCK_HALF, rng)
