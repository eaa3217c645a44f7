"""Mug on Plate: hold the mug by its wall, set it down in the middle of the plate."""

import numpy as np

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.sim.experts import carry, laid_table
from clamp_jax.sim.objects.dishes import DISHES, FLOOR_HALF, SIDES
from clamp_jax.sim.scene import Scene

_DROP = 0.004  # m over the plate's floor


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm, nor both in turn, reach."""
    del variant
    mug, plate = laid_table.poses(qpos0, "mug", "plate")
    style = carry.Style.draw(rng, lift=0.10)
    walls = [int(wall) for wall in rng.permutation(SIDES) if wall]  # not the one under the handle
    dish = DISHES["mug"]
    grasps = list(carry.rim_grasps(dish.rim, dish.foot, dish.height, dish.wall, walls, SIDES))
    place = plate[:2, 3] + rng.uniform(-0.012, 0.012, 2)
    goals = [carry.upright((*place, TABLE_TOP_Z + 2 * FLOOR_HALF + _DROP), yaw) for yaw in carry.turns(12)]
    spot = laid_table.clear_spot(qpos0, "mug")
    middle = [carry.upright((*spot, TABLE_TOP_Z + 0.002), yaw) for yaw in carry.turns(12)]
    return carry.commands(scene, qpos0, mug, carry.pairs(grasps, goals), style, relay=carry.pairs(grasps, middle))
