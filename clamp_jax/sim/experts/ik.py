"""Inverse kinematics of one ALOHA 2 arm by damped least squares, numpy float64, several starts at once.

Poses are those of the gripper site: between the fingertips, x forward along the tool, the fingers close along y.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from clamp_jax.geometry import aloha

Numbers = np.ndarray | Sequence  # of numbers or of rows of them

# Experts keep to the range that actions are normalised by: outside of it a policy could not follow them.
_JOINTS, _WORKING = aloha.JOINT_LIMITS, aloha.WORKING_RANGE[:6]
LIMITS = np.stack([np.maximum(_JOINTS[:, 0], _WORKING[:, 0]), np.minimum(_JOINTS[:, 1], _WORKING[:, 1])], 1)  # (6, 2) rad
TOLERANCE_M, TOLERANCE_RAD = 5e-4, 5e-3
_DAMPING, _STEP_RAD = 0.02, 0.4
_ITERATIONS, _ENOUGH = 45, 20  # steps at most, and when one start at least has arrived


class IKError(ValueError):
    """No joint position within the limits reaches the pose."""


def _chain() -> tuple[np.ndarray, np.ndarray]:
    """Offsets (6, 3) m and axes (6, 3) of the hinges, each in the frame of the link before it (all links unrotated)."""
    links = [link for link in aloha.ARM if link.joint in aloha.ARM_JOINTS]
    return np.array([link.pos for link in links]), np.array([link.axis for link in links])


_OFFSETS, _AXES = _chain()
_SKEW = np.stack([np.cross(axis, np.eye(3)).T for axis in _AXES])  # K with K v = axis x v
_SKEW2, _EYE = _SKEW @ _SKEW, np.eye(3)


def rotation_about(vector: Numbers) -> np.ndarray:
    """Rotation matrix (3, 3) of a rotation vector (3,), rad."""
    angle = float(np.linalg.norm(vector))
    skew = np.cross(np.asarray(vector, float) / max(angle, 1e-12), np.eye(3)).T
    return np.eye(3) + np.sin(angle) * skew + (1 - np.cos(angle)) * (skew @ skew)


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Rotation vectors (n, 3) in rad of rotation matrices (n, 3, 3), angles below pi."""
    r = rotation
    sine = np.stack([r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], -1) / 2
    length = np.sqrt((sine**2).sum(-1))
    angle = np.arctan2(length, (r[:, 0, 0] + r[:, 1, 1] + r[:, 2, 2] - 1) / 2)
    return sine * (angle / np.maximum(length, 1e-9))[:, None]


def rotation_of_quat(quat: Numbers) -> np.ndarray:
    """Rotation matrix (3, 3) of a quaternion (4,), wxyz, of any length."""
    w, x, y, z = np.asarray(quat, float) / np.linalg.norm(quat)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * k + 2 * k @ k


_BASES = {side: (np.array(pos, float), rotation_of_quat(quat)) for side, (pos, quat) in aloha.BASES.items()}


def forward(side: str, joints: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """World pose of the gripper site, and its geometric Jacobian.

    joints (n, 6) rad -> world_from_site (n, 4, 4) m, jacobian (n, 6, 6): rows linear m, angular rad, in the world's axes.
    """
    joints = np.asarray(joints, float)
    sin, versine = np.sin(joints)[:, :, None, None], 1 - np.cos(joints)[:, :, None, None]
    turns = _EYE + sin * _SKEW + versine * _SKEW2
    pos, rotation = (np.broadcast_to(part, (len(joints), *part.shape)) for part in _BASES[side])
    anchors, axes = np.empty((2, len(joints), 3, 6))
    for i in range(6):
        pos = pos + rotation @ _OFFSETS[i]
        anchors[:, :, i], axes[:, :, i] = pos, rotation @ _AXES[i]
        rotation = rotation @ turns[:, i]
    pos = pos + rotation @ np.array(aloha.GRIPPER_SITE)
    return _pose(rotation, pos), np.concatenate([_cross(axes, pos[:, :, None] - anchors), axes], 1)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product along axis 1; np.cross spends ten times as long on so few numbers."""
    return a[:, [1, 2, 0]] * b[:, [2, 0, 1]] - a[:, [2, 0, 1]] * b[:, [1, 2, 0]]


def _pose(rotation: np.ndarray, pos: np.ndarray) -> np.ndarray:
    matrix = np.zeros((*pos.shape[:-1], 4, 4))
    matrix[..., :3, :3], matrix[..., :3, 3], matrix[..., 3, 3] = rotation, pos, 1
    return matrix


def tool_pose(pos: Numbers, direction: Numbers, closing: Numbers) -> np.ndarray:
    """world_from_site (4, 4) with its x along `direction` and its y as near to `closing` as that allows (world axes)."""
    x = np.asarray(direction, float) / np.linalg.norm(direction)
    y = np.asarray(closing, float) - np.dot(closing, x) * x
    if np.linalg.norm(y) < 1e-6:
        raise ValueError(f"closing axis {closing} is parallel to the tool's direction {direction}; give one across it")
    y = y / np.linalg.norm(y)
    return _pose(np.stack([x, y, np.cross(x, y)], -1), np.asarray(pos, float))


def _errors(pose: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Twist (n, 6) in world axes that takes each pose to the target: m, then a rotation vector in rad."""
    turn = rotation_vector(target[:3, :3] @ np.swapaxes(pose[:, :3, :3], 1, 2))
    return np.concatenate([target[:3, 3] - pose[:, :3, 3], turn], -1)


def default_starts(side: str, target: np.ndarray) -> np.ndarray:
    """Joint positions (s, 6) to start from, rad: home-like with the waist turned to the target, elbow and roll varied."""
    base, rotation = _BASES[side]
    x, y, _ = rotation.T @ (target[:3, 3] - base)
    waist = np.clip(np.arctan2(y, x), *LIMITS[0])
    rows = [(waist, -0.96, 1.16, 0, -0.3, 0)]
    bends, rolls, turns = ((-0.4, 0.6, 1.2), (0.3, 0.2, 0.9)), (0.0, -0.7, 0.7), (0.0, 1.2, -1.2)
    rows += [(waist, s, e, roll, w, turn) for (s, e, w), roll, turn in itertools.product(bends, rolls, turns)]
    return np.array(rows, float)


def solve(side: str, target: Numbers, near: Numbers | None = None, *, starts: Numbers | None = None) -> np.ndarray:
    """Joints (6,) rad that put the gripper site at target (4, 4), within LIMITS: of several solutions the one nearest to `near`.

    near: joints (6,), home if not given; starts: (s, 6) where to start from, `default_starts` and near if not given.
    Raises IKError with the least error found.
    """
    target, near = np.asarray(target, float), aloha.HOME[:6] if near is None else np.asarray(near, float)
    joints = np.concatenate([near[None], default_starts(side, target)]) if starts is None else np.asarray(starts, float)
    for iteration in range(_ITERATIONS):
        pose, jacobian = forward(side, joints)
        error = _errors(pose, target)
        reached = _reached(error)
        if reached.all() or (iteration >= _ENOUGH and reached.any()):
            break
        joints = _step(joints, jacobian, error)
    return _nearest(side, target, joints, error, near)


def _step(joints: np.ndarray, jacobian: np.ndarray, error: np.ndarray) -> np.ndarray:
    """One damped least-squares step of each row: J^T (J J^T + damping^2)^-1 error, bounded, within the limits."""
    transposed = np.swapaxes(jacobian, 1, 2)
    step = (transposed @ np.linalg.solve(jacobian @ transposed + _DAMPING**2 * np.eye(6), error[..., None]))[..., 0]
    step *= np.minimum(1, _STEP_RAD / np.maximum(np.abs(step).max(-1, keepdims=True), 1e-9))
    return np.clip(joints + step, LIMITS[:, 0], LIMITS[:, 1])


def _reached(error: np.ndarray) -> np.ndarray:
    squares = error**2
    return (squares[:, :3].sum(1) < TOLERANCE_M**2) & (squares[:, 3:].sum(1) < TOLERANCE_RAD**2)


def _nearest(side: str, target: np.ndarray, joints: np.ndarray, error: np.ndarray, near: np.ndarray) -> np.ndarray:
    found = joints[_reached(error)]
    if len(found) == 0:
        least = error[np.argmin(np.linalg.norm(error[:, :3], axis=-1))]
        raise IKError(
            f"{side} arm does not reach {np.round(target[:3, 3], 3)} m with tool direction {np.round(target[:3, 0], 2)}: "
            f"{np.linalg.norm(least[:3]) * 1e3:.1f} mm and {np.degrees(np.linalg.norm(least[3:])):.1f} deg short at best"
        )
    return found[np.argmin(np.abs(found - near).sum(-1))]


def line(side: str, poses: Numbers, start: Numbers) -> np.ndarray:
    """Joints (n, 6) along poses (n, 4, 4), each solved from the one before it, the first from start (6,).

    Raises IKError where the branch of joint positions that start is on does not reach.
    """
    joints = [np.asarray(start, float)]
    for pose in np.asarray(poses, float):
        joints.append(solve(side, pose, joints[-1], starts=joints[-1][None]))
    return np.stack(joints[1:])
