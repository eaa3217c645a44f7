"""A first guess of every unknown pose from single images: closed forms, no start value needed."""

from typing import NamedTuple

import numpy as np

from clamp_jax.deploy.calibration import CalibrationError
from clamp_jax.deploy.projection import invert
from clamp_jax.geometry import aloha
from data_tools.calibrate.boards import WORLD_FROM_TABLE
from data_tools.calibrate.sightings import Optics, Sighting, camera_from_board

LEAST_POSES = 5  # of a wrist camera or of a held board; three determine it, five show a wrong one
LEAST_TURN = 0.05  # smallest singular value that counts: arms that turned about one axis alone leave a direction open


class Unknowns(NamedTuple):
    """What is solved for."""

    cameras: dict[str, np.ndarray]  # parent_from_camera (4, 4)
    bases: np.ndarray  # (2, 4, 4) world_from_base
    held: dict[str, np.ndarray]  # by arm: gripper_from_board (4, 4)


def robot_world(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """X and Y (4, 4) of X a_i Y = b_i, with a and b (n, 4, 4) rigid.

    Rotations first: R_a R_Y = R_X^T R_b is linear in both, their common null vector is the last singular vector; then the
    translations are linear (after M. Shah, Solving the robot-world/hand-eye calibration problem, 2013).
    Raises CalibrationError where the poses leave a direction open.
    """
    eye = np.eye(3)
    rows = [np.hstack([np.kron(eye, p[:3, :3]), -np.kron(q[:3, :3].T, eye)]) for p, q in zip(a, b, strict=True)]
    _, values, vectors = np.linalg.svd(np.concatenate(rows) / np.sqrt(len(a)))
    if values[-2] < LEAST_TURN:
        raise CalibrationError(
            f"the arm turned too little between its {len(a)} poses, or about one axis alone; take poses that differ by 20 degrees or more"
        )
    y, x = (_nearest_rotation(part.reshape(3, 3, order="F")) for part in np.split(vectors[-1] * _sign(vectors[-1]), 2))
    x = x.T
    left = np.concatenate([np.hstack([x @ p[:3, :3], eye]) for p in a])
    shifts = np.linalg.lstsq(left, np.concatenate([q[:3, 3] - x @ p[:3, 3] for p, q in zip(a, b, strict=True)]), rcond=None)[0]
    return _pose(x, shifts[3:]), _pose(y, shifts[:3])


def _sign(vector: np.ndarray) -> float:
    """Of a null vector of two rotations: that which makes the first right-handed."""
    return float(np.sign(np.linalg.det(vector[:9].reshape(3, 3, order="F"))))


def _nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    u, _, vt = np.linalg.svd(matrix)
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt


def _pose(turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, shift
    return matrix


def first_guess(sightings: list[Sighting], optics: dict[str, Optics], fk: np.ndarray) -> Unknowns:
    """Poses of all cameras, bases and held boards; fk (p, 2, 4, 4) is base_from_gripper in every pose.

    Raises CalibrationError with the number where there are too few sightings.
    """
    alone = {id(s): camera_from_board(s, optics[s.camera])[0] for s in sightings}
    cameras, bases, held = {}, np.zeros((2, 4, 4)), {}
    for index, side in enumerate(aloha.SIDES):
        for name in (name for name, camera in optics.items() if camera.mount == side):
            seen = _enough(
                [s for s in sightings if s.camera == name and not s.holder], LEAST_POSES, f"wrist camera {name} saw the board on the table"
            )
            poses = WORLD_FROM_TABLE @ invert(np.stack([alone[id(s)] for s in seen]))
            bases[index], cameras[name] = robot_world(fk[[s.pose for s in seen], index], poses)
    if not bases.any((1, 2)).all():
        raise CalibrationError("an arm has no wrist camera: its base is found through it; name one wrist camera for each arm")
    for name in (name for name, camera in optics.items() if camera.mount == "world"):
        cameras[name] = _fixed(name, sightings, alone, bases, fk, held)
    _hold(sightings, alone, cameras, bases, fk, held, optics)
    return Unknowns(cameras, bases, held)


def _fixed(name: str, sightings: list[Sighting], alone: dict, bases: np.ndarray, fk: np.ndarray, held: dict) -> np.ndarray:
    """world_from_camera of a fixed camera, by the board on the table, or by one that an arm holds (whose place is then known too)."""
    lying = [s for s in sightings if s.camera == name and not s.holder]
    if lying:
        return WORLD_FROM_TABLE @ invert(alone[id(max(lying, key=lambda s: len(s.ids)))])
    shown = {side: [s for s in sightings if s.camera == name and s.holder == side] for side in aloha.SIDES}
    side = max(shown, key=lambda side: len(shown[side]))
    seen = _enough(shown[side], LEAST_POSES, f"camera {name} saw no board on the table, and the held board")
    index = aloha.SIDES.index(side)
    grippers = bases[index] @ fk[[s.pose for s in seen], index]
    camera_from_world, held[side] = robot_world(grippers, np.stack([alone[id(s)] for s in seen]))
    return invert(camera_from_world)


def _hold(
    sightings: list[Sighting], alone: dict, cameras: dict, bases: np.ndarray, fk: np.ndarray, held: dict, optics: dict[str, Optics]
) -> None:
    """Where each arm holds its board, by a fixed camera that is known."""
    for index, side in enumerate(aloha.SIDES):
        seen = [s for s in sightings if s.holder == side and optics[s.camera].mount == "world"]
        if seen and side not in held:
            best = max(seen, key=lambda s: len(s.ids))
            held[side] = invert(bases[index] @ fk[best.pose, index]) @ cameras[best.camera] @ alone[id(best)]


def _enough(seen: list[Sighting], least: int, what: str) -> list[Sighting]:
    if len(seen) < least:
        raise CalibrationError(
            f"{what} in {len(seen)} usable poses, {least} are needed: take more poses, or look at why others were dropped"
        )
    return seen
