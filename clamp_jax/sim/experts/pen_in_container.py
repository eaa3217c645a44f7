"""Pen in Container: hold the pen near one end, turn it upright over the cup, let it slide in."""

import numpy as np

from clamp_jax.geometry.aloha import TABLE_TOP_Z
from clamp_jax.sim.experts import carry, ik, laid_table, motion
from clamp_jax.sim.objects.dishes import PEN_HALF
from clamp_jax.sim.scene import Scene

_LIFT = 0.18  # m: the pen hangs down while it is carried over the other things
_DROP = 0.012  # m, of the pen's lower end over the cup's floor


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm, nor both in turn, reach."""
    del variant
    pen, cup = laid_table.poses(qpos0, "pen", "cup")
    style = carry.Style.draw(rng, lift=_LIFT)
    into_cup, relay = options(cup, laid_table.clear_spot(qpos0, "pen"), rng, scene.geometry)
    try:
        return carry.commands(scene, qpos0, pen, into_cup, style, relay=relay)
    except motion.PlanError:  # at the edge of an arm's reach
        return carry.commands(scene, qpos0, pen, into_cup, style._replace(lift=style.lift - 0.05), relay=relay)


def options(
    cup: np.ndarray, spot: np.ndarray, rng: np.random.Generator, geometry: str
) -> tuple[list[carry.Option], list[carry.Option]]:
    """Ways to bring a pen into a cup (4, 4), and to lay it down at a spot (2,) m."""
    del geometry  # both pens are alike
    offset, into = rng.uniform(0.045, 0.060), []
    for tilt in np.radians((0.0, 20.0, 40.0)):
        for end in (1.0, -1.0):  # which end of the pen is to be the upper one
            goals = [_upright(cup[:2, 3], end, yaw) for yaw in carry.turns(16)]
            # A tool that leans towards the pen's middle is more upright when the pen is.
            into += carry.pairs(_grasps(end * offset, -end * tilt), goals)
    between = [carry.upright((*spot, TABLE_TOP_Z + PEN_HALF[2] + 0.001), yaw) for yaw in carry.turns(12)]
    return into, [option for tilt in np.radians((0.0, 25.0, -25.0)) for option in carry.pairs(_grasps(0.0, tilt), between)]


def _grasps(along: float, tilt: float) -> list[carry.Grasp]:
    """Holding the pen at an offset (m) from its middle, the tool leaning by `tilt` along it."""
    tip, direction = (0.0, along, carry.LOWEST_TIP - PEN_HALF[2]), (0.0, np.sin(tilt), -np.cos(tilt))
    return [carry.grasp(tip, direction, (sign, 0, 0), PEN_HALF[0]) for sign in (1.0, -1.0)]


def _upright(place: np.ndarray, end: float, yaw: float) -> np.ndarray:
    """The pen on end over a place: its y (end 1) or -y (end -1) up."""
    pose = carry.upright((*place, TABLE_TOP_Z + PEN_HALF[1] + _DROP), yaw)
    pose[:3, :3] = pose[:3, :3] @ ik.rotation_about((end * np.pi / 2, 0, 0))
    return pose
