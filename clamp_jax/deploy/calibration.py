"""Where the cameras and the arms of a real cell are: one versioned file, calibration.json. Numpy only.

Its conventions stand in the file: metres, radians nowhere (rotations are matrices), camera axes OpenCV's (x right, y down, z forward),
pixel centres at +0.5, world frame the simulator's (origin at the table's centre 0.030 m below its top, x to the right arm, z up).
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clamp_jax.deploy import capsules
from clamp_jax.deploy.projection import invert
from clamp_jax.geometry import aloha
from clamp_jax.structs import CAMERAS, MOUNT_LEFT, MOUNT_RIGHT, MOUNT_WORLD, NOMINAL

VERSION = 1
MOUNTS = {"world": MOUNT_WORLD, "left": MOUNT_LEFT, "right": MOUNT_RIGHT}
CONVENTIONS = {
    "translations": "metres",
    "camera_axes": "OpenCV: x right, y down, z forward",
    "pixel_centres": "+0.5: the first pixel's centre is (0.5, 0.5)",
    "parent_from_camera": "world_from_camera where mount is world, gripper_link_from_camera where it is left or right",
    "world": "origin at the table's centre 0.030 m below its top, x to the right arm, z up",
    "distortion": "k1, k2, p1, p2, k3 of Brown and Conrady, OpenCV's order",
}
FARTHEST_M = 5.0  # no camera and no arm of a cell is so far from the world's origin
GRIPPER = next(i for i, link in enumerate(aloha.ARM) if link.name == "gripper_link")
CURE = "calibrate again: python -m data_tools.calibrate"


class CalibrationError(ValueError):
    """A calibration that is missing, damaged, of another version or in other units."""


class CalibratedCamera(NamedTuple):
    """One camera of a cell."""

    intrinsics: np.ndarray  # (4,) fx, fy, cx, cy in pixels, centres at +0.5
    distortion: np.ndarray  # (5,)
    image_size: tuple[int, int]  # height, width that the intrinsics are for
    mount: str  # world, left or right
    parent_from_camera: np.ndarray  # (4, 4) m, OpenCV axes
    serial: str = ""  # the camera's own number; "" where it has none


class CellCalibration(NamedTuple):
    """Cameras by name and both arms' bases."""

    cameras: dict[str, CalibratedCamera]
    world_from_base: np.ndarray  # (2, 4, 4) left and right arm's base_link
    date: str = ""  # ISO 8601
    statistics: dict[str, Any] = {}  # noqa: RUF012 - never written to; reprojection and the rest, for people

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of what the file says, its statistics and date included."""
        return _digest(_document(self))


class Fields(NamedTuple):
    """The fields of structs.Calibration as numpy float32, and the lenses beside them."""

    intrinsics: np.ndarray  # (k, 4)
    parent_from_camera: np.ndarray  # (k, 4, 4)
    mount: np.ndarray  # (k,) int32
    world_from_base: np.ndarray  # (2, 4, 4)
    distortion: np.ndarray  # (k, 5)


def words(ids: Sequence[str]) -> str:
    """Calibrations in words, of the ids by which data and policies name them; NOMINAL is the simulator's."""
    told = [f"{each} (the simulator's)" if each == NOMINAL else each for each in ids]
    return ("calibration " if len(told) == 1 else "calibrations ") + ", ".join(told)


def difference(trained: Sequence[str], calibration: CellCalibration) -> str:
    """What people should know of a policy whose data had the calibrations `trained` in a cell with this one; "" where nothing.

    Not a fault: a cell may be calibrated anew, and each request brings its own calibration.
    """
    size = next(iter(calibration.cameras.values())).image_size
    here = {calibration.id} | ({NOMINAL} if calibration.id == nominal(*size).id else set())
    if here & set(trained):
        return ""
    before = f"trained with {words(trained)}" if trained else "the policy does not say with which calibration it was trained"
    return f"{before}, this cell has {calibration.id}"


def nominal(height: int, width: int) -> CellCalibration:
    """The cell as drawn: the simulator's four cameras and two bases, without a lens."""
    flip = np.diag([1.0, -1.0, -1.0, 1.0])  # the table of ALOHA has OpenGL's axes
    links = {link.name: capsules.rigid(link.pos, link.quat) for link in aloha.ARM}
    cameras = {}
    for name in CAMERAS:
        mount = aloha.CAMERA_MOUNTS[name]
        side = next(word for word, number in MOUNTS.items() if number == mount.mount)
        parent = np.eye(4) if side == "world" else links["gripper_base"]
        pose = parent @ capsules.rigid(mount.pos, mount.quat_gl) @ flip
        cameras[name] = CalibratedCamera(aloha.d405_intrinsics(height, width), np.zeros(5), (height, width), side, pose)
    return CellCalibration(cameras, np.stack([capsules.rigid(*aloha.BASES[side]) for side in aloha.SIDES]))


def base_from_gripper(joints: np.ndarray) -> np.ndarray:
    """(..., 2, 4, 4) base_link_from_gripper_link of both arms at joints (..., 14)."""
    poses = capsules.link_poses(joints)
    return invert(poses[..., 0, :, :]) @ poses[..., GRIPPER, :, :]


def link_poses(calibration: CellCalibration, joints: np.ndarray) -> np.ndarray:
    """(..., 2, n, 4, 4) world_from_link of both arms' aloha.ARM at joints (..., 14), on the bases where they are."""
    poses = capsules.link_poses(joints)
    return np.asarray(calibration.world_from_base)[:, None] @ invert(poses[..., :1, :, :]) @ poses


def world_from_camera(calibration: CellCalibration, name: str, joints: np.ndarray) -> np.ndarray:
    """(4, 4) of a camera by its name, at measured joints (14,)."""
    camera = calibration.cameras[name]
    if camera.mount == "world":
        return camera.parent_from_camera
    side = aloha.SIDES.index(camera.mount)
    return calibration.world_from_base[side] @ base_from_gripper(joints)[side] @ camera.parent_from_camera


def scaled(intrinsics: np.ndarray, source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """Intrinsics (4,) of images resized, not cropped, from `source` to `target` (height, width); each axis by itself."""
    down, across = target[0] / source[0], target[1] / source[1]
    return np.asarray(intrinsics, np.float64) * [across, down, across, down]


def fields(calibration: CellCalibration, size: tuple[int, int], names: tuple[str, ...] = CAMERAS) -> Fields:
    """What structs.Calibration holds, for images of `size` (height, width) of the cameras `names` in this order.

    Raises CalibrationError for a camera that the calibration does not have.
    """
    require(calibration, names)
    cameras = [calibration.cameras[name] for name in names]
    return Fields(
        np.float32([scaled(camera.intrinsics, camera.image_size, size) for camera in cameras]),
        np.float32([camera.parent_from_camera for camera in cameras]),
        np.int32([MOUNTS[camera.mount] for camera in cameras]),
        np.float32(calibration.world_from_base),
        np.float32([camera.distortion for camera in cameras]),
    )


def from_fields(values: Fields, size: tuple[int, int], names: tuple[str, ...] = CAMERAS) -> CellCalibration:
    """The calibration that structs.Calibration's fields say, of images of `size` (height, width)."""
    words = {number: word for word, number in MOUNTS.items()}
    rows = zip(names, values.intrinsics, values.distortion, values.mount, values.parent_from_camera, strict=True)
    cameras = {
        name: CalibratedCamera(np.float64(intrinsics), np.float64(lens), size, words[int(mount)], np.float64(pose))
        for name, intrinsics, lens, mount, pose in rows
    }
    checked = CellCalibration(cameras, np.float64(values.world_from_base))
    _check(checked, "the calibration")
    return checked


def require(calibration: CellCalibration, names: tuple[str, ...]) -> None:
    """Raises CalibrationError where a camera is missing."""
    missing = [name for name in names if name not in calibration.cameras]
    if missing:
        raise CalibrationError(f"the calibration has no camera {missing[0]!r}, only {', '.join(calibration.cameras)}; {CURE}")


def write(calibration: CellCalibration, path: Path) -> None:
    """Write calibration.json, all of it or nothing. Raises CalibrationError for what `read` would refuse."""
    _check(calibration, str(path))
    document = _document(calibration)
    temporary = Path(f"{path}.tmp{os.getpid()}")
    try:
        with temporary.open("w") as file:
            file.write(json.dumps({**document, "id": _digest(document)}, indent=1))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, names: tuple[str, ...] = ()) -> CellCalibration:
    """The calibration in a file that has the cameras `names`.

    Raises CalibrationError: no file, no JSON, another version, other conventions, changed by hand, a matrix that is not rigid,
    millimetres, a camera missing.
    """
    try:
        document = json.loads(Path(path).read_text())
    except OSError as error:
        raise CalibrationError(f"cannot read {path}: {error.strerror or error}; {CURE}") from None
    except ValueError as error:
        raise CalibrationError(f"{path} is no JSON ({error}); {CURE}") from None
    if not isinstance(document, dict) or document.get("version") != VERSION:
        found = document.get("version") if isinstance(document, dict) else type(document).__name__
        raise CalibrationError(f"{path} has version {found!r}, expected {VERSION}; {CURE}")
    calibration = _parse(document, path)
    _check(calibration, str(path))
    claimed = document.pop("id", None)
    if claimed != _digest(document):
        raise CalibrationError(f"{path} says id {claimed!r} but its content has {_digest(document)!r}: it was changed by hand; {CURE}")
    require(calibration, names)
    return calibration


def _document(calibration: CellCalibration) -> dict[str, Any]:
    cameras = {
        name: {
            "intrinsics": np.asarray(camera.intrinsics, float).tolist(),
            "distortion": np.asarray(camera.distortion, float).tolist(),
            "image_size": [int(side) for side in camera.image_size],
            "mount": camera.mount,
            "parent_from_camera": np.asarray(camera.parent_from_camera, float).tolist(),
            "serial": camera.serial,
        }
        for name, camera in calibration.cameras.items()
    }
    bases = {side: np.asarray(pose, float).tolist() for side, pose in zip(aloha.SIDES, calibration.world_from_base, strict=True)}
    about = {"version": VERSION, "conventions": CONVENTIONS, "date": calibration.date}
    return {**about, "cameras": cameras, "world_from_base": bases, "statistics": calibration.statistics}


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _parse(document: dict[str, Any], path: Path) -> CellCalibration:
    if document.get("conventions") != CONVENTIONS:
        wrong = [key for key in CONVENTIONS if (document.get("conventions") or {}).get(key) != CONVENTIONS[key]] or ["conventions"]
        raise CalibrationError(
            f"{path} has another convention of {wrong[0]}, expected {CONVENTIONS.get(wrong[0])!r}; convert it, or {CURE}"
        )
    try:
        cameras = {
            name: CalibratedCamera(
                np.array(row["intrinsics"], float),
                np.array(row["distortion"], float),
                tuple(row["image_size"]),
                row["mount"],
                np.array(row["parent_from_camera"], float),
                row["serial"],
            )
            for name, row in document["cameras"].items()
        }
        bases = np.stack([np.array(document["world_from_base"][side], float) for side in aloha.SIDES])
        return CellCalibration(cameras, bases, document["date"], document["statistics"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(f"{path} is not whole: {type(error).__name__} {error}; {CURE}") from None


def _check(calibration: CellCalibration, source: str) -> None:
    for name, camera in calibration.cameras.items():
        _check_camera(camera, f"camera {name!r} of {source}")
        _check_rigid(camera.parent_from_camera, f"parent_from_camera of camera {name!r} of {source}")
    for side, base in zip(aloha.SIDES, calibration.world_from_base, strict=True):
        _check_rigid(base, f"world_from_base of the {side} arm of {source}")


def _check_camera(camera: CalibratedCamera, what: str) -> None:
    if camera.mount not in MOUNTS:
        raise CalibrationError(f"{what} has mount {camera.mount!r}, expected one of {', '.join(MOUNTS)}")
    height, width = (*camera.image_size, 0, 0)[:2]
    values = np.asarray(camera.intrinsics)
    inside = values.shape == (4,) and np.isfinite(values).all() and (values[:2] > 0).all()
    if not (inside and 0 < values[2] < width and 0 < values[3] < height):
        raise CalibrationError(
            f"{what} has intrinsics {values.tolist()} for {width} x {height} pixels, expected fx, fy, cx, cy in pixels; {CURE}"
        )
    if np.shape(camera.distortion) != (5,) or not np.isfinite(camera.distortion).all():
        raise CalibrationError(f"{what} has distortion {np.asarray(camera.distortion).tolist()}, expected k1, k2, p1, p2, k3; {CURE}")


def _check_rigid(matrix: np.ndarray, what: str) -> None:
    m = np.asarray(matrix)
    if m.shape != (4, 4) or not np.isfinite(m).all():
        raise CalibrationError(f"{what} has shape {m.shape} or is not finite, expected a finite 4 x 4 matrix; {CURE}")
    off = max(np.abs(m[:3, :3] @ m[:3, :3].T - np.eye(3)).max(), np.abs(m[3] - [0, 0, 0, 1]).max())
    if off > 1e-4 or np.linalg.det(m[:3, :3]) < 0:
        raise CalibrationError(
            f"{what} is not rigid: off by {off:.3g}, determinant {np.linalg.det(m[:3, :3]):.3g}, expected a rotation; {CURE}"
        )
    far = np.linalg.norm(m[:3, 3])
    if far > FARTHEST_M:
        hint = "which looks like millimetres: write metres" if far > 50 else "farther than any cell"
        raise CalibrationError(f"{what} is {far:.4g} m from its parent, {hint}")
