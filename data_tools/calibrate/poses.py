"""Poses of both arms in which cameras see the boards, far from each other and from the table, and ways between them.

They are found for the cell as drawn; margins allow for one that is off by 3 cm and 3 degrees.
"""

from typing import NamedTuple

import numpy as np

from clamp_jax.deploy import capsules
from clamp_jax.deploy.calibration import GRIPPER, CalibrationError, base_from_gripper, nominal
from clamp_jax.deploy.projection import invert, project, transform
from clamp_jax.geometry import aloha
from data_tools.calibrate.boards import GRIPPER_FROM_HELD, HELD, TABLE, WORLD_FROM_TABLE, Board
from data_tools.calibrate.sightings import slant_deg

HOME = np.tile([*aloha.HOME[:6], 0.0], 2)  # grippers closed: one holds a plate
LOOK, SHOW = "look", "show"  # with the wrist's camera at the table; the plate to the fixed camera that sees no table
# rad; ours: where a random arm is often right
_RANGES = {
    LOOK: np.array([[-0.9, 0.9], [-1.4, 0.3], [-0.2, 1.5], [-0.9, 0.9], [-0.7, 1.6], [-1.2, 1.2]]),
    SHOW: np.array([[-0.8, 0.8], [-1.4, 0.5], [-0.2, 1.6], [-0.9, 0.9], [-1.2, 1.4], [-0.9, 0.9]]),
}
_APART_M, _OVER_TABLE_M, _PLATE_OVER_TABLE_M = 0.08, 0.06, 0.03  # with a plate, and with a cell that is not as drawn
_IN_VIEW = 0.05  # share of the image that is left free on each side
_NEAREST_M, _FARTHEST_M, _STEEPEST_DEG = 0.18, 0.60, 45.0
_DRAWS = 15000  # of an arm's joints, of which a hundred or more see their board well
_STEP_RAD = 0.05  # of a way that is checked


class Stop(NamedTuple):
    """A pose of the arms, and who holds the plate in it."""

    joints: np.ndarray  # (14,)
    holder: str  # left or right


def plan(count: int, seed: int = 0, size: tuple[int, int] = (720, 1280)) -> list[Stop]:
    """`count` poses: in the first half the left arm shows the plate while the right one looks, then the other way round.

    Raises CalibrationError where none can be found, which for ALOHA's arms and cameras does not happen.
    """
    rng, stops = np.random.default_rng(seed), []
    for holder, many in zip(aloha.SIDES, (count - count // 2, count // 2), strict=True):
        shows = holder == "left", holder == "right"
        roles = tuple(SHOW if show else LOOK for show in shows)
        arms = [_candidates(side, role, rng, size) for side, role in zip(aloha.SIDES, roles, strict=True)]
        stops += _choose(arms, holder, many, rng)
    return stops


def _candidates(side: str, role: str, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(n, 6) joints of one arm in which its role's camera sees its board well."""
    drawn = rng.uniform(*_RANGES[role].T, (_DRAWS, 6))
    joints, index = np.tile(HOME, (len(drawn), 1)), aloha.SIDES.index(side)
    joints[:, 7 * index : 7 * index + 6] = drawn
    cell = nominal(*size)
    grippers = cell.world_from_base[index] @ base_from_gripper(joints)[:, index]
    if role == LOOK:
        camera, board = cell.cameras[f"wrist_{side}"], TABLE
        seen = invert(grippers @ camera.parent_from_camera) @ WORLD_FROM_TABLE
    else:
        camera, board = cell.cameras["worms_eye"], HELD
        seen = invert(camera.parent_from_camera) @ grippers @ GRIPPER_FROM_HELD[side]
    good = _sees(seen, board, camera.intrinsics, size)
    found = drawn[good]
    if len(found) < 20:
        raise CalibrationError(f"only {len(found)} of {len(drawn)} random poses of the {side} arm {role} well; expected 20 or more")
    return found


def _sees(pose: np.ndarray, board: Board, intrinsics: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(n,) whether a camera shows a board whole, near and steep enough; pose (n, 4, 4) is camera_from_board."""
    outline = transform(pose, board.outline)
    before = outline[..., 2].min(-1) > 0.05
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = project(outline, intrinsics, np.zeros(5)) / size[::-1]
    distance = transform(pose, board.outline.mean(0, keepdims=True))[:, 0]
    inside = np.all((pixels > _IN_VIEW) & (pixels < 1 - _IN_VIEW), (-1, -2))
    near = (np.linalg.norm(distance, axis=-1) > _NEAREST_M) & (np.linalg.norm(distance, axis=-1) < _FARTHEST_M)
    slant = np.array([slant_deg(each, board) if b and i else 90.0 for each, b, i in zip(pose, before, inside, strict=True)])
    return before & inside & near & (slant < _STEEPEST_DEG)


def _choose(arms: list[np.ndarray], holder: str, count: int, rng: np.random.Generator) -> list[Stop]:
    """Poses that differ much, by taking the farthest from those taken.

    Each can be reached from the one before, and the home pose from each.
    """
    pool = np.stack([_together(arms[0][i], arms[1][j]) for i, j in zip(*(rng.integers(len(a), size=600) for a in arms), strict=True)])
    pool = pool[clear(pool, holder)]
    feature = _features(pool)
    taken: list[int] = []
    far = np.linalg.norm(feature - feature.mean(0), axis=-1)
    while len(taken) < count:
        if not (far > 0).any():
            raise CalibrationError(f"only {len(taken)} of {count} poses can be reached safely while the {holder} arm holds the plate")
        best = int(far.argmax())
        start = pool[taken[-1]] if taken else HOME
        if way(start, pool[best], holder) is None or way(pool[best], HOME, holder) is None:
            far[best] = 0
            continue
        taken.append(best)
        far = np.minimum(far if len(taken) > 1 else np.inf, np.linalg.norm(feature - feature[best], axis=-1))
    return [Stop(pool[i], holder) for i in taken]


def _together(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    joints = HOME.copy()
    joints[:6], joints[7:13] = left, right
    return joints


def _features(joints: np.ndarray) -> np.ndarray:
    """(n, 24) in which poses are far apart that turn or move the grippers much: a radian is as far as 0.3 m."""
    grippers = base_from_gripper(joints)
    return np.concatenate([grippers[..., :3, :3].reshape(len(joints), -1), grippers[..., :3, 3].reshape(len(joints), -1) / 0.3], -1)


def clear(joints: np.ndarray, holder: str) -> np.ndarray:
    """(n,) whether arms (n, 14) keep away from each other and the table, and the plate too, which the arm `holder` ("" none) holds."""
    poses = capsules.link_poses(joints)
    axes = capsules.axes_world(poses)
    good = (capsules.arm_clearance(axes) > _APART_M).all((-1, -2)) & (capsules.table_clearance(axes) > _OVER_TABLE_M).all((-1, -2))
    for index, side in enumerate(aloha.SIDES):
        if side == holder:
            plate = transform(poses[:, index, GRIPPER] @ GRIPPER_FROM_HELD[side], HELD.outline)
            good &= plate[..., 2].min(-1) > aloha.TABLE_TOP_Z + _PLATE_OVER_TABLE_M
            ends = np.stack([plate[:, :2], plate[:, [3, 2]]], 1)  # its upper and lower edge
            other = axes[:, 1 - index]
            gaps = capsules.segment_distance(*np.broadcast_arrays(ends[:, :, None], other[:, None])) - capsules.RADII
            good &= (gaps > _APART_M).all((-1, -2))
    return good


def way(start: np.ndarray, goal: np.ndarray, holder: str) -> list[np.ndarray] | None:
    """Joints to go through, the goal last, straight or by the home pose; None where neither is clear."""
    for stops in ([goal], [HOME, goal]):
        corners = [start, *stops]
        if all(clear(_straight(a, b), holder).all() for a, b in zip(corners, corners[1:], strict=False)):
            return stops
    return None


def _straight(start: np.ndarray, goal: np.ndarray) -> np.ndarray:
    steps = max(2, int(np.ceil(np.abs(goal - start).max() / _STEP_RAD)))
    return start + np.linspace(0, 1, steps + 1)[:, None] * (goal - start)
