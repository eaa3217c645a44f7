"""How near the arms come to each other and to the table: a capsule for each part of a ViperX, numpy only, over any leading axes.

A capsule is all within a radius of a segment that is fixed to a link. Their sizes were read off the public model's meshes
(google-deepmind/aloha_sim), which they contain but for 9 mm of the base's plate, 7 of the upper arm and 6 of the gripper's bar
(`tests/test_capsules.py`).
"""

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


_BASES = np.stack([rigid(*aloha.BASES[side]) for side in aloha.SIDES])
_FIXED = np.stack([rigid(link.pos, link.quat) for link in aloha.ARM])  # (10, 4, 4)


def _slides(link: aloha.Link) -> bool:
    return link.joint is not None and link.joint.endswith("finger")


def _generator(link: aloha.Link) -> np.ndarray:
    """(4, 4) what its joint's first bit of motion adds, in the link's frame: a turn about its axis, or a shift along it."""
    matrix, (x, y, z) = np.zeros((4, 4)), link.axis if link.joint else (0.0, 0.0, 0.0)
    if _slides(link):
        matrix[:3, 3] = x, y, z
    else:
        matrix[:3, :3] = [[0, -z, y], [z, 0, -x], [-y, x, 0]]
    return matrix


_MOVES = np.stack([_generator(link) for link in aloha.ARM])
_FIRST, _SECOND = _FIXED @ _MOVES, _FIXED @ _MOVES @ _MOVES  # a slide's second is zero
_ENTRY = np.array([aloha.ARM_JOINTS.index(link.joint) if link.joint in aloha.ARM_JOINTS else 6 for link in aloha.ARM])  # of joints (7,)
_SLIDES = np.array([_slides(link) for link in aloha.ARM])


def link_poses(joints: np.ndarray) -> np.ndarray:
    """(..., 2, 10, 4, 4) world_from_link of both arms' aloha.ARM at `joints` (..., 14): the numpy twin of geometry/kinematics.

    parent_from_link is F (1 + sin(q) K + (1 - cos(q)) K K) (Rodrigues), or F (1 + d K) of a slide; F K and F K K are made once.
    """
    joints = np.asarray(joints, np.float64)
    value = joints.reshape(*joints.shape[:-1], 2, 7)[..., _ENTRY]
    finger = aloha.GRIPPER_CLOSED_M + value * (aloha.GRIPPER_OPEN_M - aloha.GRIPPER_CLOSED_M)
    first = np.where(_SLIDES, finger, np.sin(value))[..., None, None]
    poses = _FIXED + first * _FIRST + (1 - np.cos(value))[..., None, None] * _SECOND
    for index, link in enumerate(aloha.ARM):
        poses[..., index, :, :] = _BASES if link.parent < 0 else poses[..., link.parent, :, :] @ poses[..., index, :, :]
    return poses


def axes_world(poses: np.ndarray) -> np.ndarray:
    """(..., 2, c, 2, 3) m: ends of every capsule's axis of both arms, of `link_poses`."""
    of = poses[..., _OF, :3, :]  # (..., c, 3, 4); products of small matrices are slower than three sums of columns
    ends = [of[..., 0] * _ENDS[:, e, 0, None] + of[..., 1] * _ENDS[:, e, 1, None] + of[..., 2] * _ENDS[:, e, 2, None] for e in (0, 1)]
    return np.stack(ends, axis=-2) + of[..., None, :, 3]


def segment_distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(...) m: distance of segments (..., 2, 3) from segments (..., 2, 3); a segment may be a point.

    The lines' nearest points, brought into one segment, then into the other, then once more into the first (Ericson, Real-Time
    Collision Detection, 5.1.9).
    """
    u, v, w = one[..., 1, :] - one[..., 0, :], other[..., 1, :] - other[..., 0, :], one[..., 0, :] - other[..., 0, :]
    a, b, c, d, e = (np.einsum("...i,...i", x, y) for x, y in ((u, u), (u, v), (v, v), (u, w), (v, w)))
    a, c = np.maximum(a, 1e-18), np.maximum(c, 1e-18)
    across = a * c - b * b
    parallel = across <= 1e-12 * a * c  # any point of the first will do to begin with
    s = np.where(parallel, 0.0, np.clip((b * e - c * d) / np.where(parallel, 1.0, across), 0, 1))
    t = np.clip((b * s + e) / c, 0, 1)
    s = np.clip((b * t - d) / a, 0, 1)
    between = w + s[..., None] * u - t[..., None] * v
    return np.sqrt(np.einsum("...i,...i", between, between))


def arm_clearance(axes: np.ndarray) -> np.ndarray:
    """(..., c, c) m between the surfaces of the left arm's capsules and the right one's, of `axes_world`; under 0 they overlap."""
    left, right = axes[..., 0, :, None, :, :], axes[..., 1, None, :, :, :]
    return segment_distance(*np.broadcast_arrays(left, right)) - RADII[:, None] - RADII


def pair_clearance(axes: np.ndarray, row: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(..., m) m: `arm_clearance` of chosen pairs alone, the left arm's part and the right arm's part in a row of `axes_world` (..., n)."""
    one, other = axes[..., row, 0, left, :, :], axes[..., row, 1, right, :, :]
    return segment_distance(one, other) - RADII[left] - RADII[right]


def arm_clearance_bound(axes: np.ndarray) -> np.ndarray:
    """(..., c, c) m, at most `arm_clearance`: between the balls about the capsules."""
    middle = (axes[..., 0, :] + axes[..., 1, :]) / 2
    between = middle[..., 0, :, None, :] - middle[..., 1, None, :, :]
    return np.sqrt(np.einsum("...i,...i", between, between)) - _REACH[:, None] - _REACH


def table_clearance(axes: np.ndarray) -> np.ndarray:
    """(..., 2, c) m: height of each capsule's lowest point over the table's top, infinite for what is not above it, of `axes_world`.

    Only that part of an axis counts that is over the table, made larger by the radius: a part may reach over the edge and down.
    """
    start, along = axes[..., 0, :], axes[..., 1, :] - axes[..., 0, :]
    half = np.array(aloha.TABLE_HALF_SIZE) + RADII[:, None]
    flat = np.where(np.abs(along[..., :2]) < 1e-12, 1e-12, along[..., :2])
    one, other = (-half - start[..., :2]) / flat, (half - start[..., :2]) / flat  # shares of the axis at the edges in x and y
    near, far = np.minimum(one, other), np.maximum(one, other)
    enter = np.maximum(np.maximum(near[..., 0], near[..., 1]), 0.0)  # pair by pair: numpy is slow to reduce short axes
    leave = np.minimum(np.minimum(far[..., 0], far[..., 1]), 1.0)
    height = start[..., 2] + np.minimum(enter * along[..., 2], leave * along[..., 2]) - RADII - aloha.TABLE_TOP_Z
    return np.where((enter > leave) | STILL, np.inf, height)
