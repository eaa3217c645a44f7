"""Rigid transforms as (4, 4) matrices and wxyz quaternions.

Products are written as sums, not as matmuls: accelerators round a float32 matmul to bfloat16 or TF32 by default, which
would move points by millimetres.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import ArrayLike, Float


def quat_to_matrix(quat: Float[ArrayLike, "*n 4"]) -> Float[Array, "*n 3 3"]:
    """Rotation matrices of quaternions wxyz, normalised here; the zero quaternion is read as no rotation (as MuJoCo does)."""
    quat = jnp.asarray(quat)
    square = jnp.sum(quat * quat, axis=-1, keepdims=True)
    unit = jnp.zeros_like(quat).at[..., 0].set(1)
    w, x, y, z = jnp.moveaxis(jnp.where(square > 0, quat / jnp.sqrt(jnp.where(square > 0, square, 1)), unit), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_quat(rotation: Float[ArrayLike, "*n 3 3"]) -> Float[Array, "*n 4"]:
    """Unit quaternions wxyz with w >= 0 of rotation matrices.

    Source: ours, the row of 4 q q^T with the largest diagonal (Shepperd's method without branches), stable at every angle.
    """
    r = jnp.asarray(rotation)
    xx, yy, zz = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 1, 0] + r[..., 0, 1], r[..., 0, 2] + r[..., 2, 0], r[..., 2, 1] + r[..., 1, 2]
    rows = [
        [1 + xx + yy + zz, wx, wy, wz],
        [wx, 1 + xx - yy - zz, xy, xz],
        [wy, xy, 1 - xx + yy - zz, yz],
        [wz, xz, yz, 1 - xx - yy + zz],
    ]
    outer = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    best = jnp.argmax(jnp.diagonal(outer, axis1=-2, axis2=-1), axis=-1)
    quat = jnp.take_along_axis(outer, best[..., None, None], axis=-2)[..., 0, :]
    quat = quat / jnp.sqrt(jnp.sum(quat * quat, axis=-1, keepdims=True))
    return jnp.where(quat[..., :1] < 0, -quat, quat)


def from_rotation(rotation: Float[ArrayLike, "*n 3 3"], pos: Float[ArrayLike, "*n 3"]) -> Float[Array, "*n 4 4"]:
    """Rigid transforms of rotation matrices and translations (m)."""
    rotation, pos = jnp.asarray(rotation), jnp.asarray(pos)
    upper = jnp.concatenate([rotation, pos[..., None]], axis=-1)
    last = jnp.broadcast_to(jnp.array([0, 0, 0, 1], upper.dtype), (*pos.shape[:-1], 1, 4))
    return jnp.concatenate([upper, last], axis=-2)


def pose(pos: Float[ArrayLike, "*n 3"], quat: Float[ArrayLike, "*n 4"]) -> Float[Array, "*n 4 4"]:
    """Rigid transforms parent_from_child of positions (m, in the parent) and quaternions wxyz."""
    return from_rotation(quat_to_matrix(quat), pos)


def compose(a_from_b: Float[ArrayLike, "*n r m"], b_from_c: Float[ArrayLike, "*n m c"]) -> Float[Array, "*n r c"]:
    """Matrix product in full float32, of two stacks of the same leading shape."""
    a, b = jnp.asarray(a_from_b), jnp.asarray(b_from_c)
    return jnp.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2)


def invert(transform_matrix: Float[ArrayLike, "*n 4 4"]) -> Float[Array, "*n 4 4"]:
    """Inverses of rigid transforms, by the transpose of their rotation."""
    matrix = jnp.asarray(transform_matrix)
    rotation = jnp.swapaxes(matrix[..., :3, :3], -1, -2)
    return from_rotation(rotation, -compose(rotation, matrix[..., :3, 3:])[..., 0])


def transform(target_from_source: Float[ArrayLike, "4 4"], points: Float[ArrayLike, "*n 3"]) -> Float[Array, "*n 3"]:
    """Points (m) of the source frame in the target frame."""
    matrix, points = jnp.asarray(target_from_source), jnp.asarray(points)
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return jnp.stack([matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] * z + matrix[i, 3] for i in range(3)], axis=-1)


def look_at(eye: Float[ArrayLike, "3"], target: Float[ArrayLike, "3"], up: Float[ArrayLike, "3"]) -> Float[Array, "4 4"]:
    """world_from_camera (OpenCV axes) of a camera at `eye` that looks at `target`; `up` points up in its image."""
    eye, target, up = (jnp.asarray(vector) for vector in (eye, target, up))
    forward = (target - eye) / jnp.linalg.norm(target - eye)
    right = jnp.cross(forward, up)
    right = right / jnp.linalg.norm(right)
    return from_rotation(jnp.stack([right, jnp.cross(forward, right), forward], axis=-1), eye)


def rotation_about(axis: Float[ArrayLike, "*n 3"], angle: Float[ArrayLike, "*n"]) -> Float[Array, "*n 3 3"]:
    """Rotation matrices by `angle` rad about unit axes (Rodrigues)."""
    axis, angle = jnp.asarray(axis), jnp.asarray(angle)
    half = angle[..., None] / 2
    return quat_to_matrix(jnp.concatenate([jnp.cos(half), jnp.sin(half) * axis], axis=-1))


def is_rigid(matrix: Float[ArrayLike, "4 4"], tolerance: float = 1e-4) -> bool:
    """Whether a matrix is a rotation and a translation: finite, orthonormal, right-handed, last row 0 0 0 1. Host side, numpy."""
    m = np.asarray(matrix, np.float64)
    if m.shape != (4, 4) or not np.isfinite(m).all():
        return False
    orthonormal = np.abs(m[:3, :3] @ m[:3, :3].T - np.eye(3)).max() <= tolerance
    last = np.abs(m[3] - np.array([0.0, 0.0, 0.0, 1.0])).max() <= tolerance
    return bool(orthonormal and last and np.linalg.det(m[:3, :3]) > 0)
