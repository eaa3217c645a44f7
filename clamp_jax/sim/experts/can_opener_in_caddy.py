"""Can Opener in Caddy: grasp it across its handles, lift, carry it over the compartment, lower, let go and draw back.

Where no arm reaches both, one arm lays the can opener down in the middle of the table and the other one takes it from there.
"""

import itertools
from typing import NamedTuple

import numpy as np

from clamp_jax.geometry.aloha import BASES, GRIPPER_SITE, SIDES, TABLE_TOP_Z
from clamp_jax.sim.experts import ik, motion
from clamp_jax.sim.robot import FINGER_SPAN
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks.can_opener_in_caddy import CADDY_QPOS, NAMES, TOOLS_QPOS

_TIP_BEHIND_SITE = GRIPPER_SITE[0] - FINGER_SPAN[1]  # m, middle of the fingertips' round ends
_DOWN = np.array([0.0, 0.0, -1.0])
_GRASP_Z = TABLE_TOP_Z + 0.0075  # m, fingertips' middle: as low as the table allows, the straight part of a finger beside the handles
_COMPARTMENT_X = 0.0415  # m from the caddy's middle: the fingers pass between its handle and the outer wall
_CARRY_Z = TABLE_TOP_Z + 0.165  # m, fingertips; what hangs from them passes over the caddy
_PLACE_Z = TABLE_TOP_Z + 0.03  # m, fingertips when they let go
_CARRY_SPEED = 0.35  # m/s
_TILTS = np.radians((0.0, 25.0, -25.0, 45.0))  # along the handles
_MIDDLE = np.array([0.0, -0.02])  # m, between the two rows of things
_OPEN, _HOLD = 1.0, 0.5  # gripper; the handles are held at 0.65


class Lying(NamedTuple):
    """A can opener on the table."""

    pos: np.ndarray  # (2,) m, its middle
    along: np.ndarray  # (3,) unit, from head to handles

    def grasp(self, offset_m: float) -> np.ndarray:
        """World point (3,) of the fingertips that hold it at an offset along it."""
        return np.append(self.pos + offset_m * self.along[:2], _GRASP_Z)


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm, nor both in turn, reach from can opener to compartment."""
    ranges = {"grasp": (-0.024, -0.010), "above": (0.06, 0.09), "along": (-0.02, 0.02), "tempo": (0.9, 1.1)}
    style = {name: rng.uniform(*span) for name, span in ranges.items()}
    opener, compartment = _opener(qpos0), _compartment(qpos0, variant, style["along"])
    near = SIDES[int(opener.pos[0] + compartment[0] > 0)]
    reason = None
    for side in (near, *(other for other in SIDES if other != near)):
        try:
            return motion.commands(scene.model, _transfer(qpos0, style, side, opener, _in_caddy(compartment)), qpos0)
        except ik.IKError as error:
            reason = reason or error
    try:
        return _relay(scene, qpos0, style, opener, compartment)
    except ik.IKError as error:
        message = f"no arm reaches from the can opener to the compartment: {reason}; nor by way of the middle: {error}"
        raise motion.PlanError(message) from error


def _opener(qpos0: np.ndarray) -> Lying:
    start = TOOLS_QPOS + 7 * NAMES.index("can_opener")
    w, _, _, z = qpos0[start + 3 : start + 7]
    return Lying(qpos0[start : start + 2], ik.rotation_about((0, 0, 2 * np.arctan2(z, w)))[:, 0])


def _compartment(qpos0: np.ndarray, variant: int, along: float) -> np.ndarray:
    x, y = qpos0[CADDY_QPOS : CADDY_QPOS + 2]
    return np.array([x + (_COMPARTMENT_X if variant else -_COMPARTMENT_X), y + along, _PLACE_Z])


def _relay(scene: Scene, qpos0: np.ndarray, style: dict[str, float], opener: Lying, compartment: np.ndarray) -> np.ndarray:
    """The arm at the can opener lays it down in the middle, along x, and the arm at the caddy goes on from there."""
    first, second = SIDES[int(opener.pos[0] > 0)], SIDES[int(opener.pos[0] <= 0)]
    along = np.array([1.0 if opener.along[0] > 0 else -1.0, 0.0, 0.0])
    lying = Lying(_MIDDLE, along)
    put_down = [_tool(lying.grasp(style["grasp"]), _DOWN, np.cross(turn, _DOWN)) for turn in (along, -along)]
    start = _transfer(qpos0, style, first, opener, put_down)
    stop = _transfer(qpos0, style, second, lying, _in_caddy(compartment))
    return np.concatenate([motion.commands(scene.model, script, qpos0) for script in (start, stop)])


def _tool(tip: np.ndarray, direction: np.ndarray, closing: np.ndarray) -> np.ndarray:
    return ik.tool_pose(tip + _TIP_BEHIND_SITE * direction, direction, closing)


def _raised(pose: np.ndarray, tip_z: float) -> np.ndarray:
    """The pose straight over or under it at which the fingertips are at a height, m."""
    pose = pose.copy()
    pose[2, 3] = tip_z + _TIP_BEHIND_SITE * pose[2, 0]
    return pose


def _in_caddy(compartment: np.ndarray) -> list[np.ndarray]:
    """Poses to let go at: the handles along the compartment, one way or the other."""
    return [_tool(compartment, _DOWN, np.array([sign, 0.0, 0.0])) for sign in (1.0, -1.0)]


def _over(opener: Lying, offset_m: float, side: str) -> list[np.ndarray]:
    """Poses to grasp at, the most upright first; a tool that leans does so along the handles, away from the arm's base first."""
    point, across = opener.grasp(offset_m), np.cross(opener.along, _DOWN)
    outward = np.copysign(1.0, np.dot(point[:2] - np.array(BASES[side][0][:2]), opener.along[:2]))
    leaning = itertools.product(_TILTS * outward, (across, -across))
    return [_tool(point, np.cos(tilt) * _DOWN + np.sin(tilt) * opener.along, closing) for tilt, closing in leaning]


def _transfer(qpos0: np.ndarray, style: dict[str, float], side: str, opener: Lying, placings: list[np.ndarray]) -> motion.Script:
    """Grasp the can opener and let it go at the placing that turns the joints least; raises IKError if none is reached."""
    reason = None
    for grasp in _over(opener, style["grasp"], side):
        try:
            script = _pick(motion.Script(side, qpos0, tempo=style["tempo"]), grasp, style["above"])
            return _place(script, _nearest(script, [_raised(placing, _CARRY_Z) for placing in placings], placings))
        except ik.IKError as error:
            reason = reason or error
    raise reason


def _pick(script: motion.Script, grasp: np.ndarray, above: float) -> motion.Script:
    script.reach(_raised(grasp, _GRASP_Z + above), 1.3, gripper=_OPEN)
    script.slide(grasp, 0.8, hold_s=0.1)
    script.grip(_HOLD, 0.5, hold_s=0.1)
    return script.slide(_raised(grasp, _CARRY_Z), 1.0)


def _place(script: motion.Script, placing: np.ndarray) -> motion.Script:
    over = _raised(placing, _CARRY_Z)
    way = float(np.linalg.norm(over[:3, 3] - script.pose[:3, 3]))
    script.reach(over, 0.8 + way / _CARRY_SPEED, hold_s=0.1)
    script.slide(placing, 0.9, hold_s=0.2)
    script.grip(0.85, 0.4, hold_s=0.1)
    script.slide(over, 0.7)
    return script.home(1.2)


def _nearest(script: motion.Script, overs: list[np.ndarray], placings: list[np.ndarray]) -> np.ndarray:
    costs, reason = {}, None
    for index, over in enumerate(overs):
        try:
            costs[index] = np.abs(ik.solve(script.side, over, script.joints) - script.joints).sum()
        except ik.IKError as error:
            reason = reason or error
    if not costs:
        raise reason
    return placings[min(costs, key=costs.get)]
