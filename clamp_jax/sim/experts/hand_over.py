"""A thing on the right into a container on the left: the right arm lays it down between them, the left one takes it from there."""

import numpy as np

from clamp_jax.sim.experts import banana_in_bowl, carry, motion, pen_in_container
from clamp_jax.sim.objects.dishes import DISHES
from clamp_jax.sim.scene import Scene
from clamp_jax.sim.tasks.hand_over import CONTAINER_QPOS, CONTAINERS, THING_QPOS

_LIFTS = {"banana": (0.13, 0.10), "pen": (0.18, 0.13)}


def plan(scene: Scene, qpos0: np.ndarray, variant: int, rng: np.random.Generator, *, thing: str) -> np.ndarray:
    """Commands (t, 14) at 50 Hz; raises PlanError where the arms do not reach."""
    del variant
    container, held = (carry.free_pose(qpos0, start) for start in (CONTAINER_QPOS, THING_QPOS))
    spot = carry.clear_spot([(*container[:2, 3], DISHES[CONTAINERS[thing]].rim)]) + rng.uniform(-0.015, 0.015, 2)
    options, relay = {"banana": banana_in_bowl, "pen": pen_in_container}[thing].options(container, spot, rng, scene.geometry)
    reason = None
    for lift in _LIFTS[thing]:
        try:
            return carry.hand_over(scene, qpos0, held, options, relay, carry.Style.draw(rng, lift), ("right", "left"))
        except carry.ik.IKError as error:
            reason = reason or error
    raise motion.PlanError(f"the arms cannot hand over the {thing}: {reason}")
