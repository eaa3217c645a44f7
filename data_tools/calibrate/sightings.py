"""What one camera saw of one board in one pose of the arms, and whether it is worth anything."""

from typing import NamedTuple

import cv2
import numpy as np

from clamp_jax.deploy.calibration import CalibrationError
from clamp_jax.deploy.projection import project, transform
from data_tools.calibrate.boards import BOARDS, TABLE, Board

LEAST_SHARE = 0.6  # of a board's corners; a board that is half out of view is not used
STEEPEST_DEG = 60.0  # between a board's normal and the view; beyond, corners are blurred along one direction
WORST_RMS_PX = 1.0  # of one board in one image by itself: the print, the lens or the detection is wrong
MOVED_PX = 1.5  # a fixed camera sees the board on the table where it was, or one of them was moved


class Optics(NamedTuple):
    """A camera as it says itself: what is not calibrated here."""

    intrinsics: np.ndarray  # (4,) pixels, centres at +0.5
    distortion: np.ndarray  # (5,)
    mount: str  # world, left or right


class Sighting(NamedTuple):
    """A board in an image."""

    pose: int  # which pose of the arms
    camera: str
    board: str  # of BOARDS
    holder: str  # left or right arm; "" for the board on the table
    ids: np.ndarray  # (n,) of the corners
    pixels: np.ndarray  # (n, 2), centres at +0.5

    @property
    def name(self) -> str:
        return f"pose {self.pose + 1}, camera {self.camera}, {self.board} board"

    @property
    def corners(self) -> np.ndarray:
        """(n, 3) m in the board's frame."""
        return BOARDS[self.board].corners[self.ids]


class Dropped(NamedTuple):
    """A sighting that is not used, and why."""

    name: str
    why: str


def camera_from_board(sighting: Sighting, optics: Optics) -> tuple[np.ndarray, float]:
    """(4, 4) of one image by itself, and the rms (pixels) that it leaves."""
    fx, fy, cx, cy = optics.intrinsics
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])  # corners and centre have the same half pixel: OpenCV does not mind
    arguments = (sighting.corners, sighting.pixels, matrix, np.asarray(optics.distortion, float))
    _, turn, shift = cv2.solvePnP(*arguments, flags=cv2.SOLVEPNP_IPPE)
    turn, shift = cv2.solvePnPRefineLM(*arguments, turn, shift)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(turn)[0], shift.reshape(3)
    error = project(transform(pose, sighting.corners), optics.intrinsics, optics.distortion) - sighting.pixels
    return pose, float(np.sqrt(np.mean(np.sum(error**2, -1))))


def fault(sighting: Sighting, optics: Optics) -> str:
    """Why a sighting cannot be used; "" where it can."""
    board = BOARDS[sighting.board]
    count, whole = len(sighting.ids), len(board.corners)
    if count < LEAST_SHARE * whole:
        return f"{count} of {whole} corners seen, {LEAST_SHARE:.0%} are needed: out of view or covered"
    pose, rms = camera_from_board(sighting, optics)
    slant = slant_deg(pose, board)
    if slant > STEEPEST_DEG:
        return f"seen at a slant of {slant:.0f} degrees, {STEEPEST_DEG:.0f} at most"
    if rms > WORST_RMS_PX:
        return f"{rms:.2f} pixels off by itself, {WORST_RMS_PX:g} at most: print not flat or not to scale, blur, or another lens"
    return ""


def slant_deg(pose: np.ndarray, board: Board) -> float:
    """Degrees between a board's normal and the view of its middle; pose is camera_from_board."""
    middle = transform(pose, board.outline.mean(0, keepdims=True))[0]
    return float(np.degrees(np.arccos(np.clip(middle @ pose[:3, 2] / np.linalg.norm(middle), -1, 1))))


def sift(sightings: list[Sighting], optics: dict[str, Optics]) -> tuple[list[Sighting], list[Dropped]]:
    """Those that can be used, and the others with what is wrong with them.

    Raises CalibrationError where the board on the table, or a fixed camera, was moved while a third or more of the poses were taken.
    """
    found = [(sighting, fault(sighting, optics[sighting.camera])) for sighting in sightings]
    good, dropped = [s for s, why in found if not why], [Dropped(s.name, why) for s, why in found if why]
    moved = {}
    for camera in sorted({s.camera for s in good if optics[s.camera].mount == "world"}):
        moved |= _moved([s for s in good if s.camera == camera and s.board == TABLE.name], camera)
    dropped += [Dropped(s.name, moved[s.pose]) for s in good if s.board == TABLE.name and s.pose in moved]
    return [s for s in good if s.board != TABLE.name or s.pose not in moved], dropped


def _moved(sightings: list[Sighting], camera: str) -> dict[int, str]:
    """Poses in which the board on the table is not where it is in most of the poses, with the words."""
    if len(sightings) < 3:
        return {}
    table = np.full((len(sightings), len(TABLE.corners), 2), np.nan)
    for row, sighting in zip(table, sightings, strict=True):
        row[sighting.ids] = sighting.pixels
    apart = np.nanmedian(np.linalg.norm(table[:, None] - table[None], axis=-1), axis=-1)  # LEAST_SHARE is over a half: some in common
    most = apart[np.argmax((apart < MOVED_PX).sum(-1))]
    rows = np.flatnonzero(most >= MOVED_PX)
    if 3 * len(rows) >= len(sightings):
        raise CalibrationError(
            f"the board on the table or camera {camera} moved while poses were taken: by {most[rows].max():.1f} pixels, first in pose "
            f"{sightings[rows[0]].pose + 1}; {len(rows)} of {len(sightings)} poses differ from the rest; fix both and take all poses again"
        )
    return {sightings[i].pose: f"the board or camera {camera} had moved by {most[i]:.1f} pixels" for i in rows}
