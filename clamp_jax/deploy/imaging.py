"""Camera images as a policy takes them: the lens taken out, resized, depth still of single surfaces. Numpy only.

Resized, not cropped, each axis by itself, as `calibration.scaled` has the intrinsics. Colours are means over what a pixel covers;
depth is the one value at its centre, for the mean of two surfaces lies on neither.
"""

from typing import NamedTuple

import numpy as np

from clamp_jax.deploy.calibration import CalibratedCamera, CalibrationError, CellCalibration, require, scaled
from clamp_jax.deploy.cameras import Cameras, Frame
from clamp_jax.deploy.projection import directions, distort, pixel_centres

NO_LENS = np.zeros(5)


class Grid(NamedTuple):
    """Where each pixel of a fitted image (h, w) is taken from: flat indices of the camera's image and of one more, empty pixel."""

    centre: np.ndarray  # (h, w)
    parts: np.ndarray  # (s, h, w), what its area covers
    source: tuple[int, int]
    intrinsics: np.ndarray  # (4,) of the fitted image


def grid(camera: CalibratedCamera, size: tuple[int, int]) -> Grid:
    """How images of a camera become images of `size` (height, width) without a lens."""
    source = tuple(camera.image_size)
    finer = tuple(-(-source[axis] // size[axis]) for axis in (0, 1))  # samples a pixel, along each axis
    intrinsics = scaled(camera.intrinsics, source, size)
    fine = _taken_from(camera, tuple(size[axis] * finer[axis] for axis in (0, 1)))
    parts = fine.reshape(size[0], finer[0], size[1], finer[1]).transpose(1, 3, 0, 2).reshape(-1, *size)
    return Grid(_taken_from(camera, size), parts, source, intrinsics)


def fit(frame: Frame, camera: CalibratedCamera, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """RGB (h, w, 3) uint8 and depth (h, w) float32 m of `size`, without a lens; black and 0 where the camera did not see.

    Raises CalibrationError for a frame of another size than was calibrated.
    """
    return apply(grid(camera, size), frame)


def apply(taken: Grid, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """As `fit`, with the grid made before."""
    for name, shape in (("colour", frame.rgb.shape[:2]), ("depth", frame.depth_m.shape)):
        if tuple(shape) != taken.source:
            raise CalibrationError(f"{name} is {shape[0]} x {shape[1]}, the camera was calibrated at {taken.source[0]} x {taken.source[1]}")
    rgb = np.concatenate([frame.rgb.reshape(-1, 3), np.zeros((1, 3), np.uint8)])
    depth_m = np.append(np.asarray(frame.depth_m, np.float32).reshape(-1), np.float32(0))
    total = np.zeros((*taken.centre.shape, 3), np.uint32)
    for part in taken.parts:  # one after the other: a third of the time of all at once
        total += np.take(rgb, part, axis=0)
    return np.rint(total / np.float32(len(taken.parts))).astype(np.uint8), depth_m[taken.centre]


class SizedCameras:
    """Cameras whose frames are fitted; their intrinsics and the absent lens are those of the fitted images."""

    def __init__(self, cameras: Cameras, calibration: CellCalibration, size: tuple[int, int]):
        """Frames of the cameras that the calibration has, images of `size` (height, width)."""
        self._cameras = cameras
        self._grids = {name: grid(camera, size) for name, camera in calibration.cameras.items()}
        self._calibration = calibration

    def frames(self) -> dict[str, Frame]:
        """CameraLost, and CalibrationError where a frame has another size than was calibrated or its camera is not calibrated."""
        found = self._cameras.frames()
        require(self._calibration, tuple(found))
        return {name: self._fitted(name, frame) for name, frame in found.items()}

    def _fitted(self, name: str, frame: Frame) -> Frame:
        try:
            rgb, depth_m = apply(self._grids[name], frame)
        except CalibrationError as error:
            raise CalibrationError(f"camera {name!r}: {error}") from None
        return Frame(rgb, depth_m, frame.time_s, self._grids[name].intrinsics, NO_LENS, frame.serial)


def _taken_from(camera: CalibratedCamera, size: tuple[int, int]) -> np.ndarray:
    """(h, w) index of the camera's pixel that shows what a pixel of `size` without a lens would; one past the last where none does."""
    source = tuple(camera.image_size)
    rays = directions(pixel_centres(*size), scaled(camera.intrinsics, source, size), NO_LENS)
    x, y = distort(rays[:, 0], rays[:, 1], np.asarray(camera.distortion, np.float64))
    fx, fy, cx, cy = np.asarray(camera.intrinsics, np.float64)
    column, row = np.floor(fx * x + cx + 1e-9).astype(int), np.floor(fy * y + cy + 1e-9).astype(int)
    inside = (0 <= row) & (row < source[0]) & (0 <= column) & (column < source[1])
    return np.where(inside, row * source[1] + column, source[0] * source[1]).reshape(size)
