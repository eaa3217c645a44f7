"""A dish on a rack: hold its rim, turn it upright so that it hangs, and lower it into a slot."""

import numpy as np

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.sim.experts import carry, ik
from clamp_jax.sim.objects.dishes import DISHES, SIDES, Dish
from clamp_jax.sim.objects.rack import BAR_RADIUS, BAR_X, BAR_Z, SLOTS_Y
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks.rack import DISH_QPOS, RACK_QPOS

_DROP = 0.004  # m over where the dish stands on the bars


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator, *, name: str) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm reaches."""
    del variant
    dish, pose = DISHES[name], carry.free_pose(qpos0, DISH_QPOS)
    style = carry.Style.draw(rng, lift=0.13)
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    options = []
    # The rim that is held comes to be the upper one, so that the dish hangs from the fingers and does not turn in them.
    for off in np.radians((0.0, -30.0, 30.0, -60.0, 60.0, -90.0)):
        for facing, turn in ((np.pi, np.pi / 2), (0.0, -np.pi / 2)):  # opening to the right, for the right arm; to the left
            for wall in carry.by_wall(SIDES, facing + off, yaw)[:2]:
                goals = _standing(qpos0, dish, facing + off - 2 * np.pi * wall / SIDES, turn)
                options += carry.pairs(carry.rim_grasps(dish.rim, dish.foot, dish.height, dish.wall, [wall], SIDES), goals)
    return carry.commands(scene, qpos0, pose, options, style)


def _standing(qpos0: np.ndarray, dish: Dish, lying: float, turn: float) -> list[np.ndarray]:
    """Poses in the slots of a dish that lay at that yaw in the rack's frame and was turned about the slots' long way."""
    x, y, yaw = qpos0[RACK_QPOS : RACK_QPOS + 3]
    rack = carry.upright((x, y, TABLE_TOP_Z), yaw)
    height = BAR_Z + BAR_RADIUS + np.sqrt(dish.rim**2 - BAR_X**2) + _DROP
    upright = rack[:3, :3]
    for axis, angle in (((0, 0, 1), np.pi / 2), ((0, 1, 0), turn), ((0, 0, 1), lying)):
        upright = upright @ ik.rotation_about(angle * np.array(axis, float))
    goals = []
    for slot in SLOTS_Y[1:-1]:  # those with tines beyond the next ones
        pose = np.eye(4)
        pose[:3, :3] = upright
        pose[:3, 3] = (rack @ (0.0, slot, height, 1.0))[:3] - dish.height / 2 * upright[:, 2]
        goals.append(pose)
    return goals
