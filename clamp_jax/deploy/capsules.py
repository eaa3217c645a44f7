"""How near the arms come to each other and to the table: a capsule for each part of a ViperX, numpy only, over any leading axes.

A capsule is all within a radius of a segment that is fixed to a link. Their sizes were read off the public model's meshes
(google-deepmind/aloha_sim), which they contain up to what `tests/test_capsules.py` says.
"""

import functools
from typing import NamedTuple

import numpy as np

from clamp_jax.geometry import aloha

Point = tuple[float, float, float]


class Capsule(NamedTuple):
    """A part of an arm."""

    link: str
    start: Point  # m, ends of the axis in the link's frame
    end: Point
    radius: float  # m
    hand: bool = False  # fingers and what is near them: meant to come close to the table, to things and to the other hand


CAPSULES = (
    Capsule("base_link", (-0.10, 0.0, 0.0), (0.02, 0.0, 0.0), 0.10),
    Capsule("shoulder_link", (0.0, 0.0, 0.0), (0.0, 0.0, 0.05), 0.065),
    Capsule("upper_arm_link", (0.015, 0.0, 0.01), (0.03, 0.0, 0.29), 0.06),
    Capsule("upper_forearm_link", (0.01, 0.0, 0.0), (0.19, 0.0, 0.0), 0.053),
    Capsule("lower_forearm_link", (0.01, 0.005, 0.0), (0.10, 0.005, 0.0), 0.045),
    Capsule("wrist_link", (0.0, 0.0, 0.0), (0.06, 0.0, 0.0), 0.042),
    Capsule("gripper_base", (-0.045, -0.01, -0.01), (0.045, -0.01, -0.01), 0.045, hand=True),
    Capsule("gripper_base", (-0.03, -0.085, -0.01), (0.03, -0.085, -0.01), 0.035, hand=True),  # the wrist's camera
    Capsule("left_finger_link", (0.015, 0.0, 0.0135), (0.015, -0.065, 0.0135), 0.03, hand=True),
    Capsule("right_finger_link", (0.015, 0.0, 0.0135), (0.015, 0.065, 0.0135), 0.03, hand=True),
)
_LINKS = {link.name: index for index, link in enumerate(aloha.ARM)}
_OF = np.array([_LINKS[capsule.link] for capsule in CAPSULES])
_ENDS = np.array([(capsule.start, capsule.end) for capsule in CAPSULES])  # (c, 2, 3)
RADII = np.array([capsule.radius for capsule in CAPSULES])
_REACH = RADII + np.linalg.norm(_ENDS[:, 1] - _ENDS[:, 0], axis=-1) / 2  # of the ball about a capsule
HANDS = np.array([capsule.hand for capsule in CAPSULES])
STILL = np.array([capsule.link in ("base_link", "shoulder_link") for capsule in CAPSULES])  # bolted beside the table


def rigid(pos: Point, quat: tuple[float, float, float, float]) -> np.ndarray:
    """(4, 4) of a translation (m) and a quaternion wxyz, normalised here."""
    w, x, y, z = np.asarray(quat) / np.linalg.norm(quat)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = pos
    return matrix


_FIXED = [rigid(link.pos, link.quat) for link in aloha.ARM]
_BASES = np.stack([rigid(*aloha.BASES[side]) for side in aloha.SIDES])


def link_poses(joints: np.ndarray) -> np.ndarray:
    """(..., 2, 10, 4, 4) world_from_link of both arms' aloha.ARM at `joints` (..., 14): the numpy twin of geometry/kinematics."""
    both = np.asarray(joints, np.float64).reshape(*np.shape(joints)[:-1], 2, 7)
    finger = aloha.GRIPPER_CLOSED_M + both[..., 6] * (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M)
    poses = np.empty((*both.shape[:-1], len(aloha.ARM), 4, 4))
    for index, link in enumerate(aloha.ARM):
        fixed = _BASES if link.parent < 0 else poses[..., link.parent, :, :] @ _FIXED[index]
        poses[..., index, :, :] = fixed if link.joint is None else fixed @ _joint(link, both, finger)
    return poses


def _joint(link: aloha.Link, both: np.ndarray, finger: np.ndarray) -> np.ndarray:
    """(..., 2, 4, 4) what a joint adds."""
    matrix = np.zeros((*finger.shape, 4, 4))
    matrix[..., 3, 3] = 1
    axis = np.array(link.axis)
    if link.joint.endswith("finger"):
        matrix[..., :3, :3], matrix[..., :3, 3] = np.eye(3), finger[..., None] * axis
        return matrix
    value = both[..., aloha.ARM_JOINTS.index(link.joint)]
    first, second = (int(np.argmax(axis)) + 1) % 3, (int(np.argmax(axis)) + 2) % 3  # the axes are x, y or z
    along, cos, sin = int(np.argmax(axis)), np.cos(value), np.sin(value)
    matrix[..., along, along] = 1
    matrix[..., first, first], matrix[..., second, second] = cos, cos
    matrix[..., second, first], matrix[..., first, second] = sin, -sin
    return matrix


def axes_world(poses: np.ndarray) -> np.ndarray:
    """(..., 2, c, 2, 3) m: ends of every capsule's axis of both arms, of `link_poses`."""
    of = poses[..., _OF, :3, :]  # (..., c, 3, 4); products of small matrices are slower than three sums of columns
    ends = [of[..., 0] * _ENDS[:, e, 0, None] + of[..., 1] * _ENDS[:, e, 1, None] + of[..., 2] * _ENDS[:, e, 2, None] for e in (0, 1)]
    return np.stack(ends, axis=-2) + of[..., None, :, 3]


def segment_distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(...) m: distance of segments (..., 2, 3) from segments (..., 2, 3).

    The nearest points are inside both segments, or at least one of them is an end: the least of the four ends' distances from the
    other segment, and of the lines' distance where its feet are inside (Ericson, Real-Time Collision Detection, 5.1.9).
    """
    u, v, w = one[..., 1, :] - one[..., 0, :], other[..., 1, :] - other[..., 0, :], one[..., 0, :] - other[..., 0, :]
    ends = [_point_distance(one[..., i, :], other) for i in (0, 1)] + [_point_distance(other[..., i, :], one) for i in (0, 1)]
    a, b, c, d, e = (np.sum(x * y, -1) for x, y in ((u, u), (u, v), (v, v), (u, w), (v, w)))
    with np.errstate(divide="ignore", invalid="ignore"):
        s, t = (b * e - c * d) / (a * c - b * b), (a * e - b * d) / (a * c - b * b)
    inside = (s >= 0) & (s <= 1) & (t >= 0) & (t <= 1)  # False for parallel ones: an end is as near
    s, t = np.where(inside, s, 0), np.where(inside, t, 0)
    lines = np.linalg.norm(w + s[..., None] * u - t[..., None] * v, axis=-1)
    return np.minimum(functools.reduce(np.minimum, ends), np.where(inside, lines, np.inf))


def _point_distance(point: np.ndarray, segment: np.ndarray) -> np.ndarray:
    start, along = segment[..., 0, :], segment[..., 1, :] - segment[..., 0, :]
    length = np.maximum(np.sum(along * along, -1), 1e-18)
    share = np.clip(np.sum((point - start) * along, -1) / length, 0, 1)
    return np.linalg.norm(point - start - share[..., None] * along, axis=-1)


def arm_clearance(axes: np.ndarray) -> np.ndarray:
    """(..., c, c) m between the surfaces of the left arm's capsules and the right one's, of `axes_world`; under 0 they overlap."""
    left, right = axes[..., 0, :, None, :, :], axes[..., 1, None, :, :, :]
    return segment_distance(*np.broadcast_arrays(left, right)) - RADII[:, None] - RADII


def arm_clearance_bound(axes: np.ndarray) -> np.ndarray:
    """(..., c, c) m, at most `arm_clearance`: between the balls about the capsules."""
    middle = axes.mean(-2)
    between = np.linalg.norm(middle[..., 0, :, None, :] - middle[..., 1, None, :, :], axis=-1)
    return between - _REACH[:, None] - _REACH


def table_clearance(axes: np.ndarray) -> np.ndarray:
    """(..., 2, c) m: height of each capsule's lowest point over the table's top, infinite for what is not above it, of `axes_world`."""
    half = np.array(aloha.TABLE_HALF_SIZE)
    above = np.all(np.abs(axes[..., :2]) <= half + RADII[:, None, None], axis=-1)
    height = np.where(above, axes[..., 2], np.inf).min(-1) - RADII - aloha.TABLE_TOP_Z
    return np.where(STILL, np.inf, height)
