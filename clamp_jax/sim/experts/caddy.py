"""A tool into a compartment of the caddy: flat in it, or standing in it point down and leaning on the rim where it is too long."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.sim.experts import carry, ik
from clamp_jax.sim.objects.caddy import CADDY_HALF, TOOLS
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks.caddy import CADDY_QPOS, NAMES, TOOLS_QPOS

_TILTS = np.radians((0.0, 25.0, -25.0, 45.0))  # of the tool that grasps, along the thing


class Manner(NamedTuple):
    """How a tool is held and where it goes; `along` is an axis of its own frame, 0 (x) or 1 (y)."""

    along: int
    grasp: tuple[float, float]  # m, range of the held place along that axis
    raised: float  # m, of the fingertips over the lowest that the table allows
    half_width: float  # m, of what is between the fingers
    across: float  # m from the caddy's middle to the compartment's, at which the tool is let go
    drop: float = 0.02  # m, from where it is let go lying to the floor
    point: float = 0.0  # 1 or -1: it goes in with that end of the axis down; 0: lying
    lean: float = 0.0  # rad
    reach: float = 0.0  # m, of the point from the compartment's middle, along the caddy
    clear: float = 0.008  # m over the table, of the point of a tool that is let go leaning
    spread: float = 0.012  # m, how far from the compartment's middle it is put at most, along the caddy


_PRIMITIVE = {
    # across: the fingers pass between the caddy's handle and the outer wall
    "can_opener": Manner(0, (-0.024, -0.010), 0.0, 0.017, across=0.0415, drop=0.0225),
    "magnifier": Manner(0, (0.004, 0.014), 0.0, 0.009, across=0.039),
    "screwdriver": Manner(0, (-0.095, -0.080), 0.004, 0.020, across=0.040, point=1.0, lean=np.radians(33.0), reach=0.080),
    "scissors": Manner(1, (-0.012, 0.002), 0.0, 0.012, across=0.039, point=-1.0, lean=np.radians(33.0), reach=0.035),
}
# The real caddy has a floor 12 mm thick, round corners and room for a tool or for open fingers, not for both: what lies is
# dropped from the rim. The real screwdriver is all handle: point down it falls out again, so the handle goes in first. The
# magnifier's lens is wider than a compartment: it leans on the rim, the handle in the caddy.
_REAL = {
    "can_opener": Manner(0, (-0.020, -0.010), 0.004, 0.021, across=0.042, drop=0.060, spread=0.004),
    "magnifier": Manner(
        0, (0.004, 0.014), 0.0, 0.012, across=0.045, point=1.0, lean=np.radians(55.0), reach=0.020, clear=0.026, spread=0.004
    ),
    "screwdriver": Manner(
        0, (-0.005, 0.010), 0.0, 0.0055, across=0.042, point=-1.0, lean=np.radians(35.0), reach=0.045, clear=0.036, spread=0.004
    ),
    "scissors": Manner(
        1, (-0.012, 0.002), 0.0, 0.012, across=0.042, point=-1.0, lean=np.radians(33.0), reach=0.035, clear=0.022, spread=0.004
    ),
}
MANNERS = {"primitive": _PRIMITIVE, "aloha_sim": _REAL}


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator, *, name: str) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm, nor both in turn, reach from tool to compartment."""
    manner, style = MANNERS[scene.geometry][name], carry.Style.draw(rng, lift=0.15)
    tool = carry.free_pose(qpos0, TOOLS_QPOS + 7 * NAMES.index(name))
    grasps = list(_grasps(name, manner, rng.uniform(*manner.grasp)))
    place = qpos0[CADDY_QPOS : CADDY_QPOS + 2] + ((1 if variant else -1) * manner.across, rng.uniform(-manner.spread, manner.spread))
    goals = list(_leaning(name, manner, place) if manner.point else _lying(name, manner, place))
    height = TABLE_TOP_Z + TOOLS[name][2] + 0.001
    relay = [carry.upright((*_clear_spot(qpos0, name), height), yaw) for yaw in carry.turns(12)]
    return carry.commands(scene, qpos0, tool, carry.pairs(grasps, goals), style, relay=carry.pairs(grasps, relay))


def _grasps(name: str, manner: Manner, offset: float) -> Iterator[carry.Grasp]:
    """Held across, the most upright first."""
    axis, across = np.eye(3)[manner.along], np.eye(3)[1 - manner.along]
    tip = offset * axis + (0.0, 0.0, carry.LOWEST_TIP + manner.raised - TOOLS[name][2])
    for tilt in _TILTS if manner.point == 0 else np.concatenate([_TILTS, -_TILTS[-1:]]):
        for sign in (1.0, -1.0):
            yield carry.grasp(tip, np.cos(tilt) * carry.DOWN + np.sin(tilt) * axis, sign * across, manner.half_width)


def _lying(name: str, manner: Manner, place: np.ndarray) -> Iterator[np.ndarray]:
    """In the compartment, its axis along the caddy, one way or the other."""
    for way in (1.0, -1.0):
        yield carry.upright((*place, TABLE_TOP_Z + TOOLS[name][2] + manner.drop), way * np.pi / 2 - manner.along * np.pi / 2)


def _leaning(name: str, manner: Manner, place: np.ndarray) -> Iterator[np.ndarray]:
    """Point down in the compartment, the other end over the rim, towards one end of the caddy or the other."""
    axis, half = np.eye(3)[manner.along], TOOLS[name][manner.along]
    sideways = np.cross(axis, (0.0, 0.0, 1.0))  # turning about it lowers the end at +axis by a negative angle
    for way in (1.0, -1.0):
        # With the point at -axis the tool is turned round, so that the point leads either way.
        yaw = way * np.pi / 2 - manner.along * np.pi / 2 + (np.pi if manner.point < 0 else 0.0)
        rotation = ik.rotation_about((0, 0, yaw)) @ ik.rotation_about(-manner.point * manner.lean * sideways)
        point = np.array([place[0], place[1] + way * manner.reach, TABLE_TOP_Z + manner.clear])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, point - rotation @ (manner.point * half * axis)
        yield pose


def _clear_spot(qpos0: np.ndarray, moved: str) -> np.ndarray:
    """Place (2,) m near the middle of the table, clear of the caddy and of the other tools."""
    half_x, half_y = CADDY_HALF
    x, y = qpos0[CADDY_QPOS : CADDY_QPOS + 2]
    obstacles = [(x, y + dy, half_x) for dy in (half_x - half_y, 0.0, half_y - half_x)]
    for i, name in enumerate(NAMES):
        if name != moved:
            obstacles.append((*qpos0[TOOLS_QPOS + 7 * i : TOOLS_QPOS + 7 * i + 2], 0.7 * max(TOOLS[name][:2])))
    return carry.clear_spot(obstacles)
