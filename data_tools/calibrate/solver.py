"""Cameras, arms' bases and held boards together, by reprojection; and the joints, which are not exactly what their encoders say.

Every joint of every pose has a slack of its own with a prior of the encoder's and the gears' play, so that poses weigh by what
they really know. The board on the table defines the world and is not solved for.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares
from scipy.sparse import csr_matrix

from clamp_jax.deploy.calibration import CalibrationError, base_from_gripper
from clamp_jax.deploy.projection import invert, project, rigid
from clamp_jax.deploy.safety import ARM
from clamp_jax.geometry import aloha
from data_tools.calibrate.boards import WORLD_FROM_TABLE
from data_tools.calibrate.guess import Unknowns, first_guess
from data_tools.calibrate.sightings import Dropped, Optics, Sighting, sift

PIXEL = 0.2  # px, of one corner's coordinate; detections in drawn images scatter by 0.05 to 0.1
SLACK = np.radians(0.13)  # rad, of a joint: 4096 steps a turn (0.025 degrees rms) and a play of 0.25 degrees, 0.125 either way
ROBUST = 3.0  # standard deviations from which on a residual counts less
WORST = 4.0  # standard deviations: a sighting whose corners or joints are further off, in the median, is not of this cell
LEAST_KNOWN_M, LEAST_KNOWN_DEG = 0.005, 0.5  # a pose that is less sure than this is refused
MOST_DROPPED = 1 / 3


class Solution(NamedTuple):
    """What was found, how well, and without which sightings."""

    unknowns: Unknowns
    rms_px: dict[str, float]  # by camera
    sigma: dict[str, tuple[float, float]]  # m and degrees, one standard deviation of each pose
    dropped: list[Dropped]
    used: dict[str, int]  # poses by camera
    slack_deg: float  # rms of the joints' slack


class _Problem:
    """Residuals of an unknown vector: 6 numbers a pose, as an increment of the guess, then 12 joint slacks for each pose of the arms."""

    def __init__(self, sightings: list[Sighting], optics: dict[str, Optics], joints: np.ndarray, guess: Unknowns):
        self.guess, self.joints, self.names = guess, joints, sorted({s.camera for s in sightings})
        self.holders = sorted({s.holder for s in sightings if s.holder})
        self.blocks = [*self.names, *(f"{side} base" for side in aloha.SIDES), *(f"board in {side} gripper" for side in self.holders)]
        start = [*(guess.cameras[name] for name in self.names), *guess.bases, *(guess.held[side] for side in self.holders)]
        self._start = np.stack(start)
        self._columns = 6 * len(self.blocks)
        self.sightings = sightings
        self.of = np.repeat(np.arange(len(sightings)), [len(s.ids) for s in sightings])  # the sighting of each corner
        self._corners = np.concatenate([s.corners for s in sightings])
        self._pixels = np.concatenate([s.pixels for s in sightings])
        rows = [optics[s.camera] for s in sightings]
        self._intrinsics = np.stack([row.intrinsics for row in rows])[self.of]
        self._lens = np.stack([row.distortion for row in rows])[self.of]
        self._pose = np.array([s.pose for s in sightings])
        self._camera = np.array([self.blocks.index(s.camera) for s in sightings])
        self._mount = np.array([_side(row.mount) for row in rows])  # -1: the world
        self._holder = np.array([_side(s.holder) for s in sightings])
        self._board = np.array([self.blocks.index(f"board in {s.holder} gripper") if s.holder else -1 for s in sightings])

    def poses(self, x: np.ndarray) -> np.ndarray:
        """(n, 4, 4) of every block."""
        return self._start @ rigid(x[: self._columns].reshape(-1, 6))

    def slack(self, x: np.ndarray) -> np.ndarray:
        """(p, 12) in standard deviations."""
        return x[self._columns :].reshape(-1, len(ARM))

    def errors(self, x: np.ndarray) -> np.ndarray:
        """(m, 2) pixels, of each corner."""
        joints = self.joints.copy()
        joints[:, ARM] += self.slack(x) * SLACK
        blocks, sides = self.poses(x), len(self.names)
        grippers = blocks[sides : sides + 2] @ base_from_gripper(joints)  # (p, 2, 4, 4)
        world_from_camera, world_from_board = blocks[self._camera], np.broadcast_to(WORLD_FROM_TABLE, (len(self.sightings), 4, 4)).copy()
        for index in (0, 1):
            on, by = self._mount == index, self._holder == index
            world_from_camera[on] = grippers[self._pose[on], index] @ world_from_camera[on]
            world_from_board[by] = grippers[self._pose[by], index] @ blocks[self._board[by]]
        seen = (invert(world_from_camera) @ world_from_board)[self.of]
        points = np.einsum("mij,mj->mi", seen[:, :3, :3], self._corners) + seen[:, :3, 3]
        points[:, 2] = np.maximum(points[:, 2], 1e-3)  # behind the camera is very wrong, and finite
        return project(points[:, None], self._intrinsics, self._lens)[:, 0] - self._pixels

    def residuals(self, x: np.ndarray) -> np.ndarray:
        return np.concatenate([(self.errors(x) / PIXEL).reshape(-1), x[self._columns :]])

    def structure(self) -> csr_matrix:
        """Which residual may depend on which unknown."""
        wide = self._columns + len(ARM) * len(self.joints)
        of_sighting = np.zeros((len(self.sightings), wide), bool)
        for row, (pose, sides) in enumerate(zip(self._pose, np.stack([self._mount, self._holder], -1), strict=True)):
            of_sighting[row, _six(self._camera[row])] = True
            if self._board[row] >= 0:
                of_sighting[row, _six(self._board[row])] = True
            for side in sides[sides >= 0]:
                of_sighting[row, _six(len(self.names) + side)] = True
                first = self._columns + len(ARM) * pose + 6 * side
                of_sighting[row, first : first + 6] = True
        prior = np.eye(wide, dtype=bool)[self._columns :]
        return csr_matrix(np.concatenate([np.repeat(of_sighting[self.of], 2, axis=0), prior]).astype(float))

    def unknowns(self, x: np.ndarray) -> Unknowns:
        found = dict(zip(self.blocks, self.poses(x), strict=True))
        bases = np.stack([found[f"{side} base"] for side in aloha.SIDES])
        held = {side: found[f"board in {side} gripper"] for side in self.holders}
        return Unknowns({name: found[name] for name in self.names}, bases, held)

    def offence(self, x: np.ndarray) -> np.ndarray:
        """(s,) how far each sighting is from what is found, in standard deviations: of its corners' median, or of its arms' joints."""
        off, slack = np.linalg.norm(self.errors(x), axis=-1) / PIXEL, np.abs(self.slack(x)).reshape(-1, 2, 6).max(-1)
        corners = np.array([np.median(off[self.of == row]) for row in range(len(self.sightings))])
        arms = [
            max([slack[p, side] for side in (m, h) if side >= 0], default=0.0)
            for p, m, h in zip(self._pose, self._mount, self._holder, strict=True)
        ]
        return np.maximum(corners, arms)


def _side(word: str) -> int:
    return aloha.SIDES.index(word) if word in aloha.SIDES else -1


def _six(block: int) -> slice:
    return slice(6 * block, 6 * block + 6)


def solve(sightings: list[Sighting], optics: dict[str, Optics], joints: np.ndarray) -> Solution:
    """All poses of the cell from what cameras saw; joints (p, 14) as measured in every pose.

    Raises CalibrationError: too few poses (with the number), arms that turned too little, a board that moved, more than a third of a
    camera's sightings that do not fit, a pose that remains unsure.
    """
    good, dropped = sift(sightings, optics)
    missing = [name for name in optics if not any(s.camera == name for s in good)]
    if missing:
        raise CalibrationError(f"camera {missing[0]} saw no board that can be used{_reasons(dropped, missing[0])}; bring one into its view")
    guess, total = first_guess(good, optics, base_from_gripper(joints)), len(good)
    while True:
        problem, found = _refine(good, optics, joints, guess)
        offence = problem.offence(found.x)
        if offence.max() <= WORST:
            break
        worst = good.pop(int(offence.argmax()))
        dropped.append(
            Dropped(worst.name, f"off by {offence.max():.0f} standard deviations from what all others say: board or camera moved?")
        )
        if len(good) < (1 - MOST_DROPPED) * total:
            raise CalibrationError(
                f"{total - len(good)} of {total} sightings do not fit one cell, e.g. {dropped[-1].name}; did a board slip?"
            )
        guess = first_guess(good, optics, base_from_gripper(joints))
    return _solution(problem, found, dropped)


def _refine(good: list[Sighting], optics: dict[str, Optics], joints: np.ndarray, guess: Unknowns) -> tuple[_Problem, object]:
    problem = _Problem(good, optics, joints, guess)
    start, structure = np.zeros(problem.structure().shape[1]), problem.structure()
    options = {"loss": "soft_l1", "f_scale": ROBUST, "x_scale": "jac", "xtol": 1e-7, "ftol": 1e-7, "max_nfev": 60}
    return problem, least_squares(problem.residuals, start, jac_sparsity=structure, tr_options={"maxiter": 400}, **options)


def _solution(problem: _Problem, found: object, dropped: list[Dropped]) -> Solution:
    error = np.sum(problem.errors(found.x) ** 2, -1)
    camera = np.array([s.camera for s in problem.sightings])[problem.of]
    rms = {name: float(np.sqrt(error[camera == name].mean())) for name in problem.names}
    sigma = _sigma(problem, found)
    for name, (metres, degrees) in sigma.items():
        if metres > LEAST_KNOWN_M or degrees > LEAST_KNOWN_DEG:
            raise CalibrationError(
                f"the pose of {name} stays unsure by {metres * 1000:.1f} mm and {degrees:.2f} degrees; {LEAST_KNOWN_M * 1000:g} mm and "
                f"{LEAST_KNOWN_DEG:g} degrees are the most that is taken: take more poses, from other directions"
            )
    used = {name: len({s.pose for s in problem.sightings if s.camera == name}) for name in problem.names}
    slack = float(np.degrees(SLACK) * np.sqrt(np.mean(problem.slack(found.x) ** 2)))
    return Solution(problem.unknowns(found.x), rms, sigma, dropped, used, slack)


def _sigma(problem: _Problem, found: object) -> dict[str, tuple[float, float]]:
    """One standard deviation of each pose (m, degrees), from the Jacobian where the search ended."""
    jacobian = found.jac.toarray() if hasattr(found.jac, "toarray") else found.jac
    spread = np.sqrt(np.diag(np.linalg.pinv(jacobian.T @ jacobian)))[: 6 * len(problem.blocks)].reshape(-1, 6)
    turn, shift = np.degrees(np.linalg.norm(spread[:, :3], axis=-1)), np.linalg.norm(spread[:, 3:], axis=-1)
    return {name: (float(metres), float(degrees)) for name, metres, degrees in zip(problem.blocks, shift, turn, strict=True)}


def _reasons(dropped: list[Dropped], camera: str) -> str:
    found = [row for row in dropped if f"camera {camera}," in row.name]
    return f" ({found[0].name}: {found[0].why})" if found else ""
