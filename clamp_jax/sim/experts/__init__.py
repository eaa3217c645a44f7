"""Scripted experts: privileged poses, waypoints and inverse kinematics. They make demonstrations, no policy sees them."""

from types import ModuleType

import numpy as np
from jaxtyping import ArrayLike, Float

from clamp_jax.sim.experts import can_opener_in_caddy, drawer_close, drawer_open
from clamp_jax.sim.experts.ik import IKError
from clamp_jax.sim.experts.motion import PlanError
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks import Task

__all__ = ["EXPERTS", "IKError", "PlanError", "plan"]

EXPERTS: dict[str, ModuleType] = {
    "can_opener_in_caddy": can_opener_in_caddy,
    "drawer_close": drawer_close,
    "drawer_open": drawer_open,
}


def plan(task: Task, scene: Scene, qpos0: Float[ArrayLike, " q"], variant: int, seed: int) -> np.ndarray:
    """Commands of a whole demonstration from a state at rest: (t, 14) float32 at 50 Hz, absolute rad, gripper 0..1.

    variant chooses among the task's instructions; seed varies the motion (speed, approach, contact), the same seed gives
    the same commands. Open loop: success is for the simulation to say. Raises PlanError where no arm reaches, ValueError
    for a task without expert.
    """
    if task.name not in EXPERTS:
        raise ValueError(f"task {task.name!r} has no expert; there are {', '.join(sorted(EXPERTS))}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, int(variant)]))
    return EXPERTS[task.name].plan(scene, np.asarray(qpos0, float), int(variant), rng)
