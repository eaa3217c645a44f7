"""Scripted experts: privileged poses, waypoints and inverse kinematics. They make demonstrations, no policy sees them."""

from types import ModuleType

import numpy as np
from jaxtyping import ArrayLike, Float

from clamp_jax.sim.experts import (
    banana_in_bowl,
    block_on_mat,
    bowl_on_rack,
    can_opener_in_caddy,
    drawer_close,
    drawer_open,
    hand_over_banana,
    hand_over_pen,
    laptop_close,
    magnifier_in_caddy,
    marker_remove_lid,
    mug_on_plate,
    pen_in_container,
    plate_on_rack,
    push_crate,
    scissors_in_caddy,
    screwdriver_in_caddy,
    stack_blocks,
)
from clamp_jax.sim.experts.ik import IKError
from clamp_jax.sim.experts.motion import PlanError
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks import Task

__all__ = ["EXPERTS", "IKError", "PlanError", "plan"]

EXPERTS: dict[str, ModuleType] = {
    "banana_in_bowl": banana_in_bowl,
    "block_on_mat": block_on_mat,
    "bowl_on_rack": bowl_on_rack,
    "can_opener_in_caddy": can_opener_in_caddy,
    "drawer_close": drawer_close,
    "drawer_open": drawer_open,
    "hand_over_banana": hand_over_banana,
    "hand_over_pen": hand_over_pen,
    "laptop_close": laptop_close,
    "magnifier_in_caddy": magnifier_in_caddy,
    "marker_remove_lid": marker_remove_lid,
    "mug_on_plate": mug_on_plate,
    "pen_in_container": pen_in_container,
    "plate_on_rack": plate_on_rack,
    "push_crate": push_crate,
    "scissors_in_caddy": scissors_in_caddy,
    "screwdriver_in_caddy": screwdriver_in_caddy,
    "stack_blocks": stack_blocks,
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
