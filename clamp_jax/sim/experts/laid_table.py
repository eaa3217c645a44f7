"""What the experts of the laid table share: where things stand, and where one arm can lay one down for the other."""

import numpy as np

from clamp_jax.sim.experts import carry
from clamp_jax.sim.tasks.dining import DISCS, QPOS


def poses(qpos0: np.ndarray, *names: str) -> tuple[np.ndarray, ...]:
    """world_from_body (4, 4) of things."""
    return tuple(carry.free_pose(qpos0, QPOS[name]) for name in names)


def clear_spot(qpos0: np.ndarray, moved: str) -> np.ndarray:
    """Place (2,) m near the middle of the table, clear of all but what is moved."""
    obstacles = []
    for name, (x, y, radius) in DISCS:
        if name != moved:
            pose = carry.free_pose(qpos0, QPOS[name])
            obstacles.append((*(pose @ (x, y, 0.0, 1.0))[:2], radius))
    return carry.clear_spot(obstacles)
