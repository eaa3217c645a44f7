"""The same splat in numpy, the plainest peer of the render benchmark: one unbuffered minimum of packed keys a view."""

from collections.abc import Callable

import numpy as np

from experiments.benchmark.work import NEAR_M, SIZE, Work

FORMS = ("minimum.at",)
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


def make(work: Work, form: str) -> Callable[[], np.ndarray]:
    """A call that renders the work, (b, v, h, w, 4)."""
    del form
    camera_from_world = np.linalg.inv(work.world_from_camera.astype(np.float64)).astype(np.float32)
    cameras = list(zip(work.intrinsics, camera_from_world, strict=True))
    return lambda: np.stack([np.stack([_view(cloud, *camera, work.radius_px) for camera in cameras]) for cloud in work.points])


def image(result: np.ndarray) -> np.ndarray:
    """The result itself."""
    return result


def _view(points: np.ndarray, intrinsics: np.ndarray, camera_from_world: np.ndarray, radius: int) -> np.ndarray:
    x, y, z = camera_from_world[:3, :3] @ points.T + camera_from_world[:3, 3:]
    fx, fy, cx, cy = intrinsics
    with np.errstate(all="ignore"):
        across, down = fx * x / z + cx, fy * y / z + cy
        keep = np.flatnonzero((z > NEAR_M) & (z < np.inf) & (across >= 0) & (across < SIZE) & (down >= 0) & (down < SIZE))
    pixel = down[keep].astype(np.int32) * SIZE + across[keep].astype(np.int32)
    key = (z[keep].view(np.uint32).astype(np.uint64) << np.uint64(32)) | keep.astype(np.uint64)
    best = np.full(SIZE * SIZE, _EMPTY)
    np.minimum.at(best, pixel, key)
    if radius:
        best = _widen(best.reshape(SIZE, SIZE), radius).reshape(-1)
    hit = best != _EMPTY
    index = np.where(hit, best & np.uint64(0xFFFFFFFF), 0).astype(np.int64)
    depth = (best >> np.uint64(32)).astype(np.uint32).view(np.float32)
    return np.where(hit[:, None], np.concatenate([depth[:, None], points[index]], 1), 0).reshape(SIZE, SIZE, 4)


def _widen(best: np.ndarray, radius: int) -> np.ndarray:
    for axis in (0, 1):
        padded = np.pad(best, [(radius, radius) if each == axis else (0, 0) for each in range(2)], constant_values=_EMPTY)
        best = np.minimum.reduce([np.take(padded, range(i, i + SIZE), axis=axis) for i in range(2 * radius + 1)])
    return best
