"""What native MuJoCo and MJX have in common: the state, the trace and the checks at the door."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike

from clamp_jax.sim.scene import ROBOT_QPOS, Scene
from clamp_jax.structs import ACTION_DIM


class Physics(NamedTuple):
    """The state of a batch of environments, all that the next step depends on."""

    qpos: jax.Array  # (b, q)
    qvel: jax.Array  # (b, v)
    warmstart: jax.Array  # (b, v) last accelerations, from which the constraint solver starts
    time: jax.Array  # (b,) s
    variant: jax.Array  # (b,) int32 of the task


class Trace(NamedTuple):
    """What happened, after each control step."""

    qpos: jax.Array  # (b, t, q)
    qvel: jax.Array  # (b, t, v)
    success: jax.Array  # (b, t) bool
    overflow: jax.Array  # (b, t) bool, contacts were lost because Warp's slots ran out; False on the other engines


class OverflowedError(RuntimeError):
    """An engine had no slot for some contacts: what it computed since is not the physics that was asked for."""


def initial(scene: Scene, qpos: ArrayLike, variant: ArrayLike) -> Physics:
    """Environments at rest in the given states, numpy; ValueError for a wrong shape or a number that is not finite."""
    qpos, variant = np.asarray(qpos, np.float32), np.asarray(variant, np.int32)
    if qpos.ndim != 2 or qpos.shape[1] != scene.model.nq:
        expected = f"(environments, {scene.model.nq}), the robot's {ROBOT_QPOS} first"
        raise ValueError(f"qpos of {scene.name!r} has shape {qpos.shape}; expected {expected}")
    if variant.shape != qpos.shape[:1]:
        raise ValueError(f"variant has shape {variant.shape}; expected ({qpos.shape[0]},), one for each row of qpos")
    _require_finite("qpos", qpos)
    rest = np.zeros((len(qpos), scene.model.nv), np.float32)
    return Physics(qpos, rest, rest, np.zeros(len(qpos), np.float32), variant)


def checked(actions: ArrayLike, environments: int) -> np.ndarray:
    """Actions (b, t, 14) as float32; ValueError for a wrong shape or a number that is not finite."""
    actions = np.asarray(actions, np.float32)
    if actions.ndim != 3 or actions.shape[0] != environments or actions.shape[2] != ACTION_DIM:
        raise ValueError(f"actions have shape {actions.shape}; expected ({environments}, steps, {ACTION_DIM})")
    _require_finite("actions", actions)
    return actions


def _require_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise ValueError(f"{name} of environment {row} holds a number that is not finite; check what computed it")
