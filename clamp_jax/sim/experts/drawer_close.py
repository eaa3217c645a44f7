"""Drawer Close: the closed fingers push the bottom drawer's knob along the box, then draw back."""

import functools

import numpy as np

from clamp_jax.sim.experts import motion
from clamp_jax.sim.experts.drawers import Front, first_reachable
from clamp_jax.sim.objects.jewelry_box import KNOB_RADIUS
from clamp_jax.sim.robot import FINGER_RADIUS
from clamp_jax.sim.scene import Scene

_TILTS = tuple(np.radians((25.0, 15.0, 5.0)))
_TOUCH = float(np.sqrt((FINGER_RADIUS + KNOB_RADIUS) ** 2 - FINGER_RADIUS**2))  # m before the knob's middle, when both fingers cradle it
_BEYOND = 0.02  # m that the fingers aim beyond closed: the box gives way a little, and a push aimed 2 cm wrong still shuts the drawer
_LOW = -0.002  # m, fingertips' middle over the knob's


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm reaches."""
    del variant
    tilts = tuple(tilt + rng.uniform(-1, 1) * np.radians(4) for tilt in _TILTS)
    style = {"above": rng.uniform(0.10, 0.14), "before": rng.uniform(0.035, 0.055), "across": rng.uniform(-0.003, 0.003)}
    script = first_reachable(qpos0, tilts, style, functools.partial(_push, qpos0, rng.uniform(0.9, 1.1)))
    return motion.commands(scene.model, script, qpos0)


def _push(qpos0: np.ndarray, tempo: float, front: Front, side: str, turned: bool, style: dict[str, float]) -> motion.Script:
    at = functools.partial(front.tool, across=style["across"], turned=turned)
    back, shut = _TOUCH + style["before"], _TOUCH - _BEYOND
    script = motion.Script(side, qpos0, tempo=tempo)
    script.reach(at(back, style["above"], opening=front.opening), 1.1, gripper=0.0)
    script.slide(at(back, _LOW, opening=front.opening), 0.6)
    script.slide(at(shut, _LOW, opening=0.0), 1.2, hold_s=0.2)
    script.slide(at(back, _LOW, opening=0.0), 0.5)
    return script.home(1.2)
