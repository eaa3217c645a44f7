"""Whether a cell is still as it was calibrated, before anything moves: what cameras measure against the table and the arms. Numpy only.

Table: the plane of most of the area that each camera measures near it. Arms: their capsules (capsules.py) drawn from the measured
joints and the bases against what stands out from the table near them, as the best shift in pixels of an image 640 wide; that is the
frame's origin in x and y too. Things may lie on the table: they are less of its area than what is free, and not so near to the arms.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from clamp_jax.deploy import capsules
from clamp_jax.deploy.calibration import CellCalibration, link_poses, require, scaled, world_from_camera
from clamp_jax.deploy.projection import invert, pixel_centres, project, transform, unproject
from clamp_jax.deploy.safety import ARM, JOINTS, Limits
from clamp_jax.geometry import aloha

TABLE_M, TILT_DEG, SHIFT_PX = 0.005, 1.0, 8.0  # more than this is refused
OLDEST_S, SLOWEST_HZ = 0.2, 15.0  # of an image; ours: a D405 gives 30 a second
_NEAR_TABLE_M = 0.10  # a table that is further off is not looked for
_LEAST_POINTS = 400
_CELL_M = 0.02  # squares of the table that count alike, whether they are seen steeply by many pixels or from afar by one
_LEAST_CELLS = 30
_TRIPLES, _SLOPE_DEG, _NEAR_PLANE_M = 400, 10.0, 0.008  # of the search for the plane that most squares agree on
_NEAR_ARM_M = 0.15  # from a capsule: farther off it is a thing
_LEAST_SHARE = 0.02  # of the image that the arms must take to be found
_WIDTH = 640  # columns of the image in whose pixels shifts are said: ALOHA's
_SIDE = 480  # columns at which arms are compared, at most


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str  # e.g. "table height by camera overhead"
    value: float
    limit: float
    unit: str
    good: bool
    cure: str = ""

    def __str__(self) -> str:
        verdict = "ok     " if self.good else "REFUSED"
        return f"{verdict} {self.what}: {self.value:.2f} {self.unit} (limit {self.limit:g})" + ("" if self.good else f"; {self.cure}")


def check(
    calibration: CellCalibration,
    frames: Mapping[str, Any],
    joints: np.ndarray,
    *,
    now_s: float,
    limits: Limits,
    rates_hz: Mapping[str, float] | None = None,
) -> list[Finding]:
    """All findings; the robot may move where each is good.

    frames: by camera, with depth_m (h, w) and time_s, the clock of `now_s`. joints (14,) measured. rates_hz: images a second by camera.
    Raises CalibrationError where the calibration lacks a camera.
    """
    require(calibration, tuple(frames))
    found, rates = _joints(joints, limits) + _ages(calibration, frames, now_s), _rates(rates_hz or {})
    if not all(finding.good for finding in found):
        return found + rates  # depth would be laid where the arms are not
    found += rates
    tables = 0
    for name, frame in frames.items():
        camera = _Seen(calibration, name, np.asarray(frame.depth_m), np.asarray(joints, float))
        table = camera.table()
        tables += bool(table)
        found += table
        if calibration.cameras[name].mount == "world":
            found += camera.arms()
    if not tables:
        found.append(Finding("cameras that see the table", 0, 1, "", False, "clear the table; look at the cameras' depth"))
    return found


def _joints(joints: np.ndarray, limits: Limits) -> list[Finding]:
    values = np.asarray(joints, float)
    if values.shape != (14,) or not np.isfinite(values).all():
        return [Finding("joint read-back", float(np.sum(~np.isfinite(values))), 0, "not finite", False, "look at the arms' bus and power")]
    outside = np.maximum(limits.low - values, values - limits.high)[ARM]
    worst = int(outside.argmax())
    name = JOINTS[ARM[worst]]
    cure = f"move the {name} by hand into its range, or look at its homing"
    return [
        Finding(
            f"joint read-back, {name} outside its limits", max(float(outside[worst]), 0.0), 0.1, "rad", bool(outside[worst] < 0.1), cure
        )
    ]


def _ages(calibration: CellCalibration, frames: Mapping[str, Any], now_s: float) -> list[Finding]:
    found = []
    for name in calibration.cameras:
        if name not in frames:
            found.append(Finding(f"images of camera {name}", 0, 1, "", False, "plug it in; look at its serial number"))
            continue
        age = now_s - float(frames[name].time_s)
        good = -0.01 <= age <= OLDEST_S
        found.append(Finding(f"age of camera {name}", age, OLDEST_S, "s", good, "look at its cable and port, and at the clocks"))
    return found


def _rates(rates_hz: Mapping[str, float]) -> list[Finding]:
    cure = "USB 3, one hub for no more than two cameras"
    return [Finding(f"rate of camera {name}", rate, SLOWEST_HZ, "Hz", rate >= SLOWEST_HZ, cure) for name, rate in rates_hz.items()]


class _Seen:
    """What one camera measures."""

    def __init__(self, calibration: CellCalibration, name: str, depth_m: np.ndarray, joints: np.ndarray):
        step = max(1, -(-depth_m.shape[1] // _SIDE))
        camera = calibration.cameras[name]
        self._name, self._mount, self._lens = name, camera.mount, camera.distortion
        self._per_pixel = _WIDTH * step / depth_m.shape[1]
        depth_m = depth_m[step // 2 :: step, step // 2 :: step]
        self._depth_m, self._shape = depth_m, depth_m.shape
        self._intrinsics = scaled(camera.intrinsics, camera.image_size, self._shape)
        self._pose = world_from_camera(calibration, name, joints)
        self._axes = capsules.axes_world(link_poses(calibration, joints))
        points = transform(self._pose, unproject(depth_m, self._intrinsics, self._lens))
        self._points, self._valid = points, (np.isfinite(depth_m) & (depth_m > 0)).reshape(-1)

    def table(self) -> list[Finding]:
        """Height over the table's middle and tilt of the plane of most points near the table's top; nothing where few are."""
        half = np.array(aloha.TABLE_HALF_SIZE) - 0.06
        near = (
            self._valid & np.all(np.abs(self._points[:, :2]) < half, -1) & (np.abs(self._points[:, 2] - aloha.TABLE_TOP_Z) < _NEAR_TABLE_M)
        )
        points = _squares(self._points[near])
        if near.sum() < _LEAST_POINTS or len(points) < _LEAST_CELLS:
            return []
        plane = _plane(points)
        height = abs(plane[2] - aloha.TABLE_TOP_Z)
        tilt = float(np.degrees(np.arctan(np.hypot(plane[0], plane[1]))))
        cure = f"camera {self._name} or its mount was moved: calibrate again (python -m data_tools.calibrate)"
        return [
            Finding(f"table height by camera {self._name}", height * 1000, TABLE_M * 1000, "mm", height <= TABLE_M, cure),
            Finding(f"table tilt by camera {self._name}", tilt, TILT_DEG, "degrees", tilt <= TILT_DEG, cure),
        ]

    def arms(self) -> list[Finding]:
        """The shift between where the arms are measured and where their joints put them; nothing where they are out of view."""
        drawn = self._drawn()
        inside = np.all(np.abs(self._points[:, :2]) < 0.75, -1)
        out = self._valid & inside & (self._points[:, 2] > aloha.TABLE_TOP_Z + 0.05)
        out[out] = _off(self._points[out], self._axes) < _NEAR_ARM_M
        out = out.reshape(self._shape)
        if min(drawn.mean(), out.mean()) < _LEAST_SHARE:
            return []
        shift = float(np.linalg.norm(_shift(out, drawn))) * self._per_pixel
        cure = f"camera {self._name}, an arm's base or a joint's zero was moved: calibrate again (python -m data_tools.calibrate)"
        return [Finding(f"arms seen by camera {self._name}, off by", shift, SHIFT_PX, "px", shift <= SHIFT_PX, cure)]

    def _drawn(self) -> np.ndarray:
        """(h, w) bool: the capsules as discs along their axes, without what a nearer thing hides."""
        image = np.zeros(self._shape, bool)
        share = np.linspace(0, 1, 12)[:, None]
        centres, pixels = invert(self._pose), pixel_centres(*self._shape).reshape(*self._shape, 2)
        for axes in self._axes:
            for (start, stop), radius in zip(axes, capsules.RADII, strict=True):
                seen = transform(centres, start + share * (stop - start))
                seen = seen[seen[:, 2] > 0.05]
                for at, z in zip(project(seen, self._intrinsics, self._lens), seen[:, 2], strict=True):
                    hidden = self._valid.reshape(self._shape) & (self._depth_m < z - radius - _NEAR_ARM_M)
                    image |= (np.sum(((pixels - at) / self._intrinsics[:2] * z) ** 2, -1) < radius**2) & ~hidden
        return image


def _squares(points: np.ndarray) -> np.ndarray:
    """(m, 3) of points (n, 3): in each square of the table that has some, the one of median height."""
    square = np.floor(points[:, :2] / _CELL_M).astype(int)
    order = np.lexsort((points[:, 2], square[:, 0], square[:, 1]))
    _, starts, counts = np.unique(square[order], axis=0, return_index=True, return_counts=True)
    return points[order[starts + counts // 2]] if len(points) else points


def _plane(points: np.ndarray) -> np.ndarray:
    """a, b, c of z = a x + b y + c through most points (n, 3): least squares from where most agree, again without what is far off."""
    plane = _agreed(points)
    for _ in range(8):
        off = np.abs(points[:, 2] - points[:, :2] @ plane[:2] - plane[2])
        kept = points[off <= max(2.0 * np.median(off), 0.002)]
        plane = np.linalg.lstsq(np.column_stack([kept[:, :2], np.ones(len(kept))]), kept[:, 2], rcond=None)[0]
    return plane


def _agreed(points: np.ndarray) -> np.ndarray:
    """a, b, c of that of many planes through three points each that most points are near to; level where none is nearly so."""
    first, second, third = points[np.random.default_rng(0).integers(len(points), size=(3, _TRIPLES))]
    normal = np.cross(second - first, third - first)
    length = np.linalg.norm(normal, axis=-1)
    steep = np.abs(normal[:, 2]) <= np.cos(np.radians(_SLOPE_DEG)) * length
    normal[steep | (length < _CELL_M**2)] = 0, 0, 1
    slope = -normal[:, :2] / normal[:, 2:]
    height = first[:, 2] - np.sum(slope * first[:, :2], -1)
    near = np.abs(points[:, 2:] - points[:, :2] @ slope.T - height) < _NEAR_PLANE_M
    best = int(near.sum(0).argmax())
    return np.array([*slope[best], height[best]])


def _off(points: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(n,) m from points (n, 3) to the nearest capsule of both arms, axes (2, c, 2, 3)."""
    least = np.full(len(points), np.inf)
    for arm in axes:
        for (start, stop), radius in zip(arm, capsules.RADII, strict=True):
            along = stop - start
            share = np.clip((points - start) @ along / max(along @ along, 1e-18), 0, 1)
            least = np.minimum(least, np.linalg.norm(points - start - share[:, None] * along, axis=-1) - radius)
    return least


def _shift(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pixels (row, column) by which `one` (h, w) bool lies beside `other`, where they overlap most."""
    shape = tuple(2 * side for side in one.shape)
    spectra = [np.fft.rfft2(image.astype(float) - image.mean(), shape) for image in (one, other)]
    overlap = np.fft.irfft2(spectra[0] * np.conj(spectra[1]), shape)
    row, column = np.unravel_index(overlap.argmax(), shape)
    return np.array([(row + one.shape[0]) % shape[0] - one.shape[0], (column + one.shape[1]) % shape[1] - one.shape[1]])
