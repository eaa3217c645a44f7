"""How near two arms come to one another in what is planned: their links touch nothing in simulation, on a robot they would."""

from collections.abc import Sequence

import mujoco
import numpy as np

from clamp_jax.geometry.aloha import GRIPPER_CLOSED_M, GRIPPER_OPEN_M, HOME, SIDES
from clamp_jax.sim.experts import motion

_LINKS = ("upper_forearm_link", "lower_forearm_link", "wrist_link", "gripper_link", "gripper_base", "left_finger_link", "right_finger_link")
_EVERY = 8  # ticks


def between_arms(model: mujoco.MjModel, scripts: Sequence[motion.Script], least_m: float) -> float:
    """The least distance (m) between the two arms' forearms and grippers, as planned, or `least_m` where it is no less.

    Looked at each 0.16 s with the grippers as far open as they are told.
    """
    data, found = mujoco.MjData(model), least_m
    shapes = [_shapes(model, side) for side in SIDES]
    radii = model.geom_rbound[shapes[0]][:, None] + model.geom_rbound[shapes[1]][None]
    for qpos in planned(scripts):
        data.qpos[:16] = qpos
        mujoco.mj_kinematics(model, data)
        middles = [data.geom_xpos[each] for each in shapes]
        close = np.argwhere(np.linalg.norm(middles[0][:, None] - middles[1][None], axis=-1) < radii + least_m)
        found = min([found, *(mujoco.mj_geomDistance(model, data, shapes[0][i], shapes[1][k], found, None) for i, k in close)])
    return found


def planned(scripts: Sequence[motion.Script]) -> np.ndarray:
    """The robot's qpos (t, 16) on the way, each 0.16 s; who has no script is at home."""
    arms = {side: HOME[None] for side in SIDES}
    for script in scripts:
        joints, gripper = motion.trajectory(script.start, script.moves)
        fingers = (GRIPPER_CLOSED_M + (GRIPPER_OPEN_M - GRIPPER_CLOSED_M) * gripper)[:, None]
        arms[script.side] = np.concatenate([joints, fingers, fingers], axis=1)
    length = max(map(len, arms.values()))
    return np.concatenate([arms[side][np.minimum(np.arange(0, length, _EVERY), len(arms[side]) - 1)] for side in SIDES], axis=1)


def _shapes(model: mujoco.MjModel, side: str) -> np.ndarray:
    bodies = [model.body(f"{side}/{link}").id for link in _LINKS]
    return np.flatnonzero(np.isin(model.geom_bodyid, bodies))
