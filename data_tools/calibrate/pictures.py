"""A picture a camera: the board as found and as calculated, the gripper and the workspace projected into its image."""

from pathlib import Path

import cv2
import numpy as np

from clamp_jax.deploy import capsules
from clamp_jax.deploy.calibration import GRIPPER, CellCalibration, link_poses, world_from_camera
from clamp_jax.deploy.projection import INTEGER_CENTRES, invert, project, transform
from clamp_jax.geometry import aloha
from data_tools.calibrate.boards import BOARDS, WORLD_FROM_TABLE
from data_tools.calibrate.sightings import Sighting

_GREEN, _RED, _BLUE, _YELLOW, _WHITE = (60, 220, 60), (240, 50, 50), (70, 140, 255), (255, 210, 0), (255, 255, 255)
WORKSPACE_M = 0.3  # height of the box over the table that is drawn
_SHIFT = 4  # bits of a pixel's fraction that OpenCV draws with
_NEAR_M = 0.03
_SAMPLES = 60  # of a line, which a lens bends


class _Canvas:
    """An image of a camera to draw world points and lines on."""

    def __init__(self, rgb: np.ndarray, calibration: CellCalibration, name: str, joints: np.ndarray):
        camera = calibration.cameras[name]
        self.rgb, self._optics = np.ascontiguousarray(rgb), (camera.intrinsics, camera.distortion)
        self._camera_from_world = invert(world_from_camera(calibration, name, joints))

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """(n, 2) of world points, NaN for those that are not before the camera or far outside of the image."""
        seen = transform(self._camera_from_world, points)
        seen[seen[:, 2] < _NEAR_M] = np.nan
        found = project(seen, *self._optics)
        height, width = self.rgb.shape[:2]
        wild = np.any((found < -width) | (found > 2 * width), -1) | np.any(np.abs(seen[:, :2] / seen[:, 2:]) > 1.5, -1)
        return np.where(wild[:, None], np.nan, found)

    def line(self, start: np.ndarray, stop: np.ndarray, colour: tuple[int, int, int], thickness: int = 2) -> None:
        share = np.linspace(0, 1, _SAMPLES)[:, None]
        at = self.pixels(start + share * (stop - start))
        for a, b in zip(at, at[1:], strict=False):
            if np.isfinite([a, b]).all():
                cv2.line(self.rgb, _fixed(a), _fixed(b), colour, thickness, cv2.LINE_AA, _SHIFT)

    def dots(self, points: np.ndarray, colour: tuple[int, int, int], radius: float = 3.0) -> None:
        for at in self.pixels(points):
            if np.isfinite(at).all():
                cv2.circle(self.rgb, _fixed(at), round(radius * 2**_SHIFT), colour, -1, cv2.LINE_AA, _SHIFT)


def _fixed(pixel: np.ndarray) -> tuple[int, int]:
    x, y = np.round((pixel - INTEGER_CENTRES) * 2**_SHIFT).astype(int)
    return int(x), int(y)


def draw(
    rgb: np.ndarray, calibration: CellCalibration, name: str, joints: np.ndarray, sightings: list[Sighting], held: dict[str, np.ndarray]
) -> np.ndarray:
    """The image with all that should coincide: green rings where corners were found, red dots where they are calculated.

    Blue: axes of the arms' parts; yellow: the line between the fingertips' middle and the gripper's joint; white: the workspace.
    """
    canvas = _Canvas(rgb, calibration, name, joints)
    _draw_workspace(canvas)
    poses = link_poses(calibration, joints)
    for side in (0, 1):
        for start, stop in capsules.axes_world(poses)[side]:
            canvas.line(start, stop, _BLUE)
        gripper = poses[side, GRIPPER]
        canvas.line(*transform(gripper, np.array([(0.0, 0, 0), aloha.GRIPPER_SITE])), _YELLOW, 3)
    for sighting in sightings:
        for pixel in sighting.pixels:
            cv2.circle(canvas.rgb, _fixed(pixel), 7 << _SHIFT, _GREEN, 2, cv2.LINE_AA, _SHIFT)
        board = WORLD_FROM_TABLE
        if sighting.holder:
            board = poses[aloha.SIDES.index(sighting.holder), GRIPPER] @ held[sighting.holder]
        canvas.dots(transform(board, BOARDS[sighting.board].corners), _RED)
    return canvas.rgb


def _draw_workspace(canvas: _Canvas) -> None:
    """The table's edge, a box over it, and the world's axes on the table's top: x red, y green, z blue, 0.1 m each."""
    (x, y), low = aloha.TABLE_HALF_SIZE, aloha.TABLE_TOP_Z
    corners = np.array([(-x, -y), (x, -y), (x, y), (-x, y)])
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        for height in (low, low + WORKSPACE_M):
            canvas.line(np.array([*a, height]), np.array([*b, height]), _WHITE, 2 if height == low else 1)
        canvas.line(np.array([*a, low]), np.array([*a, low + WORKSPACE_M]), _WHITE, 1)
    origin = np.array([0, 0, low])
    for axis, colour in zip(np.eye(3), ((255, 0, 0), (0, 200, 0), (0, 0, 255)), strict=True):
        canvas.line(origin, origin + 0.1 * axis, colour, 3)


def write(path: Path, rgb: np.ndarray) -> Path:
    """Write a PNG, all of it or nothing."""
    done, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(f"cannot make a PNG of {path}")
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data.tobytes())
    temporary.replace(path)
    return path
