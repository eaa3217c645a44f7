"""What a task is."""

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np
from jax import Array

from clamp_jax.geometry.aloha import HOME

HOME_QPOS = np.concatenate([HOME, HOME]).astype(np.float32)  # (16,) the robot's part of qpos at every reset
AT_REST = 1e-3  # m/s; "not moving": every component of the linear velocity stays under it


@dataclass(frozen=True)
class Task:
    """A task of the simulator; functions are pure and written for one environment."""

    name: str
    objects: tuple[tuple[str, str], ...]  # (name in the text, body), in the order of the text
    instructions: tuple[str, ...]  # one for each variant
    horizon_s: float  # an episode's limit
    build: Callable[[mujoco.MjSpec], None]  # adds the objects to the spec that holds the robot
    reset: Callable[[Array], tuple[Array, Array]]  # key -> (qpos (q,), variant () int32), everything at rest
    success: Callable[[Array, Array, Array], Array]  # (qpos (q,), qvel (v,), variant) -> () bool
    things: tuple[str, ...] = ()  # models of the public simulator that stand for what `build` adds, in the same order; none: has no such
    pair: tuple[str, str] | None = None  # things whose distance the success condition asks for, by its argument `gap`
    contact_slots: int = 16  # contacts of each kind that MJX keeps, deepest first; native MuJoCo keeps all
