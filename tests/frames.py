"""MuJoCo's own frames (fixtures/record_frames.py) and how points and images are compared with them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy import ndimage

from clamp_jax.data.transforms import pad_geoms
from clamp_jax.structs import Camera, Capacity, Geoms, SceneState, Tree

FIXTURES = Path(__file__).parent / "fixtures"
CAPACITY = Capacity(plane=1, sphere=6, capsule=16, cylinder=6, box=48)
SCENES = ("shapes", "drawer_open", "can_opener_in_caddy")


class Frames(NamedTuple):
    """Frames of several cameras."""

    cameras: Camera  # (k, ...) numpy
    depth_m: np.ndarray  # (k, h, w)
    geom: np.ndarray  # (k, h, w) row of the unpadded geom table, -1 nothing


class Recorded(NamedTuple):
    """A recorded scene."""

    qpos: np.ndarray
    frames: Frames
    bystanders: Frames
    scene: SceneState | None  # padded to CAPACITY; None for the real cell
    table: int  # row of the table top


def _frames(get, prefix: str) -> Frames:
    intrinsics = get(f"{prefix}cameras/intrinsics")
    cameras = Camera(intrinsics, get(f"{prefix}cameras/world_from_camera"), np.zeros(len(intrinsics), bool))
    return Frames(cameras, get(f"{prefix}depth"), get(f"{prefix}geom"))


def load(name: str, path: Path = FIXTURES / "frames.npz") -> Recorded:
    """A scene of a recorded file."""
    with np.load(path) as archive:
        columns = {key.removeprefix(f"{name}/"): archive[key] for key in archive.files if key.startswith(f"{name}/")}
    qpos, frames, bystanders = columns["qpos"], _frames(columns.get, ""), _frames(columns.get, "bystanders/")
    if "types" not in columns:
        return Recorded(qpos, frames, bystanders, None, table=-2)
    tree = Tree(*(columns[f"tree/{field}"] for field in Tree._fields))
    geoms = Geoms(*(columns[f"geoms/{field}"] for field in Geoms._fields))
    half = geoms.size[:, :2]
    table = int(np.flatnonzero((np.abs(half - np.float32([0.61, 0.381])) < 1e-6).all(axis=1))[0])
    padded = SceneState(np.pad(qpos, (0, 4)), tree, pad_geoms(columns["types"], geoms, CAPACITY))
    return Recorded(qpos, frames, bystanders, padded, table)


def record(out: Path, *arguments: str) -> Path:
    """Runs the recorder now, in a process of its own, for GL; skips the test by name where there is none."""
    from data_tools.render_cell import choose_gl

    before = os.environ.get("MUJOCO_GL")
    try:
        choose_gl()
    except RuntimeError as error:
        pytest.skip(f"needs GL to render with MuJoCo: {error}")
    command = [sys.executable, str(FIXTURES / "record_frames.py"), "--out", str(out), *arguments]
    environment = dict(os.environ)
    if before is None:
        del os.environ["MUJOCO_GL"]
    subprocess.run(command, check=True, env=environment, timeout=100)
    return out


def away_from_changes(geom: np.ndarray, radius: int = 3) -> np.ndarray:
    """Pixels of one image whose square neighbourhood shows one geom alone."""
    size = 2 * radius + 1
    return ndimage.maximum_filter(geom, size) == ndimage.minimum_filter(geom, size)


def at_depth_edges(depth_m: np.ndarray) -> np.ndarray:
    """Pixels next to a step or crease: where 1 / depth, linear over a plane, bends by more than 5 mm from pixel to pixel."""
    inverse = np.where(depth_m > 0, 1 / np.maximum(depth_m, 1e-3), 1e-3)
    bend = sum(np.abs(ndimage.convolve1d(inverse, [1, -2, 1], axis=axis)) for axis in (0, 1))
    return ndimage.maximum_filter(bend / inverse**2 > 0.005, 3)


def disagreement(uv: np.ndarray, depth_m: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """How far projected points (uv, depth) stand from what a depth image has at their own sub-pixel place, m.

    Left out: points out of the image, those at its depth edges, and those hidden behind what it shows.
    """
    edge, inverse = at_depth_edges(frame), 1 / np.where(frame > 0, frame, 1e3)
    corner = np.floor(uv - 0.5).astype(int)
    inside = (depth_m > 0.01) & (corner >= 0).all(axis=1) & (corner[:, 0] < frame.shape[1] - 1) & (corner[:, 1] < frame.shape[0] - 1)
    uv, depth_m, corner = uv[inside], depth_m[inside], corner[inside]
    (column, row), (across, down) = corner.T, (uv - 0.5 - corner).T
    upper = inverse[row, column] * (1 - across) + inverse[row, column + 1] * across
    lower = inverse[row + 1, column] * (1 - across) + inverse[row + 1, column + 1] * across
    seen = 1 / (upper * (1 - down) + lower * down)
    kept = ~edge[row, column] & ~edge[row + 1, column + 1] & (depth_m < seen + 0.02)
    return np.abs(depth_m - seen)[kept]
