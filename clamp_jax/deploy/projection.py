"""Rigid transforms and pinholes with a lens in float64 numpy, over any leading axes: the twin of geometry/camera.py without jax.

Camera axes OpenCV's, metres, pixel centres at +0.5; OpenCV's own functions and RealSense put the first pixel's centre at (0, 0), so
what comes from them gets half a pixel added, corners and cx, cy alike.
"""

import numpy as np

INTEGER_CENTRES = 0.5  # px, to add to what counts the first pixel's centre as 0
_UNDISTORT_STEPS = 20  # of a fixed point; a D405's lens needs five


def invert(matrix: np.ndarray) -> np.ndarray:
    """Inverses (..., 4, 4) of rigid transforms."""
    inverse = np.zeros_like(matrix)
    turned = np.swapaxes(matrix[..., :3, :3], -1, -2)
    inverse[..., :3, :3], inverse[..., 3, 3] = turned, 1
    inverse[..., :3, 3] = -(turned @ matrix[..., :3, 3:])[..., 0]
    return inverse


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., n, 3) in the other frame; matrix (..., 4, 4)."""
    return points @ np.swapaxes(matrix[..., :3, :3], -1, -2) + matrix[..., None, :3, 3]


def rotation(vector: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3), rad (Rodrigues)."""
    vector = np.asarray(vector, np.float64)
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    return np.eye(3) + np.sinc(angle / np.pi) * cross + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * (cross @ cross)


def rigid(vector: np.ndarray) -> np.ndarray:
    """Rigid transforms (..., 4, 4) of (..., 6): rotation vector (rad), translation (m)."""
    vector = np.asarray(vector, np.float64)
    matrix = np.zeros((*vector.shape[:-1], 4, 4))
    matrix[..., :3, :3], matrix[..., :3, 3], matrix[..., 3, 3] = rotation(vector[..., :3]), vector[..., 3:], 1
    return matrix


def angle_deg(matrix: np.ndarray) -> np.ndarray:
    """By how many degrees rigid transforms or rotations (..., 3 or 4, 3 or 4) turn."""
    part = matrix[..., :3, :3]
    sine = np.sqrt(np.clip(np.sum((part - np.swapaxes(part, -1, -2)) ** 2, (-1, -2)), 0, None) / 8)
    return np.asarray(np.degrees(np.arctan2(sine, (np.trace(part, axis1=-2, axis2=-1) - 1) / 2)))


def distort(x: np.ndarray, y: np.ndarray, lens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a lens (..., 5) k1, k2, p1, p2, k3 shows directions (x, y, 1) (...): Brown and Conrady, OpenCV's order."""
    k1, k2, p1, p2, k3 = np.moveaxis(np.asarray(lens), -1, 0)
    square = x * x + y * y
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    return x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x), y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y


def project(points: np.ndarray, intrinsics: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """Pixels (..., n, 2) of points (..., n, 3) in the camera's frame; nonsense where z <= 0: the caller drops them."""
    x, y = distort(points[..., 0] / points[..., 2], points[..., 1] / points[..., 2], np.asarray(lens)[..., None, :])
    fx, fy, cx, cy = np.moveaxis(np.asarray(intrinsics)[..., None, :], -1, 0)
    return np.stack([fx * x + cx, fy * y + cy], -1)


def directions(pixels: np.ndarray, intrinsics: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """Directions (n, 3) with z = 1 that one camera shows at pixels (n, 2)."""
    fx, fy, cx, cy = np.asarray(intrinsics, np.float64)
    target = np.stack([(pixels[:, 0] - cx) / fx, (pixels[:, 1] - cy) / fy])
    at = target.copy()
    for _ in range(_UNDISTORT_STEPS):
        at += target - np.stack(distort(at[0], at[1], lens))
    return np.stack([at[0], at[1], np.ones(len(pixels))], -1)


def pixel_centres(height: int, width: int) -> np.ndarray:
    """(h * w, 2) u, v of every pixel's centre, row by row."""
    v, u = np.mgrid[:height, :width] + 0.5
    return np.stack([u, v], -1).reshape(-1, 2)


def unproject(depth_m: np.ndarray, intrinsics: np.ndarray, lens: np.ndarray) -> np.ndarray:
    """Points (h * w, 3) in the camera's frame of a depth image (h, w), row by row; 0 stays the camera's centre."""
    return directions(pixel_centres(*depth_m.shape), intrinsics, lens) * np.asarray(depth_m, np.float64).reshape(-1, 1)
