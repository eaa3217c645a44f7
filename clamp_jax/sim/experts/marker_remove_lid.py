"""Marker Remove Lid: one arm brings the marker before the other, which takes the cap and pulls; each lays its part down."""

import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from clamp_jax.geometry.aloha import SIDES, TABLE_TOP_Z
from clamp_jax.sim.experts import carry, clearance, ik, motion
from clamp_jax.sim.objects.marker import BARREL_HALF, CAP_Y, RADIUS
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks.marker_remove_lid import MARKER_QPOS

_TIP_Z = carry.LOWEST_TIP - RADIUS + 0.001  # m, fingertips' middle in the frames of marker and cap
# How far the tools lean away from one another, along the marker, so that the grippers have room.
_HOLD_TILTS, _TAKE_TILTS = np.radians((12.0, 0.0, 25.0)), np.radians((45.0, 35.0, 55.0, 25.0))
_TURNS = np.radians((0.0, 25.0, -25.0, 50.0, -50.0, 75.0, -75.0))  # of the marker, from pointing at the other arm's side
_ALONG = np.array([0.0, 1.0, 0.0])  # from the marker's middle to its cap, in its frame
_ROOM = 0.01  # m between the arms at least
_HOLD_Y = (-0.010, 0.006)  # m; marker and cap balance at .013: held farther off they droop in the fingers, 5 degrees in 15 s
_PULL_M, _PULL_SPEED = (0.11, 0.13), 0.06  # m, m/s


class Manner(NamedTuple):
    """What varies from one demonstration to the next."""

    style: carry.Style
    hold_y: float  # m, where the barrel is held
    pull: float  # m, of the cap's way
    middle: np.ndarray  # (2,) m, where barrel and cap part


Scripts = tuple[motion.Script, motion.Script]


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where the arms do not reach."""
    del variant
    marker = carry.free_pose(qpos0, MARKER_QPOS)
    style, middle = carry.Style.draw(rng, lift=0.07), rng.uniform(-0.015, 0.015, 2)
    manner = Manner(style, rng.uniform(*_HOLD_Y), rng.uniform(*_PULL_M), middle)
    near_first = (SIDES, SIDES[::-1]) if marker[0, 3] < 0 else (SIDES[::-1], SIDES)
    holds = [(sides, hold) for sides in near_first for hold in _grasps(manner.hold_y, -_HOLD_TILTS)]
    try:
        scripts = _first(functools.partial(_from, scene, qpos0, marker, *each, manner) for each in holds)
    except (ik.IKError, motion.PlanError) as error:
        raise motion.PlanError(f"no arm can bring the marker before the other: {error}") from error
    return motion.together(scene.model, scripts, qpos0)


def _first(attempts: Iterable[Callable[[], Scripts]]) -> Scripts:
    """What the first attempt within reach gives; raises the first one's error where none is."""
    reason = None
    for attempt in attempts:
        try:
            return attempt()
        except (ik.IKError, motion.PlanError) as error:
            reason = reason or error
    raise reason or ik.IKError("there is nothing to try")


def _grasps(y: float, tilts: np.ndarray) -> Iterator[carry.Grasp]:
    """Grasps across marker or cap, the tool leaning along it, over the cap's end where a tilt is over 0."""
    for tilt, sign in itertools.product(tilts, (1.0, -1.0)):
        direction = np.cos(tilt) * carry.DOWN - np.sin(tilt) * _ALONG
        yield carry.grasp((0.0, y, _TIP_Z), direction, (sign, 0.0, 0.0), RADIUS)


def _from(scene: Scene, qpos0: np.ndarray, marker: np.ndarray, sides: tuple[str, str], hold: carry.Grasp, manner: Manner) -> Scripts:
    """The first arm takes the marker from its pose (4, 4) and turns it one way or another for the second."""
    holder, puller = (motion.Script(side, qpos0, tempo=manner.style.tempo) for side in sides)
    carry.pick(holder, marker @ hold.pose, hold, manner.style)
    goals = _goals(sides[0], manner.middle)
    return _first(functools.partial(_before, scene, (holder, puller), hold, goal, manner) for goal in goals)


def _goals(side: str, middle: np.ndarray) -> Iterator[np.ndarray]:
    """Poses (4, 4) of a marker on the table that one arm holds for the other to take the cap."""
    towards = -np.pi / 2 if side == "left" else np.pi / 2
    for turn in _TURNS:
        pose = carry.upright((*middle, TABLE_TOP_Z + RADIUS), towards + turn)
        yield _along(pose, -BARREL_HALF)


def _along(pose: np.ndarray, by: float) -> np.ndarray:
    """The pose moved along the marker, m."""
    pose = pose.copy()
    pose[:3, 3] += by * pose[:3, :3] @ _ALONG
    return pose


def _before(scene: Scene, scripts: Scripts, hold: carry.Grasp, goal: np.ndarray, manner: Manner) -> Scripts:
    """The marker over its goal; the other arm takes the cap one way or another."""
    holder, puller = copy.deepcopy(scripts)
    carry.bring(holder, carry.raised(goal @ hold.pose, manner.style.lift))
    takes = _grasps(0.0, _TAKE_TILTS)
    return _first(functools.partial(_part, scene, (holder, puller), goal, (hold, take), manner) for take in takes)


def _part(scene: Scene, scripts: Scripts, goal: np.ndarray, grasps: tuple[carry.Grasp, carry.Grasp], manner: Manner) -> Scripts:
    """The cap is pulled off, and both are laid down where they are."""
    (holder, puller), (hold, take), lift = copy.deepcopy(scripts), grasps, manner.style.lift
    on, off = (_along(goal, y) @ take.pose for y in (CAP_Y, CAP_Y + manner.pull))
    meets = carry.gripper(RADIUS)
    puller.wait_for(holder).reach(carry.drawn_back(carry.raised(on, lift), manner.style.above), 1.5, gripper=min(1.0, meets + 0.5))
    puller.slide(carry.raised(on, lift), 0.8, hold_s=0.1)
    puller.grip(max(0.0, meets - 0.3), 0.5, hold_s=0.2)
    puller.slide(carry.raised(off, lift), manner.pull / _PULL_SPEED, hold_s=0.1)
    carry.lay_down(holder.wait_for(puller), goal @ hold.pose, RADIUS)
    carry.lay_down(puller, off, RADIUS)
    room = clearance.between_arms(scene.model, (holder, puller), _ROOM)
    if room < _ROOM:
        raise motion.PlanError(f"the arms would come within {room:.3f} m of one another")
    return holder, puller
