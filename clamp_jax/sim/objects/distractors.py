"""Distractors: things on free joints that are none of a task's business."""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import mujoco
import numpy as np

from clamp_jax.sim.objects.blocks import BLOCK_HALF, add_block
from clamp_jax.sim.objects.caddy import TOOLS, add_tool
from clamp_jax.sim.objects.dishes import BANANA_HALF, PEN_HALF, add_banana, add_pen
from clamp_jax.sim.robot import CONTAINER, PROP


class Kind(NamedTuple):
    """A thing that may lie about."""

    add: Callable[[mujoco.MjSpec], None]  # adds it as a body of its name
    radius: float  # m, of the disc about its frame that it covers of the table
    height: float  # m, of its frame over the table


def _kind(add: Callable[[mujoco.MjSpec], None], half: tuple[float, float, float]) -> Kind:
    return Kind(add, float(np.hypot(half[0], half[1])), half[2])


# Ours: few geoms each, none of them a cylinder, of which the laid table takes all slots of the tables that sensors see.
DISTRACTORS = {
    "yellow_block": _kind(functools.partial(add_block, colour="yellow"), (BLOCK_HALF,) * 3),
    "purple_block": _kind(functools.partial(add_block, colour="purple"), (BLOCK_HALF,) * 3),
    "thumb_drive": _kind(functools.partial(add_tool, name="thumb_drive"), TOOLS["thumb_drive"]),
    "can_opener": _kind(functools.partial(add_tool, name="can_opener"), TOOLS["can_opener"]),
    "pen": _kind(add_pen, PEN_HALF),
    "banana": _kind(add_banana, BANANA_HALF),
}


def add_distractors(spec: mujoco.MjSpec, names: Iterable[str]) -> None:
    """Add distractors to a spec that holds robot and task; they touch table, fingers, the task's things and one another.

    Raises ValueError for a name that is none of DISTRACTORS, or that the spec holds already.
    """
    for name in names:
        if name not in DISTRACTORS:
            raise ValueError(f"no distractor is called {name!r}; there are {', '.join(DISTRACTORS)}")
        if spec.body(name) is not None:
            raise ValueError(f"the scene holds {name!r} already; leave it out of its distractors")
        DISTRACTORS[name].add(spec)
        for geom in spec.body(name).geoms:
            if geom.contype:
                geom.conaffinity |= PROP | CONTAINER
