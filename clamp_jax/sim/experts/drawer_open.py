"""Drawer Open: the fingers close on the bottom drawer's knob, pull it out, let go and draw back."""

import functools

import numpy as np

from clamp_jax.sim.experts import motion
from clamp_jax.sim.experts.drawers import Front, first_reachable
from clamp_jax.sim.scene import Scene

_TILTS = tuple(np.radians((20.0, 12.0, 4.0)))
_LOW = -0.003  # m, fingertips' middle over the knob's: the straight part of a finger is beside it, its tip clear of the table
_PRESS = -0.002  # m, how far the fingertips aim beyond the knob's middle: against the front, where they cannot slip off outward
_GRIP = 0.2  # fingers meet the knob at 0.31: a gentle grip slips off a ball less than a hard one


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where no arm reaches."""
    del variant
    tilts = tuple(tilt + rng.uniform(-1, 1) * np.radians(3) for tilt in _TILTS)
    ranges = {"above": (0.08, 0.12), "before": (0.03, 0.05), "pull": (0.075, 0.09), "width": (0.7, 1.0)}
    style = {name: rng.uniform(*span) for name, span in ranges.items()}
    script = first_reachable(qpos0, tilts, style, functools.partial(_pull, qpos0, rng.uniform(0.9, 1.1)))
    return motion.commands(scene.model, script, qpos0)


def _pull(qpos0: np.ndarray, tempo: float, front: Front, side: str, turned: bool, style: dict[str, float]) -> motion.Script:
    at = functools.partial(front.tool, turned=turned)
    back, pull = style["before"], style["pull"]
    script = motion.Script(side, qpos0, tempo=tempo)
    script.reach(at(back, style["above"], opening=0.0), 1.2, gripper=style["width"])
    script.slide(at(back, _LOW, opening=0.0), 0.7)
    script.slide(at(_PRESS, _LOW, opening=0.0), 0.5, hold_s=0.15)
    script.grip(_GRIP, 0.4, hold_s=0.1)
    script.slide(at(_PRESS, _LOW, opening=pull), 1.2, hold_s=0.2)
    script.grip(style["width"], 0.4)
    script.slide(at(back, _LOW, opening=pull), 0.4)
    script.slide(at(back, style["above"], opening=pull), 0.6)
    return script.home(1.0)
