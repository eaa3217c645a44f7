"""Stands between a policy and a robot: every command is passed, clamped, or rejected and held. Numpy only.

Three bands for each command: pass, clamp to the position and velocity limits, or reject and hold when the command itself is
not finite, jumps, is far outside the limits, or would push an arm into the table. Finite comes first: min and max keep NaN.
"""

import collections
from typing import NamedTuple

import numpy as np

from clamp_jax.geometry import aloha
from clamp_jax.structs import ACTION_DIM, CONTROL_HZ

PASS, CLAMP, REJECT = "pass", "clamp", "reject"
ARM = np.array([0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12])  # the joints of a 14-D command; 6 and 13 are the grippers
_ROUNDING = 1e-5  # rad; float32 commands at a limit, and 50 of them a second, are not interventions


class Limits(NamedTuple):
    """What a command must keep to, each (14,): rad and rad/s, gripper 0 closed, 1 open."""

    low: np.ndarray
    high: np.ndarray
    velocity: np.ndarray  # per second
    outside: np.ndarray  # further outside low..high than this is rejected, not clamped
    jump: np.ndarray  # further from the last command than this is rejected, not clamped


def aloha_limits() -> Limits:
    """Limits of two ViperX 300 arms: the waist's command to +-pi/2 as upstream, 3.14 rad/s (the servos' own limit).

    ours: a gripper may jump, since its servo limits speed and force; 0.1 rad outside and 0.8 rad away are no rounding or lag
    but a fault.
    """
    arm = np.concatenate([[[-1.5708, 1.5708]], aloha.JOINT_LIMITS[1:]])
    finger = (np.array(aloha.FINGER_LIMITS) - aloha.GRIPPER_CLOSED_M) / (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M)
    both = np.tile(np.concatenate([arm, finger[None]]), (2, 1))
    velocity, outside, jump = (np.tile([*[value] * 6, gripper], 2) for value, gripper in ((3.14, 1e9), (0.1, 0.5), (0.8, 1e9)))
    return Limits(both[:, 0], both[:, 1], velocity, outside, jump)


class Verdict(NamedTuple):
    """What became of a command."""

    command: np.ndarray | None  # (14,) to send; None: rejected, hold
    band: str  # PASS, CLAMP or REJECT
    cause: str  # "" when passed


class Safety:
    """Checks one command after another; `counts` has {(band, cause): number}."""

    def __init__(self, limits: Limits, *, period_s: float = 1 / CONTROL_HZ, clearance_m: float = 0.0):
        """`clearance_m`: how far every point of ARM_POINTS, with its radius, must stay above the table."""
        self.limits, self._period_s, self._clearance_m = limits, period_s, clearance_m
        self.counts: collections.Counter = collections.Counter()

    def check(self, command: np.ndarray, last: np.ndarray) -> Verdict:
        """`command` (14,) wanted now, `last` (14,) the command sent before it (at the start: the measured joints)."""
        verdict = self._judge(np.asarray(command), np.asarray(last, np.float64))
        self.counts[verdict.band, verdict.cause] += 1
        return verdict

    def _judge(self, command: np.ndarray, last: np.ndarray) -> Verdict:
        cause = self._fault(command, last)
        if cause:
            return Verdict(None, REJECT, cause)
        clamped, cause = self._clamp(command, last)
        if self._hits_table(clamped, last):
            return Verdict(None, REJECT, "table")
        return Verdict(clamped, CLAMP if cause else PASS, cause)

    def _fault(self, command: np.ndarray, last: np.ndarray) -> str:
        """Why this command is no motion at all, or ""."""
        if command.shape != (ACTION_DIM,) or not np.issubdtype(command.dtype, np.floating):
            return "shape"
        if not np.isfinite(command).all():
            return "not finite"
        if np.any((command < self.limits.low - self.limits.outside) | (command > self.limits.high + self.limits.outside)):
            return "outside"
        return "jump" if np.any(np.abs(command - last) > self.limits.jump) else ""

    def _clamp(self, command: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, str]:
        """The command unchanged when it keeps to the limits, else the nearest that does, and which limit it was."""
        reach = self.limits.velocity * self._period_s
        # An arm that starts outside its limits (measured joints sag) is led back, not snapped: velocity has the last word.
        position = np.clip(command, self.limits.low, self.limits.high)
        wanted = np.clip(position, last - reach, last + reach)
        if np.all(np.abs(wanted - command) <= _ROUNDING):
            return command, ""
        return wanted, "position" if np.any(np.abs(position - command) > _ROUNDING) else "velocity"

    def _hits_table(self, command: np.ndarray, last: np.ndarray) -> bool:
        """Whether the arms at `command` would be under the clearance and lower than before: the way out stays open."""
        after = table_clearance(command)
        low = after < self._clearance_m
        return bool(low.any() and np.any(low & (after < table_clearance(last) - 1e-6)))


class Point(NamedTuple):
    """A ball fixed to a link, for the distance to the table."""

    link: int  # index into aloha.ARM
    pos: tuple[float, float, float]  # m, in the link's frame
    radius: float  # m


_LINKS = {link.name: index for index, link in enumerate(aloha.ARM)}
# ours: balls inside the arm, so that a grasp on the table passes and a wrist on the table does not; fingertips may touch
ARM_POINTS = (
    Point(_LINKS["upper_forearm_link"], (0.0, 0.0, 0.0), 0.03),
    Point(_LINKS["lower_forearm_link"], (0.0, 0.0, 0.0), 0.03),
    Point(_LINKS["wrist_link"], (0.0, 0.0, 0.0), 0.03),
    Point(_LINKS["gripper_link"], (0.02, 0.0, 0.0), 0.025),
    Point(_LINKS["gripper_link"], aloha.GRIPPER_SITE, -0.01),
)


def link_poses(joints: np.ndarray, side: str) -> np.ndarray:
    """(10, 4, 4) world_from_link of one arm's aloha.ARM at `joints` (7,) (6 rad, gripper): the numpy twin of geometry/kinematics."""
    finger = aloha.GRIPPER_CLOSED_M + joints[6] * (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M)
    value = dict(zip(aloha.ARM_JOINTS, joints[:6], strict=True)) | {"left_finger": finger, "right_finger": finger}
    poses = np.empty((len(aloha.ARM), 4, 4))
    for index, link in enumerate(aloha.ARM):
        fixed = _rigid(*aloha.BASES[side]) if link.parent < 0 else poses[link.parent] @ _FIXED[index]
        poses[index] = fixed @ _joint(link, value.get(link.joint, 0.0))
    return poses


def gripper_poses(joints: np.ndarray) -> np.ndarray:
    """(2, 4, 4) world_from_gripper_link, left and right, at `joints` (14,)."""
    return np.stack([link_poses(part, side)[_LINKS["gripper_link"]] for part, side in _arms(joints)])


def table_clearance(joints: np.ndarray) -> np.ndarray:
    """(2, points) m: height of each of ARM_POINTS, less its radius, over the table top; infinite beside the table."""
    return np.stack([_clearance(link_poses(part, side)) for part, side in _arms(joints)])


def _arms(joints: np.ndarray) -> list[tuple[np.ndarray, str]]:
    return list(zip(np.asarray(joints, np.float64).reshape(2, 7), aloha.SIDES, strict=True))


def _clearance(poses: np.ndarray) -> np.ndarray:
    world = np.stack([poses[p.link, :3, :3] @ np.array(p.pos) + poses[p.link, :3, 3] for p in ARM_POINTS])
    radius = np.array([p.radius for p in ARM_POINTS])
    above = np.all(np.abs(world[:, :2]) <= np.array(aloha.TABLE_HALF_SIZE) + np.maximum(radius, 0)[:, None], axis=1)
    return np.where(above, world[:, 2] - radius - aloha.TABLE_TOP_Z, np.inf)


def _rigid(pos: tuple, quat: tuple) -> np.ndarray:
    w, x, y, z = np.asarray(quat) / np.linalg.norm(quat)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = pos
    return matrix


def _joint(link: aloha.Link, value: float) -> np.ndarray:
    if link.joint is None:
        return np.eye(4)
    if link.joint.endswith("finger"):
        return _rigid(tuple(value * np.array(link.axis)), (1.0, 0.0, 0.0, 0.0))
    return _rigid((0.0, 0.0, 0.0), (np.cos(value / 2), *(np.sin(value / 2) * np.array(link.axis))))


_FIXED = [_rigid(link.pos, link.quat) for link in aloha.ARM]
