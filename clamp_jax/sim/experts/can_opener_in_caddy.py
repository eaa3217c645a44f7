"""Can Opener in Caddy: grasp it across its handles, lift, carry it over the compartment, lower, let go and draw back."""

import functools
import itertools

import numpy as np

from clamp_jax.geometry.aloha import BASES, GRIPPER_SITE, TABLE_TOP_Z
from clamp_jax.sim.experts import ik, motion
from clamp_jax.sim.robot import FINGER_SPAN
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks.can_opener_in_caddy import CADDY_QPOS, NAMES, TOOLS_QPOS

_TIP_BEHIND_SITE = GRIPPER_SITE[0] - FINGER_SPAN[1]  # m, middle of the fingertips' round ends
_DOWN = np.array([0.0, 0.0, -1.0])
_GRASP_Z = TABLE_TOP_Z + 0.0095  # m, fingertips' middle: beside the handles, clear of the table
_COMPARTMENT_X = 0.040  # m from the caddy's middle, between the walls
_CARRY_Z, _RELEASE_Z = TABLE_TOP_Z + 0.19, TABLE_TOP_Z + 0.135  # m, fingertips over the caddy's handle
_GRASP_TILTS = np.radians((0.0, 25.0, 45.0))
_STEEP_TILTS = np.radians((50.0, 65.0, 80.0))


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm reaches both the can opener and the compartment."""
    style = {"grasp": rng.uniform(-0.024, -0.006), "above": rng.uniform(0.07, 0.10), "along": rng.uniform(-0.02, 0.02), "tempo": rng.uniform(0.9, 1.1)}
    opener = _Opener(qpos0, style["grasp"])
    compartment = np.append(qpos0[CADDY_QPOS : CADDY_QPOS + 2], 0.0) + ((1 if variant else -1) * _COMPARTMENT_X, style["along"], 0.0)
    reason = None
    near = "left" if opener.grasp[0] < 0 else "right"
    sides = (near, "right" if near == "left" else "left")
    for side, upright in itertools.product(sides, (True, False)):
        for tilt, turned in itertools.product(opener.tilts(side), (False, True)):
            try:
                script = _carry(qpos0, style, side, opener.tool(tilt, turned), _placings(side, compartment, upright))
                return motion.commands(scene.model, script, qpos0)
            except ik.IKError as error:
                reason = reason or error
    raise motion.PlanError(f"no arm reaches from the can opener to the compartment: {reason}")


class _Opener:
    """Where the can opener is and how a tool stands over it."""

    def __init__(self, qpos0: np.ndarray, grasp_m: float):
        start = TOOLS_QPOS + 7 * NAMES.index("can_opener")
        w, _, _, z = qpos0[start + 3 : start + 7]
        rotation = ik.rotation_about((0, 0, 2 * np.arctan2(z, w)))
        self.along, self.across = rotation[:, 0], rotation[:, 1]
        self.grasp = np.array([*(qpos0[start : start + 2] + grasp_m * self.along[:2]), _GRASP_Z])

    def tilts(self, side: str) -> list[float]:
        """Angles (rad) of the tool from the vertical along the handles, leaning away from the arm's base, least first."""
        outward = np.dot(self.grasp[:2] - np.array(BASES[side][0][:2]), self.along[:2])
        return [float(np.copysign(tilt, outward)) for tilt in _GRASP_TILTS]

    def tool(self, tilt: float, turned: bool) -> np.ndarray:
        direction = np.cos(tilt) * _DOWN + np.sin(tilt) * self.along
        return _tool(self.grasp, direction, -self.across if turned else self.across)


def _tool(tip: np.ndarray, direction: np.ndarray, closing: np.ndarray) -> np.ndarray:
    return ik.tool_pose(tip + _TIP_BEHIND_SITE * direction, direction, closing)


def _raised(pose: np.ndarray, height: float) -> np.ndarray:
    pose = pose.copy()
    pose[2, 3] += height
    return pose


def _placings(side: str, compartment: np.ndarray, upright: bool) -> list[np.ndarray]:
    """Poses to let go at: upright with the handles along the compartment, or leaning out, the opener steep."""
    if upright:
        return [_tool(compartment + (0, 0, _RELEASE_Z), _DOWN, np.array([sign, 0.0, 0.0])) for sign in (1.0, -1.0)]
    outward = compartment - (*BASES[side][0][:2], 0.0)
    outward, across = outward / np.linalg.norm(outward), np.cross(_DOWN, outward / np.linalg.norm(outward))
    poses = []
    for tilt, sign in itertools.product(_STEEP_TILTS, (1, -1)):
        direction = np.cos(tilt) * _DOWN + np.sin(tilt) * outward
        poses.append(_tool(compartment + (0, 0, _RELEASE_Z + 0.06 * np.sin(tilt)), direction, sign * across))
    return poses


def _carry(qpos0: np.ndarray, style: dict[str, float], side: str, grasp: np.ndarray, placings: list[np.ndarray]) -> motion.Script:
    script = motion.Script(side, qpos0, tempo=style["tempo"])
    script.reach(_raised(grasp, style["above"]), 1.3, gripper=1.0)
    script.slide(grasp, 0.8, hold_s=0.1)
    script.grip(0.5, 0.5, hold_s=0.1)
    script.slide(_raised(grasp, _CARRY_Z - _GRASP_Z), 0.9)
    placing = _nearest_placing(side, script.joints, placings)
    script.reach(_raised(placing, _CARRY_Z - _RELEASE_Z), 1.6, hold_s=0.1)
    script.slide(placing, 0.5, hold_s=0.2)
    script.grip(1.0, 0.4, hold_s=0.1)
    script.slide(_raised(placing, _CARRY_Z - _RELEASE_Z), 0.4)
    return script.home(1.4)


def _nearest_placing(side: str, joints: np.ndarray, placings: list[np.ndarray]) -> np.ndarray:
    """The placing that turns the joints least of those that are reached; raises IKError if none is."""
    costs, reason = {}, None
    for index, pose in enumerate(placings):
        try:
            costs[index] = np.abs(ik.solve(side, pose, joints) - joints).sum()
        except ik.IKError as error:
            reason = reason or error
    if not costs:
        raise reason
    return placings[min(costs, key=costs.get)]
