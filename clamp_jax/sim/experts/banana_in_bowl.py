"""Banana in Bowl: hold it across its middle, let it go low over the bowl's."""

from typing import NamedTuple

import numpy as np

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.sim.experts import carry, laid_table
from clamp_jax.sim.objects.dishes import BANANA_HALF, BANANA_RADIUS
from clamp_jax.sim.scene import Scene


class Fruit(NamedTuple):
    """What an expert knows of a banana, m."""

    grasp_x: float  # of its middle, which is off its frame: it is bent
    half_width: float  # there
    mean_x: float  # of the whole of it


FRUITS = {
    "primitive": Fruit(BANANA_HALF[0] - BANANA_RADIUS, BANANA_RADIUS, 0.012),
    "aloha_sim": Fruit(-0.032, 0.022, -0.022),  # measured on the collision pieces; bent the other way
}
_DROP = 0.055  # m, of the banana's frame over the table: its ends lie on the bowl's walls


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm, nor both in turn, reach."""
    del variant
    banana, bowl = laid_table.poses(qpos0, "banana", "bowl")
    to_bowl, relay = options(bowl, laid_table.clear_spot(qpos0, "banana"), rng, scene.geometry)
    return carry.commands(scene, qpos0, banana, to_bowl, carry.Style.draw(rng, lift=0.13), relay=relay)


def options(
    bowl: np.ndarray, spot: np.ndarray, rng: np.random.Generator, geometry: str
) -> tuple[list[carry.Option], list[carry.Option]]:
    """Ways to bring a banana into a bowl (4, 4), and to lay it down at a spot (2,) m."""
    fruit = FRUITS[geometry]
    tip_z = carry.LOWEST_TIP + 0.002 - BANANA_RADIUS
    along = rng.uniform(-0.015, 0.015)
    grasps = [
        carry.grasp((fruit.grasp_x, along, tip_z), (0, np.sin(tilt), -np.cos(tilt)), (sign, 0, 0), fruit.half_width)
        for tilt in np.radians((0, 25, -25, 45, -45))
        for sign in (1.0, -1.0)
    ]
    place = bowl[:2, 3] + rng.uniform(-0.008, 0.008, 2)
    goals = [_over(fruit, place, _DROP, yaw) for yaw in carry.turns(12)]
    between = [_over(fruit, spot, BANANA_RADIUS + 0.002, yaw) for yaw in carry.turns(12)]
    return carry.pairs(grasps, goals), carry.pairs(grasps, between)


def _over(fruit: Fruit, place: np.ndarray, height: float, yaw: float) -> np.ndarray:
    """The banana turned by yaw, its middle piece a little off the place so that the whole of it is round it."""
    pose = carry.upright((*place, TABLE_TOP_Z + height), yaw)
    pose[:3, 3] -= fruit.mean_x * pose[:3, 0]
    return pose
