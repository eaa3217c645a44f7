"""A dish on a rack: hold its rim, turn it upright, and lower it into a slot."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.sim.experts import carry, ik
from clamp_jax.sim.objects.dishes import DISHES, SIDES, Dish
from clamp_jax.sim.objects.rack import BAR_RADIUS, BAR_X, BAR_Z, SLOTS_Y
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks.rack import DISH_QPOS, RACK_QPOS

_DROP = 0.004  # m over where the dish stands on the bars
_RIM_PITCH = np.radians(30.0)  # of a tool that takes a flat rim from the side, below the horizontal: its lower finger clears the table
_RIM_IN = 0.013  # m, of the fingertips within the rim


class Slots(NamedTuple):
    """Where dishes stand in a rack's frame, m."""

    along: Sequence[float]  # y of the slots' middles
    middle: float  # x between the two bars that a dish stands on
    bar: float  # x of a bar from there
    top: float  # of the bars, over the table


class Shape(NamedTuple):
    """What an expert knows of a dish, m."""

    rim: float
    foot: float
    height: float
    wall: float  # half thickness
    is_flat: bool = False  # its rim is taken from the side, one finger under it


_SLOTS = {
    "primitive": Slots(SLOTS_Y[1:-1], 0.0, BAR_X, BAR_Z + BAR_RADIUS),  # those with tines beyond the next ones
    "aloha_sim": Slots((-0.1024, -0.0503), -0.0026, 0.030, 0.035),  # the two widest, measured on the collision pieces
}
_REAL = {"small_plate": Shape(0.092, 0.050, 0.0216, 0.005, is_flat=True), "small_bowl": Shape(0.057, 0.030, 0.040, 0.003)}


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator, *, name: str) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm reaches."""
    del variant
    shape = _REAL[name] if scene.geometry == "aloha_sim" else _primitive(DISHES[name])
    pose, style = carry.free_pose(qpos0, DISH_QPOS), carry.Style.draw(rng, lift=0.13)
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    options = _from_the_side if shape.is_flat else _hanging
    return carry.commands(scene, qpos0, pose, list(options(qpos0, shape, _SLOTS[scene.geometry], yaw)), style)


def _primitive(dish: Dish) -> Shape:
    return Shape(dish.rim, dish.foot, dish.height, dish.wall)


def _hanging(qpos0: np.ndarray, dish: Shape, slots: Slots, yaw: float) -> Iterator[carry.Option]:
    """The rim that is held comes to be the upper one, so that the dish hangs from the fingers and does not turn in them."""
    for off in np.radians((0.0, -30.0, 30.0, -60.0, 60.0, -90.0)):
        for facing, turn in _FACINGS:
            for wall in carry.by_wall(SIDES, facing + off, yaw)[:2]:
                goals = _standing(qpos0, dish, slots, facing + off - 2 * np.pi * wall / SIDES, turn)
                yield from carry.pairs(carry.rim_grasps(dish.rim, dish.foot, dish.height, dish.wall, [wall], SIDES), goals)


def _from_the_side(qpos0: np.ndarray, dish: Shape, slots: Slots, yaw: float) -> Iterator[carry.Option]:
    """A finger over and one under the rim; the held rim comes to be the upper one, or that at the rack's open side, or between."""
    for wall in carry.by_wall(2 * SIDES, -np.pi / 2, yaw):  # from the front, where no arm stands, first
        angle = np.pi * wall / SIDES
        goals = [
            pose
            for facing, turn in _FACINGS
            for off in np.radians((0.0, 30.0, -30.0, 60.0, -60.0, 90.0, -90.0))
            for pose in _standing(qpos0, dish, slots, facing + off - angle, turn)
        ]
        yield from carry.pairs(_rim_grasps(dish, angle), goals)


def _rim_grasps(dish: Shape, angle: float) -> Iterator[carry.Grasp]:
    """The fingers close nearly upright on the rim at an angle in the dish's frame, either of them above."""
    outward = np.array([np.cos(angle), np.sin(angle), 0.0])
    direction = np.sin(_RIM_PITCH) * carry.DOWN - np.cos(_RIM_PITCH) * outward
    tip = (dish.rim - _RIM_IN) * outward + (0.0, 0.0, dish.height - 1.1 * dish.wall)
    for sign in (1.0, -1.0):
        yield carry.grasp(tip, direction, (0.0, 0.0, sign), dish.wall)._replace(from_above=False)


_FACINGS = ((np.pi, np.pi / 2), (0.0, -np.pi / 2))  # of the upper rim as it lay, and the turn about the slots: opening right, left


def _standing(qpos0: np.ndarray, dish: Shape, slots: Slots, lying: float, turn: float) -> list[np.ndarray]:
    """Poses in the slots of a dish that lay at that yaw in the rack's frame and was turned about the slots' long way."""
    x, y, yaw = qpos0[RACK_QPOS : RACK_QPOS + 3]
    rack = carry.upright((x, y, TABLE_TOP_Z), yaw)
    height = slots.top + np.sqrt(dish.rim**2 - slots.bar**2) + _DROP
    upright = rack[:3, :3]
    for axis, angle in (((0, 0, 1), np.pi / 2), ((0, 1, 0), turn), ((0, 0, 1), lying)):
        upright = upright @ ik.rotation_about(angle * np.array(axis, float))
    goals = []
    for slot in slots.along:
        pose = np.eye(4)
        pose[:3, :3] = upright
        pose[:3, 3] = (rack @ (slots.middle, slot, height, 1.0))[:3] - dish.height / 2 * upright[:, 2]
        goals.append(pose)
    return goals
