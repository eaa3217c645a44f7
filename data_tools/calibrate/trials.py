"""Cells that are not as drawn, calibrated from corners alone, many times: how far off what is found is.

Hidden in each: cameras and bases up to 3 cm and 3 degrees away from the drawing (fixed cameras in the world, wrist cameras on
their grippers), plates held somehow, encoders of 4096 steps a turn, 0.25 degrees of backlash, corners that scatter.
"""

from typing import NamedTuple

import numpy as np

from clamp_jax.deploy.calibration import base_from_gripper, nominal
from clamp_jax.deploy.projection import angle_deg, invert, project, rigid, transform
from clamp_jax.deploy.safety import ARM
from clamp_jax.geometry import aloha
from data_tools.calibrate.boards import BOARDS, GRIPPER_FROM_HELD, WORLD_FROM_TABLE
from data_tools.calibrate.guess import Unknowns
from data_tools.calibrate.poses import Stop, plan
from data_tools.calibrate.sightings import Optics, Sighting
from data_tools.calibrate.solver import Solution, solve

OFF_M, OFF_DEG = 0.03, 3.0  # at most
SIZE = (480, 848)  # as the cameras are opened (clamp_jax/deploy/cameras/realsense.py)
TICK = 2 * np.pi / 4096  # rad, of a ViperX's encoder
BACKLASH = np.radians(0.25)  # rad, all of the play
LOADED = np.array([False, True, True, False, True, False] * 2)  # joints that gravity leans to one side of their play
LEAST_CELL_PX = 1.9  # of a marker that is found, in drawn images
CORNER_PX = 0.15  # scatter of a corner's coordinate; in drawn images with noise it is 0.12 to 0.14 from 1 m, less from near
LENS = np.array([-0.05, 0.06, 5e-4, -3e-4, -0.02])


class Faults(NamedTuple):
    """What is wrong with a cell's encoders and images."""

    tick: float = TICK
    backlash: float = BACKLASH
    corner_px: float = CORNER_PX


class Hidden(NamedTuple):
    """What a calibration has to find."""

    unknowns: Unknowns
    optics: dict[str, Optics]


def _off(rng: np.random.Generator, metres: float = OFF_M, degrees: float = OFF_DEG) -> np.ndarray:
    """(4, 4) a turn and a shift in any direction, up to so much."""
    axes = rng.normal(size=(2, 3))
    turn, shift = axes / np.linalg.norm(axes, axis=-1, keepdims=True) * rng.uniform(size=(2, 1)) * [[np.radians(degrees)], [metres]]
    return rigid(np.concatenate([turn, shift]))


def hide(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> Hidden:
    """A cell that is not as drawn, with images of `size` (height, width)."""
    cell = nominal(*size)
    cameras = {name: camera.parent_from_camera @ _off(rng) for name, camera in cell.cameras.items()}
    held = {side: pose @ _off(rng, 0.01, 10.0) for side, pose in GRIPPER_FROM_HELD.items()}  # put there by hand
    optics = {name: Optics(camera.intrinsics, LENS * rng.uniform(0.5, 1.5), camera.mount) for name, camera in cell.cameras.items()}
    return Hidden(Unknowns(cameras, np.stack([base @ _off(rng) for base in cell.world_from_base]), held), optics)


def measure_joints(joints: np.ndarray, rng: np.random.Generator, faults: Faults) -> np.ndarray:
    """Encoders' words (p, 14) for arms that stand at `joints`: on one side of the play, the loaded ones always the same, rounded."""
    measured = joints.copy()
    side = np.where(LOADED, rng.choice([-1.0, 1.0], len(ARM)), rng.choice([-1.0, 1.0], (len(joints), len(ARM))))
    measured[:, ARM] += side * faults.backlash / 2
    if faults.tick:
        measured[:, ARM] = np.round(measured[:, ARM] / faults.tick) * faults.tick
    return measured


def see(hidden: Hidden, stops: list[Stop], rng: np.random.Generator, corner_px: float = CORNER_PX) -> list[Sighting]:
    """The corners that every camera sees, without what stands in between; the wrist's camera of an arm that holds a plate is covered."""
    fk = base_from_gripper(np.stack([stop.joints for stop in stops]))
    found = []
    for index, stop in enumerate(stops):
        grippers = hidden.unknowns.bases @ fk[index]
        boards = {
            ("table", ""): WORLD_FROM_TABLE,
            ("held", stop.holder): grippers[aloha.SIDES.index(stop.holder)] @ hidden.unknowns.held[stop.holder],
        }
        for name, optics in hidden.optics.items():
            if optics.mount == stop.holder:
                continue
            parent = grippers[aloha.SIDES.index(optics.mount)] if optics.mount in aloha.SIDES else np.eye(4)
            camera = invert(parent @ hidden.unknowns.cameras[name])
            for (board, holder), pose in boards.items():
                ids, pixels = _corners(camera @ pose, board, optics)
                if len(ids) >= 6:
                    pixels = pixels + corner_px * rng.normal(size=pixels.shape)
                    found.append(Sighting(index, name, board, holder, ids, pixels))
    return found


def _corners(camera_from_board: np.ndarray, board: str, optics: Optics) -> tuple[np.ndarray, np.ndarray]:
    """Ids and exact pixels of the corners inside the image of a board that shows its front and is near enough to be read."""
    points = transform(camera_from_board, BOARDS[board].corners)
    facing = np.sum(points * camera_from_board[:3, 2], -1) / np.linalg.norm(points, axis=-1)
    pixels = project(points, optics.intrinsics, optics.distortion)
    cell_px = optics.intrinsics[0] * BOARDS[board].square_m / 8 / points[:, 2] * facing
    good = (points[:, 2] > 0.07) & (cell_px > LEAST_CELL_PX) & np.all((pixels > 8) & (pixels < np.array(SIZE[::-1]) - 8), -1)
    ids = np.flatnonzero(good)
    return ids, pixels[ids]


def errors(found: Unknowns, hidden: Unknowns) -> dict[str, tuple[float, float]]:
    """Metres and degrees between what was found and what is, of cameras in their parents and of the bases."""
    pairs = {name: (found.cameras[name], hidden.cameras[name]) for name in hidden.cameras}
    pairs |= {f"{side} base": (found.bases[i], hidden.bases[i]) for i, side in enumerate(aloha.SIDES)}
    return {name: (float(np.linalg.norm(a[:3, 3] - b[:3, 3])), float(angle_deg(invert(a) @ b))) for name, (a, b) in pairs.items()}


def seen_errors(found: Unknowns, hidden: Unknowns, optics: dict[str, Optics], joints: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Metres by which a wrist camera's points 0.3 m away come out wrong in the world, rms over poses: what a policy gets of it.

    With the joints as measured, so the encoders' and the gears' own part is in it.
    """
    return {
        name: float(np.sqrt(np.mean(np.sum((_ahead(found, name, i, measured) - _ahead(hidden, name, i, joints)) ** 2, -1))))
        for i, side in enumerate(aloha.SIDES)
        for name in optics
        if optics[name].mount == side
    }


def _ahead(cell: Unknowns, name: str, arm: int, joints: np.ndarray) -> np.ndarray:
    poses = cell.bases[arm] @ base_from_gripper(joints)[:, arm] @ cell.cameras[name]
    return transform(poses, np.array([[0.0, 0.0, 0.3]]))[:, 0]


def trial(stops: list[Stop], seed: int, faults: Faults = Faults()) -> tuple[Solution, Hidden, np.ndarray]:  # noqa: B008 - immutable
    """One cell calibrated: the solution, what was hidden, the measured joints."""
    rng = np.random.default_rng(seed)
    hidden = hide(rng)
    measured = measure_joints(np.stack([stop.joints for stop in stops]), rng, faults)
    return solve(see(hidden, stops, rng, faults.corner_px), hidden.optics, measured), hidden, measured


def self_test(count: int, poses: int = 15, faults: Faults = Faults()) -> dict:  # noqa: B008
    """Median and 95th percentile over `count` cells, in mm and degrees; of each camera, each base and all of them."""
    stops = plan(poses)
    joints, rows, seen = np.stack([stop.joints for stop in stops]), [], []
    for seed in range(count):
        found, hidden, measured = trial(stops, seed, faults)
        rows.append(errors(found.unknowns, hidden.unknowns))
        seen.append(seen_errors(found.unknowns, hidden.unknowns, hidden.optics, joints, measured))
    table = {name: _summary(np.array([row[name] for row in rows])) for name in rows[0]}
    table["all"] = _summary(np.array([pair for row in rows for pair in row.values()]))
    wrist = {name: [float(v) for v in np.percentile([row[name] * 1000 for row in seen], (50, 95))] for name in seen[0]}
    return {"cells": count, "poses": poses, "faults": faults._asdict(), "errors": table, "points_at_0.3_m_mm": wrist}


def _summary(pairs: np.ndarray) -> dict[str, float]:
    (mm, mm95), (deg, deg95) = np.percentile(pairs[:, 0] * 1000, (50, 95)), np.percentile(pairs[:, 1], (50, 95))
    return {"median_mm": float(mm), "p95_mm": float(mm95), "median_deg": float(deg), "p95_deg": float(deg95)}
