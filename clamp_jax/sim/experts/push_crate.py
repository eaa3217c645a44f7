"""Push Crate: closed fingers push one side after the other, along x and along y, until the crate is over the mat."""

import itertools

import numpy as np

from clamp_jax.geometry.aloha import SIDES, TABLE_TOP_Z
from clamp_jax.sim.experts import carry, ik, motion
from clamp_jax.sim.objects.blocks import CRATE_HALF
from clamp_jax.sim.robot import FINGER_RADIUS
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks.push_crate import CRATE_QPOS, MAT_QPOS

_TIP_Z, _CLEAR_Z = TABLE_TOP_Z + 0.035, TABLE_TOP_Z + 0.11  # m, fingertips' middle: beside the crate, over it
_AWAY = 0.035  # m, between finger and crate before the push
_SPEED = 0.12  # m/s
_LEAST = 0.004  # m: nearer than this the crate is left as it is


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm reaches both pushes."""
    del variant
    crate, mat = (np.array(qpos0[start : start + 2]) for start in (CRATE_QPOS, MAT_QPOS))
    goal = mat + rng.uniform(-0.008, 0.008, 2)
    order, tempo = (0, 1) if rng.random() < 0.5 else (1, 0), rng.uniform(0.9, 1.1)
    reason = None
    for side in SIDES if crate[0] + mat[0] < 0 else SIDES[::-1]:
        tilts = np.radians((0.0, 20.0, 40.0, -20.0))
        for tilt, axes, turned in itertools.product(tilts, (order, order[::-1]), (1.0, -1.0)):
            try:
                return motion.commands(scene.model, _pushes(qpos0, side, (crate, goal), axes, (tilt, turned), tempo), qpos0)
            except ik.IKError as error:
                reason = reason or error
    raise motion.PlanError(f"no arm pushes the crate all the way: {reason}")


def _pushes(
    qpos0: np.ndarray, side: str, way_of: tuple[np.ndarray, np.ndarray], axes: tuple[int, ...], stance: tuple[float, float], tempo: float
) -> motion.Script:
    """One straight push along each axis from the first of `way_of` to the second; stance: how far the tool leans away from the
    arm's base (rad), and 1 or, for half a turn of the gripper, -1."""
    script, crate, goal = motion.Script(side, qpos0, tempo=tempo), way_of[0].copy(), way_of[1]
    outward = np.array([1.0 if side == "left" else -1.0, 0.0, 0.0])
    direction, closing = np.cos(stance[0]) * carry.DOWN + np.sin(stance[0]) * outward, np.array([0.0, stance[1], 0.0])
    for axis in axes:
        way = goal[axis] - crate[axis]
        if abs(way) < _LEAST:
            continue
        # Along y both fingers push side by side; along x one does, with the other behind it.
        push = np.sign(way) * np.eye(3)[axis]
        half = CRATE_HALF[axis] + FINGER_RADIUS + (2 * FINGER_RADIUS if axis == 1 else 0.0)
        begin = np.append(crate, _TIP_Z) - (half + _AWAY) * push
        end = np.append(crate, _TIP_Z) + (abs(way) - half) * push
        script.reach(_tool(begin, direction, closing, _CLEAR_Z), 1.2, gripper=0.0)
        script.slide(_tool(begin, direction, closing, _TIP_Z), 0.6)
        script.slide(_tool(end, direction, closing, _TIP_Z), 0.5 + (abs(way) + _AWAY) / _SPEED, hold_s=0.2)
        script.slide(_tool(end - _AWAY * push, direction, closing, _TIP_Z), 0.4)
        script.slide(_tool(end - _AWAY * push, direction, closing, _CLEAR_Z), 0.5)
        crate[axis] = goal[axis]
    return script.home(1.0)


def _tool(tip: np.ndarray, direction: np.ndarray, closing: np.ndarray, height: float) -> np.ndarray:
    """Fingertips' middle over x, y of `tip` at a height, the fingers closing along y."""
    point = np.array([tip[0], tip[1], height])
    return ik.tool_pose(point + carry.TIP_BEHIND_SITE * direction, direction, closing)
