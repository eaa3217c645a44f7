"""Take a thing, carry it, let it go: the motion that most tasks share, with one arm or with both in turn.

A thing moves with the gripper that holds it, so an expert says where it can be grasped, in its own frame, and how it is to
stand when it is let go, in the world; the poses of the gripper follow.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from clamp_jax.geometry.aloha import GRIPPER_CLOSED_M, GRIPPER_OPEN_M, GRIPPER_SITE, SIDES
from clamp_jax.sim.experts import ik, motion
from clamp_jax.sim.robot import FINGER_SPAN, FINGERTIPS_MEET
from clamp_jax.sim.scene import Scene

TIP_BEHIND_SITE = GRIPPER_SITE[0] - FINGER_SPAN[1]  # m, middle of the fingertips' round ends
LOWEST_TIP = 0.0075  # m over the table, fingertips' middle
DOWN = np.array([0.0, 0.0, -1.0])
SPEED, TURN_SPEED = 0.35, 1.0  # m/s and rad/s of carrying
_SQUEEZE, _RELEASE = 0.30, 0.25  # of the gripper's way, beyond and short of where the fingers meet the thing
_CRACK = 0.15  # the same, of fingers that come from the side


class Grasp(NamedTuple):
    """A way to hold a thing."""

    pose: np.ndarray  # (4, 4) of the gripper site in the thing's frame
    half_width: float  # m, of what is between the fingers
    from_above: bool = True  # the open fingers come straight down on it; else along the tool, hardly open


class Option(NamedTuple):
    """A grasp, and the poses (4, 4) in the world in which the thing may be let go out of it."""

    grasp: Grasp
    goals: Sequence[np.ndarray]


class Style(NamedTuple):
    """What varies from one demonstration to the next."""

    above: float  # m over the grasp from which the fingers come down
    lift: float  # m, height over the table of what is carried, of the gripper at the grasp's height
    tempo: float

    @staticmethod
    def draw(rng: np.random.Generator, lift: float) -> "Style":
        return Style(rng.uniform(0.06, 0.09), lift + rng.uniform(0.0, 0.02), rng.uniform(0.9, 1.1))


def grasp(tip: ik.Numbers, direction: ik.Numbers, closing: ik.Numbers, half_width: float) -> Grasp:
    """Fingertips' middle at `tip` (m), the tool along `direction`, the fingers closing along `closing`; the thing's frame."""
    direction = np.asarray(direction, float) / np.linalg.norm(direction)
    return Grasp(ik.tool_pose(np.asarray(tip, float) + TIP_BEHIND_SITE * direction, direction, closing), half_width)


def gripper(half_width: float) -> float:
    """Command 0..1 at which the fingers just meet a thing of that half width (m)."""
    return (half_width + FINGERTIPS_MEET - GRIPPER_CLOSED_M) / (GRIPPER_OPEN_M - GRIPPER_CLOSED_M)


def upright(place: ik.Numbers, yaw: float) -> np.ndarray:
    """Pose (4, 4) at x, y, z (m), turned about z."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = ik.rotation_about((0, 0, yaw)), place
    return pose


def free_pose(qpos: np.ndarray, start: int) -> np.ndarray:
    """world_from_body (4, 4) of a free body whose qpos begins at `start`."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = ik.rotation_of_quat(qpos[start + 3 : start + 7]), qpos[start : start + 3]
    return pose


def commands(
    scene: Scene, qpos0: np.ndarray, thing: np.ndarray, options: Sequence[Option], style: Style, *, relay: Sequence[Option] = ()
) -> np.ndarray:
    """Commands (t, 14) that bring a thing from its pose (4, 4) to one of its goals.

    The arm that is nearer to both is tried first, then the other; then, with the options of `relay`, one arm lays the thing
    down between them and the other takes it from there. Raises motion.PlanError where none of it is within reach.
    """
    reason = None
    for side in _sides(thing, options):
        try:
            return motion.commands(scene.model, transfer(qpos0, side, thing, options, style)[0], qpos0)
        except ik.IKError as error:
            reason = reason or error
    for arms in (SIDES, SIDES[::-1]):
        try:
            return hand_over(scene, qpos0, thing, options, relay, style, arms)
        except ik.IKError as error:
            reason = reason or error
    raise motion.PlanError(f"no arm, nor both in turn, reach what is to be carried and where to: {reason}")


def hand_over(
    scene: Scene,
    qpos0: np.ndarray,
    thing: np.ndarray,
    options: Sequence[Option],
    relay: Sequence[Option],
    style: Style,
    arms: tuple[str, str],
) -> np.ndarray:
    """Commands with which the first arm lays a thing down at a goal of `relay` and the second takes it on; raises ik.IKError."""
    start, between = transfer(qpos0, arms[0], thing, relay, style)
    stop, _ = transfer(qpos0, arms[1], between, options, style)
    return np.concatenate([motion.commands(scene.model, script, qpos0) for script in (start, stop)])


def _sides(thing: np.ndarray, options: Sequence[Option]) -> tuple[str, str]:
    middle = thing[0, 3] + np.mean([goal[0, 3] for option in options for goal in option.goals])
    return SIDES if middle < 0 else SIDES[::-1]


def transfer(qpos0: np.ndarray, side: str, thing: np.ndarray, options: Iterable[Option], style: Style) -> tuple[motion.Script, np.ndarray]:
    """The script of the first option within reach of an arm, and the pose (4, 4) that it leaves the thing in.

    Of an option's goals the one is taken that turns the joints least on the way. Raises ik.IKError if no option is reached.
    """
    reason = None
    for option in options:
        try:
            script = pick(motion.Script(side, qpos0, tempo=style.tempo), thing @ option.grasp.pose, option.grasp, style)
            goal = nearest(script, option, style)
            return place(script, goal @ option.grasp.pose, option.grasp.half_width, style), goal
        except ik.IKError as error:
            reason = reason or error
    raise reason or ik.IKError(f"{side} arm has nothing to try")


def pick(script: motion.Script, at: np.ndarray, how: Grasp, style: Style) -> motion.Script:
    """Come to a thing at a pose (4, 4) of the gripper site, close the fingers, lift it."""
    meets = gripper(how.half_width)
    before, opening = (raised(at, style.above), 2 * _RELEASE) if how.from_above else (drawn_back(at, style.above), _CRACK)
    script.reach(before, 1.3, gripper=min(1.0, meets + opening))
    script.slide(at, 0.8, hold_s=0.1)
    script.grip(max(0.0, meets - _SQUEEZE), 0.5, hold_s=0.1)
    return script.slide(raised(at, style.lift), 1.0)


def place(script: motion.Script, at: np.ndarray, half_width: float, style: Style) -> motion.Script:
    """Carry a thing over where it is to be, lower it, let it go, draw back the way the tool points and go home."""
    return lay_down(bring(script, raised(at, style.lift)), at, half_width)


def bring(script: motion.Script, to: np.ndarray) -> motion.Script:
    """Carry what is held until the gripper site is at a pose (4, 4)."""
    way = float(np.linalg.norm(to[:3, 3] - script.pose[:3, 3]))
    turned = float(np.linalg.norm(ik.rotation_vector((to[:3, :3] @ script.pose[:3, :3].T)[None])[0]))
    return script.reach(to, 0.8 + max(way / SPEED, turned / TURN_SPEED), hold_s=0.1)


def lay_down(script: motion.Script, at: np.ndarray, half_width: float) -> motion.Script:
    """Lower what is held, let it go, draw back the way the tool points and go home."""
    script.slide(at, 0.9, hold_s=0.2)
    script.grip(min(1.0, gripper(half_width) + _RELEASE), 0.4, hold_s=0.1)
    script.slide(drawn_back(at, 0.07), 0.6)
    return script.home(1.3)


def raised(pose: np.ndarray, by: float) -> np.ndarray:
    """The pose straight above, m."""
    pose = pose.copy()
    pose[2, 3] += by
    return pose


def drawn_back(pose: np.ndarray, by: float) -> np.ndarray:
    """The pose back along the tool, m."""
    pose = pose.copy()
    pose[:3, 3] -= by * pose[:3, 0]
    return pose


def nearest(script: motion.Script, option: Option, style: Style) -> np.ndarray:
    """The goal over which the joints are nearest to where they are; raises ik.IKError if none is within reach."""
    costs, reason = {}, None
    for index, goal in enumerate(option.goals):
        try:
            over = raised(goal @ option.grasp.pose, style.lift)
            costs[index] = np.abs(ik.solve(script.side, over, script.joints) - script.joints).sum()
        except ik.IKError as error:
            reason = reason or error
    if not costs:
        raise reason or ik.IKError("there is no goal")
    return option.goals[min(costs, key=costs.get)]


def rim_grasps(rim: float, foot: float, height: float, wall: float, walls: Iterable[int], sides: int) -> Iterator[Grasp]:
    """Grasps of a dish's walls, one finger inside and one outside, the tool along the wall."""
    lean = np.arctan2(rim - foot, height)
    tip_z = max(height - 0.022, LOWEST_TIP + 0.010 * np.sin(lean) + 0.002)
    radius = foot + (rim - foot) * tip_z / height - wall / np.cos(lean)
    for index in walls:
        turn = 2 * np.pi * index / sides
        outward = np.array([np.cos(turn), np.sin(turn), 0.0])
        along = -(np.sin(lean) * outward - np.cos(lean) * DOWN)
        for sign in (1.0, -1.0):
            yield grasp(radius * outward + (0, 0, tip_z), along, sign * outward, wall)


def clear_spot(obstacles: Iterable[tuple[float, float, float]]) -> np.ndarray:
    """The place (2,) m near the middle of the table that is farthest from discs (x, y, radius) which stand there."""
    x, y = np.meshgrid(np.linspace(-0.08, 0.08, 9), np.linspace(-0.10, 0.10, 11))
    gap = np.min([np.hypot(x - cx, y - cy) - radius for cx, cy, radius in obstacles], axis=0)
    best = np.argmax(np.minimum(gap, 0.14) - 0.1 * np.hypot(x, y))  # far enough is far enough; then the nearer to both arms
    return np.array([x.flat[best], y.flat[best]])


def turns(count: int) -> np.ndarray:
    """Evenly spaced angles, rad."""
    return 2 * np.pi * np.arange(count) / count


def pairs(grasps: Iterable[Grasp], goals: Sequence[np.ndarray]) -> list[Option]:
    """Every grasp with all goals."""
    return [Option(each, goals) for each in grasps]


def by_wall(walls: int, start: float, yaw: float) -> list[int]:
    """Walls of a dish turned by `yaw`, the one that faces the world's direction `start` (rad) first, then its neighbours."""
    first = round((start - yaw) / (2 * np.pi / walls))
    return [(first + step) % walls for step in itertools.chain([0], *((i, -i) for i in range(1, walls // 2)), [walls // 2])]
